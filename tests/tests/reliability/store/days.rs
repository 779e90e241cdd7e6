//! Each request of each tool, on each kind of bad day.

use e2e::{Fault, PgBin, Request, Rule, S3Server, Workspace, of_sample_or_whole};

use super::works::{self, Backup};
use super::{Behind, row};

/// What goes wrong with one request.
struct Day {
    /// In the words of the document.
    done: &'static str,
    faults: Vec<Fault>,
    /// The requests that it can happen to.
    hits: fn(&Request) -> bool,
    options: &'static [&'static str],
}

fn any(_: &Request) -> bool {
    true
}

fn has_body(request: &Request) -> bool {
    request.sent > 0
}

fn is_answered_with_body(request: &Request) -> bool {
    request.line.starts_with("GET ") || request.line.contains("?delete")
}

/// A client waits for a second only where a store falls silent.
const SOON: &[&str] = &["--read-timeout=1"];

fn days() -> Vec<Day> {
    let day = |done, faults: &[Fault], hits, options| Day {
        done,
        faults: faults.to_vec(),
        hits,
        options,
    };
    let page = "<html><body>Bad gateway</body></html>".to_owned();
    vec![
        day("a connection is reset", &[Fault::Reset], any, &[]),
        day("an answer is lost", &[Fault::LostResponse], any, &[]),
        day(
            "a request is cut in its body",
            &[Fault::DropRequest(10)],
            has_body,
            &[],
        ),
        day(
            "an answer is cut in its body",
            &[Fault::Truncate(0), Fault::Truncate(50)],
            is_answered_with_body,
            &[],
        ),
        day(
            "the store says that it failed (500, 502, 503) or wants to be asked later (429)",
            &[
                Fault::Status(500),
                Fault::Answer(502, page),
                Fault::Status(503),
                Fault::Status(429),
            ],
            any,
            &[],
        ),
        day(
            "the store falls silent before an answer",
            &[Fault::Delay(3600.0)],
            any,
            SOON,
        ),
        day(
            "the store falls silent in an answer",
            &[Fault::Stall(50)],
            is_answered_with_body,
            SOON,
        ),
    ]
}

/// One request of the tool in turn meets what goes wrong, in a sample so many of
/// them on each day.
fn live_through(behind: &Behind<'_>, sample: usize) {
    let requests = behind.requests();
    for (number, day) in days().iter().enumerate() {
        let hit = requests.iter().filter(|request| (day.hits)(request));
        let cases: Vec<(Rule, Fault)> = hit
            .flat_map(|request| {
                let rule = |fault| (nth(&requests, request, fault), fault.clone());
                day.faults.iter().map(rule)
            })
            .collect();
        if cases.is_empty() {
            continue;
        }
        let done = format!("{}, whichever of its requests it is", day.done);
        let mut row = row(behind.work.name(), &done, behind.work.found());
        let count = of_sample_or_whole(sample.min(cases.len()), cases.len());
        for place in 0..count {
            // Spread evenly, and on each day others.
            let (rule, fault) = &cases[(number + place * cases.len() / count) % cases.len()];
            behind.work.undo();
            behind.proxy.add(rule);
            let before = behind.proxy.log().len();
            let run = behind.start(day.options).wait();
            behind.proxy.clear();
            let log = behind.proxy.log();
            let met = log[before..].iter().any(|request| request.fault.is_some());
            assert!(met, "{fault:?} did not happen to {rule:?}: {run}");
            behind.check(&run);
            // Trouble that is over at once is nobody's business.
            assert!(!run.stderr.contains("trying again"), "{run}");
            row.lived_through();
        }
        row.finish();
    }
}

/// The fault, for a request that has as many of its method before it.
fn nth(requests: &[Request], request: &Request, fault: &Fault) -> Rule {
    let method = request.line.split(' ').next().expect("a line has words");
    let same = |other: &&Request| other.line.starts_with(&format!("{method} "));
    let before = requests
        .iter()
        .take_while(|other| !std::ptr::eq(*other, request))
        .filter(same)
        .count();
    let before = u32::try_from(before).expect("a tool sends few requests");
    Rule::new(fault).on(&format!("^{method} ")).skip(before)
}

macro_rules! bad_days {
    ($($name:ident $work:path, $sample:literal;)*) => { $(
        #[test]
        fn $name() {
            let workspace = Workspace::new();
            let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
                return;
            };
            let work = $work(&workspace, &bucket);
            live_through(&Behind::new(&bucket, Box::new(work)), $sample);
        }
    )* };
}

bad_days! {
    bad_days_of_wal_archive works::WalArchive::new, 1;
    bad_days_of_wal_archive_again works::WalArchive::again, 1;
    bad_days_of_wal_restore works::WalRestore::new, 2;
    bad_days_of_wal_restore_ahead works::WalRestore::ahead, 1;
    bad_days_of_list works::List::new, 1;
    bad_days_of_show works::Show::new, 1;
    bad_days_of_keep works::Keep::new, 1;
    bad_days_of_keep_release works::Keep::release, 1;
    bad_days_of_delete works::Delete::new, 1;
    bad_days_of_check_wal_archive works::Check::new, 1;
    bad_days_of_restore works::Restore::new, 1;
}

#[test]
fn bad_days_of_backup() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let work = Backup::new(&bin, &workspace, &bucket);
    live_through(&Behind::new(&bucket, Box::new(work)), 1);
}
