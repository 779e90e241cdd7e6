//! A place of backups on one of two stores, and what lies in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::{Bucket, Place, S3Server, Stages, Workspace, sha256_of_file};

/// Objects by their keys: of each something that differs if its content does.
pub(crate) type Objects = BTreeMap<String, String>;

/// The store of a test: a directory, or a bucket of Ceph's gateway.
pub(crate) enum Store<'w> {
    Directory(&'w Workspace),
    Bucket(&'w Workspace, Bucket<'w>),
}

impl<'w> Store<'w> {
    pub(crate) fn directory(workspace: &'w Workspace) -> Self {
        workspace.dir("bucket");
        Self::Directory(workspace)
    }

    pub(crate) fn bucket(workspace: &'w Workspace) -> Option<Self> {
        let bucket = S3Server::CephPlain.bucket(workspace)?;
        Some(Self::Bucket(workspace, bucket))
    }

    pub(crate) fn workspace(&self) -> &'w Workspace {
        match self {
            Self::Directory(workspace) | Self::Bucket(workspace, _) => workspace,
        }
    }

    /// How a row calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Directory(_) => "a directory",
            Self::Bucket(..) => "S3",
        }
    }

    /// A place below the key `path`, which no other test of this store uses.
    pub(crate) fn place(&self, path: &str) -> Place<'w> {
        match self {
            Self::Directory(workspace) => Place::in_directory_at(workspace, path),
            Self::Bucket(workspace, bucket) => Place::in_bucket(workspace, bucket, path),
        }
    }

    /// The stages at which a tool changes it.
    pub(crate) fn stages(&self) -> Stages {
        match self {
            Self::Directory(_) => Stages::of_files(),
            Self::Bucket(..) => Stages::of_files().and_of_servers(),
        }
    }

    /// The directory that it is.
    pub(crate) fn folder(&self) -> PathBuf {
        self.workspace().path("bucket")
    }

    /// Everything below the key `path`, by what follows it. What a killed tool was
    /// writing when it died is no object, and `unfinished` counts it.
    pub(crate) fn objects(&self, path: &str) -> Objects {
        match self {
            Self::Directory(workspace) => {
                let top = workspace.path("bucket").join(path);
                let files = files_below(&top).into_iter();
                files
                    .filter(|file| !is_unfinished(file))
                    .map(|file| {
                        let key = file.strip_prefix(&top).expect("it is below");
                        let key = key.to_str().expect("keys are text").to_owned();
                        (key, sha256_of_file(&file))
                    })
                    .collect()
            }
            Self::Bucket(_, bucket) => {
                let prefix = format!("{path}/");
                let tags = bucket.etags(&prefix).into_iter();
                tags.map(|(key, tag)| (key[prefix.len()..].to_owned(), tag))
                    .collect()
            }
        }
    }

    /// How many writes or uploads were begun below `path` and not ended.
    pub(crate) fn unfinished(&self, path: &str) -> usize {
        match self {
            Self::Directory(workspace) => {
                let files = files_below(&workspace.path("bucket").join(path));
                files.iter().filter(|file| is_unfinished(file)).count()
            }
            Self::Bucket(_, bucket) => {
                let prefix = format!("{path}/");
                let uploads = bucket.uploads().into_iter();
                uploads.filter(|key| key.starts_with(&prefix)).count()
            }
        }
    }

    /// The object of `key` below `path`, if it is there; for those that are text.
    pub(crate) fn text(&self, path: &str, key: &str) -> Option<String> {
        match self {
            Self::Directory(workspace) => {
                fs::read_to_string(workspace.path("bucket").join(path).join(key)).ok()
            }
            Self::Bucket(_, bucket) => {
                let key = format!("{path}/{key}");
                let there = bucket.etags(&key).contains_key(&key);
                there.then(|| String::from_utf8(bucket.read(&key)).expect("it is text"))
            }
        }
    }

    /// Puts these texts below `path`, each by its key.
    pub(crate) fn fill(&self, path: &str, texts: &BTreeMap<String, String>) {
        match self {
            Self::Directory(workspace) => {
                for (key, content) in texts {
                    let file = Path::new("bucket").join(path).join(key);
                    workspace.dir(file.parent().expect("it has a folder"));
                    workspace.file(file, content);
                }
            }
            Self::Bucket(_, bucket) => {
                let texts = texts.iter();
                let texts = texts.map(|(key, text)| (format!("{path}/{key}"), text.clone()));
                bucket.fill(&texts.collect());
            }
        }
    }
}

fn is_unfinished(file: &Path) -> bool {
    let name = file.file_name().expect("a file has a name");
    name.to_string_lossy().starts_with(".barman-cloud-")
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
