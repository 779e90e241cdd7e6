//! Which profile is meant, and what the two files say of it.
//!
//! A profile can stand in both files; for a setting that is in both, the
//! credentials file wins.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::ConnectError;
use super::Variables;
use super::ini::{Ini, Section};

/// The two files, and the profile that was chosen.
#[derive(Debug, Clone, Default)]
pub(super) struct Profiles {
    config: Ini,
    credentials: Ini,
    /// The chosen profile.
    pub(super) chosen: String,
    /// Files that are there and may not be read: told only if nothing is found.
    pub(super) unreadable: Vec<String>,
}

/// What is said of a profile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// In the credentials file.
    pub(super) credentials: Option<&'a Section>,
    /// In the configuration file.
    pub(super) config: Option<&'a Section>,
}

impl<'a> Profile<'a> {
    /// A setting of the profile.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.sections().find_map(|section| section.get(key))
    }

    /// A setting in one of its tables.
    pub(super) fn nested(&self, key: &str, inner: &str) -> Option<&'a str> {
        self.sections()
            .find_map(|section| section.nested(key, inner))
    }

    fn sections(&self) -> impl Iterator<Item = &'a Section> {
        self.credentials.into_iter().chain(self.config)
    }
}

impl Profiles {
    /// Reads the files. `named` is the profile of the command line.
    ///
    /// # Errors
    ///
    /// A file that is no such file, and a profile that was named but is in
    /// neither.
    pub(super) fn load(variables: &Variables, named: Option<&str>) -> Result<Self, ConnectError> {
        let mut unreadable = Vec::new();
        let mut read = |variable, name| {
            let path = variables
                .path(variable)
                .or_else(|| Some(variables.home()?.join(".aws").join(name)));
            read(path, &mut unreadable)
        };
        let config = read("AWS_CONFIG_FILE", "config")?;
        let credentials = read("AWS_SHARED_CREDENTIALS_FILE", "credentials")?;
        let by_variable = || variables.first(&["AWS_DEFAULT_PROFILE", "AWS_PROFILE"]);
        let asked = named.or_else(|| by_variable().map(|(_, name)| name));
        let profiles = Self {
            config,
            credentials,
            chosen: asked.unwrap_or("default").to_owned(),
            unreadable,
        };
        if asked.is_some() && profiles.profile(&profiles.chosen).is_none() {
            let mut text = format!(
                "The config profile ({}) could not be found",
                profiles.chosen
            );
            for file in &profiles.unreadable {
                text.push_str("; ");
                text.push_str(file);
            }
            return Err(ConnectError::invalid(text));
        }
        Ok(profiles)
    }

    /// The profile of that name, if either file has it.
    pub(super) fn profile<'a>(&'a self, name: &'a str) -> Option<Profile<'a>> {
        let named = self.config.named("profile", name);
        let plain = || self.config.section(name).filter(|_| name == "default");
        let config = named.or_else(plain);
        let credentials = self.credentials.section(name);
        (config.is_some() || credentials.is_some()).then_some(Profile {
            name,
            credentials,
            config,
        })
    }

    /// The chosen profile; one without settings if it is in neither file.
    pub(super) fn chosen(&self) -> Profile<'_> {
        self.profile(&self.chosen).unwrap_or(Profile {
            name: &self.chosen,
            credentials: None,
            config: None,
        })
    }

    /// The section `[sso-session name]`.
    pub(super) fn sso_session(&self, name: &str) -> Option<&Section> {
        self.config.named("sso-session", name)
    }

    /// The section `[services name]`.
    pub(super) fn services(&self, name: &str) -> Option<&Section> {
        self.config.named("services", name)
    }
}

/// Reads a file of this form, which need not be there.
pub(super) fn read(
    path: Option<PathBuf>,
    unreadable: &mut Vec<String>,
) -> Result<Ini, ConnectError> {
    let Some(path) = path else {
        return Ok(Ini::default());
    };
    let shown = path.display();
    let failed = |why: String| ConnectError::invalid(format!("could not read `{shown}`: {why}"));
    match read_text(&path) {
        Ok(text) => Ini::parse(&text).map_err(failed),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                Ok(Ini::default())
            }
            // The home directory of another user, most often.
            ErrorKind::PermissionDenied => {
                unreadable.push(format!("`{shown}` may not be read by this user"));
                Ok(Ini::default())
            }
            _ => Err(failed(error.to_string())),
        },
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let bytes = std::fs::read(path)?;
    String::from_utf8(bytes)
        .map_err(|_| std::io::Error::new(ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Home;
    use super::*;

    #[test]
    fn the_profile_of_the_command_line_comes_first_then_the_variables() {
        let home = Home::new();
        home.credentials("[a]\nk=1\n[b]\nk=2\n[c]\nk=3\n[default]\nk=4\n");
        let chosen = |named, pairs: &[(&str, &str)]| {
            let mut variables = home.variables();
            for (name, value) in pairs {
                variables = variables.and(name, value);
            }
            let profiles = Profiles::load(&variables, named).unwrap();
            profiles.chosen().get("k").unwrap().to_owned()
        };
        let both = [("AWS_PROFILE", "c"), ("AWS_DEFAULT_PROFILE", "b")];
        assert_eq!(chosen(Some("a"), &both), "1");
        assert_eq!(chosen(None, &both), "2");
        assert_eq!(chosen(None, &both[..1]), "3");
        assert_eq!(chosen(None, &[]), "4");
    }

    #[test]
    fn a_named_profile_must_be_somewhere() {
        let home = Home::new();
        home.config("[profile here]\nregion = x\n[there]\nregion = y\n");
        assert!(Profiles::load(&home.variables(), Some("here")).is_ok());
        // In the configuration file a profile needs the word before it.
        for missing in ["there", "default", "x"] {
            let error = Profiles::load(&home.variables(), Some(missing)).unwrap_err();
            let text = format!("The config profile ({missing}) could not be found");
            assert_eq!(error.to_string(), text);
        }
        // Nobody asked for `default` here.
        assert!(Profiles::load(&home.variables(), None).is_ok());
    }

    #[test]
    fn the_credentials_file_wins() {
        let home = Home::new();
        home.config("[default]\nregion = config\noutput = json\n");
        home.credentials("[default]\nregion = credentials\n");
        let profiles = Profiles::load(&home.variables(), None).unwrap();
        assert_eq!(profiles.chosen().get("region"), Some("credentials"));
        assert_eq!(profiles.chosen().get("output"), Some("json"));
    }

    #[test]
    fn a_broken_file_is_told_by_name_and_line() {
        let home = Home::new();
        home.config("[default]\nnonsense\n");
        let error = Profiles::load(&home.variables(), None).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("could not read `"), "{text}");
        assert!(
            text.ends_with("/.aws/config`: line 2: expected `key = value`"),
            "{text}"
        );
    }
}
