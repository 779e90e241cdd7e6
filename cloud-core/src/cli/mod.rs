//! The command line: arguments, logging, signals, exit codes.
//!
//! A [`Tool`] is a set of arguments and what to do with them; everything around
//! that, from the first word of the command line to the exit code, is
//! [`main`].

pub mod argparse;
pub mod args;
mod exit;
mod hints;
mod logging;
pub mod progress;
pub mod settings;
mod signals;
mod summary;
pub mod tags;
pub mod values;

use std::ffi::OsString;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use self::argparse::Refusal;
use self::args::{CommonArgs, Place};
use self::logging::Form;
use self::progress::Progress;
use self::signals::{EndBy, Signals};
use crate::catalogue::layout::Layout;
use crate::ops::{self, Answer, Ctx, Env, OpError, OpErrorKind};
use crate::store::{
    self, BucketState, ObjectStore, Opened, Retry, RetryPolicy, StoreConfig, StoreErrorKind,
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

    /// The URL and the names of the servers, as typed.
    fn place(&self) -> Place<'_>;

    /// The store that the arguments name.
    fn store(&self) -> StoreConfig {
        self.common().store(self.place().url)
    }

    /// Checks what options mean together. Touches neither disk nor network.
    fn check(&self, env: &Env) -> Result<(), OpError> {
        let _ = env;
        Ok(())
    }

    /// Does what needs nothing: no store, no runtime, no thread. `None` if there is work
    /// left for [`run`](Self::run). Signals have their usual effect meanwhile.
    fn at_once(&mut self, env: &Env) -> Option<Result<(), OpError>> {
        let _ = env;
        None
    }

    /// Does the work.
    async fn run(self, ctx: &Ctx, at: Opened) -> Result<(), OpError>;

    /// How the progress of long work is shown.
    fn progress(&self) -> Progress {
        Progress::Off
    }

    /// The exit code that says that the store could not be reached.
    fn unreachable_code(&self) -> u8 {
        exit::UNREACHABLE
    }
}

/// How a tool works inside.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Whether it moves much data, and wants threads.
    pub long: bool,
    /// Whether a signal ends it *by* that signal, as PostgreSQL wants it of the
    /// commands it runs.
    pub ends_by_signal: bool,
    /// Whether `--test` fails if the bucket does not exist.
    pub test_wants_bucket: bool,
    /// How long requests are tried again (docs/decisions.md 12); `None` where
    /// the operation does that itself.
    pub retry: Option<RetryPolicy>,
    /// Whether the work can end anywhere, without a word and without a trace that
    /// the next run does not deal with. Then a signal ends it at once.
    pub may_be_dropped: bool,
}

impl Habits {
    /// Of the tools that read or change the catalogue.
    pub const CATALOGUE: Self = Self {
        long: false,
        ends_by_signal: false,
        test_wants_bucket: true,
        retry: Some(RetryPolicy::per_request(Duration::from_mins(2))),
        may_be_dropped: true,
    };
}

/// Runs a tool with the arguments of the process.
pub fn main<T: Tool>() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    run::<T>(&words)
}

/// Runs a tool with these arguments, which do not begin with the program's name.
pub fn run<T: Tool>(words: &[OsString]) -> ExitCode {
    let env = Env::of_process();
    let tool = match argparse::parse::<T>(words, &env) {
        Ok(tool) => tool,
        Err(refusal) => {
            let of_environment = env.get(&settings::variable("log-format"));
            let form = Form::of_words(words, of_environment);
            return refuse_in(form, &name_of::<T>(), &refusal);
        }
    };
    let common = tool.common();
    let form = common.log_format();
    logging::start(form, name_of::<T>(), common.verbose, common.quiet);
    logging::one_line_panics(T::WORDS);
    for name in settings::unknown_variables(&env) {
        tracing::info!("the variable {name} belongs to no option of any tool");
    }
    let unreachable = tool.unreachable_code();
    match std::panic::catch_unwind(AssertUnwindSafe(|| execute(tool, env))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => ExitCode::from(exit::report::<T>(&error, unreachable)),
        // The panic was logged where it happened.
        Err(_) => ExitCode::from(exit::GENERAL),
    }
}

/// The name of the program.
fn name_of<T: Tool>() -> String {
    T::command().get_name().to_owned()
}

/// Help to standard output, complaints to standard error. Nobody may be
/// listening any more; that is no reason to fail.
pub fn refuse(refusal: &Refusal) -> ExitCode {
    refuse_in(Form::Text, "", refusal)
}

/// The same, with complaints of a tool in this form.
fn refuse_in(form: Form, tool: &str, refusal: &Refusal) -> ExitCode {
    match refusal {
        Refusal::Show(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Refusal::Wrong(text) => {
            let text = logging::refused(form, tool, exit::USAGE, text);
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::from(exit::USAGE)
        }
    }
}

fn execute<T: Tool>(mut tool: T, env: Env) -> Result<(), OpError> {
    let began = Instant::now();
    for server in tool.place().servers {
        Layout::new("", server).map_err(|error| {
            let hint = hints::of_server(server);
            OpError::new(OpErrorKind::Usage, error.to_string()).with_hint(hint)
        })?;
    }
    tool.check(&env)?;
    if !tool.common().test
        && let Some(done) = tool.at_once(&env)
    {
        return done;
    }
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
        (with_store(tool, env, cancel).await, signals)
    });
    runtime.shutdown_timeout(LAST_THREADS);
    summary::tell(T::WORDS, began.elapsed());
    if let Err(error) = &result
        && error.kind == OpErrorKind::Interrupted
    {
        signals.end_by_signal();
    }
    result
}

async fn with_store<T: Tool>(tool: T, env: Env, cancel: CancellationToken) -> Result<(), OpError> {
    let config = tool.store();
    let opened = store::open(&config).map_err(|error| {
        let hint = hints::of_open(&config, tool.place(), &error);
        OpError::new(OpErrorKind::General, error.to_string()).with_hint_if(hint)
    })?;
    let common = tool.common();
    if common.test {
        return tokio::select! {
            tested = test::<T>(&opened) => tested,
            () = cancel.cancelled() => Err(interrupted::<T>()),
        };
    }
    let at = match T::HABITS.retry {
        Some(policy) => Opened {
            store: Arc::new(Retry::new(opened.store, policy)),
            ..opened
        },
        None => opened,
    };
    let ctx = Ctx {
        reporter: progress::reporter(tool.progress(), common.quiet > 0),
        cancel: cancel.clone(),
        env,
    };
    if !T::HABITS.may_be_dropped {
        return tool.run(&ctx, at).await;
    }
    tokio::select! {
        done = tool.run(&ctx, at) => done,
        () = cancel.cancelled() => Err(interrupted::<T>()),
    }
}

fn interrupted<T: Tool>() -> OpError {
    let text = format!("Barman cloud {} was interrupted by the user", T::WORDS);
    OpError::new(OpErrorKind::Interrupted, text)
}

/// How long `--test` asks a store again that is there but busy. One that is not
/// there is told at once.
const TEST_BUSY: Duration = Duration::from_secs(10);

/// `--test`: can the store be reached, and is the bucket there?
async fn test<T: Tool>(opened: &Opened) -> Result<(), OpError> {
    let bucket = &opened.bucket;
    let mut probed = opened.store.probe().await;
    if let Err(error) = &probed
        && matches!(
            error.kind,
            StoreErrorKind::RateLimited | StoreErrorKind::ServerFault
        )
    {
        let busy = Retry::new(Arc::clone(&opened.store), RetryPolicy::per_run(TEST_BUSY));
        probed = busy.probe().await;
    }
    let refused = matches!(&probed, Err(error) if error.kind == StoreErrorKind::PermissionDenied);
    if probed.is_ok() || refused {
        tracing::info!("{} can be reached", opened.store.info().location);
    }
    // A refusal may be about who asks, or about what is asked for.
    if probed.is_ok() {
        tracing::info!("the credentials are accepted");
    }
    match probed {
        Ok(BucketState::Exists) => {
            tracing::info!("bucket {bucket} exists");
            tracing::info!("what is in it can be listed");
            Ok(())
        }
        Ok(BucketState::Unlisted) => {
            tracing::info!("bucket {bucket} exists");
            tracing::warn!(
                "what is in bucket {bucket} may not be listed, which all tools need but \
                 barman-cloud-wal-archive"
            );
            Ok(())
        }
        Ok(BucketState::Missing) if !T::HABITS.test_wants_bucket => Ok(()),
        Ok(BucketState::Missing) => {
            let text = format!("Bucket {bucket} does not exist");
            let hint = ops::hints::bucket_missing(&opened.store.info().location);
            Err(OpError::new(OpErrorKind::Failed, text).with_hint(hint))
        }
        Err(error) => Err(OpError::unproved(bucket, &error)),
    }
}

/// Prints what an operation found, and gives the failure that goes with it.
///
/// Whoever reads may stop when it has seen enough; any other failure to write is
/// an error, because a list that is cut short must not look whole.
pub fn answer(answer: Answer) -> Result<(), OpError> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(answer.text.as_bytes())
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let text = format!("could not write to standard output: {error}");
            Err(OpError::new(OpErrorKind::General, text))
        }
        _ => answer.failure.map_or(Ok(()), Err),
    }
}
