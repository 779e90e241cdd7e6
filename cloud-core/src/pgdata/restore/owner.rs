//! Whose files the restored ones are.
//!
//! Only root may give files away; anybody else owns what is restored. Names go before
//! numbers, because the numbers of a user differ between hosts.
//!
//! Existing tools store the backup label as owned by user 0 without a name, and a
//! tablespace's archive has no member for its top directory. Such files, and directories that
//! had to be made without a member, get the owner of the cluster: that of the top
//! directory or of `PG_VERSION`, or else of the first member that has one.

use std::collections::HashMap;

use nix::unistd::{Group, User};

use crate::tar::Member;

/// User and group number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Looks up owners, each name once, and remembers the cluster's.
#[derive(Debug, Default)]
pub(super) struct Owners {
    users: HashMap<Vec<u8>, Option<u32>>,
    groups: HashMap<Vec<u8>, Option<u32>>,
    cluster: Option<(Ids, Rank)>,
}

/// How certain it is whose the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    FirstSeen,
    OfTheCluster,
}

/// Longest name of a user or group that is looked up, in bytes. Source: `LOGIN_NAME_MAX`.
const MAX_NAME: usize = 255;

/// How many names are remembered. A cluster has one or two.
const MOST_NAMES: usize = 1000;

/// The number of a name, asked for once.
fn look_up(
    known: &mut HashMap<Vec<u8>, Option<u32>>,
    name: &[u8],
    ask: impl Fn(&str) -> Option<u32>,
) -> Option<u32> {
    if let Some(number) = known.get(name) {
        return *number;
    }
    let text = std::str::from_utf8(name).ok();
    let text = text.filter(|text| (1..=MAX_NAME).contains(&text.len()))?;
    if known.len() >= MOST_NAMES {
        known.clear();
    }
    let number = ask(text);
    known.insert(name.to_vec(), number);
    number
}

impl Owners {
    /// The owner of `member`, called `name` below the target; `None` means the cluster's.
    pub(super) fn of(&mut self, member: &Member, name: &[u8]) -> Option<Ids> {
        if member.uid == 0 && member.user.is_empty() {
            return None;
        }
        let user = look_up(&mut self.users, &member.user, |name| {
            Some(User::from_name(name).ok()??.uid.as_raw())
        });
        let group = look_up(&mut self.groups, &member.group, |name| {
            Some(Group::from_name(name).ok()??.gid.as_raw())
        });
        // The greatest number means "leave it as it is" to the system.
        let number = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
        let ids = Ids {
            uid: user.or_else(|| number(member.uid))?,
            gid: group.or_else(|| number(member.gid))?,
        };
        let rank = match name {
            b"" | b"PG_VERSION" => Rank::OfTheCluster,
            _ => Rank::FirstSeen,
        };
        self.learn(ids, rank);
        Some(ids)
    }

    /// The owner of the cluster, and how certain that is.
    pub(super) fn known(&self) -> Option<(Ids, Rank)> {
        self.cluster
    }

    /// Takes up who may be the owner of the cluster.
    pub(super) fn learn(&mut self, ids: Ids, rank: Rank) {
        if self.cluster.is_none_or(|(_, known)| known < rank) {
            self.cluster = Some((ids, rank));
        }
    }

    /// The owner of what has none of its own; `None` as long as no member had one.
    pub(super) fn of_cluster(&self) -> Option<Ids> {
        self.cluster.map(|(ids, _)| ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{MemberKind, Mtime};

    fn member(uid: u64, user: &str, gid: u64, group: &str) -> Member {
        Member {
            name: b"x".to_vec(),
            kind: MemberKind::Directory,
            mode: 0o700,
            uid,
            gid,
            user: user.as_bytes().to_vec(),
            group: group.as_bytes().to_vec(),
            mtime: Mtime {
                seconds: 0,
                nanos: 0,
            },
        }
    }

    #[test]
    fn names_go_before_numbers_and_unknown_names_do_not_count() {
        let mut owners = Owners::default();
        let known = member(4242, "root", 4343, "root");
        assert_eq!(owners.of(&known, b"x"), Some(Ids { uid: 0, gid: 0 }));
        assert_eq!(
            owners.of(&member(0, "root", 0, "root"), b"x"),
            Some(Ids { uid: 0, gid: 0 })
        );
        let unknown = member(4242, "no such user", 4343, "no such group");
        assert_eq!(
            owners.of(&unknown, b"x"),
            Some(Ids {
                uid: 4242,
                gid: 4343
            })
        );
        let nameless = member(4242, "", 4343, "");
        assert_eq!(
            owners.of(&nameless, b"x"),
            Some(Ids {
                uid: 4242,
                gid: 4343
            })
        );
    }

    #[test]
    fn user_zero_without_a_name_and_impossible_numbers_mean_the_cluster() {
        let mut owners = Owners::default();
        for uid in [0, u64::from(u32::MAX), 1 << 32] {
            assert_eq!(
                owners.of(&member(uid, "", 104, "postgres"), b"backup_label"),
                None
            );
        }
        assert_eq!(owners.of_cluster(), None);
    }

    #[test]
    fn the_cluster_belongs_to_the_owner_of_its_top_directory() {
        let mut owners = Owners::default();
        owners.of(&member(7, "", 7, ""), b"server.key");
        assert_eq!(owners.of_cluster(), Some(Ids { uid: 7, gid: 7 }));
        owners.of(&member(8, "", 8, ""), b"base");
        assert_eq!(owners.of_cluster(), Some(Ids { uid: 7, gid: 7 }));
        owners.of(&member(9, "", 9, ""), b"");
        assert_eq!(owners.of_cluster(), Some(Ids { uid: 9, gid: 9 }));
        owners.of(&member(7, "", 7, ""), b"server.key");
        assert_eq!(owners.of_cluster(), Some(Ids { uid: 9, gid: 9 }));
    }
}
