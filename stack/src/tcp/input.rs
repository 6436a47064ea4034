//! SEGMENT ARRIVES for a connection: RFC 9293 section 3.10.7.3 (SYN-SENT) and 3.10.7.4 (all other states), one function a
//! step and in its order, with the checks of RFC 7323 section 5 (PAWS) and RFC 5961 (blind attacks) where those put them.
//! Step 5's consequences for sending are in `recovery`.

use core::ops::ControlFlow;

use super::connection::{Connection, Context, TIMESTAMP_AGE_MAX_S, seconds, timestamp_before};
use super::header::{Flags, HEADER_LEN, TcpHeader};
use super::options::TcpOptions;
use super::receive_queue::Inserted;
use super::reply::Reply;
use super::seq::SeqNumber;
use super::table::TupleKey;
use super::{State, TcpError};
use crate::counters::DropReason;
use crate::limits;
use crate::packet::Packet;
use crate::time::{Duration, Instant};

/// A received segment with its header read.
pub(super) struct Segment {
    pub(super) seq: SeqNumber,
    pub(super) ack: SeqNumber,
    pub(super) flags: Flags,
    /// As on the wire: not scaled.
    pub(super) window: u16,
    urgent: u16,
    /// The IP header's ECN field (RFC 3168 section 5).
    pub(super) ecn: u8,
    pub(super) options: TcpOptions,
    /// How many segments of the peer's it stands for: those merged into it, or acknowledgments of which it is the last.
    pub(super) merged: u16,
    /// Payload bytes of the first of them.
    first_payload: u32,
    /// Payload or FIN was cut off.
    stripped: bool,
    /// Where the payload is in `packet`.
    payload: core::ops::Range<usize>,
    packet: Packet,
}

/// Whether the next step follows, or the segment is done with.
type Step = ControlFlow<()>;
const DONE: Step = ControlFlow::Break(());
const NEXT: Step = ControlFlow::Continue(());

/// Least and largest delay of an ACK (Linux's `TCP_ATO_MIN`, `TCP_DELACK_MAX`; RFC 9293 section 3.8.6.3 allows 500 ms).
const ATO_MIN_MS: u16 = 40;
const ATO_MAX_MS: u16 = 200;

impl Segment {
    /// Reads the TCP header of a parsed packet; gives the packet back when it is malformed or its ports are not allowed. Of
    /// acknowledgments that were chained the last counts, of merged payload the first with the last one's PSH and FIN.
    /// RFC 9293 section 3.1, MUST-5.
    pub(super) fn parse(packet: Packet) -> Result<Self, Packet> {
        let merged = packet.packets();
        let packet = if is_chain_of_acks(&packet) { packet.into_last() } else { packet };
        let Some((header, options, payload)) = read_header(&packet) else { return Err(packet) };
        let flags = header.flags | last_flags(&packet);
        let first_payload = if merged > 1 { packet.segment_payload() } else { payload.len() as u32 };
        Ok(Self {
            seq: header.seq,
            ack: header.ack,
            flags,
            window: header.window,
            urgent: header.urgent,
            ecn: packet.parsed.ecn,
            options,
            merged,
            first_payload,
            stripped: false,
            payload,
            packet,
        })
    }

    /// The connection it belongs to, seen from our side.
    pub(super) fn key(&self) -> TupleKey {
        key_of(&self.packet)
    }

    pub(super) fn has(&self, flag: Flags) -> bool {
        self.flags.contains(flag)
    }

    pub(super) fn payload_len(&self) -> u32 {
        self.payload.len() as u32
    }

    /// SEG.LEN: payload, SYN and FIN.
    pub(super) fn len(&self) -> u32 {
        self.payload_len() + u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN))
    }

    /// Payload bytes of a segment as the peer sent it: all that were merged have as many, but the last may have fewer.
    fn unmerged_len(&self) -> u32 {
        self.first_payload.min(self.payload_len())
    }

    /// How many acknowledgments by themselves it stands for, at least 1.
    pub(super) fn acks(&self) -> u16 {
        if self.payload.is_empty() && !self.stripped { self.merged } else { 1 }
    }

    /// Sequence number of the first payload byte.
    fn payload_seq(&self) -> SeqNumber {
        self.seq + u32::from(self.has(Flags::SYN))
    }

    pub(super) fn into_packet(self) -> Packet {
        self.packet
    }

    /// The RST that answers it when its ACK is wrong (RFC 9293 sections 3.10.7.3 and 3.10.7.4).
    pub(super) fn reset(&self, key: TupleKey) -> Option<Reply> {
        let (end, tos) = (self.seq + self.len(), self.packet.parsed.tos());
        Reply::reset_for(key, self.flags, self.ack, end, self.options.timestamps, tos)
    }

    /// Cuts off payload and FIN.
    fn strip(&mut self) {
        self.stripped |= self.payload_len() > 0 || self.has(Flags::FIN);
        self.payload.end = self.payload.start;
        self.flags = Flags(self.flags.0 & !Flags::FIN.0);
    }

    pub(super) fn was_stripped(&self) -> bool {
        self.stripped
    }

    /// Whether it lies in a window of `wnd` from `rcv_nxt` on (RFC 9293 section 3.10.7.4, table 6). A merged one may reach over
    /// both edges, which none of its segments does: what is in between counts.
    pub(super) fn is_acceptable(&self, rcv_nxt: SeqNumber, wnd: u32) -> bool {
        let len = self.len();
        match (len, wnd) {
            (0, 0) => self.seq == rcv_nxt,
            (0, _) => self.seq.in_window(rcv_nxt, wnd),
            (_, 0) => false,
            _ => {
                let has_edge =
                    self.seq.in_window(rcv_nxt, wnd) || (self.seq + (len - 1)).in_window(rcv_nxt, wnd);
                has_edge || self.merged > 1 && rcv_nxt.in_window(self.seq, len)
            }
        }
    }
}

impl Connection {
    /// A segment for this connection, in any state but CLOSED, LISTEN and TIME-WAIT.
    pub(super) fn segment_arrives(&mut self, segment: Segment, cx: &mut Context<'_>) {
        self.statistics.segments_in += u32::from(segment.merged);
        if self.state == State::SynSent {
            self.arrives_in_syn_sent(segment, cx);
        } else {
            let _ = self.arrives_otherwise(segment, cx);
        }
    }

    // ---- RFC 9293 section 3.10.7.3

    /// RFC 9293 section 3.5, MUST-10.
    fn arrives_in_syn_sent(&mut self, segment: Segment, cx: &mut Context<'_>) {
        // First, the ACK bit. SND.UNA is ISS here.
        let acked = segment.has(Flags::ACK);
        if acked && (segment.ack.le(self.iss) || segment.ack.gt(self.snd_nxt)) {
            cx.counters.drop(DropReason::TcpBadAck);
            if let Some(reset) = segment.reset(self.key) {
                cx.replies.push(reset, cx.counters);
            }
            return;
        }
        // Second, the RST bit: valid only with that ACK (RFC 5961 section 3.2).
        if segment.has(Flags::RST) {
            if !acked {
                cx.counters.drop(DropReason::TcpBadReset);
                return;
            }
            cx.counters.tcp_resets_rx += 1;
            if self.ecn.is_requesting() {
                // It may be of a middlebox that refuses the request (RFC 3168 section 6.1.1.1).
                self.ecn.fall_back();
                (self.syn_due, self.syn_sent_at) = (true, None);
                return;
            }
            self.count_failure(cx.counters);
            self.finish(Some(TcpError::ConnectionRefused));
            return;
        }
        // Third, security: not part of any network this stack is for. Fourth, the SYN bit; fifth, without it drop.
        if !segment.has(Flags::SYN) {
            cx.counters.drop(DropReason::TcpBadAck);
            return;
        }
        self.last_heard = cx.now;
        self.begin_receiving(segment.seq);
        self.adopt_syn_options(cx.now, &segment.options);
        self.set_send_window(&segment);
        if !acked {
            // Simultaneous open (figure 8). Payload and FIN of this SYN are left for the peer to send again: they are
            // not acknowledged.
            self.ecn.take_simultaneous_syn(&segment, cx.config.ecn.accept);
            self.state = State::SynReceived;
            self.syn_due = true;
            return;
        }
        let marked = self.ecn.take_syn_ack(&segment);
        self.update_mss();
        self.measure_handshake(&segment, cx);
        self.note_syn_acknowledged();
        self.conclude_fastopen(segment.ack, Some(&segment.options), cx);
        self.establish(cx);
        if marked {
            self.reduce_for_marks(0, 0, cx);
        }
        self.ack_now = true;
        self.check_urgent(&segment);
        let fin = self.note_fin(&segment);
        if self.process_text(segment, fin, cx).is_continue() {
            self.check_fin(cx.now);
        }
    }

    // ---- RFC 9293 section 3.10.7.4

    fn arrives_otherwise(&mut self, mut segment: Segment, cx: &mut Context<'_>) -> Step {
        self.check_timestamp(&segment, cx)?;
        self.check_sequence(&mut segment, cx)?;
        self.check_reset(&segment, cx)?;
        self.check_syn(&segment, cx)?;
        // What follows counts as hearing from the peer: it is in the window and not a reset.
        self.last_heard = cx.now;
        self.keepalive_probes = 0;
        self.check_ack(&segment, cx)?;
        self.note_timestamp(&segment, cx.now);
        self.note_marks(&segment);
        self.check_urgent(&segment);
        let fin = self.note_fin(&segment);
        self.process_text(segment, fin, cx)?;
        self.check_fin(cx.now);
        NEXT
    }

    /// Whether a packet that several segments were merged into may be processed as one. Payload may: all of the segments have
    /// the same acknowledgment and options. Of acknowledgments the last may stand for all while nothing is amiss: whatever
    /// the others say about what arrived, it says too, and they say it in the same burst, that is at the same time. What is
    /// lost by it: rate samples, of which the last covers the most, the second sample of SRTT where a round trip ends within the
    /// burst, and the smaller steps in which the window would have
    /// grown; how many ACKs there were is told to congestion control, so that HyStart++ and the limits of slow start count as
    /// before. In recovery, where single ACKs decide (F-RTO, proportional rate reduction, the probe of a tail), each is
    /// processed.
    pub(super) fn takes_merged(&self, packet: &Packet) -> bool {
        if !is_chain_of_acks(packet) {
            return self.state != State::SynSent;
        }
        self.syn_acked() && self.state != State::SynReceived && self.is_undisturbed()
    }

    /// Before the first step: PAWS (RFC 7323 section 5.3, R1).
    fn check_timestamp(&mut self, segment: &Segment, cx: &mut Context<'_>) -> Step {
        if !self.ts_enabled || segment.has(Flags::RST) {
            return NEXT;
        }
        let Some(timestamps) = segment.options.timestamps else {
            if segment.has(Flags::SYN) {
                // Of a peer that was started anew, perhaps: the challenge finds out (RFC 5961 section 4.2).
                return NEXT;
            }
            if cx.config.timestamps_optional {
                return NEXT;
            }
            // RFC 7323 section 3.2: once agreed on, timestamps are in every segment.
            cx.counters.drop(DropReason::TcpPaws);
            return DONE;
        };
        if !timestamp_before(timestamps.val, self.ts_recent) || self.is_timestamp_outdated(cx.now) {
            return NEXT;
        }
        cx.counters.drop_merged(DropReason::TcpPaws, segment.merged);
        self.acknowledge_unacceptable(segment, cx);
        DONE
    }

    /// RFC 7323 section 5.5.
    fn is_timestamp_outdated(&self, now: Instant) -> bool {
        seconds(now).wrapping_sub(self.ts_recent_at_s) > TIMESTAMP_AGE_MAX_S
    }

    /// First, the sequence number.
    /// RFC 9293 section 3.4, MUST-66.
    fn check_sequence(&mut self, segment: &mut Segment, cx: &mut Context<'_>) -> Step {
        let (rcv_nxt, wnd) = (self.rcv_nxt(), self.rcv_wnd());
        let syn = segment.has(Flags::SYN);
        if self.state == State::SynReceived && syn && segment.has(Flags::ACK) && segment.seq == self.irs {
            // The SYN,ACK of a simultaneous open repeats the SYN (figure 8, line 6); its ACK is news.
            segment.flags = Flags(segment.flags.0 & !Flags::SYN.0);
            segment.seq = rcv_nxt;
            segment.strip();
            self.ack_now = true;
            return NEXT;
        }
        if !self.syn_acked() && syn && !segment.has(Flags::ACK) && segment.seq == self.irs {
            // The peer of a simultaneous or Fast Open repeats its SYN: it has not got our SYN,ACK and would drop a bare ACK.
            if !self.ecn.note_syn_again(segment, cx.config.ecn.accept) {
                cx.counters.drop(DropReason::TcpBadSyn);
                if let Some(reset) = segment.reset(self.key) {
                    cx.replies.push(reset, cx.counters);
                }
                self.finish(Some(TcpError::ConnectionReset));
                return DONE;
            }
            self.syn_due = true;
            return DONE;
        }
        if segment.is_acceptable(rcv_nxt, wnd) {
            return NEXT;
        }
        if wnd == 0 && segment.seq == rcv_nxt && segment.payload_len() == 0 && segment.has(Flags::FIN) && !syn
        {
            // A FIN needs no room in the buffer. A peer that sends it into a closed window would go on sending it, and we
            // acknowledging (as in Linux).
            return NEXT;
        }
        if wnd == 0 && segment.seq == rcv_nxt && !syn {
            // A probe of our closed window, or a sender that ignores it: payload and FIN find no room, but ACK, URG and RST
            // count.
            segment.strip();
            cx.counters.drop_merged(DropReason::TcpReceiveBufferFull, segment.merged);
            self.ack_now = true;
            return NEXT;
        }
        if segment.len() == 0 && segment.seq == self.rcv_edge && self.receive.has_gap() {
            // A peer that filled the window, and of whose segments one was lost, can only acknowledge from the edge:
            // table 6 would have it silent until the gap is filled (compare appendix A.2).
            return NEXT;
        }
        cx.counters.drop_merged(DropReason::TcpOutOfWindow, segment.merged);
        if segment.len() > 0 && !syn && (segment.seq + segment.len()).le(rcv_nxt) {
            cx.counters.tcp_duplicate_rx += u64::from(segment.merged);
            // A FIN that comes again is a duplicate like any other.
            self.note_duplicate(segment.seq, segment.len());
        }
        if syn && segment.has(Flags::ACK) && segment.seq == self.irs {
            self.ecn.note_syn_ack_again(segment);
        }
        if !segment.has(Flags::RST) {
            self.acknowledge_unacceptable(segment, cx);
        }
        DONE
    }

    /// An ACK for a segment that is not acceptable. One with payload or FIN is likely sent again for want of an ACK and gets
    /// one each time; others could go on for ever between two confused ends.
    fn acknowledge_unacceptable(&mut self, segment: &Segment, cx: &mut Context<'_>) {
        if segment.len() > 0 && !segment.has(Flags::SYN) {
            self.ack_now = true;
        } else {
            self.challenge(cx);
        }
    }

    /// Second, the RST bit (RFC 5961 section 3.2). It is in the window.
    /// RFC 9293 section 3.5, MUST-11; RFC 9293 section 3.5.3, SHLD-2.
    /// RFC 5961 section 1.1.
    fn check_reset(&mut self, segment: &Segment, cx: &mut Context<'_>) -> Step {
        if !segment.has(Flags::RST) {
            return NEXT;
        }
        if segment.seq != self.rcv_nxt() {
            cx.counters.drop(DropReason::TcpBadReset);
            self.challenge(cx);
            return DONE;
        }
        cx.counters.tcp_resets_rx += 1;
        self.count_failure(cx.counters);
        let error = match self.state {
            // A simultaneous open; a listener's half-open connections are in the SYN queue.
            State::SynReceived if !self.was_opened_with_data() => Some(TcpError::ConnectionRefused),
            // Both have closed; the user lost something only if data was not acknowledged.
            State::Closing | State::LastAck if self.send.is_empty() => None,
            _ => {
                cx.counters.tcp_established_resets += 1;
                Some(TcpError::ConnectionReset)
            }
        };
        self.finish(error);
        DONE
    }

    /// Fourth (third is security), the SYN bit: RFC 5961 section 4.2 for all states but SYN-RECEIVED of a passive open,
    /// which is the SYN queue's.
    fn check_syn(&mut self, segment: &Segment, cx: &mut Context<'_>) -> Step {
        if !segment.has(Flags::SYN) {
            return NEXT;
        }
        cx.counters.drop(DropReason::TcpBadSyn);
        self.challenge(cx);
        DONE
    }

    /// Fifth, the ACK field.
    /// RFC 9293 section 3.10.7.4, MAY-12.
    fn check_ack(&mut self, segment: &Segment, cx: &mut Context<'_>) -> Step {
        if !segment.has(Flags::ACK) {
            cx.counters.drop(DropReason::TcpBadAck);
            return DONE;
        }
        if self.state == State::SynReceived || !self.syn_acked() {
            if !(self.snd_una.lt(segment.ack) && segment.ack.le(self.snd_nxt)) {
                cx.counters.drop(DropReason::TcpBadAck);
                if let Some(reset) = segment.reset(self.key) {
                    cx.replies.push(reset, cx.counters);
                }
                return DONE;
            }
            self.acknowledge_syn(segment, cx);
        }
        // RFC 5961 section 5.2.
        let oldest = self.snd_una - self.snd_wnd_max;
        if segment.ack.lt(oldest) || segment.ack.gt(self.snd_nxt) {
            cx.counters.drop_merged(DropReason::TcpBadAck, segment.merged);
            self.challenge(cx);
            return DONE;
        }
        self.process_ack(segment, cx);
        self.after_ack(cx)
    }

    /// Our SYN is acknowledged in SYN-RECEIVED, or after a close in it.
    fn acknowledge_syn(&mut self, segment: &Segment, cx: &mut Context<'_>) {
        self.measure_handshake(segment, cx);
        self.note_syn_acknowledged();
        self.conclude_fastopen(segment.ack, None, cx);
        self.set_send_window(segment);
        if self.state == State::SynReceived {
            self.establish(cx);
        }
        if self.ecn.take_handshake_ack(segment) {
            self.reduce_for_marks(0, 0, cx);
        }
        self.update_mss();
    }

    /// What the acknowledgment of our FIN means for the state.
    fn after_ack(&mut self, cx: &mut Context<'_>) -> Step {
        if !self.fin_acked() {
            return NEXT;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.orphan {
                    self.timers.death = Some(cx.now + cx.config.fin_wait2_timeout);
                }
                NEXT
            }
            State::Closing => {
                self.enter_time_wait();
                DONE
            }
            State::LastAck => {
                self.finish(None);
                DONE
            }
            _ => NEXT,
        }
    }

    /// RFC 7323 section 5.3, R3; after the ACK check, so that a forged segment needs a good ACK to move TS.Recent.
    fn note_timestamp(&mut self, segment: &Segment, now: Instant) {
        let Some(timestamps) = segment.options.timestamps.filter(|_| self.ts_enabled) else { return };
        let newer = !timestamp_before(timestamps.val, self.ts_recent) || self.is_timestamp_outdated(now);
        if newer && segment.seq.le(self.last_ack_sent) {
            self.ts_recent = timestamps.val;
            self.ts_recent_at_s = seconds(now);
        }
    }

    /// Sixth, the URG bit. Urgent data stays in line (RFC 6093 section 6); the application is told by waking it and can
    /// ask how far it reaches (`Tcp::urgent_ahead`).
    /// RFC 9293 section 3.8.5, MUST-30, MUST-31, MUST-62.
    fn check_urgent(&mut self, segment: &Segment) {
        if !segment.has(Flags::URG) || !self.state.may_receive() {
            return;
        }
        let end = segment.seq + u32::from(segment.urgent);
        let known = self.cold().and_then(|cold| cold.urgent);
        let unread = self.rcv_nxt() - self.receive.readable() as u32;
        if end.gt(unread) && known.is_none_or(|known| end.gt(known) || known.le(unread)) {
            self.cold_mut().urgent = Some(end);
            self.wake_readers();
        }
    }

    /// Where the segment's FIN stands, if that is in the window; it counts when all before it has arrived.
    fn note_fin(&mut self, segment: &Segment) -> bool {
        if !segment.has(Flags::FIN) || self.fin_received || !self.state.may_receive() {
            return false;
        }
        let fin = segment.payload_seq() + segment.payload_len();
        if !fin.in_window(self.rcv_nxt(), self.rcv_wnd().max(1)) {
            return false;
        }
        let news = self.peer_fin != Some(fin);
        self.peer_fin = Some(fin);
        news
    }

    /// Seventh, the segment text.
    /// RFC 9293 section 3.10.7.4, SHLD-31.
    fn process_text(&mut self, segment: Segment, new_fin: bool, cx: &mut Context<'_>) -> Step {
        let len = segment.payload_len();
        if !self.state.may_receive() && !segment.has(Flags::SYN) {
            // Behind a FIN there is nothing. Whoever sends it hears at once how far his stream went, merged with others or not.
            self.ack_now |= len > 0;
            return NEXT;
        }
        if len == 0 {
            if new_fin && self.peer_fin != Some(self.rcv_nxt()) {
                self.owe_duplicate_acks(1);
            }
            return NEXT;
        }
        let seq = segment.payload_seq();
        if self.orphan && (seq + len).gt(self.rcv_nxt()) {
            // Nobody will read it: say so (RFC 9293 section 3.6.1, RFC 1122 section 4.2.2.13).
            if let Some(reset) = segment.reset(self.key) {
                cx.replies.push(reset, cx.counters);
            }
            cx.counters.drop_merged(DropReason::TcpReceiveBufferFull, segment.merged);
            self.finish(Some(TcpError::ConnectionAborted));
            return DONE;
        }
        let (merged, unmerged_len) = (segment.merged, segment.unmerged_len());
        self.statistics.data_segments_in += u32::from(merged);
        let echo = segment.options.timestamps.filter(|_| self.ts_enabled).map(|timestamps| timestamps.ecr);
        self.measure_receive_rtt(cx.now, echo, unmerged_len);
        let had_gap = self.receive.has_gap();
        let copy = cx.config.copy_received || segment.packet.pool().is_short();
        // What lies behind the window's edge is cut off.
        let beyond = if (seq + len).gt(self.rcv_edge) { (seq + len).since(self.rcv_edge) } else { 0 };
        let payload = segment.payload.start..segment.payload.end - beyond as usize;
        let cap = self.insert_cap(cx.pressure);
        let mut inserted = self.receive.insert(seq, segment.packet.into_slices(payload), cap, copy);
        inserted.dropped += beyond;
        self.follow_insertion(&inserted, merged, unmerged_len, had_gap, cx);
        NEXT
    }

    /// What follows from taking in payload, of `merged` segments and `unmerged_len` bytes in each.
    pub(super) fn follow_insertion(
        &mut self,
        inserted: &Inserted,
        merged: u16,
        unmerged_len: u32,
        had_gap: bool,
        cx: &mut Context<'_>,
    ) {
        if inserted.dropped > 0 {
            cx.counters.drop(DropReason::TcpReceiveBufferFull);
            self.ack_now = true;
        }
        if let Some((start, end)) = inserted.duplicate {
            self.note_duplicate(start, end.since(start));
            // By itself, a segment that came twice would have drawn an ACK at once.
            self.ack_now |= merged > 1;
        }
        if inserted.advanced > 0 {
            self.take_in_order(inserted.advanced, unmerged_len, had_gap, cx);
        } else if inserted.new_out_of_order > 0 {
            cx.counters.tcp_out_of_order_rx += u64::from(merged);
            self.cold_mut().troubles.out_of_order_in += u32::from(merged);
            // A SACK block says how much arrived; who has only the count of ACKs gets one for each (RFC 5681 section 4.2).
            self.owe_duplicate_acks(if self.sack_enabled { 1 } else { merged });
        } else if inserted.dropped == 0 {
            cx.counters.tcp_duplicate_rx += u64::from(merged);
            self.ack_now = true;
        }
    }

    /// The payload of a SYN whose Fast Open cookie is good (RFC 7413 section 4.2.2).
    pub(super) fn take_syn_text(&mut self, syn: Segment, cx: &mut Context<'_>) {
        self.statistics.segments_in += 1;
        let _ = self.process_text(syn, false, cx);
        // It says nothing of the peer's pace.
        self.ato_ms = 0;
    }

    /// Bytes that had arrived before came again: the next ACK says so (RFC 2883 section 4).
    fn note_duplicate(&mut self, seq: SeqNumber, len: u32) {
        if self.sack_enabled && len > 0 {
            self.cold_mut().duplicate_block = Some((seq, seq + len));
        }
        if self.ecn.note_duplicate(seq) {
            self.update_mss();
        }
    }

    /// Bytes became readable.
    fn take_in_order(&mut self, advanced: u32, segment_len: u32, had_gap: bool, cx: &mut Context<'_>) {
        cx.counters.tcp_bytes_rx += u64::from(advanced);
        self.statistics.bytes_received += u64::from(advanced);
        if self.read_shut {
            // Nobody wants it: the application said so.
            while self.receive.read_chunk().is_some() {}
        }
        self.wake_readers();
        if self.duplicate_acks_owed > 0 {
            // They would acknowledge the new RCV.NXT and count as duplicates of that.
            self.duplicate_acks_owed = 0;
            self.ack_now = true;
        }
        self.delay_ack(segment_len, cx.now);
        if had_gap {
            // It fills a gap or part of one (RFC 5681 section 4.2).
            self.ack_now = true;
        }
    }

    /// Decides when bytes received in order are acknowledged (RFC 9293 section 3.8.6.3), as Linux does: at once while the
    /// connection is young or more than one full segment waits, else after a delay that follows the peer's pace.
    /// RFC 9293 section 3.8.6.3, SHLD-18, SHLD-19, MUST-40.
    fn delay_ack(&mut self, segment_len: u32, now: Instant) {
        let gap = now - self.last_data_at;
        self.last_data_at = now;
        if segment_len > u32::from(self.rcv_mss) {
            let most = segment_len.min(u32::from(self.our_mss().max(536))) as u16;
            self.rcv_mss = self.rcv_mss.max(most);
        }
        if self.ato_ms == 0 {
            self.ato_ms = ATO_MIN_MS;
        } else if gap <= const { Duration::from_millis(ATO_MIN_MS as u64 / 2) } {
            self.ato_ms = self.ato_ms / 2 + ATO_MIN_MS / 2;
        } else if gap < Duration::from_millis(u64::from(self.ato_ms)) {
            let ato = Duration::from_millis(u64::from(self.ato_ms));
            let ato = (ato / 2 + gap).min(self.rtt.rto());
            self.ato_ms = (ato.as_millis() as u16).clamp(1, ATO_MAX_MS);
        } else if gap > self.rtt.rto() {
            // The peer may have restarted from idle, with a small window.
            self.quick_acks = super::connection::QUICK_ACKS;
        }
        let waiting = self.rcv_nxt().since(self.last_ack_sent);
        let quick = self.options.quickack || (self.quick_acks > 0 && !self.pingpong);
        if quick || waiting > u32::from(self.rcv_mss) {
            self.ack_now = true;
        } else if !self.ack_now && self.timers.delayed_ack.is_none() {
            let delay = self.ato_ms.min(ATO_MAX_MS);
            self.timers.delayed_ack = Some(now + Duration::from_millis(u64::from(delay)));
        }
    }

    /// The delayed ACK's time is over.
    pub(super) fn delayed_ack_is_due(&mut self) {
        if self.pingpong {
            self.pingpong = false;
            self.ato_ms = ATO_MIN_MS;
        } else {
            self.ato_ms = (self.ato_ms * 2).min(ATO_MAX_MS);
        }
        self.ack_now = true;
    }

    /// RFC 9293 section 3.10.7.4, MAY-13.
    fn owe_duplicate_acks(&mut self, count: u16) {
        let owed = u16::from(self.duplicate_acks_owed).saturating_add(count);
        self.duplicate_acks_owed = owed.min(u16::from(limits::TCP_DUPLICATE_ACKS)) as u8;
    }

    /// Eighth, the FIN bit, when all before it has arrived.
    fn check_fin(&mut self, now: Instant) {
        let Some(fin) = self.peer_fin else { return };
        if fin.lt(self.rcv_nxt()) {
            // Data went on behind it: a peer that contradicts itself. What came in order counts.
            self.peer_fin = None;
        }
        if fin != self.rcv_nxt() || self.fin_received || !self.state.may_receive() {
            return;
        }
        self.receive.accept_fin();
        self.fin_received = true;
        self.duplicate_acks_owed = 0;
        if self.cold().is_some_and(|cold| cold.duplicate_block.is_some()) {
            // The peer has nothing more to send for which it matters that something came twice (as in Linux).
            self.cold_mut().duplicate_block = None;
        }
        // In a closed window it takes the place behind the edge.
        self.rcv_edge = self.rcv_edge.max(self.rcv_nxt());
        self.wake_readers();
        match self.state {
            State::Established => {
                self.state = State::CloseWait;
                self.delay_ack_of_fin(now);
            }
            State::FinWait1 => {
                self.ack_now = true;
                self.state = State::Closing;
            }
            _ => {
                debug_assert_eq!(self.state, State::FinWait2);
                self.ack_now = true;
                self.enter_time_wait();
            }
        }
    }

    /// The peer has said all, and waits for us: our own FIN, or what the application still has to say, most often follows at
    /// once and takes the ACK along, so that it may wait like one of data (RFC 9293 section 3.8.6.3), as in Linux. A peer that
    /// has sent nothing else hears at once.
    fn delay_ack_of_fin(&mut self, now: Instant) {
        let waiting = self.rcv_nxt().since(self.last_ack_sent);
        if self.ato_ms == 0 || self.options.quickack || waiting > u32::from(self.rcv_mss) {
            self.ack_now = true;
        } else if !self.ack_now {
            self.pingpong = true;
            let delay = Duration::from_millis(u64::from(self.ato_ms.min(ATO_MAX_MS)));
            self.timers.delayed_ack.get_or_insert(now + delay);
        }
    }

    /// Both sides have closed and know it; the engine puts a TIME-WAIT entry in our place.
    fn enter_time_wait(&mut self) {
        self.state = State::TimeWait;
        self.stop();
        self.wake_all();
    }
}

/// Header, options, and where the payload is; `None` when they are malformed or a port is 0.
fn read_header(packet: &Packet) -> Option<(TcpHeader, TcpOptions, core::ops::Range<usize>)> {
    let (start, end) = (usize::from(packet.parsed.l4), packet.parsed.end as usize);
    let bytes = packet.head().get(start..packet.head().len().min(end))?;
    let header = TcpHeader::parse(bytes).filter(|header| header.src_port != 0 && header.dst_port != 0)?;
    let options = TcpOptions::parse(&bytes[HEADER_LEN..header.header_len]);
    Some((header, options, start + header.header_len..end))
}

/// Whether several acknowledgments without payload were chained.
fn is_chain_of_acks(packet: &Packet) -> bool {
    packet.is_merged() && u32::from(packet.parsed.payload) == packet.parsed.end
}

/// PSH and FIN of the last packet that was merged into this one; no other has them.
fn last_flags(packet: &Packet) -> Flags {
    if !packet.is_merged() {
        return Flags::NONE;
    }
    let header = packet.last_head().get(usize::from(packet.parsed.l4)..).and_then(TcpHeader::parse);
    header.map_or(Flags::NONE, |header| header.flags & (Flags::PSH | Flags::FIN))
}

pub(super) fn key_of(packet: &Packet) -> TupleKey {
    let flow = &packet.parsed.flow;
    TupleKey::of((flow.dst, flow.dst_port), (flow.src, flow.src_port))
}

/// The RST that answers a packet of no connection; `None` for a RST and for what is malformed.
pub(super) fn reset_for_packet(packet: &Packet) -> Option<Reply> {
    let (header, options, payload) = read_header(packet)?;
    let controls =
        u32::from(header.flags.contains(Flags::SYN)) + u32::from(header.flags.contains(Flags::FIN));
    let end = header.seq + (payload.len() as u32 + controls);
    let tos = packet.parsed.tos();
    Reply::reset_for(key_of(packet), header.flags, header.ack, end, options.timestamps, tos)
}
