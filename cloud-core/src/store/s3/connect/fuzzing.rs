//! A door for fuzzing: files and answers with credentials.

use super::ini::Ini;
use super::json;

/// A file of profiles, and the answer of a program or a service.
pub(in crate::store::s3) fn files(data: &[u8], text: &str) {
    if let Ok(ini) = Ini::parse(text) {
        for name in ["default", "p"] {
            let sections = [ini.section(name), ini.named("profile", name)];
            for section in sections.into_iter().flatten() {
                let _ = (section.get("region"), section.nested("s3", "endpoint_url"));
            }
        }
    }
    if let Ok(credentials) = json::credentials(data, "process") {
        assert!(!credentials.access_key_id().is_empty());
        assert!(!credentials.secret_access_key().is_empty());
    }
}
