//! Doing without what a store turns out not to know.
//!
//! A refusal that names what is not known is believed, and remembered for the
//! run. Some stores refuse without a word that helps (PowerScale: "Improper
//! network request received"): then the request is tried with less, and only
//! one that was taken tells what the store lacks. Nothing is given up that the
//! others need: `Content-MD5` stands in for a checksum header, a look for the
//! condition.

use super::error::{Failure, Unknown};
use super::{Inner, StoreErrorKind};

/// What a request carries that not every store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extras {
    /// Headers named `x-amz-checksum-…`.
    pub(super) checksums: bool,
    /// `If-None-Match` or `If-Match`
    pub(super) condition: bool,
}

impl Extras {
    /// What to leave out, one after the other, where the store does not say what
    /// it does not know: what costs nothing goes first.
    fn fewer(self) -> impl Iterator<Item = Self> {
        let without = |checksums: bool, condition: bool| Self {
            checksums: self.checksums && !checksums,
            condition: self.condition && !condition,
        };
        let both = self.checksums && self.condition;
        [
            (self.checksums, without(true, false)),
            (self.condition, without(false, true)),
            (both, without(true, true)),
        ]
        .into_iter()
        .filter_map(|(possible, extras)| possible.then_some(extras))
    }
}

/// A request on its way through its refusals.
#[derive(Debug)]
pub(super) struct Adapting<'a> {
    inner: &'a Inner,
    sends: Extras,
    /// How many of `sends.fewer()` were tried, and what the last one sends.
    tried: usize,
    trial: Option<Extras>,
    /// Of those that say nothing.
    first: Option<Failure>,
}

impl<'a> Adapting<'a> {
    /// A request that is sent with `sends` at first.
    pub(super) fn new(inner: &'a Inner, sends: Extras) -> Self {
        Self {
            inner,
            sends,
            tried: 0,
            trial: None,
            first: None,
        }
    }

    /// What to send now.
    pub(super) fn with(&self) -> Extras {
        self.trial.unwrap_or(self.sends)
    }

    /// What a refusal means: `Ok` to send the request once more.
    pub(super) fn refused(&mut self, failure: Failure) -> Result<(), Failure> {
        let with = self.with();
        let unknown = match failure.unknown() {
            Some(Unknown::Something) if with.checksums => Some(Unknown::Checksums),
            Some(Unknown::Something) => Some(Unknown::Condition),
            other => other,
        };
        match unknown {
            Some(Unknown::Checksums) if with.checksums => {
                self.inner.learned_no_checksums();
                self.sends.checksums = false;
            }
            Some(Unknown::Condition) if with.condition => {
                self.inner.learned_no_conditions();
                self.sends.condition = false;
            }
            Some(Unknown::Perhaps) => {
                self.trial = self.sends.fewer().nth(self.tried);
                self.tried += 1;
                let first = self.first.take().unwrap_or(failure);
                return match self.trial {
                    Some(_) => {
                        self.first = Some(first);
                        Ok(())
                    }
                    None => Err(first),
                };
            }
            _ => {
                // Who says what is there, or not, has understood the request.
                let understood = [StoreErrorKind::NotFound, StoreErrorKind::AlreadyExists];
                if understood.contains(&failure.kind) {
                    self.learn();
                }
                return Err(failure);
            }
        }
        (self.tried, self.trial) = (0, None);
        Ok(())
    }

    /// The store took what was sent last. Says what that was.
    pub(super) fn taken(self) -> Extras {
        self.learn();
        self.with()
    }

    /// What is left out on trial is not known to the store.
    fn learn(&self) {
        let with = self.with();
        if self.sends.checksums && !with.checksums {
            self.inner.learned_no_checksums();
        }
        if self.sends.condition && !with.condition {
            self.inner.learned_no_conditions();
        }
    }
}

impl Inner {
    fn learned_no_checksums(&self) {
        let what = "does not take checksum headers: Content-MD5 is sent instead";
        let learned = &self.learned.without_checksums;
        learned.learn(&self.info.location, what);
    }

    fn learned_no_conditions(&self) {
        let what = "does not know conditional writes: names are looked up before they are written";
        let learned = &self.learned.without_conditions;
        learned.learn(&self.info.location, what);
    }
}
