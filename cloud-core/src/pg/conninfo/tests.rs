use std::collections::HashMap;

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
        os_user: "osuser".into(),
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
        os_user: String::new(),
        home: None,
    };
    let info = ConnInfo::read(&options, &around).unwrap();
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("a b\\", "d e"));
    assert_eq!(places(&info), ["h'x:5"]);
    let alone = Options {
        dbname: Some("dbname=x host=y".into()),
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
        ("host", None),
        ("host=h x", Some("missing \"=\" after \"x\"")),
        ("host='h", Some("unterminated quoted string")),
        ("nonsense=1", Some("invalid connection option \"nonsense\"")),
        ("port=x host=h", Some("invalid port value: \"x\"")),
        ("port=0 host=h", Some("invalid port value")),
        ("port=70000 host=h", Some("invalid port value")),
        ("host=a,b port=1,2,3", Some("different lengths")),
        (
            "sslmode=maybe host=h",
            Some("invalid sslmode value: \"maybe\""),
        ),
        (
            "gssencmode=require host=h",
            Some("gssencmode=require is not supported"),
        ),
        ("sslcrl=x host=h", Some("sslcrl is not supported")),
        (
            "requirepeer=root host=h",
            Some("requirepeer is not supported"),
        ),
        (
            "require_auth=scram-sha-256 host=h",
            Some("require_auth is not supported"),
        ),
        ("hostaddr=h", Some("invalid hostaddr value")),
        (
            "connect_timeout=x host=h",
            Some("invalid connect_timeout value"),
        ),
        ("sslrootcert=system sslmode=require host=h", None),
        (
            "sslrootcert=system sslmode=prefer host=h",
            Some("weak sslmode"),
        ),
        ("sslmode=verify-full host=h", Some("root certificate file")),
        ("postgresql://[::1/d", Some("closing bracket")),
        ("postgresql://h/%zz", Some("percent-encoded")),
        ("postgresql://h/d?x", Some("separator")),
        (
            "postgresql://h/d?x=1",
            Some("invalid connection option \"x\""),
        ),
        (
            "service=nope host=h",
            Some("definition of service \"nope\" not found"),
        ),
    ] {
        let result = read(text);
        match message {
            None => assert!(result.is_ok(), "{text}: {result:?}"),
            Some(message) => {
                let error = result.expect_err(text).to_string();
                assert!(error.contains(message), "{text}: {error}");
            }
        }
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

fn write_pgpass(home: &Path, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let path = home.join(".pgpass");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_first_fitting_line_of_the_password_file_is_used() {
    let home = tempfile::tempdir().unwrap();
    let text = "# note\nh:1:d:u:one\nh:*:d:u:t\\:w\\\\o:rest\n*:*:*:v:three\nlocalhost:*:*:*:sock\n/run/pg:*:*:*:dir\n";
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
