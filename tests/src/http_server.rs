//! An HTTP server on the loopback address that answers as it is told, or passes
//! requests on to a real one, and keeps what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::tools::Tool;
use crate::workspace::Workspace;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// `GET` and the like.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// In order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it, as text where it is text.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// Reads the next request of a connection up to its body; `None` at the
    /// connection's end.
    pub fn read_head(stream: &mut impl BufRead) -> Option<Self> {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Self {
            method,
            target,
            headers,
            body: Vec::new(),
        })
    }

    /// Reads the body that the head announces; `None` if it does not come whole.
    pub fn read_body(&mut self, stream: &mut impl Read) -> Option<()> {
        let length = self.header("content-length").parse().unwrap_or(0);
        self.body.resize(length, 0);
        stream.read_exact(&mut self.body).ok()
    }

    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map_or("", |(_, value)| value)
    }

    /// Gives a header this value, in place of those it had.
    pub fn set_header(&mut self, name: &str, value: impl Into<String>) {
        self.remove_header(name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// Takes a header away.
    pub fn remove_header(&mut self, name: &str) {
        self.headers.retain(|(header, _)| header != name);
    }

    /// The access key id in the signature; empty if there is none.
    pub fn signed_by(&self) -> &str {
        let rest = self.header("authorization").split_once("Credential=");
        let id = rest.and_then(|(_, rest)| rest.split('/').next());
        id.unwrap_or_default()
    }
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// `200` and the like.
    pub status: u16,
    /// In order; names in lower case. The length of the body is not among them but
    /// in answers without one, to HEAD.
    pub headers: Vec<(String, String)>,
    /// Not in pieces any more, if it came in some.
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// One without headers.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// The same with one header more.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Reads what a server sent until it closed the connection; `None` if that is
    /// no answer to `method`.
    fn read(bytes: &[u8], method: &str) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut body = bytes[end + 4..].to_vec();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let (name, value) = (name.to_ascii_lowercase(), value.trim().to_owned());
            match name.as_str() {
                "transfer-encoding" => body = joined(&body)?,
                "content-length" if method != "HEAD" => {}
                "connection" | "keep-alive" => {}
                _ => headers.push((name, value)),
            }
        }
        Some(Self {
            status,
            headers,
            body,
        })
    }

    fn bytes(&self, method: &str) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} X\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        // Where there can be no body a length would be that of another one.
        if method != "HEAD" && self.status != 204 {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("connection: close\r\n\r\n");
        let mut bytes = head.into_bytes();
        if method != "HEAD" {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// A body that came in pieces, each after its length.
fn joined(mut pieces: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = pieces.windows(2).position(|two| two == b"\r\n")?;
        let length = std::str::from_utf8(&pieces[..end]).ok()?;
        let length = usize::from_str_radix(length.split(';').next()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        let piece = &pieces[end + 2..];
        body.extend_from_slice(piece.get(..length)?);
        pieces = piece.get(length + 2..)?;
    }
}

/// Passes a request on as it is now, and gives the answer.
pub(crate) type Onward<'a> = dyn Fn(&HttpRequest) -> HttpAnswer + 'a;

/// The server. It lives as long as the test's process, which runs one test.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<HttpRequest>>>,
}

impl HttpServer {
    /// A tool of S3 whose store this is, with keys.
    pub fn tool<'w>(&self, workspace: &'w Workspace, name: &str) -> Tool<'w> {
        workspace
            .tool(name)
            .env("AWS_ACCESS_KEY_ID", "someone")
            .env("AWS_SECRET_ACCESS_KEY", "secret")
            .args(["--endpoint-url", &self.url()])
    }

    /// Answers each request with the status and the body that `answer` makes.
    pub fn answering(
        answer: impl Fn(&HttpRequest) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        Self::start(true, move |request| {
            let (status, body) = answer(request);
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}");
            Some(format!("{head}\r\nconnection: close\r\n\r\n{body}").into_bytes())
        })
    }

    /// Passes each request on to the server at `url`, `http://host:port`.
    pub fn before(url: &str) -> Self {
        let upstream = url.trim_start_matches("http://").trim_end_matches('/');
        let upstream = upstream.to_owned();
        Self::start(true, move |request| pass_on(request, &upstream).ok())
    }

    /// Shows each request to `watch`, and then passes it on to the server at `url`, or
    /// answers with what `watch` gives.
    pub fn watched(
        url: &str,
        watch: impl Fn(&HttpRequest) -> Option<HttpAnswer> + Send + Sync + 'static,
    ) -> Self {
        Self::between(url, move |request, onward| {
            watch(request).unwrap_or_else(|| onward(request))
        })
    }

    /// Answers each request with what `answer` makes of it, which may pass it on to the
    /// server at `url`, changed or not, and change what comes back. Bodies are not
    /// kept.
    pub(crate) fn between(
        url: &str,
        answer: impl Fn(&HttpRequest, &Onward<'_>) -> HttpAnswer + Send + Sync + 'static,
    ) -> Self {
        let upstream = url.trim_start_matches("http://").trim_end_matches('/');
        let upstream = upstream.to_owned();
        Self::start(false, move |request| {
            let onward = |changed: &HttpRequest| {
                let bytes = pass_on(changed, &upstream).unwrap_or_default();
                let broken = || HttpAnswer::new(502, "the server behind broke off");
                HttpAnswer::read(&bytes, &changed.method).unwrap_or_else(broken)
            };
            Some(answer(request, &onward).bytes(&request.method))
        })
    }

    /// Answers each request with whatever `answer` writes, which need not end and need not be
    /// an answer.
    pub fn writing(
        answer: impl Fn(&HttpRequest, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::serving(true, move |request, stream| answer(request, stream).ok())
    }

    fn start(
        bodies: bool,
        answer: impl Fn(&HttpRequest) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::serving(bodies, move |request, stream| {
            stream.write_all(&answer(request)?).ok()
        })
    }

    fn serving(
        bodies: bool,
        answer: impl Fn(&HttpRequest, &mut dyn Write) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback address is there");
        let address = listener.local_addr().expect("it was just bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &kept, bodies, &*answer));
            }
        });
        Self { address, seen }
    }

    /// Where it is: `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends it a request without a body and returns the answer as it came.
    pub fn request(&self, method: &str, target: &str) -> String {
        let request = HttpRequest {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![
                ("host".into(), self.address.to_string()),
                ("content-length".into(), "0".into()),
            ],
            body: Vec::new(),
        };
        let answer = pass_on(&request, &self.address.to_string());
        let answer = answer.expect("a server on the loopback address answers");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<HttpRequest> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

/// One request per connection.
fn serve(
    stream: TcpStream,
    kept: &Mutex<Vec<HttpRequest>>,
    bodies: bool,
    answer: &dyn Fn(&HttpRequest, &mut dyn Write) -> Option<()>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut request = HttpRequest::read_head(&mut stream)?;
    request.read_body(&mut stream)?;
    let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push(HttpRequest {
        body: if bodies {
            request.body.clone()
        } else {
            Vec::new()
        },
        headers: request.headers.clone(),
        method: request.method.clone(),
        target: request.target.clone(),
    });
    drop(seen);
    answer(&request, stream.get_mut())
}

/// Asks the server at `address`, `host:port`, for `target`.
///
/// # Errors
///
/// If it is not there, or what it sends is no answer.
pub fn http_get(
    address: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> std::io::Result<HttpAnswer> {
    let mut request = HttpRequest {
        method: "GET".to_owned(),
        target: target.to_owned(),
        headers: vec![("host".into(), address.to_owned())],
        body: Vec::new(),
    };
    for (name, value) in headers {
        request.set_header(name, *value);
    }
    let bytes = pass_on(&request, address)?;
    HttpAnswer::read(&bytes, "GET").ok_or_else(|| std::io::Error::other("this is no answer"))
}

fn pass_on(request: &HttpRequest, upstream: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream)?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if name != "connection" {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str("connection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
