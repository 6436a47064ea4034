//! The short way of a segment that is what its connection expects next (Van Jacobson's header prediction): ESTABLISHED, in
//! order, nothing lost, marked, urgent or closing, no option but timestamps, all that was sent acknowledged, and payload that
//! is short enough to be copied anyway. Requests and their answers are such segments.
//!
//! It leaves a connection as the steps of RFC 9293 section 3.10.7.4 in `input` and `acknowledge` would, to the last bit:
//! `tests/fast_path.rs` compares the two. What it does not expect walks those. Who changes a step there changes it here.
//!
//! A segment without payload on a connection that has nothing under way is known beforehand ([`Prediction`]): of many idle
//! connections, each is touched in few places.

use core::ops::Range;

use super::State;
use super::congestion::{Ack, CongestionControl};
use super::connection::{Connection, Context, seconds, timestamp_before};
use super::engine::Tcp;
use super::header::{Flags, HEADER_LEN};
use super::options::Timestamps;
use super::receive_queue::ReceiveQueue;
use super::rtt::RttEstimator;
use super::seq::SeqNumber;
use crate::counters::Counters;
use crate::packet::Packet;
use crate::time::Instant;

/// Bytes 12 and 13 of a header without options that has ACK alone, and of one that has timestamps.
const PLAIN: u16 = (HEADER_LEN as u16 / 4) << 12 | Flags::ACK.0;
const WITH_TIMESTAMPS: u16 = ((HEADER_LEN + Timestamps::ALONE_LEN) as u16 / 4) << 12 | Flags::ACK.0;

/// What is known of a segment that brings nothing, neither payload nor an acknowledgment: that a connection is ESTABLISHED with
/// all in order, nothing outstanding, queued or rare, as long as nobody else looks after it
/// ([`Connections::get_mut`](super::connections::Connections::get_mut)).
///
/// By its alignment the tag of an `Option` of it has more values that it never takes than any other field of a connection, so that
/// the compiler tells by it, too, whether a place has a connection: nothing else is read for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(8))]
pub(super) struct Prediction {
    rcv_nxt: SeqNumber,
    /// [`RttEstimator::half_window_s`].
    half_window_s: u32,
}

/// A segment without anything unusual, its header read.
struct Plain {
    seq: SeqNumber,
    ack: SeqNumber,
    window: u16,
    timestamps: Option<Timestamps>,
    /// Where the payload is in the packet's first frame, its only one.
    payload: Range<usize>,
}

impl Plain {
    /// Reads the TCP header of a parsed packet that is not merged; `None` for anything unusual.
    #[inline]
    fn read(packet: &Packet) -> Option<Self> {
        let (start, end) = (usize::from(packet.parsed.l4), packet.parsed.end as usize);
        let segment = packet.head().get(start..end)?;
        let fixed: &[u8; HEADER_LEN] = segment.first_chunk()?;
        let word = u16::from_be_bytes([fixed[12], fixed[13]]) & !Flags::PSH.0;
        let (header_len, timestamps) = match word {
            PLAIN => (HEADER_LEN, None),
            WITH_TIMESTAMPS => {
                let [begin, val, ecr] = [0, 4, 8].map(|at| long(segment, HEADER_LEN + at));
                if begin?.to_be_bytes() != Timestamps::ALONE {
                    return None;
                }
                (HEADER_LEN + Timestamps::ALONE_LEN, Some(Timestamps { val: val?, ecr: ecr? }))
            }
            _ => return None,
        };
        Some(Self {
            seq: SeqNumber(long(fixed, 4)?),
            ack: SeqNumber(long(fixed, 8)?),
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            timestamps,
            payload: start + header_len..end,
        })
    }
}

#[inline]
fn long(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

impl Tcp {
    /// Takes a packet that is not merged for the connection at `index`, if it is what that expects; `false`: nothing was done.
    #[inline]
    pub(super) fn receive_expected(
        &mut self,
        now: Instant,
        index: u32,
        packet: &Packet,
        counters: &mut Counters,
    ) -> bool {
        #[cfg(test)]
        if self.general_only {
            return false;
        }
        let Some(segment) = Plain::read(packet) else { return false };
        let pressure = self.is_under_pressure();
        let Some(connection) = self.tables.connections.get_predicting(index) else { return false };
        if connection.take_predicted(now, &segment) {
            #[cfg(test)]
            (self.predicted_segments += 1);
        } else {
            if !connection.expects(&segment) {
                return false;
            }
            connection.prediction = None;
            let mut cx =
                Context { now, config: &self.config, counters, replies: &mut self.replies, pressure };
            let payload = packet.head().get(segment.payload.clone()).unwrap_or_default();
            if connection.take_expected(&segment, payload, &mut cx) {
                self.touch(now, index);
            } else {
                connection.predict();
            }
        }
        counters.tcp_segments_rx += 1;
        #[cfg(test)]
        (self.expected_segments += 1);
        true
    }
}

impl Connection {
    /// Notes what a segment without news will be, if that can be told. Nothing else may happen to the connection after.
    #[inline]
    pub(super) fn predict(&mut self) {
        // Mostly it has just sent something.
        self.prediction = if self.outstanding() == 0 { self.foresee() } else { None };
    }

    /// What a segment without news will be, if that can be told.
    #[inline(never)]
    pub(super) fn foresee(&self) -> Option<Prediction> {
        let may_come = self.outstanding() == 0
            && self.send.is_empty()
            && self.state == State::Established
            && self.snd_wnd > 0
            && self.cold().is_none()
            && !self.rate.has_to_pass()
            && self.is_plain();
        let (rcv_nxt, half_window_s) = (self.rcv_nxt(), self.rtt.half_window_s());
        may_come.then_some(Prediction { rcv_nxt, half_window_s })
    }

    /// Takes in a segment without news that was predicted: what `take_expected` would do, and nothing may follow. `false`: it is
    /// another, and nothing was done.
    #[inline]
    fn take_predicted(&mut self, now: Instant, segment: &Plain) -> bool {
        let Some(Prediction { rcv_nxt, half_window_s }) = self.prediction else { return false };
        let is_it = segment.seq == rcv_nxt
            && segment.ack == self.snd_nxt
            && segment.payload.is_empty()
            && segment.window > 0
            && self.has_right_timestamps(segment)
            && RttEstimator::goes_on(half_window_s, now);
        if !is_it {
            return false;
        }
        debug_assert!(self.expects(segment) && self.prediction == self.foresee());
        self.note_segment(now);
        self.follow_send_window(segment);
        self.note_timestamps(now, segment);
        true
    }

    /// Whether timestamps are there if they must be, and not old.
    #[inline]
    fn has_right_timestamps(&self, segment: &Plain) -> bool {
        match segment.timestamps {
            Some(timestamps) => self.ts_enabled && !timestamp_before(timestamps.val, self.ts_recent),
            None => !self.ts_enabled,
        }
    }

    #[inline]
    fn note_segment(&mut self, now: Instant) {
        self.statistics.segments_in += 1;
        self.last_heard = now;
        self.keepalive_probes = 0;
    }

    #[inline]
    fn note_timestamps(&mut self, now: Instant, segment: &Plain) {
        if let Some(timestamps) = segment.timestamps.filter(|_| segment.seq.le(self.last_ack_sent)) {
            (self.ts_recent, self.ts_recent_at_s) = (timestamps.val, seconds(now));
        }
    }

    /// Whether the segment comes next and everything is in order.
    #[inline]
    fn expects(&self, segment: &Plain) -> bool {
        let len = segment.payload.len();
        segment.seq == self.rcv_nxt()
            && segment.ack == self.snd_nxt
            && self.state == State::Established
            && self.has_right_timestamps(segment)
            && (len == 0 || len < ReceiveQueue::FRAME_PAYLOAD_MIN && len as u32 <= self.rcv_wnd())
            && segment.window > 0
            && self.snd_wnd > 0
            && self.is_plain()
    }

    /// Whether nothing is under way that an ordinary segment would have to be looked at for.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        let open = !(self.orphan || self.read_shut || self.fin_queued) && self.peer_fin.is_none();
        let quiet = self.duplicate_acks_owed == 0 && !self.receive.has_gap() && self.ecn.is_absent();
        open && quiet
            && self.syn_acked()
            && self.is_undisturbed()
            && self.rack.is_calm()
            && self.rtt.backed_off() == 0
            && self.sent.is_plain()
            && (self.sent.len() == 0) == (self.outstanding() == 0)
            && self.cold().is_none_or(|cold| cold.mtu_search.is_none() && cold.fastopen.is_none())
    }

    /// Takes in a segment that is expected; whether anything may follow from it.
    fn take_expected(&mut self, segment: &Plain, payload: &[u8], cx: &mut Context<'_>) -> bool {
        self.note_segment(cx.now);
        let acknowledges = self.outstanding() > 0;
        if acknowledges {
            self.take_whole_ack(segment, cx);
        } else {
            self.follow_send_window(segment);
            self.rtt.age_min_rtt(cx.now);
            self.rate.pass();
        }
        self.note_timestamps(cx.now, segment);
        if payload.is_empty() {
            // Nothing waits for the window that may have opened, and no clock but the keepalive's runs, which traffic does not
            // move.
            return acknowledges || !self.send.is_empty() || self.cold().is_some();
        }
        let len = payload.len() as u32;
        self.statistics.data_segments_in += 1;
        self.measure_receive_rtt(cx.now, segment.timestamps.map(|timestamps| timestamps.ecr), len);
        let inserted = self.receive.insert_bytes(segment.seq, payload, self.insert_cap(cx.pressure));
        self.follow_insertion(&inserted, 1, len, false, cx);
        true
    }

    /// The fifth step: all that is outstanding is acknowledged, and was sent once only.
    fn take_whole_ack(&mut self, segment: &Plain, cx: &mut Context<'_>) {
        let now = cx.now;
        let (acked, una) = (self.outstanding(), self.nxt_offset());
        let in_flight_before = self.in_flight();
        let is_app_limited = self.is_app_limited();
        self.follow_send_window(segment);
        let (fack, mss, min_rtt) = (self.rack.fack(), self.mss, self.rtt.min_rtt());
        let (mut segments, mut first, mut last) = (0, None, now);
        let Self { sent, rack, rate, .. } = self;
        sent.acknowledge_all(una, |sent| {
            segments += 1;
            rate.on_delivered(now, sent.len, sent.sent_at, &sent.snapshot);
            rack.delivered(now, sent, fack, mss, min_rtt, false);
            // They lie in the order in which they were sent.
            first.get_or_insert(sent.sent_at);
            last = sent.sent_at;
        });
        self.statistics.delivered += segments;
        self.note_progress(segment.ack, una, acked, now);

        self.rtt.age_min_rtt(now);
        if let Some(first) = first {
            self.rack.measured();
            if una >= self.round_end {
                self.rtt.sample_us(now.micros_since(first));
                self.round_end = una;
            }
            self.rtt.note_min_us(now.micros_since(last));
        }

        if self.sack_enabled {
            self.timers.reorder = None;
        }
        let min_rtt = self.rtt.min_rtt();
        let rate = self.rate.sample(now, min_rtt);
        self.congestion.on_ack(&Ack {
            now,
            acked_bytes: acked,
            acks: 1,
            delivered_bytes: acked,
            rtt: first.map(|first| now - first),
            srtt: self.rtt.srtt(),
            in_flight_before,
            is_app_limited,
            in_recovery: false,
            mss: u32::from(mss),
            rate,
            in_flight_after: 0,
            lost_bytes: 0,
            delivered_total: self.rate.delivered(),
            min_rtt,
            acked_to: una,
            sent_to: una,
        });
        (self.timers.retransmit, self.timers.probe) = (None, None);
    }

    /// SND.WND, unless the segment is older than the last that set it.
    #[inline]
    fn follow_send_window(&mut self, segment: &Plain) {
        let window = u32::from(segment.window) << self.snd_wscale;
        self.update_send_window(segment.seq, segment.ack, window);
    }
}
