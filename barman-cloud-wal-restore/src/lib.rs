//! `barman-cloud-wal-restore`.
