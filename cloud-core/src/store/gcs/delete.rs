//! Deleting many objects, each with a fate of its own.
//!
//! One request for each, many at the same time: the batches of the JSON API
//! count as as many requests, and the service works on them one by one.

use http::Method;

use super::request::Call;
use super::{DeleteReport, Inner, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::util::delete_each;

/// Requests under way at the same time.
const AT_ONCE: usize = 16;

impl Inner {
    pub(super) async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        delete_each(keys, AT_ONCE, |key| self.delete_one(key)).await
    }

    async fn delete_one(&self, key: &Key) -> Result<()> {
        let call = Call::new(Method::DELETE, self.object_path(key));
        match self.ask(&call).await {
            Err(failure) if failure.kind != StoreErrorKind::NotFound => {
                Err(self.error(StoreOp::Delete, key, failure))
            }
            _ => Ok(()),
        }
    }
}
