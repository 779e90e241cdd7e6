//! What S3's answers mean.
//!
//! The code in the body decides where there is one; answers to `HEAD` and those
//! of some gateways have none, and then the status does.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::connect::{ConnectError, classify};
use crate::store::wire::{Cause, complaint, element, kind_of_status, one_line, request_id};
use crate::store::{RequestId, StoreErrorKind};

/// A request that failed, before it has the words for what was being done.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: StoreErrorKind,
    /// One line, without secrets.
    pub(super) text: String,
    /// The code in the answer, empty if there was none.
    pub(super) code: String,
    /// The status of the answer, if there was one.
    pub(super) status: Option<u16>,
    /// What the answer calls the request.
    pub(super) request: Option<Box<RequestId>>,
    /// The region the bucket is in, where the answer tells that it is another.
    pub(super) region: Option<String>,
    /// What the answer says it is about, in lower case: its code and message,
    /// and the header or argument it names.
    about: String,
}

/// What a store that refused a request turned out not to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// `If-None-Match` or `If-Match`
    Condition,
    /// Checksum headers.
    Checksums,
    /// A header, but the answer does not say which.
    Something,
    /// The answer says nothing at all: it may be a header, and may be anything.
    Perhaps,
}

/// Codes that say no more than that a request is not to the store's liking.
const VAGUE_CODES: [&str; 4] = ["", "InvalidRequest", "InvalidArgument", "BadRequest"];

/// How stores name what they do not know of a checksum, in lower case.
const CHECKSUM_WORDS: [&str; 4] = ["checksum", "crc32c", "content-md5", "contentmd5"];

/// How stores name the condition.
const CONDITION_WORDS: [&str; 4] = ["if-none-match", "if-match", "conditional", "precondition"];

impl Failure {
    /// A failure that no answer stands behind.
    pub(super) fn new(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            code: String::new(),
            status: None,
            request: None,
            region: None,
            about: String::new(),
        }
    }

    /// Whether the store does not take the credentials any more, or may not:
    /// answers to `HEAD` have no code.
    pub(super) fn may_be_of_old_credentials(&self) -> bool {
        match self.code.as_str() {
            "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" | "InvalidAccessKeyId" => true,
            code => code.is_empty() && self.status == Some(400),
        }
    }

    /// Whether the store refuses the number of a part, or so many parts.
    pub(super) fn is_about_part_numbers(&self) -> bool {
        let words = ["part number", "partnumber", "too many parts"];
        self.kind == StoreErrorKind::Invalid && words.iter().any(|it| self.about.contains(it))
    }

    /// What the store does not know, if that is why it refused the request. A
    /// checksum that does not fit, or a condition that does not hold, is known.
    pub(super) fn unknown(&self) -> Option<Unknown> {
        let refused = matches!(
            self.kind,
            StoreErrorKind::Invalid | StoreErrorKind::Unsupported
        );
        if !refused || !matches!(self.status, Some(400 | 405 | 501)) {
            return None;
        }
        let names = |words: &[&str]| words.iter().any(|word| self.about.contains(word));
        if names(&CONDITION_WORDS) {
            Some(Unknown::Condition)
        } else if names(&CHECKSUM_WORDS) {
            Some(Unknown::Checksums)
        } else if self.status == Some(501) {
            Some(Unknown::Something)
        } else {
            let vague = self.status == Some(400) && VAGUE_CODES.contains(&self.code.as_str());
            vague.then_some(Unknown::Perhaps)
        }
    }
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        if let SdkError::ServiceError(answer) = &error {
            return answered(answer.err().meta(), answer.raw());
        }
        // What went wrong on the way.
        if let Some(known) = classify(&error) {
            return known.into();
        }
        let kind = match &error {
            SdkError::TimeoutError(_) => StoreErrorKind::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_timeout() => StoreErrorKind::Timeout,
            SdkError::DispatchFailure(failure) if failure.is_user() => StoreErrorKind::Invalid,
            // An answer that is cut or makes no sense is a connection gone bad.
            SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => StoreErrorKind::Connect,
            _ => StoreErrorKind::Invalid,
        };
        Self::new(kind, innermost(&error))
    }
}

impl From<Cause> for Failure {
    fn from((kind, text): Cause) -> Self {
        Self::new(kind, text)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(error.kind, error.text)
    }
}

/// The innermost cause: what is around it says "dispatch failure" and the like.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut texts: Vec<String> = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        texts.push(inner.to_string());
        cause = inner.source();
    }
    // The last two levels, of which one often only repeats the other.
    let last = texts.pop().unwrap_or_default();
    let before = texts.pop().unwrap_or_default();
    let told = [
        "dispatch failure",
        "service error",
        "client error",
        "io error",
        "error",
    ];
    let line = if before.contains(&last) {
        before
    } else if before.is_empty() || told.iter().any(|empty| before == *empty) {
        last
    } else {
        format!("{before}: {last}")
    };
    one_line(&line)
}

fn answered(meta: &aws_sdk_s3::error::ErrorMetadata, raw: &HttpResponse) -> Failure {
    let status = raw.status().as_u16();
    let code = meta.code().unwrap_or_default();
    let message = meta.message().map(one_line).unwrap_or_default();
    let said = complaint(code, &message, status);
    let hint = match code {
        "RequestTimeTooSkewed" => "; the clock of this machine is wrong",
        "ExpiredToken" | "TokenRefreshRequired" => "; renew the credentials",
        _ => "",
    };
    let named = ["Header", "ArgumentName"].map(|name| in_body(raw, name).unwrap_or_default());
    let about = format!("{code} {message} {}", named.join(" "));
    Failure {
        kind: kind_of(code, status),
        text: format!("{said}{hint}"),
        code: code.to_owned(),
        status: Some(status),
        request: request_id("x-amz-request-id", Some("x-amz-id-2"), |name| {
            raw.headers().get(name).map(str::to_owned)
        }),
        region: elsewhere(code, status, raw),
        about: about.to_ascii_lowercase(),
    }
}

/// The text of an element in the body of an answer.
fn in_body<'a>(raw: &'a HttpResponse, name: &str) -> Option<&'a str> {
    element(raw.body().bytes()?, name)
}

/// The region that an answer sends the client to.
fn elsewhere(code: &str, status: u16, raw: &HttpResponse) -> Option<String> {
    let moved = matches!(status, 301 | 302 | 307 | 308)
        || (status == 400
            && matches!(
                code,
                "" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"
            ));
    if !moved {
        return None;
    }
    let header = raw.headers().get("x-amz-bucket-region");
    let region = header.or_else(|| in_body(raw, "Region"))?;
    // It becomes part of a host name.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let usable = !region.is_empty() && region.chars().all(plain);
    usable.then(|| region.to_owned())
}

/// The class of an answer.
pub(super) fn kind_of(code: &str, status: u16) -> StoreErrorKind {
    use StoreErrorKind as Kind;
    match code {
        "NoSuchKey" | "NoSuchUpload" | "NoSuchVersion" => return Kind::NotFound,
        "NoSuchBucket" => return Kind::BucketMissing,
        "AccessDenied" | "AllAccessDisabled" => return Kind::PermissionDenied,
        "PreconditionFailed" => return Kind::AlreadyExists,
        "ConditionalRequestConflict" | "OperationAborted" => return Kind::Conflict,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed"
        | "AuthorizationHeaderMalformed"
        | "MissingSecurityHeader"
        | "NotSignedUp" => return Kind::Unauthenticated,
        "SlowDown"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "BandwidthLimitExceeded" => return Kind::RateLimited,
        "RequestTimeout" => return Kind::Timeout,
        // Some answers begin with 200 before the outcome is known.
        "InternalError" | "ServiceUnavailable" => return Kind::ServerFault,
        // The bytes were damaged on their way: sending them again helps.
        "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody" => return Kind::Connect,
        "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" => return Kind::Full,
        "NotImplemented" | "MethodNotAllowed" => return Kind::Unsupported,
        _ => {}
    }
    match status {
        // What is told inside of a yes is about the request.
        200..=299 if !code.is_empty() => Kind::Invalid,
        _ => kind_of_status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StoreErrorKind as Kind;

    #[test]
    fn each_answer_has_its_class() {
        for (code, status, kind) in [
            ("NoSuchKey", 404, Kind::NotFound),
            ("", 404, Kind::NotFound),
            ("NoSuchBucket", 404, Kind::BucketMissing),
            ("NoSuchUpload", 404, Kind::NotFound),
            ("AccessDenied", 403, Kind::PermissionDenied),
            ("", 403, Kind::PermissionDenied),
            ("SignatureDoesNotMatch", 403, Kind::Unauthenticated),
            ("ExpiredToken", 400, Kind::Unauthenticated),
            ("", 401, Kind::Unauthenticated),
            ("SlowDown", 503, Kind::RateLimited),
            ("", 429, Kind::RateLimited),
            ("InternalError", 500, Kind::ServerFault),
            ("ServiceUnavailable", 503, Kind::ServerFault),
            ("", 502, Kind::ServerFault),
            ("RequestTimeout", 400, Kind::Timeout),
            ("ConditionalRequestConflict", 409, Kind::Conflict),
            ("PreconditionFailed", 412, Kind::AlreadyExists),
            ("", 412, Kind::AlreadyExists),
            ("BadDigest", 400, Kind::Connect),
            ("QuotaExceeded", 403, Kind::Full),
            ("InternalError", 200, Kind::ServerFault),
            ("SlowDown", 200, Kind::RateLimited),
            ("", 200, Kind::Connect),
            ("RequestTimeTooSkewed", 403, Kind::Unauthenticated),
            ("InvalidAccessKeyId", 403, Kind::Unauthenticated),
            ("NotImplemented", 501, Kind::Unsupported),
            ("InvalidArgument", 400, Kind::Invalid),
            ("InvalidRange", 416, Kind::Invalid),
            ("PermanentRedirect", 301, Kind::Invalid),
        ] {
            assert_eq!(kind_of(code, status), kind, "{code} {status}");
        }
    }
}
