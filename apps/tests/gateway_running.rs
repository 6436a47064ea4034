//! `bywash gateway` as a program: its own services beside forwarding, rules read again, a clean end, DHCP outside, the
//! kernel's address beside it, a capture of all links, and configurations that are wrong.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bywash_afxdp::testing::{Namespace, VethPair};
use bywash_afxdp::{Nic, require_root};
use common::dnsmasq::{Dnsmasq, LEASE_LIMIT};
use common::gateway::{
    FAR4, GatewayBed, Greeted, HOME, INSIDE4, LAN4, LAN6, OUTSIDE4, WAN4, WAN6, ask, serve, udp, who,
};
use common::{curl, get, kernel_http, ping, url, wait_until};

/// Connects within a second, and says with what error not.
fn connect(from: &Namespace, to: &str, port: u16) -> Result<TcpStream, ErrorKind> {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1))).map_err(|error| error.kind())
}

#[test]
fn without_rules_the_page_is_for_the_lan_all_the_same_unless_said_otherwise() {
    require_root!();
    let bed = GatewayBed::new();
    let gateway = bed.start("");
    assert_eq!(get(bed.inside(), LAN4, "/").0, 200);
    for host in [LAN4, LAN6] {
        // The inner address can be reached from outside, by the route to the LAN; the page ends the connection at once.
        let asked = connect(bed.outside(), host, 80).and_then(|mut stream| {
            let sent = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            sent.and_then(|()| stream.read(&mut [0; 1])).map_err(|error| error.kind())
        });
        assert_eq!(asked, Err(ErrorKind::ConnectionReset), "{host}");
    }
    gateway.stop();
    let config = bed.config().replace("[admin]\n", "[admin]\nfrom = ['192.0.2.2/32']\n");
    let gateway = bed.start_with(&config, "", &[]);
    assert_eq!(get(bed.outside(), LAN4, "/").0, 200);
    gateway.stop();
}

#[test]
fn the_page_and_echo_are_there_for_the_lan_while_packets_are_forwarded() {
    require_root!();
    let bed = GatewayBed::new();
    kernel_http::start(bed.outside());
    let gateway = bed.start(HOME);
    // A long download in the background, until the rest is done.
    let mut background = bed.inside().command("curl");
    background.args(["-sS", "-o", "/dev/null", &url(OUTSIDE4, "/bytes/100000000000")]);
    let mut background = background.spawn().expect("run curl");
    wait_until(Duration::from_secs(10), "packets are forwarded", || {
        bed.metrics().total("forwarded_bytes_total") > 1_000_000
    });
    for host in [LAN4, LAN6] {
        let page = String::from_utf8(curl(bed.inside(), &[&url(host, "/")])).expect("HTML");
        assert!(page.contains("Bywash gateway") && page.contains("<td>lan<td>192.168.1.254/24"), "{page}");
        let status = curl(bed.inside(), &[&url(host, "/status.json")]);
        let status: serde_json::Value = serde_json::from_slice(&status).expect("JSON");
        assert!(status["forwarded_packets"].as_u64().is_some_and(|packets| packets > 100), "{status}");
        assert!(status["flows"].as_u64().is_some_and(|flows| flows >= 1), "{status}");
        assert_eq!(status["links"][1]["name"], "wan");
        let metrics = curl(bed.inside(), &[&url(host, "/metrics")]);
        assert!(String::from_utf8(metrics).expect("text").contains("\nbywash_forwarded_packets_total{"));
        assert_eq!(get(bed.inside(), host, "/nothing").0, 404);

        let mut stream = connect(bed.inside(), host, 7).expect("the echo service");
        stream.write_all(b"hello").expect("send");
        let mut back = [0; 5];
        stream.read_exact(&mut back).expect("the echo");
        assert_eq!(&back, b"hello");
        let from = if host == LAN4 { "0.0.0.0:0" } else { "[::]:0" };
        assert_eq!(ask(&udp(bed.inside(), from, (host, 7)), b"hello").expect("the echo"), b"hello");
    }
    for host in [WAN4, WAN6] {
        for port in [80, 7] {
            assert_eq!(
                connect(bed.outside(), host, port).err(),
                Some(ErrorKind::TimedOut),
                "{host} port {port}"
            );
        }
        assert!(ping(bed.outside(), host), "what the rules allow is answered");
    }
    // The page is at the LAN's addresses only, also for whom rules would let in.
    assert!(connect(bed.inside(), WAN4, 80).is_err());
    assert!(background.try_wait().expect("look at curl").is_none(), "the download went on");
    background.kill().expect("end curl");
    background.wait().expect("wait for curl");
    gateway.stop();
}

#[test]
fn rules_read_again_apply_to_what_begins_and_wrong_ones_change_nothing() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.outside(), 8000, "outside");
    let gateway = bed.start(HOME);
    let rules = gateway.path("gw.rules");
    let mut old = Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("allowed");
    let old_udp = udp(bed.inside(), "0.0.0.0:4000", (OUTSIDE4, 8000));
    who(&old_udp);

    let wrong = HOME.replace(
        "-A FORWARD -i lan -j ACCEPT\n",
        "-A FORWARD -i lan -j ACCEPT\n-A FORWARD -p tcp --dport x -j DROP\n",
    );
    fs::write(&rules, wrong).expect("write the rules");
    gateway.signal("HUP");
    wait_until(Duration::from_secs(5), "wrong rules are told", || gateway.log().contains("gw.rules:13:27: "));
    assert!(gateway.log().contains("the rules stay as they were"), "{}", gateway.log());
    old.exchange("after wrong rules\n");
    assert_eq!(
        Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("as before").client.ip().to_string(),
        WAN4
    );

    // Nothing may begin any more, but towards the gateway.
    let closed =
        HOME.replace("-A FORWARD -i lan -j ACCEPT\n", "").replace("ESTABLISHED,RELATED,DNAT", "ESTABLISHED");
    fs::write(&rules, closed).expect("write the rules");
    gateway.signal("HUP");
    wait_until(Duration::from_secs(5), "rules are read again", || gateway.log().contains("rules read again"));
    wait_until(Duration::from_secs(5), "nothing begins", || connect(bed.inside(), OUTSIDE4, 8000).is_err());
    let new_udp = udp(bed.inside(), "0.0.0.0:4001", (OUTSIDE4, 8000));
    assert_eq!(ask(&new_udp, b"x").map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    for _ in 0..10 {
        old.exchange("what was let through goes on\n");
        assert_eq!(ask(&old_udp, b"as do datagrams").expect("an answer"), b"as do datagrams");
    }
    // And back again.
    fs::write(&rules, HOME).expect("write the rules");
    gateway.signal("HUP");
    wait_until(Duration::from_secs(5), "it begins again", || connect(bed.inside(), OUTSIDE4, 8000).is_ok());
    old.exchange("still\n");
    gateway.stop();
}

/// Whether there is an XDP program on the gateway's interface of this pair.
fn has_program(pair: &VethPair) -> bool {
    pair.stack.run(|| Nic::open(&pair.stack_interface)).expect("look at the interface").attached.is_some()
}

#[test]
fn the_kernels_address_on_the_nic_stays_reachable_and_sigterm_gives_all_back() {
    require_root!();
    let bed = GatewayBed::new();
    const KERNEL4: &str = "192.168.1.253";
    bed.lan.stack_address(&format!("{KERNEL4}/24"));
    serve(&bed.lan.stack, 2222, "kernel");
    serve(bed.outside(), 8000, "outside");
    let mut before = Greeted::connect(bed.inside(), KERNEL4, 2222).expect("the kernel");
    let mut gateway = bed.start(HOME);
    assert!(has_program(&bed.lan) && has_program(&bed.wan));
    before.exchange("a connection to the kernel goes on\n");
    let mut during = Greeted::connect(bed.inside(), KERNEL4, 2222).expect("the kernel");
    assert_eq!(during.name, "kernel");
    assert!(ping(bed.inside(), KERNEL4) && ping(bed.inside(), LAN4));
    let mut through = Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("forwarded");
    through.exchange("and packets are forwarded beside it\n");

    gateway.signal("TERM");
    let status = gateway.wait(Duration::from_secs(10));
    let summary = fs::read_to_string(gateway.path("summary")).expect("read the summary");
    assert!(status.success() && summary.contains("frames    all"), "{status}: {summary}");
    assert!(!has_program(&bed.lan) && !has_program(&bed.wan), "the programs are gone");
    before.exchange("the kernel has its NIC\n");
    during.exchange("as before\n");
    assert!(ping(bed.inside(), KERNEL4));
    assert!(!ping(bed.inside(), LAN4), "nobody answers for the gateway any more");
    // And again, at once.
    let gateway = bed.start(HOME);
    assert_eq!(Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("forwarded").name, "outside");
    gateway.stop();
}

#[test]
fn a_lease_outside_gives_address_and_default_route_and_masquerade_follows_it() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.outside(), 8000, "outside");
    serve(&bed.far, 8000, "far");
    let _dhcp = Dnsmasq::start(&bed.wan, "192.0.2.60", "192.0.2.60");
    // dnsmasq names itself as the router: the outside host.
    let config = bed.links().replace(&format!("address = ['{WAN4}/24', '{WAN6}/64']"), "dhcp = true");
    let gateway = bed.start_with(&config, HOME, &[]);
    wait_until(LEASE_LIMIT, "a lease is logged", || gateway.log().contains("DHCP lease: 192.0.2.60/24"));
    assert!(gateway.log().contains("router 192.0.2.2"), "{}", gateway.log());
    for (host, name) in [(OUTSIDE4, "outside"), (FAR4, "far")] {
        let mut greeted = Greeted::connect(bed.inside(), host, 8000).expect("by the lease");
        assert_eq!((greeted.name.as_str(), greeted.client.ip().to_string().as_str()), (name, "192.0.2.60"));
        greeted.exchange("there and back\n");
        assert_eq!(who(&udp(bed.inside(), "0.0.0.0:0", (host, 8000))).1.ip().to_string(), "192.0.2.60");
    }
    assert!(ping(bed.inside(), FAR4) && ping(bed.outside(), "192.0.2.60"));
    gateway.stop();
}

#[test]
fn a_capture_shows_what_came_and_went_on_both_links() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.outside(), 8000, "outside");
    let gateway = bed.start_with(&bed.config(), HOME, &["--pcap", "../seen.pcap"]);
    Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("forwarded").exchange("seen twice\n");
    let (kept, _) = gateway.stop_and_keep();
    let seen = |filter: &str| {
        let file = kept.path().join("seen.pcap");
        let output = Command::new("tshark").args(["-n", "-r"]).arg(file).args(["-Y", filter]).output();
        let output = output.expect("run tshark");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout.iter().filter(|&&byte| byte == b'\n').count()
    };
    // The SYN as it came in by the one link and as it went out by the other, and its answer.
    for (src, dst, flags) in [
        (INSIDE4, OUTSIDE4, "0x002"),
        (WAN4, OUTSIDE4, "0x002"),
        (OUTSIDE4, WAN4, "0x012"),
        (OUTSIDE4, INSIDE4, "0x012"),
    ] {
        let filter =
            format!("ip.src == {src} && ip.dst == {dst} && tcp.flags == {flags} && tcp.port == 8000");
        assert_eq!(seen(&filter), 1, "{filter}");
    }
    assert_eq!(seen("tcp contains \"seen twice\""), 4, "the line there and back, on each link");
    assert_eq!(seen("_ws.malformed"), 0);
}

/// `bywash gateway` with this configuration and these rules, outside of any namespace.
fn check(config: &str, rules: &str, more: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("make a directory");
    fs::write(directory.path().join("gw.toml"), config).expect("write the configuration");
    fs::write(directory.path().join("gw.rules"), rules).expect("write the rules");
    Command::new(env!("CARGO_BIN_EXE_bywash"))
        .env_remove("BYWASH_LOG")
        .current_dir(directory.path())
        .args(["gateway", "--config", "gw.toml"])
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("run bywash")
}

const CONFIG: &str = "\
rules = 'gw.rules'
[[link]]
interface = 'nowhere0'
name = 'lan'
address = ['192.168.1.254/24']
[[link]]
interface = 'nowhere1'
name = 'wan'
dhcp = true
[conntrack.timeouts]
udp = '1m'
";

#[test]
fn check_says_what_the_files_mean_without_touching_a_nic() {
    let output = check(CONFIG, HOME, &["--check"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.starts_with("gw.toml is good: lan (nowhere0) 192.168.1.254/24, wan (nowhere1) DHCP\n"),
        "{text}"
    );
    assert!(text.contains("-o wan -j MASQUERADE\n") && text.contains(":FORWARD DROP"), "{text}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("no link has that name"), "{errors}");
    let output = check(CONFIG, "-A FORWARD -i lann -j ACCEPT\n", &["--check"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.contains("rules name lann, and no link has that name"),
        "{errors}"
    );
}

#[test]
fn an_address_that_the_kernel_has_too_is_told_of() {
    require_root!();
    let bed = GatewayBed::new();
    let gateway = bed.start("");
    assert!(!gateway.log().contains("the kernel has"), "{}", gateway.log());
    gateway.stop();
    bed.kernel_has(LAN4);
    let gateway = bed.start("");
    assert!(gateway.log().contains(&format!("the kernel has {LAN4} on")), "{}", gateway.log());
    gateway.stop();
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    for (change, rules, says) in [
        (("dhcp = true", "dhpc = true"), HOME, "gw.toml:9: "),
        (("'192.168.1.254/24'", "'192.168.1.254/33'"), HOME, "gw.toml:5: "),
        (("udp = '1m'", "udp = '1 parsec'"), HOME, "gw.toml:11: "),
        (("name = 'wan'", "name = 'lan'"), HOME, "gw.toml: [[link]] lan is there twice"),
        (("", ""), "-A FORWARD -i lan -j ACEPT\n", "gw.rules:1:22: `ACEPT` is neither a target"),
        (("'gw.rules'", "'no.rules'"), HOME, "no.rules"),
    ] {
        for more in [&["--check"][..], &[]] {
            let output = check(&CONFIG.replacen(change.0, change.1, 1), rules, more);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && errors.contains(says), "{says}: {errors}");
        }
    }
    let output = check(&CONFIG.replacen("dhcp = true", "dhcp = true\nmtu = 10", 1), HOME, &["--check"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("MTU 10 is not possible"), "{errors}");
    let output = check(CONFIG, HOME, &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("nowhere0"), "{errors}");
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("rules");
    fs::write(&path, b"\xff\xfe*\0n\0").expect("write the rules");
    let config = CONFIG.replacen("gw.rules", path.to_str().expect("UTF-8"), 1);
    let output = check(&config, "", &["--check"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("no text in UTF-8"), "{errors}");
}
