//! What the end-to-end tests stand on: the real binaries, a throw-away
//! PostgreSQL, and ways to provoke and to compare.
//!
//! A test here says what an operator would see. So nothing of `cloud-core` is
//! called: tools run as processes, with an environment of their own and as the
//! user that owns the cluster, and results are read from the file system and
//! over SQL.
//!
//! Nothing waits for a length of time; what takes time is polled for with a
//! deadline ([`wait_until`]) that is far beyond what it can need, so that a
//! slow machine makes a test slow and not red. What a test starts it stops by
//! its process id, and what it writes lies below one [`Workspace`].

mod admin;
mod azure;
mod barman;
mod barman_server;
mod booted;
mod clock;
mod cluster;
mod damage;
mod dialect;
mod digest;
mod disk_cloud;
mod ec2;
mod fake_server;
mod fault_proxy;
mod gcs;
mod http_server;
mod load;
mod long_archive;
mod memory_limit;
mod objects;
mod owner;
mod patroni;
mod pg_bin;
mod place;
mod pooler;
mod processes;
mod prometheus;
mod proof;
mod record;
mod s3;
mod segment;
mod small_disk;
mod sql;
mod stages;
mod tools;
mod tree;
mod volume;
mod workspace;

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

pub use azure::{Azurite, Container};
pub use barman::Barman;
pub use barman_server::{BarmanMethod, BarmanServer, WalReceiver};
pub use booted::{Booted, System};
pub use clock::WrongClock;
pub use cluster::{Cluster, Recovery, ShutDown};
pub use damage::Damage;
pub use dialect::{Dialect, DialectStore};
pub use digest::{Hex, sha256_of_bytes, sha256_of_file};
pub use disk_cloud::{CloudKind, DiskCloud};
pub use ec2::Ec2;
pub use fake_server::FakeServer;
pub use fault_proxy::{Fault, FaultProxy, Request, Rule};
pub use gcs::{GcsBucket, GcsServer};
pub use http_server::{HttpAnswer, HttpRequest, HttpServer, http_get};
pub use load::WriteLoad;
pub use long_archive::{Asked, LongArchive, segment_in};
pub use memory_limit::MemoryLimit;
pub use objects::Objects;
pub use owner::Owner;
pub use patroni::PatroniNode;
pub use pg_bin::PgBin;
pub use place::{Place, Remote};
pub use pooler::{Pooler, Whim};
pub use processes::{Process, peak_of_children};
pub use prometheus::{Prometheus, promtool};
pub use proof::Proof;
pub use record::{Row, Section, of_sample_or_whole};
pub use s3::{Bucket, S3Server};
pub use segment::segment_moved_to;
pub use small_disk::SmallDisk;
pub use sql::Session;
pub use stages::{Blow, Staged, StagedRun, Stages};
pub use tools::{Run, Running, Tool, built};
pub use tree::{Entry, Kind, Tree};
pub use volume::Volume;
pub use workspace::Workspace;

/// Longest time that anything polled for may take. Far beyond the need of a
/// loaded machine; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Polls `done` until it gives a value.
///
/// # Panics
///
/// After [`PATIENCE`], naming `what` was waited for.
pub fn wait_until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain for {what}"
        );
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Says what a test lacks and would run it, and gives `None`: the test is
/// skipped.
///
/// # Panics
///
/// On CI (`CI` is set), where everything has to be there.
#[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
pub(crate) fn skip<T>(help: &str) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "{help}");
    eprintln!("skipped: {help}");
    None
}

/// Addresses of the loopback interface that nobody listens on now.
pub(crate) fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| {
        TcpListener::bind("127.0.0.1:0").expect("the loopback address is there")
    });
    listeners.map(|listener| listener.local_addr().expect("it was just bound"))
}

/// Where the samples recorded from the real tools lie.
pub fn golden() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/golden"))
}

/// The project's top folder.
pub fn project() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
