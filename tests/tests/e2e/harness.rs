//! The harness itself, against a server that archives with `cp`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use e2e::{Cluster, Fault, FaultProxy, PgBin, Rule, S3Server, ShutDown, Workspace, WriteLoad};

#[test]
fn a_cluster_starts_takes_a_load_archives_and_stops() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let wal = workspace.dir("wal");
    let mut cluster = Cluster::create(&bin, &workspace, "primary", &[]);
    cluster.configure("archive_mode", "on");
    cluster.configure("archive_command", &format!("cp %p {}/%f", wal.display()));
    cluster.start();

    let load = WriteLoad::start(&cluster, &[("t", None)]);
    load.wait_for_commits(5);
    let (one, two) = load.held(|| (cluster.session().digest(), cluster.session().digest()));
    assert_eq!(one, two, "a held load writes nothing");
    load.wait_for_commits(1);
    assert_ne!(load.held(|| cluster.session().digest()), one);
    assert!(load.stop() >= 6);

    cluster.archive_everything();
    assert!(wal.read_dir().unwrap().count() > 0, "segments are archived");
    cluster.stop(ShutDown::Fast);
    cluster.check_pages();
}

/// What a test puts into a bucket is there, byte for byte, whatever the key.
#[test]
fn each_s3_server_keeps_what_a_test_puts_into_a_bucket_of_its_own() {
    for server in [S3Server::CephPlain, S3Server::CephTls, S3Server::Moto] {
        let workspace = Workspace::new();
        let Some(bucket) = server.bucket(&workspace) else {
            return;
        };
        let other = server.bucket(&workspace).expect("as the first");
        assert_eq!(
            bucket.keys(""),
            [""; 0],
            "{server:?}: a new bucket is empty"
        );
        let content: Vec<u8> = (0..=255).collect();
        bucket.write("a/b c+ü", &content);
        bucket.write("z", "");
        assert_eq!(bucket.keys("a"), ["a/b c+ü"]);
        assert_eq!(bucket.sizes("")["z"], 0);
        assert_eq!(bucket.read("a/b c+ü"), content, "{server:?}");
        assert_eq!(bucket.head("a/b c+ü")["content-length"], "256");
        assert!(bucket.tags("z").is_empty());
        assert!(bucket.uploads().is_empty());
        bucket.remove("z");
        assert_eq!(bucket.keys(""), ["a/b c+ü"]);
        assert!(other.keys("").is_empty(), "{server:?}: buckets are apart");
    }
}

#[test]
fn a_proxy_does_what_its_rules_say_and_tells_what_came() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let proxy = FaultProxy::start(bucket.endpoint());
    let status = || {
        let address = proxy.url().replace("http://", "");
        let mut stream = TcpStream::connect(address).unwrap();
        let request = b"GET /missing-bucket/key HTTP/1.1\r\nHost: x\r\nX-Test: 1\r\n\r\n";
        let mut answer = String::new();
        let exchange = stream
            .write_all(request)
            .and_then(|()| stream.shutdown(Shutdown::Write))
            .and_then(|()| stream.read_to_string(&mut answer));
        match exchange {
            Ok(_) => answer.get(9..12).unwrap_or("none").to_owned(),
            Err(_) => "reset".to_owned(),
        }
    };
    assert_eq!(
        status(),
        "404",
        "without rules it is as if it were not there"
    );
    proxy.add(&Rule::new(&Fault::Status(503)).on("^GET /missing").times(2));
    proxy.add(&Rule::new(&Fault::Status(500)).on("^PUT"));
    proxy.add(&Rule::new(&Fault::LostResponse).skip(1));
    let seen: Vec<String> = (0..5).map(|_| status()).collect();
    assert_eq!(seen, ["503", "503", "404", "none", "404"]);
    proxy.add(&Rule::new(&Fault::Reset).always());
    assert_eq!([status(), status()], ["reset", "reset"]);
    proxy.clear();
    assert_eq!(status(), "404");
    let log = proxy.log();
    assert_eq!(log.len(), 9);
    assert_eq!(log[1].line, "GET /missing-bucket/key");
    assert_eq!(log[1].headers["x-test"], "1");
    assert_eq!(log[1].fault.as_deref(), Some("status"));
    assert_eq!((log[1].status, log[0].status), (Some(503), Some(404)));
}
