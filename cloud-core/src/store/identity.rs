//! Which store is meant, as a text to compare: what one call remembers of a store
//! counts for another call only if both mean the same one.
//!
//! The URL alone does not tell: options, variables and files decide which service
//! answers, and for whom. All of them are taken, secrets too, and none can be read
//! out of the text. What decides nothing may well be among them: then something is
//! forgotten that could have been remembered.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::StoreConfig;
#[cfg(feature = "remote")]
use super::http::Variables;
use super::url::StoreUrl;

/// A text that is the same only if the store is.
///
/// Reads variables of the environment and what the system says of a few files, never
/// their content.
pub fn identity(config: &StoreConfig) -> String {
    let mut facts = Facts(Sha256::new());
    // Every option, also one that is added later.
    facts.add(&format!("{config:?}"));
    // A directory that is not mounted is not the one that was.
    if let Ok(StoreUrl::Local { root }) = StoreUrl::parse(config.provider, &config.url) {
        facts.add_directory(&root);
    } else {
        facts.add_environment();
    }
    let mut text = String::new();
    for byte in facts.0.finalize() {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

struct Facts(Sha256);

impl Facts {
    fn add(&mut self, fact: &str) {
        self.0.update((fact.len() as u64).to_le_bytes());
        self.0.update(fact);
    }

    fn add_directory(&mut self, path: &Path) {
        let found = std::fs::metadata(path).ok();
        self.add(&format!(
            "{path:?} {:?}",
            found.map(|found| (found.dev(), found.ino()))
        ));
    }

    /// A file that is written anew is another one, whatever it says.
    #[cfg(feature = "remote")]
    fn add_file(&mut self, path: &Path) {
        let found = std::fs::metadata(path).ok().map(|found| {
            let (modified, changed) = (found.mtime_nsec(), found.ctime_nsec());
            let times = (found.mtime(), modified, found.ctime(), changed);
            (found.dev(), found.ino(), found.size(), times)
        });
        self.add(&format!("{path:?} {found:?}"));
    }

    #[cfg(feature = "remote")]
    fn add_environment(&mut self) {
        let variables = Variables::of_process();
        for (name, value) in variables.sorted() {
            self.add(&format!("{name:?}={value:?}"));
        }
        for path in files(&variables) {
            self.add_file(&path);
        }
    }

    #[cfg(not(feature = "remote"))]
    fn add_environment(&mut self) {}
}

/// The files that name services or say who asks.
#[cfg(feature = "remote")]
fn files(variables: &Variables) -> Vec<PathBuf> {
    let one = |variable: &str, usual: &str| {
        let named = variables.path(variable);
        named.unwrap_or_else(|| variables.expand(usual.as_ref()))
    };
    vec![
        one("AWS_CONFIG_FILE", "~/.aws/config"),
        one("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        one("AWS_CREDENTIAL_FILE", "~/.aws/credentials"),
        one("BOTO_CONFIG", "~/.boto"),
        PathBuf::from("/etc/boto.cfg"),
        one("CLOUDSDK_CONFIG", "~/.config/gcloud").join("application_default_credentials.json"),
        one("GOOGLE_APPLICATION_CREDENTIALS", "~/.config/gcloud"),
        one("AZURE_CLIENT_CERTIFICATE_PATH", "~/.azure"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Provider;

    fn config(url: &str) -> StoreConfig {
        StoreConfig {
            url: url.to_owned(),
            ..StoreConfig::default()
        }
    }

    #[test]
    fn every_option_makes_another_store() {
        type Change = fn(&mut StoreConfig);
        let changes: [Change; 12] = [
            |config| config.url.push('x'),
            |config| config.provider = Provider::GoogleCloudStorage,
            |config| config.endpoint_url = Some("http://127.0.0.1:1".into()),
            |config| config.aws_profile = Some("other".into()),
            |config| config.read_timeout = Some(5),
            |config| config.addressing_style = Some("path".into()),
            |config| config.encryption = Some("AES256".into()),
            |config| config.sse_kms_key_id = Some("key".into()),
            |config| config.sse_customer_key = Some("file:///key".into()),
            |config| config.azure_credential = Some("default".into()),
            |config| config.encryption_scope = Some("scope".into()),
            |config| config.kms_key_name = Some("key".into()),
        ];
        let plain = config("s3://bucket/path");
        let mut seen = vec![identity(&plain)];
        assert_eq!(identity(&plain), seen[0]);
        for change in changes {
            let mut other = plain.clone();
            change(&mut other);
            let text = identity(&other);
            assert!(!seen.contains(&text), "{other:?}");
            seen.push(text);
        }
    }

    /// A directory whose file system is not mounted has the same name.
    #[test]
    fn a_directory_in_the_place_of_another_is_another_store() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let root = parent.path().join("archive");
        let config = config(&format!("file://{}", root.display()));
        let absent = identity(&config);
        std::fs::create_dir(&root).expect("a directory");
        let first = identity(&config);
        std::fs::write(root.join("object"), "").expect("a file");
        assert_eq!(identity(&config), first, "what is in it does not matter");
        std::fs::rename(&root, parent.path().join("aside")).expect("moves");
        std::fs::create_dir(&root).expect("a directory");
        let second = identity(&config);
        assert!(absent != first && first != second && second != absent);
    }

    #[cfg(feature = "remote")]
    #[test]
    fn a_file_of_settings_that_is_written_anew_is_another_one() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("config");
        let text = |path: &Path| {
            let mut facts = Facts(Sha256::new());
            facts.add_file(path);
            facts.0.finalize()
        };
        let absent = text(&path);
        std::fs::write(&path, "endpoint_url = a").expect("a file");
        let first = text(&path);
        std::fs::write(directory.path().join("new"), "endpoint_url = b").expect("a file");
        std::fs::rename(directory.path().join("new"), &path).expect("moves");
        assert!(absent != first && first != text(&path));
        let variables = Variables::of(&[
            ("AWS_CONFIG_FILE", path.to_str().expect("UTF-8")),
            ("HOME", "/home/h"),
        ]);
        let files = files(&variables);
        assert!(files.contains(&path));
        assert!(files.contains(&PathBuf::from("/home/h/.aws/credentials")));
    }
}
