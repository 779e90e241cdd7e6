//! What a request is about.

use crate::http_server::HttpRequest;

/// Names of operations as in the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    HeadBucket,
    ListObjects,
    ListUploads,
    ListParts,
    DeleteObjects,
    PutObject,
    UploadPart,
    BeginUpload,
    Complete,
    Get,
    Other,
}

/// A request's operation, and what its path and query name, decoded.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) operation: Operation,
    pub(super) key: String,
    query: Vec<(String, String)>,
}

impl Target {
    pub(super) fn of(request: &HttpRequest) -> Self {
        let (path, query) = parts(&request.target);
        let path = path.trim_start_matches('/');
        let (_, key) = path.split_once('/').unwrap_or((path, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query: Vec<(String, String)> = pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decoded(name), decoded(value))
            })
            .collect();
        let asks = |wanted: &str| query.iter().any(|(name, _)| name == wanted);
        let operation = match (request.method.as_str(), key.is_empty()) {
            ("HEAD", true) => Operation::HeadBucket,
            ("GET", true) if asks("uploads") => Operation::ListUploads,
            ("GET", true) => Operation::ListObjects,
            ("GET", false) if asks("uploadId") => Operation::ListParts,
            ("GET" | "HEAD", false) => Operation::Get,
            ("POST", true) if asks("delete") => Operation::DeleteObjects,
            ("POST", false) if asks("uploads") => Operation::BeginUpload,
            ("POST", false) if asks("uploadId") => Operation::Complete,
            ("PUT", false) if asks("partNumber") => Operation::UploadPart,
            ("PUT", false) => Operation::PutObject,
            _ => Operation::Other,
        };
        Self {
            operation,
            key: decoded(key),
            query,
        }
    }

    /// The value of a parameter; empty if there is none.
    pub(super) fn asked(&self, name: &str) -> &str {
        let mut named = self.query.iter().filter(|(other, _)| other == name);
        named.next().map_or("", |(_, value)| value)
    }
}

/// Path and query.
fn parts(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// Gives a parameter this value; `None` takes it away.
pub(super) fn set_parameter(request: &mut HttpRequest, name: &str, value: Option<&str>) {
    let (path, query) = parts(&request.target);
    let other = |pair: &&str| pair.split('=').next() != Some(name);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<String> = pairs.filter(other).map(str::to_owned).collect();
    pairs.extend(value.map(|value| format!("{name}={value}")));
    request.target = format!("{path}?{}", pairs.join("&"));
}

/// Path and query as a signature has them: parameters sorted, each with a value.
pub(super) fn canonical(target: &str) -> (&str, String) {
    let (path, query) = parts(target);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<String> = pairs
        .map(|pair| {
            let value = if pair.contains('=') { "" } else { "=" };
            format!("{pair}{value}")
        })
        .collect();
    pairs.sort();
    (path, pairs.join("&"))
}

/// A text without `%XX`.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        if let (b'%', Some(byte)) = (byte, escaped) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
