//! Restores into directories that are not empty: one that was interrupted goes on
//! (`--resume`), and one over a data directory writes only what differs (`--delta`).

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use e2e::{Cluster, PgBin, Place, Run, ShutDown, Tool, Tree, Workspace};
use rustix::process::Signal;

const JOURNAL: &str = ".barman-cloud-restore";

/// A backup in many archives, with a tablespace, and what a restore makes of it.
struct Scene<'w> {
    workspace: &'w Workspace,
    place: &'w Place<'w>,
    cluster: Cluster,
}

impl<'w> Scene<'w> {
    fn new(bin: &PgBin, workspace: &'w Workspace, place: &'w Place<'w>) -> Self {
        let mut cluster = place.primary(bin, "");
        cluster.start();
        cluster.make_tablespace(workspace, "fast", "fast place");
        let session = cluster.session();
        session.run("CREATE TABLE t AS SELECT generate_series(1, 100000) AS i");
        session.run("CREATE TABLE f TABLESPACE fast AS SELECT generate_series(1, 50000) AS i");
        drop(session);
        place
            .backup(&cluster, "postgres")
            .args(["-S", "2MB", "--memory-limit", "600KB", "--name", "taken"])
            .succeed();
        cluster.archive_everything();
        cluster.stop(ShutDown::Immediate);
        let scene = Self {
            workspace,
            place,
            cluster,
        };
        scene.tool("whole", &[]).succeed();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workspace.path(name)
    }

    fn tool(&self, to: &str, options: &[&str]) -> Tool<'_> {
        let moved = self.path(&format!("{to}-fast"));
        self.place
            .tool("barman-cloud-restore")
            .args(options)
            .arg(format!("--tablespace=fast:{}", moved.display()))
            .args([self.place.url(), "main", "taken"])
            .arg(self.path(to))
    }

    /// Both directories are as a restore into empty ones makes them.
    fn assert_whole(&self, to: &str, what: &str) {
        for part in ["", "-fast"] {
            let tree = |name: &str| {
                let tree = Tree::of(&self.path(&format!("{name}{part}")));
                // These lead to the tablespaces, of which each has its own.
                tree.without(|path| path.starts_with("pg_tblspc") && path.components().count() > 1)
            };
            tree("whole").assert_same(&tree(to), what);
        }
        let link = fs::read_dir(self.path(to).join("pg_tblspc"))
            .unwrap()
            .next();
        let link = fs::read_link(link.unwrap().unwrap().path()).unwrap();
        assert_eq!(link, self.path(&format!("{to}-fast")), "{what}");
    }

    fn starts(&self, bin: &PgBin, to: &str) {
        let mut restored = Cluster::existing(bin, self.workspace, to);
        let recovery = e2e::Recovery::Latest;
        restored.recover(self.workspace, self.place.url(), "main", &recovery);
        restored.start_and_recover();
        let count = restored
            .session()
            .value("SELECT count(*) FROM t, f WHERE t.i = f.i");
        assert_eq!(count, "50000");
    }
}

fn files(root: &Path) -> usize {
    let Ok(entries) = fs::read_dir(root) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            _ => 1,
        })
        .sum()
}

/// How many archives the journal of a directory says to be whole.
fn records(root: &Path) -> usize {
    let journal = fs::read_to_string(root.join(JOURNAL)).unwrap_or_default();
    let ends = journal.lines().filter(|line| line.starts_with("end "));
    ends.count()
}

/// What a run said at `-v` of the bytes it fetched and wrote.
fn bytes(run: &Run) -> (u64, u64) {
    let told = run.messages("INFO").into_iter();
    let mut told = told.filter(|line| line.contains(" bytes were fetched ("));
    let line = told.next_back().unwrap_or_else(|| panic!("{run}"));
    let number = |before: &str| {
        let text = line.split(before).next().unwrap();
        text.trim_end().rsplit(' ').next().unwrap().parse().unwrap()
    };
    (number("bytes were fetched"), number("bytes written"))
}

/// Starts a tool and kills it as soon as `enough` says so; false if it ended before.
fn killed_when(tool: Tool<'_>, mut enough: impl FnMut() -> bool) -> bool {
    let mut running = tool.start();
    loop {
        if enough() {
            running.signal(Signal::KILL);
        }
        if !running.is_running() {
            return running.wait().code() != Some(0);
        }
        std::hint::spin_loop();
    }
}

#[test]
fn a_restore_that_was_killed_goes_on_where_it_was() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let scene = Scene::new(&bin, &workspace, &place);
    let total = files(&scene.path("whole"));
    let all = bytes(&scene.tool("other", &["-v"]).run()).0;

    let restored = scene.path("restored");
    let (mut kills, mut finished) = (0, false);
    for step in 1..=8 {
        // After so many files more, or one archive more that is whole.
        let (there, whole) = (files(&restored), records(&restored));
        let enough = || match step % 3 {
            0 => records(&restored) > whole,
            _ => files(&restored) >= (there + total / 12).min(total * step / 9),
        };
        let jobs = format!("--jobs={}", 1 + step % 3);
        finished = !killed_when(scene.tool("restored", &["--resume", &jobs]), enough);
        if finished {
            break;
        }
        kills += 1;
        if !restored.join("global/pg_control").exists() {
            // Never without being asked to.
            let run = scene.tool("restored", &[]).run();
            assert_eq!(run.code(), Some(1), "{run}");
            assert!(run.stderr.contains("--resume goes on with it"), "{run}");
            let run = scene.tool("restored", &["--delta"]).run();
            assert_eq!(run.code(), Some(1), "{run}");
        }
    }
    assert!(kills > 1, "it was never killed");
    // The journal is the last to go, so a kill behind that leaves nothing to be done.
    if !finished && restored.join(JOURNAL).exists() {
        let records = records(&restored);
        let run = scene.tool("restored", &["--resume", "-v"]).run();
        assert_eq!(run.code(), Some(0), "{run}");
        if records > 0 && run.stderr.contains("bytes were fetched") {
            assert!(bytes(&run).0 < all, "{records} archives were whole: {run}");
        }
    }
    scene.assert_whole("restored", "resumed");
    assert!(!restored.join(JOURNAL).exists());
    scene.starts(&bin, "restored");
}

#[test]
fn archives_that_are_whole_are_not_fetched_and_files_that_are_not_rewritten() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let scene = Scene::new(&bin, &workspace, &place);
    let all = bytes(&scene.tool("other", &["-v"]).run());
    let base = scene.path("bucket/main/base");
    let id = fs::read_dir(&base).unwrap().next().unwrap().unwrap().path();

    // The last archive of PGDATA, which has the label, is damaged in its middle.
    let mut archives: Vec<PathBuf> = fs::read_dir(&id)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("data")
        })
        .collect();
    archives.sort_by_key(|path| path.display().to_string().replace("data.", "data_0000."));
    let last = archives.pop().unwrap();
    let content = fs::read(&last).unwrap();
    let mut cut = content.clone();
    let at = content.len() / 2 / 512 * 512;
    let header = (0..at / 512)
        .rev()
        .map(|block| block * 512)
        .find(|at| &content[at + 257..at + 262] == b"ustar")
        .unwrap();
    cut[header + 150] ^= 0xff;
    // The same file, since its time is its version.
    let put = |bytes: &[u8]| {
        let times = fs::metadata(&last).unwrap().modified().unwrap();
        fs::write(&last, bytes).unwrap();
        let file = fs::File::options().write(true).open(&last).unwrap();
        file.set_modified(times).unwrap();
    };
    put(&cut);
    let run = scene.tool("restored", &["--jobs=1"]).run();
    assert_eq!(run.code(), Some(4), "{run}");
    let restored = scene.path("restored");
    assert!(records(&restored) >= archives.len());
    assert!(!restored.join("global/pg_control").exists());

    // A file that the damaged archive had whole, and one that is not as it should be.
    put(&content);
    let torn = restored.join("PG_VERSION");
    let before = fs::read(&torn).unwrap();
    let run = scene.tool("restored", &["--resume", "-v"]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    let (fetched, written) = bytes(&run);
    assert!(fetched < all.0 && written < all.1, "{run}");
    assert_eq!(fs::read(&torn).unwrap(), before);
    scene.assert_whole("restored", "resumed");

    // Another backup's, or none's.
    fs::create_dir(scene.path("foreign")).unwrap();
    fs::write(scene.path("foreign/file"), "x").unwrap();
    workspace.owner().take_all(&scene.path("foreign"));
    let run = scene.tool("foreign", &["--resume"]).run();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stderr.contains("can be resumed"), "{run}");
    assert_eq!(fs::read(scene.path("foreign/file")).unwrap(), b"x");
    // An empty directory is as good as ever.
    scene.tool("fresh", &["--resume", "--no-sync"]).succeed();
    scene.assert_whole("fresh", "into nothing");
}

/// Makes a data directory another one, in every way that is to be noticed.
fn spoil(scene: &Scene<'_>, to: &str) {
    let root = scene.path(to);
    let mut seen = Vec::new();
    let base = root.join("base/1");
    for entry in fs::read_dir(&base).unwrap() {
        let path = entry.unwrap().path();
        if path.metadata().unwrap().len() >= 16384 {
            seen.push(path);
        }
    }
    seen.sort();
    // The same size and date, other content.
    let metadata = fs::metadata(&seen[0]).unwrap();
    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(&seen[0])
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(9000)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(9000)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    // Longer, shorter, gone, another kind.
    let mut file = fs::File::options().append(true).open(&seen[1]).unwrap();
    file.write_all(&[7; 8192]).unwrap();
    fs::File::options()
        .write(true)
        .open(&seen[2])
        .unwrap()
        .set_len(10)
        .unwrap();
    fs::remove_file(&seen[3]).unwrap();
    fs::remove_file(&seen[4]).unwrap();
    fs::create_dir(&seen[4]).unwrap();
    fs::write(seen[4].join("x"), "x").unwrap();
    // Another cluster has the same file under another name.
    fs::hard_link(&seen[5], scene.path("elsewhere-linked")).unwrap();
    fs::File::options()
        .write(true)
        .open(&seen[5])
        .unwrap()
        .set_len(3)
        .unwrap();
    // What does not belong: a file, a directory, links to what must survive.
    fs::write(root.join("standby.signal"), "").unwrap();
    fs::create_dir_all(root.join("base/99999/deep")).unwrap();
    fs::write(root.join("base/99999/deep/file"), "x").unwrap();
    fs::create_dir_all(scene.path("elsewhere")).unwrap();
    fs::write(scene.path("elsewhere/precious"), "x").unwrap();
    let _ = symlink(scene.path("elsewhere"), root.join("base/4242"));
    let _ = symlink(scene.path("elsewhere/precious"), root.join("base/1/4243"));
    let _ = symlink(scene.path("elsewhere"), root.join("pg_tblspc/4244"));
    let fast = scene.path(&format!("{to}-fast"));
    let version = fs::read_dir(&fast).unwrap().next().unwrap().unwrap().path();
    fs::write(version.join("4245"), "x").unwrap();
    // Another version of the server uses the same place.
    fs::create_dir_all(fast.join("PG_9.0_1")).unwrap();
    fs::write(fast.join("PG_9.0_1/theirs"), "x").unwrap();
    // The WAL is elsewhere; one segment is archived, the other one perhaps not.
    let wal = scene.path(&format!("{to}-wal"));
    if !wal.exists() {
        fs::rename(root.join("pg_wal"), &wal).unwrap();
        symlink(&wal, root.join("pg_wal")).unwrap();
    }
    fs::create_dir_all(wal.join("archive_status")).unwrap();
    for name in ["000000010000000000000041", "000000010000000000000042"] {
        fs::write(wal.join(name), name).unwrap();
    }
    let done = wal.join("archive_status/000000010000000000000041.done");
    fs::write(done, "").unwrap();
    for path in [&root, &fast, &wal] {
        scene.workspace.owner().take_all(path);
    }
}

fn assert_delta(scene: &Scene<'_>, to: &str, what: &str) {
    let fast = scene.path(&format!("{to}-fast/PG_9.0_1"));
    assert_eq!(fs::read(fast.join("theirs")).unwrap(), b"x", "{what}");
    fs::remove_dir_all(fast).unwrap();
    let wal = scene.path(&format!("{to}-wal"));
    let root = scene.path(to);
    assert_eq!(fs::read_link(root.join("pg_wal")).unwrap(), wal, "{what}");
    let kept = wal.join("barman-cloud-not-archived/000000010000000000000042");
    assert_eq!(
        fs::read(kept).unwrap(),
        b"000000010000000000000042",
        "{what}"
    );
    assert!(!wal.join("000000010000000000000041").exists(), "{what}");
    assert!(!wal.join("000000010000000000000042").exists(), "{what}");
    assert_eq!(
        fs::read(scene.path("elsewhere/precious")).unwrap(),
        b"x",
        "{what}"
    );
    let linked = fs::metadata(scene.path("elsewhere-linked")).unwrap();
    assert_eq!(
        (linked.len(), linked.nlink()),
        (3, 1),
        "{what}: not written through"
    );
    // Back to where it is compared.
    fs::remove_file(root.join("pg_wal")).unwrap();
    fs::rename(&wal, root.join("pg_wal")).unwrap();
    let _ = fs::remove_dir_all(root.join("pg_wal/barman-cloud-not-archived"));
    let _ = fs::remove_dir(root.join("pg_wal/archive_status"));
    let mode = fs::metadata(scene.path("whole/pg_wal"))
        .unwrap()
        .permissions();
    fs::set_permissions(root.join("pg_wal"), mode).unwrap();
    scene.assert_whole(to, what);
}

#[test]
fn a_delta_writes_what_differs_and_removes_what_does_not_belong() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let scene = Scene::new(&bin, &workspace, &place);
    let all = bytes(&scene.tool("target", &["-v"]).run());
    // Nothing differs.
    let run = scene.tool("target", &["--delta", "-v"]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(bytes(&run).1 < 20_000, "the label and pg_control: {run}");
    scene.assert_whole("target", "the same again");

    spoil(&scene, "target");
    let run = scene.tool("target", &["--delta", "-v"]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert_eq!(run.messages("WARNING").len(), 1, "{run}");
    assert!(bytes(&run).1 < all.1 / 4, "{run}");
    assert_delta(&scene, "target", "a delta");
    scene.starts(&bin, "target");
}

#[test]
fn a_delta_that_is_killed_is_not_started_and_can_be_done_again() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let scene = Scene::new(&bin, &workspace, &place);
    scene.tool("target", &[]).succeed();
    spoil(&scene, "target");
    let root = scene.path("target");
    let aside = root.join("global/pg_control.barman-cloud-aside");
    let mut kills = 0;
    for polls in [0, 1, 5, 20, 80, 300, 1000] {
        let mut left = polls;
        let enough = || {
            left -= i32::from(aside.exists());
            left < 0
        };
        if killed_when(scene.tool("target", &["--delta"]), enough) {
            kills += 1;
            // One of them says whose directory it is.
            assert!(aside.exists() || root.join("global/pg_control").exists());
        }
    }
    assert!(kills > 0, "it was never killed");
    let run = scene.tool("target", &["--delta"]).run();
    assert_eq!(run.code(), Some(0), "{run}");
    assert!(!aside.exists());
    assert_delta(&scene, "target", "after kills");
    scene.starts(&bin, "target");
}

#[test]
fn a_delta_refuses_what_is_not_this_cluster_or_alive() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let place = Place::in_directory(&workspace);
    let mut scene = Scene::new(&bin, &workspace, &place);
    let refused = |scene: &Scene<'_>, to: &str, why: &str| {
        let before = Tree::of(&scene.path(to));
        let run = scene.tool(to, &["--delta"]).run();
        assert_eq!(run.code(), Some(1), "{run}");
        assert!(run.errors()[0].contains(why), "{run}");
        before.assert_same(&Tree::of(&scene.path(to)), why);
    };
    fs::create_dir(scene.path("nothing")).unwrap();
    fs::write(scene.path("nothing/file"), "x").unwrap();
    workspace.owner().take_all(&scene.path("nothing"));
    refused(&scene, "nothing", "no `PG_VERSION`");

    let other = Cluster::create(&bin, &workspace, "other", &[]);
    refused(&scene, "other", "it is the cluster ");
    drop(other);

    // The tablespace's directory is somebody else's.
    scene.tool("target", &[]).succeed();
    fs::create_dir(scene.path("letters")).unwrap();
    fs::write(scene.path("letters/one"), "x").unwrap();
    workspace.owner().take_all(&scene.path("letters"));
    let run = scene
        .place
        .tool("barman-cloud-restore")
        .arg(format!(
            "--tablespace=fast:{}",
            scene.path("letters").display()
        ))
        .args(["--delta", scene.place.url(), "main", "taken"])
        .arg(scene.path("target"))
        .run();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(
        run.stderr.contains("not the directory of tablespace"),
        "{run}"
    );
    assert!(scene.path("letters/one").exists());
    scene.assert_whole("target", "nothing was changed");

    scene.cluster.start();
    let root = scene.cluster.pgdata().to_owned();
    let run = scene
        .place
        .tool("barman-cloud-restore")
        .args(["--delta", scene.place.url(), "main", "taken"])
        .arg(&root)
        .run();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stderr.contains("postmaster.pid"), "{run}");
    assert_eq!(
        scene.cluster.session().value("SELECT count(*) FROM t"),
        "100000"
    );

    let run = scene.tool("target", &["--delta", "--resume"]).run();
    assert_eq!(run.code(), Some(3), "{run}");
}
