//! Writing small objects: one request, all or nothing.

use std::num::{NonZeroU64, NonZeroUsize};

use azure_core::http::{ClientMethodOptions, Context, Etag};
use azure_storage_blob::models::BlockBlobClientUploadOptions;
use bytes::Bytes;

use super::checksum::Checksum;
use super::error::Failure;
use super::{Inner, PutOptions, PutReceipt, Result};
use crate::key::Key;
use crate::store::wire::{tagging, unquoted, user_metadata};
use crate::store::{ObjectVersion, PutMode, StoreErrorKind};

impl Inner {
    pub(super) async fn put(
        &self,
        key: &Key,
        body: Bytes,
        options: &PutOptions,
    ) -> Result<PutReceipt, Failure> {
        let checksum = Checksum::of(&body);
        let mode = &options.mode;
        let (if_none_match, if_match) = conditions(mode);
        let options = BlockBlobClientUploadOptions {
            blob_tags_string: tags(options),
            encryption_scope: self.scope.clone(),
            if_none_match,
            if_match,
            metadata: user_metadata(options),
            method_options: ClientMethodOptions {
                // The options have no place for it: the policy that signs the
                // request takes it from here.
                context: Context::new().with_value(checksum),
            },
            // Never in parts: those are our own affair.
            partition_size: Some(NonZeroU64::MAX),
            parallel: Some(NonZeroUsize::MIN),
            ..BlockBlobClientUploadOptions::default()
        };
        let blob = self.connection()?.blob(key).block_blob_client();
        let content = body.into();
        let stored = blob.upload(content, Some(options)).await;
        let stored = stored.map_err(|error| refused(error, mode))?;
        checksum.compare(stored.content_crc64.as_deref())?;
        Ok(receipt(stored.etag.as_ref()))
    }
}

/// The conditions of a write: what must not be there, and what must.
pub(super) fn conditions(mode: &PutMode) -> (Option<Etag>, Option<Etag>) {
    match mode {
        PutMode::Overwrite => (None, None),
        PutMode::CreateOnly => (Some(Etag::from("*")), None),
        PutMode::Replace(version) => (None, Some(Etag::from(format!("\"{}\"", version.0)))),
    }
}

/// Why a write was refused. Who may create but not replace is told so of a name
/// that is taken, before the condition is looked at.
pub(super) fn refused(error: azure_core::Error, mode: &PutMode) -> Failure {
    let mut failure = Failure::from(error);
    if *mode == PutMode::CreateOnly && failure.code == "UnauthorizedBlobOverwrite" {
        failure.kind = StoreErrorKind::AlreadyExists;
    }
    failure
}

/// Tags as the header wants them. An empty list has none to send.
pub(super) fn tags(options: &PutOptions) -> Option<String> {
    let tags = options.tags.as_deref().map(tagging);
    tags.filter(|tags| !tags.is_empty())
}

/// The version that an answer tells.
pub(super) fn version(etag: Option<&Etag>) -> Option<ObjectVersion> {
    etag.map(|etag| ObjectVersion(unquoted(etag.as_ref()).to_owned()))
}

/// What a write answered.
pub(super) fn receipt(etag: Option<&Etag>) -> PutReceipt {
    PutReceipt {
        version: version(etag),
    }
}
