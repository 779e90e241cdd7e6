//! `barman-cloud-backup-show`: shows one base backup.

use std::process::ExitCode;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, Place, SourceArgs};
use cloud_core::cli::{self, Habits, Tool};
use cloud_core::ops::show::{self, ShowRequest};
use cloud_core::ops::{Ctx, Format, OpError};
use cloud_core::store::Opened;

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// Show what is known of a base backup
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-backup-show", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Id, shortcut or name of the backup
    #[arg(value_name = "backup_id")]
    backup_id: String,

    /// console, or anything else for JSON
    #[arg(long, default_value = "console")]
    format: String,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup show";
    const HABITS: Habits = Habits::CATALOGUE;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    async fn run(self, _ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let request = ShowRequest {
            path: at.path,
            server: self.source.server_name,
            backup: self.backup_id,
            format: Format::of(&self.format),
        };
        cli::answer(show::run(at.store, request).await?)
    }
}
