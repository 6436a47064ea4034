//! Start, metrics, shutdown and failure of a runtime.

use core::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{CLIENT_V4, Done, SERVER_V4, any, host, run, server};
use crate::config::StackConfig;
use crate::runtime::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use crate::runtime::testing::{Cable, cable};
use crate::runtime::{
    Context, ControlError, OffShard, RunError, Runtime, StartError, spawn, time, try_spawn,
};
use crate::time::Duration;

async fn until_shutdown(context: Context) -> Done {
    context.shutdown().await;
    Ok(())
}

/// A runtime of `queues` shards with nobody at the other end.
fn alone(queues: usize) -> super::Builder {
    host(SERVER_V4, cable(queues, 1).unwrap().0)
}

#[test]
fn a_runtime_ends_when_every_application_has() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let app = move |context: Context| {
        let runs = Arc::clone(&counted);
        async move {
            assert_eq!(context.shards(), 3);
            time::sleep(Duration::from_millis(context.shard() as u64)).await;
            runs.fetch_add(1 << (8 * context.shard()), Ordering::Relaxed);
            Ok(())
        }
    };
    let summary = alone(3).start(app).unwrap().wait().unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 0x01_01_01, "once on every shard");
    assert_eq!(summary.metrics.shards.len(), 3);
    assert!(summary.to_string().contains("frames    all 6144 back"), "{summary}");
}

#[test]
fn a_device_that_does_not_open_fails_the_start_and_joins_all_threads() {
    let builder = alone(2).queue(|| Err::<Cable, _>(io::Error::other("no such queue")));
    match builder.start(until_shutdown) {
        Err(StartError::Device { shard: 2, source }) => assert_eq!(source.to_string(), "no such queue"),
        other => panic!("{:?}", other.err()),
    }
    let builder = alone(1).queue(|| -> io::Result<Cable> { panic!("in the opener") });
    assert!(matches!(builder.start(until_shutdown).err(), Some(StartError::Panicked)));
    let none = Runtime::builder(StackConfig::new(Vec::new(), [0; 32]));
    assert!(matches!(none.start(until_shutdown).err(), Some(StartError::NoQueues)));
}

#[test]
fn a_wrong_configuration_fails_the_start() {
    let (left, _) = cable(1, 1).unwrap();
    let config = StackConfig::new(Vec::new(), [0; 32]);
    let builder =
        left.into_iter().fold(Runtime::builder(config), |builder, plug| builder.queue(|| plug.open(64)));
    assert!(matches!(builder.start(until_shutdown).err(), Some(StartError::Config(_))));
}

#[test]
fn an_applications_error_ends_all_shards() {
    let app = |context: Context| async move {
        if context.shard() == 1 {
            return Err("out of luck".into());
        }
        until_shutdown(context).await
    };
    match alone(2).start(app).unwrap().wait() {
        Err(RunError::App { shard: 1, source }) => assert_eq!(source.to_string(), "out of luck"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_applications_panic_ends_all_shards() {
    let app = |context: Context| async move {
        assert_ne!(context.shard(), 1, "a bug");
        until_shutdown(context).await
    };
    match alone(3).start(app).unwrap().wait() {
        Err(RunError::Panicked { shard: 1, what: "the application", message }) => {
            assert!(message.contains("a bug"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tasks_panic_ends_the_task_and_resets_its_connection() {
    let (left, right) = cable(1, 1).unwrap();
    let serve = |_| async {
        let listener = TcpListener::bind(any(7))?;
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn(async move {
                let mut bytes = [0; 1];
                stream.read(&mut bytes).await.unwrap();
                stream.write_all(b"half an ans").await.unwrap();
                assert_ne!(bytes, *b"!", "a bug");
            })
            .detach();
        }
        Ok(())
    };
    let call = |_| async {
        for (byte, end) in [(b"!", Err(io::ErrorKind::ConnectionReset)), (b"?", Ok(()))] {
            let mut stream = TcpStream::connect(server(7)).await?;
            stream.write_all(byte).await?;
            let result = loop {
                match stream.read(&mut [0; 100]).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error.kind()),
                }
            };
            assert_eq!(result, end);
        }
        Ok(())
    };
    let server = host(SERVER_V4, left).start(serve).unwrap();
    host(CLIENT_V4, right).start(call).unwrap().wait().unwrap();
    assert_eq!(server.handle().metrics().runtime().task_panics, 1);
    server.handle().shutdown();
    server.wait().unwrap();
}

#[test]
fn tasks_pass_on_outputs_and_panics_and_can_be_cancelled() {
    let app = |_| async {
        assert_eq!(spawn(async { 7 }).await, 7);
        let forever = spawn(core::future::pending::<()>());
        assert_eq!(forever.cancel().await, None);
        let dropped = Arc::new(());
        let held = Arc::clone(&dropped);
        let task = spawn(async move {
            let _held = held;
            core::future::pending::<()>().await;
        });
        time::sleep(Duration::from_millis(1)).await;
        drop(task);
        time::sleep(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&dropped), 1);
        Ok(())
    };
    alone(1).start(app).unwrap().wait().unwrap();
}

#[test]
fn sleeps_end_in_order_and_never_early() {
    let app = |_| async {
        let start = time::now();
        let order = std::rc::Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [5u64, 1, 3, 0]
            .map(|millis| {
                let order = std::rc::Rc::clone(&order);
                spawn(async move {
                    time::sleep(Duration::from_millis(millis)).await;
                    assert!(time::now() - start >= Duration::from_millis(millis));
                    order.borrow_mut().push(millis);
                })
            })
            .into();
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [0, 1, 3, 5]);
        let inner = async {
            time::sleep(Duration::from_millis(1)).await;
            7
        };
        assert_eq!(time::timeout(Duration::from_secs(20), inner).await, Ok(7));
        assert!(time::timeout(Duration::from_millis(1), core::future::pending::<()>()).await.is_err());
        Ok(())
    };
    alone(1).start(app).unwrap().wait().unwrap();
}

#[test]
fn other_threads_reach_every_shard_and_get_errors_where_they_must() {
    let runtime = alone(2).start(until_shutdown).unwrap();
    let handle = runtime.handle();
    let thread = |shard| handle.run_on(shard, || async { std::thread::current().name().map(str::to_owned) });
    assert_eq!(thread(0).unwrap().as_deref(), Some("bywash-0"));
    assert_eq!(thread(1).unwrap().as_deref(), Some("bywash-1"));
    assert_eq!(thread(2), Err(ControlError::NoSuchShard { shard: 2, shards: 2 }));
    let inside = handle.clone();
    let nested = handle.run_on(0, move || async move { inside.run_on(1, || async {}) });
    assert_eq!(nested.unwrap(), Err(ControlError::OnShard));
    assert_eq!(TcpListener::bind(any(7)).unwrap_err().kind(), io::ErrorKind::Unsupported);
    assert!(matches!(try_spawn(async {}), Err(OffShard(()))));
    handle.shutdown();
    runtime.wait().unwrap();
    assert_eq!(handle.run_on(0, || async {}), Err(ControlError::Ended));
}

#[test]
fn commands_from_many_threads_are_all_run() {
    const COMMANDS: usize = 5000;
    let runtime = alone(2).start(until_shutdown).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (handle, count) = (runtime.handle(), Arc::clone(&count));
            std::thread::spawn(move || {
                for command in 0..COMMANDS {
                    let count = Arc::clone(&count);
                    let add = move || async move { count.fetch_add(1, Ordering::Relaxed) };
                    handle.spawn_on(command % 2, add).unwrap();
                }
                handle.run_on(0, || async {}).unwrap();
                handle.run_on(1, || async {}).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(count.load(Ordering::Relaxed), 3 * COMMANDS);
    runtime.handle().shutdown();
    runtime.wait().unwrap();
}

#[test]
fn metrics_are_exact_from_outside_and_safe_from_inside() {
    run(
        (2, 1),
        |context| async move {
            let listener = TcpListener::bind(any(7))?;
            let metrics = context.handle().metrics();
            assert_eq!(metrics.shards.len(), 2);
            assert_eq!(metrics.shards[context.shard()].tcp.listeners, 1);
            context.shutdown().await;
            drop(listener);
            Ok(())
        },
        |_| async { Ok(()) },
    );
    let runtime = alone(2).start(until_shutdown).unwrap();
    let handle = runtime.handle();
    handle.run_on(1, || async { TcpListener::bind(any(7)).map(core::mem::forget).unwrap() }).unwrap();
    let metrics = handle.metrics();
    assert_eq!(metrics.tcp().listeners, 1);
    assert!(metrics.shards.iter().all(|shard| shard.cpu > Duration::ZERO && shard.pool.total == 2048));
    assert!(metrics.prometheus().contains("bywash_tcp_listeners{shard=\"1\"} 1"));
    handle.shutdown();
    runtime.wait().unwrap();
}

#[test]
fn ports_are_steered_while_they_are_in_use() {
    let (left, right) = cable(1, 1).unwrap();
    let ports = left[0].ports();
    let serve = move |context: Context| {
        let ports = ports.clone();
        async move {
            let listener = TcpListener::bind(any(7))?;
            assert_eq!(ports.open(), [("tcp", 7)], "open as soon as `bind` returns");
            let (mut stream, _) = listener.accept().await?;
            drop(listener);
            stream.write_all(b"x").await?;
            assert_eq!(stream.read(&mut [0; 1]).await?, 1);
            assert_eq!(ports.open(), [("tcp", 7)], "the connection still needs it");
            stream.close().await?;
            let socket = UdpSocket::bind(any(53))?;
            assert!(ports.open().contains(&("udp", 53)));
            drop(socket);
            time::sleep(Duration::from_millis(1)).await;
            assert!(!ports.open().contains(&("udp", 53)));
            context.shutdown().await;
            Ok(())
        }
    };
    let server_runtime = host(SERVER_V4, left).start(serve).unwrap();
    let call = |_| async {
        let mut stream = TcpStream::connect(server(7)).await?;
        assert_eq!(stream.read(&mut [0; 1]).await?, 1);
        stream.write_all(b"y").await?;
        assert_eq!(stream.read(&mut [0; 1]).await?, 0);
        Ok(())
    };
    host(CLIENT_V4, right).start(call).unwrap().wait().unwrap();
    server_runtime.handle().shutdown();
    server_runtime.wait().unwrap();
}

#[test]
fn a_shutdown_lets_connections_finish_and_refuses_new_ones() {
    let (left, right) = cable(1, 1).unwrap();
    let serve = |context: Context| async move {
        let listener = TcpListener::bind(any(7))?;
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"ready").await?;
        assert_eq!(listener.accept().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(TcpListener::bind(any(8)).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        context.shutdown().await;
        stream.write_all(b"last words").await?;
        stream.close().await?;
        Ok(())
    };
    let server_runtime = host(SERVER_V4, left).start(serve).unwrap();
    let handle = server_runtime.handle();
    let call = move |_| {
        let handle = handle.clone();
        async move {
            let mut stream = TcpStream::connect(server(7)).await?;
            let mut bytes = [0; 100];
            assert_eq!(stream.read(&mut bytes).await?, 5);
            handle.shutdown();
            assert_eq!(stream.read(&mut bytes).await?, 10);
            let refused = TcpStream::connect(server(7)).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            stream.shutdown(Shutdown::Write)?;
            assert_eq!(stream.read(&mut bytes).await?, 0);
            Ok(())
        }
    };
    host(CLIENT_V4, right).start(call).unwrap().wait().unwrap();
    let summary = server_runtime.wait().unwrap();
    assert_eq!(summary.metrics.runtime().connections_aborted, 0, "{summary}");
}

#[test]
fn connections_that_do_not_finish_in_time_are_aborted() {
    let (left, right) = cable(1, 1).unwrap();
    let serve = |_| async {
        let listener = TcpListener::bind(any(7))?;
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"ready").await?;
        // Neither the application nor its connection ends.
        core::future::pending::<()>().await;
        drop(stream);
        Ok(())
    };
    let server_runtime = host(SERVER_V4, left).drain_timeout(Duration::from_millis(10)).start(serve).unwrap();
    let handle = server_runtime.handle();
    let call = move |_| {
        let handle = handle.clone();
        async move {
            let mut stream = TcpStream::connect(server(7)).await?;
            assert_eq!(stream.read(&mut [0; 10]).await?, 5);
            handle.shutdown();
            assert_eq!(stream.read(&mut [0; 10]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            Ok(())
        }
    };
    let client_runtime = host(CLIENT_V4, right).start(call).unwrap();
    let summary = server_runtime.wait().unwrap();
    assert_eq!(summary.metrics.runtime().connections_aborted, 1, "{summary}");
    assert_eq!(summary.frames_missing(), 0);
    client_runtime.wait().unwrap();
}

#[test]
fn a_dead_stream_that_a_task_still_holds_does_not_delay_the_shutdown() {
    let (left, right) = cable(1, 1).unwrap();
    let (dead, is_dead) = std::sync::mpsc::channel();
    let serve = move |_| {
        let dead = dead.clone();
        async move {
            let listener = TcpListener::bind(any(7))?;
            let (mut stream, _) = listener.accept().await?;
            spawn(async move {
                assert!(stream.read(&mut [0; 10]).await.is_err(), "reset");
                dead.send(()).unwrap();
                core::future::pending::<()>().await;
                drop(stream);
            })
            .detach();
            Ok(())
        }
    };
    let server_runtime = host(SERVER_V4, left).start(serve).unwrap();
    let call = |_| async {
        let stream = TcpStream::connect(server(7)).await?;
        stream.set_linger(Some(Duration::ZERO))?;
        drop(stream);
        Ok(())
    };
    let client_runtime = host(CLIENT_V4, right).start(call).unwrap();
    is_dead.recv().unwrap();
    server_runtime.handle().shutdown();
    let summary = server_runtime.wait().unwrap();
    // Waited for until the time was over, it would have been aborted.
    assert_eq!(summary.metrics.runtime().connections_aborted, 0, "{summary}");
    assert!(summary.metrics.elapsed < Duration::from_secs(20), "{summary}");
    client_runtime.wait().unwrap();
}

#[test]
fn a_stream_kept_beyond_the_runtime_is_harmless() {
    thread_local! {
        static KEPT: RefCell<Option<TcpStream>> = const { RefCell::new(None) };
    }
    run(
        (1, 1),
        |_| async {
            let listener = TcpListener::bind(any(7))?;
            while let Ok((stream, _)) = listener.accept().await {
                stream.close().await?;
            }
            Ok(())
        },
        |context| async move {
            let mut stream = TcpStream::connect(server(7)).await?;
            assert_eq!(stream.read(&mut [0; 1]).await?, 0);
            stream.shutdown(Shutdown::Write)?;
            stream.flushed().await?;
            KEPT.set(Some(stream));
            context.handle().shutdown_now();
            Ok(())
        },
    );
}

#[test]
fn a_capture_file_holds_what_was_seen_and_sent() {
    let path = std::env::temp_dir().join(format!("bywash-capture-{}.pcap", std::process::id()));
    let (left, right) = cable(2, 1).unwrap();
    let serve = |_| async {
        let listener = TcpListener::bind(any(7))?;
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"written to the file").await?;
            stream.close().await?;
        }
        Ok(())
    };
    let call = |_| async {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(server(7)).await?;
            while stream.read(&mut [0; 100]).await? > 0 {}
        }
        Ok(())
    };
    let server_runtime = host(SERVER_V4, left).pcap(&path).start(serve).unwrap();
    host(CLIENT_V4, right).start(call).unwrap().wait().unwrap();
    server_runtime.handle().shutdown();
    let summary = server_runtime.wait().unwrap();
    let file = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(summary.capture_error, None);
    // 24 bytes of header, then 16 bytes before every packet.
    let (mut packets, mut at) = (0, 24);
    while let Some(length) = file.get(at + 8..at + 12) {
        at += 16 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
        packets += 1;
    }
    assert_eq!(at, file.len());
    let sum = summary.metrics.counters();
    assert_eq!(packets + summary.metrics.capture_lost.unwrap(), sum.rx_packets + sum.tx_packets);
    let payloads = file.windows(19).filter(|window| window == b"written to the file").count();
    assert!(payloads >= 4 || summary.metrics.capture_lost != Some(0));
}

#[test]
fn what_other_threads_use_may_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<crate::runtime::Handle>();
    crosses::<crate::runtime::Summary>();
    crosses::<RunError>();
    crosses::<time::Sleep>();
    crosses::<crate::runtime::blocking::TcpListener>();
    crosses::<crate::runtime::blocking::TcpStream>();
    crosses::<crate::runtime::blocking::UdpSocket>();
}
