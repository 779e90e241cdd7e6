//! Writing small objects: one request, all or nothing.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;

use super::adapt::{Adapting, Extras};
use super::checksum::{Checksum, Stored};
use super::connect::Connection;
use super::error::Failure;
use super::{Inner, LockCheck, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::wire::{tagging, unquoted};
use crate::store::{ObjectVersion, PutMode};

impl Inner {
    pub(super) async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutReceipt> {
        let new = options.mode == PutMode::CreateOnly;
        let mut looked = false;
        let mut adapting = Adapting::new(
            self,
            Extras {
                checksums: !self.learned.without_checksums.is_set(),
                condition: new && !self.learned.without_conditions.is_set(),
            },
        );
        loop {
            let Extras {
                checksums,
                condition,
            } = adapting.with();
            if new && !(looked && condition) {
                self.look_before_put(key, condition).await?;
                looked = true;
            }
            let sent = self
                .call(|connection| {
                    let checksum = Checksum::of(&body, checksums && !connection.when_required);
                    let sent = self.request(connection, key, &body, &checksum, options, condition);
                    async move { Ok((checksum, sent.await?)) }
                })
                .await;
            let (checksum, output) = match sent {
                Ok(sent) => sent,
                Err(failure) => {
                    let again = adapting.refused(failure);
                    again.map_err(|failure| self.error(StoreOp::Put, key, failure))?;
                    continue;
                }
            };
            adapting.taken();
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

    /// Looks whether the name is free, unless the condition is sure to decide it:
    /// Amazon's S3 keeps it. Some others take it and replace the object all the
    /// same (Garage, older MinIO and SeaweedFS), and nothing in their answers
    /// tells that.
    async fn look_before_put(&self, key: &Key, condition: bool) -> Result<()> {
        let connection = self.connect.get().await;
        let connection =
            connection.map_err(|error| self.error(StoreOp::Put, key, Failure::from(error)))?;
        if condition && connection.amazon {
            return Ok(());
        }
        self.check_free(StoreOp::Put, key, condition).await
    }

    /// The name must be free, which not every store looks after: what was there
    /// before is found by looking, what comes between the look and the write by
    /// the condition.
    ///
    /// Who may only write cannot look, and is left to the condition, if there is
    /// one.
    pub(super) async fn check_free(&self, op: StoreOp, key: &Key, condition: bool) -> Result<()> {
        match self.head(op, key, LockCheck::Skip).await {
            Ok(_) => {
                let why = "an object of that name exists";
                Err(self.refuse(op, key, StoreErrorKind::AlreadyExists, why))
            }
            Err(error) => match error.kind {
                StoreErrorKind::NotFound => Ok(()),
                StoreErrorKind::PermissionDenied if condition => Ok(()),
                _ => Err(error),
            },
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
