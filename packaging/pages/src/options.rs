//! `docs/options.md`: every option of every tool.

use std::fmt::Write as _;

use barman_cloud::TOOLS;

use crate::model::{Argument, arguments, headings};

const HEAD: &str = "\
# Every option

Made from the arguments of the tools, as their `--help` and their manual pages are;
`cargo run -p barman-cloud-pages -- --options >docs/options.md` writes this page anew.

Each option is named with the tools that have it, without the `barman-cloud-` that their
names begin with. Any unambiguous beginning of a long option will do, but for those under
\"Beyond Barman\". An option given twice counts as given the last time.
";

/// An argument, and the tools that have it with just these words.
type Shared = (Argument, Vec<&'static str>);

/// The whole page.
pub(crate) fn page() -> String {
    let mut all: Vec<Shared> = Vec::new();
    for tool in &TOOLS {
        for argument in arguments(&tool.command()) {
            match all.iter_mut().find(|(known, _)| *known == argument) {
                Some((_, tools)) => tools.push(tool.word()),
                None => all.push((argument, vec![tool.word()])),
            }
        }
    }
    let mut page = HEAD.to_owned();
    page.push_str("\n## Arguments\n");
    table(&mut page, &all, |one| one.spellings.is_empty());
    let everything: Vec<_> = all.iter().map(|(argument, _)| argument.clone()).collect();
    for heading in headings(&everything) {
        let title = heading.as_deref().unwrap_or("Options");
        let _ = write!(page, "\n## {title}\n");
        table(&mut page, &all, |one| {
            !one.spellings.is_empty() && one.heading == heading
        });
    }
    page
}

fn table(page: &mut String, all: &[Shared], belongs: impl Fn(&Argument) -> bool) {
    page.push_str("\n| option | tools | meaning |\n|---|---|---|\n");
    for (argument, tools) in all.iter().filter(|(argument, _)| belongs(argument)) {
        let tools = if tools.len() == TOOLS.len() {
            "all".to_owned()
        } else {
            tools.join(", ")
        };
        let _ = writeln!(
            page,
            "| {} | {tools} | {} |",
            spelled(argument),
            meaning(argument)
        );
    }
}

fn spelled(argument: &Argument) -> String {
    let value = argument.value.as_deref().unwrap_or_default();
    let spellings: Vec<_> = argument
        .spellings
        .iter()
        .map(|spelling| format!("`{spelling}`"))
        .collect();
    match (spellings.as_slice(), value) {
        ([], value) => format!("`{value}`"),
        (spellings, "") => spellings.join(", "),
        (spellings, value) => format!("{} `{value}`", spellings.join(", ")),
    }
}

fn meaning(argument: &Argument) -> String {
    // What looks like a mark of Markdown in a help text is none.
    let help = argument.help.replace('|', "\\|").replace('<', "&lt;");
    let mut text = help.replace('\n', " ");
    let code = |text: &String| format!("`{text}`");
    if !argument.choices.is_empty() {
        let choices: Vec<_> = argument.choices.iter().map(code).collect();
        let _ = write!(text, "; one of {}", choices.join(", "));
    }
    if let Some(default) = &argument.default {
        let _ = write!(text, "; default {}", code(default));
    }
    text
}
