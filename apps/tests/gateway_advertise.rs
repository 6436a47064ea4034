//! `[link.advertise]`: a kernel's host inside finds the gateway and makes its IPv6 address by what it is told, and loses the
//! route when the gateway stops.

mod common;

use std::fs;
use std::net::Ipv6Addr;
use std::process::Command;
use std::time::Duration;

use bywash_afxdp::require_root;
use common::gateway::{GatewayBed, INSIDE6, LAN6, OUTSIDE6};
use common::{ping, wait_until};

/// A host asks when its interface comes up, and is answered within half a second; its own checks of addresses take two.
const LIMIT: Duration = Duration::from_secs(10);

/// The configuration with `table` added to the link inside.
fn config(bed: &GatewayBed, table: &str) -> String {
    bed.config()
        .replacen("[[link]]", "@", 1)
        .replacen("[[link]]", &format!("{table}[[link]]"), 1)
        .replace('@', "[[link]]")
}

/// What `ip -6` says of the interface inside.
fn said(bed: &GatewayBed, what: &[&str]) -> String {
    let output =
        bed.inside().command("ip").arg("-6").args(what).args(["dev", &bed.lan.peer_interface]).output();
    String::from_utf8(output.expect("run ip").stdout).expect("text")
}

/// The address that the host inside made itself.
fn made(bed: &GatewayBed) -> Option<Ipv6Addr> {
    let text = said(bed, &["address", "show", "scope", "global"]);
    let line = text.lines().find(|line| line.contains("dynamic") && !line.contains("tentative"))?;
    line.split_whitespace().nth(1)?.split('/').next()?.parse().ok()
}

/// Forgets what the host inside was given by hand, and lets it ask.
fn restart(bed: &GatewayBed) {
    let (inside, interface) = (bed.inside(), &bed.lan.peer_interface);
    for (what, value) in [("accept_ra", "2"), ("autoconf", "1"), ("router_solicitations", "3")] {
        inside.sysctl(&format!("net/ipv6/conf/{interface}/{what}"), value);
    }
    inside.sysctl(&format!("net/ipv6/neigh/{interface}/delay_first_probe_time"), "1");
    inside.ip(&format!("link set {interface} down"));
    inside.ip(&format!("link set {interface} up"));
}

#[test]
fn a_host_inside_configures_itself_and_forgets_a_gateway_that_stops() {
    require_root!();
    let bed = GatewayBed::new();
    bed.inside().ip(&format!("-6 address del {INSIDE6}/64 dev {}", bed.lan.peer_interface));
    bed.inside().ip("-6 route flush default");
    let table = "[link.advertise]\ninterval = '10m'\nother-config = true\ndns = ['2001:db8:9::53']\n";
    let gateway = bed.start_with(&config(&bed, table), "", &["--pcap", "../seen.pcap"]);
    restart(&bed);

    wait_until(LIMIT, "the host inside makes an address", || made(&bed).is_some());
    let address = made(&bed).expect("just seen");
    assert_eq!(address.segments()[..4], [0x2001, 0xdb8, 1, 0], "of the link's network");
    let route = || said(&bed, &["route", "show", "default"]);
    let found = route();
    assert!(found.contains("via fe80::") && found.contains("proto ra"), "{found}");
    let expires = found.split_whitespace().skip_while(|word| *word != "expires").nth(1).expect("a lifetime");
    let seconds: u32 = expires.trim_end_matches("sec").parse().expect("seconds");
    assert!((1700..=1800).contains(&seconds), "three times the interval: {found}");
    // By the gateway, and back to the address that was made.
    assert!(ping(bed.inside(), OUTSIDE6) && ping(bed.inside(), LAN6));
    // Neighbours have been asked by now whether they are there, and the gateway has announced its addresses: it is still a router.
    std::thread::sleep(Duration::from_secs(5));
    assert!(ping(bed.inside(), OUTSIDE6), "{}", route());
    assert!(route().contains("via fe80::"));
    let metrics = bed.metrics();
    assert!(metrics.total("router_solicitations_rx_total") >= 1, "the host asked");
    assert!(metrics.total("router_advertisements_tx_total") >= 2, "once unasked, and the host was answered");

    let (kept, _) = gateway.stop_and_keep();
    wait_until(LIMIT, "the host has no default route any more", || route().is_empty());
    assert_eq!(made(&bed), Some(address), "the network is there all the same");
    let shown = tshark(&kept.path().join("seen.pcap"));
    let lifetimes: Vec<&str> = shown.iter().map(|line| line.split(' ').next().expect("a field")).collect();
    let (last, others) = lifetimes.split_last().expect("advertisements");
    assert!(*last == "0" && others.iter().all(|lifetime| *lifetime == "1800"), "{lifetimes:?}");
    for line in &shown {
        assert!(line.ends_with(" 255 1500 2001:db8:1:: 64 2592000 2001:db8:9::53"), "{line}");
    }
    fs::remove_dir_all(kept.path()).expect("remove the directory");
}

/// Lifetime of the router, hop limit of the packet, MTU, prefix with its length and lifetime, and name server of all
/// advertisements, none of which may have a fault.
fn tshark(file: &std::path::Path) -> Vec<String> {
    let read = |filter: &str, fields: &[&str]| {
        let mut command = Command::new("tshark");
        command.args(["-n", "-T", "fields", "-E", "separator=/s", "-Y", filter]);
        command.args(fields.iter().flat_map(|field| ["-e", *field])).arg("-r").arg(file);
        let output = command.output().expect("run tshark");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let faulty = "icmpv6.type == 134 && (_ws.malformed || icmpv6.checksum.status != \"Good\" || _ws.expert.severity >= \"Note\")";
    let faults = read(faulty, &["_ws.col.Info", "_ws.expert.message"]);
    assert!(faults.is_empty(), "{faults:?}");
    let fields = [
        "icmpv6.nd.ra.router_lifetime",
        "ipv6.hlim",
        "icmpv6.opt.mtu",
        "icmpv6.opt.prefix",
        "icmpv6.opt.prefix.length",
        "icmpv6.opt.prefix.valid_lifetime",
        "icmpv6.opt.rdnss",
    ];
    read("icmpv6.type == 134", &fields)
}

#[test]
fn what_hosts_could_not_use_is_refused_with_the_reason() {
    require_root!();
    let bed = GatewayBed::new();
    for (table, reason) in [
        ("[link.advertise]\ninterval = 1\n", "router advertisements every 1s; RFC 4861 wants 4s to 1800s"),
        ("[link.advertise]\nlifetime = '10h'\n", "a default router for 36000s"),
        (
            "[link.advertise]\nprefix = [{ prefix = '192.168.1.0/24' }]\n",
            "192.168.1.0/24 cannot be advertised",
        ),
        (
            "[link.advertise]\nprefix = [{ prefix = '2001:db8::/60', autonomous = true }]\n",
            "prefixes of 64 bits only",
        ),
        ("[link.advertise]\nroute = 1\n", "unknown field `route`"),
    ] {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("gw.toml");
        fs::write(&path, config(&bed, table)).expect("write the configuration");
        fs::write(directory.path().join("gw.rules"), "").expect("write the rules");
        let mut command = bed.lan.stack.command(env!("CARGO_BIN_EXE_bywash"));
        let output =
            command.args(["gateway", "--check", "--config"]).arg(&path).output().expect("run bywash");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(reason) && said.contains("gw.toml"),
            "{table}: {said}"
        );
    }
}
