//! What the services that give out credentials answer.

use std::error::Error;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreErrorKind;
use crate::store::http::{ConnectError, classify, innermost};

impl ConnectError {
    /// What a service that gives out credentials answered, or why it could not
    /// be asked. `doing` begins the line.
    pub(super) fn of_service<E>(doing: &str, error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        if let Some(answer) = error.as_service_error() {
            let code = answer.code().unwrap_or("no error code");
            let message = answer.message().unwrap_or("no message");
            let status = error.raw_response().map(|raw| raw.status().as_u16());
            let kind = match status {
                _ if code.contains("Throttl") || code == "TooManyRequestsException" => {
                    StoreErrorKind::RateLimited
                }
                Some(500..) => StoreErrorKind::ServerFault,
                _ => StoreErrorKind::Unauthenticated,
            };
            return Self::new(kind, format!("{doing}: {code}: {message}"));
        }
        let known = classify(error).unwrap_or_else(|| {
            let unknown = innermost(error).to_string();
            Self::new(StoreErrorKind::Other, unknown)
        });
        known.while_(doing)
    }
}
