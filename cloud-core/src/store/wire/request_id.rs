//! How an answer calls its request.

use crate::store::RequestId;

/// Longest name of a request that becomes part of a message, in characters. Google's have
/// up to some 200.
const MAX_NAME: usize = 256;

/// The name in the header `id` of an answer, and the second one in `host`, where a store has
/// two. What is no name in print, or has no end, is left out: a store is not trusted.
pub(in crate::store) fn request_id(
    id: &str,
    host: Option<&str>,
    header: impl Fn(&str) -> Option<String>,
) -> Option<Box<RequestId>> {
    let name = |of: &str| {
        let text = header(of)?;
        let printable = text.chars().filter(char::is_ascii_graphic);
        let text: String = printable.take(MAX_NAME).collect();
        (!text.is_empty()).then_some(text)
    };
    Some(Box::new(RequestId {
        id: name(id)?,
        host: host.and_then(name),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_in_print_whatever_a_store_says() {
        let read = |text: &str| request_id("x-id", None, |_| Some(text.to_owned()));
        let long = "x".repeat(1 << 20);
        for (text, expected) in [
            ("4442587FB7D0A2F9", Some("4442587FB7D0A2F9")),
            ("a\x1b[2J b\nHINT:\tü c", Some("a[2JbHINT:c")),
            (&long, Some(&long[..MAX_NAME])),
            (" \r\n", None),
            ("", None),
        ] {
            let found = read(text).map(|request| request.id);
            assert_eq!(found.as_deref(), expected);
        }
    }

    #[test]
    fn both_names_are_told_and_none_without_the_first() {
        let of = |known: &[(&str, &str)]| {
            let found = request_id("id", Some("host"), |name| {
                let known = known.iter().find(|(header, _)| *header == name)?;
                Some(known.1.to_owned())
            });
            found.map(|request| request.to_string())
        };
        assert_eq!(of(&[("id", "a")]).as_deref(), Some("request id a"));
        let both = of(&[("id", "a"), ("host", "b")]);
        assert_eq!(both.as_deref(), Some("request id a, host id b"));
        assert_eq!(of(&[("host", "b")]), None);
    }
}
