//! snappy in its framing format: a stream identifier, then chunks of at most
//! 64 KiB of plain data, each with a masked CRC-32C.
//!
//! The format has no end mark. A stream cut between two chunks is a valid
//! shorter stream, which no decoder can tell; see the module above.
//!
//! The framing is ours, the library compresses single chunks. Its own encoder
//! writes the last chunk when it is dropped, and nothing at all for empty data,
//! where the identifier alone is the stream. Its decoder skips chunks of the
//! kinds that are reserved for later versions of the format, as the format asks
//! for: one flipped bit makes such a chunk of one with data. Nobody ever wrote
//! one, so here they are an error.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem;

use super::blocks::Blocks;
use super::guard::{corrupt, cut, empty};
use super::workers::{Block, Join, Parallel, Work};
use super::{Codec, CodecInfo, Encoder, Level, guard};

static INFO: CodecInfo = CodecInfo {
    name: "snappy",
    suffix: ".snappy",
    for_backup: true,
    decoded_apart: false,
    backup_level: 0,
    levels: None,
};

/// First chunk of every stream.
///
/// Source of this and of all numbers below: `framing_format.txt` of snappy.
const IDENTIFIER: [u8; 10] = *b"\xff\x06\x00\x00sNaPpY";

/// Most plain bytes in a chunk.
const CHUNK: usize = 65536;

/// Length of a chunk's header: type, length in three bytes, checksum in four.
const HEADER: usize = 8;

const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const PADDING: u8 = 0xfe;
const IDENTIFIER_KIND: u8 = 0xff;

/// Bytes fetched from the input at a time.
const BUFFER: usize = 128 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Snappy;

impl Codec for Snappy {
    fn info(&self) -> &'static CodecInfo {
        &INFO
    }

    fn encoder_memory(&self, _level: Level) -> u64 {
        1 << 20
    }

    fn encoder(&self, out: Box<dyn Write + Send>, _level: Level) -> io::Result<Box<dyn Encoder>> {
        Ok(guard::encoding(Chunks {
            blocks: Blocks::new(CHUNK),
            packer: Packer::new(),
            head: &IDENTIFIER,
            out,
        }))
    }

    fn parallel(
        &self,
        out: Box<dyn Write + Send>,
        _level: Level,
        threads: usize,
    ) -> io::Result<Box<dyn Encoder>> {
        Ok(guard::encoding(Parallel::new(Several, out, threads)?))
    }

    fn decoder(&self, input: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        Ok(guard::decoding(Stream {
            input: BufReader::with_capacity(BUFFER, input),
            raw: snap::raw::Decoder::new(),
            packed: Vec::new(),
            plain: Vec::new(),
            given: 0,
            begun: false,
        }))
    }
}

struct Chunks {
    blocks: Blocks,
    packer: Packer,
    /// What is written before the first chunk; empty behind it.
    head: &'static [u8],
    out: Box<dyn Write + Send>,
}

/// Writes chunks.
struct Packer {
    raw: snap::raw::Encoder,
    /// Room for one chunk as it is written.
    packed: Vec<u8>,
}

impl Packer {
    fn new() -> Self {
        Self {
            raw: snap::raw::Encoder::new(),
            packed: Vec::new(),
        }
    }

    /// Writes one chunk; `plain` is neither empty nor longer than [`CHUNK`].
    fn chunk(&mut self, plain: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.packed
            .resize(HEADER + snap::raw::max_compress_len(plain.len()), 0);
        let length = self.raw.compress(plain, &mut self.packed[HEADER..])?;
        // What an eighth cannot be saved of is stored as it is: reading it back
        // is then a copy.
        let (kind, body) = if length >= plain.len() - plain.len() / 8 {
            (UNCOMPRESSED, plain.len())
        } else {
            (COMPRESSED, length)
        };
        let size = u32::try_from(body + 4).expect("a chunk is at most 64 KiB");
        self.packed[..4].copy_from_slice(&(size << 8 | u32::from(kind)).to_le_bytes());
        self.packed[4..HEADER].copy_from_slice(&masked_crc(plain).to_le_bytes());
        if kind == COMPRESSED {
            out.write_all(&self.packed[..HEADER + body])
        } else {
            out.write_all(&self.packed[..HEADER])?;
            out.write_all(plain)
        }
    }
}

/// The format rotates and shifts the checksum, so that checksums of data that
/// itself contains checksums stay meaningful.
fn masked_crc(plain: &[u8]) -> u32 {
    crc32c::crc32c(plain)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

impl Write for Chunks {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (packer, head, out) = (&mut self.packer, &mut self.head, &mut self.out);
        self.blocks.feed(buf, |block| {
            // Not before: alone it is a whole stream.
            out.write_all(mem::take(head))?;
            packer.chunk(block, out)
        })?;
        Ok(buf.len())
    }

    /// Passes on the chunks that are full; a short one in the middle would
    /// change the output.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Encoder for Chunks {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.out.write_all(self.head)?;
        let rest = self.blocks.into_rest();
        if !rest.is_empty() {
            self.packer.chunk(&rest, &mut self.out)?;
        }
        self.out.flush()
    }
}

/// The same chunks, several of them to a thread at a time.
struct Several;

impl Join for Several {
    type Worker = Packer;

    const BLOCK: usize = 4 * CHUNK;

    const HISTORY: usize = 0;

    fn worker(&self) -> io::Result<Packer> {
        Ok(Packer::new())
    }

    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&IDENTIFIER)
    }

    fn join(&mut self, block: &Block<()>, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&block.packed)
    }

    fn end(&mut self, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

impl Work for Packer {
    type Note = ();

    fn pack(&mut self, block: &mut Block<()>) -> io::Result<()> {
        let (_, plain, packed) = block.parts();
        packed.reserve(plain.len() + HEADER * plain.len().div_ceil(CHUNK));
        plain
            .chunks(CHUNK)
            .try_for_each(|plain| self.chunk(plain, packed))
    }
}

struct Stream {
    input: BufReader<Box<dyn Read + Send>>,
    raw: snap::raw::Decoder,
    /// The chunk as it was read.
    packed: Vec<u8>,
    /// The chunk's plain bytes.
    plain: Vec<u8>,
    /// How many of them were handed out.
    given: usize,
    /// Whether there was an identifier.
    begun: bool,
}

impl Stream {
    /// Reads one chunk into `plain`, which may stay empty. Answers whether there
    /// was one.
    fn chunk(&mut self) -> io::Result<bool> {
        if self.input.fill_buf()?.is_empty() {
            return if self.begun { Ok(false) } else { Err(empty()) };
        }
        self.plain.clear();
        self.given = 0;
        let mut header = [0; 4];
        fill(&mut self.input, &mut header)?;
        let [kind, low, middle, high] = header;
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let most = match kind {
            IDENTIFIER_KIND => IDENTIFIER.len() - 4,
            COMPRESSED => 4 + snap::raw::max_compress_len(CHUNK),
            UNCOMPRESSED => 4 + CHUNK,
            PADDING => 0xff_ffff,
            _ => return Err(corrupt("snappy data has a chunk of an unknown kind")),
        };
        if !self.begun && kind != IDENTIFIER_KIND {
            return Err(corrupt("this is no snappy data"));
        }
        if length > most {
            return Err(corrupt("snappy data has a chunk that is too long"));
        }
        self.packed.resize(length, 0);
        fill(&mut self.input, &mut self.packed)?;
        match kind {
            IDENTIFIER_KIND => {
                if self.packed != IDENTIFIER[4..] {
                    return Err(corrupt("this is no snappy data"));
                }
                self.begun = true;
            }
            PADDING => {}
            _ => self.unpack(kind)?,
        }
        Ok(true)
    }

    fn unpack(&mut self, kind: u8) -> io::Result<()> {
        let (checksum, body) = self
            .packed
            .split_first_chunk::<4>()
            .ok_or_else(|| corrupt("snappy data has a chunk that is too short"))?;
        if kind == COMPRESSED {
            let length = snap::raw::decompress_len(body).map_err(corrupt)?;
            if length > CHUNK {
                return Err(corrupt("snappy data has a chunk that is too long"));
            }
            self.plain.resize(length, 0);
            self.raw
                .decompress(body, &mut self.plain)
                .map_err(corrupt)?;
        } else {
            self.plain.extend_from_slice(body);
        }
        if masked_crc(&self.plain) != u32::from_le_bytes(*checksum) {
            return Err(corrupt("a checksum of the snappy data is wrong"));
        }
        Ok(())
    }
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<()> {
    input.read_exact(buffer).map_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            cut()
        } else {
            error
        }
    })
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() {
            if !self.chunk()? {
                return Ok(0);
            }
        }
        let rest = &self.plain[self.given..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}
