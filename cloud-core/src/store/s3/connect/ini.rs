//! The files `~/.aws/config` and `~/.aws/credentials`, as the reference reads
//! them.
//!
//! Sections of `key = value` (or `key: value`). A line that is indented
//! continues the value above it; a value of nothing but such lines is a table of
//! its own (`s3 =`). Comments have a line for themselves: `#` in a value is
//! part of it.

use std::collections::BTreeMap;
use std::fmt;

/// The sections of a file by the text between the brackets.
#[derive(Clone, Default)]
pub(super) struct Ini(BTreeMap<String, Section>);

/// The settings of a section by name, which is in lower case.
#[derive(Clone, Default)]
pub(super) struct Section(BTreeMap<String, String>);

impl Ini {
    /// Reads a file. The error says in which line what was expected, and shows
    /// nothing of it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut sections: BTreeMap<String, Section> = BTreeMap::new();
        let mut section: Option<String> = None;
        let mut key: Option<String> = None;
        for (at, raw) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let wrong = |expected| Err(format!("line {}: {expected}", at + 1));
            if raw.starts_with([' ', '\t'])
                && let (Some(section), Some(key)) = (&section, &key)
            {
                let settings = sections.entry(section.clone()).or_default();
                let value = settings.0.entry(key.clone()).or_default();
                value.push('\n');
                value.push_str(line);
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let Some((name, _)) = rest.split_once(']') else {
                    return wrong("expected `]` at the end of the section's name");
                };
                let name = name.trim().to_owned();
                sections.entry(name.clone()).or_default();
                (section, key) = (Some(name), None);
                continue;
            }
            let Some(section) = &section else {
                return wrong("expected a section, `[name]`, first");
            };
            let Some((name, value)) = line.split_once(['=', ':']) else {
                return wrong("expected `key = value`");
            };
            let name = name.trim().to_lowercase();
            let settings = sections.entry(section.clone()).or_default();
            settings.0.insert(name.clone(), value.trim().to_owned());
            key = Some(name);
        }
        Ok(Self(sections))
    }

    /// The section whose name is written so.
    pub(super) fn section(&self, name: &str) -> Option<&Section> {
        self.0.get(name)
    }

    /// The section `[kind name]`, the name with or without quotes.
    pub(super) fn named(&self, kind: &str, name: &str) -> Option<&Section> {
        let found = self.0.iter().find(|(title, _)| {
            title
                .strip_prefix(kind)
                .filter(|rest| rest.starts_with([' ', '\t']))
                .is_some_and(|rest| rest.trim().trim_matches(['"', '\'']) == name)
        });
        found.map(|(_, section)| section)
    }
}

impl Section {
    /// A setting; one that is empty counts as not set.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?;
        (!value.is_empty()).then_some(value)
    }

    /// A setting in the table that `key` is.
    pub(super) fn nested(&self, key: &str, inner: &str) -> Option<&str> {
        let table = self.0.get(key)?.strip_prefix('\n')?;
        table.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            let value = value.trim();
            (name.trim() == inner && !value.is_empty()).then_some(value)
        })
    }
}

/// Names alone: some values are secrets.
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Debug for Ini {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# a comment
[default]
Region = eu-south-1
aws_secret_access_key: a#b = c
empty =

[profile \"dev\"]
s3 =
    addressing_style = path
    ; not a setting
  use_accelerate_endpoint = true
region=x
[services local]
s3 =
  endpoint_url = http://127.0.0.1:9000
";

    #[test]
    fn a_file_is_read_as_the_reference_reads_it() {
        let ini = Ini::parse(FILE).unwrap();
        let default = ini.section("default").unwrap();
        assert_eq!(default.get("region"), Some("eu-south-1"));
        assert_eq!(default.get("aws_secret_access_key"), Some("a#b = c"));
        assert_eq!(default.get("empty"), None);
        let dev = ini.named("profile", "dev").unwrap();
        assert_eq!(dev.nested("s3", "addressing_style"), Some("path"));
        assert_eq!(dev.nested("s3", "use_accelerate_endpoint"), Some("true"));
        assert_eq!(dev.nested("region", "x"), None);
        assert_eq!(dev.get("region"), Some("x"));
        let services = ini.named("services", "local").unwrap();
        let endpoint = services.nested("s3", "endpoint_url");
        assert_eq!(endpoint, Some("http://127.0.0.1:9000"));
        assert!(ini.named("prof", "ile dev").is_none());
    }

    #[test]
    fn a_broken_file_names_the_line_and_shows_nothing_of_it() {
        for (text, expected) in [
            ("key = hush", "line 1: expected a section, `[name]`, first"),
            ("[a]\nhush", "line 2: expected `key = value`"),
            (
                "\n[hush",
                "line 2: expected `]` at the end of the section's name",
            ),
        ] {
            assert_eq!(Ini::parse(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Ini::parse(FILE).unwrap());
        assert!(shown.contains("aws_secret_access_key") && !shown.contains("a#b"));
    }
}
