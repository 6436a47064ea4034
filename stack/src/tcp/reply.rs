//! Segments that belong to no connection, or no longer: RSTs, challenge ACKs of half-open and TIME-WAIT entries, the last
//! ACK of a closing, SYN-ACKs with cookies. They wait, in bounded number, for the next `transmit`.

use std::collections::VecDeque;

use super::header::Flags;
use super::options::{OPTIONS_LEN_MAX, TcpOptions, Timestamps};
use super::seq::SeqNumber;
use super::table::TupleKey;
use super::{IpFields, SegmentOut};
use crate::counters::{Counters, DropReason};
use crate::limits;

/// A segment without payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub(super) key: TupleKey,
    pub(super) seq: SeqNumber,
    pub(super) ack: SeqNumber,
    pub(super) flags: Flags,
    /// As on the wire.
    pub(super) window: u16,
    pub(super) timestamps: Option<Timestamps>,
    /// It is a SYN-ACK with a SYN cookie.
    pub(super) syn_ack: Option<SynAckOptions>,
    pub(super) ip: IpFields,
}

/// The options that only a SYN-ACK has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SynAckOptions {
    /// Bound on the MSS.
    pub(super) maxseg: u16,
    pub(super) window_scale: Option<u8>,
    pub(super) sack_permitted: bool,
}

impl Reply {
    /// The RST that answers a segment with these `flags` and `ack` that ends at `end` (RFC 9293 section 3.10.7.1); `None`
    /// for a RST. Timestamps as RFC 7323 section 5.2 recommends; `tos` is that of the segment, as in Linux.
    pub(super) fn reset_for(
        key: TupleKey,
        flags: Flags,
        ack: SeqNumber,
        end: SeqNumber,
        timestamps: Option<Timestamps>,
        tos: u8,
    ) -> Option<Self> {
        if flags.contains(Flags::RST) {
            return None;
        }
        let (seq, ack, flags) = if flags.contains(Flags::ACK) {
            (ack, SeqNumber(0), Flags::RST)
        } else {
            (SeqNumber(0), end, Flags::RST | Flags::ACK)
        };
        let timestamps = timestamps.map(|theirs| Timestamps { val: 0, ecr: theirs.val });
        let ip = IpFields { tos, ..IpFields::default() };
        Some(Self { key, seq, ack, flags, window: 0, timestamps, syn_ack: None, ip })
    }

    /// Gives `send` the segment to send; `our_mss` goes into a SYN-ACK.
    pub(super) fn emit<R>(&self, our_mss: u16, send: impl FnOnce(&SegmentOut<'_>) -> R) -> R {
        let mut buffer = [0; OPTIONS_LEN_MAX];
        let mut options = TcpOptions { timestamps: self.timestamps, ..TcpOptions::default() };
        if let Some(SynAckOptions { maxseg, window_scale, sack_permitted }) = self.syn_ack {
            options = TcpOptions { mss: Some(our_mss.min(maxseg)), window_scale, sack_permitted, ..options };
        }
        let len = options.emit(self.syn_ack.is_some(), &mut buffer);
        send(&SegmentOut {
            src: self.key.local(),
            dst: self.key.remote(),
            seq: self.seq,
            ack: self.ack,
            flags: self.flags.0,
            first_flags: 0,
            window: self.window,
            urgent: 0,
            options: &buffer[..len],
            payload: &[],
            mss: 1,
            ecn: 0,
            ip: self.ip,
        })
    }
}

/// The replies that wait.
#[derive(Debug, Default)]
pub(super) struct Replies(VecDeque<Reply>);

impl Replies {
    /// Queues a reply, or drops and counts it when [`limits::TCP_REPLIES`] wait.
    pub(super) fn push(&mut self, reply: Reply, counters: &mut Counters) {
        if self.0.len() >= limits::TCP_REPLIES {
            counters.drop(DropReason::TxQueueFull);
            return;
        }
        self.0.push_back(reply);
    }

    pub(super) fn front(&self) -> Option<&Reply> {
        self.0.front()
    }

    pub(super) fn pop(&mut self) -> Option<Reply> {
        let reply = self.0.pop_front();
        if self.0.is_empty() {
            self.0.shrink_to(64);
        }
        reply
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
