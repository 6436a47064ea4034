//! A gateway between kernels: `bywash gateway` in one namespace, a host inside, a host outside, and one far behind that.
//!
//! ```text
//! inside ─────────────────── lan  gateway  wan ───────────────────── outside ─────────── far
//! 192.168.1.1 (and .2, .3)   .254          192.0.2.254         .2             MTU 1300   198.51.100.7
//! 2001:db8:1::1              ::fe          2001:db8:2::fe      ::2                       2001:db8:9::7
//! ```
//!
//! Only the outside host's end of the link to the far one is narrow, and the far one does not say so in its SYN: who sends
//! long packets there has to be told.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use bywash_afxdp::testing::{Namespace, VethOptions, VethPair};

use super::server::{Metrics, Server};
use super::{get, many_ports, take_turn};

/// The host inside.
pub const INSIDE4: &str = "192.168.1.1";
pub const INSIDE6: &str = "2001:db8:1::1";
/// Further addresses of the host inside.
pub const INSIDE4_MORE: [&str; 2] = ["192.168.1.2", "192.168.1.3"];
/// The gateway's addresses.
pub const LAN4: &str = "192.168.1.254";
pub const LAN6: &str = "2001:db8:1::fe";
pub const WAN4: &str = "192.0.2.254";
pub const WAN6: &str = "2001:db8:2::fe";
/// The host outside.
pub const OUTSIDE4: &str = "192.0.2.2";
pub const OUTSIDE6: &str = "2001:db8:2::2";
/// The host behind that.
pub const FAR4: &str = "198.51.100.7";
pub const FAR6: &str = "2001:db8:9::7";
/// What fits between the outside host and the far one.
pub const NARROW: usize = 1300;

/// What a router at home has.
pub const HOME: &str = "\
*nat
-A POSTROUTING -s 192.168.1.0/24 -o wan -j MASQUERADE
COMMIT
*filter
:INPUT DROP
:FORWARD DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -i lan -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
-A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -i lan -j ACCEPT
-A FORWARD -p ipv6-icmp -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT
COMMIT
";

/// The namespaces, with addresses and routes. One test has one at a time on the machine.
pub struct GatewayBed {
    /// `stack` is the gateway's namespace, `peer` the host inside.
    pub lan: VethPair,
    /// The same namespace of the gateway's, and the host outside.
    pub wan: VethPair,
    /// The host behind the one outside.
    pub far: Namespace,
    _turn: fs::File,
}

impl GatewayBed {
    /// Waits for this test's turn and makes them.
    pub fn new() -> Self {
        Self::with_queues(1)
    }

    /// The gateway's NICs have so many queues each.
    pub fn with_queues(queues: u32) -> Self {
        let turn = take_turn();
        let options = VethOptions { queues, ..VethOptions::default() };
        let lan = VethPair::new(options);
        let wan = lan.beside(options);
        let far = Namespace::new();
        lan.peer_address(&format!("{INSIDE4}/24"));
        lan.peer_address(&format!("{INSIDE6}/64"));
        INSIDE4_MORE.iter().for_each(|addr| lan.peer_address(&format!("{addr}/24")));
        wan.peer_address(&format!("{OUTSIDE4}/24"));
        wan.peer_address(&format!("{OUTSIDE6}/64"));
        let outside = &wan.peer;
        outside.ip(&format!("link add narrow mtu {NARROW} type veth peer name far netns {}", far.path()));
        outside.ip("link set narrow up");
        far.ip("link set far up");
        for (of, at, addresses) in [
            (outside, "narrow", ["198.51.100.1/24", "2001:db8:9::1/64 nodad"]),
            (&far, "far", ["198.51.100.7/24", "2001:db8:9::7/64 nodad"]),
        ] {
            addresses.iter().for_each(|address| of.ip(&format!("address add {address} dev {at}")));
        }
        far.ip(&format!("route add default via 198.51.100.1 mtu {NARROW} advmss 1460"));
        far.ip(&format!("-6 route add default via 2001:db8:9::1 mtu {NARROW} advmss 1440"));
        lan.peer.ip(&format!("route add default via {LAN4}"));
        lan.peer.ip(&format!("-6 route add default via {LAN6}"));
        outside.ip(&format!("route add 192.168.0.0/16 via {WAN4}"));
        outside.ip(&format!("-6 route add 2001:db8:1::/64 via {WAN6}"));
        [&lan.peer, outside].iter().for_each(|host| many_ports(host));
        for host in [&lan.peer, outside, &far] {
            // As many ICMP errors as there is reason for.
            host.sysctl("net/ipv4/icmp_ratelimit", "0");
            host.sysctl("net/ipv6/icmp/ratelimit", "0");
        }
        outside.sysctl("net/ipv4/ip_forward", "1");
        outside.sysctl("net/ipv6/conf/all/forwarding", "1");
        Self { lan, wan, far, _turn: turn }
    }

    /// The host inside.
    pub fn inside(&self) -> &Namespace {
        &self.lan.peer
    }

    /// The host outside.
    pub fn outside(&self) -> &Namespace {
        &self.wan.peer
    }

    /// The kernel of the gateway's machine has this address on the LAN, too.
    pub fn kernel_has(&self, addr: &str) {
        self.lan.stack.ip(&format!("address add {addr}/24 dev {}", self.lan.stack_interface));
    }

    /// Both links, a default route to the host outside, the page and echo, and the rules of `gw.rules`.
    pub fn config(&self) -> String {
        format!("{}{}", self.links(), self.routes())
    }

    /// The links and what is served.
    pub fn links(&self) -> String {
        let link = |pair: &VethPair, name: &str, four: &str, six: &str| {
            let interface = &pair.stack_interface;
            format!(
                "[[link]]\ninterface = '{interface}'\nname = '{name}'\naddress = ['{four}/24', '{six}/64']\n"
            )
        };
        let (lan, wan) = (link(&self.lan, "lan", LAN4, LAN6), link(&self.wan, "wan", WAN4, WAN6));
        format!("rules = 'gw.rules'\n{lan}{wan}[admin]\nport = 80\n[echo]\nport = 7\n")
    }

    /// The default routes.
    pub fn routes(&self) -> String {
        format!(
            "[[route]]\nto = '0.0.0.0/0'\nvia = '{OUTSIDE4}'\n[[route]]\nto = '::/0'\nvia = '{OUTSIDE6}'\n"
        )
    }

    /// Starts a gateway with [`GatewayBed::config`] and these rules.
    pub fn start(&self, rules: &str) -> Server {
        self.start_with(&self.config(), rules, &[])
    }

    /// Starts a gateway with this configuration.
    pub fn start_with(&self, config: &str, rules: &str, more: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("make a directory");
        fs::create_dir(directory.path().join("www")).expect("make a directory");
        fs::write(directory.path().join("gw.toml"), config).expect("write the configuration");
        fs::write(directory.path().join("gw.rules"), rules).expect("write the rules");
        let mut command = self.lan.stack.command(env!("CARGO_BIN_EXE_bywash"));
        command.env_remove("BYWASH_LOG").args(["gateway", "--config", "../gw.toml"]).args(more);
        Server::run(command, directory)
    }

    /// The gateway's counters, as the host inside sees them.
    pub fn metrics(&self) -> Metrics {
        Metrics::of_answer(get(self.inside(), LAN4, "/metrics"))
    }

    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.metrics().sum("drops_total", &format!("reason=\"{reason}\""))
    }
}

/// Serves TCP and UDP on this port of all the namespace's addresses. A connection gets a line `NAME ADDRESS:PORT`, its own
/// as seen here, and then all that it sends; a datagram `who` gets such a line, and every other comes back as it is.
pub fn serve(namespace: &Namespace, port: u16, name: &'static str) {
    let (tcp, udp) = namespace.run(|| {
        let tcp = TcpListener::bind(("::", port)).expect("bind the kernel's TCP");
        (tcp, UdpSocket::bind(("::", port)).expect("bind the kernel's UDP"))
    });
    let line = move |peer: SocketAddr| {
        format!("{name} {}\n", SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    };
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = tcp.accept() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone()?;
                stream.write_all(line(peer).as_bytes())?;
                std::io::copy(&mut reader, &mut stream)
            });
        }
    });
    std::thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        while let Ok((length, peer)) = udp.recv_from(&mut bytes) {
            let text = line(peer);
            let answer = if &bytes[..length] == b"who" { text.as_bytes() } else { &bytes[..length] };
            let _ = udp.send_to(answer, peer);
        }
    });
}

/// What [`serve`] says to a connection.
pub struct Greeted {
    /// The server's name.
    pub name: String,
    /// The client as the server sees it.
    pub client: SocketAddr,
    reader: BufReader<TcpStream>,
}

impl Greeted {
    /// Connects to a server and hears its line; within two seconds.
    pub fn connect(from: &Namespace, to: &str, port: u16) -> std::io::Result<Self> {
        let to = SocketAddr::new(to.parse().expect("an address"), port);
        let stream = from.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (name, client) = parse_line(&line);
        Ok(Self { name, client, reader })
    }

    /// Sends a line and gets it back.
    pub fn exchange(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).expect("the connection takes bytes");
        let mut back = vec![0; text.len()];
        self.reader.read_exact(&mut back).expect("the connection brings them back");
        assert_eq!(back, text.as_bytes());
    }
}

fn parse_line(line: &str) -> (String, SocketAddr) {
    let (name, client) = line.trim().split_once(' ').unwrap_or_else(|| panic!("no greeting: {line:?}"));
    (name.to_owned(), client.parse().expect("an address"))
}

/// A UDP socket of the namespace, bound to `from` and connected to `to`. It waits two seconds for an answer.
pub fn udp(namespace: &Namespace, from: &str, to: (&str, u16)) -> UdpSocket {
    namespace.run(|| {
        let socket = UdpSocket::bind(from).expect("bind");
        socket.connect((to.0.parse::<IpAddr>().expect("an address"), to.1)).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set a timeout");
        socket
    })
}

/// A datagram's answer.
pub fn ask(socket: &UdpSocket, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut answer = vec![0; 65_536];
    socket.send(question)?;
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// Who a UDP server says it is, and who the socket is for it.
pub fn who(socket: &UdpSocket) -> (String, SocketAddr) {
    let answer = ask(socket, b"who").expect("the server answers");
    parse_line(&String::from_utf8(answer).expect("text"))
}
