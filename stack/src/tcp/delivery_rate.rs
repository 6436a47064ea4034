//! Delivery rate estimation (draft-cheng-iccrg-delivery-rate-estimation-02): how fast the path delivered what was sent
//! between the sending of the newest segment that an ACK reports and that ACK. Congestion control learns the bandwidth
//! of the path from it.
//!
//! `output` asks for a [`Snapshot`] with every transmission, `recovery` reports what was acknowledged, SACKed or lost
//! and takes one [`RateSample`] for each ACK.

use crate::time::{Duration, Instant};

/// Top bit of a count of delivered bytes: the segment was sent while the sender was application-limited. Nobody
/// delivers 2^63 bytes.
const APP_LIMITED: u64 = 1 << 63;
/// Top bit of the last sample's microseconds: the application limited it. Longer ones than 35 minutes count as that.
const RATE_APP_LIMITED: u32 = 1 << 31;
/// No segment was delivered since the last sample.
const NOTHING: u32 = u32::MAX;

/// What the transmission of a segment remembers (section 2.2's P.delivered, P.delivered_time, P.first_sent_time and
/// P.is_app_limited, and what was in flight and lost then).
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Bytes delivered when it was sent, with [`APP_LIMITED`].
    delivered: u64,
    /// When the last of them were.
    delivered_at: Instant,
    /// When the first segment of the flight that it belongs to was sent.
    first_sent_at: Instant,
    /// Bytes in flight before it was sent.
    in_flight: u32,
    /// Bytes marked lost until then, modulo 2^32.
    lost: u32,
}

impl Snapshot {
    /// Bytes that the connection had delivered when the segment was sent.
    #[must_use]
    pub const fn delivered(&self) -> u64 {
        self.delivered & !APP_LIMITED
    }

    /// Whether the segment was sent while the application, not the network, limited the rate.
    #[must_use]
    pub const fn is_app_limited(&self) -> bool {
        self.delivered & APP_LIMITED != 0
    }

    /// Bytes in flight before the segment was sent.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Bytes delivered (with [`APP_LIMITED`]) and lost, if `sent_at` is when the flight began and nothing was in flight.
    #[inline]
    pub(super) fn of_flight_begun(&self, sent_at: Instant) -> Option<(u64, u32)> {
        let began = self.in_flight == 0 && self.delivered_at == sent_at && self.first_sent_at == sent_at;
        began.then_some((self.delivered, self.lost))
    }

    /// The snapshot of which [`Snapshot::of_flight_begun`] told.
    #[inline]
    pub(super) const fn at_flight_begin(sent_at: Instant, delivered: u64, lost: u32) -> Self {
        Self { delivered, delivered_at: sent_at, first_sent_at: sent_at, in_flight: 0, lost }
    }

    /// That of a segment sent at the same time, `bytes` behind this one.
    #[must_use]
    pub(super) const fn behind(self, bytes: u32) -> Self {
        Self { in_flight: self.in_flight + bytes, ..self }
    }
}

/// A connection's count of what was delivered, and the sample that is being collected.
#[derive(Clone, Debug)]
pub struct DeliveryRate {
    /// Bytes delivered, ever.
    delivered: u64,
    /// When the last of them were.
    delivered_at: Instant,
    /// When the newest segment delivered so far was sent, or the first after nothing was in flight.
    first_sent_at: Instant,
    /// Samples are application-limited until more than this is delivered; 0: they are not.
    app_limited_until: u64,
    /// `delivered` of the snapshot of the newest segment delivered since the last sample.
    prior_delivered: u64,
    /// Its `delivered_at`.
    prior_delivered_at: Instant,
    /// Time it took to send what was delivered, microseconds; [`NOTHING`] when nothing was.
    send_interval_us: u32,
    prior_in_flight: u32,
    prior_lost: u32,
    /// Bytes marked lost, ever, modulo 2^32.
    lost: u32,
    /// The last sample that tells about the path: its bytes, and its microseconds with [`RATE_APP_LIMITED`].
    last_bytes: u32,
    last_interval_us: u32,
}

impl Default for DeliveryRate {
    fn default() -> Self {
        Self {
            delivered: 0,
            delivered_at: Instant::ZERO,
            first_sent_at: Instant::ZERO,
            app_limited_until: 0,
            prior_delivered: 0,
            prior_delivered_at: Instant::ZERO,
            send_interval_us: NOTHING,
            prior_in_flight: 0,
            prior_lost: 0,
            lost: 0,
            last_bytes: 0,
            last_interval_us: 0,
        }
    }
}

/// What one ACK tells about the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateSample {
    /// Bytes delivered during `interval`.
    pub delivered_bytes: u32,
    /// The longer of the time it took to send them and the time it took to have them acknowledged; more than zero.
    pub interval: Duration,
    /// Bytes that had been delivered when the newest segment of the sample was sent.
    pub prior_delivered: u64,
    /// Sent while the application limited the rate: the path may be faster.
    pub is_app_limited: bool,
    /// Bytes marked lost from the sending of the newest segment of the sample until now.
    pub lost_bytes: u32,
    /// Bytes in flight before the newest segment of the sample was sent.
    pub in_flight_at_send: u32,
}

impl RateSample {
    /// The delivery rate.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        let nanos = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        u64::from(self.delivered_bytes) * 1_000_000_000 / nanos
    }
}

impl DeliveryRate {
    /// A segment goes out, for the first time or again; `in_flight` bytes were in the network before it (section 3.2).
    pub fn on_send(&mut self, now: Instant, in_flight: u32) -> Snapshot {
        if in_flight == 0 {
            // A flight begins: time without anything in flight must not count.
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        Snapshot {
            delivered: self.delivered | if self.is_app_limited() { APP_LIMITED } else { 0 },
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            in_flight,
            lost: self.lost,
        }
    }

    /// `bytes`, last sent at `sent_at` with `snapshot`, were newly acknowledged or SACKed (section 3.3,
    /// UpdateRateSample). Segments sent at the same time are taken in the order of the calls.
    pub fn on_delivered(&mut self, now: Instant, bytes: u32, sent_at: Instant, snapshot: &Snapshot) {
        self.delivered += u64::from(bytes);
        self.delivered_at = now;
        let newest = (self.first_sent_at, self.prior_delivered & !APP_LIMITED);
        if self.send_interval_us != NOTHING && (sent_at, snapshot.delivered()) < newest {
            return;
        }
        self.prior_delivered = snapshot.delivered;
        self.prior_delivered_at = snapshot.delivered_at;
        self.prior_in_flight = snapshot.in_flight;
        self.prior_lost = snapshot.lost;
        let interval = sent_at.micros_since(snapshot.first_sent_at);
        self.send_interval_us = u32::try_from(interval).unwrap_or(NOTHING).min(NOTHING - 1);
        self.first_sent_at = sent_at;
    }

    /// `bytes` were marked lost.
    pub fn on_lost(&mut self, bytes: u32) {
        self.lost = self.lost.wrapping_add(bytes);
    }

    /// Ends the processing of one ACK by which nothing was delivered.
    pub(super) fn pass(&mut self) {
        if self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
    }

    /// Whether [`DeliveryRate::pass`] would change anything.
    pub(super) fn has_to_pass(&self) -> bool {
        self.app_limited_until != 0 && self.delivered > self.app_limited_until
    }

    /// Ends the processing of one ACK (section 3.3, GenerateRateSample). `None` when nothing was delivered, or over an
    /// interval shorter than `min_rtt`: ACKs that arrive so fast report what was delivered before (section 2.2.4 on ACK
    /// compression), or a retransmission was taken for delivered that was not.
    pub fn sample(&mut self, now: Instant, min_rtt: Option<Duration>) -> Option<RateSample> {
        self.pass();
        let send_interval_us = core::mem::replace(&mut self.send_interval_us, NOTHING);
        if send_interval_us == NOTHING {
            return None;
        }
        let ack_interval = now.saturating_since(self.prior_delivered_at);
        let interval = ack_interval.max(Duration::from_micros(u64::from(send_interval_us)));
        if interval.is_zero() || min_rtt.is_some_and(|min_rtt| interval < min_rtt) {
            return None;
        }
        let prior_delivered = self.prior_delivered & !APP_LIMITED;
        let sample = RateSample {
            delivered_bytes: u32::try_from(self.delivered - prior_delivered).unwrap_or(u32::MAX),
            interval,
            prior_delivered,
            is_app_limited: self.prior_delivered & APP_LIMITED != 0,
            lost_bytes: self.lost.wrapping_sub(self.prior_lost),
            in_flight_at_send: self.prior_in_flight,
        };
        // As Linux: one that the application limited replaces only a slower one.
        if !sample.is_app_limited || self.is_last_slower(&sample) {
            self.last_bytes = sample.delivered_bytes;
            let micros = u32::try_from(interval.as_micros()).unwrap_or(u32::MAX).min(RATE_APP_LIMITED - 1);
            self.last_interval_us = micros | if sample.is_app_limited { RATE_APP_LIMITED } else { 0 };
        }
        Some(sample)
    }

    /// Whether the last sample shows no higher rate, compared without a division.
    fn is_last_slower(&self, sample: &RateSample) -> bool {
        let last_nanos = u64::from(self.last_interval_us & !RATE_APP_LIMITED).max(1) * 1_000;
        let nanos = u64::try_from(sample.interval.as_nanos()).unwrap_or(u64::MAX);
        let scaled = |bytes: u32, nanos: u64| u128::from(bytes) * u128::from(nanos);
        scaled(sample.delivered_bytes, last_nanos) >= scaled(self.last_bytes, nanos)
    }

    /// The last sample that tells about the path: bytes a second (0 before the first), and whether the application limited
    /// it: then the path may be faster.
    #[must_use]
    pub fn last_rate(&self) -> (u64, bool) {
        let micros = u64::from(self.last_interval_us & !RATE_APP_LIMITED).max(1);
        (u64::from(self.last_bytes) * 1_000_000 / micros, self.last_interval_us & RATE_APP_LIMITED != 0)
    }

    /// Nothing more is to be sent though the window has room: samples are application-limited until all of the
    /// `in_flight` bytes are delivered (section 3.4).
    pub fn mark_app_limited(&mut self, in_flight: u32) {
        self.app_limited_until = (self.delivered + u64::from(in_flight)).max(1);
    }

    /// Bytes delivered, ever.
    #[must_use]
    pub const fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes marked lost since the segment of `snapshot` was sent.
    #[must_use]
    pub const fn lost_since(&self, snapshot: &Snapshot) -> u32 {
        self.lost.wrapping_sub(snapshot.lost)
    }

    /// Whether what is sent now counts as application-limited.
    #[must_use]
    pub const fn is_app_limited(&self) -> bool {
        self.app_limited_until != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MSS: u32 = 1000;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_connection_s_and_a_segment_s_share_stay_small() {
        assert!(size_of::<Snapshot>() <= 32, "{}", size_of::<Snapshot>());
        assert!(size_of::<DeliveryRate>() <= 72, "{}", size_of::<DeliveryRate>());
    }

    #[test]
    fn a_steady_path_gives_its_rate() {
        // A segment every 10 ms, each acknowledged 40 ms later: 100,000 bytes a second.
        let mut rate = DeliveryRate::default();
        let mut sent = std::collections::VecDeque::new();
        let mut last = None;
        for tick in 0..20u64 {
            if tick >= 4 {
                let (sent_at, snapshot) = sent.pop_front().unwrap();
                rate.on_delivered(at(tick * 10), MSS, sent_at, &snapshot);
                last = rate.sample(at(tick * 10), Some(ms(40)));
                assert!(last.is_some());
            }
            sent.push_back((at(tick * 10), rate.on_send(at(tick * 10), sent.len() as u32 * MSS)));
        }
        let last = last.unwrap();
        assert_eq!(
            (last.delivered_bytes, last.interval, last.bytes_per_second()),
            (4 * MSS, ms(40), 100_000)
        );
        assert_eq!((last.prior_delivered, last.in_flight_at_send), (12_000, 3 * MSS));
        assert_eq!(rate.delivered(), 16_000);
    }

    #[test]
    fn compressed_acks_do_not_raise_the_rate_above_the_one_it_was_sent_at() {
        // Ten segments sent over 90 ms; the ACKs of the last nine all arrive at 150 ms.
        let mut rate = DeliveryRate::default();
        let sent: Vec<_> = (0..10u32)
            .map(|i| (at(u64::from(i) * 10), rate.on_send(at(u64::from(i) * 10), i * MSS)))
            .collect();
        rate.on_delivered(at(100), MSS, sent[0].0, &sent[0].1);
        assert_eq!(rate.sample(at(100), Some(ms(60))).unwrap().bytes_per_second(), 10_000);
        for (sent_at, snapshot) in &sent[1..] {
            rate.on_delivered(at(150), MSS, *sent_at, snapshot);
        }
        let sample = rate.sample(at(150), Some(ms(60))).unwrap();
        assert_eq!((sample.delivered_bytes, sample.interval), (10 * MSS, ms(150)));
        // Sent within 60 ms, acknowledged within 20: the time to send counts.
        let mut rate =
            DeliveryRate { delivered: 5_000, delivered_at: at(1000), first_sent_at: at(940), ..rate };
        let snapshot = rate.on_send(at(1000), 5 * MSS);
        rate.on_delivered(at(1020), 6 * MSS, at(1000), &snapshot);
        assert_eq!(rate.sample(at(1020), Some(ms(20))).unwrap().interval, ms(60));
    }

    #[test]
    fn the_newest_segment_delivered_gives_the_sample_whatever_the_order() {
        for order in [[0, 1], [1, 0]] {
            let mut rate = DeliveryRate::default();
            let first = rate.on_send(at(0), 0);
            rate.on_delivered(at(50), 0, at(0), &first);
            rate.sample(at(50), None);
            let sent = [(at(0), first), (at(60), rate.on_send(at(60), 7 * MSS))];
            for i in order {
                rate.on_delivered(at(110), MSS, sent[i].0, &sent[i].1);
            }
            assert_eq!(rate.sample(at(110), None).unwrap().in_flight_at_send, 7 * MSS);
        }
    }

    #[test]
    fn time_with_nothing_in_flight_does_not_count() {
        let mut rate = DeliveryRate::default();
        let first = rate.on_send(at(0), 0);
        rate.on_delivered(at(10), MSS, at(0), &first);
        rate.sample(at(10), None);
        let second = rate.on_send(at(5000), 0);
        rate.on_delivered(at(5010), MSS, at(5000), &second);
        assert_eq!(rate.sample(at(5010), None).unwrap().interval, ms(10));
    }

    #[test]
    fn an_interval_shorter_than_the_round_trip_or_without_delivery_gives_no_sample() {
        let mut rate = DeliveryRate::default();
        assert_eq!(rate.sample(at(0), None), None);
        let snapshot = rate.on_send(at(0), 0);
        rate.on_delivered(at(9), MSS, at(0), &snapshot);
        assert_eq!(rate.sample(at(9), Some(ms(10))), None);
        assert_eq!(rate.sample(at(20), None), None, "each delivery counts once");
        let snapshot = rate.on_send(at(20), 0);
        rate.on_delivered(at(20), MSS, at(20), &snapshot);
        assert_eq!(rate.sample(at(20), None), None, "no rate over no time");
    }

    #[test]
    fn samples_are_app_limited_until_what_was_in_flight_is_delivered() {
        let mut rate = DeliveryRate::default();
        let before = rate.on_send(at(0), 0);
        assert!(!before.is_app_limited());
        rate.mark_app_limited(2 * MSS);
        let after = rate.on_send(at(1), 2 * MSS);
        assert!(after.is_app_limited() && rate.is_app_limited());
        rate.on_delivered(at(10), 2 * MSS, at(0), &before);
        assert!(!rate.sample(at(10), None).unwrap().is_app_limited);
        assert!(rate.is_app_limited());
        rate.on_delivered(at(11), MSS, at(1), &after);
        let sample = rate.sample(at(11), None).unwrap();
        assert!(sample.is_app_limited && !rate.is_app_limited());
        assert_eq!(sample.prior_delivered, 0, "the mark is no part of the count");
    }

    #[test]
    fn losses_count_from_the_sending_of_the_segment_on() {
        let mut rate = DeliveryRate::default();
        let early = rate.on_send(at(0), 0);
        rate.on_lost(3 * MSS);
        let late = rate.on_send(at(1), MSS);
        rate.on_lost(MSS);
        rate.on_delivered(at(10), MSS, at(0), &early);
        assert_eq!(rate.sample(at(10), None).unwrap().lost_bytes, 4 * MSS);
        assert_eq!((rate.lost_since(&early), rate.lost_since(&late)), (4 * MSS, MSS));
        rate.on_delivered(at(11), MSS, at(1), &late);
        assert_eq!(rate.sample(at(11), None).unwrap().lost_bytes, MSS);
    }

    proptest! {
        /// Whatever is sent and delivered in whatever order: no overflow, and no sample beyond what was delivered.
        #[test]
        fn samples_stay_within_what_was_delivered(steps in prop::collection::vec((0u8..5, any::<u32>(), 0u64..1 << 40), 0..200)) {
            let mut rate = DeliveryRate::default();
            let mut now = Instant::ZERO;
            let mut sent = vec![(now, rate.on_send(now, 0))];
            for (kind, value, time) in steps {
                now += Duration::from_nanos(time);
                match kind {
                    0 => sent.push((now, rate.on_send(now, value))),
                    1 => {
                        let (sent_at, snapshot) = sent[value as usize % sent.len()];
                        rate.on_delivered(now, value, sent_at, &snapshot);
                    }
                    2 => rate.on_lost(value),
                    3 => rate.mark_app_limited(value),
                    _ => {
                        if let Some(sample) = rate.sample(now, Some(Duration::from_nanos(time))) {
                            prop_assert!(u64::from(sample.delivered_bytes) <= rate.delivered());
                            prop_assert!(sample.interval >= Duration::from_nanos(time));
                            let _ = sample.bytes_per_second();
                        }
                    }
                }
            }
        }
    }
}
