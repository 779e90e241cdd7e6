//! The WAL that a backup needs: all segments are there, and each is the one that it should be.
//!
//! From the beginning of the backup to its end, along the timelines that its server followed
//! meanwhile; and if that is asked for, to the
//! newest segment in the archive, along the newest timeline that the backup is in the history
//! of. Where a timeline ends the segment is taken from the next one, as PostgreSQL does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::findings::{Findings, Kind};
use super::interrupted;
use crate::catalogue::gap::Extent;
use crate::catalogue::info::BackupInfo;
use crate::catalogue::layout::Layout;
use crate::catalogue::load::{self, Timelines, wal_of_key};
use crate::codec;
use crate::key::Key;
use crate::ops::wal_object::{MAX_WAL_FILE, ObjectFailure, decode_object};
use crate::ops::{Ctx, OpError, OpErrorKind, chain, gaps};
use crate::store::{self, Depth, ObjectStore, StoreErrorKind};
use crate::wal::blocks::{Block, Wanted};
use crate::wal::fit::{Fit, judge};
use crate::wal::page::LONG_HEADER_LEN;
use crate::wal::record::{Measured, RecordMeter};
use crate::wal::seam::{Carry, Ends};
use crate::wal::{History, SegmentSize, Stretch, TimelineId, WalKind, WalName};

/// What is checked against what.
pub(super) struct Wal<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) store: &'a Arc<dyn ObjectStore>,
    pub(super) layout: &'a Layout,
    pub(super) info: &'a BackupInfo,
    /// Segments that are read at the same time.
    pub(super) jobs: NonZeroU32,
    /// Blocks that are looked for in the WAL of the backup.
    pub(super) wanted: Arc<Wanted>,
    /// To the newest segment, not only to the end of the backup.
    pub(super) to_newest: bool,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct WalSeen {
    /// Segments that were read, of some several forms.
    pub(super) segments: u64,
    /// Of the segments, decoded.
    pub(super) bytes: u64,
    /// The first and the last one.
    pub(super) ends: Option<(String, String)>,
    /// Those of the wanted blocks that it writes as a whole.
    pub(super) rewritten: BTreeSet<Block>,
    pub(super) notes: Vec<String>,
}

/// A directory of segments.
#[derive(Debug, Default)]
struct Listed {
    /// The forms in which each segment is there, with the suffixes of their codecs.
    segments: BTreeMap<u64, Vec<(Key, &'static str)>>,
    partial: BTreeSet<u64>,
}

/// What came of a segment.
struct Judged {
    name: WalName,
    key: Key,
    bytes: u64,
    problem: Option<String>,
    rewritten: BTreeSet<Block>,
    /// Unless it is damaged.
    ends: Option<Ends>,
}

/// What goes on from the segment that was read last.
#[derive(Debug, Default)]
struct Before {
    /// Its number and timeline.
    segment: Option<(u64, TimelineId)>,
    carry: Carry,
}

impl Before {
    /// Joins a segment to it; what is wrong with what goes on into that.
    fn join(&mut self, name: &WalName, size: SegmentSize, ends: Option<&Ends>) -> Option<String> {
        let (number, timeline) = (name.number(size)?, name.timeline());
        let carry = match self.segment {
            // Another form of the segment is as good.
            Some(last) if last == (number, timeline) => return None,
            Some((last, _)) if last + 1 == number => self.carry,
            _ => Carry::default(),
        };
        let (carry, flaw) = ends.map_or_else(Default::default, |ends| ends.join(carry));
        self.segment = Some((number, timeline));
        self.carry = carry;
        flaw.map(|flaw| format!("with the segment before, {flaw}, and a recovery ends there"))
    }
}

/// A segment that passes by.
#[derive(Debug)]
struct Passing {
    head: Vec<u8>,
    size: u64,
    records: RecordMeter,
}

impl Write for Passing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONG_HEADER_LEN.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..room.min(bytes.len())]);
        self.size += bytes.len() as u64;
        self.records.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wal<'_> {
    /// Checks it all.
    pub(super) async fn check(&self, findings: &mut Findings) -> Result<WalSeen, OpError> {
        let mut seen = WalSeen::default();
        let Some(needed) = self.info.needed_wal() else {
            seen.notes.push(
                "the record does not say which WAL the backup needs: none was checked".to_owned(),
            );
            return Ok(seen);
        };
        let timelines = load::timelines(self.store.as_ref(), self.layout, &codec::suffixes()).await;
        let timelines = timelines.map_err(|error| OpError::of_store(&error))?;
        let (size, own) = &needed;
        let (size, mut runs) = (*size, vec![own.clone()]);
        if self.to_newest {
            runs = self
                .to_newest(&timelines, &needed, findings, &mut seen.notes)
                .await?;
        } else if let Some(last) = self.info.crossed_to() {
            let history = self.history(&timelines, last, findings).await?;
            runs = history.map_or_else(Vec::new, |history| history.way_across(own, size));
        }
        let mut before = Before::default();
        for run in &runs {
            self.run(run, &timelines, size, findings, &mut seen, &mut before)
                .await?;
        }
        self.let_go(&runs, size, findings, &mut seen.notes).await;
        Ok(seen)
    }

    /// The runs along the newest timeline that the backup is in the history of.
    async fn to_newest(
        &self,
        timelines: &Timelines,
        needed: &(SegmentSize, Stretch),
        findings: &mut Findings,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Stretch>, OpError> {
        let (size, own) = needed;
        let end = self.info.end_position(needed);
        let last = self.info.crossed_to();
        let later = timelines.all().into_iter();
        for timeline in later.take_while(|timeline| *timeline > own.timeline) {
            let Some(history) = self.history(timelines, timeline, findings).await? else {
                continue;
            };
            if !history.contains(last.unwrap_or(own.timeline), end) {
                notes.push(format!(
                    "timeline {timeline} does not go through this backup: recover to another one"
                ));
                continue;
            }
            let end = own.end.filter(|_| last.is_none());
            let own = Stretch { end, ..own.clone() };
            return Ok(history.way_from(&own, *size));
        }
        if let Some(last) = last {
            if !timelines.all().contains(&last) {
                self.lost(last, findings);
            }
            return Ok(Vec::new());
        }
        // Nothing forked off behind the backup.
        let behind = Stretch {
            first: own.end.unwrap_or(own.first),
            end: None,
            ..own.clone()
        };
        Ok(vec![own.clone(), behind])
    }

    /// The history of a timeline; one that no recovery can read is noted.
    async fn history(
        &self,
        timelines: &Timelines,
        timeline: TimelineId,
        findings: &mut Findings,
    ) -> Result<Option<History>, OpError> {
        let decode = |suffix: &str, bytes| {
            let codec = codec::by_suffix(suffix).unwrap_or(&codec::None);
            codec.decoder(bytes)
        };
        let history = timelines
            .history(self.store.as_ref(), timeline, decode)
            .await;
        let history = history.map_err(|error| OpError::of_store(&error))?;
        if history.is_none() {
            self.lost(timeline, findings);
        }
        Ok(history)
    }

    fn lost(&self, timeline: TimelineId, findings: &mut Findings) {
        let place = self.layout.wal(&WalName::history_of(timeline), "");
        let detail = "it is missing or cannot be read, so no recovery follows its timeline";
        findings.note(Kind::History, place.to_string(), detail);
    }

    /// Checks one run: no segment is missing, and each is good.
    async fn run(
        &self,
        run: &Stretch,
        timelines: &Timelines,
        size: SegmentSize,
        findings: &mut Findings,
        seen: &mut WalSeen,
        before: &mut Before,
    ) -> Result<(), OpError> {
        let per_directory = (1_u64 << 32) / size.get();
        let mut expected = run.first;
        let mut partial = BTreeSet::new();
        for log in timelines.directories(run.timeline) {
            let from = u64::from(log) * per_directory;
            if from + per_directory <= run.first || run.end.is_some_and(|end| from >= end) {
                continue;
            }
            let mut listed = self.list(run.timeline, from, size).await?;
            partial.append(&mut listed.partial);
            listed.segments.retain(|number, _| {
                *number >= run.first && run.end.is_none_or(|end| *number < end)
            });
            for number in listed.segments.keys() {
                if *number > expected {
                    self.missing(run.timeline, expected..*number, size, &partial, findings);
                }
                expected = number + 1;
            }
            let forms = listed.segments.into_iter().flat_map(|(number, forms)| {
                let name = WalName::of_number(run.timeline, number, size);
                forms
                    .into_iter()
                    .map(move |(key, suffix)| (name.clone(), key, suffix))
            });
            let jobs = usize::try_from(self.jobs.get()).unwrap_or(usize::MAX);
            let mut checks = stream::iter(forms)
                .map(|(name, key, suffix)| self.segment(name, key, suffix))
                .buffered(jobs);
            while let Some(checked) = checks.next().await {
                let mut judged = checked?;
                seen.segments += 1;
                seen.bytes += judged.bytes;
                seen.rewritten.append(&mut judged.rewritten);
                let name = judged.name.as_str().to_owned();
                let first = seen
                    .ends
                    .take()
                    .map_or_else(|| name.clone(), |(first, _)| first);
                seen.ends = Some((first, name));
                let seam = before.join(&judged.name, size, judged.ends.as_ref());
                if let Some(problem) = judged.problem.or(seam) {
                    findings.note(Kind::Wal, judged.key.to_string(), problem);
                }
            }
        }
        if let Some(end) = run.end.filter(|end| *end > expected) {
            self.missing(run.timeline, expected..end, size, &partial, findings);
        }
        Ok(())
    }

    /// The segments in the directory that the segment of this number is in.
    async fn list(
        &self,
        timeline: TimelineId,
        number: u64,
        size: SegmentSize,
    ) -> Result<Listed, OpError> {
        let name = WalName::of_number(timeline, number, size);
        let directory = self.layout.wal_dir(&name);
        let page = store::list_all(self.store.as_ref(), &directory, Depth::One).await;
        let page = page.map_err(|error| OpError::of_store(&error))?;
        let suffixes = codec::suffixes();
        let mut listed = Listed::default();
        for object in page.objects {
            let Some((name, suffix)) = wal_of_key(object.key.base_name(), &suffixes) else {
                continue;
            };
            let Some(number) = name.number(size).filter(|_| name.timeline() == timeline) else {
                continue;
            };
            match name.kind() {
                WalKind::Segment => {
                    let forms = listed.segments.entry(number).or_default();
                    // A store may name an object on two pages.
                    if forms.iter().all(|(key, _)| *key != object.key) {
                        forms.push((object.key, suffix));
                    }
                }
                WalKind::Partial => {
                    listed.partial.insert(number);
                }
                WalKind::Backup | WalKind::History => {}
            }
        }
        Ok(listed)
    }

    fn missing(
        &self,
        timeline: TimelineId,
        numbers: std::ops::Range<u64>,
        size: SegmentSize,
        partial: &BTreeSet<u64>,
        findings: &mut Findings,
    ) {
        let first = WalName::of_number(timeline, numbers.start, size);
        let last = WalName::of_number(timeline, numbers.end - 1, size);
        let place = self.layout.wal(&first, "").to_string();
        let count = numbers.end - numbers.start;
        let mut detail = match count {
            1 => "the segment is not in the archive".to_owned(),
            _ => format!("{count} segments up to {last} are not in the archive"),
        };
        if partial.range(numbers).next().is_some() {
            detail.push_str(", where only the beginning of one is, as `.partial`");
        }
        findings.note(Kind::Wal, place, detail);
    }

    /// Reads a segment.
    async fn segment(&self, name: WalName, key: Key, suffix: &str) -> Result<Judged, OpError> {
        let codec = codec::by_suffix(suffix).unwrap_or(&codec::None);
        let (ctx, stop, wanted) = (self.ctx, &self.ctx.cancel, Arc::clone(&self.wanted));
        let open = move || {
            Ok(Passing {
                head: Vec::new(),
                size: 0,
                records: RecordMeter::looking_for(wanted),
            })
        };
        let most = |_: &[u8]| MAX_WAL_FILE;
        let decoded = decode_object(ctx, self.store, &key, codec, stop, open, most).await;
        let problem = match decoded {
            Ok((_, passing)) => return Ok(self.judge(name, key, passing)),
            Err(ObjectFailure::Damaged(error)) => format!("it cannot be decoded: {error}"),
            Err(ObjectFailure::Store(error)) => match error.kind {
                StoreErrorKind::NotFound => "it was deleted after it was listed".to_owned(),
                StoreErrorKind::Corrupt => {
                    format!("the store does not deliver it: {}", chain(&error))
                }
                _ => return Err(OpError::of_store(&error)),
            },
            Err(ObjectFailure::Stopped) => return Err(interrupted()),
            Err(ObjectFailure::Taker(error)) => {
                let text = format!("`{key}` could not be looked at: {error}");
                return Err(OpError::new(OpErrorKind::General, text));
            }
        };
        Ok(Judged {
            name,
            key,
            bytes: 0,
            problem: Some(problem),
            rewritten: BTreeSet::new(),
            ends: None,
        })
    }

    /// Looks at a segment that was decoded.
    fn judge(&self, name: WalName, key: Key, passing: Passing) -> Judged {
        let Passing {
            head,
            size,
            records,
        } = passing;
        let Measured { flaw, blocks, ends } = records.finish_whole(name.kind());
        let problem = self.misfit(&name, size, &head);
        let flaw = flaw.map(|flaw| format!("{flaw}, and a recovery ends there"));
        let problem = problem.or(flaw);
        Judged {
            name,
            key,
            bytes: size,
            rewritten: blocks,
            ends: problem.is_none().then_some(ends),
            problem,
        }
    }

    /// Why this is not the segment that it should be.
    fn misfit(&self, name: &WalName, size: u64, head: &[u8]) -> Option<String> {
        let identity = match judge(name, size, head) {
            Fit::Segment(identity) => identity,
            Fit::Doubtful(misfit) => return Some(format!("it is not this segment: {misfit}")),
            Fit::Unfit(misfit) => return Some(format!("it is no whole segment: {misfit}")),
        };
        let recorded = self.info.systemid.as_deref();
        let cluster = identity.system_identifier.to_string();
        if let Some(recorded) = recorded.filter(|recorded| *recorded != cluster) {
            let recorded = recorded.escape_debug();
            return Some(format!(
                "it is of the cluster {cluster}, the backup is of {recorded}"
            ));
        }
        let (here, recorded) = (identity.segment_size.get(), self.info.xlog_segment_size);
        (here != recorded).then(|| format!("it has {here} bytes, and the backup's have {recorded}"))
    }

    /// What the archive says of WAL that was let go.
    async fn let_go(
        &self,
        runs: &[Stretch],
        size: SegmentSize,
        findings: &mut Findings,
        notes: &mut Vec<String>,
    ) {
        for missing in gaps::find(self.store.as_ref(), self.layout).await {
            let on_the_way = match &missing.extent {
                Extent::Segments(first, last) => {
                    let numbers = first.number(size).zip(last.number(size));
                    numbers.is_none_or(|(from, to)| {
                        let timeline = first.timeline();
                        runs.iter().any(|run| run.touches(timeline, from, to))
                    })
                }
                Extent::Before(_) => self.to_newest,
            };
            match missing.harm(self.info) {
                Some(_) if on_the_way => {
                    findings.note(Kind::Gap, missing.key.to_string(), missing.what());
                }
                Some(_) => notes.push(missing.what()),
                None => {}
            }
        }
    }
}
