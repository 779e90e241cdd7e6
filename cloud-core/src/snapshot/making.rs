//! The snapshots of one backup: made side by side, waited for together, and undone if the
//! backup comes to nothing.
//!
//! **S1**: no snapshot is forgotten. What was begun is known until it is either complete
//! and recorded, or deleted, or recorded as left behind. A request whose answer was lost
//! may have begun one: it is looked for by its disk and its name, which nothing else has.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    Begun, Deleted, Disk, Progress, Record, RecordedMount, RecordedSnapshot, SnapshotError,
    SnapshotErrorKind, SnapshotProvider,
};

/// Pauses between looks for a snapshot whose making was not answered.
const LOOKS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// How often a snapshot is begun of which there is no trace.
const TRIES: u32 = 3;

/// First and longest pause between two looks at a snapshot under way. Source of the second
/// one: the reference.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// How long a new snapshot may not be seen by those who look.
const UNSEEN: Duration = Duration::from_mins(2);

/// A snapshot of the backup.
#[derive(Debug)]
pub struct Made {
    disk: Disk,
    name: String,
    mount: RecordedMount,
    state: State,
    /// Whether there may be one more of this name than is known.
    doubt: bool,
}

#[derive(Debug)]
enum State {
    /// Nothing was asked for.
    Planned,
    /// Its request is under way.
    Beginning(JoinHandle<(Result<Begun, SnapshotError>, bool)>),
    /// It is there.
    Begun(Begun),
    /// It could not be begun.
    Refused,
}

/// The snapshots of one backup.
#[derive(Debug)]
pub struct Making {
    provider: Arc<dyn SnapshotProvider>,
    made: Vec<Made>,
    locked: bool,
}

impl Making {
    /// Snapshots of these disks for the backup `id`. Begins nothing.
    pub fn new(
        provider: Arc<dyn SnapshotProvider>,
        disks: Vec<(Disk, RecordedMount)>,
        id: &str,
    ) -> Self {
        let id = id.to_lowercase();
        let made = disks.into_iter().map(|(disk, mount)| Made {
            name: format!("{}-{id}", disk.name),
            disk,
            mount,
            state: State::Planned,
            doubt: false,
        });
        Self {
            made: made.collect(),
            provider,
            locked: false,
        }
    }

    /// What the record says of them now.
    pub fn record(&self) -> Record {
        self.record_of(&self.made.iter().map(Made::known).collect::<Vec<_>>())
    }

    fn record_of(&self, known: &[(&Made, Option<&Begun>)]) -> Record {
        let owner = known
            .iter()
            .rev()
            .find_map(|(_, begun)| begun.as_ref()?.owner.as_deref());
        let place = self.provider.place(owner);
        let project = match &place {
            super::Place::Gcp { project } => project.clone(),
            _ => None,
        };
        let lock_mode = self.provider.lock_mode();
        let recorded = known.iter().map(|(made, begun)| RecordedSnapshot {
            name: Some(made.name.clone()),
            id: begun.map(|begun| begun.id.clone()),
            device_name: made.disk.device_name.clone(),
            lock_mode: lock_mode.filter(|_| self.locked).map(str::to_owned),
            location: made.disk.location.clone(),
            lun: made.disk.lun,
            project: project.clone(),
            mount: made.mount.clone(),
        });
        Record {
            snapshots: recorded.collect(),
            place,
        }
    }

    /// Begins all of them, side by side. A call that is dropped leaves the requests under
    /// way to [`undo`](Self::undo).
    ///
    /// # Errors
    ///
    /// The first that could not be begun; the others are left as they are.
    pub async fn begin(&mut self) -> Result<(), SnapshotError> {
        for made in &mut self.made {
            let provider = Arc::clone(&self.provider);
            let (disk, name) = (made.disk.clone(), made.name.clone());
            let work = async move { begin_one(provider.as_ref(), &disk, &name).await };
            made.state = State::Beginning(tokio::spawn(work));
        }
        let all = join_all(self.made.iter_mut().map(Made::settle)).await;
        all.into_iter().collect()
    }

    /// Waits until all of them are complete.
    ///
    /// # Errors
    ///
    /// One failed, or they were not complete in time.
    pub async fn wait(&self) -> Result<(), SnapshotError> {
        let provider = self.provider.as_ref();
        let waiting = self.made.iter().filter_map(|made| match &made.state {
            State::Begun(begun) => Some(wait_one(provider, made, begun)),
            _ => None,
        });
        try_join_all(waiting).await?;
        for made in self.made.iter().filter(|made| made.doubt) {
            remove_others(provider, made).await;
        }
        Ok(())
    }

    /// Locks all of them, if that was asked for: the last that can fail, since what is
    /// locked cannot be deleted.
    ///
    /// # Errors
    ///
    /// One could not be locked.
    pub async fn lock(&mut self) -> Result<(), SnapshotError> {
        if self.provider.lock_mode().is_none() {
            return Ok(());
        }
        self.locked = true;
        let provider = self.provider.as_ref();
        let locking = self.made.iter().filter_map(|made| match &made.state {
            State::Begun(begun) => Some(async move {
                let locked = provider.lock(begun).await;
                let doing = format!("snapshot {} could not be locked", begun.id);
                locked.map_err(|error| error.while_(&doing))
            }),
            _ => None,
        });
        try_join_all(locking).await.map(|_| ())
    }

    /// Deletes all of them within `limit`, also those that may have been begun. Gives the
    /// record of those that are left, or may be (upholds S1).
    pub async fn undo(&mut self, limit: Duration) -> Option<Record> {
        let end = Instant::now() + limit;
        let settled = join_all(self.made.iter_mut().map(Made::settle));
        // A request that is given up may be heard all the same.
        let _ = timeout(limit / 2, settled).await;
        let provider = self.provider.as_ref();
        let undone = join_all(self.made.iter().map(|made| async move {
            let undone = timeout_at(end, undo_one(provider, made)).await;
            undone.unwrap_or_else(|_| Left::all_of(made))
        }))
        .await;
        let mut left = Vec::new();
        for (made, undone) in self.made.iter().zip(&undone) {
            for one in &undone.left {
                let shown = one
                    .as_ref()
                    .map_or("(its id is not known)", |begun| &begun.id);
                tracing::error!(
                    "snapshot {shown} `{}` of disk {} could not be deleted: {}; the record of the \
                     backup names it, and deleting the backup deletes it",
                    made.name,
                    made.disk.name,
                    undone.why
                );
                left.push((made, one.as_ref()));
            }
        }
        (!left.is_empty()).then(|| self.record_of(&left))
    }
}

impl Made {
    fn begun(&self) -> Option<&Begun> {
        match &self.state {
            State::Begun(begun) => Some(begun),
            _ => None,
        }
    }

    fn known(&self) -> (&Self, Option<&Begun>) {
        (self, self.begun())
    }

    /// Waits for the request under way. May be dropped and called again.
    async fn settle(&mut self) -> Result<(), SnapshotError> {
        let State::Beginning(task) = &mut self.state else {
            return Ok(());
        };
        let ended = task.await;
        let (result, doubt) = ended.unwrap_or_else(|_| {
            let text = "the task ended early";
            (
                Err(SnapshotError::new(SnapshotErrorKind::Unknown, text)),
                true,
            )
        });
        self.doubt = doubt;
        match result {
            Ok(begun) => {
                self.state = State::Begun(begun);
                Ok(())
            }
            Err(error) => {
                self.state = State::Refused;
                let doing = format!("no snapshot of disk {} could be made", self.disk.name);
                Err(error.while_(&doing))
            }
        }
    }
}

/// Begins a snapshot, and says whether there may be another one of its name.
async fn begin_one(
    provider: &dyn SnapshotProvider,
    disk: &Disk,
    name: &str,
) -> (Result<Begun, SnapshotError>, bool) {
    let mut doubt = false;
    let mut tries = 1;
    loop {
        let error = match provider.begin(disk, name).await {
            Err(error) if error.kind == SnapshotErrorKind::Unknown => error,
            ended => return (ended, doubt),
        };
        doubt = true;
        match look_for(provider, disk, name).await {
            Ok(Some(found)) => return (Ok(found), doubt),
            Ok(None) if tries < TRIES => tries += 1,
            Ok(None) | Err(_) => return (Err(error), doubt),
        }
    }
}

/// Looks for a snapshot that may have been begun a moment ago.
async fn look_for(
    provider: &dyn SnapshotProvider,
    disk: &Disk,
    name: &str,
) -> Result<Option<Begun>, SnapshotError> {
    for pause in LOOKS {
        sleep(pause).await;
        let found = provider.find(disk, name).await?;
        if let Some(one) = found.into_iter().next() {
            return Ok(Some(one));
        }
    }
    Ok(None)
}

async fn wait_one(
    provider: &dyn SnapshotProvider,
    made: &Made,
    begun: &Begun,
) -> Result<(), SnapshotError> {
    let (mut pause, longest) = PAUSES;
    let (began, limit) = (Instant::now(), provider.patience());
    let failed = |why: &str| {
        let text = format!("snapshot {} of disk {} {why}", begun.id, made.disk.name);
        SnapshotError::new(SnapshotErrorKind::Refused, text)
    };
    loop {
        let wish = match provider.progress(begun).await {
            Ok(Progress::Complete) => return Ok(()),
            Ok(Progress::Failed(why)) => return Err(failed(&format!("failed: {why}"))),
            Ok(Progress::Pending(wish)) => wish.unwrap_or_default(),
            Err(error) if error.kind == SnapshotErrorKind::Absent && began.elapsed() < UNSEEN => {
                Duration::ZERO
            }
            Err(error) => return Err(error),
        };
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            let why = format!("was not complete within {} seconds", limit.as_secs());
            return Err(failed(&why));
        }
        sleep(pause.max(wish).min(left)).await;
        pause = (pause * 2).min(longest);
    }
}

/// Deletes snapshots of the name that are not the one that counts: requests whose answers
/// were lost made them.
async fn remove_others(provider: &dyn SnapshotProvider, made: &Made) {
    let ours = made.begun().map(|begun| &begun.id);
    let found = match provider.find(&made.disk, &made.name).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(
                "there may be another snapshot `{}`, which the backup does not need: {error}",
                made.name
            );
            return;
        }
    };
    for other in found.iter().filter(|other| Some(&other.id) != ours) {
        if let Err(error) = provider.delete(&other.id).await {
            tracing::warn!(
                "snapshot {} `{}` is not needed and could not be deleted: {error}",
                other.id,
                made.name
            );
        }
    }
}

/// What an undoing left behind.
struct Left {
    /// `None`: one that may be there, whose id is not known.
    left: Vec<Option<Begun>>,
    why: String,
}

impl Left {
    /// Nothing is known to have gone.
    fn all_of(made: &Made) -> Self {
        let left = match &made.state {
            State::Planned => Vec::new(),
            State::Refused if !made.doubt => Vec::new(),
            _ => vec![made.begun().cloned()],
        };
        Self {
            left,
            why: "no time was left".to_owned(),
        }
    }
}

async fn undo_one(provider: &dyn SnapshotProvider, made: &Made) -> Left {
    let mut there: Vec<Begun> = made.begun().cloned().into_iter().collect();
    let mut undone = Left {
        left: Vec::new(),
        why: String::new(),
    };
    let under_way = matches!(made.state, State::Beginning(_));
    if made.doubt || under_way {
        match provider.find(&made.disk, &made.name).await {
            Ok(found) => {
                let new = |one: &Begun| there.iter().all(|known| known.id != one.id);
                let found: Vec<_> = found.into_iter().filter(new).collect();
                there.extend(found);
                if there.is_empty() {
                    undone.left.push(None);
                    undone.why = "it was asked for and is not there yet".into();
                }
            }
            Err(error) => {
                undone.why = error.to_string();
                if there.is_empty() {
                    undone.left.push(None);
                }
            }
        }
    }
    for one in there {
        match remove(provider, &one).await {
            Ok(_) => tracing::info!("Deleted snapshot {} of the failed backup", one.id),
            Err(error) => {
                undone.why = error.to_string();
                undone.left.push(Some(one));
            }
        }
    }
    undone
}

/// Deletes a snapshot that may still be on its way: one that is not there yet, or cannot be
/// deleted yet, is waited for.
async fn remove(provider: &dyn SnapshotProvider, begun: &Begun) -> Result<Deleted, SnapshotError> {
    let (mut pause, longest) = PAUSES;
    loop {
        let deleted = provider.delete(&begun.id).await;
        if begun.operation.is_none() || matches!(deleted, Ok(Deleted::Gone)) {
            return deleted;
        }
        match provider.progress(begun).await {
            Ok(Progress::Pending(wish)) => sleep(pause.max(wish.unwrap_or_default())).await,
            Ok(Progress::Complete) => return provider.delete(&begun.id).await,
            Ok(Progress::Failed(_)) => return deleted,
            Err(error) if error.kind == SnapshotErrorKind::Absent => return deleted,
            Err(error) => return Err(error),
        }
        pause = (pause * 2).min(longest);
    }
}
