//! hyper and tokio's I/O traits on our streams.

use core::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};

use super::{any, pattern, run, server};
use crate::runtime::hyper::ShardTimer;
use crate::runtime::net::{TcpListener, TcpStream};
use crate::runtime::{Context, spawn, time};
use crate::time::Duration;

/// Answers with the request's body; closes connections on which no request comes for so long.
async fn http(context: Context, patience: Duration) -> super::Done {
    let listener = TcpListener::bind(any(80))?;
    while let Ok((stream, _)) = listener.accept().await {
        let context = context.clone();
        spawn(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(Full::new(body)))
            });
            let mut connection = hyper::server::conn::http1::Builder::new();
            connection.timer(ShardTimer).header_read_timeout(patience);
            let mut connection = core::pin::pin!(connection.serve_connection(stream, service));
            let shutdown = async {
                context.shutdown().await;
                None
            };
            let ended = futures_lite::future::or(async { Some(connection.as_mut().await) }, shutdown).await;
            if ended.is_none() {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        })
        .detach();
    }
    Ok(())
}

#[test]
fn hyper_serves_and_asks_over_our_streams() {
    run(
        (2, 2),
        |context| http(context, Duration::from_secs(20)),
        |_| async {
            let stream = TcpStream::connect(server(80)).await?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            let connection = spawn(connection);
            for len in [0, 1, 100_000, 1_000_000] {
                let request = Request::post("/")
                    .header("host", "test")
                    .body(Full::new(Bytes::from(pattern(0, len))))?;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                assert_eq!(response.status(), 200);
                assert!(response.into_body().collect().await?.to_bytes() == pattern(0, len));
            }
            drop(sender);
            connection.await?;
            Ok(())
        },
    );
}

/// Answers every request with the same bytes, noted for the stream.
async fn serve_noted(_: Context) -> super::Done {
    let listener = TcpListener::bind(any(80))?;
    let body = Bytes::from(pattern(0, 300_000));
    while let Ok((stream, _)) = listener.accept().await {
        let (body, handover) = (body.clone(), stream.handover());
        let noted = handover.clone();
        spawn(async move {
            let service = service_fn(move |_: Request<hyper::body::Incoming>| {
                let (body, noted) = (body.clone(), noted.clone());
                async move {
                    noted.note(&body);
                    Ok::<_, Infallible>(Response::new(Full::new(body)))
                }
            });
            hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await.unwrap();
            assert_eq!(handover.len(), 0, "hyper wrote something else than the body's bytes as they were");
        })
        .detach();
    }
    Ok(())
}

#[test]
fn a_body_that_is_noted_is_known_again_behind_hyper() {
    run((1, 1), serve_noted, |_| async {
        let stream = TcpStream::connect(server(80)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let connection = spawn(connection);
        for _ in 0..3 {
            let request = Request::get("/").header("host", "test").body(Full::new(Bytes::new()))?;
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            assert!(response.into_body().collect().await?.to_bytes() == pattern(0, 300_000));
        }
        drop(sender);
        connection.await?;
        Ok(())
    });
}

#[test]
fn hypers_timers_end_a_connection_that_asks_nothing() {
    run(
        (1, 1),
        |context| http(context, Duration::from_millis(20)),
        |_| async {
            let start = time::now();
            let mut stream = TcpStream::connect(server(80)).await?;
            stream.write_all(b"GET / HT").await?;
            let mut bytes = [0; 1000];
            while stream.read(&mut bytes).await.is_ok_and(|len| len > 0) {}
            assert!(time::now() - start >= Duration::from_millis(20));
            Ok(())
        },
    );
}

#[test]
fn tokios_copy_runs_over_our_streams() {
    const LEN: usize = 500_000;
    run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(7))?;
            while let Ok((stream, _)) = listener.accept().await {
                let (mut reader, mut writer) = stream.into_split();
                let copied = tokio::io::copy(&mut reader, &mut writer).await?;
                assert_eq!(copied, LEN as u64);
                tokio::io::AsyncWriteExt::shutdown(&mut writer).await?;
            }
            Ok(())
        },
        |_| async {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
            let (mut reader, mut writer) = TcpStream::connect(server(7)).await?.into_split();
            let write = spawn(async move {
                AsyncWriteExt::write_all(&mut writer, &pattern(0, LEN)).await.unwrap();
                writer.shutdown().await.unwrap();
            });
            // A buffer that is not initialised, which `read_to_end` on a `Vec` gives.
            let mut all = Vec::new();
            reader.read_to_end(&mut all).await?;
            assert!(all == pattern(0, LEN));
            write.await;
            Ok(())
        },
    );
}
