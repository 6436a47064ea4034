//! `--dhcp` against dnsmasq in the peer's namespace: the lease's address, router and name server are used, the lease is
//! renewed, and a server that comes back without its memory is followed to another address.

mod common;

use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use bywash_afxdp::require_root;
use common::dnsmasq::{Dnsmasq, LEASE_LIMIT};
use common::server::{Server, bywash};
use common::{Bed, KERNEL4, kernel_http, url, wait_until};

/// The peer's address that is not on the stack's link: reached through the lease's router only.
const BEYOND: &str = "198.51.100.7";

/// The leased addresses in the order in which `bywash` logged them.
fn leases(log: &str) -> Vec<Ipv4Addr> {
    let lines = log.lines().filter_map(|line| line.split_once("DHCP lease: "));
    lines.map(|(_, lease)| lease.split('/').next().unwrap().parse().expect("an address")).collect()
}

/// A renewal that falls between two servers is repeated after a minute at the earliest; the lease ends after two.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(150);

/// Waits until the `number`-th lease stands in the server's log.
fn wait_for_lease(server: &Server, number: usize, limit: Duration) -> Ipv4Addr {
    wait_until(limit, "a lease is logged", || leases(&server.log()).len() >= number);
    leases(&server.log())[number - 1]
}

#[test]
fn a_lease_is_used_renewed_and_replaced_when_the_server_forgot_it() {
    require_root!();
    let bed = Bed::new(2, 1500);
    bed.peer().ip(&format!("address add {BEYOND}/32 dev lo"));
    let dhcp = Dnsmasq::start(&bed.pair, "192.0.2.60", "192.0.2.60");
    let server = Server::start(&bed, &["http", "--dhcp"]);
    let address = wait_for_lease(&server, 1, LEASE_LIMIT);
    assert_eq!(address.to_string(), "192.0.2.60");
    assert!(
        server.log().contains("DHCP lease: 192.0.2.60/24, router 192.0.2.1, name servers 192.0.2.1"),
        "{}",
        server.log()
    );
    // Several connections, spread over the queues; then answers that have to go through the router.
    for _ in 0..8 {
        assert_eq!(bed.curl(&[&url("192.0.2.60", "/")]), b"<h1>hello</h1>\n");
    }
    assert_eq!(bed.curl(&["--interface", BEYOND, &url("192.0.2.60", "/bytes/200000")]).len(), 200_000);
    assert!(bed.ping("192.0.2.60") && bed.ping(KERNEL4));

    let confirmed = dhcp.confirmed(address);
    wait_until(LEASE_LIMIT, "the lease is renewed twice", || dhcp.confirmed(address) >= confirmed + 2);
    assert_eq!(leases(&server.log()).len(), 1, "a renewal changes nothing: {}", server.log());

    // Its successor has other addresses to lend: the next renewal is refused, and the stack asks anew.
    drop(dhcp);
    let dhcp = Dnsmasq::start(&bed.pair, "192.0.2.70", "192.0.2.70");
    let address = wait_for_lease(&server, 2, SUCCESSOR_LIMIT);
    assert_eq!((address.to_string().as_str(), dhcp.confirmed(address)), ("192.0.2.70", 1));
    assert!(server.log().contains("the DHCP lease is over"));
    assert_eq!(bed.curl(&[&url("192.0.2.70", "/")]), b"<h1>hello</h1>\n");
    assert!(!bed.ping("192.0.2.60"), "the former address is given up");
    server.stop();
}

/// `bywash get --dhcp` of this URL.
fn get(bed: &Bed, arguments: &[&str]) -> Output {
    let arguments = [&["get", "--dhcp", "--log", "warn"], arguments].concat();
    bywash(bed, &arguments).output().expect("run bywash")
}

#[test]
fn a_client_resolves_names_with_the_leases_name_server_and_reaches_what_its_router_does() {
    require_root!();
    let bed = Bed::simple();
    bed.peer().ip(&format!("address add {BEYOND}/32 dev lo"));
    kernel_http::start(bed.peer());
    let _dhcp = Dnsmasq::start(&bed.pair, "192.0.2.60", "192.0.2.69");
    for url in ["http://files.test/small", "http://198.51.100.7/small"] {
        let output = get(&bed, &[url]);
        assert_eq!(output.stdout, b"small\n", "{url}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_client_that_no_server_answers_says_so() {
    require_root!();
    let bed = Bed::simple();
    let output = get(&bed, &["--connect-timeout", "2s", "http://192.0.2.1/"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.lines().last().is_some_and(|line| line.contains("DHCP")), "{errors}");
}
