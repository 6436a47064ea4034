//! The state of `limit`, `hashlimit` and `connlimit`: token buckets, and the flows that a network has.

use core::net::IpAddr;
use std::collections::{HashMap, VecDeque};

use super::rule::{HashKey, HashLimit, Rate};
use super::set::masked;
use crate::flow::FlowTuple;
use crate::limits;
use crate::time::{Duration, Instant};

/// A token bucket whose credit is time: an event costs the time in which the rate allows one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// `0 <= credit_ns <= burst * cost`.
    credit_ns: u64,
    filled_at: Instant,
}

/// Nanoseconds that one event costs.
fn cost(rate: &Rate) -> u64 {
    u64::from(rate.unit.seconds()) * 1_000_000_000 / u64::from(rate.events.max(1))
}

impl Bucket {
    /// A full one.
    pub(super) fn full(now: Instant, rate: &Rate) -> Self {
        Self { credit_ns: cost(rate).saturating_mul(u64::from(rate.burst)), filled_at: now }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant, rate: &Rate) -> bool {
        let cost = cost(rate);
        let earned = now.as_nanos().saturating_sub(self.filled_at.as_nanos());
        self.credit_ns =
            self.credit_ns.saturating_add(earned).min(cost.saturating_mul(u64::from(rate.burst)));
        self.filled_at = self.filled_at.max(now);
        if self.credit_ns < cost {
            return false;
        }
        self.credit_ns -= cost;
        true
    }
}

/// What chooses a bucket of `hashlimit`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct BucketKey {
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    src_port: u16,
    dst_port: u16,
}

impl BucketKey {
    fn of(tuple: &FlowTuple, key: &HashKey) -> Self {
        Self {
            src: key.source.map(|prefix| masked(tuple.src(), prefix)),
            dst: key.destination.map(|prefix| masked(tuple.dst(), prefix)),
            src_port: if key.source_port { tuple.src_port } else { 0 },
            dst_port: if key.destination_port { tuple.dst_port } else { 0 },
        }
    }
}

/// The buckets of one name.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: HashMap<BucketKey, Bucket>,
    /// In order of first use, to find idle ones.
    order: VecDeque<BucketKey>,
}

impl Buckets {
    /// Whether the packet is within the rate. With all buckets in use, one that would need another is not.
    pub(super) fn take(&mut self, now: Instant, tuple: &FlowTuple, limit: &HashLimit) -> bool {
        self.forget_idle(now, limit);
        let key = BucketKey::of(tuple, &limit.key);
        if let Some(bucket) = self.buckets.get_mut(&key) {
            return bucket.take(now, &limit.rate);
        }
        if self.buckets.len() >= limit.entries_max.unwrap_or(HashLimit::ENTRIES) as usize {
            return false;
        }
        let mut bucket = Bucket::full(now, &limit.rate);
        let within = bucket.take(now, &limit.rate);
        self.buckets.insert(key, bucket);
        self.order.push_back(key);
        within
    }

    /// Looks at the two oldest, so that every call frees more than it may add.
    fn forget_idle(&mut self, now: Instant, limit: &HashLimit) {
        let expire = Duration::from_millis(u64::from(limit.expire_ms));
        for _ in 0..2 {
            let Some(key) = self.order.pop_front() else { return };
            match self.buckets.get(&key) {
                Some(bucket) if now.saturating_since(bucket.filled_at) < expire => self.order.push_back(key),
                _ => {
                    self.buckets.remove(&key);
                }
            }
        }
    }
}

/// The flows of each network, for `connlimit`.
#[derive(Debug, Default)]
pub(super) struct FlowCounts {
    flows: HashMap<IpAddr, VecDeque<FlowTuple>>,
}

impl FlowCounts {
    /// How many flows `network` has, with the one of `tuple`, up to a little over `bound`. `alive` tells whether a flow
    /// still exists. Flows that ended are forgotten a few at a time, and as many as it takes when the count matters.
    pub(super) fn count(
        &mut self,
        network: IpAddr,
        tuple: &FlowTuple,
        bound: u32,
        alive: &mut dyn FnMut(&FlowTuple) -> bool,
    ) -> u32 {
        if !self.flows.contains_key(&network) && self.flows.len() >= limits::FILTER_COUNTED_NETWORKS {
            // Nobody can be counted further: as if over every bound.
            return u32::MAX;
        }
        let flows = self.flows.entry(network).or_default();
        let over = flows.len() as u64 >= u64::from(bound);
        let looks = if over { flows.len() } else { flows.len().min(2) };
        for _ in 0..looks {
            let Some(flow) = flows.pop_front() else { break };
            if flow != *tuple && alive(&flow) {
                flows.push_back(flow);
                if !over {
                    break;
                }
            }
        }
        if (flows.len() as u64) <= u64::from(bound) {
            flows.push_back(*tuple);
            return flows.len() as u32;
        }
        flows.len() as u32 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::filter::RateUnit;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn tuple(host: u8, port: u16) -> FlowTuple {
        let src = core::net::SocketAddr::from(([192, 0, 2, host], port));
        FlowTuple::new(src, "198.51.100.1:80".parse().unwrap(), 6)
    }

    #[test]
    fn three_a_minute_with_a_burst_of_five() {
        let rate = Rate { events: 3, unit: RateUnit::Minute, burst: 5 };
        let mut bucket = Bucket::full(at(0), &rate);
        assert_eq!((0..10).filter(|_| bucket.take(at(0), &rate)).count(), 5);
        assert!(!bucket.take(at(19), &rate));
        assert!(bucket.take(at(20), &rate));
        assert!(!bucket.take(at(20), &rate));
        assert_eq!(
            (0..10).filter(|_| bucket.take(at(10_000), &rate)).count(),
            5,
            "never more than the burst"
        );
    }

    #[test]
    fn every_host_has_its_own_bucket_and_idle_ones_are_forgotten() {
        let limit = HashLimit {
            name: "x".into(),
            rate: Rate { events: 1, unit: RateUnit::Second, burst: 1 },
            above: false,
            key: HashKey { source: Some(128), ..HashKey::default() },
            size: None,
            entries_max: Some(2),
            collect_ms: 1000,
            expire_ms: 10_000,
        };
        let mut buckets = Buckets::default();
        assert!(buckets.take(at(0), &tuple(1, 1), &limit));
        assert!(!buckets.take(at(0), &tuple(1, 2), &limit), "another port is the same host");
        assert!(buckets.take(at(0), &tuple(2, 1), &limit));
        assert!(!buckets.take(at(0), &tuple(3, 1), &limit), "no bucket is left");
        assert!(buckets.take(at(11), &tuple(3, 1), &limit));
    }

    #[test]
    fn ended_flows_do_not_count() {
        let mut counts = FlowCounts::default();
        let network: IpAddr = "192.0.2.0".parse().unwrap();
        for port in 1..=3 {
            assert_eq!(counts.count(network, &tuple(1, port), 3, &mut |_| true), u32::from(port));
        }
        assert_eq!(counts.count(network, &tuple(1, 4), 3, &mut |_| true), 4);
        assert_eq!(counts.count(network, &tuple(1, 5), 3, &mut |flow| flow.src_port > 2), 3);
    }
}
