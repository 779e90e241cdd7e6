//! Writing small objects: one request, all or nothing.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;

use super::checksum::{Checksum, Stored};
use super::connect::Connection;
use super::error::{Failure, Unknown};
use super::{Inner, LockCheck, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::wire::{tagging, unquoted};
use crate::store::{ObjectVersion, PutMode};

impl Inner {
    /// Whether to try again without what the store turned out not to know, of
    /// what was sent with the request that failed. Where it does not say what it
    /// was, checksum headers go first: `Content-MD5` is as good.
    pub(super) fn learns(&self, failure: &Failure, checksums: bool, condition: bool) -> bool {
        let unknown = match failure.unknown() {
            Some(Unknown::Something) if checksums => Some(Unknown::Checksums),
            Some(Unknown::Something) => Some(Unknown::Condition),
            other => other,
        };
        match unknown {
            Some(Unknown::Checksums) if checksums => {
                let what = "does not take checksum headers: Content-MD5 is sent instead";
                let learned = &self.learned.without_checksums;
                learned.learn(&self.info.location, what);
                true
            }
            Some(Unknown::Condition) if condition => {
                let what =
                    "does not know If-None-Match: names are looked up before they are written";
                let learned = &self.learned.without_conditions;
                learned.learn(&self.info.location, what);
                true
            }
            _ => false,
        }
    }

    pub(super) async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutReceipt> {
        loop {
            let condition = self.condition(StoreOp::Put, key, options.mode).await?;
            let checksums = !self.learned.without_checksums.is_set();
            let sent = self
                .call(|connection| {
                    let checksum = Checksum::of(&body, checksums && !connection.when_required);
                    let sent = self.request(connection, key, &body, &checksum, options, condition);
                    async move { Ok((checksum, sent.await?)) }
                })
                .await;
            let (checksum, output) = match sent {
                Ok(sent) => sent,
                Err(failure) if self.learns(&failure, checksums, condition) => continue,
                Err(failure) => return Err(self.error(StoreOp::Put, key, failure)),
            };
            let stored = Stored {
                crc32c: output.checksum_crc32_c(),
                etag: output.e_tag().filter(|_| {
                    is_plain(
                        output.server_side_encryption(),
                        output.sse_customer_algorithm(),
                    )
                }),
            };
            if let Some(why) = checksum.contradicted(&stored, &self.learned.etags_are_md5) {
                return Err(self.refuse(StoreOp::Put, key, StoreErrorKind::Corrupt, why));
            }
            return Ok(receipt(output.e_tag()));
        }
    }

    /// Whether the write carries a condition. Where the store knows none the
    /// name is looked up, which leaves a moment between look and write.
    pub(super) async fn condition(&self, op: StoreOp, key: &Key, mode: PutMode) -> Result<bool> {
        if mode == PutMode::Overwrite {
            return Ok(false);
        }
        if !self.learned.without_conditions.is_set() {
            return Ok(true);
        }
        match self.head(op, key, LockCheck::Skip).await {
            Ok(_) => {
                let why = "an object of that name exists";
                Err(self.refuse(op, key, StoreErrorKind::AlreadyExists, why))
            }
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn request(
        &self,
        connection: &Connection,
        key: &Key,
        body: &Bytes,
        checksum: &Checksum,
        options: &PutOptions,
        condition: bool,
    ) -> impl Future<Output = Result<PutObjectOutput, SdkError<PutObjectError>>> + Send + use<>
    {
        let request = connection
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .body(ByteStream::from(body.clone()))
            .set_tagging(options.tags.as_deref().map(tagging))
            .set_if_none_match(condition.then(|| "*".to_owned()))
            .set_checksum_crc32_c(checksum.as_crc32c().map(str::to_owned))
            .set_content_md5(checksum.as_md5().map(str::to_owned));
        let request = self.encryption.put(request).customize();
        let request = request.mutate_request(without_type);
        // TLS protects the body; a signature over it would only cost a pass.
        let request = if connection.secure {
            request.disable_payload_signing()
        } else {
            request
        };
        request.send()
    }
}

/// Takes away the type that the SDK gives a body: the reference gives none, and
/// leaves the store's own.
pub(super) fn without_type(request: &mut HttpRequest) {
    request.headers_mut().remove("content-type");
}

/// Whether an `ETag` may be the MD5 of what was sent: not where a key of the
/// user's, or of KMS, was at work.
pub(super) fn is_plain(mode: Option<&ServerSideEncryption>, customer: Option<&str>) -> bool {
    customer.is_none() && mode.is_none_or(|mode| *mode == ServerSideEncryption::Aes256)
}

/// What a write answered.
pub(super) fn receipt(etag: Option<&str>) -> PutReceipt {
    PutReceipt {
        version: etag.map(|etag| ObjectVersion(unquoted(etag).to_owned())),
    }
}
