//! Listings that go on after a page that failed.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::{Patience, Retry};
use crate::store::{ObjectStore, Result};

/// All pages of the listing that `open` begins. A page that failed is asked for
/// by going on. Where that is the end, the first can still be had by beginning
/// again; after later ones that would hand out what was handed out.
pub(super) fn pages<P: Send + 'static>(
    store: Retry,
    open: impl Fn(&dyn ObjectStore) -> BoxStream<'static, Result<P>> + Send + 'static,
) -> BoxStream<'static, Result<P>> {
    let state = Listing {
        patience: store.patience(),
        store,
        open,
        pages: None,
        begun: false,
    };
    stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|page| (page, state)))
    })
    .boxed()
}

struct Listing<P, F> {
    store: Retry,
    open: F,
    pages: Option<BoxStream<'static, Result<P>>>,
    /// Whether a page was handed out.
    begun: bool,
    patience: Patience,
}

impl<P, F> Listing<P, F>
where
    F: Fn(&dyn ObjectStore) -> BoxStream<'static, Result<P>>,
{
    async fn next(&mut self) -> Result<Option<P>> {
        let mut failed = false;
        loop {
            let pages = self
                .pages
                .get_or_insert_with(|| (self.open)(self.store.inner.as_ref()));
            match pages.next().await {
                Some(Ok(page)) => {
                    self.begun = true;
                    self.store.contact.meet();
                    self.patience = self.store.patience();
                    return Ok(Some(page));
                }
                None if failed && self.begun => return Err(self.patience.take_first()),
                None if failed => {
                    self.pages = None;
                    failed = false;
                }
                None => return Ok(None),
                Some(Err(error)) => {
                    self.patience.after(error).await?;
                    failed = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::key::Prefix;
    use crate::store::{
        Depth, ListPage, MemoryStore, RetryPolicy, StoreError, StoreErrorKind, StoreOp,
    };

    /// Its end would pass for the end of the listing.
    #[tokio::test(start_paused = true)]
    async fn a_listing_that_ends_with_an_error_is_not_a_whole_one() {
        let error = StoreError {
            kind: StoreErrorKind::Timeout,
            op: StoreOp::List,
            what: String::new(),
            location: String::new(),
            attempts: 1,
            source: "no answer".into(),
        };
        let policy = RetryPolicy::per_request(Duration::from_mins(1));
        let first = stream::iter([Ok(ListPage::default()), Err(error)]);
        let store = Retry::new(Arc::new(MemoryStore::new()), policy);
        let mut listing = Listing {
            patience: store.patience(),
            store,
            open: |inner: &dyn ObjectStore| inner.list(&Prefix::text(""), Depth::All),
            pages: Some(first.boxed()),
            begun: false,
        };
        assert!(listing.next().await.unwrap().is_some());
        let error = listing.next().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout);
    }
}
