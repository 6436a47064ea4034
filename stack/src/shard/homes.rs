//! Which shard of a router has a flow: both directions meet in one, whatever queues the NICs' hashes choose for them.
//!
//! Each flow has a home that every shard computes from a packet alone:
//! - to an address of ours: `port % shards` (or the ping identifier's), as the ports of translation are chosen
//!   ([`crate::flow::nat`]) and those of sockets, so that replies come to the shard that has the flow;
//! - else by the inside host's address: of the two, the one that is not reached by the default route. All flows of one
//!   host are one shard's, which alone gives it outside ports (RFC 4787 REQ-1, REQ-2: endpoint-independent mapping, pairing).
//!
//! A shard that has a flow takes its packets wherever they come in; what it does not know it gives to the home, a copy over
//! the bounded channel. Where translation moved the replies' home (a port forward, whose server answers as itself), the shard
//! that has the flow tells that home before the first packet leaves, and again when the flow ends. Without connection
//! tracking nothing has a home, and every shard forwards what it gets.

use core::net::IpAddr;
use std::collections::VecDeque;
use std::hash::BuildHasher;

use hashbrown::HashMap;

use super::Shard;
use super::links::Message;
use crate::counters::DropReason;
use crate::flow::FlowTuple;
use crate::flow::view::{PacketView, Transport};
use crate::net::host_gate::is_exempt;
use crate::net::keyed::KeyedState;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::time::Instant;

/// What a shard knows of flows that do not meet at home. The tables are bounded by the flows that the shards may have.
pub(super) struct Homes {
    keys: KeyedState,
    /// Other shards' flows whose replies have their home here.
    elsewhere: HashMap<FlowTuple, u16, KeyedState>,
    /// This shard's flows whose replies have another home, which is told.
    told: HashMap<FlowTuple, u16, KeyedState>,
    /// What could not be told yet: for want of room in the channel.
    waiting: VecDeque<(u16, FlowNews)>,
}

/// What a shard tells the home of replies that are its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowNews {
    /// As they arrive.
    replies: FlowTuple,
    /// Who has their flow.
    owner: u16,
    /// It had it.
    ended: bool,
}

/// A packet on its way to the shard that has its flow.
#[derive(Clone, Debug)]
pub(super) struct Handed {
    /// The link that it came by.
    link: usize,
    /// Its flow, in its own direction.
    tuple: FlowTuple,
    parsed: Parsed,
    /// Length of the longest fragment that it was put together from.
    fragments: Option<usize>,
    stage: Stage,
    /// From its Ethernet header on.
    bytes: Vec<u8>,
}

/// How far a packet has come that is handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// To the home of its flow, which may know who has it.
    ToHome,
    /// To who has its flow: it goes no farther.
    ToOwner,
    /// From inside to an endpoint on this link: to the shard of the host that it is from (see [`super::hairpin`]).
    Turns {
        /// The link.
        outside: usize,
    },
    /// Then to the shard of that endpoint.
    Turned {
        /// The link.
        outside: usize,
    },
}

impl Homes {
    /// `keys`: the same on all shards.
    pub(super) fn new(keys: (u64, u64)) -> Self {
        let keys = KeyedState(keys);
        let table = || HashMap::with_hasher(keys);
        Self { keys, elsewhere: table(), told: table(), waiting: VecDeque::new() }
    }

    /// Whether some shard has not been told of a flow.
    pub(super) fn owes(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// How many flows of others are known here, and how many of this shard's elsewhere.
    #[cfg(test)]
    pub(super) fn known(&self) -> (usize, usize) {
        (self.elsewhere.len(), self.told.len())
    }

    /// Takes what another shard tells.
    pub(super) fn hear(&mut self, news: FlowNews) {
        if !news.ended {
            self.elsewhere.insert(news.replies, news.owner);
        } else if self.elsewhere.get(&news.replies) == Some(&news.owner) {
            self.elsewhere.remove(&news.replies);
        }
    }
}

impl Shard {
    /// The packet, if its flow is or will be this shard's; else it goes to the shard that has the flow or should.
    pub(super) fn claim(&mut self, packet: Packet, fragments: Option<usize>) -> Option<Packet> {
        if self.count == 1 || !self.output.gate.as_ref().is_some_and(|gate| gate.tracks()) {
            return Some(packet);
        }
        let view = PacketView::of(&packet).filter(|view| !is_exempt(view));
        let Some(tuple) = view.map(|view| of_flow(&view)) else { return Some(packet) };
        if self.has_flow(&tuple) {
            return Some(packet);
        }
        let home = self.home(&tuple);
        let (to, stage) = match self.homes.elsewhere.get(&tuple) {
            Some(&owner) => (owner, Stage::ToOwner),
            None if home == self.index => return Some(packet),
            None => (home, Stage::ToHome),
        };
        self.hand_packet(to, packet, tuple, fragments, stage);
        None
    }

    /// Gives a packet, or those that it was merged from, to another shard.
    pub(super) fn hand_packet(
        &mut self,
        to: u16,
        packet: Packet,
        tuple: FlowTuple,
        fragments: Option<usize>,
        stage: Stage,
    ) {
        for packet in packet.into_packets() {
            let mut bytes = self.links.buffer(packet.len());
            packet.segments().for_each(|segment| bytes.extend_from_slice(segment));
            let (link, parsed) = (self.rx_link, packet.parsed);
            self.hand(to, Handed { link, tuple, parsed, fragments, stage, bytes });
        }
    }

    /// A packet from another shard.
    pub(super) fn take_handed(&mut self, now: Instant, handed: Handed) {
        if handed.stage == Stage::ToHome
            && !self.has_flow(&handed.tuple)
            && let Some(&owner) = self.homes.elsewhere.get(&handed.tuple)
        {
            return self.hand(owner, Handed { stage: Stage::ToOwner, ..handed });
        }
        let Handed { link, parsed, fragments, bytes, stage, .. } = handed;
        self.counters.rx_taken_over += 1;
        let packet = Packet::copy_from(&self.pool, &bytes);
        self.links.give_back(bytes);
        let Some(mut packet) = packet else { return self.counters.drop(DropReason::NoFrame) };
        packet.parsed = parsed;
        self.rx_link = link;
        match stage {
            Stage::ToHome | Stage::ToOwner => self.route_here(now, packet, fragments),
            Stage::Turns { outside } => self.turn_back_here(now, packet, fragments, outside),
            Stage::Turned { outside } => self.arrive_turned(now, packet, fragments, outside),
        }
    }

    /// Tells other shards which of the flows that have begun here they may get replies of, and which have ended. To be called
    /// before the packets that began them leave.
    pub(super) fn tell_homes(&mut self) {
        let Some(gate) = self.output.gate.as_mut().filter(|_| self.count > 1) else { return };
        let (begun, ended) = gate.take_changes();
        for replies in begun {
            // What our own sockets answer does not come in.
            let home = self.home(&replies);
            if home != self.index && !self.policies[0].is_ours(replies.src()) {
                self.homes.told.insert(replies, home);
                self.homes.waiting.push_back((home, FlowNews { replies, owner: self.index, ended: false }));
            }
        }
        for replies in ended {
            // Mostly nobody was told of any.
            if let Some(home) = self.homes.told.remove(&replies) {
                self.homes.waiting.push_back((home, FlowNews { replies, owner: self.index, ended: true }));
            }
        }
        while let Some(&(home, news)) = self.homes.waiting.front() {
            if !self.links.send(home, Message::Flow(news)) {
                break;
            }
            self.homes.waiting.pop_front();
        }
    }

    fn hand(&mut self, to: u16, handed: Handed) {
        if self.links.send(to, Message::Handed(handed)) {
            self.counters.rx_handed_over += 1;
        } else {
            self.counters.drop(DropReason::ShardChannelFull);
        }
    }

    pub(super) fn has_flow(&self, tuple: &FlowTuple) -> bool {
        let table = self.output.gate.as_ref().and_then(|gate| gate.table());
        table.is_some_and(|table| table.find(tuple).is_some())
    }

    /// The shard where a flow is looked for first, from either direction's tuple.
    pub(super) fn home(&self, tuple: &FlowTuple) -> u16 {
        let (src, dst) = (tuple.src(), tuple.dst());
        if self.policies[0].is_ours(dst) {
            return tuple.dst_port % self.count;
        }
        self.home_of(self.inside(src, dst))
    }

    /// The shard of a host inside, which gives it its outside endpoints.
    pub(super) fn home_of(&self, inside: IpAddr) -> u16 {
        (self.homes.keys.hash_one(inside) % u64::from(self.count)) as u16
    }

    /// Of a flow's hosts the one inside, whichever comes first.
    fn inside(&self, a: IpAddr, b: IpAddr) -> IpAddr {
        let routes = &self.output.routes;
        let dhcp_link = self.config.dhcp_link.filter(|_| a.is_ipv4());
        let outside_link = routes.default_link(a.is_ipv6()).or(dhcp_link);
        let outside = |addr| routes.next_hop(addr).is_none_or(|hop| Some(hop.link) == outside_link);
        match (outside(a), outside(b)) {
            (false, true) => a,
            (true, false) => b,
            _ => a.min(b),
        }
    }
}

/// The flow that a packet belongs to: an ICMP error goes the way of the answers to the packet that it quotes.
pub(super) fn of_flow(view: &PacketView) -> FlowTuple {
    match view.transport {
        Transport::Error { quoted: Some(quoted), .. } => quoted.reversed(),
        _ => view.tuple,
    }
}
