//! TLS and proxies.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::super::testing::read_request;
use super::*;

const CA: &str = include_str!("../../../http/test-tls/ca.pem");
const SELF_SIGNED: &str = include_str!("../../../http/test-tls/self.pem");

/// A store with a certificate for `localhost` and 127.0.0.1.
async fn secure_store() -> StandIn {
    store_of(
        include_bytes!("../../../http/test-tls/server.pem"),
        include_bytes!("../../../http/test-tls/server.key"),
    )
    .await
}

async fn store_of(certificate: &[u8], key: &[u8]) -> StandIn {
    let server = CertificateDer::from_pem_slice(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    StandIn::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut stream = BufReader::new(stream);
            while read_request(&mut stream).await.is_some() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

fn keys(home: &Home) -> Variables {
    home.variables()
        .and("AWS_ACCESS_KEY_ID", "id")
        .and("AWS_SECRET_ACCESS_KEY", "hush")
}

fn https(store: &StandIn) -> String {
    format!("https://{}", store.address())
}

#[tokio::test]
async fn a_certificate_is_trusted_if_the_bundle_has_its_authority() {
    let store = secure_store().await;
    let home = Home::new();
    let bundle = home.write("ca.pem", CA);
    for variable in ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
        let variables = keys(&home).and(variable, &bundle);
        ask(&connect(variables, &https(&store))).await.unwrap();
    }
    home.config(&format!("[default]\nca_bundle = {bundle}\n"));
    ask(&connect(keys(&home), &https(&store))).await.unwrap();
}

/// As small installations have it: rustls alone would refuse it, OpenSSL does not.
#[tokio::test]
async fn a_certificate_that_signed_itself_is_trusted_if_the_bundle_has_it() {
    let store = store_of(
        SELF_SIGNED.as_bytes(),
        include_bytes!("../../../http/test-tls/self.key"),
    )
    .await;
    let home = Home::new();
    let bundle = home.write("self.pem", SELF_SIGNED);
    let variables = keys(&home).and("AWS_CA_BUNDLE", bundle);
    ask(&connect(variables, &https(&store))).await.unwrap();
    let other = keys(&home).and("AWS_CA_BUNDLE", home.write("ca.pem", CA));
    let error = ask(&connect(other, &https(&store))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Untrusted);
}

#[tokio::test]
async fn a_certificate_of_nobody_we_trust_is_told() {
    let store = secure_store().await;
    let home = Home::new();
    let bundle = home.write("wrong.pem", SELF_SIGNED);
    let variables = keys(&home).and("AWS_CA_BUNDLE", bundle);
    let error = ask(&connect(variables, &https(&store))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Untrusted);
    let begin = format!(
        "could not connect to `{}`: its certificate is not trusted: ",
        store.address()
    );
    assert!(error.text.starts_with(&begin), "{error}");
    assert!(error.text.contains("AWS_CA_BUNDLE"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_told() {
    for self_signed in [false, true] {
        told_of_another_name(self_signed).await;
    }
}

async fn told_of_another_name(self_signed: bool) {
    let (store, trusted) = if self_signed {
        let key = include_bytes!("../../../http/test-tls/self.key");
        (store_of(SELF_SIGNED.as_bytes(), key).await, SELF_SIGNED)
    } else {
        (secure_store().await, CA)
    };
    let home = Home::new();
    let variables = keys(&home).and("AWS_CA_BUNDLE", home.write("ca.pem", trusted));
    let other = format!("https://127.0.0.2:{}", store.address().port());
    let listener = tokio::net::TcpListener::bind(&other["https://".len()..]).await;
    // Another address of this machine, with the same certificate.
    let listener = listener.unwrap();
    let target = store.address();
    let forward = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(target).await.unwrap();
            let _ = copy_bidirectional(&mut near, &mut far).await;
        }
    });
    let error = ask(&connect(variables, &other)).await.unwrap_err();
    forward.abort();
    assert_eq!(error.kind, StoreErrorKind::Untrusted);
    assert!(
        error.text.contains("its certificate is not trusted"),
        "{error}"
    );
}

#[tokio::test]
async fn a_bundle_matters_only_where_tls_is_used() {
    let home = Home::new();
    let variables = keys(&home).and("AWS_CA_BUNDLE", "/no/such/bundle.pem");
    assert_eq!(signer(variables.clone()).await.unwrap(), "id");
    let connect = connect(variables, "https://127.0.0.1:1");
    let error = connect.get().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    assert!(
        error.text.contains("`/no/such/bundle.pem` (AWS_CA_BUNDLE)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_told() {
    let plain = StandIn::raw(|mut stream| async move {
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let home = Home::new();
    let variables = keys(&home).and("AWS_CA_BUNDLE", home.write("ca.pem", CA));
    let error = ask(&connect(variables, &https(&plain))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Connect);
    assert!(error.text.contains("TLS failed"), "{error}");
}

/// A proxy that tunnels to wherever it is asked to; it wants a password.
async fn tunnel() -> StandIn {
    StandIn::raw(|stream| async move {
        let mut stream = BufReader::new(stream);
        let Some(request) = read_request(&mut stream).await else {
            return;
        };
        // "user:pass" in base64.
        let allowed = request.header("proxy-authorization") == "Basic dXNlcjpwYXNz";
        if request.method != "CONNECT" || !allowed {
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await;
            return;
        }
        let mut far = TcpStream::connect(&request.target).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut far).await;
    })
    .await
}

#[tokio::test]
async fn tls_goes_through_the_proxy_and_ends_at_the_store() {
    let (store, proxy) = (secure_store().await, tunnel().await);
    let home = Home::new();
    let address = proxy.address();
    let variables = keys(&home)
        .and("AWS_CA_BUNDLE", home.write("ca.pem", CA))
        .and("HTTPS_PROXY", format!("http://user:pass@{address}"));
    ask(&connect(variables.clone(), &https(&store)))
        .await
        .unwrap();
    let refused = variables
        .clone()
        .and("HTTPS_PROXY", format!("http://user:hush@{address}"));
    let error = ask(&connect(refused, &https(&store))).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Connect);
    let middle = format!("the proxy `{address}` failed");
    assert!(error.text.contains(&middle), "{error}");
    assert!(!error.text.contains("hush"), "{error}");
    // The proxy is not there, and not asked.
    let past = variables
        .and("HTTPS_PROXY", "http://127.0.0.1:1")
        .and("NO_PROXY", "127.0.0.1");
    ask(&connect(past.clone(), &https(&store))).await.unwrap();
    let error = ask(&connect(past.and("NO_PROXY", ""), &https(&store))).await;
    assert_eq!(error.unwrap_err().kind, StoreErrorKind::Connect);
}

#[tokio::test]
async fn a_plain_request_is_told_to_the_proxy_as_a_whole() {
    let proxy = store().await;
    let home = Home::new();
    let address = proxy.address();
    let variables = keys(&home).and("http_proxy", format!("http://user:pass@{address}"));
    ask(&connect(variables, "http://store.test:9"))
        .await
        .unwrap();
    let request = &proxy.seen()[0];
    assert_eq!(request.target, "http://store.test:9/bucket/key");
    assert_eq!(request.header("proxy-authorization"), "Basic dXNlcjpwYXNz");
    assert_eq!(request.signed_by(), "id");
}
