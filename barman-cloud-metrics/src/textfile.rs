//! A file for the textfile collector of Prometheus' node exporter.
//!
//! The collector may read at any moment, so the file is made beside its place, under a name that
//! the collector passes over (it does not end in `.prom`), and gets its name when it is whole.
//! It belongs to another user as a rule, so everybody may read it, whatever the umask says.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Puts `text` into `path`, in place of what was there.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".barman-cloud-metrics-")
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_everybody_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("barman.prom");
        fs::write(&path, "old").unwrap();
        let old = fs::File::open(&path).unwrap();
        write(&path, "new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(
            io::read_to_string(old).unwrap(),
            "old",
            "who reads it has the old one"
        );
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing else is left"
        );
        let nowhere = folder.path().join("missing/barman.prom");
        assert!(write(&nowhere, "x").is_err());
    }
}
