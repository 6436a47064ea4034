//! Rules for what this host itself receives and sends: INPUT and OUTPUT of the filter and raw tables, at the two places where
//! packets meet TCP, UDP and ICMP ([`crate::shard`]'s receive path, [`super::egress`]).
//!
//! Neighbour discovery, like ARP, and the stack's own DHCP are not filtered: without them there is nothing to filter. Where
//! no rule asks for flows, TCP shows only what begins a connection or belongs to none, so that established connections cost
//! nothing.

use std::sync::Arc;

use crate::config::FilterConfig;
use crate::counters::{Counters, DropReason};
use crate::flow::FlowTuple;
use crate::flow::conntrack::{Conntrack, EntryId};
use crate::flow::filter::{Chain, Hook, Policy, RuleSet, Table};
use crate::flow::gate::{Gate, Interface, Refused};
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

/// One shard's gate for its own packets.
pub(crate) struct HostGate {
    gate: Gate,
    interface: String,
    rules: Arc<RuleSet>,
    /// A chain of OUTPUT does anything.
    judges_output: bool,
    /// The shard is not alone: what it does not know may be another's.
    several: bool,
}

impl core::fmt::Debug for HostGate {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HostGate").field("interface", &self.interface).finish_non_exhaustive()
    }
}

impl HostGate {
    pub(crate) fn new(filter: &FilterConfig, seed: [u8; 32], shard: u16, shards: u16, now: Instant) -> Self {
        let rules = Arc::clone(&filter.rules);
        Self {
            gate: Gate::new(&rules, filter.gate.clone(), seed, shard, shards, now),
            interface: filter.interface.clone(),
            judges_output: judges_output(&rules),
            rules,
            several: shards > 1,
        }
    }

    /// Other rules from now on; flows that were let through go on.
    pub(crate) fn reload(&mut self, now: Instant, rules: Arc<RuleSet>) {
        self.gate.reload(now, &rules);
        self.judges_output = judges_output(&rules);
        self.rules = rules;
    }

    /// Whether every packet must be shown, not only those that begin something.
    pub(crate) fn tracks(&self) -> bool {
        self.gate.tracks()
    }

    /// The flows, when they are tracked.
    pub(crate) fn flows(&mut self) -> Option<&mut Conntrack> {
        self.gate.flows()
    }

    /// Ends a flow; `false`: it had ended.
    pub(crate) fn delete(&mut self, id: EntryId) -> bool {
        self.gate.delete(id)
    }

    pub(crate) fn advance(&mut self, now: Instant) {
        self.gate.advance(now);
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.gate.next_deadline()
    }

    /// A received packet for this host.
    pub(crate) fn receive(&mut self, now: Instant, packet: &Packet) -> Result<(), Refused> {
        let Some(view) = PacketView::of(packet) else { return Ok(()) };
        if is_exempt(&view) {
            return Ok(());
        }
        let interface = Interface { name: &self.interface, address: None };
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

    /// An IP packet of this host, from its IP header on.
    pub(crate) fn send(&mut self, now: Instant, packet: &[u8], counters: &mut Counters) -> bool {
        if !(self.judges_output || self.gate.tracks()) {
            return true;
        }
        PacketView::of_ip(packet).is_none_or(|view| is_exempt(&view) || self.judge(now, view, counters))
    }

    /// A segment of this host.
    pub(crate) fn send_segment(
        &mut self,
        now: Instant,
        segment: &SegmentOut<'_>,
        counters: &mut Counters,
    ) -> bool {
        let begins = Flags(segment.flags).contains(Flags::SYN) && !Flags(segment.flags).contains(Flags::ACK);
        if !(self.gate.tracks() || self.judges_output && begins) {
            return true;
        }
        self.judge(now, view_of(segment), counters)
    }

    fn judge(&mut self, now: Instant, view: PacketView, counters: &mut Counters) -> bool {
        let interface = Interface { name: &self.interface, address: None };
        match self.gate.send(now, view, interface) {
            Ok(_) => true,
            Err(Refused::Drop(reason)) => {
                counters.drop(reason);
                false
            }
            // Whoever sent it is this host: it sees that nothing comes back.
            Err(Refused::Reject(_)) => {
                counters.drop(DropReason::Filtered);
                false
            }
        }
    }

    fn knows(&self, quoted: &FlowTuple) -> bool {
        self.gate.table().is_some_and(|flows| flows.find(&quoted.reversed()).is_some())
    }
}

/// Whether a rule or policy may keep back what this host sends.
fn judges_output(rules: &RuleSet) -> bool {
    let does = |chain: &Chain| {
        chain.name == Hook::Output.name() && (!chain.rules.is_empty() || chain.policy == Some(Policy::Drop))
    };
    [Table::Raw, Table::Filter].into_iter().any(|table| rules.chains(table).iter().any(does))
}

fn is_exempt(view: &PacketView) -> bool {
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
        transport: Transport::Tcp(tcp),
    }
}
