//! Looking at the servers of a place, once or again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use super::collect::Collector;
use super::servers;
use super::snapshot::Snapshot;
use crate::ops::{OpError, OpErrorKind};
use crate::store::{Counted, ObjectStore, Tally};

/// Servers that are looked at at the same time. Each may take 16 MiB while its records are read.
const CONCURRENCY: usize = 4;

/// The servers to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Those of these names.
    Named(Vec<String>),
    /// All that have base backups or WAL in the place.
    All,
}

/// Looks at servers, and remembers what need not be read again.
#[derive(Debug)]
pub struct Watch {
    store: Arc<dyn ObjectStore>,
    tally: Arc<Tally>,
    path: String,
    wanted: Wanted,
    servers: BTreeMap<String, Server>,
    looks: u64,
    failures: u64,
    last_good: Option<Timestamp>,
}

#[derive(Debug)]
struct Server {
    collector: Collector,
    last_good: Option<Timestamp>,
}

/// What the last look brought.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// The servers, by name.
    pub servers: Vec<ServerView>,
    /// The look itself.
    pub look: Look,
}

/// A server as the last look found it.
#[derive(Debug, Clone)]
pub struct ServerView {
    /// Its name.
    pub name: String,
    /// What was seen, or why that could not be (M1).
    pub seen: Result<Arc<Snapshot>, Arc<OpError>>,
    /// When it was last seen.
    pub last_good: Option<Timestamp>,
}

/// A look at a place, and all those before it.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How long it took.
    pub took: Duration,
    /// Why the servers could not be found, or the first of them that was looked at could not be
    /// seen; `None` if all were.
    pub failure: Option<Arc<OpError>>,
    /// When any server was last seen.
    pub last_good: Option<Timestamp>,
    /// Looks so far.
    pub looks: u64,
    /// Those of them that failed, in whole or in part.
    pub failures: u64,
    /// Requests to the store so far.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
}

impl Watch {
    /// Of servers below the path of a URL. Touches nothing.
    ///
    /// # Errors
    ///
    /// `Usage` for a name that no server can have.
    pub fn new(store: Arc<dyn ObjectStore>, path: String, wanted: Wanted) -> Result<Self, OpError> {
        let counted = Counted::new(store);
        let tally = counted.tally();
        let mut watch = Self {
            store: Arc::new(counted),
            tally,
            path,
            wanted,
            servers: BTreeMap::new(),
            looks: 0,
            failures: 0,
            last_good: None,
        };
        if let Wanted::Named(names) = &watch.wanted {
            let names = names.iter().cloned().collect();
            watch.attend(names)?;
        }
        Ok(watch)
    }

    /// What is known before the first look: of the servers their names.
    pub fn before(&self) -> Overview {
        let why = OpError::new(OpErrorKind::Unreachable, "it was not looked at yet");
        self.blind(&Arc::new(why))
    }

    /// Looks at all servers.
    pub async fn look(&mut self) -> Overview {
        let began = Instant::now();
        let mut overview = match self.find().await {
            Ok(()) => self.look_at_all().await,
            Err(error) => {
                let error = Arc::new(error);
                let mut blind = self.blind(&error);
                blind.look.failure = Some(error);
                blind
            }
        };
        let now = Timestamp::now();
        self.looks += 1;
        self.failures += u64::from(overview.look.failure.is_some());
        let seen = overview.servers.iter().any(|server| server.seen.is_ok());
        if seen || overview.look.failure.is_none() {
            self.last_good = Some(now);
        }
        overview.look = Look {
            ended: Some(now),
            took: began.elapsed(),
            failure: overview.look.failure,
            last_good: self.last_good,
            looks: self.looks,
            failures: self.failures,
            requests: self.tally.requests(),
            errors: self.tally.errors(),
        };
        overview
    }

    /// Finds the servers, if they were not named.
    async fn find(&mut self) -> Result<(), OpError> {
        if self.wanted == Wanted::All {
            let known = self.servers.keys().cloned().collect();
            let names = servers::find(self.store.as_ref(), &self.path, &known).await?;
            self.attend(names)?;
        }
        Ok(())
    }

    /// Looks at these servers from now on, and at no others.
    fn attend(&mut self, names: BTreeSet<String>) -> Result<(), OpError> {
        self.servers.retain(|name, _| names.contains(name));
        for name in names {
            if !self.servers.contains_key(&name) {
                let collector = Collector::new(&self.path, &name)?;
                let server = Server {
                    collector,
                    last_good: None,
                };
                self.servers.insert(name, server);
            }
        }
        Ok(())
    }

    async fn look_at_all(&mut self) -> Overview {
        let store = &self.store;
        let looks = self.servers.iter_mut().map(|(name, server)| async move {
            let seen = server.collector.look(store).await;
            if let Ok(snapshot) = &seen {
                server.last_good = Some(snapshot.taken);
            }
            ServerView {
                name: name.clone(),
                seen: seen.map(Arc::new).map_err(Arc::new),
                last_good: server.last_good,
            }
        });
        let servers: Vec<ServerView> = stream::iter(looks).buffered(CONCURRENCY).collect().await;
        let failure = servers.iter().find_map(|server| server.seen.as_ref().err());
        let look = Look {
            failure: failure.cloned(),
            ..Look::default()
        };
        Overview { servers, look }
    }

    /// Nobody was seen.
    fn blind(&self, why: &Arc<OpError>) -> Overview {
        let servers = self.servers.iter().map(|(name, server)| ServerView {
            name: name.clone(),
            seen: Err(Arc::clone(why)),
            last_good: server.last_good,
        });
        Overview {
            servers: servers.collect(),
            look: Look::default(),
        }
    }
}

impl Overview {
    /// The same as it is shown when the look is too old to speak for now (M1).
    #[must_use]
    pub fn outdated(mut self) -> Self {
        let why = OpError::new(OpErrorKind::Unreachable, "the last look at it is too old");
        let why = Arc::new(why);
        for server in &mut self.servers {
            if server.seen.is_ok() {
                server.seen = Err(Arc::clone(&why));
            }
        }
        self.look.failure.get_or_insert(why);
        self
    }

    /// Why not all could be seen, as an error of a tool.
    pub fn failure(&self) -> Option<OpError> {
        let error = self.look.failure.as_ref()?;
        let kind = error.kind;
        let told = OpError {
            of_store: error.of_store,
            hint: error.hint.clone(),
            ..OpError::new(kind, error.message.clone())
        };
        Some(told)
    }
}
