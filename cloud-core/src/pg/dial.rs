//! Opening a connection: from a name to a session that the server accepted.
//!
//! Addresses are tried one by one, each with the whole connect timeout, as
//! libpq does: what cannot be reached, or is not ready, leads to the next one;
//! a server that answered and refused ends the search. The words of the errors
//! are libpq's, since operators look for them.

use std::error::Error as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_postgres::config::{self, SslNegotiation};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{ChannelBinding, ConnInfo, Host, Place, SslMode};
use super::tls;

/// A connection that the server accepted.
pub(super) struct Opened {
    pub(super) client: Client,
    /// Turns true when the connection is gone.
    pub(super) closed: watch::Receiver<bool>,
    /// `server_version`, as the server announced it.
    pub(super) version: Option<String>,
}

/// Why a connection was not opened.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Another server may do: this one cannot be reached or is not ready.
    TryNext(String),
    /// The server answered, or TLS cannot be had as it was asked for.
    Final(String),
}

impl Refusal {
    /// Adds the refusal of an attempt that went before.
    fn after(self, first: &str) -> Self {
        let join = |second: String| {
            if first == second {
                second
            } else {
                format!("{first}; {second}")
            }
        };
        match self {
            Self::TryNext(text) => Self::TryNext(join(text)),
            Self::Final(text) => Self::Final(join(text)),
        }
    }
}

/// One address of a server.
#[derive(Debug, Clone)]
pub(super) struct Target<'a> {
    host: &'a Host,
    address: Address,
}

#[derive(Debug, Clone)]
enum Address {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.host.place) {
            (Address::Tcp(at), Place::Tcp { name, .. }) if at.ip().to_string() != *name => {
                let (ip, port) = (at.ip(), at.port());
                write!(f, "server at \"{name}\" ({ip}), port {port}")
            }
            (Address::Tcp(at), _) => {
                write!(f, "server at \"{}\", port {}", at.ip(), at.port())
            }
            (Address::Socket(path), _) => write!(f, "server on socket \"{}\"", path.display()),
        }
    }
}

impl Target<'_> {
    /// A sentence about a failure here.
    pub(super) fn failed(&self, why: &str) -> String {
        format!("connection to {self} failed: {why}")
    }

    fn try_next(&self, error: &io::Error) -> Refusal {
        Refusal::TryNext(self.failed(&plain_words(error)))
    }

    fn refused(&self, error: &tokio_postgres::Error) -> Refusal {
        let text = self.failed(&server_words(error));
        // A server that is starting or shutting down.
        if error.code() == Some(&SqlState::CANNOT_CONNECT_NOW) {
            Refusal::TryNext(text)
        } else {
            Refusal::Final(text)
        }
    }
}

/// The addresses of `host`, in the order of the resolver.
pub(super) async fn addresses<'a>(
    info: &ConnInfo,
    host: &'a Host,
) -> Result<Vec<Target<'a>>, String> {
    let found = match &host.place {
        Place::Socket(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", host.port));
            vec![Address::Socket(path)]
        }
        Place::Tcp {
            addr: Some(addr), ..
        } => vec![Address::Tcp(SocketAddr::new(*addr, host.port))],
        Place::Tcp { name, addr: None } => resolve(info, name, host.port).await?,
    };
    Ok(found
        .into_iter()
        .map(|address| Target { host, address })
        .collect())
}

async fn resolve(info: &ConnInfo, name: &str, port: u16) -> Result<Vec<Address>, String> {
    let failed = |why: &str| format!("could not translate host name \"{name}\" to address: {why}");
    let looking = tokio::net::lookup_host((name, port));
    let found = match info.connect_timeout {
        None => looking.await,
        Some(limit) => tokio::time::timeout(limit, looking)
            .await
            .map_err(|_| failed("timeout expired"))?,
    };
    let found = found.map_err(|error| {
        let words = plain_words(&error);
        let prefix = "failed to lookup address information: ";
        failed(words.strip_prefix(prefix).unwrap_or(&words))
    })?;
    let mut found: Vec<Address> = found.map(Address::Tcp).collect();
    if found.is_empty() {
        return Err(failed("it has no address"));
    }
    if info.shuffle {
        fastrand::shuffle(&mut found);
    }
    Ok(found)
}

/// Opens a connection to `target`, with or without TLS as the mode says.
pub(super) async fn open(info: &ConnInfo, target: &Target<'_>) -> Result<Opened, Refusal> {
    match &target.address {
        Address::Socket(path) => over_socket(info, target, path).await,
        Address::Tcp(at) => over_tcp(info, target, *at).await,
    }
}

async fn over_socket(
    info: &ConnInfo,
    target: &Target<'_>,
    path: &std::path::Path,
) -> Result<Opened, Refusal> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|error| target.try_next(&error))?;
    if let Some(wanted) = &info.require_peer {
        let actual = stream
            .peer_cred()
            .ok()
            .and_then(|peer| {
                nix::unistd::User::from_uid(peer.uid().into())
                    .ok()
                    .flatten()
            })
            .map_or_else(|| "(unknown)".to_owned(), |user| user.name);
        if actual != *wanted {
            let why = format!(
                "requirepeer specifies \"{wanted}\", but actual peer user name is \"{actual}\""
            );
            return Err(Refusal::Final(target.failed(&why)));
        }
    }
    let config = configure(info, target.host, config::SslMode::Disable);
    let connected = config.connect_raw(stream, NoTls).await;
    let (client, connection) = connected.map_err(|error| target.refused(&error))?;
    Ok(drive(client, connection))
}

async fn over_tcp(info: &ConnInfo, target: &Target<'_>, at: SocketAddr) -> Result<Opened, Refusal> {
    let plain = || without_tls(info, target, at);
    match info.ssl.mode {
        SslMode::Disable => plain().await,
        // Without first; with, if the server refuses that.
        SslMode::Allow => match plain().await {
            Err(Refusal::Final(refusal)) => {
                let (second, _) = with_tls(info, target, at).await;
                second.map_err(|error| error.after(&refusal))
            }
            other => other,
        },
        // With first, if the server has it; without, if that fails.
        SslMode::Prefer => match with_tls(info, target, at).await {
            (Err(Refusal::Final(refusal)), true) => {
                plain().await.map_err(|error| error.after(&refusal))
            }
            (first, _) => first,
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            with_tls(info, target, at).await.0
        }
    }
}

async fn without_tls(
    info: &ConnInfo,
    target: &Target<'_>,
    at: SocketAddr,
) -> Result<Opened, Refusal> {
    let stream = tcp(info, at).await;
    let stream = stream.map_err(|error| target.try_next(&error))?;
    let config = configure(info, target.host, config::SslMode::Disable);
    let connected = config.connect_raw(stream, NoTls).await;
    let (client, connection) = connected.map_err(|error| target.refused(&error))?;
    Ok(drive(client, connection))
}

/// Also says whether it came to TLS: under `prefer` a server may do without.
async fn with_tls(
    info: &ConnInfo,
    target: &Target<'_>,
    at: SocketAddr,
) -> (Result<Opened, Refusal>, bool) {
    let tried = Arc::new(AtomicBool::new(false));
    let opened = async {
        let stream = tcp(info, at).await;
        let stream = stream.map_err(|error| target.try_next(&error))?;
        let mode = match info.ssl.mode {
            SslMode::Prefer => config::SslMode::Prefer,
            _ => config::SslMode::Require,
        };
        let config = configure(info, target.host, mode);
        let mut tls = tls::config(&info.ssl)
            .map(MakeRustlsConnect::new)
            .map_err(|error| {
                tried.store(true, Ordering::Relaxed);
                Refusal::Final(target.failed(&error.to_string()))
            })?;
        let name = match &target.host.place {
            Place::Tcp { name, .. } => name.as_str(),
            Place::Socket(_) => "",
        };
        let Ok(inner) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, name);
        let tls = Noting {
            inner,
            tried: Arc::clone(&tried),
        };
        let connected = config.connect_raw(stream, tls).await;
        let (client, connection) = connected.map_err(|error| target.refused(&error))?;
        Ok(drive(client, connection))
    };
    let opened = opened.await;
    (opened, tried.load(Ordering::Relaxed))
}

/// Notes that the TLS handshake was begun.
struct Noting<T> {
    inner: T,
    tried: Arc<AtomicBool>,
}

impl<S, T: TlsConnect<S>> TlsConnect<S> for Noting<T> {
    type Stream = T::Stream;
    type Error = T::Error;
    type Future = T::Future;

    fn connect(self, stream: S) -> T::Future {
        self.tried.store(true, Ordering::Relaxed);
        self.inner.connect(stream)
    }
}

async fn tcp(info: &ConnInfo, at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    if let Some(keepalives) = info.keepalives {
        let probes = TcpKeepalive::new()
            .with_time(keepalives.idle)
            .with_interval(keepalives.interval)
            .with_retries(keepalives.count);
        socket.set_tcp_keepalive(&probes)?;
    }
    socket.set_tcp_user_timeout(info.user_timeout)?;
    Ok(stream)
}

fn configure(info: &ConnInfo, host: &Host, mode: config::SslMode) -> Config {
    let mut config = Config::new();
    config
        .user(&info.user)
        .dbname(&info.dbname)
        .ssl_mode(mode)
        .channel_binding(match info.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
    if info.ssl.direct && mode != config::SslMode::Disable {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    if let Some(password) = &host.password {
        config.password(&password.0);
    }
    if let Some(options) = &info.options {
        config.options(options);
    }
    if let Some(name) = &info.application_name {
        config.application_name(name);
    }
    config
}

/// Moves the connection's bytes until it ends, and passes on what the server
/// says on the way.
fn drive<S, T>(client: Client, mut connection: Connection<S, T>) -> Opened
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let version = connection.parameter("server_version").map(str::to_owned);
    let (sender, closed) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notice(notice))) => pass_on(&notice),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    let words = server_words(&error);
                    tracing::debug!("the connection to PostgreSQL ended: {words}");
                    break;
                }
                None => break,
            }
        }
        let _ = sender.send(true);
    });
    Opened {
        client,
        closed,
        version,
    }
}

/// What the server remarks, such as why it still waits for the archiver.
fn pass_on(notice: &DbError) {
    let text = one_line(notice.message());
    if notice.severity() == "WARNING" {
        tracing::warn!("PostgreSQL: {text}");
    } else {
        tracing::info!("PostgreSQL: {text}");
    }
}

/// What the server said, or else the innermost cause, in libpq's words.
pub(super) fn server_words(error: &tokio_postgres::Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return format!("{}:  {}", refusal.severity(), one_line(refusal.message()));
    }
    if error.is_closed() {
        return "server closed the connection unexpectedly".into();
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(inner) = cause.and_then(std::error::Error::source) {
        cause = Some(inner);
    }
    let words = cause.map_or_else(|| error.to_string(), |cause| one_line(&cause.to_string()));
    let words = words.split(" (os error").next().unwrap_or_default();
    match words {
        "password missing" => "fe_sendauth: no password supplied".into(),
        "server does not support TLS" => "server does not support SSL, but SSL was required".into(),
        other => other.to_owned(),
    }
}

fn plain_words(error: &io::Error) -> String {
    let text = error.to_string();
    one_line(text.split(" (os error").next().unwrap_or_default())
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
