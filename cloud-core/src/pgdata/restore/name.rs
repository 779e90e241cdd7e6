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
    } else {
        None
    };
    match problem {
        Some(problem) => Err(RestoreError::Refused {
            name: display_name(name),
            problem,
        }),
        None => Ok(name
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .collect()),
    }
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
