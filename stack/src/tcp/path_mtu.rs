//! The path's MTU where ICMP does not tell it (RFC 4821, RFC 8899's search): when full segments vanish again and again, smaller ones
//! are tried, and from there single larger ones, filled with data that has to be sent anyway, find what fits. What ICMP
//! tells comes in by `Connection::lower_mtu`.

use core::num::NonZeroU64;

use super::congestion::CongestionControl;
use super::connection::{Connection, Context};
use super::recovery::Recovery;
use crate::limits;
use crate::time::{Duration, Instant};

/// What is tried first when full segments vanish: 1024 bytes of payload over IPv4 (RFC 4821 section 7.2), the least MTU of
/// every path over IPv6 (RFC 8200 section 5).
const BASE_MTU_IPV4: u16 = 1064;
const BASE_MTU_IPV6: u16 = 1280;
/// Timeouts without progress that make a black hole likely.
const SUSPICIOUS_TIMEOUTS: u8 = limits::TCP_R1;
/// Segments of data that a path has delivered before, by which it is known to carry full ones...
const PROVEN_SEGMENTS: u64 = 16;
/// ...and time without progress, besides the timeouts, that makes a black hole likely there (what Linux waits for on every path:
/// three doublings of the least timeout). Bursts of losses and short outages are more common than paths that change.
const PROVEN_PATIENCE: Duration = Duration::from_secs(3);
/// The search ends when it knows the MTU to so many bytes (Linux's `tcp_probe_threshold`).
const PRECISION: u16 = 8;
/// After this time a larger MTU is looked for again (RFC 4821 section 7.3; Linux's `tcp_probe_interval`).
const SEARCH_INTERVAL: Duration = Duration::from_secs(600);
/// A probe is sent if the congestion window has at least so many segments (as in Linux): losing it must not cost much.
const WINDOW_MIN: u32 = 11;
/// Segments that must follow a probe, so that its loss is found without a timeout (RFC 4821 section 7.4).
const FOLLOWERS: u32 = 3;

/// Whether the path's MTU is probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MtuProbing {
    /// Never: ICMP alone is believed.
    Off,
    /// Once full segments vanish without a word (Linux's `tcp_mtu_probing` 1).
    #[default]
    OnBlackHole,
    /// From the start of each connection, with small segments first (2).
    Always,
}

/// A search for the MTU of a path. Sizes are those of IP packets.
#[derive(Debug)]
pub(super) struct MtuSearch {
    /// This fits: eff_pmtu.
    low: u16,
    /// Nothing larger fits, as far as known.
    high: u16,
    /// What the link allows.
    limit: u16,
    /// Size of the probe that is out.
    size: u16,
    /// Where it ends.
    probe_end: Option<NonZeroU64>,
    /// No probe before this is acknowledged.
    not_before: u64,
    /// The search ended.
    ended_at: Option<Instant>,
    /// SND.UNA when it began, and timeouts without progress until then.
    began: (u64, u8),
}

impl Connection {
    fn base_mtu(&self) -> u16 {
        if self.key.is_ipv4() { BASE_MTU_IPV4 } else { BASE_MTU_IPV6 }
    }

    /// The connection is open: begins to search if that is always wanted.
    /// RFC 7323 section 5.7.
    pub(super) fn begin_mtu_search(&mut self, cx: &Context<'_>) {
        if cx.config.mtu_probing == MtuProbing::Always && self.mtu() > self.base_mtu() {
            self.fall_back_to(self.base_mtu());
        }
    }

    /// A retransmission timeout happened: perhaps because segments do not fit the path (RFC 4821 section 7.7).
    pub(super) fn suspect_black_hole(&mut self, cx: &mut Context<'_>) {
        self.probe_failed(5);
        if cx.config.mtu_probing == MtuProbing::Off || !self.is_path_suspicious(cx.now) {
            return;
        }
        let first = self.sent.first().map_or(0, |first| first.len);
        let known = self.mtu_search().map_or(u16::MAX, |search| search.low);
        let base = self.base_mtu().min(if known < self.mtu() { known } else { u16::MAX });
        let next = if self.mtu() > base { base } else { (self.mtu() / 2).max(self.path_mtu_min()) };
        if next >= self.mtu() || first <= u32::from(self.payload_of(next)) {
            return;
        }
        cx.counters.tcp_mtu_black_holes += 1;
        self.fall_back_to(next);
    }

    /// Whether so many timeouts without progress speak for a black hole rather than for losses: three, and again as many after
    /// each reduction.
    fn is_path_suspicious(&self, now: Instant) -> bool {
        let reduced = self.mtu_search().map(|search| search.began).filter(|(una, _)| *una == self.una_offset);
        let base = reduced.map_or(0, |(_, timeouts)| timeouts);
        let proven = self.una_offset > PROVEN_SEGMENTS * u64::from(self.mss);
        let stalled = now - self.progress_at;
        self.retransmits >= base + SUSPICIOUS_TIMEOUTS && (!proven || stalled >= PROVEN_PATIENCE)
    }

    /// Goes on with packets of `mtu` bytes, and searches upwards from there.
    fn fall_back_to(&mut self, mtu: u16) {
        let high = self.mtu();
        let limit = self.mtu_search().map_or(high, |search| search.limit);
        self.lower_mtu(mtu.into());
        let (not_before, began) = (self.nxt_offset(), (self.una_offset, self.retransmits));
        self.cold_mut().mtu_search = Some(Box::new(MtuSearch {
            low: mtu,
            high,
            limit,
            size: 0,
            probe_end: None,
            not_before,
            ended_at: None,
            began,
        }));
    }

    /// ICMP told of an MTU, and it is believed, as far as it is above the minimum: for ten minutes (RFC 1191 section 6.3, RFC
    /// 8201 section 4). Returns it.
    pub(super) fn believe_mtu(&mut self, now: Instant, mtu: u32) -> u16 {
        let mtu = mtu.clamp(self.path_mtu_min().into(), u16::MAX.into()) as u16;
        if self.lower_mtu(mtu.into()) {
            self.cold_mut().mtu_told_at = Some(now);
        }
        mtu
    }

    /// Lets go of what ICMP told too long ago: the egress is asked again, which remembers what others were told.
    pub(super) fn forget_old_mtu(&mut self, now: Instant) {
        let told_at = self.cold().and_then(|cold| cold.mtu_told_at);
        if told_at.is_some_and(|at| now - at >= limits::PATH_MTU_LIFETIME) {
            self.cold_mut().mtu_told_at = None;
            // A search tries larger segments by itself.
            if self.mtu_search().is_none() {
                self.forget_mtu();
            }
        }
    }

    /// ICMP, or the link, told of a lower MTU.
    pub(super) fn limit_mtu_search(&mut self, mtu: u16) {
        if let Some(search) = self.mtu_search_mut() {
            search.high = search.high.min(mtu);
            search.low = search.low.min(mtu);
            search.probe_end = None;
        }
    }

    /// Payload of a probe that could be sent now: as much as a segment of the size that is next to be tried carries.
    pub(super) fn mtu_probe_len(&self) -> Option<u32> {
        let search = self.mtu_search()?;
        let size = search.low + (search.high - search.low).div_ceil(2);
        let len = u32::from(self.payload_of(size));
        let window = self.congestion.cwnd() / u32::from(self.mss).max(1);
        let wanted = search.probe_end.is_none()
            && search.ended_at.is_none()
            && self.una_offset >= search.not_before
            && self.loss.state == Recovery::Open
            && window >= WINDOW_MIN
            && self.unsent() >= len + FOLLOWERS * u32::from(self.mss);
        wanted.then_some(len)
    }

    /// A segment of `len` bytes, longer than the others, was sent; it ends at `end`.
    pub(super) fn mtu_probe_sent(&mut self, len: u32, end: u64) {
        let headers = self.mtu() - self.payload_of(self.mtu());
        if let Some(search) = self.mtu_search_mut() {
            search.size = headers + len as u16;
            search.probe_end = NonZeroU64::new(end);
        }
    }

    /// SND.UNA advanced: if the probe arrived, its size is what segments have from now on (section 7.6.1).
    pub(super) fn check_mtu_probe(&mut self, now: Instant, counters: &mut crate::counters::Counters) {
        let una = self.una_offset;
        let Some(search) = self.mtu_search_mut() else { return };
        if search.probe_end.is_some_and(|end| end.get() <= una) {
            counters.tcp_mtu_probes += 1;
            (search.probe_end, search.low) = (None, search.size);
            self.raise_mtu();
            return;
        }
        if search.probe_end.is_none() && search.ended_at.is_none() && search.high - search.low < PRECISION {
            search.ended_at = Some(now);
        }
        if search.ended_at.is_some_and(|at| now - at >= SEARCH_INTERVAL) {
            // The path may be another by now.
            (search.high, search.ended_at) = (search.limit, None);
        }
    }

    fn raise_mtu(&mut self) {
        if let Some(low) = self.mtu_search().map(|search| search.low) {
            self.set_mtu(low);
        }
    }

    /// Whether all that is lost is the probe.
    pub(super) fn has_lost_only_the_probe(&self) -> bool {
        let probe = self.mtu_search().and_then(|search| search.probe_end);
        let lost = self.sent.next_lost().map(|lost| lost.end());
        self.sent.lost().segments == 1 && probe.is_some() && lost == probe.map(NonZeroU64::get)
    }

    /// The probe was lost: it was too long (section 7.6.2). What it carried is sent again in shorter segments, and it is not
    /// taken for congestion. The next waits for `patience` times as many round trips as the window has segments.
    pub(super) fn probe_failed(&mut self, patience: u64) {
        let cwnd = u64::from(self.congestion.cwnd());
        let una = self.una_offset;
        let mss = u64::from(self.mss).max(1);
        let Some(search) = self.mtu_search_mut() else { return };
        if search.probe_end.take().is_some() {
            search.high = (search.size - 1).max(search.low);
            search.not_before = una + cwnd * (cwnd / mss) * patience;
            self.resend_smaller();
        }
    }

    /// The probe was lost among others: nothing is learned from it (section 7.6.4).
    pub(super) fn forget_mtu_probe(&mut self) {
        if self.mtu_search_mut().is_some_and(|search| search.probe_end.take().is_some()) {
            self.sent.cut(self.mss.into());
        }
    }
}
