//! `barman-cloud-check-wal-archive`.
