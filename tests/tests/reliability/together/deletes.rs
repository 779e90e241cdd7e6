//! A deletion, and another tool at work in the middle of it.

use e2e::of_sample_or_whole;
use e2e::{Fault, FaultProxy, Row, Rule, Run, Running, S3Server, Section, Tool, Workspace};

use super::shelf::{self, IDS, Shelf, Where, assert_done_or};

const POLICY: [&str; 2] = ["-r", "REDUNDANCY 1"];

/// What a deletion may say when another one was faster.
const MET: [&str; 1] = ["in the meantime"];

/// Runs `first` up to the request that `hold` holds, and `second` to its end while
/// that waits. `None` if the first has no such request.
fn in_the_middle(
    proxy: &FaultProxy,
    hold: &Rule,
    first: Tool<'_>,
    second: impl FnOnce() -> Run,
) -> Option<(Run, Run)> {
    proxy.clear();
    let before = proxy.log().len();
    proxy.add(hold);
    let mut first: Running = first.start();
    let ended = proxy.wait_for_held(before, || (!first.is_running()).then_some(()));
    if ended.is_some() {
        return None;
    }
    let second = second();
    proxy.release();
    Some((first.wait(), second))
}

/// The request that marks a record, or annotates a backup.
const WRITE: &str = "^PUT /";

/// Goes through all requests of a tool, or every `step`th and the first that writes,
/// with a place for a shelf for each: `scene` gives `None` when the tool has no such
/// request.
fn at_each_request(step: usize, mut scene: impl FnMut(&Rule, &str) -> Option<()>) {
    let hold = Rule::new(&Fault::Hold);
    scene(&hold.clone().on(WRITE), "at-write").expect("the tool writes");
    for number in (0..).step_by(of_sample_or_whole(step, 1)) {
        let this = hold.clone().skip(number);
        if scene(&this, &format!("at-{number}")).is_none() {
            assert!(number > 3, "a tool makes more requests");
            return;
        }
    }
}

#[test]
fn two_deletions_of_one_catalogue() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    for (name, other, what) in [
        ("policy", &POLICY[..], "by the same policy"),
        ("same", &["-b", IDS[0]], "of a backup of the first"),
        ("newest", &["-b", IDS[2]], "of the newest backup"),
    ] {
        let mut row = Row::new(
            Section::Together,
            format!(
                "`backup-delete`: a second one, {what}, runs while a request of the first waits"
            ),
            "each ends with 0 or with one clear error; what must stay can be restored with its WAL; \
             the next run finishes",
        );
        at_each_request(6, |hold, at| {
            let path = format!("{name}-{at}");
            let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, &path), Some(&proxy));
            let second = || shelf.delete(other).run();
            let (first, second) = in_the_middle(&proxy, hold, shelf.delete(&POLICY), second)?;
            assert_done_or(&first, 1, &MET);
            assert_done_or(&second, 1, &MET);
            if name == "newest" {
                // The first wanted to keep only what the second deletes: what
                // neither deletes is whole, and nothing looks whole that is not.
                for (id, status) in shelf.listed() {
                    if status == "DONE" {
                        shelf.assert_whole(&id);
                    }
                }
                shelf.delete(&POLICY).succeed();
                assert!(shelf.listed().values().all(|status| status == "DONE"));
            } else {
                shelf.delete(&POLICY).succeed();
                shelf.assert_only_the_newest();
            }
            row.lived_through();
            Some(())
        });
        row.finish();
    }
}

#[test]
fn two_deletions_in_a_directory() {
    let workspace = Workspace::new();
    let mut row = Row::new(
        Section::Together,
        "`backup-delete`: two at once in a directory, by the same policy",
        "each ends with 0 or with one clear error; what must stay can be restored with its WAL; \
         the next run finishes",
    );
    for number in 0..of_sample_or_whole(5, 60) {
        let name = format!("bucket-{number}");
        workspace.dir(&name);
        let shelf = Shelf::new(&workspace, Where::Directory(&name), None);
        let both = [shelf.delete(&POLICY).start(), shelf.delete(&POLICY).start()];
        for run in both.map(Running::wait) {
            assert_done_or(&run, 1, &MET);
        }
        shelf.delete(&POLICY).succeed();
        shelf.assert_only_the_newest();
        row.lived_through();
    }
    row.finish();
}

/// Whoever was told that a backup is kept finds it whole.
fn assert_kept(shelf: &Shelf<'_>, keep: &Run, delete: &Run) {
    assert_done_or(
        delete,
        1,
        &["keep annotation in the meantime", "current keep request"],
    );
    let status = shelf.keep("--status").run();
    if keep.code() == Some(0) {
        assert_eq!(status.stdout, "Keep: full\n", "{keep}{delete}");
        shelf.assert_whole(IDS[0]);
        shelf.delete(&POLICY).run();
        shelf.assert_whole(IDS[0]);
        shelf.keep("--release").succeed();
    } else {
        assert_eq!(keep.code(), Some(1), "{keep}");
        let errors = keep.errors();
        let clear = |e: &String| e.contains("status FAILED") || e.contains("does not exist");
        assert!(errors.len() == 1 && errors.iter().all(clear), "{keep}");
        assert_eq!(status.stdout, "Keep: nokeep\n", "{keep}{delete}");
    }
    shelf.delete(&POLICY).succeed();
    shelf.assert_only_the_newest();
}

#[test]
fn a_keep_and_a_deletion() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let mut row = Row::new(
        Section::Together,
        "`backup-keep`: a backup is kept while a request of its deletion waits",
        "the keep ends with 0 and the backup stays whole, or it ends with 1 and says that the \
         backup is being deleted",
    );
    at_each_request(6, |hold, at| {
        let path = format!("keep-{at}");
        let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, &path), Some(&proxy));
        let keep = || shelf.keep("--target=full").run();
        let (delete, keep) = in_the_middle(&proxy, hold, shelf.delete(&POLICY), keep)?;
        assert_kept(&shelf, &keep, &delete);
        row.lived_through();
        Some(())
    });
    row.finish();
    let mut row = Row::new(
        Section::Together,
        "`backup-delete`: a backup is deleted while a request of its keep waits",
        "the keep ends with 0 and the backup stays whole, or it ends with 1 and says that the \
         backup is being deleted",
    );
    at_each_request(2, |hold, at| {
        let path = format!("delete-{at}");
        let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, &path), Some(&proxy));
        let delete = || shelf.delete(&POLICY).run();
        let (keep, delete) = in_the_middle(&proxy, hold, shelf.keep("--target=full"), delete)?;
        assert_kept(&shelf, &keep, &delete);
        row.lived_through();
        Some(())
    });
    row.finish();
}

#[test]
fn wal_tools_and_a_deletion() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let new = *shelf::SEGMENTS.end() + 1;
    let path = workspace.file(shelf::segment(new), shelf::content(new));
    let mut row = Row::new(
        Section::Together,
        "`wal-archive`: a segment is archived while a request of a deletion waits",
        "the segment is there, and so is all WAL of what stays",
    );
    at_each_request(6, |hold, at| {
        let place = format!("archive-{at}");
        let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, &place), Some(&proxy));
        let archive = || shelf.tool("barman-cloud-wal-archive", &[]).arg(&path).run();
        let delete = shelf.delete(&POLICY);
        let (delete, archive) = in_the_middle(&proxy, hold, delete, archive)?;
        assert_eq!((delete.code(), archive.code()), (Some(0), Some(0)));
        shelf.assert_fetched(new);
        shelf.assert_whole(IDS[2]);
        row.lived_through();
        Some(())
    });
    row.finish();

    // The object goes before the fetch asks for it, and in the middle of its body.
    for cut in [false, true] {
        let (when, found) = if cut {
            (
                "the connection is lost in the middle of a segment, and the segment is deleted",
                "the tool ends with 1, since the file is not there, and leaves no file",
            )
        } else {
            (
                "a segment is deleted while a request for it waits",
                "the tool ends with 1, since the file is not there, and leaves no file",
            )
        };
        let mut row = Row::new(Section::Together, format!("`wal-restore`: {when}"), found);
        let place = format!("fetch-{cut}");
        let shelf = Shelf::new(&workspace, Where::Bucket(&bucket, &place), Some(&proxy));
        proxy.clear();
        let before = proxy.log().len();
        let get = format!("^GET /[^?]*{}", shelf::segment(1));
        if cut {
            proxy.add(&Rule::new(&Fault::Truncate(100_000)).on(&get));
        }
        proxy.add(&Rule::new(&Fault::Hold).on(&get));
        let fetch = shelf.fetch(1, "gone").start();
        assert_eq!(proxy.wait_for_held(before, || None::<()>), None);
        shelf.delete(&POLICY).succeed();
        proxy.release();
        let run = fetch.wait();
        assert_eq!(run.code(), Some(1), "{run}");
        let left: Vec<_> = e2e::Tree::of(workspace.root()).0.into_keys().collect();
        assert!(
            !left.iter().any(|p| p.to_string_lossy().contains("gone")),
            "{left:?}"
        );
        row.lived_through();
        row.finish();
    }
}

/// In a directory a segment that is being read is delivered whole even when it goes.
#[test]
fn segments_fetched_from_a_directory_during_a_deletion() {
    let workspace = Workspace::new();
    let mut row = Row::new(
        Section::Together,
        "`wal-restore`: segments of a directory are fetched while they are deleted",
        "each is delivered whole, or the tool ends with 1 and leaves no file",
    );
    for number in 0..of_sample_or_whole(3, 40) {
        let name = format!("bucket-{number}");
        workspace.dir(&name);
        let shelf = Shelf::new(&workspace, Where::Directory(&name), None);
        let delete = shelf.delete(&POLICY).start();
        let fetches: Vec<_> = (1..=4)
            .map(|segment| {
                let file = format!("fetched-{segment}");
                (
                    segment,
                    workspace.path(&file),
                    shelf.fetch(segment, &file).start(),
                )
            })
            .collect();
        for (segment, path, fetch) in fetches {
            let run = fetch.wait();
            match run.code() {
                Some(0) => {
                    assert_eq!(std::fs::read(&path).unwrap(), shelf::content(segment));
                    std::fs::remove_file(path).unwrap();
                }
                code => assert!(code == Some(1) && !path.exists(), "{run}"),
            }
            row.lived_through();
        }
        let run = delete.wait();
        assert_eq!(run.code(), Some(0), "{run}");
        shelf.assert_only_the_newest();
    }
    row.finish();
}
