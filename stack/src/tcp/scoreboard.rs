//! What was sent and is not acknowledged, segment by segment: when each was last sent, whether it was SACKed, is taken
//! for lost, was sent again. Loss detection (`rack`), recovery and rate estimation read it; nothing here decides.
//!
//! Places in the stream are 64-bit offsets that never wrap. Every operation touches the segments whose condition changes
//! and no others, apart from a logarithm: an ACK that repeats its SACK blocks costs nothing, and what needs all segments
//! happens once a retransmission timeout or a change of MTU.

mod segments;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::segments::Segments;
use super::delivery_rate::Snapshot;
use super::rack::Patience;
use crate::time::{Duration, Instant};

/// What tells the order of what was sent at one instant.
const TICK: Duration = Duration::from_nanos(1);

/// A segment that was sent and is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Offset of its first byte.
    pub(super) start: u64,
    /// When it was last sent.
    pub(super) sent_at: Instant,
    pub(super) snapshot: Snapshot,
    /// Sequence space: bytes, and one for a FIN.
    pub(super) len: u32,
    pub(super) sacked: bool,
    pub(super) lost: bool,
    /// It is lost, but was sent again since it was found to be.
    pub(super) resent: bool,
    /// It was sent more than once.
    pub(super) ever_resent: bool,
}

impl Sent {
    /// Offset behind its last byte: what the segment is known by, as an ACK may take away its beginning.
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    /// Whether it was sent after what was sent at `at` and ends at `end` (RFC 8985 section 6.2, `RACK_sent_after`).
    pub(super) fn is_after(&self, at: Instant, end: u64) -> bool {
        (self.sent_at, self.end()) > (at, end)
    }
}

/// A number of segments and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) bytes: u32,
    pub(super) segments: u32,
}

impl Tally {
    fn add(&mut self, bytes: u32) {
        self.bytes += bytes;
        self.segments += 1;
    }

    fn sub(&mut self, bytes: u32) {
        self.bytes -= bytes;
        self.segments -= 1;
    }
}

/// SACKed segments without a gap between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Offset behind the last.
    end: u64,
    /// When the last was SACKed.
    end_at: Instant,
}

/// What [`Scoreboard::detect`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Detected {
    /// Bytes now taken for lost.
    pub(super) bytes: u32,
    /// Among them was a retransmission.
    pub(super) again: bool,
    /// After this time the next segment is lost if nothing is heard of it.
    pub(super) wait: Option<Duration>,
}

/// All segments between SND.UNA and SND.NXT.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    /// In the order of the stream, without gaps.
    segments: Segments,
    outstanding: u32,
    /// Below this offset every segment was SACKed, lost or sent again: the first place to look for losses. Where a lone segment
    /// begins.
    settled: u64,
    /// SACKed segments; without SACK, what duplicate ACKs stand for.
    sacked: Tally,
    lost: Tally,
    resent: Tally,
    /// What only exists when something went wrong.
    trouble: Option<Box<Trouble>>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Runs of SACKed segments by their start.
    sacked: BTreeMap<u64, Run>,
    /// Ends of lost segments that are to be sent again.
    due: BTreeSet<u64>,
    /// Segments sent again, in the order in which they were: end and time. One whose time is not the segment's is out of
    /// date.
    resent: VecDeque<(u64, Instant)>,
}

impl Scoreboard {
    // ---- figures

    /// Segments outstanding.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    pub(super) fn sacked(&self) -> Tally {
        self.sacked
    }

    pub(super) fn lost(&self) -> Tally {
        self.lost
    }

    pub(super) fn resent(&self) -> Tally {
        self.resent
    }

    /// Bytes believed to be in the network: RFC 6675's pipe as RFC 9937 section 6.2 has it for RACK.
    pub(super) fn in_flight(&self) -> u32 {
        (self.outstanding + self.resent.bytes).saturating_sub(self.sacked.bytes + self.lost.bytes)
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        let trouble = self.trouble.as_ref().map_or(0, |trouble| {
            size_of::<Trouble>()
                + trouble.sacked.len() * 40
                + trouble.due.len() * 16
                + trouble.resent.capacity() * 16
        });
        self.segments.memory() + trouble
    }

    /// Begins to load the first segment into the cache.
    pub(super) fn prefetch(&self) {
        self.segments.prefetch();
    }

    pub(super) fn first(&self) -> Option<Sent> {
        self.lone().or_else(|| self.segments.front().copied())
    }

    pub(super) fn last(&self) -> Option<Sent> {
        self.lone().or_else(|| self.segments.back().copied())
    }

    #[inline]
    fn lone(&self) -> Option<Sent> {
        self.segments.lone(self.settled)
    }

    /// The segment that ends at `end`.
    pub(super) fn find(&self, end: u64) -> Option<Sent> {
        match self.lone() {
            Some(lone) => Some(lone).filter(|lone| lone.end() == end),
            None => self.index(end).map(|index| self.segments[index]),
        }
    }

    /// The first lost segment that was not sent again.
    pub(super) fn next_lost(&self) -> Option<Sent> {
        let end = self.trouble.as_ref()?.due.first()?;
        self.find(*end)
    }

    /// Whether anything outstanding was ever sent again. O(log n) and the segments sent again before it.
    pub(super) fn has_resent(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| {
            trouble.resent.iter().any(|(end, _)| self.find(*end).is_some_and(|sent| !sent.sacked))
        })
    }

    // ---- sending

    /// A segment goes out for the first time; it follows the last.
    #[cfg(test)]
    pub(super) fn push(&mut self, start: u64, len: u32, now: Instant, snapshot: Snapshot) {
        self.push_run(start, len, len, 1, now, snapshot);
    }

    /// `count` segments, at least one, go out for the first time, `len` in all and each but the last of `each` bytes; they
    /// follow the last. `snapshot` is the first one's.
    pub(super) fn push_run(
        &mut self,
        start: u64,
        len: u32,
        each: u32,
        count: u32,
        now: Instant,
        snapshot: Snapshot,
    ) {
        debug_assert!(self.last().is_none_or(|last| last.end() == start));
        let now = self.last().map_or(now, |last| last.sent_at.max(now)).max(self.last_resent_at());
        if self.segments.is_empty() {
            self.settled = start;
        }
        self.outstanding += len;
        let whole = Sent {
            start,
            sent_at: now,
            snapshot,
            len,
            sacked: false,
            lost: false,
            resent: false,
            ever_resent: false,
        };
        if count == 1 && self.segments.is_empty() {
            return self.segments.begin(whole);
        }
        self.segments.make_room(self.settled, count as usize);
        if count == 1 {
            return self.segments.push_back(whole);
        }
        self.segments.extend((0..count).map(|index| {
            let before = index * each;
            Sent {
                start: start + u64::from(before),
                snapshot: snapshot.behind(before),
                len: if index + 1 == count { len - before } else { each },
                ..whole
            }
        }));
    }

    /// As [`Scoreboard::push_run`], for a segment before which everything is acknowledged.
    #[inline]
    pub(super) fn push_first(&mut self, start: u64, len: u32, now: Instant, snapshot: Snapshot) {
        if self.trouble.is_some() || !self.segments.begin_alone(len, now, &snapshot) {
            return self.push_run(start, len, len, 1, now, snapshot);
        }
        self.settled = start;
        self.outstanding += len;
    }

    /// The segment that ends at `end` went out again.
    pub(super) fn note_resent(&mut self, end: u64, now: Instant, snapshot: Snapshot) {
        self.segments.spread(self.settled);
        let Some(index) = self.index(end) else { return };
        // By the clock it may have gone at one instant with new data that went before it. Taken for sent before that, as ties go
        // (RFC 8985 section 6.2), it would be lost as soon as that arrives.
        let behind_new = self.last().filter(|last| last.sent_at >= now);
        let now = behind_new.map_or(now, |last| last.sent_at + TICK).max(self.last_resent_at());
        let sent = &mut self.segments[index];
        (sent.sent_at, sent.snapshot, sent.ever_resent) = (now, snapshot, true);
        if sent.lost && !sent.resent {
            sent.resent = true;
            self.resent.add(sent.len);
        }
        let trouble = self.trouble.get_or_insert_default();
        trouble.due.remove(&end);
        trouble.resent.push_back((end, now));
        if trouble.resent.len() > 2 * self.segments.len() + 16 {
            // More than half are out of date.
            let segments = &self.segments;
            trouble.resent.retain(|(end, at)| {
                segments
                    .binary_search_by_key(end, Sent::end)
                    .is_ok_and(|index| segments[index].sent_at == *at && !segments[index].sacked)
            });
        }
    }

    /// Joins the first segment with those that follow it as long as all are lost and not yet sent again and they make at
    /// most `len_max` bytes together: many small segments are sent again as few. Returns the length of the first then.
    pub(super) fn join_first(&mut self, len_max: u32) -> u32 {
        self.segments.spread(self.settled);
        while let [Some(first), Some(second)] = [self.segments.front(), self.segments.get(1)] {
            let joinable = |sent: &Sent| sent.lost && !sent.resent && !sent.sacked;
            if !joinable(first) || !joinable(second) || first.len + second.len > len_max {
                break;
            }
            let (end, first) = (first.end(), *first);
            self.segments.pop_front();
            self.lost.segments -= 1;
            if let Some(second) = self.segments.front_mut() {
                second.len += first.len;
                second.start = first.start;
                second.ever_resent |= first.ever_resent;
                second.sent_at = second.sent_at.max(first.sent_at);
            }
            if let Some(trouble) = &mut self.trouble {
                trouble.due.remove(&end);
            }
        }
        self.first().map_or(0, |first| first.len)
    }

    /// Cuts every segment longer than `len_max`, which must not be 0, and marks what is not SACKed of it as lost: it did not
    /// fit the path. O(n).
    pub(super) fn cut(&mut self, len_max: u32) {
        self.segments.spread(self.settled);
        let mut whole = core::mem::take(&mut self.segments);
        let mut trouble = self.trouble.take().unwrap_or_default();
        (self.sacked, self.lost, self.resent) = if trouble.sacked.is_empty() && self.sacked.segments > 0 {
            (self.sacked, Tally::default(), Tally::default())
        } else {
            Default::default()
        };
        let reno = self.sacked.segments > 0;
        for mut sent in whole.drain(..) {
            if sent.len > len_max && !sent.sacked {
                (sent.lost, sent.resent) = (true, false);
            }
            while sent.len > 0 {
                let piece = Sent { len: sent.len.min(len_max), ..sent };
                if piece.sacked && !reno {
                    self.sacked.add(piece.len);
                }
                if piece.lost {
                    self.lost.add(piece.len);
                }
                if piece.resent {
                    self.resent.add(piece.len);
                } else if piece.lost {
                    trouble.due.insert(piece.end());
                }
                sent.start += u64::from(piece.len);
                sent.len -= piece.len;
                self.segments.push_back(piece);
            }
        }
        self.trouble = Some(trouble);
        self.look_again();
    }

    // ---- acknowledgments

    /// Whether nothing is known of any segment but that it was sent, once. O(segments).
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        let marked = self.sacked.segments | self.lost.segments | self.resent.segments;
        let is_once = || match &self.segments {
            Segments::None | Segments::Lone(_) => true,
            Segments::Many(segments) => !segments.iter().any(|sent| sent.ever_resent),
        };
        self.trouble.is_none() && marked == 0 && is_once()
    }

    /// Everything is acknowledged, up to `una`, and nothing was known of any of it ([`Scoreboard::is_plain`]).
    #[inline]
    pub(super) fn acknowledge_all(&mut self, una: u64, mut each: impl FnMut(&Sent)) {
        match self.lone() {
            Some(lone) => each(&lone),
            None => self.segments.iter().for_each(each),
        }
        self.clear();
        self.settled = una;
    }

    /// Everything before `una` is acknowledged. `each` sees the segments that are gone, and with `false` the one of which
    /// a part is: its length is then that part's.
    pub(super) fn acknowledge(&mut self, una: u64, mut each: impl FnMut(&Sent, bool)) {
        if let Some(lone) = self.lone() {
            if lone.start >= una {
                return;
            }
            if lone.end() <= una {
                each(&lone, true);
                self.clear();
                self.settled = una;
                return;
            }
            self.segments.spread(self.settled);
        }
        while let Some(sent) = self.segments.front().copied() {
            if sent.start >= una {
                break;
            }
            let whole = sent.end() <= una;
            let gone = if whole { sent.len } else { (una - sent.start) as u32 };
            each(&Sent { len: gone, ..sent }, whole);
            self.outstanding -= gone;
            if whole {
                self.forget(&sent);
                self.segments.pop_front();
            } else if let Some(rest) = self.segments.front_mut() {
                rest.start = una;
                rest.len -= gone;
                self.sacked.bytes -= if sent.sacked { gone } else { 0 };
                self.lost.bytes -= if sent.lost { gone } else { 0 };
                self.resent.bytes -= if sent.resent { gone } else { 0 };
            }
        }
        self.settled = self.settled.max(una);
        self.tidy(una);
    }

    /// The peer says at `now` that it has the bytes from `start` to `end`. `each` sees the segments that lie in there and were not yet SACKed, as
    /// they were before.
    pub(super) fn sack(&mut self, now: Instant, start: u64, end: u64, mut each: impl FnMut(&Sent)) {
        self.segments.spread(self.settled);
        let first = self.segments.partition_point(|sent| sent.start < start);
        let behind = self.segments.partition_point(|sent| sent.end() <= end);
        if first >= behind {
            return;
        }
        // Blocks count segment by segment: a part of one is not worth remembering.
        let (start, end) = (self.segments[first].start, self.segments[behind - 1].end());
        let mut trouble = self.trouble.take().unwrap_or_default();
        let mut at = start;
        while at < end {
            match trouble.sacked.range(..=at).next_back() {
                Some((_, run)) if run.end > at => at = run.end,
                _ => {
                    let gap_end = trouble.sacked.range(at..).next().map_or(end, |(next, _)| (*next).min(end));
                    let index = self.segments.partition_point(|sent| sent.start < at);
                    for sent in self.segments.range_mut(index..).take_while(|sent| sent.start < gap_end) {
                        each(sent);
                        if sent.lost {
                            self.lost.sub(sent.len);
                            trouble.due.remove(&sent.end());
                        }
                        if sent.resent {
                            self.resent.sub(sent.len);
                        }
                        self.sacked.add(sent.len);
                        (sent.sacked, sent.lost, sent.resent) = (true, false, false);
                    }
                    at = gap_end;
                }
            }
        }
        merge_run(&mut trouble.sacked, start, Run { end, end_at: now });
        self.trouble = Some(trouble);
    }

    /// Without SACK: a duplicate ACK stands for a segment of `len` bytes that arrived. No more can have than were sent,
    /// and one at least is missing.
    pub(super) fn add_duplicate(&mut self, len: u32) {
        let holes = self.lost.segments.max(1) as usize;
        let room = self.outstanding.saturating_sub(self.lost.bytes + self.sacked.bytes);
        if self.sacked.segments as usize + holes < self.segments.len() && room > 0 {
            self.sacked.add(len.min(room));
        }
    }

    /// Without SACK: a partial ACK of `acked` bytes in recovery covers one lost segment of at most `len` bytes and, for the
    /// rest, what duplicate ACKs stood for.
    pub(super) fn take_duplicates(&mut self, acked: u32, len: u32) {
        let taken = acked.div_ceil(len.max(1)).saturating_sub(1).min(self.sacked.segments);
        self.sacked.segments -= taken;
        let bytes = if self.sacked.segments == 0 { self.sacked.bytes } else { taken * len };
        self.sacked.bytes = self.sacked.bytes.saturating_sub(bytes);
    }

    /// Without SACK: forgets what duplicate ACKs said; what an ACK covered is among it.
    pub(super) fn forget_duplicates(&mut self) {
        self.sacked = Tally::default();
    }

    // ---- losses

    /// Marks the segments as lost that RACK holds lost (RFC 8985 section 6.2 step 5): what was sent before the segment sent
    /// and ending at `newest`, which was delivered, and was not heard of for longer than `patience` allows.
    ///
    /// The wait is that of the segment which is next, where the RFC waits for the last: each is sent again when its own
    /// time is over. `each` sees those that are lost.
    pub(super) fn detect(
        &mut self,
        now: Instant,
        newest: (Instant, u64),
        patience: &Patience,
        mut each: impl FnMut(&Sent),
    ) -> Detected {
        self.segments.spread(self.settled);
        let mut found = Detected::default();
        let mut is_over = |deadline: Instant| {
            if deadline <= now {
                return true;
            }
            let rest = deadline - now;
            found.wait = Some(found.wait.map_or(rest, |wait| wait.min(rest)));
            false
        };
        // Segments sent once lie in the order in which they were sent.
        let mut first_times = Vec::new();
        let begin = self.segments.partition_point(|sent| sent.start < self.settled);
        for sent in self.segments.range(begin..) {
            if !(sent.sacked || sent.lost || sent.ever_resent) {
                if sent.is_after(newest.0, newest.1) || !is_over(self.deadline(sent, patience)) {
                    break;
                }
                first_times.push(sent.end());
            }
            self.settled = sent.end();
        }
        // Those sent again have a queue.
        let mut again = Vec::new();
        while let Some((end, at)) = self.trouble.as_ref().and_then(|trouble| trouble.resent.front()).copied()
        {
            if let Some(sent) = self.find(end).filter(|sent| sent.sent_at == at && !sent.sacked) {
                let deemed = sent.lost && !sent.resent;
                if !deemed
                    && (sent.is_after(newest.0, newest.1) || !is_over(sent.sent_at + patience.since_sent))
                {
                    break;
                }
                if !deemed {
                    again.push(end);
                }
            }
            if let Some(trouble) = &mut self.trouble {
                trouble.resent.pop_front();
            }
        }
        found.again = !again.is_empty();
        for end in first_times.into_iter().chain(again) {
            found.bytes += self.mark_lost(end, &mut each);
        }
        found
    }

    /// Marks the first segment as lost, if it is not. Bytes newly lost.
    pub(super) fn mark_first_lost(&mut self, mut each: impl FnMut(&Sent)) -> u32 {
        self.first().map_or(0, |first| self.mark_lost(first.end(), &mut each))
    }

    /// Marks as lost all that is not SACKed and for which `is_lost` holds, also what was sent again. Bytes newly lost. O(n).
    pub(super) fn mark_lost_where(
        &mut self,
        is_lost: impl Fn(&Sent) -> bool,
        mut each: impl FnMut(&Sent),
    ) -> u32 {
        self.segments.spread(self.settled);
        let ends: Vec<u64> =
            self.segments.iter().filter(|sent| !sent.sacked && is_lost(sent)).map(Sent::end).collect();
        ends.into_iter().map(|end| self.mark_lost(end, &mut each)).sum()
    }

    /// Takes back that segments were lost: they only came late. O(n).
    pub(super) fn unmark_lost(&mut self) {
        self.segments.spread(self.settled);
        self.segments.iter_mut().for_each(|sent| (sent.lost, sent.resent) = (false, false));
        (self.lost, self.resent) = Default::default();
        if let Some(trouble) = &mut self.trouble {
            trouble.due.clear();
        }
        self.look_again();
    }

    /// Forgets all SACKs: the peer gave up what it had reported (RFC 2018 section 8). O(n).
    pub(super) fn forget_sacks(&mut self) {
        self.segments.spread(self.settled);
        self.segments.iter_mut().for_each(|sent| sent.sacked = false);
        self.sacked = Tally::default();
        if let Some(trouble) = &mut self.trouble {
            trouble.sacked.clear();
        }
        self.look_again();
    }

    /// Everything outstanding is void: nothing was sent.
    pub(super) fn clear(&mut self) {
        self.segments.clear();
        self.outstanding = 0;
        self.settled = 0;
        (self.sacked, self.lost, self.resent) = Default::default();
        self.trouble = None;
    }

    // ---- helpers

    /// Makes everything a candidate for losses again. O(n).
    fn look_again(&mut self) {
        self.settled = self.first().map_or(0, |first| first.start);
        let Some(trouble) = &mut self.trouble else { return };
        let resent = self.segments.iter().filter(|sent| sent.ever_resent && !sent.sacked);
        let mut resent: Vec<(u64, Instant)> = resent.map(|sent| (sent.end(), sent.sent_at)).collect();
        resent.sort_unstable_by_key(|(end, at)| (*at, *end));
        trouble.resent = resent.into();
    }

    /// When a segment that was sent once only is lost, if something sent later has arrived.
    fn deadline(&self, sent: &Sent, patience: &Patience) -> Instant {
        let before = self.trouble.as_ref().and_then(|trouble| trouble.sacked.range(..sent.start).next_back());
        let predecessor_at = before.map_or(patience.una_at, |(_, run)| run.end_at);
        (sent.sent_at + patience.since_sent).max(predecessor_at + patience.since_predecessor)
    }

    /// When the last of those sent again went.
    fn last_resent_at(&self) -> Instant {
        let last = self.trouble.as_ref().and_then(|trouble| trouble.resent.back());
        last.map_or(Instant::ZERO, |(_, at)| *at)
    }

    fn index(&self, end: u64) -> Option<usize> {
        self.segments.binary_search_by_key(&end, Sent::end).ok()
    }

    /// Marks one segment as lost, or its retransmission, and shows it to `each` if it was not. Bytes newly lost.
    fn mark_lost(&mut self, end: u64, each: &mut impl FnMut(&Sent)) -> u32 {
        self.segments.spread(self.settled);
        let Some(index) = self.index(end) else { return 0 };
        let sent = &mut self.segments[index];
        if sent.sacked || (sent.lost && !sent.resent) {
            return 0;
        }
        each(sent);
        if sent.resent {
            self.resent.sub(sent.len);
            sent.resent = false;
        } else {
            self.lost.add(sent.len);
            sent.lost = true;
        }
        let len = sent.len;
        self.trouble.get_or_insert_default().due.insert(end);
        len
    }

    /// Takes a segment that goes out of the figures.
    fn forget(&mut self, sent: &Sent) {
        if sent.sacked {
            self.sacked.sub(sent.len);
        }
        if sent.lost {
            self.lost.sub(sent.len);
        }
        if sent.resent {
            self.resent.sub(sent.len);
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.due.remove(&sent.end());
        }
    }

    /// Frees what is no longer needed when everything before `una` is gone.
    fn tidy(&mut self, una: u64) {
        if self.segments.is_empty() {
            self.clear();
            self.settled = una;
            return;
        }
        self.segments.trim();
        let Some(trouble) = &mut self.trouble else { return };
        while let Some(run) = trouble.sacked.first_entry().filter(|run| run.get().end <= una) {
            run.remove();
        }
        if let Some((&start, &run)) = trouble.sacked.first_key_value().filter(|(start, _)| **start < una) {
            trouble.sacked.remove(&start);
            trouble.sacked.insert(una, run);
        }
        let first_end = self.segments.front().map_or(una, Sent::end);
        while trouble.resent.front().is_some_and(|(end, _)| *end < first_end) {
            trouble.resent.pop_front();
        }
        if trouble.sacked.is_empty() && trouble.due.is_empty() && trouble.resent.is_empty() {
            self.trouble = None;
        }
    }
}

/// Adds the run from `start` on to disjoint runs, joining it with those it touches. Where ends are the same, the earlier is
/// kept.
fn merge_run(runs: &mut BTreeMap<u64, Run>, mut start: u64, mut new: Run) {
    while let Some((&run_start, &run)) =
        runs.range(..=new.end).next_back().filter(|(_, run)| run.end >= start)
    {
        runs.remove(&run_start);
        start = start.min(run_start);
        if run.end >= new.end {
            new = run;
        }
    }
    runs.insert(start, new);
}

#[cfg(test)]
impl Scoreboard {
    /// Everything adds up: figures, queues and marks; the segments cover `una` to `nxt`.
    #[track_caller]
    pub(super) fn check(&self, una: u64, nxt: u64, with_sack: bool) {
        let all: Vec<Sent> = match self.lone() {
            Some(lone) => vec![lone],
            None => self.segments.iter().copied().collect(),
        };
        let tally = |which: fn(&Sent) -> bool| {
            let chosen = all.iter().filter(|sent| which(sent));
            chosen.fold(Tally::default(), |sum, sent| Tally {
                bytes: sum.bytes + sent.len,
                segments: sum.segments + 1,
            })
        };
        assert_eq!(tally(|_| true).bytes, self.outstanding);
        if with_sack {
            assert_eq!(tally(|sent| sent.sacked), self.sacked);
        }
        assert_eq!((tally(|sent| sent.lost), tally(|sent| sent.resent)), (self.lost, self.resent));
        let mut at = una;
        for sent in &all {
            assert_eq!(sent.start, at);
            assert!(sent.len > 0 && !(sent.sacked && sent.lost) && (sent.lost || !sent.resent));
            at = sent.end();
        }
        assert_eq!(at, nxt);
        let Some(trouble) = &self.trouble else {
            return assert_eq!((tally(|sent| sent.sacked), self.lost), Default::default());
        };
        let due: Vec<u64> = all.iter().filter(|sent| sent.lost && !sent.resent).map(Sent::end).collect();
        assert_eq!(trouble.due.iter().copied().collect::<Vec<_>>(), due);
        for sent in &all {
            let run = trouble.sacked.range(..=sent.start).next_back();
            assert_eq!(
                run.is_some_and(|(_, run)| run.end >= sent.end()),
                sent.sacked,
                "{sent:?} {trouble:?}"
            );
            let queued = trouble.resent.iter().any(|entry| *entry == (sent.end(), sent.sent_at));
            assert!(
                queued || !sent.ever_resent || sent.sacked || (sent.lost && !sent.resent),
                "{sent:?} {trouble:?}"
            );
        }
        assert!(trouble.resent.iter().map(|(_, at)| *at).is_sorted());
    }
}

#[cfg(test)]
mod tests;
