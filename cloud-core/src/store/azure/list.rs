//! Listing, page by page: a request of our own, since the crate lists without a
//! delimiter only.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::http::Method;
use azure_core::xml;
use futures_util::stream::BoxStream;
use serde::Deserialize;

use super::error::Failure;
use super::get::written_time;
use super::{
    Depth, Inner, ListPage, ObjectMeta, Result, StoreError, StoreErrorKind, StoreOp, request,
};
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

    async fn ask(&self, marker: Option<String>) -> Result<Answered<Self>> {
        let inner = &self.inner;
        let asked = inner.list_page(&self.prefix, self.depth, marker.as_deref(), None);
        let failed = |failure| inner.error(StoreOp::List, &self.prefix, failure);
        let (page, marker) = asked.await.map_err(failed)?;
        Ok(Answered {
            page,
            truncated: Some(marker.is_some()),
            marker,
        })
    }

    fn error(&self, cause: Cause) -> StoreError {
        self.inner.error(StoreOp::List, &self.prefix, cause.into())
    }
}

impl Inner {
    /// A page, of `most` names if that is given, and the marker of the next one.
    pub(super) async fn list_page(
        &self,
        prefix: &Prefix,
        depth: Depth,
        marker: Option<&str>,
        most: Option<u32>,
    ) -> Result<(ListPage, Option<String>), Failure> {
        let connection = self.connection()?;
        let mut asked = vec![("restype", "container"), ("comp", "list")];
        // An empty value would be signed otherwise than it is read.
        if !prefix.as_str().is_empty() {
            asked.push(("prefix", prefix.as_str()));
        }
        if depth == Depth::One {
            asked.push(("delimiter", "/"));
        }
        asked.extend(marker.map(|marker| ("marker", marker)));
        let most = most.map(|most| most.to_string());
        asked.extend(most.as_deref().map(|most| ("maxresults", most)));
        let mut url = connection.container.url().clone();
        url.query_pairs_mut().extend_pairs(asked);
        // A blank as the service's reference writes it; a plus has its number.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
        let mut request = request(url, Method::Get);
        let answer = connection.send(&mut request).await?;
        read(answer.body().as_ref())
    }
}

/// An answer, as it is written.
#[derive(Debug, Deserialize)]
struct Written {
    #[serde(rename = "Blobs")]
    blobs: Blobs,
    #[serde(rename = "NextMarker", default)]
    next: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Blobs {
    /// In one list, because they may be mixed.
    #[serde(rename = "$value", default)]
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
enum Entry {
    Blob(Blob),
    BlobPrefix(Directory),
    /// What a later version of the service may add.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Deserialize)]
struct Blob {
    #[serde(rename = "Name")]
    name: Name,
    #[serde(rename = "Properties")]
    properties: Properties,
}

#[derive(Debug, Deserialize)]
struct Directory {
    #[serde(rename = "Name")]
    name: Name,
}

#[derive(Debug, Deserialize)]
struct Name {
    /// Set where the name has characters that XML cannot write.
    #[serde(rename = "@Encoded", default)]
    encoded: bool,
    #[serde(rename = "$text", default)]
    text: String,
}

#[derive(Debug, Deserialize)]
struct Properties {
    #[serde(rename = "Content-Length")]
    length: Option<u64>,
    #[serde(rename = "Last-Modified")]
    modified: Option<String>,
    #[serde(rename = "Etag")]
    etag: Option<String>,
    /// `directory` in accounts with a hierarchical namespace.
    #[serde(rename = "ResourceType")]
    resource: Option<String>,
}

pub(super) fn read(body: &[u8]) -> Result<(ListPage, Option<String>), Failure> {
    let written: Written = xml::from_xml(body)?;
    let mut page = ListPage::default();
    for entry in written.blobs.entries {
        match entry {
            // These accounts list directories as if they were objects.
            Entry::Blob(blob) if blob.properties.resource.as_deref() == Some("directory") => {}
            Entry::Blob(blob) => page.objects.push(object(&blob)?),
            Entry::BlobPrefix(directory) => {
                let name = directory.name.decoded();
                page.prefixes
                    .push(Prefix::text(name.ok_or_else(|| odd(&directory.name.text))?));
            }
            Entry::Unknown => {}
        }
    }
    Ok((page, written.next.filter(|marker| !marker.is_empty())))
}

fn object(blob: &Blob) -> Result<ObjectMeta, Failure> {
    let odd = || odd(&blob.name.text);
    let key = blob.name.decoded().and_then(|name| Key::new(name).ok());
    let properties = &blob.properties;
    let version = |etag: &String| ObjectVersion(unquoted(etag).to_owned());
    Ok(ObjectMeta {
        key: key.ok_or_else(odd)?,
        size: properties.length.ok_or_else(odd)?,
        modified: properties.modified.as_deref().and_then(written_time),
        version: properties.etag.as_ref().map(version),
        lock: None,
        fingerprint: None,
    })
}

/// The complaint about a name that cannot be one.
fn odd(text: &str) -> Failure {
    let text = text.escape_default();
    let why = format!("the listing has a name that is none: `{text}`");
    Failure::new(StoreErrorKind::Corrupt, why)
}

impl Name {
    fn decoded(&self) -> Option<String> {
        if !self.encoded {
            return Some(self.text.clone());
        }
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = if byte == b'%' {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                &after[2..]
            } else {
                bytes.push(byte);
                after
            };
        }
        String::from_utf8(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str) -> String {
        format!(
            "<Blob><Name>{name}</Name><Properties><Creation-Time>x</Creation-Time>\
             <Last-Modified>Fri, 21 Nov 2025 10:00:00 GMT</Last-Modified>\
             <Etag>0x8D</Etag><Content-Length>7</Content-Length>\
             <Content-Type>a</Content-Type></Properties><OrMetadata /></Blob>"
        )
    }

    fn answer(entries: &str, marker: &str) -> Result<(ListPage, Option<String>), Failure> {
        let text = format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<EnumerationResults \
             ServiceEndpoint=\"x\" ContainerName=\"c\"><Prefix>p</Prefix><Blobs>{entries}</Blobs>\
             {marker}</EnumerationResults>"
        );
        read(text.as_bytes())
    }

    #[test]
    fn objects_and_directories_may_be_mixed() {
        let directory = "<BlobPrefix><Name>p/d/</Name></BlobPrefix>";
        let folder = blob("p/f").replace(
            "</Properties>",
            "<ResourceType>directory</ResourceType></Properties>",
        );
        let entries = [blob("p/a"), directory.into(), blob("p/b"), folder].concat();
        let (page, next) = answer(&entries, "<NextMarker>2!92!x</NextMarker>").unwrap();
        let names: Vec<&str> = page.objects.iter().map(|it| it.key.as_str()).collect();
        assert_eq!(names, ["p/a", "p/b"]);
        assert_eq!(page.prefixes, [Prefix::text("p/d/")]);
        assert_eq!(next.as_deref(), Some("2!92!x"));
        let first = &page.objects[0];
        assert_eq!(first.size, 7);
        assert_eq!(first.version, Some(ObjectVersion("0x8D".into())));
        let since = first
            .modified
            .unwrap()
            .duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(since.unwrap().as_secs(), 1_763_719_200);
    }

    #[test]
    fn names_come_as_they_are() {
        for (written, name) in [
            ("a &amp; b &lt;x&gt; ü", "a & b <x> ü"),
            (" before and after ", " before and after "),
            ("a%20b+c", "a%20b+c"),
        ] {
            let (page, _) = answer(&blob(written), "").unwrap();
            assert_eq!(page.objects[0].key.as_str(), name);
        }
        let encoded = blob("a%EF%BF%BE+b").replace("<Name>", "<Name Encoded=\"true\">");
        let (page, _) = answer(&encoded, "").unwrap();
        assert_eq!(page.objects[0].key.as_str(), "a\u{fffe}+b");
        let odd = blob("a%zz").replace("<Name>", "<Name Encoded=\"true\">");
        assert_eq!(answer(&odd, "").unwrap_err().kind, StoreErrorKind::Corrupt);
    }

    #[test]
    fn an_answer_may_be_empty_but_not_cut() {
        for marker in ["", "<NextMarker />", "<NextMarker></NextMarker>"] {
            assert_eq!(answer("", marker).unwrap(), (ListPage::default(), None));
        }
        let cut = b"<EnumerationResults><Blobs><Blob><Name>a</Name>";
        assert_eq!(read(cut).unwrap_err().kind, StoreErrorKind::Connect);
        let other = b"<html><body>Sign in</body></html>";
        assert_eq!(read(other).unwrap_err().kind, StoreErrorKind::Connect);
    }

    use std::time::SystemTime;
}
