//! `barman-cloud-backup-delete`.
