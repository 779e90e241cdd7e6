//! `barman-cloud`, the one program of packages and images: behind a link of a tool's
//! name, and with the tool as its first word, it is that tool to the last byte.

use std::fs;

use e2e::{Fault, FaultProxy, LongArchive, PgBin, Process, Recovery, Rule, Run, S3Server};
use e2e::{ShutDown, Tool, Workspace, wait_until};

use crate::command_lines;
use crate::readme::Section;

/// A tool behind a link, and as the word of the program.
fn both<'w>(workspace: &'w Workspace, tool: &str) -> [Tool<'w>; 2] {
    let word = tool.strip_prefix("barman-cloud-").expect("a tool's name");
    [
        workspace.tool(tool),
        workspace.tool("barman-cloud").arg(word),
    ]
}

/// The recorded helps, by the names of the tools.
fn recorded() -> Vec<(String, String)> {
    let folder = fs::read_dir(e2e::project().join("tests/help")).unwrap();
    let files = folder.map(|file| file.unwrap().path());
    let of_file = |file: std::path::PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(file).unwrap())
    };
    files.map(of_file).collect()
}

fn said(run: Run) -> (Option<i32>, String, String) {
    (run.code(), run.stdout, run.stderr)
}

#[test]
fn helps_versions_and_complaints_are_those_of_the_tools() {
    let linked = Workspace::of_one_program();
    let single = Workspace::new();
    let helps = recorded();
    assert!(helps.len() >= 10, "{}", helps.len());
    for (name, help) in helps {
        for tool in both(&linked, &name) {
            let expected = (Some(0), help.clone(), String::new());
            assert_eq!(said(tool.arg("--help").run()), expected);
        }
        for words in [&["--version"][..], &[], &["--no-such", "x"], &["--test"]] {
            let alone = said(single.tool(&name).args(words).run());
            for tool in both(&linked, &name) {
                assert_eq!(said(tool.args(words).run()), alone, "{name} {words:?}");
            }
        }
    }
}

/// As the page about installing says at its end.
#[test]
fn the_first_word_may_say_which_tool_is_meant() {
    let workspace = Workspace::of_one_program();
    let url = workspace.dir("pg").display().to_string();
    let lines = Section::of_page("installing.md").blocks("sh");
    let [.., word, name] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    let run = |line: &str| {
        let line = line.replace("s3://my-backups/pg", &format!("file://{url}"));
        let mut words = line.split(' ');
        let tool = words.next().expect("a tool");
        said(workspace.tool(tool).args(words).run())
    };
    let (word, name) = (run(word), run(name));
    assert_eq!(word.0, Some(0), "{word:?}");
    assert!(word.1.starts_with('{') && word == name, "{word:?} {name:?}");
}

#[test]
fn help_fits_a_terminal_of_80_columns() {
    for (name, help) in recorded() {
        let long: Vec<_> = help.lines().filter(|line| line.len() > 80).collect();
        assert_eq!(long, [""; 0], "in the help of {name}");
    }
}

#[test]
fn it_takes_every_command_line_of_the_list() {
    command_lines::try_all(&Workspace::of_one_program());
}

#[test]
fn it_lists_its_tools() {
    let workspace = Workspace::of_one_program();
    let help = workspace.tool("barman-cloud").arg("--help").run();
    assert_eq!(help.code(), Some(0), "{help}");
    let words: Vec<_> = help.stdout.split_whitespace().collect();
    let words = words.join(" ");
    for (name, text) in recorded() {
        let word = name.strip_prefix("barman-cloud-").unwrap();
        let about = text.lines().next().unwrap();
        assert!(words.contains(&format!("{word} {about}")), "{name}: {help}");
    }
    assert!(help.stdout.lines().all(|line| line.len() <= 80), "{help}");
    let nothing = workspace.tool("barman-cloud").arg("nothing").run();
    assert_eq!(nothing.code(), Some(3), "{nothing}");
    assert!(
        nothing.stderr.contains("there is no tool `nothing`"),
        "{nothing}"
    );
}

/// The helper of a call is the same program, started anew: it must be the same tool.
#[test]
fn a_helper_is_the_tool_whose_call_it_helps() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::of_one_program();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let scene = LongArchive::new(bin, &workspace, &bucket, 1, 20);
    let forms = [
        ("link", "/barman-cloud-wal-restore --"),
        ("word", "/barman-cloud wal-restore --"),
    ];
    for (name, form) in forms {
        let proxy = FaultProxy::start(bucket.endpoint());
        let mut back = scene.restored(name, &Recovery::Latest, Some(&proxy));
        let command = scene.command(format!("spool-{name}"));
        let command = command.replacen(forms[0].1, form, 1);
        assert!(command.contains(form), "{command}");
        back.recover_with(&command, &Recovery::Latest);
        // Held back, so that there is a helper to look at.
        proxy.add(&Rule::new(&Fault::Hold).on("^GET /.*/wals/.*zst").skip(4));
        back.launch();
        let helper = wait_until("a helper", || Process::helpers(&workspace).first().copied());
        let words = helper.arguments().join(" ");
        assert!(words.contains(form), "{words}");
        proxy.clear();
        proxy.release();
        back.wait_for_recovery();
        scene.assert_is_back(&back);
        back.stop(ShutDown::Fast);
        Process::wait_for_helpers(&workspace);
    }
}
