//! TCP between whole shards: what the engine's own tests do not see, that is routes, neighbours, frames and steering.

use core::net::SocketAddr;

use super::*;
use crate::config::PartialChecksums;
use crate::counters::DropReason;
use crate::tcp::{Shutdown, State};

const LEN: usize = 300_000;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn listen(host: &mut Host, text: &str) -> ListenerId {
    host.shard.tcp_listen(addr(text), 16, SocketOptions::default()).unwrap()
}

fn connect(pair: &mut Pair, to: &str) -> ConnId {
    pair.a.shard.tcp_connect(pair.now, None, addr(to), SocketOptions::default()).unwrap()
}

/// Sends `bytes` from one end to the other, reading as it goes; runs for at most a minute of virtual time.
fn transfer(pair: &mut Pair, from: ConnId, to: ConnId, bytes: &[u8]) -> Vec<u8> {
    let (mut sent, mut got, mut buffer) = (0, Vec::new(), vec![0; 65_536]);
    let end = pair.now + Duration::from_secs(60);
    while got.len() < bytes.len() && pair.now < end {
        let now = pair.now;
        while sent < bytes.len()
            && let Poll::Ready(taken) = pair.a.shard.tcp().poll_send(now, from, &bytes[sent..], no_waker())
        {
            sent += taken.unwrap();
        }
        pair.run(Duration::from_millis(1));
        let now = pair.now;
        while let Poll::Ready(Ok(len @ 1..)) = pair.b.shard.tcp().poll_recv(now, to, &mut buffer, no_waker())
        {
            got.extend_from_slice(&buffer[..len]);
        }
    }
    got
}

fn exchange(mut pair: Pair, to: &str) -> Pair {
    let listener = listen(&mut pair.b, to);
    let client = connect(&mut pair, to);
    pair.settle();
    assert_eq!(ready(pair.a.shard.tcp().poll_connected(client, no_waker())), Ok(()));
    let (server, from) = ready(pair.b.shard.tcp().poll_accept(listener, no_waker())).unwrap();
    assert_eq!(from, pair.a.shard.tcp().tuple(client).unwrap().local);
    let payload = pattern(LEN);
    assert!(transfer(&mut pair, client, server, &payload) == payload);
    let now = pair.now;
    pair.a.shard.tcp().shutdown(now, client, Shutdown::Write).unwrap();
    pair.settle();
    assert_eq!(ready(pair.b.shard.tcp().poll_recv(now, server, &mut [0; 9], no_waker())), Ok(0));
    pair.b.shard.tcp().close(now, server);
    pair.settle();
    assert_eq!(pair.a.shard.tcp().state(client), Some(State::TimeWait));
    pair.a.shard.tcp().close(now, client);
    pair.run(Duration::from_secs(61));
    for host in [&mut pair.a, &mut pair.b] {
        let census = host.shard.tcp_ref().census();
        assert_eq!((census.connections, census.time_wait), (0, 0));
        assert_eq!(drops(host), []);
        assert_eq!(host.device.pool().free_frames(), 1024);
    }
    pair
}

#[test]
fn a_connection_carries_bytes_and_ends_over_both_families() {
    for to in ["192.0.2.2:80", "[2001:db8::2]:80"] {
        let pair = exchange(Pair::new(), to);
        assert_eq!(pair.b.shard.counters().tcp_bytes_rx, LEN as u64);
        assert_eq!(pair.a.shard.counters().tcp_retransmits, 0);
    }
}

#[test]
fn jumbo_segments_span_frames() {
    let host = |number| Host::with(number, &config(number), 0, Shard::links(1).remove(0), 9000);
    let pair = exchange(Pair::of(host(1), host(2)), "192.0.2.2:80");
    assert!(pair.a.device.sent.iter().any(|frame| frame.len() == 9014));
}

/// A host with this setting whose peer sends nothing but partial checksums; whether a connection to it opens.
fn opens_with_partial_checksums(setting: PartialChecksums) -> (bool, Pair) {
    let mut accepting = config(2);
    accepting.partial_checksums = setting;
    let mut pair = Pair::of(Host::new(1, &config(1)), Host::new(2, &accepting));
    let listener = listen(&mut pair.b, "192.0.2.2:80");
    connect(&mut pair, "192.0.2.2:80");
    let partial = |frame: &mut Vec<u8>| {
        if frame[12..14] == [8, 0] && frame[23] == 6 {
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
            let len = frame.len() as u32 - 34;
            let sum = crate::packet::checksum::Sum::pseudo_header(ip(26), ip(30), 6, len);
            frame[50..52].copy_from_slice(&sum.folded().to_be_bytes());
        }
    };
    for _ in 0..20 {
        pair.a.poll(pair.now);
        pair.a.device.tx.iter_mut().for_each(partial);
        pair.b.device.rx.append(&mut pair.a.device.tx);
        pair.b.poll(pair.now);
        pair.a.device.rx.append(&mut pair.b.device.tx);
    }
    (pair.b.shard.tcp().poll_accept(listener, no_waker()).is_ready(), pair)
}

#[test]
fn partial_checksums_carry_a_connection_where_they_are_trusted() {
    let (opens, pair) = opens_with_partial_checksums(PartialChecksums::Trust);
    assert!(opens);
    assert!(pair.b.shard.counters().rx_partial_checksums >= 2);
    assert_eq!(pair.b.shard.counters().dropped(DropReason::PartialChecksum), 0);
}

#[test]
fn partial_checksums_are_dropped_by_their_own_name_where_they_are_not() {
    // Auto: the device is no veth and says that neighbours complete theirs.
    for setting in [PartialChecksums::Verify, PartialChecksums::Auto] {
        let (opens, pair) = opens_with_partial_checksums(setting);
        assert!(!opens, "{setting:?}");
        let counters = pair.b.shard.counters();
        assert!(counters.dropped(DropReason::PartialChecksum) >= 1, "{setting:?}");
        assert_eq!(counters.dropped(DropReason::BadTcpChecksum), 0, "{setting:?}");
        assert_eq!(counters.rx_partial_checksums, 0, "{setting:?}");
    }
}

#[test]
fn the_device_decides_on_partial_checksums_unless_told_otherwise() {
    for device in [true, false] {
        assert_eq!(PartialChecksums::Auto.accepts(device), device);
        assert!(!PartialChecksums::Verify.accepts(device));
        assert!(PartialChecksums::Trust.accepts(device));
    }
}

#[test]
fn a_closed_port_refuses() {
    let mut pair = Pair::new();
    let client = connect(&mut pair, "192.0.2.2:81");
    pair.settle();
    assert_eq!(
        ready(pair.a.shard.tcp().poll_connected(client, no_waker())),
        Err(TcpError::ConnectionRefused)
    );
    assert_eq!(pair.b.shard.counters().dropped(DropReason::TcpNoConnection), 1);
}

#[test]
fn a_neighbor_that_does_not_answer_is_the_reason_given() {
    let mut pair = Pair::new();
    let client = connect(&mut pair, "192.0.2.200:80");
    pair.run(Duration::from_secs(300));
    let result = ready(pair.a.shard.tcp().poll_connected(client, no_waker()));
    assert_eq!(result, Err(TcpError::HostUnreachable));
    assert_eq!(pair.a.device.pool().free_frames(), 1024);
}

#[test]
fn addresses_and_routes_are_checked_before_a_connection_is_made() {
    let mut pair = Pair::new();
    let mut connect = |local: Option<&str>, remote: &str| {
        let options = SocketOptions::default();
        pair.a.shard.tcp_connect(pair.now, local.map(addr), addr(remote), options).map(|_| ())
    };
    assert_eq!(connect(None, "198.51.100.1:80"), Err(TcpError::NetworkUnreachable));
    assert_eq!(connect(None, "192.0.2.1:80"), Err(TcpError::NetworkUnreachable), "no loopback");
    assert_eq!(connect(None, "192.0.2.255:80"), Err(TcpError::InvalidInput));
    assert_eq!(connect(None, "224.0.0.1:80"), Err(TcpError::InvalidInput));
    assert_eq!(connect(None, "[ff02::1]:80"), Err(TcpError::InvalidInput));
    assert_eq!(connect(None, "192.0.2.2:0"), Err(TcpError::InvalidInput));
    assert_eq!(connect(Some("[::]:0"), "192.0.2.2:80"), Err(TcpError::InvalidInput));
    assert_eq!(connect(Some("192.0.2.9:0"), "192.0.2.2:80"), Err(TcpError::AddrNotAvailable));
    assert_eq!(connect(Some("0.0.0.0:1234"), "192.0.2.2:80"), Ok(()));
    let elsewhere = pair.a.shard.tcp_listen(addr("192.0.2.9:80"), 1, SocketOptions::default());
    assert_eq!(elsewhere, Err(TcpError::AddrNotAvailable));
}

#[test]
fn on_the_kernels_address_ports_are_steered_as_long_as_they_are_needed() {
    let shared = |number| {
        let mut config = config(number);
        config.address_use = AddressUse::Shared;
        Host::new(number, &config)
    };
    let mut pair = Pair::of(shared(1), shared(2));
    let listener = listen(&mut pair.b, "192.0.2.2:80");
    assert_eq!(pair.b.shard.take_steering_changes(), [SteeringChange::OpenPort(Protocol::Tcp, 80)]);
    // The kernel answers ARP for host 2; host 1 is told here.
    let mac = EthernetAddress([2, 0, 0, 0, 0, 2]);
    let claim = crate::net::neighbor::Claim::Asked;
    pair.a.shard.output.heard(pair.now, crate::net::Heard { link: 0, addr: ip("192.0.2.2"), mac, claim });
    let client = connect(&mut pair, "192.0.2.2:80");
    let port = pair.a.shard.tcp().tuple(client).unwrap().local.port();
    assert_eq!(pair.a.shard.take_steering_changes(), [SteeringChange::OpenPort(Protocol::Tcp, port)]);
    pair.settle();
    let (server, _) =
        ready(pair.b.shard.tcp().poll_accept(listener, no_waker())).expect("learned from the SYN");
    // The listener goes; the connection it accepted still needs the port.
    let now = pair.now;
    pair.b.shard.tcp_close_listener(now, listener).unwrap();
    pair.settle();
    assert_eq!(pair.b.shard.take_steering_changes(), []);
    pair.b.shard.tcp().close(now, server);
    pair.settle();
    pair.a.shard.tcp().close(now, client);
    pair.settle();
    assert_eq!(pair.a.shard.take_steering_changes(), [SteeringChange::ClosePort(Protocol::Tcp, port)]);
    pair.run(Duration::from_secs(61));
    pair.b.poll(pair.now);
    assert_eq!(pair.b.shard.take_steering_changes(), [SteeringChange::ClosePort(Protocol::Tcp, 80)]);
}

#[test]
fn a_full_ring_delays_and_loses_nothing() {
    let mut pair = Pair::new();
    pair.a.device.room = 3;
    pair.b.device.room = 1;
    exchange(pair, "192.0.2.2:80");
}

#[test]
fn connecting_to_a_silent_neighbor_fails_after_three_seconds() {
    for nobody in ["192.0.2.77:80", "[2001:db8::77]:80"] {
        let mut pair = Pair::new();
        let client = connect(&mut pair, nobody);
        pair.run(Duration::from_millis(2990));
        assert_eq!(pair.a.shard.tcp().poll_connected(client, no_waker()), Poll::Pending);
        pair.run(Duration::from_millis(20));
        let failed = Poll::Ready(Err(TcpError::HostUnreachable));
        assert_eq!(pair.a.shard.tcp().poll_connected(client, no_waker()), failed);
    }
}

#[test]
fn an_icmp_error_about_a_handshake_ends_it() {
    let mut pair = Pair::new();
    let client = connect(&mut pair, "192.0.2.2:80");
    pair.a.poll(pair.now);
    let heard = crate::net::Heard {
        link: 0,
        addr: ip("192.0.2.2"),
        mac: EthernetAddress([2, 0, 0, 0, 0, 2]),
        claim: crate::net::neighbor::Claim::Asked,
    };
    pair.a.shard.output.heard(pair.now, heard);
    pair.a.poll(pair.now);
    let syn = pair.a.device.tx.pop_back().unwrap();
    let complaint = icmp::Complaint::PortUnreachable;
    let Host { shard, .. } = &mut pair.b;
    icmp::complain(pair.now, complaint, &syn, &shard.policies[0], &mut shard.output);
    pair.settle();
    assert_eq!(
        ready(pair.a.shard.tcp().poll_connected(client, no_waker())),
        Err(TcpError::ConnectionRefused)
    );
    assert_eq!(pair.a.shard.counters().icmp_errors_rx, 1);
}

/// A peer's data at a shard whose application is `answering`: the frames that leave before the next burst.
fn frames_after_data(answering: bool) -> Vec<Vec<u8>> {
    let mut pair = Pair::new();
    let listener = listen(&mut pair.b, "192.0.2.2:80");
    let client = connect(&mut pair, "192.0.2.2:80");
    pair.settle();
    let (server, _) = ready(pair.b.shard.tcp().poll_accept(listener, no_waker())).unwrap();
    let now = pair.now;
    assert_eq!(ready(pair.a.shard.tcp().poll_send(now, client, b"question", no_waker())), Ok(8));
    pair.a.poll(now);
    let Host { shard, device } = &mut pair.b;
    device.rx.append(&mut pair.a.device.tx);
    device.tx.clear();
    shard.poll_receive(now, device);
    assert!(device.tx.is_empty(), "nothing leaves before the application had its turn");
    if answering {
        assert_eq!(ready(shard.tcp().poll_recv(now, server, &mut [0; 100], no_waker())), Ok(8));
        assert_eq!(ready(shard.tcp().poll_send(now, server, b"answer", no_waker())), Ok(6));
    }
    shard.poll_transmit(now, device);
    device.tx.drain(..).collect()
}

#[test]
fn an_answer_between_the_halves_of_a_poll_carries_the_acknowledgment_which_else_goes_alone() {
    // Ethernet, IPv4, TCP with timestamps.
    let headers = 14 + 20 + 32;
    let lengths = |frames: Vec<Vec<u8>>| frames.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(frames_after_data(true)), [headers + 6]);
    assert_eq!(lengths(frames_after_data(false)), [headers]);
}
