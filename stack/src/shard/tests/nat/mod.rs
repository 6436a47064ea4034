//! What a NAT must do, as the standards have it, seen from the wire: a router of one or more shards between two links, whose hosts
//! are nobody but the test. One file for each standard; `packets.rs` makes and reads packets.
//!
//! ```text
//! 192.168.1.0/24 ── lan: .254  router  wan: 192.0.2.254 ── 192.0.2.0/24, and by 192.0.2.1 all others
//! ```

use std::sync::Arc;

use super::*;
use crate::config::{FilterConfig, ForwardConfig, LinkConfig};
use crate::flow::conntrack::Timeouts;
use crate::flow::filter::RuleSet;
use crate::flow::nat::Filtering;
use crate::limits;

use packets::*;

mod packets;
mod rfc4787;
mod rfc4787_fragments;
mod rfc5382;
mod rfc5382_open;
mod rfc5508;
mod rfc5508_errors;
mod rfc7857;

/// A link by what rules call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Lan,
    Wan,
}
use Side::{Lan, Wan};

/// The rules of a home router.
const HOME: &str = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP\n\
    -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -i lan -j ACCEPT\n\
    -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\nCOMMIT\n";

/// The router and the links on which the test is everybody else.
struct Lab {
    shards: Vec<(Shard, TestLinks)>,
    /// Chooses the shard that a frame comes to.
    queues: ChaCha12Rng,
    now: Instant,
    /// What came out since the test looked last.
    seen: Vec<(Side, Vec<u8>)>,
}

impl Lab {
    fn home() -> Self {
        Self::new(1, HOME, |_| {})
    }

    fn filtering(shards: u16, filtering: Filtering) -> Self {
        Self::new(shards, HOME, |config| config.filter.as_mut().unwrap().gate.filtering = filtering)
    }

    /// With the timeouts that the standards ask for instead of Linux's.
    fn patient() -> Self {
        Self::new(1, HOME, |config| {
            let gate = &mut config.filter.as_mut().unwrap().gate;
            gate.conntrack.timeouts = Timeouts::rfc();
            gate.filtering = Filtering::EndpointIndependent;
        })
    }

    fn new(shards: u16, rules: &str, change: impl FnOnce(&mut StackConfig)) -> Self {
        Self::with_mtus(shards, [1500, 1500], rules, change)
    }

    fn with_mtus(shards: u16, mtus: [usize; 2], rules: &str, change: impl FnOnce(&mut StackConfig)) -> Self {
        let mut config = StackConfig::new(vec!["192.168.1.254/24".parse().unwrap()], SEED);
        config.further_links = vec![LinkConfig {
            name: "wan".into(),
            addresses: vec!["192.0.2.254/24".parse().unwrap()],
            ..LinkConfig::default()
        }];
        config.routes =
            vec![Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: ip("192.0.2.1"), link: None }];
        config.forward = Some(ForwardConfig::default());
        let rules = RuleSet::parse(rules, "rules").unwrap_or_else(|error| panic!("{error}"));
        config.filter = Some(FilterConfig::new(Arc::new(rules), "lan".into()));
        change(&mut config);
        let shard = |(index, ends): (u16, ShardLinks)| {
            let links = TestLinks::new(8, &mtus);
            (Shard::new(&config, index, shards, ends, &links, Instant::ZERO).unwrap(), links)
        };
        let shards = (0..shards).zip(Shard::links(shards)).map(shard).collect();
        let mut lab = Self { shards, queues: rng(SEED, 9), now: Instant::from_millis(1), seen: Vec::new() };
        lab.after(20);
        lab.seen.clear();
        lab
    }

    /// A host sends a packet; all that comes out at once.
    fn send(&mut self, from: Side, packet: &[u8]) -> Vec<(Side, Vec<u8>)> {
        self.inject(from, packet);
        self.settle();
        core::mem::take(&mut self.seen)
    }

    /// A host sends a packet, of which one comes out on the other link, whole.
    fn cross(&mut self, from: Side, packet: &[u8]) -> Vec<u8> {
        let to = if from == Lan { Wan } else { Lan };
        self.one(from, to, packet)
    }

    /// A host sends a packet, whereupon the router sends one, on this link.
    fn one(&mut self, from: Side, to: Side, packet: &[u8]) -> Vec<u8> {
        let seen = self.send(from, packet);
        let [(side, out)] = &seen[..] else { panic!("{seen:x?} for {packet:x?}") };
        assert_eq!(*side, to);
        out.clone()
    }

    /// The outside endpoint that a datagram from an inside one shows.
    fn mapping(&mut self, inside: &str, to: &str) -> String {
        let out = self.cross(Lan, &udp(inside, to, b"out"));
        assert_eq!(destination(&out), to);
        source(&out)
    }

    /// Whether a datagram from outside reaches the inside endpoint.
    fn reaches(&mut self, from: &str, outside: &str, inside: &str) -> bool {
        let seen = self.send(Wan, &udp(from, outside, b"in"));
        let arrived = |(side, packet): &(Side, Vec<u8>)| {
            *side == Lan && (source(packet), destination(packet)) == (from.to_owned(), inside.to_owned())
        };
        assert!(seen.iter().all(|seen| seen.0 == Wan || arrived(seen)), "{seen:x?}");
        seen.iter().any(arrived)
    }

    /// Lets so many seconds pass; what came out meanwhile.
    fn after(&mut self, seconds: u64) -> Vec<(Side, Vec<u8>)> {
        let end = self.now + Duration::from_secs(seconds);
        self.settle();
        for _ in 0..100_000 {
            let now = self.now;
            let next = self.shards.iter_mut().filter_map(|(shard, _)| shard.next_deadline(now)).min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    self.settle();
                    return core::mem::take(&mut self.seen);
                }
            }
            self.settle();
        }
        panic!("the router never sleeps");
    }

    fn inject(&mut self, from: Side, packet: &[u8]) {
        let mut frame = vec![2, 0, 0, 0, 0, 8 + from as u8, 2, 0, 0, 0, 1 + from as u8, packet[15], 8, 0];
        frame.extend_from_slice(packet);
        // A NIC's hash of a fragment is over addresses alone: all of a packet come to one queue.
        let is_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
        let number = if is_fragment { u32::from(packet[15]) } else { self.queues.next_u32() };
        let queue = number as usize % self.shards.len();
        self.shards[queue].1.0[from as usize].rx.push_back(frame);
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            let mut frames = Vec::new();
            for (shard, links) in &mut self.shards {
                busy |= shard.poll(self.now, links);
                for (link, side) in [(0, Lan), (1, Wan)] {
                    frames.extend(links.0[link].tx.drain(..).map(|frame| (side, frame)));
                }
            }
            for (side, frame) in frames {
                busy = true;
                match frame[12..14] {
                    [8, 6] => self.answer_arp(side, &frame),
                    // Reports to multicast routers are nobody's business here.
                    [8, 0] if frame[30] < 224 => {
                        check(&frame[14..]);
                        self.seen.push((side, frame[14..].to_vec()));
                    }
                    _ => {}
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the router does not come to rest");
    }

    /// Every host is there but those whose number is above 240, and answers to all shards.
    fn answer_arp(&mut self, side: Side, frame: &[u8]) {
        let (asker, target) = (&frame[28..32], &frame[38..42]);
        if frame[21] != 1 || asker == [0; 4] || asker == target || target[3] > 240 {
            return;
        }
        let mac = [2, 0, 0, 0, 1 + side as u8, target[3]];
        let mut answer = vec![2, 0, 0, 0, 0, 8 + side as u8];
        answer.extend_from_slice(&mac);
        answer.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        answer.extend_from_slice(&mac);
        answer.extend_from_slice(target);
        answer.extend_from_slice(&frame[22..32]);
        for (_, links) in &mut self.shards {
            links.0[side as usize].rx.push_back(answer.clone());
        }
    }

    fn flows(&self) -> usize {
        self.shards.iter().map(|(shard, _)| shard.flow_census().map_or(0, |(flows, _)| flows)).sum()
    }
}
