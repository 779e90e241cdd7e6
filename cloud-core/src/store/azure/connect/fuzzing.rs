//! A door for fuzzing: connection strings.

use super::connection_string::ConnectionString;

/// A connection string. Whatever it is, it may hold a key.
pub(in crate::store::azure) fn connection_string(text: &str) {
    if let Err(error) = ConnectionString::parse(text) {
        assert!(text.len() < 16 || !error.to_string().contains(text));
    }
}
