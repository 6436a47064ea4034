//! Blocking sockets from threads that are not shards.

use std::io::{self, Read, Write};

use super::{CLIENT_V4, Done, SERVER_V4, any, host, pattern, server};
use crate::runtime::blocking::{TcpListener, TcpStream, UdpSocket};
use crate::runtime::net::Shutdown;
use crate::runtime::testing::cable;
use crate::runtime::{Context, Runtime};
use crate::time::Duration;

async fn until_shutdown(context: Context) -> Done {
    context.shutdown().await;
    Ok(())
}

/// Two runtimes whose applications are the test's threads.
fn pair(queues: (usize, usize)) -> (Runtime, Runtime) {
    let (left, right) = cable(queues.0, queues.1).unwrap();
    let server = host(SERVER_V4, left).start(until_shutdown).unwrap();
    let client = host(CLIENT_V4, right).start(until_shutdown).unwrap();
    (server, client)
}

fn end(runtimes: (Runtime, Runtime)) {
    for runtime in [runtimes.1, runtimes.0] {
        runtime.handle().shutdown();
        let summary = runtime.wait().unwrap();
        assert_eq!(summary.frames_missing(), 0, "{summary}");
        assert_eq!(summary.metrics.runtime().connections_aborted, 0, "{summary}");
        assert_eq!(summary.metrics.runtime().task_panics, 0, "{summary}");
    }
}

/// Echoes `connections` connections, a thread each.
fn echo(listener: TcpListener, connections: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let echoes: Vec<_> = (0..connections)
            .map(|_| {
                let (stream, _) = listener.accept().unwrap();
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream).unwrap())
            })
            .collect();
        for echo in echoes {
            echo.join().unwrap();
        }
    })
}

#[test]
fn bytes_of_any_length_are_written_whole() {
    let runtimes = pair((1, 1));
    let listener = TcpListener::bind(&runtimes.0.handle(), any(7)).unwrap();
    let echo = echo(listener, 1);
    let stream = TcpStream::connect(&runtimes.1.handle(), server(7)).unwrap();
    let mut back = Vec::new();
    for len in [0, 1, 5000, 16 << 10, 100_001] {
        stream.write_bytes(pattern(0, len)).unwrap();
        back.resize(len, 0);
        (&stream).read_exact(&mut back).unwrap();
        assert!(back == pattern(0, len), "{len} bytes");
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.write_bytes("x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
    drop(stream);
    echo.join().unwrap();
    end(runtimes);
}

#[test]
fn threads_on_both_sides_move_megabytes_over_several_shards() {
    const THREADS: usize = 4;
    const LEN: usize = 1 << 20;
    let runtimes = pair((2, 2));
    let listener = TcpListener::bind(&runtimes.0.handle(), any(7)).unwrap();
    let echo = echo(listener, THREADS);
    let clients: Vec<_> = (0..THREADS)
        .map(|_| {
            let handle = runtimes.1.handle();
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(&handle, server(7)).unwrap();
                stream.set_nodelay(true).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let write = std::thread::spawn(move || {
                    (0..LEN).step_by(5000).for_each(|offset| {
                        writer.write_all(&pattern(offset, 5000.min(LEN - offset))).unwrap();
                    });
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                write.join().unwrap();
                assert!(all == pattern(0, LEN));
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    echo.join().unwrap();
    end(runtimes);
}

#[test]
fn the_second_connection_brings_its_data_with_the_syn() {
    let runtimes = pair((2, 2));
    let listener = TcpListener::bind(&runtimes.0.handle(), any(7)).unwrap();
    listener.set_fastopen(4).unwrap();
    let echo = echo(listener, 3);
    // The last is longer than a SYN, and than the send buffer.
    for (len, in_syn) in [(300, false), (300, true), (400_000, true)] {
        let data = pattern(0, len);
        let reader = std::thread::spawn({
            let handle = runtimes.1.handle();
            move || {
                let stream = TcpStream::connect_with_data(&handle, server(7), &data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut all = Vec::new();
                (&stream).read_to_end(&mut all).unwrap();
                assert!(all == data);
                stream.info().unwrap()
            }
        });
        assert_eq!(reader.join().unwrap().fastopen_syn_data, in_syn, "{len} bytes");
    }
    echo.join().unwrap();
    end(runtimes);
}

#[test]
fn what_was_written_arrives_although_the_stream_was_dropped_at_once() {
    const LEN: usize = 300_000;
    let runtimes = pair((1, 1));
    let listener = TcpListener::bind(&runtimes.0.handle(), any(0)).unwrap();
    let mut stream = TcpStream::connect(&runtimes.1.handle(), server(listener.local_addr().port())).unwrap();
    let (mut accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer, stream.local_addr());
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        accepted.read_to_end(&mut all).unwrap();
        assert!(all == pattern(0, LEN));
    });
    stream.write_all(&pattern(0, LEN)).unwrap();
    drop(stream);
    reader.join().unwrap();
    end(runtimes);
}

#[test]
fn time_limits_lose_nothing() {
    let runtimes = pair((1, 1));
    let listener = TcpListener::bind(&runtimes.0.handle(), any(7)).unwrap();
    let limit = Duration::from_millis(2);
    assert_eq!(listener.accept_timeout(limit).unwrap_err().kind(), io::ErrorKind::TimedOut);
    let mut stream = TcpStream::connect(&runtimes.1.handle(), server(7)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(limit));
    stream.set_write_timeout(Some(limit));
    assert_eq!(stream.read(&mut [0; 10]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    // Writes until all buffers between here and the peer, who does not read, are full.
    let mut written = 0;
    let error = loop {
        match stream.write(&pattern(written, 10_000)) {
            Ok(len) => written += len,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        accepted.read_to_end(&mut all).unwrap();
        all
    });
    stream.set_write_timeout(None);
    stream.write_all(&pattern(written, 10_000)).unwrap();
    drop(stream);
    assert!(reader.join().unwrap() == pattern(0, written + 10_000));
    end(runtimes);
}

#[test]
fn a_read_that_waits_ends_when_another_thread_shuts_reading_down() {
    let runtimes = pair((1, 1));
    let listener = TcpListener::bind(&runtimes.0.handle(), any(7)).unwrap();
    let stream = TcpStream::connect(&runtimes.1.handle(), server(7)).unwrap();
    let accepted = listener.accept().unwrap();
    let mut reader = stream.try_clone().unwrap();
    let read = std::thread::spawn(move || reader.read(&mut [0; 10]).unwrap());
    stream.shutdown(Shutdown::Read).unwrap();
    assert_eq!(read.join().unwrap(), 0);
    drop((stream, accepted));
    end(runtimes);
}

#[test]
fn the_peer_learns_that_received_bytes_were_never_read() {
    let runtimes = pair((1, 1));
    let listener = TcpListener::bind(&runtimes.0.handle(), any(7)).unwrap();
    let mut stream = TcpStream::connect(&runtimes.1.handle(), server(7)).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.write_all(b"farewell").unwrap();
    let mut bytes = [0; 8];
    stream.write_all(b"seen, and not seen").unwrap();
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(accepted.read(&mut bytes[..4]).unwrap(), 4);
    drop(accepted);
    let error = loop {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("an orderly end"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    drop(stream);
    end(runtimes);
}

#[test]
fn a_refused_connection_is_an_error_and_the_end_of_the_runtime_too() {
    let runtimes = pair((1, 1));
    let (server_handle, client_handle) = (runtimes.0.handle(), runtimes.1.handle());
    let refused = TcpStream::connect(&client_handle, server(7)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let listener = TcpListener::bind(&server_handle, any(7)).unwrap();
    let mut stream = TcpStream::connect(&client_handle, server(7)).unwrap();
    let accepted = listener.accept().unwrap();
    runtimes.1.handle().shutdown_now();
    runtimes.1.wait().unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(stream.write_all(&[0; 10]).is_err());
    assert!(TcpStream::connect(&client_handle, server(7)).is_err());
    drop(accepted);
    server_handle.shutdown();
    runtimes.0.wait().unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[test]
fn blocking_calls_are_refused_on_a_shard() {
    let runtimes = pair((1, 1));
    let handle = runtimes.0.handle();
    let inside = handle.clone();
    let kind = handle
        .run_on(0, move || async move { TcpListener::bind(&inside, any(7)).map_err(|e| e.kind()).err() });
    assert_eq!(kind.unwrap(), Some(io::ErrorKind::Unsupported));
    end(runtimes);
}

#[test]
fn datagrams_reach_threads() {
    let runtimes = pair((2, 2));
    let echo = UdpSocket::bind(&runtimes.0.handle(), any(7)).unwrap();
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; 2000];
        for _ in 0..20 {
            let (len, peer) = echo.recv_from(&mut bytes).unwrap();
            echo.send_to(&bytes[..len], peer).unwrap();
        }
    });
    for number in 0..20 {
        let socket = UdpSocket::bind(&runtimes.1.handle(), any(0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20)));
        let text = format!("datagram {number}");
        socket.send_to(text.as_bytes(), server(7)).unwrap();
        let mut bytes = [0; 100];
        let (len, peer) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..len], peer), (text.as_bytes(), server(7)));
    }
    let silent = UdpSocket::bind(&runtimes.1.handle(), any(0)).unwrap();
    silent.set_read_timeout(Some(Duration::from_millis(1)));
    assert_eq!(silent.recv_from(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    let long = vec![0; crate::limits::UDP_PAYLOAD_BYTES + 1];
    assert_eq!(silent.send_to(&long, server(7)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    echo.join().unwrap();
    end(runtimes);
}
