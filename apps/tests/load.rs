//! Many connections: wrk without an error, 20,000 short ones without a failure, and nothing left over but TIME-WAITs.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bywash_afxdp::require_root;
use common::server::Server;
use common::{Bed, STACK4, STACK6, url, wait_until};

#[test]
fn wrk_with_256_connections_sees_no_error() {
    require_root!();
    let bed = Bed::new(2, 1500);
    let server = Server::http(&bed, &[]);
    let output =
        bed.peer_command("wrk").args(["-t2", "-c256", "-d10", &url(STACK4, "/")]).output().expect("run wrk");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    let requests = text.lines().find(|line| line.starts_with("Requests/sec:")).expect("wrk prints a rate");
    println!("wrk -t2 -c256 -d10, an unoptimised build: {requests}");
    let metrics = server.metrics(&bed);
    println!("drops: {:?}", metrics.drops());
    for shard in 0..2 {
        assert!(
            metrics.of_shard("tcp_passive_opens_total", shard) >= 32,
            "queue {shard} had its share of connections"
        );
    }
    wait_until(Duration::from_secs(10), "all connections but the asking one are gone", || {
        server.metrics(&bed).connections("open") <= 1
    });
    assert!(server.stop().contains("frames    all"));
}

/// Workers on as many threads, each opening one connection after the other.
const WORKERS: usize = 64;

/// One request on a connection of its own; the server closes it.
fn request(addr: (&str, u16)) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET /bytes/1000 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let whole = answer.starts_with(b"HTTP/1.1 200") && answer.len() > 1000;
    if whole { Ok(()) } else { Err(std::io::Error::other(format!("{} bytes of answer", answer.len()))) }
}

#[test]
fn of_20000_short_connections_none_fails_and_only_time_waits_remain() {
    require_root!();
    const CONNECTIONS: usize = 20_000;
    let bed = Bed::new(2, 1500);
    let server = Server::http(&bed, &[]);
    let (taken, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        bed.peer().enter();
        loop {
            let number = taken.fetch_add(1, Ordering::Relaxed);
            if number >= CONNECTIONS {
                return;
            }
            let host = if number % 4 == 0 { STACK6 } else { STACK4 };
            if let Err(error) = request((host, 80)) {
                eprintln!("connection {number}: {error}");
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let start = Instant::now();
    std::thread::scope(|scope| (0..WORKERS).for_each(|_| drop(scope.spawn(work))));
    println!("{CONNECTIONS} connections in {:?}", start.elapsed());
    assert_eq!(failed.load(Ordering::Relaxed), 0, "failed connections");
    // The one that asks is open; all others are gone, most into TIME-WAIT, for the server closes first.
    wait_until(Duration::from_secs(10), "the last connections are closed", || {
        server.metrics(&bed).connections("open") <= 1
    });
    let metrics = server.metrics(&bed);
    assert_eq!(metrics.connections("syn_received"), 0);
    assert!(metrics.connections("time_wait") > 0, "the closer keeps TIME-WAITs");
    assert!(metrics.total("tcp_passive_opens_total") >= CONNECTIONS as u64);
    assert!(
        metrics.frames_held() <= 8,
        "frames held by nothing but the asking request: {}",
        metrics.frames_held()
    );
    let lost: Vec<_> = metrics.drops().into_iter().filter(|(name, _)| name.contains("queue_full")).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let summary = server.stop();
    assert!(summary.contains("frames    all"), "{summary}");
    println!("{summary}");
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::http(&bed, &["--max-connections", "3"]);
    let kept: Vec<TcpStream> = (0..3).map(|_| bed.connect(STACK4, 80)).collect();
    let (status, body) = bed.get(STACK4, "/");
    assert_eq!(status, 503, "{}", String::from_utf8_lossy(&body));
    drop(kept);
    wait_until(Duration::from_secs(5), "places are free again", || bed.get(STACK4, "/").0 == 200);
    server.stop();
}
