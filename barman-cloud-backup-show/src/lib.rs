//! `barman-cloud-backup-show`.
