//! Several shards of one interface: what comes to the wrong queue finds its shard.

use core::net::SocketAddr;

use super::*;
use crate::counters::DropReason;
use crate::net::fragment::write_header;
use crate::packet::checksum::Sum;
use crate::parse::protocol;
use crate::tcp::Egress;

/// Host 1 with three shards, opposite host 2 with one; all that host 2 sends arrives at queue `queue`.
struct World {
    shards: Vec<Host>,
    peer: Host,
    queue: usize,
    now: Instant,
}

impl World {
    fn new(queue: usize) -> Self {
        let links = Shard::links(3).into_iter().enumerate();
        let shards = links.map(|(index, links)| Host::with(1, &config(1), index as u16, links, MTU));
        Self { shards: shards.collect(), peer: Host::new(2, &config(2)), queue, now: Instant::from_millis(1) }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut busy = self.peer.poll(self.now);
            for shard in &mut self.shards {
                busy |= shard.poll(self.now);
                busy |= !shard.device.tx.is_empty();
                self.peer.device.rx.append(&mut shard.device.tx);
            }
            busy |= !self.peer.device.tx.is_empty();
            self.shards[self.queue].device.rx.append(&mut self.peer.device.tx);
            if !busy {
                return;
            }
        }
        panic!("the hosts do not come to rest");
    }

    fn drops(&self) -> Vec<(DropReason, u64)> {
        self.shards.iter().flat_map(drops).collect()
    }
}

#[test]
fn arp_and_echo_replies_reach_the_shard_that_asked() {
    for queue in 0..3 {
        for asker in 0..3 {
            for to in ["192.0.2.2", "2001:db8::2"] {
                let mut world = World::new(queue);
                let shard = &mut world.shards[asker].shard;
                let id = shard.ping_open(ip(to)).unwrap();
                shard.ping_send(id, 1, b"x", None).unwrap();
                world.settle();
                let reply = ready(world.shards[asker].shard.ping_poll_recv(id, no_waker())).unwrap();
                assert_eq!((reply.from, usize::from(reply.ident) % 3), (ip(to), asker));
                assert_eq!(world.drops(), []);
            }
        }
    }
}

#[test]
fn datagrams_reach_the_socket_on_any_shard() {
    let mut world = World::new(0);
    for (owner, port) in [(1, 3000u16), (2, 3000), (0, 3001), (2, 3001)] {
        let shard = &mut world.shards[owner].shard;
        let id = shard.udp_bind(SocketAddr::new(ip("192.0.2.1"), port)).unwrap();
        let from = world.peer.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let to = SocketAddr::new(ip("192.0.2.1"), port);
        ready(world.peer.shard.udp_poll_send_to(from, b"x", to, no_waker())).unwrap();
        world.settle();
        let mut buffer = [0; 8];
        let shard = &mut world.shards[owner].shard;
        assert_eq!(ready(shard.udp_poll_recv_from(id, &mut buffer, no_waker())).unwrap().0, 1);
        shard.udp_close(id);
        assert_eq!(world.drops(), []);
    }
}

#[test]
fn the_last_shard_asked_reports_a_closed_port() {
    let mut world = World::new(1);
    let from = world.peer.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
    ready(world.peer.shard.udp_poll_send_to(from, b"x", "192.0.2.1:9".parse().unwrap(), no_waker())).unwrap();
    world.settle();
    assert_eq!(world.drops(), [(DropReason::UdpNoSocket, 1)]);
    assert_eq!(world.peer.shard.counters().icmp_rx, 1);
    let handed: u64 = world.shards.iter().map(|host| host.shard.counters().rx_handed_over).sum();
    assert_eq!(handed, 2);
}

#[test]
fn ephemeral_ports_belong_to_their_shard() {
    let mut world = World::new(0);
    for (index, host) in world.shards.iter_mut().enumerate() {
        for _ in 0..20 {
            let id = host.shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
            let port = host.shard.udp_local_addr(id).unwrap().port();
            assert_eq!(usize::from(port) % 3, index);
        }
    }
}

#[test]
fn the_runtime_is_told_whom_to_wake() {
    let mut world = World::new(0);
    let woken = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let log = woken.clone();
    world.shards[0].shard.set_notify(Box::new(move |shard| log.borrow_mut().push(shard)));
    let shard = &mut world.shards[2].shard;
    let id = shard.ping_open(ip("192.0.2.2")).unwrap();
    shard.ping_send(id, 1, b"x", None).unwrap();
    world.settle();
    // The ARP reply for all, then the echo reply for the third.
    assert_eq!(*woken.borrow(), [1, 2, 2]);
}

/// A listener on `owner`, a client at the peer; everything for host 1 comes to queue `queue`.
fn connect_to(owner: usize, queue: usize) -> (World, ConnId, Option<ConnId>) {
    let mut world = World::new(queue);
    let to: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let listener = world.shards[owner].shard.tcp_listen(to, 16, SocketOptions::default()).unwrap();
    let client = world.peer.shard.tcp_connect(world.now, None, to, SocketOptions::default()).unwrap();
    world.settle();
    let accepted = match world.shards[owner].shard.tcp().poll_accept(listener, no_waker()) {
        Poll::Ready(accepted) => Some(accepted.unwrap().0),
        Poll::Pending => None,
    };
    (world, client, accepted)
}

#[test]
fn a_connection_lives_on_its_shard_whichever_queue_its_segments_come_to() {
    for owner in 0..3 {
        for queue in 0..3 {
            let (mut world, client, server) = connect_to(owner, queue);
            let server = server.expect("accepted");
            for later_queue in 0..3 {
                world.queue = later_queue;
                let now = world.now;
                let sent = world.peer.shard.tcp().poll_send(now, client, b"hello", no_waker());
                assert_eq!(ready(sent), Ok(5));
                world.settle();
                let mut buffer = [0; 16];
                let got = world.shards[owner].shard.tcp().poll_recv(now, server, &mut buffer, no_waker());
                assert_eq!(ready(got), Ok(5), "owner {owner}, queue {queue}, then {later_queue}");
            }
            assert_eq!(world.drops(), []);
        }
    }
}

#[test]
fn a_port_that_no_shard_has_is_refused_once() {
    for queue in 0..3 {
        let mut world = World::new(queue);
        let to: SocketAddr = "192.0.2.1:81".parse().unwrap();
        let client = world.peer.shard.tcp_connect(world.now, None, to, SocketOptions::default()).unwrap();
        world.settle();
        let result = ready(world.peer.shard.tcp().poll_connected(client, no_waker()));
        assert_eq!(result, Err(TcpError::ConnectionRefused));
        assert_eq!(world.drops(), [(DropReason::TcpNoConnection, 1)]);
        let resets: u64 = world.shards.iter().map(|host| host.shard.counters().tcp_resets_tx).sum();
        assert_eq!(resets, 1);
    }
}

#[test]
fn an_active_open_has_a_port_of_its_shard_and_gets_its_answers() {
    for owner in 0..3 {
        for queue in 0..3 {
            let mut world = World::new(queue);
            let at: SocketAddr = "192.0.2.2:80".parse().unwrap();
            world.peer.shard.tcp_listen(at, 16, SocketOptions::default()).unwrap();
            let now = world.now;
            let shard = &mut world.shards[owner].shard;
            let client = shard.tcp_connect(now, None, at, SocketOptions::default()).unwrap();
            assert_eq!(usize::from(shard.tcp().tuple(client).unwrap().local.port()) % 3, owner);
            world.settle();
            let connected = world.shards[owner].shard.tcp().poll_connected(client, no_waker());
            assert_eq!(ready(connected), Ok(()), "owner {owner}, queue {queue}");
        }
    }
}

#[test]
fn icmp_errors_find_the_shard_of_the_connection() {
    for owner in 0..3 {
        let mut world = World::new((owner + 1) % 3);
        let at: SocketAddr = "192.0.2.2:80".parse().unwrap();
        let heard = crate::net::Heard {
            link: 0,
            addr: at.ip(),
            mac: EthernetAddress([2, 0, 0, 0, 0, 2]),
            claim: crate::net::neighbor::Claim::Asked,
        };
        let now = world.now;
        let host = &mut world.shards[owner];
        host.shard.output.heard(now, heard);
        let client = host.shard.tcp_connect(now, None, at, SocketOptions::default()).unwrap();
        host.poll(now);
        let syn = host.device.tx.pop_back().unwrap();
        let complaint = icmp::Complaint::PortUnreachable;
        let peer = &mut world.peer.shard;
        icmp::complain(now, complaint, &syn, &peer.policies[0], &mut peer.output);
        world.settle();
        let result = ready(world.shards[owner].shard.tcp().poll_connected(client, no_waker()));
        assert_eq!(result, Err(TcpError::ConnectionRefused));
    }
}

#[test]
fn icmp_errors_find_the_shard_of_the_datagram() {
    for owner in 0..3 {
        let mut world = World::new((owner + 1) % 3);
        let closed: SocketAddr = "192.0.2.2:9".parse().unwrap();
        let shard = &mut world.shards[owner].shard;
        let id = shard.udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
        shard.udp_connect(id, closed).unwrap();
        assert_eq!(ready(shard.udp_poll_send_to(id, b"x", closed, no_waker())), Ok(1));
        world.settle();
        let told = world.shards[owner].shard.udp_poll_recv_from(id, &mut [0], no_waker());
        assert_eq!(ready(told), Err(NetError::ConnectionRefused));
    }
}

/// An ICMP error of a router about a packet of host 1's (from its Ethernet header on): it does not fit `mtu` bytes.
fn too_big(about: &[u8], mtu: u16) -> Vec<u8> {
    let ipv6 = about[14] >> 4 == 6;
    let quote = &about[14..about.len().min(14 + 80)];
    let mut message = if ipv6 { vec![2, 0, 0, 0, 0, 0, 0, 0] } else { vec![3, 4, 0, 0, 0, 0, 0, 0] };
    message[6..8].copy_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(quote);
    let (router, us, number) = match ipv6 {
        true => (ip("2001:db8::fe"), ip("2001:db8::1"), protocol::ICMPV6),
        false => (ip("192.0.2.254"), ip("192.0.2.1"), protocol::ICMPV4),
    };
    let mut sum = match ipv6 {
        true => Sum::pseudo_header(router, us, number, message.len() as u32),
        false => Sum::ZERO,
    };
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    let mut header = [0; 40];
    let len = write_header(&mut header, router, us, number, message.len(), 0, 64);
    let ethernet: &[u8] = if ipv6 { &[0x86, 0xdd] } else { &[8, 0] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xfe], ethernet, &header[..len], &message].concat()
}

/// What each shard takes the path to the peer to carry.
fn path_mtus(world: &World, peer: &str) -> Vec<usize> {
    world.shards.iter().map(|host| host.shard.output.path_mtu(ip(peer))).collect()
}

#[test]
fn what_a_connection_learns_of_a_path_all_shards_use_for_ten_minutes() {
    // RFC 1191 section 6.3, RFC 8201 section 5.2.
    for (owner, peer) in [(0, "192.0.2.2"), (1, "2001:db8::2"), (2, "192.0.2.2")] {
        let mut world = World::new((owner + 1) % 3);
        let at = SocketAddr::new(ip(peer), 80);
        world.peer.shard.tcp_listen(at, 16, SocketOptions::default()).unwrap();
        let now = world.now;
        let client = world.shards[owner].shard.tcp_connect(now, None, at, SocketOptions::default()).unwrap();
        world.settle();
        let sent = world.shards[owner].shard.tcp().poll_send(now, client, &pattern(4000), no_waker());
        assert_eq!(ready(sent), Ok(4000));
        world.shards[owner].poll(now);
        let full = world.shards[owner].device.tx[0].clone();
        assert_eq!(full.len(), 14 + MTU);
        // A sequence number that is not outstanding: anybody could have sent that.
        let mut forged = full.clone();
        forged[if at.is_ipv4() { 14 + 20 + 4 } else { 14 + 40 + 4 }] ^= 0x80;
        let queue = world.queue;
        world.shards[queue].device.rx.push_back(too_big(&forged, 1400));
        world.settle();
        assert_eq!(path_mtus(&world, peer), [MTU; 3]);
        let sent = world.shards[owner].shard.tcp().poll_send(now, client, &pattern(4000), no_waker());
        assert_eq!(ready(sent), Ok(4000));
        world.shards[owner].poll(now);
        let full = world.shards[owner].device.tx[0].clone();
        world.shards[queue].device.rx.push_back(too_big(&full, 1300));
        world.settle();
        assert_eq!(path_mtus(&world, peer), [1300; 3]);
        assert_eq!(path_mtus(&world, "192.0.2.3"), [MTU; 3]);
        world.now += limits::PATH_MTU_LIFETIME;
        world.settle();
        assert_eq!(path_mtus(&world, peer), [MTU; 3]);
    }
}

#[test]
fn what_a_datagram_is_told_of_a_path_is_for_datagrams_alone() {
    // RFC 8201 section 5.2; anyone who knows a port can send such a message.
    let mut world = World::new(0);
    let to: SocketAddr = "[2001:db8::2]:9".parse().unwrap();
    let shard = &mut world.shards[1].shard;
    let id = shard.udp_bind("[::]:4000".parse().unwrap()).unwrap();
    assert_eq!(ready(shard.udp_poll_send_to(id, &pattern(1452), to, no_waker())), Ok(1452));
    world.settle();
    let sent = world.shards[1].device.sent.last().unwrap().clone();
    assert_eq!(sent.len(), 14 + MTU);
    // One about a port that nobody has, then a true one.
    let mut stranger = sent.clone();
    stranger[14 + 40] ^= 1;
    for (about, packets) in [(stranger, 1), (sent, 2)] {
        world.shards[0].device.rx.push_back(too_big(&about, 1400));
        world.settle();
        for host in &mut world.shards {
            host.device.sent.clear();
        }
        let shard = &mut world.shards[1].shard;
        assert_eq!(ready(shard.udp_poll_send_to(id, &pattern(1452), to, no_waker())), Ok(1452));
        world.settle();
        assert_eq!(world.shards[1].device.sent.len(), packets);
    }
    assert_eq!(path_mtus(&world, "2001:db8::2"), [MTU; 3]);
}

#[test]
fn a_cookie_that_one_shard_was_given_opens_connections_of_all() {
    // RFC 7413 section 4.1.3.
    let mut world = World::new(0);
    let at: SocketAddr = "192.0.2.2:80".parse().unwrap();
    let listen = SocketOptions { fastopen_qlen: 16, ..SocketOptions::default() };
    world.peer.shard.tcp_listen(at, 16, listen).unwrap();
    let us = ip("192.0.2.1");
    let may = |world: &mut World| {
        let now = world.now;
        let shards = world.shards.iter_mut();
        shards.map(|host| host.shard.tcp().may_connect_with_data(now, us, at.ip())).collect::<Vec<_>>()
    };
    assert_eq!(may(&mut world), [false; 3]);
    let (now, shard) = (world.now, &mut world.shards[1].shard);
    shard.tcp_connect_with_data(now, None, at, SocketOptions::default(), b"x").unwrap();
    world.settle();
    assert_eq!(may(&mut world), [true; 3]);
}
