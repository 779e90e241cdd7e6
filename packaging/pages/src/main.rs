//! Writes what packages have beside the program: manual pages and completions for bash,
//! zsh and fish, and `docs/options.md`.
//!
//! All of it comes from the arguments of the tools, as their help does, so that a new
//! option or tool is in it by itself. What a manual page says beyond that is in `texts/`.
//! This is a program of its own, so that the tools do not get larger by it.
//!
//! ```text
//! barman-cloud-pages DIR        DIR/man/TOOL.1, DIR/bash/TOOL, DIR/zsh/_TOOL, DIR/fish/TOOL.fish
//! barman-cloud-pages --options  docs/options.md, on standard output
//! ```

mod completions;
mod man;
mod model;
mod options;
mod text;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use barman_cloud::TOOLS;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(word), None) = (words.next(), words.next()) else {
        return complain("one argument: a directory to write to, or --options");
    };
    let done = if word == "--options" {
        io::stdout().write_all(options::page().as_bytes())
    } else {
        write_all(Path::new(&word))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("could not write: {error}")),
    }
}

fn complain(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "barman-cloud-pages: error: {text}");
    ExitCode::FAILURE
}

/// Writes everything into folders below `dir`, which are made.
fn write_all(dir: &Path) -> io::Result<()> {
    let man = dir.join("man");
    fs::create_dir_all(&man)?;
    for tool in &TOOLS {
        let page = man::of_tool(tool)?;
        fs::write(man.join(format!("{}.1", tool.name())), page)?;
    }
    let page = man::of_program()?;
    fs::write(man.join(format!("{}.1", barman_cloud::NAME)), page)?;
    completions::write(dir)
}
