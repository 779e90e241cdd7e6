//! The least permissions on S3: what `docs/permissions.md` says is enough, and Ceph
//! denies everything else.

use std::fs;
use std::path::Path;

use e2e::{Bucket, Cluster, PgBin, Run, S3Server, Tool, Workspace, golden, project};
use serde_json::{Value, json};

use crate::relay_by_hand::Backup;

const SEGMENT: &str = "000000010000000000000006";

/// What is done with objects. (Ceph does not keep to `NotAction`.)
const OF_OBJECTS: [&str; 5] = [
    "s3:PutObject",
    "s3:GetObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
];

/// What the document says for S3.
fn section() -> String {
    let text = fs::read_to_string(project().join("docs/permissions.md")).unwrap();
    let (_, rest) = text.split_once("\n## S3\n").unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The policies in it, in their order: everything, archiving, reading.
fn policies() -> Vec<Value> {
    let section = section();
    let blocks = section.split("```json\n").skip(1);
    let texts = blocks.map(|block| block.split("```").next().unwrap());
    texts
        .map(|text| serde_json::from_str(text).expect("the policy is JSON"))
        .collect()
}

/// The actions in a row of the table: on objects, and on the bucket.
fn row(job: &str) -> [Vec<String>; 2] {
    let section = section();
    let begin = format!("| {job} |");
    let line = section.lines().find(|line| line.starts_with(&begin));
    let line = line.unwrap_or_else(|| panic!("no row for: {job}"));
    let cells: Vec<&str> = line.split('|').collect();
    let actions = |cell: &str| {
        let words = cell.split('`').skip(1).step_by(2);
        let words = words.filter(|word| word.starts_with("s3:"));
        words.map(str::to_owned).collect()
    };
    [actions(cells[2]), actions(cells[3])]
}

/// A bucket of which the guest uses the path `pg`.
struct Scene<'w> {
    workspace: &'w Workspace,
    bucket: Bucket<'w>,
}

impl<'w> Scene<'w> {
    fn new(workspace: &'w Workspace) -> Option<Self> {
        let bucket = S3Server::CephPlain.bucket(workspace)?;
        Some(Self { workspace, bucket })
    }

    /// Allows what a policy for `s3://my-backups/pg` allows, and nothing else.
    fn allow(&self, policy: &Value) {
        let mut policy = policy.clone();
        for statement in policy["Statement"].as_array_mut().unwrap() {
            statement["Principal"] = json!({"AWS": ["arn:aws:iam:::user/guest"]});
        }
        // Who wrote an object owns it here, and may do everything with it but what is
        // forbidden by name.
        let statements = policy["Statement"].as_array_mut().unwrap();
        let allowed: Vec<Value> = statements
            .iter()
            .filter(|statement| statement["Resource"].as_str().unwrap().contains('/'))
            .flat_map(|statement| match &statement["Action"] {
                Value::Array(actions) => actions.clone(),
                action => vec![action.clone()],
            })
            .collect();
        let mut forbidden = OF_OBJECTS.map(Value::from).to_vec();
        forbidden.retain(|action| !allowed.contains(action));
        if !forbidden.is_empty() {
            statements.push(json!({
                "Effect": "Deny",
                "Principal": {"AWS": ["arn:aws:iam:::user/guest"]},
                "Action": forbidden,
                "Resource": "arn:aws:s3:::my-backups/*",
            }));
        }
        let text = policy.to_string();
        let text = text.replace("my-backups", self.bucket.name());
        self.bucket.allow_guest(&text);
    }

    /// The same for rows of the table.
    fn allow_rows(&self, jobs: &[&str]) {
        let mut statements = Vec::new();
        for job in jobs {
            let [objects, bucket] = row(job);
            assert!(!objects.is_empty() || !bucket.is_empty(), "{job}: nothing");
            if !objects.is_empty() {
                statements.push(json!({
                    "Effect": "Allow",
                    "Action": objects,
                    "Resource": "arn:aws:s3:::my-backups/pg/*",
                }));
            }
            for action in bucket {
                let mut statement = json!({
                    "Effect": "Allow",
                    "Action": action,
                    "Resource": "arn:aws:s3:::my-backups",
                });
                if action == "s3:ListBucket" {
                    statement["Condition"] = json!({"StringLike": {"s3:prefix": "pg/*"}});
                }
                statements.push(statement);
            }
        }
        self.allow(&json!({"Version": "2012-10-17", "Statement": statements}));
    }

    fn tool(&self, name: &str, rest: &[&str]) -> Tool<'w> {
        self.workspace
            .tool(&format!("barman-cloud-{name}"))
            .envs(self.bucket.environment_of_guest())
            .args([&*format!("{}/pg", self.bucket.url()), "main"])
            .args(rest)
    }

    #[track_caller]
    fn run(&self, code: i32, name: &str, rest: &[&str]) -> Run {
        let run = self.tool(name, rest).run();
        assert_eq!(run.code(), Some(code), "{name} {rest:?}: {run}");
        run
    }

    #[track_caller]
    fn backup(&self, cluster: &Cluster, name: &str) {
        let [host, user] = cluster.connection();
        let rest = [&*host, &user, "--immediate-checkpoint", "--name", name];
        self.run(0, "backup", &rest);
    }

    #[track_caller]
    fn restore(&self, name: &str) {
        let target = self.workspace.path("restored");
        self.run(0, "restore", &[name, target.to_str().unwrap()]);
        fs::remove_dir_all(target).unwrap();
    }

    fn keys(&self) -> Vec<String> {
        self.bucket.keys("")
    }
}

fn segment(workspace: &Workspace, name: &str) -> String {
    let content = fs::read(golden().join("wal").join(SEGMENT)).unwrap();
    let path = workspace.file(name, content);
    path.display().to_string()
}

fn primary(workspace: &Workspace) -> Option<Cluster> {
    let mut cluster = Cluster::create(&PgBin::find()?, workspace, "primary", &[]);
    cluster.start();
    Some(cluster)
}

#[test]
fn each_tool_works_on_s3_with_the_documented_permissions_and_no_others() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let Some(cluster) = primary(&workspace) else {
        return;
    };
    let wal = segment(&workspace, SEGMENT);
    let target = workspace.path("fetched").display().to_string();

    // Nothing is allowed at first: all that follows is by a policy.
    let denied = scene.run(4, "wal-archive", &[&wal]);
    assert_eq!(denied.errors().len(), 1, "{denied}");
    assert!(denied.errors()[0].contains("AccessDenied"), "{denied}");

    scene.allow_rows(&["archive WAL"]);
    scene.run(0, "wal-archive", &[&wal]);
    // It is there, and may not be read: it is not replaced, and that is told.
    let unread = scene.run(1, "wal-archive", &[&wal]);
    assert!(unread.errors()[0].contains("AccessDenied"), "{unread}");
    let again = "archive a WAL file that is there already (compared with what is stored)";
    scene.allow_rows(&["archive WAL", again]);
    scene.run(0, "wal-archive", &[&wal]);

    let reading = "fetch WAL, restore, verify, list, show, check the WAL archive, metrics";
    scene.allow_rows(&["take base backups"]);
    scene.backup(&cluster, "one");
    scene.backup(&cluster, "two");
    scene.allow_rows(&[reading]);
    scene.run(0, "backup-list", &[]);
    scene.run(0, "metrics", &[]);
    scene.run(0, "backup-show", &["one"]);
    scene.run(1, "check-wal-archive", &[]);
    scene.run(0, "wal-restore", &[SEGMENT, &target]);
    scene.run(1, "wal-restore", &["000000010000000000000007", &target]);
    scene.restore("one");
    // The server does not archive: all but the WAL is good.
    let proof = scene.run(1, "verify", &["--format=json", "one"]);
    let found = e2e::Proof::of(proof).findings();
    assert!(found.iter().all(|(kind, _)| kind == "wal"), "{found:?}");
    for (tool, rest) in [
        ("backup-list", &[][..]),
        ("check-wal-archive", &[]),
        ("wal-archive", &[&*wal]),
    ] {
        scene.run(0, tool, &[rest, &["--test"]].concat());
    }
    let before = scene.keys();
    scene.run(4, "backup-keep", &["one", "--target=full"]);
    scene.run(1, "backup-delete", &["-b", "one"]);
    assert_eq!(scene.keys(), before, "a reader changed something");

    scene.allow_rows(&["keep and release"]);
    scene.run(0, "backup-keep", &["one", "--target=full"]);
    scene.run(0, "backup-keep", &["one", "--release"]);
    scene.allow_rows(&["delete"]);
    scene
        .bucket
        .begin_upload("pg/main/base/20200101T000000/data.tar");
    let purge = ["--purge-orphans", "--older-than=0s"];
    scene.run(0, "backup-delete", &purge);
    assert_eq!(scene.bucket.uploads(), [""; 0]);
    for name in ["one", "two"] {
        scene.run(0, "backup-delete", &["-b", name]);
    }
    let base: Vec<String> = scene.bucket.keys("pg/main/base/");
    assert_eq!(base, [""; 0]);
}

#[test]
fn the_policies_in_the_documentation_are_those_that_are_needed() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let Some(cluster) = primary(&workspace) else {
        return;
    };
    let [everything, archiving, reading] =
        <[Value; 3]>::try_from(policies()).expect("there are three of them");
    let wal = segment(&workspace, SEGMENT);
    let target = workspace.path("fetched").display().to_string();
    scene.allow(&archiving);
    scene.run(0, "wal-archive", &[&wal]);
    scene.run(0, "wal-archive", &[&wal]);
    scene.run(4, "backup-list", &[]);
    scene.allow(&everything);
    scene.backup(&cluster, "one");
    scene.allow(&reading);
    scene.run(0, "backup-list", &[]);
    scene.run(0, "wal-restore", &[SEGMENT, &target]);
    scene.restore("one");
    scene.run(1, "backup-delete", &["-b", "one"]);
    scene.allow(&everything);
    scene.run(0, "backup-keep", &["one", "--target=full"]);
    scene.run(0, "backup-keep", &["one", "--release"]);
    scene.run(0, "backup-delete", &["--purge-orphans"]);
    scene.run(0, "backup-delete", &["-b", "one"]);
    // Another path of the same bucket is somebody else's.
    let elsewhere = workspace
        .tool("barman-cloud-backup-list")
        .envs(scene.bucket.environment_of_guest())
        .args([&*format!("{}/other", scene.bucket.url()), "main"])
        .run();
    assert_eq!(elsewhere.code(), Some(4), "{elsewhere}");
    assert!(!Path::new(&workspace.path("restored")).exists());
}

/// As a hook script of a Barman server. Without the permission to delete, a backup that
/// would have to be replaced stays as it is.
#[test]
fn a_relay_works_on_s3_with_the_documented_permissions() {
    let workspace = Workspace::new();
    let Some(scene) = Scene::new(&workspace) else {
        return;
    };
    let Some(backup) = Backup::new(&workspace) else {
        return;
    };
    let relay = |code: i32, options: &[&str]| {
        let tool = scene.tool("backup", options).envs(backup.environment());
        let run = tool.run();
        assert_eq!(run.code(), Some(code), "{options:?}: {run}");
        run
    };
    let options = ["--min-chunk-size=5MB"];
    scene.allow_rows(&["relay base backups of a Barman server"]);
    relay(0, &options);
    let keys = scene.keys();
    relay(0, &options);
    let refused = relay(1, &["--gzip"]);
    assert!(refused.errors()[0].contains("AccessDenied"), "{refused}");
    assert_eq!(scene.keys(), keys);
    scene.allow_rows(&["relay one again, with other options"]);
    relay(0, &["--gzip"]);
    let now = scene.keys();
    assert!(
        now.iter()
            .all(|key| !keys.contains(key) || key.ends_with("/backup.info")),
        "{now:?}"
    );
    scene.allow_rows(&["fetch WAL, restore, verify, list, show, check the WAL archive, metrics"]);
    let listed = scene.run(0, "backup-list", &["--format=json"]);
    assert!(listed.stdout.contains("DONE"), "{listed}");
}
