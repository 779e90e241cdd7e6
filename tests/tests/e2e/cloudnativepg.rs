//! The chapter about CloudNativePG: the calls that the operator makes for the cluster in
//! there, in the image in there, whose root is read-only, with a real server and a real store.
//!
//! The operator needs Kubernetes and is not run; what it makes of a cluster's settings was
//! read off its releases.

use std::fs;
use std::path::Path;
use std::process::Output;

use e2e::{Bucket, Cluster, PgBin, Recovery, S3Server, ShutDown, System, Workspace};

use crate::packages;
use crate::readme::Section;

/// The chapter's cluster.
struct Settings(Vec<String>);

impl Settings {
    fn of(page: &Section) -> Self {
        let blocks = page.whole_blocks("yaml");
        assert_eq!(blocks.len(), 1, "{blocks:?}");
        Self(
            blocks[0]
                .lines()
                .map(|line| line.trim().to_owned())
                .collect(),
        )
    }

    /// The value of a key that comes below another.
    fn value(&self, below: &str, key: &str) -> &str {
        let mut lines = self
            .0
            .iter()
            .skip_while(|line| **line != format!("{below}:"));
        let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        value.expect(key).trim_matches('"')
    }
}

/// The chapter's image over this machine's programs, with the tools of another maker where
/// PostgreSQL's image has them.
fn image(workspace: &Workspace, page: &Section) -> Option<System> {
    let recipe = page.whole_blocks("dockerfile");
    assert!(
        recipe[0].ends_with("COPY --from=tools /usr/bin/ /usr/local/bin/\n"),
        "{recipe:?}"
    );
    let mut system = System::new(workspace, "image")?;
    let tools = packages::tree(workspace).join("usr/bin");
    let usr = workspace.path("usr");
    fs::create_dir_all(usr.join("local")).unwrap();
    fs::rename(tools, usr.join("local/bin")).unwrap();
    fs::create_dir(usr.join("bin")).unwrap();
    fs::write(usr.join("bin/barman-cloud-backup"), "#!/bin/false\n").unwrap();
    system.install(&usr);
    Some(system)
}

/// The operator, beside one server.
struct Operator<'w> {
    image: System,
    bucket: &'w Bucket<'w>,
    workspace: &'w Workspace,
    socket: String,
}

impl Operator<'_> {
    /// Where the backups go, after the words that say how: `E`, `P` and the place.
    fn place(&self) -> Vec<String> {
        let words = [
            "--endpoint-url",
            self.bucket.endpoint(),
            "--cloud-provider",
            "aws-s3",
        ];
        let url = self.bucket.url();
        words
            .into_iter()
            .chain([url.as_str(), "main"])
            .map(str::to_owned)
            .collect()
    }

    /// Calls a tool by its name, as the instance manager does.
    fn call(&self, words: &[&str]) -> Output {
        self.call_with(&self.bucket.environment(), words)
    }

    fn call_with(&self, environment: &[(&'static str, String)], words: &[&str]) -> Output {
        let mut command = self.image.command("postgres", self.workspace.root());
        // The endpoint is an option.
        let known = environment
            .iter()
            .filter(|(name, _)| !name.contains("ENDPOINT"));
        for (name, value) in known {
            command.arg(format!("--setenv={name}={value}"));
        }
        let scratch = self.workspace.path("scratch");
        command.arg(format!("--setenv=TMPDIR={}", scratch.display()));
        command.arg(format!("--setenv=PGHOST={}", self.socket));
        command.args(words).output().expect("it was there just now")
    }

    fn succeed(&self, words: &[&str], place: &[String]) -> String {
        let place = place.iter().map(String::as_str);
        let words: Vec<&str> = words.iter().copied().chain(place).collect();
        let output = self.call(&words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[test]
fn the_operator_gets_on_with_the_image() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::CephPlain.bucket(&workspace) else {
        return;
    };
    let page = Section::of_page("cloudnativepg.md");
    let Some(image) = image(&workspace, &page) else {
        return;
    };
    let settings = Settings::of(&page);
    workspace.dir("scratch");
    let mut cluster = Cluster::create(&bin, &workspace, "pgdata", &[]);
    let operator = Operator {
        image,
        bucket: &bucket,
        workspace: &workspace,
        socket: cluster.socket_dir().display().to_string(),
    };
    let place = operator.place();

    // The chapter's last command, and what it must say.
    let commands = page.blocks("sh");
    let [.., asks] = commands.as_slice() else {
        panic!("no commands")
    };
    let (_, asks) = asks.split_once(":17 ").expect("an image is run");
    let asks: Vec<&str> = asks.split(' ').collect();
    assert_eq!(operator.succeed(&asks, &[]), "barman-cloud-backup 4.0.0\n");
    assert!(page.has("must say `barman-cloud-backup 4.0.0`"));

    operator.succeed(&["barman-cloud-check-wal-archive"], &place);
    let codec = format!("--{}", settings.value("wal", "compression"));
    let archive = workspace.bin("barman-cloud-wal-archive");
    cluster.configure("archive_mode", "on");
    cluster.archive_with(&format!(
        "{} {codec} {} %p",
        archive.display(),
        place.join(" ")
    ));
    cluster.set_environment(&bucket.environment());
    cluster.start();
    cluster
        .session()
        .run("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");

    let codec = format!("--{}", settings.value("data", "compression"));
    let name = "backup-20261122030000";
    let mut backup = vec![
        "barman-cloud-backup",
        "--user",
        "postgres",
        "--name",
        name,
        &codec,
    ];
    assert_eq!(settings.value("data", "immediateCheckpoint"), "true");
    backup.push("--immediate-checkpoint");
    backup.extend(["--jobs", settings.value("data", "jobs")]);
    operator.succeed(&backup, &place);
    cluster.archive_everything();
    let is_archive = |key: &&String| key.ends_with("/data.tar.gz");
    assert_eq!(bucket.keys("main/").iter().filter(is_archive).count(), 1);

    // By its name, and as one document.
    let mut show = vec!["barman-cloud-backup-show", "--format", "json"];
    let words: Vec<String> = place.iter().cloned().chain([name.to_owned()]).collect();
    let shown: serde_json::Value = serde_json::from_str(&operator.succeed(&show, &words)).unwrap();
    let id = shown["cloud"]["backup_id"].as_str().expect("its id");
    show[0] = "barman-cloud-backup-list";
    let listed: serde_json::Value = serde_json::from_str(&operator.succeed(&show, &place)).unwrap();
    assert_eq!(listed["backups_list"][0]["backup_id"], id);
    let days = settings
        .value("backup", "retentionPolicy")
        .strip_suffix('d')
        .expect("days");
    let policy = format!("RECOVERY WINDOW OF {days} DAYS");
    let (how, place_itself) = place.split_at(4);
    let retention = [
        how,
        &["--retention-policy".to_owned(), policy],
        place_itself,
    ]
    .concat();
    operator.succeed(&["barman-cloud-backup-delete"], &retention);
    assert_eq!(bucket.keys("main/").iter().filter(is_archive).count(), 1);

    // The operator's form, and the plugin's.
    let (where_, provider) = how.split_at(2);
    workspace.dir("restored");
    for (folder, words) in [
        (
            "restored/in-tree",
            [where_, place_itself, &[id.to_owned()], provider].concat(),
        ),
        (
            "restored/plugin",
            [provider, where_, place_itself, &[id.to_owned()]].concat(),
        ),
    ] {
        let to = workspace.dir(folder).display().to_string();
        operator.succeed(&["barman-cloud-restore"], &[words, vec![to]].concat());
    }
    cluster.stop(ShutDown::Immediate);
    let mut restored = Cluster::existing(&bin, &workspace, "restored/in-tree");
    let fetch = workspace.bin("barman-cloud-wal-restore");
    let fetch = format!("{} {} %f %p", fetch.display(), place.join(" "));
    restored.recover_with(&fetch, &Recovery::Latest);
    restored.set_environment(&bucket.environment());
    restored.start_and_recover();
    assert_eq!(restored.session().value("SELECT count(*) FROM t"), "1000");
    outages_are_no_ends(&operator, &workspace);
}

/// A segment that is not there is 1, and a store that is not there 2: the operator takes
/// the one for the end of the archive, and tries again after the other.
fn outages_are_no_ends(operator: &Operator<'_>, workspace: &Workspace) {
    let to = workspace.path("scratch/segment").display().to_string();
    let segment = "0000000100000000000000FF";
    let fetch = |endpoint: &str| {
        let words = ["--endpoint-url", endpoint, "--cloud-provider", "aws-s3"];
        let url = operator.bucket.url();
        let all = ["barman-cloud-wal-restore"].into_iter().chain(words);
        // An option of ours, where the operator puts those.
        let all: Vec<&str> = all
            .chain([url.as_str(), "main", "--retry-timeout=0", segment, &to])
            .collect();
        operator.call(&all).status.code()
    };
    assert_eq!(fetch(operator.bucket.endpoint()), Some(1));
    assert_eq!(fetch("http://127.0.0.1:1"), Some(2));
    assert!(!Path::new(&to).exists());
}
