//! `bywash gateway` with a thread for each queue of its NICs: whatever queues the NICs choose for a flow's directions, one thread
//! has it, and everything goes as with one.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use bywash_afxdp::require_root;
use common::gateway::{GatewayBed, Greeted, HOME, LAN4, OUTSIDE4, OUTSIDE6, WAN4, serve, udp, who};
use common::{kernel_http, ping, url};

/// What is fetched.
const LENGTH: u64 = 100_000_000;

const FORWARDED: &str = "\
*nat
-A PREROUTING -i wan -p tcp --dport 8000:8003 -j DNAT --to-destination 192.168.1.1:9000
-A PREROUTING -i wan -p udp --dport 8000:8003 -j DNAT --to-destination 192.168.1.1:9000
COMMIT
";

#[test]
fn flows_of_several_hosts_go_through_two_threads_and_each_has_one() {
    require_root!();
    let bed = GatewayBed::with_queues(2);
    serve(bed.outside(), 9000, "outside");
    let gateway = bed.start_with(&bed.config(), HOME, &["--control", "../control.sock"]);
    assert!(gateway.log().contains("4 queues on 2 threads"), "{}", gateway.log());
    // By its address each host belongs to a thread: so many are not all one's.
    let hosts: Vec<String> = (100..120).map(|host| format!("192.168.1.{host}")).collect();
    hosts.iter().for_each(|host| bed.lan.peer_address(&format!("{host}/24")));
    let mut connections = Vec::new();
    // Kept open: a socket of the same port would have the same one outside.
    let (mut sockets, mut sources) = (Vec::new(), BTreeSet::new());
    for round in 0..10 {
        let mut greeted =
            Greeted::connect(bed.inside(), OUTSIDE4, 9000).expect("a connection through the gateway");
        assert_eq!(greeted.client.ip().to_string(), WAN4);
        greeted.exchange(&format!("{round}\n"));
        connections.push(greeted);
        for host in &hosts {
            let socket = udp(bed.inside(), &format!("{host}:0"), (OUTSIDE4, 9000));
            assert!(sources.insert(who(&socket).1), "each socket has a port of its own outside");
            sockets.push(socket);
        }
    }
    connections.iter_mut().for_each(|greeted| greeted.exchange("still there\n"));
    let metrics = bed.metrics();
    let flows = [metrics.of_shard("flows", 0), metrics.of_shard("flows", 1)];
    assert!(flows.iter().all(|flows| *flows >= 10), "each host's flows are one thread's: {flows:?}");
    // All of them once, and what asked for the figures.
    assert!((210..220).contains(&(flows[0] + flows[1])), "{flows:?}");
    assert!(metrics.total("rx_handed_over_total") > 0, "some replies came to the other thread's queue");
    let counted = ct(&gateway.path("control.sock"), "-C");
    assert_eq!(counted.trim().parse::<u64>().expect("a number"), flows[0] + flows[1]);
    assert!(ping(bed.inside(), OUTSIDE4) && ping(bed.inside(), LAN4));
    gateway.stop();
}

#[test]
fn files_cross_two_threads_unchanged() {
    require_root!();
    let bed = GatewayBed::with_queues(2);
    kernel_http::start(bed.outside());
    let gateway = bed.start(HOME);
    let expected = kernel_http::digest_of_bytes(LENGTH);
    for host in [OUTSIDE4, OUTSIDE6] {
        let mut child = bed
            .inside()
            .command("curl")
            .args(["-sS", "--fail", "--globoff", &url(host, &format!("/bytes/{LENGTH}"))])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("run curl");
        let digest =
            kernel_http::digest_of(&mut child.stdout.take().expect("a pipe")).expect("read what curl gets");
        assert!(child.wait().expect("wait for curl").success(), "curl fails");
        assert_eq!(digest, expected);
    }
    println!("drops: {:?}", bed.metrics().drops());
    gateway.stop();
}

#[test]
fn a_forwarded_ports_flows_meet_though_the_servers_answers_have_another_home() {
    require_root!();
    let bed = GatewayBed::with_queues(2);
    serve(bed.inside(), 9000, "inside");
    let gateway = bed.start(&format!("{FORWARDED}{HOME}"));
    let mut connections = Vec::new();
    for round in 0..40 {
        let port = 8000 + round % 4;
        let mut greeted = Greeted::connect(bed.outside(), WAN4, port).expect("the port leads inside");
        assert_eq!((greeted.name.as_str(), greeted.client.ip().to_string().as_str()), ("inside", OUTSIDE4));
        greeted.exchange(&format!("{round}\n"));
        connections.push(greeted);
        assert_eq!(who(&udp(bed.outside(), "0.0.0.0:0", (WAN4, port))).0, "inside");
    }
    // Rules are read again, and all go on.
    fs::write(gateway.path("gw.rules"), HOME).expect("write the rules");
    gateway.signal("HUP");
    connections.iter_mut().for_each(|greeted| greeted.exchange("still there\n"));
    let flows = [0, 1].map(|shard| bed.metrics().of_shard("flows", shard));
    assert!(flows.iter().all(|flows| *flows >= 40), "by the port, half of them are each thread's: {flows:?}");
    let summary = gateway.stop();
    assert!(summary.contains("on 2 shard(s)") && summary.contains("frames    all"), "{summary}");
}

/// What `bywash ct` says of the process with this control socket.
fn ct(control: &std::path::Path, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bywash"))
        .env_remove("BYWASH_LOG")
        .args(["ct", "--control"])
        .arg(control)
        .args(arguments.split(' '))
        .output()
        .expect("run bywash ct");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
