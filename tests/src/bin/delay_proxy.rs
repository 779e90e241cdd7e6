//! A proxy on 127.0.0.1 that puts a distance between a client and its server, and
//! counts the requests that go over it.
//!
//! usage: `delay_proxy PORT ROUND_TRIP_MS [encrypted]`
//!
//! It stands in front of the server on PORT of 127.0.0.1, writes the port it took
//! as its first line of output, and ends when its standard input does. Its second
//! and last line says what went through, names and numbers:
//!
//! ```text
//! connections 2 requests 23 delete-many 20 list 3
//! ```
//!
//! Every byte arrives half a round trip after it was sent, in either direction,
//! and as many as want to are under way at once: time is added, bandwidth is not
//! taken away. Nothing leaves on a new connection before a whole round trip has
//! passed, which is what TCP's handshake costs.
//!
//! Requests are counted by reading HTTP/1.1 as the client sends it; nothing is
//! changed in it. With `encrypted` the bytes are TLS, which is not looked into, and
//! there is no number of requests. Threads, and not tasks of a runtime, because a thread's sleep
//! is exact to some dozen microseconds and a timer of tokio's to a millisecond.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes that are read, delayed and written in one piece.
const PIECE: usize = 64 << 10;

/// Most pieces under way in one direction of one connection: 64 MiB, so that a
/// side that does not read makes the other wait, as a real network does.
const UNDER_WAY: usize = 1024;

/// Longest head of a request, in bytes; the servers in use allow less.
const MAX_HEAD: usize = 64 << 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "delay_proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (port, round_trip, look) = match words.as_slice() {
        [port, round_trip] => (port.parse().ok(), round_trip.parse().ok(), Look::Count),
        [port, round_trip, "encrypted"] => (port.parse().ok(), round_trip.parse().ok(), Look::Pass),
        _ => (None, None, Look::Pass),
    };
    let (Some(port), Some(round_trip)) = (port, round_trip) else {
        return Err("usage: delay_proxy PORT ROUND_TRIP_MS [encrypted]".to_owned());
    };
    let proxy = Proxy::start(
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Duration::from_millis(round_trip),
        look,
    );
    let proxy = proxy.map_err(|error| format!("cannot listen on 127.0.0.1: {error}"))?;
    say(&proxy.port)?;
    let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
    ended.map_err(|error| format!("cannot read standard input: {error}"))?;
    let traffic = proxy.traffic.lock().unwrap_or_else(PoisonError::into_inner);
    say(&*traffic)?;
    traffic.trouble.clone().map_or(Ok(()), Err)
}

fn say(line: &dyn fmt::Display) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.map_err(|error| format!("cannot write to standard output: {error}"))
}

/// What is done with the bytes of clients beside delaying them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// They are requests, and counted.
    Count,
    /// Nothing: nobody between the two ends can read them.
    Pass,
}

/// A proxy that runs, to the end of the process.
struct Proxy {
    port: u16,
    traffic: Arc<Mutex<Traffic>>,
}

impl Proxy {
    fn start(server: SocketAddr, round_trip: Duration, look: Look) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let traffic = Arc::new(Mutex::new(Traffic {
            unread: look == Look::Pass,
            ..Traffic::default()
        }));
        let of_thread = Arc::clone(&traffic);
        thread::spawn(move || {
            for client in listener.incoming() {
                let connected = client.and_then(|client| {
                    of_thread.change(|traffic| traffic.connections += 1);
                    connect(&client, server, round_trip, look, &of_thread)
                });
                if let Err(error) = connected {
                    let text = format!("a connection was lost: {error}");
                    of_thread.change(|traffic| traffic.give_up(text));
                }
            }
        });
        Ok(Self { port, traffic })
    }
}

/// Leads a client's connection to the server, both ways.
fn connect(
    client: &TcpStream,
    server: SocketAddr,
    round_trip: Duration,
    look: Look,
    traffic: &Arc<Mutex<Traffic>>,
) -> io::Result<()> {
    let accepted = Instant::now();
    let server = TcpStream::connect(server)?;
    for stream in [client, &server] {
        stream.set_nodelay(true)?;
    }
    let way = round_trip / 2;
    let mut counter = Counter::new(Arc::clone(traffic));
    delay(client, &server, way, accepted + round_trip, move |bytes| {
        if look == Look::Count {
            counter.read(bytes);
        }
    })?;
    delay(&server, client, way, accepted, |_| {})
}

/// Bytes under way.
struct Piece {
    due: Instant,
    /// None of them: the sender will send no more.
    bytes: Vec<u8>,
}

/// Carries bytes from one side to the other, each `way` after it was sent and
/// none as if it was sent before `opened`.
fn delay(
    from: &TcpStream,
    to: &TcpStream,
    way: Duration,
    opened: Instant,
    mut look: impl FnMut(&[u8]) + Send + 'static,
) -> io::Result<()> {
    let (mut from, to) = (from.try_clone()?, to.try_clone()?);
    let (sender, receiver): (SyncSender<Piece>, Receiver<Piece>) = sync_channel(UNDER_WAY);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        loop {
            // A connection that breaks ends, for the other side.
            let size = from.read(&mut buffer).unwrap_or(0);
            let bytes = buffer[..size].to_vec();
            look(&bytes);
            let due = Instant::now().max(opened) + way;
            if sender.send(Piece { due, bytes }).is_err() || size == 0 {
                return;
            }
        }
    });
    thread::spawn(move || deliver(&receiver, to));
    Ok(())
}

fn deliver(receiver: &Receiver<Piece>, mut to: TcpStream) {
    for piece in receiver {
        thread::sleep(piece.due.saturating_duration_since(Instant::now()));
        if piece.bytes.is_empty() || to.write_all(&piece.bytes).is_err() {
            break;
        }
    }
    // Fails where the other side was faster.
    let _ = to.shutdown(Shutdown::Write);
}

/// What went through.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Traffic {
    connections: u64,
    requests: BTreeMap<&'static str, u64>,
    /// Requests were not counted.
    unread: bool,
    /// Why the numbers cannot be trusted; the first reason.
    trouble: Option<String>,
}

impl Traffic {
    fn give_up(&mut self, why: String) {
        self.trouble.get_or_insert(why);
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connections {}", self.connections)?;
        if self.unread {
            return Ok(());
        }
        let requests: u64 = self.requests.values().sum();
        write!(f, " requests {requests}")?;
        for (kind, count) in &self.requests {
            write!(f, " {kind} {count}")?;
        }
        Ok(())
    }
}

/// Traffic that several threads note.
trait Noted {
    fn change(&self, change: impl FnOnce(&mut Traffic));
}

impl Noted for Mutex<Traffic> {
    fn change(&self, change: impl FnOnce(&mut Traffic)) {
        change(&mut self.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Counts the requests in what a client sends on one connection, however it is
/// cut into pieces.
struct Counter {
    traffic: Arc<Mutex<Traffic>>,
    /// The head of a request as far as it has come.
    head: Vec<u8>,
    /// Bytes of a request's body that are still to come.
    body: usize,
    /// Whether something came that this does not understand.
    lost: bool,
}

impl Counter {
    fn new(traffic: Arc<Mutex<Traffic>>) -> Self {
        Self {
            traffic,
            head: Vec::new(),
            body: 0,
            lost: false,
        }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !self.lost && !bytes.is_empty() {
            let of_body = self.body.min(bytes.len());
            self.body -= of_body;
            bytes = &bytes[of_body..];
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            // The end may have come in two pieces.
            let from = before.saturating_sub(3);
            let Some(end) = self.head[from..].windows(4).position(|w| w == b"\r\n\r\n") else {
                if self.head.len() > MAX_HEAD {
                    self.lose("a request has a head that does not end");
                }
                return;
            };
            let end = from + end + 4;
            bytes = &bytes[end - before..];
            let head = String::from_utf8_lossy(&self.head[..end]).into_owned();
            self.head.clear();
            match understand(&head) {
                Ok((kind, body)) => {
                    self.body = body;
                    self.traffic
                        .change(|traffic| *traffic.requests.entry(kind).or_default() += 1);
                }
                Err(why) => self.lose(why),
            }
        }
    }

    fn lose(&mut self, why: &str) {
        self.lost = true;
        self.traffic
            .change(|traffic| traffic.give_up(format!("requests cannot be counted: {why}")));
    }
}

/// What a request is, in the words of object stores, and the size of its body in
/// bytes.
fn understand(head: &str) -> Result<(&'static str, usize), &'static str> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err("a request begins with no method and path");
    };
    let mut body = 0;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("a body comes in chunks, which are not counted through");
        }
        if name.eq_ignore_ascii_case("content-length") {
            let size = value.trim().parse();
            body = size.map_err(|_| "a body's size is no number")?;
        }
    }
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let asks = |name: &str| {
        query
            .split('&')
            .any(|part| part.split('=').next() == Some(name))
    };
    let kind = match method {
        "GET" if asks("list-type") || asks("prefix") => "list",
        "GET" => "get",
        "HEAD" => "head",
        "PUT" => "put",
        "DELETE" => "delete",
        "POST" if asks("delete") => "delete-many",
        "POST" => "post",
        _ => return Err("a method is none of an object store's"),
    };
    Ok((kind, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: &str = "GET /b?list-type=2&prefix=main HTTP/1.1\r\nHost: x\r\n\r\n\
        POST /b?delete HTTP/1.1\r\ncontent-length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n..\
        GET /b/main/prefix=1 HTTP/1.1\r\nHost: x\r\n\r\n\
        PUT /b/key HTTP/1.1\r\nContent-Length:3\r\n\r\nabc\
        HEAD /b HTTP/1.1\r\nHost: x\r\n\r\n";

    fn traffic_of(pieces: &[&[u8]]) -> Traffic {
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let mut counter = Counter::new(Arc::clone(&traffic));
        for piece in pieces {
            counter.read(piece);
        }
        let traffic = traffic.lock().unwrap();
        traffic.clone()
    }

    #[test]
    fn requests_are_counted_however_they_are_cut() {
        for size in 1..=REQUESTS.len() {
            let pieces: Vec<&[u8]> = REQUESTS.as_bytes().chunks(size).collect();
            assert_eq!(
                traffic_of(&pieces).to_string(),
                "connections 0 requests 5 delete-many 1 get 1 head 1 list 1 put 1",
                "in pieces of {size}"
            );
        }
    }

    #[test]
    fn what_cannot_be_counted_is_said() {
        for text in [
            "PUT /b/key HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PUT /b/key HTTP/1.1\r\nContent-Length: many\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(
                traffic_of(&[text.as_bytes()]).trouble.is_some(),
                "{text:?} was counted"
            );
        }
        let endless = vec![b'x'; MAX_HEAD + 1];
        assert!(traffic_of(&[&endless]).trouble.is_some());
    }

    /// A server that sends back what it gets, and ends when its client does.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
            }
        });
        address
    }

    /// Only the least time is asserted: a sleep is never short, and may be long.
    #[test]
    fn an_answer_takes_a_round_trip_and_the_first_one_two() {
        let round_trip = Duration::from_millis(40);
        let proxy = Proxy::start(echo(), round_trip, Look::Count).unwrap();
        let start = Instant::now();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap();
        let mut answer = [0; 7];
        for trips in [2, 3, 4] {
            client.write_all(b"a piece").unwrap();
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"a piece");
            assert!(start.elapsed() >= round_trip * trips);
        }
    }

    #[test]
    fn many_bytes_arrive_whole_and_the_end_after_them() {
        let proxy = Proxy::start(echo(), Duration::from_millis(2), Look::Pass).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap();
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(3 * PIECE + 17).collect();
        let mut writer = client.try_clone().unwrap();
        let copy = sent.clone();
        thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(
            got == sent,
            "{} bytes of {} came back",
            got.len(),
            sent.len()
        );
        // No requests, and nobody was asked to count any.
        let traffic = proxy.traffic.lock().unwrap();
        assert_eq!(traffic.to_string(), "connections 1");
        assert_eq!(traffic.trouble, None);
    }
}
