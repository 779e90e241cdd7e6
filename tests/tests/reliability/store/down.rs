//! A store that is not there for a while, or not at all.

use e2e::{Bucket, Fault, PgBin, Row, Rule, Run, Running, S3Server, Workspace, of_sample_or_whole};

use super::{Behind, assert_refused, row, works};

/// The store refuses connections to all tools at once, for a while: from their
/// first requests on, or from those in the middle.
#[test]
fn a_store_that_is_away_for_some_seconds_is_waited_for() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let works = works::all(&bin, &workspace, &bucket);
    for (seconds, moments) in [
        (1, of_sample_or_whole(&[true][..], &[false, true])),
        (10, of_sample_or_whole(&[false][..], &[false, true])),
    ] {
        let rows = works.iter().map(|behind| came_back(behind, seconds));
        let mut rows: Vec<Row> = rows.collect();
        for midway in moments {
            for behind in &works {
                let middle = behind.work.middle();
                behind.work.undo();
                let down = Rule::new(&Fault::Down(f64::from(seconds)));
                behind
                    .proxy
                    .add(&down.skip(if *midway { middle } else { 0 }));
            }
            let running: Vec<_> = works.iter().map(|behind| behind.start(&[])).collect();
            let runs: Vec<Run> = running.into_iter().map(Running::wait).collect();
            for ((behind, run), row) in works.iter().zip(runs).zip(&mut rows) {
                behind.check(&run);
                row.lived_through();
            }
        }
        rows.into_iter().for_each(Row::finish);
    }
}

fn came_back(behind: &Behind<'_>, seconds: u32) -> Row {
    let done = format!("the store refuses connections for {seconds} s and comes back");
    row(behind.work.name(), &done, behind.work.found())
}

/// What lasts for a minute happens to all tools in the same one.
#[test]
fn a_store_that_is_away_for_a_minute_is_waited_for_or_given_up() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let works = works::all(&bin, &workspace, &bucket);
    let gone = Gone::begin(&works, &bucket);
    let other = Workspace::new();
    let other_bucket = S3Server::CephPlain.bucket(&other).expect("as the first");
    let patient = works::all(&bin, &other, &other_bucket);
    let running = patient.iter().map(|behind| {
        behind.work.undo();
        // Longer than the WAL tools wait: they leave it to the server to call
        // them again.
        let seconds = if is_wal(behind) { 70.0 } else { 60.0 };
        behind
            .proxy
            .add(&Rule::new(&Fault::Down(seconds)).skip(behind.work.middle()));
        behind.start(&[])
    });
    let running: Vec<_> = running.collect();
    let runs: Vec<Run> = running.into_iter().map(Running::wait).collect();
    gone.end();
    for (behind, run) in patient.iter().zip(runs) {
        if is_wal(behind) {
            assert_refused(&run, 2);
            behind.proxy.come_up();
            let run = behind.start(&[]).wait();
            behind.check(&run);
            let found = format!("ends with 2; the next call: {}", behind.work.found());
            let done = "the store refuses connections for more than a minute";
            let mut row = row(behind.work.name(), done, &found);
            row.lived_through();
            row.finish();
        } else {
            behind.check(&run);
            let mut row = came_back(behind, 60);
            row.lived_through();
            row.finish();
        }
    }
}

fn is_wal(behind: &Behind<'_>) -> bool {
    behind.work.name().starts_with("`wal-")
}

/// Tools whose store does not come back, and what there was before.
struct Gone<'s> {
    bucket: &'s Bucket<'s>,
    keys: Vec<String>,
    running: Vec<(Row, Running)>,
}

impl<'s> Gone<'s> {
    fn begin(works: &'s [Behind<'s>], bucket: &'s Bucket<'s>) -> Self {
        let closed = "http://127.0.0.1:1";
        // A name that no server gives an address for (RFC 6761).
        let unknown = "http://store.invalid";
        for behind in works {
            behind.work.undo();
        }
        let keys = bucket.keys("");
        let mut running = Vec::new();
        for behind in works {
            for (done, endpoint) in [
                ("the store refuses connections for good", closed),
                ("the store's name has no address any more", unknown),
            ] {
                let found = "ends with 2 within a minute or so, and one line; nothing was changed";
                let row = row(behind.work.name(), done, found);
                running.push((row, behind.start_at(endpoint, &[])));
            }
        }
        Self {
            bucket,
            keys,
            running,
        }
    }

    fn end(self) {
        for (mut row, running) in self.running {
            let run: Run = running.wait();
            assert_refused(&run, 2);
            row.lived_through();
            row.finish();
        }
        assert_eq!(self.bucket.keys(""), self.keys);
    }
}
