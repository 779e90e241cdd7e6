//! S3 as it is spoken elsewhere: a proxy in front of a real server that has one
//! habit of a store that users report, or several of them.
//!
//! It is strict. What such a store refuses is refused, with its status, code and
//! words, before the server behind sees it; what it ignores the server does not see;
//! what it answers otherwise is changed in the server's answer. A request that was
//! changed is signed anew, because the server behind looks at signatures.

mod habits;
mod sign;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use self::target::Target;
use crate::http_server::{HttpAnswer, HttpRequest, HttpServer, Onward};
use crate::s3::Bucket;

/// One habit of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Bodies in chunks and checksums as trailers are not implemented (501).
    ChunksUnknown,
    /// They are an invalid request (400).
    ChunksInvalid,
    /// They are taken for the content, which does not fit its hash (400).
    ChunksMismatch,
    /// Headers named `x-amz-checksum-` and the like are an invalid argument, by name
    /// (400).
    ChecksumsInvalid,
    /// They are not implemented (501), and the answer does not say what is not.
    ChecksumsUnknown,
    /// They are an invalid request, and the answer says nothing (400, as PowerScale).
    ChecksumsVague,
    /// A bulk deletion wants `Content-MD5`: `MissingContentMD5`.
    BulkWantsMd5,
    /// The same as `InvalidRequest`, with words.
    BulkWantsMd5InWords,
    /// The same as 400 with an empty message.
    BulkWantsMd5Silently,
    /// There is no bulk deletion (501).
    NoBulk,
    /// There is none (405).
    BulkNotAllowed,
    /// An answer to a bulk deletion names only what was not deleted.
    BulkSilent,
    /// The first answer to each bulk deletion is a failure for every key.
    BulkFailsOnce,
    /// All parts but the last have one size (Cloudflare R2).
    EqualParts,
    /// Parts are numbered up to 1,000 (Scaleway).
    ThousandParts,
    /// Nobody may ask for the bucket itself (403).
    BucketHidden,
    /// The same as 400 (IBM).
    BucketHiddenAsBad,
    /// The credentials are for one path of the bucket: nothing is told or done
    /// elsewhere.
    PathOnly,
    /// `If-None-Match` is not implemented (501).
    ConditionsUnknown,
    /// It is an invalid argument, by name (400).
    ConditionsInvalid,
    /// It is an invalid request, and the answer says nothing (400).
    ConditionsVague,
    /// It is ignored: the object is replaced.
    ConditionsIgnored,
    /// Listings come in pages of 100, whatever was asked for.
    SmallPages,
    /// Buckets are in the path; a host with a bucket's name in it is unknown.
    PathStyleOnly,
    /// A third of the requests is too much (503).
    SlowDown,
    /// After twelve requests three in a row are, and the answer says when to come
    /// back.
    SlowDownBursts,
    /// The first answer to each completion of an upload is 200 with an error in it.
    CompleteFailsOnce,
    /// Names in listings are not encoded, though that was asked for.
    PlainNames,
    /// They are not, but the answer says that they are.
    PlainNamesCalledEncoded,
    /// They are encoded, and the answer does not say so.
    EncodedNames,
    /// Entity tags have no quotes, and an answer to HEAD has no length where there is
    /// no object.
    BareTags,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::ChunksUnknown,
        Self::ChunksInvalid,
        Self::ChunksMismatch,
        Self::ChecksumsInvalid,
        Self::ChecksumsUnknown,
        Self::ChecksumsVague,
        Self::BulkWantsMd5,
        Self::BulkWantsMd5InWords,
        Self::BulkWantsMd5Silently,
        Self::NoBulk,
        Self::BulkNotAllowed,
        Self::BulkSilent,
        Self::BulkFailsOnce,
        Self::EqualParts,
        Self::ThousandParts,
        Self::BucketHidden,
        Self::BucketHiddenAsBad,
        Self::PathOnly,
        Self::ConditionsUnknown,
        Self::ConditionsInvalid,
        Self::ConditionsVague,
        Self::ConditionsIgnored,
        Self::SmallPages,
        Self::PathStyleOnly,
        Self::SlowDown,
        Self::SlowDownBursts,
        Self::CompleteFailsOnce,
        Self::PlainNames,
        Self::PlainNamesCalledEncoded,
        Self::EncodedNames,
        Self::BareTags,
    ];
}

/// What a store with a memory remembers.
#[derive(Debug)]
struct Memory {
    /// Decides about storms, the same way in each run.
    dice: fastrand::Rng,
    /// Requests so far.
    requests: u32,
    /// Those that failed once.
    failed: BTreeSet<String>,
    /// Sizes of parts, by upload and number.
    parts: BTreeMap<(String, u32), usize>,
}

/// A bucket's server with habits. It lives as long as the test's process.
#[derive(Debug)]
pub struct DialectStore {
    server: HttpServer,
}

/// What is known when a request comes.
struct Scene<'a> {
    /// The path in the bucket that [`Dialect::PathOnly`] is about, ending in `/`.
    path: &'a str,
    memory: &'a Mutex<Memory>,
}

impl DialectStore {
    /// The server of `bucket` with `habits`; the path that somebody's credentials are
    /// for is `path`.
    pub fn start(bucket: &Bucket<'_>, path: &str, habits: &[Dialect]) -> Self {
        let (habits, path) = (habits.to_vec(), format!("{path}/"));
        let memory = Mutex::new(Memory {
            dice: fastrand::Rng::with_seed(1),
            requests: 0,
            failed: BTreeSet::new(),
            parts: BTreeMap::new(),
        });
        let server = HttpServer::between(bucket.endpoint(), move |request, onward| {
            let scene = Scene {
                path: &path,
                memory: &memory,
            };
            scene.answer(&habits, request, onward)
        });
        Self { server }
    }

    /// What stands in place of the server's URL.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What it was asked so far, without bodies.
    pub fn seen(&self) -> Vec<HttpRequest> {
        self.server.seen()
    }
}

impl Scene<'_> {
    fn answer(&self, habits: &[Dialect], request: &HttpRequest, onward: &Onward<'_>) -> HttpAnswer {
        let target = Target::of(request);
        for habit in habits {
            if let Some(refusal) = self.refusal(*habit, request, &target) {
                return refusal;
            }
        }
        let mut changed = request.clone();
        for habit in habits {
            habits::blind(*habit, &mut changed, &target);
        }
        if changed.headers != request.headers || changed.target != request.target {
            sign::sign(&mut changed);
        }
        let mut answer = onward(&changed);
        for habit in habits {
            habits::rephrase(*habit, request, &target, &mut answer);
        }
        answer
    }

    fn with_memory<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> T {
        work(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
