//! Listing, page by page.

use std::collections::HashSet;
use std::sync::Arc;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::EncodingType;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::checksum::unquoted;
use super::error::Failure;
use super::get::time;
use super::{Depth, Inner, ListPage, ObjectMeta, Result, StoreErrorKind, StoreOp};
use crate::key::{Key, Prefix};
use crate::store::ObjectVersion;

struct Listing {
    inner: Arc<Inner>,
    prefix: Prefix,
    depth: Depth,
    next: Next,
    /// Tokens that were used: one that comes again leads in a circle.
    used: HashSet<String>,
}

enum Next {
    First,
    Token(String),
    End,
}

pub(super) fn list(
    inner: &Arc<Inner>,
    prefix: &Prefix,
    depth: Depth,
) -> BoxStream<'static, Result<ListPage>> {
    let listing = Listing {
        inner: Arc::clone(inner),
        prefix: prefix.clone(),
        depth,
        next: Next::First,
        used: HashSet::new(),
    };
    stream::unfold(listing, |mut listing| async {
        let page = listing.page().await?;
        Some((page, listing))
    })
    .boxed()
}

impl Listing {
    /// The next page. After an error the same one is asked for again.
    async fn page(&mut self) -> Option<Result<ListPage>> {
        let token = match &self.next {
            Next::First => None,
            Next::Token(token) => Some(token.clone()),
            Next::End => return None,
        };
        Some(match self.ask(token).await {
            Ok((page, next)) => {
                if let Next::Token(token) = &next {
                    self.used.insert(token.clone());
                }
                self.next = next;
                Ok(page)
            }
            Err(failure) => Err(self.inner.error(StoreOp::List, &self.prefix, failure)),
        })
    }

    async fn ask(&self, token: Option<String>) -> Result<(ListPage, Next), Failure> {
        let output = self
            .inner
            .call(|connection| {
                connection
                    .client
                    .list_objects_v2()
                    .bucket(&self.inner.bucket)
                    .prefix(self.prefix.as_str())
                    .encoding_type(EncodingType::Url)
                    .set_delimiter((self.depth == Depth::One).then(|| "/".to_owned()))
                    .set_continuation_token(token.clone())
                    .send()
            })
            .await?;
        let next = output.next_continuation_token();
        let next = next.filter(|token| !token.is_empty() && !self.used.contains(*token));
        let next = match (output.is_truncated(), next) {
            (Some(true), Some(next)) => Next::Token(next.to_owned()),
            // Going on would never end, stopping would be a short list.
            (Some(true), _) => {
                let why = "the answer says that there is more, but not how to get it";
                return Err(Failure::new(StoreErrorKind::Corrupt, why));
            }
            _ => Next::End,
        };
        Ok((page(&output)?, next))
    }
}

fn page(output: &ListObjectsV2Output) -> Result<ListPage, Failure> {
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let name = |text: &str| name_of(text, encoded);
    let odd = |text: &str| {
        let text = text.escape_default();
        let why = format!("the listing has a name that is none: `{text}`");
        Failure::new(StoreErrorKind::Corrupt, why)
    };
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
        });
    }
    for directory in output.common_prefixes() {
        let text = directory.prefix().unwrap_or_default();
        page.prefixes
            .push(Prefix::text(name(text).ok_or_else(|| odd(text))?));
    }
    Ok(page)
}

/// A name of a listing; `None` for one that is none.
pub(super) fn name_of(text: &str, encoded: bool) -> Option<String> {
    if encoded {
        decoded(text)
    } else {
        Some(text.to_owned())
    }
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
    fn names_are_decoded() {
        assert_eq!(decoded("a%2Bb+c%20%C3%BC/d").as_deref(), Some("a+b c ü/d"));
        for odd in ["%", "%4", "%zz", "%FF"] {
            assert_eq!(decoded(odd), None, "{odd}");
        }
    }
}
