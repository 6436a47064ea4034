//! `bywash gateway` under scans and floods from outside: it goes on, what is established goes on, and the counters tell.

mod common;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bywash_afxdp::require_root;
use common::gateway::{GatewayBed, Greeted, HOME, LAN4, OUTSIDE4, WAN4, WAN6, serve, udp, who};
use common::server::Server;
use common::{get, ping, wait_until};

/// No names, no ping first, and as fast as it goes.
const NMAP: &str = "-n -Pn --max-retries 1 -T5";

/// A connection and a UDP flow through the gateway, of before the attack.
struct Bystander {
    tcp: Greeted,
    udp: std::net::UdpSocket,
}

impl Bystander {
    fn new(bed: &GatewayBed) -> Self {
        let tcp = Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("forwarded");
        let udp = udp(bed.inside(), "0.0.0.0:4000", (OUTSIDE4, 8000));
        let mut this = Self { tcp, udp };
        // An answered UDP flow is a stream, and stays in a full table, when it is two seconds old.
        let start = Instant::now();
        wait_until(Duration::from_secs(5), "the flows are assured", || {
            this.exchange();
            start.elapsed() > Duration::from_millis(2200)
        });
        this
    }

    fn exchange(&mut self) {
        self.tcp.exchange("still there\n");
        assert_eq!(who(&self.udp).1.to_string(), format!("{WAN4}:4000"), "the mapping stays");
    }
}

/// nmap's lines about ports, scanning from outside.
fn nmap(bed: &GatewayBed, arguments: &str) -> String {
    let output = tool(bed, "nmap", &format!("{NMAP} {arguments}")).output().expect("run nmap");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "nmap {arguments}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Running attackers, which do not outlive the test.
struct Attackers(Vec<Child>);

impl Attackers {
    /// Starts them all; what they say is of no interest.
    fn start(commands: impl IntoIterator<Item = Command>) -> Self {
        let quietly = |mut command: Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run nmap or hping3")
        };
        Self(commands.into_iter().map(quietly).collect())
    }

    /// Whether all have ended.
    fn are_done(&mut self) -> bool {
        self.0.iter_mut().all(|child| child.try_wait().expect("wait for an attacker").is_some())
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program of the outside host.
fn tool(bed: &GatewayBed, program: &str, arguments: &str) -> Command {
    let mut command = bed.outside().command(program);
    command.args(arguments.split_whitespace()).stdin(Stdio::null());
    command
}

/// All is well: no thread has ended, packets go through, new flows begin, and no frame is missing in the end.
fn assert_sound(bed: &GatewayBed, gateway: Server, bystander: &mut Bystander) {
    bystander.exchange();
    Greeted::connect(bed.inside(), OUTSIDE4, 8000).expect("a new connection").exchange("new\n");
    assert!(ping(bed.outside(), WAN4));
    assert!(!gateway.log().contains("panic"), "{}", gateway.log());
    let summary = gateway.stop();
    assert!(summary.contains("frames    all"), "{summary}");
}

#[test]
fn scans_of_all_kinds_find_what_the_rules_leave_open_and_harm_nothing() {
    require_root!();
    let bed = GatewayBed::new();
    serve(bed.inside(), 8000, "inside");
    serve(bed.outside(), 8000, "outside");
    let nat =
        "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:8000\nCOMMIT\n";
    let rules = format!("{nat}{HOME}").replace(
        "-A INPUT -i lan -j ACCEPT\n",
        "-A INPUT -i lan -j ACCEPT\n-A INPUT -p tcp --dport 7 -j ACCEPT\n-A INPUT -p tcp --dport 113 -j REJECT --reject-with tcp-reset\n-A INPUT -p udp --dport 113 -j REJECT\n",
    );
    let gateway = bed.start(&rules);
    let mut bystander = Bystander::new(&bed);
    let dropped = bed.dropped("filtered");

    // SYN scan: the echo and the forwarded port are open, one is closed by a RST, all others are silent.
    let found = nmap(&bed, &format!("-sS -p 1-1000,8080 {WAN4}"));
    for (port, state) in [("7/tcp", "open"), ("113/tcp", "closed"), ("8080/tcp", "open")] {
        let line =
            found.lines().find(|line| line.starts_with(port)).unwrap_or_else(|| panic!("{port}: {found}"));
        assert!(line.contains(state), "{found}");
    }
    assert!(found.contains("Not shown: 998 filtered"), "{found}");
    bystander.exchange();
    let found = nmap(&bed, &format!("-sU -p 7,53,113,4000 {WAN4}"));
    let line = found.lines().find(|line| line.starts_with("113/udp")).unwrap_or_else(|| panic!("{found}"));
    assert!(line.contains("closed"), "{found}");

    // All at once: FIN, NULL, Xmas and Maimon scans; ACK and window scans; fragments of 8 bytes; IP protocols; version 6.
    let scans = ["-sF", "-sN", "-sX", "-sM", "-sA", "-sW", "-sS -f", "-sA -f"];
    let scans = scans.map(|scan| format!("{scan} -p 1-50,113,8080 {WAN4}"));
    let more = [format!("-sO -p 0-20 {WAN4}"), format!("-6 -sS -p 1-100 {WAN6}")];
    // And hping3: all flags, none, odd ones, data in SYNs, small fragments, odd ICMP and IP protocols, port 0.
    let odd = [
        "-S -A -F -R -P -U -X -Y -p 8080",
        "-p 8080",
        "-S -d 1400 -p 8080",
        "-S -d 4000 -f -p 8080",
        "-A -p 4000 --rand-source",
        "-R -p 4000 -s 8000",
        "-2 -d 3000 -f -p 4000",
        "-2 -p 0 -s 0",
        "-1 -C 13",
        "-1 -C 3 -K 4",
        "-0 -H 132 -d 60",
        "-S -p 8080 --badcksum",
    ];
    let nmaps = scans.iter().chain(&more).map(|scan| tool(&bed, "nmap", &format!("{NMAP} {scan}")));
    let hpings = odd.map(|odd| tool(&bed, "hping3", &format!("-q -n -c 50 -i u2000 {odd} {WAN4}")));
    let mut attackers = Attackers::start(nmaps.chain(hpings));
    wait_until(Duration::from_secs(60), "the scans are done", || {
        bystander.exchange();
        attackers.are_done()
    });
    let metrics = bed.metrics();
    assert!(metrics.sum("drops_total", "reason=\"filtered\"") > dropped + 1000, "{:?}", metrics.drops());
    assert!(metrics.sum("drops_total", "checksum") >= 40, "{:?}", metrics.drops());
    println!("drops: {:?}", metrics.drops());
    assert_eq!(get(bed.inside(), LAN4, "/").0, 200);
    assert_sound(&bed, gateway, &mut bystander);
}

#[test]
fn a_flood_from_invented_sources_fills_the_table_to_its_bound_and_no_further() {
    require_root!();
    const FLOWS_MAX: u64 = 1000;
    let bed = GatewayBed::new();
    serve(bed.inside(), 8000, "inside");
    serve(bed.outside(), 8000, "outside");
    let nat =
        "*nat\n-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.1:8000\nCOMMIT\n";
    let config = format!("{}[conntrack]\nmax = {FLOWS_MAX}\n", bed.config());
    let gateway = bed.start_with(&config, &format!("{nat}{HOME}"), &[]);
    let mut bystander = Bystander::new(&bed);
    let before = bed.metrics();

    // SYNs from anywhere to the forwarded port, while the bystander goes on.
    let hping = tool(&bed, "hping3", &format!("-q -n --flood --rand-source -S -p 8080 {WAN4}"));
    let flood = Attackers::start([hping]);
    let forwarded = before.total("forwarded_packets_total");
    wait_until(Duration::from_secs(20), "the flood passes", || {
        bystander.tcp.exchange("during the flood\n");
        let metrics = bed.metrics();
        assert!(metrics.total("flows") <= FLOWS_MAX);
        metrics.total("forwarded_packets_total") > forwarded + 100_000
    });
    drop(flood);
    let metrics = bed.metrics();
    println!("drops: {:?}", metrics.drops());
    assert_eq!(metrics.total("flows_max"), FLOWS_MAX);
    assert!(metrics.total("flow_early_drops_total") > 10_000, "old flows made room for new ones");
    assert_sound(&bed, gateway, &mut bystander);
}
