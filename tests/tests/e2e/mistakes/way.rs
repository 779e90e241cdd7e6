//! Mistakes on the way to the store: `--test` tells them at once, the work itself when it
//! has been tried again for as long as makes sense.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use e2e::{Azurite, Workspace};

use super::Table;

pub(super) const SECTION: &str = "The way to the store";

/// A port behind which somebody speaks plain HTTP to everybody.
fn plain_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback address is there");
    let port = listener.local_addr().expect("it was just bound").port();
    // Ends with the test's process, which runs one test.
    thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            // Closed with something unread it would be a reset.
            kept.push(stream);
        }
    });
    port
}

#[test]
fn mistakes_on_the_way_to_the_store() {
    let workspace = Workspace::new();
    let Some(container) = Azurite::Tls.no_container(&workspace) else {
        return;
    };
    let mut table = Table::new(&workspace, SECTION);
    let test = |endpoint: &str, variables: &[(&'static str, &str)]| {
        workspace
            .tool("barman-cloud-backup-list")
            .env("AWS_ACCESS_KEY_ID", "someone")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .envs(variables.iter().copied())
            .args(["--test", "--endpoint-url", endpoint, "s3://b", "main"])
            .run()
    };
    let tool = "backup-list --test";
    let run = test("http://127.0.0.1:1", &[]);
    table.row("a port where nothing listens", tool, &run);
    let run = test("http://no-such-host.invalid", &[]);
    table.row("a host that has no address", tool, &run);
    let endpoint = format!("https://127.0.0.1:{}", plain_port());
    let run = test(&endpoint, &[]);
    table.row("`https://` for a port without TLS", tool, &run);
    let proxy = [("HTTP_PROXY", "http://127.0.0.1:1")];
    let run = test("http://store.invalid", &proxy);
    table.row("a proxy that is not there", tool, &run);
    let run = test(container.endpoint(), &[]);
    table.row("a certificate of an authority of one's own", tool, &run);
    let run = test("minio:9000", &[]);
    table.row("an endpoint without `http://` or `https://`", tool, &run);
    table.check();
}
