//! Looking before a write, for the stores that keep no conditions.
//!
//! Amazon's S3 keeps `If-None-Match` and `If-Match`. Some others take them and
//! replace the object all the same (Garage, older MinIO and SeaweedFS), and
//! nothing in their answers tells that. What was there before is found by
//! looking, what comes between the look and the write by the condition, where
//! it is kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Failure;
use super::{Inner, LockCheck, Result, StoreErrorKind, StoreOp};
use crate::key::Key;
use crate::store::PutMode;

/// How long a look stands for the attempts of one write that the store put off.
/// Not longer than a write itself may take, in which another writer's would not
/// be noticed either.
const STANDS_FOR: Duration = Duration::from_secs(5);

/// Names that were found as they have to be, of writes that the store then put
/// off. A store that sends most requests away would otherwise have to take two in
/// a row.
#[derive(Debug, Default)]
pub(super) struct Looked(Mutex<HashMap<Key, Instant>>);

impl Looked {
    /// When the name was looked up, if that is not long ago. It is asked once.
    fn take(&self, key: &Key) -> Option<Instant> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = names.remove(key)?;
        (at.elapsed() < STANDS_FOR).then_some(at)
    }

    /// A write failed after the look at `at`. Only where the store says that it
    /// did nothing, the next attempt goes without another.
    pub(super) fn put_off(&self, key: &Key, at: Option<Instant>, failure: &Failure) {
        let put_off = [StoreErrorKind::RateLimited, StoreErrorKind::ServerFault];
        if let Some(at) = at.filter(|_| put_off.contains(&failure.kind)) {
            let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            names.insert(key.clone(), at);
        }
    }
}

/// The conditions of a write, as headers.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// `If-None-Match`
    pub(super) none: Option<String>,
    /// `If-Match`
    pub(super) same: Option<String>,
}

impl Conditions {
    /// Those of `mode`, if conditions are sent.
    pub(super) fn of(mode: &PutMode, sent: bool) -> Self {
        match mode {
            PutMode::CreateOnly if sent => Self {
                none: Some("*".to_owned()),
                same: None,
            },
            PutMode::Replace(version) if sent => Self {
                none: None,
                // Without quotes, as Amazon's manual has it: Ceph knows no others.
                same: Some(version.0.clone()),
            },
            _ => Self::default(),
        }
    }
}

/// What a refusal means for a write in `mode`: where there is nothing to replace,
/// Amazon's S3 says that there is nothing.
pub(super) fn judged(mut failure: Failure, mode: &PutMode) -> Failure {
    if matches!(mode, PutMode::Replace(_)) && failure.code == "NoSuchKey" {
        failure.kind = StoreErrorKind::AlreadyExists;
    }
    failure
}

impl Inner {
    /// Looks whether a write in `mode` may be done, unless it needs no looking.
    /// Returns when it was looked.
    ///
    /// Who may only write cannot look, and is left to the condition, if there is
    /// one.
    pub(super) async fn look_before(
        &self,
        op: StoreOp,
        key: &Key,
        mode: &PutMode,
        condition: bool,
    ) -> Result<Option<Instant>> {
        if *mode == PutMode::Overwrite {
            return Ok(None);
        }
        let connection = self.connect.get().await;
        let connection = connection.map_err(|error| self.error(op, key, Failure::from(error)))?;
        if condition && connection.amazon {
            return Ok(None);
        }
        if let Some(at) = self.looked.take(key) {
            return Ok(Some(at));
        }
        let at = Instant::now();
        let found = match self.head(op, key, LockCheck::Skip).await {
            Ok(meta) => Some(meta),
            Err(error) => match error.kind {
                StoreErrorKind::NotFound => None,
                StoreErrorKind::PermissionDenied if condition => return Ok(None),
                _ => return Err(error),
            },
        };
        match mode.objection(found.as_ref()) {
            Some(why) => Err(self.refuse(op, key, StoreErrorKind::AlreadyExists, why)),
            None => Ok(Some(at)),
        }
    }
}
