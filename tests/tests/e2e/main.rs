//! All end-to-end tests in one executable, because linking is slow.

mod backup_options;
mod bad_input;
mod catalogue;
mod command_lines;
mod credentials;
mod credentials_gcs;
mod gcs;
mod generated;
mod golden;
mod golden_catalogue;
mod harness;
mod help;
mod interop;
mod interop_catalogue;
mod interop_catalogue_cases;
mod interop_gcs;
mod interop_info;
mod interop_wal;
mod life_cycle;
mod manifest;
mod odd_tree;
mod pitr;
mod readme;
mod s3;
mod versions;
