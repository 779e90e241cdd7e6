//! The series over HTTP.
//!
//! Looks at the store and requests have nothing to do with each other: one task looks at an
//! interval and leaves what it saw on the board, requests are answered from there. So no request
//! costs the store anything, and none waits for it.
//!
//! What the board says counts for three intervals, or three times as long as the last look took if
//! that is more. Afterwards servers are shown as unread (a look that hangs must not let old values
//! pass for new), and `/healthz` answers 503 if none was read for that long.
//!
//! Nobody who connects can hold the service up: one request for each connection, within ten
//! seconds, from few connections at a time, with small heads.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloud_core::ops::metrics::{Overview, Watch};
use cloud_core::ops::{Ctx, OpError, OpErrorKind};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::door::{Door, DoorFiles};
use crate::text::Shown;

/// Connections at a time; others wait.
const MOST_CONNECTIONS: usize = 32;

/// How long a connection may last, from its first byte to its last.
const CONNECTION: Duration = Duration::from_secs(10);

/// How long the head of a request may take of that.
const HEAD: Duration = Duration::from_secs(5);

/// Largest head of a request, in bytes, and most lines of it.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// How long requests that are being answered are waited for at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long the listener rests when a connection cannot be taken, for want of descriptors as a rule.
const REST: Duration = Duration::from_millis(100);

/// The text format of Prometheus.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is served, where and to whom.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) interval: Duration,
    pub(crate) shown: Shown,
    pub(crate) files: DoorFiles,
}

/// Serves until it is asked to stop.
pub(crate) async fn run(ctx: &Ctx, watch: Watch, service: Service) -> Result<(), OpError> {
    let door = service.files.open()?;
    let board = Arc::new(Board::new(service.interval, watch.before(), door));
    let listener = TcpListener::bind(service.address).await;
    let (listener, address) = listener
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
        .map_err(|error| {
            let text = format!("could not listen on {}: {error}", service.address);
            OpError::new(OpErrorKind::General, text)
        })?;
    announce(address, &board.door());
    let connections = TaskTracker::new();
    // In this task and not beside it: when the select ends, so does a look under way.
    tokio::select! {
        () = look(watch, &board, service.files) => {}
        () = accept(listener, &board, service.shown, &connections) => {}
        () = ctx.cancel.cancelled() => {}
    }
    info!("stopping");
    connections.close();
    let answered = tokio::time::timeout(LAST_ANSWERS, connections.wait()).await;
    if answered.is_err() {
        debug!("not all answers were taken");
    }
    Ok(())
}

/// Takes connections, each for a task of its own.
async fn accept(
    listener: TcpListener,
    board: &Arc<Board>,
    shown: Shown,
    connections: &TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let board = Arc::clone(board);
                connections.spawn(async move {
                    let served = tokio::time::timeout(CONNECTION, connection(stream, board, shown));
                    if served.await.is_err() {
                        debug!("a connection took too long");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                warn!("could not take a connection: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Says where it is, and warns of what is open to everybody.
fn announce(address: SocketAddr, door: &Door) {
    let scheme = if door.tls.is_some() { "https" } else { "http" };
    info!("listening on {scheme}://{address}/metrics");
    if !address.ip().is_loopback() && !door.wants_token() {
        warn!(
            "whoever reaches {address} can read the series; --bearer-token-file keeps others out"
        );
    }
    if !address.ip().is_loopback() && door.wants_token() && door.tls.is_none() {
        warn!("the token goes to {address} in the clear; --tls-cert and --tls-key hide it");
    }
}

/// Looks at the store, again and again.
async fn look(mut watch: Watch, board: &Board, files: DoorFiles) {
    loop {
        let began = tokio::time::Instant::now();
        match files.open() {
            Ok(door) => board.change_door(door),
            Err(error) => warn!("{}; what was there before goes on to count", error.message),
        }
        let overview = watch.look().await;
        if let Some(error) = &overview.look.failure {
            warn!("not all servers could be read: {}", error.message);
        }
        board.note(overview);
        tokio::time::sleep_until(began + board.interval).await;
    }
}

/// What was seen last.
struct Board {
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    overview: Overview,
    /// When it was noted.
    noted: Instant,
    /// When anything was last seen, or the beginning.
    good: Instant,
    door: Door,
}

impl Board {
    fn new(interval: Duration, overview: Overview, door: Door) -> Self {
        let now = Instant::now();
        let state = State {
            overview,
            noted: now,
            good: now,
            door,
        };
        Self {
            interval,
            state: Mutex::new(state),
        }
    }

    fn note(&self, overview: Overview) {
        let mut state = self.lock();
        state.noted = Instant::now();
        if overview.look.ended.is_some() && overview.look.ended == overview.look.last_good {
            state.good = state.noted;
        }
        state.overview = overview;
    }

    /// What counts at this moment.
    fn overview(&self, now: Instant) -> Overview {
        let state = self.lock();
        let overview = state.overview.clone();
        if self.counts(&state, state.noted, now) {
            overview
        } else {
            overview.outdated()
        }
    }

    /// Whether anything was seen lately.
    fn is_alive(&self, now: Instant) -> bool {
        let state = self.lock();
        self.counts(&state, state.good, now)
    }

    fn counts(&self, state: &State, then: Instant, now: Instant) -> bool {
        let limit = self.interval.max(state.overview.look.took) * 3;
        now.saturating_duration_since(then) <= limit
    }

    fn door(&self) -> Door {
        self.lock().door.clone()
    }

    fn change_door(&self, door: Door) {
        self.lock().door = door;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection, over TLS if that is wanted.
async fn connection(stream: TcpStream, board: Arc<Board>, shown: Shown) {
    let door = board.door();
    match door.tls.clone() {
        None => request(stream, board, door, shown).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => request(stream, board, door, shown).await,
            Err(error) => debug!("a connection without TLS: {error}"),
        },
    }
}

/// Serves the one request of a connection.
async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    board: Arc<Board>,
    door: Door,
    shown: Shown,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &board, &door, &shown);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!("a request that could not be answered: {error}");
    }
}

fn answer<B>(
    request: &Request<B>,
    board: &Board,
    door: &Door,
    shown: &Shown,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/metrics" => {
            let sent = request.headers().get(AUTHORIZATION);
            if !door.admits(sent.map(HeaderValue::as_bytes)) {
                let mut refused =
                    plain(StatusCode::UNAUTHORIZED, "the token is missing or wrong\n");
                let bearer = HeaderValue::from_static("Bearer");
                refused.headers_mut().insert(WWW_AUTHENTICATE, bearer);
                return refused;
            }
            let overview = board.overview(Instant::now());
            match shown.text(&overview, Timestamp::now()) {
                Ok(text) => with_type(StatusCode::OK, text, TEXT_FORMAT),
                Err(error) => {
                    warn!("{}", error.message);
                    plain(StatusCode::INTERNAL_SERVER_ERROR, "see the log\n")
                }
            }
        }
        "/healthz" if board.is_alive(Instant::now()) => plain(StatusCode::OK, "ok\n"),
        "/healthz" => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "the store was not read for three intervals\n",
        ),
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, text.to_owned(), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, text: String, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use cloud_core::ops::metrics::Thresholds;

    use super::*;
    use crate::testing::good_and_gone;
    use crate::text::Names;

    const MINUTE: Duration = Duration::from_mins(1);

    fn board() -> Board {
        Board::new(MINUTE, Overview::default(), Door::default())
    }

    fn up(board: &Board, now: Instant) -> Vec<bool> {
        let servers = board.overview(now).servers.into_iter();
        servers.map(|server| server.seen.is_ok()).collect()
    }

    /// A look that never ends must not let what was seen before pass for new.
    #[test]
    fn what_was_seen_counts_for_three_intervals() {
        let board = board();
        let then = board.lock().good;
        assert!(board.is_alive(then + 3 * MINUTE) && !board.is_alive(then + 4 * MINUTE));
        board.note(good_and_gone());
        let then = Instant::now();
        assert_eq!(up(&board, then), [true, false]);
        assert_eq!(up(&board, then + Duration::from_secs(179)), [true, false]);
        let late = then + 3 * MINUTE + Duration::from_secs(1);
        assert_eq!(up(&board, late), [false, false]);
        assert!(!board.is_alive(late));
        // A look that takes long anyway has longer.
        let mut slow = good_and_gone();
        slow.look.took = 2 * MINUTE;
        board.note(slow);
        assert_eq!(up(&board, Instant::now() + 5 * MINUTE), [true, false]);
    }

    #[test]
    fn a_look_that_brought_nothing_is_no_sign_of_life() {
        let board = board();
        let mut nothing = good_and_gone();
        nothing.look.last_good = None;
        board.note(nothing);
        let state = board.lock();
        assert!(state.good < state.noted);
    }

    #[test]
    fn each_path_has_its_answer() {
        let board = board();
        board.note(good_and_gone());
        let shown = Shown {
            names: Names::Native,
            thresholds: Thresholds::default(),
        };
        let status = |method: Method, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(())
                .unwrap();
            answer(&request, &board, &Door::default(), &shown)
                .status()
                .as_u16()
        };
        for (method, path, expected) in [
            (Method::GET, "/metrics", 200),
            (Method::GET, "/metrics?x=1", 200),
            (Method::HEAD, "/metrics", 200),
            (Method::GET, "/healthz", 200),
            (Method::POST, "/metrics", 405),
            (Method::GET, "/", 404),
            (Method::GET, "/metrics/", 404),
        ] {
            assert_eq!(status(method.clone(), path), expected, "{method} {path}");
        }
        let long_ago = Instant::now().checked_sub(4 * MINUTE);
        board.lock().good = long_ago.expect("a machine runs for longer");
        assert_eq!(status(Method::GET, "/healthz"), 503);
        assert_eq!(status(Method::GET, "/metrics"), 200, "which says it itself");
    }
}
