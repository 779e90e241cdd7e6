//! What a manual page says beyond the arguments: `texts/TOOL.txt`, and
//! `texts/common.txt` for all.
//!
//! A text has sections, `## NAME`, with paragraphs set apart by empty lines. What is
//! indented by four blanks is a command or a piece of a file, and is printed as it is.

use std::fs;
use std::io;
use std::path::Path;

/// A section of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Paragraph(String),
    /// Lines as they are, without the indentation.
    Literal(Vec<String>),
}

/// The sections of `texts/NAME.txt`; none if there is no such file.
pub(crate) fn read(name: &str) -> io::Result<Vec<Section>> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/texts"));
    match fs::read_to_string(folder.join(format!("{name}.txt"))) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    // Whether the next line goes on with the block before.
    let mut open = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            let name = name.to_owned();
            let blocks = Vec::new();
            sections.push(Section { name, blocks });
            open = false;
            continue;
        }
        let Some(section) = sections.last_mut() else {
            continue;
        };
        if line.is_empty() {
            open = false;
            continue;
        }
        let literal = line.strip_prefix("    ");
        match (section.blocks.last_mut(), literal) {
            (Some(Block::Literal(lines)), Some(line)) if open => lines.push(line.to_owned()),
            (Some(Block::Paragraph(text)), None) if open => {
                text.push(' ');
                text.push_str(line);
            }
            (_, Some(line)) => section.blocks.push(Block::Literal(vec![line.to_owned()])),
            (_, None) => section.blocks.push(Block::Paragraph(line.to_owned())),
        }
        open = true;
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_have_paragraphs_and_pieces_that_are_printed_as_they_are() {
        let text = "## ONE\na\nb\n\nc:\n    x\n      y\n\n## TWO\nd\n";
        let literal = Block::Literal(vec!["x".into(), "  y".into()]);
        let paragraph = |text: &str| Block::Paragraph(text.into());
        let one = vec![paragraph("a b"), paragraph("c:"), literal];
        let two = vec![paragraph("d")];
        let section = |name: &str, blocks| Section {
            name: name.into(),
            blocks,
        };
        assert_eq!(parse(text), [section("ONE", one), section("TWO", two)]);
    }
}
