//! What to do next, told below an error: the hints that follow from a failure itself, of
//! the store, of the server or of the disk. An operation that knows more says it by
//! [`OpError::with_hint`](super::OpError::with_hint).
//!
//! `docs/mistakes.md` lists what they answer to; tests provoke each.

use std::error::Error;
use std::io;

use crate::store::{StoreError, StoreErrorKind as Kind, StoreOp};

/// Kinds of store, as far as users see different things to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Directory,
    S3,
    Google,
    Azure,
}

impl Place {
    /// By its name in messages.
    fn of(location: &str) -> Self {
        match location.split_once("://").map(|(scheme, _)| scheme) {
            Some("s3") => Self::S3,
            Some("gs") => Self::Google,
            Some("http" | "https") => Self::Azure,
            _ => Self::Directory,
        }
    }
}

/// What to do about a failure of the store.
pub(super) fn of_store(error: &StoreError) -> Option<String> {
    let place = Place::of(&error.location);
    let why = error.source.to_string();
    of_answer(error.code(), &why)
        .map(str::to_owned)
        .or_else(|| of_kind(error, place, &why))
}

/// By what the store or the SDK said.
fn of_answer(code: &str, why: &str) -> Option<&'static str> {
    Some(match code {
        "InvalidAccessKeyId" => {
            "this store does not know the access key: check AWS_ACCESS_KEY_ID or the profile, and \
             whether --endpoint-url names the store that it is of"
        }
        "SignatureDoesNotMatch" => {
            "the secret key is not that of the access key: check AWS_SECRET_ACCESS_KEY or the \
             profile for a value that is wrong or cut"
        }
        "ExpiredToken" | "TokenRefreshRequired" | "InvalidToken" => {
            "get new temporary credentials; the session token and the two keys belong together"
        }
        "RequestTimeTooSkewed" => "set the clock of this machine, best by NTP",
        "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "PermanentRedirect" => {
            "name the region of the bucket by AWS_DEFAULT_REGION, or by `region` of the profile"
        }
        _ if code.starts_with("KMS.") || why.contains("kms:") => {
            "the key of --sse-kms-key-id must be enabled, of the bucket's region, and allow these \
             credentials kms:GenerateDataKey and kms:Decrypt"
        }
        _ if why.contains("The config profile (") => {
            "profiles are in ~/.aws/config and ~/.aws/credentials of the user that runs this tool, \
             or in the files that AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name"
        }
        _ if why.contains("cannot keep tags") => "leave --tags and --tag away for this store",
        _ if why.starts_with("Invalid endpoint") => {
            "write the scheme before the host: https:// or http://"
        }
        _ if why.starts_with("could not use the credentials") => {
            "GOOGLE_APPLICATION_CREDENTIALS names a JSON file of credentials, which the user that \
             runs this tool can read"
        }
        _ if why.starts_with("Unable to locate credentials") => {
            "PostgreSQL runs its commands with its own environment and home directory: what a \
             shell has set is not known there"
        }
        _ => return None,
    })
}

fn of_kind(error: &StoreError, place: Place, why: &str) -> Option<String> {
    match error.kind {
        Kind::BucketMissing => Some(bucket_missing(&error.location).to_owned()),
        Kind::Unauthenticated if error.request().is_some() || !error.code().is_empty() => {
            Some(credentials(place).to_owned())
        }
        Kind::PermissionDenied => Some(permission(error.op, place)),
        Kind::Connect | Kind::Timeout => of_way(why).map(str::to_owned),
        Kind::Untrusted => Some(
            "if the certificate is the store's own, put that of its authority into a file and \
             name it there"
                .to_owned(),
        ),
        Kind::Full => Some("make room there, or have the quota raised".to_owned()),
        _ => None,
    }
}

/// What to do about a bucket that is not there, by its name in messages.
pub fn bucket_missing(location: &str) -> &'static str {
    match Place::of(location) {
        Place::Directory => "make the directory, or mount the file system that it is on",
        Place::S3 | Place::Google | Place::Azure => {
            "check its name in the URL; barman-cloud-check-wal-archive makes one that is not there"
        }
    }
}

fn credentials(place: Place) -> &'static str {
    match place {
        Place::Azure => {
            "AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN and AZURE_STORAGE_CONNECTION_STRING are \
             each of one account: check whether it is that of the URL"
        }
        Place::Google => {
            "check the file that GOOGLE_APPLICATION_CREDENTIALS names, or log in anew with `gcloud \
             auth application-default login`"
        }
        Place::S3 | Place::Directory => {
            "check both keys, and whether --endpoint-url names the store that they are of"
        }
    }
}

/// The permission that is missing, in the words of who has to give it.
fn permission(op: StoreOp, place: Place) -> String {
    let (s3, google, azure) = match op {
        StoreOp::Probe | StoreOp::List => ("s3:ListBucket", "storage.objects.list", "l"),
        StoreOp::ListUploads => (
            "s3:ListBucketMultipartUploads",
            "storage.multipartUploads.list",
            "l",
        ),
        StoreOp::Get | StoreOp::Head => ("s3:GetObject", "storage.objects.get", "r"),
        StoreOp::Put | StoreOp::BeginMultipart | StoreOp::PutPart | StoreOp::Complete => {
            ("s3:PutObject", "storage.objects.create", "w")
        }
        StoreOp::Abort => (
            "s3:AbortMultipartUpload",
            "storage.multipartUploads.abort",
            "w",
        ),
        StoreOp::Delete => ("s3:DeleteObject", "storage.objects.delete", "d"),
        StoreOp::CreateBucket => ("s3:CreateBucket", "storage.buckets.create", "w"),
    };
    match place {
        Place::Directory => {
            "it has to belong to the user that runs this tool: for archive_command \
                             that is the one PostgreSQL runs as"
                .to_owned()
        }
        Place::S3 => format!("allow these credentials {s3} (docs/permissions.md)"),
        Place::Google => format!("allow these credentials {google} (docs/permissions.md)"),
        Place::Azure => format!(
            "a signature needs the letter `{azure}` for it, an identity a role such as Storage \
             Blob Data Contributor (docs/permissions.md)"
        ),
    }
}

/// What is wrong on the way to the store, if the system's words tell.
fn of_way(why: &str) -> Option<&'static str> {
    [
        (
            "the proxy `",
            "HTTPS_PROXY and HTTP_PROXY name the proxy, NO_PROXY the hosts to reach without it",
        ),
        (
            "failed to lookup address",
            "there is no host of that name: check the endpoint, or the account in the URL, and \
             the resolver of this machine",
        ),
        (
            "InvalidContentType",
            "the other side does not speak TLS: check the port, or whether the endpoint is http://",
        ),
        (
            "Connection refused",
            "nothing listens there: check host and port of the endpoint",
        ),
    ]
    .into_iter()
    .find_map(|(words, hint)| why.contains(words).then_some(hint))
}

/// What to do about a server that lets nobody in, or is not there. One that speaks another
/// language than English gets no hint.
pub(super) fn of_connection(words: &str) -> Option<&'static str> {
    said(
        words,
        &[
            (
                &["no password supplied"],
                "put the password into ~/.pgpass of the user that runs this tool, or into \
                 PGPASSWORD",
            ),
            (
                &["password authentication failed"],
                "check the role (--user, PGUSER) and its password (~/.pgpass, PGPASSWORD)",
            ),
            (
                &["Peer authentication failed"],
                "run this tool as the user of the system that is called like the role, or map it \
                 in pg_ident.conf",
            ),
            (
                &["no pg_hba.conf entry"],
                "add a line for this host, role and database to pg_hba.conf and reload the server",
            ),
            (
                &["role \"", "does not exist"],
                "name a role that exists with --user or PGUSER",
            ),
            (
                &["database \"", "does not exist"],
                "name a database that exists with --dbname; `postgres` usually does",
            ),
            (
                &["starting up"],
                "wait until the server accepts connections",
            ),
            (
                &["too many clients"],
                "let another session end first, or raise max_connections",
            ),
            (
                &["remaining connection slots"],
                "let another session end first, or raise max_connections",
            ),
            (
                &["Connection refused"],
                "start the server, or name it with --host and --port (PGHOST, PGPORT)",
            ),
            (
                &["No such file or directory"],
                "start the server, or name the directory of its socket with --host (PGHOST) and \
                 its port with --port (PGPORT)",
            ),
            (
                &["Name or service not known"],
                "there is no host of that name: check --host or PGHOST",
            ),
        ],
    )
}

/// What to do about a backup that the server did not begin or end.
pub(super) fn of_backup_mode(words: &str) -> Option<&'static str> {
    said(
        words,
        &[
            (
                &["did not end the backup within"],
                "look at archive_command, and at pg_stat_archiver for what it last archived",
            ),
            (
                &["WAL level not sufficient"],
                "set wal_level = replica and restart the server",
            ),
        ],
    )
}

/// The hint of the first known words that are all among `words`.
fn said(words: &str, known: &[(&[&str], &'static str)]) -> Option<&'static str> {
    let told = |all: &[&str]| all.iter().all(|known| words.contains(known));
    known
        .iter()
        .find(|(all, _)| told(all))
        .map(|(_, hint)| *hint)
}

/// What to do about files that could not be written, for want of room or permission.
pub(super) fn of_disk(error: &(dyn Error + 'static), resumes: bool) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        match kind {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                return Some(if resumes {
                    "make room there, then run the same command again with --resume"
                } else {
                    "make room there, then run the same command again"
                });
            }
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                return Some("the user that runs this tool must be allowed to write there");
            }
            _ => cause = error.source(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(location: &str, op: StoreOp, kind: Kind, why: &str) -> StoreError {
        StoreError {
            kind,
            op,
            what: "k".into(),
            location: location.into(),
            attempts: 1,
            source: why.into(),
        }
    }

    #[test]
    fn a_missing_permission_is_named_as_its_store_calls_it() {
        let hint = |location, op| {
            of_store(&error(location, op, Kind::PermissionDenied, "no")).unwrap_or_default()
        };
        for (location, op, told) in [
            ("s3://b", StoreOp::Complete, "s3:PutObject"),
            ("gs://b", StoreOp::Delete, "storage.objects.delete"),
            ("https://a/c", StoreOp::List, "the letter `l`"),
            ("file:///b", StoreOp::Put, "belong to the user"),
        ] {
            let hint = hint(location, op);
            assert!(hint.contains(told), "{hint}");
        }
    }

    /// A store that is busy, or an object that is not there, is nobody's mistake.
    #[test]
    fn where_nothing_is_known_nothing_is_said() {
        for kind in [Kind::ServerFault, Kind::NotFound, Kind::Corrupt] {
            let hint = of_store(&error("s3://b", StoreOp::Get, kind, "odd"));
            assert_eq!(hint, None, "{kind:?}");
        }
        let lost = error("s3://b", StoreOp::Get, Kind::Connect, "connection reset");
        assert_eq!(of_store(&lost), None);
        assert_eq!(of_connection("FEHLER:  nein"), None);
    }

    #[test]
    fn the_reason_is_found_however_deep_it_is() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not write")]
        struct Wrapped(#[source] io::Error);
        let full = Wrapped(io::ErrorKind::StorageFull.into());
        assert!(of_disk(&full, true).unwrap().contains("--resume"));
        let again = of_disk(&full, false).unwrap();
        assert!(again.ends_with("the same command again"), "{again}");
        let odd = Wrapped(io::ErrorKind::BrokenPipe.into());
        assert_eq!(of_disk(&odd, true), None);
    }
}
