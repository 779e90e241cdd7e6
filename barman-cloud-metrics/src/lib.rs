//! `barman-cloud-metrics`: tells Prometheus, Nagios and people what a catalogue says.
//!
//! What is read and what it means is the library's (`ops::metrics`). Here is how it is shown: as
//! series in the Prometheus text format, once or over HTTP. That needs crates which the other
//! tools do not, so it is not in the library.

mod compat;
mod door;
mod native;
mod serve;
#[cfg(test)]
mod testing;
mod text;
mod textfile;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use cloud_core::cli::args::{CommonArgs, Place};
use cloud_core::cli::{self, Habits, Tool, argparse};
use cloud_core::ops::metrics::{Overview, Thresholds, Wanted, Watch, status};
use cloud_core::ops::{Answer, Ctx, Env, Format, OpError, OpErrorKind};
use cloud_core::store::{Opened, RetryPolicy};
use cloud_core::units;
use jiff::Timestamp;

use crate::door::DoorFiles;
use crate::serve::Service;
use crate::text::{Names, Shown};

/// How long a request is tried again: the next look comes soon anyway, and until then the store
/// shall be told of as it is.
const RETRY: Duration = Duration::from_secs(10);

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Tell Prometheus, Nagios or people whether the backups of servers are alive
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-metrics", version)]
pub struct Args {
    /// Where to read: s3://BUCKET/PATH, an Azure or Google Cloud Storage URL, or
    /// file:///PATH
    #[arg(value_name = "source_url")]
    source_url: String,

    /// Names of the PostgreSQL servers: the folders of their backups and WAL
    #[arg(value_name = "server_name", conflicts_with = "all_servers")]
    server_names: Vec<String>,

    /// All servers that have backups or WAL in this place
    #[arg(long, help_heading = argparse::OURS)]
    all_servers: bool,

    /// Write the series to this file, for the node exporter, and end; without this,
    /// --listen and --status they go to standard output
    #[arg(long, value_name = "PATH", group = "output", help_heading = argparse::OURS)]
    textfile: Option<PathBuf>,

    /// Serve the series over HTTP, at /metrics; a port alone is one of 127.0.0.1
    #[arg(
        long,
        value_name = "[ADDRESS:]PORT",
        group = "output",
        value_parser = address,
        help_heading = argparse::OURS
    )]
    listen: Option<SocketAddr>,

    /// Print one page for people, and end with 0 if all is well and 1 if not
    #[arg(long, group = "output", help_heading = argparse::OURS)]
    status: bool,

    /// How --status prints: console, or anything else for JSON (default: console)
    #[arg(long, requires = "status", help_heading = argparse::OURS)]
    format: Option<String>,

    /// Use the names of another exporter
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(["montagu", "cnpg"]),
        conflicts_with = "status",
        help_heading = argparse::OURS
    )]
    compat: Option<String>,

    /// Time from one look at the store to the next, as 30s or 5min (default: 60s)
    #[arg(long, requires = "listen", value_parser = interval, help_heading = argparse::OURS)]
    interval: Option<Duration>,

    /// Not well: a last good backup that ended longer ago, as 26h or 8d
    #[arg(long, value_name = "AGE", value_parser = units::parse_duration, help_heading = argparse::OURS)]
    max_backup_age: Option<Duration>,

    /// Not well: WAL that was last archived longer ago, as 30min
    #[arg(long, value_name = "AGE", value_parser = units::parse_duration, help_heading = argparse::OURS)]
    max_wal_age: Option<Duration>,

    /// Serve over TLS with the certificates in this file (PEM)
    #[arg(
        long,
        value_name = "FILE",
        requires = "listen",
        requires = "tls_key",
        help_heading = argparse::OURS
    )]
    tls_cert: Option<PathBuf>,

    /// The key of the first certificate (PEM)
    #[arg(
        long,
        value_name = "FILE",
        requires = "listen",
        requires = "tls_cert",
        help_heading = argparse::OURS
    )]
    tls_key: Option<PathBuf>,

    /// Serve the series only to those who send the token in this file
    #[arg(long, value_name = "FILE", requires = "listen", help_heading = argparse::OURS)]
    bearer_token_file: Option<PathBuf>,

    #[command(flatten)]
    common: CommonArgs,
}

/// An address and a port; a port alone is one of the loopback address.
fn address(text: &str) -> Result<SocketAddr, String> {
    let alone = text.parse::<u16>().ok();
    let address = alone.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let address = address.or_else(|| text.parse().ok());
    address.ok_or_else(|| format!("'{text}' is not a port or ADDRESS:PORT, such as 127.0.0.1:9789"))
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = units::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_secs(1) {
        return Err(format!("'{text}' is less than a second"));
    }
    Ok(interval)
}

impl Args {
    fn wanted(&self) -> Wanted {
        if self.all_servers {
            Wanted::All
        } else {
            Wanted::Named(self.server_names.clone())
        }
    }

    fn shown(&self) -> Shown {
        Shown {
            names: match self.compat.as_deref() {
                Some("montagu") => Names::Montagu,
                Some(_) => Names::Cnpg {
                    several: self.all_servers || self.server_names.len() > 1,
                },
                None => Names::Native,
            },
            thresholds: self.thresholds(),
        }
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            max_backup_age: self.max_backup_age,
            max_wal_age: self.max_wal_age,
        }
    }
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "metrics";
    const HABITS: Habits = Habits {
        retry: Some(RetryPolicy::per_request(RETRY)),
        // A signal ends the service in its own way.
        may_be_dropped: false,
        ..Habits::CATALOGUE
    };

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        Place {
            url: &self.source_url,
            servers: &self.server_names,
        }
    }

    fn check(&self, _env: &Env) -> Result<(), OpError> {
        if self.server_names.is_empty() && !self.all_servers {
            let text = "no server is named";
            return Err(OpError::new(OpErrorKind::Usage, text)
                .with_hint("name one or more, or say --all-servers"));
        }
        Ok(())
    }

    async fn run(self, ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let mut watch = Watch::new(at.store, at.path, self.wanted())?;
        let shown = self.shown();
        if let Some(address) = self.listen {
            let service = Service {
                address,
                interval: self.interval.unwrap_or(Duration::from_mins(1)),
                shown,
                files: DoorFiles {
                    certificate: self.tls_cert.zip(self.tls_key),
                    token: self.bearer_token_file,
                },
            };
            return serve::run(ctx, watch, service).await;
        }
        let overview = tokio::select! {
            overview = watch.look() => overview,
            () = ctx.cancel.cancelled() => {
                let text = "Barman cloud metrics was interrupted by the user";
                return Err(OpError::new(OpErrorKind::Interrupted, text));
            }
        };
        let now = Timestamp::now();
        if self.status {
            let format = Format::of(self.format.as_deref().unwrap_or("console"));
            return cli::answer(status(&overview, shown.thresholds, format, now));
        }
        once(&overview, &shown, self.textfile, now)
    }
}

/// Shows a look that was the only one. A store that failed is told of in the series as well.
fn once(
    overview: &Overview,
    shown: &Shown,
    textfile: Option<PathBuf>,
    now: Timestamp,
) -> Result<(), OpError> {
    let text = shown.text(overview, now)?;
    let failure = overview.failure();
    let Some(path) = textfile else {
        return cli::answer(Answer { text, failure });
    };
    textfile::write(&path, &text).map_err(|error| {
        let text = format!("could not write `{}`: {error}", path.display());
        OpError::new(OpErrorKind::General, text)
    })?;
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_the_loopback_address() {
        for (text, expected) in [
            ("9789", Some("127.0.0.1:9789")),
            ("127.0.0.1:0", Some("127.0.0.1:0")),
            ("0.0.0.0:80", Some("0.0.0.0:80")),
            ("[::1]:80", Some("[::1]:80")),
            ("localhost:80", None),
            ("65536", None),
            (":80", None),
            ("127.0.0.1", None),
            ("", None),
        ] {
            let read = address(text).ok().map(|address| address.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
        assert!(interval("0s").is_err() && interval("1s").is_ok() && interval("1").is_err());
    }
}
