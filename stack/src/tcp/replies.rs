//! Segments that no connection sends: RSTs, the ACKs of TIME-WAIT, and the SYN-ACKs of half-open connections. They wait
//! here for the next `transmit`, in order and bounded.

use std::collections::VecDeque;

use super::header::{Flags, TcpHeader};
use super::options::Timestamps;
use super::seq::SeqNumber;
use super::table::Key;
use crate::counters::{Counters, DropReason};

/// One segment that waits.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    /// Everything is known.
    Segment {
        key: Key,
        seq: SeqNumber,
        ack: SeqNumber,
        flags: Flags,
        window: u16,
        timestamps: Option<Timestamps>,
    },
    /// The SYN-ACK of the half-open connection at this place, if it still waits for one then.
    SynAck(u32),
}

/// The segments that wait.
#[derive(Debug)]
pub struct Replies {
    queue: VecDeque<Reply>,
    max: usize,
}

impl Replies {
    pub fn new(max: usize) -> Self {
        Self { queue: VecDeque::new(), max: max.max(1) }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn front(&self) -> Option<Reply> {
        self.queue.front().copied()
    }

    pub fn pop(&mut self) {
        self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > 256 {
            self.queue = VecDeque::new();
        }
    }

    /// Whether it was taken; when not, it is counted as dropped.
    pub fn push(&mut self, reply: Reply, counters: &mut Counters) -> bool {
        if self.queue.len() >= self.max {
            counters.drop(DropReason::TxQueueFull);
            return false;
        }
        self.queue.push_back(reply);
        true
    }

    /// `<SEQ=SEG.ACK><CTL=RST>`: for an ACK of what was never sent (RFC 9293 section 3.5.2, group 2).
    pub fn reset_to_ack(&mut self, key: &Key, seq: SeqNumber, counters: &mut Counters) {
        let (ack, flags) = (SeqNumber(0), Flags::RST);
        self.push(Reply::Segment { key: *key, seq, ack, flags, window: 0, timestamps: None }, counters);
    }

    /// A RST from within a connection: `seq` is its SND.NXT.
    pub fn reset(&mut self, key: &Key, seq: SeqNumber, ack: SeqNumber, counters: &mut Counters) {
        let flags = Flags::RST | Flags::ACK;
        self.push(Reply::Segment { key: *key, seq, ack, flags, window: 0, timestamps: None }, counters);
    }

    /// The RST for a segment that belongs to no connection (RFC 9293 section 3.10.7.1). `len`: SEG.LEN.
    pub fn reset_stray(&mut self, key: &Key, header: &TcpHeader, len: u32, counters: &mut Counters) {
        if header.flags.contains(Flags::RST) {
            return;
        }
        if header.flags.contains(Flags::ACK) {
            self.reset_to_ack(key, header.ack, counters);
        } else {
            self.reset(key, SeqNumber(0), header.seq + len, counters);
        }
    }
}
