//! End-to-end tests of the barman-cloud tools.
