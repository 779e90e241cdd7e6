//! Writing small objects: one request, all or nothing.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;

use super::checksum::{Checksum, unquoted};
use super::connect::Connection;
use super::error::Failure;
use super::{Inner, LockCheck, PutOptions, PutReceipt, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::{ObjectVersion, PutMode, Tag};

/// How stores name what they do not know of a checksum, in lower case.
const CHECKSUM_WORDS: [&str; 4] = ["checksum", "crc32c", "content-md5", "contentmd5"];

/// How stores name the condition.
const CONDITION_WORDS: [&str; 3] = ["if-none-match", "conditional", "precondition"];

impl Inner {
    /// What travels with a body. `Content-MD5` where the user, or the store,
    /// wants no checksum headers.
    pub(super) fn checksum(&self, connection: &Connection, body: &Bytes) -> Checksum {
        if connection.when_required || self.learned.without_checksums.is_set() {
            Checksum::md5(body)
        } else {
            Checksum::crc32c(body)
        }
    }

    /// Whether to try again because the store did not know the checksum header.
    pub(super) fn learns_checksums(&self, failure: &Failure) -> bool {
        let news = !self.learned.without_checksums.is_set() && failure.is_about(&CHECKSUM_WORDS);
        if news {
            let what = "does not take checksum headers: Content-MD5 is sent instead";
            self.learned
                .without_checksums
                .learn(&self.info.location, what);
        }
        news
    }

    /// Whether to try again because the store did not know `If-None-Match`.
    pub(super) fn learns_conditions(&self, failure: &Failure) -> bool {
        let news = !self.learned.without_conditions.is_set() && failure.is_about(&CONDITION_WORDS);
        if news {
            let what = "does not know If-None-Match: names are looked up before they are written";
            self.learned
                .without_conditions
                .learn(&self.info.location, what);
        }
        news
    }

    pub(super) async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutReceipt> {
        loop {
            let condition = self.condition(StoreOp::Put, key, options.mode).await?;
            let sent = self
                .call(|connection| {
                    let checksum = self.checksum(connection, &body);
                    let sent = self.request(connection, key, &body, &checksum, options, condition);
                    async move { Ok((checksum, sent.await?)) }
                })
                .await;
            let (checksum, output) = match sent {
                Ok(sent) => sent,
                Err(failure)
                    if (condition && self.learns_conditions(&failure))
                        || self.learns_checksums(&failure) =>
                {
                    continue;
                }
                Err(failure) => return Err(self.error(StoreOp::Put, key, failure)),
            };
            if let Some(why) = checksum.contradicted(output.checksum_crc32_c()) {
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
        // TLS protects the body; a signature over it would only cost a pass.
        let request = if connection.secure {
            request.disable_payload_signing()
        } else {
            request
        };
        request.send()
    }
}

/// What a write answered.
pub(super) fn receipt(etag: Option<&str>) -> PutReceipt {
    PutReceipt {
        version: etag.map(|etag| ObjectVersion(unquoted(etag).to_owned())),
    }
}

/// Tags as the header wants them.
pub(super) fn tagging(tags: &[Tag]) -> String {
    let pair = |tag: &Tag| format!("{}={}", url_encoded(&tag.key), url_encoded(&tag.value));
    tags.iter().map(pair).collect::<Vec<_>>().join("&")
}

fn url_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_encoded_as_in_a_query() {
        let tag = |key: &str, value: &str| Tag {
            key: key.into(),
            value: value.into(),
        };
        let tags = [tag("a b", "c+d=e&f"), tag("ü", ""), tag("x:y/z", "@.-_~")];
        assert_eq!(
            tagging(&tags),
            "a%20b=c%2Bd%3De%26f&%C3%BC=&x%3Ay%2Fz=%40.-_~"
        );
        assert_eq!(tagging(&[]), "");
    }
}
