//! Congestion that a link marks instead of dropping (RFC 3168, RFC 9768): transfers through a bottleneck in the
//! simulator, with every pair of settings at both ends.
#![cfg(feature = "sim")]

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use std::rc::Rc;

use bywash::config::{Cidr, StackConfig};
use bywash::counters::Counters;
use bywash::sim::traffic::{Begin, Dial, Finish, Listen, Plan};
use bywash::sim::{Checker, Host, HostConfig, LinkConfig, World};
use bywash::tcp::{EcnConfig, SocketOptions};
use bywash::time::{Duration, Instant};

const BYTES: u64 = 10_000_000;
const DELAY: Duration = Duration::from_millis(10);

/// What a transfer came to.
struct Outcome {
    took: Duration,
    marked: u64,
    dropped: u64,
    sender: Counters,
}

fn host(last: u8, ecn: EcnConfig) -> Rc<RefCell<Host>> {
    let addresses: Vec<Cidr> = vec![format!("10.0.0.{last}/24").parse().unwrap()];
    let mut stack = StackConfig::new(addresses, [last; 32]);
    stack.tcp.ecn = ecn;
    let config = HostConfig::new(&format!("host{last}"), last, stack, last.into());
    Rc::new(RefCell::new(Host::new(&config, Instant::ZERO).unwrap()))
}

fn plan(send_bytes: u64) -> Plan {
    Plan {
        send_bytes,
        echo: false,
        expects_echo: false,
        write_bytes: 20_000..=100_000,
        read_bytes: 20_000..=100_000,
        chunks_held: 0,
        pause: 0.0,
        pause_for: Duration::ZERO,
        begin: Begin::AtOnce,
        finish: Finish::Shutdown,
        flush: false,
        may_fail: false,
        options: SocketOptions {
            send_buffer_bytes: 1 << 20,
            receive_buffer_bytes: 1 << 20,
            ..SocketOptions::default()
        },
    }
}

/// The first host sends at 20 Mbit/s through a queue of 120 KB that marks from 30 KB on.
fn transfer(client: EcnConfig, server: EcnConfig) -> Outcome {
    let mut world = World::new(1);
    let hosts = [host(1, client), host(2, server)];
    let bottleneck = LinkConfig {
        delay: DELAY,
        rate_bits_per_second: Some(20_000_000),
        queue_bytes: 120_000,
        mark_above_bytes: Some(30_000),
        ..LinkConfig::default()
    };
    let back = LinkConfig { delay: DELAY, ..LinkConfig::default() };
    let port = world.attach(hosts[0].clone(), bottleneck, LinkConfig::default());
    world.attach(hosts[1].clone(), back, LinkConfig::default());
    let (checker, stop) = (Checker::default(), Rc::new(Cell::new(false)));
    let addr = SocketAddr::new([10, 0, 0, 2].into(), 80);
    let listen = Listen::new(addr, 16, plan(0), &checker, &stop);
    hosts[1].borrow_mut().start(0, Box::new(listen));
    hosts[0].borrow_mut().start(0, Box::new(Dial::new(addr, plan(BYTES), &checker)));
    let running = || hosts[0].borrow().running_apps() + hosts[1].borrow().running_apps();
    let done = world.run_until(Instant::from_millis(60_000), |_| running() <= 1);
    assert!(done, "{:?}", hosts[0].borrow().describe_apps());
    let took = world.now().saturating_since(Instant::ZERO);
    stop.set(true);
    hosts.iter().for_each(|host| host.borrow().wake_all());
    world.run_for(Duration::from_secs(600));
    assert_eq!(checker.verdict(), Vec::<String>::new());
    let stats = world.up(port).stats;
    let sender = hosts[0].borrow().shard_ref(0).counters().clone();
    Outcome { took, marked: stats.marked, dropped: stats.queue_full, sender }
}

#[test]
fn with_ecn_at_both_ends_congestion_is_marked_and_nothing_is_lost() {
    for ecn in [EcnConfig::ON, EcnConfig::ACCURATE] {
        let outcome = transfer(ecn, ecn);
        let sender = &outcome.sender;
        assert!(outcome.marked > 0, "{ecn}");
        assert_eq!((outcome.dropped, sender.tcp_retransmits, sender.tcp_timeouts), (0, 0, 0), "{ecn}");
        // At most one reduction a round trip, and the link is kept busy: 4 s at its rate.
        let round_trips = (outcome.took.as_millis() / (2 * DELAY).as_millis()) as u64;
        assert!(
            (2..=round_trips).contains(&sender.tcp_ecn_reductions),
            "{ecn}: {}",
            sender.tcp_ecn_reductions
        );
        assert!(outcome.took < Duration::from_millis(4600), "{ecn}: {:?}", outcome.took);
    }
}

#[test]
fn nothing_is_marked_unless_both_ends_agree() {
    let settings = [
        EcnConfig::OFF,
        EcnConfig::ON,
        EcnConfig::ACCEPT,
        EcnConfig::ACCURATE,
        EcnConfig::CLASSIC_ACCURATE,
        EcnConfig::ACCEPT_ACCURATE,
    ];
    for client in settings {
        for server in settings {
            let outcome = transfer(client, server);
            let agreed = client.request.min(server.accept) != bywash::tcp::EcnMode::Off;
            assert_eq!(outcome.marked > 0, agreed, "{client} and {server}");
            assert_eq!(outcome.sender.tcp_ecn_reductions > 0, agreed, "{client} and {server}");
            assert_eq!(outcome.dropped > 0, !agreed, "{client} and {server}");
        }
    }
}
