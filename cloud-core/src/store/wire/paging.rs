//! Listings, page by page, and what was begun and never ended.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::SystemTime;

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::Cause;
use crate::key::Key;
use crate::store::{Result, StoreError, StoreErrorKind, UnfinishedUpload};

/// Requests for parts under way at the same time.
const LOOKS: usize = 8;

/// A question that is answered in pages.
#[async_trait]
pub(in crate::store) trait Pages: Send + Sync + 'static {
    /// What leads to the next page.
    type Marker: Clone + Eq + Hash + Send + Sync;
    /// What a page has.
    type Page: Send;

    /// The page after a marker, or the first one.
    async fn ask(&self, after: Option<Self::Marker>) -> Result<Answered<Self>>;

    /// The words for an answer that leads nowhere.
    fn error(&self, cause: Cause) -> StoreError;
}

/// A page as it was answered.
pub(in crate::store) struct Answered<P: Pages + ?Sized> {
    pub(in crate::store) page: P::Page,
    /// Whether there is more, as far as the answer tells.
    pub(in crate::store) truncated: Option<bool>,
    pub(in crate::store) marker: Option<P::Marker>,
}

/// All pages. After an error the same one is asked for again.
pub(in crate::store) fn pages<P: Pages>(asked: P) -> BoxStream<'static, Result<P::Page>> {
    stream::unfold((asked, Course::new()), |(asked, mut course)| async {
        let page = next(&asked, &mut course).await.transpose()?;
        Some((page, (asked, course)))
    })
    .boxed()
}

async fn next<P: Pages>(asked: &P, course: &mut Course<P::Marker>) -> Result<Option<P::Page>> {
    let marker = match &course.next {
        Next::First => None,
        Next::After(marker) => Some(marker.clone()),
        Next::End => return Ok(None),
    };
    let answered = asked.ask(marker).await?;
    let next = course.after(answered.truncated, answered.marker);
    course.go(next.map_err(|cause| asked.error(cause))?);
    Ok(Some(answered.page))
}

/// Which page of a listing comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Next<M> {
    First,
    After(M),
    End,
}

/// The way through a listing whose pages name the next one by a marker.
#[derive(Debug)]
pub(in crate::store) struct Course<M> {
    pub(in crate::store) next: Next<M>,
    /// Markers that were used: one that comes again leads in a circle.
    used: HashSet<M>,
}

impl<M: Clone + Eq + Hash> Course<M> {
    pub(in crate::store) fn new() -> Self {
        Self {
            next: Next::First,
            used: HashSet::new(),
        }
    }

    /// What comes after an answer.
    pub(in crate::store) fn after(
        &self,
        truncated: Option<bool>,
        marker: Option<M>,
    ) -> Result<Next<M>, Cause> {
        let marker = marker.filter(|marker| !self.used.contains(marker));
        match (truncated, marker) {
            // Whether there is more may be left out; whoever names the next page has one,
            // or an empty one.
            (Some(true) | None, Some(marker)) => Ok(Next::After(marker)),
            // Going on would never end, stopping would be a short list.
            (Some(true), None) => {
                let why = "the answer says that there is more, but not how to get it";
                Err((StoreErrorKind::Corrupt, why.into()))
            }
            _ => Ok(Next::End),
        }
    }

    /// Goes on to what `after` said.
    pub(in crate::store) fn go(&mut self, next: Next<M>) {
        if let Next::After(marker) = &next {
            self.used.insert(marker.clone());
        }
        self.next = next;
    }
}

/// An upload as a store lists it.
#[cfg(any(feature = "aws", feature = "gcp"))]
#[derive(Debug)]
pub(in crate::store) struct Begun {
    pub(in crate::store) key: Key,
    pub(in crate::store) id: String,
    pub(in crate::store) at: Option<SystemTime>,
}

/// The last upload of a page. Both are needed: many may have one key.
#[cfg(any(feature = "aws", feature = "gcp"))]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::store) struct UploadMarker {
    pub(in crate::store) key: String,
    pub(in crate::store) id: String,
}

/// Uploads that were begun and neither completed nor aborted, where the store
/// tells only when they were begun, and a base backup may have been writing to one
/// for days. So each is looked at: its newest part says whether somebody still works
/// on it.
#[cfg(any(feature = "aws", feature = "gcp"))]
#[async_trait]
pub(in crate::store) trait Uploads:
    Pages<Page = Vec<Begun>, Marker = UploadMarker>
{
    /// An upload with its last activity; `None` if it ended meanwhile.
    async fn look(&self, begun: &Begun) -> Result<Option<UnfinishedUpload>>;
}

/// All of them, page by page. After an error the same page is asked for again;
/// what was found out for it is kept, and not asked for again.
#[cfg(any(feature = "aws", feature = "gcp"))]
pub(in crate::store) fn uploads<U: Uploads>(
    asked: U,
) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
    let looking = Looking {
        asked,
        course: Course::new(),
        page: None,
    };
    stream::unfold(looking, |mut looking| async {
        let page = looking.page().await.transpose()?;
        Some((page, looking))
    })
    .boxed()
}

#[cfg(any(feature = "aws", feature = "gcp"))]
struct Looking<U> {
    asked: U,
    course: Course<UploadMarker>,
    /// The page that is being made: uploads that were not looked at yet, and those
    /// that were.
    page: Option<(Vec<Begun>, Vec<UnfinishedUpload>)>,
}

#[cfg(any(feature = "aws", feature = "gcp"))]
impl<U: Uploads> Looking<U> {
    async fn page(&mut self) -> Result<Option<Vec<UnfinishedUpload>>> {
        let (mut waiting, mut done) = match self.page.take() {
            Some(page) => page,
            None => match next(&self.asked, &mut self.course).await? {
                Some(begun) => (begun, Vec::new()),
                None => return Ok(None),
            },
        };
        while !waiting.is_empty() {
            let some = waiting.split_off(waiting.len().saturating_sub(LOOKS));
            let looks = join_all(some.iter().map(|one| self.asked.look(one))).await;
            let mut failed = None;
            for (begun, look) in some.into_iter().zip(looks) {
                match look {
                    Ok(upload) => done.extend(upload),
                    Err(error) => {
                        failed.get_or_insert(error);
                        waiting.push(begun);
                    }
                }
            }
            if let Some(error) = failed {
                self.page = Some((waiting, done));
                return Err(error);
            }
        }
        Ok(Some(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_comes_again_is_an_error_and_no_end() {
        let mut course = Course::new();
        for marker in ["a", "b"] {
            let next = course.after(Some(true), Some(marker)).unwrap();
            assert_eq!(next, Next::After(marker));
            course.go(next);
        }
        for marker in [Some("a"), None] {
            let (kind, _) = course.after(Some(true), marker).unwrap_err();
            assert_eq!(kind, StoreErrorKind::Corrupt);
        }
        assert_eq!(course.after(Some(false), Some("c")), Ok(Next::End));
        assert_eq!(course.after(None, Some("c")), Ok(Next::After("c")));
        // Leads in a circle, and nobody says that there is more.
        assert_eq!(course.after(None, Some("a")), Ok(Next::End));
        assert_eq!(course.after(None, None), Ok(Next::End));
    }
}
