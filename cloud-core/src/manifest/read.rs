//! Reading a manifest, line by line, as PostgreSQL's tools and ours write it.

use std::io::{self, BufRead, Read};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Checksum, Entry, WalRange, hex, unhex};
use crate::wal::TimelineId;

/// Longest line, in bytes: a path of the 4096 bytes that systems allow, each
/// escaped.
const MAX_LINE: u64 = 64 << 10;

/// Most ranges of WAL: one for each timeline that a backup can span.
const MAX_RANGES: usize = 1000;

/// What a manifest says beside its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// The WAL that the backup needs.
    pub ranges: Vec<WalRange>,
    /// The cluster, from version 2 on.
    pub system_identifier: Option<u64>,
    /// How many files it lists.
    pub files: u64,
}

/// Why a text is no manifest that counts.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is of another form.
    #[error("line {line} of the manifest is not what it should be")]
    Form {
        /// The line, from 1.
        line: u64,
    },
    /// It is not what was written.
    #[error("the manifest's own checksum does not match")]
    Checksum,
}

/// Reads a whole manifest and gives its files, in their order, to `each`.
///
/// # Errors
///
/// Only at the end is it known whether the manifest's own checksum holds, so what
/// `each` was given counts only if this succeeds.
pub fn read(text: impl BufRead, mut each: impl FnMut(Entry)) -> Result<Summary, ManifestError> {
    let mut lines = Lines {
        text,
        sum: Sha256::new(),
        number: 0,
        line: Vec::new(),
    };
    let mut summary = Summary::default();
    let version = lines.next()?;
    let version = version.strip_prefix("{ \"PostgreSQL-Backup-Manifest-Version\": ");
    let mut line = match version {
        Some("1,") => lines.next()?,
        Some("2,") => {
            let identifier = lines.next()?;
            let identifier = identifier
                .strip_prefix("\"System-Identifier\": ")
                .and_then(|rest| rest.strip_suffix(',')?.parse().ok());
            summary.system_identifier = Some(identifier.ok_or_else(|| lines.form())?);
            lines.next()?
        }
        _ => return Err(lines.form()),
    };
    if line != "\"Files\": [" {
        return Err(lines.form());
    }
    loop {
        line = lines.next()?;
        if line == "]," {
            break;
        }
        let entry = entry(&line).ok_or_else(|| lines.form())?;
        summary.files += 1;
        each(entry);
    }
    if lines.next()? != "\"WAL-Ranges\": [" {
        return Err(lines.form());
    }
    loop {
        line = lines.next()?;
        if line == "]," {
            break;
        }
        let range = range(&line).filter(|_| summary.ranges.len() < MAX_RANGES);
        summary.ranges.push(range.ok_or_else(|| lines.form())?);
    }
    let sum = hex(&lines.sum.clone().finalize());
    let last = lines.next()?;
    let recorded = last
        .strip_prefix("\"Manifest-Checksum\": \"")
        .and_then(|rest| rest.strip_suffix("\"}"))
        .ok_or_else(|| lines.form())?;
    if !recorded.eq_ignore_ascii_case(&sum) {
        return Err(ManifestError::Checksum);
    }
    if !lines.at_end()? {
        return Err(lines.form());
    }
    Ok(summary)
}

struct Lines<R> {
    text: R,
    /// Of all lines so far.
    sum: Sha256,
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line, without its end.
    fn next(&mut self) -> Result<String, ManifestError> {
        self.line.clear();
        self.number += 1;
        let mut limited = (&mut self.text).take(MAX_LINE);
        limited.read_until(b'\n', &mut self.line)?;
        self.sum.update(&self.line);
        let line = self
            .line
            .strip_suffix(b"\n")
            .and_then(|line| std::str::from_utf8(line).ok());
        line.map(str::to_owned).ok_or_else(|| self.form())
    }

    fn at_end(&mut self) -> io::Result<bool> {
        Ok(self.text.fill_buf()?.is_empty())
    }

    fn form(&self) -> ManifestError {
        ManifestError::Form { line: self.number }
    }
}

/// An object of a list, with or without a comma behind it.
fn object(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_suffix(',').unwrap_or(line)).ok()
}

fn entry(line: &str) -> Option<Entry> {
    let object = object(line)?;
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let path = match (text("Path"), text("Encoded-Path")) {
        (Some(path), None) => path.as_bytes().to_vec(),
        (None, Some(digits)) => unhex(digits)?,
        _ => return None,
    };
    let modified = text("Last-Modified")?.strip_suffix(" GMT")?;
    let modified = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", modified).ok()?;
    let modified = modified.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    let checksum = match (text("Checksum-Algorithm"), text("Checksum")) {
        (Some("CRC32C" | "SHA256"), None) => return None,
        (Some(algorithm @ ("CRC32C" | "SHA256")), Some(digits)) => {
            Some(Checksum::parse(algorithm, digits)?)
        }
        _ => None,
    };
    Some(Entry {
        path,
        size: object.get("Size")?.as_u64()?,
        modified: modified.timestamp().as_second(),
        checksum,
    })
}

fn range(line: &str) -> Option<WalRange> {
    let object = object(line)?;
    let lsn = |name: &str| object.get(name)?.as_str()?.parse().ok();
    let timeline = object.get("Timeline")?.as_u64()?;
    Some(WalRange {
        timeline: TimelineId(u32::try_from(timeline).ok()?),
        start: lsn("Start-LSN")?,
        end: lsn("End-LSN")?,
    })
}
