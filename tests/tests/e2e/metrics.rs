//! `barman-cloud-metrics`: what it shows is what is there, a real Prometheus takes it, and a store
//! that goes away shows.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e2e::{
    HttpAnswer, HttpServer, Objects, Place, Prometheus, Running, S3Server, Tool, Workspace,
    http_get, peak_of_children, promtool, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

const TOOL: &str = "barman-cloud-metrics";

/// The number of the segment that the recorded backup needs.
const SEGMENT: u64 = 4;

fn segment(number: u64) -> String {
    format!("00000001{:08X}{:08X}", number >> 8, number & 0xFF)
}

/// Keys and contents of a backup that the reference took, moved to another id.
fn backup(id: &str, change: impl Fn(String) -> String) -> [(String, String); 3] {
    let record = e2e::golden().join("backup-info/done-gzip-tablespace-named.info");
    let record = change(fs::read_to_string(record).expect("it is recorded"));
    let key = |name: &str| format!("main/base/{id}/{name}");
    [
        (key("backup.info"), record),
        (key("data.tar.gz"), "0123456789".to_owned()),
        (key("16384.tar.gz"), "01234".to_owned()),
    ]
}

/// Segments from the one that the recorded backup needs on.
fn wal(count: u64) -> impl Iterator<Item = (String, String)> {
    (SEGMENT..SEGMENT + count).map(|number| {
        let name = segment(number);
        (
            format!("main/wals/{}/{name}.gz", &name[..16]),
            "w".to_owned(),
        )
    })
}

/// A good backup, a failed one, and some WAL.
fn catalogue() -> BTreeMap<String, String> {
    let failed = |text: String| {
        let text = text.replace("status=DONE", "status=FAILED");
        text.replace("error=None", "error=disk full")
            .replace("02:21", "01:21")
    };
    let good = backup("20261121T022133", |text| text);
    let mut all: BTreeMap<_, _> = good.into_iter().chain(wal(3)).collect();
    all.extend(backup("20261121T012133", failed));
    all
}

fn fill(objects: &Objects<'_>) {
    for (key, content) in catalogue() {
        objects.write(&key, content);
    }
}

fn text_of(path: &Path) -> String {
    path.to_str()
        .expect("a path in a temporary folder")
        .to_owned()
}

/// The tool at a place, for `main`.
fn metrics<'w>(place: &Place<'w>, options: &[&str]) -> Tool<'w> {
    place.tool(TOOL).args(options).args([place.url(), "main"])
}

/// The value of a series, as it stands there; `None` if it is not there.
fn value<'t>(text: &'t str, series: &str) -> Option<&'t str> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

/// A service, and where it is.
struct Served {
    running: Running,
    address: String,
}

impl Served {
    /// Starts it on a port of the loopback address.
    fn start(tool: Tool<'_>) -> Self {
        let running = tool.args(["-v", "--listen", "0"]).start();
        let address = wait_until("the service to listen", || {
            let said = running.stderr_so_far();
            let (_, rest) = said.split_once("listening on http")?;
            let (url, _) = rest.split_once("/metrics")?;
            Some(
                url.trim_start_matches('s')
                    .trim_start_matches("://")
                    .to_owned(),
            )
        });
        Self { running, address }
    }

    fn get(&self, target: &str) -> HttpAnswer {
        http_get(&self.address, target, &[]).expect("it answers")
    }

    fn text(&self) -> String {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).expect("text")
    }

    /// Waits for a series to have this value, and gives the whole text.
    fn wait_for(&self, series: &str, expected: &str) -> String {
        wait_until(&format!("{series} {expected}"), || {
            let text = self.text();
            (value(&text, series) == Some(expected)).then_some(text)
        })
    }

    /// Asks it to stop, and expects that it does so in order.
    fn stop(self) {
        self.running.signal(Signal::TERM);
        let run = self.running.wait();
        assert_eq!(run.code(), Some(0), "{run}");
        let errors = run.errors();
        assert!(errors.is_empty() && !run.stderr.contains("panic"), "{run}");
    }
}

#[test]
fn the_text_says_what_is_there_and_promtool_has_nothing_to_say() {
    let workspace = Workspace::new();
    let objects = Objects::in_directory(&workspace);
    fill(&objects);
    let run = metrics(objects.place(), &[]).run();
    assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
    for (series, expected) in [
        ("barman_cloud_up{server=\"main\"}", "1"),
        ("barman_cloud_healthy{server=\"main\"}", "1"),
        ("barman_cloud_backups{server=\"main\",status=\"done\"}", "1"),
        (
            "barman_cloud_backups{server=\"main\",status=\"failed\"}",
            "1",
        ),
        (
            "barman_cloud_backups_by_codec{server=\"main\",codec=\"gzip\"}",
            "1",
        ),
        ("barman_cloud_backups_restorable{server=\"main\"}", "1"),
        ("barman_cloud_backups_stored_bytes{server=\"main\"}", "30"),
        (
            "barman_cloud_last_backup_original_bytes{server=\"main\",result=\"good\"}",
            "31444681",
        ),
        (
            "barman_cloud_wal_segments{server=\"main\",timeline=\"1\"}",
            "3",
        ),
        ("barman_cloud_wal_gaps{server=\"main\",timeline=\"1\"}", "0"),
        (
            "barman_cloud_last_backup_info{server=\"main\",result=\"failed\",\
             backup_id=\"20261121T012133\",codec=\"gzip\",server_version=\"15.20\"}",
            "1",
        ),
    ] {
        assert_eq!(
            value(&run.stdout, series),
            Some(expected),
            "{series}\n{run}"
        );
    }
    let Some(checked) = promtool(workspace.root(), &["check", "metrics"], &run.stdout) else {
        return;
    };
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}");
}

#[test]
fn montagus_text_is_the_same_to_the_byte_apart_from_the_times() {
    let workspace = Workspace::new();
    let objects = Objects::in_directory(&workspace);
    fill(&objects);
    let run = metrics(objects.place(), &["--compat", "montagu"]).run();
    let mut times = Vec::new();
    let lines = run.stdout.lines().map(|line| match line.rsplit_once(' ') {
        Some((name, value)) if name.contains("_time_since_") => {
            times.push(value.parse::<f64>().expect("a number"));
            format!("{name} TIME\n")
        }
        _ => format!("{line}\n"),
    });
    let text: String = lines.collect();
    assert_eq!(
        text,
        "barman_running{database=\"main\"} 1\n\
         barman_ok{database=\"main\"} 1\n\
         barman_pg_version{database=\"main\"} 15.20\n\
         barman_available_backups{database=\"main\"} 1\n\
         barman_time_since_last_backup_seconds{database=\"main\"} TIME\n\
         barman_time_since_last_backup_minutes{database=\"main\"} TIME\n\
         barman_time_since_last_backup_hours{database=\"main\"} TIME\n\
         barman_time_since_last_backup_days{database=\"main\"} TIME\n",
        "{run}"
    );
    let seconds = times[0];
    let others = [seconds / 60.0, seconds / 3600.0, seconds / 86400.0];
    assert_eq!(times[1..], others);
    let run = metrics(objects.place(), &["--compat", "cnpg"]).run();
    let name = "barman_cloud_cloudnative_pg_io_last_available_backup_timestamp";
    assert_eq!(value(&run.stdout, name), Some("1795227701"), "{run}");
}

#[test]
fn a_text_file_is_for_others_to_read_and_tells_of_a_store_that_is_away() {
    let workspace = Workspace::new();
    let objects = Objects::in_directory(&workspace);
    fill(&objects);
    let path = workspace.dir("node").join("barman.prom");
    let file = path.to_str().expect("a path in a temporary folder");
    let old = ["--max-backup-age", "1s", "--textfile", file];
    metrics(objects.place(), &old).succeed();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        value(&text, "barman_cloud_healthy{server=\"main\"}"),
        Some("0"),
        "{text}"
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    // The same file from a store that does not answer.
    let away = HttpServer::answering(|_| (503, String::new()));
    let run = workspace
        .tool(TOOL)
        .env("AWS_ENDPOINT_URL", away.url())
        .env("AWS_ACCESS_KEY_ID", "somebody")
        .env("AWS_SECRET_ACCESS_KEY", "hush")
        .env("AWS_REGION", "us-east-1")
        .args(["--textfile", file, "s3://bucket/p", "main"])
        .run();
    assert_eq!(run.code(), Some(2), "{run}");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        value(&text, "barman_cloud_up{server=\"main\"}"),
        Some("0"),
        "{text}"
    );
    assert!(!text.contains("barman_cloud_backups"), "{text}");
    // The listings of the WAL and of what was let go.
    assert_eq!(
        value(&text, "barman_cloud_store_errors_total"),
        Some("2"),
        "{text}"
    );
    let names = fs::read_dir(workspace.path("node")).unwrap();
    assert_eq!(names.count(), 1, "nothing else is left");
}

#[test]
fn a_status_ends_with_0_if_all_is_well_and_1_if_not() {
    let workspace = Workspace::new();
    let objects = Objects::in_directory(&workspace);
    fill(&objects);
    let status = |options: &[&str]| metrics(objects.place(), options).arg("--status").run();
    let good = status(&[]);
    assert!(good.code() == Some(0) && good.stderr.is_empty(), "{good}");
    let first = good.stdout.lines().next().unwrap();
    let beginning = "BARMAN OK - main: 1 base backup, recoverable from 2026-11-21 02:21:41Z (";
    assert!(first.starts_with(beginning), "{good}");
    let old = status(&["--max-backup-age", "1s"]);
    assert!(old.code() == Some(1) && old.stderr.is_empty(), "{old}");
    assert!(
        old.stdout
            .starts_with("BARMAN WARNING - main: the last good backup ended "),
        "{old}"
    );
    let json = status(&["--format", "json", "--max-wal-age", "4w"]);
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["healthy"], true);
    assert_eq!(
        json["servers"][0]["seen"]["wal"]["timelines"][0]["segments"],
        3
    );
    // Something is missing.
    let name = segment(SEGMENT + 1);
    objects.remove(&format!("main/wals/{}/{name}.gz", &name[..16]));
    let gap = status(&[]);
    assert_eq!(gap.code(), Some(1), "{gap}");
    let line =
        format!("BARMAN WARNING - main: WAL segment {name} is missing: recoveries stop there\n");
    assert!(gap.stdout.starts_with(&line), "{gap}");
    // Several servers, and all that there are.
    let all = |words: &[&str]| {
        let tool = objects
            .place()
            .tool(TOOL)
            .args(["--status", objects.place().url()]);
        tool.args(words).run()
    };
    let both = all(&["main", "nobody"]);
    assert_eq!(both.code(), Some(1), "{both}");
    assert!(
        both.stdout
            .contains("nobody: there is no base backup to restore"),
        "{both}"
    );
    let found = all(&["--all-servers"]);
    assert!(found.stdout.contains("\nServer main\n"), "{found}");
    assert_eq!(found.stdout.matches("\nServer ").count(), 1, "{found}");
    let away = all(&["main", "--endpoint-url", "http://127.0.0.1:9"]);
    assert_eq!(away.code(), Some(1), "a directory has no endpoint: {away}");
    let missing = workspace.url("missing");
    let missing = workspace
        .tool(TOOL)
        .args(["--status", &missing, "main"])
        .run();
    assert_eq!(missing.code(), Some(4), "{missing}");
    assert!(
        missing.stdout.starts_with("BARMAN UNKNOWN - main: "),
        "{missing}"
    );
}

/// What answers is what the last look brought; the store is asked by nobody else.
#[test]
fn a_scrape_costs_the_store_nothing_and_a_store_that_goes_away_shows() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    bucket.fill(&catalogue());
    let away = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&away);
    let proxy = HttpServer::watched(bucket.endpoint(), move |_| {
        let gone = gone.load(Ordering::Relaxed);
        gone.then(|| HttpAnswer::new(503, ""))
    });
    let tool = |interval: &str| {
        let mut environment = bucket.environment();
        environment[0].1 = proxy.url();
        let url = bucket.url();
        let tool = workspace.tool(TOOL).envs(environment);
        tool.args(["--interval", interval, &url, "main"])
    };
    let up = "barman_cloud_up{server=\"main\"}";
    let seldom = Served::start(tool("1h"));
    seldom.wait_for(up, "1");
    let asked = proxy.seen().len();
    for _ in 0..50 {
        assert_eq!(value(&seldom.text(), up), Some("1"));
        assert_eq!(seldom.get("/healthz").status, 200);
    }
    assert_eq!(proxy.seen().len(), asked);
    // WAL, backups and gaps are listed, two records are read.
    assert_eq!(
        value(&seldom.text(), "barman_cloud_store_requests_total"),
        Some("5")
    );
    assert_eq!(asked, 5);
    seldom.stop();

    let often = Served::start(tool("1s"));
    let before = often.wait_for(up, "1");
    let restorable = "barman_cloud_backups_restorable{server=\"main\"}";
    let last = "barman_cloud_last_read_timestamp_seconds{server=\"main\"}";
    assert_eq!(value(&before, restorable), Some("1"));
    away.store(true, Ordering::Relaxed);
    let text = often.wait_for(up, "0");
    assert_eq!(value(&text, restorable), None, "{text}");
    assert_eq!(value(&text, "barman_cloud_refresh_success"), Some("0"));
    let seconds =
        |text: &str, series: &str| value(text, series).map(|value| value.parse::<f64>().unwrap());
    assert!(seconds(&text, last) >= seconds(&before, last));
    away.store(false, Ordering::Relaxed);
    let back = often.wait_for(up, "1");
    assert_eq!(value(&back, restorable), Some("1"));
    assert!(seconds(&back, last) > seconds(&text, last));
    often.stop();
}

/// The queries of the dashboard, with its variables filled in.
fn dashboard_queries() -> Vec<String> {
    let file = e2e::project().join("docs/metrics/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("queries"));
    let queries = targets.map(|target| target["expr"].as_str().expect("an expression"));
    let filled = queries.map(|query| {
        query
            .replace("$server", ".*")
            .replace("$__rate_interval", "1m")
    });
    filled.collect()
}

#[test]
fn prometheus_scrapes_it_over_tls_with_a_token_and_the_dashboard_has_data() {
    let workspace = Workspace::new();
    let objects = Objects::in_directory(&workspace);
    fill(&objects);
    let (certificate, key) = (workspace.path("cert.pem"), workspace.path("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl can be started");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let key = workspace.file("key.pem", fs::read(&key).unwrap());
    let token = workspace.file("token", "a-t0ken\n");
    let (certificate, key) = (text_of(&certificate), text_of(&key));
    let token = text_of(&token);
    let options = [
        "--interval=1s",
        &format!("--tls-cert={certificate}"),
        &format!("--tls-key={key}"),
        &format!("--bearer-token-file={token}"),
    ];
    let served = Served::start(metrics(objects.place(), &options));
    // Plain HTTP is not understood there, and nobody is held up by it.
    assert!(http_get(&served.address, "/healthz", &[]).is_err());
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{}']\n\
         scrape_configs:\n\
         - job_name: barman-cloud\n  \
           scheme: https\n  \
           authorization: {{credentials_file: '{}'}}\n  \
           tls_config: {{ca_file: '{}'}}\n  \
           static_configs: [{{targets: ['{address}']}}]\n\
         - job_name: stranger\n  \
           scheme: https\n  \
           tls_config: {{ca_file: '{}'}}\n  \
           static_configs: [{{targets: ['{address}']}}]\n",
        e2e::project().join("docs/metrics/alerts.yml").display(),
        token,
        certificate,
        certificate,
        address = served.address,
    );
    let Some(prometheus) = Prometheus::start(&workspace, &config) else {
        return;
    };
    assert_eq!(prometheus.wait_for("barman_cloud_up{server=\"main\"}"), "1");
    assert_eq!(
        prometheus.wait_for("up{job=\"stranger\"}"),
        "0",
        "without the token"
    );
    let queries = dashboard_queries();
    assert!(queries.len() > 20, "{queries:?}");
    for query in queries {
        prometheus.wait_for(&query);
    }
    // The backup is that of another year: the rules are evaluated on what was scraped.
    let alert =
        "ALERTS{alertname=\"BarmanCloudBackupTooOld\",alertstate=\"firing\",server=\"main\"}";
    let now = jiff::Timestamp::now();
    let taken: jiff::Timestamp = "2026-11-21T02:21:41Z".parse().unwrap();
    let old = now.duration_since(taken) > jiff::SignedDuration::from_hours(36);
    if old {
        prometheus.wait_for(alert);
    }
    // A token that was changed counts from the next look on.
    workspace.file("token", "an0ther");
    prometheus.wait_for("up{job=\"barman-cloud\"} == 1");
    served.stop();
}

#[test]
fn who_has_no_token_sees_no_series() {
    let workspace = Workspace::new();
    let objects = Objects::in_directory(&workspace);
    fill(&objects);
    let token = workspace.file("token", "a-t0ken\n");
    let option = format!("--bearer-token-file={}", text_of(&token));
    let served = Served::start(metrics(objects.place(), &["--interval=1s", &option]));
    let ask = |sent: &[(&str, &str)]| http_get(&served.address, "/metrics", sent).unwrap();
    let refused = ask(&[]);
    assert_eq!(refused.status, 401);
    let asked = |(name, value): &(String, String)| name == "www-authenticate" && value == "Bearer";
    assert!(refused.headers.iter().any(asked), "{refused:?}");
    assert_eq!(ask(&[("authorization", "Bearer other")]).status, 401);
    assert_eq!(ask(&[("authorization", "Bearer a-t0ken")]).status, 200);
    assert_eq!(served.get("/healthz").status, 200, "which tells nothing");
    // A new one counts from the next look on.
    workspace.file("token", "an0ther");
    wait_until("the new token to count", || {
        (ask(&[("authorization", "Bearer an0ther")]).status == 200).then_some(())
    });
    assert_eq!(ask(&[("authorization", "Bearer a-t0ken")]).status, 401);
    assert!(!served.running.stderr_so_far().contains("t0ken"));
    served.stop();
}

/// Connections that say nothing, or too much, or do not listen, stop nobody else.
#[test]
fn hostile_scrapers_hold_nobody_up() {
    let workspace = Workspace::new();
    let objects = Objects::in_directory(&workspace);
    fill(&objects);
    let served = Served::start(metrics(objects.place(), &["--interval", "1h"]));
    served.wait_for("barman_cloud_up{server=\"main\"}", "1");
    let silent: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(&served.address).unwrap())
        .collect();
    let large = http_get(&served.address, "/metrics", &[("x", &"y".repeat(1 << 20))]);
    assert!(large.is_err() || large.unwrap().status == 431);
    // They are let go after some seconds, and then it is somebody else's turn.
    assert_eq!(served.get("/metrics").status, 200);
    drop(silent);
    served.stop();
}

#[test]
fn the_rules_do_what_their_tests_say() {
    let folder = e2e::project().join("docs/metrics");
    for arguments in [
        &["check", "rules", "alerts.yml"][..],
        &["test", "rules", "alerts_test.yml"],
    ] {
        let Some(done) = promtool(&folder, arguments, "") else {
            return;
        };
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&said));
    }
}

/// A store in memory with a process of its own.
struct MemoryStore {
    child: Child,
    address: String,
}

impl MemoryStore {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_memory_store"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built with the tests");
        let mut port = String::new();
        let out = child.stdout.take().expect("it is a pipe");
        BufReader::new(out)
            .read_line(&mut port)
            .expect("it tells its port");
        let address = format!("127.0.0.1:{}", port.trim());
        Self { child, address }
    }

    /// Puts objects into the bucket `b`, over one connection.
    fn fill(&self, objects: impl IntoIterator<Item = (String, String)>) {
        let stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_nodelay(true).expect("a socket can be set up");
        let mut stream = BufReader::new(stream);
        let bucket = [(String::new(), String::new())];
        for (key, content) in bucket.into_iter().chain(objects) {
            let head = format!(
                "PUT /b/{key} HTTP/1.1\r\ncontent-length: {}\r\n\r\n",
                content.len()
            );
            let request = [head.as_bytes(), content.as_bytes()].concat();
            stream
                .get_mut()
                .write_all(&request)
                .expect("it takes a request");
            let mut line = String::new();
            stream.read_line(&mut line).expect("it answers");
            assert!(line.contains(" 200 "), "{key}: {line}");
            while line.trim() != "" {
                line.clear();
                stream.read_line(&mut line).expect("it answers");
            }
        }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The figures of `docs/metrics.md`.
#[test]
fn a_large_catalogue_is_read_in_little_memory_with_few_requests() {
    const MOST: u64 = 48 << 20;
    let workspace = Workspace::new();
    let store = MemoryStore::start();
    let backups = (0..1000_u32).flat_map(|number| {
        let id = format!(
            "2026{:02}{:02}T{:02}0000",
            number / 672 + 1,
            number / 24 % 28 + 1,
            number % 24
        );
        backup(&id, |text| text)
    });
    store.fill(
        backups
            .chain(wal(100_000))
            .map(|(key, content)| (format!("p/{key}"), content)),
    );
    let run = workspace
        .tool(TOOL)
        .env("AWS_ENDPOINT_URL", format!("http://{}", store.address))
        .env("AWS_ACCESS_KEY_ID", "somebody")
        .env("AWS_SECRET_ACCESS_KEY", "hush")
        .env("AWS_REGION", "us-east-1")
        .args(["s3://b/p", "main"])
        .run();
    assert!(run.code() == Some(0) && run.stderr.is_empty(), "{run}");
    let text = &run.stdout;
    assert_eq!(
        value(text, "barman_cloud_backups_restorable{server=\"main\"}"),
        Some("1000")
    );
    let segments = "barman_cloud_wal_segments{server=\"main\",timeline=\"1\"}";
    assert_eq!(value(text, segments), Some("100000"));
    // This store's entity tags look like MD5 and are not, which one record more tells.
    assert_eq!(
        value(text, "barman_cloud_store_requests_total"),
        Some("1106")
    );
    let peak = peak_of_children();
    println!("peak {} MiB", peak >> 20);
    assert!(peak < MOST, "{peak} bytes");
}
