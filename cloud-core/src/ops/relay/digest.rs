//! What an archive is made of, as one short text.
//!
//! The fingerprint of an archive covers everything that its object depends on: the
//! backup, the options, and of each member the header and the checksum of the
//! content. Two archives with one fingerprint are the same archive, so one that is
//! in the store with it need not be sent again.

use sha2::{Digest as _, Sha256};

use crate::manifest::Checksum;
use crate::tar::{Member, MemberKind};

/// Changes whenever archives are made in another way than before.
const FORM: &str = concat!("relay 1, version ", env!("CARGO_PKG_VERSION"));

/// A fingerprint in the making.
#[derive(Debug, Clone)]
pub(super) struct Digest(Sha256);

impl Digest {
    /// Of no member yet; `options` is whatever else the objects depend on.
    pub(super) fn new(options: &[&str]) -> Self {
        let mut digest = Self(Sha256::new());
        digest.text(FORM.as_bytes());
        for option in options {
            digest.text(option.as_bytes());
        }
        digest
    }

    /// Adds a text.
    pub(super) fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    /// Adds a number.
    pub(super) fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    /// Adds a member, with the checksum of what is in it if it is a file.
    pub(super) fn member(&mut self, member: &Member, content: Option<Checksum>) {
        // By its parts, so that a new field cannot be forgotten here.
        let Member {
            name,
            kind,
            mode,
            uid,
            gid,
            user,
            group,
            mtime,
        } = member;
        let (tag, size, target) = match kind {
            MemberKind::File { size } => (0, *size, &[][..]),
            MemberKind::Directory => (1, 0, &[][..]),
            MemberKind::Symlink { target } => (2, 0, &target[..]),
            MemberKind::HardLink { target } => (3, 0, &target[..]),
            MemberKind::Fifo => (4, 0, &[][..]),
            MemberKind::Device => (5, 0, &[][..]),
        };
        for text in [name, user, group] {
            self.text(text);
        }
        self.text(target);
        for number in [tag, size, (*mode).into(), *uid, *gid, mtime.nanos.into()] {
            self.number(number);
        }
        self.0.update(mtime.seconds.to_le_bytes());
        self.text(
            content
                .map(|sum| sum.to_string())
                .unwrap_or_default()
                .as_bytes(),
        );
    }

    /// The fingerprint: 64 digits.
    pub(super) fn finish(self) -> String {
        Checksum::Sha256(self.0.finalize().into()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::Mtime;

    fn member() -> Member {
        Member {
            name: b"base/5/1".to_vec(),
            kind: MemberKind::File { size: 3 },
            mode: 0o600,
            uid: 1,
            gid: 2,
            user: b"u".to_vec(),
            group: b"g".to_vec(),
            mtime: Mtime {
                seconds: 7,
                nanos: 8,
            },
        }
    }

    fn of(member: &Member, content: Option<Checksum>) -> String {
        let mut digest = Digest::new(&["options"]);
        digest.member(member, content);
        digest.finish()
    }

    /// Whatever differs, the fingerprint differs.
    #[test]
    fn every_part_of_a_member_counts() {
        let sum = Some(Checksum::Crc32c(1));
        let changes: [fn(&mut Member); 10] = [
            |m| m.name.push(b'1'),
            |m| m.kind = MemberKind::File { size: 4 },
            |m| m.kind = MemberKind::Fifo,
            |m| m.kind = MemberKind::Symlink { target: vec![b'x'] },
            |m| m.mode = 0o640,
            |m| m.uid = 3,
            |m| m.gid = 3,
            |m| m.user = b"v".to_vec(),
            |m| m.mtime.seconds = 8,
            |m| m.mtime.nanos = 9,
        ];
        let mut seen = vec![of(&member(), sum)];
        for change in changes {
            let mut changed = member();
            change(&mut changed);
            seen.push(of(&changed, sum));
        }
        seen.push(of(&member(), Some(Checksum::Crc32c(2))));
        seen.push(of(&member(), None));
        let mut other = Digest::new(&["other"]);
        other.member(&member(), sum);
        seen.push(other.finish());
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "two of them are the same");
        assert_eq!(of(&member(), sum), of(&member(), sum));
    }

    #[test]
    fn texts_do_not_run_together() {
        let of = |options: &[&str]| Digest::new(options).finish();
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["a"]).len(), 64);
        assert!(of(&["a"]).bytes().all(|b| b.is_ascii_hexdigit()));
    }
}
