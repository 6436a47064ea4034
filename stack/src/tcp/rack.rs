//! RACK-TLP (RFC 8985): how long a segment may be outstanding once something sent later has arrived, and the probe of a tail
//! that nothing was heard of. The segments themselves are in `scoreboard`, what follows from a loss in `recovery`.

use core::num::NonZeroU64;

use super::scoreboard::Sent;
use crate::time::{Duration, Instant};

/// SACKed segments that show a loss while no reordering was seen (RFC 8985 section 6.2 step 4).
const DUP_THRESH: u32 = 3;
/// Recoveries without D-SACK after which a widened reordering window narrows again (RFC 8985 section 6.2 step 4).
const PERSIST: u8 = 16;
/// Segments by which the path is taken to reorder at most, as in Linux.
const REORDERING_MAX: u16 = 300;
/// By how much a retransmission may be answered sooner than min_rtt and still count as answered, unless an eighth of
/// min_rtt is less: a tick of the timestamps. RFC 8985 section 6.2 step 2 has no such allowance.
const VARIATION_MAX: Duration = Duration::from_millis(1);
/// Segments by which a path may reorder before fast retransmit without SACK: RFC 5681 section 3.2's three duplicates.
const REORDERING_MIN: u16 = 3;

/// How long segments sent before the newest delivered one are waited for (RFC 8985 section 6.2 step 5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long one may be outstanding: RACK.rtt + RACK.reo_wnd.
    pub(super) since_sent: Duration,
    /// How long one that was sent once only may be missing after what was sent before it had arrived: RACK.reo_wnd.
    pub(super) since_predecessor: Duration,
    /// When what is before SND.UNA had arrived.
    pub(super) una_at: Instant,
}

/// RACK's and TLP's state of one connection. Offsets count as in the scoreboard, the first byte's is 1.
#[derive(Debug)]
pub(super) struct Rack {
    /// When the segment sent last of those delivered was sent: RACK.xmit_ts.
    sent_at: Instant,
    /// Its end: RACK.end_seq.
    end: u64,
    /// RACK.rtt, microseconds.
    rtt_us: u32,
    /// The highest offset acknowledged or SACKed: RACK.fack.
    fack: u64,
    /// RACK.dsack_round: until this is acknowledged D-SACKs count as one.
    dsack_round: Option<NonZeroU64>,
    window_mult: u8,
    window_persist: u8,
    /// A retransmission turned out a mistake: with `reordering_seen`, what RFC 8985 calls RACK.reordering_seen. For good: its
    /// window is never 0 again.
    taught: bool,
    /// Something was delivered after what was sent later: how often.
    pub(super) reordering_seen: u32,
    /// By how many segments, at least.
    pub(super) reordering: u16,
    /// A probe of the tail is out: TLP.end_seq.
    probe_end: Option<NonZeroU64>,
    /// It repeated the last segment: TLP.is_retrans.
    probe_is_repeat: bool,
    /// A round-trip time was measured since the last probe.
    measured_since_probe: bool,
}

impl Rack {
    pub(super) fn new() -> Self {
        Self {
            sent_at: Instant::ZERO,
            end: 0,
            rtt_us: 0,
            fack: 0,
            dsack_round: None,
            window_mult: 1,
            window_persist: PERSIST,
            taught: false,
            reordering_seen: 0,
            reordering: REORDERING_MIN,
            probe_end: None,
            probe_is_repeat: false,
            measured_since_probe: true,
        }
    }

    /// The newest segment that was delivered: when it was sent and where it ends.
    pub(super) fn newest(&self) -> (Instant, u64) {
        (self.sent_at, self.end)
    }

    /// RACK.fack: the highest offset acknowledged or SACKed.
    pub(super) fn fack(&self) -> u64 {
        self.fack
    }

    /// RFC 8985 section 6.2 steps 2 and 3 for one segment that was delivered. `fack`: RACK.fack before the ACK that says so, for
    /// what one ACK tells of is in no order. `echoes_earlier`: the ACK's timestamp shows that it answers an earlier transmission;
    /// only cumulative acknowledgment can show that.
    pub(super) fn delivered(
        &mut self,
        now: Instant,
        sent: &Sent,
        fack: u64,
        mss: u16,
        min_rtt: Option<Duration>,
        echoes_earlier: bool,
    ) {
        self.fack = self.fack.max(sent.end());
        if sent.end() <= fack && !sent.ever_resent {
            self.reordering_seen = self.reordering_seen.saturating_add(1);
            let distance = (self.fack - sent.start).div_ceil(u64::from(mss.max(1)));
            let distance = distance.min(u64::from(REORDERING_MAX)) as u16;
            self.reordering = self.reordering.max(distance);
        }
        // A little less than min_rtt is the path's variation, no sign that the original arrived: a probe of the tail would
        // else be in vain whenever its round trip is the shortest so far.
        let too_soon = |min: Duration| (now - sent.sent_at) + (min / 8).min(VARIATION_MAX) < min;
        if sent.ever_resent && (echoes_earlier || min_rtt.is_some_and(too_soon)) {
            return;
        }
        self.rtt_us = u32::try_from(now.micros_since(sent.sent_at)).unwrap_or(u32::MAX);
        if sent.is_after(self.sent_at, self.end) {
            (self.sent_at, self.end) = (sent.sent_at, sent.end());
        }
    }

    /// Whether segments were seen to arrive later than by the three duplicates that RFC 5681 section 3.2 allows for.
    pub(super) fn reorders_far(&self) -> bool {
        self.reordering > REORDERING_MIN
    }

    /// Adapts the reordering window to D-SACKs (RFC 8985 section 6.2 step 4). `una` and `nxt` are the offsets of SND.UNA and
    /// SND.NXT.
    /// RFC 8985 sections 3.3.2 and 4.
    pub(super) fn adapt_window(&mut self, una: u64, nxt: u64, dsack: bool) {
        if self.dsack_round.is_some_and(|round| una >= round.get()) {
            self.dsack_round = None;
        }
        if dsack && self.dsack_round.is_none() {
            self.dsack_round = NonZeroU64::new(nxt);
            self.window_mult = self.window_mult.saturating_add(1);
            self.window_persist = PERSIST;
            self.taught = true;
        }
    }

    /// In fast recovery the original of a retransmission was acknowledged: a timestamp told so (RFC 3522), a round trip before
    /// the D-SACK can. It was delivered out of order, which section 6.2 step 3 cannot see of what was sent again.
    pub(super) fn original_was_late(&mut self) {
        self.taught = true;
    }

    /// A fast or RTO recovery is over.
    pub(super) fn recovery_ended(&mut self) {
        self.window_persist = self.window_persist.saturating_sub(1);
        if self.window_persist == 0 {
            self.window_mult = 1;
        }
    }

    /// RACK.rtt + RACK.reo_wnd, and more where the RFC's estimate cannot be right. RACK.rtt is that of the newest delivered
    /// segment. After a pause in sending, as slow start has one each round trip, it is shorter than that of what was sent before
    /// by all that left the queue meanwhile, so that a segment could be overdue before its predecessor arrives, and the pause
    /// pass for the settling time that RACK.reo_wnd is to allow. So that time counts from the predecessor's arrival at the
    /// earliest.
    pub(super) fn patience(
        &self,
        in_recovery: bool,
        sacked_segments: u32,
        min_rtt: Option<Duration>,
        srtt: Option<Duration>,
        una_at: Instant,
    ) -> Patience {
        let window = self.window(in_recovery, sacked_segments, min_rtt, srtt);
        let rtt = Duration::from_micros(self.rtt_us.into());
        Patience { since_sent: rtt + window, since_predecessor: window, una_at }
    }

    /// RACK.reo_wnd.
    /// RFC 8985 section 3.3.2.
    fn window(
        &self,
        in_recovery: bool,
        sacked_segments: u32,
        min_rtt: Option<Duration>,
        srtt: Option<Duration>,
    ) -> Duration {
        // A retransmission just ahead of the original hides reordering from `delivered`.
        let reorders = self.reordering_seen > 0 || self.taught;
        if !reorders && (in_recovery || sacked_segments >= DUP_THRESH) {
            return Duration::ZERO;
        }
        let quarter = min_rtt.unwrap_or_default() / 4;
        (quarter * u32::from(self.window_mult)).min(srtt.unwrap_or(Duration::MAX))
    }

    // ---- the probe of the tail (RFC 8985 section 7)

    /// A round-trip time was measured.
    pub(super) fn measured(&mut self) {
        self.measured_since_probe = true;
    }

    /// Whether a probe may be sent (section 7.3).
    pub(super) fn may_probe(&self) -> bool {
        self.probe_end.is_none() && self.measured_since_probe
    }

    /// Whether no round of D-SACKs goes on.
    pub(super) fn is_calm(&self) -> bool {
        self.dsack_round.is_none()
    }

    /// A probe went out; `nxt` is the offset of SND.NXT with it.
    pub(super) fn probed(&mut self, nxt: u64, is_repeat: bool) {
        (self.probe_end, self.probe_is_repeat) = (NonZeroU64::new(nxt), is_repeat);
        self.measured_since_probe = false;
    }

    /// Recovery begins: the probe has done its work (section 7.1).
    pub(super) fn forget_probe(&mut self) {
        self.probe_end = None;
    }

    /// Takes in an ACK (section 7.4.2): whether it shows that the probe repaired a loss which congestion control has to
    /// answer. `dsack`: a D-SACK for the end of the probe; `duplicate`: a duplicate ACK without SACK.
    pub(super) fn probe_acknowledged(&mut self, ack: u64, dsack: bool, duplicate: bool) -> bool {
        let Some(end) = self.probe_end.map(NonZeroU64::get).filter(|end| ack >= *end) else { return false };
        if !self.probe_is_repeat || dsack {
            self.probe_end = None;
        } else if ack > end {
            self.probe_end = None;
            return true;
        } else if duplicate {
            self.probe_end = None;
        }
        false
    }
}
