//! Why there is no connection, in one line without a secret.

use std::error::Error;

use crate::store::StoreErrorKind;

/// A connection, or the credentials for it, could not be had.
///
/// The text names the source and what to do; it never holds a key or a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(in crate::store) struct ConnectError {
    /// The class of the failure.
    pub(in crate::store) kind: StoreErrorKind,
    /// One line for the user.
    pub(in crate::store) text: String,
}

impl ConnectError {
    pub(in crate::store) fn new(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        let text = text.into();
        // Services answer in several lines now and then.
        let text = if text.contains(['\n', '\r']) {
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        } else {
            text
        };
        Self { kind, text }
    }

    /// The credentials that were configured cannot be had or used.
    pub(in crate::store) fn refused(text: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Unauthenticated, text)
    }

    /// A setting that means nothing.
    pub(in crate::store) fn invalid(text: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Invalid, text)
    }

    /// The same failure, told as part of what was being done.
    pub(in crate::store) fn while_(self, doing: &str) -> Self {
        Self {
            kind: self.kind,
            text: format!("{doing}: {}", self.text),
        }
    }
}

/// What went wrong on the way to a service, if `error` or one of its causes
/// tells: no credentials, no connection, no answer in time. `None` if the
/// service answered or the cause is not known.
///
/// The `Display` of what the vendors' crates return says no more than "dispatch
/// failure".
pub(in crate::store) fn classify(error: &(dyn Error + 'static)) -> Option<ConnectError> {
    let mut cause = Some(error);
    let mut found = None;
    while let Some(error) = cause {
        if let Some(ours) = error.downcast_ref::<ConnectError>() {
            return Some(ours.clone());
        }
        // `io::Error` hides what it wraps from `source`.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .map(|inner| inner as &(dyn Error + 'static));
        if let Some(deeper) = inner.and_then(classify) {
            return Some(deeper);
        }
        found = meaning(error).or(found);
        cause = error.source();
    }
    found
}

/// What an error of a library below us means by itself.
fn meaning(error: &(dyn Error + 'static)) -> Option<ConnectError> {
    use std::io::ErrorKind;
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        let kind = match io.kind() {
            ErrorKind::TimedOut => StoreErrorKind::Timeout,
            _ => StoreErrorKind::Connect,
        };
        return Some(ConnectError::new(kind, innermost(error).to_string()));
    }
    let (kind, text) = match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_)) => (
            StoreErrorKind::Untrusted,
            format!("its certificate is not trusted: {error}"),
        ),
        Some(_) => (StoreErrorKind::Connect, format!("TLS failed: {error}")),
        None if error.is::<hyper::Error>() => {
            (StoreErrorKind::Connect, innermost(error).to_string())
        }
        None => return None,
    };
    Some(ConnectError::new(kind, text))
}

/// The last cause, which says most.
pub(in crate::store) fn innermost<'a>(
    error: &'a (dyn Error + 'static),
) -> &'a (dyn Error + 'static) {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("dispatch failure")]
    struct Wrapped(#[source] Box<dyn Error + Send + Sync>);

    #[test]
    fn the_cause_is_found_however_deep_it_is() {
        let ours = ConnectError::refused("no key");
        let deep = Wrapped(Box::new(io::Error::other(Wrapped(Box::new(ours.clone())))));
        assert_eq!(classify(&deep), Some(ours));
        let slow = Wrapped(Box::new(io::Error::new(io::ErrorKind::TimedOut, "late")));
        let slow = classify(&slow).unwrap();
        assert_eq!((slow.kind, &*slow.text), (StoreErrorKind::Timeout, "late"));
        let gone = Wrapped(Box::new(io::Error::from_raw_os_error(111)));
        assert_eq!(classify(&gone).unwrap().kind, StoreErrorKind::Connect);
        assert_eq!(classify(&Wrapped("an answer".into())), None);
    }

    #[test]
    fn a_text_is_one_line() {
        let error = ConnectError::refused("a\n  b\r\nc");
        assert_eq!(error.to_string(), "a b c");
    }
}
