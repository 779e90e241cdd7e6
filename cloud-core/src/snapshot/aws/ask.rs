//! Requests of the EC2 Query API, and what its answers say.

use bytes::Bytes;

use super::super::line::Verdict;
use super::super::{SnapshotError, SnapshotErrorKind};
use crate::store::xml::{self, Element};
use crate::store::{ApiAnswer, ApiCall, RequestId, Tag, url_encoded};

/// The version of the interface.
const VERSION: &str = "2016-11-15";

/// Refusals of what may be done a little later. Source: "Error codes for the Amazon EC2
/// API".
const BUSY: [&str; 6] = [
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "SnapshotCreationPerVolumeRateExceeded",
    "EC2ThrottledException",
    "Unavailable",
];

/// A request, parameter by parameter.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    action: &'static str,
    parameters: Vec<(String, String)>,
    filters: usize,
}

impl Ask {
    pub(super) fn new(action: &'static str) -> Self {
        Self {
            action,
            parameters: Vec::new(),
            filters: 0,
        }
    }

    /// What is asked for, as messages call it.
    pub(super) fn action(&self) -> &'static str {
        self.action
    }

    pub(super) fn with(mut self, name: impl Into<String>, value: &str) -> Self {
        self.parameters.push((name.into(), value.to_owned()));
        self
    }

    pub(super) fn with_option(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(super) fn filter(mut self, name: &str, values: &[&str]) -> Self {
        self.filters += 1;
        let number = self.filters;
        self = self.with(format!("Filter.{number}.Name"), name);
        for (n, value) in values.iter().enumerate() {
            self = self.with(format!("Filter.{number}.Value.{}", n + 1), value);
        }
        self
    }

    /// With the tags of what is made.
    pub(super) fn tags<'a>(mut self, kind: &str, tags: impl Iterator<Item = &'a Tag>) -> Self {
        let specification = "TagSpecification.1";
        self = self.with(format!("{specification}.ResourceType"), kind);
        for (n, tag) in tags.enumerate() {
            let tag_n = format!("{specification}.Tag.{}", n + 1);
            self = self.with(format!("{tag_n}.Key"), &tag.key);
            self = self.with(format!("{tag_n}.Value"), &tag.value);
        }
        self
    }

    /// As it is sent.
    pub(super) fn call(&self) -> ApiCall {
        let mut form = format!("Action={}&Version={VERSION}", self.action);
        for (name, value) in &self.parameters {
            form += &format!("&{name}={}", url_encoded(value));
        }
        ApiCall {
            method: "POST",
            target: "/".to_owned(),
            content_type: Some("application/x-www-form-urlencoded; charset=utf-8"),
            body: Bytes::from(form),
        }
    }
}

/// What EC2 refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    message: String,
    status: u16,
    /// What EC2 calls the request.
    request: Option<RequestId>,
}

impl Refusal {
    fn of(answer: &ApiAnswer) -> Self {
        let root = xml::parse(&answer.body).unwrap_or_default();
        let error = root
            .first("Errors")
            .and_then(|errors| errors.first("Error"));
        let text = |name: &str| {
            let text = error.and_then(|error| error.text(name));
            text.unwrap_or_default().to_owned()
        };
        Self {
            code: text("Code"),
            message: text("Message"),
            status: answer.status,
            request: answer.request.clone(),
        }
    }

    /// The failure of an action.
    pub(super) fn error(&self, action: &str) -> SnapshotError {
        let kind = if self.code.contains("Locked") {
            SnapshotErrorKind::Locked
        } else if self.is_busy() || self.status >= 500 {
            SnapshotErrorKind::Unreachable
        } else {
            SnapshotErrorKind::Refused
        };
        let Self {
            code,
            message,
            status,
            request,
        } = self;
        let text = if code.is_empty() {
            format!("{action}: EC2 answered {status}")
        } else {
            format!("{action}: {code}: {message}")
        };
        SnapshotError::refused(kind, text, request.as_ref())
    }

    fn is_busy(&self) -> bool {
        BUSY.contains(&self.code.as_str())
    }
}

/// What an answer means for the next attempt.
pub(super) fn judge(answer: &ApiAnswer) -> Verdict {
    if answer.status < 400 {
        return Verdict::Final;
    }
    if Refusal::of(answer).is_busy() || answer.status == 429 {
        Verdict::Busy
    } else if answer.status >= 500 {
        Verdict::Trouble
    } else {
        Verdict::Final
    }
}

/// The document of an answer, or the refusal.
///
/// # Errors
///
/// `Unknown` if it is neither: it was cut, or is somebody else's; or if the service failed
/// and may have done what it was asked for.
pub(super) fn read(answer: &ApiAnswer) -> Result<Result<Element, Refusal>, SnapshotError> {
    let unknown = |text: String| Err(SnapshotError::new(SnapshotErrorKind::Unknown, text));
    if answer.status >= 400 {
        let refusal = Refusal::of(answer);
        if judge(answer) == Verdict::Trouble {
            return unknown(refusal.error("EC2").text);
        }
        return Ok(Err(refusal));
    }
    match xml::parse(&answer.body) {
        Ok(root) => Ok(Ok(root)),
        Err(()) => unknown(format!(
            "the answer of EC2 (status {}) is not XML",
            answer.status
        )),
    }
}
