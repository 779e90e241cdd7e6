//! What the service's answers mean.
//!
//! The JSON API tells a reason, the XML API a code; downloads are answered in
//! plain text, and emulators and proxies in whatever they like. Where there is
//! neither reason nor code, the status decides.

use serde_json::Value;

use super::request::Answer;
use crate::store::http::ConnectError;
use crate::store::wire::{Cause, complaint, kind_of_status, one_line, request_id, xml};
use crate::store::{RequestId, StoreErrorKind};

/// Longest text of an answer that becomes part of a message, in characters.
const MAX_QUOTE: usize = 300;

/// A request that failed, before it has the words for what was being done.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: StoreErrorKind,
    /// One line, without secrets.
    pub(super) text: String,
    /// The code of the answer, empty if there was none.
    pub(super) code: String,
    /// The status of the answer, if there was one.
    pub(super) status: Option<u16>,
    /// What the answer calls the request.
    pub(super) request: Option<Box<RequestId>>,
    /// Whether the XML API answered, in its own form.
    pub(super) of_xml: bool,
}

impl Failure {
    /// A failure that no answer stands behind.
    pub(super) fn new(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            code: String::new(),
            status: None,
            request: None,
            of_xml: false,
        }
    }

    /// What an answer says that is no success.
    pub(super) fn answered(answer: &Answer) -> Self {
        let status = answer.status.as_u16();
        let said = Said::read(answer);
        let (code, message) = (said.code.as_str(), one_line(&said.message));
        let told = complaint(code, &message, status);
        Self {
            kind: kind_of(code, &message, status),
            text: told,
            status: Some(status),
            request: request_id("x-guploader-uploadid", None, |name| {
                let value = answer.headers.get(name)?;
                value.to_str().ok().map(str::to_owned)
            }),
            code: said.code,
            of_xml: said.of_xml,
        }
    }
}

impl From<Cause> for Failure {
    fn from((kind, why): Cause) -> Self {
        Self::new(kind, why)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(error.kind, error.text)
    }
}

/// Code and message of a complaint.
#[derive(Debug, Default)]
struct Said {
    code: String,
    message: String,
    of_xml: bool,
}

impl Said {
    fn read(answer: &Answer) -> Self {
        if let Ok(value) = serde_json::from_slice::<Value>(&answer.body) {
            let error = value.get("error").unwrap_or(&Value::Null);
            let text = |value: Option<&Value>| {
                let text = value.and_then(Value::as_str);
                text.unwrap_or_default().to_owned()
            };
            let first = error.get("errors").and_then(|all| all.get(0));
            return Self {
                code: text(first.and_then(|first| first.get("reason"))),
                message: text(error.get("message")),
                of_xml: false,
            };
        }
        if let Ok(error) = xml::parse(&answer.body)
            && error.name == "Error"
        {
            let message = error.text("Message").unwrap_or_default();
            let details = error.text("Details").unwrap_or_default();
            return Self {
                code: error.text("Code").unwrap_or_default().to_owned(),
                message: format!("{message} {details}"),
                of_xml: true,
            };
        }
        // Plain text; what is a page for people says nothing.
        let text = String::from_utf8_lossy(&answer.body);
        let is_page = text.trim_start().starts_with('<');
        Self {
            message: if is_page {
                String::new()
            } else {
                text.chars().take(MAX_QUOTE).collect()
            },
            ..Self::default()
        }
    }
}

/// The class of an answer.
fn kind_of(code: &str, message: &str, status: u16) -> StoreErrorKind {
    use StoreErrorKind as Kind;
    match code {
        "NoSuchBucket" => return Kind::BucketMissing,
        "NoSuchKey" | "NoSuchUpload" => return Kind::NotFound,
        "rateLimitExceeded" | "userRateLimitExceeded" | "SlowDown" | "TooManyRequests" => {
            return Kind::RateLimited;
        }
        "quotaExceeded" | "QuotaExceeded" => return Kind::Full,
        "backendError" | "internalError" | "InternalError" | "ServiceUnavailable" => {
            return Kind::ServerFault;
        }
        "RequestTimeout" => return Kind::Timeout,
        // The bytes were damaged on their way: sending them again helps.
        "BadDigest" | "IncompleteBody" => return Kind::Connect,
        "ExpiredToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidSecurity" => {
            return Kind::Unauthenticated;
        }
        "NotImplemented" | "MethodNotAllowed" => return Kind::Unsupported,
        _ => {}
    }
    // Bucket and object are missing for one reason; the words tell them apart.
    let says = |words: &str| message.to_ascii_lowercase().contains(words);
    match status {
        404 if says("bucket does not exist") => Kind::BucketMissing,
        400 if says("doesn't match calculated") => Kind::Connect,
        410 => Kind::NotFound,
        _ => kind_of_status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreErrorKind as Kind;

    fn answer(status: u16, body: &str) -> Failure {
        Failure::answered(&Answer {
            status: http::StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::copy_from_slice(body.as_bytes()),
        })
    }

    #[test]
    fn each_answer_has_its_class() {
        let json = |reason: &str, message: &str| {
            serde_json::json!({"error": {
                "code": 1, "message": message, "errors": [{"reason": reason}],
            }})
            .to_string()
        };
        let xml = |code: &str| {
            format!("<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>")
        };
        for (status, body, kind) in [
            (404, json("notFound", "No such object: b/k"), Kind::NotFound),
            (
                404,
                json("notFound", "The specified bucket does not exist."),
                Kind::BucketMissing,
            ),
            (404, "No such object: b/k".into(), Kind::NotFound),
            (404, String::new(), Kind::NotFound),
            (
                401,
                json("authError", "Invalid Credentials"),
                Kind::Unauthenticated,
            ),
            (
                403,
                json("forbidden", "no permission"),
                Kind::PermissionDenied,
            ),
            (403, json("rateLimitExceeded", "slower"), Kind::RateLimited),
            (429, json("rateLimitExceeded", "slower"), Kind::RateLimited),
            (409, json("conflict", "again"), Kind::Conflict),
            (
                412,
                json("conditionNotMet", "At least one"),
                Kind::AlreadyExists,
            ),
            (500, json("backendError", "oops"), Kind::ServerFault),
            (503, "<html>later</html>".into(), Kind::ServerFault),
            (408, String::new(), Kind::Timeout),
            (
                400,
                json(
                    "invalid",
                    "Provided CRC32C \"a\" doesn't match calculated CRC32C \"b\".",
                ),
                Kind::Connect,
            ),
            (400, json("required", "what?"), Kind::Invalid),
            (400, xml("BadDigest"), Kind::Connect),
            (404, xml("NoSuchUpload"), Kind::NotFound),
            (404, xml("NoSuchBucket"), Kind::BucketMissing),
            (403, xml("AccessDenied"), Kind::PermissionDenied),
            (503, xml("SlowDown"), Kind::RateLimited),
            (400, xml("EntityTooSmall"), Kind::Invalid),
            (410, String::new(), Kind::NotFound),
            (301, String::new(), Kind::Invalid),
        ] {
            assert_eq!(answer(status, &body).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn a_complaint_is_one_line_in_the_service_s_words() {
        let body = "<Error><Code>AccessDenied</Code><Message>Access\ndenied.</Message>\
                    <Details>a@b does not have storage.objects.create</Details></Error>";
        assert_eq!(
            answer(403, body).text,
            "AccessDenied: Access denied. a@b does not have storage.objects.create (status 403)"
        );
        let page = "<!DOCTYPE html><html>Error</html>";
        assert_eq!(answer(502, page).text, "the store answered with status 502");
        let plain = "No such object: b/k";
        let told = "the store answered with status 404: No such object: b/k";
        assert_eq!(answer(404, plain).text, told);
    }
}
