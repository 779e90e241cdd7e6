//! `barman-cloud-backup-keep`: protects a base backup from retention policies.

use std::process::ExitCode;

use clap::Parser;
use clap::builder::TypedValueParser;
use cloud_core::catalogue::keep::KeepTarget;
use cloud_core::cli::args::{CommonArgs, Place, SourceArgs};
use cloud_core::cli::{self, Habits, Tool};
use cloud_core::ops::keep::{self, KeepAction, KeepRequest};
use cloud_core::ops::{Ctx, OpError};
use cloud_core::store::Opened;

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Protect a base backup from retention policies
#[derive(Debug, Parser)]
#[command(group = clap::ArgGroup::new("action").required(true).multiple(false))]
#[command(name = "barman-cloud-backup-keep", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Id, shortcut or name of the backup
    #[arg(value_name = "backup_id")]
    backup_id: String,

    /// Take the protection away
    #[arg(short, long, group = "action")]
    release: bool,

    /// Print how the backup is protected
    #[arg(short, long, group = "action")]
    status: bool,

    /// Keep the backup with all WAL from it on, or only with the WAL that makes
    /// it consistent
    #[arg(
        long,
        group = "action",
        value_parser = clap::builder::PossibleValuesParser::new(["full", "standalone"])
            .try_map(|text| text.parse::<KeepTarget>())
    )]
    target: Option<KeepTarget>,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "keep";
    const HABITS: Habits = Habits::CATALOGUE;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    async fn run(self, _ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        // clap sees to it that exactly one of the three was given.
        let action = match self.target {
            Some(target) => KeepAction::Keep(target),
            None if self.release => KeepAction::Release,
            None => KeepAction::Status,
        };
        let request = KeepRequest {
            path: at.path,
            server: self.source.server_name,
            backup: self.backup_id,
            action,
        };
        cli::answer(keep::run(at.store, request).await?)
    }
}
