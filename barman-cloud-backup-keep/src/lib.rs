//! `barman-cloud-backup-keep`.
