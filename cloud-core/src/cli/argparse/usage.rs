//! The usage line, where clap's own is too long for a terminal.

use clap::Command;

/// Columns that help and usage fit into.
pub(super) const WIDTH: usize = 80;

/// The same command, with a usage that goes on in the next line where it must: clap wraps
/// everything else of a help.
pub(super) fn wrapped(mut command: Command) -> Command {
    let usage = command.render_usage().to_string();
    let title = "Usage: ";
    let Some(usage) = usage.trim_end().strip_prefix(title) else {
        return command;
    };
    if title.len() + usage.len() <= WIDTH {
        return command;
    }
    let text = wrap(usage, WIDTH - title.len(), &" ".repeat(title.len()));
    command.override_usage(text)
}

/// Lines of at most `width` columns, those after the first behind `indent`.
fn wrap(usage: &str, width: usize, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for piece in pieces(usage) {
        let line = lines.last_mut().expect("there is one from the beginning");
        if !line.is_empty() && line.len() + piece.trim_end().len() > width {
            lines.push(piece.to_owned());
        } else {
            line.push_str(piece);
        }
    }
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join(&format!("\n{indent}"))
}

/// Cuts behind blanks that are outside of brackets, and behind bars, which stand between
/// options of which one is needed.
fn pieces(usage: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, c) in usage.char_indices() {
        match c {
            '<' | '[' => depth += 1,
            '>' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == '|' || (c == ' ' && depth == 0) {
            pieces.push(&usage[start..=at]);
            start = at + 1;
        }
    }
    pieces.push(&usage[start..]);
    pieces
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn a_usage_goes_on_behind_blanks_and_bars() {
        let usage = "tool [OPTIONS] <--one <A>|--two <B B>> <url> [path]";
        assert_eq!(wrap(usage, 80, "  "), usage);
        let narrow = "tool [OPTIONS]\n  <--one <A>|\n  --two <B B>>\n  <url> [path]";
        assert_eq!(wrap(usage, 14, "  "), narrow);
    }
}
