//! What the status of an answer means, and how a complaint is told: the same for
//! every store that speaks HTTP, where its code does not say more.

use super::one_line;
use crate::store::StoreErrorKind;

/// Longest code, and longest message, of an answer that become part of ours, in characters.
const MAX_QUOTE: usize = 1000;

/// The class of an answer, by its status alone.
pub(in crate::store) fn kind_of_status(status: u16) -> StoreErrorKind {
    use StoreErrorKind as Kind;
    match status {
        // A yes that makes no sense: what was done is unknown.
        200..=299 => Kind::Connect,
        401 => Kind::Unauthenticated,
        403 => Kind::PermissionDenied,
        404 => Kind::NotFound,
        408 => Kind::Timeout,
        405 | 501 => Kind::Unsupported,
        409 => Kind::Conflict,
        412 => Kind::AlreadyExists,
        429 => Kind::RateLimited,
        507 => Kind::Full,
        500..=599 => Kind::ServerFault,
        300..=499 => Kind::Invalid,
        _ => Kind::Other,
    }
}

/// What a store said, in one line: `code` and `message` may be empty.
pub(in crate::store) fn complaint(code: &str, message: &str, status: u16) -> String {
    let quote = |text: &str| -> String { one_line(text).chars().take(MAX_QUOTE).collect() };
    match (quote(code).as_str(), quote(message).as_str()) {
        ("", "") => format!("the store answered with status {status}"),
        ("", message) => format!("the store answered with status {status}: {message}"),
        (code, "") => format!("{code} (status {status})"),
        (code, message) => format!("{code}: {message} (status {status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_store_says_is_one_short_line() {
        let told = complaint("No\nSuch", "a\r\n  b", 404);
        assert_eq!(told, "No Such: a b (status 404)");
        let told = complaint("", " \n", 500);
        assert_eq!(told, "the store answered with status 500");
        assert!(complaint(&"x".repeat(1 << 16), &"y ".repeat(1 << 16), 400).len() < 2100);
    }
}
