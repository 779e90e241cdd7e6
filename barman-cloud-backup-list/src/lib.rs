//! `barman-cloud-backup-list`.
