//! How `bywash ct` shows flows: conntrack(8)'s lines, field by field in its order, so that eyes and scripts that know it
//! find their way.

use std::fmt::Write as _;
use std::time::Duration;

use bywash::flow::conntrack::EventKind;
use bywash::flow::listed::{FlowCounts, FlowKinds, ListedFlow, ListedTuple};

use super::args::{CtArgs, Output};

/// Protocols that conntrack(8) has a name for.
pub const PROTOCOLS: [(u8, &str); 8] = [
    (6, "tcp"),
    (17, "udp"),
    (1, "icmp"),
    (58, "icmpv6"),
    (132, "sctp"),
    (136, "udplite"),
    (33, "dccp"),
    (47, "gre"),
];

/// Linux's numbers of the address families.
const AF_INET: u8 = 2;
/// See [`AF_INET`].
const AF_INET6: u8 = 10;

/// Where a flow is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The process.
    pub pid: u64,
    /// Its shard.
    pub shard: u64,
}

/// A flow in a listing.
#[must_use]
pub fn flow(args: &CtArgs, place: Place, flow: &ListedFlow) -> String {
    let mut line = String::new();
    push_flow(&mut line, args, flow, Some(flow.expires), true);
    let _ = write!(line, "mark={} ", flow.mark);
    push_age(&mut line, args, flow);
    line += "use=1 ";
    push_id(&mut line, args, place, flow);
    line.truncate(line.trim_end().len());
    line
}

/// What happened to a flow at `time`, since the epoch. As in conntrack(8), counts come with the end, and a mark and, of a flow
/// that has ended, the rest of its time only where there are any.
#[must_use]
pub fn event(args: &CtArgs, time: Duration, kind: EventKind, place: Place, flow: &ListedFlow) -> String {
    let mut line = String::new();
    if args.shows(Output::Timestamp) {
        let _ = write!(line, "[{:<8}.{:<6}]\t", time.as_secs(), format!("{:06}", time.subsec_micros()));
    }
    let kind_name = match kind {
        EventKind::New => "[NEW]",
        EventKind::Update => "[UPDATE]",
        EventKind::Destroy => "[DESTROY]",
    };
    let _ = write!(line, "{kind_name:>9} ");
    let ends = kind == EventKind::Destroy;
    let expires = Some(flow.expires).filter(|expires| *expires > 0 || !ends);
    push_flow(&mut line, args, flow, expires, ends);
    if flow.mark != 0 {
        let _ = write!(line, "mark={} ", flow.mark);
    }
    if ends {
        push_age(&mut line, args, flow);
    }
    push_id(&mut line, args, place, flow);
    line.truncate(line.trim_end().len());
    line
}

fn push_flow(line: &mut String, args: &CtArgs, flow: &ListedFlow, expires: Option<u64>, counts: bool) {
    if args.shows(Output::Extended) {
        let family = if flow.original.src.is_ipv4() { ("ipv4", AF_INET) } else { ("ipv6", AF_INET6) };
        let _ = write!(line, "{:<8} {} ", family.0, family.1);
    }
    let _ = write!(line, "{:<8} {} ", protocol_name(flow.protocol), flow.protocol);
    if let Some(expires) = expires {
        let _ = write!(line, "{expires} ");
    }
    if let Some(state) = flow.state {
        let _ = write!(line, "{} ", state.name());
    }
    push_tuple(line, &flow.original, counts);
    if !flow.seen_reply {
        *line += "[UNREPLIED] ";
    }
    push_tuple(line, &flow.reply, counts);
    if flow.assured {
        *line += "[ASSURED] ";
    }
}

fn push_tuple(line: &mut String, tuple: &ListedTuple, counts: bool) {
    let _ = write!(line, "src={} dst={} ", tuple.src, tuple.dst);
    if let (Some(sport), Some(dport)) = (tuple.sport, tuple.dport) {
        let _ = write!(line, "sport={sport} dport={dport} ");
    }
    if let (Some(kind), Some(id)) = (tuple.icmp_type, tuple.icmp_id) {
        // All queries have the code 0.
        let _ = write!(line, "type={kind} code=0 id={id} ");
    }
    if counts {
        let _ = write!(line, "packets={} bytes={} ", tuple.packets, tuple.bytes);
    }
}

fn push_age(line: &mut String, args: &CtArgs, flow: &ListedFlow) {
    if args.shows(Output::Timestamp) {
        let _ = write!(line, "delta-time={} ", flow.age);
    }
}

fn push_id(line: &mut String, args: &CtArgs, place: Place, flow: &ListedFlow) {
    if args.shows(Output::Id) {
        let _ = write!(line, "id={} shard={} pid={} ", flow.id, place.shard, place.pid);
    }
}

fn protocol_name(number: u8) -> &'static str {
    PROTOCOLS.iter().find(|(known, _)| *known == number).map_or("unknown", |(_, name)| name)
}

/// Counts in detail, below their sum.
#[must_use]
pub fn counts(counts: FlowCounts, kinds: &FlowKinds) -> String {
    let mut text = format!("{}\nmaximum {}\n", counts.entries, counts.maximum);
    for (protocol, flows) in &kinds.protocols {
        let _ = write!(text, "{:<8} {protocol} {flows}", protocol_name(*protocol));
        if *protocol == 6 {
            let states: Vec<_> =
                kinds.tcp_states.iter().map(|(state, flows)| format!("{} {flows}", state.name())).collect();
            let _ = write!(text, " ({})", states.join(", "));
        }
        text += "\n";
    }
    let _ = write!(text, "assured {}, unreplied {}", kinds.assured, kinds.unreplied);
    text
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::args;
    use super::*;
    use bywash::flow::conntrack::TcpState;
    use serde_json::json;

    const PLACE: Place = Place { pid: 71, shard: 1 };

    fn tcp() -> ListedFlow {
        serde_json::from_value(json!({
            "id": 5, "protocol": 6, "state": "ESTABLISHED", "expires": 431_999, "age": 12,
            "original": {"src": "10.9.0.1", "dst": "10.9.0.2", "sport": 49462, "dport": 8000, "packets": 2, "bytes": 112},
            "reply": {"src": "10.9.0.2", "dst": "10.9.0.1", "sport": 8000, "dport": 49462, "packets": 1, "bytes": 60},
            "mark": 0, "seen_reply": true, "assured": true, "src_nat": false, "dst_nat": false,
        }))
        .unwrap()
    }

    fn ping() -> ListedFlow {
        serde_json::from_value(json!({
            "id": 6, "protocol": 58, "expires": 28, "age": 2,
            "original": {"src": "fd09::1", "dst": "fd09::2", "icmp_type": 128, "icmp_id": 7, "packets": 1, "bytes": 104},
            "reply": {"src": "fd09::2", "dst": "fd09::1", "icmp_type": 129, "icmp_id": 7, "packets": 0, "bytes": 0},
            "mark": 3, "seen_reply": false, "assured": false, "src_nat": false, "dst_nat": false,
        }))
        .unwrap()
    }

    #[test]
    fn listings_have_conntracks_lines() {
        let plain = args(&[]).unwrap();
        assert_eq!(
            flow(&plain, PLACE, &tcp()),
            "tcp      6 431999 ESTABLISHED src=10.9.0.1 dst=10.9.0.2 sport=49462 dport=8000 packets=2 bytes=112 src=10.9.0.2 \
             dst=10.9.0.1 sport=8000 dport=49462 packets=1 bytes=60 [ASSURED] mark=0 use=1"
        );
        assert_eq!(
            flow(&plain, PLACE, &ping()),
            "icmpv6   58 28 src=fd09::1 dst=fd09::2 type=128 code=0 id=7 packets=1 bytes=104 [UNREPLIED] src=fd09::2 \
             dst=fd09::1 type=129 code=0 id=7 packets=0 bytes=0 mark=3 use=1"
        );
        let all = flow(&args(&["-o", "extended,id,timestamp"]).unwrap(), PLACE, &ping());
        assert!(all.starts_with("ipv6     10 icmpv6   58 28 src="), "{all}");
        assert!(all.ends_with("mark=3 delta-time=2 use=1 id=6 shard=1 pid=71"), "{all}");
    }

    #[test]
    fn events_have_conntracks_lines() {
        let time = Duration::from_micros(1_795_977_025_004_700);
        assert_eq!(
            event(&args(&["-E", "-o", "timestamp"]).unwrap(), time, EventKind::New, PLACE, &tcp()),
            "[1795977025.004700]\t    [NEW] tcp      6 431999 ESTABLISHED src=10.9.0.1 dst=10.9.0.2 sport=49462 dport=8000 \
             src=10.9.0.2 dst=10.9.0.1 sport=8000 dport=49462 [ASSURED]"
        );
        assert_eq!(
            event(&args(&["-E"]).unwrap(), time, EventKind::Destroy, PLACE, &ping()),
            "[DESTROY] icmpv6   58 28 src=fd09::1 dst=fd09::2 type=128 code=0 id=7 packets=1 bytes=104 [UNREPLIED] \
             src=fd09::2 dst=fd09::1 type=129 code=0 id=7 packets=0 bytes=0 mark=3"
        );
        let ran_out = ListedFlow { expires: 0, ..tcp() };
        let line = event(&args(&["-E"]).unwrap(), time, EventKind::Destroy, PLACE, &ran_out);
        assert!(line.starts_with("[DESTROY] tcp      6 ESTABLISHED src="), "{line}");
    }

    #[test]
    fn counts_go_into_kinds() {
        let kinds = FlowKinds {
            protocols: [(6, 3), (50, 1)].into(),
            tcp_states: [(TcpState::SynSent, 1), (TcpState::Established, 2)].into(),
            assured: 2,
            unreplied: 1,
        };
        assert_eq!(
            counts(FlowCounts { entries: 4, maximum: 10 }, &kinds),
            "4\nmaximum 10\ntcp      6 3 (SYN_SENT 1, ESTABLISHED 2)\nunknown  50 1\nassured 2, unreplied 1"
        );
    }
}
