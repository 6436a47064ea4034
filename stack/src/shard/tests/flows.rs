//! Flows as asked for from outside: listed in portions, deleted with what hangs on them, followed.

use std::sync::Arc;

use super::*;
use crate::config::FilterConfig;
use crate::flow::FlowFilter;
use crate::flow::conntrack::{EventKind, TcpState};
use crate::flow::filter::RuleSet;
use crate::flow::listed::ListedFlow;
use crate::shard::NotTracked;

/// The second host tracks flows, and lets connections begin with a SYN only.
const RULES: &str = "\
-P INPUT DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p tcp --dport 80 --syn -j ACCEPT
-A INPUT -p udp -j ACCEPT
";

fn pair(text: &str) -> Pair {
    let rules = RuleSet::parse(text, "rules").unwrap_or_else(|error| panic!("{error}"));
    let filter = Some(FilterConfig::new(Arc::new(rules), "eth0".into()));
    let mut pair = Pair::of(Host::new(1, &config(1)), Host::new(2, &StackConfig { filter, ..config(2) }));
    pair.b.shard.tcp_listen("0.0.0.0:80".parse().unwrap(), 16, SocketOptions::default()).unwrap();
    pair
}

/// A connection from the first host to port 80 of the second.
fn connect(pair: &mut Pair) -> ConnId {
    let to = "192.0.2.2:80".parse().unwrap();
    let id = pair.a.shard.tcp_connect(pair.now, None, to, SocketOptions::default()).unwrap();
    pair.run(Duration::from_millis(100));
    assert_eq!(ready(pair.a.shard.tcp().poll_connected(id, no_waker())), Ok(()));
    id
}

/// What the second host lists in portions of two places.
fn list(pair: &mut Pair, filter: &FlowFilter) -> Vec<ListedFlow> {
    let (mut listed, mut cursor) = (Vec::new(), Some(0));
    while let Some(from) = cursor {
        let (portion, next) = pair.b.shard.list_flows(pair.now, filter, from, 2).unwrap();
        assert!(portion.len() <= 2);
        listed.extend(portion);
        cursor = next;
    }
    listed
}

#[test]
fn all_flows_are_listed_once_and_filters_choose() {
    let mut pair = pair(RULES);
    for _ in 0..5 {
        connect(&mut pair);
    }
    let all = list(&mut pair, &FlowFilter::default());
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|flow| flow.state == Some(TcpState::Established) && flow.assured));
    let mut ids: Vec<_> = all.iter().map(|flow| flow.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let one = &all[3].original;
    let mut by_port = FlowFilter::default();
    by_port.original.sport = one.sport;
    assert_eq!(list(&mut pair, &by_port), [all[3].clone()]);
    assert_eq!(list(&mut pair, &FlowFilter { protocol: Some(17), ..FlowFilter::default() }), []);

    let mut whole = FlowFilter { protocol: Some(6), ..by_port };
    whole.original.dport = Some(80);
    (whole.original.src, whole.original.dst) =
        (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
    let (found, next) = pair.b.shard.list_flows(pair.now, &whole, 0, 2).unwrap();
    assert_eq!((found, next), (vec![all[3].clone()], None), "found without a look at the others");
    whole.state = Some(TcpState::TimeWait);
    assert_eq!(list(&mut pair, &whole), []);
}

#[test]
fn a_segment_of_a_deleted_flow_begins_anew_where_the_rules_let_it() {
    let mut pair = pair(RULES);
    let (kept, cut) = (connect(&mut pair), connect(&mut pair));
    let mut filter = FlowFilter::default();
    filter.original.sport = Some(pair.a.shard.tcp().tuple(cut).unwrap().local.port());
    let (deleted, next) = pair.b.shard.delete_flows(pair.now, &filter, 0, 100).unwrap();
    assert_eq!((deleted.len(), next), (1, None));
    assert_eq!(list(&mut pair, &filter), []);
    let now = pair.now;
    for id in [kept, cut] {
        assert_eq!(ready(pair.a.shard.tcp().poll_send(now, id, b"still", no_waker())), Ok(5));
    }
    pair.run(Duration::from_millis(100));
    let mut unacked = |id| pair.a.shard.tcp().info(pair.now, id).unwrap().unacked;
    assert_eq!((unacked(kept), unacked(cut)), (0, 1), "it is no SYN");
    pair.b.shard.delete_flows(pair.now, &FlowFilter::default(), 0, 100).unwrap();
    assert_eq!(pair.b.shard.count_flows().unwrap().entries, 0);
}

#[test]
fn counts_tell_how_many_of_which_kind() {
    let mut pair = pair(RULES);
    connect(&mut pair);
    let socket = pair.a.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
    let to = "192.0.2.2:9".parse().unwrap();
    pair.b.shard.udp_bind("0.0.0.0:9".parse().unwrap()).unwrap();
    assert_eq!(ready(pair.a.shard.udp_poll_send_to(socket, b"x", to, no_waker())), Ok(1));
    pair.run(Duration::from_millis(100));
    let counts = pair.b.shard.count_flows().unwrap();
    assert_eq!((counts.entries, counts.maximum), (2, limits::CONNTRACK_ENTRIES as u64));
    let (mut kinds, next) = pair.b.shard.flow_kinds(0, 1).unwrap();
    let (rest, end) = pair.b.shard.flow_kinds(next.unwrap(), 100).unwrap();
    kinds.merge(&rest);
    assert_eq!(end, None);
    assert_eq!(kinds.protocols, [(6, 1), (17, 1)].into());
    assert_eq!(kinds.tcp_states, [(TcpState::Established, 1)].into());
    assert_eq!((kinds.assured, kinds.unreplied), (1, 1));
}

#[test]
fn who_follows_hears_of_beginning_and_end() {
    let mut pair = pair(RULES);
    connect(&mut pair);
    pair.b.shard.follow_flows(true).unwrap();
    connect(&mut pair);
    let (mut kinds, mut ids) = (Vec::new(), Vec::new());
    let mut take = |pair: &mut Pair| {
        let lost = pair.b.shard.take_flow_events(|event| {
            kinds.push(event.kind);
            ids.push(event.id);
        });
        assert_eq!(lost, 0);
    };
    take(&mut pair);
    let (deleted, _) = pair.b.shard.delete_flows(pair.now, &FlowFilter::default(), 0, 100).unwrap();
    take(&mut pair);
    use EventKind::{Destroy, New, Update};
    assert_eq!(kinds, [New, Update, Update, Destroy, Destroy], "SYN, SYN,ACK, ACK, two ends");
    assert_eq!(ids[0].number(), deleted[1].id);
}

#[test]
fn without_tracking_it_is_said_why() {
    let mut unruled = Pair::of(Host::new(1, &config(1)), Host::new(2, &config(2)));
    assert_eq!(unruled.b.shard.count_flows(), Err(NotTracked::NoRules));
    let mut stateless = pair("-P INPUT DROP\n-A INPUT -p tcp --dport 80 -j ACCEPT");
    assert_eq!(stateless.b.shard.follow_flows(true), Err(NotTracked::NotAsked));
}
