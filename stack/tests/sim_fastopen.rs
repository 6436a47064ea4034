//! Fast Open (RFC 7413) under experiments drawn from seeds: SYNs with data are lost, repeated and reordered, and yet in
//! every connection each byte is read at most once, in order, and nothing is left. Environment: `BYWASH_SEEDS` (number of
//! seeds each test covers) and `BYWASH_FIRST_SEED` (where they begin).
#![cfg(feature = "sim")]

use bywash::sim::LinkConfig;
use bywash::sim::scenario::{Group, Scenario};
use bywash::sim::traffic::{Begin, Finish, Plan};
use bywash::tcp::SocketOptions;
use bywash::time::Duration;

/// Seeds of each of the four parts.
const SEEDS: u64 = 100;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The drawn network and hosts, but one group of short connections by Fast Open. The server ends each, so that its
/// TIME-WAIT knows a late duplicate of the SYN: what comes after that is a connection of its own (section 2.1). No flow
/// changes its queue, which would have the same effect.
fn scenario(seed: u64) -> Scenario {
    let mut scenario = Scenario::from_seed(seed);
    scenario.hosts.iter_mut().for_each(|host| host.hop = 0.0);
    let (request, answer) = (1 + seed * 7 % 3000, seed * 13 % 20_000);
    let options = SocketOptions {
        fastopen_qlen: 1 + seed as usize % 16,
        keepalive: true,
        keepalive_idle: Duration::from_secs(60),
        keepalive_interval: Duration::from_secs(15),
        nodelay: seed.is_multiple_of(2),
        ..SocketOptions::default()
    };
    let plan = |send_bytes, finish| Plan {
        send_bytes,
        echo: false,
        expects_echo: false,
        write_bytes: 1..=4000,
        read_bytes: 1..=4000,
        chunks_held: seed as usize % 3,
        pause: 0.0,
        pause_for: Duration::ZERO,
        begin: Begin::AtOnce,
        finish,
        flush: false,
        // A handshake that is lost over and over ends with an error on both sides.
        may_fail: true,
        options: options.clone(),
    };
    scenario.groups = vec![Group {
        connections: 12,
        ipv6: seed.is_multiple_of(3),
        reversed: seed.is_multiple_of(5),
        simultaneous_open: false,
        dialled_within: Duration::from_secs(30),
        client: plan(request, Finish::AfterFin),
        server: plan(answer, Finish::WhenRead(request)),
        backlog: 64,
    }];
    scenario
}

fn run_part(part: u64) {
    let count = number("BYWASH_SEEDS", SEEDS);
    let first = number("BYWASH_FIRST_SEED", 0) + part * count;
    let (mut ends, mut fast_opened, mut bytes, mut expected) = (0, 0, 0, 0);
    for seed in first..first + count {
        let scenario = scenario(seed);
        let outcome = scenario.run().unwrap_or_else(|failure| panic!("{failure}"));
        ends += outcome.ends as u64;
        fast_opened += outcome.fast_opened;
        bytes += outcome.bytes_received;
        let group = &scenario.groups[0];
        expected += u64::from(group.connections) * (group.client.send_bytes + group.server.send_bytes);
    }
    // Most connections succeed, and many of them by Fast Open: the experiment tests what it is meant to.
    assert!(bytes * 100 >= expected * 95, "{bytes} of {expected} bytes");
    assert!(fast_opened * 2 * 5 >= ends, "{fast_opened} of {} connections", ends / 2);
}

#[test]
fn data_in_syns_is_read_at_most_once_1_of_4() {
    run_part(0);
}

#[test]
fn data_in_syns_is_read_at_most_once_2_of_4() {
    run_part(1);
}

#[test]
fn data_in_syns_is_read_at_most_once_3_of_4() {
    run_part(2);
}

#[test]
fn data_in_syns_is_read_at_most_once_4_of_4() {
    run_part(3);
}

/// Section 3: what Fast Open is for.
#[test]
fn a_request_in_the_syn_has_its_answer_one_round_trip_earlier() {
    let one_way = Duration::from_millis(20);
    let took = |fastopen: bool| {
        let mut scenario = scenario(1);
        let link = LinkConfig { delay: one_way, ..LinkConfig::default() };
        scenario.links = [link.clone(), link];
        for host in &mut scenario.hosts {
            host.shards = 1;
            host.stack.tcp.fastopen.server_without_cookie = fastopen;
            host.stack.tcp.fastopen.client_without_cookie = fastopen;
        }
        let group = &mut scenario.groups[0];
        (group.connections, group.dialled_within) = (1, Duration::ZERO);
        (group.client.send_bytes, group.server.send_bytes) = (300, 300);
        group.server.finish = Finish::WhenRead(300);
        if !fastopen {
            // The first connection to a server asks for a cookie: its request follows the handshake.
            group.server.options.fastopen_qlen = 0;
        }
        let outcome = scenario.run().unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(outcome.fast_opened, u64::from(fastopen));
        outcome.finished_at
    };
    let (plain, fast) = (took(false), took(true));
    let saved = plain - fast;
    let tick = Duration::from_millis(2);
    assert!(saved + tick >= one_way * 2 && saved <= one_way * 2 + tick, "{plain:?} {fast:?}");
}
