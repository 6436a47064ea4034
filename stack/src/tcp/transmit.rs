//! Sending: replies first, then SYN-ACKs, then connection after connection in turn, each a super-segment or a few segments,
//! until nothing is left or the egress is full. What was next then is next again.

use core::net::IpAddr;

use super::connection::{Listed, syn_window, timestamp, window_scale_for};
use super::ecn::AccurateEcnOption;
use super::engine::Tcp;
use super::fastopen::Ends;
use super::header::Flags;
use super::options::OPTIONS_LEN_MAX;
use super::output::Output;
use super::table::List;
use super::{Egress, EgressError, SegmentOut, State, TcpError};
use crate::counters::Counters;
use crate::limits;
use crate::time::Instant;

/// How a connection's turn ended.
enum Turn {
    /// It has nothing to send now.
    Idle,
    /// It has more: at its next turn.
    More,
    /// The egress is full.
    Full,
}

impl Tcp {
    /// Sends what may be sent, connection by connection in turn, until done or [`EgressError::Full`].
    pub fn transmit(&mut self, now: Instant, egress: &mut dyn Egress, counters: &mut Counters) {
        self.hand_over_counters(counters);
        let all_sent =
            self.transmit_replies(now, egress, counters) && self.transmit_syn_acks(now, egress, counters);
        if all_sent {
            self.transmit_connections(now, egress, counters);
        } else {
            self.settle_touched(now);
        }
    }

    fn transmit_replies(&mut self, now: Instant, egress: &mut dyn Egress, counters: &mut Counters) -> bool {
        while let Some(reply) = self.replies.front() {
            let remote = reply.key.remote().ip();
            let our_mss = reply.syn_ack.map_or(0, |_| mss_for(egress, remote));
            match reply.emit(our_mss, |segment| egress.send(now, segment)) {
                Err(EgressError::Full) => return false,
                Ok(_) => {
                    counters.tcp_segments_tx += 1;
                    counters.tcp_resets_tx += u64::from(reply.flags.contains(Flags::RST));
                }
                // The network would not have carried it either; the egress counts why.
                Err(EgressError::NoRoute | EgressError::TooBig { .. }) => {}
            }
            self.replies.pop();
        }
        true
    }

    fn transmit_syn_acks(&mut self, now: Instant, egress: &mut dyn Egress, counters: &mut Counters) -> bool {
        while let Some(index) = self.tables.syn_queue.next_pending() {
            let Some(entry) = self.tables.syn_queue.entries.get_mut(index) else { break };
            let listener = self.listeners.slab.get(entry.listener);
            let options = listener.map_or(&self.default_options, |listener| &listener.options);
            let window = syn_window(options.receive_buffer_start(), options);
            let (shift, maxseg) = (window_scale_for(options), options.maxseg);
            let ip = options.ip;
            let tuple = entry.key.tuple();
            let our_mss = mss_for(egress, tuple.remote.ip());
            let mtu = egress.path_mtu(tuple.remote.ip()).min(usize::from(u16::MAX)) as u16;
            let ts_now = timestamp(now, self.isn.timestamp_offset_of(&entry.key));
            let cookies = listener.and_then(|listener| listener.cookies.as_deref());
            let cookies = cookies.unwrap_or(&self.fastopen_cookies);
            let cookie = entry.cookie_wanted().map(|experimental| {
                let ends = Ends { client: tuple.remote.ip(), server: tuple.local.ip() };
                cookies.cookie(now, ends).in_experimental(experimental)
            });
            let (seq, ack, flags, mut options) = entry.syn_ack((our_mss, mtu), shift, ts_now, cookie);
            options.mss = options.mss.map(|mss| mss.min(maxseg.unwrap_or(u16::MAX)));
            if self.config.accurate_ecn.option == AccurateEcnOption::Never {
                options.accurate_ecn = None;
            }
            let mut bytes = [0; OPTIONS_LEN_MAX];
            let len = options.emit(true, &mut bytes);
            let segment = SegmentOut {
                src: tuple.local,
                dst: tuple.remote,
                seq,
                ack,
                flags: flags.0,
                first_flags: 0,
                window,
                urgent: 0,
                options: &bytes[..len],
                payload: &[],
                mss: 1,
                ecn: 0,
                ip,
            };
            match egress.send(now, &segment) {
                Err(EgressError::Full) => return false,
                Ok(_) => {
                    counters.tcp_segments_tx += 1;
                    counters.tcp_retransmits += u64::from(entry.was_sent_before());
                }
                Err(EgressError::NoRoute | EgressError::TooBig { .. }) => {}
            }
            self.tables.syn_queue.note_sent(index, now, &self.config);
        }
        true
    }

    fn transmit_connections(&mut self, now: Instant, egress: &mut dyn Egress, counters: &mut Counters) {
        // Those that waited for room are first, and what was touched since goes behind them. Mostly nobody waited, and who was
        // touched has its turn without having been looked at for what it might send.
        if !self.ready.is_empty() {
            self.settle_touched(now);
        }
        let first = if self.ready.is_empty() { &mut self.touched } else { &mut self.ready };
        let mut turns = core::mem::replace(first, List::EMPTY);
        while let Some(index) = turns.front() {
            let turn = self.transmit_turn(now, index, egress, counters);
            if matches!(turn, Turn::Full) {
                return self.keep_turns(now, index, turns);
            }
            self.tables.connections.unlink(&mut turns, index);
            let Some(connection) = self.tables.connections.get_mut(index) else { continue };
            connection.listed = Listed::Nowhere;
            if connection.state.is_over() {
                self.follow_up(now, index, counters);
            } else {
                if matches!(turn, Turn::More) {
                    connection.listed = Listed::Ready;
                    self.tables.connections.push_back(&mut self.ready, index);
                }
                self.settle(now, index, false);
            }
            if turns.is_empty() {
                turns = core::mem::replace(&mut self.ready, List::EMPTY);
            }
        }
    }

    /// The egress is full: `turns`, of which `index` is the first, keep their places in front of those that wait for
    /// another turn.
    fn keep_turns(&mut self, now: Instant, index: u32, turns: List) {
        let again = core::mem::replace(&mut self.ready, List::EMPTY);
        let listed = self.tables.connections.get(index).map(|connection| connection.listed);
        if listed == Some(Listed::Touched) {
            self.touched = turns;
            self.settle_touched(now);
        } else {
            self.ready = turns;
            self.settle(now, index, false);
        }
        self.tables.connections.append(&mut self.ready, again);
    }

    /// RFC 9293 section 3.10.7.4, MUST-58, MUST-59.
    fn transmit_turn(
        &mut self,
        now: Instant,
        index: u32,
        egress: &mut dyn Egress,
        counters: &mut Counters,
    ) -> Turn {
        let pressure = self.is_under_pressure();
        #[cfg(test)]
        let general_only = self.general_only;
        let Some(connection) = self.tables.connections.get_mut(index) else { return Turn::Idle };
        if connection.cold().is_some() {
            connection.forget_old_mtu(now);
        }
        if connection.mtu() == 0 {
            let remote = connection.key.remote().ip();
            connection.learn_mtu(|| egress.path_mtu(remote));
        }
        if connection.cold().is_some() && connection.take_advice() {
            egress.doubt(now, connection.key.remote().ip());
        }
        let mut out = Output {
            now,
            egress,
            counters,
            pressure,
            segments_left: limits::TCP_SEGMENTS_PER_TURN,
            slow_start_after_idle: self.config.slow_start_after_idle,
            bytes_left: limits::TCP_BYTES_PER_TURN,
        };
        let mut sends = connection.listed == Listed::Ready;
        let short = connection.short_unsent();
        #[cfg(test)]
        let short = short.filter(|_| !general_only);
        if let Some(len) = short {
            out.segments_left -= 1;
            match connection.send_short(len, &mut out) {
                Ok(()) => {
                    #[cfg(test)]
                    (self.short_segments += 1);
                    return Turn::Idle;
                }
                Err(EgressError::Full) => return Turn::Full,
                Err(_) => sends = true,
            }
        }
        while out.segments_left > 0 && out.bytes_left >= usize::from(connection.mss) {
            let Some(plan) = connection.plan() else {
                if sends {
                    connection.note_limit();
                }
                return Turn::Idle;
            };
            sends = true;
            // Anything else but a full egress is settled: sent, as good as lost, or to be planned again with a smaller MTU.
            out.segments_left -= 1;
            if connection.send_next(plan, &mut out) == Err(EgressError::Full) {
                return Turn::Full;
            }
            if connection.state == State::SynSent
                && connection.cold().is_some_and(|cold| cold.soft_error == Some(TcpError::NetworkUnreachable))
            {
                connection.count_failure(out.counters);
                connection.finish(Some(TcpError::NetworkUnreachable));
                return Turn::Idle;
            }
        }
        Turn::More
    }
}

/// The MSS option for a SYN to `remote` (RFC 9293 section 3.7.1, RFC 6691): what the link carries less the fixed headers.
fn mss_for(egress: &dyn Egress, remote: IpAddr) -> u16 {
    let fixed = if remote.is_ipv4() { 40 } else { 60 };
    (egress.link_mtu(remote).saturating_sub(fixed)).clamp(1, usize::from(u16::MAX)) as u16
}
