//! What a deletion would do, in the reference's words.

use std::collections::BTreeSet;

use super::wal::Going;
use super::{Found, Work};
use crate::catalogue::deletion::{Plan, Step};
use crate::catalogue::literal::Literal;
use crate::key::{Key, Prefix};
use crate::ops::{OpError, OpErrorKind};

/// Texts as a list of the Python language.
pub(super) fn python_list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let items = texts.into_iter().map(|text| Literal::Str(text.to_owned()));
    Literal::List(items.collect()).to_string()
}

/// The line for objects that would be deleted.
pub(super) fn objects(keys: &[Key]) -> String {
    let list = python_list(keys.iter().map(Key::as_str));
    format!("Skipping deletion of objects {list} due to --dry-run option\n")
}

/// WAL that goes with one backup.
#[derive(Debug, Clone, Default)]
struct Wal {
    directories: BTreeSet<Prefix>,
    objects: BTreeSet<Key>,
}

impl Work<'_> {
    /// The plan in words.
    pub(super) async fn print(&self, plan: &Plan, catalogue: &[Found]) -> Result<String, OpError> {
        let mut rules = Vec::new();
        let mut whose = Vec::new();
        for (number, step) in plan.steps.iter().enumerate() {
            if let Ok(of_step) = &step.wal {
                rules.push(of_step);
                whose.push(number);
            }
        }
        // Each step is told as if it were the only one, but that what an earlier one
        // took object by object is not told again: so the reference tells it.
        let mut wal = vec![Wal::default(); plan.steps.len()];
        let mut last = None;
        let sorted = self
            .sort_wal(&rules, true, async |going| {
                for going in going {
                    match going {
                        Going::Object(rule, key) => {
                            wal[whose[rule]].objects.insert(key);
                        }
                        Going::InDirectory(takers, prefix, _) => {
                            if last.as_ref() == Some(&prefix) {
                                continue;
                            }
                            let takers = takers.iter().zip(&whose).filter(|(takes, _)| **takes);
                            for (_, step) in takers {
                                wal[*step].directories.insert(prefix.clone());
                            }
                            last = Some(prefix);
                        }
                    }
                }
            })
            .await;
        sorted.map_err(|error| OpError::of_store(&error))?;
        let mut text = String::new();
        for (step, wal) in plan.steps.iter().zip(&wal) {
            text.push_str(&self.print_backup(step, catalogue).await?);
            for prefix in &wal.directories {
                text.push_str(&format!(
                    "Skipping deletion of all objects under prefix {prefix} due to --dry-run \
                     option\n"
                ));
            }
            if !wal.objects.is_empty() {
                let keys: Vec<Key> = wal.objects.iter().cloned().collect();
                text.push_str(&objects(&keys));
            }
        }
        Ok(text)
    }

    async fn print_backup(&self, step: &Step, catalogue: &[Found]) -> Result<String, OpError> {
        let present = self.look(&step.id).await?;
        let found = catalogue.iter().find(|found| found.id == step.id);
        let Some(info) = found.map(|found| &found.info) else {
            let text = format!("Backup {} is not in the catalogue", step.id);
            return Err(OpError::new(OpErrorKind::General, text));
        };
        let mut text = String::new();
        if info.snapshots_info.is_some() {
            text.push_str("Skipping deletion of snapshots due to --dry-run option\n");
        }
        let label = self.layout.backup_label(&step.id);
        if info.snapshots_info.is_some() || present.label.is_some() {
            text.push_str(&format!(
                "Skipping deletion of {label} due to --dry-run option\n"
            ));
        }
        if info.snapshots_info.is_none() && !info.is_being_deleted() {
            self.warn_of_missing(&step.id, info, &present.archives);
        }
        let mut keys = present.archives;
        keys.push(self.layout.backup_info(&step.id));
        text.push_str(&objects(&keys));
        Ok(text)
    }
}
