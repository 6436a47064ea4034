//! What the end-to-end tests share: two namespaces joined by a veth pair, `bywash` in one of them, the kernel's sockets in
//! the other, and what was seen in between.
//!
//! Addresses: the stack's own are `192.0.2.10` and `2001:db8::10`; the kernel of its namespace has `.2` on the same
//! interface, the peer's kernel has `.1`.
#![allow(dead_code, reason = "every test file uses its own part")]

pub mod capture;
pub mod dnsmasq;
pub mod gateway;
pub mod in_process;
pub mod kernel_http;
pub mod server;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use bywash_afxdp::testing::{Namespace, VethOptions, VethPair};

/// The stack's own addresses.
pub const STACK4: &str = "192.0.2.10";
pub const STACK6: &str = "2001:db8::10";
/// The kernel's in the stack's namespace.
pub const KERNEL4: &str = "192.0.2.2";
pub const KERNEL6: &str = "2001:db8::2";
/// The peer's.
pub const PEER4: &str = "192.0.2.1";
pub const PEER6: &str = "2001:db8::1";

/// Two namespaces with addresses. One test has one at a time on the machine: they measure and load it.
pub struct Bed {
    pub pair: VethPair,
    _turn: File,
}

impl Bed {
    /// Waits for this test's turn and makes one.
    pub fn new(queues: u32, mtu: usize) -> Self {
        let turn = take_turn();
        let pair = VethPair::new(VethOptions { queues, mtu, peer_offloads: true });
        for (stack, peer) in [(KERNEL4, PEER4), (KERNEL6, PEER6)] {
            let length = if stack.contains(':') { 64 } else { 24 };
            pair.stack_address(&format!("{stack}/{length}"));
            pair.peer_address(&format!("{peer}/{length}"));
        }
        many_ports(&pair.peer);
        Self { pair, _turn: turn }
    }

    /// One queue, MTU 1500.
    pub fn simple() -> Self {
        Self::new(1, 1500)
    }

    /// The peer's namespace.
    pub fn peer(&self) -> &Namespace {
        &self.pair.peer
    }

    /// A command that runs in the peer's namespace.
    pub fn peer_command(&self, program: &str) -> Command {
        self.pair.peer.command(program)
    }

    /// A kernel connection from the peer to the stack.
    pub fn connect(&self, addr: &str, port: u16) -> TcpStream {
        connect(&self.pair.peer, addr, port)
    }

    /// A request by the kernel's TCP, on a connection of its own; the answer's status and body.
    pub fn get(&self, host: &str, path: &str) -> (u16, Vec<u8>) {
        get(&self.pair.peer, host, path)
    }

    /// curl in the peer's namespace; its standard output. Fails the test where curl fails.
    pub fn curl(&self, arguments: &[&str]) -> Vec<u8> {
        curl(&self.pair.peer, arguments)
    }

    /// Whether the peer's kernel gets a ping answered by `addr`.
    pub fn ping(&self, addr: &str) -> bool {
        ping(&self.pair.peer, addr)
    }

    /// The id of the XDP program on the stack's interface.
    pub fn xdp_program(&self) -> Option<u32> {
        self.pair.nic().expect("look at the interface").attached.map(|program| program.id)
    }
}

/// Waits for this test's turn: it lasts as long as the file is open.
pub fn take_turn() -> File {
    let turn =
        File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/end-to-end.lock")).expect("create the lock file");
    turn.lock().expect("wait for the other tests");
    turn
}

/// For thousands of connections in one test: all ports, and those in TIME-WAIT again after a second.
pub fn many_ports(namespace: &Namespace) {
    namespace.sysctl("net/ipv4/ip_local_port_range", "1024 65535");
    namespace.sysctl("net/ipv4/tcp_tw_reuse", "1");
}

/// A connection of the namespace's kernel.
pub fn connect(namespace: &Namespace, addr: &str, port: u16) -> TcpStream {
    let addr = SocketAddr::new(addr.parse().expect("an address"), port);
    let stream = namespace.run(|| TcpStream::connect_timeout(&addr, Duration::from_secs(10)));
    let stream = stream.unwrap_or_else(|error| panic!("connect to {addr}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set a timeout");
    stream
}

/// A request by the namespace's kernel, on a connection of its own; the answer's status and body.
pub fn get(namespace: &Namespace, host: &str, path: &str) -> (u16, Vec<u8>) {
    let mut stream = connect(namespace, host, 80);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("send the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read the answer");
    split_answer(&answer)
}

/// curl in the namespace; its standard output. Fails the test where curl fails.
pub fn curl(namespace: &Namespace, arguments: &[&str]) -> Vec<u8> {
    let output = namespace.command("curl").args(["-sS", "--fail", "--globoff"]).args(arguments).output();
    let output = output.expect("run curl");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?}: {}: {errors}", output.status);
    output.stdout
}

/// Whether the namespace's kernel gets a ping answered by `addr`.
pub fn ping(namespace: &Namespace, addr: &str) -> bool {
    let output = namespace.command("ping").args(["-c", "1", "-W", "2", addr]).output().expect("run ping");
    output.status.success()
}

/// Status and body of a whole HTTP answer without chunks.
fn split_answer(answer: &[u8]) -> (u16, Vec<u8>) {
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer with a header");
    let line = String::from_utf8_lossy(&answer[..head]);
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer[head + 4..].to_vec())
}

/// Waits until `done`, at most `limit`; returns how long it took.
pub fn wait_until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

/// `http://HOST/PATH`, with brackets for IPv6.
pub fn url(host: &str, path: &str) -> String {
    match host.parse().expect("an address") {
        IpAddr::V4(host) => format!("http://{host}{path}"),
        IpAddr::V6(host) => format!("http://[{host}]{path}"),
    }
}
