//! What each habit does: refuse a request, hide a part of it from the server behind,
//! or say the answer in other words.

use std::fmt::Write as _;

use super::target::{Operation, Target, set_parameter};
use super::{Dialect, Scene};
use crate::http_server::{HttpAnswer, HttpRequest};

/// Parts of an upload. Source: Scaleway's documentation, "Object Storage: quotas and
/// limits".
const FEW_PARTS: u32 = 1000;

/// What stores say in place of a reason.
const VAGUE: &str = "Improper network request received.";

/// A refusal in the form of S3's.
fn refused(status: u16, code: &str, message: &str) -> HttpAnswer {
    in_words(status, code, &format!("<Message>{message}</Message>"))
}

/// The same with all that is beside the code.
fn in_words(status: u16, code: &str, more: &str) -> HttpAnswer {
    xml(
        status,
        &format!("<Error><Code>{code}</Code>{more}<RequestId>1</RequestId></Error>"),
    )
}

fn xml(status: u16, text: &str) -> HttpAnswer {
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}");
    HttpAnswer::new(status, text).with("content-type", "application/xml")
}

/// Whether the body comes in chunks, or a checksum behind it.
fn is_in_chunks(request: &HttpRequest) -> bool {
    let given = |name: &str| !request.header(name).is_empty();
    request.header("content-encoding").contains("aws-chunked")
        || request
            .header("x-amz-content-sha256")
            .starts_with("STREAMING")
        || ["x-amz-trailer", "x-amz-decoded-content-length"]
            .into_iter()
            .any(given)
        || given("transfer-encoding")
}

/// The first header about checksums, if there is one.
fn checksum_header(request: &HttpRequest) -> Option<&str> {
    let names = request.headers.iter().map(|(name, _)| name.as_str());
    let prefixes = ["x-amz-checksum-", "x-amz-sdk-checksum-algorithm"];
    let mut found = names.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    found.next()
}

fn has_condition(request: &HttpRequest) -> bool {
    request.method != "GET" && !request.header("if-none-match").is_empty()
}

/// The texts of an element, as they stand there.
fn elements<'a>(body: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let rest = body.split(open.as_str()).skip(1);
    rest.filter_map(|rest| Some(rest.split_once(close.as_str())?.0))
        .collect()
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

impl Scene<'_> {
    /// What the store answers in place of the server, if it does.
    pub(super) fn refusal(
        &self,
        habit: Dialect,
        request: &HttpRequest,
        target: &Target,
    ) -> Option<HttpAnswer> {
        use Operation as Is;
        let is = target.operation;
        let bulk = is == Is::DeleteObjects;
        let without_md5 = bulk && request.header("content-md5").is_empty();
        let header = "A header you provided implies functionality that is not implemented";
        let when = |refuse: bool, answer: HttpAnswer| refuse.then_some(answer);
        match habit {
            Dialect::ChunksUnknown => when(
                is_in_chunks(request),
                refused(
                    501,
                    "NotImplemented",
                    "Transferring payloads in multiple chunks is not implemented",
                ),
            ),
            Dialect::ChunksInvalid => when(
                is_in_chunks(request),
                refused(
                    400,
                    "InvalidRequest",
                    "aws-chunked encoding is not supported",
                ),
            ),
            Dialect::ChunksMismatch => when(
                is_in_chunks(request),
                refused(
                    400,
                    "XAmzContentSHA256Mismatch",
                    "The provided 'x-amz-content-sha256' header does not match what was computed.",
                ),
            ),
            Dialect::ChecksumsInvalid => checksum_header(request).map(|name| {
                refused(
                    400,
                    "InvalidArgument",
                    &format!("Unsupported header {name}"),
                )
            }),
            Dialect::ChecksumsUnknown => when(
                checksum_header(request).is_some(),
                refused(501, "NotImplemented", header),
            ),
            Dialect::ChecksumsVague => when(
                checksum_header(request).is_some(),
                refused(400, "InvalidRequest", VAGUE),
            ),
            Dialect::BulkWantsMd5 => when(
                without_md5,
                refused(
                    400,
                    "MissingContentMD5",
                    "Missing required header for this request: Content-Md5.",
                ),
            ),
            Dialect::BulkWantsMd5InWords => when(
                without_md5,
                refused(
                    400,
                    "InvalidRequest",
                    "Missing required header for this request: Content-MD5",
                ),
            ),
            Dialect::BulkWantsMd5Silently => when(without_md5, refused(400, "", "")),
            Dialect::NoBulk => when(bulk, refused(501, "NotImplemented", "")),
            Dialect::BulkNotAllowed => when(
                bulk,
                refused(
                    405,
                    "MethodNotAllowed",
                    "The specified method is not allowed against this resource.",
                ),
            ),
            Dialect::BulkFailsOnce if bulk => self.bulk_fails_once(request),
            Dialect::EqualParts => self.unequal_parts(request, target),
            Dialect::ThousandParts => {
                let number = target.asked("partNumber").parse().unwrap_or(0);
                when(
                    is == Is::UploadPart && number > FEW_PARTS,
                    refused(
                        400,
                        "InvalidArgument",
                        "Part number must be an integer between 1 and 1000, inclusive",
                    ),
                )
            }
            Dialect::BucketHidden => when(is == Is::HeadBucket, refused(403, "AccessDenied", "")),
            Dialect::BucketHiddenAsBad => when(is == Is::HeadBucket, refused(400, "", "")),
            Dialect::PathOnly => when(
                !self.is_of_path(request, target),
                refused(403, "AccessDenied", "Access Denied."),
            ),
            Dialect::ConditionsUnknown => when(
                has_condition(request),
                in_words(
                    501,
                    "NotImplemented",
                    &format!("<Message>{header}</Message><Header>If-None-Match</Header>"),
                ),
            ),
            Dialect::ConditionsInvalid => when(
                has_condition(request),
                in_words(
                    400,
                    "InvalidArgument",
                    "<Message>Invalid Argument</Message>\
                     <ArgumentName>If-None-Match</ArgumentName>",
                ),
            ),
            Dialect::ConditionsVague => when(
                has_condition(request),
                refused(400, "InvalidRequest", VAGUE),
            ),
            Dialect::PathStyleOnly => when(
                !request.header("host").starts_with("127.0.0.1:"),
                refused(404, "NoSuchBucket", "The specified bucket does not exist"),
            ),
            Dialect::SlowDown => {
                // Not each third: a client may go round in as many steps.
                let storm = self.with_memory(|memory| memory.dice.u8(..3) == 0);
                when(storm, slow_down())
            }
            Dialect::SlowDownBursts => {
                let tired = self.count() % 15 >= 12;
                when(tired, slow_down().with("retry-after", "1"))
            }
            Dialect::CompleteFailsOnce if is == Is::Complete => {
                let told = "We encountered an internal error. Please try again.";
                self.first_time(target.asked("uploadId"))
                    .then(|| refused(200, "InternalError", told))
            }
            _ => None,
        }
    }

    /// The number of this request, from 1.
    fn count(&self) -> u32 {
        self.with_memory(|memory| {
            memory.requests += 1;
            memory.requests
        })
    }

    /// Whether this did not come before.
    fn first_time(&self, what: &str) -> bool {
        self.with_memory(|memory| memory.failed.insert(what.to_owned()))
    }

    fn bulk_fails_once(&self, request: &HttpRequest) -> Option<HttpAnswer> {
        let body = text(&request.body);
        if !self.first_time(&body) {
            return None;
        }
        let mut fates = String::new();
        for key in elements(&body, "Key") {
            let _ = write!(
                fates,
                "<Error><Key>{key}</Key><Code>InternalError</Code>\
                 <Message>We encountered an internal error. Please try again.</Message></Error>"
            );
        }
        Some(xml(200, &format!("<DeleteResult>{fates}</DeleteResult>")))
    }

    /// Notes the sizes of parts, and refuses to make an object of unequal ones.
    fn unequal_parts(&self, request: &HttpRequest, target: &Target) -> Option<HttpAnswer> {
        let upload = target.asked("uploadId").to_owned();
        match target.operation {
            Operation::UploadPart => {
                let number = target.asked("partNumber").parse().ok()?;
                let size = request.body.len();
                self.with_memory(|memory| memory.parts.insert((upload, number), size));
                None
            }
            Operation::Complete => {
                let body = text(&request.body);
                let numbers = elements(&body, "PartNumber").into_iter();
                let sizes: Vec<usize> = self.with_memory(|memory| {
                    let size = |number: &str| {
                        let part = (upload.clone(), number.parse().ok()?);
                        memory.parts.get(&part).copied()
                    };
                    numbers.filter_map(size).collect()
                });
                let (last, others) = sizes.split_last()?;
                let first = others.first().unwrap_or(last);
                let equal = others.iter().all(|size| size == first) && last <= first;
                let told = "All non-trailing parts must have the same length.";
                (!equal).then(|| refused(400, "InvalidPart", told))
            }
            _ => None,
        }
    }

    /// Whether a request is about what the credentials are for.
    fn is_of_path(&self, request: &HttpRequest, target: &Target) -> bool {
        let below = |name: &str| name.starts_with(self.path);
        match target.operation {
            Operation::HeadBucket => false,
            Operation::ListObjects | Operation::ListUploads => below(target.asked("prefix")),
            Operation::DeleteObjects => {
                let body = text(&request.body);
                let keys = elements(&body, "Key").into_iter();
                keys.map(|key| key.replace("&amp;", "&"))
                    .all(|key| below(&key))
            }
            _ => below(&target.key),
        }
    }
}

/// Takes away what the store does not see, and adds what it adds in thought.
pub(super) fn blind(habit: Dialect, request: &mut HttpRequest, target: &Target) {
    use Operation as Is;
    let is = target.operation;
    match habit {
        Dialect::ConditionsIgnored if has_condition(request) => {
            request.remove_header("if-none-match");
        }
        Dialect::SmallPages => {
            let parameter = match is {
                Is::ListObjects => "max-keys",
                Is::ListUploads => "max-uploads",
                Is::ListParts => "max-parts",
                _ => return,
            };
            let asked = target.asked(parameter).parse().unwrap_or(1000);
            set_parameter(request, parameter, Some(&asked.min(100).to_string()));
        }
        Dialect::PlainNames | Dialect::PlainNamesCalledEncoded if is == Is::ListObjects => {
            set_parameter(request, "encoding-type", None);
        }
        Dialect::EncodedNames if matches!(is, Is::ListObjects | Is::ListUploads) => {
            set_parameter(request, "encoding-type", Some("url"));
        }
        _ => {}
    }
}

/// Changes the server's answer.
pub(super) fn rephrase(
    habit: Dialect,
    request: &HttpRequest,
    target: &Target,
    answer: &mut HttpAnswer,
) {
    use Operation as Is;
    const ENCODED: &str = "<EncodingType>url</EncodingType>";
    let is = target.operation;
    let lists = matches!(is, Is::ListObjects | Is::ListUploads);
    let mut say = |change: &dyn Fn(String) -> String| {
        answer.body = change(text(&answer.body)).into_bytes();
    };
    match habit {
        Dialect::BulkSilent if is == Is::DeleteObjects => say(&|mut body| {
            while let Some((before, rest)) = body.split_once("<Deleted>") {
                let (_, after) = rest.split_once("</Deleted>").unwrap_or_default();
                body = format!("{before}{after}");
            }
            body
        }),
        Dialect::PlainNamesCalledEncoded if is == Is::ListObjects => say(&|body| {
            let end = "</ListBucketResult>";
            body.replace(end, &format!("{ENCODED}{end}"))
        }),
        Dialect::EncodedNames if lists => say(&|body| body.replace(ENCODED, "")),
        Dialect::BareTags => {
            if lists || is == Is::Complete {
                say(&|body| {
                    let mut body = body;
                    for quote in ["&quot;", "&#34;", "\""] {
                        body = body.replace(&format!("<ETag>{quote}"), "<ETag>");
                        body = body.replace(&format!("{quote}</ETag>"), "</ETag>");
                    }
                    body
                });
            }
            for (name, value) in &mut answer.headers {
                if name == "etag" {
                    *value = value.trim_matches('"').to_owned();
                }
            }
            if request.method == "HEAD" && answer.status == 404 {
                answer.headers.retain(|(name, _)| name != "content-length");
            }
        }
        _ => {}
    }
}

fn slow_down() -> HttpAnswer {
    refused(503, "SlowDown", "Please reduce your request rate.")
}
