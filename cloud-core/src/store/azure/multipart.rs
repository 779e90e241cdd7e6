//! Uploads in parts, which Azure calls blocks.
//!
//! Blocks that are not committed belong to the name of the blob: whoever writes
//! under the same name at the same time has the same blocks. So the names of an
//! upload's blocks begin with a text of its own, and its list of them can never
//! take in somebody else's. A commit drops all blocks it does not name; an upload
//! that is overtaken so is answered `NotFound` at its end.
//!
//! Nothing is begun and nothing can be aborted: what is left behind is dropped by
//! the service a week after the last block.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use azure_core::base64;
use azure_storage_blob::models::{
    BlockBlobClientCommitBlockListOptions, BlockBlobClientCommitBlockListResultHeaders,
    BlockBlobClientStageBlockOptions, BlockBlobClientStageBlockResultHeaders, BlockListType,
    BlockLookupList,
};
use bytes::Bytes;

use super::checksum::Checksum;
use super::error::Failure;
use super::put::{conditions, receipt, refused, tags};
use super::{
    Inner, MultipartUpload, PutOptions, PutReceipt, Result, StoreError, StoreErrorKind, StoreOp,
};
use crate::key::Key;
use crate::store::wire::user_metadata;
use crate::store::{PartNumber, PartReceipt};

/// Length of the names of blocks, in bytes. All uncommitted blocks of a blob must
/// have names of one length, also those that somebody else left there: this is
/// what Microsoft's Python library, and with it the reference, takes for whole
/// files.
const NAME_LENGTH: usize = 48;

/// Bytes for the number of a block: 50,000 fit.
const NUMBER_LENGTH: usize = 2;

/// Shortest beginning that is worth calling an upload's own.
const MIN_OWN: usize = 3;

/// An upload that was begun.
pub(super) struct Upload {
    inner: Arc<Inner>,
    key: Key,
    options: PutOptions,
    names: Mutex<Names>,
    over: AtomicBool,
}

/// How the blocks of an upload are called.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names {
    own: Vec<u8>,
}

impl Names {
    /// Names of `length` bytes, which are enough.
    fn new(length: usize) -> Self {
        let mut own = vec![0; length - NUMBER_LENGTH];
        fastrand::fill(&mut own);
        Self { own }
    }

    fn length(&self) -> usize {
        self.own.len() + NUMBER_LENGTH
    }

    fn of(&self, number: u16) -> Vec<u8> {
        let mut name = self.own.clone();
        name.extend(number.to_be_bytes());
        name
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Upload {
    pub(super) fn new(inner: &Arc<Inner>, key: &Key, options: &PutOptions) -> Self {
        Self {
            inner: Arc::clone(inner),
            key: key.clone(),
            options: options.clone(),
            names: Mutex::new(Names::new(NAME_LENGTH)),
            over: AtomicBool::new(false),
        }
    }

    /// Nothing can be done with an upload that was completed or aborted.
    fn check_open(&self, op: StoreOp) -> Result<()> {
        if self.over.load(Ordering::Relaxed) {
            let kind = StoreErrorKind::NotFound;
            return Err(self.inner.refuse(op, &self.key, kind, "the upload is over"));
        }
        Ok(())
    }

    fn names(&self) -> Names {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.clone()
    }

    async fn stage(&self, name: &[u8], body: &Bytes) -> Result<(), Failure> {
        let checksum = Checksum::of(body);
        let options = BlockBlobClientStageBlockOptions {
            encryption_scope: self.inner.scope.clone(),
            transactional_content_crc64: Some(checksum.bytes()),
            ..BlockBlobClientStageBlockOptions::default()
        };
        let blob = self.inner.connection()?.blob(&self.key).block_blob_client();
        let content = body.clone().into();
        let length = body.len() as u64;
        let answer = blob
            .stage_block(name, length, content, Some(options))
            .await?;
        checksum.compare(answer.content_crc64()?.as_deref())
    }

    /// Whether to try again with names of the length that is wanted. Blocks of
    /// another length were left under this name, and stay for a week.
    async fn adapts(&self, failure: &Failure, used: &Names) -> Result<bool, Failure> {
        if failure.code != "InvalidBlobOrBlock" {
            return Ok(false);
        }
        if self.names() != *used {
            // Another part has seen to it.
            return Ok(true);
        }
        let blob = self.inner.connection()?.blob(&self.key).block_blob_client();
        let list = blob
            .get_block_list(BlockListType::Uncommitted, None)
            .await?;
        let list = list.into_model()?;
        let left = list.uncommitted_blocks.unwrap_or_default();
        let length = left.into_iter().find_map(|block| Some(block.name?.len()));
        let usable =
            length.filter(|length| *length != used.length() && *length >= MIN_OWN + NUMBER_LENGTH);
        let Some(length) = usable else {
            return Ok(false);
        };
        let (location, key) = (&self.inner.info.location, &self.key);
        tracing::info!(
            "{location} has blocks of an unfinished upload of `{key}` by somebody else: names of \
             {length} bytes are used, as theirs"
        );
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if *names == *used {
            *names = Names::new(length);
        }
        Ok(true)
    }

    async fn commit(&self, parts: &[PartReceipt]) -> Result<PutReceipt, Failure> {
        if parts.is_empty() {
            let why = "an upload needs at least one part";
            return Err(Failure::new(StoreErrorKind::Invalid, why));
        }
        // Parts without bytes were not sent.
        let sent = parts.iter().filter(|part| part.size > 0);
        let names: Result<Vec<Vec<u8>>, _> = sent.map(|part| base64::decode(&part.token)).collect();
        let list = BlockLookupList {
            // Also those that are committed by now: then the answer to an
            // earlier attempt was lost, and this one does the same again.
            latest: Some(names?),
            ..BlockLookupList::default()
        };
        let mode = &self.options.mode;
        let (if_none_match, if_match) = conditions(mode);
        let options = BlockBlobClientCommitBlockListOptions {
            blob_tags_string: tags(&self.options),
            encryption_scope: self.inner.scope.clone(),
            if_none_match,
            if_match,
            metadata: user_metadata(&self.options),
            ..BlockBlobClientCommitBlockListOptions::default()
        };
        let blob = self.inner.connection()?.blob(&self.key).block_blob_client();
        let answer = blob
            .commit_block_list(list.try_into()?, Some(options))
            .await
            .map_err(|error| refused(error, mode))?;
        Ok(receipt(answer.etag()?.as_ref()))
    }

    fn error(&self, op: StoreOp, failure: Failure) -> StoreError {
        self.inner.error(op, &self.key, failure)
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<PartReceipt> {
        self.check_open(StoreOp::PutPart)?;
        let what = format!("{} (part {})", self.key, number.get());
        let failed = |failure| self.inner.error(StoreOp::PutPart, &what, failure);
        let place = u16::try_from(number.get()).map_err(|_| {
            failed(Failure::new(
                StoreErrorKind::Invalid,
                "there is no such part",
            ))
        })?;
        let mut receipt = PartReceipt {
            number,
            size: body.len() as u64,
            token: String::new(),
        };
        // The service takes no block without bytes.
        if body.is_empty() {
            return Ok(receipt);
        }
        loop {
            let names = self.names();
            let name = names.of(place);
            match self.stage(&name, &body).await {
                Ok(()) => {
                    receipt.token = base64::encode(name);
                    return Ok(receipt);
                }
                Err(failure) => match self.adapts(&failure, &names).await {
                    Ok(true) => {}
                    Ok(false) => return Err(failed(failure)),
                    Err(failure) => return Err(failed(failure)),
                },
            }
        }
    }

    async fn complete(&self, parts: &[PartReceipt]) -> Result<PutReceipt> {
        self.check_open(StoreOp::Complete)?;
        let committed = self.commit(parts).await;
        let receipt = committed.map_err(|failure| self.error(StoreOp::Complete, failure))?;
        self.over.store(true, Ordering::Relaxed);
        Ok(receipt)
    }

    async fn abort(&self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_length_and_are_an_uploads_own() {
        let (one, other) = (Names::new(NAME_LENGTH), Names::new(NAME_LENGTH));
        for number in [1, 50_000] {
            assert_eq!(one.of(number).len(), NAME_LENGTH);
            assert_ne!(one.of(number), other.of(number));
        }
        assert_ne!(one.of(1), one.of(2));
        assert_eq!(Names::new(5).of(1).len(), 5);
    }
}
