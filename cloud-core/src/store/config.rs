//! What the command line says about stores.

use super::Provider;

/// Everything the command line says about stores. Options of another store
/// than the one that is opened are ignored, as the reference ignores them.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// The URL as typed.
    pub url: String,
    /// `--cloud-provider`
    pub provider: Provider,
    /// `--endpoint-url`
    pub endpoint_url: Option<String>,
    /// `--aws-profile`
    pub aws_profile: Option<String>,
    /// `--read-timeout`, in seconds
    pub read_timeout: Option<i64>,
    /// `--addressing-style`: `auto`, `virtual` or `path`
    pub addressing_style: Option<String>,
    /// `--encryption`: `AES256` or `aws:kms`
    pub encryption: Option<String>,
    /// `--sse-kms-key-id`
    pub sse_kms_key_id: Option<String>,
    /// `--sse-customer-key`, as typed
    pub sse_customer_key: Option<String>,
    /// `--azure-credential`
    pub azure_credential: Option<String>,
    /// `--encryption-scope`
    pub encryption_scope: Option<String>,
    /// `--max-block-size`, in bytes
    pub max_block_size: Option<u64>,
    /// `--max-concurrency`
    pub max_concurrency: Option<u32>,
    /// `--max-single-put-size`, in bytes
    pub max_single_put_size: Option<u64>,
    /// `--kms-key-name`
    pub kms_key_name: Option<String>,
}

impl StoreConfig {
    /// The options that say how objects are encrypted, as one text: equal for equal
    /// options. Keys are named in it, not contained.
    pub fn encryption_options(&self) -> String {
        let options = [
            &self.encryption,
            &self.sse_kms_key_id,
            &self.sse_customer_key,
            &self.encryption_scope,
            &self.kms_key_name,
        ];
        format!("{options:?}")
    }
}
