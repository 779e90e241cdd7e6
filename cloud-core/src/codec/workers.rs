//! One stream made on several threads: blocks are encoded side by side and written
//! in their order.
//!
//! What comes out depends neither on the number of threads nor on which of them is
//! the faster one: blocks begin and end where the format says, and results are
//! waited for one after the other, by the thread that writes. So memory is bounded
//! by the blocks that may be under way, and the place of every byte in the output
//! is decided by the bytes before it alone.
//!
//! The threads ([`Crew`]) inherit the priority of the one that makes the encoder. They end
//! with it, after the block that they are at.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Encoder;
use super::crew::Crew;

/// A block on its way through a worker.
#[derive(Debug, Default)]
pub(super) struct Block<N> {
    /// The end of the block before, then the block.
    bytes: Vec<u8>,
    /// Where in `bytes` the block begins.
    start: usize,
    /// What a worker made of it.
    pub(super) packed: Vec<u8>,
    /// What a worker found out about it.
    pub(super) note: N,
}

impl<N> Block<N> {
    /// The block.
    pub(super) fn plain(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// What came just before it, the block, and room for what is made of it.
    pub(super) fn parts(&mut self) -> (&[u8], &[u8], &mut Vec<u8>) {
        let (history, plain) = self.bytes.split_at(self.start);
        (history, plain, &mut self.packed)
    }

    /// Becomes the empty block behind `before`, of which up to `history` bytes are
    /// remembered.
    fn follow(&mut self, before: &Self, history: usize) {
        let kept = before.bytes.len().saturating_sub(history);
        self.bytes.clear();
        self.bytes.extend_from_slice(&before.bytes[kept..]);
        self.start = self.bytes.len();
        self.packed.clear();
    }
}

/// Encodes blocks, one after the other, on a thread of its own.
pub(super) trait Work: Send + 'static {
    /// What is found out about a block beside its encoded bytes.
    type Note: Default + Send + 'static;

    /// Fills `packed`, which is empty, and `note`.
    fn pack(&mut self, block: &mut Block<Self::Note>) -> io::Result<()>;
}

/// What makes one stream of encoded blocks, on the thread that writes.
pub(super) trait Join: Send {
    /// What encodes the blocks.
    type Worker: Work;

    /// Most bytes of a block.
    const BLOCK: usize;

    /// How many bytes before its block a worker is shown.
    const HISTORY: usize;

    /// How many blocks may wait for a thread, beside those that are encoded: so that
    /// nobody waits while a block is written or the next one is filled.
    const WAITING: usize = 2;

    /// What another thread works with.
    fn worker(&self) -> io::Result<Self::Worker>;

    /// How many of `bytes` belong to the block that has `filled` already. If these
    /// are not all of them, the block ends with them.
    fn take(&mut self, filled: usize, bytes: &[u8]) -> usize {
        bytes.len().min(Self::BLOCK - filled)
    }

    /// Writes what comes before the first block.
    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()>;

    /// Writes the next block, which is not empty.
    fn join(
        &mut self,
        block: &Block<<Self::Worker as Work>::Note>,
        out: &mut dyn Write,
    ) -> io::Result<()>;

    /// Writes what comes behind the last block.
    fn end(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

type BlockOf<J> = Block<<<J as Join>::Worker as Work>::Note>;
type Answer<N> = io::Result<Block<N>>;

struct Job<N> {
    block: Block<N>,
    done: SyncSender<Answer<N>>,
}

impl<N> Job<N> {
    fn run(self, worker: &mut impl Work<Note = N>) {
        let Self { mut block, done } = self;
        let result = worker.pack(&mut block).map(|()| block);
        // Nobody waits for it if the encoder was dropped meanwhile.
        let _ = done.send(result);
    }
}

/// An [`Encoder`] made of a [`Join`] and its workers.
pub(super) struct Parallel<J: Join> {
    join: J,
    out: Box<dyn Write + Send>,
    begun: bool,
    /// The block that is being filled.
    filling: BlockOf<J>,
    /// What is under way, the oldest first.
    at_work: VecDeque<Receiver<Answer<<J::Worker as Work>::Note>>>,
    /// Blocks whose memory may be used again.
    spare: Vec<BlockOf<J>>,
    /// Plain bytes that came in and of which nothing was written.
    held: u64,
    crew: Crew<Job<<J::Worker as Work>::Note>>,
}

impl<J: Join> Parallel<J> {
    /// Encodes with `threads` threads beside the one that writes.
    pub(super) fn new(join: J, out: Box<dyn Write + Send>, threads: usize) -> io::Result<Self> {
        let crew = Crew::new("encoder", threads, || {
            let mut worker = join.worker()?;
            Ok(move |job: Job<_>| job.run(&mut worker))
        })?;
        Ok(Self {
            crew,
            join,
            out,
            begun: false,
            filling: Self::room(),
            at_work: VecDeque::new(),
            spare: Vec::new(),
            held: 0,
        })
    }

    fn room() -> BlockOf<J> {
        Block {
            bytes: Vec::with_capacity(J::HISTORY + J::BLOCK),
            ..Block::default()
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.join.begin(&mut self.out)?;
        }
        Ok(())
    }

    /// Hands the block over that was filled, when there is room for it.
    fn hand_over(&mut self) -> io::Result<()> {
        while self.at_work.len() >= self.crew.threads() + J::WAITING {
            self.collect()?;
        }
        let mut next = self.spare.pop().unwrap_or_else(Self::room);
        next.follow(&self.filling, J::HISTORY);
        let block = mem::replace(&mut self.filling, next);
        let (done, answer) = sync_channel(1);
        self.crew.give(Job { block, done })?;
        self.at_work.push_back(answer);
        Ok(())
    }

    /// Waits for the oldest block and writes it.
    fn collect(&mut self) -> io::Result<()> {
        let Some(oldest) = self.at_work.pop_front() else {
            return Ok(());
        };
        let block = oldest.recv().map_err(|_| self.crew.gone())??;
        self.begin()?;
        self.join.join(&block, &mut self.out)?;
        self.held -= block.plain().len() as u64;
        self.spare.push(block);
        Ok(())
    }
}

impl<J: Join> Write for Parallel<J> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut rest = buf;
        loop {
            let filled = self.filling.plain().len();
            let (head, tail) = rest.split_at(self.join.take(filled, rest));
            self.filling.bytes.extend_from_slice(head);
            self.held += head.len() as u64;
            if tail.is_empty() {
                return Ok(buf.len());
            }
            rest = tail;
            self.hand_over()?;
        }
    }

    /// Passes on what was written; a short block would change the output.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<J: Join> Encoder for Parallel<J> {
    fn held(&self) -> u64 {
        self.held
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.filling.plain().is_empty() {
            self.hand_over()?;
        }
        while !self.at_work.is_empty() {
            self.collect()?;
        }
        self.begin()?;
        self.join.end(&mut self.out)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use super::*;

    /// Counts the workers that are alive; fails, or panics, at a block that begins
    /// with a certain byte.
    struct Odd {
        alive: Arc<AtomicUsize>,
    }

    impl Drop for Odd {
        fn drop(&mut self) {
            self.alive.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Work for Odd {
        /// Niceness of the thread.
        type Note = i32;

        fn pack(&mut self, block: &mut Block<i32>) -> io::Result<()> {
            block.note = rustix::process::getpriority_process(None)?;
            let (history, plain, packed) = block.parts();
            packed.extend_from_slice(history);
            packed.extend_from_slice(plain);
            match plain[0] {
                b'!' => Err(io::Error::other("a block that cannot be encoded")),
                b'?' => panic!("a mistake"),
                _ => Ok(()),
            }
        }
    }

    struct Lines {
        alive: Arc<AtomicUsize>,
        niceness: Vec<i32>,
    }

    impl Join for Lines {
        type Worker = Odd;

        const BLOCK: usize = 3;

        const HISTORY: usize = 2;

        fn worker(&self) -> io::Result<Odd> {
            self.alive.fetch_add(1, Ordering::SeqCst);
            let alive = Arc::clone(&self.alive);
            Ok(Odd { alive })
        }

        fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
            out.write_all(b"(")
        }

        fn join(&mut self, block: &Block<i32>, out: &mut dyn Write) -> io::Result<()> {
            self.niceness.push(block.note);
            out.write_all(&block.packed)?;
            out.write_all(b",")
        }

        fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
            let mine = rustix::process::getpriority_process(None)?;
            assert!(self.niceness.iter().all(|niceness| *niceness == mine));
            out.write_all(b")")
        }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(buf);
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn encode(plain: &[u8], alive: &Arc<AtomicUsize>) -> io::Result<String> {
        let (alive, niceness) = (Arc::clone(alive), Vec::new());
        let out = Shared::default();
        let mut encoder = Parallel::new(Lines { alive, niceness }, Box::new(out.clone()), 3)?;
        let result = encoder.write_all(plain);
        result.and_then(|()| Box::new(encoder).finish())?;
        let bytes = mem::take(&mut *out.0.lock().expect("not poisoned"));
        Ok(String::from_utf8(bytes).expect("text"))
    }

    #[test]
    fn blocks_come_in_their_order_with_what_was_before_them() {
        let alive = Arc::default();
        for (plain, expected) in [
            ("", "()"),
            ("a", "(a,)"),
            ("abc", "(abc,)"),
            ("abcd", "(abc,bcd,)"),
            ("abcdefgh", "(abc,bcdef,efgh,)"),
        ] {
            assert_eq!(encode(plain.as_bytes(), &alive).expect("encoded"), expected);
        }
        let long = "abc".repeat(1_000);
        let encoded = encode(long.as_bytes(), &alive).expect("encoded");
        assert_eq!(encoded, format!("(abc,{})", "bcabc,".repeat(999)));
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    /// A server shares its processors with them.
    #[test]
    fn threads_have_the_priority_of_the_one_that_makes_the_encoder() {
        let run = || {
            let mine = rustix::process::getpriority_process(None)?;
            rustix::process::setpriority_process(None, (mine + 3).min(19))?;
            encode(b"abcdefgh", &Arc::default())
        };
        let thread = thread::spawn(run);
        thread.join().expect("it ran").expect("encoded");
    }

    #[test]
    fn a_block_that_fails_and_a_thread_that_panics_fail_the_encoder() {
        for (plain, expected) in [
            ("abc!bcdefghi", "cannot be encoded"),
            ("abc?bcdefghi", "ended early"),
            ("?", "ended early"),
            ("???????????????????????????", "ended early"),
        ] {
            let alive = Arc::default();
            let error = encode(plain.as_bytes(), &alive).expect_err("it must fail");
            assert!(error.to_string().contains(expected), "{plain}: {error}");
            assert_eq!(alive.load(Ordering::SeqCst), 0, "{plain}: threads are left");
        }
    }

    #[test]
    fn what_is_held_is_what_has_not_come_out() {
        let (alive, niceness) = (Arc::default(), Vec::new());
        let lines = Lines { alive, niceness };
        let out = Shared::default();
        let mut encoder = Parallel::new(lines, Box::new(out.clone()), 2).expect("made");
        let mut most = 0;
        for taken in 1..100_u64 {
            encoder.write_all(b"x").expect("memory");
            let written = String::from_utf8(out.0.lock().expect("not poisoned").clone());
            let blocks = written.expect("text").matches(',').count() as u64;
            assert_eq!(encoder.held(), taken - 3 * blocks);
            most = most.max(encoder.held());
        }
        // One for each thread, those that wait, and the one that is being filled.
        assert_eq!(most, 3 * (2 + Lines::WAITING as u64 + 1));
    }
}
