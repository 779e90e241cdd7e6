//! The commands of the pages for the clouds' own programs, which make buckets, users and roles:
//! they are run by these programs, before servers that say what they were asked.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::{Bucket, HttpServer, PgBin, Place, S3Server, Workspace, project};
use serde_json::{Value, json};

use crate::readme::Section;

/// Runs a block of commands in the workspace, and gives what it printed.
fn run(workspace: &Workspace, environment: &[(&str, String)], commands: &str) -> String {
    let mut shell = Command::new("sh");
    shell
        .args(["-e", "-c", commands])
        .current_dir(workspace.path("."))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(environment.iter().map(|(name, value)| (name, value)));
    let output = shell.output().expect("a shell starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{commands}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The block of a page that begins with these words.
fn block(page: &str, kind: &str, begin: &str) -> String {
    let blocks = Section::of_page(page).whole_blocks(kind);
    let mut found = blocks.into_iter().filter(|block| block.starts_with(begin));
    let block = found.next();
    assert_eq!(found.next(), None, "{page}: {begin} is there twice");
    block.unwrap_or_else(|| panic!("{page}: no block begins with {begin}"))
}

/// A section of the page about permissions.
fn permissions(of: &str) -> String {
    let text = fs::read_to_string(project().join("docs/permissions.md")).unwrap();
    let heading = format!("\n## {of}\n");
    let (_, rest) = text.split_once(&heading).expect(&heading);
    rest.split("\n## ").next().unwrap_or(rest).to_owned()
}

/// What the command line of AWS takes from its environment; it is beside the Python that
/// looks into buckets.
fn of_aws(bucket: &Bucket<'_>) -> Vec<(&'static str, String)> {
    let python = std::env::var("TEST_S3_PYTHON").expect("the bucket was made with it");
    let programs = Path::new(&python).parent().unwrap().display();
    let mut environment = bucket.environment();
    environment.push(("PATH", format!("{programs}:/usr/bin:/bin")));
    environment.push(("AWS_ENDPOINT_URL", bucket.endpoint().to_owned()));
    environment.push(("AWS_DEFAULT_OUTPUT", "json".to_owned()));
    environment
}

#[test]
fn those_for_s3_make_a_bucket_and_a_user_with_the_policy() {
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let environment = of_aws(&bucket);
    let section = permissions("S3");
    let (_, policy) = section.split_once("```json\n").expect("a policy");
    let policy = policy.split("```").next().unwrap();
    workspace.file("policy.json", policy);
    // Other tests have the same server.
    let user = format!("{}-user", bucket.name());
    let made = format!("{}-made", bucket.name());
    let own = |text: &str| {
        let text = text.replace("postgres-main", &user);
        text.replace("my-backups", &made)
    };
    let commands = block("start-s3.md", "text", "aws ");
    assert_eq!(commands.lines().count(), 3, "{commands}");
    run(&workspace, &environment, &own(&commands));

    let looked = own("aws s3api head-bucket --bucket my-backups >&2; \
         aws iam get-user-policy --user-name postgres-main --policy-name backups");
    let answer = run(&workspace, &environment, &looked);
    let answer: Value = serde_json::from_str(&answer).expect("the answer is JSON");
    let policy: Value = serde_json::from_str(policy).expect("the policy is JSON");
    assert_eq!(answer["PolicyDocument"], policy);
    let cleared = own("aws s3api delete-bucket --bucket my-backups; \
         aws iam delete-user-policy --user-name postgres-main --policy-name backups; \
         aws iam delete-user --user-name postgres-main");
    run(&workspace, &environment, &cleared);
}

/// The page about the bucket: an archive is an ordinary tar, and how it ends.
#[test]
fn that_for_an_archive_lists_its_files() {
    let Some(bin) = PgBin::find() else { return };
    let workspace = Workspace::new();
    let Some(bucket) = S3Server::Moto.bucket(&workspace) else {
        return;
    };
    let place = Place::in_bucket(&workspace, &bucket, "pg");
    let mut primary = place.primary(&bin, "");
    primary.start();
    place.backup(&primary, "postgres").arg("--gzip").succeed();
    let keys = bucket.keys("pg/main/base/");
    let id = keys[0].split('/').nth(3).expect("a backup's folder");
    let command = block("bucket.md", "text", "aws ");
    let command = command.replace("20261121T033000", id);
    let command = command.replace("my-backups", bucket.name());
    let printed = run(&workspace, &of_aws(&bucket), &command);
    let names: Vec<&str> = printed.lines().collect();
    assert!(names.contains(&"./PG_VERSION"), "{printed}");
    let page = fs::read_to_string(project().join("docs/bucket.md")).unwrap();
    let (_, said) = page.split_once("The last three files").expect("said");
    let said = said.split("in this order").next().unwrap();
    let said = said
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| *word != "data");
    let said: Vec<&str> = said.collect();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(names.ends_with(&said), "{printed}: {said:?}");
}

/// What Google is asked by the commands of a block, as method, path and body.
fn asked_of_google(workspace: &Workspace, commands: &str) -> Vec<(String, Value)> {
    // Bodies come back as they went; a bucket has no rights yet.
    let server = HttpServer::answering(|request| {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let nothing = json!({ "bindings": [], "etag": "CAE=" });
        match (request.method.as_str(), body.is_empty()) {
            ("GET", _) => (200, nothing.to_string()),
            (_, true) => (200, "{}".to_owned()),
            _ => (200, body),
        }
    });
    workspace.file("token", "a-token\n");
    let path = |name: &str| workspace.path(name).display().to_string();
    let environment = [
        ("HOME", path("home")),
        ("CLOUDSDK_CONFIG", path("gcloud")),
        ("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", path("token")),
        ("CLOUDSDK_CORE_PROJECT", "my-project".to_owned()),
        ("CLOUDSDK_CORE_DISABLE_PROMPTS", "1".to_owned()),
        ("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true".to_owned()),
        (
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK",
            "true".to_owned(),
        ),
        (
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAM",
            format!("{}/", server.url()),
        ),
        (
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE",
            format!("{}/storage/v1/", server.url()),
        ),
    ];
    run(workspace, &environment, commands);
    let changes = server.seen().into_iter().filter(|request| {
        request.method != "GET" && !request.target.contains("queryTestablePermissions")
    });
    changes
        .map(|request| {
            let path = request.target.split('?').next().unwrap();
            let body = serde_json::from_slice(&request.body).expect("the body is JSON");
            (format!("{} {path}", request.method), body)
        })
        .collect()
}

/// Google's own program; where it is missing the test says so. It is in no registry but
/// Google's, so that continuous integration cannot do more than take it where it is.
#[expect(clippy::print_stderr, reason = "a skipped test says what would run it")]
fn gcloud_is_there() -> bool {
    let there = Path::new("/usr/bin/gcloud").exists();
    if !there {
        eprintln!("not run, but compared: install Google's package google-cloud-cli");
    }
    there
}

#[test]
fn those_for_google_make_a_bucket_and_an_account_with_its_role() {
    let commands = block("start-gcs.md", "text", "gcloud ");
    assert!(permissions("Google Cloud Storage").contains("`roles/storage.objectUser`"));
    assert!(commands.contains("--role roles/storage.objectUser"));
    if !gcloud_is_there() {
        return;
    }
    let asked = asked_of_google(&Workspace::new(), &commands);
    let [bucket, account, binding] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(bucket.0, "POST /storage/v1/b");
    assert_eq!(bucket.1["name"], "my-backups");
    let alike = &bucket.1["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"];
    assert_eq!(*alike, true);
    assert_eq!(account.0, "POST /v1/projects/my-project/serviceAccounts");
    assert_eq!(account.1["accountId"], "postgres-main");
    assert_eq!(binding.0, "PUT /storage/v1/b/my-backups/iam");
    let expected = json!([{
        "role": "roles/storage.objectUser",
        "members": ["serviceAccount:postgres-main@my-project.iam.gserviceaccount.com"],
    }]);
    assert_eq!(binding.1["bindings"], expected);
}

#[test]
fn those_for_google_make_a_role_that_archives_and_does_no_more() {
    let section = permissions("Google Cloud Storage");
    let row = section
        .lines()
        .find(|line| line.starts_with("| `wal-archive` |"));
    let words = row
        .expect("a row about archiving")
        .split('`')
        .skip(1)
        .step_by(2);
    let words: Vec<&str> = words.filter(|word| word.starts_with("storage.")).collect();
    let commands = block("permissions.md", "sh", "gcloud ");
    assert!(
        commands.contains(&format!("--permissions {}\n", words.join(","))),
        "{commands}: {words:?}"
    );
    if !gcloud_is_there() {
        return;
    }
    let asked = asked_of_google(&Workspace::new(), &commands);
    let [role, binding] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(role.0, "POST /v1/projects/my-project/roles");
    assert_eq!(role.1["role"]["includedPermissions"], json!(words));
    assert_eq!(binding.0, "PUT /storage/v1/b/my-backups/iam");
    let name = role.1["roleId"].as_str().unwrap();
    let expected = json!([{
        "role": format!("projects/my-project/roles/{name}"),
        "members": ["serviceAccount:db@my-project.iam.gserviceaccount.com"],
    }]);
    assert_eq!(binding.1["bindings"], expected);
}

/// Azure's own program is too large a thing to install for three lines: they are compared with
/// what the rest of the page, and the one about permissions, names.
#[test]
fn those_for_azure_name_what_the_page_uses() {
    let commands = block("start-azure.md", "text", "az ");
    let lines: Vec<Vec<&str>> = commands
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let value = |line: usize, option: &str| {
        let at = lines[line].iter().position(|word| *word == option);
        lines[line][at.expect(option) + 1]
    };
    assert_eq!(lines.len(), 3, "{commands}");
    assert_eq!(lines[0][1..4], ["storage", "account", "create"]);
    assert_eq!(lines[1][1..4], ["storage", "container", "create"]);
    assert_eq!(lines[2][1..4], ["role", "assignment", "create"]);
    assert_eq!(value(1, "--account-name"), value(0, "--name"));
    let url = format!(
        "https://{}.blob.core.windows.net/{}/",
        value(0, "--name"),
        value(1, "--name")
    );
    for command in Section::of_page("start-azure.md").blocks("sh") {
        assert!(command.contains(&url), "{command}: {url}");
    }
    let role = commands.split('"').nth(1).expect("a role in quotes");
    assert!(permissions("Azure Blob Storage").contains(&format!("*{role}*")));
}
