//! Mistakes in credentials and permissions: stores that answer as the real ones do.

use e2e::{HttpAnswer, HttpServer, Run, Workspace};

use super::Table;
use super::command_line::segment;

pub(super) const SECTION: &str = "Credentials and permissions";

/// A store that answers everything so.
fn refusing(status: u16, body: String, header: Option<(&'static str, &'static str)>) -> HttpServer {
    // Nobody is asked there.
    HttpServer::watched("http://127.0.0.1:9", move |_| {
        let answer = HttpAnswer::new(status, body.clone());
        Some(match header {
            Some((name, value)) => answer.with(name, value),
            None => answer,
        })
    })
}

/// What S3 answers with a code: the mistake, the status, the code, the message.
const S3: [(&str, u16, &str, &str); 8] = [
    (
        "an access key that the store does not know",
        403,
        "InvalidAccessKeyId",
        "The AWS Access Key Id you provided does not exist in our records.",
    ),
    (
        "a wrong secret key",
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided.",
    ),
    (
        "credentials whose time is over",
        400,
        "ExpiredToken",
        "The provided token has expired.",
    ),
    (
        "a session token of other keys",
        400,
        "InvalidToken",
        "The provided token is malformed or otherwise invalid.",
    ),
    (
        "a clock that is wrong",
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    ),
    (
        "the region of another bucket",
        400,
        "AuthorizationHeaderMalformed",
        "The authorization header is malformed; the region is wrong.",
    ),
    (
        "a bucket that is not there",
        404,
        "NoSuchBucket",
        "The specified bucket does not exist",
    ),
    (
        "no permission to list",
        403,
        "AccessDenied",
        "Access Denied",
    ),
];

fn error_of_s3(code: &str, message: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>")
}

#[test]
fn mistakes_in_credentials_and_permissions() {
    let workspace = Workspace::new();
    let mut table = Table::new(&workspace, SECTION);
    let list = "barman-cloud-backup-list";
    let of_bucket = ["s3://b", "main"];
    for (mistake, status, code, message) in S3 {
        let server = refusing(status, error_of_s3(code, message), None);
        let run = server.tool(&workspace, list).args(of_bucket).run();
        table.row(mistake, "backup-list", &run);
    }
    let denied = || refusing(403, error_of_s3("AccessDenied", "Access Denied"), None);
    let show = denied().tool(&workspace, "barman-cloud-backup-show");
    let run = show.args(of_bucket).arg("20261121T120000").run();
    table.row("no permission to read", "backup-show", &run);

    let segment = segment(&workspace);
    let archive = |server: &HttpServer, options: &[&str]| {
        let tool = server.tool(&workspace, "barman-cloud-wal-archive");
        tool.args(options).args(of_bucket).arg(&segment).run()
    };
    table.row(
        "no permission to write",
        "wal-archive",
        &archive(&denied(), &[]),
    );
    let message = "User: arn:aws:iam::1:user/someone is not authorized to perform: \
                   kms:GenerateDataKey on this resource";
    let server = refusing(403, error_of_s3("AccessDenied", message), None);
    let options = ["-e", "aws:kms", "--sse-kms-key-id", "other"];
    let run = archive(&server, &options);
    table.row("no permission to use the key", "wal-archive", &run);
    let full = error_of_s3("QuotaExceeded", "The quota of the bucket is used up");
    let run = archive(&refusing(403, full, None), &[]);
    table.row("a quota that is used up", "wal-archive", &run);

    let alone = |options: &[&str]| {
        let tool = workspace
            .tool(list)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        tool.args(options).args(of_bucket).run()
    };
    let run = alone(&[]);
    table.row(
        "no credentials, or those of another user",
        "backup-list",
        &run,
    );
    let run = alone(&["--aws-profile", "backups"]);
    table.row("a profile that is not there", "backup-list", &run);
    on_azure(&workspace, &mut table);
    on_google(&workspace, &mut table);
    table.check();
}

fn on_azure(workspace: &Workspace, table: &mut Table<'_>) {
    for (mistake, status, code) in [
        (
            "the key of another Azure account",
            403,
            "AuthenticationFailed",
        ),
        ("a container that is not there", 404, "ContainerNotFound"),
        (
            "no permission to list, on Azure",
            403,
            "AuthorizationPermissionMismatch",
        ),
    ] {
        let body = error_of_s3(code, "It is so.");
        let server = refusing(status, body, Some(("x-ms-error-code", code)));
        let connection = format!(
            "AccountName=acc;AccountKey=aHVzaC1odXNoLWh1c2g=;BlobEndpoint={}/acc",
            server.url()
        );
        let run = workspace
            .tool("barman-cloud-backup-list")
            .env("AZURE_STORAGE_CONNECTION_STRING", connection)
            .args(["--cloud-provider", "azure-blob-storage"])
            .args([&format!("{}/acc/c", server.url()), "main"])
            .run();
        table.row(mistake, "backup-list", &run);
    }
}

fn on_google(workspace: &Workspace, table: &mut Table<'_>) {
    let list = |variable: &str, value: &str| -> Run {
        workspace
            .tool("barman-cloud-backup-list")
            .env(variable, value)
            .args(["--cloud-provider", "google-cloud-storage", "gs://b", "main"])
            .run()
    };
    for (mistake, status, reason, message) in [
        (
            "a bucket of Google's that is not there",
            404,
            "notFound",
            "The specified bucket does not exist.",
        ),
        (
            "no permission to list, on Google Cloud Storage",
            403,
            "forbidden",
            "a@b does not have storage.objects.list access",
        ),
        (
            "a token that Google does not take",
            401,
            "authError",
            "Invalid Credentials",
        ),
    ] {
        let error = format!("{{\"reason\": \"{reason}\", \"message\": \"{message}\"}}");
        let body = format!("{{\"error\": {{\"message\": \"{message}\", \"errors\": [{error}]}}}}");
        let server = refusing(status, body, Some(("content-type", "application/json")));
        table.row(
            mistake,
            "backup-list",
            &list("STORAGE_EMULATOR_HOST", &server.url()),
        );
    }
    let run = list("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json");
    table.row(
        "a file of credentials that is not there",
        "backup-list",
        &run,
    );
}
