//! Async TCP between two runtimes.

use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::{Done, any, pattern, run, server};
use crate::runtime::net::{Keepalive, Shutdown, TcpListener, TcpStream};
use crate::runtime::{Context, spawn, time};
use crate::time::Duration;

/// Echoes every connection on port 7 until the runtime shuts down.
async fn echo(_: Context) -> Done {
    let listener = TcpListener::bind(any(7))?;
    while let Ok((stream, _)) = listener.accept().await {
        spawn(echo_one(stream)).detach();
    }
    Ok(())
}

async fn echo_one(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; 8192];
    loop {
        match stream.read(&mut bytes).await? {
            0 => return stream.close().await,
            len => stream.write_all(&bytes[..len]).await?,
        }
    }
}

async fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let (mut all, mut bytes) = (Vec::new(), vec![0; 4096]);
    loop {
        match stream.read(&mut bytes).await? {
            0 => return Ok(all),
            len => all.extend_from_slice(&bytes[..len]),
        }
    }
}

#[test]
fn a_connection_carries_bytes_both_ways_and_closes() {
    let (server, client) = run((1, 1), echo, |_| async {
        let mut stream = TcpStream::connect(server(7)).await?;
        assert_eq!(stream.peer_addr()?, server(7));
        stream.set_nodelay(true)?;
        stream.set_keepalive(Some(Keepalive::default()))?;
        assert!(stream.options()?.nodelay && stream.options()?.keepalive);
        stream.write_all(b"hello").await?;
        stream.shutdown(Shutdown::Write)?;
        assert_eq!(read_to_end(&mut stream).await?, b"hello");
        assert_eq!(stream.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        Ok(())
    });
    assert_eq!(server.metrics.counters().tcp_passive_opens, 1);
    assert_eq!(client.metrics.counters().tcp_active_opens, 1);
    assert_eq!(client.metrics.runtime().connections_aborted, 0);
}

/// The send buffer has no copy of `bytes`, which were just written, of its own, and lets go of them when the echo has
/// acknowledged them.
async fn held_until_acknowledged(mut stream: TcpStream, bytes: Bytes) -> io::Result<()> {
    assert!(!bytes.is_unique(), "a copy was queued");
    stream.shutdown(Shutdown::Write)?;
    assert!(read_to_end(&mut stream).await? == bytes);
    stream.flushed().await?;
    assert!(bytes.is_unique(), "the bytes are still held");
    Ok(())
}

#[test]
fn bytes_handed_over_are_held_until_they_are_acknowledged() {
    run((1, 1), echo, |_| async {
        let mut stream = TcpStream::connect(server(7)).await?;
        let bytes = Bytes::from(pattern(0, 50_000));
        stream.write_bytes(bytes.clone()).await?;
        Ok(held_until_acknowledged(stream, bytes).await?)
    });
}

#[test]
fn slices_of_bytes_that_were_noted_are_held_too() {
    run((1, 1), echo, |_| async {
        let mut stream = TcpStream::connect(server(7)).await?;
        let (bytes, handover) = (Bytes::from(pattern(0, 50_000)), stream.handover());
        handover.note(&bytes);
        stream.write_all(&bytes).await?;
        assert_eq!(handover.len(), 0);
        Ok(held_until_acknowledged(stream, bytes).await?)
    });
}

#[test]
fn chunks_go_back_as_they_came() {
    async fn serve(_: Context) -> Done {
        let listener = TcpListener::bind(any(7))?;
        while let Ok((mut stream, _)) = listener.accept().await {
            while let Some(chunk) = stream.read_chunk().await? {
                stream.write_chunk(chunk).await?;
            }
            stream.close().await?;
        }
        Ok(())
    }
    run((1, 1), serve, |_| async {
        const LEN: usize = 2 << 20;
        let (mut reader, mut writer) = TcpStream::connect(server(7)).await?.into_split();
        let write = async {
            // Of lengths that are kept in their frames and lengths that are not.
            for (offset, len) in (0..LEN / 4096).flat_map(|i| [(i * 4096, 3000), (i * 4096 + 3000, 1096)]) {
                writer.write_all(&pattern(offset, len)).await?;
            }
            drop(writer);
            Ok(())
        };
        let read = async {
            let (mut offset, mut bytes) = (0, vec![0; 10_000]);
            loop {
                let len = reader.read(&mut bytes).await?;
                assert!(bytes[..len] == pattern(offset, len), "at {offset}");
                offset += len;
                if len == 0 {
                    assert_eq!(offset, LEN);
                    return io::Result::Ok(());
                }
            }
        };
        futures_lite::future::try_zip(write, read).await?;
        Ok(())
    });
}

#[test]
fn megabytes_arrive_in_order_while_both_directions_flow() {
    const LEN: usize = 4 << 20;
    run((1, 1), echo, |_| async {
        let mut stream = TcpStream::connect(server(7)).await?;
        let (mut reader, mut writer) = stream.split();
        let write = async {
            for offset in (0..LEN).step_by(10_000) {
                writer.write_all(&pattern(offset, 10_000.min(LEN - offset))).await?;
            }
            writer.flushed().await
        };
        let read = async {
            let mut offset = 0;
            while offset < LEN {
                let chunk = reader.read_chunk().await?.expect("no end before all bytes");
                assert_eq!(chunk[..], pattern(offset, chunk.len()));
                offset += chunk.len();
            }
            Ok(())
        };
        futures_lite::future::try_zip(write, read).await?;
        Ok(())
    });
}

#[test]
fn owned_halves_work_in_different_tasks_and_a_dropped_write_half_ends_the_stream() {
    run((1, 1), echo, |_| async {
        let (mut reader, mut writer) = TcpStream::connect(server(7)).await?.into_split();
        let read = spawn(async move {
            let (mut all, mut bytes) = (Vec::new(), [0; 100]);
            while let len @ 1.. = reader.read(&mut bytes).await? {
                all.extend_from_slice(&bytes[..len]);
            }
            Ok::<_, io::Error>(all)
        });
        for offset in (0..10_000).step_by(1000) {
            writer.write_all(&pattern(offset, 1000)).await?;
        }
        drop(writer);
        assert_eq!(read.await?, pattern(0, 10_000));
        Ok(())
    });
}

#[test]
fn halves_reunite_and_strangers_do_not() {
    run((1, 1), echo, |_| async {
        let (one, two) = (TcpStream::connect(server(7)).await?, TcpStream::connect(server(7)).await?);
        let ((read_one, write_one), (read_two, write_two)) = (one.into_split(), two.into_split());
        let error = read_one.reunite(write_two).unwrap_err();
        let mut one = error.0.reunite(write_one).unwrap();
        let mut two = read_two.reunite(error.1).unwrap();
        for stream in [&mut one, &mut two] {
            stream.write_all(b"still open").await?;
            stream.shutdown(Shutdown::Write)?;
            assert_eq!(read_to_end(stream).await?, b"still open");
        }
        Ok(())
    });
}

#[test]
fn a_closed_port_refuses() {
    run(
        (1, 1),
        |context| async move {
            context.shutdown().await;
            Ok(())
        },
        |_| async {
            let error = TcpStream::connect(server(7)).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            Ok(())
        },
    );
}

#[test]
fn a_port_is_listened_on_once_and_free_again_after_the_drop() {
    run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(80))?;
            assert_eq!(TcpListener::bind(any(80)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(listener);
            let listener = TcpListener::bind(any(80))?;
            assert_eq!(listener.local_addr()?.port(), 80);
            assert_ne!(TcpListener::bind(any(0))?.local_addr()?.port(), 0);
            Ok(())
        },
        |_| async { Ok(()) },
    );
}

#[test]
fn thousands_of_connections_on_several_queues_all_get_their_answer() {
    const CONNECTIONS: u64 = 1000;
    let (server, client) = run((2, 2), echo, |context| async move {
        // Each shard of the client holds all of its connections open at once.
        let tasks: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let shard = context.shard();
                spawn(async move {
                    let mut stream = TcpStream::connect(server(7)).await?;
                    let text = format!("connection {number} of shard {shard}");
                    stream.write_all(text.as_bytes()).await?;
                    let mut bytes = vec![0; text.len()];
                    let mut read = 0;
                    while read < text.len() {
                        read += stream.read(&mut bytes[read..]).await?;
                    }
                    assert_eq!(bytes, text.as_bytes());
                    Ok::<_, io::Error>(stream)
                })
            })
            .collect();
        let mut streams = Vec::new();
        for task in tasks {
            streams.push(task.await?);
        }
        for stream in streams {
            stream.close().await?;
        }
        Ok(())
    });
    assert_eq!(server.metrics.counters().tcp_passive_opens, 2 * CONNECTIONS, "{server}");
    assert_eq!(client.metrics.counters().tcp_active_opens, 2 * CONNECTIONS, "{client}");
    let shared = server.metrics.shards.iter().all(|shard| shard.counters.tcp_passive_opens > 0);
    assert!(shared, "both shards accept: {server}");
}

#[test]
fn several_tasks_accept_on_one_listener() {
    run(
        (1, 1),
        |_| async {
            let listener = Rc::new(TcpListener::bind(any(7))?);
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    let listener = Rc::clone(&listener);
                    spawn(async move { echo_one(listener.accept().await?.0).await })
                })
                .collect();
            for task in tasks {
                task.await?;
            }
            Ok(())
        },
        |_| async {
            for _ in 0..4 {
                let mut stream = TcpStream::connect(server(7)).await?;
                stream.write_all(b"x").await?;
                stream.shutdown(Shutdown::Write)?;
                assert_eq!(read_to_end(&mut stream).await?, b"x");
            }
            Ok(())
        },
    );
}

#[test]
fn a_read_time_limit_fails_the_read_and_not_the_stream() {
    run((1, 1), echo, |_| async {
        let mut stream = TcpStream::connect(server(7)).await?;
        stream.set_read_timeout(Some(Duration::from_millis(1)));
        let mut bytes = [0; 10];
        assert_eq!(stream.read(&mut bytes).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        stream.set_read_timeout(Some(Duration::from_secs(20)));
        stream.write_all(b"late").await?;
        assert_eq!(stream.read(&mut bytes).await?, 4);
        Ok(())
    });
}

#[test]
fn a_write_time_limit_fails_the_write_when_the_peer_does_not_read() {
    run(
        (1, 1),
        |context| async move {
            let listener = TcpListener::bind(any(7))?;
            let (_unread, _) = listener.accept().await?;
            context.shutdown().await;
            Ok(())
        },
        |_| async {
            let mut stream = TcpStream::connect(server(7)).await?;
            stream.set_write_timeout(Some(Duration::from_millis(20)));
            let full = loop {
                if let Err(error) = stream.write(&[0; 65536]).await {
                    break error;
                }
            };
            assert_eq!(full.kind(), io::ErrorKind::TimedOut);
            stream.abort();
            Ok(())
        },
    );
}

#[test]
fn an_aborted_stream_resets_the_peer() {
    run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(7))?;
            let (mut stream, _) = listener.accept().await?;
            let error = loop {
                match stream.read(&mut [0; 10]).await {
                    Ok(0) => panic!("an orderly end"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            Ok(())
        },
        |_| async {
            let mut stream = TcpStream::connect(server(7)).await?;
            stream.write_all(b"x").await?;
            stream.flushed().await?;
            stream.abort();
            time::sleep(Duration::from_millis(1)).await;
            Ok(())
        },
    );
}

#[test]
fn the_traits_of_futures_io_read_and_write() {
    run((1, 1), echo, |_| async {
        use futures_lite::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut reader, mut writer) = TcpStream::connect(server(7)).await?.into_split();
        let slices = [b"one ".as_slice(), b"", b"two "].map(io::IoSlice::new);
        assert_eq!(writer.write_vectored(&slices).await?, 8);
        writer.flush().await?;
        futures_lite::io::copy(&b"three"[..], &mut writer).await?;
        futures_lite::AsyncWriteExt::close(&mut writer).await?;
        let mut all = String::new();
        reader.read_to_string(&mut all).await?;
        assert_eq!(all, "one two three");
        Ok(())
    });
}
