//! A command under a limit of memory, and what it took.
//!
//! usage: `limited MIB COMMAND [ARGUMENT]…`
//!
//! The command runs as the owner of clusters would, within MIB MiB of memory if there can
//! be such a limit here; what it says on standard output is dropped. The only line of
//! output is five words: the most that was resident of any of its processes, and the most
//! that was counted for the limit (`-` without one), in KiB; how many of its processes were
//! killed for want of memory; how it ended (its code, or `-` for a signal); and how long it
//! took, in milliseconds.

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use e2e::{MemoryLimit, Owner, peak_of_children};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "limited: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args_os().skip(1);
    let mib = words.next().ok_or("usage: limited MIB COMMAND…")?;
    let mib = mib.to_str().ok_or("not a number")?.parse()?;
    let limit = MemoryLimit::new(mib).ok();
    let mut command = if let Some(limit) = &limit {
        let mut shell = limit.shell(Owner::of_clusters());
        shell.args(words);
        shell
    } else {
        let mut command = Command::new(words.next().ok_or("no command")?);
        command.args(words);
        Owner::of_clusters().run_as(&mut command);
        command
    };
    let began = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    let took = began.elapsed().as_millis();
    let peak = peak_of_children() >> 10;
    let counted = limit.as_ref().map(|limit| (limit.peak() >> 10).to_string());
    let counted = counted.unwrap_or_else(|| "-".to_owned());
    let kills = limit.as_ref().map_or(0, MemoryLimit::kills);
    let code = status.code().map(|code| code.to_string());
    let code = code.unwrap_or_else(|| "-".to_owned());
    writeln!(io::stdout(), "{peak} {counted} {kills} {code} {took}")?;
    Ok(())
}
