//! Listings that go on after a page that failed.

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::{Patience, Retry};
use crate::key::Prefix;
use crate::store::{Depth, ListPage, Result};

/// All pages. The first can be asked for by beginning again, later ones only of
/// the same listing: to begin again would hand out what was handed out.
pub(super) fn pages(
    store: Retry,
    prefix: Prefix,
    depth: Depth,
) -> BoxStream<'static, Result<ListPage>> {
    let state = Listing {
        patience: store.patience(),
        store,
        prefix,
        depth,
        pages: None,
        begun: false,
    };
    stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|page| (page, state)))
    })
    .boxed()
}

struct Listing {
    store: Retry,
    prefix: Prefix,
    depth: Depth,
    pages: Option<BoxStream<'static, Result<ListPage>>>,
    /// Whether a page was handed out.
    begun: bool,
    patience: Patience,
}

impl Listing {
    async fn next(&mut self) -> Result<Option<ListPage>> {
        let mut failed = false;
        loop {
            let pages = self
                .pages
                .get_or_insert_with(|| self.store.inner.list(&self.prefix, self.depth));
            match pages.next().await {
                Some(Ok(page)) => {
                    self.begun = true;
                    self.store.contact.meet();
                    self.patience = self.store.patience();
                    return Ok(Some(page));
                }
                // The page that failed cannot be asked for again.
                None if failed => return Err(self.patience.take_first()),
                None => return Ok(None),
                Some(Err(error)) => {
                    self.patience.after(error).await?;
                    if self.begun {
                        failed = true;
                    } else {
                        self.pages = None;
                    }
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
    use crate::store::{MemoryStore, RetryPolicy, StoreError, StoreErrorKind, StoreOp};

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
        let policy = RetryPolicy {
            total: Duration::from_mins(1),
        };
        let first = stream::iter([Ok(ListPage::default()), Err(error)]);
        let store = Retry::new(Arc::new(MemoryStore::new()), policy);
        let mut listing = Listing {
            patience: store.patience(),
            store,
            prefix: Prefix::text(""),
            depth: Depth::All,
            pages: Some(first.boxed()),
            begun: false,
        };
        assert!(listing.next().await.unwrap().is_some());
        let error = listing.next().await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Timeout);
    }
}
