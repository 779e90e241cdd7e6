//! What a target remembers of an archive, as lines of text: for a restore that goes on where
//! another one was killed.
//!
//! The lines say what is not to be seen on disk: which names the archive has, and what is done
//! only at the end (attributes of directories, owners). Bytes are written in hexadecimal digits.

use std::io::{self, Write};

use super::name::plain_name;
use super::owner::{Ids, Rank};
use super::target::{Attributes, Target};
use crate::tar::{Member, MemberKind, Mtime};

/// Bytes as hexadecimal digits; `-` for none.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A `String` takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of [`to_hex`].
pub fn of_hex(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

/// A member that is written at the end, as words.
pub fn held_to_words(member: &Member, bytes: &[u8]) -> String {
    format!(
        "{} {:o} {} {} {} {} {} {} {}",
        to_hex(&member.name),
        member.mode,
        member.uid,
        member.gid,
        to_hex(&member.user),
        to_hex(&member.group),
        member.mtime.seconds,
        member.mtime.nanos,
        to_hex(bytes)
    )
}

/// The name of something below the target. Whatever a line says, it leads nowhere else.
fn name_of_hex(text: &str) -> Option<Vec<u8>> {
    let name = of_hex(text)?;
    (name.is_empty() || plain_name(&name).ok()? == name).then_some(name)
}

/// The member and bytes of [`held_to_words`].
pub fn held_of_words(words: &[&str]) -> Option<(Member, Vec<u8>)> {
    let [name, mode, uid, gid, user, group, seconds, nanos, bytes] = words else {
        return None;
    };
    let bytes = of_hex(bytes)?;
    let member = Member {
        name: of_hex(name)?,
        kind: MemberKind::File {
            size: bytes.len() as u64,
        },
        mode: u32::from_str_radix(mode, 8).ok()?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        user: of_hex(user)?,
        group: of_hex(group)?,
        mtime: Mtime {
            seconds: seconds.parse().ok()?,
            nanos: nanos.parse().ok()?,
        },
    };
    Some((member, bytes))
}

impl Target {
    /// Writes what is remembered of the archive with this number, when it is unpacked.
    pub fn describe(&self, archive: u32, out: &mut dyn Write) -> io::Result<()> {
        self.names()
            .of(archive, |which, what| writeln!(out, "f {which:x} {what:x}"))?;
        let state = self.state();
        for (name, noted) in &state.directories {
            let Some((_, attributes)) = noted.filter(|(other, _)| *other == archive) else {
                continue;
            };
            let (uid, gid) = attributes
                .owner
                .map_or(("-".to_owned(), "-".to_owned()), |ids| {
                    (ids.uid.to_string(), ids.gid.to_string())
                });
            let (name, mode, mtime) = (to_hex(name), attributes.mode, attributes.mtime);
            let (seconds, nanos) = (mtime.seconds, mtime.nanos);
            writeln!(out, "d {name} {mode:o} {uid} {gid} {seconds} {nanos}")?;
        }
        for name in &state.ownerless {
            writeln!(out, "o {}", to_hex(name))?;
        }
        if let Some((ids, rank)) = state.owners.known() {
            let certain = u8::from(rank == Rank::OfTheCluster);
            writeln!(out, "c {} {} {certain}", ids.uid, ids.gid)?;
        }
        Ok(())
    }

    /// Remembers a line of [`describe`](Self::describe), for the archive that has this number now.
    /// `None` if it is no such line.
    pub fn recall(&self, archive: u32, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["f", which, what] => {
                let which = u64::from_str_radix(which, 16).ok()?;
                let what = u64::from_str_radix(what, 16).ok()?;
                self.names().recall(archive, which, what);
            }
            ["d", name, mode, uid, gid, seconds, nanos] => {
                let owner = match (uid, gid) {
                    ("-", "-") => None,
                    _ => Some(Ids {
                        uid: uid.parse().ok()?,
                        gid: gid.parse().ok()?,
                    }),
                };
                let attributes = Attributes {
                    mode: u32::from_str_radix(mode, 8).ok()?,
                    owner,
                    mtime: Mtime {
                        seconds: seconds.parse().ok()?,
                        nanos: nanos.parse().ok()?,
                    },
                };
                self.note_directory(name_of_hex(name)?, archive, attributes);
            }
            ["o", name] => {
                let name = name_of_hex(name).filter(|name| !name.is_empty())?;
                self.state().ownerless.push(name);
            }
            ["c", uid, gid, certain] => {
                let ids = Ids {
                    uid: uid.parse().ok()?,
                    gid: gid.parse().ok()?,
                };
                let rank = if certain == "1" {
                    Rank::OfTheCluster
                } else {
                    Rank::FirstSeen
                };
                self.state().owners.learn(ids, rank);
            }
            _ => return None,
        }
        Some(())
    }
}
