//! Rules on the receive path: which packets are shown to the gate, and what becomes of those that it refuses.

use std::sync::Arc;

use super::Shard;
use crate::config::{ConfigError, FilterConfig};
use crate::counters::DropReason;
use crate::flow::conntrack::{Conntrack, ConntrackCounters};
use crate::flow::filter::{RejectWith, RuleSet};
use crate::flow::gate::Refused;
use crate::net::host_gate::HostGate;
use crate::net::icmp::{self, Complaint};
use crate::packet::Packet;
use crate::parse::Kind;
use crate::time::Instant;

impl Shard {
    /// Other rules from now on, for a shard that was made with some: connections and flows that were let through go on.
    /// Without rules from the start nothing happens, and it is `Ok(false)`.
    ///
    /// # Errors
    /// What is wrong with them for a host; the old ones stay.
    pub fn set_rules(&mut self, now: Instant, rules: Arc<RuleSet>) -> Result<bool, ConfigError> {
        let filter = FilterConfig::new(rules, String::new());
        if self.config.forward.is_none() {
            filter.validate()?;
        }
        let Some(gate) = &mut self.output.gate else { return Ok(false) };
        gate.reload(now, filter.rules);
        self.output.stamp = self.output.stamp.wrapping_add(1);
        Ok(true)
    }

    /// How many flows there are, and may be, where rules ask for them.
    #[must_use]
    pub fn flow_census(&self) -> Option<(usize, usize)> {
        let flows = self.output.gate.as_ref()?.table()?;
        Some((flows.len(), flows.entries_max()))
    }

    /// What connection tracking counted, where rules ask for it.
    #[must_use]
    pub fn flow_counters(&self) -> Option<ConntrackCounters> {
        Some(self.output.gate.as_ref()?.table()?.counters())
    }

    /// The flows, where rules ask for them.
    pub fn flows(&mut self) -> Option<&mut Conntrack> {
        self.output.gate.as_mut()?.flows()
    }

    /// Whether a TCP packet that this shard takes must be shown to the gate: all when flows are tracked, else those of no
    /// connection yet.
    pub(super) fn gate_asks_for(&self, packet: &Packet) -> bool {
        let asks = |gate: &HostGate| !gate.forwards() && (gate.tracks() || !self.tcp.knows_packet(packet));
        self.output.gate.as_deref().is_some_and(asks)
    }

    /// Shows a packet to the gate, if there is one. `false`: it was refused, counted, and answered where a rule says so.
    pub(super) fn admits(&mut self, now: Instant, packet: &Packet) -> bool {
        // A router's packets were shown to it as they arrived.
        let Some(gate) = self.output.gate.as_mut().filter(|gate| !gate.forwards()) else { return true };
        match gate.receive(now, packet) {
            Ok(()) => true,
            Err(refused) => {
                self.refused_by_rule(now, refused, packet);
                false
            }
        }
    }

    /// Counts a packet that the gate refused, and answers it where a rule says so.
    pub(super) fn refused_by_rule(&mut self, now: Instant, refused: Refused, packet: &Packet) {
        let reason = match refused {
            Refused::Drop(reason) => reason,
            Refused::Reject(_) => DropReason::Filtered,
        };
        (0..packet.packets()).for_each(|_| self.counters.drop(reason));
        let with = match refused {
            Refused::Reject(with) => with,
            // RFC 5508 REQ-8: communication administratively prohibited.
            Refused::Drop(
                DropReason::NatNoFreePort | DropReason::NatNoAddress | DropReason::ConntrackTableFull,
            ) if self.config.forward.is_some() => RejectWith::Icmp(13),
            Refused::Drop(_) => return,
        };
        // What may have been damaged on its way is no reason to write to whom it names.
        if packet.parsed.kind == Kind::Broken {
            return;
        }
        match complaint(with) {
            Some(complaint) => {
                let policy = &self.policies[self.rx_link];
                icmp::complain_about(now, complaint, packet, policy, &mut self.output);
            }
            None => self.tcp.reset(packet, &mut self.counters),
        }
    }
}

/// The ICMP error that tells of a refusal; `None`: a RST does. Codes of one IP version have their nearest of the other.
fn complaint(with: RejectWith) -> Option<Complaint> {
    let (ipv4, ipv6) = match with {
        RejectWith::TcpReset => return None,
        RejectWith::Icmp(code) => (
            code,
            match code {
                0 => 0,
                1 => 3,
                3 => 4,
                _ => 1,
            },
        ),
        RejectWith::Icmpv6(code) => (
            match code {
                0 => 0,
                3 => 1,
                4 => 3,
                _ => 13,
            },
            code,
        ),
    };
    Some(Complaint::Prohibited { ipv4, ipv6 })
}
