//! Listings: directories seen as a flat set of names.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;

use super::{LocalStore, file, meta_of};
use crate::key::{Key, Prefix};
use crate::store::{Depth, ListPage, Result, StoreOp, traffic};

/// Most entries of a page.
const PAGE: usize = 1000;

/// The pages of a listing of objects.
pub(super) fn pages(
    store: LocalStore,
    prefix: Prefix,
    depth: Depth,
) -> BoxStream<'static, Result<ListPage>> {
    on_a_thread(store, StoreOp::List, prefix, move |start, sender| {
        let mut lister = Lister {
            root: start.root,
            sender,
            page: ListPage::default(),
            depth,
        };
        lister.directory(&start.directory, &start.text, start.name)?;
        let _ = sender.blocking_send(lister.page);
        Ok(())
    })
}

/// Where a listing begins.
pub(super) struct Start<'a> {
    pub(super) root: &'a Path,
    pub(super) directory: PathBuf,
    /// What names in that directory begin with, up to the last `/`.
    pub(super) text: String,
    /// What follows it.
    pub(super) name: &'a str,
}

impl<'a> Start<'a> {
    /// `None` if nothing can begin with `prefix`.
    fn new(root: &'a Path, prefix: &'a str) -> io::Result<Option<Self>> {
        // The root must be there, whatever is asked for below it.
        root.read_dir()?;
        Ok(file::split(prefix).map(|(directory, name)| Self {
            root,
            directory: root.join(directory),
            text: prefix[..prefix.len() - name.len()].to_owned(),
            name,
        }))
    }
}

/// The pages that `list` sends, made on a thread that may block.
pub(super) fn on_a_thread<P: Send + 'static>(
    store: LocalStore,
    op: StoreOp,
    prefix: Prefix,
    list: impl FnOnce(&Start<'_>, &mpsc::Sender<P>) -> io::Result<()> + Send + 'static,
) -> BoxStream<'static, Result<P>> {
    stream::once(async move {
        traffic::request();
        let (sender, receiver) = mpsc::channel(2);
        let root = Arc::clone(&store.root);
        let text = prefix.clone();
        let worker = tokio::task::spawn_blocking(move || match Start::new(&root, text.as_str())? {
            Some(start) => list(&start, &sender),
            None => Ok(()),
        });
        let pages = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|page| (Ok(page), receiver))
        });
        // A listing that ends without a word would pass for a whole one.
        let fate = async move {
            let error = worker
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the worker ended early")))
                .err()?;
            Some(Err(store.error(op, prefix.as_str(), error)))
        };
        pages.chain(stream::once(fate).filter_map(std::future::ready))
    })
    .flatten()
    .boxed()
}

struct Lister<'a> {
    root: &'a Path,
    sender: &'a mpsc::Sender<ListPage>,
    page: ListPage,
    depth: Depth,
}

impl Lister<'_> {
    /// Lists what begins with `start` in one directory, whose names begin with
    /// `text`.
    fn directory(&mut self, path: &Path, text: &str, start: &str) -> io::Result<()> {
        let wanted = |name: &str| name.starts_with(start) && file::is_component(name);
        for (name, path, is_dir) in entries(self.root, path, wanted)? {
            if self.sender.is_closed() {
                return Ok(());
            }
            if !is_dir {
                self.object(&path, &format!("{text}{name}"))?;
            } else if self.depth == Depth::One {
                if holds_an_object(self.root, &path)? {
                    self.page
                        .prefixes
                        .push(Prefix::text(format!("{text}{name}/")));
                    self.turn();
                }
            } else {
                self.directory(&path, &format!("{text}{name}/"), "")?;
            }
        }
        Ok(())
    }

    fn object(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let meta = match path.metadata() {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if let (true, Ok(key)) = (meta.is_file(), Key::new(name)) {
            self.page.objects.push(meta_of(&key, &meta));
            self.turn();
        }
        Ok(())
    }

    fn turn(&mut self) {
        if self.page.objects.len() + self.page.prefixes.len() >= PAGE {
            let _ = self.sender.blocking_send(std::mem::take(&mut self.page));
        }
    }
}

/// The entries of a directory whose names are wanted, sorted, and whether each
/// is a directory. A directory that is not there has none, and links that lead
/// back to where they are are left out.
pub(super) fn entries(
    root: &Path,
    path: &Path,
    wanted: impl Fn(&str) -> bool,
) -> io::Result<Vec<(String, PathBuf, bool)>> {
    let found = match path.read_dir() {
        Err(error) if file::is_absence(&error) => return Ok(Vec::new()),
        found => found?,
    };
    let mut entries = Vec::new();
    for entry in found {
        let entry = entry?;
        let name = match entry.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                tracing::warn!(
                    "{name:?} in {} is left out: its name is not UTF-8",
                    path.display()
                );
                continue;
            }
        };
        if !wanted(&name) {
            continue;
        }
        let is_dir = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => match leads_back(root, path, &entry.path()) {
                Some(true) => continue,
                Some(false) => true,
                None => false,
            },
            Ok(kind) => kind.is_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        entries.push((name, entry.path(), is_dir));
    }
    entries.sort();
    Ok(entries)
}

/// Whether a link in `path` leads to `path` or a directory above it; `None` if
/// it does not lead to a directory at all.
fn leads_back(root: &Path, path: &Path, link: &Path) -> Option<bool> {
    let identity = |path: &Path| {
        let meta = path.metadata().ok().filter(Metadata::is_dir)?;
        Some((meta.dev(), meta.ino()))
    };
    let target = identity(link)?;
    let mut above = path.ancestors().take_while(|path| path.starts_with(root));
    Some(above.any(|path| identity(path) == Some(target)))
}

/// Whether there is a file anywhere below: an empty directory is nothing.
fn holds_an_object(root: &Path, path: &Path) -> io::Result<bool> {
    for (_, path, is_dir) in entries(root, path, file::is_component)? {
        if !is_dir || holds_an_object(root, &path)? {
            return Ok(true);
        }
    }
    Ok(false)
}
