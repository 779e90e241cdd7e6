//! Decodes the blocks of bzip2 streams side by side.
//!
//! The input is cut at the marks of blocks ([`super::marks`]). A worker decodes each piece as a
//! stream of that block alone; what comes out is read in the order of the blocks, and a worker
//! that is ahead waits, since a block of few bytes can have 45 MB.
//!
//! Memory, for each thread: 3.7 MB of the library, a block as it came, of 0.9 MB at most unless
//! somebody made it larger, and ½ MiB of what comes out. All buffers are used again, so that what
//! is freed by another thread than it was asked for by does not pile up.
//!
//! A mark can also stand within a block by chance, once in some thirty terabytes. Neither piece
//! of such a block can be decoded; so one that cannot is joined with the next one, and tried
//! again.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use ::bzip2::bufread::BzDecoder;

use super::blocks::Bits;
use super::marks::{BLOCK, Cutter, END, Kind, MARK, Piece};
use crate::codec::crew::Crew;
use crate::codec::guard::{corrupt, cut, empty};

/// Bytes fetched from the input at a time.
const INPUT: usize = 64 << 10;

/// Plain bytes that a worker passes on at a time, and how often before somebody has to take
/// them: half a block of ordinary bytes. With a whole one two threads are no faster, and with a
/// quarter they are a tenth slower.
const OUTPUT: usize = 128 << 10;
const OUTPUTS: usize = 4;

/// How many pieces are joined with one that cannot be decoded. A second mark by chance in one
/// block is no chance any more.
const JOINED: usize = 2;

/// Bits of a checksum.
const CHECKSUM: usize = 32;

/// Bits of a stream's header.
const HEADER: usize = 32;

/// Buffers of [`OUTPUT`] bytes that were read, for who has something to say.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// What a worker is to decode.
struct Job {
    piece: Arc<Piece>,
    said: SyncSender<Said>,
    spare: Spare,
}

enum Said {
    Bytes(Vec<u8>),
    End(io::Result<()>),
}

/// A block.
struct Block {
    piece: Arc<Piece>,
    /// Of how many pieces it was made.
    pieces: usize,
    said: Receiver<Said>,
}

/// What comes out of the cutter, the blocks already given to somebody.
enum Part {
    Block(Block),
    Other(Piece),
}

/// A decoder.
pub(super) struct Apart<R> {
    cutter: Cutter<BufReader<R>>,
    /// How many pieces may be joined with one.
    joined: usize,
    /// The block that is being read.
    block: Option<Block>,
    /// What follows it.
    ahead: VecDeque<Part>,
    /// Checksum of the checksums of the stream's blocks so far.
    combined: u32,
    bytes: Vec<u8>,
    at: usize,
    spare: Spare,
    /// Behind what it waits for answers in: those who give them end when nobody waits.
    crew: Crew<Job>,
}

impl<R: Read> Apart<R> {
    /// Decodes on `threads` threads beside the one that reads.
    pub(super) fn new(input: R, threads: usize) -> io::Result<Self> {
        Ok(Self {
            cutter: Cutter::new(BufReader::with_capacity(INPUT, input)),
            joined: JOINED,
            block: None,
            ahead: VecDeque::new(),
            combined: 0,
            bytes: Vec::new(),
            at: 0,
            spare: Spare::default(),
            crew: Crew::new("decoder", threads, || Ok(|job: Job| job.run()))?,
        })
    }

    /// Sees to it that every thread has a block.
    fn look_ahead(&mut self) -> io::Result<()> {
        while self.ahead.len() < self.crew.threads() {
            let Some(piece) = self.cutter.next()? else {
                return Ok(());
            };
            let part = match piece.kind {
                Kind::Block if !piece.last => Part::Block(self.give(piece, 1)?),
                _ => Part::Other(piece),
            };
            self.ahead.push_back(part);
        }
        Ok(())
    }

    fn give(&self, piece: Piece, pieces: usize) -> io::Result<Block> {
        let (said, answers) = sync_channel(OUTPUTS);
        let piece = Arc::new(piece);
        self.crew.give(Job {
            piece: Arc::clone(&piece),
            said,
            spare: Arc::clone(&self.spare),
        })?;
        Ok(Block {
            piece,
            pieces,
            said: answers,
        })
    }

    /// Goes on to the next block; `false` if there is none.
    fn go_on(&mut self) -> io::Result<bool> {
        self.look_ahead()?;
        match self.ahead.pop_front() {
            None => Ok(false),
            Some(Part::Block(block)) => {
                self.block = Some(block);
                Ok(true)
            }
            Some(Part::Other(piece)) => {
                self.between(&piece)?;
                Ok(true)
            }
        }
    }

    /// Checks the end of a stream, and the header of the next one.
    fn between(&mut self, piece: &Piece) -> io::Result<()> {
        let from = match piece.kind {
            Kind::Head if piece.bits == 0 && piece.last => return Err(empty()),
            Kind::Head => 0,
            Kind::Block => return Err(cut()),
            Kind::End => {
                let checksum = piece.field(MARK, CHECKSUM).ok_or_else(cut)?;
                if checksum != u64::from(self.combined) {
                    return Err(corrupt("the checksum of a bzip2 stream is wrong"));
                }
                // A stream ends with a whole byte.
                let end = MARK + CHECKSUM;
                end + (8 - (piece.shift + end) % 8) % 8
            }
        };
        self.combined = 0;
        let left = piece.bits.checked_sub(from).ok_or_else(cut)?;
        match (left, piece.last) {
            (0, true) => Ok(()),
            (HEADER, false) if begins(piece, from, left) => Ok(()),
            (_, true) if begins(piece, from, left) => Err(cut()),
            _ => Err(corrupt("this is no bzip2 data")),
        }
    }

    /// A block could not be decoded, and nothing of it was read: perhaps it goes on behind a
    /// mark that is none.
    fn join(&mut self, block: &Block, failed: io::Error) -> io::Result<()> {
        if block.pieces > self.joined {
            return Err(failed);
        }
        // Who decodes it alone has nothing to say any more.
        let next = match self.ahead.pop_front() {
            Some(Part::Block(next)) => Some(next.piece),
            Some(Part::Other(piece)) => Some(Arc::new(piece)),
            None => self.cutter.next()?.map(Arc::new),
        };
        let Some(next) = next.filter(|next| !(next.last && next.kind == Kind::Block)) else {
            return Err(failed);
        };
        self.block = Some(self.give(joined(&block.piece, &next), block.pieces + 1)?);
        Ok(())
    }

    /// Takes what a worker said.
    fn hear(&mut self, bytes: Vec<u8>) {
        self.at = 0;
        let read = std::mem::replace(&mut self.bytes, bytes);
        if read.capacity() > 0 {
            spare(&self.spare).push(read);
        }
    }
}

impl<R: Read> Read for Apart<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = &self.bytes[self.at..];
            if !left.is_empty() {
                let count = left.len().min(buf.len());
                buf[..count].copy_from_slice(&left[..count]);
                self.at += count;
                return Ok(count);
            }
            let Some(block) = self.block.take() else {
                if self.go_on()? {
                    continue;
                }
                return Ok(0);
            };
            let begun = self.at > 0;
            match block.said.recv().map_err(|_| self.crew.gone())? {
                Said::Bytes(bytes) => {
                    self.hear(bytes);
                    self.block = Some(block);
                }
                Said::End(Ok(())) => {
                    self.combined = self.combined.rotate_left(1) ^ checksum(&block.piece);
                    self.hear(Vec::new());
                    // The worker let go of it before it said so.
                    if let Some(piece) = Arc::into_inner(block.piece) {
                        self.cutter.again(piece);
                    }
                }
                Said::End(Err(failed)) if begun => return Err(failed),
                Said::End(Err(failed)) => self.join(&block, failed)?,
            }
        }
    }
}

/// Whether these are the 32 bits that a stream begins with.
fn is_header(bits: u64) -> bool {
    let level = bits & 0xff;
    bits >> 8 == 0x42_5a68 && (u64::from(b'1')..=u64::from(b'9')).contains(&level)
}

/// Whether the last `left` bits of a piece are what a stream begins with, as far as they go: a
/// header, and a mark that is cut.
fn begins(piece: &Piece, from: usize, left: usize) -> bool {
    let known = left.min(HEADER);
    let field = |from: usize, bits: usize| piece.field(from, bits).unwrap_or_default();
    let model = u64::from(u32::from_be_bytes(*b"BZh9"));
    let unknown = HEADER - known;
    let header = field(from, known) << unknown | model & ((1 << unknown) - 1);
    let more = left - known;
    let of_mark = |mark: u64| more < MARK && mark >> (MARK - more) == field(from + HEADER, more);
    is_header(header) && [BLOCK, END].into_iter().any(of_mark)
}

/// The checksum that stands behind the mark of a block.
fn checksum(block: &Piece) -> u32 {
    let field = block.field(MARK, CHECKSUM).unwrap_or_default();
    u32::try_from(field).unwrap_or_default()
}

/// Both as one.
fn joined(first: &Piece, next: &Piece) -> Piece {
    let mut bytes = Vec::with_capacity(first.bytes.len() + next.bytes.len());
    let mut bits = Bits::default();
    for piece in [first, next] {
        bits.push(&piece.bytes, piece.bits, &mut bytes);
    }
    bytes.extend_from_slice(bits.rest());
    Piece {
        bytes,
        bits: first.bits + next.bits,
        last: next.last,
        ..*first
    }
}

fn spare(spare: &Spare) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
    spare.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    fn run(self) {
        let result = self.decode();
        let Self { piece, said, .. } = self;
        drop(piece);
        // Nobody waits for it if the decoder was dropped meanwhile, or the piece was joined.
        let _ = said.send(Said::End(result));
    }

    fn decode(&self) -> io::Result<()> {
        let piece = &self.piece;
        // The last bits of the block are followed by the end of a stream that has only this one.
        let (whole, rest) = piece.bytes.split_at(piece.bits / 8);
        let mut end = Vec::new();
        let mut bits = Bits::default();
        bits.push(rest, piece.bits % 8, &mut end);
        let trailer = u128::from(END) << CHECKSUM | u128::from(checksum(piece));
        let trailer = trailer << (128 - MARK - CHECKSUM);
        bits.push(&trailer.to_be_bytes(), MARK + CHECKSUM, &mut end);
        end.extend_from_slice(bits.rest());
        // A block of any level is one of the highest, too.
        let stream = b"BZh9".chain(whole).chain(&end[..]);
        let mut decoder = BzDecoder::new(stream);
        loop {
            let mut bytes = spare(&self.spare).pop().unwrap_or_default();
            bytes.clear();
            bytes.reserve_exact(OUTPUT);
            let limit = u64::try_from(OUTPUT).unwrap_or(u64::MAX);
            let read = (&mut decoder).take(limit).read_to_end(&mut bytes);
            let over = matches!(read, Ok(count) if count < OUTPUT);
            // What came before an error is not worth more than the error.
            read.map_err(corrupt)?;
            if !bytes.is_empty() && self.said.send(Said::Bytes(bytes)).is_err() {
                return Ok(());
            }
            if over {
                break;
            }
        }
        if decoder.get_mut().fill_buf()?.is_empty() {
            Ok(())
        } else {
            Err(corrupt("bits are left behind a bzip2 block"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::codec::by_name;

    fn packed(level: i32, plain: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let level = ::bzip2::Compression::new(level.unsigned_abs());
        let mut encoder = ::bzip2::write::BzEncoder::new(&mut packed, level);
        encoder.write_all(plain).expect("memory");
        encoder.finish().expect("memory");
        packed
    }

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        bytes
    }

    fn read(mut decoder: impl Read) -> (Vec<u8>, Option<io::ErrorKind>) {
        let mut plain = Vec::new();
        let result = decoder.read_to_end(&mut plain);
        (plain, result.err().map(|error| error.kind()))
    }

    fn apart(stream: &[u8], threads: usize) -> (Vec<u8>, Option<io::ErrorKind>) {
        read(Apart::new(io::Cursor::new(stream.to_vec()), threads).expect("made"))
    }

    fn at_once(stream: &[u8]) -> (Vec<u8>, Option<io::ErrorKind>) {
        let codec = by_name("bzip2").expect("listed");
        let input = Box::new(io::Cursor::new(stream.to_vec()));
        read(codec.decoder(input).expect("made"))
    }

    #[test]
    fn streams_of_all_levels_are_read_as_by_one_thread() {
        let plain = [noise(1, 1_500_000), vec![0; 3_000_000], noise(2, 10)].concat();
        let mut all = Vec::new();
        for level in [1, 5, 9] {
            let one = packed(level, &plain);
            assert_eq!(at_once(&one), (plain.clone(), None));
            for threads in [1, 2, 5] {
                let (read, failed) = apart(&one, threads);
                assert!(
                    read == plain && failed.is_none(),
                    "level {level}: {failed:?}"
                );
            }
            all.extend_from_slice(&one);
            all.extend_from_slice(&packed(level, b""));
        }
        let (read, failed) = apart(&all, 3);
        assert!(read == plain.repeat(3) && failed.is_none(), "{failed:?}");
        assert_eq!(apart(&packed(9, b""), 2), (Vec::new(), None));
    }

    /// One bit in some tens of thousands begins what is taken for a mark here.
    #[test]
    fn a_mark_that_is_none_does_no_harm() {
        let plain = noise(3, 2_000_000);
        let stream = packed(1, &plain);
        let mut cutter = Cutter::new(&stream[..]).with_mask(0x07_ffff);
        let mut pieces = 0;
        while cutter.next().expect("memory").is_some() {
            pieces += 1;
        }
        let blocks = plain.len() / 100_000 + 1;
        assert!(pieces > 2 * blocks, "{pieces} pieces of {blocks} blocks");
        for threads in [1, 3] {
            let mut decoder = Apart::new(&stream[..], threads).expect("made");
            decoder.joined = 20;
            decoder.cutter = decoder.cutter.with_mask(0x07_ffff);
            let (read, failed) = read(decoder);
            assert!(read == plain && failed.is_none(), "{failed:?}");
        }
    }

    #[test]
    fn what_is_cut_or_followed_by_something_else_is_no_success() {
        let plain = noise(4, 250_000);
        let stream = packed(1, &plain);
        for kept in (0..stream.len())
            .step_by(997)
            .chain([1, 3, 4, 5, stream.len() - 1])
        {
            let (read, failed) = apart(&stream[..kept], 2);
            assert_eq!(failed, Some(io::ErrorKind::UnexpectedEof), "cut at {kept}");
            assert!(plain.starts_with(&read));
        }
        for (behind, expected) in [
            (&b"x"[..], io::ErrorKind::InvalidData),
            (b"BZ", io::ErrorKind::UnexpectedEof),
            (b"BZh9", io::ErrorKind::UnexpectedEof),
            (b"BZh0", io::ErrorKind::InvalidData),
            (&[0; 4000], io::ErrorKind::InvalidData),
        ] {
            let (_, failed) = apart(&[&stream, behind].concat(), 2);
            assert_eq!(failed, Some(expected), "{behind:?}");
        }
        assert_eq!(apart(&stream[4..], 2).1, Some(io::ErrorKind::InvalidData));
        // The checksum of the blocks' checksums ends in the last bits but padding.
        let mut wrong = stream.clone();
        let at = wrong.len() - 3;
        wrong[at] ^= 0x10;
        assert_eq!(apart(&wrong, 2).1, Some(io::ErrorKind::InvalidData));
        assert_eq!(
            apart(b"nothing of the kind", 2).1,
            Some(io::ErrorKind::InvalidData)
        );
        // Without an end, and longer than a block can be.
        let endless = [&stream[..100_000], &noise(5, 6 << 20)].concat();
        assert_eq!(apart(&endless, 2).1, Some(io::ErrorKind::InvalidData));
    }

    /// Who is ahead of the reader has to wait, since 45 MB come out of such a block; and ends
    /// when nobody reads.
    #[test]
    fn what_was_decoded_waits_until_it_is_read() {
        let stream = packed(9, &vec![0; 200 << 20]);
        let decoder = || Apart::new(io::Cursor::new(stream.clone()), 2).expect("made");
        let mut begun = decoder();
        begun.read_exact(&mut [1]).expect("decoded");
        let Some(Part::Block(next)) = begun.ahead.front() else {
            panic!("there is another block");
        };
        assert!(matches!(next.said.recv(), Ok(Said::Bytes(_))));
        drop(begun);
        assert_eq!(
            io::copy(&mut decoder(), &mut io::sink()).expect("decoded"),
            200 << 20
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damage_is_found_as_by_one_thread(
            at in any::<prop::sample::Index>(), bit in 0..8_u8, length in 1..300_000_usize,
        ) {
            let plain = noise(6, length);
            let mut stream = packed(1, &plain);
            let at = at.index(stream.len());
            stream[at] ^= 1 << bit;
            let (once, failed_once) = at_once(&stream);
            let (read, failed) = apart(&stream, 2);
            prop_assert_eq!(failed.is_some(), failed_once.is_some());
            prop_assert!(failed.is_some() || read == once);
            prop_assert!(plain.starts_with(&read) || failed.is_some());
        }

        #[test]
        fn a_field_is_read_wherever_it_stands(
            bytes in prop::collection::vec(any::<u8>(), 1..40),
            from in 0..200_usize, bits in 0..=64_usize,
        ) {
            let piece = Piece {
                kind: Kind::Head,
                bits: bytes.len() * 8,
                bytes,
                shift: 0,
                last: true,
            };
            let bit = |at: usize| u64::from(piece.bytes[at / 8] >> (7 - at % 8) & 1);
            let expected = (from + bits <= piece.bits)
                .then(|| (from..from + bits).fold(0, |value, at| value << 1 | bit(at)));
            prop_assert_eq!(piece.field(from, bits), expected);
        }
    }
}
