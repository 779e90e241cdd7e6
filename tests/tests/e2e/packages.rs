//! What is installed: the Debian package in place of Debian's own, the archive for other
//! systems, the bare root of a container, and what goes with the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use e2e::{Cluster, PgBin, Recovery, S3Server, ShutDown, Workspace, project, sha256_of_file};
use serde_json::Value;

use crate::readme;

/// The rest of a line of the page about installing that begins so.
fn installing(begin: &str) -> String {
    let lines = readme::Section::of_page("installing.md").blocks("sh");
    let rest = lines.iter().find_map(|line| line.strip_prefix(begin));
    rest.unwrap_or_else(|| panic!("no `{begin}` in {lines:?}"))
        .to_owned()
}

/// Runs a program to its end, which must be a good one.
fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("a program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

fn said(command: &mut Command) -> String {
    String::from_utf8(succeed(command).stdout).expect("text")
}

/// A script of `packaging/`, which is given a place and the programs as they were built.
fn packaging(script: &str, to: &Path) -> Command {
    let mut command = Command::new(project().join("packaging").join(script));
    command.arg(to).arg(e2e::built());
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    command.env("DEB_COMPRESSION", "none");
    command
}

/// The path that a script printed.
fn made(script: &str, to: &Path) -> PathBuf {
    PathBuf::from(said(&mut packaging(script, to)).trim_end())
}

#[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this takes root");
    if !root {
        eprintln!("skipped: this takes root");
    }
    root
}

/// A system on which Debian's own package of these tools is installed, as far as dpkg
/// can tell, beside what is installed on this machine.
fn system(root: &Path) {
    let dpkg = root.join("var/lib/dpkg");
    for folder in ["info", "updates"] {
        fs::create_dir_all(dpkg.join(folder)).unwrap();
    }
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    let old = root.join("usr/bin/barman-cloud-backup");
    fs::write(old, "#!/usr/bin/python3\n").unwrap();
    // A package all of whose files are replaced would go in any case.
    fs::create_dir_all(root.join("usr/share")).unwrap();
    fs::write(root.join("usr/share/old"), "").unwrap();
    let list = "/.\n/usr\n/usr/bin\n/usr/bin/barman-cloud-backup\n/usr/share\n/usr/share/old\n";
    fs::write(dpkg.join("info/barman-cli-cloud.list"), list).unwrap();
    let known = fs::read_to_string("/var/lib/dpkg/status").unwrap();
    let packages = known.split_inclusive("\n\n");
    let needed = [
        "Package: libc6\n",
        "Package: libgcc-s1\n",
        "Package: gcc-12-base\n",
    ];
    let needed = packages.filter(|one| needed.iter().any(|name| one.starts_with(name)));
    let status = "Package: barman-cli-cloud\nStatus: install ok installed\nVersion: 3.10.0-1\n\
                  Architecture: all\nMaintainer: x <x@example.org>\nDescription: x\n\n";
    let status: String = needed.chain([status]).collect();
    fs::write(dpkg.join("status"), status).unwrap();
}

/// Installs the package in place of Debian's, and gives the folder of the programs.
fn install(package: &Path, root: &Path) -> PathBuf {
    system(root);
    succeed(
        Command::new("dpkg")
            .arg(format!("--root={}", root.display()))
            .args(["--no-triggers", "--install"])
            .arg(package),
    );
    root.join("usr/bin")
}

#[test]
fn the_debian_package_takes_the_place_of_debians_own_and_old_lines_work() {
    if !is_root() {
        return;
    }
    let Some(bin) = PgBin::find() else { return };
    let folder = Workspace::new();
    let package = made("deb.sh", &folder.path("out"));
    let named = installing("sudo apt install ./out/");
    assert!(package.ends_with(&named), "{package:?} is not {named}");
    let again = made("deb.sh", &folder.path("again"));
    assert_eq!(sha256_of_file(&package), sha256_of_file(&again));
    let field = |name: &str| {
        said(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&package)
                .arg(name),
        )
    };
    assert_eq!(field("Version"), "4.0.0\n");
    let depends = field("Depends");
    assert!(depends.starts_with("libc6 (>= 2."), "{depends}");
    assert!(depends.ends_with(", libgcc-s1\n"), "{depends}");
    let root = folder.dir("system");
    let programs = install(&package, &root);
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    let of = |name: &str| {
        let mut all = status.split("\n\n");
        let found = all.find(|one| one.starts_with(&format!("Package: {name}\n")));
        found.unwrap_or_default().to_owned()
    };
    assert!(of("barman-cloud").contains("\nStatus: install ok installed\n"));
    assert!(!of("barman-cli-cloud").contains("install ok installed"));

    let installed = || Workspace::of_installed(&programs);
    old_lines_work(&bin, &installed());
    readme::commands_for_a_barman_server_work(&bin, &installed());
}

/// Lines as they stand in `postgresql.conf` and in crontabs of users of Barman's tools.
const ARCHIVE: &str = "barman-cloud-wal-archive --cloud-provider aws-s3 --endpoint-url ENDPOINT \
                       -P default --gzip URL main %p";
const RESTORE: &str = "barman-cloud-wal-restore --endpoint-url ENDPOINT -P default URL main %f %p";
const CRONTAB: [&str; 2] = [
    "0 4 * * * postgres barman-cloud-backup --cloud-provider aws-s3 --endpoint-url ENDPOINT \
     -P default -j -J 4 --immediate-checkpoint -U postgres URL main",
    "30 4 * * 0 postgres barman-cloud-backup-delete --endpoint-url ENDPOINT -P default \
     --retention 'RECOVERY WINDOW OF 4 WEEKS' URL main && barman-cloud-backup-list \
     --endpoint-url ENDPOINT -P default --format json URL main >LIST",
];

/// The tools are found in `PATH` and are called as they were before.
fn old_lines_work(bin: &PgBin, workspace: &Workspace) {
    let Some(bucket) = S3Server::CephPlain.bucket(workspace) else {
        return;
    };
    let list = workspace.path("list.json");
    let placed = |line: &str| {
        line.replace("ENDPOINT", bucket.endpoint())
            .replace("URL", &bucket.url())
            .replace("LIST", &list.display().to_string())
    };
    let path = format!("{}:/usr/bin:/bin", workspace.path("bin").display());
    let mut environment = bucket.environment();
    let keys = |name: &str| {
        let found = environment.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    // As Barman's users have them: in a file.
    let profile = format!(
        "[default]\naws_access_key_id={}\naws_secret_access_key={}\n",
        keys("AWS_ACCESS_KEY_ID"),
        keys("AWS_SECRET_ACCESS_KEY")
    );
    let credentials = workspace
        .file("home/credentials", profile)
        .display()
        .to_string();
    environment = vec![("AWS_SHARED_CREDENTIALS_FILE", credentials), ("PATH", path)];

    let mut primary = Cluster::create(bin, workspace, "primary", &[]);
    primary.archive_with(&placed(ARCHIVE));
    primary.set_environment(&environment);
    primary.start();
    let rows = "CREATE TABLE t AS SELECT generate_series(1, 1000) AS i";
    primary.session().run(rows);
    let shell = |line: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &placed(line)]).env_clear();
        shell
            .envs(environment.clone())
            .env("PGHOST", primary.socket_dir());
        workspace.owner().run_as(&mut shell);
        succeed(&mut shell);
    };
    workspace.file("list.json", "");
    for line in CRONTAB {
        let command = line.splitn(7, ' ').nth(6).expect("a line of a crontab");
        shell(command);
    }
    let listed: Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    let backups = listed["backups_list"].as_array().expect("a list");
    assert_eq!(backups.len(), 1, "{listed}");
    primary.archive_everything();
    shell(&format!(
        "barman-cloud-restore --endpoint-url ENDPOINT -P default URL main latest {}",
        workspace.path("restored").display()
    ));
    primary.stop(ShutDown::Immediate);
    let mut restored = Cluster::existing(bin, workspace, "restored");
    restored.recover_with(&placed(RESTORE), &Recovery::Latest);
    restored.set_environment(&environment);
    restored.start_and_recover();
    assert_eq!(restored.session().value("SELECT count(*) FROM t"), "1000");
}

#[test]
fn the_archive_for_other_systems_is_unpacked_and_used() {
    let workspace = Workspace::new();
    let archive = made("tarball.sh", &workspace.path("out"));
    let local = workspace.dir("local");
    let line = installing("sudo tar ");
    let line = line.replace("/usr/local", &local.display().to_string());
    let line = line.replace("out/", &format!("{}/", workspace.path("out").display()));
    assert!(line.ends_with(&archive.display().to_string()), "{line}");
    succeed(Command::new("sh").args(["-c", &format!("tar {line}")]));
    let list = said(Command::new(local.join("bin/barman-cloud-backup-list")).arg("--version"));
    assert_eq!(list, "barman-cloud-backup-list 4.0.0\n");
    assert!(
        local
            .join("share/man/man1/barman-cloud-verify.1.gz")
            .exists()
    );
}

#[test]
fn the_root_of_a_container_has_the_tools_and_what_they_need_alone() {
    if !is_root() {
        return;
    }
    let workspace = Workspace::new();
    let root = workspace.path("root");
    // It runs every tool in there.
    succeed(&mut packaging("root.sh", &root));
    assert!(!root.join("bin/sh").exists() && !root.join("usr/bin/env").exists());
    fs::create_dir(root.join("bucket")).unwrap();
    let inside = |words: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg("--userspec=65532:65532").arg(&root);
        command.args(words);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TZ", "Asia/Kolkata")
            .envs([("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")]);
        command.output().expect("chroot can be started")
    };
    let help = installing("docker run --rm barman-cloud ");
    let help = inside(&help.split(' ').collect::<Vec<_>>());
    let text = fs::read(project().join("tests/help/barman-cloud-backup-list.txt")).unwrap();
    assert!(help.status.success() && help.stdout == text, "{help:?}");
    let tool = "barman-cloud-backup-list";
    let list = inside(&[tool, "file:///bucket", "main"]);
    assert_eq!(list.status.code(), Some(0), "{list:?}");
    // Certificates are read, and names are looked up, though in vain.
    let asked = inside(&[
        tool,
        "--test",
        "--endpoint-url",
        "https://x.invalid",
        "s3://b/p",
        "main",
    ]);
    assert_eq!(asked.status.code(), Some(2), "{asked:?}");
    let line = String::from_utf8_lossy(&asked.stderr);
    assert!(line.contains("x.invalid"), "{line}");
}

/// What is laid out for all packages.
pub(crate) fn tree(workspace: &Workspace) -> PathBuf {
    let tree = workspace.path("tree");
    succeed(&mut packaging("tree.sh", &tree));
    tree
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

/// The tools, as the recorded helps name them, and the program itself.
fn programs() -> BTreeSet<String> {
    let helps = names(&project().join("tests/help")).into_iter();
    let tools = helps.map(|file| file.trim_end_matches(".txt").to_owned());
    tools.chain(["barman-cloud".to_owned()]).collect()
}

#[test]
fn every_tool_has_a_manual_page_and_completions_and_the_program_its_papers() {
    let workspace = Workspace::new();
    let tree = tree(&workspace);
    let share = tree.join("usr/share");
    assert_eq!(names(&tree.join("usr/bin")), programs());
    pages_are_well_formed(&share.join("man/man1"));
    bash_completes(&share.join("bash-completion/completions"));
    for (shell, folder, begin, end) in [
        ("zsh", "zsh/vendor-completions", "_", ""),
        ("fish", "fish/vendor_completions.d", "", ".fish"),
    ] {
        let folder = share.join(folder);
        let files = names(&folder);
        let wanted = programs().into_iter();
        let wanted: BTreeSet<_> = wanted.map(|name| format!("{begin}{name}{end}")).collect();
        assert_eq!(files, wanted);
        if Command::new(shell).arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "{shell} is missing");
            eprintln!("skipped: {shell} is missing");
            continue;
        }
        for file in files {
            succeed(Command::new(shell).arg("-n").arg(folder.join(file)));
        }
    }
    papers_are_whole(&share.join("doc/barman-cloud"));
}

/// As the formatter and a reader's terminal see them.
fn pages_are_well_formed(folder: &Path) {
    let wanted = programs().into_iter();
    let wanted: BTreeSet<_> = wanted.map(|name| format!("{name}.1.gz")).collect();
    assert_eq!(names(folder), wanted);
    for name in wanted {
        let page = folder.join(&name);
        let mut man = Command::new("man");
        man.args(["--warnings", "--encoding=UTF-8", "--local-file"]);
        man.arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANWIDTH", "80");
        let shown = succeed(&mut man);
        assert_eq!(String::from_utf8_lossy(&shown.stderr), "", "{name}");
        let text = String::from_utf8(shown.stdout).unwrap();
        let headings: Vec<_> = text.lines().filter(|line| !line.starts_with(' ')).collect();
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"] {
            assert!(headings.contains(&heading), "{name}: no {heading}\n{text}");
        }
        // mandb reads from the source what the page is about.
        let of_page = name.trim_end_matches(".1.gz");
        let words: Vec<_> = text.split_whitespace().collect();
        let line = format!("NAME {of_page} - ");
        assert!(words.join(" ").contains(&line), "{text}");
    }
}

/// What bash offers for the last of these words, by the function of that file.
fn offered(folder: &Path, words: &[&str]) -> Vec<String> {
    let script = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                  function=$(complete -p \"$1\"); function=${function#*-F }; \
                  ${function%% *} \"$1\" \"${@: -1}\" \"${@: -2:1}\"; \
                  printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", script, "bash"]);
    let answer = said(bash.arg(folder.join(words[0])).args(words));
    answer.lines().map(str::to_owned).collect()
}

fn bash_completes(folder: &Path) {
    assert_eq!(names(folder), programs());
    for (words, wanted) in [
        (
            &["barman-cloud-backup", "--compr"][..],
            &["--compression-level"][..],
        ),
        (&["barman-cloud-wal-restore", "--spo"], &["--spool-dir"]),
        (&["barman-cloud", "wal-"], &["wal-archive", "wal-restore"]),
        (&["barman-cloud", "verify", "--prog"], &["--progress"]),
        (
            &["barman-cloud-backup-list", "--cloud-provider", "a"],
            &["aws-s3", "azure-blob-storage"],
        ),
    ] {
        assert_eq!(offered(folder, words), wanted, "{words:?}");
    }
    for tool in programs() {
        let all = offered(folder, &[&tool, "-"]);
        let odd = all.iter().filter(|word| !word.starts_with('-'));
        assert_eq!(odd.collect::<Vec<_>>(), [""; 0], "of {tool}");
        assert!(all.iter().any(|word| word == "--help"), "{tool}: {all:?}");
    }
}

/// Licences, and the list of what the program is made of.
fn papers_are_whole(folder: &Path) {
    for name in [
        "copyright",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "changelog.gz",
        "README.md",
    ] {
        assert!(folder.join(name).exists(), "{name} is missing");
    }
    let licences = said(
        Command::new("gzip")
            .arg("-dc")
            .arg(folder.join("THIRD-PARTY.md.gz")),
    );
    let bill = fs::read(folder.join("sbom.cdx.json")).unwrap();
    let bill: Value = serde_json::from_slice(&bill).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"]),
        (&"CycloneDX".into(), &"1.5".into())
    );
    let program = &bill["metadata"]["component"];
    assert_eq!(program["purl"], "pkg:cargo/barman-cloud@4.0.0");
    let components = bill["components"].as_array().expect("a list");
    let mut known = BTreeSet::from([program["bom-ref"].as_str().unwrap()]);
    for component in components {
        assert!(
            known.insert(component["bom-ref"].as_str().unwrap()),
            "{component}"
        );
        let licence = component["licenses"][0]["expression"].as_str().unwrap();
        assert!(!licence.is_empty(), "{component}");
        let name = component["name"].as_str().unwrap();
        if let Some(hash) = component["hashes"][0]["content"].as_str() {
            assert_eq!(hash.len(), 64, "{component}");
            assert!(
                licences.contains(&format!("| {name} | ")),
                "{name} is not told"
            );
        } else {
            let own = name.starts_with("barman-cloud") || name == "cloud-core";
            assert!(own, "{name} is from outside, and has no checksum");
        }
    }
    for dependency in bill["dependencies"].as_array().expect("a list") {
        let uses = dependency["dependsOn"].as_array().expect("a list");
        for name in uses.iter().chain([&dependency["ref"]]) {
            assert!(
                known.contains(name.as_str().unwrap()),
                "{name} is no component"
            );
        }
    }
    let has = |name: &str| components.iter().any(|component| component["name"] == name);
    assert!(has("cloud-core") && has("aws-sdk-s3") && has("tokio"));
    // Of the tests, and of the compiler.
    assert!(!has("insta") && !has("proptest") && !has("serde_derive"));
}

/// `E2E_BLESS=1` writes it anew.
#[test]
fn the_list_of_options_is_that_of_the_tools() {
    let page = said(Command::new(e2e::built().join("barman-cloud-pages")).arg("--options"));
    let file = project().join("docs/options.md");
    if std::env::var_os("E2E_BLESS").is_some() {
        fs::write(&file, &page).unwrap();
    }
    assert_eq!(page, fs::read_to_string(&file).unwrap_or_default());
}
