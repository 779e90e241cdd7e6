//! The tools with variables and a file in place of options. What each option means there is
//! in `settings_options`, a real server's `archive_command` in `readme`.

use std::fs;

use e2e::{Run, Tool, Tree, Workspace, segment_moved_to};

const SEGMENT: &str = "000000010000000000000007";

/// A folder with a bucket, a file of settings and a segment of WAL.
struct Scene {
    workspace: Workspace,
}

impl Scene {
    /// `$URL` in the file is the URL of the bucket.
    fn new(file: &str) -> Self {
        let workspace = Workspace::new();
        workspace.dir("bucket");
        workspace.file(
            "settings.toml",
            file.replace("$URL", &workspace.url("bucket")),
        );
        workspace.file(SEGMENT, segment_moved_to(7));
        Self { workspace }
    }

    /// A tool that knows of the file by its variable.
    fn tool(&self, name: &str) -> Tool<'_> {
        let tool = self.workspace.tool(&format!("barman-cloud-{name}"));
        tool.env("BARMAN_CLOUD_CONFIG", self.workspace.path("settings.toml"))
    }

    fn archive(&self, words: &str, variables: &[(&str, &str)]) -> Run {
        let tool = self.tool("wal-archive").envs(variables.iter().copied());
        tool.args(words.split_whitespace()).arg(SEGMENT).run()
    }

    /// The names below the folder of a server's WAL.
    fn archived(&self, server: &str) -> Vec<String> {
        let folder = self.workspace.path("bucket").join(server);
        let entries = fs::read_dir(folder.join("wals/0000000100000000"));
        let names = entries.into_iter().flatten();
        names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// The example of the documentation, with a directory for the bucket.
fn example() -> String {
    let text = fs::read_to_string(e2e::project().join("docs/configuration.md")).unwrap();
    let (_, rest) = text.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    assert_eq!(example.matches("s3://my-backups/pg").count(), 2);
    example.replace("s3://my-backups/pg", "$URL")
}

#[test]
fn every_tool_finds_the_place_of_a_server() {
    let scene = Scene::new(&example());
    for (tool, rest) in [
        ("backup", vec![]),
        ("backup-delete", vec!["-b", "id"]),
        ("backup-keep", vec!["id", "--status"]),
        ("backup-list", vec![]),
        ("backup-show", vec!["id"]),
        ("check-wal-archive", vec![]),
        ("restore", vec!["id", "dir"]),
        ("verify", vec!["id"]),
        ("wal-archive", vec![]),
        ("wal-restore", vec![SEGMENT, "dest"]),
    ] {
        for server in ["main", "standby"] {
            let run = scene
                .tool(tool)
                .args(["-t", "--server", server])
                .args(&rest)
                .run();
            assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
        }
        let nobody = scene
            .tool(tool)
            .args(["-t", "--server", "x"])
            .args(&rest)
            .run();
        assert_eq!(nobody.code(), Some(3), "{nobody}");
        let told = "settings.toml has no [servers.x], only: main, standby\n";
        assert!(nobody.stderr.ends_with(told), "{nobody}");
        // The same with the place in variables, and with all of it typed.
        let url = scene.workspace.url("bucket");
        let bare = |variables: &[(&str, &str)]| {
            let tool = scene.workspace.tool(&format!("barman-cloud-{tool}"));
            tool.envs(variables.iter().copied()).arg("-t").args(&rest)
        };
        let place = [
            ("BARMAN_CLOUD_URL", url.as_str()),
            ("BARMAN_CLOUD_SERVER_NAME", "main"),
        ];
        let run = bare(&place).run();
        assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
        let run = bare(&[("BARMAN_CLOUD_URL", &url)])
            .args(["--server", "main"])
            .run();
        assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
        let run = bare(&[]).run();
        assert_eq!(run.code(), Some(3), "{run}");
    }
    let bucket = fs::read_dir(scene.workspace.path("bucket")).unwrap();
    assert_eq!(bucket.count(), 0);
}

#[test]
fn wal_goes_where_the_nearest_word_says() {
    let file = "[defaults]\nlz4 = true\n[servers.main]\nurl = '$URL'\n[servers.other]\nurl = '$URL'\n\
                server-name = 'another'\n[servers.other.wal-archive]\ngzip = true\n";
    let scene = Scene::new(file);
    let url = scene.workspace.url("bucket");
    let typed = format!("--xz {url} typed");
    let server = ("BARMAN_CLOUD_SERVER", "main");
    for (words, variables, folder, suffix) in [
        ("--server main", &[][..], "main", ".lz4"),
        ("--server other", &[], "another", ".gz"),
        ("", &[server], "main", ".lz4"),
        (
            "--server other",
            &[server, ("BARMAN_CLOUD_ZSTD", "1")],
            "another",
            ".zst",
        ),
        (
            "--server main --bzip2",
            &[("BARMAN_CLOUD_ZSTD", "1")],
            "main",
            ".bz2",
        ),
        (
            "--server main",
            &[("BARMAN_CLOUD_LZ4", "false")],
            "main",
            "",
        ),
        (&typed, &[server], "typed", ".xz"),
    ] {
        let run = scene.archive(words, variables);
        assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
        assert_eq!(
            scene.archived(folder),
            [format!("{SEGMENT}{suffix}")],
            "{run}"
        );
        fs::remove_dir_all(scene.workspace.path("bucket").join(folder)).unwrap();
        // And back, by the same name.
        if folder == "main" {
            scene.archive(words, variables);
            let tool = scene
                .tool("wal-restore")
                .args(["--server", "main", SEGMENT, "back"]);
            tool.succeed();
            let back = fs::read(scene.workspace.path("back")).unwrap();
            assert!(back == segment_moved_to(7));
            fs::remove_dir_all(scene.workspace.path("bucket/main")).unwrap();
        }
    }
}

#[test]
fn mistakes_end_with_3_and_touch_nothing() {
    let good = "[servers.main]\nurl = '$URL'\n";
    let before = |scene: &Scene| Tree::of(&scene.workspace.path("bucket"));
    for (file, words, variables, told) in [
        (
            "[servers.main]\nurl = '$URL'\ngzipp = true\n",
            "--server main",
            &[][..],
            "line 3: [servers.main] has the unknown key `gzipp`: is `gzip` meant?",
        ),
        (
            "[servers.main]\nurl = '$URL'\n[servers.main.restore]\ndelta = true\n",
            "--server main",
            &[],
            "line 4: --delta must be typed where it is meant: take it out of the file",
        ),
        (
            good,
            "--server main file:///x main",
            &[],
            "--server stands for the URL and the name of the server: leave both away",
        ),
        (
            good,
            "--server main",
            &[("BARMAN_CLOUD_QUEUE_MAX", "1GB")],
            "--queue-max must be typed where it is meant: unset the variable BARMAN_CLOUD_QUEUE_MAX",
        ),
        (
            good,
            "--server main --config /nowhere",
            &[],
            "could not read the settings in /nowhere: No such file or directory (os error 2)",
        ),
        (
            good,
            "--gzip --server main",
            &[("BARMAN_CLOUD_COMPRESSION_LEVEL", "max")],
            "(from the variable BARMAN_CLOUD_COMPRESSION_LEVEL)",
        ),
    ] {
        let scene = Scene::new(file);
        let tree = before(&scene);
        let run = scene.archive(words, variables);
        assert_eq!(run.code(), Some(3), "{run}");
        assert!(run.stderr.trim_end().ends_with(told), "{run}");
        tree.assert_same(&before(&scene), "nothing is written");
    }
}

/// What deletes less than was believed, or more, is never left to the surroundings.
#[test]
fn a_deletion_is_what_was_typed() {
    let scene = Scene::new("[servers.main]\nurl = '$URL'\n");
    for (name, value) in [
        ("DRY_RUN", "true"),
        ("DRY_RUN", "false"),
        ("RETENTION_POLICY", "REDUNDANCY 1"),
        ("PURGE_ORPHANS", "1"),
        ("OLDER_THAN", "0s"),
        ("TEST", "1"),
    ] {
        let variable = format!("BARMAN_CLOUD_{name}");
        let tool = scene.tool("backup-delete").env(&variable, value);
        let run = tool.args(["--server", "main", "-b", "id"]).run();
        assert_eq!(run.code(), Some(3), "{run}");
        let told = format!("must be typed where it is meant: unset the variable {variable}\n");
        assert!(run.stderr.ends_with(&told), "{run}");
    }
}

#[test]
fn a_misspelled_variable_is_told_to_who_asks() {
    let scene = Scene::new("[servers.main]\nurl = '$URL'\n");
    let said = |words: &str| {
        let run = scene.archive(words, &[("BARMAN_CLOUD_ZTSD", "1")]);
        assert_eq!(run.code(), Some(0), "{run}");
        run
    };
    let quiet = said("--server main");
    assert!(quiet.stderr.is_empty(), "{quiet}");
    let loud = said("--server main -v");
    let told = "the variable BARMAN_CLOUD_ZTSD belongs to no option of any tool";
    assert!(
        loud.messages("INFO").iter().any(|line| line == told),
        "{loud}"
    );
}

#[test]
fn a_relative_file_is_looked_for_in_the_folder_of_the_call() {
    let scene = Scene::new("[servers.main]\nurl = '$URL'\nzstd = true\n");
    let config = |tool: &str| {
        let tool = scene.workspace.tool(&format!("barman-cloud-{tool}"));
        tool.in_dir(scene.workspace.root())
            .args(["--config", "settings.toml", "--server", "main"])
    };
    config("wal-archive").arg(SEGMENT).succeed();
    config("wal-restore").args([SEGMENT, "back"]).succeed();
    assert!(scene.workspace.path("back").is_file());
}
