//! Explicit congestion notification with the kernel's TCP at the other end: who asks and who agrees, in both
//! directions, and that data gets through ECN-capable. Marks are the simulator's business (`stack/tests/sim_ecn.rs`).

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bywash_afxdp::require_root;
use common::server::{Server, bywash};
use common::{Bed, PEER4, STACK4, url};

/// More than a window of data, so that both ends send and receive while `ss` looks.
const BYTES: usize = 1 << 20;

/// What `ss` says of the peer's connections: `ecn` when both agreed, `ecnseen` when ECN-capable packets came.
fn ss(bed: &Bed) -> Vec<String> {
    let output = bed.peer_command("ss").args(["-tinoH", "state", "established"]).output().expect("run ss");
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

fn says(seen: &[String], word: &str) -> bool {
    seen.iter().any(|found| found == word)
}

/// A connection of the peer's to an echo server with `--ecn`, and what `ss` says after some data both ways.
fn dialled(bed: &Bed, ecn: &str) -> Vec<String> {
    let server = Server::echo(bed, &["--ecn", ecn]);
    let mut stream = bed.connect(STACK4, 7);
    let mut writer = stream.try_clone().expect("clone the socket");
    let writing = std::thread::spawn(move || writer.write_all(&vec![7; BYTES]));
    let mut answer = vec![0; BYTES];
    stream.read_exact(&mut answer).expect("read");
    writing.join().expect("join").expect("write");
    assert!(answer.iter().all(|byte| *byte == 7));
    let seen = ss(bed);
    drop(stream);
    let summary = server.stop();
    assert!(summary.contains("frames    all"), "{summary}");
    seen
}

/// A connection of `bywash get --ecn` to the peer, which answers, and what `ss` says of it meanwhile.
fn fetched(bed: &Bed, listener: &TcpListener, ecn: &str) -> Vec<String> {
    let address = format!("{STACK4}/24");
    let target = url(PEER4, "/");
    let arguments = ["get", "--address", &address, "--ecn", ecn, "-q", "-o", "/dev/null", &target];
    let mut get = bywash(bed, &arguments).spawn().expect("start bywash get");
    let (mut stream, _): (TcpStream, _) = listener.accept().expect("accept");
    let mut request = [0; 1000];
    assert!(stream.read(&mut request).expect("read the request") > 0);
    let seen = ss(bed);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("answer");
    stream.write_all(&vec![7; BYTES]).expect("answer");
    drop(stream);
    assert!(get.wait().expect("wait for bywash get").success());
    seen
}

#[test]
fn a_kernel_that_asks_gets_classic_ecn_unless_it_is_off() {
    require_root!();
    let bed = Bed::simple();
    bed.peer().sysctl("net/ipv4/tcp_ecn", "1");
    for ecn in ["accept", "on", "accurate"] {
        let seen = dialled(&bed, ecn);
        assert!(says(&seen, "ecn") && says(&seen, "ecnseen"), "{ecn}: {seen:?}");
    }
    let seen = dialled(&bed, "off");
    assert!(!says(&seen, "ecn") && !says(&seen, "ecnseen"), "{seen:?}");
}

#[test]
fn a_kernel_that_is_asked_agrees_to_what_it_knows() {
    require_root!();
    let bed = Bed::simple();
    let listener = bed.peer().run(|| TcpListener::bind("0.0.0.0:80")).expect("listen");
    bed.peer().sysctl("net/ipv4/tcp_ecn", "2");
    for ecn in ["on", "accurate", "3"] {
        let seen = fetched(&bed, &listener, ecn);
        assert!(says(&seen, "ecn"), "{ecn}: {seen:?}");
    }
    let seen = fetched(&bed, &listener, "accept");
    assert!(!says(&seen, "ecn"), "{seen:?}");
    bed.peer().sysctl("net/ipv4/tcp_ecn", "0");
    let seen = fetched(&bed, &listener, "on");
    assert!(!says(&seen, "ecn"), "{seen:?}");
}
