//! `barman-cloud-backup`.
