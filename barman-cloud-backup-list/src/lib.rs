//! `barman-cloud-backup-list`: lists the base backups in the cloud.

use std::process::ExitCode;

use clap::Parser;
use cloud_core::cli::args::{CommonArgs, Place, SourceArgs};
use cloud_core::cli::{self, Habits, Tool};
use cloud_core::ops::list::{self, ListRequest};
use cloud_core::ops::{Ctx, Format, OpError};
use cloud_core::store::Opened;

/// Runs the tool with the arguments of the process.
pub fn main() -> ExitCode {
    cli::main::<Args>()
}

/// List the base backups in an object store
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-backup-list", version)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// console, or anything else for JSON
    #[arg(long, default_value = "console")]
    format: String,

    #[command(flatten)]
    common: CommonArgs,
}

#[async_trait::async_trait(?Send)]
impl Tool for Args {
    const WORDS: &'static str = "backup list";
    const HABITS: Habits = Habits::CATALOGUE;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn place(&self) -> Place<'_> {
        self.source.place()
    }

    async fn run(self, _ctx: &Ctx, at: Opened) -> Result<(), OpError> {
        let request = ListRequest {
            path: at.path,
            server: self.source.server_name,
            format: Format::of(&self.format),
        };
        cli::answer(list::run(at.store, request).await?)
    }
}
