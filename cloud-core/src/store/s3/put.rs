//! Writing small objects: one request, all or nothing.

use std::io;

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::types::ServerSideEncryption;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

use super::adapt::{Adapting, Extras};
use super::body::{SignedAs, stream};
use super::checksum::{Checksum, Stored};
use super::connect::Connection;
use super::error::Failure;
use super::look::{Conditions, judged};
use super::{Inner, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::wire::{tagging, unquoted, user_metadata};
use crate::store::{ObjectVersion, Payload, PutMode};

impl Inner {
    pub(super) async fn put(
        &self,
        key: &Key,
        body: Payload,
        options: &PutOptions,
    ) -> Result<PutReceipt> {
        let conditional = options.mode != PutMode::Overwrite;
        let mut looked = None;
        let mut adapting = Adapting::new(
            self,
            Extras {
                checksums: !self.learned.without_checksums.is_set(),
                condition: conditional && !self.learned.without_conditions.is_set(),
            },
        );
        loop {
            let Extras {
                checksums,
                condition,
            } = adapting.with();
            if looked.is_none() || !condition {
                looked = self
                    .look_before(StoreOp::Put, key, &options.mode, condition)
                    .await?;
            }
            let sent = self
                .call(|connection| {
                    let header = checksums && !connection.when_required;
                    let sent = Checksum::of(&body, header).and_then(|checksum| {
                        let conditions = Conditions::of(&options.mode, condition);
                        let sent =
                            self.request(connection, key, &body, &checksum, options, conditions)?;
                        Ok((checksum, sent))
                    });
                    async move {
                        let (checksum, sent) = sent.map_err(SdkError::construction_failure)?;
                        Ok((checksum, sent.await?))
                    }
                })
                .await;
            let sent =
                sent.and_then(|(checksum, output)| tells(&output).map(|()| (checksum, output)));
            let (checksum, output) = match sent {
                Ok(sent) => sent,
                Err(failure) if body.has_changed() => {
                    let kind = StoreErrorKind::Invalid;
                    return Err(self.refuse(StoreOp::Put, key, kind, failure.text));
                }
                Err(failure) => {
                    if let Some(error) = body.unread() {
                        let why = format!("the file cannot be read: {error}");
                        return Err(self.refuse(StoreOp::Put, key, StoreErrorKind::Other, why));
                    }
                    let failure = judged(failure, &options.mode);
                    self.looked.put_off(key, looked, &failure);
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

    fn request(
        &self,
        connection: &Connection,
        key: &Key,
        body: &Payload,
        checksum: &Checksum,
        options: &PutOptions,
        conditions: Conditions,
    ) -> io::Result<
        impl Future<Output = Result<PutObjectOutput, SdkError<PutObjectError>>> + Send + use<>,
    > {
        let request = connection
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .body(stream(body))
            .set_tagging(options.tags.as_deref().map(tagging))
            .set_if_none_match(conditions.none)
            .set_if_match(conditions.same)
            .set_metadata(user_metadata(options))
            .set_checksum_crc32_c(checksum.as_crc32c().map(str::to_owned))
            .set_content_md5(checksum.as_md5().map(str::to_owned));
        let request = self.encryption.put(request).customize();
        let request = request.mutate_request(without_type);
        // TLS protects the body; a signature over it would only cost a pass.
        let request = if connection.secure {
            request.disable_payload_signing()
        } else if let Some(signed) = SignedAs::of(body)? {
            request.interceptor(signed)
        } else {
            request
        };
        Ok(request.send())
    }
}

/// Whether an answer is a store's: each names the version or the checksum of what it
/// has. A yes without both is somebody else's on the way, who has stored nothing.
fn tells(output: &PutObjectOutput) -> Result<(), Failure> {
    let told = [
        output.e_tag(),
        output.checksum_crc32_c(),
        output.checksum_crc32(),
        output.checksum_crc64_nvme(),
        output.checksum_sha1(),
        output.checksum_sha256(),
    ];
    if told.into_iter().flatten().any(|text| !text.is_empty()) {
        return Ok(());
    }
    let why = "the answer has neither an ETag nor a checksum, as a store's answer would";
    Err(Failure::new(StoreErrorKind::Connect, why))
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
