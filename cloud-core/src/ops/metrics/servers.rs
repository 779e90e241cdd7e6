//! Which servers have their base backups or WAL in a place.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::catalogue::layout::{self, Layout};
use crate::ops::OpError;
use crate::store::{self, Depth, ObjectStore, StoreError};

/// Most servers of a place: for each there are requests and series.
const MOST_SERVERS: usize = 1000;

/// Most directories that are looked into to find them.
const MOST_DIRECTORIES: usize = 10_000;

/// Directories that are looked into at the same time.
const CONCURRENCY: usize = 8;

/// The names of the servers below the path of a URL: of the directories that have one for base
/// backups or for WAL. One request, and one for each directory that is not in `known`, which
/// had one before. Names with a slash in them are not found.
pub(super) async fn find(
    store: &dyn ObjectStore,
    path: &str,
    known: &BTreeSet<String>,
) -> Result<BTreeSet<String>, OpError> {
    let found = look(store, path, known).await;
    found.map_err(|error| OpError::of_store(&error))
}

async fn look(
    store: &dyn ObjectStore,
    path: &str,
    known: &BTreeSet<String>,
) -> Result<BTreeSet<String>, StoreError> {
    let place = layout::place(path);
    let page = store::list_all(store, &place, Depth::One).await?;
    if page.prefixes.len() > MOST_DIRECTORIES {
        return Err(store::endless(store, &place, MOST_DIRECTORIES));
    }
    let names = page.prefixes.iter();
    let names = names.filter_map(|directory| layout::server_of(&place, directory));
    let names: Vec<String> = names.map(str::to_owned).collect();
    let servers: BTreeSet<String> = stream::iter(names)
        .map(|name| async move {
            let is = known.contains(&name) || is_server(store, path, &name).await?;
            Ok::<_, StoreError>(is.then_some(name))
        })
        .buffer_unordered(CONCURRENCY)
        .try_filter_map(|name| std::future::ready(Ok(name)))
        .try_collect()
        .await?;
    if servers.len() > MOST_SERVERS {
        return Err(store::endless(store, &place, MOST_SERVERS));
    }
    Ok(servers)
}

async fn is_server(store: &dyn ObjectStore, path: &str, name: &str) -> Result<bool, StoreError> {
    let Ok(layout) = Layout::new(path, name) else {
        return Ok(false);
    };
    let page = store::list_all(store, layout.root(), Depth::One).await?;
    let own = [layout.base(), layout.wals()];
    Ok(page
        .prefixes
        .iter()
        .any(|directory| own.contains(directory)))
}
