//! Deleting many objects, each with a fate of its own.

use std::collections::{HashMap, HashSet};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::delete_objects::DeleteObjectsOutput;
use aws_sdk_s3::types::{Delete, DeletedObject, ObjectIdentifier};
use aws_smithy_types::base64;
use md5::{Digest, Md5};

use super::error::{Failure, kind_of};
use super::{DeleteReport, Inner, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::util::delete_each;
use crate::store::wire::one_line;

/// Requests under way at the same time where objects go one by one.
const SINGLE: usize = 8;

/// Sends `Content-MD5`, which all stores know, in place of the SDK's own
/// checksum, which old ones do not.
#[derive(Debug)]
struct ContentMd5;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        if let Some(body) = request.body().bytes() {
            let digest = base64::encode(Md5::digest(body));
            let headers = request.headers_mut();
            headers.remove("x-amz-checksum-crc32");
            headers.remove("x-amz-sdk-checksum-algorithm");
            headers.insert("content-md5", digest);
        }
        Ok(())
    }
}

impl Inner {
    pub(super) async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        // XML has no way to write control characters.
        let (bulk, single): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(|key| {
            !self.learned.one_by_one.is_set() && !key.as_str().contains(char::is_control)
        });
        let mut report = DeleteReport::default();
        if !bulk.is_empty() {
            match self.delete_objects(&bulk).await {
                Ok((done, unmentioned)) => {
                    report = done;
                    // What was done to those is not known; to delete them once
                    // more does no harm.
                    self.delete_singly(&unmentioned, &mut report).await?;
                }
                Err(failure) if failure.kind == StoreErrorKind::Unsupported => {
                    let what = "does not know DeleteObjects: objects are deleted one by one";
                    self.learned.one_by_one.learn(&self.info.location, what);
                    self.delete_singly(&bulk, &mut report).await?;
                }
                // Ceph asks a policy about the bucket here, and about the objects
                // only where they go one by one.
                Err(failure)
                    if failure.kind == StoreErrorKind::PermissionDenied
                        && self.delete_one(bulk[0]).await.is_ok() =>
                {
                    let what = "does not allow DeleteObjects: objects are deleted one by one";
                    self.learned.one_by_one.learn(&self.info.location, what);
                    self.delete_singly(&bulk, &mut report).await?;
                }
                Err(failure) => {
                    let what = match bulk.as_slice() {
                        [only] => only.to_string(),
                        several => format!("{} and {} more", several[0], several.len() - 1),
                    };
                    return Err(self.error(StoreOp::Delete, what, failure));
                }
            }
        }
        self.delete_singly(&single, &mut report).await?;
        Ok(report)
    }

    /// The fates of keys, and the keys that the answer does not mention.
    async fn delete_objects<'k>(
        &self,
        keys: &[&'k Key],
    ) -> Result<(DeleteReport, Vec<&'k Key>), Failure> {
        let identifier = |key: &&Key| ObjectIdentifier::builder().key(key.as_str()).build();
        let invalid = |error: &dyn std::fmt::Display| {
            Failure::new(StoreErrorKind::Invalid, error.to_string())
        };
        let objects: Result<Vec<_>, _> = keys.iter().map(identifier).collect();
        let delete = Delete::builder()
            .set_objects(Some(objects.map_err(|error| invalid(&error))?))
            .build()
            .map_err(|error| invalid(&error))?;
        let output = self
            .call(|connection| {
                connection
                    .client
                    .delete_objects()
                    .bucket(&self.bucket)
                    .delete(delete.clone())
                    .customize()
                    .interceptor(ContentMd5)
                    .send()
            })
            .await?;
        Ok(self.fates(keys, &output))
    }

    fn fates<'k>(
        &self,
        keys: &[&'k Key],
        output: &DeleteObjectsOutput,
    ) -> (DeleteReport, Vec<&'k Key>) {
        let (mut report, mut unmentioned) = (DeleteReport::default(), Vec::new());
        let refused = output.errors().iter();
        let refused: HashMap<&str, _> = refused
            .filter_map(|error| Some((error.key()?, error)))
            .collect();
        let deleted = output.deleted().iter();
        let deleted: HashSet<&str> = deleted.filter_map(DeletedObject::key).collect();
        for key in keys {
            let failed = match refused.get(key.as_str()) {
                Some(error) => {
                    let code = error.code().unwrap_or_default();
                    let message = one_line(error.message().unwrap_or_default());
                    let why = match (code, message.as_str()) {
                        ("", "") => "the store gives no reason".to_owned(),
                        ("", words) | (words, "") => words.to_owned(),
                        (code, message) => format!("{code}: {message}"),
                    };
                    // 500 stands for codes that have no class of their own.
                    match kind_of(code, 500) {
                        StoreErrorKind::NotFound => None,
                        kind => Some((kind, why)),
                    }
                }
                None if deleted.contains(key.as_str()) => None,
                None => {
                    unmentioned.push(*key);
                    continue;
                }
            };
            match failed {
                None => report.deleted.push((*key).clone()),
                Some((kind, why)) => {
                    let error = self.refuse(StoreOp::Delete, key, kind, why);
                    report.failed.push(((*key).clone(), error));
                }
            }
        }
        (report, unmentioned)
    }

    async fn delete_one(&self, key: &Key) -> Result<()> {
        let sent = self
            .call(|connection| {
                let request = connection.client.delete_object();
                request.bucket(&self.bucket).key(key.as_str()).send()
            })
            .await;
        match sent {
            Err(failure) if failure.kind != StoreErrorKind::NotFound => {
                Err(self.error(StoreOp::Delete, key, failure))
            }
            _ => Ok(()),
        }
    }

    async fn delete_singly(&self, keys: &[&Key], report: &mut DeleteReport) -> Result<()> {
        let keys = keys.iter().copied();
        let done = delete_each(keys, SINGLE, |key| self.delete_one(key)).await?;
        report.deleted.extend(done.deleted);
        report.failed.extend(done.failed);
        Ok(())
    }
}
