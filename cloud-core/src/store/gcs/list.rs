//! Listing, page by page.

use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use http::Method;
use serde_json::Value;

use super::error::Failure;
use super::get::{FIELDS, described};
use super::request::Call;
use super::{Depth, Inner, ListPage, Result, StoreErrorKind, StoreOp};
use crate::key::{Key, Prefix};
use crate::store::wire::{Course, Next};

struct Listing {
    inner: Arc<Inner>,
    prefix: Prefix,
    depth: Depth,
    course: Course<String>,
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
        course: Course::new(),
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
        let token = match &self.course.next {
            Next::First => None,
            Next::After(token) => Some(token.clone()),
            Next::End => return None,
        };
        Some(match self.ask(token).await {
            Ok((page, next)) => {
                self.course.go(next);
                Ok(page)
            }
            Err(failure) => Err(self.inner.error(StoreOp::List, &self.prefix, failure)),
        })
    }

    async fn ask(&self, token: Option<String>) -> Result<(ListPage, Next<String>), Failure> {
        let inner = &self.inner;
        let fields = format!("items({FIELDS}),prefixes,nextPageToken");
        let mut call = Call::new(Method::GET, format!("{}/o", inner.bucket_path()))
            .query("fields", fields)
            .query("maxResults", "1000");
        if !self.prefix.as_str().is_empty() {
            call = call.query("prefix", self.prefix.as_str());
        }
        if self.depth == Depth::One {
            call = call.query("delimiter", "/");
        }
        if let Some(token) = token {
            call = call.query("pageToken", token);
        }
        let answer = inner.json(call).await.map_err(super::put::of_write)?;
        if !answer.is_object() {
            let why = "the answer is no listing";
            return Err(Failure::new(StoreErrorKind::Connect, why));
        }
        let token = answer.get("nextPageToken").and_then(Value::as_str);
        let token = token.filter(|token| !token.is_empty()).map(str::to_owned);
        let next = self.course.after(Some(token.is_some()), token)?;
        Ok((page(&answer)?, next))
    }
}

/// The complaint about a name that cannot be one.
pub(super) fn odd(what: &str) -> Failure {
    let what = what.escape_default();
    let why = format!("the listing has a name that is none: `{what}`");
    Failure::new(StoreErrorKind::Corrupt, why)
}

fn page(answer: &Value) -> Result<ListPage, Failure> {
    let all = |name: &str| {
        let all = answer.get(name).and_then(Value::as_array);
        all.into_iter().flatten()
    };
    let mut page = ListPage::default();
    for object in all("items") {
        let name = object
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let key = Key::new(name).map_err(|_| odd(name))?;
        page.objects
            .push(described(object, key).ok_or_else(|| odd(name))?);
    }
    for directory in all("prefixes") {
        let text = directory
            .as_str()
            .ok_or_else(|| odd(&directory.to_string()))?;
        page.prefixes.push(Prefix::text(text));
    }
    Ok(page)
}
