//! A segment arrives at a connection: RFC 9293 section 3.10.7.3 (SYN-SENT) and 3.10.7.4 (all later states), one function
//! for each of its steps, in its order. What the connection does about it is left in its marks and deadlines; the
//! engine sends and re-files it afterwards.

use super::TcpError;
use super::config::TcpConfig;
use super::congestion::CongestionControl;
use super::connection::{Connection, NEVER};
use super::header::{Flags, TcpHeader};
use super::listener::{PeerSyn, window_scale_for};
use super::options::{TcpOptions, Timestamps};
use super::rate_limit::TokenBucket;
use super::receive_queue::ReceiveQueue;
use super::replies::Replies;
use super::seq::SeqNumber;
use super::state::State;
use crate::counters::{Counters, DropReason};
use crate::packet::Packet;
use crate::time::{Duration, Instant};

/// After this long a timestamp says nothing any more (RFC 7323 section 5.5).
const PAWS_IDLE: Duration = Duration::from_secs(24 * 24 * 3600);

/// What the engine lends a connection while it handles an event.
pub struct Env<'a> {
    pub now: Instant,
    pub config: &'a TcpConfig,
    pub counters: &'a mut Counters,
    pub replies: &'a mut Replies,
    pub challenges: &'a mut TokenBucket,
    /// Frames are scarce: payload must be copied out of them.
    pub copy_payload: bool,
    /// Memory is short: queues may only keep their least.
    pub pressure: bool,
}

/// A segment, read once.
#[derive(Debug)]
pub struct Segment {
    pub header: TcpHeader,
    pub options: TcpOptions,
    /// Bytes of payload.
    pub payload: u32,
}

impl Segment {
    /// SEG.LEN: payload with SYN and FIN (RFC 9293 section 3.4).
    pub fn len(&self) -> u32 {
        self.payload
            + u32::from(self.header.flags.contains(Flags::SYN))
            + u32::from(self.header.flags.contains(Flags::FIN))
    }

    fn has(&self, flag: Flags) -> bool {
        self.header.flags.contains(flag)
    }

    fn timestamps(&self) -> Option<Timestamps> {
        self.options.timestamps
    }
}

/// Whether the segment's handling goes on.
#[derive(PartialEq, Eq)]
enum Step {
    Next,
    Done,
}
use Step::{Done, Next};

impl Connection {
    /// Handles a segment; `packet` holds its payload.
    pub fn segment(&mut self, segment: &Segment, packet: Packet, env: &mut Env<'_>) {
        self.totals.segments_in = self.totals.segments_in.wrapping_add(1);
        match self.state {
            State::SynSent => self.in_syn_sent(segment, packet, env),
            State::Closed | State::Listen => {}
            _ => self.in_later_states(segment, packet, env),
        }
    }

    // ---- SYN-SENT (RFC 9293 section 3.10.7.3)

    fn in_syn_sent(&mut self, segment: &Segment, packet: Packet, env: &mut Env<'_>) {
        let header = &segment.header;
        let acks = segment.has(Flags::ACK);
        // First, the ACK bit. A timestamp echo that we never sent is as wrong as an ACK that is (RFC 7323 section 3.2).
        if acks && !(header.ack.gt(self.iss) && header.ack.le(self.snd_max)) {
            env.counters.drop(DropReason::TcpBadAck);
            if !segment.has(Flags::RST) {
                env.replies.reset_to_ack(&self.key, header.ack, env.counters);
            }
            return;
        }
        // Second, the RST bit: only one that acknowledges our SYN is believed (RFC 5961 section 3.2).
        if segment.has(Flags::RST) {
            if acks {
                env.counters.tcp_resets_rx += 1;
                env.counters.tcp_attempt_fails += 1;
                self.fail(TcpError::ConnectionRefused);
            } else {
                env.counters.drop(DropReason::TcpBadReset);
            }
            return;
        }
        // Fourth, the SYN bit (third, security, is not implemented: RFC 9293 appendix A.1).
        if !segment.has(Flags::SYN) {
            env.counters.drop(DropReason::TcpNoConnection);
            return;
        }
        let syn = PeerSyn::new(header.seq, header.window, &segment.options, self.key.remote().is_ipv6());
        self.take_syn(&syn, env);
        self.snd_wl1 = header.seq;
        if acks {
            self.acknowledge_syn(header, segment.timestamps(), env);
            self.establish(env);
            self.marks.ack_now = true;
            env.counters.tcp_active_opens += 1;
            // "If there are other controls or text in the segment, continue processing at the sixth step".
            self.text_and_fin(segment, packet, header.seq + 1, env);
        } else {
            // Simultaneous open: SYN,ACK with our ISS again.
            self.state = State::SynReceived;
            self.snd_nxt = self.iss;
            self.marks.syn_now = true;
            self.snd_wnd = u32::from(header.window);
            self.snd_wnd_max = self.snd_wnd;
            if segment.payload > 0 {
                // Its payload is not acknowledged, so that the peer sends it again once the connection is open.
                env.counters.drop(DropReason::TcpOutOfWindow);
            }
        }
    }

    /// Takes what the peer's SYN says into the connection.
    pub fn take_syn(&mut self, syn: &PeerSyn, env: &Env<'_>) {
        self.irs = syn.seq;
        self.received = ReceiveQueue::new(syn.seq + 1);
        let window = ReceiveQueue::window_max(self.options.receive_buffer_bytes);
        self.rcv_edge = syn.seq + 1 + window.min(usize::from(u16::MAX)) as u32;
        self.last_ack_sent = syn.seq + 1;
        self.peer_mss = syn.mss;
        match syn.scale.filter(|_| env.config.window_scaling) {
            Some(scale) => {
                self.snd_scale = scale;
                self.rcv_scale = window_scale_for(window);
            }
            None => {
                (self.snd_scale, self.rcv_scale) = (0, 0);
                self.marks.scaling = false;
            }
        }
        self.marks.timestamps = env.config.timestamps && syn.timestamp.is_some();
        self.ts_recent = syn.timestamp.unwrap_or(0);
        self.ts_recent_at = env.now;
        self.received_at = env.now;
    }

    /// The peer acknowledged our SYN.
    fn acknowledge_syn(&mut self, header: &TcpHeader, timestamps: Option<Timestamps>, env: &Env<'_>) {
        self.sample_rtt(header.ack, timestamps, env.now);
        self.snd_una = self.iss + 1;
        self.snd_nxt = self.snd_nxt.max(self.snd_una);
        // The window of a SYN is never scaled (RFC 7323 section 2.2).
        let scale = if header.flags.contains(Flags::SYN) { 0 } else { self.snd_scale };
        self.snd_wnd = u32::from(header.window) << scale;
        self.snd_wnd_max = self.snd_wnd;
        self.snd_wl1 = header.seq;
        self.snd_wl2 = header.ack;
    }

    /// The handshake is over.
    pub fn establish(&mut self, env: &Env<'_>) {
        self.state = State::Established;
        self.set_mss();
        if self.retries > 0 {
            self.congestion.on_handshake_loss();
            self.rtt.syn_was_lost();
        }
        self.congestion.on_established(env.now, u32::from(self.mss));
        self.recover = self.iss;
        self.retries = 0;
        self.retransmit_at = NEVER;
        self.received_at = env.now;
        self.progress_at = env.now;
        self.restart_keepalive();
        if self.marks.write_shut {
            self.state = State::FinWait1;
        }
        self.wake_both();
    }

    /// Payload bytes that fit a segment beside the options every segment has (RFC 9293 section 3.7.1, RFC 6691).
    pub fn set_mss(&mut self) {
        let headers = if self.key.remote().is_ipv6() { 60 } else { 40 };
        let path = self.pmtu.saturating_sub(headers);
        let ours = if self.our_mss == 0 { u16::MAX } else { self.our_mss };
        let options = if self.marks.timestamps { 12 } else { 0 };
        self.mss = self.peer_mss.min(ours).min(path).saturating_sub(options).max(1);
    }

    // ---- SYN-RECEIVED (of a simultaneous open) and later (RFC 9293 section 3.10.7.4)

    fn in_later_states(&mut self, segment: &Segment, packet: Packet, env: &mut Env<'_>) {
        let steps = self.check_sequence(segment, env) == Next
            && self.check_reset(segment, env) == Next
            && self.check_syn(segment, env) == Next
            && self.check_ack(segment, env) == Next;
        if !steps {
            return;
        }
        self.check_urgent(segment);
        let text = segment.header.seq + u32::from(segment.has(Flags::SYN));
        self.text_and_fin(segment, packet, text, env);
    }

    /// First: the timestamp (PAWS, RFC 7323 section 5.3) and the sequence number.
    fn check_sequence(&mut self, segment: &Segment, env: &mut Env<'_>) -> Step {
        let header = &segment.header;
        if self.marks.timestamps && !segment.has(Flags::RST) {
            let Some(timestamps) = segment.timestamps() else {
                // RFC 7323 section 3.2: a segment without the option that was agreed on is dropped without an answer.
                env.counters.drop(DropReason::TcpPaws);
                return Done;
            };
            let old = (timestamps.val.wrapping_sub(self.ts_recent) as i32) < 0;
            let outdated = env.now - self.ts_recent_at > PAWS_IDLE;
            if old && !outdated {
                env.counters.drop(DropReason::TcpPaws);
                self.answer_with_ack(env);
                return Done;
            }
        }
        if !self.is_acceptable(segment) {
            env.counters.drop(DropReason::TcpOutOfWindow);
            if !segment.has(Flags::RST) {
                if segment.payload > 0 && header.seq.lt(self.rcv_nxt()) {
                    env.counters.tcp_duplicate_rx += 1;
                }
                self.heard(env.now);
                self.ack_of_unacceptable(segment, env);
                self.answer_with_ack(env);
            }
            return Done;
        }
        self.heard(env.now);
        if let Some(timestamps) = segment.timestamps().filter(|_| self.marks.timestamps) {
            // RFC 7323 section 4.3 (2): only a segment that holds the next byte to be acknowledged.
            if header.seq.le(self.last_ack_sent) {
                self.ts_recent = timestamps.val;
                self.ts_recent_at = env.now;
            }
        }
        Next
    }

    /// RFC 9293 section 3.4's four cases.
    fn is_acceptable(&self, segment: &Segment) -> bool {
        let (seq, len, nxt, wnd) = (segment.header.seq, segment.len(), self.rcv_nxt(), self.rcv_wnd());
        // The SYN,ACK of a simultaneous open repeats the SYN that was taken (RFC 9293 section 3.5, figure 7).
        if self.state == State::SynReceived && segment.has(Flags::SYN | Flags::ACK) && seq == self.irs {
            return true;
        }
        match (len, wnd) {
            (0, 0) => seq == nxt,
            (0, wnd) => seq.in_window(nxt, wnd) || seq == nxt,
            (_, 0) => false,
            (len, wnd) => seq.in_window(nxt, wnd) || (seq + (len - 1)).in_window(nxt, wnd),
        }
    }

    /// A probe of our closed window, or what was sent again, is not acceptable; but what it says about our own data is
    /// news all the same when it stands at the window's edge (RFC 9293 section 3.10.7.4: valid ACKs are allowed for).
    fn ack_of_unacceptable(&mut self, segment: &Segment, env: &mut Env<'_>) {
        let header = &segment.header;
        let plain = segment.has(Flags::ACK) && !header.flags.intersects(Flags::SYN);
        if plain && self.rcv_wnd() == 0 && header.seq == self.rcv_nxt() && self.state.is_synchronized() {
            let _ = self.check_ack(segment, env);
        }
    }

    fn heard(&mut self, now: Instant) {
        self.received_at = now;
        if self.keepalive_at != NEVER {
            self.restart_keepalive();
        }
    }

    /// An ACK in answer to something wrong. Rate-limited, so that two hosts that disagree do not flood each other.
    fn answer_with_ack(&mut self, env: &mut Env<'_>) {
        if env.challenges.take(env.now) {
            self.marks.ack_now = true;
        } else {
            env.counters.tcp_challenge_acks_limited += 1;
        }
    }

    /// A challenge ACK (RFC 5961).
    fn challenge(&mut self, reason: DropReason, env: &mut Env<'_>) {
        env.counters.drop(reason);
        if env.challenges.take(env.now) {
            env.counters.tcp_challenge_acks += 1;
            self.marks.ack_now = true;
        } else {
            env.counters.tcp_challenge_acks_limited += 1;
        }
    }

    /// Second: the RST bit (RFC 5961 section 3.2).
    fn check_reset(&mut self, segment: &Segment, env: &mut Env<'_>) -> Step {
        if !segment.has(Flags::RST) {
            return Next;
        }
        if segment.header.seq != self.rcv_nxt() {
            self.challenge(DropReason::TcpBadReset, env);
            return Done;
        }
        env.counters.tcp_resets_rx += 1;
        let error = match self.state {
            State::SynReceived => {
                env.counters.tcp_attempt_fails += 1;
                TcpError::ConnectionRefused
            }
            State::Closing | State::LastAck | State::TimeWait => TcpError::NotConnected,
            _ => {
                env.counters.tcp_established_resets += 1;
                TcpError::ConnectionReset
            }
        };
        self.fail(error);
        Done
    }

    /// Fourth: the SYN bit (RFC 5961 section 4.2).
    fn check_syn(&mut self, segment: &Segment, env: &mut Env<'_>) -> Step {
        if !segment.has(Flags::SYN) {
            return Next;
        }
        // Elsewhere than in a simultaneous open's SYN,ACK it is a mistake or an attack.
        if self.state == State::SynReceived && segment.header.seq == self.irs {
            return Next;
        }
        self.challenge(DropReason::TcpBadSyn, env);
        Done
    }

    /// Fifth: the ACK field.
    fn check_ack(&mut self, segment: &Segment, env: &mut Env<'_>) -> Step {
        let header = &segment.header;
        if !segment.has(Flags::ACK) {
            env.counters.drop(DropReason::TcpBadAck);
            return Done;
        }
        if self.state == State::SynReceived {
            if !(header.ack.gt(self.snd_una) && header.ack.le(self.snd_max)) {
                env.counters.drop(DropReason::TcpBadAck);
                env.replies.reset_to_ack(&self.key, header.ack, env.counters);
                return Done;
            }
            self.acknowledge_syn(header, segment.timestamps(), env);
            env.counters.tcp_active_opens += 1;
            self.establish(env);
        }
        if header.ack.gt(self.snd_max) {
            // Acknowledges what was never sent: an ACK, and the segment is dropped (RFC 5961 section 5.2).
            self.challenge(DropReason::TcpBadAck, env);
            return Done;
        }
        if self.snd_una.since(header.ack) < 1 << 31 && self.snd_una.since(header.ack) > self.snd_wnd_max {
            self.challenge(DropReason::TcpBadAck, env);
            return Done;
        }
        let acked = if header.ack.gt(self.snd_una) { header.ack.since(self.snd_una) } else { 0 };
        let window_changed = self.update_window(header);
        if acked > 0 {
            self.acknowledge(header.ack, acked, segment.timestamps(), env);
        } else if header.ack == self.snd_una {
            self.same_ack(segment, window_changed, env);
        }
        match self.state {
            State::Closed | State::TimeWait => Done,
            _ => Next,
        }
    }

    /// The send window (RFC 9293 section 3.10.7.4: SND.WL1, SND.WL2). Returns whether it changed.
    fn update_window(&mut self, header: &TcpHeader) -> bool {
        let newer = self.snd_wl1.lt(header.seq)
            || self.snd_wl1 == header.seq && self.snd_wl2.le(header.ack)
            || header.ack.gt(self.snd_una);
        if !newer || header.ack.lt(self.snd_una) {
            return false;
        }
        let window = u32::from(header.window) << self.snd_scale;
        let changed = window != self.snd_wnd;
        (self.snd_wnd, self.snd_wl1, self.snd_wl2) = (window, header.seq, header.ack);
        self.snd_wnd_max = self.snd_wnd_max.max(window);
        if self.persisting && (window > 0 && changed) {
            self.leave_persist();
        }
        changed
    }

    /// `acked` bytes of ours are acknowledged for the first time.
    fn acknowledge(&mut self, ack: SeqNumber, acked: u32, timestamps: Option<Timestamps>, env: &mut Env<'_>) {
        self.sample_rtt(ack, timestamps, env.now);
        let in_flight_before = self.snd_max.since(self.snd_una);
        let data = (acked as usize).min(self.unsent.len());
        self.unsent.acknowledge(data);
        self.totals.bytes_acked += data as u64;
        self.snd_una = ack;
        self.snd_nxt = self.snd_nxt.max(ack);
        self.progress_at = env.now;
        self.retries = 0;
        self.rtt.reset_back_off();
        self.on_new_ack(ack, acked, in_flight_before, env);
        if self.persisting {
            self.leave_persist();
        }
        self.restart_retransmission(env.now);
        if self.unsent.len() < self.options.send_buffer_bytes {
            self.wake_writer();
        }
        if self.marks.fin_sent && self.unsent.is_empty() && self.snd_una == self.snd_max {
            self.fin_was_acked(env);
        }
    }

    /// RFC 6298 section 5.2 and 5.3: the timer runs while something is in flight, anew from each new ACK.
    pub fn restart_retransmission(&mut self, now: Instant) {
        if !self.persisting {
            let outstanding = self.snd_max != self.snd_una;
            self.retransmit_at = if outstanding { now + self.rtt.rto() } else { NEVER };
        }
    }

    pub fn leave_persist(&mut self) {
        self.persisting = false;
        self.retries = 0;
        self.retransmit_at = NEVER;
        // What was only a probe is sent again as data.
        self.rtt.reset_back_off();
    }

    /// Our FIN is acknowledged: what that means in each state.
    fn fin_was_acked(&mut self, env: &Env<'_>) {
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                self.keepalive_at = if self.marks.orphan { NEVER } else { self.keepalive_at };
                if self.marks.orphan {
                    self.linger_at = env.now + env.config.fin_wait_2;
                }
            }
            State::Closing => self.enter_time_wait(),
            State::LastAck => {
                self.state = State::Closed;
                self.end();
            }
            _ => {}
        }
        self.wake_writer();
    }

    /// TIME-WAIT begins: the engine moves it to a compact entry; what was received can still be read here.
    fn enter_time_wait(&mut self) {
        self.state = State::TimeWait;
        self.end();
    }

    /// An RTT sample: from the timed segment, exact to the clock, or else from the echoed timestamp (RFC 7323 section
    /// 4, RFC 6298 section 3: Karn's algorithm).
    fn sample_rtt(&mut self, ack: SeqNumber, timestamps: Option<Timestamps>, now: Instant) {
        if let Some((end, at)) = self.timed {
            if ack.ge(end) {
                self.timed = None;
                self.rtt.sample(now - at);
                self.rtt.age_min_rtt(now);
                return;
            }
        }
        let retransmitted = self.retries > 0 || self.marks.in_recovery;
        if let Some(echo) =
            timestamps.filter(|_| self.marks.timestamps && retransmitted && self.timed.is_none())
        {
            let elapsed = self.timestamp(now).wrapping_sub(echo.ecr);
            if echo.ecr != 0 && elapsed < 1 << 31 {
                self.rtt.sample(Duration::from_millis(u64::from(elapsed)));
                self.rtt.age_min_rtt(now);
            }
        }
    }

    /// Sixth: the URG bit. Urgent data stays in the stream (RFC 6093 section 6); the pointer is only noted.
    fn check_urgent(&mut self, segment: &Segment) {
        if !segment.has(Flags::URG) || !self.state.receives_data() {
            return;
        }
        let pointer = segment.header.seq + u32::from(segment.header.urgent);
        if pointer.gt(self.rcv_nxt()) && self.urgent.is_none_or(|urgent| pointer.gt(urgent)) {
            self.urgent = Some(pointer);
        }
    }

    /// Seventh and eighth: the text, and the FIN bit. `seq` is that of the first payload byte.
    fn text_and_fin(&mut self, segment: &Segment, packet: Packet, seq: SeqNumber, env: &mut Env<'_>) {
        let end = seq + segment.payload;
        if segment.payload > 0 {
            self.totals.data_segments_in = self.totals.data_segments_in.wrapping_add(1);
            if self.take_text(segment, packet, seq, env) == Done {
                return;
            }
        }
        if segment.has(Flags::FIN) && self.fin_ahead.is_none() && end.ge(self.rcv_nxt()) {
            // Beyond the window it was not announced room for, and will come again.
            if end.le(self.rcv_edge) {
                self.fin_ahead = Some(end);
            }
        }
        if segment.has(Flags::FIN) {
            self.marks.ack_now = true;
        }
        if self.fin_ahead == Some(self.rcv_nxt()) && self.state.receives_data() {
            self.take_fin();
        }
        if self.urgent.is_some_and(|urgent| urgent.le(self.rcv_nxt())) {
            self.urgent = None;
        }
    }

    /// Seventh: the text.
    fn take_text(&mut self, segment: &Segment, packet: Packet, seq: SeqNumber, env: &mut Env<'_>) -> Step {
        if !self.state.receives_data() {
            // The peer's FIN was taken: nothing can follow it (RFC 9293 section 3.10.7.4: "should not occur").
            return Next;
        }
        let end = seq + segment.payload;
        if self.marks.orphan && end.gt(self.rcv_nxt()) {
            // Data for an application that is gone (RFC 9293 section 3.6.1, MUST-78's reason): reset.
            env.replies.reset(&self.key, self.snd_nxt, self.rcv_nxt(), env.counters);
            env.counters.tcp_established_resets += 1;
            self.fail(TcpError::ConnectionAborted);
            return Done;
        }
        self.rcv_mss = self.rcv_mss.max(segment.payload.min(u32::from(u16::MAX)) as u16);
        let had_gap = self.received.has_gap();
        let from = usize::from(packet.parsed.payload);
        let range = from..from + segment.payload as usize;
        let cap = if env.pressure { 0 } else { self.options.receive_buffer_bytes };
        let inserted = self.received.insert(seq, packet.into_slices(range), cap, env.copy_payload);
        if inserted.dropped > 0 {
            env.counters.drop(DropReason::TcpReceiveBufferFull);
        }
        self.totals.bytes_received += u64::from(inserted.advanced);
        env.counters.tcp_bytes_rx += u64::from(inserted.advanced);
        env.counters.tcp_out_of_order_rx += u64::from(inserted.new_out_of_order > 0);
        if inserted.advanced == 0 {
            // A gap, or nothing new: the peer must know at once (RFC 5681 section 4.2).
            env.counters.tcp_duplicate_rx += u64::from(inserted.new_out_of_order == 0);
            self.marks.ack_now = true;
            return Next;
        }
        if self.marks.read_shut {
            while self.received.read_chunk().is_some() {}
        } else {
            self.wake_reader();
        }
        self.schedule_ack(had_gap || inserted.dropped > 0, env);
        Next
    }

    /// When to acknowledge text in order (RFC 9293 section 3.8.6.3, RFC 5681 section 4.2): every second full segment, at
    /// once when it fills a gap, else within the delay.
    fn schedule_ack(&mut self, at_once: bool, env: &Env<'_>) {
        self.unacked_segments = self.unacked_segments.saturating_add(1);
        let unacked_bytes = self.rcv_nxt().since(self.last_ack_sent);
        let quick = self.options.quickack || self.quick_acks > 0 && !self.marks.interactive;
        if at_once || quick || unacked_bytes >= 2 * u32::from(self.rcv_mss) {
            self.quick_acks = self.quick_acks.saturating_sub(1);
            self.marks.ack_now = true;
        } else if self.delayed_ack_at == NEVER {
            self.delayed_ack_at = env.now + env.config.delayed_ack;
        }
    }

    /// Eighth: the FIN bit, in order.
    fn take_fin(&mut self) {
        self.received.accept_fin();
        self.fin_ahead = None;
        self.marks.ack_now = true;
        self.marks.eof = true;
        match self.state {
            State::Established => self.state = State::CloseWait,
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(),
            _ => {}
        }
        self.wake_reader();
    }
}
