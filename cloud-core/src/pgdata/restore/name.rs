//! Names of members: which are safe, and which must wait for the end.

use super::super::control::CONTROL_NAME;
use super::super::display::display_name;
use super::super::source::LABEL_NAME;
use super::RestoreError;

/// The name without `./`, doubled slashes and a slash at the end; empty for the
/// top directory. This is how names of members are compared.
///
/// # Errors
///
/// [`RestoreError::Refused`] if the name is empty or absolute, or contains a NUL or a
/// component `..`.
pub fn plain_name(name: &[u8]) -> Result<Vec<u8>, RestoreError> {
    Ok(components(name)?.join(&b'/'))
}

/// Whether a member of this name must not be unpacked in its turn but kept, and be written by
/// [`Target::write_held`](super::Target::write_held) when everything else is safe on disk:
/// `backup_label` and `global/pg_control` (R1).
pub fn is_held_back(name: &[u8]) -> bool {
    plain_name(name).is_ok_and(|name| name == LABEL_NAME || name == CONTROL_NAME)
}

/// Longest name, in bytes: what `PATH_MAX` lets a server open, without the NUL behind it.
const MAX_LENGTH: usize = 4095;

/// Most directories that a file may lie in. PostgreSQL's lie in five; each costs memory until
/// the end, with all that are above it.
const MAX_DEPTH: usize = 128;

/// How much of a name is shown that is too long.
const SHOWN: usize = 64;

/// The components of a member's name below the target; none for the target itself.
pub(super) fn components(name: &[u8]) -> Result<Vec<&[u8]>, RestoreError> {
    let problem = if name.is_empty() {
        Some("its name is empty")
    } else if name.contains(&0) {
        Some("its name contains a NUL")
    } else if name[0] == b'/' {
        Some("its name is absolute")
    } else if name.split(|&byte| byte == b'/').any(|part| part == b"..") {
        Some("its name contains `..`")
    } else if name.len() > MAX_LENGTH {
        Some("its name is longer than a path can be")
    } else {
        None
    };
    let refused = |problem| RestoreError::Refused {
        name: if name.len() > MAX_LENGTH {
            format!("{}…", display_name(&name[..SHOWN]))
        } else {
            display_name(name)
        },
        problem,
    };
    if let Some(problem) = problem {
        return Err(refused(problem));
    }
    let parts: Vec<&[u8]> = name
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.len() > MAX_DEPTH {
        return Err(refused("it lies in too many directories"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_lead_below_the_target_or_are_refused() {
        let table: [(&[u8], Option<&[u8]>); 16] = [
            (b".", Some(b"")),
            (b"./", Some(b"")),
            (b"./PG_VERSION", Some(b"PG_VERSION")),
            (b"global/1262", Some(b"global/1262")),
            (b"base//5/", Some(b"base/5")),
            (b"././a/./b", Some(b"a/b")),
            (b"a..b/..c/...", Some(b"a..b/..c/...")),
            (b"two\nlines\xff", Some(b"two\nlines\xff")),
            (b"", None),
            (b"/etc/passwd", None),
            (b"//etc", None),
            (b"..", None),
            (b"../x", None),
            (b"a/../b", None),
            (b"a/..", None),
            (b"a\0b", None),
        ];
        for (name, expected) in table {
            assert_eq!(
                plain_name(name).ok().as_deref(),
                expected,
                "{}",
                display_name(name)
            );
        }
    }

    /// Each directory of a name is remembered with its whole name, so that a name of a mebibyte
    /// in half as many directories would take a hundred gigabytes.
    #[test]
    fn names_are_neither_endless_nor_bottomless() {
        let deep = |count: usize| b"d/".repeat(count);
        for (name, refused) in [
            (vec![b'x'; MAX_LENGTH], None),
            (
                vec![b'x'; MAX_LENGTH + 1],
                Some("longer than a path can be"),
            ),
            (deep(MAX_DEPTH), None),
            (deep(MAX_DEPTH + 1), Some("too many directories")),
            (deep(1 << 19), Some("longer than a path can be")),
        ] {
            let error = plain_name(&name).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), refused.is_some(), "{error:?}");
            let error = error.unwrap_or_default();
            assert!(error.contains(refused.unwrap_or_default()) && error.len() < 500);
        }
    }

    #[test]
    fn the_label_and_pg_control_are_held_back_however_they_are_spelt() {
        let table: [(&[u8], bool); 8] = [
            (b"backup_label", true),
            (b"./backup_label", true),
            (b"global/pg_control", true),
            (b"./global//pg_control", true),
            (b"backup_label.old", false),
            (b"global/pg_control.old", false),
            (b"base/backup_label", false),
            (b"/global/pg_control", false),
        ];
        for (name, expected) in table {
            assert_eq!(is_held_back(name), expected, "{}", display_name(name));
        }
    }

    proptest! {
        #[test]
        fn no_accepted_name_can_climb(name in proptest::collection::vec(
            prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..12)
        ) {
            if let Ok(parts) = components(&name) {
                for part in parts {
                    prop_assert!(!part.is_empty() && part != b"." && part != b"..");
                    prop_assert!(!part.contains(&b'/') && !part.contains(&0));
                }
            }
        }
    }
}
