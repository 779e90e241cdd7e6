//! Levels, and what is said of mistakes in them. That every option of every tool can be
//! given in each way is shown where the tools are: `tests/tests/e2e/settings`.

use std::io::Write;

use clap::Parser;

use super::*;
use crate::cli::argparse::{Refusal, parse};
use crate::cli::args::{CommonArgs, DestinationArgs, TagArgs, WalCompressionArgs};
use crate::cli::values;
use crate::codec::Level;

/// A tool with every kind of option, and a positional that may be left away.
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-wal-archive", version)]
struct Sample {
    #[command(flatten)]
    destination: DestinationArgs,
    wal_path: Option<String>,
    #[command(flatten)]
    compression: WalCompressionArgs,
    #[command(flatten)]
    tags: TagArgs,
    #[arg(long, value_parser = values::compression_level)]
    compression_level: Option<Level>,
    #[arg(long, default_value = "1", value_parser = values::parallel)]
    parallel: u32,
    #[arg(long)]
    require_system_id: Option<u64>,
    #[arg(long)]
    allow_overwrite: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// A command line with its surroundings: the file's text, variables without their
/// beginning, and words that blanks set apart.
#[derive(Clone, Copy, Default)]
struct Line<'a> {
    file: &'a str,
    variables: &'a [(&'a str, &'a str)],
    words: &'a str,
}

impl Line<'_> {
    fn parse(self) -> Result<Sample, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.file.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let config = (!self.file.is_empty()).then_some(("CONFIG", path));
        let variables = self.variables.iter().copied().chain(config);
        let variables = variables.map(|(name, value)| (format!("{PREFIX}{name}"), value));
        let env: Env = variables.collect();
        let words: Vec<OsString> = self.words.split_whitespace().map(OsString::from).collect();
        match parse::<Sample>(&words, &env) {
            Ok(sample) => Ok(sample),
            Err(Refusal::Wrong(text)) => {
                let last = text.lines().last().unwrap().replace(path, "FILE");
                let beginning = "barman-cloud-wal-archive: error: ";
                Err(last.strip_prefix(beginning).unwrap_or(&last).to_owned())
            }
            Err(Refusal::Show(text)) => Err(text),
        }
    }

    fn sample(self) -> Sample {
        self.parse().unwrap()
    }

    fn codec(self) -> &'static str {
        self.sample().compression.codec().info().name
    }
}

/// A file with `text`, and nothing typed but a profile and a WAL file.
fn by_file(text: &str) -> Line<'_> {
    Line {
        file: text,
        words: "--server main wal",
        ..Line::default()
    }
}

#[test]
fn the_nearest_level_decides() {
    let in_file = [
        "servers.main.wal-archive.parallel = 3",
        "servers.main.parallel = 4",
        "defaults.wal-archive.parallel = 5",
        "defaults.parallel = 6",
    ];
    // Each level tells its own number, from the `first` on.
    for first in 1..=6 {
        let below = in_file.iter().skip(usize::max(first, 3) - 3);
        let url = "servers.main.url = 'u'\n".to_owned();
        let file = below.fold(url, |file, line| file + line + "\n");
        let typed = if first == 1 { "--parallel 1" } else { "" };
        let line = Line {
            file: &file,
            variables: if first <= 2 {
                &[("PARALLEL", "2")]
            } else {
                &[]
            },
            words: &format!("{typed} --server main wal"),
        };
        assert_eq!(line.sample().parallel as usize, first, "{file}");
    }
}

#[test]
fn each_kind_of_option_is_taken_from_each_place() {
    let file = "[servers.main]\nurl = 'u'\ngzip = true\nverbose = 2\nparallel = 0x10\n\
                endpoint-url = 'e f'\ntag = ['a,1', 'b,2 3']\nrequire-system-id = 7\n";
    let by_variables = Line {
        variables: &[
            ("GZIP", "yes"),
            ("VERBOSE", "2"),
            ("PARALLEL", "16"),
            ("ENDPOINT_URL", "e f"),
            ("TAG", "a,1 'b,2 3'"),
            ("REQUIRE_SYSTEM_ID", "7"),
            ("URL", "u"),
            ("SERVER_NAME", "main"),
            ("READ_TIMEOUT", ""),
        ],
        words: "wal",
        ..Line::default()
    };
    for line in [by_file(file), by_variables] {
        let sample = line.sample();
        assert_eq!(line.codec(), "gzip");
        assert_eq!(sample.common.verbose, 2);
        assert_eq!((sample.parallel, sample.require_system_id), (16, Some(7)));
        assert_eq!(sample.common.endpoint(), "e f");
        let tags = sample.tags.get().unwrap();
        let tags: Vec<&str> = tags.iter().map(|tag| tag.value.as_str()).collect();
        assert_eq!(tags, ["1", "2 3"]);
        let place = sample.destination.place();
        assert_eq!((place.url, place.servers), ("u", &["main".to_owned()][..]));
        assert_eq!(sample.wal_path.as_deref(), Some("wal"));
    }
}

#[test]
fn what_cannot_stand_beside_something_nearer_stays_away() {
    let file = "[defaults]\ngzip = true\nverbose = 1\ntags = ['a,1']\n[servers.main]\nurl = 'u'\n";
    assert_eq!(by_file(file).codec(), "gzip");
    let line = |words| Line {
        words,
        ..by_file(file)
    };
    assert_eq!(line("--zstd --server main wal").codec(), "zstd");
    let quiet = line("-q --tag b,2 --server main wal").sample();
    assert_eq!((quiet.common.verbose, quiet.common.quiet), (0, 1));
    let tags = quiet.tags.get().unwrap();
    assert_eq!((tags.len(), tags[0].key.as_str()), (1, "b"));
    // Nearer tables count as much as nearer words.
    let nearer = file.replace("url = 'u'", "url = 'u'\nlz4 = true");
    assert_eq!(by_file(&nearer).codec(), "lz4");
    // `false` is a decision too, and an empty list a list.
    let off = file.replace("url = 'u'", "url = 'u'\ngzip = false\ntags = []");
    assert_eq!(by_file(&off).codec(), "none");
    assert_eq!(by_file(&off).sample().tags.get(), Some(Vec::new()));
    let by_variable = Line {
        variables: &[("GZIP", "0")],
        ..by_file(file)
    };
    assert_eq!(by_variable.codec(), "none");
}

/// A level is one of an algorithm: 19 is much to zstd and nothing to gzip.
#[test]
fn a_level_goes_with_its_algorithm() {
    let file = "[servers.main]\nurl = 'u'\nzstd = true\ncompression-level = 19\n";
    for (words, variables, level) in [
        ("", &[][..], Some(19)),
        ("--zstd", &[], Some(19)),
        ("--gzip", &[], None),
        ("--gzip --compression-level 1", &[], Some(1)),
        ("", &[("ZSTD", "0")], None),
        ("", &[("LZ4", "1")], None),
        ("", &[("LZ4", "1"), ("COMPRESSION_LEVEL", "2")], Some(2)),
    ] {
        let line = Line {
            file,
            variables,
            words: &format!("{words} --server main wal"),
        };
        let expected = level.map(Level::Number);
        assert_eq!(
            line.sample().compression_level,
            expected,
            "{words} {variables:?}"
        );
    }
    // One that was said of no algorithm is for any.
    let alone = "[servers.main]\nurl = 'u'\ngzip = false\ncompression-level = 3\n";
    let line = Line {
        words: "--zstd --server main wal",
        ..by_file(alone)
    };
    assert_eq!(line.sample().compression_level, Some(Level::Number(3)));
    // Without any it would be refused.
    assert_eq!(by_file(alone).sample().compression_level, None);
}

/// A tool that takes snapshots, which it compresses not.
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-backup", version)]
struct Snapshots {
    #[command(flatten)]
    destination: DestinationArgs,
    #[arg(long)]
    snapshot_instance: Option<String>,
    #[arg(long)]
    snapshot_disk: Vec<String>,
    #[arg(long)]
    lz4: bool,
    #[arg(long)]
    compression_level: Option<String>,
    #[arg(long)]
    parallel_archives: Option<u32>,
    #[command(flatten)]
    common: CommonArgs,
}

#[test]
fn settings_of_archives_stay_away_from_snapshots() {
    let archives = "[servers.main]\nurl = 'u'\nlz4 = true\ncompression-level = 3\n\
                    parallel-archives = 2\n";
    let snapshots = "[servers.main]\nurl = 'u'\nsnapshot-disk = ['d']\n";
    for (text, words, taken) in [
        (archives, "", (None, 0, true, Some("3"), Some(2))),
        (
            archives,
            "--snapshot-instance i",
            (Some("i"), 0, false, None, None),
        ),
        (archives, "--snapshot-disk d", (None, 1, false, None, None)),
        (snapshots, "", (None, 1, false, None, None)),
        (snapshots, "--lz4", (None, 0, true, None, None)),
        (
            snapshots,
            "--parallel-archives 2",
            (None, 0, false, None, Some(2)),
        ),
    ] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let env: Env = [(format!("{PREFIX}CONFIG"), file.path().to_str().unwrap())]
            .into_iter()
            .collect();
        let words = format!("{words} --server main");
        let typed: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let it = parse::<Snapshots>(&typed, &env).unwrap();
        let disks = it.snapshot_disk.len();
        let level = it.compression_level.as_deref();
        let seen = (
            it.snapshot_instance.as_deref(),
            disks,
            it.lz4,
            level,
            it.parallel_archives,
        );
        assert_eq!(seen, taken, "{text} {words}");
    }
}

#[test]
fn the_place_is_typed_or_of_a_profile_or_of_variables() {
    let file = "[servers.main]\nurl = 'u'\n[servers.other]\nurl = 'v'\nserver-name = 'name'\n\
                parallel = 2\n[servers.bare]\n";
    let variables = &[("URL", "w"), ("SERVER_NAME", "n")];
    let server = &[("SERVER", "other")];
    let both = &[("SERVER", "other"), ("URL", "w")];
    for (file, variables, words, url, name, parallel) in [
        (file, &[][..], "--server main wal", "u", "main", 1),
        (
            file,
            &[],
            "--server main --server other wal",
            "v",
            "name",
            2,
        ),
        (file, server, "wal", "v", "name", 2),
        (file, server, "--server=main wal", "u", "main", 1),
        // Typed in full, the place is the typed one, and nothing of a profile counts.
        (file, server, "x y wal", "x", "y", 1),
        (file, server, "x y", "x", "y", 1),
        ("", variables, "x y wal", "x", "y", 1),
        // A typed profile is not led elsewhere; one of a variable follows other variables.
        (file, variables, "--server main wal", "u", "main", 1),
        (file, variables, "--server bare wal", "w", "bare", 1),
        (file, both, "wal", "w", "name", 2),
        ("", variables, "wal", "w", "n", 1),
        ("", variables, "--server main wal", "w", "main", 1),
    ] {
        let line = Line {
            file,
            variables,
            words,
        };
        let sample = line.sample();
        let place = sample.destination.place();
        assert_eq!(
            (place.url, place.servers, sample.parallel),
            (url, &[name.to_owned()][..], parallel),
            "{variables:?} {words}"
        );
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    let of_file = |text: &str| by_file(text).parse().unwrap_err();
    for (text, told) in [
        ("a = ", "FILE, line 1: this is not TOML: "),
        (
            "[defaults]\n\ngzip = true\ngzip = true",
            "FILE, line 4: this is not TOML: ",
        ),
        (
            "\ngzip = true",
            "FILE, line 2: `gzip` stands outside of the tables [defaults] and [servers.NAME]",
        ),
        ("[server.main]", "FILE, line 1: `server` stands outside"),
        (
            "[defaults]\ngzipp = true",
            "FILE, line 2: [defaults] has the unknown key `gzipp`: is `gzip` meant?",
        ),
        (
            "[defaults]\nxylophone = 1",
            "FILE, line 2: [defaults] has the unknown key `xylophone`",
        ),
        (
            "[defaults.wal-arch]\n",
            "FILE, line 1: [defaults] has the unknown table `wal-arch`",
        ),
        (
            "[servers.x.restor]\n",
            "FILE, line 1: [servers.x] has the unknown table `restor`: is `restore` meant?",
        ),
        (
            "[servers.x.backup]\nxz = true",
            "FILE, line 2: [servers.x.backup] has the key `xz`, but barman-cloud-backup has no such option",
        ),
        (
            "[defaults]\nurl = 'u'",
            "FILE, line 2: `url` belongs into a table [servers.NAME]",
        ),
        (
            "[servers.x.restore]\nserver-name = 'u'",
            "FILE, line 2: `server-name` belongs into",
        ),
        (
            "[servers.x]\nurl = 1",
            "FILE, line 2: `url` must be a text in quotes",
        ),
        (
            "[servers]\nx = 1",
            "FILE, line 2: `x` is no server: write [servers.x] above",
        ),
        (
            "[servers.y]\n[servers.x]",
            "FILE has no [servers.main], only: x, y",
        ),
        (
            "[defaults]\ngzip = true",
            "FILE has no [servers.main], nor any other server",
        ),
        (
            "[servers.main]",
            "[servers.main] has no `url`, and the variable BARMAN_CLOUD_URL is not set",
        ),
        (
            "[servers.x.backup-delete]\ndry-run = true",
            "FILE, line 2: --dry-run must be typed where it is meant: take it out of the file",
        ),
        (
            "[defaults]\nserver = 'x'",
            "FILE, line 2: --server must be typed",
        ),
    ] {
        let message = of_file(text);
        assert!(message.starts_with(told), "{text}: {message}");
    }
    let in_main = |text: &str| of_file(&format!("[servers.main]\nurl = 'u'\n{text}"));
    for (text, told) in [
        (
            "gzip = 'true'",
            "`gzip` in FILE, line 3 must be true or false",
        ),
        (
            "verbose = 10",
            "`verbose` in FILE, line 3 must be a number from 0 to 9",
        ),
        (
            "parallel = 1.5",
            "`parallel` in FILE, line 3 must be one text in quotes, or a whole number",
        ),
        (
            "parallel = [1, 2]",
            "`parallel` in FILE, line 3 must be one text",
        ),
        (
            "tags = [true]",
            "`tags` in FILE, line 3 must be a list of texts",
        ),
        (
            "parallel = 'x'",
            "argument --parallel: invalid int value: 'x' (from `parallel` in FILE, line 3)",
        ),
        (
            "tags = ['foo']",
            "Invalid tag format: foo (from `tags` in FILE, line 3)",
        ),
        (
            "cloud-provider = 'x'",
            "argument --cloud-provider: invalid choice: 'x' (choose from",
        ),
        (
            "gzip = true\nxz = true",
            "argument --xz: not allowed with argument -z/--gzip (from `gzip` in FILE, line 3 and `xz` in FILE, line 4)",
        ),
    ] {
        let message = in_main(text);
        assert!(message.starts_with(told), "{text}: {message}");
    }
}

#[test]
fn mistakes_beside_the_file_are_told_as_well() {
    for (variables, words, told) in [
        (
            &[][..],
            "--config /nowhere x y",
            "could not read the settings in /nowhere: No such file",
        ),
        (
            &[],
            "--server main x y",
            "--server stands for the URL and the name of the server: leave both away",
        ),
        (
            &[],
            "--server main wal",
            "it is not known where server main is: name a file with [servers.main] (--config FILE or \
             BARMAN_CLOUD_CONFIG), or set BARMAN_CLOUD_URL",
        ),
        (
            &[],
            "wal",
            "the following arguments are required: server_name",
        ),
        (
            &[("URL", "u")],
            "wal",
            "the following arguments are required: server_name",
        ),
        (
            &[("GZIP", "TRUE")],
            "x y",
            "the variable BARMAN_CLOUD_GZIP must be true or false",
        ),
        (
            &[("QUIET", "-1")],
            "x y",
            "the variable BARMAN_CLOUD_QUIET must be a number from 0 to 9",
        ),
        (
            &[("TAG", "'a")],
            "x y",
            "the variable BARMAN_CLOUD_TAG must be a list of texts",
        ),
        (
            &[("PARALLEL", "x")],
            "x y",
            "argument --parallel: invalid int value: 'x' (from the variable BARMAN_CLOUD_PARALLEL)",
        ),
        (
            &[("ALLOW_OVERWRITE", "true")],
            "x y",
            "--allow-overwrite must be typed where it is meant: unset the variable BARMAN_CLOUD_ALLOW_OVERWRITE",
        ),
        (
            &[("TEST", "false")],
            "x y",
            "--test must be typed where it is meant",
        ),
    ] {
        let line = Line {
            variables,
            words,
            ..Line::default()
        };
        let message = line.parse().unwrap_err();
        assert!(message.starts_with(told), "{words}: {message}");
    }
}

/// Values may be passwords; where the line is, is enough.
#[test]
fn no_complaint_tells_a_line_of_the_file() {
    for text in [
        "[servers.main]\nurl = 'hush",
        "[servers.main]\nurl = hush",
        "[servers.main]\nurl = ['hush']",
        "[servers.main]\nurl = 'u'\nendpoint-url = { hush = 1 }",
        "[servers.main]\nurl = 'u'\nendpoint-url = ['hush', 'hush']",
        "[servers.main]\nurl = 'hush'\ndbname = 'hush'\nnothing = 'hush'",
    ] {
        let message = by_file(text).parse().unwrap_err();
        assert!(
            message.contains("FILE") && !message.contains("hush"),
            "{message}"
        );
    }
}

/// What is asked for is shown, whatever the surroundings say.
#[test]
fn help_needs_no_file() {
    let line = Line {
        variables: &[("CONFIG", "/nowhere"), ("TEST", "1")],
        words: "--help",
        ..Line::default()
    };
    assert!(line.parse().unwrap_err().contains("--config <FILE>"));
}

#[test]
fn variables_of_others_are_not_ours() {
    let env = |value: &str| -> Env { [(variable("port"), value)].into_iter().collect() };
    assert_eq!(value_of(&env("5433"), "port"), Some(OsStr::new("5433")));
    assert_eq!(value_of(&env("tcp://10.0.0.1:9090"), "port"), None);
    assert_eq!(value_of(&env(""), "port"), None);
    let of_others = Line {
        variables: &[("SERVICE_HOST", "10.0.0.1"), ("VERSION", "3")],
        words: "x y",
        ..Line::default()
    };
    of_others.sample();
    let names = [
        "BARMAN_CLOUD_GZIPP",
        "BARMAN_CLOUD_GZIP",
        "BARMAN_CLOUD_SERVER_NAME",
        "BARMAN_SERVER",
        "BARMAN_CLOUDY",
    ];
    let env: Env = names.map(|name| (name, "1")).into_iter().collect();
    assert_eq!(unknown_variables(&env), ["BARMAN_CLOUD_GZIPP"]);
    for of_hooks in [
        "BARMAN_BACKUP_DIR",
        "BARMAN_CONFIGURATION",
        "BARMAN_ERROR",
        "BARMAN_HOOK",
        "BARMAN_PHASE",
        "BARMAN_RETRY",
        "BARMAN_SERVER",
        "BARMAN_VERSION",
    ] {
        assert!(known_options(None).all(|option| variable(option) != of_hooks));
    }
}

/// A connection string is used alone, so it must not push aside what was said nearer.
#[test]
fn a_connection_string_gives_way_to_a_part_that_is_nearer() {
    let above: BTreeSet<&str> = ["host"].into();
    let words = |text: &str| Value::Words(vec![text.to_owned()]);
    assert!(connects_elsewhere("dbname", &words("host=other"), &above));
    assert!(connects_elsewhere(
        "dbname",
        &words("postgres://other/d"),
        &above
    ));
    assert!(!connects_elsewhere("dbname", &words("other"), &above));
    assert!(!connects_elsewhere(
        "dbname",
        &words("host=other"),
        &BTreeSet::new()
    ));
    assert!(!connects_elsewhere("user", &words("a=b"), &above));
}

/// Options that need another one, and one that excludes a positional: as `metrics` has them.
#[derive(Debug, Parser)]
#[command(name = "barman-cloud-metrics", version)]
struct Watching {
    source_url: String,
    #[arg(conflicts_with = "all_servers")]
    server_names: Vec<String>,
    #[arg(long)]
    all_servers: bool,
    #[arg(long, group = "output")]
    textfile: Option<String>,
    #[arg(long, group = "output")]
    listen: Option<String>,
    #[arg(long, group = "output")]
    status: bool,
    #[arg(long, requires = "status")]
    format: Option<String>,
    #[arg(long, requires = "listen")]
    interval: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

/// What is taken with these words, as one text.
fn watching(file: &str, variables: &[(&str, &str)], words: &str) -> Result<String, String> {
    let mut config = tempfile::NamedTempFile::new().unwrap();
    config.write_all(file.as_bytes()).unwrap();
    let path = config.path().to_str().unwrap();
    let variables = variables.iter().copied().chain([("CONFIG", path)]);
    let env: Env = variables
        .map(|(name, value)| (format!("{PREFIX}{name}"), value))
        .collect();
    let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
    match parse::<Watching>(&words, &env) {
        Ok(it) => Ok(format!(
            "{} {:?} all={} {:?} {:?} {} {:?} {:?}",
            it.source_url,
            it.server_names,
            it.all_servers,
            it.textfile,
            it.listen,
            it.status,
            it.format,
            it.interval
        )),
        Err(Refusal::Wrong(text) | Refusal::Show(text)) => Err(text),
    }
}

#[test]
fn what_needs_an_option_that_is_not_there_stays_away() {
    let file = "[defaults]\nformat = 'json'\n[defaults.metrics]\nlisten = '1'\ninterval = '3s'\n";
    for (words, taken) in [
        (
            "u main",
            r#"u ["main"] all=false None Some("1") false None Some("3s")"#,
        ),
        (
            "--listen 9 u main",
            r#"u ["main"] all=false None Some("9") false None Some("3s")"#,
        ),
        (
            "--status u main",
            r#"u ["main"] all=false None None true Some("json") None"#,
        ),
        (
            "--textfile f u main",
            r#"u ["main"] all=false Some("f") None false None None"#,
        ),
    ] {
        assert_eq!(watching(file, &[], words).as_deref(), Ok(taken), "{words}");
    }
    let variables = [("FORMAT", "json"), ("INTERVAL", "3s")];
    let taken = watching("", &variables, "u main");
    let plain = r#"u ["main"] all=false None None false None None"#;
    assert_eq!(taken.as_deref(), Ok(plain));
    // What was typed is refused as ever.
    assert!(watching("", &[], "--format json u main").is_err());
}

#[test]
fn a_typed_server_keeps_away_what_excludes_it_and_the_other_way_round() {
    let file = "[defaults.metrics]\nall-servers = true\n[servers.main]\nurl = 'u'\n";
    let named = r#"u ["main"] all=false None None false None None"#;
    let all = r"u [] all=true None None false None None";
    let place = [("URL", "u"), ("SERVER_NAME", "main")];
    let none: &[_] = &[];
    for (file, variables, words, taken) in [
        (file, none, "u main", named),
        (file, none, "--server main", named),
        (file, none, "u", all),
        (file, &place, "", named),
        ("", &place, "--all-servers", all),
        (file, &[("SERVER", "main")], "--all-servers", all),
    ] {
        let line = watching(file, variables, words);
        assert_eq!(line.as_deref(), Ok(taken), "{variables:?} {words}");
    }
    let both = [("URL", "u"), ("SERVER_NAME", "main"), ("ALL_SERVERS", "1")];
    assert!(
        watching("", &both, "").is_err(),
        "one level contradicts itself"
    );
    assert!(watching(file, none, "--server main --all-servers").is_err());
}
