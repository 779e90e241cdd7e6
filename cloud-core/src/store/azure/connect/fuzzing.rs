//! A door for fuzzing: connection strings.

use super::connection_string::ConnectionString;

/// One text for each thing that can be wrong with a connection string.
const MALFORMED: [&str; 3] = ["word", "Name=value", "AccountKey=key;BlobEndpoint=url"];

/// A connection string. Whatever it is, it may hold a key, so that what is told of it is told of
/// every text with the same fault. (That the message does not contain the text would not do: the
/// text may be a piece of the message.)
pub(in crate::store::azure) fn connection_string(text: &str) {
    let fault = |text| {
        ConnectionString::parse(text)
            .err()
            .map(|error| error.to_string())
    };
    if let Some(told) = fault(text) {
        assert!(
            MALFORMED
                .into_iter()
                .any(|one| fault(one).as_ref() == Some(&told))
        );
    }
}
