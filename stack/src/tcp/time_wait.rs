//! TIME-WAIT (RFC 9293 section 3.6.1): after both FINs were acknowledged the ends stay reserved for twice the maximum
//! segment lifetime, in a compact entry. RSTs do not end it (RFC 1337); a new SYN that is provably newer does (RFC 9293
//! section 3.10.7.4, RFC 6191).

use slab::Slab;

use super::header::{Flags, TcpHeader};
use super::options::Timestamps;
use super::seq::SeqNumber;
use super::table::Key;
use crate::time::{Duration, Instant};

const NONE: u32 = u32::MAX;

/// What TIME-WAIT must remember of a connection.
#[derive(Clone, Copy, Debug)]
pub struct TimeWait {
    pub key: Key,
    /// Our next sequence number: behind our FIN.
    pub snd_nxt: SeqNumber,
    /// The peer's next sequence number: behind its FIN.
    pub rcv_nxt: SeqNumber,
    /// The peer's latest timestamp, if the connection had timestamps.
    pub ts_recent: Option<u32>,
    /// What our timestamps were offset by.
    pub ts_offset: u32,
    /// The window field last announced.
    pub window: u16,
}

#[derive(Debug)]
struct Entry {
    state: TimeWait,
    expires: Instant,
    prev: u32,
    next: u32,
}

/// What a segment that meets TIME-WAIT leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing.
    Drop,
    /// It is answered with an ACK; `restart`: the wait begins anew (a FIN sent again).
    Acknowledge { restart: bool },
    /// A new connection may begin with this SYN; its ISN must be beyond this one.
    Reopen { isn_floor: SeqNumber },
}

/// All entries, in the order in which they end: each lasts equally long, so the latest is last.
#[derive(Debug)]
pub struct TimeWaits {
    entries: Slab<Entry>,
    first: u32,
    last: u32,
    duration: Duration,
}

impl TimeWaits {
    pub fn new(duration: Duration) -> Self {
        Self { entries: Slab::new(), first: NONE, last: NONE, duration }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, index: u32) -> &TimeWait {
        &self.entries[index as usize].state
    }

    pub fn insert(&mut self, now: Instant, state: TimeWait) -> u32 {
        let expires = now + self.duration;
        let index = self.entries.insert(Entry { state, expires, prev: NONE, next: NONE }) as u32;
        self.link_last(index);
        index
    }

    pub fn remove(&mut self, index: u32) -> TimeWait {
        self.unlink(index);
        let state = self.entries.remove(index as usize).state;
        if self.entries.is_empty() {
            self.entries = Slab::new();
        }
        state
    }

    /// Begins the wait anew (RFC 9293 section 3.10.7.4, eighth step).
    pub fn restart(&mut self, now: Instant, index: u32) {
        self.unlink(index);
        self.entries[index as usize].expires = now + self.duration;
        self.link_last(index);
    }

    /// The entry that ends first.
    pub fn first(&self) -> Option<(u32, Instant)> {
        (self.first != NONE).then(|| (self.first, self.entries[self.first as usize].expires))
    }

    pub fn iter(&self) -> impl Iterator<Item = &TimeWait> {
        self.entries.iter().map(|(_, entry)| &entry.state)
    }

    /// Judges a segment (RFC 9293 section 3.10.7.4 for TIME-WAIT).
    pub fn judge(&self, index: u32, header: &TcpHeader, timestamps: Option<Timestamps>, len: u32) -> Verdict {
        let state = self.get(index);
        // RFC 1337 section 3, fix F1: a RST, old or forged, must not end the wait.
        if header.flags.contains(Flags::RST) {
            return Verdict::Drop;
        }
        let newer_clock = match (state.ts_recent, timestamps) {
            (Some(recent), Some(now)) => Some((now.val.wrapping_sub(recent) as i32).cmp(&0)),
            _ => None,
        };
        if header.flags.contains(Flags::SYN) && !header.flags.contains(Flags::ACK) {
            // RFC 6191 section 2: a newer timestamp, or the same or none and a higher sequence number.
            let beyond = header.seq.gt(state.rcv_nxt);
            let newer = match newer_clock {
                Some(core::cmp::Ordering::Greater) => true,
                Some(core::cmp::Ordering::Less) => false,
                Some(core::cmp::Ordering::Equal) | None => beyond,
            };
            if newer {
                return Verdict::Reopen { isn_floor: state.snd_nxt + (u32::from(u16::MAX) + 2) };
            }
        }
        // Old duplicates by timestamp are answered, but do not prolong the wait (RFC 7323 section 5.3 R1).
        let old = newer_clock == Some(core::cmp::Ordering::Less);
        let end = header.seq + len;
        let retransmitted_fin = header.flags.contains(Flags::FIN) && end == state.rcv_nxt;
        if retransmitted_fin && !old {
            return Verdict::Acknowledge { restart: true };
        }
        // A bare ACK where it belongs is the end of the conversation, not a question.
        if len == 0 && header.seq == state.rcv_nxt && !header.flags.contains(Flags::SYN) {
            return Verdict::Drop;
        }
        Verdict::Acknowledge { restart: false }
    }

    fn link_last(&mut self, index: u32) {
        let last = self.last;
        let entry = &mut self.entries[index as usize];
        (entry.prev, entry.next) = (last, NONE);
        match last {
            NONE => self.first = index,
            last => self.entries[last as usize].next = index,
        }
        self.last = index;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, .. } = self.entries[index as usize];
        match prev {
            NONE => self.first = next,
            prev => self.entries[prev as usize].next = next,
        }
        match next {
            NONE => self.last = prev,
            next => self.entries[next as usize].prev = prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tuple;
    use super::*;

    fn state(ts_recent: Option<u32>) -> TimeWait {
        let tuple =
            Tuple { local: "192.0.2.1:80".parse().unwrap(), remote: "192.0.2.2:999".parse().unwrap() };
        TimeWait {
            key: tuple.into(),
            snd_nxt: SeqNumber(1000),
            rcv_nxt: SeqNumber(5000),
            ts_recent,
            ts_offset: 0,
            window: 100,
        }
    }

    fn judge(ts_recent: Option<u32>, flags: Flags, seq: u32, ts: Option<u32>, len: u32) -> Verdict {
        let mut waits = TimeWaits::new(Duration::from_secs(60));
        let index = waits.insert(Instant::ZERO, state(ts_recent));
        let header = TcpHeader {
            src_port: 999,
            dst_port: 80,
            seq: SeqNumber(seq),
            ack: SeqNumber(1000),
            header_len: 20,
            flags,
            window: 0,
            checksum: 0,
            urgent: 0,
        };
        waits.judge(index, &header, ts.map(|val| Timestamps { val, ecr: 0 }), len)
    }

    #[test]
    fn an_entry_costs_at_most_96_bytes() {
        assert!(size_of::<Entry>() + 8 <= 96, "{}", size_of::<Entry>());
    }

    #[test]
    fn a_reset_does_not_end_the_wait() {
        assert_eq!(judge(None, Flags::RST, 5000, None, 0), Verdict::Drop);
    }

    #[test]
    fn only_a_newer_syn_reopens() {
        let reopen = Verdict::Reopen { isn_floor: SeqNumber(1000 + 65_537) };
        let keep = Verdict::Acknowledge { restart: false };
        assert_eq!(judge(None, Flags::SYN, 5001, None, 1), reopen);
        assert_eq!(judge(None, Flags::SYN, 5000, None, 1), keep);
        assert_eq!(judge(Some(70), Flags::SYN, 10, Some(71), 1), reopen);
        assert_eq!(judge(Some(70), Flags::SYN, 9000, Some(69), 1), keep);
        assert_eq!(judge(Some(70), Flags::SYN, 5001, Some(70), 1), reopen);
        assert_eq!(judge(Some(70), Flags::SYN | Flags::ACK, 9000, Some(99), 1), keep);
    }

    #[test]
    fn a_fin_sent_again_is_acknowledged_and_prolongs_the_wait() {
        let fin = Flags::FIN | Flags::ACK;
        assert_eq!(judge(None, fin, 4999, None, 1), Verdict::Acknowledge { restart: true });
        assert_eq!(judge(Some(70), fin, 4999, Some(60), 1), Verdict::Acknowledge { restart: false });
        assert_eq!(judge(None, Flags::ACK, 5000, None, 0), Verdict::Drop);
        assert_eq!(judge(None, Flags::ACK, 4000, None, 10), Verdict::Acknowledge { restart: false });
    }

    #[test]
    fn entries_end_in_order_and_a_restart_goes_last() {
        let mut waits = TimeWaits::new(Duration::from_secs(60));
        let at = |secs| Instant::ZERO + Duration::from_secs(secs);
        let [a, b, c] = [0, 1, 2].map(|secs| waits.insert(at(secs), state(None)));
        waits.restart(at(3), b);
        let mut order = Vec::new();
        while let Some((index, expires)) = waits.first() {
            order.push((index, expires));
            waits.remove(index);
        }
        assert_eq!(order, [(a, at(60)), (c, at(62)), (b, at(63))]);
    }
}
