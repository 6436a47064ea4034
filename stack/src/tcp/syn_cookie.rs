//! SYN cookies (RFC 4987 section 3.6): when the SYN queue is full, the SYN-ACK's sequence number carries what the listener
//! would have kept, so that a flood of SYNs from spoofed addresses takes no memory and no place from honest clients. What
//! the number has no room for goes into the low bits of the timestamp, which the client echoes; without timestamps the
//! connection does without it. The layout is that of Linux: bits 24 to 31 count minutes, the rest is a keyed hash to which
//! the index of the MSS is added, and a second hash and the client's sequence number lie over all of it.

use siphasher::sip::SipHasher24;

use super::connection::{Handshake, syn_window, timestamp, window_scale_for};
use super::ecn;
use super::engine::Tcp;
use super::header::Flags;
use super::input::Segment;
use super::isn::derive;
use super::options::Timestamps;
use super::reply::{Reply, SynAckOptions};
use super::seq::SeqNumber;
use super::table::TupleKey;
use super::{EcnMode, ListenerId};
use crate::counters::{Counters, DropReason};
use crate::time::{Duration, Instant};

/// How long one value of the counter lasts.
const PERIOD: Duration = Duration::from_secs(60);
/// Values of the counter for which a cookie is good: an ACK comes within one to two minutes or not at all.
const AGE_MAX: u32 = 2;
/// How long after the last cookie was sent ACKs are looked at as if they brought one.
pub(super) const LIFETIME: Duration = Duration::from_secs(60 * AGE_MAX as u64);
/// The MSS values that a cookie can tell, the largest that is not above the client's: common ones of Ethernet, tunnels and
/// jumbo frames, the defaults, and one for clients with less.
const MSS: [u16; 8] = [48, 536, 1220, 1300, 1400, 1440, 1460, 8940];
/// The part of a cookie that is a hash, plus the index into [`MSS`].
const HASH_MASK: u32 = (1 << 24) - 1;
/// The bits of a timestamp that carry options.
const TIMESTAMP_BITS: u32 = 6;
/// In the place of the window shift: no window scaling.
const NO_SCALE: u32 = 15;

/// The options that the timestamp of a SYN-ACK carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct CookieOptions {
    /// Shift of the client's windows, when both ends scale; at most 14.
    pub(super) wscale: Option<u8>,
    /// Both ends understand SACK.
    pub(super) sack: bool,
    /// Both ends understand ECN (RFC 3168).
    pub(super) ecn: bool,
}

impl CookieOptions {
    /// The last clock value not after `now_ms` that carries the options: at most 63 ms old.
    pub(super) fn encode(self, now_ms: u32) -> u32 {
        let bits =
            self.wscale.map_or(NO_SCALE, u32::from) | u32::from(self.sack) << 4 | u32::from(self.ecn) << 5;
        let value = now_ms >> TIMESTAMP_BITS << TIMESTAMP_BITS | bits;
        if value > now_ms { value.wrapping_sub(1 << TIMESTAMP_BITS) } else { value }
    }

    /// What an echoed clock value carries.
    pub(super) fn decode(value: u32) -> Self {
        let shift = value & 15;
        Self {
            wscale: (shift != NO_SCALE).then_some(shift as u8),
            sack: value >> 4 & 1 == 1,
            ecn: value >> 5 & 1 == 1,
        }
    }
}

/// Makes and checks cookies.
pub(super) struct SynCookies {
    /// Lies over the whole number.
    cover: SipHasher24,
    /// Proves that the number is ours.
    proof: SipHasher24,
    /// Shards tell their cookies apart: an ACK and its duplicate on two shards must not open two connections.
    shard: u16,
}

impl SynCookies {
    pub(super) fn new(seed: &[u8; 32], shard: u16) -> Self {
        Self { cover: derive(seed, b"syn cookie cover"), proof: derive(seed, b"syn cookie proof"), shard }
    }

    /// Our initial sequence number for the client's SYN with sequence number `irs` and this MSS.
    pub(super) fn encode(&self, now: Instant, key: &TupleKey, irs: SeqNumber, mss: u16) -> SeqNumber {
        let index = MSS.iter().rposition(|value| *value <= mss).unwrap_or(0) as u32;
        let count = counter(now);
        let proof = self.proof(key, count).wrapping_add(index) & HASH_MASK;
        irs + self.cover(key) + ((count as u32) << 24) + proof
    }

    /// The MSS in the cookie `iss` that a client with initial sequence number `irs` acknowledges; `None`: not a cookie of
    /// ours for this client, or too old.
    pub(super) fn decode(&self, now: Instant, key: &TupleKey, irs: SeqNumber, iss: SeqNumber) -> Option<u16> {
        let value = (iss - self.cover(key)).since(irs);
        let now = counter(now);
        let age = (now as u32).wrapping_sub(value >> 24) & 0xff;
        let then = now.checked_sub(u64::from(age)).filter(|_| age < AGE_MAX)?;
        let index = value.wrapping_sub(self.proof(key, then)) & HASH_MASK;
        MSS.get(index as usize).copied()
    }

    fn cover(&self, key: &TupleKey) -> u32 {
        self.cover.hash(&self.input(key, 0)) as u32
    }

    fn proof(&self, key: &TupleKey, count: u64) -> u32 {
        self.proof.hash(&self.input(key, count)) as u32
    }

    fn input(&self, key: &TupleKey, count: u64) -> [u8; 46] {
        let mut bytes = [0; 46];
        bytes[..36].copy_from_slice(&key.bytes());
        bytes[36..44].copy_from_slice(&count.to_be_bytes());
        bytes[44..].copy_from_slice(&self.shard.to_be_bytes());
        bytes
    }
}

// ---- the listener's side

impl Tcp {
    /// Answers a SYN for which the SYN queue has no room, and keeps nothing of it.
    pub(super) fn send_syn_cookie(
        &mut self,
        now: Instant,
        id: ListenerId,
        syn: &Segment,
        counters: &mut Counters,
    ) {
        let Some(listener) = self.listeners.get_mut(id) else { return };
        listener.cookies_until = now + LIFETIME;
        let window = syn_window(listener.options.receive_buffer_start(), &listener.options);
        let (shift, maxseg) = (window_scale_for(&listener.options), listener.options.maxseg);
        let ip = listener.options.ip;
        let key = syn.key();
        let default_mss = if key.is_ipv4() { 536 } else { 1220 };
        let timestamps = syn.options.timestamps.filter(|_| self.config.timestamps);
        let mut ecn = ecn::Agreed::from_syn(syn.flags, syn.ecn, self.config.ecn.accept);
        let all = CookieOptions {
            wscale: syn.options.window_scale.filter(|_| self.config.window_scaling),
            sack: syn.options.sack_permitted && self.config.sack,
            ecn: ecn.mode == EcnMode::Classic,
        };
        // What the client does not echo cannot be agreed on.
        let options = if timestamps.is_some() { all } else { CookieOptions::default() };
        // Accurate ECN needs no memory: the ACK shows it.
        let is_known = options.ecn || ecn.mode == EcnMode::Accurate;
        let ecn_flags = if is_known { ecn.syn_ack_flags(0) } else { Flags::NONE };
        let offset = self.isn.timestamp_offset_of(&key);
        let val = options.encode(timestamp(now, 0)).wrapping_add(offset);
        counters.tcp_syn_cookies_tx += 1;
        self.replies.push(
            Reply {
                key,
                seq: self.syn_cookies.encode(now, &key, syn.seq, syn.options.mss.unwrap_or(default_mss)),
                ack: syn.seq + 1,
                flags: Flags::SYN | Flags::ACK | ecn_flags,
                window,
                timestamps: timestamps.map(|theirs| Timestamps { val, ecr: theirs.val }),
                syn_ack: Some(SynAckOptions {
                    maxseg: maxseg.unwrap_or(u16::MAX),
                    window_scale: options.wscale.map(|_| shift),
                    sack_permitted: options.sack,
                }),
                ip,
            },
            counters,
        );
    }

    /// A segment that belongs to no connection, or not to the half-open one it has the addresses of: if it acknowledges a
    /// cookie, a connection begins and takes it in, data included. Otherwise it is given back.
    pub(super) fn cookie_receives(
        &mut self,
        now: Instant,
        segment: Segment,
        half_open: Option<u32>,
        counters: &mut Counters,
    ) -> Option<Segment> {
        if !segment.has(Flags::ACK) || segment.has(Flags::SYN) || segment.has(Flags::RST) {
            return Some(segment);
        }
        let key = segment.key();
        let Some(id) = self.listeners.find(key.local()) else { return Some(segment) };
        let Some(listener) = self.listeners.get(id).filter(|listener| now < listener.cookies_until) else {
            return Some(segment);
        };
        let (is_full, options) = (listener.is_full(), listener.options.clone());
        let (irs, iss) = (segment.seq - 1, segment.ack - 1);
        let Some(peer_mss) = self.syn_cookies.decode(now, &key, irs, iss) else {
            counters.tcp_syn_cookies_failed += 1;
            return Some(segment);
        };
        // For want of room nothing is acknowledged: the client tries again with its data.
        if is_full {
            counters.tcp_accept_overflows += 1;
            counters.drop(DropReason::TcpAcceptQueueFull);
            return None;
        }
        if self.tables.connections.len() >= self.config.connections_max {
            counters.drop(DropReason::TcpConnectionTableFull);
            return None;
        }
        counters.tcp_syn_cookies_rx += 1;
        if let Some(index) = half_open {
            self.forget_half_open(index, false);
        }
        let ts_offset = self.isn.timestamp_offset_of(&key);
        let timestamps = segment.options.timestamps.filter(|_| self.config.timestamps);
        let settled = timestamps.map(|theirs| CookieOptions::decode(theirs.ecr.wrapping_sub(ts_offset)));
        let settled = settled.unwrap_or_default();
        let handshake = Handshake {
            key,
            iss,
            irs,
            ts_offset,
            ts_recent: timestamps.map(|theirs| theirs.val),
            wscale: settled.wscale.filter(|_| self.config.window_scaling),
            sack: settled.sack && self.config.sack,
            ecn: ecn::Agreed::from_cookie(settled.ecn, segment.flags, self.config.ecn.accept),
            peer_mss,
            our_mss: 0,
            mtu: 0,
            syn_ack_sent_at: None,
            timed_out: false,
        };
        let place = self.admit(now, &handshake, options, (id.index, None), counters);
        if let Some(connection) = self.tables.connections.get_mut(place) {
            // The echo is up to 63 ms older than the SYN-ACK: no measure of the round-trip time.
            connection.timed_out_ms = timestamp(now, 0);
        }
        self.connection_receives(now, place, segment, counters)
    }
}

fn counter(now: Instant) -> u64 {
    (u128::from(now.as_nanos()) / PERIOD.as_nanos()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(port: u16) -> TupleKey {
        TupleKey::new("192.0.2.1:80".parse().unwrap(), ([198, 51, 100, 7], port).into())
    }

    const NOW: Instant = Instant::from_millis(5_000_000);
    const IRS: SeqNumber = SeqNumber(0xffff_fff0);

    #[test]
    fn a_cookie_is_good_for_one_to_two_minutes() {
        let cookies = SynCookies::new(&[7; 32], 0);
        let start = Instant::ZERO + PERIOD * 100;
        let late = start + PERIOD - Duration::from_nanos(1);
        let cookie = cookies.encode(start, &key(1), IRS, 1460);
        assert_eq!(cookies.encode(late, &key(1), IRS, 1460), cookie);
        for (at, expected) in [
            (start, Some(1460)),
            (late, Some(1460)),
            (late + PERIOD, Some(1460)),
            (start + PERIOD * 2, None),
            // The counter's eight bits come round after 256 minutes; the proof does not.
            (start + PERIOD * 256, None),
        ] {
            assert_eq!(cookies.decode(at, &key(1), IRS, cookie), expected, "{at:?}");
        }
    }

    #[test]
    fn a_cookie_is_bound_to_the_connection_the_client_the_shard_and_the_secret() {
        let cookies = SynCookies::new(&[7; 32], 0);
        let cookie = cookies.encode(NOW, &key(1), IRS, 1460);
        assert_eq!(cookies.decode(NOW, &key(1), IRS, cookie), Some(1460));
        assert_eq!(cookies.decode(NOW, &key(2), IRS, cookie), None);
        assert_eq!(cookies.decode(NOW, &key(1), IRS + (1 << 10), cookie), None);
        assert_eq!(cookies.decode(NOW, &key(1), IRS, cookie + (1 << 10)), None);
        assert_eq!(SynCookies::new(&[7; 32], 1).decode(NOW, &key(1), IRS, cookie), None);
        assert_eq!(SynCookies::new(&[8; 32], 0).decode(NOW, &key(1), IRS, cookie), None);
    }

    #[test]
    fn the_mss_is_the_largest_known_one_that_the_client_takes() {
        let cookies = SynCookies::new(&[7; 32], 0);
        for (mss, expected) in
            [(0, 48), (535, 48), (536, 536), (1219, 536), (1439, 1400), (1460, 1460), (65_535, 8940)]
        {
            let cookie = cookies.encode(NOW, &key(1), IRS, mss);
            assert_eq!(cookies.decode(NOW, &key(1), IRS, cookie), Some(expected), "{mss}");
        }
    }

    #[test]
    fn guessed_numbers_are_hardly_ever_cookies() {
        // Of 2^32 numbers 2 * 8 * 2^8 are good in each minute: one in 2^20.
        let cookies = SynCookies::new(&[7; 32], 0);
        let hits = (0..1_000_000u32)
            .filter(|i| cookies.decode(NOW, &key(1), IRS, SeqNumber(i.wrapping_mul(2_654_435_761))).is_some())
            .count();
        assert!(hits <= 8, "{hits}");
    }

    proptest! {
        /// The timestamp carries its options, is not of the future and at most 63 ms old.
        #[test]
        fn options_survive_the_timestamp(
            now_ms: u32, wscale in prop::option::of(0u8..=14), sack: bool, ecn: bool,
        ) {
            let options = CookieOptions { wscale, sack, ecn };
            let value = options.encode(now_ms);
            prop_assert!(now_ms.wrapping_sub(value) < 64);
            prop_assert_eq!(CookieOptions::decode(value), options);
        }
    }
}
