//! The NIC stays the kernel's: what is not steered to the stack works the whole time, under load, after a kill, and with
//! two processes on one NIC.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bywash_afxdp::require_root;
use common::server::{Server, bywash};
use common::{Bed, KERNEL4, KERNEL6, STACK4, STACK6, url, wait_until};

/// An ssh-like service of the kernel's: echoes lines over TCP and datagrams over UDP, in the stack's namespace.
fn kernel_echo(bed: &Bed, port: u16) {
    let (tcp, udp) = bed.pair.stack.run(|| {
        let tcp = TcpListener::bind((KERNEL4, port)).expect("bind the kernel's TCP");
        let udp = UdpSocket::bind((KERNEL4, port)).expect("bind the kernel's UDP");
        (tcp, udp)
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().expect("clone a socket");
                let _ = std::io::copy(&mut reader, &mut stream);
            });
        }
    });
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut bytes) {
            let _ = udp.send_to(&bytes[..length], peer);
        }
    });
}

/// What goes to the kernel's echo and must come back.
struct Bystander {
    tcp: TcpStream,
    udp: UdpSocket,
}

impl Bystander {
    fn connect(bed: &Bed, port: u16) -> Self {
        let tcp = bed.connect(KERNEL4, port);
        let udp = bed.peer().run(|| {
            let udp = UdpSocket::bind("0.0.0.0:0").expect("bind");
            udp.connect((KERNEL4, port)).expect("connect");
            udp.set_read_timeout(Some(Duration::from_secs(5))).expect("set a timeout");
            udp
        });
        Self { tcp, udp }
    }

    fn exchange(&mut self, round: u32) {
        let line = format!("round {round}\n");
        self.tcp.write_all(line.as_bytes()).expect("the kernel's TCP takes a line");
        let mut back = vec![0; line.len()];
        self.tcp.read_exact(&mut back).expect("the kernel's TCP answers");
        assert_eq!(back, line.as_bytes());
        self.udp.send(line.as_bytes()).expect("the kernel's UDP takes a datagram");
        let length = self.udp.recv(&mut back).expect("the kernel's UDP answers");
        assert_eq!(&back[..length], line.as_bytes());
    }
}

#[test]
fn the_kernels_tcp_udp_and_ping_work_while_the_stack_is_under_load() {
    require_root!();
    for shared in [false, true] {
        let bed = Bed::new(2, 1500);
        let server =
            if shared { Server::start(&bed, &["http", "--share-address"]) } else { Server::http(&bed, &[]) };
        let host = if shared { KERNEL4 } else { STACK4 };
        kernel_echo(&bed, 2222);
        let mut bystander = Bystander::connect(&bed, 2222);
        let (done, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut command = bed.peer_command("wrk");
                let output = command
                    .args(["-t1", "-c64", "-d6", &url(host, "/bytes/20000")])
                    .output()
                    .expect("run wrk");
                done.store(true, Ordering::Release);
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains("Requests/sec") && !text.contains("Socket errors"), "{text}");
            });
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    for addr in [KERNEL4, KERNEL6] {
                        assert!(bed.ping(addr), "{addr} does not answer pings (shared: {shared})");
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
            while !done.load(Ordering::Acquire) {
                bystander.exchange(rounds.fetch_add(1, Ordering::Relaxed));
            }
        });
        assert!(rounds.load(Ordering::Relaxed) > 10, "the bystander had its rounds");
        server.stop();
        bystander.exchange(u32::MAX); // detaching the program does not disturb it either
    }
}

#[test]
fn a_port_of_a_program_on_the_shared_address_is_not_taken_from_it() {
    require_root!();
    let bed = Bed::simple();
    kernel_echo(&bed, 2222);
    let mut bystander = Bystander::connect(&bed, 2222);
    for command in [&["http"][..], &["echo", "--tcp"], &["echo", "--udp"]] {
        let arguments = [command, &["--share-address", "--port", "2222"]].concat();
        let output = bywash(&bed, &arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {text}");
        let line = text.lines().last().unwrap_or_default();
        assert!(
            line.contains("port 2222 of 192.0.2.2 is taken by a program on the kernel's stack"),
            "{text}"
        );
    }
    bystander.exchange(1);
}

#[test]
fn a_killed_server_leaves_no_program_and_starts_again_at_once() {
    require_root!();
    let bed = Bed::new(2, 1500);
    kernel_echo(&bed, 2222);
    let mut bystander = Bystander::connect(&bed, 2222);
    for round in 0..3 {
        let server = Server::http(&bed, &[]);
        assert!(bed.xdp_program().is_some(), "the steering program is attached");
        assert_eq!(bed.get(STACK4, "/").0, 200);
        // In the middle of a transfer.
        let mut stream = bed.connect(STACK4, 80);
        stream.write_all(b"GET /bytes/1000000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 100_000]).unwrap();
        server.kill();
        let gone = wait_until(Duration::from_secs(5), "the program is gone", || bed.xdp_program().is_none());
        println!("program gone {gone:?} after the process");
        bystander.exchange(round);
        assert!(bed.ping(KERNEL4));
        assert!(!bed.ping(STACK4), "nobody answers for the stack's address any more");
    }
    let start = Instant::now();
    let first = Server::http(&bed, &[]);
    first.kill();
    let second = Server::http(&bed, &[]);
    println!("killed and started again within {:?}, ready after {:?}", start.elapsed(), second.ready_after);
    assert_eq!(bed.get(STACK6, "/").0, 200);
    second.stop();
}

#[test]
fn sigterm_detaches_the_program_and_a_second_signal_ends_at_once() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::http(&bed, &["--drain-timeout", "1h"]);
    let mut stream = bed.connect(STACK4, 80);
    stream.write_all(b"GET /bytes/1000000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 1000]).unwrap();
    server.signal("TERM");
    wait_until(Duration::from_secs(5), "the server drains", || {
        server.log().contains("finishing connections")
    });
    let start = Instant::now();
    let mut server = server;
    server.signal("TERM");
    let status = server.wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(130), "ended after {:?}", start.elapsed());
    wait_until(Duration::from_secs(5), "the program is gone", || bed.xdp_program().is_none());
}

#[test]
fn an_interrupted_server_finishes_its_transfers_first() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::http(&bed, &[]);
    let mut stream = bed.connect(STACK4, 80);
    stream.write_all(b"GET /bytes/30000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut answer = vec![0; 1000];
    stream.read_exact(&mut answer).unwrap();
    server.signal("INT");
    wait_until(Duration::from_secs(5), "the server drains", || {
        server.log().contains("finishing connections")
    });
    stream.read_to_end(&mut answer).expect("the rest arrives");
    assert!(answer.len() > 30_000_000, "{} bytes", answer.len());
    // Until then the server waits for the client to close, too, as long as --drain-timeout says.
    drop(stream);
    let mut server = server;
    assert!(server.wait(Duration::from_secs(10)).success());
}

#[test]
fn two_processes_share_a_nic_on_different_queues_and_a_taken_queue_is_told() {
    require_root!();
    let bed = Bed::new(2, 1500);
    // A port each: either process may get a connection to either queue, and knows only its own port.
    let first = Server::start(&bed, &["echo", "--share-address", "--queues", "0", "--port", "7001"]);
    let second = Server::start(&bed, &["echo", "--share-address", "--queues", "1", "--port", "7002"]);
    assert!(bed.xdp_program().is_some());
    let output =
        bywash(&bed, &["echo", "--share-address", "--queues", "1", "--port", "7003"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("queue 1") && text.contains("taken"), "{text}");
    first.stop();
    assert!(bed.xdp_program().is_some(), "the program stays for the second process");
    second.stop();
    assert!(bed.xdp_program().is_none());
}
