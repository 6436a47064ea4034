//! Futures dropped halfway lose neither bytes nor connections.

use core::future::Future;
use core::pin::pin;
use core::task::Poll;
use std::io;

use super::{any, pattern, run, server};
use crate::runtime::net::{Shutdown, TcpListener, TcpStream};
use crate::runtime::{spawn, time};
use crate::time::Duration;

/// Polls `future` once and drops it.
async fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    core::future::poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn reads_dropped_halfway_lose_no_byte() {
    const LEN: usize = 200_000;
    run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(7))?;
            let (mut stream, _) = listener.accept().await?;
            let (mut offset, mut round, mut dropped) = (0, 0u64, 0);
            let mut bytes = [0; 1000];
            while offset < LEN {
                round += 1;
                // Dropped after one poll, after a time of the order of the segments' distance, or not at all.
                let read = match round % 3 {
                    0 => once(stream.read(&mut bytes)).await,
                    1 => time::timeout(Duration::from_micros(round % 50), stream.read(&mut bytes)).await.ok(),
                    _ => Some(stream.read(&mut bytes).await),
                };
                match read {
                    Some(len) => {
                        let len = len?;
                        assert_eq!(bytes[..len], pattern(offset, len));
                        offset += len;
                    }
                    None => dropped += 1,
                }
            }
            assert!(dropped > 0);
            assert_eq!(stream.read(&mut bytes).await?, 0);
            Ok(())
        },
        |_| async {
            let mut stream = TcpStream::connect(server(7)).await?;
            for offset in (0..LEN).step_by(500) {
                stream.write_all(&pattern(offset, 500)).await?;
                if offset % 5000 == 0 {
                    time::sleep(Duration::from_micros(200)).await;
                }
            }
            stream.close().await?;
            Ok(())
        },
    );
}

#[test]
fn writes_dropped_halfway_wrote_nothing() {
    const LEN: usize = 3_000_000;
    run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(7))?;
            let (mut stream, _) = listener.accept().await?;
            let mut offset = 0;
            while let Some(chunk) = stream.read_chunk().await? {
                assert_eq!(chunk[..], pattern(offset, chunk.len()));
                offset += chunk.len();
                if offset % 7 == 0 {
                    time::sleep(Duration::from_micros(100)).await;
                }
            }
            assert_eq!(offset, LEN);
            Ok(())
        },
        |_| async {
            let mut stream = TcpStream::connect(server(7)).await?;
            let (mut offset, mut dropped) = (0, 0);
            while offset < LEN {
                let bytes = pattern(offset, 50_000.min(LEN - offset));
                match once(stream.write(&bytes)).await {
                    Some(len) => offset += len?,
                    None => {
                        dropped += 1;
                        time::sleep(Duration::from_micros(50)).await;
                    }
                }
            }
            assert!(dropped > 0, "the send buffer was never full");
            stream.close().await?;
            Ok(())
        },
    );
}

#[test]
fn accepts_dropped_halfway_lose_no_connection() {
    const CONNECTIONS: usize = 200;
    run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(7))?;
            let (mut accepted, mut dropped) = (0, 0);
            while accepted < CONNECTIONS {
                match time::timeout(Duration::from_micros(20), listener.accept()).await {
                    Ok(stream) => {
                        accepted += 1;
                        stream?.0.close().await?;
                    }
                    Err(_) => dropped += 1,
                }
            }
            assert!(dropped > 0);
            Ok(())
        },
        |_| async {
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect(server(7)).await?;
                assert_eq!(stream.read(&mut [0; 1]).await?, 0);
            }
            Ok(())
        },
    );
}

#[test]
fn a_connect_dropped_halfway_leaves_nothing_behind() {
    let (_, client) = run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(7))?;
            while let Ok((mut stream, _)) = listener.accept().await {
                spawn(async move { stream.read(&mut [0; 1]).await }).detach();
            }
            Ok(())
        },
        |_| async {
            for _ in 0..50 {
                assert!(once(TcpStream::connect(server(7))).await.is_none());
            }
            // An address where nobody answers.
            let nobody = "192.0.2.77:7".parse()?;
            let connect = TcpStream::connect(nobody);
            let error: io::Error =
                time::timeout(Duration::from_millis(5), connect).await.map(|_| ()).unwrap_err().into();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            let mut stream = TcpStream::connect(server(7)).await?;
            stream.shutdown(Shutdown::Write)?;
            assert_eq!(stream.read(&mut [0; 1]).await?, 0);
            Ok(())
        },
    );
    assert_eq!(client.metrics.tcp().connections, 0, "{client}");
}
