//! What `barman-cloud-verify` says of a backup.

use serde_json::Value;

use crate::place::Place;
use crate::tools::Run;

/// A backup that was checked.
#[derive(Debug)]
pub struct Proof {
    /// How the tool ended.
    pub run: Run,
    /// Its object.
    pub report: Value,
}

impl Proof {
    /// Reads what a run with `--format json` printed.
    ///
    /// # Panics
    ///
    /// If it proved nothing, or its parts do not go together.
    pub fn of(run: Run) -> Self {
        let report: Value = serde_json::from_str(&run.stdout)
            .unwrap_or_else(|error| panic!("no report: {error}: {run}"));
        let findings = report["findings"].as_array().expect("a list").clone();
        let total = report["findings_total"].as_u64().expect("a number");
        assert!(total >= findings.len() as u64, "{run}");
        for finding in &findings {
            for name in ["kind", "where", "detail", "advice"] {
                let text = finding[name].as_str().unwrap_or_default();
                assert!(!text.is_empty() && !text.contains('\n'), "{name}: {run}");
            }
        }
        let told = match report["status"].as_str() {
            Some("good") => total == 0 && run.code() == Some(0) && run.errors().is_empty(),
            Some("damaged") => total > 0 && run.code() == Some(1) && run.errors().len() == 1,
            _ => false,
        };
        assert!(told, "{run}");
        Self { run, report }
    }

    /// Nothing was found.
    pub fn is_good(&self) -> bool {
        self.report["status"] == "good"
    }

    /// The findings: kind and place.
    pub fn findings(&self) -> Vec<(String, String)> {
        let findings = self.report["findings"].as_array().expect("a list").iter();
        let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().into();
        findings
            .map(|finding| (text(finding, "kind"), text(finding, "where")))
            .collect()
    }

    /// Whether a finding is about the object `key`, or a file in it.
    pub fn names(&self, key: &str) -> bool {
        let about = |place: &str| {
            let rest = place.strip_suffix(key).or_else(|| {
                let (before, _) = place.split_once(&format!("{key}:"))?;
                Some(before)
            });
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        self.findings().iter().any(|(_, place)| about(place))
    }

    /// A number of the report.
    pub fn number(&self, name: &str) -> u64 {
        let number = self.report[name].as_u64();
        number.unwrap_or_else(|| panic!("no number `{name}`: {}", self.run))
    }
}

impl Place<'_> {
    /// Proves the backup that a word means.
    pub fn prove(&self, backup: &str, options: &[&str]) -> Proof {
        let run = self
            .tool("barman-cloud-verify")
            .args(["--format=json"])
            .args(options)
            .args([self.url(), "main", backup])
            .run();
        Proof::of(run)
    }
}
