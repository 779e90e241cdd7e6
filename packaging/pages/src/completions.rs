//! Completions of the command line for three shells.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use barman_cloud::{Entry, NAME, TOOLS};
use clap::Command;
use clap_complete::{Generator, Shell};

/// Writes them into `bash`, `zsh` and `fish` below `dir`, under the names by which the
/// shells find them.
pub(crate) fn write(dir: &Path) -> io::Result<()> {
    let mut commands: Vec<(&str, Command)> = TOOLS
        .iter()
        .map(|tool| (tool.name(), tool.command()))
        .collect();
    let tools = TOOLS.iter().map(|tool| tool.command().name(tool.word()));
    commands.push((NAME, Command::new(NAME).subcommands(tools)));
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let folder = dir.join(shell.to_string());
        fs::create_dir_all(&folder)?;
        for (name, command) in &commands {
            let mut command = match shell {
                // It would offer what stands for positionals as if it were to be typed.
                Shell::Bash => options_alone(command),
                _ => command.clone(),
            };
            command.set_bin_name(*name);
            command.build();
            // bash looks for a file of the command's name.
            let file = match shell {
                Shell::Bash => (*name).to_owned(),
                _ => shell.file_name(name),
            };
            let file = folder.join(file);
            if *name == NAME && shell == Shell::Bash {
                fs::write(file, of_program_in_bash())?;
            } else {
                shell.try_generate(&command, &mut File::create(file)?)?;
            }
        }
    }
    Ok(())
}

/// Of the program in bash: its tools, and behind one of them what that tool completes.
///
/// What `clap_complete` makes of commands below one with a dash in its name does not work:
/// it looks for them under another name than it notes them by.
fn of_program_in_bash() -> String {
    let words: Vec<_> = TOOLS.iter().map(Entry::word).collect();
    format!(
        r#"_barman__cloud() {{
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=( $(compgen -W "{} --version --help" -- "$2") )
        return
    fi
    local tool={NAME}-${{COMP_WORDS[1]}}
    local function=_${{tool//-/__}} file=${{BASH_SOURCE[0]%/*}}/$tool
    declare -F "$function" >/dev/null || [[ ! -r $file ]] || source "$file"
    declare -F "$function" >/dev/null || return
    COMP_WORDS=("$tool" "${{COMP_WORDS[@]:2}}")
    COMP_CWORD=$((COMP_CWORD - 1))
    "$function" "$tool" "$2" "$3"
}}

complete -F _barman__cloud -o bashdefault -o default {NAME}
"#,
        words.join(" ")
    )
}

/// The same command, without positionals.
fn options_alone(command: &Command) -> Command {
    let name = command.get_name().to_owned();
    let version = command.get_version().unwrap_or_default().to_owned();
    let options = command.get_arguments().filter(|arg| !arg.is_positional());
    Command::new(name)
        .version(version)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(options.cloned())
}
