//! Answers to listings, which must be there to their last byte.
//!
//! The SDK takes XML that is cut, or that breaks off in nonsense, for the end of a
//! shorter answer, and HTTP only tells how long the answer of whoever sent it was:
//! a gateway or a proxy may have cut it before. Of a listing that is a shorter list, by
//! which a recovery ends or WAL is deleted. Nothing is asked of what is in it, for
//! stores leave out different things.

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::StoreErrorKind;
use super::connect::ConnectError;
use crate::store::wire::xml;

/// Refuses a yes whose XML is not whole, as a connection gone bad.
#[derive(Debug)]
pub(super) struct Whole;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Whole {
    fn name(&self) -> &'static str {
        "Whole"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // In memory by then. What failed already says better why.
        let body = context.response().body().bytes().unwrap_or_default();
        if context.output_or_error().is_ok() && !xml::is_whole(body) {
            let why = "the answer was cut, or is no XML";
            return Err(ConnectError::new(StoreErrorKind::Connect, why).into());
        }
        Ok(())
    }
}
