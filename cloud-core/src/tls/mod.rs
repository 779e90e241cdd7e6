//! Judging the certificates of servers: PostgreSQL's, and stores behind an
//! authority of their own.
//!
//! rustls is made for the web and refuses some certificates that OpenSSL, and
//! so libpq and the reference, take: above all the self-signed one that is its
//! own root, as small installations have it.

mod plain;
mod verify;

pub(crate) use verify::{Roots, Verifier};
