//! `barman-cloud-wal-archive`.
