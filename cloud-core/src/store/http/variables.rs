//! The environment variables that decide how a store is reached.
//!
//! A snapshot, so that tests set what they need and change nothing.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

/// Variables by name. One that is empty counts as not set.
#[derive(Clone, Default)]
pub(in crate::store) struct Variables(HashMap<OsString, OsString>);

impl Variables {
    /// Those of this process that matter here.
    pub(in crate::store) fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter(|(name, _)| matters(name))
                .collect(),
        )
    }

    #[cfg(test)]
    pub(in crate::store) fn of(pairs: &[(&str, &str)]) -> Self {
        let own = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        Self(pairs.iter().map(own).collect())
    }

    #[cfg(test)]
    pub(in crate::store) fn and(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The value as text; one that is not UTF-8 counts as not set.
    pub(in crate::store) fn get(&self, name: &str) -> Option<&str> {
        self.os(name)?.to_str()
    }

    /// The value as text, an empty one too: some variables count as soon as they
    /// are there. One that is not UTF-8 counts as empty.
    #[cfg(feature = "azure")]
    pub(in crate::store) fn even_empty(&self, name: &str) -> Option<&str> {
        Some(self.0.get(OsStr::new(name))?.to_str().unwrap_or_default())
    }

    /// The first of `names` that is set.
    pub(in crate::store) fn first(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }

    /// The value as a path, `~` at its beginning replaced.
    pub(in crate::store) fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.expand(self.os(name)?))
    }

    /// `~` and `~/` at the beginning are the home directory.
    pub(in crate::store) fn expand(&self, path: &OsStr) -> PathBuf {
        let rest = match path.to_str() {
            Some("~") => "",
            Some(text) if text.starts_with("~/") => &text[2..],
            _ => return path.into(),
        };
        self.home()
            .map_or_else(|| path.into(), |home| home.join(rest))
    }

    /// `HOME`, or what the system's user database says: service managers do not
    /// all set it.
    pub(in crate::store) fn home(&self) -> Option<PathBuf> {
        self.os("HOME").map(PathBuf::from).or_else(|| {
            let user = nix::unistd::User::from_uid(nix::unistd::getuid());
            Some(user.ok()??.dir)
        })
    }

    /// All of them, in the order of their names.
    pub(in crate::store) fn sorted(&self) -> Vec<(&OsStr, &OsStr)> {
        let pairs = self.0.iter();
        let mut pairs: Vec<_> = pairs.map(|(n, v)| (n.as_os_str(), v.as_os_str())).collect();
        pairs.sort_unstable();
        pairs
    }

    fn os(&self, name: &str) -> Option<&OsStr> {
        let value = self.0.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value)
    }
}

/// Variables that do not tell by their names whose they are.
const OTHERS: [&str; 9] = [
    "BOTO_CONFIG",
    "CLOUDSDK_CONFIG",
    "CURL_CA_BUNDLE",
    "GCLOUD_PROJECT",
    "GCP_COMPUTE_ENDPOINT",
    "HOME",
    "NO_GCE_CHECK",
    "REQUESTS_CA_BUNDLE",
    "STORAGE_EMULATOR_HOST",
];

fn matters(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        ["AWS_", "AZURE_", "GCE_METADATA_", "GOOGLE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || name.to_ascii_lowercase().ends_with("_proxy")
            || OTHERS.contains(&name)
    })
}

/// Names alone: some values are secrets.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.0.keys().collect();
        names.sort();
        f.debug_tuple("Variables").field(&names).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn values_are_not_shown_and_empty_ones_are_not_set() {
        let variables = Variables::of(&[("AWS_SECRET_ACCESS_KEY", "hush"), ("AWS_PROFILE", "")]);
        assert!(!format!("{variables:?}").contains("hush"));
        assert_eq!(variables.get("AWS_PROFILE"), None);
        assert_eq!(variables.get("AWS_SECRET_ACCESS_KEY"), Some("hush"));
        let first = variables.first(&["AWS_PROFILE", "AWS_SECRET_ACCESS_KEY"]);
        assert_eq!(first, Some(("AWS_SECRET_ACCESS_KEY", "hush")));
    }

    #[test]
    fn a_tilde_is_the_home_directory() {
        let variables = Variables::of(&[("HOME", "/h"), ("A", "~/b"), ("C", "~c"), ("D", "~")]);
        let path = |name| variables.path(name).unwrap();
        assert_eq!(path("A"), Path::new("/h/b"));
        assert_eq!(path("C"), Path::new("~c"));
        assert_eq!(path("D"), Path::new("/h"));
    }
}
