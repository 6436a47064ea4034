//! UDP, ping and names between two runtimes.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{any, run, server};
use crate::runtime::net::{Pinger, UdpSocket, lookup};
use crate::runtime::{Context, spawn, time};
use crate::time::Duration;

async fn echo(context: Context) -> super::Done {
    let socket = Rc::new(UdpSocket::bind(any(7))?);
    let echo = Rc::clone(&socket);
    let task = spawn(async move {
        let mut bytes = [0; 2000];
        while let Ok((len, peer)) = echo.recv_from(&mut bytes).await {
            echo.send_to(&bytes[..len], peer).await.unwrap();
        }
    });
    context.shutdown().await;
    task.cancel().await;
    Ok(())
}

#[test]
fn datagrams_go_both_ways_on_every_queue() {
    run((2, 2), echo, |context| async move {
        let socket = UdpSocket::bind(any(0))?;
        assert_eq!(usize::from(socket.local_addr()?.port()) % context.shards(), context.shard());
        socket.connect(server(7));
        let mut bytes = [0; 2000];
        for len in [0, 1, 1400] {
            socket.send(&vec![len as u8; len]).await?;
            assert_eq!(socket.recv(&mut bytes).await?, len);
            assert!(bytes[..len].iter().all(|&byte| byte == len as u8));
        }
        socket.send(&[9; 100]).await?;
        assert_eq!(socket.recv(&mut bytes[..10]).await?, 10, "cut off");
        Ok(())
    });
}

#[test]
fn a_port_is_bound_once_and_free_after_the_drop() {
    run((1, 1), echo, |_| async {
        let socket = UdpSocket::bind(any(4000))?;
        assert_eq!(UdpSocket::bind(any(4000)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert_eq!(UdpSocket::bind(any(4000))?.local_addr()?, any(4000));
        Ok(())
    });
}

#[test]
fn what_a_dropped_socket_sent_arrives() {
    let arrived = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&arrived);
    let serve = move |_| {
        let told = Arc::clone(&told);
        async move {
            let socket = UdpSocket::bind(any(7))?;
            loop {
                let mut bytes = [0; 20];
                let (len, peer) = socket.recv_from(&mut bytes).await?;
                match &bytes[..len] {
                    b"last words" => break told.store(true, Ordering::Relaxed),
                    greeting => {
                        socket.send_to(greeting, peer).await?;
                    }
                }
            }
            Ok(())
        }
    };
    run((1, 1), serve, move |_| {
        let arrived = Arc::clone(&arrived);
        async move {
            let socket = UdpSocket::bind(any(0))?;
            // Until the server has bound its socket nobody answers.
            let mut bytes = [0; 20];
            while time::timeout(Duration::from_millis(20), socket.recv_from(&mut bytes)).await.is_err() {
                socket.send_to(b"hello", server(7)).await?;
            }
            UdpSocket::bind(any(0))?.send_to(b"last words", server(7)).await?;
            let arrival = async {
                while !arrived.load(Ordering::Relaxed) {
                    time::sleep(Duration::from_millis(1)).await;
                }
            };
            time::timeout(Duration::from_secs(20), arrival).await?;
            Ok(())
        }
    });
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    run((1, 1), echo, |_| async {
        let (one, two) = (UdpSocket::bind(any(4000))?, UdpSocket::bind(any(4001))?);
        one.connect(server(9));
        one.send_to(b"to the wrong port", server(7)).await?;
        two.send_to(b"x", server(7)).await?;
        assert_eq!(two.recv_from(&mut [0; 10]).await?, (1, server(7)));
        let silence = time::timeout(Duration::from_millis(1), one.recv(&mut [0; 10])).await;
        assert!(silence.is_err());
        Ok(())
    });
}

#[test]
fn replies_to_pings_carry_the_payload_and_a_time() {
    run(
        (2, 1),
        |context| async move {
            context.shutdown().await;
            Ok(())
        },
        |_| async {
            let mut pinger = Pinger::new(server(0).ip())?;
            for seq in [1, 2, 65535] {
                let echo = pinger.ping(seq, b"are you there?").await?;
                assert_eq!(
                    (echo.from, echo.seq, &echo.payload[..]),
                    (server(0).ip(), seq, &b"are you there?"[..])
                );
                assert!(echo.rtt > Duration::ZERO && echo.rtt < Duration::from_secs(20));
            }
            Ok(())
        },
    );
}

/// A name server that knows one name.
async fn name_server(_: Context) -> super::Done {
    let socket = UdpSocket::bind(any(53))?;
    let mut bytes = [0; 512];
    for _ in 0..4 {
        let (len, peer) = socket.recv_from(&mut bytes).await?;
        let mut answer = bytes[..len].to_vec();
        let is_known = answer.windows(6).any(|window| window == b"\x05known");
        let is_ipv4 = answer[len - 4..] == [0, 1, 0, 1];
        answer[2..4].copy_from_slice(if is_known { &[0x81, 0x80] } else { &[0x81, 0x83] });
        if is_known && is_ipv4 {
            answer[7] = 1;
            answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 9]);
        }
        socket.send_to(&answer, peer).await?;
    }
    time::sleep(Duration::from_millis(5)).await;
    Ok(())
}

#[test]
fn names_are_looked_up_and_addresses_taken_as_they_are() {
    run((1, 1), name_server, |_| async {
        assert_eq!(lookup("known.example").await?, ["203.0.113.9".parse::<core::net::IpAddr>()?]);
        assert_eq!(lookup("unknown.example").await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(lookup("[2001:db8::1]").await?, ["2001:db8::1".parse::<core::net::IpAddr>()?]);
        Ok(())
    });
}
