//! Doors for fuzzing: strings and files that say how to connect.

use std::ffi::OsString;

use super::gather::{Surroundings, Values, Var, is_known};
use super::{files, hosts, parse};

/// Nothing but what the input says.
#[derive(Debug)]
struct Nothing;

impl Var for Nothing {
    fn var(&self, _name: &str) -> Option<OsString> {
        None
    }
}

/// A connection string, a URI, a service file and a password file in one. Values that
/// were read are the same when they are written as a string.
pub(crate) fn conninfo(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = files::section(&text, "main");
    for line in text.lines() {
        assert!((1..=5).contains(&files::fields(line).len()));
    }
    let parsed = [parse::key_values(&text), parse::uri(&text)];
    for values in parsed.into_iter().flatten() {
        if values.keys().all(|name| is_known(name)) {
            let again = parse::key_values(&written(&values));
            assert_eq!(again.as_ref(), Ok(&values));
        }
        // Files that it names are somebody's.
        if !values.contains_key("passfile") {
            let around = Surroundings {
                var: &Nothing,
                os_user: None,
                home: None,
            };
            let _ = hosts::read(&values, &around, "user", "db");
        }
    }
}

fn written(values: &Values) -> String {
    let pairs = values.iter().map(|(name, value)| {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        format!("{name}='{value}' ")
    });
    pairs.collect()
}
