//! A stand-in for a store that speaks HTTP: it writes down what it is asked and
//! answers what a test tells it to, also what no server should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
#[cfg(feature = "aws")]
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The authority that signed the certificate of [`Server::trusted`].
#[cfg(feature = "azure")]
pub(in crate::store) const CA: &str = include_str!("http/test-tls/ca.pem");

/// A request as it came.
#[derive(Debug, Clone)]
pub(in crate::store) struct Request {
    pub(in crate::store) method: String,
    /// Path and query, encoded.
    pub(in crate::store) target: String,
    /// Names in lower case.
    pub(in crate::store) headers: Vec<(String, String)>,
    pub(in crate::store) body: Vec<u8>,
    /// Which connection it came on, from 0.
    pub(in crate::store) connection: usize,
}

impl Request {
    pub(in crate::store) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// Names of the headers that begin so.
    pub(in crate::store) fn named(&self, prefix: &str) -> Vec<&str> {
        let names = self.headers.iter().map(|(name, _)| name.as_str());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    pub(in crate::store) fn path(&self) -> &str {
        let end = self.target.find('?').unwrap_or(self.target.len());
        &self.target[..end]
    }

    /// Whether the query has this parameter, given whole (`uploads`, `a=b`).
    pub(in crate::store) fn asks(&self, parameter: &str) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query
            .split('&')
            .any(|one| one == parameter || one.split('=').next() == Some(parameter))
    }

    pub(in crate::store) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Whole,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// Not a byte is answered.
    Silent,
}

/// An answer.
#[derive(Debug, Clone)]
pub(in crate::store) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    end: End,
}

impl Answer {
    pub(in crate::store) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            end: End::Whole,
        }
    }

    /// What S3 says of a failure.
    pub(in crate::store) fn error(status: u16, code: &str, rest: &str) -> Self {
        Self::new(status).xml(&format!("<Error><Code>{code}</Code>{rest}</Error>"))
    }

    pub(in crate::store) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(in crate::store) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(in crate::store) fn xml(self, text: &str) -> Self {
        let declaration = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
        self.header("content-type", "application/xml")
            .body(format!("{declaration}\n{text}"))
    }

    pub(in crate::store) fn cut(mut self, after: usize) -> Self {
        self.end = End::Cut(after);
        self
    }

    pub(in crate::store) fn stalled(mut self, after: usize) -> Self {
        self.end = End::Stall(after);
        self
    }

    pub(in crate::store) fn silent() -> Self {
        Self {
            end: End::Silent,
            ..Self::new(200)
        }
    }

    fn bytes(&self, to_head: bool) -> (Vec<u8>, &[u8]) {
        let mut head = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let told = |(name, _): &(String, String)| name == "content-length";
        if !self.headers.iter().any(told) && self.status != 204 {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        let body = if to_head { &[][..] } else { &self.body };
        (head.into_bytes(), body)
    }
}

/// Answers by a function of the request.
type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// A server on a port of its own; ends with the process.
pub(in crate::store) struct Server {
    pub(in crate::store) url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(in crate::store) fn start(
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::over("http", script, Some)
    }

    /// Answers one request after the other; one too many is a fault of ours.
    pub(in crate::store) fn playing(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = Mutex::new(answers.into_iter().collect::<Vec<_>>().into_iter());
        Self::start(move |_| {
            let next = answers.lock().unwrap().next();
            next.unwrap_or_else(|| Answer::error(400, "OneTooMany", ""))
        })
    }

    /// Speaks TLS with `leaf.crt` and `leaf.key` of a folder.
    #[cfg(feature = "aws")]
    pub(in crate::store) fn secure(
        folder: &Path,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let read = |name| std::fs::read(folder.join(name)).unwrap();
        Self::by_tls(&read("leaf.crt"), &read("leaf.key"), script)
    }

    /// Speaks TLS with a certificate that [`CA`] signed.
    #[cfg(feature = "azure")]
    pub(in crate::store) fn trusted(
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let chain = include_bytes!("http/test-tls/server.pem");
        Self::by_tls(chain, include_bytes!("http/test-tls/server.key"), script)
    }

    fn by_tls(
        chain: &[u8],
        key: &[u8],
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain);
        let key = PrivateKeyDer::from_pem_slice(key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let config = Arc::new(config);
        Self::over("https", script, move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).ok()?;
            Some(StreamOwned::new(session, stream))
        })
    }

    /// Takes the head of a request, and not a byte of its body.
    pub(in crate::store) fn deaf() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self::at("http", &listener);
        thread::spawn(move || {
            let kept: Vec<_> = listener.incoming().collect();
            drop(kept);
        });
        server
    }

    fn at(scheme: &str, listener: &TcpListener) -> Self {
        Self {
            url: format!("{scheme}://{}", listener.local_addr().unwrap()),
            seen: Arc::default(),
        }
    }

    fn over<S: Read + Write + 'static>(
        scheme: &str,
        script: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self::at(scheme, &listener);
        let seen = Arc::clone(&server.seen);
        let (script, wrap): (Arc<Script>, _) = (Arc::new(script), Arc::new(wrap));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                let (script, wrap) = (Arc::clone(&script), Arc::clone(&wrap));
                let seen = Arc::clone(&seen);
                thread::spawn(move || {
                    if let Some(stream) = wrap(stream) {
                        serve(stream, number, &seen, &*script);
                    }
                });
            }
        });
        server
    }

    /// All requests so far.
    pub(in crate::store) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// The only request so far.
    pub(in crate::store) fn request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests.remove(0)
    }

    /// The methods of all requests so far.
    pub(in crate::store) fn methods(&self) -> String {
        let methods: Vec<_> = self.requests().into_iter().map(|one| one.method).collect();
        methods.join(" ")
    }
}

/// Answers what comes on one connection, until it is closed.
fn serve(
    stream: impl Read + Write,
    connection: usize,
    seen: &Mutex<Vec<Request>>,
    script: &Script,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream, connection) {
        let answer = script(&request);
        let to_head = request.method == "HEAD";
        seen.lock().unwrap().push(request);
        let (head, body) = answer.bytes(to_head);
        let (sent, more) = match answer.end {
            End::Whole => (Some(body), true),
            End::Cut(after) => (Some(&body[..after]), false),
            End::Stall(after) => (Some(&body[..after]), true),
            End::Silent => (None, true),
        };
        if let Some(body) = sent {
            let writer = stream.get_mut();
            let written = writer.write_all(&[&head, body].concat());
            if written.and_then(|()| writer.flush()).is_err() {
                return;
            }
        }
        // What stalls is left waiting: the next thing to come is its end.
        if !more {
            return;
        }
    }
}

fn read(stream: &mut impl BufRead, connection: usize) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        line.ends_with('\n').then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request {
        method,
        target,
        headers,
        body: Vec::new(),
        connection,
    };
    let length = request.header("content-length").map(str::parse::<usize>);
    request.body = vec![0; length.transpose().ok()?.unwrap_or(0)];
    stream.read_exact(&mut request.body).ok()?;
    Some(request)
}
