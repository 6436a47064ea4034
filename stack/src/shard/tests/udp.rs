use core::net::SocketAddr;

use super::*;
use crate::counters::DropReason;
use crate::tcp::IpFields;

fn socket(host: &mut Host, text: &str) -> (UdpId, SocketAddr) {
    let id = host.shard.udp_bind(text.parse().unwrap()).unwrap();
    (id, host.shard.udp_local_addr(id).unwrap())
}

fn send(host: &mut Host, id: UdpId, bytes: &[u8], to: SocketAddr) {
    assert_eq!(ready(host.shard.udp_poll_send_to(id, bytes, to, no_waker())), Ok(bytes.len()));
}

fn recv(host: &mut Host, id: UdpId) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    match host.shard.udp_poll_recv_from(id, &mut buffer, no_waker()) {
        Poll::Ready(result) => {
            let (len, from, _) = result.unwrap();
            buffer.truncate(len);
            Some((buffer, from))
        }
        Poll::Pending => None,
    }
}

#[test]
fn datagrams_of_all_sizes_are_echoed() {
    for (server, client) in [("192.0.2.2:7", "0.0.0.0:0"), ("[2001:db8::2]:7", "[::]:0")] {
        let mut pair = Pair::new();
        let (echo, echo_addr) = socket(&mut pair.b, server);
        let (id, local) = socket(&mut pair.a, client);
        for len in [0, 1, 1400, 1500, 20_000, 65_507] {
            let payload = pattern(len);
            send(&mut pair.a, id, &payload, echo_addr);
            pair.settle();
            let (bytes, from) = recv(&mut pair.b, echo).unwrap();
            assert_eq!((bytes == payload, from.port()), (true, local.port()), "{len}");
            send(&mut pair.b, echo, &bytes, from);
            pair.settle();
            assert_eq!(recv(&mut pair.a, id), Some((payload, echo_addr)), "{len}");
        }
        assert_eq!(pair.b.shard.counters().udp_rx, 6);
    }
}

#[test]
fn what_a_socket_chooses_of_the_ip_header_arrives_and_is_told() {
    for (server, client) in [("192.0.2.2:7", "0.0.0.0:0"), ("[2001:db8::2]:7", "[::]:0")] {
        let mut pair = Pair::new();
        let (to, addr) = socket(&mut pair.b, server);
        let (from, _) = socket(&mut pair.a, client);
        // All eight bits of the traffic class: who sends datagrams may do ECN itself (RFC 9000 section 13.4).
        let chosen = IpFields { tos: 0xba, hop_limit: 9 };
        // The last one arrives in fragments.
        for (ip, len) in [(IpFields::default(), 1), (chosen, 1), (chosen, 5000)] {
            pair.a.shard.udp_set_ip_fields(from, ip).unwrap();
            send(&mut pair.a, from, &pattern(len), addr);
            pair.settle();
            let told = ready(pair.b.shard.udp_poll_recv_from(to, &mut [0; 5000], no_waker())).unwrap();
            assert_eq!((told.0, told.2), (len, ip), "{server}");
        }
        let none = IpFields { hop_limit: 0, ..chosen };
        assert_eq!(pair.a.shard.udp_set_ip_fields(from, none), Err(NetError::InvalidInput));
    }
}

#[test]
fn both_families_may_have_a_port_but_nobody_twice() {
    let mut pair = Pair::new();
    let (four, _) = socket(&mut pair.b, "0.0.0.0:53");
    let (six, _) = socket(&mut pair.b, "[::]:53");
    let again = |host: &mut Host, text: &str| host.shard.udp_bind(text.parse().unwrap());
    assert_eq!(again(&mut pair.b, "192.0.2.2:53"), Err(NetError::AddrInUse));
    assert_eq!(again(&mut pair.b, "192.0.2.9:54"), Err(NetError::AddrNotAvailable));
    let (from4, _) = socket(&mut pair.a, "0.0.0.0:0");
    let (from6, _) = socket(&mut pair.a, "[::]:0");
    send(&mut pair.a, from4, b"four", "192.0.2.2:53".parse().unwrap());
    send(&mut pair.a, from6, b"six", "[2001:db8::2]:53".parse().unwrap());
    pair.settle();
    assert_eq!(recv(&mut pair.b, four).unwrap().0, b"four");
    assert_eq!(recv(&mut pair.b, six).unwrap().0, b"six");
    assert_eq!((recv(&mut pair.b, four), recv(&mut pair.b, six)), (None, None));
}

#[test]
fn a_closed_port_is_reported_once_and_only_by_the_owner_of_the_address() {
    for shared in [false, true] {
        let mut of_b = config(2);
        of_b.address_use = if shared { AddressUse::Shared } else { AddressUse::Own };
        let mut pair = Pair::of(Host::new(1, &config(1)), Host::new(2, &of_b));
        let (id, _) = socket(&mut pair.a, "0.0.0.0:0");
        if shared {
            // The kernel would answer ARP; here the table is told.
            let heard = crate::net::Heard {
                link: 0,
                addr: ip("192.0.2.2"),
                mac: EthernetAddress([2, 0, 0, 0, 0, 2]),
                claim: crate::net::neighbor::Claim::Asked,
            };
            pair.a.shard.output.heard(pair.now, heard);
        }
        send(&mut pair.a, id, b"x", "192.0.2.2:9".parse().unwrap());
        pair.settle();
        assert_eq!(pair.b.shard.counters().dropped(DropReason::UdpNoSocket), 1);
        assert_eq!(pair.a.shard.counters().icmp_rx, u64::from(!shared));
    }
}

/// What the next receive call of a socket is told.
fn told(host: &mut Host, id: UdpId, waker: &Waker) -> Poll<Result<usize, NetError>> {
    host.shard.udp_poll_recv_from(id, &mut [0; 8], waker).map_ok(|(len, ..)| len)
}

#[test]
fn a_connected_socket_is_told_once_that_the_port_is_closed() {
    for (local, remote, other) in
        [("0.0.0.0:0", "192.0.2.2:9", "192.0.2.2:8"), ("[::]:0", "[2001:db8::2]:9", "[2001:db8::2]:8")]
    {
        let mut pair = Pair::new();
        let (id, _) = socket(&mut pair.a, local);
        let [remote, other] = [remote, other].map(|text| text.parse::<SocketAddr>().unwrap());
        pair.a.shard.udp_connect(id, remote).unwrap();
        send(&mut pair.a, id, b"x", other);
        pair.settle();
        assert_eq!(told(&mut pair.a, id, no_waker()), Poll::Pending, "errors of others do not concern it");
        send(&mut pair.a, id, b"x", remote);
        pair.settle();
        assert_eq!(told(&mut pair.a, id, no_waker()), Poll::Ready(Err(NetError::ConnectionRefused)));
        assert_eq!(told(&mut pair.a, id, no_waker()), Poll::Pending);
        assert_eq!(pair.a.shard.counters().icmp_errors_rx, 1);
    }
}

#[test]
fn a_silent_neighbor_wakes_and_fails_the_connected_socket_after_three_seconds() {
    let mut pair = Pair::new();
    let (id, _) = socket(&mut pair.a, "0.0.0.0:0");
    let (bystander, _) = socket(&mut pair.a, "0.0.0.0:0");
    let nobody = "192.0.2.77:9".parse().unwrap();
    pair.a.shard.udp_connect(id, nobody).unwrap();
    let (wakes, waker) = crate::tcp::testing::Wakes::new();
    send(&mut pair.a, id, b"x", nobody);
    assert_eq!(told(&mut pair.a, id, &waker), Poll::Pending);
    pair.run(Duration::from_millis(2990));
    assert_eq!(wakes.count(), 0);
    pair.run(Duration::from_millis(20));
    assert_eq!(wakes.count(), 1);
    assert_eq!(told(&mut pair.a, id, &waker), Poll::Ready(Err(NetError::HostUnreachable)));
    assert_eq!(told(&mut pair.a, bystander, &waker), Poll::Pending);
    send(&mut pair.a, id, b"y", nobody);
    pair.run(Duration::from_secs(4));
    let again = pair.a.shard.udp_poll_send_to(id, b"z", nobody, no_waker());
    assert_eq!(again, Poll::Ready(Err(NetError::HostUnreachable)), "sending tells it too");
}

#[test]
fn what_a_full_socket_cannot_hold_is_counted() {
    let mut pair = Pair::new();
    let (sink, to) = socket(&mut pair.b, "192.0.2.2:9");
    let (id, _) = socket(&mut pair.a, "0.0.0.0:0");
    let sent = limits::UDP_SOCKET_DATAGRAMS + 10;
    for _ in 0..sent {
        send(&mut pair.a, id, b"datagram", to);
        pair.settle();
    }
    assert_eq!(pair.b.shard.counters().dropped(DropReason::UdpReceiveBufferFull), 10);
    let held = core::iter::from_fn(|| recv(&mut pair.b, sink)).count();
    assert_eq!(held, limits::UDP_SOCKET_DATAGRAMS);
}

#[test]
fn a_full_backlog_keeps_datagrams_in_the_socket() {
    let mut pair = Pair::new();
    let (_, to) = socket(&mut pair.b, "192.0.2.2:9");
    let (id, _) = socket(&mut pair.a, "0.0.0.0:0");
    send(&mut pair.a, id, b"first", to);
    pair.settle();
    pair.a.device.room = 0;
    let mut accepted = 0;
    while pair.a.shard.udp_poll_send_to(id, b"more", to, no_waker()).is_ready() {
        accepted += 1;
        pair.a.poll(pair.now);
        assert!(accepted < 10_000, "nothing bounds what is taken");
    }
    let deadline = pair.a.shard.next_deadline(pair.now);
    assert_eq!(deadline, Some(pair.now + limits::TX_RETRY_INTERVAL), "no spinning while blocked");
    pair.a.device.room = usize::MAX;
    pair.run(Duration::from_secs(1));
    let counters = pair.b.shard.counters();
    assert_eq!(counters.udp_rx + counters.dropped(DropReason::UdpReceiveBufferFull), 1 + accepted);
    assert_eq!(pair.a.device.pool().free_frames(), 1024);
}

#[test]
fn broadcasts_reach_sockets_of_any_address() {
    let mut pair = Pair::new();
    let (any, _) = socket(&mut pair.b, "0.0.0.0:5000");
    let (id, _) = socket(&mut pair.a, "0.0.0.0:0");
    for to in ["192.0.2.255:5000", "255.255.255.255:5000"] {
        send(&mut pair.a, id, b"all", to.parse().unwrap());
        pair.settle();
        assert_eq!(recv(&mut pair.b, any).unwrap().0, b"all");
    }
    assert_eq!(pair.a.shard.counters().arp_requests_tx, 0);
}

#[test]
fn wrong_calls_are_told_why() {
    let mut pair = Pair::new();
    let (id, _) = socket(&mut pair.a, "0.0.0.0:0");
    let mut send = |bytes: &[u8], to: &str| {
        ready(pair.a.shard.udp_poll_send_to(id, bytes, to.parse().unwrap(), no_waker()))
    };
    assert_eq!(send(b"x", "[2001:db8::2]:7"), Err(NetError::InvalidInput));
    assert_eq!(send(b"x", "192.0.2.2:0"), Err(NetError::InvalidInput));
    assert_eq!(send(b"x", "198.51.100.1:7"), Err(NetError::NetworkUnreachable));
    assert_eq!(send(&[0; 65_508], "192.0.2.2:7"), Err(NetError::MessageTooLong));
    pair.a.shard.udp_close(id);
    assert_eq!(pair.a.shard.udp_local_addr(id), Err(NetError::NotFound));
}

#[test]
fn ports_are_steered_while_sockets_are_open() {
    let mut pair = Pair::new();
    pair.a.shard.take_steering_changes();
    let (id, local) = socket(&mut pair.a, "0.0.0.0:0");
    pair.a.shard.udp_close(id);
    let expected = [
        SteeringChange::OpenPort(Protocol::Udp, local.port()),
        SteeringChange::ClosePort(Protocol::Udp, local.port()),
    ];
    assert_eq!(pair.a.shard.take_steering_changes(), expected);
}

#[test]
fn what_was_sent_before_the_close_still_goes() {
    let mut pair = Pair::new();
    let (sink, to) = socket(&mut pair.b, "192.0.2.2:9");
    let (id, _) = socket(&mut pair.a, "0.0.0.0:0");
    pair.settle();
    send(&mut pair.a, id, b"last words", to);
    pair.a.shard.udp_close(id);
    pair.run(Duration::from_millis(1));
    assert_eq!(recv(&mut pair.b, sink).unwrap().0, b"last words");
}
