//! DHCP and DNS against scripted servers.

use core::net::Ipv4Addr;
use std::sync::Arc;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol,
    Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use super::*;
use crate::config::{FilterConfig, ForwardConfig, LinkConfig};
use crate::flow::filter::RuleSet;

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const SERVER_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 254]);
const OFFERED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 55);

/// A UDP datagram in a frame to `to`.
fn udp_frame(to: EthernetAddress, dst: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: ports.0, dst_port: ports.1 };
    let ip = Ipv4Repr {
        src_addr: SERVER,
        dst_addr: dst,
        next_header: IpProtocol::Udp,
        payload_len: 8 + payload.len(),
        hop_limit: 64,
    };
    let mut frame = vec![0; 14 + 20 + 8 + payload.len()];
    let ethernet = EthernetRepr { src_addr: SERVER_MAC, dst_addr: to, ethertype: EthernetProtocol::Ipv4 };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
    let mut packet = UdpPacket::new_unchecked(&mut frame[34..]);
    let copy = |buffer: &mut [u8]| buffer.copy_from_slice(payload);
    udp.emit(&mut packet, &SERVER.into(), &dst.into(), payload.len(), copy, &checksums);
    frame
}

/// The UDP datagrams that were sent to `port` since the last call: source port, payload.
fn sent_to(device: &mut TestDevice, port: u16) -> Vec<(u16, Vec<u8>)> {
    device.tx.clear();
    let sent = core::mem::take(&mut device.sent);
    let udp = sent.iter().filter(|frame| frame[12..14] == [8, 0] && frame[23] == 17);
    let mut found = Vec::new();
    for frame in udp {
        let ip = Ipv4Packet::new_checked(&frame[14..]).unwrap();
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        if udp.dst_port() == port {
            found.push((udp.src_port(), udp.payload().to_vec()));
        }
    }
    found
}

fn run(hosts: &mut [Host], now: Instant) {
    for _ in 0..20 {
        for host in hosts.iter_mut() {
            host.poll(now);
        }
    }
}

/// Answers a DHCP message as a server would.
fn dhcp_answer(request: &[u8], mac: EthernetAddress, broadcast: bool) -> Vec<u8> {
    let packet = DhcpPacket::new_checked(request).unwrap();
    let request = DhcpRepr::parse(&packet).unwrap();
    let message_type = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        _ => DhcpMessageType::Ack,
    };
    let mut reply = DhcpRepr {
        message_type,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: OFFERED,
        server_ip: SERVER,
        router: Some(SERVER),
        subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: Some(Default::default()),
        max_size: None,
        lease_duration: Some(3600),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    reply.dns_servers.as_mut().unwrap().push(SERVER).unwrap();
    let mut payload = vec![0; reply.buffer_len()];
    reply.emit(&mut DhcpPacket::new_unchecked(&mut payload[..])).unwrap();
    let (to, dst) =
        if broadcast { (EthernetAddress::BROADCAST, Ipv4Addr::BROADCAST) } else { (mac, OFFERED) };
    udp_frame(to, dst, (67, 68), &payload)
}

/// Two shards of a host without addresses, asking for some.
fn dhcp_hosts() -> Vec<Host> {
    let mut config = StackConfig::new(Vec::new(), SEED);
    config.dhcp = true;
    let links = Shard::links(2).into_iter().enumerate();
    links.map(|(index, links)| Host::with(1, &config, index as u16, links, MTU)).collect()
}

/// Runs the four messages, the server's arriving at queue `queue`.
fn lease(hosts: &mut [Host], now: Instant, queue: usize, broadcast: bool) {
    let mac = hosts[0].device.capabilities.mac;
    for _ in 0..2 {
        run(hosts, now);
        let request = sent_to(&mut hosts[0].device, 67).pop().expect("a request");
        assert_eq!(request.0, 68);
        hosts[queue].device.rx.push_back(dhcp_answer(&request.1, mac, broadcast));
    }
    run(hosts, now);
}

#[test]
fn a_lease_serves_all_shards_whichever_queue_the_server_answers_to() {
    for queue in 0..2 {
        for broadcast in [false, true] {
            let mut hosts = dhcp_hosts();
            let open = SteeringChange::OpenPort(Protocol::Udp, 68);
            assert_eq!(hosts[0].shard.take_steering_changes(), [open]);
            assert_eq!(hosts[0].shard.dhcp_configured(), Some(false));
            lease(&mut hosts, Instant::from_millis(1), queue, broadcast);
            for host in &mut hosts {
                assert_eq!(host.shard.dhcp_configured(), Some(true));
                assert_eq!(host.shard.addresses(), [(IpAddr::V4(OFFERED), 24)]);
                let changes = host.shard.take_steering_changes();
                assert!(changes.contains(&SteeringChange::OwnAddress(OFFERED.into())), "{changes:?}");
                assert_eq!(host.shard.output.routes.source(ip("198.51.100.1")), Some(OFFERED.into()));
                assert_eq!(host.shard.dns_servers(), [IpAddr::V4(SERVER)]);
            }
        }
    }
}

#[test]
fn a_lease_is_renewed_and_given_up_when_nobody_renews_it() {
    let mut hosts = dhcp_hosts();
    let mut now = Instant::from_millis(1);
    lease(&mut hosts, now, 0, false);
    let learn = |hosts: &mut [Host], now| {
        let claim = crate::net::neighbor::Claim::Asked;
        hosts[0]
            .shard
            .output
            .heard(now, crate::net::Heard { link: 0, addr: SERVER.into(), mac: SERVER_MAC, claim });
    };
    // Half the lease: renewed directly from the server.
    now += Duration::from_secs(1801);
    learn(&mut hosts, now);
    run(&mut hosts, now);
    let request = sent_to(&mut hosts[0].device, 67).pop().expect("a renewal");
    let answer = dhcp_answer(&request.1, hosts[0].device.capabilities.mac, false);
    hosts[1].device.rx.push_back(answer);
    run(&mut hosts, now);
    // No further answer: the lease ends an hour after the renewal.
    for _ in 0..61 {
        now += Duration::from_secs(60);
        run(&mut hosts, now);
    }
    for host in &mut hosts {
        assert_eq!((host.shard.dhcp_configured(), host.shard.addresses()), (Some(false), vec![]));
        let disowned = SteeringChange::DisownAddress(OFFERED.into());
        assert!(host.shard.take_steering_changes().contains(&disowned));
    }
}

#[test]
fn a_router_takes_a_lease_whatever_its_routes_and_rules_say() {
    let rules = RuleSet::parse("*filter\n:INPUT DROP\n:OUTPUT DROP\nCOMMIT\n", "rules").unwrap();
    let mut config = StackConfig::new(vec!["192.168.1.254/24".parse().unwrap()], SEED);
    config.further_links = vec![LinkConfig { name: "wan".into(), dhcp: true, ..LinkConfig::default() }];
    config.forward = Some(ForwardConfig::default());
    config.filter = Some(FilterConfig::new(Arc::new(rules), "lan".into()));
    let mut links = TestLinks::new(8, &[1500, 1500]);
    let mut router = Shard::new(&config, 0, 1, Shard::links(1).remove(0), &links, Instant::ZERO).unwrap();
    let now = Instant::from_millis(1);
    for broadcast in [false, true] {
        while router.poll(now, &mut links) {}
        let request = sent_to(&mut links.0[1], 67).pop().expect("a request");
        let mac = links.0[1].capabilities.mac;
        links.0[1].rx.push_back(dhcp_answer(&request.1, mac, broadcast));
    }
    while router.poll(now, &mut links) {}
    assert_eq!(router.dhcp_configured(), Some(true));
    let hop = router.output.routes.next_hop(ip("198.51.100.1")).expect("the lease's default route");
    assert_eq!(hop.link, 1);
}

#[test]
fn an_offer_without_a_source_or_of_nonsense_changes_nothing() {
    let mut hosts = dhcp_hosts();
    let now = Instant::from_millis(1);
    run(&mut hosts, now);
    let discover = sent_to(&mut hosts[0].device, 67).pop().unwrap();
    let mut offer = dhcp_answer(&discover.1, hosts[0].device.capabilities.mac, true);
    offer[26..30].fill(0);
    offer[24..26].fill(0);
    crate::net::fragment::fill_ipv4_checksum(&mut offer[14..]);
    offer[40..42].fill(0);
    hosts[0].device.rx.push_back(offer);
    run(&mut hosts, now);
    assert_eq!(sent_to(&mut hosts[0].device, 67).len(), 0, "no request follows");
    assert_eq!(hosts[0].shard.counters().dropped(crate::counters::DropReason::UdpNoSocket), 1);
}

fn dns_host() -> Host {
    let mut config = config(1);
    config.dns_servers = vec![SERVER.into()];
    let mut host = Host::new(1, &config);
    let claim = crate::net::neighbor::Claim::Asked;
    let heard = crate::net::Heard { link: 0, addr: SERVER.into(), mac: SERVER_MAC, claim };
    host.shard.output.heard(Instant::from_millis(1), heard);
    host
}

/// An answer with one address record to a query.
fn dns_answer(query: &[u8], address: Option<[u8; 4]>) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&[0x81, if address.is_some() { 0x80 } else { 0x83 }]);
    if let Some(address) = address {
        answer[6..8].copy_from_slice(&[0, 1]);
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&address);
    }
    answer
}

fn ask(host: &mut Host, name: &str) -> (DnsQueryId, u16, Vec<u8>) {
    let id = host.shard.dns_query(name, false).unwrap();
    run(core::slice::from_mut(host), Instant::from_millis(1));
    let (port, query) = sent_to(&mut host.device, 53).pop().expect("a query");
    (id, port, query)
}

#[test]
fn a_name_resolves_and_its_port_is_steered_meanwhile() {
    let mut host = dns_host();
    host.shard.take_steering_changes();
    let (id, port, query) = ask(&mut host, "www.example.com");
    assert_eq!(host.shard.take_steering_changes(), [SteeringChange::OpenPort(Protocol::Udp, port)]);
    assert!(host.shard.dns_poll(id, no_waker()).is_pending());
    let answer = udp_frame(
        host.device.capabilities.mac,
        Ipv4Addr::new(192, 0, 2, 1),
        (53, port),
        &dns_answer(&query, Some([198, 51, 100, 7])),
    );
    host.device.rx.push_back(answer);
    run(core::slice::from_mut(&mut host), Instant::from_millis(1));
    assert_eq!(ready(host.shard.dns_poll(id, no_waker())), Ok(vec![ip("198.51.100.7")]));
    assert_eq!(ready(host.shard.dns_poll(id, no_waker())), Err(NetError::NotFound));
    run(core::slice::from_mut(&mut host), Instant::from_millis(1));
    assert_eq!(host.shard.take_steering_changes(), [SteeringChange::ClosePort(Protocol::Udp, port)]);
}

#[test]
fn why_a_name_does_not_resolve_is_told() {
    for (rcode, told) in [
        (3, NetError::NameNotFound),
        (0, NetError::NoAddress),
        (2, NetError::NameServerFailed(2)),
        (5, NetError::NameServerFailed(5)),
    ] {
        let mut host = dns_host();
        // Another query, which is not answered, has its own fate.
        let (other, ..) = ask(&mut host, "other.example.com");
        let (id, port, query) = ask(&mut host, "Nowhere.example.com.");
        let mut answer = dns_answer(&query, None);
        answer[3] = 0x80 | rcode;
        let mac = host.device.capabilities.mac;
        host.device.rx.push_back(udp_frame(mac, Ipv4Addr::new(192, 0, 2, 1), (53, port), &answer));
        run(core::slice::from_mut(&mut host), Instant::from_millis(1));
        assert_eq!(ready(host.shard.dns_poll(id, no_waker())), Err(told), "RCODE {rcode}");
        assert!(host.shard.dns_poll(other, no_waker()).is_pending());
    }
    let text = NetError::NameServerFailed(2).to_string();
    assert_eq!(text, "the name server failed (SERVFAIL); try another one");
}

#[test]
fn queries_are_repeated_and_given_up() {
    let mut host = dns_host();
    let (id, port, _) = ask(&mut host, "slow.example.com");
    let mut now = Instant::from_millis(1);
    let mut repeats = 0;
    for _ in 0..30 {
        now += Duration::from_secs(1);
        run(core::slice::from_mut(&mut host), now);
        repeats += sent_to(&mut host.device, 53).iter().filter(|(from, _)| *from == port).count();
    }
    assert!(repeats >= 2, "{repeats}");
    assert_eq!(ready(host.shard.dns_poll(id, no_waker())), Err(NetError::NameServerSilent));
}

#[test]
fn without_a_server_or_a_name_there_is_no_query() {
    let mut host = Host::new(1, &config(1));
    assert_eq!(host.shard.dns_query("example.com", false), Err(NetError::NoNameServer));
    let mut host = dns_host();
    assert_eq!(host.shard.dns_query("", false), Err(NetError::InvalidInput));
    for _ in 0..limits::DNS_QUERIES {
        host.shard.dns_query("example.com", false).unwrap();
    }
    assert_eq!(host.shard.dns_query("example.com", false), Err(NetError::TooManySockets));
}
