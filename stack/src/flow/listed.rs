//! Flows as listings and events show them (`bywash ct`): a form that can be written as JSON and read back, with times relative
//! to the look. A field that is added later must have a default, so that either side may be the older one.

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::FlowTuple;
use super::conntrack::{Count, Direction, Entry, EntryId, EventKind, TcpState};
use crate::time::Instant;

/// A flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedFlow {
    /// Names it within its shard, see [`EntryId::number`].
    pub id: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TcpState>,
    /// Whole seconds until it ends unless a packet comes.
    pub expires: u64,
    /// Whole seconds since its first packet.
    pub age: u64,
    /// As its first packet came.
    pub original: ListedTuple,
    /// As answers come.
    pub reply: ListedTuple,
    /// The mark that rules gave it.
    pub mark: u32,
    /// A packet came the other way.
    pub seen_reply: bool,
    /// It is not dropped to make room for others.
    pub assured: bool,
    /// Its packets leave with another source.
    pub src_nat: bool,
    /// Its packets leave for another destination.
    pub dst_nat: bool,
}

/// One direction of a flow, before translation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListedTuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, where the protocol has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// Destination port, where the protocol has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// Of an ICMP query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Of an ICMP query: its identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_id: Option<u16>,
    /// Packets that came this way.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// What happened to a flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowEvent {
    /// What.
    pub event: EventKind,
    /// The flow as it was then.
    pub flow: ListedFlow,
}

/// How many flows there are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct FlowCounts {
    /// All of them.
    pub entries: u64,
    /// Most that there may be.
    pub maximum: u64,
}

/// Flows by what they are.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct FlowKinds {
    /// By IP protocol number.
    pub protocols: BTreeMap<u8, u64>,
    /// Those of TCP by state.
    pub tcp_states: BTreeMap<TcpState, u64>,
    /// Those that are not dropped to make room for others.
    pub assured: u64,
    /// Those that were not answered.
    pub unreplied: u64,
}

impl ListedFlow {
    /// An entry as it is `now`.
    #[must_use]
    pub fn new(now: Instant, id: EntryId, entry: &Entry) -> Self {
        let tuple = |direction: Direction| {
            let has_ports = entry.has_ports();
            ListedTuple::new(entry.tuple(direction), has_ports, entry.counts[direction as usize])
        };
        Self {
            id: id.number(),
            protocol: entry.original.protocol,
            state: entry.tcp_state(),
            expires: (entry.expires - now).as_secs(),
            age: (now - entry.begun).as_secs(),
            original: tuple(Direction::Original),
            reply: tuple(Direction::Reply),
            mark: entry.mark,
            seen_reply: entry.seen_reply,
            assured: entry.assured,
            src_nat: entry.is_src_nat(),
            dst_nat: entry.is_dst_nat(),
        }
    }
}

impl ListedTuple {
    fn new(tuple: &FlowTuple, has_ports: bool, count: Count) -> Self {
        let query = tuple.icmp_query();
        let has_ports = has_ports && query.is_none();
        Self {
            src: tuple.src(),
            dst: tuple.dst(),
            sport: has_ports.then_some(tuple.src_port),
            dport: has_ports.then_some(tuple.dst_port),
            icmp_type: query.map(|(kind, _)| kind),
            icmp_id: query.map(|(_, identifier)| identifier),
            packets: count.packets,
            bytes: count.bytes,
        }
    }
}

impl FlowKinds {
    /// Takes one more flow into account.
    pub fn add(&mut self, entry: &Entry) {
        *self.protocols.entry(entry.original.protocol).or_default() += 1;
        if let Some(state) = entry.tcp_state() {
            *self.tcp_states.entry(state).or_default() += 1;
        }
        self.assured += u64::from(entry.assured);
        self.unreplied += u64::from(!entry.seen_reply);
    }

    /// Takes the flows of another portion into account.
    pub fn merge(&mut self, other: &Self) {
        for (protocol, flows) in &other.protocols {
            *self.protocols.entry(*protocol).or_default() += flows;
        }
        for (state, flows) in &other.tcp_states {
            *self.tcp_states.entry(*state).or_default() += flows;
        }
        self.assured += other.assured;
        self.unreplied += other.unreplied;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::conntrack::{Conntrack, ConntrackConfig, Tracked};
    use crate::flow::view::{PacketView, Transport};
    use crate::parse::protocol;
    use crate::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// The flow that a packet begins, seen 10.5 s later.
    fn listed(tuple: FlowTuple, transport: Transport) -> ListedFlow {
        let mut table = Conntrack::new(ConntrackConfig::default(), (1, 2), at(100));
        let view = PacketView { tuple, len: 60, packets: 1, hash: 0, transport };
        let Tracked::Begin(mut begin) = table.track(at(100), &view) else { panic!("it begins nothing") };
        begin.entry.reply = begin.entry.reply.with_destination("203.0.113.9".parse().unwrap(), 7000);
        let id = table.confirm(at(100), begin).unwrap();
        ListedFlow::new(at(110) + Duration::from_millis(500), id, table.get(id).unwrap())
    }

    #[test]
    fn a_flow_shows_its_ports_its_age_and_its_translation() {
        let tuple = FlowTuple::new("10.0.0.2:5000".parse().unwrap(), "198.51.100.1:53".parse().unwrap(), 17);
        let flow = listed(tuple, Transport::Ports);
        assert_eq!((flow.expires, flow.age), (19, 10));
        assert_eq!((flow.original.sport, flow.original.dport), (Some(5000), Some(53)));
        assert_eq!((flow.reply.dst, flow.reply.dport), ("203.0.113.9".parse().unwrap(), Some(7000)));
        assert_eq!((flow.src_nat, flow.dst_nat), (true, false));
        assert_eq!((flow.original.packets, flow.original.bytes, flow.reply.packets), (1, 60, 0));
    }

    #[test]
    fn a_query_shows_type_and_identifier_in_the_place_of_ports() {
        let (src, dst) = ("10.0.0.2".parse().unwrap(), "198.51.100.1".parse().unwrap());
        let tuple = FlowTuple::query(src, dst, protocol::ICMPV4, 8, 77).unwrap();
        let flow = listed(tuple, Transport::Query { kind: 8, code: 0 });
        assert_eq!((flow.original.icmp_type, flow.original.icmp_id), (Some(8), Some(77)));
        assert_eq!((flow.reply.icmp_type, flow.original.sport), (Some(0), None));
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let tuple = FlowTuple::portless("10.0.0.2".parse().unwrap(), "198.51.100.1".parse().unwrap(), 47);
        let event = FlowEvent { event: EventKind::Destroy, flow: listed(tuple, Transport::Other) };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.starts_with(r#"{"event":"DESTROY","flow":{"#) && !text.contains("sport"), "{text}");
        assert_eq!(serde_json::from_str::<FlowEvent>(&text).unwrap(), event);
    }
}
