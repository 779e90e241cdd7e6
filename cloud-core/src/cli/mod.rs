//! The command line: arguments, logging, signals, exit codes.
//!
//! A [`Tool`] is a set of arguments and what to do with them; everything around
//! that, from the first word of the command line to the exit code, is
//! [`main`].

pub mod argparse;
pub mod args;
mod exit;
mod logging;
mod progress;
mod signals;
pub mod tags;
pub mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use self::argparse::Refusal;
use self::args::CommonArgs;
use self::signals::{EndBy, Signals};
use crate::catalogue::layout::Layout;
use crate::ops::{Ctx, Env, OpError, OpErrorKind};
use crate::store::{
    self, BucketState, ObjectStore, OpenError, Opened, Retry, RetryPolicy, StoreConfig, StoreError,
    StoreErrorKind,
};

/// How long threads that are still busy at the end are waited for.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// A tool: its arguments, and its work.
#[async_trait(?Send)]
pub trait Tool: clap::Parser + Send + Sync + 'static {
    /// The words for the tool in `Barman cloud … exception: …`.
    const WORDS: &'static str;
    /// How the tool works inside.
    const HABITS: Habits;

    /// What every tool accepts.
    fn common(&self) -> &CommonArgs;

    /// The store that the arguments name.
    fn store(&self) -> StoreConfig;

    /// The name of the server, as typed.
    fn server(&self) -> &str;

    /// Checks what options mean together. Touches neither disk nor network.
    fn check(&self, env: &Env) -> Result<(), OpError> {
        let _ = env;
        Ok(())
    }

    /// Does the work.
    async fn run(self, ctx: &Ctx, store: Arc<dyn ObjectStore>, path: String)
    -> Result<(), OpError>;

    /// The exit code that says that the store could not be reached.
    fn unreachable_code(&self) -> u8 {
        exit::UNREACHABLE
    }
}

/// How a tool works inside.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Whether it moves much data, and wants threads and a progress line.
    pub long: bool,
    /// Whether a signal ends it *by* that signal, as PostgreSQL wants it of the
    /// commands it runs.
    pub ends_by_signal: bool,
    /// Whether `--test` fails if the bucket does not exist.
    pub test_wants_bucket: bool,
    /// How long requests are tried again (docs/decisions.md 12); `None` where
    /// the operation does that itself.
    pub retry: Option<Duration>,
}

impl Habits {
    /// Of the tools that read or change the catalogue.
    pub const CATALOGUE: Self = Self {
        long: false,
        ends_by_signal: false,
        test_wants_bucket: true,
        retry: Some(Duration::from_mins(2)),
    };
}

/// Runs a tool with the arguments of the process.
pub fn main<T: Tool>() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let tool = match argparse::parse::<T>(&words) {
        Ok(tool) => tool,
        Err(refusal) => return refuse(&refusal),
    };
    let common = tool.common();
    logging::start(common.verbose, common.quiet);
    logging::one_line_panics(T::WORDS);
    let unreachable = tool.unreachable_code();
    match std::panic::catch_unwind(AssertUnwindSafe(|| execute(tool))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => ExitCode::from(exit::report::<T>(&error, unreachable)),
        // The panic was logged where it happened.
        Err(_) => ExitCode::from(exit::GENERAL),
    }
}

/// Help to standard output, complaints to standard error. Nobody may be
/// listening any more; that is no reason to fail.
fn refuse(refusal: &Refusal) -> ExitCode {
    match refusal {
        Refusal::Show(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Refusal::Wrong(text) => {
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::from(exit::USAGE)
        }
    }
}

fn execute<T: Tool>(tool: T) -> Result<(), OpError> {
    Layout::new("", tool.server())
        .map_err(|error| OpError::new(OpErrorKind::Usage, error.to_string()))?;
    tool.check(&Env::of_process())?;
    let mut runtime = if T::HABITS.long {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = runtime
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| OpError::new(OpErrorKind::General, format!("could not start: {error}")))?;
    let end_by = EndBy::of(T::HABITS);
    let cancel = CancellationToken::new();
    let (result, signals) = runtime.block_on(async {
        let signals = Signals::watch(&cancel, end_by);
        (with_store(tool, cancel).await, signals)
    });
    runtime.shutdown_timeout(LAST_THREADS);
    if let Err(error) = &result
        && error.kind == OpErrorKind::Interrupted
    {
        signals.end_by_signal();
    }
    result
}

async fn with_store<T: Tool>(tool: T, cancel: CancellationToken) -> Result<(), OpError> {
    let opened = store::open(&tool.store()).map_err(|error| open_failed(&error))?;
    let common = tool.common();
    if common.test {
        return tokio::select! {
            tested = test::<T>(&opened) => tested,
            () = cancel.cancelled() => Err(interrupted::<T>()),
        };
    }
    let store: Arc<dyn ObjectStore> = match T::HABITS.retry {
        Some(total) => Arc::new(Retry::new(opened.store, RetryPolicy { total })),
        None => opened.store,
    };
    let shown = T::HABITS.long && common.quiet == 0;
    let ctx = Ctx {
        reporter: progress::reporter(shown),
        cancel,
        env: Env::of_process(),
    };
    tool.run(&ctx, store, opened.path).await
}

fn open_failed(error: &OpenError) -> OpError {
    OpError::new(OpErrorKind::General, error.to_string())
}

fn interrupted<T: Tool>() -> OpError {
    let text = format!("Barman cloud {} was interrupted by the user", T::WORDS);
    OpError::new(OpErrorKind::Interrupted, text)
}

/// `--test`: can the store be reached, and is the bucket there?
async fn test<T: Tool>(opened: &Opened) -> Result<(), OpError> {
    let bucket = &opened.bucket;
    match opened.store.probe().await {
        Ok(BucketState::Exists) => {
            tracing::info!("{} can be reached", opened.store.info().location);
            Ok(())
        }
        Ok(BucketState::Missing) if !T::HABITS.test_wants_bucket => Ok(()),
        Ok(BucketState::Missing) => {
            let text = format!("Bucket {bucket} does not exist");
            Err(OpError::new(OpErrorKind::Failed, text))
        }
        Err(error) => Err(unproved(bucket, &error)),
    }
}

/// Why a bucket could not be looked at.
fn unproved(bucket: &str, error: &StoreError) -> OpError {
    let OpError { kind, message, .. } = OpError::of_store(error);
    if kind == OpErrorKind::Unreachable {
        let text = format!("Can't connect to cloud provider: {message}");
        return OpError::new(kind, text).in_own_words();
    }
    let text = match error.kind {
        StoreErrorKind::PermissionDenied => format!(
            "Permission denied when accessing bucket '{bucket}'. Verify that the configured \
             credentials have sufficient permissions: {message}"
        ),
        StoreErrorKind::Invalid => format!(
            "Bad request when accessing bucket '{bucket}'. This may indicate invalid or \
             misconfigured credentials: {message}"
        ),
        _ => message,
    };
    OpError::new(kind, text)
}

/// What a tool of a later version answers.
pub fn not_built(what: &str) -> OpError {
    OpError::new(
        OpErrorKind::General,
        format!("{what} is not built yet in this version"),
    )
}
