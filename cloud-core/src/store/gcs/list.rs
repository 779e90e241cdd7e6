//! Listing, page by page.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use http::Method;
use serde_json::Value;

use super::error::Failure;
use super::get::{FIELDS, described};
use super::request::Call;
use super::{Depth, Inner, ListPage, Result, StoreError, StoreErrorKind, StoreOp};
use crate::key::{Key, Prefix};
use crate::store::wire::{Answered, Cause, Pages, pages};

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
        let inner = &self.inner;
        let failed = |failure| inner.error(StoreOp::List, &self.prefix, failure);
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
        let answer = inner.json(call).await.map_err(super::put::of_write);
        let answer = answer.map_err(failed)?;
        if !answer.is_object() {
            let why = "the answer is no listing";
            return Err(failed(Failure::new(StoreErrorKind::Connect, why)));
        }
        let token = answer.get("nextPageToken").and_then(Value::as_str);
        let token = token.filter(|token| !token.is_empty()).map(str::to_owned);
        Ok(Answered {
            page: page(&answer).map_err(failed)?,
            truncated: Some(token.is_some()),
            marker: token,
        })
    }

    fn error(&self, cause: Cause) -> StoreError {
        self.inner.error(StoreOp::List, &self.prefix, cause.into())
    }
}

/// The complaint about a name that cannot be one.
pub(super) fn odd(what: &str) -> Failure {
    let what = what.escape_default();
    let why = format!("the listing has a name that is none: `{what}`");
    Failure::new(StoreErrorKind::Corrupt, why)
}

pub(super) fn page(answer: &Value) -> Result<ListPage, Failure> {
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
