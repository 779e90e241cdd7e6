//! Storing a file that is read while it is sent.

use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, memfd_create};

use super::{create, key, pattern, put, read};
use crate::key::Prefix;
use crate::store::{ObjectStore, Payload, PutOptions, StoreErrorKind, Sums, exists};

/// A file in memory, without a name, and itself as a payload.
fn file(content: &[u8]) -> (File, Payload) {
    let made = memfd_create("conformance", MemfdFlags::CLOEXEC);
    let mut file = File::from(made.expect("Linux has files in memory"));
    file.write_all(content).expect("memory is left");
    let same = file.try_clone().expect("it can be opened twice");
    let sums = Sums {
        crc32c: crc32c::crc32c(content),
        sha256: None,
    };
    let payload = Payload::of_file(same, content.len() as u64, sums);
    (file, payload)
}

pub(super) async fn stored(store: &dyn ObjectStore, dir: &Prefix) {
    for (name, size) in [("empty", 0), ("small", 10), ("some", 3_000_001)] {
        let (key, content) = (key(dir, name), pattern(size, 1));
        let (_file, payload) = file(&content);
        // A second time from its beginning.
        for options in [create(), PutOptions::default()] {
            let stored = store.put(&key, payload.clone(), &options).await;
            stored.expect("the file can be stored");
            assert_eq!(read(store, &key).await, content, "{name}");
        }
        // The same once more would be taken for one whose answer was lost.
        let (_other, different) = file(&pattern(size + 1, 2));
        let refused = store.put(&key, different, &create()).await;
        let refused = refused.expect_err("the name is taken");
        assert_eq!(refused.kind, StoreErrorKind::AlreadyExists);
    }
}

/// What is there is what was promised, or nothing: also where only the last byte is
/// another one.
pub(super) async fn changing(store: &dyn ObjectStore, dir: &Prefix) {
    let content = pattern(3_000_001, 1);
    let mut changed = content.to_vec();
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    for (name, now) in [("cut", &content[..2_000_000]), ("changed", &changed)] {
        let (new, old) = (
            key(dir, &format!("{name}-new")),
            key(dir, &format!("{name}-old")),
        );
        put(store, &old, pattern(1000, 2)).await;
        for (key, options) in [(&new, create()), (&old, PutOptions::default())] {
            let (file, payload) = file(&content);
            file.set_len(0).expect("it can be cut");
            std::os::unix::fs::FileExt::write_all_at(&file, now, 0).expect("memory is left");
            let error = store.put(key, payload, &options).await;
            let error = error.expect_err("it is not what was promised");
            assert!(!error.kind.is_transient(), "{name}: {error:?}");
        }
        assert!(!exists(store, &new).await.expect("absence can be told"));
        assert_eq!(read(store, &old).await, pattern(1000, 2), "{name}");
    }
}
