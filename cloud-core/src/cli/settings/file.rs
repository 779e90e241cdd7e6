//! The file of settings.
//!
//! All of it is looked at, also what is of other tools and servers: a mistake shows when it
//! is made and not on the day of the restore. Values are never told, since a connection
//! string or a URL may hold a password; the line is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::Value;
use super::{Found, Level, known};

/// No file is larger, in bytes. (A device, named by mistake, would be.)
const MAX_SIZE: u64 = 1 << 20;

/// What a file says.
#[derive(Debug)]
pub(super) struct File {
    path: String,
    defaults: Table,
    servers: BTreeMap<String, Profile>,
}

/// Options for all tools, and those for single ones.
#[derive(Debug, Default)]
struct Table {
    options: Level,
    tools: BTreeMap<String, Level>,
}

/// A server: where its backups and WAL are, and options.
#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) url: Option<String>,
    pub(super) server_name: Option<String>,
    table: Table,
}

impl Table {
    /// The levels of a tool, the one that counts more first.
    fn levels(&self, tool: &str) -> impl Iterator<Item = &Level> {
        self.tools.get(tool).into_iter().chain([&self.options])
    }
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong with it, and where.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let unread =
            |why: &str| format!("could not read the settings in {}: {why}", path.display());
        let mut text = String::new();
        let opened = fs::File::open(path);
        opened
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut text))
            .map_err(|error| unread(&error.to_string()))?;
        if text.len() as u64 > MAX_SIZE {
            return Err(unread("it is larger than 1 MiB"));
        }
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads the text of a file of this name.
    pub(super) fn parse(path: &str, text: &str) -> Result<Self, String> {
        let reader = Reader { path, text };
        let root = DeTable::parse(text).map_err(|error| {
            // The error itself would print the line.
            let at = error.span().unwrap_or_default();
            reader.wrong(&at, &format!("this is not TOML: {}", error.message()))
        })?;
        let mut file = Self {
            path: path.to_owned(),
            defaults: Table::default(),
            servers: BTreeMap::new(),
        };
        for (key, value) in root.get_ref() {
            let name = key.get_ref().as_ref();
            match (name, value.get_ref()) {
                ("defaults", DeValue::Table(table)) => {
                    file.defaults = reader.table(name, table.iter())?;
                }
                ("servers", DeValue::Table(servers)) => {
                    for (name, value) in servers {
                        let profile = reader.profile(name.get_ref(), value)?;
                        file.servers.insert(name.get_ref().to_string(), profile);
                    }
                }
                _ => {
                    let text = format!(
                        "`{name}` stands outside of the tables [defaults] and [servers.NAME]"
                    );
                    return Err(reader.wrong(&key.span(), &text));
                }
            }
        }
        Ok(file)
    }

    /// The server of this name.
    pub(super) fn profile(&self, name: &str) -> Result<&Profile, String> {
        self.servers.get(name).ok_or_else(|| {
            let path = &self.path;
            let there: Vec<&str> = self.servers.keys().map(String::as_str).collect();
            if there.is_empty() {
                format!("{path} has no [servers.{name}], nor any other server")
            } else {
                format!("{path} has no [servers.{name}], only: {}", there.join(", "))
            }
        })
    }

    /// What a tool is told for a server: levels, the one that counts most first.
    pub(super) fn levels<'a>(
        &'a self,
        tool: &'a str,
        profile: Option<&'a Profile>,
    ) -> impl Iterator<Item = &'a Level> {
        let of_server = profile
            .into_iter()
            .flat_map(move |profile| profile.table.levels(tool));
        of_server.chain(self.defaults.levels(tool))
    }
}

/// A text on its way to be a [`File`].
struct Reader<'a> {
    path: &'a str,
    text: &'a str,
}

type Entry<'a, 'i> = (
    &'a Spanned<toml::de::DeString<'i>>,
    &'a Spanned<DeValue<'i>>,
);

impl Reader<'_> {
    fn place(&self, at: &Range<usize>) -> String {
        let before = self.text.get(..at.start).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        format!("{}, line {line}", self.path)
    }

    fn wrong(&self, at: &Range<usize>, what: &str) -> String {
        format!("{}: {what}", self.place(at))
    }

    /// `[servers.NAME]`
    fn profile(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<Profile, String> {
        let DeValue::Table(table) = value.get_ref() else {
            let text = format!("`{name}` is no server: write [servers.{name}] above its settings");
            return Err(self.wrong(&value.span(), &text));
        };
        let mut profile = Profile::default();
        let mut options = Vec::new();
        for (key, value) in table {
            let place = match key.get_ref().as_ref() {
                "url" => &mut profile.url,
                "server-name" => &mut profile.server_name,
                _ => {
                    options.push((key, value));
                    continue;
                }
            };
            let text = value.get_ref().as_str().ok_or_else(|| {
                let text = format!("`{}` must be a text in quotes", key.get_ref());
                self.wrong(&key.span(), &text)
            })?;
            *place = Some(text.to_owned());
        }
        profile.table = self.table(&format!("servers.{name}"), options.into_iter())?;
        Ok(profile)
    }

    /// A table with options and tables of tools.
    fn table<'a, 'i: 'a>(
        &self,
        name: &str,
        entries: impl Iterator<Item = Entry<'a, 'i>>,
    ) -> Result<Table, String> {
        let mut table = Table::default();
        for (key, value) in entries {
            let DeValue::Table(of_tool) = value.get_ref() else {
                self.option(&mut table.options, name, None, (key, value))?;
                continue;
            };
            let tool = key.get_ref().as_ref();
            if !known::is_tool(tool) {
                let nearest = known::nearest(tool, known::tools());
                return Err(self.unknown(&key.span(), name, &format!("table `{tool}`"), nearest));
            }
            let name = format!("{name}.{tool}");
            let mut level = Level::new();
            for entry in of_tool {
                self.option(&mut level, &name, Some(tool), entry)?;
            }
            table.tools.insert(tool.to_owned(), level);
        }
        Ok(table)
    }

    /// Adds one option to a level, after a look whether it may stand there.
    fn option(
        &self,
        level: &mut Level,
        table: &str,
        tool: Option<&str>,
        (key, value): Entry<'_, '_>,
    ) -> Result<(), String> {
        let name = key.get_ref().as_ref();
        let at = key.span();
        let is_option = |of: Option<&str>| known::options(of).any(|option| option == name);
        if matches!(name, "url" | "server-name") {
            let text = format!("`{name}` belongs into a table [servers.NAME]");
            return Err(self.wrong(&at, &text));
        }
        if !is_option(None) {
            let nearest = known::nearest(name, known::options(tool));
            return Err(self.unknown(&at, table, &format!("key `{name}`"), nearest));
        }
        if known::is_typed_only(name) {
            let text = format!("--{name} must be typed where it is meant: take it out of the file");
            return Err(self.wrong(&at, &text));
        }
        if let Some(tool) = tool
            && !is_option(Some(tool))
        {
            let text = format!(
                "[{table}] has the key `{name}`, but barman-cloud-{tool} has no such option"
            );
            return Err(self.wrong(&at, &text));
        }
        let found = Found {
            value: value_of(value.get_ref()),
            origin: format!("`{name}` in {}", self.place(&at)),
        };
        level.insert(name.to_owned(), found);
        Ok(())
    }

    fn unknown(&self, at: &Range<usize>, table: &str, what: &str, nearest: Option<&str>) -> String {
        let meant = nearest.map(|known| format!(": is `{known}` meant?"));
        let text = format!(
            "[{table}] has the unknown {what}{}",
            meant.unwrap_or_default()
        );
        self.wrong(at, &text)
    }
}

/// A value; what it should be, its option knows.
fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Boolean(yes) => Value::Flag(*yes),
        DeValue::Array(list) => {
            let words: Option<Vec<String>> = list.iter().map(|item| word(item.get_ref())).collect();
            words.map_or(Value::Unfit, Value::Words)
        }
        single => word(single).map_or(Value::Unfit, |word| Value::Words(vec![word])),
    }
}

/// A value that can be typed as one word.
fn word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let number = i128::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string())
        }
        _ => None,
    }
}
