//! `snapshots_info` of a record: which snapshots a backup consists of.
//!
//! Written with every field of its cloud in the reference's order; read with any of them
//! missing, as older versions and failed backups have it.

use super::{Cloud, SnapshotError, SnapshotErrorKind};
use crate::catalogue::literal::Literal;

/// The snapshots of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where they are.
    pub place: Place,
    /// The snapshots, one for each disk.
    pub snapshots: Vec<RecordedSnapshot>,
}

/// Where the snapshots of a backup are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Amazon.
    Aws {
        /// The account that they belong to.
        account: Option<String>,
        /// The region.
        region: Option<String>,
    },
    /// Microsoft Azure.
    Azure {
        /// The subscription.
        subscription: Option<String>,
        /// The resource group.
        resource_group: Option<String>,
    },
    /// Google.
    Gcp {
        /// The project.
        project: Option<String>,
    },
}

impl Place {
    /// The cloud.
    pub fn cloud(&self) -> Cloud {
        match self {
            Self::Aws { .. } => Cloud::Aws,
            Self::Azure { .. } => Cloud::Azure,
            Self::Gcp { .. } => Cloud::Gcp,
        }
    }
}

/// A snapshot of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedSnapshot {
    /// Its name, which ends in the backup's id.
    pub name: Option<String>,
    /// What requests call it, where that is not its name: Amazon alone. `None` of a
    /// snapshot that may not have been made.
    pub id: Option<String>,
    /// The device of its disk.
    pub device_name: Option<String>,
    /// How it is locked.
    pub lock_mode: Option<String>,
    /// Where the disk is.
    pub location: Option<String>,
    /// The number of the disk at its instance.
    pub lun: Option<i64>,
    /// The project of the snapshot.
    pub project: Option<String>,
    /// Where the disk was mounted, and how.
    pub mount: RecordedMount,
}

impl RecordedSnapshot {
    /// What messages call it.
    pub fn shown(&self) -> &str {
        let named = self.id.as_deref().or(self.name.as_deref());
        named.unwrap_or("without a name")
    }
}

/// Where a disk was mounted, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedMount {
    /// As [`crate::mounts::Mount`] has it.
    pub options: Option<String>,
    /// The directory.
    pub point: Option<String>,
}

impl Record {
    /// As it is written.
    pub fn to_literal(&self) -> Literal {
        let place = match &self.place {
            Place::Aws { account, region } => Literal::dict([
                ("account_id", text(account.as_ref())),
                ("region", text(region.as_ref())),
            ]),
            Place::Azure {
                subscription,
                resource_group,
            } => Literal::dict([
                ("subscription_id", text(subscription.as_ref())),
                ("resource_group", text(resource_group.as_ref())),
            ]),
            Place::Gcp { project } => Literal::dict([("project", text(project.as_ref()))]),
        };
        let snapshots = self.snapshots.iter().map(|one| {
            let mount = [
                ("mount_options", text(one.mount.options.as_ref())),
                ("mount_point", text(one.mount.point.as_ref())),
            ];
            Literal::dict([
                ("mount", Literal::dict(mount)),
                ("provider", self.of_provider(one)),
            ])
        });
        Literal::dict([
            (
                "provider",
                Literal::Str(self.place.cloud().name().to_owned()),
            ),
            ("provider_info", place),
            ("snapshots", Literal::List(snapshots.collect())),
        ])
    }

    fn of_provider(&self, one: &RecordedSnapshot) -> Literal {
        match self.place.cloud() {
            Cloud::Aws => Literal::dict([
                ("device_name", text(one.device_name.as_ref())),
                ("snapshot_id", text(one.id.as_ref())),
                ("snapshot_name", text(one.name.as_ref())),
                ("snapshot_lock_mode", text(one.lock_mode.as_ref())),
            ]),
            Cloud::Azure => Literal::dict([
                ("location", text(one.location.as_ref())),
                ("lun", one.lun.map_or(Literal::None, Literal::Int)),
                ("snapshot_name", text(one.name.as_ref())),
            ]),
            Cloud::Gcp => Literal::dict([
                ("device_name", text(one.device_name.as_ref())),
                ("snapshot_name", text(one.name.as_ref())),
                ("snapshot_project", text(one.project.as_ref())),
            ]),
        }
    }

    /// Reads what a record says.
    ///
    /// # Errors
    ///
    /// `Invalid` for a cloud that is not known, and for what lists no snapshots.
    pub fn parse(literal: &Literal) -> Result<Self, SnapshotError> {
        let wrong = |why: &str| {
            let text = format!("snapshots_info of the backup cannot be used: {why}");
            SnapshotError::new(SnapshotErrorKind::Invalid, text)
        };
        let info = literal.get("provider_info");
        let place = match literal.get("provider").and_then(Literal::as_str) {
            Some("aws") => Place::Aws {
                account: field(info, "account_id"),
                region: field(info, "region"),
            },
            Some("azure") => Place::Azure {
                subscription: field(info, "subscription_id"),
                resource_group: field(info, "resource_group"),
            },
            Some("gcp") => Place::Gcp {
                project: field(info, "project"),
            },
            _ => return Err(wrong("its cloud is not known to this version")),
        };
        let all = literal.get("snapshots").and_then(Literal::items);
        let all = all.ok_or_else(|| wrong("it lists no snapshots"))?;
        let snapshots = all.iter().map(|one| {
            let (provider, mount) = (one.get("provider"), one.get("mount"));
            let lun = match provider.and_then(|provider| provider.get("lun")) {
                Some(Literal::Int(lun)) => Some(*lun),
                _ => None,
            };
            RecordedSnapshot {
                name: field(provider, "snapshot_name"),
                id: field(provider, "snapshot_id"),
                device_name: field(provider, "device_name"),
                lock_mode: field(provider, "snapshot_lock_mode"),
                location: field(provider, "location"),
                lun,
                project: field(provider, "snapshot_project"),
                mount: RecordedMount {
                    options: field(mount, "mount_options"),
                    point: field(mount, "mount_point"),
                },
            }
        });
        Ok(Self {
            place,
            snapshots: snapshots.collect(),
        })
    }
}

fn text(value: Option<&String>) -> Literal {
    value.cloned().map_or(Literal::None, Literal::Str)
}

fn field(from: Option<&Literal>, name: &str) -> Option<String> {
    from?.get(name)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first line is what the reference wrote.
    #[test]
    fn every_cloud_s_record_is_read_and_written_as_it_was() {
        for record in [
            "{'provider': 'aws', 'provider_info': {'account_id': '123456789012', 'region': \
             'us-east-1'}, 'snapshots': [{'mount': {'mount_options': 'rw,noatime', \
             'mount_point': '/var/lib/postgresql'}, 'provider': {'device_name': '/dev/sdf', \
             'snapshot_id': 'snap-69f6270c9209022fe', 'snapshot_name': \
             'pgdata-disk-20261121t024500', 'snapshot_lock_mode': None}}]}",
            "{'provider': 'azure', 'provider_info': {'subscription_id': 's', 'resource_group': \
             'g'}, 'snapshots': [{'mount': {'mount_options': 'rw', 'mount_point': '/p'}, \
             'provider': {'location': 'westeurope', 'lun': 0, 'snapshot_name': 'n'}}]}",
            "{'provider': 'gcp', 'provider_info': {'project': 'p'}, 'snapshots': [{'mount': \
             {'mount_options': 'rw', 'mount_point': '/p'}, 'provider': {'device_name': 'd', \
             'snapshot_name': 'n', 'snapshot_project': 'p'}}]}",
        ] {
            let literal = Literal::parse(record).unwrap();
            let read = Record::parse(&literal).unwrap();
            assert_eq!(read.to_literal().to_string(), record);
        }
    }

    #[test]
    fn what_is_missing_is_nothing_and_what_is_no_record_is_refused() {
        let literal = Literal::parse("{'provider': 'aws', 'snapshots': [{}]}").unwrap();
        let read = Record::parse(&literal).unwrap();
        assert_eq!(read.snapshots, [RecordedSnapshot::default()]);
        for odd in [
            "[1]",
            "{'provider': 'other', 'snapshots': []}",
            "{'provider': 'gcp'}",
        ] {
            assert!(
                Record::parse(&Literal::parse(odd).unwrap()).is_err(),
                "{odd}"
            );
        }
    }
}
