//! A door for fuzzing: what the service answers, and connection strings.

use super::{connect, delete, list};

/// A page of a listing, the answer to a batch, and a connection string.
pub(crate) fn answers(data: &[u8]) {
    if let Ok((page, _)) = list::read(data) {
        let mut keys = page.objects.iter().map(|object| &object.key);
        assert!(keys.all(|key| !key.as_str().is_empty()));
    }
    let _ = delete::parts("multipart/mixed; boundary=b", data);
    let text = String::from_utf8_lossy(data);
    text.lines().for_each(connect::fuzzing::connection_string);
}
