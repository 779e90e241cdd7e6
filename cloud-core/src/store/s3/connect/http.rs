//! The HTTP client: TLS roots, proxies, and an eye on the clock.
//!
//! The SDK's own limit counts from the first byte sent to the first byte of the
//! answer, so that a large part on a slow line looks like a dead one. Here each
//! piece that moves, in either direction, starts the clock anew: slow is fine,
//! silence is not (docs/decisions.md 12).

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector,
    http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;

use crate::store::StoreErrorKind;
use crate::store::s3::error::Failure;

/// A connection is made within this time (docs/decisions.md 12).
const CONNECT: Duration = Duration::from_secs(10);

/// No byte for so long ends a request where the command line says nothing
/// (docs/decisions.md 12).
pub(super) const IDLE: Duration = Duration::from_mins(1);

/// Bytes of a body handed to the connection at a time; each is a sign of life.
/// Small enough for a line of 10 kB/s to show one within any sensible limit.
const PIECE: usize = 64 << 10;

/// The limits that the SDK keeps by itself.
pub(super) fn limits() -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT).build()
}

/// The two clients.
pub(super) struct Clients {
    /// For everything that may be behind a proxy.
    pub(super) outside: SharedHttpClient,
    /// For the metadata services of the machine, which never are.
    pub(super) inside: SharedHttpClient,
}

/// Makes the clients. `bundle` replaces the certificates of the system.
pub(super) fn clients(bundle: Option<PathBuf>, idle: Duration) -> Result<Clients, Failure> {
    let bundle = bundle.map(|path| read_bundle(&path)).transpose()?;
    let client = |proxy| SharedHttpClient::new(client(bundle.clone(), proxy, idle));
    Ok(Clients {
        outside: client(ProxyConfig::from_env()),
        inside: client(ProxyConfig::disabled()),
    })
}

fn client(bundle: Option<Vec<u8>>, proxy: ProxyConfig, idle: Duration) -> impl HttpClient {
    // Roots are read when the first connection wants them: plain HTTP does not.
    let context = Arc::new(OnceLock::new());
    let with_tls = {
        let proxy = proxy.clone();
        Builder::new().build_with_connector_fn(move |settings, components| {
            let context = context.get_or_init(|| tls_context(bundle.as_deref()));
            let mut builder = Connector::builder();
            builder.set_connector_settings(settings.cloned());
            builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
            builder
                .proxy_config(proxy.clone())
                .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
                .tls_context(context.clone())
                .build()
        })
    };
    let plain = Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder();
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        builder.proxy_config(proxy.clone()).build_http()
    });
    http_client_fn(move |settings, components| {
        let (settings, components) = (settings.clone(), components.clone());
        let (plain, with_tls) = (plain.clone(), with_tls.clone());
        let pick = move |secure| {
            let client: &SharedHttpClient = if secure { &with_tls } else { &plain };
            client.http_connector(&settings, &components)
        };
        SharedHttpConnector::new(Watched {
            pick: Box::new(pick),
            idle,
        })
    })
}

fn tls_context(bundle: Option<&[u8]>) -> TlsContext {
    let store = match bundle {
        Some(pem) => TrustStore::empty().with_pem_certificate(pem),
        None => TrustStore::default(),
    };
    let context = TlsContext::builder().with_trust_store(store).build();
    context.unwrap_or_else(|error| {
        tracing::debug!("certificates: {error}");
        TlsContext::default()
    })
}

/// The certificates of a bundle, judged here because the SDK would panic.
fn read_bundle(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |why: String| {
        let text = format!("could not read the CA bundle {}: {why}", path.display());
        Failure::new(StoreErrorKind::Invalid, text)
    };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("it has no certificate".into()));
    }
    Ok(pem)
}

type Pick = Box<dyn Fn(bool) -> SharedHttpConnector + Send + Sync>;

/// Ends what has gone silent.
struct Watched {
    pick: Pick,
    idle: Duration,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched")
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl HttpConnector for Watched {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let secure = !request.uri().starts_with("http://");
        let clock = Arc::new(Clock::new(self.idle));
        let body = Sent::new(request.take_body(), Arc::clone(&clock));
        *request.body_mut() = SdkBody::from_body_1_x(body);
        let (answer, idle) = ((self.pick)(secure).call(request), self.idle);
        HttpConnectorFuture::new(async move {
            let response: HttpResponse = tokio::select! {
                biased;
                response = answer => response?,
                error = clock.silence() => return Err(ConnectorError::timeout(error.into())),
            };
            Ok(response.map(|body| SdkBody::from_body_1_x(Received::new(body, idle))))
        })
    }
}

/// When something last moved.
#[derive(Debug)]
struct Clock {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
    idle: Duration,
}

impl Clock {
    fn new(idle: Duration) -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            idle,
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Ends when nothing has moved for too long.
    async fn silence(&self) -> io::Error {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let end = self.start + last + self.idle;
            if end <= Instant::now() {
                return silent(self.idle);
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

fn silent(idle: Duration) -> io::Error {
    let text = format!("no byte moved for {} s (--read-timeout)", idle.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// A body on its way out, in pieces.
struct Sent {
    body: SdkBody,
    rest: Bytes,
    clock: Arc<Clock>,
}

impl Sent {
    fn new(body: SdkBody, clock: Arc<Clock>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            clock,
        }
    }
}

type BodyError = Box<dyn std::error::Error + Send + Sync>;
type PolledFrame = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        self.clock.touch();
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// A body on its way in, which must keep coming.
struct Received {
    body: SdkBody,
    idle: Duration,
    alarm: Pin<Box<tokio::time::Sleep>>,
}

impl Received {
    fn new(body: SdkBody, idle: Duration) -> Self {
        Self {
            body,
            idle,
            alarm: Box::pin(tokio::time::sleep(idle)),
        }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                let end = Instant::now() + self.idle;
                self.alarm.as_mut().reset(end);
                Poll::Ready(frame)
            }
            // The time a reader takes between two reads is not the store's.
            Poll::Pending => match self.alarm.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(silent(self.idle).into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
