//! TCP Fast Open (RFC 7413) with the kernel's TCP at the other end, both ways: a cookie first, then data in the SYN that is
//! taken at once, and a cookie that is not good any more, which costs nothing but the round trip. Witnesses are the
//! kernel's `TCP_INFO` (`TCPI_OPT_SYN_DATA`) and its counters, and the stack's.

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use bywash::runtime::net::{FastOpenFailure, Shutdown, TcpInfo, TcpStream};
use bywash_afxdp::require_root;
use common::server::{Server, bywash};
use common::{Bed, PEER4, STACK4, in_process};

/// Connects as often as its third argument says, each time with data in the SYN if the kernel has a cookie; prints whether
/// the SYN's data was acknowledged with it. The echo must be the data, once.
const CLIENT: &str = r"
import socket, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for i in range(count):
    data = b'request %d ' % i * 20
    s = socket.socket()
    s.sendto(data, 0x20000000, (host, port))
    s.settimeout(10)
    s.shutdown(socket.SHUT_WR)
    got = b''
    while part := s.recv(65536):
        got += part
    assert got == data, got
    print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5] >> 5 & 1)
    s.close()
";

/// Echoes on two ports, each with a Fast Open key of its own.
const ECHO_SERVERS: &str = r"
import select, socket
listeners = []
for port in (201, 202):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', port))
    s.listen(16)
    s.setsockopt(socket.IPPROTO_TCP, 23, 16)
    s.setsockopt(socket.IPPROTO_TCP, 33, bytes([port]) * 16)
    listeners.append(s)
print('ready', flush=True)
while True:
    for s in select.select(listeners, [], [])[0]:
        c, _ = s.accept()
        data = b''
        while part := c.recv(65536):
            data += part
        c.sendall(data)
        c.close()
";

/// Answers every request on port 80.
const HTTP_SERVER: &str = r"
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', 80))
s.listen(16)
s.setsockopt(socket.IPPROTO_TCP, 23, 16)
print('ready', flush=True)
while True:
    c, _ = s.accept()
    head = b''
    while b'\r\n\r\n' not in head and (part := c.recv(65536)):
        head += part
    if head:
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsmall\n')
    c.close()
";

fn bed() -> Bed {
    let bed = Bed::simple();
    bed.peer().sysctl("net/ipv4/tcp_fastopen", "3");
    bed
}

/// A server of the peer's; it ends with the test.
struct Script(Child);

impl Script {
    fn start(bed: &Bed, text: &str) -> Self {
        let mut command = bed.peer_command("python3");
        let mut child =
            command.args(["-c", text]).stdout(Stdio::piped()).spawn().expect("start the peer's server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .expect("read from the peer's server");
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// For each connection of the kernel's client whether its SYN's data was acknowledged with it.
fn kernel_client(bed: &Bed, port: u16, connections: usize) -> Vec<String> {
    let (port, connections) = (port.to_string(), connections.to_string());
    let output =
        bed.peer_command("python3").args(["-c", CLIENT, STACK4, &port, &connections]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A counter of the peer's kernel, as `nstat` shows it.
fn kernel_counter(bed: &Bed, name: &str) -> u64 {
    let table = bed.peer().sh("cat", "/proc/net/netstat");
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let place = names.split_whitespace().position(|field| field == name).expect("a counter of the kernel's");
    values.split_whitespace().nth(place).unwrap().parse().unwrap()
}

#[test]
fn the_kernels_client_is_served_with_its_syn_and_a_stale_cookie_falls_back() {
    require_root!();
    let bed = bed();
    let server = Server::echo(&bed, &["--fastopen"]);
    assert_eq!(kernel_client(&bed, 7, 3), ["0", "1", "1"], "a cookie first, then data in the SYN");
    assert_eq!(kernel_counter(&bed, "TCPFastOpenActive"), 2);
    server.stop();
    // Another start, another secret: the cookie is not good any more, and the data comes once nevertheless.
    let server = Server::echo(&bed, &["--fastopen"]);
    assert_eq!(kernel_client(&bed, 7, 2), ["0", "1"]);
    assert_eq!(kernel_counter(&bed, "TCPFastOpenActiveFail"), 1);
    server.stop();
}

#[test]
fn a_server_without_the_option_leaves_the_kernels_client_to_the_handshake() {
    require_root!();
    let bed = bed();
    let server = Server::echo(&bed, &[]);
    assert_eq!(kernel_client(&bed, 7, 2), ["0", "0"]);
    server.stop();
}

#[test]
fn curls_request_is_taken_with_the_syn() {
    require_root!();
    let bed = bed();
    let server = Server::http(&bed, &["--fastopen", "8"]);
    for _ in 0..3 {
        let page = bed.curl(&["--tcp-fastopen", &format!("http://{STACK4}/index.html")]);
        assert_eq!(page, b"<h1>hello</h1>\n");
    }
    let metrics = server.metrics(&bed);
    assert_eq!(metrics.total("tcp_fastopen_cookie_requests_total"), 1);
    assert_eq!(metrics.total("tcp_fastopen_passive_total"), 2);
    server.stop();
}

/// What a connection of ours with the kernel's server came to; the echo must be the data, once.
async fn exchange(port: u16, round: usize) -> std::io::Result<TcpInfo> {
    let data = format!("request {round} ").repeat(20).into_bytes();
    let mut stream = TcpStream::connect_with_data(format!("{PEER4}:{port}").parse().unwrap(), &data).await?;
    stream.shutdown(Shutdown::Write)?;
    let mut got = Vec::new();
    while let Some(chunk) = stream.read_chunk().await? {
        got.extend_from_slice(&chunk);
    }
    assert_eq!(got, data);
    stream.info()
}

#[test]
fn the_kernels_server_takes_our_data_with_the_syn_and_refuses_a_stale_cookie_without_harm() {
    require_root!();
    let bed = bed();
    let _servers = Script::start(&bed, ECHO_SERVERS);
    let (results, outcome) = channel();
    let runtime = in_process::start(&bed, 1, move |_| {
        let results = results.clone();
        async move {
            // The second port's key is another: the cookie of the first, kept for their address, is stale there.
            for (round, port) in [201, 201, 202, 202].into_iter().enumerate() {
                results.send(exchange(port, round).await?)?;
            }
            Ok(())
        }
    });
    let infos: Vec<TcpInfo> =
        (0..4).map(|_| outcome.recv_timeout(Duration::from_secs(20)).expect("an exchange ends")).collect();
    let taken: Vec<bool> = infos.iter().map(|info| info.fastopen_syn_data).collect();
    assert_eq!(taken, [false, true, false, true]);
    assert!(infos[0].fastopen_cookie_req);
    assert_eq!(infos[2].fastopen_client_fail, Some(FastOpenFailure::DataNotAcked));
    assert_eq!(kernel_counter(&bed, "TCPFastOpenPassive"), 2);
    assert_eq!(kernel_counter(&bed, "TCPFastOpenPassiveFail"), 1);
    drop(runtime);
}

#[test]
fn get_sends_its_request_with_the_syn_and_says_what_it_saved() {
    require_root!();
    let bed = bed();
    let _server = Script::start(&bed, HTTP_SERVER);
    let (four, url) = (format!("{STACK4}/24"), format!("http://{PEER4}/"));
    let output =
        bywash(&bed, &["get", "--log", "warn", "--fastopen", "--address", &four, &url]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(output.stdout, b"small\n");
    assert!(told.contains("the server took the request with the SYN"), "{told}");
    assert_eq!(kernel_counter(&bed, "TCPFastOpenPassive"), 1);
}
