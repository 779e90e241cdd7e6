//! Uploads in parts, and what became of one whose completion was not answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;

use super::Retry;
use crate::key::{Key, Prefix};
use crate::store::{
    LockCheck, MultipartUpload, ObjectMeta, ObjectStore, ObjectVersion, PartNumber, PartReceipt,
    PutMode, PutOptions, PutReceipt, ReadRange, Result, StoreErrorKind, list_all_uploads,
};

/// Begins an upload. One whose beginning was not answered is an upload that
/// nobody knows, and its parts would be paid for: it is looked for and aborted.
pub(super) async fn begin(store: &Retry, key: &Key, options: &PutOptions) -> Result<RetryUpload> {
    let mut patience = store.patience();
    let mut unknown = false;
    loop {
        if unknown {
            abort_unknown(store, key, &options.mode).await;
        }
        match store.inner.begin_multipart(key, options).await {
            Ok(inner) => {
                store.contact.meet();
                let (store, key) = (store.clone(), key.clone());
                return Ok(RetryUpload::new(inner, store, key, options.mode.clone()));
            }
            Err(error) => {
                unknown = matches!(
                    error.kind,
                    StoreErrorKind::Timeout | StoreErrorKind::Connect | StoreErrorKind::ServerFault
                );
                patience.after(error).await?;
            }
        }
    }
}

/// Aborts the uploads of this key. Not of an object that several may write at
/// the same time, as with WAL: another's would be among them.
///
/// Who may not list is none the worse for it, and is not told.
async fn abort_unknown(store: &Retry, key: &Key, mode: &PutMode) {
    if *mode != PutMode::Overwrite {
        return;
    }
    let prefix = Prefix::text(key.as_str());
    let found = match list_all_uploads(store.inner.as_ref(), &prefix).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!("whether an upload of `{key}` was begun is not known: {error}");
            return;
        }
    };
    for upload in found.iter().filter(|upload| upload.key == *key) {
        if let Err(error) = store.inner.abort_upload(upload).await {
            tracing::debug!("an upload of `{key}` that was not answered stays: {error}");
        }
    }
}

#[derive(Debug)]
pub(super) struct RetryUpload {
    inner: Box<dyn MultipartUpload>,
    store: Retry,
    key: Key,
    mode: PutMode,
    /// CRC-32C of each part, of uploads with a condition.
    checksums: Mutex<BTreeMap<PartNumber, u32>>,
}

/// What was found under the key before an upload was completed.
enum Before {
    Nothing,
    Version(Option<ObjectVersion>),
    /// It could not be asked, or does not matter.
    Unknown,
}

impl RetryUpload {
    fn new(inner: Box<dyn MultipartUpload>, store: Retry, key: Key, mode: PutMode) -> Self {
        Self {
            inner,
            store,
            key,
            mode,
            checksums: Mutex::default(),
        }
    }

    fn checksums(&self) -> MutexGuard<'_, BTreeMap<PartNumber, u32>> {
        self.checksums
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn before(&self) -> Before {
        // A conditional object is recognised by its content.
        if self.mode != PutMode::Overwrite {
            return Before::Unknown;
        }
        match self.store.inner.head(&self.key, LockCheck::Skip).await {
            Ok(meta) => Before::Version(meta.version),
            Err(error) if error.kind == StoreErrorKind::NotFound => Before::Nothing,
            Err(_) => Before::Unknown,
        }
    }

    /// The version of the object that `complete` made, if it made one and its
    /// answer was lost.
    async fn made(&self, parts: &[PartReceipt], before: &Before) -> Option<PutReceipt> {
        let size: u64 = parts.iter().map(|part| part.size).sum();
        let meta = if self.mode == PutMode::Overwrite {
            let meta = self.store.head(&self.key, LockCheck::Skip).await.ok()?;
            let new = match before {
                Before::Nothing => true,
                Before::Version(version) => *version != meta.version,
                Before::Unknown => false,
            };
            new.then_some(meta)?
        } else {
            // Another writer's object may have the same size.
            self.same_content(parts).await?
        };
        let receipt = PutReceipt {
            version: meta.version,
        };
        (meta.size == size).then_some(receipt)
    }

    async fn same_content(&self, parts: &[PartReceipt]) -> Option<ObjectMeta> {
        let mut expected = (0, 0_u64);
        for part in parts {
            let checksum = *self.checksums().get(&part.number)?;
            let size = usize::try_from(part.size).ok()?;
            expected.0 = crc32c::crc32c_combine(expected.0, checksum, size);
            expected.1 += part.size;
        }
        let mut stored = self.store.get(&self.key, &ReadRange::all()).await.ok()?;
        let mut found = (0, 0_u64);
        while let Some(piece) = stored.body.try_next().await.ok()? {
            found.0 = crc32c::crc32c_append(found.0, &piece);
            found.1 += piece.len() as u64;
        }
        (found == expected).then_some(stored.meta)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl MultipartUpload for RetryUpload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        let receipt = self
            .store
            .run(|| self.inner.put_part(number, body.clone()))
            .await?;
        if self.mode != PutMode::Overwrite {
            self.checksums().insert(number, crc32c::crc32c(&body));
        }
        Ok(receipt)
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        let before = self.before().await;
        let mut patience = self.store.patience();
        let mut unknown = false;
        loop {
            match self.inner.complete(parts).await {
                Ok(receipt) => return Ok(receipt),
                // The first attempt may have done it: the upload is gone then,
                // and the object is there.
                Err(error) if unknown && !error.kind.is_transient() => {
                    return match self.made(parts, &before).await {
                        Some(receipt) => Ok(receipt),
                        None => Err(patience.give_up(error)),
                    };
                }
                Err(error) => {
                    unknown = true;
                    patience.after(error).await?;
                }
            }
        }
    }

    async fn abort(&self) -> Result<()> {
        self.store.run(|| self.inner.abort()).await
    }
}
