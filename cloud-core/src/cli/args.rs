//! Groups of options that several tools share, so that help, defaults and
//! order agree everywhere.
//!
//! The comment of a field is its help text.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};

use super::argparse::{self, BareLine};
use super::logging::Form;
use super::progress::Progress;
use super::{tags, values};
use crate::codec::{self, Codec};
use crate::store::{Provider, StoreConfig, Tag};

/// Headings of the help.
const S3: &str = "Amazon S3 and compatible stores";
const AZURE: &str = "Azure Blob Storage";
const GOOGLE: &str = "Google Cloud Storage";

/// What every tool accepts.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Print name and version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    /// Print this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// Say more; -vv says even more
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Say less; -qq says nothing
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,

    /// Only find out whether the store can be reached
    #[arg(short, long)]
    pub test: bool,

    /// How messages stand on standard error: lines of text, or JSON, an object a line
    #[arg(
        long,
        value_name = "FORM",
        default_value = "text",
        value_parser = PossibleValuesParser::new(["text", "json"]),
        help_heading = argparse::OURS
    )]
    log_format: String,

    /// Which cloud the URL is of; not needed for file:///path
    #[arg(
        long,
        default_value = "aws-s3",
        value_parser = PossibleValuesParser::new(["aws-s3", "azure-blob-storage", "google-cloud-storage"])
    )]
    cloud_provider: String,

    /// URL of the service, where it is not Amazon's own
    #[arg(long, help_heading = S3)]
    endpoint_url: Option<String>,

    /// Profile of the AWS configuration and credentials files
    #[arg(short = 'P', long, visible_alias = "profile", help_heading = S3)]
    aws_profile: Option<String>,

    /// Seconds without a byte after which a connection is given up (default: 60)
    #[arg(long, value_parser = values::any_integer, help_heading = S3)]
    read_timeout: Option<i64>,

    /// How the bucket stands in the URLs of requests
    #[arg(
        long,
        value_parser = PossibleValuesParser::new(["auto", "virtual", "path"]),
        help_heading = S3
    )]
    addressing_style: Option<String>,

    /// Encrypt with a key of your own (SSE-C): file:///path of a file with 32
    /// bytes in base64
    #[arg(long, value_name = "FILE_URI", help_heading = S3)]
    sse_customer_key: Option<String>,

    /// Kind of credential; without it, what the environment holds decides
    #[arg(
        long,
        visible_aliases = ["credential", "default"],
        value_parser = PossibleValuesParser::new(["azure-cli", "managed-identity", "default"]),
        help_heading = AZURE
    )]
    azure_credential: Option<String>,

    /// File with settings (TOML): what is not typed is taken from variables,
    /// BARMAN_CLOUD_ with the option's name, and then from there
    #[arg(long, value_name = "FILE", help_heading = argparse::OURS)]
    config: Option<PathBuf>,

    /// Work where [servers.NAME] of the file says; the URL and the name of the server
    /// are left away
    #[arg(long, value_name = "NAME", help_heading = argparse::OURS)]
    server: Option<String>,
}

impl CommonArgs {
    /// The store of this URL, as far as these options describe it.
    pub fn store(&self, url: &str) -> StoreConfig {
        StoreConfig {
            url: url.to_owned(),
            provider: match self.cloud_provider.as_str() {
                "azure-blob-storage" => Provider::AzureBlobStorage,
                "google-cloud-storage" => Provider::GoogleCloudStorage,
                _ => Provider::AwsS3,
            },
            endpoint_url: self.endpoint_url.clone(),
            aws_profile: self.aws_profile.clone(),
            read_timeout: self.read_timeout,
            addressing_style: self.addressing_style.clone(),
            sse_customer_key: self.sse_customer_key.clone(),
            azure_credential: self.azure_credential.clone(),
            ..StoreConfig::default()
        }
    }

    /// The form of log lines.
    pub(super) fn log_format(&self) -> Form {
        Form::of(&self.log_format)
    }

    /// What else decides which store is meant, beside the URL.
    pub fn endpoint(&self) -> &str {
        self.endpoint_url.as_deref().unwrap_or_default()
    }
}

/// Where a tool works.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The URL, as typed.
    pub url: &'a str,
    /// The names of the servers, as typed: one, but for a tool that looks at several.
    pub servers: &'a [String],
}

/// Where a tool writes to: the first two positionals.
#[derive(Debug, Clone, Args)]
pub struct DestinationArgs {
    /// Where to write: s3://BUCKET/PATH, an Azure or Google Cloud Storage URL,
    /// or file:///PATH
    #[arg(value_name = "destination_url")]
    pub destination_url: String,

    /// Name of the PostgreSQL server: the folder of its backups and WAL
    #[arg(value_name = "server_name")]
    pub server_name: String,
}

impl DestinationArgs {
    /// The place they name.
    pub fn place(&self) -> Place<'_> {
        Place {
            url: &self.destination_url,
            servers: std::slice::from_ref(&self.server_name),
        }
    }
}

/// Where a tool reads from: the first two positionals.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Where to read: s3://BUCKET/PATH, an Azure or Google Cloud Storage URL, or
    /// file:///PATH
    #[arg(value_name = "source_url")]
    pub source_url: String,

    /// Name of the PostgreSQL server: the folder of its backups and WAL
    #[arg(value_name = "server_name")]
    pub server_name: String,
}

impl SourceArgs {
    /// The place they name.
    pub fn place(&self) -> Place<'_> {
        Place {
            url: &self.source_url,
            servers: std::slice::from_ref(&self.server_name),
        }
    }
}

/// How the progress of long work is shown.
#[derive(Debug, Clone, Args)]
pub struct ProgressArgs {
    /// How far the work is, on standard error: a line if that is a terminal
    /// (auto), a JSON object each second (json), or nothing (off)
    #[arg(
        long,
        value_name = "FORM",
        default_value = "auto",
        value_parser = PossibleValuesParser::new(["auto", "json", "off"]),
        help_heading = argparse::OURS
    )]
    progress: String,
}

impl ProgressArgs {
    /// The form that was asked for.
    pub fn get(&self) -> Progress {
        match self.progress.as_str() {
            "json" => Progress::Json,
            "off" => Progress::Off,
            _ => Progress::Auto,
        }
    }
}

/// How objects that are written are encrypted.
#[derive(Debug, Clone, Args)]
pub struct EncryptionArgs {
    /// Let S3 encrypt the objects in this way
    #[arg(
        short = 'e',
        long,
        value_parser = PossibleValuesParser::new(["AES256", "aws:kms"]),
        help_heading = S3
    )]
    encryption: Option<String>,

    /// Key of the key management service, for --encryption aws:kms
    #[arg(long, help_heading = S3)]
    sse_kms_key_id: Option<String>,

    /// Encryption scope of the objects
    #[arg(long, help_heading = AZURE)]
    encryption_scope: Option<String>,

    /// Key of the key management service, for the objects
    #[arg(long, help_heading = GOOGLE)]
    pub kms_key_name: Option<String>,
}

impl EncryptionArgs {
    /// The same store, with these options.
    pub fn apply(&self, store: StoreConfig) -> StoreConfig {
        StoreConfig {
            encryption: self.encryption.clone(),
            sse_kms_key_id: self.sse_kms_key_id.clone(),
            encryption_scope: self.encryption_scope.clone(),
            kms_key_name: self.kms_key_name.clone(),
            ..store
        }
    }
}

/// Tags of what is written.
#[derive(Debug, Clone, Args)]
#[group(id = "tagging", multiple = false)]
pub struct TagArgs {
    /// Tags of every object: words KEY,VALUE up to the next option
    #[arg(long, value_name = "KEY,VALUE", num_args = 0.., action = ArgAction::Append, value_parser = tags::record)]
    tags: Option<Vec<Tag>>,

    /// One tag of every object; may be given several times
    #[arg(long, value_name = "KEY,VALUE", action = ArgAction::Append, value_parser = tags::pair)]
    tag: Option<Vec<Tag>>,
}

impl TagArgs {
    /// The tags, however they were spelled.
    pub fn get(&self) -> Option<Vec<Tag>> {
        self.tags.clone().or_else(|| self.tag.clone())
    }
}

/// Tags of history files, in place of the others.
#[derive(Debug, Clone, Args)]
#[group(id = "history-tagging", multiple = false)]
pub struct HistoryTagArgs {
    /// Tags of history files, in place of the others: words KEY,VALUE up to the
    /// next option
    #[arg(long, value_name = "KEY,VALUE", num_args = 0.., action = ArgAction::Append, value_parser = tags::record)]
    history_tags: Option<Vec<Tag>>,

    /// One tag of history files, in place of the others; may be given several
    /// times
    #[arg(long, value_name = "KEY,VALUE", action = ArgAction::Append, value_parser = tags::pair)]
    history_tag: Option<Vec<Tag>>,
}

impl HistoryTagArgs {
    /// The tags, however they were spelled.
    pub fn get(&self) -> Option<Vec<Tag>> {
        self.history_tags
            .clone()
            .or_else(|| self.history_tag.clone())
    }
}

/// Compression of base backups.
#[derive(Debug, Clone, Args)]
#[group(id = "compression", multiple = false)]
pub struct BackupCompressionArgs {
    /// Compress the archives with gzip
    #[arg(short = 'z', long)]
    gzip: bool,
    /// Compress the archives with bzip2
    #[arg(short = 'j', long)]
    bzip2: bool,
    /// Compress the archives with snappy
    #[arg(long)]
    snappy: bool,
    /// Compress the archives with lz4
    #[arg(long)]
    lz4: bool,
    /// Compress the archives with zstd (Barman 3.20 and newer reads them)
    #[arg(long)]
    zstd: bool,
}

impl BackupCompressionArgs {
    /// The codec that was asked for.
    pub fn codec(&self) -> &'static dyn Codec {
        first_of(&[
            ("gzip", self.gzip),
            ("bzip2", self.bzip2),
            ("snappy", self.snappy),
            ("lz4", self.lz4),
            ("zstd", self.zstd),
        ])
    }
}

/// Compression of WAL.
#[derive(Debug, Clone, Args)]
#[group(id = "compression", multiple = false)]
pub struct WalCompressionArgs {
    /// Compress the file with gzip
    #[arg(short = 'z', long)]
    gzip: bool,
    /// Compress the file with bzip2
    #[arg(short = 'j', long)]
    bzip2: bool,
    /// Compress the file with xz
    #[arg(long)]
    xz: bool,
    /// Compress the file with snappy
    #[arg(long)]
    snappy: bool,
    /// Compress the file with zstd
    #[arg(long)]
    zstd: bool,
    /// Compress the file with lz4
    #[arg(long)]
    lz4: bool,
}

impl WalCompressionArgs {
    /// The codec that was asked for.
    pub fn codec(&self) -> &'static dyn Codec {
        first_of(&[
            ("gzip", self.gzip),
            ("bzip2", self.bzip2),
            ("xz", self.xz),
            ("snappy", self.snappy),
            ("zstd", self.zstd),
            ("lz4", self.lz4),
        ])
    }
}

fn first_of(flags: &[(&str, bool)]) -> &'static dyn Codec {
    let set = flags.iter().find(|(_, set)| *set);
    set.and_then(|(name, _)| codec::by_name(name))
        .unwrap_or(&codec::None)
}

/// Where snapshots of disks are made or found: options of several clouds.
#[derive(Debug, Clone, Args)]
pub struct SnapshotPlaceArgs {
    /// Region of the instance and the disks of a snapshot backup
    #[arg(long, help_heading = S3)]
    pub aws_region: Option<String>,

    /// Zone of the disks and the instance of a snapshot backup
    #[arg(long, help_heading = GOOGLE)]
    pub gcp_zone: Option<String>,

    /// Resource group of the instance and the disks of a snapshot backup
    #[arg(long, help_heading = AZURE)]
    pub azure_resource_group: Option<String>,
}

/// The name of a WAL file, looked at before anything else.
pub fn wal_name(text: &str) -> Result<String, BareLine> {
    let base = text.rsplit('/').next().unwrap_or(text);
    match base.parse::<crate::wal::WalName>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(BareLine(format!(
            "{text} is an invalid name for a WAL file"
        ))),
    }
}
