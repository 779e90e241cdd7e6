//! What stores that speak HTTP have in common: ranges of objects, the way
//! through the pages of a listing, texts of answers, and what was learned.

mod complaint;
#[cfg(any(feature = "aws", feature = "azure"))]
mod md5;
mod paging;
mod request_id;
#[cfg(any(feature = "aws", feature = "gcp"))]
pub(crate) mod xml;

#[cfg(any(feature = "aws", feature = "azure"))]
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use super::{Download, ObjectMeta, ReadRange, Result, StoreError, StoreErrorKind};
#[cfg(any(feature = "aws", feature = "azure"))]
use super::{FINGERPRINT, PutOptions, Tag};

#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) use self::md5::Md5Judge;

pub(super) use self::complaint::{complaint, kind_of_status};
pub(super) use self::paging::{Answered, Pages, pages};
#[cfg(any(feature = "aws", feature = "gcp"))]
pub(super) use self::paging::{Begun, Course, Next, UploadMarker, Uploads, uploads};
pub(super) use self::request_id::request_id;

/// Why something failed, before it has the words for what was being done.
pub(super) type Cause = (StoreErrorKind, String);

/// What a store turned out to be like, learned once per run.
#[derive(Debug, Default)]
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    #[cfg(any(feature = "aws", feature = "azure"))]
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Sets the flag; says `what` the first time.
    pub(super) fn learn(&self, location: &str, what: &str) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::info!("{location} {what}");
        }
    }
}

/// A text in one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text of an element of XML, as it stands there.
#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) fn element<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text)
}

/// An `ETag` without its quotes, and without the mark that proxies set who
/// compress what they pass on.
#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) fn unquoted(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Tags as headers want them.
#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) fn tagging(tags: &[Tag]) -> String {
    let pair = |tag: &Tag| format!("{}={}", url_encoded(&tag.key), url_encoded(&tag.value));
    tags.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// What an object's user metadata holds.
#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) fn user_metadata(options: &PutOptions) -> Option<HashMap<String, String>> {
    let fingerprint = options.fingerprint.clone()?;
    Some(HashMap::from([(FINGERPRINT.to_owned(), fingerprint)]))
}

/// The fingerprint in an object's user metadata, whose names some stores write in
/// capitals.
#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) fn fingerprint(metadata: &HashMap<String, String>) -> Option<String> {
    let mut all = metadata.iter();
    let found = all.find(|(name, _)| name.eq_ignore_ascii_case(FINGERPRINT));
    found.map(|(_, value)| value.clone())
}

/// A text as a component of a path or a query, wholly encoded.
pub(crate) fn url_encoded(text: &str) -> String {
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

/// The `Range` header of a request; none for a whole object. `range` is not
/// empty.
pub(super) fn range_header(range: &ReadRange) -> Option<String> {
    match (range.start, range.end) {
        (0, None) => None,
        (start, None) => Some(format!("bytes={start}-")),
        (start, Some(end)) => Some(format!("bytes={start}-{}", end - 1)),
    }
}

/// Which bytes an answer has, of an object of which size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bytes: Range<u64>,
    pub(super) size: u64,
}

impl Place {
    /// Reads it from the headers of an answer, which must be to what was asked.
    pub(super) fn of(
        length: Option<u64>,
        content_range: Option<&str>,
        asked: &ReadRange,
    ) -> Result<Self, Cause> {
        let odd = |why: String| (StoreErrorKind::Corrupt, why);
        let length = length.ok_or_else(|| odd("the answer does not tell its length".into()))?;
        let place = match content_range {
            None => Self {
                bytes: 0..length,
                size: length,
            },
            Some(text) => {
                in_words(text).ok_or_else(|| odd(format!("Content-Range `{text}` is no range")))?
            }
        };
        if let Some(end) = asked.end.filter(|end| *end > place.size) {
            let size = place.size;
            let why = format!("byte {end} is behind the end ({size} bytes)");
            return Err((StoreErrorKind::Invalid, why));
        }
        let wanted = asked.start..asked.end.unwrap_or(place.size);
        if place.bytes != wanted || length != wanted.end - wanted.start {
            return Err(odd(format!(
                "bytes {} to {} were asked for, {length} bytes from {} on are answered",
                wanted.start, wanted.end, place.bytes.start
            )));
        }
        Ok(place)
    }
}

/// `bytes 5-9/100`
fn in_words(text: &str) -> Option<Place> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok();
    Some(Place {
        bytes: number(first)?..number(last)?.checked_add(1)?,
        size: number(size)?,
    })
}

/// What is said of a read whose version is not there any more.
pub(super) fn replaced() -> Cause {
    let why = "the object was replaced while it was read";
    (StoreErrorKind::Corrupt, why.into())
}

/// The download of no bytes at all of an object, which no range can ask for.
pub(super) fn no_bytes(meta: ObjectMeta, asked: &ReadRange) -> Result<Download, Cause> {
    if asked.version.is_some() && asked.version != meta.version {
        return Err(replaced());
    }
    if asked.start > meta.size || asked.end.is_some_and(|end| end != asked.start) {
        let why = format!("the range begins behind the end ({} bytes)", meta.size);
        return Err((StoreErrorKind::Invalid, why));
    }
    Ok(Download {
        meta,
        range: asked.start..asked.start,
        body: stream::empty().boxed(),
    })
}

/// Sees the bytes of an answer go by, and says at their end whether they are what
/// was stored.
pub(super) trait Judge: Send {
    /// The next bytes.
    fn piece(&mut self, bytes: &[u8]);

    /// All bytes came: why they are not what was stored.
    fn verdict(self: Box<Self>) -> Option<String>;
}

/// The bytes of an answer, which must be exactly `left`, and those that `judge`
/// wants; `fail` has the words for the error that ends them otherwise.
pub(super) fn exactly<S, F>(
    body: S,
    left: u64,
    judge: Option<Box<dyn Judge>>,
    fail: F,
) -> BoxStream<'static, Result<Bytes>>
where
    S: Stream<Item = Result<Bytes, Cause>> + Send + Unpin + 'static,
    F: Fn(StoreErrorKind, String) -> StoreError + Send + 'static,
{
    struct Reading<S, F> {
        body: S,
        fail: F,
        left: u64,
        judge: Option<Box<dyn Judge>>,
        over: bool,
    }
    impl<S, F> Reading<S, F>
    where
        S: Stream<Item = Result<Bytes, Cause>> + Unpin,
        F: Fn(StoreErrorKind, String) -> StoreError,
    {
        async fn next(&mut self) -> Option<Result<Bytes>> {
            if self.over {
                return None;
            }
            let (kind, why) = match self.body.next().await {
                Some(Ok(piece)) if piece.len() as u64 <= self.left => {
                    self.left -= piece.len() as u64;
                    if let Some(judge) = &mut self.judge {
                        judge.piece(&piece);
                    }
                    return Some(Ok(piece));
                }
                Some(Ok(_)) => (
                    StoreErrorKind::Corrupt,
                    "it delivered too many bytes".into(),
                ),
                None if self.left == 0 => {
                    self.over = true;
                    let why = self.judge.take()?.verdict()?;
                    (StoreErrorKind::Corrupt, why)
                }
                None => (
                    StoreErrorKind::Connect,
                    format!("the connection ended {} bytes early", self.left),
                ),
                Some(Err(cause)) => cause,
            };
            self.over = true;
            Some(Err((self.fail)(kind, why)))
        }
    }
    let reading = Reading {
        body,
        fail,
        left,
        judge,
        over: false,
    };
    stream::unfold(reading, |mut reading| async {
        Some((reading.next().await?, reading))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_to_the_letter() {
        let range = |text| in_words(text).map(|place| (place.bytes, place.size));
        assert_eq!(range("bytes 5-9/100"), Some((5..10, 100)));
        for odd in [
            "",
            "bytes 5-9",
            "bytes */100",
            "bytes 5-9/*",
            "items 5-9/100",
        ] {
            assert_eq!(range(odd), None, "{odd}");
        }
    }

    #[cfg(any(feature = "aws", feature = "azure"))]
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
