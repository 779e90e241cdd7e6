//! What the answers of the service mean.
//!
//! The code decides where there is one, which is in a header even where there is
//! no body; otherwise the status.

use azure_core::error::ErrorKind;
use azure_core::http::RawResponse;
use azure_core::http::headers::HeaderName;

use crate::store::http::{ConnectError, classify, innermost};
use crate::store::wire::{Cause, complaint, element, kind_of_status, one_line, request_id};
use crate::store::{RequestId, StoreErrorKind};

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
        }
    }

    /// An answer that is a refusal. `message` may go on over several lines, of
    /// which the first says what it is.
    pub(super) fn answered(status: u16, code: &str, message: Option<&str>) -> Self {
        let message = message
            .and_then(|message| message.lines().next())
            .map(one_line)
            .unwrap_or_default();
        let said = complaint(code, &message, status);
        let hint = match code {
            "AuthorizationPermissionMismatch" => {
                "; the signature lacks a letter for it, or the identity a role, such as Storage \
                 Blob Data Contributor"
            }
            "AuthenticationFailed" => {
                "; the key, signature or token is not the account's or has expired, or the clock \
                 of this machine is wrong"
            }
            "AuthorizationFailure" => {
                "; the credentials do not allow it, or the account's firewall does not let this \
                 machine in"
            }
            "BlobArchived" | "BlobBeingRehydrated" => {
                "; it lies in the archive tier: move it to another tier first"
            }
            "FeatureVersionMismatch" => "; the account is of another kind than general purpose v2",
            _ => "",
        };
        Self {
            kind: kind_of(code, status),
            text: format!("{said}{hint}"),
            code: code.to_owned(),
            status: Some(status),
            request: None,
        }
    }
}

impl From<azure_core::Error> for Failure {
    fn from(error: azure_core::Error) -> Self {
        // What went wrong on the way, or with the credentials.
        if let Some(known) = classify(&error) {
            return known.into();
        }
        match error.kind() {
            // Where the answer has no code, the crate makes one of the status.
            ErrorKind::HttpResponse {
                status,
                raw_response,
                ..
            } => {
                let status = u16::from(*status);
                let raw = raw_response.as_deref();
                let code = raw.and_then(code_of);
                let message = raw.and_then(|raw| element(raw.body().as_ref(), "Message"));
                Self {
                    request: raw.and_then(request_of),
                    ..Self::answered(status, code.as_deref().unwrap_or_default(), message)
                }
            }
            ErrorKind::Credential => Self::new(
                StoreErrorKind::Unauthenticated,
                one_line(&error.to_string()),
            ),
            // An answer that is cut or makes no sense is a connection gone bad.
            ErrorKind::Connection | ErrorKind::Io | ErrorKind::DataConversion => Self::new(
                StoreErrorKind::Connect,
                one_line(&innermost(&error).to_string()),
            ),
            ErrorKind::Other => Self::new(StoreErrorKind::Invalid, one_line(&error.to_string())),
        }
    }
}

fn code_of(raw: &RawResponse) -> Option<String> {
    const CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
    let header = raw.headers().get_optional_string(&CODE);
    header.or_else(|| element(raw.body().as_ref(), "Code").map(str::to_owned))
}

fn request_of(raw: &RawResponse) -> Option<Box<RequestId>> {
    request_id("x-ms-request-id", None, |name| {
        let name = HeaderName::from(name.to_owned());
        raw.headers().get_optional_string(&name)
    })
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::new(error.kind, error.text)
    }
}

impl From<Cause> for Failure {
    fn from((kind, text): Cause) -> Self {
        Self::new(kind, text)
    }
}

/// The class of an answer.
pub(super) fn kind_of(code: &str, status: u16) -> StoreErrorKind {
    use StoreErrorKind as Kind;
    match code {
        // The last one: blocks are gone, because another upload under the same
        // name has ended.
        "BlobNotFound" | "ResourceNotFound" | "InvalidBlockList" => return Kind::NotFound,
        "ContainerNotFound" | "ContainerBeingDeleted" | "ContainerDisabled" => {
            return Kind::BucketMissing;
        }
        "BlobAlreadyExists" | "ConditionNotMet" => return Kind::AlreadyExists,
        "AuthenticationFailed"
        | "InvalidAuthenticationInfo"
        | "NoAuthenticationInformation"
        | "KeyBasedAuthenticationNotPermitted"
        | "AccountIsDisabled" => return Kind::Unauthenticated,
        "BlobImmutableDueToPolicy"
        | "BlobImmutableDueToLegalHold"
        | "LeaseIdMissing"
        | "SnapshotsPresent" => return Kind::PermissionDenied,
        "ServerBusy" | "TooManyRequests" => return Kind::RateLimited,
        "OperationTimedOut" => return Kind::Timeout,
        "InternalError" => return Kind::ServerFault,
        // The bytes were damaged on their way: sending them again helps.
        "Md5Mismatch" | "Crc64Mismatch" | "IncompleteBody" => return Kind::Connect,
        "BlobArchived" | "BlobBeingRehydrated" => return Kind::Invalid,
        "FeatureVersionMismatch" | "FeatureNotYetSupportedForHierarchicalNamespaceAccounts" => {
            return Kind::Unsupported;
        }
        _ => {}
    }
    match status {
        // Of those that are worth another attempt each has its code.
        409 => Kind::Invalid,
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
            ("BlobNotFound", 404, Kind::NotFound),
            ("", 404, Kind::NotFound),
            ("ContainerNotFound", 404, Kind::BucketMissing),
            ("ContainerBeingDeleted", 409, Kind::BucketMissing),
            ("BlobAlreadyExists", 409, Kind::AlreadyExists),
            ("ConditionNotMet", 412, Kind::AlreadyExists),
            ("", 412, Kind::AlreadyExists),
            ("AuthenticationFailed", 403, Kind::Unauthenticated),
            ("NoAuthenticationInformation", 401, Kind::Unauthenticated),
            ("", 401, Kind::Unauthenticated),
            ("AuthorizationFailure", 403, Kind::PermissionDenied),
            (
                "AuthorizationPermissionMismatch",
                403,
                Kind::PermissionDenied,
            ),
            ("", 403, Kind::PermissionDenied),
            ("BlobImmutableDueToPolicy", 409, Kind::PermissionDenied),
            ("ServerBusy", 503, Kind::RateLimited),
            ("", 429, Kind::RateLimited),
            ("OperationTimedOut", 500, Kind::Timeout),
            ("InternalError", 500, Kind::ServerFault),
            ("", 502, Kind::ServerFault),
            ("Crc64Mismatch", 400, Kind::Connect),
            ("InvalidBlockList", 400, Kind::NotFound),
            ("InvalidRange", 416, Kind::Invalid),
            ("InvalidInput", 400, Kind::Invalid),
            ("", 409, Kind::Invalid),
            ("", 307, Kind::Invalid),
            ("", 200, Kind::Connect),
        ] {
            assert_eq!(kind_of(code, status), kind, "{code} {status}");
        }
    }

    #[test]
    fn the_first_line_of_the_message_is_told() {
        let message = "The specified container does not exist.\nRequestId:1\nTime:2";
        let failure = Failure::answered(404, "ContainerNotFound", Some(message));
        assert_eq!(
            failure.text,
            "ContainerNotFound: The specified container does not exist. (status 404)"
        );
        assert_eq!(
            Failure::answered(500, "", None).text,
            "the store answered with status 500"
        );
    }
}
