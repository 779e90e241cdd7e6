//! The objects of a base backup, as a listing finds them.

use std::collections::BTreeMap;

use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::{ArchiveError, ArchiveSet, BackupId, Layout};
use crate::codec;
use crate::key::Key;
use crate::store::{self, Depth, ObjectStore, ObjectVersion, StoreError};

/// What a backup has in the store.
#[derive(Debug)]
pub(in crate::ops) struct Stored {
    /// Its archives, those of PGDATA first.
    pub(in crate::ops) set: ArchiveSet,
    /// What is wrong with their names; of a whole backup nothing.
    pub(in crate::ops) problems: Vec<ArchiveError>,
    /// Versions of the objects, where the store tells them.
    pub(in crate::ops) versions: BTreeMap<Key, ObjectVersion>,
}

impl Stored {
    /// Looks for the archives that the record promises.
    pub(in crate::ops) async fn find(
        store: &dyn ObjectStore,
        layout: &Layout,
        id: &BackupId,
        info: &BackupInfo,
        server: &str,
    ) -> Result<Self, StoreError> {
        let dir = layout.backup_dir(id);
        let page = store::list_all(store, &dir, Depth::One).await?;
        let versions = page
            .objects
            .iter()
            .filter_map(|object| Some((object.key.clone(), object.version.clone()?)))
            .collect();
        let objects = page
            .objects
            .into_iter()
            .map(|object| (object.key, object.size));
        let oids = info.tablespaces.iter().map(|tablespace| tablespace.oid);
        let (set, problems) =
            ArchiveSet::gather(&dir, objects, oids, &codec::backup_suffixes(), server);
        Ok(Self {
            set,
            problems,
            versions,
        })
    }
}
