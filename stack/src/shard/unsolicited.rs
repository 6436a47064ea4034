//! SYNs from outside that nobody expects (RFC 5382 REQ-4): a NAT says nothing of them for six seconds, in which the
//! connection may be opened from inside, too; then the peer's next SYN is let in. Else an ICMP error answers the first one. They
//! wait in the shard of the flow that they might belong to.

use std::collections::VecDeque;

use hashbrown::HashSet;

use super::Shard;
use super::links::Message;
use crate::config::UnsolicitedSyn;
use crate::counters::DropReason;
use crate::flow::FlowTuple;
use crate::flow::view::{PacketView, Transport};
use crate::limits;
use crate::net::icmp::{self, Complaint};
use crate::net::keyed::KeyedState;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::tcp::header::Flags;
use crate::time::Instant;

/// Those that wait, in the order in which they came.
pub(super) struct UnsolicitedSyns {
    waiting: VecDeque<Waiting>,
    known: HashSet<FlowTuple, KeyedState>,
}

struct Waiting {
    until: Instant,
    link: usize,
    tuple: FlowTuple,
    /// From its Ethernet header on.
    frame: Vec<u8>,
}

impl UnsolicitedSyns {
    pub(super) fn new(keys: (u64, u64)) -> Self {
        Self { waiting: VecDeque::new(), known: HashSet::with_hasher(KeyedState(keys)) }
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }
}

impl Shard {
    /// Answers a segment of no connection, or lets it wait.
    pub(super) fn reject_segment(&mut self, now: Instant, packet: &Packet) {
        let Some(tuple) = self.unsolicited(packet) else {
            return self.tcp.reject(now, packet, &mut self.counters);
        };
        let home = self.home(&tuple);
        if home == self.index {
            return self.let_wait(now, tuple, packet);
        }
        let mut bytes = self.links.buffer(packet.len());
        packet.segments().for_each(|segment| bytes.extend_from_slice(segment));
        let message = Message::Unsolicited { link: self.rx_link, bytes, parsed: packet.parsed };
        if !self.links.send(home, message) {
            self.counters.drop(DropReason::ShardChannelFull);
        }
    }

    /// One that another shard, the last that was asked, had no use for.
    pub(super) fn take_unsolicited(&mut self, now: Instant, link: usize, bytes: Vec<u8>, parsed: Parsed) {
        let packet = Packet::copy_from(&self.pool, &bytes);
        self.links.give_back(bytes);
        let Some(mut packet) = packet else { return self.counters.drop(DropReason::NoFrame) };
        packet.parsed = parsed;
        self.rx_link = link;
        match self.unsolicited(&packet) {
            Some(tuple) => self.let_wait(now, tuple, &packet),
            None => self.counters.drop(DropReason::TcpNoConnection),
        }
    }

    /// The tuple of a SYN from outside, where such have to wait.
    fn unsolicited(&self, packet: &Packet) -> Option<FlowTuple> {
        let wait = self.config.forward.as_ref()?.unsolicited_syn == UnsolicitedSyn::Wait;
        let gate = self.output.gate.as_ref().filter(|_| wait)?;
        let ipv6 = packet.parsed.flow.dst.is_ipv6();
        if !gate.hides_sources(self.rx_link, &self.output.routes, ipv6) {
            return None;
        }
        let view = PacketView::of(packet)?;
        let Transport::Tcp(segment) = view.transport else { return None };
        let begins = segment.flags.contains(Flags::SYN)
            && ![Flags::ACK, Flags::RST, Flags::FIN].iter().any(|flag| segment.flags.contains(*flag));
        begins.then_some(view.tuple)
    }

    fn let_wait(&mut self, now: Instant, tuple: FlowTuple, packet: &Packet) {
        self.counters.drop(DropReason::TcpNoConnection);
        // It has begun no flow: a connection from inside may need the same endpoints.
        if let Some(gate) = &mut self.output.gate
            && let Some((id, _)) = gate.table().and_then(|table| table.find(&tuple))
        {
            gate.delete(id);
        }
        let syns = &mut self.unsolicited_syns;
        if syns.waiting.len() >= limits::NAT_UNSOLICITED_SYNS || !syns.known.insert(tuple) {
            return;
        }
        let mut frame = Vec::new();
        packet.copy_to(&mut frame);
        let until = now + limits::NAT_UNSOLICITED_SYN_WAIT;
        syns.waiting.push_back(Waiting { until, link: self.rx_link, tuple, frame });
    }

    /// Answers those whose time is over, unless there is a flow for them by now; rules of OUTPUT may forbid it (RFC 5382 REQ-4a).
    pub(super) fn answer_unsolicited(&mut self, now: Instant) {
        let due = |syns: &mut UnsolicitedSyns| {
            let due = syns.waiting.front().is_some_and(|waiting| waiting.until <= now);
            if due { syns.waiting.pop_front() } else { None }
        };
        while let Some(waiting) = due(&mut self.unsolicited_syns) {
            self.unsolicited_syns.known.remove(&waiting.tuple);
            if !self.has_flow(&waiting.tuple) {
                let policy = &self.policies[waiting.link];
                icmp::complain(now, Complaint::PortUnreachable, &waiting.frame, policy, &mut self.output);
            }
        }
    }
}
