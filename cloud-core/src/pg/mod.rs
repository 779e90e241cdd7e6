//! The PostgreSQL server: connecting as libpq would, and backup mode.

mod backup_mode;
mod conninfo;
mod dial;
mod facts;
mod session;
mod tls;

pub use backup_mode::{BackupStart, BackupStop, ServerTime};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use conninfo::fuzzing;
pub use conninfo::{ConnInfo, ConnInfoError, Options, Var};
pub use facts::{PgTablespace, ServerFacts};
pub use session::{PgError, Session};
