//! Routers behind veth pairs: Linux's in a namespace, and `bywash gateway` as it runs. The hosts are packet sockets on the
//! far ends. What a packet has brought about is there when the router answers an ARP request that was sent after it.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bywash_afxdp::testing::{Namespace, VethOptions, VethPair};
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::event::{PollFd, PollFlags, poll};

use super::link::{
    GATEWAY4, GATEWAY6, HOST_MACS, ROUTER_LAN, ROUTER_MACS, ROUTER_WAN, Side, answer, barrier, frame,
    ip_packet, is_barrier,
};
use super::router::{Flow, Output, Router, Setup};

/// How long a router may take for what it answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the ARP request is repeated until then: a router that is busy may drop it.
const AGAIN: Duration = Duration::from_millis(500);

/// The two links, with the hosts' sockets.
struct Wire {
    /// The router's namespace is `stack` of both.
    pairs: [VethPair; 2],
    sockets: [File; 2],
}

impl Wire {
    fn new(offloads: bool) -> Self {
        let options = VethOptions { queues: 1, mtu: 1500, peer_offloads: false };
        let lan = VethPair::new(options);
        let wan = lan.beside(options);
        let pairs = [lan, wan];
        let sockets = Side::BOTH.map(|side| {
            let pair = &pairs[side as usize];
            let mac = ROUTER_MACS[side as usize].map(|byte| format!("{byte:02x}")).join(":");
            pair.stack.ip(&format!("link set {} address {mac}", pair.stack_interface));
            if !offloads {
                // Checksums are looked at on the wire.
                pair.stack
                    .sh("ethtool", &format!("-K {} tx off tso off gso off gro off", pair.stack_interface));
            }
            // Nobody but the socket is there.
            pair.peer.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
            pair.peer.ip(&format!("link set {} arp off", pair.peer_interface));
            pair.peer.run(|| packet_socket(&pair.peer_interface))
        });
        Self { pairs, sockets }
    }

    fn router(&self) -> &Namespace {
        &self.pairs[0].stack
    }

    fn send(&self, side: Side, frame: &[u8]) {
        (&self.sockets[side as usize]).write_all(frame).expect("send a frame");
    }

    /// The next frame on a link, if one is there.
    fn receive(&self, side: Side) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        match (&self.sockets[side as usize]).read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                Some(buffer)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("read from the {} link: {error}", side.name()),
        }
    }

    /// Takes in what is there on both links; whether the router asked for somebody, who was then heard by it, and whether it
    /// answered a barrier on `side`.
    fn take(&self, side: Side, output: &mut Output) -> (bool, bool) {
        let (mut asked, mut answered) = (false, false);
        for link in Side::BOTH {
            while let Some(frame) = self.receive(link) {
                if is_barrier(&frame) {
                    answered |= link == side;
                } else if let Some(reply) = answer(link, &frame) {
                    self.send(link, &reply);
                    asked = true;
                } else if let Some(packet) = ip_packet(&frame) {
                    output.of(link).push(packet);
                }
            }
        }
        (asked, answered)
    }

    /// All that comes until the router has worked off what was sent to it by `side` before.
    fn settle(&self, side: Side, output: &mut Output) {
        let start = Instant::now();
        loop {
            self.send(side, &barrier(side));
            let (mut asked, mut answered) = (false, false);
            let sent = Instant::now();
            while !answered && sent.elapsed() < AGAIN {
                let mut fds = [0, 1].map(|at| PollFd::new(&self.sockets[at], PollFlags::IN));
                let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                let _ = poll(&mut fds, Some(&timeout));
                let (more, done) = self.take(side, output);
                (asked, answered) = (asked | more, done);
            }
            if answered && !asked {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no answer from the router on the {} link", side.name());
        }
    }

    /// A packet, and what comes of it on either link.
    fn exchange(&self, side: Side, packet: &[u8]) -> Output {
        let mut output = Output::default();
        self.send(side, &frame(side, packet));
        self.settle(side, &mut output);
        // What goes out by the other link may still be in its ring.
        self.settle(if side == Side::Lan { Side::Wan } else { Side::Lan }, &mut output);
        output
    }

    fn wait(&self, seconds: u64) -> Output {
        let mut output = Output::default();
        std::thread::sleep(Duration::from_secs(seconds));
        Side::BOTH.into_iter().for_each(|side| self.settle(side, &mut output));
        output
    }
}

/// A packet socket for every protocol on an interface of the calling thread's namespace.
fn packet_socket(interface: &str) -> File {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd =
        socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("a packet socket");
    let mut interfaces = nix::ifaddrs::getifaddrs().expect("list the interfaces");
    let link = |found: nix::ifaddrs::InterfaceAddress| -> Option<LinkAddr> {
        found.address.filter(|_| found.interface_name == interface)?.as_link_addr().copied()
    };
    let addr = interfaces.find_map(link).expect("the interface has a link address");
    bind(fd.as_raw_fd(), &addr).expect("bind the packet socket");
    File::from(fd)
}

/// Every table without a rule.
const EMPTY: &str = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\nCOMMIT\n";

/// Linux.
pub struct Kernel {
    wire: Wire,
    setup: Option<Setup>,
}

impl Kernel {
    pub fn new() -> Self {
        let wire = Wire::new(false);
        let router = wire.router();
        for (name, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            router.sysctl(name, value);
        }
        for side in Side::BOTH {
            let (name, from) = (side.name(), &wire.pairs[side as usize].stack_interface);
            router.ip(&format!("link set {from} down"));
            router.ip(&format!("link set {from} name {name}"));
            router.sysctl(&format!("net/ipv4/conf/{name}/send_redirects"), "0");
            router.ip(&format!("link set {name} up"));
            let addresses = [ROUTER_LAN, ROUTER_WAN][side as usize];
            addresses.into_iter().for_each(|cidr| router.ip(&format!("address add {cidr} dev {name} nodad")));
            let mac = HOST_MACS[side as usize].map(|byte| format!("{byte:02x}")).join(":");
            let (four, six) = [("192.168.1", "2001:db8:1::"), ("192.0.2", "2001:db8:2::")][side as usize];
            for host in 1..=3 {
                for addr in [format!("{four}.{host}"), format!("{six}{host}")] {
                    router.ip(&format!("neighbor replace {addr} lladdr {mac} nud permanent dev {name}"));
                }
            }
        }
        router.ip(&format!("route add default via {GATEWAY4}"));
        router.ip(&format!("-6 route add default via {GATEWAY6}"));
        Self { wire, setup: None }
    }

    /// Other rules, and no flows.
    pub fn set_up(&mut self, setup: &Setup) {
        let before = self.setup.replace(*setup).unwrap_or(Setup::new(""));
        let router = self.wire.router();
        for (command, mine) in [("iptables-restore", !setup.ipv6), ("ip6tables-restore", setup.ipv6)] {
            if mine || before.ipv6 != setup.ipv6 {
                let rules = if mine { setup.rules } else { "" };
                restore(router, command, &format!("{EMPTY}{rules}"));
            }
        }
        for (side, mtu) in Side::BOTH.into_iter().zip(setup.mtus) {
            if before.mtus[side as usize] != mtu {
                router.ip(&format!("link set {} mtu {mtu}", side.name()));
            }
        }
        let truth = |value: bool| if value { "1" } else { "0" };
        if (before.loose, before.liberal) != (setup.loose, setup.liberal) {
            router.sysctl("net/netfilter/nf_conntrack_tcp_loose", truth(setup.loose));
            router.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", truth(setup.liberal));
        }
        let goes_on = |name: &str| setup.timeouts.iter().any(|(other, _)| *other == name);
        for (name, _) in before.timeouts.iter().filter(|(name, _)| !goes_on(name)) {
            // Linux's own.
            self.set_timeout(name, if *name == "tcp_syn_sent" { 120 } else { 30 });
        }
        setup.timeouts.iter().for_each(|(name, seconds)| self.set_timeout(name, *seconds));
        let flushed = self.wire.router().command("conntrack").arg("-F").output().expect("run conntrack");
        assert!(flushed.status.success(), "conntrack -F: {}", String::from_utf8_lossy(&flushed.stderr));
    }

    fn set_timeout(&self, name: &str, seconds: u64) {
        let name = match name {
            "tcp_syn_sent" => "tcp_timeout_syn_sent".to_owned(),
            other => format!("{other}_timeout"),
        };
        self.wire.router().sysctl(&format!("net/netfilter/nf_conntrack_{name}"), &seconds.to_string());
    }
}

fn restore(namespace: &Namespace, command: &str, rules: &str) {
    let mut child = namespace
        .command(command)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command}: {error}"));
    child.stdin.take().expect("piped above").write_all(rules.as_bytes()).expect("write the rules");
    let output = child.wait_with_output().expect("wait for it");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}\n{rules}");
}

impl Router for Kernel {
    fn name(&self) -> &'static str {
        "linux"
    }

    fn exchange(&mut self, side: Side, packet: &[u8]) -> Output {
        self.wire.exchange(side, packet)
    }

    fn wait(&mut self, seconds: u64) -> Output {
        self.wire.wait(seconds)
    }

    fn flows(&mut self) -> Option<Vec<Flow>> {
        let family = if self.setup.is_some_and(|setup| setup.ipv6) { "ipv6" } else { "ipv4" };
        let output = self.wire.router().command("conntrack").args(["-L", "-f", family]).output();
        let output = output.expect("run conntrack");
        assert!(output.status.success(), "conntrack -L: {}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stdout).lines().map(flow).collect())
    }
}

/// A line of `conntrack -L`.
fn flow(line: &str) -> Flow {
    let mut words = line.split_whitespace().skip(1);
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (protocol, timeout) = number().zip(number()).unwrap_or_else(|| panic!("not understood: {line}"));
    let mut flow = Flow {
        protocol: protocol as u8,
        state: String::new(),
        tuples: Default::default(),
        unreplied: line.contains("[UNREPLIED]"),
        assured: line.contains("[ASSURED]"),
        mark: 0,
        timeout,
    };
    let mut at = None;
    for word in words {
        match word.split_once('=') {
            Some(("mark", value)) => {
                flow.mark = value.parse().unwrap_or_else(|_| panic!("not understood: {line}"));
            }
            Some(("code" | "use" | "packets" | "bytes", _)) => {}
            Some((name, _)) => {
                if name == "src" {
                    at = Some(at.map_or(0, |at: usize| at + 1));
                }
                let tuple = at
                    .and_then(|at| flow.tuples.get_mut(at))
                    .unwrap_or_else(|| panic!("not understood: {line}"));
                if !tuple.is_empty() {
                    tuple.push(' ');
                }
                tuple.push_str(word);
            }
            None if word.starts_with('[') => {}
            None => flow.state = word.to_owned(),
        }
    }
    flow
}

/// `bywash gateway`.
pub struct Gateway {
    wire: Wire,
    child: Child,
    directory: tempfile::TempDir,
}

impl Gateway {
    pub fn start(setup: &Setup) -> Self {
        let wire = Wire::new(true);
        let directory = tempfile::tempdir().expect("make a directory");
        let mut config = "rules = \"rules\"\n".to_owned();
        for (to, via) in [("0.0.0.0/0", GATEWAY4), ("::/0", GATEWAY6)] {
            config.push_str(&format!("[[route]]\nto = \"{to}\"\nvia = \"{via}\"\n"));
        }
        for side in Side::BOTH {
            let interface = &wire.pairs[side as usize].stack_interface;
            let [four, six] = [ROUTER_LAN, ROUTER_WAN][side as usize];
            let name = side.name();
            config.push_str(&format!(
                "[[link]]\ninterface = \"{interface}\"\nname = \"{name}\"\naddress = [\"{four}\", \"{six}\"]\n"
            ));
        }
        std::fs::write(directory.path().join("gw.toml"), config).expect("write the configuration");
        std::fs::write(directory.path().join("rules"), setup.rules).expect("write the rules");
        let log = File::create(directory.path().join("log")).expect("make a log");
        let mut command: Command = wire.router().command(env!("CARGO_BIN_EXE_bywash"));
        command
            .env_remove("BYWASH_LOG")
            .args(["gateway", "--config", "gw.toml"])
            .current_dir(directory.path());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("start bywash");
        let mut this = Self { wire, child, directory };
        let start = Instant::now();
        while !this.log().contains("ready: ") {
            let ended = this.child.try_wait().expect("look at bywash");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "bywash is not ready: {}", this.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        // Its first words about itself are not looked at.
        this.wire.wait(0);
        this
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- bywash's log:\n{}", self.log());
        }
    }
}

impl Router for Gateway {
    fn name(&self) -> &'static str {
        "bywash gateway"
    }

    fn exchange(&mut self, side: Side, packet: &[u8]) -> Output {
        self.wire.exchange(side, packet)
    }

    fn wait(&mut self, seconds: u64) -> Output {
        self.wire.wait(seconds)
    }

    fn flows(&mut self) -> Option<Vec<Flow>> {
        None
    }
}
