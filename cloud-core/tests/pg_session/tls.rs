//! TLS with certificates as people have them.

use std::path::Path;
use std::process::{Command, Stdio};

use super::cluster::Cluster;
use super::message;

/// Certificates made with the `openssl` program, in the folder of a cluster.
struct Authority<'a> {
    cluster: &'a Cluster,
}

impl Authority<'_> {
    fn openssl(&self, args: &str) {
        let done = Command::new("openssl")
            .args(args.split(' '))
            .current_dir(self.cluster.dir())
            .stdin(Stdio::null())
            .output()
            .expect("openssl can be started");
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {args}: {complaint}");
    }

    /// `NAME.crt` and `NAME.key`, signed by itself, as the manual makes them.
    fn self_signed(&self, name: &str, subject: &str) {
        self.openssl(&format!(
            "req -new -x509 -days 9 -nodes -newkey rsa:2048 -subj {subject} -keyout {name}.key \
             -out {name}.crt"
        ));
        self.hide(name);
    }

    /// `NAME.crt` and `NAME.key`, signed by `ca`. With extensions it is of
    /// version 3, without any of version 1.
    fn signed(&self, name: &str, subject: &str, ca: &str, extensions: &str) {
        self.openssl(&format!(
            "req -new -nodes -newkey rsa:2048 -subj {subject} -keyout {name}.key -out {name}.csr"
        ));
        let version = if extensions.is_empty() {
            String::new()
        } else {
            std::fs::write(self.cluster.dir().join("ext"), extensions).expect("own folder");
            " -extfile ext".to_owned()
        };
        self.openssl(&format!(
            "x509 -req -in {name}.csr -days 9 -CA {ca}.crt -CAkey {ca}.key -CAcreateserial \
             -out {name}.crt{version}"
        ));
        self.hide(name);
    }

    fn hide(&self, name: &str) {
        let key = self.cluster.dir().join(format!("{name}.key"));
        Cluster::hand_over(&key);
    }
}

fn settings(dir: &Path, name: &str) -> Vec<String> {
    let dir = dir.display();
    vec![
        "ssl=on".into(),
        format!("ssl_cert_file={dir}/{name}.crt"),
        format!("ssl_key_file={dir}/{name}.key"),
        format!("ssl_ca_file={dir}/ca.crt"),
        format!("hba_file={dir}/hba"),
    ]
}

fn has_openssl() -> bool {
    let mut version = Command::new("openssl");
    let version = version
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// What the client is asked to believe, and what it should answer.
type Case<'a> = (&'a str, &'a str, Result<(), &'a str>);

async fn check(cluster: &Cluster, certificate: &str, cases: &[Case<'_>]) {
    let dir = cluster.dir().display().to_string();
    for (host, options, expected) in cases {
        let options = options.replace("DIR", &dir);
        let text = format!("host={host} hostaddr=127.0.0.1 user=postgres {options}");
        let result = cluster.connect_tcp(&text).await;
        match (result, expected) {
            (Ok(_), Ok(())) => {}
            (result, Ok(())) => panic!("{certificate}: {text}: {}", message(result)),
            (result, Err(words)) => {
                let error = message(result);
                assert!(error.contains(words), "{certificate}: {text}: {error}");
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
fn cluster() -> Option<Cluster> {
    if !has_openssl() {
        let help = "the program `openssl` was not found: install `openssl`";
        assert!(std::env::var_os("CI").is_none(), "{help}");
        eprintln!("skipped: {help}");
        return None;
    }
    let cluster = Cluster::create()?;
    cluster.write(
        "hba",
        "local all all trust\nhostnossl plain all all trust\nhostssl plain all all reject\nhostssl postgres certified all cert\n\
         hostssl all all all trust\n",
    );
    let authority = Authority { cluster: &cluster };
    authority.self_signed("ca", "/CN=authority");
    authority.self_signed("other", "/CN=other");
    Some(cluster)
}

const NOT_TRUSTED: Result<(), &str> = Err("invalid peer certificate");
const OTHER_NAME: Result<(), &str> = Err("not valid for name");

#[tokio::test]
async fn a_certificate_of_an_authority_is_verified_as_far_as_the_mode_asks() {
    let Some(mut cluster) = cluster() else {
        return;
    };
    let authority = Authority { cluster: &cluster };
    authority.signed(
        "server",
        "/CN=server",
        "ca",
        "subjectAltName=DNS:db.example,DNS:*.wild.example,IP:127.0.0.9",
    );
    authority.signed(
        "certified",
        "/CN=certified",
        "ca",
        "basicConstraints=CA:FALSE",
    );
    cluster.start(&settings(cluster.dir(), "server")).await;
    cluster
        .admin()
        .await
        .run("CREATE ROLE certified LOGIN")
        .await;
    check(
        &cluster,
        "server",
        &[
            (
                "db.example",
                "sslmode=verify-full sslrootcert=DIR/ca.crt",
                Ok(()),
            ),
            (
                "a.wild.example",
                "sslmode=verify-full sslrootcert=DIR/ca.crt",
                Ok(()),
            ),
            (
                "127.0.0.9",
                "sslmode=verify-full sslrootcert=DIR/ca.crt",
                Ok(()),
            ),
            (
                "else.example",
                "sslmode=verify-full sslrootcert=DIR/ca.crt",
                OTHER_NAME,
            ),
            // The common name is that of no host where there are alternatives.
            (
                "server",
                "sslmode=verify-full sslrootcert=DIR/ca.crt",
                OTHER_NAME,
            ),
            (
                "else.example",
                "sslmode=verify-ca sslrootcert=DIR/ca.crt",
                Ok(()),
            ),
            (
                "db.example",
                "sslmode=verify-ca sslrootcert=DIR/other.crt",
                NOT_TRUSTED,
            ),
            (
                "db.example",
                "sslmode=require sslrootcert=DIR/other.crt",
                NOT_TRUSTED,
            ),
            ("else.example", "sslmode=require", Ok(())),
            (
                "else.example",
                "sslmode=require sslrootcert=DIR/absent.crt",
                Ok(()),
            ),
            (
                "db.example",
                "sslmode=prefer sslrootcert=DIR/other.crt",
                Ok(()),
            ),
            ("db.example", "sslmode=allow", Ok(())),
            ("db.example", "", Ok(())),
            (
                "db.example",
                "sslsni=0 ssl_min_protocol_version=TLSv1.3",
                Ok(()),
            ),
            ("db.example", "sslmode=disable", Err("no encryption")),
            (
                "db.example",
                "sslmode=verify-full sslrootcert=DIR/absent.crt",
                Err("absent.crt\" does not exist"),
            ),
            (
                "db.example",
                "sslmode=verify-full sslrootcert=DIR/hba",
                Err("could not read root certificate file"),
            ),
            // Let in only without TLS: the second attempt of `prefer`.
            (
                "db.example",
                "dbname=plain sslmode=prefer",
                Err("database \"plain\" does not exist"),
            ),
            (
                "db.example",
                "dbname=plain sslmode=require",
                Err("pg_hba.conf rejects connection"),
            ),
            (
                "db.example",
                "user=certified",
                Err("connection requires a valid client certificate"),
            ),
            (
                "db.example",
                "user=certified sslcert=DIR/certified.crt sslkey=DIR/absent.key",
                Err("could not read private key file"),
            ),
            (
                "db.example",
                "user=certified sslcert=DIR/certified.crt sslkey=DIR/certified.key",
                Ok(()),
            ),
            (
                "db.example",
                "user=certified sslcert=DIR/certified.crt sslkey=DIR/certified.key \
                 sslcertmode=disable",
                Err("connection requires a valid client certificate"),
            ),
        ],
    )
    .await;
    let key = cluster.dir().join("certified.key");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&key, open).unwrap();
    check(
        &cluster,
        "server",
        &[
            (
                "db.example",
                "user=certified sslcert=DIR/certified.crt sslkey=DIR/certified.key sslmode=require",
                Err("it has group or world access"),
            ),
            // TLS cannot be had, so `prefer` does without.
            (
                "db.example",
                "dbname=plain sslcert=DIR/certified.crt sslkey=DIR/certified.key",
                Err("database \"plain\" does not exist"),
            ),
        ],
    )
    .await;
}

/// The manual's first recipe: the server's certificate is its own root.
#[tokio::test]
async fn a_certificate_that_is_its_own_root_is_as_good_as_for_libpq() {
    let Some(mut cluster) = cluster() else {
        return;
    };
    Authority { cluster: &cluster }.self_signed("server", "/O=nobody/CN=db.example");
    cluster.start(&settings(cluster.dir(), "server")).await;
    check(
        &cluster,
        "self-signed",
        &[
            (
                "db.example",
                "sslmode=verify-full sslrootcert=DIR/server.crt",
                Ok(()),
            ),
            (
                "else.example",
                "sslmode=verify-full sslrootcert=DIR/server.crt",
                OTHER_NAME,
            ),
            (
                "else.example",
                "sslmode=verify-ca sslrootcert=DIR/server.crt",
                Ok(()),
            ),
            (
                "db.example",
                "sslmode=verify-ca sslrootcert=DIR/ca.crt",
                NOT_TRUSTED,
            ),
            ("db.example", "sslmode=require", Ok(())),
        ],
    )
    .await;
}

/// The manual's second recipe: an authority signs without extensions, which
/// makes a certificate of version 1.
#[tokio::test]
async fn a_certificate_of_version_1_is_as_good_as_for_libpq() {
    let Some(mut cluster) = cluster() else {
        return;
    };
    let authority = Authority { cluster: &cluster };
    authority.signed("server", "/CN=db.example", "ca", "");
    // The same name, and another key.
    authority.self_signed("double", "/CN=authority");
    cluster.start(&settings(cluster.dir(), "server")).await;
    for version in ["TLSv1.2", "TLSv1.3"] {
        let with = |mode: &str| {
            format!(
                "sslmode={mode} ssl_min_protocol_version={version} ssl_max_protocol_version={version}"
            )
        };
        let full = with("verify-full sslrootcert=DIR/ca.crt");
        let double = with("verify-ca sslrootcert=DIR/double.crt");
        let require = with("require");
        check(
            &cluster,
            "version 1",
            &[
                ("db.example", full.as_str(), Ok(())),
                ("else.example", full.as_str(), OTHER_NAME),
                ("db.example", double.as_str(), NOT_TRUSTED),
                ("else.example", require.as_str(), Ok(())),
            ],
        )
        .await;
    }
}
