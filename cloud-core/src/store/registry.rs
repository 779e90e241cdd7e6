//! Opening the store that a URL names: the only place that knows them all.

use std::sync::Arc;

use super::url::{InvalidUrl, StoreUrl};
use super::{LocalStore, ObjectStore, Provider, StoreConfig, sse_c};

/// A store, and the path in it that the URL names.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// The bucket, container or directory by its bare name, as messages have it.
    pub bucket: String,
    /// The path, as `catalogue::layout` wants it.
    pub path: String,
}

/// Why no store could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The URL names none.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
    /// Options that contradict each other, or a key that cannot be used.
    #[error("{0}")]
    Options(String),
    /// A store of a later version.
    #[error("{0} is not built yet in this version: use a directory, file:///path")]
    NotBuilt(&'static str),
}

/// Opens the store. Touches neither the network nor the directory.
pub fn open(config: &StoreConfig) -> Result<Opened, OpenError> {
    // A key is looked at before the URL, as the reference does.
    #[cfg_attr(
        not(feature = "aws"),
        expect(unused_variables, reason = "S3 alone uses it")
    )]
    let key = sse_c::key(config).map_err(OpenError::Options)?;
    let url = StoreUrl::parse(config.provider, &config.url)?;
    // Elsewhere both options mean nothing: a settings file may have them for all its servers.
    if config.provider == Provider::AwsS3
        && config.sse_kms_key_id.is_some()
        && config.encryption.as_deref() != Some("aws:kms")
    {
        let why = "Encryption type must be \"aws:kms\" if SSE KMS Key ID is specified";
        return Err(OpenError::Options(why.into()));
    }
    let store: Arc<dyn ObjectStore> = match &url {
        StoreUrl::Local { root } => Arc::new(LocalStore::new(root.clone())),
        #[cfg(feature = "aws")]
        StoreUrl::S3 { bucket, path } => Arc::new(super::S3Store::new(config, bucket, path, key)),
        #[cfg(not(feature = "aws"))]
        StoreUrl::S3 { .. } => return Err(OpenError::NotBuilt("S3")),
        #[cfg(feature = "azure")]
        StoreUrl::Azure {
            account_url,
            container,
            path,
            emulated,
        } => Arc::new(super::AzureStore::new(
            config,
            super::AzurePlace {
                account_url: account_url.clone(),
                container: container.clone(),
                path: path.clone(),
                emulated: *emulated,
            },
        )),
        #[cfg(not(feature = "azure"))]
        StoreUrl::Azure { .. } => return Err(OpenError::NotBuilt("Azure Blob Storage")),
        #[cfg(feature = "gcp")]
        StoreUrl::Google { bucket, .. } => Arc::new(super::GcsStore::new(config, bucket)),
        #[cfg(not(feature = "gcp"))]
        StoreUrl::Google { .. } => return Err(OpenError::NotBuilt("Google Cloud Storage")),
    };
    Ok(Opened {
        store,
        bucket: url.bucket().into_owned(),
        path: url.path().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> StoreConfig {
        StoreConfig {
            url: url.to_owned(),
            ..StoreConfig::default()
        }
    }

    #[test]
    fn a_directory_is_opened_without_looking_at_it() {
        let opened = open(&config("file:///no/such/directory")).unwrap();
        assert_eq!(opened.store.info().location, "file:///no/such/directory");
        assert_eq!(opened.bucket, "/no/such/directory");
        assert_eq!(opened.path, "");
    }

    #[cfg(feature = "aws")]
    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let kms = StoreConfig {
            sse_kms_key_id: Some("k".into()),
            ..config("s3://b")
        };
        let text = "Encryption type must be \"aws:kms\" if SSE KMS Key ID is specified";
        assert_eq!(open(&kms).unwrap_err().to_string(), text);
        let right = StoreConfig {
            encryption: Some("aws:kms".into()),
            ..kms
        };
        assert_eq!(open(&right).unwrap().store.info().location, "s3://b");
    }

    #[test]
    fn a_key_of_s3_means_nothing_elsewhere() {
        let kms = StoreConfig {
            sse_kms_key_id: Some("k".into()),
            provider: Provider::GoogleCloudStorage,
            ..config("file:///d")
        };
        assert!(open(&kms).is_ok());
        let of_s3 = StoreConfig {
            provider: Provider::AwsS3,
            ..kms
        };
        assert!(open(&of_s3).is_err());
    }

    #[test]
    fn a_wrong_key_is_reported_before_a_wrong_url() {
        let both = StoreConfig {
            sse_customer_key: Some("secret".into()),
            ..config("nonsense")
        };
        let text = open(&both).unwrap_err().to_string();
        assert!(
            text.starts_with("SSE-C customer key must be provided as a file:// URI"),
            "{text}"
        );
        assert!(!text.contains("secret"));
    }
}
