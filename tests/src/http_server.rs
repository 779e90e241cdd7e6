//! An HTTP server on the loopback address that answers as it is told, or passes
//! requests on to a real one, and keeps what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

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

    /// The access key id in the signature; empty if there is none.
    pub fn signed_by(&self) -> &str {
        let rest = self.header("authorization").split_once("Credential=");
        let id = rest.and_then(|(_, rest)| rest.split('/').next());
        id.unwrap_or_default()
    }
}

/// The server. It lives as long as the test's process, which runs one test.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<HttpRequest>>>,
}

impl HttpServer {
    /// Answers each request with the status and the body that `answer` makes.
    pub fn answering(
        answer: impl Fn(&HttpRequest) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |request| {
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
        Self::start(move |request| pass_on(request, &upstream).ok())
    }

    fn start(answer: impl Fn(&HttpRequest) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback address is there");
        let address = listener.local_addr().expect("it was just bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &kept, &*answer));
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
    answer: &dyn Fn(&HttpRequest) -> Option<Vec<u8>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut request = HttpRequest::read_head(&mut stream)?;
    request.read_body(&mut stream)?;
    let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push(request.clone());
    drop(seen);
    let answer = answer(&request)?;
    stream.get_mut().write_all(&answer).ok()
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
