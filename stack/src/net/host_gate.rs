//! The rules at the places where packets meet the stack: for a host, INPUT and OUTPUT, before TCP, UDP and ICMP
//! ([`crate::shard`]'s receive path, [`super::egress`]); for a router all chains, as a packet arrives and where it is delivered
//! or forwarded.
//!
//! Neighbour discovery, like ARP, and the stack's own DHCP are not filtered: without them there is nothing to filter. Where
//! a host's rules do not ask for flows, TCP shows only what begins a connection or belongs to none, so that established
//! connections cost nothing.

use std::sync::Arc;

use super::link::Link;
use super::route::Routes;
use super::way::{Tracked, Way, Ways, takes_way};
use crate::config::{Cidr, FilterConfig, StackConfig};
use crate::counters::{Counters, DropReason};
use crate::flow::FlowTuple;
use crate::flow::conntrack::{Conntrack, CtState, EntryId, Hit};
use crate::flow::filter::{Chain, Hook, Policy, RuleSet, Table, TcpMss};
use crate::flow::gate::{Change, Gate, Interface, Passage, Refused};
use crate::flow::nat::rewrite::Translation;
use crate::flow::nat::{self, Endpoint};
use crate::flow::view::{PacketView, TcpView, Transport};
use crate::packet::Packet;
use crate::parse::protocol;
use crate::tcp::SegmentOut;
use crate::tcp::header::Flags;
use crate::tcp::options::TcpOptions;
use crate::tcp::seq::SeqNumber;
use crate::time::Instant;

const DHCP_SERVER_PORT: u16 = 67;
const DHCP_CLIENT_PORT: u16 = 68;

/// What becomes of a packet that this host sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// It goes.
    AsItIs,
    /// It goes with other addresses or ports.
    Translated(Change),
    /// It was dropped and counted.
    Refused,
}

/// One shard's gate.
pub(crate) struct HostGate {
    gate: Gate,
    /// The links' names.
    interfaces: Vec<String>,
    rules: Arc<RuleSet>,
    /// A chain of OUTPUT does anything.
    judges_output: bool,
    /// The mangle table does, to every packet.
    mangles_output: bool,
    /// By link: rules hide sources from whoever is beyond it; those that name it, and those that name none.
    hides: Vec<(bool, bool)>,
    /// The shard is not alone: what it does not know may be another's.
    several: bool,
    /// It is a router's: packets are shown as they arrive.
    forwards: bool,
    ways: Ways,
    /// Every packet goes the long way, to compare.
    #[cfg(test)]
    pub(crate) no_ways: bool,
    #[cfg(test)]
    pub(crate) ways_taken: u64,
}

/// What is known of a packet in transit.
pub(crate) enum Onward {
    /// Not which way it goes; what was read of it, if the rules are for such.
    Unknown(Option<PacketView>),
    /// It goes as packets of its flow went before. Its flow has it.
    Known(Way, Tracked),
    /// It arrived, and does not fit its flow.
    Arrived(Passage),
}

impl core::fmt::Debug for HostGate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HostGate").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

impl HostGate {
    pub(crate) fn new(
        filter: &FilterConfig,
        config: &StackConfig,
        seed: [u8; 32],
        hash_keys: (u64, u64),
        shard: u16,
        shards: u16,
        now: Instant,
    ) -> Self {
        let rules = Arc::clone(&filter.rules);
        let interfaces = config.link_names();
        Self {
            hides: hides(&rules, &interfaces),
            gate: Gate::new(&rules, filter.gate.clone(), seed, hash_keys, shard, shards, now),
            interfaces,
            judges_output: judges_output(&rules),
            mangles_output: mangles_output(&rules),
            rules,
            several: shards > 1,
            forwards: config.forward.is_some(),
            ways: Ways::default(),
            #[cfg(test)]
            no_ways: false,
            #[cfg(test)]
            ways_taken: 0,
        }
    }

    /// Other rules from now on; flows that were let through go on.
    pub(crate) fn reload(&mut self, now: Instant, rules: Arc<RuleSet>) {
        self.gate.reload(now, &rules);
        self.judges_output = judges_output(&rules);
        self.mangles_output = mangles_output(&rules);
        self.hides = hides(&rules, &self.interfaces);
        self.rules = rules;
    }

    /// This host has these addresses from now on.
    pub(crate) fn set_addresses(&mut self, own: &[Cidr]) {
        self.gate.set_addresses(own);
    }

    /// Ends the flows that were translated to `addr`, which is ours no longer (as MASQUERADE does in Linux).
    pub(crate) fn forget_address(&mut self, addr: core::net::IpAddr) {
        self.gate.forget_address(addr);
    }

    /// Whether it is a router's, to which packets are shown as they arrive.
    pub(crate) fn forwards(&self) -> bool {
        self.forwards
    }

    /// Whether no rule and no flow cares what a packet is.
    pub(crate) fn is_open(&self) -> bool {
        !self.gate.tracks() && self.rules.is_empty()
    }

    /// Whether every packet must be shown, not only those that begin something.
    pub(crate) fn tracks(&self) -> bool {
        self.gate.tracks()
    }

    /// The flows, to look at.
    pub(crate) fn table(&self) -> Option<&Conntrack> {
        self.gate.table()
    }

    /// Endpoints that translation has mapped.
    #[cfg(test)]
    pub(crate) fn mappings(&self) -> usize {
        self.gate.nat().mappings().len()
    }

    /// The flows, when they are tracked.
    pub(crate) fn flows(&mut self) -> Option<&mut Conntrack> {
        self.gate.flows()
    }

    /// Ends a flow; `false`: it had ended.
    pub(crate) fn delete(&mut self, id: EntryId) -> bool {
        self.gate.delete(id)
    }

    /// See [`Gate::take_changes`].
    pub(crate) fn take_changes(&mut self) -> (Vec<FlowTuple>, Vec<FlowTuple>) {
        self.gate.take_changes()
    }

    pub(crate) fn advance(&mut self, now: Instant) {
        self.gate.advance(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.gate.next_deadline()
    }

    /// A received packet for this host, which is no router.
    pub(crate) fn receive(&mut self, now: Instant, packet: &Packet) -> Result<(), Refused> {
        let Some(view) = PacketView::of(packet) else { return Ok(()) };
        if is_exempt(&view) {
            return Ok(());
        }
        let interface = Interface { name: &self.interfaces[0], address: None };
        // What an ICMP error is about may be a flow of another shard; TCP and UDP ask the others, and look closely.
        let view = match view.transport {
            Transport::Error { kind, code, quoted: Some(quoted) } if self.several && !self.knows(&quoted) => {
                PacketView { transport: Transport::Icmp { kind, code }, ..view }
            }
            _ => view,
        };
        let mut passage = self.gate.arrive(now, view, interface)?;
        self.gate.deliver(now, &mut passage, interface).map(|_| ())
    }

    // ---- a router's packets

    /// A received packet, up to the decision where it goes; `None`: the rules are not for such. `read`: what [`HostGate::follow`]
    /// read of it.
    pub(crate) fn arrive(
        &mut self,
        now: Instant,
        packet: &Packet,
        read: Option<PacketView>,
        link: usize,
        routes: &Routes,
    ) -> Result<Option<Passage>, Refused> {
        let read = read.or_else(|| PacketView::of(packet).filter(|view| !is_exempt(view)));
        let Some(view) = read else { return Ok(None) };
        let Self { gate, interfaces, .. } = self;
        gate.arrive(now, view, interface(interfaces, routes, link, &view)).map(Some)
    }

    /// The way of a received packet of a known flow to one of the `links`, where one is remembered. `len`: of its IP packets, at
    /// most; `stamp`: [`super::egress::Output::stamp`].
    pub(crate) fn follow(
        &mut self,
        now: Instant,
        packet: &Packet,
        from: usize,
        len: usize,
        links: &[Link],
        stamp: u32,
    ) -> Onward {
        #[cfg(test)]
        if self.no_ways {
            return Onward::Unknown(None);
        }
        if !takes_way(&packet.parsed) {
            return Onward::Unknown(None);
        }
        let Some(view) = PacketView::of(packet).filter(|view| !is_exempt(view)) else {
            return Onward::Unknown(None);
        };
        let Some((place, entry)) = self.gate.known(now, &view) else { return Onward::Unknown(Some(view)) };
        let as_it_was = |way: &&Way| way.holds(now, from, len, links, stamp);
        let generation = self.gate.generation(place);
        let Some(way) = self.ways.get(place, generation).filter(as_it_was) else {
            return Onward::Unknown(Some(view));
        };
        let way = *way;
        let to = way.translation.map(|_| entry.tuple(place.direction().other()).reversed());
        #[cfg(test)]
        {
            self.ways_taken += 1;
        }
        match self.gate.follow(now, place, &view) {
            None => Onward::Known(way, Tracked { place, generation, to }),
            Some(passage) => Onward::Arrived(passage),
        }
    }

    /// As [`HostGate::follow`] for a datagram of `len` bytes from the IP header on whose flow is `tracked`; `false`, and nothing
    /// happened: it has to go there.
    #[inline]
    pub(crate) fn follow_datagram(&mut self, now: Instant, tracked: &Tracked, len: usize) -> bool {
        self.gate.follow_datagram(now, tracked.place, tracked.generation, len as u32)
    }

    /// A packet of a known flow went `way`, of which the translation is the flow's.
    pub(crate) fn remember(&mut self, hit: Hit, way: Way) {
        let Some(entry) = self.gate.table().and_then(|table| table.get(hit.id)) else { return };
        let translation =
            nat::translated(entry, hit.direction).map(|to| Translation::new(entry.tuple(hit.direction), &to));
        let place = hit.id.place(hit.direction);
        self.ways.set(place, self.gate.generation(place), Way { translation, ..way });
    }

    /// A packet from inside to an outside endpoint; see [`Gate::turn`].
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        packet: &Packet,
        link: usize,
        routes: &Routes,
    ) -> Result<Option<Passage>, Refused> {
        let Some(view) = PacketView::of(packet).filter(|view| !is_exempt(view)) else { return Ok(None) };
        let Self { gate, interfaces, .. } = self;
        gate.turn(now, view, interface(interfaces, routes, link, &view)).map(Some)
    }

    /// It goes nowhere.
    pub(crate) fn abandon(&mut self, passage: Passage) {
        self.gate.abandon(passage);
    }

    /// Whether the outside endpoint is somebody's.
    pub(crate) fn is_owned(&self, outside: &Endpoint) -> bool {
        self.gate.nat().mappings().owner(outside).is_some()
    }

    /// Whether rules hide the sources of what goes by this link: it leads outside.
    pub(crate) fn hides_sources(&self, link: usize, routes: &Routes, ipv6: bool) -> bool {
        let (named, unnamed) = self.hides.get(link).copied().unwrap_or_default();
        named || unnamed && routes.default_link(ipv6) == Some(link)
    }

    /// What it is by now.
    pub(crate) fn change(&self, passage: &Passage) -> Option<Change> {
        self.gate.change(passage)
    }

    /// It is for this host, as what is returned, or as it is.
    pub(crate) fn deliver(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        link: usize,
        routes: &Routes,
    ) -> Result<Option<Change>, Refused> {
        let Self { gate, interfaces, .. } = self;
        let from = interface(interfaces, routes, link, passage.view());
        gate.deliver(now, passage, from)
    }

    /// It goes on by the link `to`, as what is returned, or as it is.
    pub(crate) fn forward(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        from: usize,
        to: usize,
        routes: &Routes,
    ) -> Result<Option<Change>, Refused> {
        // RFC 5508 REQ-3, REQ-5 and REQ-11: nothing can be translated in it, and it would tell of the inside.
        let view = passage.view();
        let is_icmp = [protocol::ICMPV4, protocol::ICMPV6].contains(&view.tuple.protocol);
        let lost = is_icmp
            && passage.state() == CtState::Invalid
            && !matches!(view.transport, Transport::Query { .. })
            && self.hides_sources(to, routes, !view.tuple.is_ipv4());
        let Self { gate, interfaces, .. } = self;
        let [from, to] = [from, to].map(|link| interface(interfaces, routes, link, passage.view()));
        let change = gate.forward(now, passage, from, to)?;
        if lost { Err(Refused::Drop(DropReason::BadIcmp)) } else { Ok(change) }
    }

    /// The MSS that the packet, if it is a SYN, may offer at most.
    pub(crate) fn mss(&self, passage: &Passage) -> Option<TcpMss> {
        self.gate.mss(passage)
    }

    // ---- packets of this host

    /// An IP packet of this host, from its IP header on.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        packet: &[u8],
        routes: &Routes,
        counters: &mut Counters,
    ) -> Sent {
        if !(self.judges_output || self.mangles_output || self.gate.tracks()) {
            return Sent::AsItIs;
        }
        let Some(view) = PacketView::of_ip(packet).filter(|view| !is_exempt(view)) else {
            return Sent::AsItIs;
        };
        let hop = routes.next_hop_from(Some(view.tuple.src()), view.tuple.dst());
        self.judge(now, view, hop.map_or(0, |hop| hop.link), routes, counters)
    }

    /// RFC 5508 REQ-9: rules of OUTPUT may keep errors from an interface.
    /// An ICMP error of this router about a packet in transit, from its IP header on; `false`: it was refused and counted.
    pub(crate) fn may_tell(
        &mut self,
        now: Instant,
        packet: &[u8],
        routes: &Routes,
        counters: &mut Counters,
    ) -> bool {
        let judges = self.judges_output || self.mangles_output;
        let Some(view) = PacketView::of_ip(packet).filter(|_| judges) else { return true };
        let link = routes.next_hop_from(Some(view.tuple.src()), view.tuple.dst()).map_or(0, |hop| hop.link);
        let Self { gate, interfaces, .. } = self;
        let told = gate.tell(now, view, interface(interfaces, routes, link, &view));
        if told.is_err() {
            counters.drop(DropReason::Filtered);
        }
        told.is_ok()
    }

    /// A segment of this host that goes by `link`.
    pub(crate) fn send_segment(
        &mut self,
        now: Instant,
        segment: &SegmentOut<'_>,
        link: usize,
        routes: &Routes,
        counters: &mut Counters,
    ) -> Sent {
        let begins = Flags(segment.flags).contains(Flags::SYN) && !Flags(segment.flags).contains(Flags::ACK);
        if !(self.gate.tracks() || self.mangles_output || self.judges_output && begins) {
            return Sent::AsItIs;
        }
        self.judge(now, view_of(segment), link, routes, counters)
    }

    fn judge(
        &mut self,
        now: Instant,
        view: PacketView,
        link: usize,
        routes: &Routes,
        counters: &mut Counters,
    ) -> Sent {
        let Self { gate, interfaces, .. } = self;
        match gate.send(now, view, interface(interfaces, routes, link, &view)) {
            Ok((_, None)) => Sent::AsItIs,
            Ok((_, Some(change))) => Sent::Translated(change),
            Err(Refused::Drop(reason)) => {
                counters.drop(reason);
                Sent::Refused
            }
            // Whoever sent it is this host: it sees that nothing comes back.
            Err(Refused::Reject(_)) => {
                counters.drop(DropReason::Filtered);
                Sent::Refused
            }
        }
    }

    fn knows(&self, quoted: &FlowTuple) -> bool {
        self.gate.table().is_some_and(|flows| flows.find(&quoted.reversed()).is_some())
    }
}

/// By link, whether rules hide the sources of what goes there: those that name it, and those that name none.
fn hides(rules: &RuleSet, interfaces: &[String]) -> Vec<(bool, bool)> {
    interfaces
        .iter()
        .map(|name| (rules.hides_sources(name, false), rules.hides_sources(name, true)))
        .collect()
}

/// A link as rules know it.
fn interface<'a>(names: &'a [String], routes: &Routes, link: usize, view: &PacketView) -> Interface<'a> {
    let address = routes.address_of(link, !view.tuple.is_ipv4());
    Interface { name: names.get(link).map_or("", String::as_str), address }
}

/// Whether a rule or policy may keep back what this host sends.
fn judges_output(rules: &RuleSet) -> bool {
    let does = |chain: &Chain| {
        chain.name == Hook::Output.name() && (!chain.rules.is_empty() || chain.policy == Some(Policy::Drop))
    };
    [Table::Raw, Table::Filter].into_iter().any(|table| rules.chains(table).iter().any(does))
}

/// Whether the mangle table sees what this host sends.
fn mangles_output(rules: &RuleSet) -> bool {
    let does = |chain: &Chain| {
        [Hook::Output, Hook::Postrouting].iter().any(|hook| chain.name == hook.name())
            && (!chain.rules.is_empty() || chain.policy == Some(Policy::Drop))
    };
    rules.chains(Table::Mangle).iter().any(does)
}

/// What no rule sees and nothing tracks: neighbour and router discovery, DHCP.
pub(crate) fn is_exempt(view: &PacketView) -> bool {
    match view.transport {
        // Router and neighbour solicitation and advertisement, redirect (RFC 4861 section 4).
        Transport::Icmp { kind: 133..=137, .. } => view.tuple.protocol == protocol::ICMPV6,
        Transport::Ports => {
            let ports = (view.tuple.src_port, view.tuple.dst_port);
            view.tuple.protocol == protocol::UDP
                && (ports == (DHCP_CLIENT_PORT, DHCP_SERVER_PORT)
                    || ports == (DHCP_SERVER_PORT, DHCP_CLIENT_PORT))
        }
        _ => false,
    }
}

fn view_of(segment: &SegmentOut<'_>) -> PacketView {
    let options = TcpOptions::parse(segment.options);
    let payload_len = segment.len() as u32;
    let header_len = 20 + segment.options.len() as u32 + if segment.dst.is_ipv4() { 20 } else { 40 };
    let tcp = TcpView {
        seq: segment.seq,
        ack: segment.ack,
        flags: Flags(segment.flags),
        window: segment.window,
        payload_len,
        window_scale: options.window_scale,
        sack_permitted: options.sack_permitted,
        sack_edge: options.sack.iter().map(|(_, end)| *end).reduce(SeqNumber::max),
    };
    PacketView {
        tuple: FlowTuple::new(segment.src, segment.dst, protocol::TCP),
        len: header_len + payload_len,
        packets: 1,
        hash: 0,
        transport: Transport::Tcp(tcp),
    }
}
