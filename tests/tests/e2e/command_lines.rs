//! What callers type, and what must come of it: `tests/command-lines.txt`.

use std::fs;

use e2e::{Tree, Workspace};

/// The words of a line, as a shell would cut them: blanks set them apart, but
/// for those in double quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_command_line_of_the_list_is_taken_as_it_should_be() {
    try_all(&Workspace::new());
}

/// Tries all of them with the tools of this folder.
pub(crate) fn try_all(workspace: &Workspace) {
    let list = fs::read_to_string(e2e::project().join("tests/command-lines.txt")).unwrap();
    workspace.dir("bucket");
    let url = workspace.url("bucket");
    let before = Tree::of(&workspace.path("bucket"));
    let mut tool = "";
    let mut wrong = Vec::new();
    let mut tried = 0;
    for line in list.lines() {
        if let Some(name) = line.strip_prefix('[') {
            tool = name.trim_end_matches(']');
        }
        let Some((code, rest)) = line.split_once(' ') else {
            continue;
        };
        let Ok(code) = code.parse::<i32>() else {
            continue;
        };
        let (typed, text) = rest.split_once(" => ").unwrap_or((rest, ""));
        let typed = words(typed).into_iter();
        let typed = typed.map(|word| word.replace("$URL", &url));
        let run = workspace.tool(tool).arg("--test").args(typed).run();
        let mut lines = run.stderr.lines();
        let last = lines.rfind(|line| !line.is_empty() && !line.starts_with("HINT: "));
        let last = last.unwrap_or_default();
        let as_said = if code == 0 {
            run.stderr.lines().all(|line| line.contains(" INFO: "))
        } else {
            last.contains(text) && run.stdout.is_empty()
        };
        if run.code() != Some(code) || !as_said {
            wrong.push(format!("{tool}: {line}\n{run}"));
        }
        tried += 1;
    }
    assert!(tried > 80, "the list was not read: {tried}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    before.assert_same(&Tree::of(&workspace.path("bucket")), "nothing is written");
}

/// Ids of base backups are in local time, and so are the lines of the log.
#[test]
fn the_time_zone_is_that_of_the_environment() {
    let workspace = Workspace::new();
    let hours = |zone: &str| {
        let tool = workspace.tool("barman-cloud-wal-archive").env("TZ", zone);
        let run = tool
            .args([workspace.url("bucket").as_str(), "main", "x"])
            .run();
        let minutes = |at: usize| run.stderr[at..at + 2].parse::<i32>().unwrap();
        minutes(11) * 60 + minutes(14)
    };
    if !std::path::Path::new("/usr/share/zoneinfo/Asia/Kolkata").exists() {
        println!("skipped: /usr/share/zoneinfo is missing");
        return;
    }
    let ahead = (hours("Asia/Kolkata") - hours("UTC")).rem_euclid(24 * 60);
    assert!((329..=331).contains(&ahead), "{ahead} minutes, not 5:30 h");
}
