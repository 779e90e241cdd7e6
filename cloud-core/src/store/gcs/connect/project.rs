//! The project that a bucket is created in; nothing else needs one.

use std::fs;

use crate::store::http::Variables;

/// The project that the environment names.
pub(super) fn named(variables: &Variables) -> Option<String> {
    let named = variables.first(&["GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"]);
    named.map(|(_, project)| project.to_owned())
}

/// The project of gcloud's active configuration.
pub(super) fn configured(variables: &Variables) -> Option<String> {
    let folder = super::source::gcloud_folder(variables)?;
    let active = fs::read_to_string(folder.join("active_config")).unwrap_or_default();
    let active = match active.trim() {
        "" => "default",
        name => name,
    };
    let file = folder.join(format!("configurations/config_{active}"));
    project_of(&fs::read_to_string(file).ok()?)
}

/// `project` in the section `core`.
fn project_of(text: &str) -> Option<String> {
    let mut in_core = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            in_core = section.trim_end_matches(']').trim() == "core";
        } else if in_core
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == "project"
        {
            let value = value.trim();
            return (!value.is_empty()).then(|| value.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_that_of_the_active_configuration() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/gcloud");
        fs::create_dir_all(folder.join("configurations")).unwrap();
        let variables = Variables::of(&[]).and("HOME", home.path());
        assert_eq!(configured(&variables), None);
        let other = "[compute]\nproject = wrong\n[core]\naccount = a\nproject = right\n";
        fs::write(folder.join("configurations/config_default"), other).unwrap();
        assert_eq!(configured(&variables).as_deref(), Some("right"));
        fs::write(folder.join("active_config"), "work\n").unwrap();
        assert_eq!(configured(&variables), None);
        fs::write(
            folder.join("configurations/config_work"),
            "[core]\nproject=w",
        )
        .unwrap();
        assert_eq!(configured(&variables).as_deref(), Some("w"));
    }
}
