//! What a connection sends: the next segment by RFC 9293 section 3.8 (windows, Nagle, silly-window avoidance, probes), and
//! the engine's round through all connections that have something to send.
//!
//! A segment is first planned without changing anything, then given to the egress, and only when that took it does the
//! connection count it as sent.

use super::config::TcpConfig;
use super::congestion::CongestionControl;
use super::connection::{CORK_MAX, Connection, NEVER};
use super::header::Flags;
use super::options::{OPTIONS_LEN_MAX, TcpOptions};
use super::receive_queue::ReceiveQueue;
use super::seq::SeqNumber;
use super::state::State;
use super::{Egress, EgressError, SegmentOut};
use crate::counters::Counters;
use crate::time::Instant;

/// Segments a connection sends before the next one's turn.
const TURN_SEGMENTS: usize = 16;

/// How a connection's turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Nothing more to send now.
    Done,
    /// There is more: another turn.
    More,
    /// The egress is full.
    Full,
}

/// A segment about to be sent.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seq: SeqNumber,
    /// Offset of the payload in the send queue.
    offset: usize,
    len: usize,
    flags: Flags,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Syn,
    Data,
    Retransmit,
    Probe,
    Keepalive,
    Ack,
}

impl Connection {
    /// Sends up to a turn's worth of segments.
    pub fn transmit(
        &mut self,
        now: Instant,
        config: &TcpConfig,
        egress: &mut dyn Egress,
        counters: &mut Counters,
    ) -> Turn {
        self.follow_path_mtu(egress);
        self.restart_after_idle(now);
        for _ in 0..TURN_SEGMENTS {
            let Some(plan) = self.plan(now) else { return Turn::Done };
            match self.send(now, &plan, egress) {
                Ok(()) => self.sent(now, &plan, config, counters),
                Err(EgressError::Full) => return Turn::Full,
                Err(EgressError::TooBig { mtu }) => {
                    let smaller = u16::try_from(mtu).unwrap_or(u16::MAX).min(self.pmtu);
                    if smaller == self.pmtu {
                        return Turn::Done;
                    }
                    self.pmtu = smaller;
                    self.set_mss();
                }
                // As if it were lost on the way: the timers try again, and give up in the end.
                Err(EgressError::NoRoute) => {
                    self.sent(now, &plan, config, counters);
                    return Turn::Done;
                }
            }
        }
        Turn::More
    }

    /// The device's MTU may be smaller than what the SYN announced allows for.
    fn follow_path_mtu(&mut self, egress: &dyn Egress) {
        let mtu = u16::try_from(egress.path_mtu(self.key.remote().ip())).unwrap_or(u16::MAX);
        if self.our_mss == 0 {
            let headers = if self.key.remote().is_ipv6() { 60 } else { 40 };
            self.our_mss = mtu.saturating_sub(headers).max(1);
        }
        if mtu < self.pmtu {
            self.pmtu = mtu;
            self.set_mss();
        }
    }

    /// RFC 5681 section 4.1: after an RTO of silence the window starts again from the initial one.
    fn restart_after_idle(&mut self, now: Instant) {
        let idle = self.in_flight() == 0 && now - self.sent_at > self.rtt.rto();
        if idle && !self.unsent.is_empty() && self.state.is_synchronized() {
            self.congestion.on_idle_restart(now);
            self.sent_at = now;
        }
    }

    /// The next segment to send, if any.
    fn plan(&mut self, now: Instant) -> Option<Plan> {
        match self.state {
            State::Closed | State::Listen | State::TimeWait => return None,
            State::SynSent | State::SynReceived => return self.plan_syn(),
            _ => {}
        }
        if self.marks.retransmit_now {
            if let Some(plan) = self.plan_retransmission() {
                return Some(plan);
            }
            self.marks.retransmit_now = false;
        }
        if let Some(plan) = self.plan_data(now) {
            return Some(plan);
        }
        if self.marks.probe_now {
            if let Some(plan) = self.plan_probe() {
                return Some(plan);
            }
            self.marks.probe_now = false;
        }
        if self.marks.keepalive_now {
            // RFC 9293 section 3.8.4: a segment that the peer must answer, without payload.
            let seq = self.snd_una - 1;
            return Some(Plan { seq, offset: 0, len: 0, flags: Flags::ACK, kind: Kind::Keepalive });
        }
        self.marks.ack_now.then(|| self.bare_ack())
    }

    fn plan_syn(&self) -> Option<Plan> {
        let flags = match (self.state, self.marks.syn_now, self.marks.ack_now) {
            (State::SynSent, true, _) => Flags::SYN,
            (State::SynReceived, true, _) => Flags::SYN | Flags::ACK,
            (State::SynReceived, false, true) => return Some(self.bare_ack()),
            _ => return None,
        };
        Some(Plan { seq: self.iss, offset: 0, len: 0, flags, kind: Kind::Syn })
    }

    fn bare_ack(&self) -> Plan {
        Plan { seq: self.snd_max, offset: 0, len: 0, flags: Flags::ACK, kind: Kind::Ack }
    }

    /// The segment at SND.UNA once more, whatever the windows say.
    fn plan_retransmission(&self) -> Option<Plan> {
        if self.snd_una == self.snd_max {
            return None;
        }
        let sent = self.snd_max.since(self.snd_una) as usize;
        let len = sent.min(self.unsent.len()).min(usize::from(self.mss));
        let fin = self.marks.fin_sent && len == self.unsent.len();
        (len > 0 || fin).then(|| self.data_plan(self.snd_una, 0, len, fin, Kind::Retransmit))
    }

    fn data_plan(&self, seq: SeqNumber, offset: usize, len: usize, fin: bool, kind: Kind) -> Plan {
        let mut flags = Flags::ACK;
        let end = seq + len as u32;
        // PSH where a write ended, or where there is no more to come (RFC 9293 section 3.9.1.2).
        if len > 0 && (end.ge(self.push_seq) && seq.lt(self.push_seq) || offset + len == self.unsent.len()) {
            flags |= Flags::PSH;
        }
        if fin {
            flags |= Flags::FIN;
        }
        Plan { seq, offset, len, flags, kind }
    }

    /// New data, or data to be sent again after a timeout, as far as the windows let it.
    fn plan_data(&mut self, now: Instant) -> Option<Plan> {
        if !self.state.sends_data() {
            return None;
        }
        let sent = self.in_flight();
        let offset = (sent as usize).min(self.unsent.len());
        let left = self.unsent.len() - offset;
        let fin_left = self.marks.write_shut && sent as usize <= self.unsent.len();
        if left == 0 && !fin_left {
            self.marks.cwnd_limited = false;
            return None;
        }
        let cwnd = self.congestion_window();
        let by_peer = self.snd_wnd.saturating_sub(sent) as usize;
        let by_cwnd = cwnd.saturating_sub(sent) as usize;
        let mss = usize::from(self.mss);
        let full = left.min(mss);
        let len = full.min(by_peer).min(by_cwnd);
        let fin = fin_left && len == left && (by_peer.min(by_cwnd) > len || sent == 0 && self.snd_wnd > 0);
        if len == 0 && !fin {
            self.marks.cwnd_limited = by_cwnd == 0 && by_peer > 0;
            self.persist_if_stuck(now, by_peer < full.max(1));
            return None;
        }
        // A window smaller than the segment: of the congestion's we wait for an ACK, of the peer's see below.
        if len < full && by_cwnd < by_peer && sent > 0 {
            self.marks.cwnd_limited = true;
            return None;
        }
        if !fin && len < mss && !self.may_send_partial(now, len, left, offset) {
            return None;
        }
        if len < left && by_cwnd <= len {
            self.marks.cwnd_limited = true;
        }
        Some(self.data_plan(self.snd_nxt, offset, len, fin, Kind::Data))
    }

    /// Nagle's and the sender's silly-window avoidance (RFC 9293 sections 3.7.4 and 3.8.6.2.1) for a segment of `len`
    /// bytes that is not full.
    fn may_send_partial(&mut self, now: Instant, len: usize, left: usize, offset: usize) -> bool {
        // What was sent before goes again as it is.
        if self.snd_nxt.lt(self.snd_max) || self.marks.push_partial {
            return true;
        }
        let all = len == left;
        if all && self.options.cork && !self.marks.write_shut {
            self.hold(now, now + CORK_MAX);
            return false;
        }
        let idle = offset == 0;
        if all && (idle || self.options.nodelay || self.marks.write_shut) {
            return true;
        }
        // Half of the largest window the peer ever offered.
        if !all && len as u64 * 2 >= u64::from(self.snd_wnd_max) {
            return true;
        }
        if !all {
            self.persist_if_stuck(now, true);
        }
        false
    }

    /// Limits how long data is held back.
    fn hold(&mut self, _now: Instant, until: Instant) {
        if self.hold_at == NEVER {
            self.hold_at = until;
        }
    }

    /// Nothing in flight will bring an ACK that opens the window: the persist timer asks (RFC 9293 section 3.8.6.1).
    fn persist_if_stuck(&mut self, now: Instant, window_too_small: bool) {
        if window_too_small && self.snd_una == self.snd_max && !self.persisting {
            self.persisting = true;
            self.retries = 0;
            self.progress_at = now;
            self.retransmit_at = now + self.rtt.rto();
        }
    }

    /// One byte beyond a closed window, or what fits a silly one, or the FIN.
    fn plan_probe(&self) -> Option<Plan> {
        if !self.state.sends_data() {
            return None;
        }
        let len = self.unsent.len().min((self.snd_wnd as usize).max(1)).min(usize::from(self.mss));
        let fin = self.marks.write_shut && len == self.unsent.len();
        (len > 0 || fin).then(|| self.data_plan(self.snd_una, 0, len, fin, Kind::Probe))
    }

    /// Whether the window has opened so far that the peer should hear of it: by two segments or half of the buffer.
    pub fn window_update_is_due(&self) -> bool {
        if !self.state.receives_data() {
            return false;
        }
        let window_max = ReceiveQueue::window_max(self.options.receive_buffer_bytes) as u32;
        let gain = self.free_edge().since(self.rcv_edge);
        if gain > 1 << 31 || gain < 1 << self.rcv_scale {
            return false;
        }
        // A young connection's window is small because a SYN's cannot be scaled, not because it was used: the next ACK is
        // early enough.
        if self.totals.bytes_received < 1 << 15 && self.rcv_wnd() >= 1 << 15 {
            return false;
        }
        let low = self.rcv_wnd() <= window_max / 8;
        let two = gain >= 2 * u32::from(self.rcv_mss) && (gain >= window_max / 4 || low);
        two || gain >= window_max / 2
    }

    /// How far the right edge of the window could be, less what rounding the field up may add.
    fn free_edge(&self) -> SeqNumber {
        let space = self.received.space(self.options.receive_buffer_bytes) as u32;
        self.rcv_nxt() + space.saturating_sub((1 << self.rcv_scale) - 1)
    }

    /// Moves the window's right edge as far as silly-window avoidance allows (RFC 9293 section 3.8.6.2.2), never back, and
    /// returns the window field.
    fn announce_window(&mut self) -> u16 {
        let window_max = ReceiveQueue::window_max(self.options.receive_buffer_bytes) as u32;
        let edge = self.free_edge();
        let gain = edge.since(self.rcv_edge);
        let enough = u32::from(self.rcv_mss).min(window_max / 2).max(1);
        if gain < 1 << 31 && gain >= enough {
            self.rcv_edge = edge;
        }
        // Rounded up, so that what was announced before stays allowed; `free_edge` left room for that.
        self.rcv_wnd().div_ceil(1 << self.rcv_scale).min(u32::from(u16::MAX)) as u16
    }

    /// Hands the planned segment to the egress.
    fn send(&mut self, now: Instant, plan: &Plan, egress: &mut dyn Egress) -> Result<(), EgressError> {
        let syn = plan.flags.contains(Flags::SYN);
        let options = if syn { self.syn_options(now) } else { self.segment_options(now) };
        let mut buf = [0; OPTIONS_LEN_MAX];
        let options_len = options.emit(syn, &mut buf);
        let window = if syn { self.syn_window() } else { self.announce_window() };
        let ack = if plan.flags.contains(Flags::ACK) { self.rcv_nxt() } else { SeqNumber(0) };
        self.unsent.pieces(plan.offset, plan.len, |payload| {
            egress.send(
                now,
                &SegmentOut {
                    src: self.key.local(),
                    dst: self.key.remote(),
                    seq: plan.seq,
                    ack,
                    flags: plan.flags.0,
                    window,
                    urgent: 0,
                    options: &buf[..options_len],
                    payload,
                    ecn: 0,
                },
            )
        })
    }

    fn syn_options(&self, now: Instant) -> TcpOptions {
        let window = ReceiveQueue::window_max(self.options.receive_buffer_bytes);
        // A SYN,ACK has only what the peer's SYN had (RFC 7323 sections 2.2 and 3.2).
        TcpOptions {
            mss: Some(self.our_mss),
            window_scale: self.marks.scaling.then(|| super::listener::window_scale_for(window)),
            timestamps: self.timestamps(now),
            ..TcpOptions::default()
        }
    }

    fn segment_options(&self, now: Instant) -> TcpOptions {
        TcpOptions { timestamps: self.timestamps(now), ..TcpOptions::default() }
    }

    fn syn_window(&self) -> u16 {
        let window = ReceiveQueue::window_max(self.options.receive_buffer_bytes);
        window.min(usize::from(u16::MAX)) as u16
    }

    /// The egress took the segment.
    fn sent(&mut self, now: Instant, plan: &Plan, config: &TcpConfig, counters: &mut Counters) {
        let fin = plan.flags.contains(Flags::FIN);
        let end = plan.seq + plan.len as u32 + u32::from(fin) + u32::from(plan.kind == Kind::Syn);
        counters.tcp_segments_tx += 1;
        counters.tcp_bytes_tx += plan.len as u64;
        self.totals.segments_out = self.totals.segments_out.wrapping_add(1);
        self.totals.bytes_sent += plan.len as u64;
        self.totals.data_segments_out += u32::from(plan.len > 0);
        let again = plan.kind != Kind::Keepalive && plan.seq.lt(self.snd_max) && end.gt(plan.seq);
        if again {
            counters.tcp_retransmits += 1;
            self.totals.retransmits = self.totals.retransmits.saturating_add(1);
            self.timed = None;
        }
        match plan.kind {
            Kind::Syn => {
                self.marks.syn_now = false;
                self.snd_nxt = self.iss + 1;
            }
            Kind::Data => {
                self.snd_nxt = end;
                self.marks.push_partial &= self.in_flight() as usize != self.unsent.len();
                if !again && self.timed.is_none() {
                    self.timed = Some((end, now));
                }
            }
            Kind::Retransmit => {
                self.marks.retransmit_now = false;
                self.snd_nxt = self.snd_nxt.max(end);
            }
            Kind::Probe => {
                self.marks.probe_now = false;
                counters.tcp_zero_window_probes += 1;
            }
            Kind::Keepalive => {
                self.marks.keepalive_now = false;
                counters.tcp_keepalive_probes += 1;
            }
            Kind::Ack => {}
        }
        if plan.kind == Kind::Syn && !again {
            self.timed = Some((end, now));
        }
        self.snd_max = self.snd_max.max(end);
        if fin {
            self.marks.fin_sent = true;
        }
        if plan.len > 0 {
            self.marks.interactive = now - self.received_at < config.delayed_ack;
            self.sent_at = now;
        }
        if end != plan.seq && !self.persisting && self.retransmit_at == NEVER {
            self.retransmit_at = now + self.rtt.rto();
        }
        if plan.flags.contains(Flags::ACK) {
            self.acknowledged();
        }
    }

    /// A segment with our latest ACK went out.
    fn acknowledged(&mut self) {
        self.last_ack_sent = self.rcv_nxt();
        self.marks.ack_now = false;
        self.unacked_segments = 0;
        self.delayed_ack_at = NEVER;
    }
}
