//! Groups of options that several tools share, so that help, defaults and
//! order agree everywhere.
//!
//! The comment of a field is its help text.

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};

use super::argparse::BareLine;
use super::{tags, values};
use crate::codec::{self, Codec};
use crate::store::{Provider, StoreConfig, Tag};

/// Headings of the help.
const S3: &str = "Extra options for the aws-s3 cloud provider";
const AZURE: &str = "Extra options for the azure-blob-storage cloud provider";
const GOOGLE: &str = "Extra options for google-cloud-storage cloud provider";

/// What every tool accepts.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// show program's version number and exit
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,

    /// show this help message and exit
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// increase output verbosity (e.g., -vv is more than -v)
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// decrease output verbosity (e.g., -qq is less than -q)
    #[arg(short, long, action = ArgAction::Count)]
    pub quiet: u8,

    /// Test cloud connectivity and exit
    #[arg(short, long)]
    pub test: bool,

    /// The cloud provider to use as a storage backend; not needed for
    /// file:///path URLs
    #[arg(
        long,
        default_value = "aws-s3",
        value_parser = PossibleValuesParser::new(["aws-s3", "azure-blob-storage", "google-cloud-storage"])
    )]
    cloud_provider: String,

    /// Override default S3 endpoint URL with the given one
    #[arg(long, help_heading = S3)]
    endpoint_url: Option<String>,

    /// profile name (e.g. INI section in AWS credentials file)
    #[arg(short = 'P', long, visible_alias = "profile", help_heading = S3)]
    aws_profile: Option<String>,

    /// the time in seconds until a timeout is raised when waiting to read from
    /// a connection (defaults to 60 seconds)
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

    /// Optionally specify the type of credential to use when authenticating
    /// with Azure
    #[arg(
        long,
        visible_aliases = ["credential", "default"],
        value_parser = PossibleValuesParser::new(["azure-cli", "managed-identity", "default"]),
        help_heading = AZURE
    )]
    azure_credential: Option<String>,
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

    /// What else decides which store is meant, beside the URL.
    pub fn endpoint(&self) -> &str {
        self.endpoint_url.as_deref().unwrap_or_default()
    }
}

/// How objects that are written are encrypted.
#[derive(Debug, Clone, Args)]
pub struct EncryptionArgs {
    /// The encryption algorithm used when storing the uploaded data in S3
    #[arg(
        short = 'e',
        long,
        value_parser = PossibleValuesParser::new(["AES256", "aws:kms"]),
        help_heading = S3
    )]
    encryption: Option<String>,

    /// The AWS KMS key ID that should be used for encrypting the uploaded data;
    /// only with --encryption aws:kms
    #[arg(long, help_heading = S3)]
    sse_kms_key_id: Option<String>,

    /// The name of an encryption scope defined in the Azure Blob Storage
    /// service which is to be used to encrypt the data in Azure
    #[arg(long, help_heading = AZURE)]
    encryption_scope: Option<String>,

    /// The name of the GCP KMS key which should be used for encrypting the
    /// uploaded data in GCS
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
    /// Tags to be added to all uploaded files in cloud storage: KEY,VALUE words
    /// up to the next option
    #[arg(long, value_name = "KEY,VALUE", num_args = 0.., action = ArgAction::Append, value_parser = tags::record)]
    tags: Option<Vec<Tag>>,

    /// A tag to be added to all uploaded files in cloud storage; may be given
    /// several times
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
    /// Tags to be added to archived history files in cloud storage, in place of
    /// the others: KEY,VALUE words up to the next option
    #[arg(long, value_name = "KEY,VALUE", num_args = 0.., action = ArgAction::Append, value_parser = tags::record)]
    history_tags: Option<Vec<Tag>>,

    /// A tag to be added to archived history files in cloud storage, in place
    /// of the others; may be given several times
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
    /// gzip-compress the backup while uploading to the cloud
    #[arg(short = 'z', long)]
    gzip: bool,
    /// bzip2-compress the backup while uploading to the cloud
    #[arg(short = 'j', long)]
    bzip2: bool,
    /// snappy-compress the backup while uploading to the cloud
    #[arg(long)]
    snappy: bool,
    /// lz4-compress the backup while uploading to the cloud
    #[arg(long)]
    lz4: bool,
    /// zstd-compress the backup while uploading to the cloud (read by Barman
    /// 3.20 and newer)
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
    /// gzip-compress the WAL while uploading to the cloud
    #[arg(short = 'z', long)]
    gzip: bool,
    /// bzip2-compress the WAL while uploading to the cloud
    #[arg(short = 'j', long)]
    bzip2: bool,
    /// xz-compress the WAL while uploading to the cloud
    #[arg(long)]
    xz: bool,
    /// snappy-compress the WAL while uploading to the cloud
    #[arg(long)]
    snappy: bool,
    /// zstd-compress the WAL while uploading to the cloud
    #[arg(long)]
    zstd: bool,
    /// lz4-compress the WAL while uploading to the cloud
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
    /// The name of the AWS region containing the EC2 VM and storage volumes of
    /// a snapshot backup
    #[arg(long, help_heading = S3)]
    pub aws_region: Option<String>,

    /// Zone of the disks and the instance of a snapshot backup
    #[arg(long, help_heading = GOOGLE)]
    pub gcp_zone: Option<String>,

    /// The name of the Azure resource group to which the compute instance and
    /// disks of a snapshot backup belong
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
