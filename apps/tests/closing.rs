//! How connections end, witnessed by tcpdump on the kernel peer's interface (RFC 9293 §3.6): four-way close from each side,
//! simultaneous close, and half-closed connections that still carry data.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bywash::runtime::net::Shutdown as StackShutdown;
use bywash::runtime::time::sleep;
use bywash::runtime::{Handle, Runtime};
use bywash_afxdp::require_root;
use bywash_apps::http::body::generated_byte;
use common::capture::{Capture, Segment};
use common::server::Server;
use common::{Bed, STACK4, in_process, wait_until};
use sha2::{Digest, Sha256};
use smoltcp::wire::IpAddress;

/// What the stack's application does, by port.
const CLOSES_LATE: u16 = 101;
const CLOSES_FIRST: u16 = 102;
const SENDS_AFTER_FIN: u16 = 103;
const PORTS: &[u16] = &[CLOSES_LATE, CLOSES_FIRST, SENDS_AFTER_FIN];

/// Long enough that an ACK is not held back for a FIN to go with it, whatever the delay of ACKs.
const PAUSE: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(15);
const MANY: usize = 10_000_000;

fn application(bed: &Bed) -> Runtime {
    in_process::serve(bed, 1, PORTS, |port, mut stream| async move {
        match port {
            CLOSES_LATE => {
                while stream.read_chunk().await?.is_some() {}
                sleep(PAUSE).await;
            }
            CLOSES_FIRST => {
                // After the first byte; then hears the peer out and answers nothing.
                stream.read(&mut [0]).await?;
                stream.shutdown(StackShutdown::Write)?;
                let mut hash = Sha256::new();
                while let Some(chunk) = stream.read_chunk().await? {
                    hash.update(&*chunk);
                }
                RECEIVED.lock().unwrap().push(hash.finalize().to_vec());
            }
            _ => {
                while stream.read_chunk().await?.is_some() {}
                let bytes: Vec<u8> = (0..MANY as u64).map(generated_byte).collect();
                stream.write_all(&bytes).await?;
            }
        }
        stream.close().await
    })
}

/// Hashes of what `CLOSES_FIRST` received after its FIN.
static RECEIVED: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(Vec::new());

fn from_stack(segment: &Segment) -> bool {
    segment.src == STACK4.parse::<IpAddress>().unwrap()
}

fn fins(segments: &[Segment], of_stack: bool) -> Vec<Segment> {
    segments.iter().filter(|segment| segment.fin && from_stack(segment) == of_stack).cloned().collect()
}

/// Both FINs were sent and acknowledged.
fn closed(segments: &[Segment]) -> bool {
    [true, false].into_iter().all(|of_stack| {
        let fin = fins(segments, of_stack).first().cloned();
        fin.is_some_and(|fin| {
            segments.iter().any(|s| from_stack(s) != of_stack && !s.syn && s.acks(fin.end()))
        })
    })
}

/// FIN, ACK, FIN, ACK, in four segments, without a RST or a FIN sent twice.
fn assert_four_way(segments: &[Segment], stack_first: bool) {
    let (first, second) = (fins(segments, stack_first), fins(segments, !stack_first));
    assert_eq!((first.len(), second.len()), (1, 1), "one FIN each: {segments:#?}");
    assert!(!segments.iter().any(|segment| segment.rst), "no RST");
    let place = |wanted: &dyn Fn(&Segment) -> bool| segments.iter().position(wanted).expect("it was sent");
    let order = [
        place(&|s| *s == first[0]),
        place(&|s| from_stack(s) != stack_first && !s.fin && !s.syn && s.acks(first[0].end())),
        place(&|s| *s == second[0]),
        place(&|s| from_stack(s) == stack_first && !s.fin && !s.syn && s.acks(second[0].end())),
    ];
    assert!(order.is_sorted(), "FIN, ACK, FIN, ACK came as {order:?}");
}

fn connections(handle: &Handle) -> (usize, usize) {
    let tcp = handle.metrics().tcp();
    (tcp.connections, tcp.time_wait)
}

/// The application, a witness, and the peer's connection to one of the ports.
struct Scene {
    runtime: Runtime,
    capture: Capture,
    stream: TcpStream,
    // Last: the others live in its namespaces.
    _bed: Bed,
}

impl Scene {
    fn new(port: u16) -> Self {
        let bed = Bed::simple();
        let runtime = application(&bed);
        let capture = Capture::start(&bed, &format!("tcp port {port}"));
        let stream = bed.connect(STACK4, port);
        Self { runtime, capture, stream, _bed: bed }
    }
}

/// Every frame is back in the pool at the end.
fn end(runtime: Runtime) {
    runtime.handle().shutdown();
    assert_eq!(runtime.wait().unwrap().frames_missing(), 0);
}

#[test]
fn the_peer_closes_first_in_four_ways() {
    require_root!();
    let Scene { runtime, capture, mut stream, _bed } = Scene::new(CLOSES_LATE);
    stream.write_all(b"x").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    let segments = capture.wait(LIMIT, "the close is complete", closed);
    assert_four_way(&segments, false);
    wait_until(LIMIT, "nothing is left of the connection", || connections(&runtime.handle()) == (0, 0));
    end(runtime);
}

#[test]
fn the_stack_closes_first_in_four_ways_and_keeps_the_time_wait() {
    require_root!();
    let Scene { runtime, capture, mut stream, _bed } = Scene::new(CLOSES_FIRST);
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    std::thread::sleep(PAUSE);
    drop(stream);
    let segments = capture.wait(LIMIT, "the close is complete", closed);
    assert_four_way(&segments, true);
    assert_eq!(connections(&runtime.handle()), (0, 1), "the closer keeps a TIME-WAIT");
    end(runtime);
}

/// Makes the kernel's socket deaf: what arrives is dropped in front of its TCP, as if lost; tcpdump still sees it.
fn deafen(stream: &TcpStream) {
    // `BPF_RET | BPF_K`: keep no byte of any packet.
    let return_nothing = socket2::SockFilter::new(0x06, 0, 0, 0);
    socket2::SockRef::from(stream).attach_filter(&[return_nothing]).expect("attach a filter");
}

#[test]
fn fins_that_cross_close_both_sides() {
    require_root!();
    let Scene { runtime, capture, mut stream, _bed } = Scene::new(CLOSES_FIRST);
    deafen(&stream);
    stream.write_all(b"x").unwrap();
    capture.wait(LIMIT, "the stack's FIN is on its way", |segments| !fins(segments, true).is_empty());
    // The peer's TCP has not seen that FIN when it sends its own: they cross, the stack passes through CLOSING.
    stream.shutdown(Shutdown::Write).unwrap();
    let segments =
        capture.wait(LIMIT, "the peer's FIN is on its way", |segments| !fins(segments, false).is_empty());
    let (ours, theirs) = (&fins(&segments, true)[0], &fins(&segments, false)[0]);
    assert!(!theirs.acks(ours.end()) && !ours.acks(theirs.end()), "neither FIN acknowledges the other");
    socket2::SockRef::from(&stream).detach_filter().expect("detach the filter");
    let segments = capture.wait(LIMIT, "both FINs are acknowledged", closed);
    assert!(!segments.iter().any(|segment| segment.rst), "no RST");
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0);
    wait_until(LIMIT, "the stack keeps a TIME-WAIT", || connections(&runtime.handle()) == (0, 1));
    end(runtime);
}

#[test]
fn ten_megabytes_flow_to_the_peer_after_its_fin() {
    require_root!();
    let Scene { runtime, capture, mut stream, _bed } = Scene::new(SENDS_AFTER_FIN);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), MANY);
    assert!(bytes.iter().enumerate().all(|(offset, &byte)| byte == generated_byte(offset as u64)));
    drop(stream);
    let segments = capture.wait(LIMIT, "the close is complete", closed);
    let peer_fin = segments.iter().position(|s| s.fin && !from_stack(s)).unwrap();
    let after: u64 = segments[peer_fin..].iter().filter(|s| from_stack(s)).map(|s| u64::from(s.length)).sum();
    assert!(after >= MANY as u64, "{after} bytes were seen after the peer's FIN");
    assert!(!segments.iter().any(|segment| segment.rst), "no RST");
    end(runtime);
}

#[test]
fn ten_megabytes_flow_to_the_stack_after_its_fin() {
    require_root!();
    let Scene { runtime, capture, mut stream, _bed } = Scene::new(CLOSES_FIRST);
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap(), 0, "the stack's FIN");
    let bytes: Vec<u8> = (0..MANY as u64).map(generated_byte).collect();
    stream.write_all(&bytes).unwrap();
    drop(stream);
    let segments = capture.wait(LIMIT, "the close is complete", closed);
    assert!(!segments.iter().any(|segment| segment.rst), "no RST");
    let want = Sha256::digest(&bytes).to_vec();
    wait_until(LIMIT, "the application has read everything", || RECEIVED.lock().unwrap().contains(&want));
    end(runtime);
}

#[test]
fn http_answers_a_client_that_has_closed_its_sending_side() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::http(&bed, &[]);
    let mut stream = bed.connect(STACK4, 80);
    stream.write_all(b"GET /bytes/10000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > 10_000_000, "{} bytes", answer.len());
    server.stop();
}

#[test]
fn echo_returns_everything_before_its_fin() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::echo(&bed, &[]);
    let mut stream = bed.connect(STACK4, 7);
    let bytes: Vec<u8> = (0..3_000_000).map(generated_byte).collect();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    });
    server.stop();
}

#[test]
fn a_connection_to_a_port_without_listener_is_refused() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::echo(&bed, &[]);
    let refused = bed.peer().run(|| TcpStream::connect((STACK4, 9)));
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    server.stop();
}

#[test]
fn echo_answers_datagrams_of_every_size() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::echo(&bed, &[]);
    bed.peer().run(|| {
        for (local, host) in [("0.0.0.0:0", STACK4), ("[::]:0", common::STACK6)] {
            let socket = std::net::UdpSocket::bind(local).unwrap();
            socket.connect((host, 7)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            for size in [0, 1, 1000, 1472, 1473, 9000, 65_000] {
                let sent: Vec<u8> = (0..size).map(generated_byte).collect();
                socket.send(&sent).unwrap();
                let mut back = vec![0; 65_536];
                let length = socket.recv(&mut back).unwrap_or_else(|e| panic!("{size} bytes to {host}: {e}"));
                assert!(back[..length] == sent, "{size} bytes came back as {length}");
            }
        }
    });
    server.stop();
}
