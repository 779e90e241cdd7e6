//! Deleting many objects, each with a fate of its own: a batch of requests in
//! one, which the crate does not know.

use std::collections::HashMap;

use azure_core::http::headers::HeaderName;
use azure_core::http::{Method, Request};
use azure_storage_blob::models::BlobClientDeleteOptions;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};

use super::error::Failure;
use super::{DeleteReport, Inner, Result, StoreErrorKind, StoreOp, request};
use crate::key::Key;
use crate::store::wire::element;

/// Requests under way at the same time where objects go one by one.
const SINGLE: usize = 8;

impl Inner {
    pub(super) async fn delete_batch(&self, keys: &[Key]) -> Result<DeleteReport> {
        if keys.len() > 1 && !self.one_by_one.is_set() {
            match self.batch(keys).await {
                Ok(fates) => return Ok(self.report(fates)),
                Err(failure) if failure.kind == StoreErrorKind::Unsupported => {
                    let what = "does not know batches: objects are deleted one by one";
                    self.one_by_one.learn(&self.info.location, what);
                }
                Err(failure) => {
                    let what = format!("{} and {} more", keys[0], keys.len() - 1);
                    return Err(self.error(StoreOp::Delete, what, failure));
                }
            }
        }
        let requests: Vec<_> = keys
            .iter()
            .map(|key| self.delete_one(key).boxed())
            .collect();
        let answers = stream::iter(requests).buffer_unordered(SINGLE);
        let mut fates: Vec<_> = answers.collect().await;
        let transient = |(_, fate): &(Key, Result<(), Failure>)| matches!(fate, Err(failure) if failure.kind.is_transient());
        // All of them are tried again; deleting twice does no harm.
        match fates
            .iter()
            .position(transient)
            .map(|at| fates.swap_remove(at))
        {
            Some((key, Err(failure))) => Err(self.error(StoreOp::Delete, key, failure)),
            _ => Ok(self.report(fates)),
        }
    }

    fn report(&self, fates: Vec<(Key, Result<(), Failure>)>) -> DeleteReport {
        let mut report = DeleteReport::default();
        for (key, fate) in fates {
            match fate {
                Ok(()) => report.deleted.push(key),
                Err(failure) if failure.kind == StoreErrorKind::NotFound => {
                    report.deleted.push(key);
                }
                Err(failure) => {
                    let error = self.error(StoreOp::Delete, &key, failure);
                    report.failed.push((key, error));
                }
            }
        }
        report
    }

    async fn delete_one(&self, key: &Key) -> (Key, Result<(), Failure>) {
        let delete = async {
            let blob = self.connection()?.blob(key);
            blob.delete(None::<BlobClientDeleteOptions<'_>>).await?;
            Ok(())
        };
        (key.clone(), delete.await)
    }

    async fn batch(&self, keys: &[Key]) -> Result<Vec<(Key, Result<(), Failure>)>, Failure> {
        let connection = self.connection()?;
        let boundary = format!("batch_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut body = String::new();
        for (number, key) in keys.iter().enumerate() {
            // Without a version, which is the batch's.
            let mut delete = Request::new(connection.blob(key).url().clone(), Method::Delete);
            connection.auth.apply(&mut delete).await?;
            let target = delete.path_and_query();
            body += &format!(
                "--{boundary}\r\nContent-Type: application/http\r\n\
                 Content-Transfer-Encoding: binary\r\nContent-ID: {number}\r\n\r\n\
                 DELETE {target} HTTP/1.1\r\nContent-Length: 0\r\n"
            );
            for (name, value) in delete.headers().iter() {
                body += &format!("{}: {}\r\n", name.as_str(), value.as_str());
            }
            body += "\r\n";
        }
        body += &format!("--{boundary}--\r\n");
        let mut url = connection.container.url().clone();
        url.query_pairs_mut()
            .append_pair("restype", "container")
            .append_pair("comp", "batch");
        let mut request = request(url, Method::Post);
        request.insert_header(
            "content-type",
            format!("multipart/mixed; boundary={boundary}"),
        );
        request.set_body(body);
        let answer = connection.send(&mut request).await?;
        let kind = HeaderName::from_static("content-type");
        let kind = answer.headers().get_optional_str(&kind).unwrap_or_default();
        let fates = parts(kind, answer.body().as_ref())?;
        Ok(fates_of(keys, fates))
    }
}

/// What became of each key, by its number in the batch. An answer without a
/// number is to the batch as a whole.
fn fates_of(keys: &[Key], mut answers: HashMap<usize, Answer>) -> Vec<(Key, Result<(), Failure>)> {
    let of_all = answers.remove(&WHOLE);
    let fate = |(number, key): (usize, &Key)| {
        let fate = match answers.remove(&number).or_else(|| of_all.clone()) {
            Some(answer) if (200..300).contains(&answer.status) => Ok(()),
            Some(answer) => {
                let Answer {
                    status,
                    code,
                    message,
                } = answer;
                Err(Failure::answered(status, &code, message.as_deref()))
            }
            None => {
                let why = "the answer does not mention it";
                Err(Failure::new(StoreErrorKind::Other, why))
            }
        };
        (key.clone(), fate)
    };
    keys.iter().enumerate().map(fate).collect()
}

/// The number of an answer that has none.
const WHOLE: usize = usize::MAX;

/// The answer to one request of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    status: u16,
    code: String,
    message: Option<String>,
}

/// The answers of a batch by the numbers of their requests.
pub(super) fn parts(content_type: &str, body: &[u8]) -> Result<HashMap<usize, Answer>, Failure> {
    let odd = |why: &str| {
        let text = format!("the answer to a batch cannot be read: {why}");
        Failure::new(StoreErrorKind::Connect, text)
    };
    let (_, boundary) = content_type
        .split_once("boundary=")
        .ok_or_else(|| odd("it has no boundary"))?;
    let boundary = format!("--{}", boundary.trim().trim_matches('"'));
    let body = String::from_utf8_lossy(body);
    let mut answers = HashMap::new();
    let mut ended = false;
    for part in body.split(boundary.as_str()).skip(1) {
        if part.starts_with("--") {
            ended = true;
            break;
        }
        let (number, answer) = answer(part).ok_or_else(|| odd("a part is none"))?;
        answers.insert(number, answer);
    }
    if ended {
        Ok(answers)
    } else {
        Err(odd("it has no end"))
    }
}

fn answer(part: &str) -> Option<(usize, Answer)> {
    let at = part.find("HTTP/1.1 ")?;
    let (outer, inner) = part.split_at(at);
    let header = |lines: &str, name: &str| {
        lines.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            let found = found.trim().eq_ignore_ascii_case(name);
            found.then(|| value.trim().to_owned())
        })
    };
    let number = match header(outer, "Content-ID") {
        Some(number) => number.parse().ok()?,
        None => WHOLE,
    };
    let status = inner.split(' ').nth(1)?.trim().parse().ok()?;
    let code = header(inner, "x-ms-error-code")
        .or_else(|| element(inner.as_bytes(), "Code").map(str::to_owned))
        .unwrap_or_default();
    let message = element(inner.as_bytes(), "Message").map(str::to_owned);
    Some((
        number,
        Answer {
            status,
            code,
            message,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(fates: &[(Key, Result<(), Failure>)]) -> Vec<Option<StoreErrorKind>> {
        let kind = |(_, fate): &(Key, Result<(), Failure>)| Some(fate.as_ref().err()?.kind);
        fates.iter().map(kind).collect()
    }

    fn keys(count: usize) -> Vec<Key> {
        let key = |n| Key::new(format!("k{n}")).unwrap();
        (0..count).map(key).collect()
    }

    const TYPE: &str = "multipart/mixed; boundary=batchresponse_1";

    /// The shape is that of the example in the service's reference.
    #[test]
    fn each_request_has_its_answer_in_whatever_order() {
        use StoreErrorKind as Kind;
        let body = "--batchresponse_1\r\nContent-Type: application/http\r\nContent-ID: 1\r\n\r\n\
            HTTP/1.1 404 The specified blob does not exist.\r\nx-ms-error-code: BlobNotFound\r\n\
            x-ms-request-id: x\r\nContent-Length: 216\r\nContent-Type: application/xml\r\n\r\n\
            <?xml version=\"1.0\" encoding=\"utf-8\"?>\n<Error><Code>BlobNotFound</Code><Message>The \
            specified blob does not exist.\nRequestId:x</Message></Error>\r\n\
            --batchresponse_1\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n\
            HTTP/1.1 202 Accepted\r\nx-ms-delete-type-permanent: true\r\n\r\n\
            --batchresponse_1\r\nContent-Type: application/http\r\nContent-ID: 2\r\n\r\n\
            HTTP/1.1 409 x\r\nx-ms-error-code: BlobImmutableDueToPolicy\r\n\r\n\
            --batchresponse_1--\r\n";
        let fates = fates_of(&keys(4), parts(TYPE, body.as_bytes()).unwrap());
        assert_eq!(
            kinds(&fates),
            [
                None,
                Some(Kind::NotFound),
                Some(Kind::PermissionDenied),
                Some(Kind::Other)
            ]
        );
    }

    #[test]
    fn an_answer_without_a_number_is_to_all() {
        let body = "--batchresponse_1\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 403 x\r\n\
            x-ms-error-code: AuthenticationFailed\r\n\r\n--batchresponse_1--";
        let fates = fates_of(&keys(2), parts(TYPE, body.as_bytes()).unwrap());
        let refused = Some(StoreErrorKind::Unauthenticated);
        assert_eq!(kinds(&fates), [refused, refused]);
    }

    #[test]
    fn an_answer_that_is_cut_or_none_is_an_error() {
        let whole = "--batchresponse_1\r\nContent-ID: 0\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n";
        assert!(parts(TYPE, whole.as_bytes()).is_err());
        assert!(parts("text/html", b"<html>").is_err());
        let none = b"--batchresponse_1\r\nhello\r\n--batchresponse_1--";
        assert!(parts(TYPE, none).is_err());
    }
}
