//! The short way out of a small segment: all that the application wrote since the last turn, less than a full segment, on a
//! connection with nothing outstanding, and nothing lost, paced, marked, urgent, held back or closing. Answers to requests are
//! such segments.
//!
//! It leaves a connection as `plan`, `send_next` and `note_limit` in `output` would, to the last bit: `tests/fast_path.rs` compares
//! the two. What is not that simple goes their way. Who changes a step there changes it here.

use super::congestion::CongestionControl;
use super::connection::{Cold, Connection};
use super::header::Flags;
use super::options::Timestamps;
use super::output::Output;
use super::{EgressError, SegmentOut, State};
use crate::limits;

// One segment, however long, leaves the turn room for another: the general way would look for it and find nothing.
const _: () = assert!(limits::TCP_SEGMENTS_PER_TURN > 1);

impl Connection {
    /// The length of all that is unsent, if it may go at once and by the short way.
    #[inline]
    pub(super) fn short_unsent(&self) -> Option<u32> {
        let len = self.unsent();
        let owes = self.syn_due
            | self.probe_due
            | self.keepalive_due
            | self.loss.probe_tail
            | self.more
            | self.paces_windows;
        let is_short = len > 0
            && len < u32::from(self.mss)
            && len <= self.snd_wnd
            && len as usize + usize::from(self.mss) <= limits::TCP_BYTES_PER_TURN
            && !owes
            && self.state == State::Established
            && self.syn_acked()
            && self.outstanding() == 0
            && self.sent.len() == 0
            && self.in_flight() == 0
            && self.duplicate_acks_owed == 0
            && self.timers.pace.is_none()
            && self.ecn.is_absent()
            && !self.receive.has_gap()
            && !self.options.cork
            && (self.options.nodelay || self.snd_sml.le(self.snd_una))
            && !self.is_reducing()
            && self.congestion.pacing_rate().is_none()
            && self.cold().is_none_or(Cold::is_plain);
        is_short.then_some(len)
    }

    /// Sends all that is unsent, `len` bytes ([`Connection::short_unsent`]), in one segment.
    pub(super) fn send_short(&mut self, len: u32, out: &mut Output<'_>) -> Result<(), EgressError> {
        let now = out.now;
        if out.slow_start_after_idle && now > self.last_sent_at.plus_micros(self.rtt.rto_us()) {
            // RFC 5681 section 4.1.
            self.congestion.on_idle_restart(now);
        }
        let mut options = [0; Timestamps::ALONE_LEN];
        let options_len = self.timestamps(now).map_or(0, |timestamps| timestamps.emit_alone(&mut options));
        let window = self.select_window(out.pressure);
        self.emit_short(len, window, &options[..options_len], out)?;
        self.note_ack_sent(window);

        self.statistics.data_segments_out += 1;
        out.counters.tcp_bytes_tx += u64::from(len);
        let snapshot = self.rate.on_send(now, 0);
        self.progress_at = now;
        self.sent.push_first(self.una_offset, len, now, snapshot);
        self.snd_nxt += len;
        self.override_due = false;
        self.timers.probe = None;
        self.snd_sml = self.snd_nxt;
        self.last_sent_at = now;
        self.note_answer(now);
        if self.timers.retransmit.is_none() {
            // Whether it counts from the first segment's sending (RFC 7765) or from now is the same.
            self.set_retransmit_timer(now, now.plus_micros(self.rtt.rto_us()));
        }
        self.note_limit_of(len, true);
        Ok(())
    }

    /// Gives the segment to the egress.
    #[inline]
    fn emit_short(
        &mut self,
        len: u32,
        window: u16,
        options: &[u8],
        out: &mut Output<'_>,
    ) -> Result<(), EgressError> {
        let Self { key, receive, .. } = &*self;
        let (seq, ip) = (self.snd_nxt, self.options.ip);
        let egress = &mut *out.egress;
        let sent = self.send.pieces(0, len as usize, |payload| {
            egress.send(
                out.now,
                &SegmentOut {
                    src: key.local(),
                    dst: key.remote(),
                    seq,
                    ack: receive.rcv_nxt(),
                    flags: (Flags::ACK | Flags::PSH).0,
                    first_flags: 0,
                    window,
                    urgent: 0,
                    options,
                    payload,
                    mss: len as usize,
                    ecn: 0,
                    ip,
                },
            )
        });
        match sent {
            Ok(_) => {
                out.counters.tcp_segments_tx += 1;
                self.statistics.segments_out += 1;
                Ok(())
            }
            Err(error) => self.take_refusal(error, len as usize).map(drop),
        }
    }
}

impl Cold {
    /// Whether nothing here concerns a segment that is sent.
    #[inline]
    fn is_plain(&self) -> bool {
        self.urgent_out.is_none()
            && self.duplicate_block.is_none()
            && self.mtu_search.is_none()
            && self.fastopen.is_none()
            && self.record_ends.is_empty()
    }
}
