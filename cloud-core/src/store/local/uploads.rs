//! Temporary files as what they are: uploads that are under way, or were when
//! their process was killed. Single writes are among them.
//!
//! The name of a temporary file does not tell its object's, which may be as long
//! as a name can be. So the key of an upload is that of the object's directory
//! followed by the name of the upload's first file; other files of the upload
//! have names that begin with that one's, and come and go with it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use super::listing::{entries, on_a_thread};
use super::{LocalStore, file};
use crate::key::{Key, Prefix};
use crate::store::{Result, StoreErrorKind, StoreOp, UnfinishedUpload};

/// The pages of a listing of uploads: one for each directory that has some.
pub(super) fn pages(
    store: LocalStore,
    prefix: Prefix,
) -> BoxStream<'static, Result<Vec<UnfinishedUpload>>> {
    on_a_thread(store, StoreOp::ListUploads, prefix, |start, sender| {
        let finder = Finder {
            root: start.root,
            sender,
        };
        finder.directory(&start.directory, &start.text, start.name)
    })
}

struct Finder<'a> {
    root: &'a Path,
    sender: &'a mpsc::Sender<Vec<UnfinishedUpload>>,
}

impl Finder<'_> {
    /// Finds what begins with `start` in one directory, whose names begin with
    /// `text`.
    fn directory(&self, path: &Path, text: &str, start: &str) -> io::Result<()> {
        let mut uploads: BTreeMap<String, SystemTime> = BTreeMap::new();
        let wanted = |name: &str| file::upload_of(name).unwrap_or(name).starts_with(start);
        for (name, path, is_dir) in entries(self.root, path, wanted)? {
            if self.sender.is_closed() {
                return Ok(());
            }
            match file::upload_of(&name) {
                None if is_dir => self.directory(&path, &format!("{text}{name}/"), "")?,
                None => {}
                Some(upload) => {
                    if let Some(modified) = modified(&path)? {
                        let newest = uploads.entry(upload.to_owned()).or_insert(modified);
                        *newest = modified.max(*newest);
                    }
                }
            }
        }
        let told = |(name, newest): (String, SystemTime)| {
            let key = Key::new(format!("{text}{name}")).map_err(io::Error::other)?;
            Ok(UnfinishedUpload {
                key,
                id: name,
                last_activity: Some(newest),
            })
        };
        let page: Vec<_> = uploads.into_iter().map(told).collect::<io::Result<_>>()?;
        if !page.is_empty() {
            let _ = self.sender.blocking_send(page);
        }
        Ok(())
    }
}

/// When a file was last written to; `None` if it is gone or is none. A link is
/// none: nothing of ours makes one.
fn modified(path: &Path) -> io::Result<Option<SystemTime>> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => meta.modified().map(Some),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

/// Deletes the files of an upload.
pub(super) async fn abort(store: &LocalStore, upload: &UnfinishedUpload) -> Result<()> {
    let key = upload.key.as_str();
    // Whatever else it names is no upload, and not to be touched.
    let place = file::split(key).filter(|(_, name)| {
        let plain = file::upload_of(name) == Some(name);
        plain && *name == upload.id
    });
    let Some((directory, name)) = place else {
        let why = "no unfinished upload in a directory has such a name";
        return Err(store.refuse(StoreOp::Abort, key, StoreErrorKind::Invalid, why));
    };
    let (directory, name) = (directory.to_owned(), name.to_owned());
    store
        .blocking(StoreOp::Abort, key, move |root| {
            root.read_dir()?;
            delete(root, &root.join(directory), &name)
        })
        .await
}

/// Deletes the files of an upload in a directory, and the directory if nothing
/// else is in it.
fn delete(root: &Path, directory: &Path, upload: &str) -> io::Result<()> {
    let belongs = |name: &str| file::upload_of(name) == Some(upload);
    for (_, path, _) in entries(root, directory, belongs)? {
        if modified(&path)?.is_some() {
            file::delete(&path)?;
        }
    }
    file::prune(root, directory);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::store::{MultipartUpload, ObjectStore, PartNumber, PutOptions, list_all_uploads};

    fn store() -> (tempfile::TempDir, LocalStore) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("bucket");
        fs::create_dir(&root).unwrap();
        (directory, LocalStore::new(root))
    }

    fn at(hours: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_hours(hours)
    }

    /// A file as a killed process leaves it, last written to at this hour.
    fn left(store: &LocalStore, name: &str, hour: u64) {
        let path = store.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().set_modified(at(hour)).unwrap();
    }

    fn upload(key: &str, id: &str) -> UnfinishedUpload {
        UnfinishedUpload {
            key: Key::new(key).unwrap(),
            id: id.into(),
            last_activity: None,
        }
    }

    async fn listed(store: &LocalStore, prefix: &str) -> Vec<String> {
        let listed = list_all_uploads(store, &Prefix::text(prefix)).await;
        let listed = listed.unwrap().into_iter();
        listed.map(|upload| upload.key.to_string()).collect()
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_an_upload_with_all_its_files() {
        let (_directory, store) = store();
        left(&store, "a/b/.barman-cloud-1-2.tmp", 5);
        left(&store, "a/b/.barman-cloud-1-2.tmp.1", 9);
        left(&store, "a/b/.barman-cloud-1-2.tmp.2", 7);
        left(&store, "a/.barman-cloud-1-2.tmp", 6);
        let found = list_all_uploads(&store, &Prefix::dir("a/b")).await.unwrap();
        let expected = UnfinishedUpload {
            last_activity: Some(at(9)),
            ..upload("a/b/.barman-cloud-1-2.tmp", ".barman-cloud-1-2.tmp")
        };
        assert_eq!(found, [expected]);
        store.abort_upload(&found[0]).await.unwrap();
        assert!(!store.root.join("a/b").exists(), "it was all there was");
        assert_eq!(listed(&store, "").await, ["a/.barman-cloud-1-2.tmp"]);
        store.abort_upload(&found[0]).await.expect("it is gone");
    }

    #[tokio::test]
    async fn an_abort_touches_nothing_else() {
        let (_directory, store) = store();
        let others = [
            "a/.barman-cloud-1-22.tmp",
            "a/.barman-cloud-1-.tmp",
            "a/.barman-cloud-1-2",
            "a/object",
            "a/1-2.tmp",
        ];
        for name in others {
            left(&store, name, 1);
        }
        left(&store, "a/.barman-cloud-1-2.tmp", 1);
        let one = upload("a/.barman-cloud-1-2.tmp", ".barman-cloud-1-2.tmp");
        store.abort_upload(&one).await.unwrap();
        for name in others {
            assert!(store.root.join(name).exists(), "{name}");
        }
        let mut left: Vec<_> = others[..3].iter().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(listed(&store, "").await, left);
    }

    #[tokio::test]
    async fn a_prefix_is_text_also_for_uploads() {
        let (_directory, store) = store();
        for name in [
            ".barman-cloud-0.tmp",
            "ab/.barman-cloud-1.tmp",
            "ab/.barman-cloud-1.tmp.5",
            "ab/c/.barman-cloud-2.tmp",
            "abc/.barman-cloud-3.tmp",
        ] {
            left(&store, name, 1);
        }
        for (prefix, expected) in [
            ("", "0 1 2 3"),
            (".", "0"),
            ("ab", "1 2 3"),
            ("ab/", "1 2"),
            ("ab/c", "2"),
            ("ab/.barman-cloud-1", "1"),
            ("ab/.barman-cloud-1.tmp.", ""),
            ("x/", ""),
            ("/", ""),
            ("ab//", ""),
            ("../bucket/", ""),
            ("ab/.barman-cloud-1.tmp/", ""),
        ] {
            let found = listed(&store, prefix).await;
            let numbers = found.iter().map(|key| &key[key.len() - 5..key.len() - 4]);
            let numbers: Vec<_> = numbers.collect();
            assert_eq!(numbers.join(" "), expected, "{prefix}: {found:?}");
        }
    }

    /// Links between directories are followed as they are for objects.
    #[tokio::test]
    async fn links_and_directories_are_no_uploads() {
        let (directory, store) = store();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "x").unwrap();
        symlink(
            outside.join("secret"),
            store.root.join(".barman-cloud-1.tmp"),
        )
        .unwrap();
        symlink(&outside, store.root.join(".barman-cloud-2.tmp")).unwrap();
        symlink(&outside, store.root.join("moved")).unwrap();
        left(&store, ".barman-cloud-3.tmp/.barman-cloud-4.tmp", 1);
        left(&store, "moved/.barman-cloud-5.tmp", 1);
        symlink(&*store.root, outside.join("circle")).unwrap();
        assert_eq!(listed(&store, "").await, ["moved/.barman-cloud-5.tmp"]);
        for number in 1..=3 {
            let name = format!(".barman-cloud-{number}.tmp");
            store.abort_upload(&upload(&name, &name)).await.unwrap();
            assert!(store.root.join(name).symlink_metadata().is_ok());
        }
        assert!(outside.join("secret").exists());
        let moved = upload("moved/.barman-cloud-5.tmp", ".barman-cloud-5.tmp");
        store.abort_upload(&moved).await.unwrap();
        assert_eq!(listed(&store, "").await, [""; 0]);
    }

    #[tokio::test]
    async fn what_no_listing_names_is_not_aborted() {
        let (directory, store) = store();
        fs::write(directory.path().join(".barman-cloud-1.tmp"), "x").unwrap();
        left(&store, "a/.barman-cloud-1.tmp", 1);
        left(&store, "a/.barman-cloud-1.tmp.2", 1);
        left(&store, "a/object", 1);
        for (key, id) in [
            ("../.barman-cloud-1.tmp", ".barman-cloud-1.tmp"),
            ("a/../../.barman-cloud-1.tmp", ".barman-cloud-1.tmp"),
            ("/a/.barman-cloud-1.tmp", ".barman-cloud-1.tmp"),
            ("a//.barman-cloud-1.tmp", ".barman-cloud-1.tmp"),
            ("a/.barman-cloud-1.tmp", "1"),
            ("a/.barman-cloud-1.tmp.2", ".barman-cloud-1.tmp.2"),
            ("a/object", "object"),
            ("a/", ""),
        ] {
            let aborted = store.abort_upload(&upload(key, id)).await;
            assert_eq!(aborted.unwrap_err().kind, StoreErrorKind::Invalid, "{key}");
        }
        assert!(directory.path().join(".barman-cloud-1.tmp").exists());
        assert_eq!(store.root.join("a").read_dir().unwrap().count(), 3);
        for gone in ["x/.barman-cloud-1.tmp", "a/object/.barman-cloud-1.tmp"] {
            let aborted = store
                .abort_upload(&upload(gone, ".barman-cloud-1.tmp"))
                .await;
            aborted.expect("there is nothing to abort");
        }
    }

    #[tokio::test]
    async fn a_missing_root_has_no_uploads_to_tell() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::new(directory.path().join("bucket"));
        let missing = StoreErrorKind::BucketMissing;
        let found = list_all_uploads(&store, &Prefix::text("")).await;
        assert_eq!(found.unwrap_err().kind, missing);
        let one = upload("a/.barman-cloud-1.tmp", ".barman-cloud-1.tmp");
        let aborted = store.abort_upload(&one).await;
        assert_eq!(aborted.unwrap_err().kind, missing);
    }

    async fn begin(store: &LocalStore) -> Box<dyn MultipartUpload> {
        let key = Key::new("a/b").unwrap();
        let options = PutOptions::default();
        store.begin_multipart(&key, &options).await.unwrap()
    }

    /// Parts that overtook others wait in files of their own. One that is sent
    /// again with another size moves those behind it, so that a new file is put
    /// together at the end, which must not bring back what was aborted.
    #[tokio::test]
    async fn an_upload_that_was_aborted_stays_so_whatever_its_parts() {
        let (_directory, store) = store();
        left(&store, "a/object", 1);
        for sizes in [
            vec![(1, 5), (2, 5)],
            vec![(2, 5), (1, 5)],
            vec![(1, 5), (2, 5), (1, 6)],
        ] {
            let running = begin(&store).await;
            let mut parts = BTreeMap::new();
            for (number, size) in &sizes {
                let number = PartNumber::new(*number).unwrap();
                let sent = running.put_part(number, Bytes::from(vec![1; *size]));
                parts.insert(number, sent.await.unwrap());
            }
            let found = list_all_uploads(&store, &Prefix::dir("a")).await.unwrap();
            assert_eq!(found.len(), 1, "{sizes:?}: {found:?}");
            store.abort_upload(&found[0]).await.unwrap();
            let files = store.root.join("a").read_dir().unwrap();
            assert_eq!(files.count(), 1, "nothing is left of it");
            let parts: Vec<_> = parts.into_values().collect();
            let error = running.complete(&parts).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::NotFound, "{sizes:?}");
            assert!(error.source.to_string().contains("aborted"), "{error:?}");
            assert!(!store.root.join("a/b").exists(), "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_single_write_under_way_is_told_too() {
        let (_directory, store) = store();
        let target = store.root.join("a/b");
        let writing = file::Temporary::beside(&store.root, &target).unwrap();
        assert_eq!(listed(&store, "a/").await.len(), 1);
        drop(writing);
        assert_eq!(listed(&store, "a/").await, [""; 0]);
    }
}
