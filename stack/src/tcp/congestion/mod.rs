//! Congestion control: how many bytes may be in flight. The engine reports ACKs, losses and timeouts; an algorithm
//! answers with a window and, if it has one, a pacing rate.
//!
//! The division of labour during recovery: an algorithm sets `ssthresh` and `cwnd` to the target of the reduction when the
//! loss is found and leaves them alone until recovery ends. What is sent meanwhile is the engine's affair (RFC 9937),
//! and so is the inflation by duplicate ACKs of RFC 5681 section 3.2, which proportional rate reduction replaces. BBR
//! says by [`CongestionControl::controls_recovery`] that its window holds during recovery as well.

mod bbr;
mod cubic;
mod hystart;
#[cfg(test)]
mod link_model;
mod newreno;
pub mod pacing;

pub use bbr::Bbr;
pub use cubic::Cubic;
pub use newreno::NewReno;

use core::fmt;
use core::str::FromStr;

use crate::tcp::delivery_rate::{RateSample, Snapshot};
use crate::time::{Duration, Instant};

/// Largest window: nothing is gained beyond what a scaled window can announce (RFC 7323 section 2.3).
const CWND_MAX: u32 = 1 << 30;

/// What an ACK brought, as congestion control sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ack {
    /// When it arrived.
    pub now: Instant,
    /// Bytes for which the window may grow: acknowledged cumulatively (RFC 3465 section 2), or newly SACKed where the path is
    /// known to reorder; none of them twice.
    pub acked_bytes: u32,
    /// How many ACKs it stands for, when the last of a burst was processed for all; 0 counts as 1. What is limited for each ACK
    /// is limited for each of these.
    pub acks: u32,
    /// Bytes that left the network by it: acknowledged or newly SACKed.
    pub delivered_bytes: u32,
    /// Round-trip time measured with it.
    pub rtt: Option<Duration>,
    /// Smoothed round-trip time.
    pub srtt: Option<Duration>,
    /// Bytes in flight before it arrived.
    pub in_flight_before: u32,
    /// The application, or the peer's window, and not `cwnd`, limited what was sent: the window must not grow on
    /// that evidence (as RFC 7661 argues).
    pub is_app_limited: bool,
    /// Loss recovery goes on: the window must not grow.
    pub in_recovery: bool,
    /// Payload bytes in a full segment now.
    pub mss: u32,
    /// The delivery rate it shows, if it shows one.
    pub rate: Option<RateSample>,
    /// Bytes in flight after it, what it made taken for lost not counted.
    pub in_flight_after: u32,
    /// Bytes that were taken for lost because of it.
    pub lost_bytes: u32,
    /// Bytes delivered ever, this ACK's included: `DeliveryRate::delivered`.
    pub delivered_total: u64,
    /// Smallest round-trip time of late (RFC 8985 section 6.2).
    pub min_rtt: Option<Duration>,
    /// SND.UNA after it, as a count of bytes since the connection began.
    pub acked_to: u64,
    /// SND.NXT, as a count of bytes since the connection began.
    pub sent_to: u64,
}

/// A segment taken for lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct LostSegment {
    /// When it was found.
    pub now: Instant,
    /// Its payload bytes.
    pub bytes: u32,
    /// Bytes taken for lost since it was sent, its own included: `DeliveryRate::lost_since`.
    pub lost_since_sent: u32,
    /// Bytes delivered ever: `DeliveryRate::delivered`.
    pub delivered_total: u64,
    /// What its last transmission remembers.
    pub snapshot: Snapshot,
}

/// How a loss, or the mark of one, was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LossKind {
    /// Duplicate ACKs, SACK or RACK.
    FastRetransmit,
    /// ECN's echo (RFC 3168 section 6.1.2). At most one a round trip is reported.
    Ecn,
}

/// One connection's congestion control. Windows are in bytes.
pub trait CongestionControl {
    /// The name it is configured by.
    fn name(&self) -> &'static str;
    /// The handshake is over: sets the initial window for `mss`.
    fn on_established(&mut self, now: Instant, mss: u32);
    /// A SYN or SYN-ACK of the handshake was lost: call before [`CongestionControl::on_established`], which then starts
    /// with one segment (RFC 5681 section 3.1).
    fn on_handshake_loss(&mut self);
    /// The handshake took `rtt`, and nothing of it was sent again: call after [`CongestionControl::on_established`].
    fn on_handshake_rtt(&mut self, _rtt: Duration) {}
    /// An ACK of new data arrived, or one with new SACK blocks.
    fn on_ack(&mut self, ack: &Ack);
    /// The first loss of a window of data was found; `in_flight` bytes were outstanding.
    fn on_loss_event(&mut self, now: Instant, in_flight: u32, kind: LossKind);
    /// A segment was taken for lost: called for each one, after `DeliveryRate::on_lost` and before the ACK that told goes
    /// to [`CongestionControl::on_ack`]. Only algorithms with a model of the path look at it.
    fn on_segment_lost(&mut self, _lost: &LostSegment) {}
    /// Everything outstanding at the loss event was acknowledged.
    fn on_recovery_exit(&mut self, now: Instant);
    /// The retransmission timer expired; `in_flight` bytes were outstanding.
    fn on_timeout(&mut self, now: Instant, in_flight: u32);
    /// Data is about to be sent after an RTO's time of silence.
    fn on_idle_restart(&mut self, now: Instant);
    /// The last loss event or timeout turned out spurious (RFC 3522's Eifel, RFC 5682, D-SACK).
    fn undo(&mut self, now: Instant);
    /// The congestion window, at least one segment.
    fn cwnd(&self) -> u32;
    /// The slow start threshold; `u32::MAX` until the first loss.
    fn ssthresh(&self) -> u32;
    /// Bytes a second to pace at, where the algorithm has a view of that.
    fn pacing_rate(&self) -> Option<u64>;
    /// Whether `cwnd` holds during recovery too, so that the engine sends while less than it is in flight and leaves
    /// proportional rate reduction (RFC 9937) out.
    fn controls_recovery(&self) -> bool {
        false
    }
    /// Whether the window grows as in slow start (RFC 5681 section 3.1).
    fn in_slow_start(&self) -> bool {
        self.cwnd() < self.ssthresh()
    }
}

/// The algorithms by name.
/// RFC 9293 section 3.8.2, MAY-18.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Algorithm {
    /// RFC 9438 with RFC 9406: `cubic`.
    #[default]
    Cubic,
    /// RFC 5681 with RFC 6582: `newreno` or `reno`.
    NewReno,
    /// BBR version 3, draft-ietf-ccwg-bbr-02: `bbr`.
    Bbr,
}

impl Algorithm {
    /// All of them, the default first.
    pub const ALL: &'static [Self] = &[Self::Cubic, Self::NewReno, Self::Bbr];

    /// The name in configuration and in `TcpInfo`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::NewReno => "newreno",
            Self::Bbr => "bbr",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no algorithm has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no congestion control named `{0}`: choose one of {names}", names = names())]
pub struct UnknownAlgorithm(pub String);

fn names() -> String {
    Algorithm::ALL.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        match name {
            "cubic" => Ok(Self::Cubic),
            "newreno" | "reno" => Ok(Self::NewReno),
            "bbr" => Ok(Self::Bbr),
            _ => Err(UnknownAlgorithm(name.to_owned())),
        }
    }
}

/// Any of the algorithms; the default ones without an allocation for each connection.
#[derive(Clone, Debug)]
pub enum Congestion {
    /// RFC 9438 with RFC 9406.
    Cubic(Cubic),
    /// RFC 5681 with RFC 6582.
    NewReno(NewReno),
    /// draft-ietf-ccwg-bbr-02; boxed, for its model is some hundred bytes.
    Bbr(Box<Bbr>),
}

impl Congestion {
    /// Fresh state of `algorithm`. `seed` is any number that differs between connections, such as the initial sequence
    /// number: what is to be random in an algorithm starts from it.
    #[must_use]
    pub fn new(algorithm: Algorithm, seed: u32) -> Self {
        match algorithm {
            Algorithm::Cubic => Self::Cubic(Cubic::new()),
            Algorithm::NewReno => Self::NewReno(NewReno::new()),
            Algorithm::Bbr => Self::Bbr(Box::new(Bbr::new(seed))),
        }
    }

    /// Tells whether the engine paces what a window allows: bursts need no other bound then. Not at first.
    #[must_use]
    pub fn paced(mut self, is_paced: bool) -> Self {
        if let Self::Cubic(cubic) = &mut self {
            cubic.set_paced(is_paced);
        }
        self
    }

    /// Which algorithm it is.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Cubic(_) => Algorithm::Cubic,
            Self::NewReno(_) => Algorithm::NewReno,
            Self::Bbr(_) => Algorithm::Bbr,
        }
    }
}

/// Calls the same method of whichever algorithm it is.
macro_rules! dispatch {
    ($self:ident, $inner:ident => $call:expr) => {
        match $self {
            Congestion::Cubic($inner) => $call,
            Congestion::NewReno($inner) => $call,
            Congestion::Bbr($inner) => $call,
        }
    };
}

impl CongestionControl for Congestion {
    fn name(&self) -> &'static str {
        dispatch!(self, inner => inner.name())
    }
    fn on_established(&mut self, now: Instant, mss: u32) {
        dispatch!(self, inner => inner.on_established(now, mss));
    }
    fn on_handshake_loss(&mut self) {
        dispatch!(self, inner => inner.on_handshake_loss());
    }
    fn on_handshake_rtt(&mut self, rtt: Duration) {
        dispatch!(self, inner => inner.on_handshake_rtt(rtt));
    }
    fn on_ack(&mut self, ack: &Ack) {
        dispatch!(self, inner => inner.on_ack(ack));
    }
    fn on_loss_event(&mut self, now: Instant, in_flight: u32, kind: LossKind) {
        dispatch!(self, inner => inner.on_loss_event(now, in_flight, kind));
    }
    fn on_segment_lost(&mut self, lost: &LostSegment) {
        dispatch!(self, inner => inner.on_segment_lost(lost));
    }
    fn on_recovery_exit(&mut self, now: Instant) {
        dispatch!(self, inner => inner.on_recovery_exit(now));
    }
    fn on_timeout(&mut self, now: Instant, in_flight: u32) {
        dispatch!(self, inner => inner.on_timeout(now, in_flight));
    }
    fn on_idle_restart(&mut self, now: Instant) {
        dispatch!(self, inner => inner.on_idle_restart(now));
    }
    fn undo(&mut self, now: Instant) {
        dispatch!(self, inner => inner.undo(now));
    }
    fn cwnd(&self) -> u32 {
        dispatch!(self, inner => inner.cwnd())
    }
    fn ssthresh(&self) -> u32 {
        dispatch!(self, inner => inner.ssthresh())
    }
    fn pacing_rate(&self) -> Option<u64> {
        dispatch!(self, inner => inner.pacing_rate())
    }
    fn controls_recovery(&self) -> bool {
        dispatch!(self, inner => inner.controls_recovery())
    }
    fn in_slow_start(&self) -> bool {
        dispatch!(self, inner => inner.in_slow_start())
    }
}

/// The initial window of RFC 6928 section 2: ten segments, and no more than 14,600 bytes unless that is below two.
#[must_use]
pub const fn initial_window(mss: u32) -> u32 {
    let (ten, two) = (mss.saturating_mul(10), mss.saturating_mul(2));
    let bound = if two > 14_600 { two } else { 14_600 };
    if ten < bound { ten } else { bound }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_s_share_stays_small() {
        assert!(size_of::<Congestion>() <= 144, "{}", size_of::<Congestion>());
    }

    #[test]
    fn the_initial_window_follows_rfc_6928() {
        assert_eq!(initial_window(1460), 14_600);
        assert_eq!(initial_window(536), 5_360);
        assert_eq!(initial_window(8960), 17_920);
        assert_eq!(initial_window(2000), 14_600);
    }

    #[test]
    fn names_parse_and_print() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(*algorithm));
            assert_eq!(Congestion::new(*algorithm, 1).name(), algorithm.name());
            assert_eq!(Congestion::new(*algorithm, 1).algorithm(), *algorithm);
        }
        assert_eq!("reno".parse(), Ok(Algorithm::NewReno));
        let error = "vegas".parse::<Algorithm>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no congestion control named `vegas`: choose one of cubic, newreno, bbr"
        );
    }
}
