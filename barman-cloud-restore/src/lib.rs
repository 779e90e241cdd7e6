//! `barman-cloud-restore`.
