//! Frames behind readers: payload stays in the frame it arrived in until it is read or, sent on as a chunk, acknowledged; and
//! is copied out while readers hold too much of the pool, so that the NIC finds frames whatever applications do.

use core::net::SocketAddr;

use super::*;
use crate::limits;
use crate::tcp::Chunk;

const CONNECTIONS: usize = 16;
/// Bytes that each connection carries: together twice what the pool has frames for, and less than a receive window.
const LEN: usize = 128 << 10;

fn server() -> SocketAddr {
    "192.0.2.2:80".parse().unwrap()
}

fn byte(connection: usize, at: usize) -> u8 {
    (at * 31 + (at >> 8) * 7 + connection * 101) as u8
}

fn pattern(connection: usize, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| byte(connection, at)).collect()
}

/// A pair with this many connections whose clients have this receive buffer: both ends of each.
fn connected(count: usize, receive_buffer_bytes: usize) -> (Pair, Vec<[ConnId; 2]>) {
    let mut pair = Pair::new();
    let listener = pair.b.shard.tcp_listen(server(), 64, SocketOptions::default()).unwrap();
    let open = |pair: &mut Pair| {
        let now = pair.now;
        let options = SocketOptions { receive_buffer_bytes, ..SocketOptions::default() };
        let client = pair.a.shard.tcp_connect(now, None, server(), options).unwrap();
        pair.run(Duration::from_millis(10));
        let Poll::Ready(Ok((accepted, _))) = pair.b.shard.tcp().poll_accept(listener, no_waker()) else {
            panic!("the connection does not open")
        };
        [client, accepted]
    };
    let connections = (0..count).map(|_| open(&mut pair)).collect();
    (pair, connections)
}

/// Writes what every client has to send, as far as there is room for it.
fn write(pair: &mut Pair, connections: &[[ConnId; 2]], sent: &mut [usize]) {
    let now = pair.now;
    for (connection, [client, _]) in connections.iter().enumerate() {
        while sent[connection] < LEN {
            let bytes = pattern(connection, sent[connection], (LEN - sent[connection]).min(10_000));
            match pair.a.shard.tcp().poll_send(now, *client, &bytes, no_waker()) {
                Poll::Ready(taken) => sent[connection] += taken.unwrap(),
                Poll::Pending => break,
            }
        }
    }
}

/// The server's frames behind readers are within their share, and nothing was lost for want of a frame.
fn check_share(pair: &Pair) {
    let usage = pair.b.device.pool().usage();
    let share = usage.total / limits::SHARED_FRAMES_FRACTION;
    // What was below the share when it was looked at may have been one packet of several frames.
    assert!(usage.shared <= share + 8, "{usage:?}");
    assert_eq!(pair.b.device.pool().alloc_failures(), 0);
}

#[test]
fn payload_is_read_in_the_frame_it_arrived_in() {
    let (mut pair, connections) = connected(1, 0);
    let [client, accepted] = connections[0];
    let bytes = pattern(0, 0, 1400);
    let now = pair.now;
    assert!(pair.a.shard.tcp().poll_send(now, client, &bytes, no_waker()).is_ready());
    pair.run(Duration::from_millis(10));
    assert_eq!(pair.b.device.pool().shared_frames(), 1);
    let now = pair.now;
    let chunk = match pair.b.shard.tcp().poll_recv_chunk(now, accepted, no_waker()) {
        Poll::Ready(Ok(Some(chunk))) => chunk,
        other => panic!("{other:?}"),
    };
    assert!(matches!(chunk, Chunk::Frame(_)) && chunk[..] == bytes);
    assert_eq!(pair.b.device.pool().shared_frames(), 1);
    drop(chunk);
    assert_eq!(pair.b.device.pool().shared_frames(), 0);
}

#[test]
fn readers_that_do_not_read_leave_the_nic_its_frames() {
    let (mut pair, connections) = connected(CONNECTIONS, 0);
    let mut sent = vec![0; CONNECTIONS];
    for _ in 0..1000 {
        write(&mut pair, &connections, &mut sent);
        pair.run(Duration::from_millis(1));
        check_share(&pair);
    }
    assert!(sent.iter().all(|sent| *sent == LEN), "{sent:?}");
    // Some was kept and some copied, and the bytes are the same.
    let (mut kept, mut copied, now) = (0, 0, pair.now);
    for (connection, [_, accepted]) in connections.iter().enumerate() {
        let mut at = 0;
        while at < LEN {
            match pair.b.shard.tcp().poll_recv_chunk(now, *accepted, no_waker()) {
                Poll::Ready(Ok(Some(chunk))) => {
                    assert!(
                        chunk[..] == pattern(connection, at, chunk.len()),
                        "connection {connection} at {at}"
                    );
                    at += chunk.len();
                    *(if matches!(chunk, Chunk::Frame(_)) { &mut kept } else { &mut copied }) += 1;
                }
                other => panic!("{at} of {LEN} bytes of connection {connection}: {other:?}"),
            }
        }
    }
    assert!(kept > 100 && copied > 100, "{kept} chunks in frames, {copied} copied");
    assert_eq!(pair.b.device.pool().shared_frames(), 0);
}

#[test]
fn chunks_sent_to_peers_that_do_not_read_leave_the_nic_its_frames() {
    let (mut pair, connections) = connected(CONNECTIONS, 16 << 10);
    let mut sent = vec![0; CONNECTIONS];
    let mut back = vec![0; CONNECTIONS];
    let mut held: Vec<Option<Chunk>> = vec![None; CONNECTIONS];
    let mut bytes = vec![0; 10_000];
    let mut most_shared = 0;
    for round in 0..4000 {
        write(&mut pair, &connections, &mut sent);
        pair.run(Duration::from_millis(1));
        check_share(&pair);
        most_shared = most_shared.max(pair.b.device.pool().shared_frames());
        let now = pair.now;
        for (held, [_, accepted]) in held.iter_mut().zip(&connections) {
            let tcp = pair.b.shard.tcp();
            loop {
                if held.is_none() {
                    let Poll::Ready(chunk) = tcp.poll_recv_chunk(now, *accepted, no_waker()) else { break };
                    *held = chunk.unwrap();
                }
                let Some(chunk) = held else { break };
                if tcp.poll_send_chunk(now, *accepted, chunk, no_waker()).is_pending() {
                    break;
                }
                *held = held.take_if(|chunk| !chunk.is_empty());
            }
        }
        // For a second, clients read nothing, and their windows are small: nearly all stays with the server.
        if round < 1000 {
            continue;
        }
        for (connection, [client, _]) in connections.iter().enumerate() {
            while let Poll::Ready(got) = pair.a.shard.tcp().poll_recv(now, *client, &mut bytes, no_waker()) {
                let got = got.unwrap();
                assert!(
                    bytes[..got] == pattern(connection, back[connection], got),
                    "connection {connection}"
                );
                back[connection] += got;
            }
        }
        if back.iter().all(|back| *back == LEN) {
            assert!(most_shared > 100, "{most_shared} frames were held at most");
            pair.run(Duration::from_millis(100));
            assert_eq!(pair.b.device.pool().shared_frames(), 0);
            return;
        }
    }
    panic!("not all came back: {back:?}");
}
