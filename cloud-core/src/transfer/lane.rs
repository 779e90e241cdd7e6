//! A lane: where the tar stream of one source becomes compressed parts.
//!
//! The splitter of `tar` asks for archives one after the other; each gets an
//! encoder of its own, whose output fills parts taken from the budget. A lane
//! lives on a thread that may block.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, PartBuffer};
use super::parts::{PartPlan, worst_case};
use super::upload::{ArchiveUpload, TransferError, Uploader};
use crate::codec::{Codec, Encoder, Level};
use crate::key::Key;
use crate::store::Limits;

/// How the archives of a lane are made.
#[derive(Debug, Clone)]
pub struct LaneOptions {
    /// Compression.
    pub codec: &'static dyn Codec,
    /// Its level.
    pub level: Level,
    /// Threads that encode one archive; one is the lane's own.
    pub threads: usize,
    /// Sizes.
    pub plan: PartPlan,
    /// What the store allows.
    pub limits: Limits,
    /// Where part buffers come from.
    pub budget: Budget,
    /// Set when the work is over early.
    pub cancel: CancellationToken,
}

/// Writes archives of one source, one after the other.
pub struct Lane<'a> {
    options: &'a LaneOptions,
    uploader: &'a Uploader,
    runtime: Handle,
    open: Option<OpenArchive>,
}

struct OpenArchive {
    encoder: Box<dyn Encoder>,
    filler: Arc<Mutex<PartFiller>>,
    part_size: u64,
    /// Bytes before compression.
    plain: u64,
}

impl<'a> Lane<'a> {
    /// A lane without an open archive. `runtime` is where uploads run.
    pub fn new(options: &'a LaneOptions, uploader: &'a Uploader, runtime: Handle) -> Self {
        Self {
            options,
            uploader,
            runtime,
            open: None,
        }
    }

    /// Begins the archive `key`, whose first member has at most `first_member`
    /// bytes with its headers. `fingerprint` is kept with its object.
    ///
    /// # Errors
    ///
    /// If one member of that size cannot be stored at all.
    pub fn begin(
        &mut self,
        key: Key,
        fingerprint: Option<String>,
        first_member: u64,
    ) -> io::Result<()> {
        let part_size = self
            .options
            .plan
            .part_size_for(&self.options.limits, worst_case(first_member));
        let part_size = part_size.ok_or_else(|| {
            io::Error::other(format!(
                "a file of {first_member} bytes is larger than an object of the store can be \
                 (archive `{key}`)"
            ))
        })?;
        if part_size > self.options.plan.part_size {
            tracing::warn!(
                "archive `{key}` begins with a file of {first_member} bytes, which needs parts of \
                 {part_size} bytes: more memory than usual is used until it is stored"
            );
        }
        let filler = Arc::new(Mutex::new(PartFiller {
            upload: self.uploader.begin(key, fingerprint),
            budget: self.options.budget.clone(),
            runtime: self.runtime.clone(),
            cancel: self.options.cancel.clone(),
            part_size,
            part: None,
            bytes: 0,
        }));
        let out = Box::new(FillerHandle(Arc::clone(&filler)));
        let (codec, level) = (self.options.codec, self.options.level);
        // The threads begin here, so they have the priority of this one.
        let encoder = match self.options.threads {
            ..=1 => codec.encoder(out, level)?,
            threads => codec.parallel(out, level, threads)?,
        };
        self.open = Some(OpenArchive {
            encoder,
            filler,
            part_size,
            plain: 0,
        });
        Ok(())
    }

    /// Bytes that the open archive has in the store or in parts, after
    /// compression, and those that are to be expected of what its encoder holds.
    pub fn bytes_out(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| {
            let bytes = lock(&open.filler).bytes;
            bytes.saturating_add(expected(bytes, open.plain, open.encoder.held()))
        })
    }

    /// Whether a member of `bytes` plain bytes, headers included, is sure to
    /// fit what part numbers the open archive has left, behind what its encoder holds.
    pub fn fits(&self, bytes: u64) -> bool {
        let Some(open) = &self.open else { return true };
        let capacity = open
            .part_size
            .saturating_mul(u64::from(self.options.limits.max_parts))
            .min(self.options.limits.max_object);
        let to_come = worst_case(bytes.saturating_add(open.encoder.held()));
        lock(&open.filler).bytes.saturating_add(to_come) <= capacity
    }

    /// Ends the open archive: its last bytes are encoded and handed over.
    pub fn end(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        open.encoder.finish()?;
        let filler = Arc::into_inner(open.filler)
            .ok_or_else(|| io::Error::other("the encoder kept its output"))?;
        filler
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .end()
    }
}

impl Write for Lane<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.open {
            Some(open) => {
                let taken = open.encoder.write(buf)?;
                open.plain += taken as u64;
                Ok(taken)
            }
            None => Err(io::Error::other("no archive is open")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What becomes of `held` plain bytes in an encoder that made `bytes` of the others,
/// `plain` in all: as many if they are as those. Of the first ones nothing is known
/// but that they hardly grow.
fn expected(bytes: u64, plain: u64, held: u64) -> u64 {
    let held = held.min(plain);
    let scaled = u128::from(held) * u128::from(bytes) / u128::from(plain - held).max(1);
    if bytes == 0 {
        held
    } else {
        u64::try_from(scaled).map_or(held, |scaled| scaled.min(held))
    }
}

/// Collects encoded bytes into parts and hands them to the upload.
struct PartFiller {
    upload: ArchiveUpload,
    budget: Budget,
    runtime: Handle,
    cancel: CancellationToken,
    part_size: u64,
    part: Option<PartBuffer>,
    bytes: u64,
}

impl PartFiller {
    fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let part = match &mut self.part {
                Some(part) => part,
                none => none.insert(
                    self.budget
                        .take(self.part_size, &self.runtime, &self.cancel)
                        .ok_or_else(|| stopped(&TransferError::Cancelled))?,
                ),
            };
            let taken = part.fill(data);
            self.bytes += taken as u64;
            data = &data[taken..];
            if part.is_full() {
                let full = self.part.take().expect("it was just filled");
                self.upload.send(full).map_err(|error| stopped(&error))?;
            }
        }
        Ok(())
    }

    fn end(mut self) -> io::Result<()> {
        if let Some(part) = self.part.take() {
            self.upload.send(part).map_err(|error| stopped(&error))?;
        }
        self.upload.end().map_err(|error| stopped(&error))
    }
}

/// The uploader keeps the cause; what the lane sees is only that it is over.
fn stopped(error: &TransferError) -> io::Error {
    io::Error::other(error.to_string())
}

struct FillerHandle(Arc<Mutex<PartFiller>>);

impl Write for FillerHandle {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        lock(&self.0).write(buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
