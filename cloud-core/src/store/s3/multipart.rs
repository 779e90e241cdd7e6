//! Uploads in parts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::upload_part::{UploadPartError, UploadPartOutput};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;

use super::adapt::{Adapting, Extras};
use super::checksum::{Checksum, Stored};
use super::connect::Connection;
use super::error::Failure;
use super::look::{Conditions, judged};
use super::put::{is_plain, receipt, without_type};
use super::{
    Flag, Inner, MultipartUpload, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp,
};
use crate::key::Key;
use crate::store::wire::{tagging, user_metadata};
use crate::store::{PartNumber, PartReceipt, PutMode};

/// An upload that was begun.
pub(super) struct Upload {
    inner: Arc<Inner>,
    key: Key,
    id: String,
    mode: PutMode,
    /// Whether parts go without checksum headers: the upload was begun so, or
    /// one of them was refused.
    without_checksums: Flag,
    /// The `ETag` of a part was seen to be its MD5.
    etags_are_md5: Flag,
    over: AtomicBool,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("key", &self.key)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Upload {
    pub(super) async fn begin(inner: &Arc<Inner>, key: &Key, options: &PutOptions) -> Result<Self> {
        let failed = |failure| inner.error(StoreOp::BeginMultipart, key, failure);
        let mut adapting = Adapting::new(
            inner,
            Extras {
                checksums: !inner.learned.without_checksums.is_set(),
                condition: false,
            },
        );
        loop {
            let allowed = adapting.with().checksums;
            let sent = inner
                .call(|connection| {
                    let checksums = allowed && !connection.when_required;
                    let request = connection
                        .client
                        .create_multipart_upload()
                        .bucket(&inner.bucket)
                        .key(key.as_str())
                        .set_tagging(options.tags.as_deref().map(tagging))
                        .set_metadata(user_metadata(options))
                        .set_checksum_algorithm(checksums.then_some(ChecksumAlgorithm::Crc32C));
                    let sent = inner.encryption.begin(request).send();
                    async move { Ok((checksums, sent.await?)) }
                })
                .await;
            let (checksums, output) = match sent {
                Ok(sent) => sent,
                Err(failure) => {
                    adapting.refused(failure).map_err(failed)?;
                    continue;
                }
            };
            adapting.taken();
            let id = output.upload_id().unwrap_or_default();
            if id.is_empty() {
                let why = "the answer has no upload id";
                return Err(failed(Failure::new(StoreErrorKind::Corrupt, why)));
            }
            let without_checksums = Flag::default();
            if !checksums {
                without_checksums.set();
            }
            return Ok(Self {
                inner: Arc::clone(inner),
                key: key.clone(),
                id: id.to_owned(),
                mode: options.mode.clone(),
                without_checksums,
                etags_are_md5: Flag::default(),
                over: AtomicBool::new(false),
            });
        }
    }

    /// Nothing can be done with an upload that was completed or aborted.
    fn check_open(&self, op: StoreOp) -> Result<()> {
        if self.over.load(Ordering::Relaxed) {
            let why = "the upload is over";
            return Err(self
                .inner
                .refuse(op, &self.key, StoreErrorKind::NotFound, why));
        }
        Ok(())
    }

    fn request(
        &self,
        connection: &Connection,
        number: i32,
        body: &Bytes,
        checksum: &Checksum,
    ) -> impl Future<Output = Result<UploadPartOutput, SdkError<UploadPartError>>> + Send + use<>
    {
        let request = connection
            .client
            .upload_part()
            .bucket(&self.inner.bucket)
            .key(self.key.as_str())
            .upload_id(&self.id)
            .part_number(number)
            .body(ByteStream::from(body.clone()))
            .set_checksum_crc32_c(checksum.as_crc32c().map(str::to_owned))
            .set_content_md5(checksum.as_md5().map(str::to_owned));
        let request = self.inner.encryption.part(request).customize();
        let request = request.mutate_request(without_type);
        let request = if connection.secure {
            request.disable_payload_signing()
        } else {
            request
        };
        request.send()
    }

    fn list(parts: &[PartReceipt]) -> CompletedMultipartUpload {
        let part = |part: &PartReceipt| {
            let (etag, checksum) = split(&part.token);
            CompletedPart::builder()
                .part_number(i32::try_from(part.number.get()).unwrap_or(i32::MAX))
                .e_tag(etag)
                .set_checksum_crc32_c(checksum.map(str::to_owned))
                .build()
        };
        CompletedMultipartUpload::builder()
            .set_parts(Some(parts.iter().map(part).collect()))
            .build()
    }
}

impl Inner {
    /// Frees the parts of an upload; one that is gone has none.
    pub(super) async fn abort(&self, key: &Key, id: &str) -> Result<()> {
        let sent = self
            .call(|connection| {
                connection
                    .client
                    .abort_multipart_upload()
                    .bucket(&self.bucket)
                    .key(key.as_str())
                    .upload_id(id)
                    .send()
            })
            .await;
        match sent {
            Err(failure) if failure.kind != StoreErrorKind::NotFound => {
                Err(self.error(StoreOp::Abort, key, failure))
            }
            _ => Ok(()),
        }
    }
}

/// What a store says of a part, and what to do about it where it takes fewer parts
/// than any store that is known.
fn with_hint(mut failure: Failure) -> Failure {
    if failure.is_about_part_numbers() {
        failure.text += "; a smaller --max-archive-size needs fewer parts";
    }
    failure
}

/// `ETag` and checksum of a part, in one token.
fn token(etag: &str, checksum: Option<&str>) -> String {
    match checksum {
        Some(checksum) => format!("{etag} {checksum}"),
        None => etag.to_owned(),
    }
}

fn split(token: &str) -> (&str, Option<&str>) {
    match token.split_once(' ') {
        Some((etag, checksum)) => (etag, Some(checksum)),
        None => (token, None),
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        self.check_open(StoreOp::PutPart)?;
        let what = format!("{} (part {})", self.key, number.get());
        let failed = |failure| self.inner.error(StoreOp::PutPart, &what, failure);
        let invalid = |why: &str| failed(Failure::new(StoreErrorKind::Invalid, why));
        let place = i32::try_from(number.get()).map_err(|_| invalid("there is no such part"))?;
        let mut adapting = Adapting::new(
            &self.inner,
            Extras {
                checksums: !self.without_checksums.is_set(),
                condition: false,
            },
        );
        let (checksum, output) = loop {
            let checksum = Checksum::of_bytes(&body, adapting.with().checksums);
            let sent = self
                .inner
                .call(|connection| self.request(connection, place, &body, &checksum))
                .await;
            match sent {
                Ok(output) => break (checksum, output),
                Err(failure) => adapting
                    .refused(failure)
                    .map_err(|failure| failed(with_hint(failure)))?,
            }
        };
        if !adapting.taken().checksums {
            self.without_checksums.set();
        }
        let stored = Stored {
            crc32c: output.checksum_crc32_c(),
            etag: output.e_tag().filter(|_| {
                is_plain(
                    output.server_side_encryption(),
                    output.sse_customer_algorithm(),
                )
            }),
        };
        if let Some(why) = checksum.contradicted(&stored, &self.etags_are_md5) {
            return Err(failed(Failure::new(StoreErrorKind::Corrupt, why)));
        }
        let etag = output.e_tag().unwrap_or_default();
        if etag.is_empty() {
            let why = "the answer has no ETag";
            return Err(failed(Failure::new(StoreErrorKind::Corrupt, why)));
        }
        // Only a store that keeps checksums wants them again at the end.
        let kept = output.checksum_crc32_c();
        Ok(PartReceipt {
            number,
            size: body.len() as u64,
            token: token(etag, kept),
        })
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        self.check_open(StoreOp::Complete)?;
        let failed = |failure| self.inner.error(StoreOp::Complete, &self.key, failure);
        if parts.is_empty() {
            let why = "an upload needs at least one part";
            return Err(failed(Failure::new(StoreErrorKind::Invalid, why)));
        }
        let list = Self::list(parts);
        let conditional = self.mode != PutMode::Overwrite;
        let mut adapting = Adapting::new(
            &self.inner,
            Extras {
                checksums: false,
                condition: conditional && !self.inner.learned.without_conditions.is_set(),
            },
        );
        loop {
            let condition = adapting.with().condition;
            let looked = self
                .inner
                .look_before(StoreOp::Complete, &self.key, &self.mode, condition)
                .await?;
            let sent = self
                .inner
                .call(|connection| {
                    let conditions = Conditions::of(&self.mode, condition);
                    connection
                        .client
                        .complete_multipart_upload()
                        .bucket(&self.inner.bucket)
                        .key(self.key.as_str())
                        .upload_id(&self.id)
                        .multipart_upload(list.clone())
                        .set_if_none_match(conditions.none)
                        .set_if_match(conditions.same)
                        .send()
                })
                .await;
            match sent {
                Ok(output) => {
                    adapting.taken();
                    self.over.store(true, Ordering::Relaxed);
                    return Ok(receipt(output.e_tag()));
                }
                Err(failure) => {
                    let failure = judged(failure, &self.mode);
                    self.inner.looked.put_off(&self.key, looked, &failure);
                    adapting.refused(failure).map_err(failed)?;
                }
            }
        }
    }

    async fn abort(&self) -> Result<()> {
        if self.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.inner.abort(&self.key, &self.id).await?;
        self.over.store(true, Ordering::Relaxed);
        Ok(())
    }
}
