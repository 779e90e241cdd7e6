//! The project's pages: the tools take every command line in them, and every link leads
//! somewhere.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use cloud_core::ops::Env;

use super::{NAME, Refusal, TOOLS, choose};

/// A page, and its path in the project.
struct Page {
    path: PathBuf,
    lines: Vec<String>,
}

/// A fenced block of a page.
struct Block<'a> {
    kind: &'a str,
    lines: Vec<&'a str>,
}

fn project() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).to_path_buf()
}

/// The README, the changelog, the book, and the texts of manual pages.
fn pages() -> Vec<Page> {
    let mut paths = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    for (folder, extension) in [("docs", "md"), ("packaging/pages/texts", "txt")] {
        let entries = fs::read_dir(project().join(folder)).unwrap().flatten();
        let names = entries.map(|entry| Path::new(folder).join(entry.file_name()));
        paths.extend(names.filter(|path| path.extension().is_some_and(|end| end == extension)));
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(project().join(&path)).unwrap();
        let lines = text.lines().map(str::to_owned).collect();
        Page { path, lines }
    };
    paths.into_iter().map(read).collect()
}

impl Page {
    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks: Vec<Block<'_>> = Vec::new();
        let mut inside = false;
        for line in &self.lines {
            if let Some(kind) = line.trim_start().strip_prefix("```") {
                inside = !inside;
                if inside {
                    let lines = Vec::new();
                    blocks.push(Block { kind, lines });
                }
            } else if inside {
                blocks.last_mut().expect("one was begun").lines.push(line);
            }
        }
        blocks
    }

    /// Lines outside of fenced blocks.
    fn prose(&self) -> Vec<&str> {
        let mut inside = false;
        let mut lines = Vec::new();
        for line in &self.lines {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                lines.push(line.as_str());
            }
        }
        lines
    }

    /// Lines with commands, each whole.
    fn command_lines(&self) -> Vec<String> {
        let blocks = self.blocks();
        let lines: Vec<&str> = if self.path.extension().is_some_and(|end| end == "txt") {
            let literal = |line: &&String| line.starts_with("    ");
            self.lines
                .iter()
                .filter(literal)
                .map(String::as_str)
                .collect()
        } else {
            blocks
                .iter()
                .flat_map(|block| block.lines.clone())
                .collect()
        };
        let mut whole: Vec<String> = Vec::new();
        let mut goes_on = false;
        for line in lines {
            let text = line.strip_suffix('\\').unwrap_or(line);
            match whole.last_mut() {
                Some(last) if goes_on => last.push_str(text.trim_start()),
                _ => whole.push(text.to_owned()),
            }
            goes_on = text != line;
        }
        whole
    }
}

/// The calls of tools in a line: what stands from the name of a tool to the end of the
/// command, which is where the quotes around it end.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices(NAME) {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| !" '\"/(=".contains(c)) {
            continue;
        }
        // The quote that is open here.
        let quote = line[..at].chars().fold(None, |open, c| match (open, c) {
            (None, '\'' | '"') => Some(c),
            (Some(quote), c) if quote == c => None,
            (open, _) => open,
        });
        let rest = &line[at..];
        let end = quote.and_then(|quote| rest.find(quote));
        let text = &rest[..end.unwrap_or(rest.len())];
        let ends = [" && ", " || ", " | ", " > ", " >", "; "];
        let end = ends.iter().filter_map(|end| text.find(end)).min();
        let text = &text[..end.unwrap_or(text.len())];
        let Some(words) = shlex::split(text) else {
            panic!("odd quotes: {line}");
        };
        let tool = TOOLS.iter().any(|tool| words[0] == tool.name());
        // Elsewhere it is the name of an image or a package.
        let program = words[0] == NAME && line[..at].trim().is_empty();
        // A name alone is no call but a mention.
        if words.len() > 1 && (tool || program) {
            found.push(words);
        }
    }
    found
}

#[test]
fn the_tools_take_every_command_line() {
    let mut wrong = Vec::new();
    let mut named = BTreeSet::new();
    let mut count = 0;
    // In the stead of the one that pages name; what they put into it is tried elsewhere.
    let mut settings = tempfile::NamedTempFile::new().unwrap();
    writeln!(settings, "[servers.main]\nurl = 's3://bucket/pg'").unwrap();
    let env = Env::from_iter([("BARMAN_CLOUD_CONFIG", settings.path())]);
    for page in pages() {
        for line in page.command_lines() {
            for mut call in calls(&line) {
                if let Some(at) = call.iter().position(|word| word == "--config") {
                    call[at + 1] = settings.path().display().to_string();
                }
                let words: Vec<OsString> = call.iter().map(OsString::from).collect();
                let taken = choose(&words).and_then(|(tool, words)| {
                    named.insert(tool.name());
                    (tool.parse)(words, &env)
                });
                if let Err(Refusal::Wrong(text)) = taken {
                    wrong.push(format!("{}: {line}\n{text}", page.path.display()));
                }
                count += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "{count}");
    let all: BTreeSet<_> = TOOLS.iter().map(super::Entry::name).collect();
    assert_eq!(named, all, "an example of each tool");
}

#[test]
fn calls_are_found_where_commands_are_written() {
    let found = |line: &str| {
        let calls = calls(line).into_iter();
        calls.map(|words| words.join("|")).collect::<Vec<_>>()
    };
    let call = "barman-cloud-backup|a b|c";
    for line in [
        "barman-cloud-backup 'a b' c",
        "ExecStart=/usr/bin/barman-cloud-backup 'a b' c",
        "archive_command = \"barman-cloud-backup 'a b' c\"",
        "x && barman-cloud-backup 'a b' c && y >z",
    ] {
        assert_eq!(found(line), [call], "{line}");
    }
    for line in [
        "systemctl start barman-cloud-backup.timer",
        "tar -xf barman-cloud-4.0.0-x86_64.tar.gz",
        "# barman-cloud-backup",
        "docker build -t barman-cloud .",
    ] {
        assert_eq!(found(line), [""; 0], "{line}");
    }
}

/// What cannot be run by a test has at least the form of commands.
#[test]
fn every_block_for_a_shell_is_one() {
    let mut count = 0;
    for page in pages() {
        for block in page.blocks() {
            if !["sh", "bash"].contains(&block.kind) {
                continue;
            }
            let mut bash = Command::new("bash")
                .args(["--norc", "-n"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let text = block.lines.join("\n") + "\n";
            bash.stdin
                .take()
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            let checked = bash.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&checked.stderr);
            assert!(said.is_empty(), "{}: {text}{said}", page.path.display());
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

/// The name of a heading as an anchor.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.collect()
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let path = page.to_path_buf();
    let text = fs::read_to_string(project().join(&path)).unwrap();
    let lines = text.lines().map(str::to_owned).collect();
    let page = Page { path, lines };
    let headings = page.prose().into_iter();
    let headings = headings.filter(|line| line.starts_with('#'));
    headings.map(anchor).collect()
}

/// The targets of links in a line.
fn targets(line: &str) -> Vec<&str> {
    let rest = line.split("](").skip(1);
    rest.filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .collect()
}

/// A path without `..` in it.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for page in pages() {
        for target in page.prose().into_iter().flat_map(targets) {
            if target.contains("://") {
                continue;
            }
            let (path, name) = target.split_once('#').unwrap_or((target, ""));
            let folder = page.path.parent().unwrap();
            let path = match path {
                "" => page.path.clone(),
                path => plain(&folder.join(path)),
            };
            let from = page.path.display();
            assert!(project().join(&path).exists(), "{from}: {target}");
            let found = name.is_empty() || anchors(&path).contains(name);
            assert!(found, "{from}: no heading {target}");
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn every_page_is_a_chapter_of_the_book_and_every_tool_is_in_the_readme() {
    let read = |path: &str| fs::read_to_string(project().join(path)).unwrap();
    let summary = read("docs/SUMMARY.md");
    for page in pages().iter().filter(|page| page.path.starts_with("docs")) {
        let name = page.path.file_name().unwrap().to_str().unwrap();
        let chapter = summary.contains(&format!("]({name})"));
        assert!(chapter || name == "SUMMARY.md", "{name} is no chapter");
    }
    let readme = read("README.md");
    for tool in TOOLS {
        let named = readme.contains(tool.name());
        assert!(named, "the README does not name {}", tool.name());
    }
}

/// The picture was made by a demo of these steps: `docs/picture.py` makes it anew.
#[test]
fn the_picture_of_the_demo_shows_its_steps() {
    let read = |path: &str| fs::read_to_string(project().join(path)).unwrap();
    let (demo, picture) = (read("tests/demo.sh"), read("docs/demo.svg"));
    let steps = demo.lines().filter_map(|line| line.strip_prefix("step '"));
    let steps: Vec<_> = steps.map(|step| step.trim_end_matches('\'')).collect();
    assert!(steps.len() > 5, "{steps:?}");
    for (number, step) in (1..).zip(steps) {
        let line = format!(">{number}. {step}<");
        assert!(picture.contains(&line), "{line}");
    }
    assert!(read("README.md").contains("](docs/demo.svg)"));
}
