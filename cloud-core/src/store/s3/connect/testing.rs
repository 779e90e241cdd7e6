//! What the tests of this room need: a home directory, and a server that answers
//! as it is told and keeps what it was asked.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Variables;

/// A home directory with the files of profiles.
pub(super) struct Home(TempDir);

impl Home {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file below it and returns its path as text.
    pub(super) fn write(&self, name: &str, content: &str) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(super) fn config(&self, content: &str) {
        self.write(".aws/config", content);
    }

    pub(super) fn credentials(&self, content: &str) {
        self.write(".aws/credentials", content);
    }

    /// An environment with this home and nothing else; in particular nobody asks
    /// a metadata service, and no file of this machine counts.
    pub(super) fn variables(&self) -> Variables {
        Variables::of(&[("AWS_EC2_METADATA_DISABLED", "true")])
            .and("HOME", self.path())
            .and("BOTO_CONFIG", self.path().join("no-boto.cfg"))
    }
}

/// A request that a server was sent.
#[derive(Debug, Clone, Default)]
pub(in crate::store::s3) struct Request {
    pub(in crate::store::s3) method: String,
    /// With the query; for a proxy the whole URL.
    pub(in crate::store::s3) target: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(in crate::store::s3) body: String,
}

impl Request {
    /// The value of a header; empty if there is none.
    pub(in crate::store::s3) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map_or("", |(_, value)| value)
    }

    /// The access key id in the signature.
    pub(in crate::store::s3) fn signed_by(&self) -> &str {
        let header = self.header("authorization");
        let rest = header
            .split_once("Credential=")
            .map_or("", |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default()
    }
}

/// Status and body.
pub(in crate::store::s3) type Answer = (u16, String);

/// A server on the loopback address; ends with the value.
pub(in crate::store::s3) struct StandIn {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl StandIn {
    /// Answers each request with what `answer` makes of it.
    pub(in crate::store::s3) async fn start(
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&seen));
        Self::serving(seen, move |stream| {
            let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
            async move {
                let mut stream = BufReader::new(stream);
                while let Some(request) = read_request(&mut stream).await {
                    let (status, body) = answer(&request);
                    kept.lock().unwrap().push(request);
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}", body.len());
                    let all = format!("{head}\r\n\r\n{body}");
                    if stream.write_all(all.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Does with each connection what `serve` says.
    pub(in crate::store::s3) async fn raw<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::serving(Arc::default(), serve).await
    }

    async fn serving<F: Future<Output = ()> + Send + 'static>(
        seen: Arc<Mutex<Vec<Request>>>,
        serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self {
            address,
            seen,
            task,
        }
    }

    pub(in crate::store::s3) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::store::s3) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far.
    pub(in crate::store::s3) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request with its body; `None` at the end of the connection.
pub(in crate::store::s3) async fn read_request(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> Option<Request> {
    let mut request = Request::default();
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    request.method = words.next()?.to_owned();
    request.target = words.next()?.to_owned();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let value = value.trim().to_owned();
        request.headers.push((name.to_ascii_lowercase(), value));
    }
    let length = request.header("content-length").parse().unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Some(request)
}
