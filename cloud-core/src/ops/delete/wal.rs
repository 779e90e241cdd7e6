//! The WAL that goes with deleted backups.
//!
//! The archive is listed once for all of them, and what is found is deleted
//! while the listing goes on: it may have millions of files.

use std::collections::BTreeSet;
use std::rc::Rc;

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
    /// An object, and the number of the first rules that take it.
    Object(usize, Key),
    /// An object of a directory that goes as a whole, and which of the rules take
    /// that.
    InDirectory(Rc<[bool]>, Prefix, Key),
}

impl Going {
    pub(super) fn object(&self) -> &Key {
        match self {
            Self::Object(_, key) | Self::InDirectory(_, _, key) => key,
        }
    }
}

/// Decides about the objects of the archive, one after the other.
pub(super) struct Sorter<'a> {
    wals: Prefix,
    rules: &'a [&'a WalRules],
    /// Whether directories go as a whole, with all that is in them.
    whole: bool,
    /// Whether what some of the rules take as a directory is looked at for the
    /// others too, object by object.
    apart: bool,
    suffixes: Vec<&'static str>,
    /// Directories that are none of WAL, each named once.
    odd: BTreeSet<String>,
    /// The directory that was met last, and which of the rules take it.
    last: Option<(String, Rc<[bool]>)>,
    /// The files of the segment that was met last.
    near: Vec<(WalName, Key, Rc<[bool]>)>,
}

impl Sorter<'_> {
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
        let directory = rest.split_once('/').map_or("", |(directory, _)| directory);
        let takers = self.takers(directory);
        if takers.contains(&true) {
            let prefix = self.wals.subdir(directory);
            out.push(Going::InDirectory(Rc::clone(&takers), prefix, key.clone()));
            if !self.apart {
                return;
            }
        }
        let Some((name, _)) = wal_of_key(key.base_name(), &self.suffixes) else {
            return;
        };
        let beginning = |name: &WalName| name.as_str().get(..24).map(str::to_owned);
        let last = self.near.last();
        if last.is_some_and(|(last, ..)| beginning(last) != beginning(&name)) {
            self.finish(out);
        }
        match self.near.iter_mut().find(|(other, ..)| *other == name) {
            Some(other) => *other = (name, key.clone(), takers),
            None => self.near.push((name, key.clone(), takers)),
        }
    }

    /// Gives out what is still held back.
    fn finish(&mut self, out: &mut Vec<Going>) {
        for (name, key, takers) in self.near.drain(..) {
            let mut rules = self.rules.iter().zip(takers.iter());
            if let Some(number) = rules.position(|(rules, whole)| !whole && rules.takes(&name)) {
                out.push(Going::Object(number, key));
            }
        }
    }

    /// Which of the rules take a directory as a whole.
    fn takers(&mut self, name: &str) -> Rc<[bool]> {
        if let Some((last, takers)) = &self.last
            && last == name
        {
            return Rc::clone(takers);
        }
        let mut takers = vec![false; self.rules.len()];
        if self.whole && !name.is_empty() {
            for (rules, taker) in self.rules.iter().zip(&mut takers) {
                if let Some(takes) = rules.takes_directory(name) {
                    *taker = takes;
                } else if self.odd.insert(name.to_owned()) {
                    let prefix = self.wals.subdir(name);
                    tracing::warn!("Ignoring malformed WAL object prefix: {prefix}");
                }
            }
        }
        let takers: Rc<[bool]> = takers.into();
        self.last = Some((name.to_owned(), Rc::clone(&takers)));
        takers
    }
}

impl Work<'_> {
    /// Walks through the archive and gives what goes, page by page, to `take`.
    ///
    /// `apart`: a directory that some of the rules take as a whole is looked at for
    /// the others as well, as if those were the only ones.
    pub(super) async fn sort_wal(
        &self,
        rules: &[&WalRules],
        apart: bool,
        mut take: impl AsyncFnMut(Vec<Going>),
    ) -> Result<(), StoreError> {
        if rules.is_empty() {
            return Ok(());
        }
        let mut sorter = Sorter {
            wals: self.layout.wals(),
            rules,
            whole: self.store.info().abilities.bulk_delete,
            apart,
            suffixes: codec::suffixes(),
            odd: BTreeSet::new(),
            last: None,
            near: Vec::new(),
        };
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

    /// Deletes the WAL that any of the rules take.
    pub(super) async fn remove_wal(&self, rules: &[&WalRules]) -> Result<(), OpError> {
        let mut fates = Fates::default();
        let mut waiting: Vec<Key> = Vec::new();
        // Several requests' worth at a time go side by side.
        let batch = self.remover.batch();
        let enough = batch * REQUESTS;
        let sorted = self
            .sort_wal(rules, false, async |going| {
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
