//! The HTTP client below the vendors' clients, and what decides how it connects:
//! certificates, proxies, the environment.
//!
//! Every connection has a limit on the time to come about and on the time
//! without a byte ([`idle`]); a failure is a [`ConnectError`] that says which
//! host and why. HTTP/1.1 alone: requests in flight are few, and each has a
//! connection to itself.
//!
//! Generic in the body of requests, which each vendor's crate has its own type
//! for. What it means for a vendor's crate is told in that store's folder.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::TcpStream;
use tower_service::Service;

#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) use self::bounded::Bounded;
use self::counted::Counted;
#[cfg(any(feature = "aws", feature = "azure"))]
pub(super) use self::error::innermost;
pub(super) use self::error::{ConnectError, classify};
use self::idle::Idle;
pub(super) use self::proxies::Proxies;
pub(super) use self::tls::Tls;
pub(super) use self::variables::Variables;
use super::{StoreErrorKind, traffic};

#[cfg(any(feature = "aws", feature = "azure"))]
mod bounded;
mod counted;
mod error;
mod idle;
mod proxies;
mod tls;
mod variables;

/// Longest time until a connection stands: name, TCP, proxy and TLS together.
/// Source: docs/decisions.md 12.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is kept for the next request. Stores close theirs after
/// some 20 to 60 seconds; one that is just being closed costs a failure.
const KEEP_IDLE: Duration = Duration::from_secs(15);

/// How many bytes the system takes that it has not sent yet. It would take some
/// megabytes at once, and on a slow line a connection that waits for their answer
/// would look like a dead one. What is under way does not count, so this does not
/// slow a fast line down.
const UNSENT: u32 = 256 << 10;

/// Bytes read from a connection at a time. Below the size from which the allocator asks
/// the system for each buffer anew (128 KiB in glibc), which costs as much as reading.
const READ: usize = 64 << 10;

type BoxError = Box<dyn Error + Send + Sync>;
/// A client whose hosts, or the proxies to them, want TLS.
type Secure<B> = Client<Timed<HttpsConnector<Route<HttpsConnector<Tcp>>>>, B>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A client for any number of hosts, which sends bodies `B`. Cheap to clone.
pub(super) struct Http<B>(Arc<Inner<B>>);

struct Inner<B> {
    tls: Arc<Tls>,
    proxies: Arc<Proxies>,
    tcp: Tcp,
    plain: Client<Timed<Route<Tcp>>, B>,
    /// Made when TLS is first needed.
    secure: OnceLock<Secure<B>>,
}

impl<B> Clone for Http<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> fmt::Debug for Http<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxies = &self.0.proxies;
        f.debug_struct("Http")
            .field("proxies", proxies)
            .finish_non_exhaustive()
    }
}

impl<B> Http<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// `read_timeout`: longest time in which no byte moves.
    pub(super) fn new(tls: Arc<Tls>, proxies: Proxies, read_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        // Shared out among the addresses of a name, so that one of them that is
        // dead does not use up the time.
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(Duration::from_mins(1)));
        let tcp = Tcp {
            connector,
            read_timeout,
        };
        let proxies = Arc::new(proxies);
        let plain = client(Route {
            direct: tcp.clone(),
            to_proxy: tcp.clone(),
            proxies: Arc::clone(&proxies),
        });
        Self(Arc::new(Inner {
            tls,
            proxies,
            tcp,
            plain,
            secure: OnceLock::new(),
        }))
    }

    /// Sends a request. Any status is an answer.
    ///
    /// # Errors
    ///
    /// `Timeout`, `Connect`, `Untrusted`; `Invalid` if the certificates to trust
    /// cannot be read.
    pub(super) async fn send(
        &self,
        mut request: http::Request<B>,
    ) -> Result<http::Response<Incoming>, ConnectError> {
        let inner = &self.0;
        let target = request.uri().clone();
        inner.proxies.authorize(&target, request.headers_mut());
        let by_tls = |uri: &Uri| uri.scheme_str() == Some("https");
        let proxy = inner.proxies.toward(&target);
        let sent = if by_tls(&target) || proxy.is_some_and(|proxy| by_tls(proxy.uri())) {
            self.secure()?.request(request)
        } else {
            inner.plain.request(request)
        };
        let host = host_of(Some(&target));
        traffic::request();
        sent.await.map_err(|error| inner.failure(&host, &error))
    }

    fn secure(&self) -> Result<&Secure<B>, ConnectError> {
        let inner = &self.0;
        if let Some(client) = inner.secure.get() {
            return Ok(client);
        }
        let tls = inner.tls.config()?;
        let route = Route {
            direct: inner.tcp.clone(),
            to_proxy: HttpsConnector::from((inner.tcp.clone(), Arc::clone(&tls))),
            proxies: Arc::clone(&inner.proxies),
        };
        Ok(inner
            .secure
            .get_or_init(|| client(HttpsConnector::from((route, tls)))))
    }
}

fn client<C, B>(connector: C) -> Client<Timed<C>, B>
where
    Timed<C>: hyper_util::client::legacy::connect::Connect + Clone,
    B: Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEEP_IDLE)
        .http1_read_buf_exact_size(READ)
        .build(Timed(connector))
}

impl<B> Inner<B> {
    /// What a failed request means.
    fn failure(&self, host: &str, error: &hyper_util::client::legacy::Error) -> ConnectError {
        let mut known = classify(error)
            .unwrap_or_else(|| ConnectError::new(StoreErrorKind::Connect, error.to_string()));
        if known.kind == StoreErrorKind::Untrusted {
            let variable = self.tls.variable();
            known.text += &format!(" (the CA certificates to trust are named by {variable})");
        }
        if error.is_connect() {
            return known.while_(&format!("could not connect to `{host}`"));
        }
        known.while_(&format!("no answer from `{host}`"))
    }
}

/// Host and port alone: path and query may hold secrets.
pub(super) fn host_of(uri: Option<&Uri>) -> String {
    let authority = uri.and_then(Uri::authority).map_or("", |a| a.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    host.to_owned()
}

/// Connects by TCP and watches the connection.
#[derive(Clone, Debug)]
struct Tcp {
    connector: HttpConnector,
    read_timeout: Duration,
}

impl Service<Uri> for Tcp {
    type Response = Idle<TokioIo<Counted<TcpStream>>>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = self.connector.call(target);
        let limit = self.read_timeout;
        Box::pin(async move {
            let stream = connecting.await?;
            // Where there is no such option there is only less to be seen.
            let _ = SockRef::from(stream.inner()).set_tcp_notsent_lowat(UNSENT);
            let counted = Counted(stream.into_inner());
            Ok(Idle::new(TokioIo::new(counted), limit))
        })
    }
}

/// Connects directly or by a proxy. `P` leads to the proxy, which may want TLS.
#[derive(Clone, Debug)]
struct Route<P> {
    direct: Tcp,
    to_proxy: P,
    proxies: Arc<Proxies>,
}

impl<P> Service<Uri> for Route<P>
where
    P: Service<Uri> + Clone,
    P::Response: Io + 'static,
    P::Error: Into<BoxError>,
    P::Future: Send + 'static,
{
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<Stream>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(cx)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        fn stream(io: impl Io + 'static, forwards: bool) -> Stream {
            let io = Box::new(io);
            Stream { io, forwards }
        }
        let Some(proxy) = self.proxies.toward(&target) else {
            let connecting = self.direct.call(target);
            return Box::pin(async move { Ok(stream(connecting.await?, false)) });
        };
        let shown = host_of(Some(proxy.uri()));
        let failed = move |error: BoxError| -> BoxError {
            let known = classify(&*error)
                .unwrap_or_else(|| ConnectError::new(StoreErrorKind::Connect, error.to_string()));
            known.while_(&format!("the proxy `{shown}` failed")).into()
        };
        if target.scheme_str() == Some("https") {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy.clone());
            if let Some(password) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(password.clone());
            }
            let connecting = tunnel.call(target);
            return Box::pin(async move {
                let io = connecting.await.map_err(|error| failed(error.into()))?;
                Ok(stream(io, false))
            });
        }
        let connecting = self.to_proxy.call(proxy.uri().clone());
        Box::pin(async move {
            let io = connecting.await.map_err(|error| failed(error.into()))?;
            Ok(stream(io, true))
        })
    }
}

/// Connects within a limit.
#[derive(Clone, Debug)]
struct Timed<C>(C);

impl<C> Service<Uri> for Timed<C>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<C::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.0.call(target));
        Box::pin(async move {
            let Ok(connected) = connecting.await else {
                let text = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
                return Err(ConnectError::new(StoreErrorKind::Timeout, text).into());
            };
            connected.map_err(Into::into)
        })
    }
}

/// What a connection can do.
trait Io: Read + Write + Connection + Send + Unpin {}

impl<T: Read + Write + Connection + Send + Unpin> Io for T {}

/// A connection to the host or to a proxy.
struct Stream {
    io: Box<dyn Io>,
    /// Whether the other end is a proxy that wants to be told the whole URL.
    forwards: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwards)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
