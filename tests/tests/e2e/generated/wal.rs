//! A WAL archive with what archives come to hold: gaps, every suffix, unfinished
//! segments, labels, histories, and things that nobody archived.

use std::collections::BTreeMap;
use std::fmt;

use fastrand::Rng;

use super::info::pick;

/// What may follow the name of a WAL file.
pub(crate) const SUFFIXES: [&str; 7] = ["", ".gz", ".bz2", ".xz", ".snappy", ".zst", ".lz4"];

/// A segment of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) timeline: u32,
    segment: u64,
    /// Of one "log", which is 4 GiB.
    per_log: u64,
}

impl Position {
    /// Segment `segment` from the beginning, of which `per_log` make 4 GiB.
    pub(super) fn new(timeline: u32, segment: u64, per_log: u64) -> Self {
        Self {
            timeline,
            segment,
            per_log,
        }
    }

    /// In bytes.
    pub(super) fn segment_size(self) -> u64 {
        (4 << 30) / self.per_log
    }

    /// The position `offset` bytes into it, as PostgreSQL prints it.
    pub(super) fn lsn(self, offset: u64) -> String {
        let log = self.segment / self.per_log;
        let low = self.segment % self.per_log * self.segment_size() + offset;
        format!("{log:X}/{low:X}")
    }

    fn log(self) -> u64 {
        self.segment / self.per_log
    }

    fn moved(self, segments: u64) -> Self {
        let segment = self.segment + segments;
        Self { segment, ..self }
    }

    /// The first segment of the log that is `logs` further.
    fn logs_later(self, logs: u64) -> Self {
        let segment = (self.log() + logs) * self.per_log;
        Self { segment, ..self }
    }

    fn folder(self) -> String {
        format!("{:08X}{:08X}", self.timeline, self.log())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:08X}", self.folder(), self.segment % self.per_log)
    }
}

/// The archive while it is written.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) objects: BTreeMap<String, String>,
    /// The segment that is written to.
    pub(super) at: Position,
    /// What most files are compressed with.
    suffix: &'static str,
    /// Part of the segments that did arrive, in per cent.
    arrived: u8,
}

impl Archive {
    /// An empty one.
    pub(super) fn new(rng: &mut Rng) -> Self {
        let per_log = pick(rng, &[256, 256, 256, 64, 4096]);
        let timeline = pick(rng, &[1, 1, 1, 2, 14]);
        let segment = rng.u64(2..per_log * 3);
        Self {
            objects: BTreeMap::new(),
            at: Position::new(timeline, segment, per_log),
            suffix: pick(rng, &SUFFIXES),
            arrived: pick(rng, &[100, 90, 70]),
        }
    }

    fn put(&mut self, key: &str) {
        self.objects.insert(format!("wals/{key}"), "WAL".to_owned());
    }

    /// The file `name` of the folder of `position`, compressed somehow.
    fn store(&mut self, position: Position, name: &str, rng: &mut Rng) {
        let other = rng.u8(..100) < 10;
        let suffix = if other {
            pick(rng, &SUFFIXES)
        } else {
            self.suffix
        };
        self.put(&format!("{}/{name}{suffix}", position.folder()));
    }

    /// The server goes on to `to`; of a long way only the ends are archived.
    fn write_to(&mut self, to: Position, rng: &mut Rng) {
        let way = to.segment - self.at.segment;
        let middle = rng.u64(..way.max(1));
        for step in 0..way {
            let near = step < 2 || step + 2 >= way || step == middle;
            if near && rng.u8(..100) < self.arrived {
                let segment = self.at.moved(step);
                self.store(segment, &segment.to_string(), rng);
            }
        }
        self.at = to;
    }

    /// The server works for a while.
    pub(super) fn go_on(&mut self, rng: &mut Rng) {
        let target = match rng.u8(..100) {
            0..50 => self.at.moved(rng.u64(1..5)),
            50..85 => self.at.logs_later(1).moved(rng.u64(..3)),
            _ => self.at.logs_later(rng.u64(2..5)).moved(rng.u64(..9)),
        };
        self.write_to(target, rng);
    }

    /// A base backup goes through `segments` segments: what it begins in and what
    /// it ends in. Its label is archived too.
    pub(super) fn backup(&mut self, rng: &mut Rng) -> (Position, Position) {
        let begin = self.at;
        self.write_to(begin.moved(rng.u64(1..4)), rng);
        let end = Position {
            segment: self.at.segment - 1,
            ..self.at
        };
        if rng.u8(..100) < 60 {
            self.store(begin, &format!("{begin}.00000028.backup"), rng);
        }
        if rng.u8(..100) < 10 {
            self.store(end, &format!("{end}.partial"), rng);
        }
        (begin, end)
    }

    /// A standby is promoted.
    pub(super) fn promote(&mut self, rng: &mut Rng) {
        let old = self.at;
        if rng.bool() {
            self.store(old, &format!("{old}.partial"), rng);
        }
        if rng.u8(..100) < 30 {
            // The old primary did not notice at once.
            let left_behind = old.moved(rng.u64(1..4));
            self.write_to(left_behind, rng);
            self.at = old;
        }
        self.at.timeline += 1 + u32::from(rng.u8(..100) < 20);
        self.history(self.at.timeline, rng);
    }

    fn history(&mut self, timeline: u32, rng: &mut Rng) {
        let suffix = if rng.bool() { "" } else { self.suffix };
        self.put(&format!("{timeline:08X}.history{suffix}"));
    }

    /// WAL of timelines that no backup is on, beside what is there.
    pub(super) fn foreign_timelines(&mut self, rng: &mut Rng) {
        let mut other = self.at;
        other.timeline = if rng.bool() && other.timeline > 1 {
            other.timeline - 1
        } else {
            other.timeline + rng.u32(1..20)
        };
        self.history(other.timeline, rng);
        for _ in 0..rng.u8(1..4) {
            other = other.moved(rng.u64(..3));
            self.store(other, &other.to_string(), rng);
        }
    }

    /// What nobody archived, and files that somebody moved to odd places.
    ///
    /// Not copied: of a name in several folders the reference sees the last.
    pub(super) fn junk(&mut self, rng: &mut Rng) {
        for _ in 0..rng.u8(1..5) {
            let segments = self.objects.keys().filter(|key| key.len() > 40);
            let segments: Vec<String> = segments.cloned().collect();
            if segments.is_empty() {
                return;
            }
            let key = &segments[rng.usize(..segments.len())];
            let (folder, file) = (&key[5..21], &key[22..]);
            let name = &file[..24];
            let moved = |place: &str| format!("{place}{file}");
            let odd = match rng.u8(..10) {
                0 => "README".to_owned(),
                1 => "junk/notes.txt".to_owned(),
                2 => format!("{folder}/notes.txt"),
                3 => format!("{folder}/{name}.gz.tmp"),
                4 => format!("{folder}/{name}.gpg"),
                5 => format!("{}.history.old", &folder[..8]),
                6 => moved("junk/"),
                7 => moved(&format!("{folder}X/")),
                8 => moved(&format!("{folder}/deeper/")),
                _ => moved(""),
            };
            if odd.ends_with(file) {
                self.objects.remove(key);
            }
            self.put(&odd);
        }
    }

    /// One of the files under a second suffix.
    pub(super) fn twin(&mut self, rng: &mut Rng) {
        let plain = |key: &&String| key.len() > 40 && !key.contains('.');
        let plain: Vec<String> = self.objects.keys().filter(plain).cloned().collect();
        if let Some(key) = (!plain.is_empty()).then(|| &plain[rng.usize(..plain.len())]) {
            let suffix = pick(rng, &SUFFIXES[1..]);
            self.objects
                .insert(format!("{key}{suffix}"), "WAL".to_owned());
        }
    }
}
