//! Hairpinning (RFC 4787 REQ-9, REQ-9a; RFC 5382 REQ-8, REQ-8a; RFC 5508 REQ-7, REQ-7a; RFC 7857 section 12): a packet from inside to the outside endpoint of
//! another host inside, or of the same. It leaves as it would if that endpoint were outside, and so gets its sender's own outside
//! endpoint; then it arrives as from outside, and meets filtering, rules and mappings there. So each of the two mappings has a
//! flow of its own, in the shard of its host, and answers and ICMP errors go the same way back.
//!
//! ```text
//! X1:x1 -> X2':x2'  ── shard of X1: FORWARD, POSTROUTING ──▶  X1':x1' -> X2':x2'
//!                                                                  │ shard of X2': PREROUTING, filtering, FORWARD
//!                                                                  ▼
//!                                                             X1':x1' -> X2:x2
//! ```

use super::Shard;
use super::forward::{apply, destination};
use super::homes::{Stage, of_flow};
use crate::counters::DropReason;
use crate::flow::FlowTuple;
use crate::flow::nat::Endpoint;
use crate::flow::view::PacketView;
use crate::net::host_gate::is_exempt;
use crate::net::icmp::Complaint;
use crate::offload::gso::cut_merged;
use crate::packet::Packet;
use crate::time::Instant;

impl Shard {
    /// Takes care of a packet from inside to an outside endpoint; see [`Shard::turning_point`].
    pub(super) fn turn_back(
        &mut self,
        now: Instant,
        packet: Packet,
        tuple: FlowTuple,
        outside: usize,
        fragments: Option<usize>,
    ) {
        let home = self.home_of(tuple.src());
        if home != self.index && !self.has_flow(&tuple) {
            self.hand_packet(home, packet, tuple, fragments, Stage::Turns { outside });
        } else {
            self.turn_back_here(now, packet, fragments, outside);
        }
    }

    /// The flow of a packet from inside to an outside endpoint, and the link where that is.
    pub(super) fn turning_point(&self, packet: &Packet) -> Option<(FlowTuple, usize)> {
        let gate = self.output.gate.as_ref().filter(|gate| gate.tracks())?;
        let dst = packet.parsed.flow.dst;
        let routes = &self.output.routes;
        let outside = routes.link_with(dst)?;
        if outside == self.rx_link || routes.default_link(dst.is_ipv6()) == Some(self.rx_link) {
            return None;
        }
        let view = PacketView::of(packet).filter(|view| !is_exempt(view))?;
        let tuple = of_flow(&view);
        let turns = gate.is_owned(&Endpoint::destination_of(&tuple)) || self.has_turned(&tuple);
        turns.then_some((tuple, outside))
    }

    /// Whether the flow, which is this shard's, goes from inside to an outside endpoint, or comes from one.
    fn has_turned(&self, tuple: &FlowTuple) -> bool {
        let Some(table) = self.output.gate.as_ref().and_then(|gate| gate.table()) else { return false };
        let Some((id, direction)) = table.find(tuple) else { return false };
        let policy = &self.policies[0];
        table.get(id).is_some_and(|entry| {
            let becomes = entry.tuple(direction.other()).reversed();
            becomes.src() != tuple.src() && policy.is_ours(becomes.src()) && policy.is_ours(becomes.dst())
        })
    }

    /// In the shard of the host that the packet is from: it leaves.
    pub(super) fn turn_back_here(
        &mut self,
        now: Instant,
        packet: Packet,
        fragments: Option<usize>,
        outside: usize,
    ) {
        if !self.is_believed(packet.parsed.flow.src) {
            return self.drop_whole(DropReason::ReversePath, &packet);
        }
        if packet.parsed.hop_limit <= 1 {
            return self.cannot_forward(now, DropReason::HopLimitExceeded, Complaint::TimeExceeded, &packet);
        }
        let mut single = vec![];
        if packet.is_merged() {
            let parsed = packet.parsed;
            cut_merged(packet, |mut packet| {
                packet.parsed.set_flow(parsed.flow, self.policies[self.rx_link].hash_keys);
                packet.parsed.partial_checksum = false;
                single.push(packet);
            });
        } else {
            single.push(packet);
        }
        for packet in single {
            self.leave_and_arrive(now, packet, fragments, outside);
        }
    }

    fn leave_and_arrive(
        &mut self,
        now: Instant,
        mut packet: Packet,
        fragments: Option<usize>,
        outside: usize,
    ) {
        let from = self.rx_link;
        let Some(gate) = &mut self.output.gate else { return };
        let mut passage = match gate.turn(now, &packet, from, &self.output.routes) {
            Ok(Some(passage)) => passage,
            Ok(None) => return self.deliver(now, packet, fragments.is_some()),
            Err(refused) => return self.refused_by_rule(now, refused, &packet),
        };
        // A rule that sends it elsewhere is stronger.
        let (sender, dst) = (packet.parsed.flow.src, packet.parsed.flow.dst);
        if passage.hit().is_none() && gate.change(&passage).is_some_and(|change| destination(&change) != dst)
        {
            return self.go_on(now, packet, Some(passage), fragments, None);
        }
        let change = match gate.forward(now, &mut passage, from, outside, &self.output.routes) {
            Ok(change) => change,
            Err(refused) => return self.refused_by_rule(now, refused, &packet),
        };
        if let Some(change) = change
            && !apply(&mut packet, &change)
        {
            return self.drop_whole(DropReason::BadIcmp, &packet);
        }
        if packet.parsed.flow.src != sender {
            self.output.renumber(&mut packet);
        }
        let flow = packet.parsed.flow;
        packet.parsed.set_flow(flow, self.policies[from].hash_keys);
        let tuple = PacketView::of(&packet).map(|view| of_flow(&view));
        if let Some(tuple) = tuple.filter(|_| self.count > 1)
            && let home = self.home(&tuple)
            && home != self.index
            && !self.has_flow(&tuple)
        {
            return self.hand_packet(home, packet, tuple, fragments, Stage::Turned { outside });
        }
        self.arrive_turned(now, packet, fragments, outside);
    }

    /// In the shard of the outside endpoint: the packet arrives as from outside, or is filtered.
    pub(super) fn arrive_turned(
        &mut self,
        now: Instant,
        packet: Packet,
        fragments: Option<usize>,
        outside: usize,
    ) {
        let from = core::mem::replace(&mut self.rx_link, outside);
        self.arrive_from_outside(now, packet, fragments);
        self.rx_link = from;
    }

    fn arrive_from_outside(&mut self, now: Instant, packet: Packet, fragments: Option<usize>) {
        let Some(gate) = &mut self.output.gate else { return };
        let passage = match gate.arrive(now, &packet, None, self.rx_link, &self.output.routes) {
            Ok(Some(passage)) => passage,
            Ok(None) => return self.drop_whole(DropReason::Filtered, &packet),
            Err(refused) => return self.refused_by_rule(now, refused, &packet),
        };
        match gate.change(&passage).map(|change| destination(&change)) {
            Some(dst) if !self.policies[self.rx_link].is_ours(dst) => {
                self.forward(now, packet, Some(passage), dst, fragments, None);
            }
            _ => {
                gate.abandon(passage);
                self.drop_whole(DropReason::Filtered, &packet);
            }
        }
    }
}
