//! The key of `--sse-customer-key`: S3 encrypts with it and forgets it.

use std::fmt;

use super::StoreConfig;

/// A 256-bit key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerKey([u8; 32]);

impl CustomerKey {
    /// The bytes of the key.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(secret)")
    }
}

/// Reads the key that the options name, if they name one: a file with 32 bytes
/// in base64, white space around it.
///
/// # Errors
///
/// The line for the user. Every store checks the key, S3 alone uses it.
pub(super) fn key(config: &StoreConfig) -> Result<Option<CustomerKey>, String> {
    let Some(text) = &config.sse_customer_key else {
        return Ok(None);
    };
    for (given, name) in [
        (&config.encryption, "--encryption"),
        (&config.sse_kms_key_id, "SSE-KMS (--sse-kms-key-id)"),
    ] {
        if given.is_some() {
            return Err(format!(
                "SSE-C (--sse-customer-key) cannot be used together with {name}"
            ));
        }
    }
    let path = text.strip_prefix("file://").ok_or(
        "SSE-C customer key must be provided as a file:// URI (file:///absolute/path/to/key): a \
         key on the command line could be read by every user of this machine",
    )?;
    if !path.starts_with('/') {
        return Err(format!("SSE-C key file path must be absolute: {path}"));
    }
    let content = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("SSE-C key file not found: {path}"),
        _ => format!("Could not read SSE-C key file {path}: {error}"),
    })?;
    let bytes = std::str::from_utf8(&content)
        .ok()
        .and_then(|text| base64(text.trim()));
    let bytes = bytes.ok_or_else(|| {
        format!("SSE-C key file {path} does not contain a valid base64-encoded key")
    })?;
    let count = bytes.len();
    let key = bytes.try_into().map_err(|_| {
        format!("SSE-C key file {path} must contain a 256-bit (32-byte) key, got {count} bytes")
    })?;
    Ok(Some(CustomerKey(key)))
}

/// Strict base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text
        .bytes()
        .rev()
        .take(2)
        .take_while(|c| *c == b'=')
        .count();
    let digits = &text.as_bytes()[..text.len() - padding];
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.chunks(4) {
        let mut value = 0_u32;
        for place in 0..4 {
            let bits = group.get(place).map_or(Some(0), |c| digit(*c))?;
            value = value << 6 | u32::from(bits);
        }
        bytes.extend_from_slice(&value.to_be_bytes()[1..]);
    }
    bytes.truncate(bytes.len() - padding);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

    fn read(content: &str) -> Result<Option<CustomerKey>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let name = format!("file://{}", file.path().display());
        key(&StoreConfig {
            sse_customer_key: Some(name),
            ..StoreConfig::default()
        })
    }

    #[test]
    fn a_key_of_32_bytes_is_read_with_white_space_around_it() {
        let key = read(&format!("\n {KEY} \n")).unwrap().unwrap();
        assert_eq!(key.bytes(), b"01234567890123456789012345678901");
        assert!(!format!("{key:?}").contains("0123"));
    }

    #[test]
    fn other_content_is_refused() {
        for (content, message) in [
            ("", "got 0 bytes"),
            ("not base64!", "valid base64"),
            ("YWJj", "got 3 bytes"),
            ("YWI=", "got 2 bytes"),
            ("YQ==", "got 1 bytes"),
            ("YQ=", "valid base64"),
            ("Y===", "valid base64"),
            ("YW=j", "valid base64"),
        ] {
            let error = read(content).unwrap_err();
            assert!(error.contains(message), "{content}: {error}");
        }
    }

    #[test]
    fn other_places_are_refused() {
        let at = |text: &str| {
            key(&StoreConfig {
                sse_customer_key: Some(text.into()),
                ..StoreConfig::default()
            })
            .unwrap_err()
        };
        assert!(at(KEY).starts_with("SSE-C customer key must be provided as a file:// URI"));
        assert_eq!(
            at("file://relative/key"),
            "SSE-C key file path must be absolute: relative/key"
        );
        assert_eq!(
            at("file:///no/such/key"),
            "SSE-C key file not found: /no/such/key"
        );
        let both = StoreConfig {
            sse_customer_key: Some("file:///k".into()),
            encryption: Some("AES256".into()),
            ..StoreConfig::default()
        };
        let text = "SSE-C (--sse-customer-key) cannot be used together with --encryption";
        assert_eq!(key(&both).unwrap_err(), text);
    }
}
