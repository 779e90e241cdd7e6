//! The WAL that goes with deleted backups.
//!
//! The archive is listed once for all of them, and what is found is deleted
//! while the listing goes on: it may have millions of files.

use std::collections::BTreeSet;

use futures_util::StreamExt;

use super::Work;
use super::remove::{Fates, REQUESTS};
use crate::catalogue::load::wal_of_key;
use crate::catalogue::wal_cleanup::WalRules;
use crate::codec;
use crate::key::{Key, Prefix};
use crate::ops::OpError;
use crate::store::{Depth, StoreError};
use crate::wal::WalName;

/// What goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Going {
    /// An object.
    Object(Key),
    /// An object of a directory that goes as a whole.
    InDirectory(Prefix, Key),
}

impl Going {
    pub(super) fn object(&self) -> &Key {
        match self {
            Self::Object(key) | Self::InDirectory(_, key) => key,
        }
    }
}

/// Decides about the objects of the archive, one after the other.
pub(super) struct Sorter<'a> {
    wals: Prefix,
    rules: &'a [&'a WalRules],
    /// Whether directories go as a whole, with all that is in them.
    whole: bool,
    suffixes: Vec<&'static str>,
    /// Directories that are none of WAL, each named once.
    odd: BTreeSet<String>,
    /// The files of the segment that was met last.
    near: Vec<(WalName, Going)>,
}

impl<'a> Sorter<'a> {
    fn new(wals: Prefix, rules: &'a [&'a WalRules], whole: bool) -> Self {
        Self {
            wals,
            rules,
            whole,
            suffixes: codec::suffixes(),
            odd: BTreeSet::new(),
            near: Vec::new(),
        }
    }

    /// Takes the next object. What goes is given out when nothing more can be
    /// said against it.
    ///
    /// Of a file that is there in several forms, only the last goes. The others
    /// are seen, and go, in the next run; the reference does the same, and both
    /// must find the same archive.
    fn next(&mut self, key: &Key, out: &mut Vec<Going>) {
        let Some(rest) = key.strip_prefix(&self.wals) else {
            return;
        };
        if self.whole
            && let Some((directory, _)) = rest.split_once('/')
            && self.is_whole(directory)
        {
            let prefix = self.wals.subdir(directory);
            out.push(Going::InDirectory(prefix, key.clone()));
            return;
        }
        let Some((name, _)) = wal_of_key(key.base_name(), &self.suffixes) else {
            return;
        };
        if !self.rules.iter().any(|rules| rules.takes(&name)) {
            return;
        }
        let beginning = |name: &WalName| name.as_str().get(..24).map(str::to_owned);
        let last = self.near.last();
        if last.is_some_and(|(last, _)| beginning(last) != beginning(&name)) {
            self.finish(out);
        }
        let going = Going::Object(key.clone());
        match self.near.iter_mut().find(|(other, _)| *other == name) {
            Some((_, other)) => *other = going,
            None => self.near.push((name, going)),
        }
    }

    /// Gives out what is still held back.
    fn finish(&mut self, out: &mut Vec<Going>) {
        out.extend(self.near.drain(..).map(|(_, going)| going));
    }

    /// Whether any of the rules take a directory as a whole.
    fn is_whole(&mut self, name: &str) -> bool {
        for rules in self.rules {
            match rules.takes_directory(name) {
                Some(true) => return true,
                Some(false) => {}
                None => {
                    if self.odd.insert(name.to_owned()) {
                        let prefix = self.wals.subdir(name);
                        tracing::warn!("Ignoring malformed WAL object prefix: {prefix}");
                    }
                    return false;
                }
            }
        }
        false
    }
}

impl Work<'_> {
    /// Walks through the archive and gives what goes, page by page, to `take`.
    pub(super) async fn sort_wal(
        &self,
        rules: &[&WalRules],
        mut take: impl AsyncFnMut(Vec<Going>),
    ) -> Result<(), StoreError> {
        if rules.is_empty() {
            return Ok(());
        }
        let mut sorter = self.sorter(rules);
        let mut pages = self.store.list(&self.layout.wals(), Depth::All);
        while let Some(page) = pages.next().await {
            let mut going = Vec::new();
            for object in page?.objects {
                sorter.next(&object.key, &mut going);
            }
            take(going).await;
        }
        let mut rest = Vec::new();
        sorter.finish(&mut rest);
        take(rest).await;
        Ok(())
    }

    /// Walks through the archive and gives what each of the rules takes by itself,
    /// with the number of the rules, to `take`.
    pub(super) async fn sort_wal_apart(
        &self,
        rules: &[&WalRules],
        mut take: impl FnMut(usize, Going),
    ) -> Result<(), StoreError> {
        if rules.is_empty() {
            return Ok(());
        }
        let mut sorters: Vec<_> = rules.chunks(1).map(|one| self.sorter(one)).collect();
        let mut going = Vec::new();
        let mut pages = self.store.list(&self.layout.wals(), Depth::All);
        while let Some(page) = pages.next().await {
            for object in page?.objects {
                for (number, sorter) in sorters.iter_mut().enumerate() {
                    sorter.next(&object.key, &mut going);
                    going.drain(..).for_each(|going| take(number, going));
                }
            }
        }
        for (number, sorter) in sorters.iter_mut().enumerate() {
            sorter.finish(&mut going);
            going.drain(..).for_each(|going| take(number, going));
        }
        Ok(())
    }

    fn sorter<'r>(&self, rules: &'r [&'r WalRules]) -> Sorter<'r> {
        let whole = self.store.info().abilities.bulk_delete;
        Sorter::new(self.layout.wals(), rules, whole)
    }

    /// Deletes the WAL that any of the rules take.
    pub(super) async fn remove_wal(&self, rules: &[&WalRules]) -> Result<(), OpError> {
        let mut fates = Fates::default();
        let mut waiting: Vec<Key> = Vec::new();
        // Several requests' worth at a time go side by side.
        let batch = self.remover.batch();
        let enough = batch * REQUESTS;
        let sorted = self
            .sort_wal(rules, async |going| {
                waiting.extend(going.iter().map(|going| going.object().clone()));
                if waiting.len() >= enough {
                    // Whole requests only: one more, half empty, would be waited for
                    // alone.
                    let rest = waiting.split_off(waiting.len() - waiting.len() % batch);
                    fates.add(self.remover.remove(&waiting).await);
                    waiting = rest;
                }
            })
            .await;
        fates.add(self.remover.remove(&waiting).await);
        if fates.gone > 0 {
            tracing::info!("Deleted {} files of WAL", fates.gone);
        }
        if let Err(error) = sorted {
            fates.failed.push(error);
        }
        fates.result("WAL that no backup needs any more")
    }
}
