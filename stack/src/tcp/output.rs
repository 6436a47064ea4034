//! What a connection sends next and when: new data by the windows, Nagle's rule, cork and silly window avoidance (RFC 9293
//! sections 3.7.4 and 3.8.6.2.1), data again, FIN, probes, ACKs. `plan` decides without changing anything, `send_next`
//! builds and sends what it decided and takes note of it only when the egress took it.

use super::congestion::CongestionControl;
use super::connection::{Connection, syn_window};
use super::header::Flags;
use super::options::{OPTIONS_LEN_MAX, TcpOptions};
use super::seq::SeqNumber;
use super::{Egress, EgressError, SegmentOut, State, TcpError};
use crate::counters::Counters;
use crate::time::{Duration, Instant};

/// What is to be sent next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// Our SYN, or SYN,ACK.
    Syn,
    /// Payload, FIN or both.
    Data(Data),
    /// An ACK by itself.
    Ack,
    /// An old sequence number that the peer answers (RFC 9293 section 3.8.4).
    Keepalive,
}

/// A segment that takes sequence space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Data {
    seq: SeqNumber,
    len: u32,
    fin: bool,
    push: bool,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// It is next.
    Next,
    /// Loss recovery wants the first unacknowledged segment again.
    Head,
    /// The window is closed.
    Probe,
}

/// What the send path works with besides the connection.
pub(super) struct Output<'a> {
    pub(super) now: Instant,
    pub(super) egress: &'a mut dyn Egress,
    pub(super) counters: &'a mut Counters,
    /// All buffers together are over their bound: windows do not grow.
    pub(super) pressure: bool,
}

impl Connection {
    /// What to send next, if anything.
    pub(super) fn plan(&self) -> Option<Plan> {
        if self.state.is_over() {
            return None;
        }
        if self.syn_due {
            return Some(Plan::Syn);
        }
        if self.duplicate_acks_owed > 0 {
            // The peer counts only segments without payload (RFC 5681 section 2).
            return Some(Plan::Ack);
        }
        self.plan_data()
            .map(Plan::Data)
            .or_else(|| self.ack_now.then_some(Plan::Ack))
            .or_else(|| self.keepalive_due.then_some(Plan::Keepalive))
    }

    fn plan_data(&self) -> Option<Data> {
        if !self.syn_acked() && !self.may_send_early() {
            return None;
        }
        if self.probe_due {
            return self.plan_probe();
        }
        if self.retransmit_head {
            return self.plan_head();
        }
        let (unsent, room) = (self.unsent(), self.window_room());
        if unsent == 0 {
            return self.plan_fin();
        }
        let wanted = unsent.min(u32::from(self.mss));
        if !self.congestion_allows(wanted) {
            return None;
        }
        let again = self.snd_ptr.lt(self.snd_nxt);
        if room >= wanted {
            let rest = wanted == unsent && !again;
            let fin = wanted == unsent && self.fin_queued && room > wanted;
            if wanted < u32::from(self.mss) && rest && !self.may_send_small() {
                return None;
            }
            return Some(self.data(self.snd_ptr, wanted, fin, Why::Next));
        }
        // Less than wanted fits the window: silly, unless it is much of what the peer ever offered.
        let worthwhile = again || self.override_due || room >= self.snd_wnd_max.div_ceil(2);
        (room > 0 && worthwhile).then(|| self.data(self.snd_ptr, room, false, Why::Next))
    }

    fn data(&self, seq: SeqNumber, len: u32, fin: bool, why: Why) -> Data {
        // The last byte there is: the peer should not wait for more (RFC 9293 section 3.9.1.2, MUST-61).
        let push = len > 0 && seq + len == self.data_end();
        Data { seq, len, fin, push, why }
    }

    /// The FIN by itself, once everything before it is sent and if the window has room for it.
    fn plan_fin(&self) -> Option<Data> {
        let due = self.fin_queued && !self.fin_acked() && self.snd_ptr == self.data_end();
        (due && self.window_room() > 0).then(|| self.data(self.snd_ptr, 0, true, Why::Next))
    }

    /// The first octet that is not acknowledged, or the FIN (RFC 9293 section 3.8.6.1).
    fn plan_probe(&self) -> Option<Data> {
        let len = self.send.len().min(1) as u32;
        let fin = len == 0 && self.fin_queued && !self.fin_acked();
        (len > 0 || fin).then(|| self.data(self.snd_una, len, fin, Why::Probe))
    }

    /// The first unacknowledged segment, as far as it was sent.
    fn plan_head(&self) -> Option<Data> {
        let sent = self.outstanding() - u32::from(self.fin_sent);
        let len = sent.min(u32::from(self.mss)).min(self.snd_wnd);
        let fin = self.fin_sent && len == sent && self.snd_wnd > len;
        (len > 0 || fin).then(|| self.data(self.snd_una, len, fin, Why::Head))
    }

    /// Bytes queued behind `snd_ptr`.
    pub(super) fn unsent(&self) -> u32 {
        let end = self.data_end();
        if self.snd_ptr.lt(end) { end.since(self.snd_ptr) } else { 0 }
    }

    /// Sequence space that the peer's window leaves behind `snd_ptr`; none when the peer shrank it to before that.
    fn window_room(&self) -> u32 {
        self.snd_wnd.saturating_sub(self.in_flight())
    }

    /// Whether the congestion window leaves room for `len` bytes; always for the first segment in flight.
    fn congestion_allows(&self, len: u32) -> bool {
        let window = self.congestion.cwnd().saturating_add(self.inflation);
        self.in_flight() == 0 || self.in_flight() + len <= window
    }

    /// Whether the last, partial segment may go: Nagle's rule in Minshall's form, that only one such segment may be
    /// outstanding (RFC 9293 appendix A.3; Linux's), unless turned off; nothing while corked.
    fn may_send_small(&self) -> bool {
        if self.fin_queued || self.override_due {
            return true;
        }
        !self.options.cork && (self.options.nodelay || self.snd_sml.le(self.snd_una))
    }

    /// Whether something is held back that no ACK will set free: by cork, or because less than a segment fits the window
    /// and nothing is outstanding.
    pub(super) fn is_holding_back(&self) -> bool {
        let unsent = self.unsent();
        unsent > 0
            && self.syn_acked()
            && self.snd_wnd > 0
            && !self.override_due
            && (self.options.cork || self.outstanding() == 0)
            && self.congestion_allows(unsent.min(u32::from(self.mss)))
            && self.plan_data().is_none()
    }

    /// Notes, when a turn ends, whether the congestion window is used: its growth is earned then. In slow start half of
    /// it is enough, as in Linux.
    pub(super) fn note_limit(&mut self) {
        let (mss, cwnd, in_flight) = (u32::from(self.mss), self.congestion.cwnd(), self.in_flight());
        let used =
            if self.congestion.in_slow_start() { in_flight.saturating_mul(2) } else { in_flight + mss };
        if used > cwnd {
            self.cwnd_limited = self.snd_nxt;
        }
    }

    /// Sends what `plan` says.
    pub(super) fn send_next(&mut self, plan: Plan, out: &mut Output<'_>) -> Result<(), EgressError> {
        match plan {
            Plan::Syn => self.send_syn(out),
            Plan::Data(data) => self.send_data(data, out),
            Plan::Ack => self.send_ack(out),
            Plan::Keepalive => self.send_keepalive(out),
        }
    }

    fn send_syn(&mut self, out: &mut Output<'_>) -> Result<(), EgressError> {
        let remote = self.key.remote();
        self.learn_mtu(|| out.egress.path_mtu(remote.ip()));
        let (fastopen, len) = self.fastopen_syn();
        // A SYN,ACK repeats an option only if the peer's SYN had it (RFC 7323 sections 2.2 and 3.2).
        let options = TcpOptions {
            mss: Some(self.our_mss()),
            window_scale: self.wscale_enabled.then_some(self.rcv_wscale),
            timestamps: self.timestamps(out.now),
            fastopen,
            ..TcpOptions::default()
        };
        let ack = self.state != State::SynSent;
        let space = self.receive.space(self.receive_cap()).min(65_535) as u16;
        let segment = Header {
            seq: self.iss,
            flags: if ack { Flags::SYN | Flags::ACK } else { Flags::SYN },
            window: syn_window(self.receive_cap()).min(space),
            options: &options,
        };
        let window = segment.window;
        self.emit(&segment, 0, len as usize, out)?;
        self.syn_due = false;
        if ack {
            self.note_syn_ack_sent(window);
        }
        if !self.snd_nxt.gt(self.iss) {
            self.note_syn_data_sent(len, out.counters);
            self.timed = Some((self.iss + 1, out.now));
            self.snd_nxt = self.iss + 1 + len;
            self.snd_ptr = self.snd_nxt;
            self.progress_at = out.now;
            self.restart_retransmit_timer(out.now);
        } else {
            out.counters.tcp_retransmits += u64::from(self.retransmits > 0);
            self.statistics.retransmitted += u32::from(self.retransmits > 0);
        }
        Ok(())
    }

    fn send_data(&mut self, data: Data, out: &mut Output<'_>) -> Result<(), EgressError> {
        if self.outstanding() == 0 && out.now - self.last_sent_at > self.rtt.rto() {
            // RFC 5681 section 4.1.
            self.congestion.on_idle_restart(out.now);
        }
        let mut flags = Flags::ACK;
        if data.fin {
            flags |= Flags::FIN;
        }
        if data.push {
            flags |= Flags::PSH;
        }
        let options = TcpOptions { timestamps: self.timestamps(out.now), ..TcpOptions::default() };
        let window = self.select_window(out.pressure);
        let segment = Header { seq: data.seq, flags, window, options: &options };
        let offset = data.seq.since(self.data_start()) as usize;
        self.emit(&segment, offset, data.len as usize, out)?;
        self.note_acknowledged(window);
        self.note_sent(data, out);
        Ok(())
    }

    /// Accounts for a segment with payload or FIN that was sent.
    fn note_sent(&mut self, data: Data, out: &mut Output<'_>) {
        let end = data.seq + data.len + u32::from(data.fin);
        self.statistics.data_segments_out += u32::from(data.len > 0);
        out.counters.tcp_bytes_tx += u64::from(data.len);
        match data.why {
            Why::Probe => {
                self.probe_due = false;
                out.counters.tcp_zero_window_probes += 1;
            }
            Why::Head => self.retransmit_head = false,
            Why::Next => self.override_due = false,
        }
        if data.seq.lt(self.snd_nxt) {
            if data.why != Why::Probe {
                out.counters.tcp_retransmits += 1;
                self.statistics.retransmitted += 1;
            }
            self.timed = None;
        }
        if end.gt(self.snd_nxt) {
            if self.outstanding() == 0 && data.why == Why::Next {
                self.progress_at = out.now;
            }
            if data.seq == self.snd_nxt && data.why == Why::Next && self.timed.is_none() {
                self.timed = Some((end, out.now));
            }
            self.snd_nxt = end;
            self.fin_sent |= data.fin;
            if data.len < u32::from(self.mss) && data.len > 0 {
                self.snd_sml = end;
            }
        }
        if data.why != Why::Probe {
            self.snd_ptr = self.snd_ptr.max(end);
        }
        self.last_sent_at = out.now;
        if data.len > 0 && out.now - self.last_data_at < Duration::from_millis(u64::from(self.ato_ms)) {
            // An answer to what came just now: the next ACKs can ride on answers, too.
            self.pingpong = true;
        }
        if self.timers.retransmit.is_none() {
            self.restart_retransmit_timer(out.now);
        }
    }

    fn send_ack(&mut self, out: &mut Output<'_>) -> Result<(), EgressError> {
        let first = self.ack_now;
        self.send_bare(self.ack_seq(), out)?;
        if !first {
            self.duplicate_acks_owed = self.duplicate_acks_owed.saturating_sub(1);
        }
        Ok(())
    }

    fn send_keepalive(&mut self, out: &mut Output<'_>) -> Result<(), EgressError> {
        self.send_bare(self.snd_una - 1, out)?;
        self.keepalive_due = false;
        out.counters.tcp_keepalive_probes += 1;
        Ok(())
    }

    /// A segment without payload.
    fn send_bare(&mut self, seq: SeqNumber, out: &mut Output<'_>) -> Result<(), EgressError> {
        let options = TcpOptions { timestamps: self.timestamps(out.now), ..TcpOptions::default() };
        let window = self.select_window(out.pressure);
        self.emit(&Header { seq, flags: Flags::ACK, window, options: &options }, 0, 0, out)?;
        self.note_acknowledged(window);
        Ok(())
    }

    /// A SYN,ACK with RCV.NXT and this window, which is not scaled, went out.
    fn note_syn_ack_sent(&mut self, window: u16) {
        let rcv_nxt = self.rcv_nxt();
        self.rcv_edge = self.rcv_edge.max(rcv_nxt + u32::from(window));
        self.last_ack_sent = rcv_nxt;
        self.ack_now = false;
        self.timers.delayed_ack = None;
    }

    /// A segment with RCV.NXT and this window went out.
    fn note_acknowledged(&mut self, window: u16) {
        let rcv_nxt = self.rcv_nxt();
        self.rcv_edge = self.rcv_edge.max(rcv_nxt + (u32::from(window) << self.rcv_wscale));
        if self.last_ack_sent != rcv_nxt {
            self.quick_acks = self.quick_acks.saturating_sub(1);
        }
        self.last_ack_sent = rcv_nxt;
        self.ack_now = false;
        self.timers.delayed_ack = None;
    }

    fn emit(
        &mut self,
        header: &Header<'_>,
        offset: usize,
        len: usize,
        out: &mut Output<'_>,
    ) -> Result<(), EgressError> {
        let mut buffer = [0; OPTIONS_LEN_MAX];
        let options_len = header.options.emit(header.flags.contains(Flags::SYN), &mut buffer);
        let ack = if header.flags.contains(Flags::ACK) { self.rcv_nxt() } else { SeqNumber(0) };
        let (src, dst) = (self.key.local(), self.key.remote());
        let egress = &mut *out.egress;
        let sent = self.send.pieces(offset, len, |payload| {
            egress.send(
                out.now,
                &SegmentOut {
                    src,
                    dst,
                    seq: header.seq,
                    ack,
                    flags: header.flags.0,
                    window: header.window,
                    urgent: 0,
                    options: &buffer[..options_len],
                    payload,
                    ecn: 0,
                },
            )
        });
        match sent {
            Ok(()) => {
                out.counters.tcp_segments_tx += 1;
                self.statistics.segments_out += 1;
                Ok(())
            }
            // As if the network had lost it: the timers go on, and the reason is remembered.
            Err(EgressError::NoRoute) => {
                self.cold_mut().soft_error = Some(TcpError::NetworkUnreachable);
                Ok(())
            }
            Err(EgressError::TooBig { mtu }) if !self.lower_mtu(mtu) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What differs between the headers a connection sends.
struct Header<'a> {
    seq: SeqNumber,
    flags: Flags,
    window: u16,
    options: &'a TcpOptions,
}
