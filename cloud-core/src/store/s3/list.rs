//! Listing, page by page.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use futures_util::stream::BoxStream;

use super::error::Failure;
use super::get::time;
use super::whole::Whole;
use super::{Depth, Inner, ListPage, ObjectMeta, Result, StoreError, StoreErrorKind, StoreOp};
use crate::key::{Key, Prefix};
use crate::store::ObjectVersion;
use crate::store::wire::{Answered, Cause, Pages, pages, unquoted};

struct Listing {
    inner: Arc<Inner>,
    prefix: Prefix,
    depth: Depth,
}

pub(super) fn list(
    inner: &Arc<Inner>,
    prefix: &Prefix,
    depth: Depth,
) -> BoxStream<'static, Result<ListPage>> {
    pages(Listing {
        inner: Arc::clone(inner),
        prefix: prefix.clone(),
        depth,
    })
}

#[async_trait]
impl Pages for Listing {
    type Marker = String;
    type Page = ListPage;

    async fn ask(&self, token: Option<String>) -> Result<Answered<Self>> {
        let failed = |failure| self.inner.error(StoreOp::List, &self.prefix, failure);
        let sent = self.inner.call(|connection| {
            connection
                .client
                .list_objects_v2()
                .bucket(&self.inner.bucket)
                .prefix(self.prefix.as_str())
                .encoding_type(EncodingType::Url)
                .set_delimiter((self.depth == Depth::One).then(|| "/".to_owned()))
                .set_continuation_token(token.clone())
                .customize()
                .interceptor(Whole)
                .send()
        });
        let output = sent.await.map_err(failed)?;
        Ok(Answered {
            page: page(&output, &self.prefix).map_err(failed)?,
            truncated: output.is_truncated(),
            marker: told(output.next_continuation_token()),
        })
    }

    fn error(&self, cause: Cause) -> StoreError {
        self.inner.error(StoreOp::List, &self.prefix, cause.into())
    }
}

/// What an answer says in an element that stores also leave empty.
pub(super) fn told(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A name in an answer, which says of itself whether it encodes names. Not every
/// answer is right about that (Ceph 16 and gateways encode and do not say so, others
/// say so and do not): a name that begins with what was asked for is read well.
pub(super) fn name(text: &str, encoding: Option<&EncodingType>, prefix: &Prefix) -> Option<String> {
    let (plain, decoded) = (Some(text.to_owned()), decoded(text));
    let (likely, other) = if encoding == Some(&EncodingType::Url) {
        (decoded, plain)
    } else {
        (plain, decoded)
    };
    let fits = |name: &String| name.starts_with(prefix.as_str());
    if !likely.as_ref().is_some_and(fits) && other.as_ref().is_some_and(fits) {
        other
    } else {
        likely
    }
}

/// The complaint about a name that cannot be one.
pub(super) fn odd(text: &str) -> Failure {
    let text = text.escape_default();
    let why = format!("the listing has a name that is none: `{text}`");
    Failure::new(StoreErrorKind::Corrupt, why)
}

fn page(output: &ListObjectsV2Output, prefix: &Prefix) -> Result<ListPage, Failure> {
    let name = |text: &str| name(text, output.encoding_type(), prefix);
    let mut page = ListPage::default();
    for object in output.contents() {
        let text = object.key().unwrap_or_default();
        let key = name(text).and_then(|name| Key::new(name).ok());
        page.objects.push(ObjectMeta {
            key: key.ok_or_else(|| odd(text))?,
            size: object
                .size()
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| odd(text))?,
            modified: time(object.last_modified()),
            version: object
                .e_tag()
                .map(|etag| ObjectVersion(unquoted(etag).to_owned())),
            lock: None,
            fingerprint: None,
        });
    }
    for directory in output.common_prefixes() {
        let text = directory.prefix().unwrap_or_default();
        page.prefixes
            .push(Prefix::text(name(text).ok_or_else(|| odd(text))?));
    }
    Ok(page)
}

/// A name as `encoding-type=url` has it: `+` is a blank.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'%' => {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                &after[2..]
            }
            b'+' => {
                bytes.push(b' ');
                after
            }
            other => {
                bytes.push(other);
                after
            }
        };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_names_are_encoded_is_seen_by_what_was_asked_for() {
        let url = Some(&EncodingType::Url);
        let prefix = Prefix::text("a+b %2F/");
        let is = "a+b %2F/c";
        for (text, encoding) in [
            (is, None),
            (is, url),
            ("a%2Bb%20%252F/c", url),
            ("a%2Bb+%252F%2Fc", url),
            ("a%2Bb%20%252F/c", None),
        ] {
            let read = name(text, encoding, &prefix);
            assert_eq!(read.as_deref(), Some(is), "{text} {encoding:?}");
        }
        // Who knows no prefixes is read by its word.
        let read = |text, encoding| name(text, encoding, &prefix);
        assert_eq!(read("x%20", None).as_deref(), Some("x%20"));
        assert_eq!(read("x%20", url).as_deref(), Some("x "));
        assert_eq!(read("%zz", url), None);
    }

    #[test]
    fn names_are_decoded() {
        assert_eq!(decoded("a%2Bb+c%20%C3%BC/d").as_deref(), Some("a+b c ü/d"));
        for odd in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(decoded(odd), None, "{odd}");
        }
    }
}
