//! The order of sources, as tables.

use super::super::testing::Home;
use super::*;

/// Everything at once; each test takes away what comes first.
const CONFIG: &str = "\
[profile all]
role_arn = arn:role
source_profile = base
sso_account_id = 1
sso_role_name = r
sso_region = x
sso_start_url = https://start
credential_process = program
aws_access_key_id = config
aws_secret_access_key = s
[profile base]
aws_access_key_id = base
aws_secret_access_key = s
";
const CREDENTIALS: &str = "\
[all]
aws_access_key_id = credentials
aws_secret_access_key = s
aws_session_token = t
";
const VARIABLES: [(&str, &str); 6] = [
    ("AWS_ACCESS_KEY_ID", "environment"),
    ("AWS_SECRET_ACCESS_KEY", "s"),
    ("AWS_ROLE_ARN", "arn:web"),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/agent"),
    ("AWS_PROFILE", "all"),
];

/// What was found, in a word.
fn short(source: &Source) -> String {
    match source {
        Source::Keys(keys) => format!("keys {}", keys.access_key_id()),
        Source::Role { role, base } => format!("{} by {}", role.arn, short(base)),
        Source::WebIdentity { role, .. } => format!("web {}", role.arn),
        Source::Sso(sso) => format!("sso {}", sso.role),
        Source::Process { command, .. } => format!("process {command}"),
        Source::Container(container) => format!("container {}", container.url),
        Source::Instance(instance) => format!("instance {}", instance.endpoint),
        Source::Nothing => "nothing".into(),
    }
}

fn found(
    config: &str,
    credentials: &str,
    pairs: &[(&str, &str)],
    named: Option<&str>,
) -> Result<String, String> {
    let home = Home::new();
    home.config(config);
    home.credentials(credentials);
    let mut variables = home.variables();
    for (name, value) in pairs {
        variables = variables.and(name, value);
    }
    let profiles = Profiles::load(&variables, named).map_err(|error| error.text)?;
    let source = find(&variables, &profiles, named.is_some());
    source.map(|source| short(&source)).map_err(|e| e.text)
}

/// The text without the lines that begin with one of these words.
fn without(text: &str, words: &[&str]) -> String {
    let kept = text
        .lines()
        .filter(|line| !words.iter().any(|word| line.starts_with(word)));
    kept.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_first_source_that_is_configured_wins() {
    let role = ["role_arn", "source_profile"];
    let sso = ["role_arn", "source_profile", "sso_"];
    let process = ["role_arn", "source_profile", "sso_", "credential_process"];
    let keys = [
        "role_arn",
        "source_profile",
        "sso_",
        "credential_process",
        "aws_",
    ];
    let (no_role, no_sso) = (without(CONFIG, &role), without(CONFIG, &sso));
    let (no_process, no_keys) = (without(CONFIG, &process), without(CONFIG, &keys));
    let nobody = "[all]\n";
    let agent = "container http://169.254.170.2/agent";
    for (config, credentials, first_variable, expected) in [
        (CONFIG, CREDENTIALS, 0, "keys environment"),
        (CONFIG, CREDENTIALS, 2, "arn:role by keys base"),
        (&no_role, CREDENTIALS, 2, "web arn:web"),
        (&no_role, CREDENTIALS, 4, "sso r"),
        (&no_sso, CREDENTIALS, 4, "keys credentials"),
        (&no_sso, nobody, 4, "process program"),
        (&no_process, nobody, 4, "keys config"),
        (&no_keys, nobody, 4, agent),
        (&no_keys, nobody, 5, "nothing"),
    ] {
        let source = found(config, credentials, &VARIABLES[first_variable..], None);
        assert_eq!(source.unwrap(), expected, "{config} {first_variable}");
    }
}

#[test]
fn a_profile_of_the_command_line_switches_the_environment_off() {
    let source = |config, credentials| found(config, credentials, &VARIABLES, Some("all"));
    assert_eq!(
        source(CONFIG, CREDENTIALS).unwrap(),
        "arn:role by keys base"
    );
    // Neither the keys nor the web identity of the environment, but its agent.
    let no_role = without(CONFIG, &["role_arn", "source_profile", "sso_"]);
    assert_eq!(source(&no_role, CREDENTIALS).unwrap(), "keys credentials");
    let agent = "container http://169.254.170.2/agent";
    assert_eq!(source("", "[all]\n").unwrap(), agent);
}

#[test]
fn settings_of_web_identity_may_stand_in_the_profile() {
    let profile = "[default]\nrole_arn = arn:profile\nweb_identity_token_file = /token\n";
    assert_eq!(found(profile, "", &[], None).unwrap(), "web arn:profile");
    let variable = [("AWS_ROLE_ARN", "arn:variable")];
    assert_eq!(
        found(profile, "", &variable, None).unwrap(),
        "web arn:variable"
    );
    let alone = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")];
    let error = found("", "", &alone, None).unwrap_err();
    assert!(
        error.contains("`/token` is configured without a role"),
        "{error}"
    );
}

#[test]
fn a_role_is_assumed_with_what_the_profile_names() {
    let chain = "\
[default]
role_arn = arn:top
source_profile = middle
[profile middle]
role_arn = arn:middle
source_profile = middle
aws_access_key_id = own
aws_secret_access_key = s
[profile web]
role_arn = arn:next
source_profile = token
[profile token]
role_arn = arn:token
web_identity_token_file = /token
[profile environment]
role_arn = arn:env
credential_source = Environment
[profile two]
role_arn = arn:two
source_profile = three
[profile three]
role_arn = arn:three
source_profile = process
[profile process]
credential_process = program
";
    for (profile, expected) in [
        // Keys of a source come before its role.
        ("default", "arn:top by keys own"),
        ("middle", "arn:middle by keys own"),
        ("web", "arn:next by web arn:token"),
        ("environment", "arn:env by keys environment"),
        ("two", "arn:two by arn:three by process program"),
    ] {
        let source = found(chain, "", &VARIABLES[..2], Some(profile));
        assert_eq!(source.unwrap(), expected, "{profile}");
    }
}

#[test]
fn what_is_configured_in_part_is_told_and_not_passed_over() {
    let arn = "role_arn = arn:x\n";
    for (profile, expected) in [
        (
            "role_arn = arn:x\n",
            "`role_arn` without `source_profile` or",
        ),
        (
            &format!("{arn}source_profile = x\n"),
            "`x` as `source_profile`, which does not exist",
        ),
        (
            &format!("{arn}source_profile = default\n"),
            "`default` as `source_profile`, which leads back to itself",
        ),
        (
            &format!("{arn}source_profile = empty\n[profile empty]\nregion=x\n"),
            "`empty` as `source_profile`, which has no credentials",
        ),
        (
            &format!("{arn}source_profile = a\ncredential_source = b\n"),
            "has both `source_profile` and `credential_source`",
        ),
        (
            &format!("{arn}credential_source = b\n"),
            "Environment, EcsContainer and",
        ),
        (
            &format!("{arn}credential_source = Environment\n"),
            "`credential_source = Environment`, and there are no credentials",
        ),
        (
            &format!("{arn}mfa_serial = x\n"),
            "wants a code of the device",
        ),
        (
            "sso_account_id = 1\n",
            "uses single sign-on without `sso_role_name`",
        ),
        (
            "sso_role_name = r\nsso_session = s\n",
            "the single sign-on session `s`",
        ),
        (
            "aws_access_key_id = hush\n",
            "and no `aws_secret_access_key`",
        ),
        ("login_session = arn:x\n", "login of the console"),
    ] {
        let error = found(&format!("[default]\n{profile}"), "", &[], None).unwrap_err();
        assert!(error.contains(expected), "{profile}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
    let half = found("", "", &VARIABLES[..1], None).unwrap_err();
    assert!(half.contains("AWS_SECRET_ACCESS_KEY is not"), "{half}");
}

#[test]
fn a_session_of_single_sign_on_is_a_section_of_its_own() {
    let file = "\
[default]
sso_account_id = 1
sso_role_name = r
sso_session = s
[sso-session s]
sso_region = eu
sso_start_url = https://start
";
    assert_eq!(found(file, "", &[], None).unwrap(), "sso r");
    // One that is for tokens alone has no credentials.
    let tokens = file.replace("sso_account_id = 1\nsso_role_name = r\n", "");
    assert_eq!(found(&tokens, "", &[], None).unwrap(), "nothing");
}

#[test]
fn the_old_files_are_still_read() {
    let home = Home::new();
    let keys = home.write("keys", "AWSAccessKeyId=old\nAWSSecretKey = s\n");
    let boto = "[Credentials]\naws_access_key_id = boto\naws_secret_access_key = s\n";
    let boto = home.write("boto", boto);
    let pairs = [("AWS_CREDENTIAL_FILE", &*keys), ("BOTO_CONFIG", &*boto)];
    assert_eq!(found("", "", &pairs, None).unwrap(), "keys old");
    assert_eq!(found("", "", &pairs[1..], None).unwrap(), "keys boto");
}

#[test]
fn the_instance_comes_last_and_is_asked_as_told() {
    let home = Home::new();
    let ask = |pairs: &[(&str, &str)]| {
        let mut variables = home.variables().and("AWS_EC2_METADATA_DISABLED", "");
        for (name, value) in pairs {
            variables = variables.and(name, value);
        }
        let profiles = Profiles::load(&variables, None).unwrap();
        match find(&variables, &profiles, false).unwrap() {
            Source::Instance(instance) => Some(instance),
            _ => None,
        }
    };
    let usual = Instance {
        endpoint: "http://169.254.169.254".into(),
        timeout: Duration::from_secs(1),
        attempts: 1,
        without_token: true,
    };
    assert_eq!(ask(&[]), Some(usual.clone()));
    assert_eq!(ask(&[("AWS_EC2_METADATA_DISABLED", "TRUE")]), None);
    let told = ask(&[
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1/"),
        ("AWS_METADATA_SERVICE_TIMEOUT", "2.5"),
        ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "3"),
        ("AWS_EC2_METADATA_V1_DISABLED", "true"),
    ]);
    let expected = Instance {
        endpoint: "http://127.0.0.1:1".into(),
        timeout: Duration::from_millis(2500),
        attempts: 3,
        without_token: false,
    };
    assert_eq!(told, Some(expected));
    let v6 = ask(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")]).unwrap();
    assert_eq!(v6.endpoint, "http://[fd00:ec2::254]");
    for nonsense in ["0", "-1", "x", "inf", "NaN"] {
        let told = ask(&[
            ("AWS_METADATA_SERVICE_TIMEOUT", nonsense),
            ("AWS_METADATA_SERVICE_NUM_ATTEMPTS", nonsense),
        ]);
        assert_eq!(told, Some(usual.clone()), "{nonsense}");
    }
}

#[test]
fn no_secret_is_shown() {
    let home = Home::new();
    let variables = home
        .variables()
        .and("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://localhost/x")
        .and("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hush");
    let profiles = Profiles::load(&variables, None).unwrap();
    let container = find(&variables, &profiles, false).unwrap();
    home.credentials("[default]\naws_access_key_id=a\naws_secret_access_key=hush\n");
    let profiles = Profiles::load(&variables, None).unwrap();
    let keys = find(&variables, &profiles, false).unwrap();
    let shown = format!("{container:?} {keys:?} {profiles:?} {variables:?}");
    assert!(!shown.contains("hush"), "{shown}");
}
