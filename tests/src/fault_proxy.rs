//! A proxy that a test puts between a tool and its object store, to make what
//! goes wrong go wrong when the test wants it (`tests/servers/fault_proxy.py`).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::{project, wait_until};

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The proxy answers with this status in place of the server.
    Status(u16),
    /// The same with this body.
    Answer(u16, String),
    /// The request waits for so many seconds.
    Delay(f64),
    /// The request waits for [`FaultProxy::release`].
    Hold,
    /// The connection is reset, all others too, and for so many seconds new ones
    /// are refused.
    Down(f64),
    /// Both sides are closed after so many bytes of the request's body.
    DropRequest(u64),
    /// The server does its work, but its answer is lost.
    LostResponse,
    /// The server does its work, and the proxy answers with this status and body.
    Instead(u16, String),
    /// The server does not see which range of the object was asked for.
    Whole,
    /// The answer's body has so many bytes more, and its length says so too.
    Longer(u64),
    /// The answer's body has so many bytes less, and its length says so too.
    Shorter(u64),
    /// The connection closes after so many bytes of the answer's body.
    Truncate(u64),
    /// The proxy falls silent after so many bytes of the answer's body.
    Stall(u64),
    /// A bit of the byte at this place of the answer's body is flipped.
    Corrupt(u64),
    /// A bit of the byte at this place of the request's body is flipped.
    CorruptRequest(u64),
    /// The connection is reset.
    Reset,
    /// The answer's body passes at so many bytes a second.
    Throttle(u64),
    /// The request's body is taken at so many bytes a second.
    ThrottleRequest(u64),
}

impl Fault {
    fn to_json(&self) -> Value {
        match self {
            Self::Status(status) => json!({"kind": "status", "status": status}),
            Self::Answer(status, body) => {
                json!({"kind": "status", "status": status, "body": body})
            }
            Self::Delay(seconds) => json!({"kind": "delay", "seconds": seconds}),
            Self::Hold => json!({"kind": "hold"}),
            Self::Down(seconds) => json!({"kind": "down", "seconds": seconds}),
            Self::Instead(status, body) => {
                json!({"kind": "instead", "status": status, "body": body})
            }
            Self::Whole => json!({"kind": "whole"}),
            Self::Longer(bytes) => json!({"kind": "longer", "bytes": bytes}),
            Self::Shorter(bytes) => json!({"kind": "shorter", "bytes": bytes}),
            Self::DropRequest(bytes) => json!({"kind": "drop_request", "bytes": bytes}),
            Self::LostResponse => json!({"kind": "lost_response"}),
            Self::Truncate(bytes) => json!({"kind": "truncate", "bytes": bytes}),
            Self::Stall(bytes) => json!({"kind": "stall", "bytes": bytes}),
            Self::Corrupt(offset) => json!({"kind": "corrupt", "offset": offset}),
            Self::CorruptRequest(offset) => json!({"kind": "corrupt_request", "offset": offset}),
            Self::Reset => json!({"kind": "reset"}),
            Self::Throttle(rate) => json!({"kind": "throttle", "rate": rate}),
            Self::ThrottleRequest(rate) => json!({"kind": "throttle_request", "rate": rate}),
        }
    }
}

/// A fault, and the requests it happens to: at first the next one, whatever it is.
#[derive(Debug, Clone)]
pub struct Rule(Value);

impl Rule {
    /// The next request suffers `fault`.
    pub fn new(fault: &Fault) -> Self {
        Self(fault.to_json())
    }

    /// Only requests whose `METHOD /path?query` this expression is found in.
    #[must_use]
    pub fn on(mut self, expression: &str) -> Self {
        self.0["match"] = json!(expression);
        self
    }

    /// Not the first `count` of them.
    #[must_use]
    pub fn skip(mut self, count: u32) -> Self {
        self.0["skip"] = json!(count);
        self
    }

    /// So many of them.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.0["times"] = json!(count);
        self
    }

    /// All of them from then on.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.0["times"] = json!(-1);
        self
    }

    /// Each of them whose number is a multiple of `count`, for ever.
    #[must_use]
    pub fn every(mut self, count: u32) -> Self {
        self.0["every"] = json!(count);
        self.always()
    }

    /// The first `count` of those that are the same to the letter, for ever: each
    /// request fails so often before it is let through.
    #[must_use]
    pub fn on_each(mut self, count: u32) -> Self {
        self.0["each"] = json!(count);
        self.always()
    }
}

/// A request that came to the proxy.
#[derive(Debug, Clone)]
pub struct Request {
    /// `METHOD /path?query`.
    pub line: String,
    /// Its header fields, in lower case.
    pub headers: BTreeMap<String, String>,
    /// How many bytes of its body were passed on.
    pub sent: u64,
    /// The status that it was answered with, if it was.
    pub status: Option<u64>,
    /// The kind of fault that happened to it.
    pub fault: Option<String>,
}

/// A running proxy. Ends when dropped, and with the test's process.
#[derive(Debug)]
pub struct FaultProxy {
    child: Child,
    /// Its input, whose end is its own, and its output.
    wires: Mutex<Option<(ChildStdin, BufReader<ChildStdout>)>>,
    port: u16,
}

impl FaultProxy {
    /// Starts one in front of the server at `endpoint`, an `http://` URL.
    ///
    /// # Panics
    ///
    /// For a server that speaks TLS: the proxy has to understand requests.
    pub fn start(endpoint: &str) -> Self {
        let port = endpoint
            .strip_prefix("http://127.0.0.1:")
            .unwrap_or_else(|| panic!("no proxy is possible in front of {endpoint}"));
        let mut child = Command::new("python3")
            .arg(project().join("tests/servers/fault_proxy.py"))
            .arg(port)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 can be started");
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output
            .read_line(&mut line)
            .expect("the proxy says which port it took");
        Self {
            child,
            wires: Mutex::new(Some((input, output))),
            port: line.trim().parse().expect("a port is a number"),
        }
    }

    /// What stands in place of the server's URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds a rule; of several that fit a request the first applies.
    pub fn add(&self, rule: &Rule) {
        self.request("POST", "/_fault", &rule.0.to_string());
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.request("DELETE", "/_fault", "");
    }

    /// Waits until a request is held, or `other` gives a value: `None` if one is held
    /// now that was not among the first `before` of the log.
    pub fn wait_for_held<T>(
        &self,
        before: usize,
        mut other: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        wait_until("a request to be held", || {
            let log = self.log();
            let new = log.iter().skip(before);
            if new.filter_map(|r| r.fault.as_deref()).any(|f| f == "hold") {
                return Some(None);
            }
            other().map(Some)
        })
    }

    /// Lets the requests go on that are held.
    pub fn release(&self) {
        self.request("POST", "/_release", "");
    }

    /// Refuses connections, and resets those that there are. Rules and log can
    /// be had again when it is up.
    pub fn go_down(&self) {
        self.command("down");
    }

    /// Takes connections again.
    pub fn come_up(&self) {
        self.command("up");
    }

    fn command(&self, word: &str) {
        let mut wires = self.wires.lock().expect("no command panicked half-way");
        let (input, output) = wires.as_mut().expect("there until the drop");
        writeln!(input, "{word}").expect("the proxy reads until its input ends");
        let mut line = String::new();
        output
            .read_line(&mut line)
            .expect("the proxy repeats a command");
        assert_eq!(line.trim(), word, "the proxy did not do it");
    }

    /// Every request until now, without those of the test.
    pub fn log(&self) -> Vec<Request> {
        let text = self.request("GET", "/_log", "");
        let log: Value = serde_json::from_str(&text).expect("the log is JSON");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let entry = |entry: &Value| Request {
            line: text(&entry["line"]).expect("every request has a line"),
            headers: entry["headers"]
                .as_object()
                .expect("every request has fields")
                .iter()
                .map(|(name, value)| (name.clone(), text(value).expect("a field is text")))
                .collect(),
            sent: entry["sent"].as_u64().expect("a number of bytes"),
            status: entry["status"].as_u64(),
            fault: text(&entry["fault"]),
        };
        log.as_array()
            .expect("a list of requests")
            .iter()
            .map(entry)
            .collect()
    }

    /// Sends the proxy itself a request and gives the body of its answer.
    fn request(&self, method: &str, path: &str, body: &str) -> String {
        let size = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nContent-Length: {size}\r\n\r\n{body}");
        let mut answer = String::new();
        let done = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_string(&mut answer)
        });
        done.unwrap_or_else(|error| panic!("the proxy does not answer: {error}"));
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        assert!(head.starts_with("HTTP/1.1 200 "), "the proxy says {head}");
        body.to_owned()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The end of its input ends it.
        if let Ok(mut wires) = self.wires.lock() {
            *wires = None;
        }
        let _ = self.child.wait();
    }
}
