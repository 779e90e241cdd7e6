//! Listings: directories seen as a flat set of names.

use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;

use super::{LocalStore, file, meta_of};
use crate::key::{Key, Prefix};
use crate::store::{Depth, ListPage, Result, StoreOp};

/// Most entries of a page.
const PAGE: usize = 1000;

/// Deepest directory that is entered: links may lead in a circle.
const MAX_DEPTH: usize = 64;

/// The pages of a listing, made on a thread that may block.
pub(super) fn pages(
    store: LocalStore,
    prefix: Prefix,
    depth: Depth,
) -> BoxStream<'static, Result<ListPage>> {
    stream::once(async move {
        let (sender, receiver) = mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let mut lister = Lister {
                sender: &sender,
                page: ListPage::default(),
                depth,
            };
            let listed = lister.run(&store.root, prefix.as_str());
            let last = std::mem::take(&mut lister.page);
            let _ = sender.blocking_send(match listed {
                Ok(()) => Ok(last),
                Err(error) => Err(store.error(StoreOp::List, prefix.as_str(), error)),
            });
        });
        stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|page| (page, receiver))
        })
    })
    .flatten()
    .boxed()
}

struct Lister<'a> {
    sender: &'a mpsc::Sender<Result<ListPage>>,
    page: ListPage,
    depth: Depth,
}

impl Lister<'_> {
    fn run(&mut self, root: &Path, prefix: &str) -> io::Result<()> {
        // The root must be there, whatever is asked for below it.
        root.read_dir()?;
        let (directory, start) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let possible = directory.is_empty() && !prefix.starts_with('/')
            || directory.split('/').all(file::is_component);
        if !possible {
            return Ok(());
        }
        let text = if directory.is_empty() {
            String::new()
        } else {
            format!("{directory}/")
        };
        self.directory(&root.join(directory), &text, start, 0)
    }

    /// Lists what begins with `start` in one directory, whose names begin with
    /// `text`.
    fn directory(&mut self, path: &Path, text: &str, start: &str, level: usize) -> io::Result<()> {
        for (name, path, is_dir) in entries(path, start)? {
            if self.sender.is_closed() {
                return Ok(());
            }
            if !is_dir {
                self.object(&path, &format!("{text}{name}"))?;
            } else if self.depth == Depth::One {
                if holds_an_object(&path, level + 1)? {
                    self.page
                        .prefixes
                        .push(Prefix::text(format!("{text}{name}/")));
                    self.turn();
                }
            } else if level < MAX_DEPTH {
                self.directory(&path, &format!("{text}{name}/"), "", level + 1)?;
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
            let _ = self
                .sender
                .blocking_send(Ok(std::mem::take(&mut self.page)));
        }
    }
}

/// The entries of a directory whose names begin with `start`, sorted, and
/// whether each is a directory. A directory that is not there has none.
fn entries(path: &Path, start: &str) -> io::Result<Vec<(String, PathBuf, bool)>> {
    let found = match path.read_dir() {
        Ok(found) => found,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
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
        if name.starts_with(start) && file::is_component(&name) {
            let is_dir = match entry.file_type() {
                Ok(kind) if FileType::is_symlink(&kind) => entry.path().is_dir(),
                Ok(kind) => kind.is_dir(),
                Err(_) => continue,
            };
            entries.push((name, entry.path(), is_dir));
        }
    }
    entries.sort();
    Ok(entries)
}

/// Whether there is a file anywhere below: an empty directory is nothing.
fn holds_an_object(path: &Path, level: usize) -> io::Result<bool> {
    for (_, path, is_dir) in entries(path, "")? {
        if !is_dir || level < MAX_DEPTH && holds_an_object(&path, level + 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}
