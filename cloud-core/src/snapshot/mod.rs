//! Snapshots of disks as base backups: what the clouds have in common.
//!
//! A [`SnapshotProvider`] is a thin client of one cloud; it knows its requests and answers
//! and nothing of PostgreSQL or of backups. [`Making`] makes the snapshots of one backup,
//! side by side, and can undo it. [`Clouds`] opens the provider that a command line or a
//! record names.
//!
//! A snapshot belongs to a backup by its name, which ends in the backup's id: that is
//! looked at before anything is deleted, since a record in a bucket can be forged. What was
//! perhaps begun is told by its disk, too.

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "azure")]
mod azure;
mod error;
#[cfg(all(test, feature = "aws"))]
pub(crate) mod fake;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "remote")]
mod line;
mod making;
mod record;
#[cfg(any(feature = "azure", feature = "gcp"))]
mod rest;
#[cfg(all(test, feature = "aws", feature = "azure", feature = "gcp"))]
mod rest_tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::error::{SnapshotError, SnapshotErrorKind};
pub use self::making::{Made, Making};
pub use self::record::{Place, Record, RecordedMount, RecordedSnapshot};
use crate::mounts::DeviceId;
use crate::store::{ApiService, OpenedApi, Provider, StoreConfig, Tag, open_api};

/// A cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Amazon: EC2.
    Aws,
    /// Microsoft Azure.
    Azure,
    /// Google Compute Engine.
    Gcp,
}

impl Cloud {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Gcp => "gcp",
        }
    }

    /// The cloud of `--cloud-provider`.
    pub fn of(provider: Provider) -> Self {
        match provider {
            Provider::AwsS3 => Self::Aws,
            Provider::AzureBlobStorage => Self::Azure,
            Provider::GoogleCloudStorage => Self::Gcp,
        }
    }
}

/// A disk that is attached to an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// As the user calls it; its own name where nobody did.
    pub name: String,
    /// What requests call it.
    pub id: String,
    /// What the instance knows it by.
    pub device: DeviceId,
    /// The name of its device in the cloud's own words; Azure has none.
    pub device_name: Option<String>,
    /// Where it is; Azure alone.
    pub location: Option<String>,
    /// Its number at the instance; Azure alone.
    pub lun: Option<i64>,
    /// The snapshot that it was made of.
    pub origin: Option<String>,
}

/// A snapshot that was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begun {
    /// What requests call it.
    pub id: String,
    /// The account it belongs to; Amazon alone.
    pub owner: Option<String>,
    /// What tells how far it is, where that is not the snapshot itself.
    pub operation: Option<String>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// On its way; to be asked again, not before the time that the service named.
    Pending(Option<Duration>),
    /// Whole.
    Complete,
    /// It came to nothing.
    Failed(String),
}

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// What requests call it.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What became of a snapshot that was to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Gone,
    /// There was none.
    Absent,
}

/// One cloud's way to make, find and delete snapshots of disks.
///
/// Every method repeats what may be repeated, within the time that the provider was opened
/// with; a future that is dropped tries no more.
#[async_trait]
pub trait SnapshotProvider: fmt::Debug + Send + Sync {
    /// The cloud.
    fn cloud(&self) -> Cloud;

    /// The disks of an instance but the one it starts from: those that `names` lists, by
    /// exactly these names, or all. A name that is no disk of the instance is left out.
    ///
    /// # Errors
    ///
    /// `Invalid` if there is no such instance, or a name means several disks.
    async fn disks(
        &self,
        instance: &str,
        names: Option<&[String]>,
    ) -> Result<Vec<Disk>, SnapshotError>;

    /// Begins a snapshot.
    ///
    /// # Errors
    ///
    /// `Unknown` if it may have been begun all the same: [`find`](Self::find) tells.
    /// `Refused` if the name is that of another disk's snapshot.
    async fn begin(&self, disk: &Disk, name: &str) -> Result<Begun, SnapshotError>;

    /// The snapshots of a disk that have a name, pending ones too. A new one may take a
    /// moment to be seen. Those of other disks are left out: names repeat where machines
    /// are made from one template.
    async fn find(&self, disk: &Disk, name: &str) -> Result<Vec<Begun>, SnapshotError>;

    /// How far a snapshot is.
    async fn progress(&self, snapshot: &Begun) -> Result<Progress, SnapshotError>;

    /// Locks a snapshot that is complete, if that was asked for.
    async fn lock(&self, snapshot: &Begun) -> Result<(), SnapshotError>;

    /// How snapshots are locked, as records call it.
    fn lock_mode(&self) -> Option<&str>;

    /// How long a snapshot may take to be complete.
    fn patience(&self) -> Duration;

    /// What is there of a recorded snapshot: nothing, or one; several only of one whose id
    /// was not recorded.
    ///
    /// # Errors
    ///
    /// `Foreign` if the record names none, what is there has no name, or several disks have
    /// one of a name.
    async fn locate(&self, snapshot: &RecordedSnapshot) -> Result<Vec<Located>, SnapshotError>;

    /// Deletes a snapshot and waits until that is done.
    ///
    /// # Errors
    ///
    /// `Locked` if it may not be deleted yet.
    async fn delete(&self, id: &str) -> Result<Deleted, SnapshotError>;

    /// Where snapshots are made, as records say it. `owner` as [`Begun`] has it.
    fn place(&self, owner: Option<&str>) -> Place;
}

/// What the command line says of snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// `--aws-region`
    pub aws_region: Option<String>,
    /// `--azure-subscription-id`
    pub azure_subscription: Option<String>,
    /// `--azure-resource-group`
    pub azure_resource_group: Option<String>,
    /// `--gcp-project`
    pub gcp_project: Option<String>,
    /// `--gcp-zone`
    pub gcp_zone: Option<String>,
    /// Tags of the snapshots, beside their names; Amazon alone.
    pub tags: Vec<Tag>,
    /// `--aws-await-snapshots-timeout`
    pub patience: Option<Duration>,
    /// How they are locked; Amazon alone.
    pub lock: Option<Lock>,
}

/// How a snapshot is locked. Source: `LockSnapshot` of the EC2 API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// `governance` or `compliance`
    pub mode: String,
    /// Hours in which a compliance lock can be taken back.
    pub cool_off_hours: Option<u32>,
    /// Days that it lasts.
    pub days: Option<u32>,
    /// When it ends.
    pub until: Option<String>,
}

impl Lock {
    /// The lock that the options ask for; warns of options that ask for none.
    pub fn of_options(
        mode: Option<String>,
        cool_off_hours: Option<u32>,
        days: Option<u32>,
        until: Option<String>,
    ) -> Option<Self> {
        if mode.is_none() && (cool_off_hours.is_some() || days.is_some() || until.is_some()) {
            tracing::warn!("the snapshots are not locked: --aws-snapshot-lock-mode is missing");
        }
        Some(Self {
            mode: mode?,
            cool_off_hours,
            days,
            until,
        })
    }
}

/// Opens providers.
#[derive(Debug, Clone, Default)]
pub struct Clouds {
    /// The credentials, as for stores.
    pub config: StoreConfig,
    /// How long one request is repeated.
    pub retry: Duration,
    /// The service, whatever is asked for.
    #[cfg(test)]
    pub(crate) fake: Option<OpenedApi>,
}

impl Clouds {
    /// With the credentials that `config` names; requests are repeated for `retry`.
    pub fn new(config: StoreConfig, retry: Duration) -> Self {
        Self {
            config,
            retry,
            #[cfg(test)]
            fake: None,
        }
    }

    /// A cloud's provider. Asks nobody anything.
    ///
    /// # Errors
    ///
    /// `Invalid`: options or settings that mean nothing.
    pub fn open(
        &self,
        cloud: Cloud,
        options: &SnapshotOptions,
    ) -> Result<Arc<dyn SnapshotProvider>, SnapshotError> {
        match cloud {
            #[cfg(feature = "aws")]
            Cloud::Aws => {
                let region = options.aws_region.clone();
                let opened = self.service(&ApiService::Ec2 { region })?;
                Ok(Arc::new(aws::Aws::new(opened, options, self.retry)))
            }
            #[cfg(feature = "azure")]
            Cloud::Azure => {
                let opened = self.service(&ApiService::Azure)?;
                Ok(Arc::new(azure::Azure::new(opened, options, self.retry)?))
            }
            #[cfg(feature = "gcp")]
            Cloud::Gcp => {
                let opened = self.service(&ApiService::Google)?;
                Ok(Arc::new(gcp::Gcp::new(opened, options, self.retry)?))
            }
            #[cfg(not(all(feature = "aws", feature = "azure", feature = "gcp")))]
            other => Err(SnapshotError::new(
                SnapshotErrorKind::Invalid,
                format!("{other:?} is not built into this program ({options:?})"),
            )),
        }
    }

    fn service(&self, service: &ApiService) -> Result<OpenedApi, SnapshotError> {
        #[cfg(test)]
        if let Some(fake) = &self.fake {
            return Ok(fake.clone());
        }
        Ok(open_api(&self.config, service)?)
    }
}

/// What is there of a snapshot that is called by its name, if it is there: to find that out
/// takes a permission that its deletion does not.
#[cfg(any(feature = "azure", feature = "gcp"))]
fn by_name(snapshot: &RecordedSnapshot) -> Result<Vec<Located>, SnapshotError> {
    let name = snapshot.name.clone().ok_or_else(|| {
        let text = "the record names no snapshot";
        SnapshotError::new(SnapshotErrorKind::Foreign, text)
    })?;
    Ok(vec![Located {
        id: name.clone(),
        name,
    }])
}
