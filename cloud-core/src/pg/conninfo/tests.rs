use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use super::*;

#[derive(Debug, Default)]
struct Vars(HashMap<String, String>);

impl Var for Vars {
    fn var(&self, name: &str) -> Option<OsString> {
        self.0.get(name).map(OsString::from)
    }
}

fn vars(list: &[(&str, &str)]) -> Vars {
    Vars(
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    )
}

fn read_in(dbname: &str, vars: &Vars, home: Option<&Path>) -> Result<ConnInfo, ConnInfoError> {
    let around = Surroundings {
        var: vars,
        os_user: Some("osuser".into()),
        home: home.map(Path::to_owned),
    };
    ConnInfo::read(
        &Options {
            dbname: Some(dbname.to_owned()),
            ..Options::default()
        },
        &around,
    )
}

fn read(dbname: &str) -> Result<ConnInfo, ConnInfoError> {
    read_in(dbname, &Vars::default(), None)
}

fn places(info: &ConnInfo) -> Vec<String> {
    let place = |host: &Host| match &host.place {
        Place::Socket(path) => format!("{}:{}", path.display(), host.port),
        Place::Tcp { name, addr: None } => format!("{name}:{}", host.port),
        Place::Tcp {
            name,
            addr: Some(addr),
        } => format!("{name}({addr}):{}", host.port),
    };
    info.hosts.iter().map(place).collect()
}

#[test]
fn strings_and_uris_say_where_the_server_is() {
    for (text, hosts, user, dbname) in [
        ("host=h port=1 user=u dbname=d", &["h:1"][..], "u", "d"),
        (
            " host = h  user = 'a b' dbname = 'it\\'s' ",
            &["h:5432"],
            "a b",
            "it's",
        ),
        (r"host=h user=a\ b dbname=c\\d", &["h:5432"], "a b", r"c\d"),
        ("host=h user=''", &["h:5432"], "osuser", "osuser"),
        ("host=a,b port=1,2 user=u", &["a:1", "b:2"], "u", "u"),
        ("host=a,b port=7 user=u", &["a:7", "b:7"], "u", "u"),
        ("host=/run/pg user=u", &["/run/pg:5432"], "u", "u"),
        (
            "host=h hostaddr=127.0.0.1 user=u",
            &["h(127.0.0.1):5432"],
            "u",
            "u",
        ),
        ("hostaddr=::1 user=u", &["::1(::1):5432"], "u", "u"),
        ("postgresql://u@h/d", &["h:5432"], "u", "d"),
        ("postgres://u:p%40ss@h:1,g:2/d", &["h:1", "g:2"], "u", "d"),
        (
            "postgresql://u@[::1]:6/d?connect_timeout=3",
            &["::1:6"],
            "u",
            "d",
        ),
        (
            "postgresql://%2Frun%2Fpg/d?user=x",
            &["/run/pg:5432"],
            "x",
            "d",
        ),
        (
            "postgresql:///d?host=/run/pg&port=9",
            &["/run/pg:9"],
            "osuser",
            "d",
        ),
        ("postgresql://h", &["h:5432"], "osuser", "osuser"),
        ("postgresql://h?user=x", &["h:5432"], "x", "x"),
        (
            "postgresql://a,[::1]:2,c:3/?dbname=e",
            &["a:5432", "::1:2", "c:3"],
            "osuser",
            "e",
        ),
        ("plain", &["/var/run/postgresql:5432"], "osuser", "plain"),
    ] {
        let info = read(text).unwrap();
        if text != "plain" || !Path::new("/tmp/.s.PGSQL.5432").exists() {
            assert_eq!(places(&info), hosts, "{text}");
        }
        assert_eq!(
            (info.user.as_str(), info.dbname.as_str()),
            (user, dbname),
            "{text}"
        );
    }
    let password = &read("postgres://u:p%40ss@h/d").unwrap().hosts[0].password;
    assert_eq!(password, &Some(Secret("p@ss".into())));
    let password = &read("postgres://u:a?b%3A@h/d?application_name=x@y").unwrap();
    assert_eq!(password.hosts[0].password, Some(Secret("a?b:".into())));
    assert_eq!(password.application_name.as_deref(), Some("x@y"));
    // A blank that C does not know is a character like others.
    let password = &read("password=a\u{a0}b host=h").unwrap().hosts[0].password;
    assert_eq!(password, &Some(Secret("a\u{a0}b".into())));
}

#[test]
fn single_options_are_taken_as_they_are() {
    let options = Options {
        host: Some("h'x".into()),
        port: Some("5".into()),
        user: Some("a b\\".into()),
        dbname: Some("d e".into()),
    };
    let around = Surroundings {
        var: &Vars::default(),
        os_user: None,
        home: None,
    };
    let info = ConnInfo::read(&options, &around).unwrap();
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("a b\\", "d e"));
    assert_eq!(places(&info), ["h'x:5"]);
    let alone = Options {
        dbname: Some("dbname=x host=y user=z".into()),
        ..options
    };
    let info = ConnInfo::read(&alone, &around).unwrap();
    assert_eq!(
        (info.dbname.as_str(), places(&info)),
        ("x", vec!["y:5432".to_owned()])
    );
}

#[test]
fn malformed_and_unsupported_options_are_named() {
    for (text, message) in [
        (
            "host=h x",
            "missing \"=\" after the word behind the value of \"host\"",
        ),
        ("x y=", "missing \"=\" after \"x\""),
        ("host='h=", "unterminated quoted string"),
        ("nonsense=1", "invalid connection option \"nonsense\""),
        ("=1", "invalid connection option \"\""),
        (
            "port=x host=h",
            "invalid integer value for connection option \"port\"",
        ),
        ("port=0 host=h", "invalid integer value"),
        ("port=70000 host=h", "invalid integer value"),
        (
            "host=a,b port=1,2,3",
            "could not match 3 port numbers to 2 hosts",
        ),
        (
            "host=a,b hostaddr=::1",
            "could not match 2 host names to 1 hostaddr values",
        ),
        ("sslmode=maybe host=h", "invalid sslmode value: \"maybe\""),
        ("sslsni=2", "invalid sslsni value"),
        (
            "gssencmode=require host=h",
            "gssencmode=require is not supported",
        ),
        ("gssencmode=no", "invalid gssencmode value"),
        ("sslcrl=x host=h", "sslcrl is not supported"),
        ("sslpassword=x", "sslpassword is not supported"),
        (
            "sslcertmode=require",
            "sslcertmode=require is not supported",
        ),
        (
            "require_auth=scram-sha-256 host=h",
            "require_auth is not supported",
        ),
        ("replication=database", "replication is not supported"),
        ("host=@abstract", "abstract socket is not supported"),
        ("hostaddr=h", "invalid hostaddr value"),
        ("connect_timeout=x host=h", "option \"connect_timeout\""),
        ("keepalives_idle=99999999999", "option \"keepalives_idle\""),
        ("channel_binding=maybe", "invalid channel_binding value"),
        (
            "target_session_attrs=x",
            "invalid target_session_attrs value",
        ),
        ("load_balance_hosts=x", "invalid load_balance_hosts value"),
        (
            "sslrootcert=system sslmode=require",
            "weak sslmode \"require\" may not be used with sslrootcert=system",
        ),
        (
            "sslnegotiation=direct sslmode=prefer",
            "weak sslmode \"prefer\" may not be used with sslnegotiation=direct",
        ),
        (
            "ssl_min_protocol_version=SSLv3",
            "invalid ssl_min_protocol_version value",
        ),
        (
            "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
            "invalid SSL protocol version range",
        ),
        (
            "ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=TLSv1.1",
            "below TLSv1.2 is not supported",
        ),
        ("postgresql://[::1/d", "matching \"]\""),
        ("postgresql://[]/d", "may not be empty"),
        ("postgresql://[::1]x/d", "after an IPv6 address"),
        ("postgresql://h/%zz", "percent-encoded"),
        ("postgresql://h/a%00", "forbidden value %00"),
        ("postgresql://h/%ff", "not UTF-8"),
        ("postgresql://h/d?x", "separator"),
        ("postgresql://h/d?x=1", "invalid connection option \"x\""),
        (
            "service=nope host=h",
            "definition of service \"nope\" not found",
        ),
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}

#[test]
fn what_changes_nothing_here_is_accepted() {
    for text in [
        "client_encoding=LATIN1 fallback_application_name=x krbsrvname=p gssencmode=prefer",
        "sslcompression=1 gsslib=gssapi gssdelegation=0 max_protocol_version=latest",
        "sslcrl='' require_auth=''",
    ] {
        assert!(read(text).is_ok(), "{text}: {:?}", read(text));
    }
}

#[test]
fn what_is_asked_of_tls_is_read() {
    let home = Path::new("/h");
    let ssl = |text: &str| read_in(text, &Vars::default(), Some(home)).unwrap().ssl;
    for (text, mode) in [
        ("", SslMode::Prefer),
        ("sslmode=allow", SslMode::Allow),
        ("sslmode=verify-ca", SslMode::VerifyCa),
        ("requiressl=1", SslMode::Require),
        ("requiressl=0", SslMode::Prefer),
        ("requiressl=1 sslmode=verify-full", SslMode::VerifyFull),
        ("sslrootcert=system", SslMode::VerifyFull),
        ("sslnegotiation=direct", SslMode::Require),
        ("postgresql://h/d?ssl=true", SslMode::Require),
    ] {
        assert_eq!(ssl(text).mode, mode, "{text}");
    }
    for (text, versions) in [
        ("", TlsVersions::Both),
        ("ssl_min_protocol_version=TLSv1", TlsVersions::Both),
        ("ssl_min_protocol_version=tlsv1.3", TlsVersions::Only13),
        ("ssl_max_protocol_version=TLSv1.2", TlsVersions::Only12),
    ] {
        assert_eq!(ssl(text).versions, versions, "{text}");
    }
    let usual = ssl("");
    assert_eq!(usual.root, Root::File("/h/.postgresql/root.crt".into()));
    let pair = |cert: &str, key: &str| Some((PathBuf::from(cert), PathBuf::from(key)));
    let (crt, key) = (
        "/h/.postgresql/postgresql.crt",
        "/h/.postgresql/postgresql.key",
    );
    assert_eq!(usual.client, pair(crt, key));
    assert_eq!(ssl("sslkey=/k").client, pair(crt, "/k"));
    assert_eq!(ssl("sslcertmode=disable sslcert=/c sslkey=/k").client, None);
    assert_eq!(ssl("sslrootcert=system").root, Root::System);
    assert!(usual.sni && !ssl("sslsni=0").sni);
}

#[test]
fn messages_hold_no_piece_of_a_password() {
    for text in [
        "user=u password=hunter2 hunter2",
        "password=x hunter2",
        "postgresql://u:hunter2/tail@h/d",
        "postgresql://h/d?password=x&hunter2",
    ] {
        let error = read(text).expect_err(text).to_string();
        assert!(!error.contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn the_string_goes_before_the_service_and_the_service_before_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let service =
        "# note\n[other]\nport=1\n[mine]\nhost = service\nport=2\nuser=su\n[last]\nuser=x\n";
    std::fs::write(home.path().join(".pg_service.conf"), service).unwrap();
    let vars = vars(&[
        ("PGHOST", "env"),
        ("PGPORT", "3"),
        ("PGUSER", "eu"),
        ("PGDATABASE", "ed"),
        ("PGSSLMODE", "disable"),
        ("PGOPTIONS", "-c a=b"),
        ("PGTZ", "UTC"),
    ]);
    let info = read_in("service=mine user=cu", &vars, Some(home.path())).unwrap();
    assert_eq!(places(&info), ["service:2"]);
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("cu", "ed"));
    assert_eq!(info.ssl.mode, SslMode::Disable);
    assert_eq!(
        (info.options.as_deref(), info.time_zone.as_deref()),
        (Some("-c a=b"), Some("UTC"))
    );
    let info = read_in("", &vars, Some(home.path())).unwrap();
    assert_eq!(
        (places(&info), info.user.as_str()),
        (vec!["env:3".to_owned()], "eu")
    );
}

#[test]
fn a_service_is_looked_for_in_the_user_s_file_and_then_in_the_system_s() {
    let dir = tempfile::tempdir().unwrap();
    let system = dir.path().join("system");
    std::fs::create_dir(&system).unwrap();
    let path = |path: PathBuf| path.into_os_string().into_string().unwrap();
    std::fs::write(
        system.join("pg_service.conf"),
        "[far]\nhost=far\n[near]\nhost=no\n",
    )
    .unwrap();
    let own = dir.path().join("own");
    let text = "[near]\nhost=near\nhost=second\n[bad]\nhost=x\nnonsense=1\n[nested]\nservice=near\n\
                [ldap]\nldap://x\n";
    std::fs::write(&own, text).unwrap();
    let (own, system) = (path(own), path(system));
    let found = |service: &str, file: &str| {
        let vars = vars(&[
            ("PGSERVICE", service),
            ("PGSERVICEFILE", file),
            ("PGSYSCONFDIR", &system),
        ]);
        match read_in("user=u", &vars, None) {
            Ok(info) => places(&info).remove(0),
            Err(error) => error.to_string(),
        }
    };
    for (service, expected) in [
        ("near", "near:5432".to_owned()),
        ("far", "far:5432".to_owned()),
        (
            "none",
            "definition of service \"none\" not found".to_owned(),
        ),
        (
            "bad",
            format!("syntax error in service file \"{own}\", line 6"),
        ),
        (
            "nested",
            format!("syntax error in service file \"{own}\", line 8"),
        ),
        (
            "ldap",
            format!("syntax error in service file \"{own}\", line 10"),
        ),
    ] {
        assert_eq!(found(service, &own), expected, "{service}");
    }
    assert_eq!(found("near", "/no/such/file"), "no:5432");
}

#[test]
fn a_user_without_a_name_must_give_one() {
    let around = Surroundings {
        var: &Vars::default(),
        os_user: None,
        home: None,
    };
    let nameless = ConnInfo::read(&Options::default(), &around).unwrap_err();
    assert!(
        nameless
            .to_string()
            .starts_with("could not look up local user ID")
    );
    let named = Options {
        user: Some("u".into()),
        host: Some(String::new()),
        ..Options::default()
    };
    assert_eq!(ConnInfo::read(&named, &around).unwrap().user, "u");
}

fn write_pgpass(home: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let path = home.join(".pgpass");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_first_fitting_line_of_the_password_file_is_used() {
    let home = tempfile::tempdir().unwrap();
    let text = "# note\nh:1:d:u:one\nh:*:d:u:t\\:w\\\\o:rest\n*:*:*:v:three\nlocalhost:*:*:*:sock\n/run/pg:*:*:*:dir\n127.0.0.1:*:*:u:address\n";
    write_pgpass(home.path(), text, 0o600);
    let password = |text: &str| {
        let info = read_in(text, &Vars::default(), Some(home.path())).unwrap();
        info.hosts[0].password.clone().map(|secret| secret.0)
    };
    for (text, expected) in [
        ("host=h port=1 dbname=d user=u", Some("one")),
        ("host=h port=2 dbname=d user=u", Some("t:w\\o")),
        ("host=x port=2 dbname=d user=v", Some("three")),
        ("host=x dbname=d user=u", None),
        // The address counts where there is no name.
        ("host=x hostaddr=127.0.0.1 user=u", None),
        ("hostaddr=127.0.0.1 user=u", Some("address")),
        ("host=/var/run/postgresql user=u", Some("sock")),
        ("host=/run/pg user=u", Some("dir")),
        (
            "host=h port=1 dbname=d user=u password=given",
            Some("given"),
        ),
    ] {
        assert_eq!(password(text).as_deref(), expected, "{text}");
    }
    write_pgpass(home.path(), text, 0o640);
    assert_eq!(
        password("host=h port=1 dbname=d user=u"),
        None,
        "others may read the file"
    );
}

#[test]
fn secrets_are_not_printed() {
    let info = read("host=h password=hunter2 user=u").unwrap();
    assert!(!format!("{info:?}").contains("hunter2"));
}

#[test]
fn time_limits_have_defaults_and_can_be_switched_off() {
    let info = read("host=h").unwrap();
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(10)));
    assert!(info.keepalives.is_some() && info.user_timeout.is_some());
    let info = read("host=h connect_timeout=0 keepalives=0 tcp_user_timeout=0").unwrap();
    assert_eq!(
        (info.connect_timeout, info.keepalives, info.user_timeout),
        (None, None, None)
    );
    let info = read("host=h connect_timeout=1 keepalives_idle=5 tcp_user_timeout=700").unwrap();
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(2)));
    assert_eq!(info.keepalives.unwrap().idle, Duration::from_secs(5));
    assert_eq!(info.user_timeout, Some(Duration::from_millis(700)));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(postgresql://)?\\PC*") {
        let _ = read(&text);
        let _ = read(&format!("{text}="));
    }
}
