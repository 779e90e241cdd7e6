//! A store of objects in memory that speaks S3's protocol and has no costs of its
//! own, so that in a benchmark over a distance requests and round trips are all
//! that is measured.
//!
//! usage: `memory_store`
//!
//! It writes its port of 127.0.0.1 as its first line of output, and ends when its
//! standard input does. It knows what a catalogue needs: PUT, GET, HEAD and
//! DELETE of an object, DeleteObjects, both forms of ListObjects; making a bucket,
//! and asking for it. Everything else is answered with 501, so that nothing passes for done
//! that was not. Signatures are not looked at, and names consist of letters,
//! digits and `-_./`, which have one spelling in a path, a query and in XML.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Bound;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use e2e::HttpRequest;

/// Most names on a page of a listing. Source: S3 API reference, ListObjectsV2.
const PAGE: usize = 1000;

/// When every object was written: nothing here asks for it.
const WRITTEN: &str = "2026-01-01T00:00:00.000Z";

/// The same as a header has it.
const WRITTEN_HEADER: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

fn main() -> ExitCode {
    let ended = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", listener.local_addr()?.port())?;
        out.flush()?;
        thread::spawn(move || serve(&listener));
        io::copy(&mut io::stdin().lock(), &mut io::sink())
    });
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "memory_store: cannot serve: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(listener: &TcpListener) {
    let store = Arc::new(Mutex::new(Store::default()));
    for stream in listener.incoming().flatten() {
        let store = Arc::clone(&store);
        // A client that goes away is none of the store's business.
        thread::spawn(move || drop(converse(stream, &store)));
    }
}

/// Answers the requests of a connection one after the other.
fn converse(stream: TcpStream, store: &Mutex<Store>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(mut request) = HttpRequest::read_head(&mut stream) {
        if request
            .header("expect")
            .eq_ignore_ascii_case("100-continue")
        {
            stream
                .get_mut()
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request.read_body(&mut stream).is_none() {
            break;
        }
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = store.answer(&request);
        drop(store);
        stream.get_mut().write_all(&answer.bytes(&request.method))?;
    }
    Ok(())
}

/// What is sent back.
struct Answer {
    status: u16,
    content: Vec<u8>,
}

impl Answer {
    fn new(status: u16, content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        Self { status, content }
    }

    fn error(status: u16, code: &str) -> Self {
        let text = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        Self::new(status, text)
    }

    fn bytes(&self, method: &str) -> Vec<u8> {
        // The client may believe that the ETag of the same bytes is the same, and
        // no more.
        let etag = self.content.iter().fold(0_u128, |sum, byte| {
            sum.wrapping_mul(0x1000_01b3)
                .wrapping_add(u128::from(*byte))
        });
        let (status, size) = (self.status, self.content.len());
        let mut answer = format!("HTTP/1.1 {status} X\r\nETag: \"{etag:032x}\"\r\n");
        let _ = write!(answer, "Last-Modified: {WRITTEN_HEADER}\r\n");
        if status != 204 {
            let _ = write!(answer, "Content-Length: {size}\r\n");
        }
        let mut answer = (answer + "\r\n").into_bytes();
        if method != "HEAD" {
            answer.extend_from_slice(&self.content);
        }
        answer
    }
}

/// All buckets, with their objects by name.
#[derive(Default)]
struct Store {
    buckets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Store {
    fn answer(&mut self, request: &HttpRequest) -> Answer {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = Query::new(query);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        let in_chunks = ["transfer-encoding", "x-amz-decoded-content-length", "range"]
            .iter()
            .any(|name| !request.header(name).is_empty());
        if bucket.is_empty() || !path.bytes().all(plain) || in_chunks {
            return Answer::error(501, "NotImplemented");
        }
        if request.method == "PUT" && key.is_empty() {
            self.buckets.entry(bucket.to_owned()).or_default();
            return Answer::new(200, "");
        }
        let Some(objects) = self.buckets.get_mut(bucket) else {
            return Answer::error(404, "NoSuchBucket");
        };
        // Parts of uploads, tags and the like.
        if !key.is_empty() && !query.0.keys().all(|name| name.is_empty() || name == "x-id") {
            return Answer::error(501, "NotImplemented");
        }
        match (request.method.as_str(), key.is_empty()) {
            ("HEAD", true) => Answer::new(200, ""),
            ("GET", true) if query.get("list-type") == Some("2") => {
                let (token, next) = ("continuation-token", "NextContinuationToken");
                list(objects, &query, token, next)
            }
            ("GET", true) if query.get("prefix").is_some() => {
                list(objects, &query, "marker", "NextMarker")
            }
            ("POST", true) if query.get("delete").is_some() => delete(objects, &request.body),
            ("PUT", false) if request.header("x-amz-copy-source").is_empty() => {
                objects.insert(key.to_owned(), request.body.clone());
                Answer::new(200, "")
            }
            ("GET" | "HEAD", false) => match objects.get(key) {
                Some(content) => Answer::new(200, content.clone()),
                None => Answer::error(404, "NoSuchKey"),
            },
            ("DELETE", false) => {
                objects.remove(key);
                Answer::new(204, "")
            }
            _ => Answer::error(501, "NotImplemented"),
        }
    }
}

/// The parameters of a request.
struct Query(BTreeMap<String, String>);

impl Query {
    fn new(text: &str) -> Self {
        let pairs = text.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // The one character of the names here that clients escape.
            (name.to_owned(), value.replace("%2F", "/"))
        });
        Self(pairs.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// A page of a listing, after the name that the parameter `token` gives. `next` is
/// how the answer gives the name for the next page, its own last one.
fn list(objects: &BTreeMap<String, Vec<u8>>, query: &Query, token: &str, next: &str) -> Answer {
    let prefix = query.get("prefix").unwrap_or_default();
    let delimiter = query.get("delimiter").filter(|text| !text.is_empty());
    let after = query.get(token).or_else(|| query.get("start-after"));
    let asked = query.get("max-keys").and_then(|text| text.parse().ok());
    let most = asked.map_or(PAGE, |asked: usize| asked.min(PAGE));
    let (mut contents, mut directories) = (String::new(), BTreeSet::new());
    let (mut count, mut last, mut more) = (0, "", false);
    let begin = after.filter(|after| *after >= prefix);
    let begin = begin.map_or(Bound::Included(prefix), Bound::Excluded);
    for (key, content) in objects.range::<str, _>((begin, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else {
            break;
        };
        let directory = delimiter.and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            Some(&key[..prefix.len() + end])
        });
        // A directory is named once, be it on this page or on the one before.
        if directory.is_some_and(|d| directories.contains(d) || after == Some(d)) {
            continue;
        }
        if count == most {
            more = true;
            break;
        }
        count += 1;
        last = directory.unwrap_or(key);
        if let Some(directory) = directory {
            directories.insert(directory);
        } else {
            let size = content.len();
            let _ = write!(
                contents,
                "<Contents><Key>{key}</Key><LastModified>{WRITTEN}</LastModified>\
                 <ETag>\"0\"</ETag><Size>{size}</Size></Contents>"
            );
        }
    }
    for directory in directories {
        let _ = write!(
            contents,
            "<CommonPrefixes><Prefix>{directory}</Prefix></CommonPrefixes>"
        );
    }
    if more {
        let _ = write!(contents, "<{next}>{last}</{next}>");
    }
    Answer::new(
        200,
        format!(
            "<ListBucketResult><Prefix>{prefix}</Prefix><KeyCount>{count}</KeyCount>\
             <IsTruncated>{more}</IsTruncated>{contents}</ListBucketResult>"
        ),
    )
}

/// Deletes the objects that are named in `body`, and names them back unless that
/// is not wanted.
fn delete(objects: &mut BTreeMap<String, Vec<u8>>, body: &[u8]) -> Answer {
    let body = String::from_utf8_lossy(body);
    let keys: Vec<&str> = body
        .split("<Key>")
        .skip(1)
        .filter_map(|rest| rest.split_once("</Key>"))
        .map(|(key, _)| key)
        .collect();
    if keys.is_empty() || keys.len() > PAGE || body.contains("<VersionId>") {
        return Answer::error(400, "MalformedXML");
    }
    let quiet = body.contains("<Quiet>true</Quiet>");
    let mut answer = String::from("<DeleteResult>");
    for key in keys {
        objects.remove(key);
        if !quiet {
            let _ = write!(answer, "<Deleted><Key>{key}</Key></Deleted>");
        }
    }
    Answer::new(200, answer + "</DeleteResult>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(store: &mut Store, method: &str, target: &str, body: &str) -> (u16, String) {
        let answer = store.answer(&HttpRequest {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: body.as_bytes().to_vec(),
        });
        (answer.status, String::from_utf8(answer.content).unwrap())
    }

    fn filled(keys: &[&str]) -> Store {
        let mut store = Store::default();
        ask(&mut store, "PUT", "/b", "");
        for key in keys {
            assert_eq!(ask(&mut store, "PUT", &format!("/b/{key}"), key).0, 200);
        }
        store
    }

    /// Names on all pages of a listing in its newer form, each page asked for with
    /// the token of the one before, or in its older one.
    fn listed(store: &mut Store, newer: bool, query: &str) -> Vec<String> {
        let (parameter, tag) = if newer {
            ("list-type=2&continuation-token", "NextContinuationToken")
        } else {
            ("marker", "NextMarker")
        };
        let (mut names, mut token) = (Vec::new(), String::new());
        loop {
            let target = format!("/b?{query}&{parameter}={token}");
            let (status, text) = ask(store, "GET", &target, "");
            assert_eq!(status, 200);
            let values = |tag: &str| -> Vec<String> {
                let tag = format!("<{tag}>");
                let parts = text.split(&tag).skip(1);
                parts
                    .filter_map(|rest| Some(rest.split_once("</")?.0.to_owned()))
                    .collect()
            };
            // The first prefix is the one that was asked for.
            names.extend(values("Key"));
            names.extend(values("Prefix").into_iter().skip(1));
            assert!(names.len() < 100, "it goes in circles: {names:?}");
            match values(tag).first() {
                Some(next) => next.clone_into(&mut token),
                None => return names,
            }
        }
    }

    #[test]
    fn a_listing_is_whole_however_small_its_pages() {
        let mut store = filled(&["a/1", "p/1/x", "p/1/y", "p/2", "p/3/z", "q"]);
        for (size, newer) in [(1, true), (1, false), (2, true), (2, false), (1000, true)] {
            let page = format!("max-keys={size}&prefix=p%2F");
            let all = listed(&mut store, newer, &page);
            assert_eq!(all, ["p/1/x", "p/1/y", "p/2", "p/3/z"], "{size} {newer}");
            let mut one = listed(&mut store, newer, &format!("{page}&delimiter=%2F"));
            one.sort();
            assert_eq!(one, ["p/1/", "p/2", "p/3/"], "{size} {newer}");
        }
        assert_eq!(listed(&mut store, true, "prefix=none").len(), 0);
    }

    #[test]
    fn what_is_deleted_is_gone_and_the_rest_is_not() {
        let mut store = filled(&["a", "b", "c"]);
        let body = "<Delete><Object><Key>a</Key></Object><Object><Key>c</Key></Object></Delete>";
        let (status, text) = ask(&mut store, "POST", "/b?delete", body);
        assert_eq!((status, text.matches("<Deleted>").count()), (200, 2));
        assert_eq!(listed(&mut store, true, "prefix="), ["b"]);
        assert_eq!(ask(&mut store, "GET", "/b/a", "").0, 404);
        assert_eq!(ask(&mut store, "GET", "/b/b", ""), (200, "b".to_owned()));
    }

    #[test]
    fn what_it_does_not_know_is_refused() {
        let mut store = filled(&[]);
        for (method, target) in [
            ("PUT", "/b/a%20b"),
            ("POST", "/b/a?uploads"),
            ("PUT", "/b/a?partNumber=1&uploadId=1"),
            ("GET", "/b?versioning"),
            ("GET", "/"),
        ] {
            assert_eq!(ask(&mut store, method, target, "").0, 501, "{target}");
        }
        assert_eq!(ask(&mut store, "GET", "/c?list-type=2", "").0, 404);
    }
}
