//! The objects of a place, seen and changed past the tools.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::cluster::Cluster;
use crate::place::Place;
use crate::s3::Bucket;
use crate::tools::{Run, Tool};
use crate::workspace::Workspace;

/// A place of the server `main`, and a way to its objects that does not go through
/// the tools. Keys are those below the place.
#[derive(Debug)]
pub struct Objects<'w> {
    place: Place<'w>,
    workspace: &'w Workspace,
    lie: Lie<'w>,
}

#[derive(Debug)]
enum Lie<'w> {
    Directory(PathBuf),
    Bucket(&'w Bucket<'w>, String),
}

impl<'w> Objects<'w> {
    /// Those in a directory of the workspace.
    pub fn in_directory(workspace: &'w Workspace) -> Self {
        Self {
            place: Place::in_directory(workspace),
            workspace,
            lie: Lie::Directory(workspace.path("bucket")),
        }
    }

    /// Those below the key `path` of a bucket.
    pub fn in_bucket(workspace: &'w Workspace, bucket: &'w Bucket<'w>, path: &str) -> Self {
        Self {
            place: Place::in_bucket(workspace, bucket, path),
            workspace,
            lie: Lie::Bucket(bucket, format!("{path}/")),
        }
    }

    /// The place.
    pub fn place(&self) -> &Place<'w> {
        &self.place
    }

    /// The workspace that it belongs to.
    pub fn workspace(&self) -> &'w Workspace {
        self.workspace
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.lie, Lie::Directory(_))
    }

    /// The keys that begin with `prefix`, sorted. What an unfinished write left in
    /// a directory is among them.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let below = match &self.lie {
            Lie::Directory(root) => files_below(root, Path::new("")),
            Lie::Bucket(bucket, path) => {
                let keys = bucket.keys(path).into_iter();
                keys.map(|key| key[path.len()..].to_owned()).collect()
            }
        };
        let mut below: Vec<String> = below;
        below.retain(|key| key.starts_with(prefix));
        below.sort_unstable();
        below
    }

    /// The content of an object.
    pub fn read(&self, key: &str) -> Vec<u8> {
        match &self.lie {
            Lie::Directory(root) => fs::read(root.join(key)).expect("the object is there"),
            Lie::Bucket(bucket, path) => bucket.read(&format!("{path}{key}")),
        }
    }

    /// Makes or replaces an object.
    pub fn write(&self, key: &str, content: impl AsRef<[u8]>) {
        match &self.lie {
            Lie::Directory(root) => {
                let path = root.join(key);
                let parent = path.parent().expect("it lies below the place");
                self.workspace.dir(parent);
                self.workspace.file(path, content);
            }
            Lie::Bucket(bucket, path) => bucket.write(&format!("{path}{key}"), content),
        }
    }

    /// Deletes an object.
    pub fn remove(&self, key: &str) {
        match &self.lie {
            Lie::Directory(root) => fs::remove_file(root.join(key)).expect("the object is there"),
            Lie::Bucket(bucket, path) => bucket.remove(&format!("{path}{key}")),
        }
    }

    /// The uploads in parts that are open in the whole bucket; of a directory the
    /// files that unfinished writes left.
    pub fn unfinished(&self) -> Vec<String> {
        match &self.lie {
            Lie::Directory(_) => {
                let mut keys = self.keys("");
                keys.retain(|key| key.contains(".barman-cloud-"));
                keys
            }
            Lie::Bucket(bucket, _) => bucket.uploads(),
        }
    }

    /// `wal-archive` of a file, with options.
    pub fn archive(&self, options: &[&str], file: &Path) -> Tool<'w> {
        self.place
            .tool("barman-cloud-wal-archive")
            .args(options)
            .args([self.place.url(), "main"])
            .arg(file)
    }

    /// `wal-restore` of a name into a file; the spool is the workspace's own.
    pub fn fetch(&self, name: &str, to: &Path) -> Tool<'w> {
        self.place
            .tool("barman-cloud-wal-restore")
            .arg("--spool-dir")
            .arg(self.workspace.path("spool"))
            .args([self.place.url(), "main", name])
            .arg(to)
    }

    /// What `wal-restore` makes of a name: how it ended and the file it delivered.
    pub fn fetched(&self, name: &str) -> (Run, Option<Vec<u8>>) {
        let to = self.workspace.path("fetched");
        let _ = fs::remove_file(&to);
        let run = self.fetch(name, &to).run();
        (run, fs::read(&to).ok())
    }

    /// A backup of `cluster` by its superuser with options; gives its id.
    pub fn back_up(&self, cluster: &Cluster, options: &[&str]) -> String {
        let before = self.keys("main/base/");
        self.place
            .backup(cluster, "postgres")
            .args(options)
            .succeed();
        let new = self.keys("main/base/").into_iter().find_map(|key| {
            let id = key.strip_prefix("main/base/")?.split('/').next()?;
            (!before.contains(&key)).then(|| id.to_owned())
        });
        new.expect("a backup that ended well is there")
    }
}

/// The names of the files below `root`, of those below `folder`. Others may write at
/// the same time: what vanishes meanwhile is left out.
fn files_below(root: &Path, folder: &Path) -> Vec<String> {
    let listing = match fs::read_dir(root.join(folder)) {
        Ok(listing) => listing,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("could not list {folder:?}: {error}"),
    };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.expect("an open directory can be read");
        let name = folder.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => names.extend(files_below(root, &name)),
            Ok(kind) if kind.is_file() => names.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    names
}
