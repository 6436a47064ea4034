//! Rules before TCP, UDP and ICMP: who gets through, and what those are told who do not.

use core::net::SocketAddr;
use std::sync::Arc;

use super::*;
use crate::config::FilterConfig;
use crate::counters::DropReason;
use crate::flow::FlowFilter;
use crate::flow::filter::RuleSet;
use crate::tcp::TcpError;

fn rules(text: &str) -> Arc<RuleSet> {
    Arc::new(RuleSet::parse(text, "rules").unwrap_or_else(|error| panic!("{error}")))
}

/// The second host has these rules.
fn pair(text: &str) -> Pair {
    let filter = Some(FilterConfig::new(rules(text), "eth0".into()));
    Pair::of(Host::new(1, &config(1)), Host::new(2, &StackConfig { filter, ..config(2) }))
}

fn listen(pair: &mut Pair, port: u16) {
    for addr in [format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        pair.b.shard.tcp_listen(addr.parse().unwrap(), 16, SocketOptions::default()).unwrap();
    }
}

fn connect(pair: &mut Pair, to: &str) -> ConnId {
    let to: SocketAddr = to.parse().unwrap();
    pair.a.shard.tcp_connect(pair.now, None, to, SocketOptions::default()).unwrap()
}

/// What has become of an attempt to connect after a moment.
fn outcome(pair: &mut Pair, id: ConnId) -> Option<Result<(), TcpError>> {
    pair.run(Duration::from_millis(100));
    match pair.a.shard.tcp().poll_connected(id, no_waker()) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

const SERVER: &str = "\
-P INPUT DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p tcp --dport 80 -j ACCEPT
-A INPUT -p tcp --dport 81 -j REJECT --reject-with tcp-reset
-A INPUT -p tcp --dport 82 -j REJECT
";
/// The same without any question about flows.
const STATELESS: &str = "\
-P INPUT DROP
-A INPUT -p tcp --dport 80 -j ACCEPT
-A INPUT -p tcp --dport 81 -j REJECT --reject-with tcp-reset
-A INPUT -p tcp --dport 82 -j REJECT
";

#[test]
fn ports_are_open_closed_and_silent_as_the_rules_say() {
    for text in [SERVER, STATELESS] {
        for host in ["192.0.2.2", "[2001:db8::2]"] {
            let mut pair = pair(text);
            (80..84).for_each(|port| listen(&mut pair, port));
            let ids: Vec<_> = (80..84).map(|port| connect(&mut pair, &format!("{host}:{port}"))).collect();
            assert_eq!(outcome(&mut pair, ids[0]), Some(Ok(())));
            assert_eq!(outcome(&mut pair, ids[1]), Some(Err(TcpError::ConnectionRefused)));
            assert_eq!(outcome(&mut pair, ids[2]), Some(Err(TcpError::ConnectionRefused)));
            assert_eq!(outcome(&mut pair, ids[3]), None, "nobody answers");
            assert!(pair.b.shard.counters().dropped(DropReason::Filtered) >= 3);
        }
    }
}

#[test]
fn an_accepted_connection_carries_data_both_ways_and_is_one_flow() {
    let mut pair = pair(SERVER);
    listen(&mut pair, 80);
    let client = connect(&mut pair, "192.0.2.2:80");
    assert_eq!(outcome(&mut pair, client), Some(Ok(())));
    let bytes = pattern(100_000);
    let mut sent = 0;
    while sent < bytes.len() {
        let now = pair.now;
        if let Poll::Ready(taken) = pair.a.shard.tcp().poll_send(now, client, &bytes[sent..], no_waker()) {
            sent += taken.unwrap();
        }
        pair.run(Duration::from_millis(1));
    }
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.a.shard.tcp().info(pair.now, client).unwrap().unacked, 0);
    let flows = pair.b.shard.flows().unwrap();
    assert_eq!((flows.len(), flows.counters().invalid), (1, 0));
    assert_eq!(pair.b.shard.counters().dropped(DropReason::Filtered), 0);
}

#[test]
fn datagrams_and_pings_pass_input_too() {
    let mut pair =
        pair("-P INPUT DROP\n-A INPUT -p udp --dport 7 -j ACCEPT\n-A INPUT -p udp --dport 8 -j REJECT");
    // Reports to multicast routers are sent as soon as there is an address.
    pair.settle();
    let answers = pair.b.shard.counters().icmp_tx;
    let open = pair.b.shard.udp_bind("0.0.0.0:7".parse().unwrap()).unwrap();
    let client = pair.a.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
    for port in [7, 8, 9] {
        let to = SocketAddr::new(ip("192.0.2.2"), port);
        assert_eq!(ready(pair.a.shard.udp_poll_send_to(client, b"x", to, no_waker())), Ok(1));
    }
    pair.run(Duration::from_millis(100));
    assert!(pair.b.shard.udp_poll_recv_from(open, &mut [0; 9], no_waker()).is_ready());
    assert_eq!(pair.b.shard.counters().dropped(DropReason::Filtered), 2);
    assert_eq!(pair.b.shard.counters().icmp_tx, answers + 1, "the rejected one is answered");
    let ping = pair.a.shard.ping_open(ip("192.0.2.2")).unwrap();
    pair.a.shard.ping_send(ping, 1, b"x", None).unwrap();
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.b.shard.counters().dropped(DropReason::Filtered), 3);
}

#[test]
fn what_the_host_itself_begins_passes_output() {
    let mut pair = pair(
        "-P OUTPUT DROP\n-A OUTPUT -p tcp --dport 80 -j ACCEPT\n-A INPUT -m conntrack --ctstate NEW -j DROP",
    );
    pair.a.shard.tcp_listen("0.0.0.0:80".parse().unwrap(), 16, SocketOptions::default()).unwrap();
    pair.a.shard.tcp_listen("0.0.0.0:81".parse().unwrap(), 16, SocketOptions::default()).unwrap();
    let mut ids = Vec::new();
    for port in [80, 81] {
        let to = SocketAddr::new(ip("192.0.2.1"), port);
        ids.push(pair.b.shard.tcp_connect(pair.now, None, to, SocketOptions::default()).unwrap());
    }
    pair.run(Duration::from_millis(100));
    assert_eq!(ready(pair.b.shard.tcp().poll_connected(ids[0], no_waker())), Ok(()));
    assert!(pair.b.shard.tcp().poll_connected(ids[1], no_waker()).is_pending());
}

#[test]
fn small_messages_are_counted_in_their_flow() {
    let mut pair = pair(SERVER);
    pair.a.shard.tcp_listen("0.0.0.0:80".parse().unwrap(), 16, SocketOptions::default()).unwrap();
    let to = SocketAddr::new(ip("192.0.2.1"), 80);
    let id = pair.b.shard.tcp_connect(pair.now, None, to, SocketOptions::default()).unwrap();
    pair.run(Duration::from_millis(100));
    let count = |pair: &mut Pair| {
        let flows = pair.b.shard.list_flows(pair.now, &FlowFilter::default(), 0, u32::MAX).unwrap().0;
        assert_eq!(flows.len(), 1);
        (flows[0].original.packets, flows[0].original.bytes)
    };
    for _ in 0..3 {
        let (before, now) = (count(&mut pair), pair.now);
        assert_eq!(ready(pair.b.shard.tcp().poll_send(now, id, b"small", no_waker())), Ok(5));
        // The next one finds the way of this one still remembered.
        pair.run(Duration::from_millis(20));
        let after = count(&mut pair);
        let header = 20 + 20 + 12;
        assert_eq!(after, (before.0 + 1, before.1 + header + 5));
    }
}

#[test]
fn other_rules_take_effect_for_new_connections_only() {
    let mut pair = pair(SERVER);
    listen(&mut pair, 80);
    let client = connect(&mut pair, "192.0.2.2:80");
    assert_eq!(outcome(&mut pair, client), Some(Ok(())));
    assert!(pair.b.shard.set_rules(pair.now, rules("-P INPUT DROP")).unwrap());
    let nat = rules("-t nat -A POSTROUTING -j MASQUERADE");
    assert!(pair.b.shard.set_rules(pair.now, nat).is_err());
    let now = pair.now;
    assert_eq!(ready(pair.a.shard.tcp().poll_send(now, client, b"still", no_waker())), Ok(5));
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.a.shard.tcp().info(pair.now, client).unwrap().unacked, 0);
    let other = connect(&mut pair, "192.0.2.2:80");
    assert_eq!(outcome(&mut pair, other), None);
}

#[test]
fn without_questions_about_flows_established_connections_are_not_shown_to_the_rules() {
    let mut pair = pair(STATELESS);
    listen(&mut pair, 80);
    let client = connect(&mut pair, "192.0.2.2:80");
    assert_eq!(outcome(&mut pair, client), Some(Ok(())));
    pair.b.shard.set_rules(pair.now, rules("-P INPUT DROP")).unwrap();
    let now = pair.now;
    assert_eq!(ready(pair.a.shard.tcp().poll_send(now, client, b"still", no_waker())), Ok(5));
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.a.shard.tcp().info(pair.now, client).unwrap().unacked, 0);
    assert!(pair.b.shard.flows().is_none());
}
