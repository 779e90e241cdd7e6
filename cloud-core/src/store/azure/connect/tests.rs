//! Which credentials are used, and how they are come by.

use std::fs;
use std::path::PathBuf;

use azure_core::base64;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, alg_id};
use x509_cert::der::Decode;

use super::*;
use crate::store::azure::AzureStore;
use crate::store::scripted::{Answer, CA, Request, Server};
use crate::store::{BucketState, ObjectStore, StoreErrorKind};

/// Everything secret has this in it.
const SECRET: &str = "hush";

fn own_place() -> Place {
    Place {
        account_url: "https://acc.blob.core.windows.net".into(),
        container: "c".into(),
        path: String::new(),
        emulated: false,
    }
}

fn way(kind: Option<&str>, place: &Place, pairs: &[(&str, &str)]) -> Result<Way, ConnectError> {
    let config = StoreConfig {
        azure_credential: kind.map(str::to_owned),
        ..StoreConfig::default()
    };
    Connect::with(&config, place, Variables::of(pairs)).way()
}

#[test]
fn the_first_of_the_ways_that_is_there_is_taken() {
    let string = (
        "AZURE_STORAGE_CONNECTION_STRING",
        "AccountName=a;AccountKey=aw==",
    );
    let sas = ("AZURE_STORAGE_SAS_TOKEN", "?sv=1&sig=hush");
    let key = ("AZURE_STORAGE_KEY", "aw==");
    let all = [key, sas, string];
    let place = own_place();
    let token = |kind: &str| Way::Token { kind: kind.into() };
    let login = |named_by, endpoint: Option<&str>, login| Way::Login {
        endpoint: endpoint.map(str::to_owned),
        login,
        named_by,
    };
    let shared = |account: &str| Login::Key {
        account: account.into(),
        key: "aw==".into(),
    };
    for kind in ["azure-cli", "managed-identity", "default"] {
        assert_eq!(way(Some(kind), &place, &all), Ok(token(kind)));
    }
    assert_eq!(
        way(None, &place, &all),
        Ok(login(
            string.0,
            Some("https://a.blob.core.windows.net"),
            shared("a")
        ))
    );
    let signature = Login::Signature("sv=1&sig=hush".into());
    assert_eq!(
        way(None, &place, &all[..2]),
        Ok(login(sas.0, None, signature))
    );
    // The account is that of the URL.
    assert_eq!(
        way(None, &place, &all[..1]),
        Ok(login(key.0, None, shared("acc")))
    );
    assert_eq!(way(None, &place, &[]), Ok(token("default")));
    // One that is there counts, also if it is empty.
    let empty = login(sas.0, None, Login::Signature(String::new()));
    assert_eq!(way(None, &place, &[(sas.0, ""), key]), Ok(empty));
    let empty = (string.0, "");
    assert_eq!(
        way(None, &place, &[empty, key]).unwrap_err().kind,
        StoreErrorKind::Invalid
    );
}

#[test]
fn another_host_than_azures_wants_a_connection_string() {
    let place = Place {
        account_url: "http://127.0.0.1:10000/acc".into(),
        emulated: true,
        ..own_place()
    };
    let error = way(None, &place, &[("AZURE_STORAGE_KEY", "aw==")]).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unauthenticated);
    assert!(
        error
            .text
            .starts_with("AZURE_STORAGE_CONNECTION_STRING must be set"),
        "{error}"
    );
    let token = Way::Token {
        kind: "default".into(),
    };
    assert_eq!(way(Some("default"), &place, &[]), Ok(token));
}

#[test]
fn the_account_is_in_the_path_where_the_host_does_not_have_it() {
    for (account_url, endpoint) in [
        (
            "https://acc.blob.core.windows.net",
            "https://acc.blob.core.windows.net",
        ),
        (
            "https://acc.blob.core.chinacloudapi.cn/acc",
            "https://acc.blob.core.chinacloudapi.cn",
        ),
        ("http://127.0.0.1:10000/acc", "http://127.0.0.1:10000/acc"),
        ("https://account.example/acc", "https://account.example/acc"),
    ] {
        let place = Place {
            account_url: account_url.into(),
            ..own_place()
        };
        assert_eq!(place.endpoint(), endpoint);
    }
}

#[test]
fn a_container_is_one_step_below_its_account() {
    for endpoint in ["http://h:1/acc", "http://h:1/acc/"] {
        let url = container_url(endpoint, "a b").unwrap();
        assert_eq!(url.as_str(), "http://h:1/acc/a%20b");
    }
    assert_eq!(
        container_url("https://h", "c").unwrap().as_str(),
        "https://h/c"
    );
    for odd in ["", "h:1", "ftp://h", "https://h?sig=hush"] {
        let error = container_url(odd, "c").unwrap_err();
        assert!(!error.text.contains(SECRET), "{error}");
    }
}

/// A store and a service that gives out tokens, both with a certificate that
/// `ca.pem` vouches for.
struct Scene {
    home: tempfile::TempDir,
    store: Server,
    entra: Server,
}

impl Scene {
    fn new(give: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("ca.pem"), CA).unwrap();
        Self {
            home,
            store: Server::trusted(|_| {
                Answer::new(200).xml("<EnumerationResults><Blobs /></EnumerationResults>")
            }),
            entra: Server::trusted(give),
        }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn store(&self, kind: Option<&str>, more: &[(&str, &str)]) -> AzureStore {
        let config = StoreConfig {
            azure_credential: kind.map(str::to_owned),
            ..StoreConfig::default()
        };
        let place = Place {
            account_url: format!("{}/acc", self.store.url),
            container: "c".into(),
            path: String::new(),
            emulated: true,
        };
        let variables = Variables::of(more)
            .and("REQUESTS_CA_BUNDLE", self.home.path().join("ca.pem"))
            .and("AZURE_AUTHORITY_HOST", self.entra.url.clone());
        AzureStore::with(&config, Connect::with(&config, &place, variables), place)
    }

    /// The tokens that the store was shown.
    fn shown(&self) -> Vec<String> {
        let shown = |request: &Request| request.header("authorization").unwrap().to_owned();
        self.store.requests().iter().map(shown).collect()
    }
}

fn token(text: &str) -> Answer {
    Answer::new(200)
        .header("content-type", "application/json")
        .body(format!(
            r#"{{"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600,
            "access_token": "{text}"}}"#
        ))
}

const PRINCIPAL: [(&str, &str); 3] = [
    ("AZURE_TENANT_ID", "tenant"),
    ("AZURE_CLIENT_ID", "client"),
    ("AZURE_CLIENT_SECRET", "hush-secret"),
];

#[tokio::test]
async fn a_service_principal_has_one_token_for_the_run() {
    let scene = Scene::new(|_| token("hush-token"));
    let store = scene.store(Some("default"), &PRINCIPAL);
    for _ in 0..3 {
        assert_eq!(store.probe().await.unwrap(), BucketState::Exists);
    }
    assert_eq!(scene.shown(), ["Bearer hush-token"; 3]);
    let asked = scene.entra.request();
    assert_eq!(asked.target, "/tenant/oauth2/v2.0/token");
    let form = asked.text();
    for part in [
        "client_id=client",
        "client_secret=hush-secret",
        "grant_type=client_credentials",
        "scope=https%3A%2F%2Fstorage.azure.com%2F.default",
    ] {
        assert!(form.split('&').any(|one| one == part), "{part}: {form}");
    }
    assert!(!format!("{store:?}").contains(SECRET), "{store:?}");
}

#[tokio::test]
async fn a_workload_identity_exchanges_its_token() {
    let scene = Scene::new(|_| token("hush-token"));
    let file = scene.write("federated", "hush-federated");
    let variables = [
        PRINCIPAL[0],
        PRINCIPAL[1],
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
    ];
    for kind in ["default", "managed-identity"] {
        scene.store(Some(kind), &variables).probe().await.unwrap();
    }
    assert_eq!(scene.shown(), ["Bearer hush-token"; 2]);
    for asked in scene.entra.requests() {
        assert!(
            asked.text().contains("client_assertion=hush-federated"),
            "{asked:?}"
        );
    }
}

/// Of 2048 bits, with a certificate that signed itself; made for this test alone.
const PRINCIPALS: &str = include_str!("principal.pem");

#[tokio::test]
async fn a_certificate_proves_who_it_belongs_to() {
    let scene = Scene::new(|_| token("hush-token"));
    let file = scene.write("principal.pem", PRINCIPALS);
    let variables = [
        PRINCIPAL[0],
        PRINCIPAL[1],
        ("AZURE_CLIENT_CERTIFICATE_PATH", file.to_str().unwrap()),
    ];
    let store = scene.store(Some("default"), &variables);
    store.probe().await.unwrap();
    assert_eq!(scene.shown(), ["Bearer hush-token"]);
    let form = scene.entra.request().text();
    let proof = form
        .split('&')
        .find_map(|one| one.strip_prefix("client_assertion="));
    let parts: Vec<_> = proof.unwrap().split('.').collect();
    let json = |part: &str| -> serde_json::Value {
        serde_json::from_slice(&base64::decode_url_safe(part).unwrap()).unwrap()
    };
    let (header, claims) = (json(parts[0]), json(parts[1]));
    assert_eq!(header["alg"], "RS256");
    assert_eq!(header["x5t#S256"], THUMBPRINT);
    let audience = format!("{}/tenant/oauth2/v2.0/token", scene.entra.url);
    assert_eq!(claims["aud"], audience);
    assert_eq!(
        (&claims["iss"], &claims["sub"]),
        (&"client".into(), &"client".into())
    );
    let times = ["nbf", "exp"].map(|name| claims[name].as_u64().unwrap());
    assert_eq!(times[1] - times[0], 600);
    let signature = base64::decode_url_safe(parts[2]).unwrap();
    let signed = format!("{}.{}", parts[0], parts[1]);
    assert!(
        is_signed(&signed, &signature),
        "the key of the certificate has signed"
    );
}

/// `openssl x509 -in principal.pem -outform DER | sha256sum`, in base64 for URLs.
const THUMBPRINT: &str = "4yFQPt-Iar3DZIuAb1z-nsOlCnIF7ApSaKi6ZiCP8x4";

fn is_signed(text: &str, signature: &[u8]) -> bool {
    let der = CertificateDer::from_pem_slice(PRINCIPALS.as_bytes()).unwrap();
    let certificate = x509_cert::Certificate::from_der(&der).unwrap();
    let key = &certificate.tbs_certificate.subject_public_key_info;
    let key = key.subject_public_key.raw_bytes();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let verifies = |algorithm: &&dyn SignatureVerificationAlgorithm| {
        let verified = algorithm.verify_signature(key, text.as_bytes(), signature);
        algorithm.signature_alg_id() == alg_id::RSA_PKCS1_SHA256 && verified.is_ok()
    };
    algorithms.iter().any(verifies)
}

#[tokio::test]
async fn a_source_that_refuses_ends_the_search() {
    use StoreErrorKind as Kind;
    for (status, body, kind) in [
        (
            401,
            r#"{"error": "invalid_client", "error_codes": [7000215],
                "error_description": "AADSTS7000215: Invalid client secret.\r\nTrace ID: 1"}"#,
            Kind::Unauthenticated,
        ),
        (503, "{}", Kind::ServerFault),
        (429, "{}", Kind::RateLimited),
    ] {
        let scene = Scene::new(move |_| Answer::new(status).body(body));
        let error = scene
            .store(Some("default"), &PRINCIPAL)
            .probe()
            .await
            .unwrap_err();
        let text = format!("{error}: {}", error.source);
        assert_eq!(error.kind, kind, "{text}");
        assert!(text.contains("AZURE_CLIENT_SECRET failed: "), "{text}");
        assert!(status != 401 || text.contains("AADSTS7000215"), "{text}");
        assert!(!text.contains('\n') && !text.contains(SECRET), "{text}");
        assert_eq!(
            scene.entra.requests().len(),
            1,
            "it is not tried again here"
        );
        assert_eq!(scene.shown(), [""; 0], "the store was not asked");
    }
}

#[tokio::test]
async fn settings_that_mean_nothing_are_told_by_name() {
    let scene = Scene::new(|_| token("hush-token"));
    let none = scene.write("none.pem", "hush");
    let elliptic = scene.write(
        "ec.pem",
        concat!(
            include_str!("../../http/test-tls/server.pem"),
            include_str!("../../http/test-tls/server.key")
        ),
    );
    for (path, expected) in [
        ("/no/such/file", "No such file"),
        (none.to_str().unwrap(), "it has no certificate in PEM form"),
        (elliptic.to_str().unwrap(), "its key is not an RSA key"),
    ] {
        let variables = [
            PRINCIPAL[0],
            PRINCIPAL[1],
            ("AZURE_CLIENT_CERTIFICATE_PATH", path),
        ];
        let error = scene
            .store(Some("default"), &variables)
            .probe()
            .await
            .unwrap_err();
        let text = error.source.to_string();
        assert_eq!(error.kind, StoreErrorKind::Invalid);
        assert!(text.contains("(AZURE_CLIENT_CERTIFICATE_PATH)"), "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[tokio::test]
async fn who_is_not_vouched_for_is_not_talked_to() {
    let scene = Scene::new(|_| token("hush-token"));
    let other = scene.write("other.pem", include_str!("../../http/test-tls/self.pem"));
    let text = format!(
        "AccountName=acc;AccountKey=aw==;BlobEndpoint={}/acc",
        scene.store.url
    );
    let config = StoreConfig::default();
    let place = own_place();
    let variables = Variables::of(&[(VARIABLE, &text)]).and("REQUESTS_CA_BUNDLE", other);
    let store = AzureStore::with(&config, Connect::with(&config, &place, variables), place);
    let error = store.probe().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Untrusted);
    let text = error.source.to_string();
    assert!(text.contains("named by REQUESTS_CA_BUNDLE"), "{text}");
    assert_eq!(scene.store.methods(), "");
}

#[tokio::test]
async fn a_token_is_never_sent_in_the_clear() {
    let server = Server::start(|_| Answer::new(200));
    let config = StoreConfig {
        azure_credential: Some("default".into()),
        ..StoreConfig::default()
    };
    let place = Place {
        account_url: format!("{}/acc", server.url),
        container: "c".into(),
        path: String::new(),
        emulated: true,
    };
    let variables = Variables::of(&PRINCIPAL);
    let store = AzureStore::with(&config, Connect::with(&config, &place, variables), place);
    let error = store.probe().await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Invalid);
    assert_eq!(server.methods(), "");
}
