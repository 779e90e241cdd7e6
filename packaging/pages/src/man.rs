//! Manual pages, in the macros of man(7).

use std::fmt::Write as _;
use std::io;

use barman_cloud::{Entry, NAME, TOOLS};

use crate::model::{Argument, arguments, headings};
use crate::text::{self, Block, Section};

/// The page of a tool.
pub(crate) fn of_tool(tool: &Entry) -> io::Result<String> {
    let command = tool.command();
    let arguments = arguments(&command);
    let about = command.get_about().map(ToString::to_string);
    let mut texts = text::read(tool.name())?;
    let mut page = Page::begin(tool.name(), &about.unwrap_or_default());
    page.synopsis(tool.name(), &arguments);
    let position = texts.iter().position(|one| one.name == "DESCRIPTION");
    if let Some(section) = position.map(|at| texts.remove(at)) {
        page.section(&section);
    }
    page.heading("SH", "ARGUMENTS");
    for argument in arguments.iter().filter(|one| one.spellings.is_empty()) {
        page.argument(argument);
    }
    page.heading("SH", "OPTIONS");
    for heading in headings(&arguments) {
        if let Some(heading) = &heading {
            page.heading("SS", heading);
        }
        let below = |one: &&Argument| !one.spellings.is_empty() && one.heading == heading;
        for argument in arguments.iter().filter(below) {
            page.argument(argument);
        }
    }
    for section in texts.iter().chain(&text::read("common")?) {
        page.section(section);
    }
    let others = TOOLS.iter().filter(|other| other.name() != tool.name());
    page.see_also(std::iter::once(NAME).chain(others.map(Entry::name)));
    Ok(page.0)
}

/// The page of the program that is all tools.
pub(crate) fn of_program() -> io::Result<String> {
    let mut page = Page::begin(NAME, "Backup of PostgreSQL to object stores");
    page.heading("SH", "SYNOPSIS");
    page.0.push_str(&format!(
        ".B {}\n.I TOOL\n[\\fIARGUMENT\\fR]...\n.br\n.B {}\n[\\fIARGUMENT\\fR]...\n",
        escape(NAME),
        escape(&format!("{NAME}-TOOL")),
    ));
    let texts = text::read(NAME)?;
    for section in &texts {
        page.section(section);
    }
    page.heading("SH", "TOOLS");
    for tool in &TOOLS {
        let about = tool.command().get_about().map(ToString::to_string);
        page.item(
            &format!("\\fB{}\\fR(1)", escape(tool.name())),
            &about.unwrap_or_default(),
        );
    }
    for section in &text::read("common")? {
        page.section(section);
    }
    page.see_also(TOOLS.iter().map(Entry::name));
    Ok(page.0)
}

/// A page as far as it is written.
struct Page(String);

impl Page {
    fn begin(name: &str, about: &str) -> Self {
        let mut page = Self(format!(
            ".TH {} 1 \"\" \"{NAME} {}\" \"PostgreSQL in object stores\"\n",
            escape(&name.to_uppercase()),
            env!("CARGO_PKG_VERSION"),
        ));
        page.heading("SH", "NAME");
        page.line(&format!("{name} - {about}"));
        page
    }

    fn heading(&mut self, macro_name: &str, text: &str) {
        let _ = writeln!(self.0, ".{macro_name} \"{}\"", escape(text));
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(&escape(text));
        self.0.push('\n');
    }

    fn synopsis(&mut self, name: &str, arguments: &[Argument]) {
        self.heading("SH", "SYNOPSIS");
        let _ = write!(self.0, ".B {}\n[\\fIOPTION\\fR]...\n", escape(name));
        for argument in arguments.iter().filter(|one| one.spellings.is_empty()) {
            let value = argument.value.as_deref().unwrap_or_default();
            let value = format!("\\fI{}\\fR", escape(value));
            let _ = if argument.required {
                writeln!(self.0, "{value}")
            } else {
                writeln!(self.0, "[{value}]")
            };
        }
    }

    fn item(&mut self, term: &str, text: &str) {
        let _ = write!(self.0, ".TP\n{term}\n");
        self.line(text);
    }

    fn argument(&mut self, argument: &Argument) {
        let bold = |text: &String| format!("\\fB{}\\fR", escape(text));
        let spellings: Vec<_> = argument.spellings.iter().map(bold).collect();
        let mut term = spellings.join(", ");
        if let Some(value) = &argument.value {
            let blank = if term.is_empty() { "" } else { " " };
            let _ = write!(term, "{blank}\\fI{}\\fR", escape(value));
        }
        self.item(&term, &argument.help);
        let choices = argument.choices.join(", ");
        let default = argument.default.as_deref().unwrap_or_default();
        for (words, text) in [("One of", choices.as_str()), ("Default:", default)] {
            if !text.is_empty() {
                self.0.push_str(".br\n");
                self.line(&format!("{words} {text}"));
            }
        }
    }

    fn section(&mut self, section: &Section) {
        self.heading("SH", &section.name);
        for block in &section.blocks {
            match block {
                Block::Paragraph(text) => {
                    self.0.push_str(".PP\n");
                    self.line(text);
                }
                Block::Literal(lines) => {
                    self.0.push_str(".PP\n.RS 4\n.nf\n");
                    for line in lines {
                        self.line(line);
                    }
                    self.0.push_str(".fi\n.RE\n");
                }
            }
        }
    }

    fn see_also<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.heading("SH", "SEE ALSO");
        let names: Vec<_> = names
            .map(|name| format!(".BR {} (1)", escape(name)))
            .collect();
        self.0.push_str(&names.join(",\n"));
        self.0.push('\n');
    }
}

/// The text as it is: no letter of it means anything to the formatter.
fn escape(text: &str) -> String {
    let mut escaped = text.replace('\\', "\\e").replace('-', "\\-");
    escaped = escaped.replace('"', "\\(dq").replace('\'', "\\(aq");
    if escaped.starts_with('.') {
        escaped.insert_str(0, "\\&");
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_a_command_of_the_formatter() {
        assert_eq!(
            escape(".conf 'a-b' \\ \"c\""),
            "\\&.conf \\(aqa\\-b\\(aq \\e \\(dqc\\(dq"
        );
    }

    #[test]
    fn an_argument_is_told_with_all_its_spellings_its_choices_and_its_default() {
        let mut page = Page(String::new());
        page.argument(&Argument {
            heading: None,
            spellings: vec!["-P".into(), "--one".into(), "--two".into()],
            value: Some("X".into()),
            help: "What it does".into(),
            default: Some("a".into()),
            choices: vec!["a".into(), "b".into()],
            required: false,
        });
        let term = ".TP\n\\fB\\-P\\fR, \\fB\\-\\-one\\fR, \\fB\\-\\-two\\fR \\fIX\\fR\n";
        let text = "What it does\n.br\nOne of a, b\n.br\nDefault: a\n";
        assert_eq!(page.0, format!("{term}{text}"));
    }
}
