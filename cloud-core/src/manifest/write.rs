//! Making a manifest while the files pass by.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::waiting::{Text, Waiting};
use super::{Entry, WalRange, hex};

/// `server_version_num` from which manifests carry the system identifier.
const VERSION_2: u32 = 170_000;

/// Level of the compression under which the text waits for its end: the fastest.
const LEVEL: i32 = 1;

/// Window of that compression, as a power of two: 512 KiB. Lines resemble their
/// neighbours.
const WINDOW: u32 = 19;

/// Takes the files of a backup one by one.
///
/// The text goes into the archive only when the WAL is known that the backup
/// needs, so it waits, compressed: a file takes some 25 bytes. The last megabyte waits
/// in memory, what came before it in a temporary file.
pub struct Builder {
    text: zstd::Encoder<'static, Waiting>,
    sum: Sha256,
    size: u64,
    first: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Begins the manifest of a backup of a server of `version`
    /// (`server_version_num`).
    pub fn new(version: u32, system_identifier: u64) -> io::Result<Self> {
        let mut text = zstd::Encoder::new(Waiting::new(&std::env::temp_dir()), LEVEL)?;
        text.window_log(WINDOW)?;
        let mut builder = Self {
            text,
            sum: Sha256::new(),
            size: 0,
            first: true,
        };
        let mut head = String::from("{ \"PostgreSQL-Backup-Manifest-Version\": ");
        if version >= VERSION_2 {
            let _ = write!(head, "2,\n\"System-Identifier\": {system_identifier},\n");
        } else {
            head.push_str("1,\n");
        }
        head.push_str("\"Files\": [");
        builder.put(&head)?;
        Ok(builder)
    }

    /// Adds a file. A path must not come twice.
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = String::from(if self.first { "\n" } else { ",\n" });
        self.first = false;
        match std::str::from_utf8(&entry.path) {
            Ok(path) => {
                line.push_str("{ \"Path\": ");
                quote(&mut line, path);
            }
            Err(_) => {
                let _ = write!(line, "{{ \"Encoded-Path\": \"{}\"", hex(&entry.path));
            }
        }
        let modified = jiff::Timestamp::from_second(entry.modified).unwrap_or_default();
        let modified = modified.strftime("%Y-%m-%d %H:%M:%S GMT");
        let _ = write!(
            line,
            ", \"Size\": {}, \"Last-Modified\": \"{modified}\"",
            entry.size
        );
        if let Some(checksum) = &entry.checksum {
            let algorithm = checksum.algorithm().name();
            let _ = write!(
                line,
                ", \"Checksum-Algorithm\": \"{algorithm}\", \"Checksum\": \"{checksum}\""
            );
        }
        line.push_str(" }");
        self.put(&line)
    }

    /// Ends the manifest with the WAL that the backup needs, newest timeline first.
    pub fn finish(mut self, wal: &[WalRange]) -> io::Result<Manifest> {
        self.put("\n],\n\"WAL-Ranges\": [")?;
        for (index, range) in wal.iter().enumerate() {
            let WalRange {
                timeline,
                start,
                end,
            } = range;
            let comma = if index == 0 { "" } else { "," };
            self.put(&format!(
                "{comma}\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \
                 \"End-LSN\": \"{end}\" }}"
            ))?;
        }
        self.put("\n],\n")?;
        let sum = hex(&self.sum.finalize_reset());
        self.put(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"))?;
        let size = self.size;
        let waiting = self.text.finish()?;
        let in_memory = waiting.in_memory();
        let text = zstd::Decoder::with_buffer(waiting.into_text()?)?;
        Ok(Manifest {
            size,
            in_memory,
            text,
        })
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.sum.update(text);
        self.size += text.len() as u64;
        self.text.write_all(text.as_bytes())
    }
}

/// A manifest, to be read once.
/// It waits compressed.
pub struct Manifest {
    size: u64,
    in_memory: usize,
    text: zstd::Decoder<'static, Text>,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Manifest {
    /// Its size, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it takes of memory, in bytes.
    pub fn in_memory(&self) -> usize {
        self.in_memory
    }
}

impl Read for Manifest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.text.read(buf)
    }
}

/// A string as the server quotes it.
fn quote(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{8}' => line.push_str("\\b"),
            '\u{c}' => line.push_str("\\f"),
            '\0'..='\u{1f}' => {
                let _ = write!(line, "\\u{:04x}", u32::from(character));
            }
            _ => line.push(character),
        }
    }
    line.push('"');
}
