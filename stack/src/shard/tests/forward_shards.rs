//! A router of several shards, to whose queues the NICs spread frames at random: both directions of a flow meet in one shard,
//! whatever translates it.

use core::net::SocketAddr;
use std::collections::HashSet;

use super::forward::{Net, echo};
use super::*;
use crate::counters::DropReason;
use crate::flow::FlowFilter;

const MASQUERADE: &str = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP\n\
    -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -i lan -j ACCEPT\nCOMMIT\n";
const FORWARDED_PORT: &str = "*nat\n-A PREROUTING -i wan -p tcp --dport 8000:8999 -j DNAT --to-destination 192.168.1.1:80\n\
    COMMIT\n*filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT\nCOMMIT\n";

impl Net {
    fn with_shards(count: u16, rules: Option<&str>) -> Self {
        let links = (0..count).map(|_| TestLinks::new(8, &[1500, 1500])).collect();
        Self::of_shards(links, rules, |_| {})
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        core::iter::once(&self.router).chain(self.more.iter().map(|(shard, _)| shard))
    }

    fn shards_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        core::iter::once(&mut self.router).chain(self.more.iter_mut().map(|(shard, _)| shard))
    }

    /// How many flows each shard has.
    fn flows(&self) -> Vec<usize> {
        self.shards().map(|shard| shard.flow_census().map_or(0, |(flows, _)| flows)).collect()
    }

    fn sum(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.shards().map(|shard| of(shard.counters())).sum()
    }

    fn all_drops(&self) -> Vec<(DropReason, u64)> {
        let of = |shard: &Shard| shard.counters().drops().collect::<Vec<_>>();
        let multicast =
            |reason: &DropReason| matches!(reason, DropReason::NotForUs | DropReason::IcmpIgnored);
        self.shards().flat_map(of).filter(|(reason, count)| *count > 0 && !multicast(reason)).collect()
    }

    /// What shards know of other shards' flows, and of their own that others know.
    fn told(&self) -> (usize, usize) {
        let known = |shard: &Shard| shard.homes.known();
        self.shards().map(known).fold((0, 0), |sum, known| (sum.0 + known.0, sum.1 + known.1))
    }
}

#[test]
fn a_masqueraded_stream_has_one_shard_though_its_frames_come_to_all() {
    for count in [2, 3, 8] {
        let mut net = Net::with_shards(count, Some(MASQUERADE));
        let peer = echo(&mut net, true, "0.0.0.0:80", "192.0.2.2:80", 200_000);
        assert_eq!(peer.ip(), ip("192.0.2.254"));
        let flows = net.flows();
        assert_eq!(flows.iter().sum::<usize>(), 1, "{flows:?}");
        let owner = flows.iter().position(|flows| *flows == 1).unwrap();
        assert_eq!(usize::from(peer.port() % count), owner, "replies come to the owner by their port");
        assert_eq!((net.all_drops(), net.told()), (vec![], (0, 0)));
        assert!(net.sum(|counters| counters.rx_handed_over) > 100);
    }
}

#[test]
fn a_forwarded_ports_replies_find_the_shard_that_the_server_knows_nothing_of() {
    let mut met = HashSet::new();
    for port in 8000..8006u16 {
        let mut net = Net::with_shards(3, Some(FORWARDED_PORT));
        let peer = echo(&mut net, false, "0.0.0.0:80", &format!("192.0.2.254:{port}"), 50_000);
        assert_eq!(peer.ip(), ip("192.0.2.2"));
        let flows = net.flows();
        assert_eq!(flows.iter().sum::<usize>(), 1, "{flows:?}");
        assert_eq!(flows[usize::from(port) % 3], 1);
        assert_eq!(net.all_drops(), []);
        let told = net.told();
        assert_eq!(told.0, told.1, "what is known elsewhere was told");
        met.insert(told.0);
        // The flow ends, and nobody keeps a note of it.
        let now = net.now;
        for shard in net.shards_mut() {
            shard.delete_flows(now, &FlowFilter::default(), 0, u32::MAX).unwrap();
        }
        net.run(Duration::from_millis(1));
        assert_eq!((net.flows(), net.told()), (vec![0; 3], (0, 0)));
    }
    assert_eq!(
        met,
        HashSet::from([0, 1]),
        "some replies have their home at the flow's shard, most elsewhere"
    );
}

#[test]
fn a_host_inside_has_one_outside_port_for_a_socket_whoever_it_talks_to() {
    let mut net = Net::with_shards(4, Some(MASQUERADE));
    let inside = net.lan.shard.udp_bind("0.0.0.0:5000".parse().unwrap()).unwrap();
    let mut seen = HashSet::new();
    for port in 7000..7020 {
        let outside = net.wan.shard.udp_bind(SocketAddr::new(ip("0.0.0.0"), port)).unwrap();
        let to = SocketAddr::new(ip("192.0.2.2"), port);
        ready(net.lan.shard.udp_poll_send_to(inside, b"there", to, no_waker())).unwrap();
        net.run(Duration::from_millis(10));
        let mut buffer = [0; 10];
        let (len, from, _) =
            ready(net.wan.shard.udp_poll_recv_from(outside, &mut buffer, no_waker())).unwrap();
        assert_eq!(&buffer[..len], b"there");
        seen.insert(from);
        ready(net.wan.shard.udp_poll_send_to(outside, b"back", from, no_waker())).unwrap();
        net.run(Duration::from_millis(10));
        let (len, back_from, _) =
            ready(net.lan.shard.udp_poll_recv_from(inside, &mut buffer, no_waker())).unwrap();
        assert_eq!((&buffer[..len], back_from), (&b"back"[..], to));
        net.wan.shard.udp_close(outside);
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(net.all_drops(), []);
}

#[test]
fn an_error_about_a_masqueraded_flow_reaches_the_host_inside() {
    for count in [1, 2, 5] {
        let mut net = Net::with_shards(count, Some(MASQUERADE));
        let to: SocketAddr = "192.0.2.2:81".parse().unwrap();
        let socket = net.lan.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
        net.lan.shard.udp_connect(socket, to).unwrap();
        ready(net.lan.shard.udp_poll_send_to(socket, b"x", to, no_waker())).unwrap();
        net.run(Duration::from_millis(100));
        let heard = net.lan.shard.udp_poll_recv_from(socket, &mut [0; 10], no_waker());
        assert_eq!(heard.map(|result| result.unwrap_err()), Poll::Ready(NetError::ConnectionRefused));
        assert_eq!(net.all_drops(), []);
    }
}

#[test]
fn pings_go_through_and_to_the_router_itself() {
    let mut net = Net::with_shards(3, Some(MASQUERADE));
    for to in ["192.0.2.2", "192.168.1.254", "2001:db8:2::2", "2001:db8:1::fe"] {
        for _ in 0..5 {
            let id = net.lan.shard.ping_open(ip(to)).unwrap();
            net.lan.shard.ping_send(id, 1, b"x", None).unwrap();
            net.run(Duration::from_millis(100));
            let reply = ready(net.lan.shard.ping_poll_recv(id, no_waker())).unwrap();
            assert_eq!(reply.from, ip(to));
            net.lan.shard.ping_close(id);
        }
    }
    assert_eq!(net.all_drops(), []);
}

#[test]
fn without_tracking_every_shard_forwards_what_it_gets() {
    for rules in [None, Some("*filter\n-A FORWARD -p tcp --dport 81 -j DROP\nCOMMIT\n")] {
        let mut net = Net::with_shards(3, rules);
        echo(&mut net, true, "0.0.0.0:80", "192.0.2.2:80", 100_000);
        assert_eq!(net.all_drops(), []);
        assert_eq!(net.sum(|counters| counters.rx_handed_over), 0);
        assert!(net.shards().all(|shard| shard.counters().forwarded_packets > 20));
    }
}
