//! Listings: directories seen as a flat set of names.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;

use super::{LocalStore, file, meta_of};
use crate::key::{Key, Prefix};
use crate::store::{Depth, ListPage, Result, StoreOp};

/// Most entries of a page.
const PAGE: usize = 1000;

/// The pages of a listing, made on a thread that may block.
pub(super) fn pages(
    store: LocalStore,
    prefix: Prefix,
    depth: Depth,
) -> BoxStream<'static, Result<ListPage>> {
    stream::once(async move {
        let (sender, receiver) = mpsc::channel(2);
        let lister = store.clone();
        let text = prefix.clone();
        let worker = tokio::task::spawn_blocking(move || {
            let mut lister = Lister {
                root: &lister.root,
                sender: &sender,
                page: ListPage::default(),
                depth,
            };
            lister.run(text.as_str())?;
            let _ = sender.blocking_send(lister.page);
            Ok(())
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
            Some(Err(store.error(StoreOp::List, prefix.as_str(), error)))
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
    fn run(&mut self, prefix: &str) -> io::Result<()> {
        match beginning(self.root, prefix)? {
            Some((path, text, start)) => self.directory(&path, &text, start),
            None => Ok(()),
        }
    }

    /// Lists what begins with `start` in one directory, whose names begin with
    /// `text`.
    fn directory(&mut self, path: &Path, text: &str, start: &str) -> io::Result<()> {
        for (name, path, is_dir) in entries(self.root, path, start)? {
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

/// Names and times of the temporary files whose names begin with `prefix`.
pub(super) fn temporaries(root: &Path, prefix: &str) -> io::Result<Vec<(String, SystemTime)>> {
    let mut found = Vec::new();
    if let Some((path, text, start)) = beginning(root, prefix)? {
        temporaries_in(root, &path, &text, start, &mut found)?;
    }
    Ok(found)
}

fn temporaries_in(
    root: &Path,
    path: &Path,
    text: &str,
    start: &str,
    found: &mut Vec<(String, SystemTime)>,
) -> io::Result<()> {
    for (name, written) in file::temporaries(path)? {
        if name.starts_with(start) {
            found.push((format!("{text}{name}"), written));
        }
    }
    for (name, path, is_dir) in entries(root, path, start)? {
        if is_dir {
            temporaries_in(root, &path, &format!("{text}{name}/"), "", found)?;
        }
    }
    Ok(())
}

/// The directory in which names that begin with `prefix` are, its name with a
/// slash behind it, and what the rest of the names begins with. `None` if there
/// can be none.
fn beginning<'p>(root: &Path, prefix: &'p str) -> io::Result<Option<(PathBuf, String, &'p str)>> {
    // The root must be there, whatever is asked for below it.
    root.read_dir()?;
    let (directory, start) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    let possible = directory.is_empty() && !prefix.starts_with('/')
        || directory.split('/').all(file::is_component);
    let text = if directory.is_empty() {
        String::new()
    } else {
        format!("{directory}/")
    };
    Ok(possible.then(|| (root.join(directory), text, start)))
}

/// The entries of a directory whose names begin with `start`, sorted, and
/// whether each is a directory. A directory that is not there has none, and
/// links that lead back to where they are are left out.
fn entries(root: &Path, path: &Path, start: &str) -> io::Result<Vec<(String, PathBuf, bool)>> {
    let mut entries = Vec::new();
    for entry in file::read_dir(path)?.into_iter().flatten() {
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
        if !name.starts_with(start) || !file::is_component(&name) {
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
    for (_, path, is_dir) in entries(root, path, "")? {
        if !is_dir || holds_an_object(root, &path)? {
            return Ok(true);
        }
    }
    Ok(false)
}
