//! Devices, files and threads that fail, and wake-ups between threads.

use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

use super::{CLIENT_V4, Done, SERVER_V4, any, host, server};
use crate::device::{Capabilities, Device, Protocol, Steering, WaitDevice};
use crate::packet::{PacketBatch, PacketPool};
use crate::runtime::net::{TcpListener, TcpStream, UdpSocket};
use crate::runtime::testing::{Cable, cable};
use crate::runtime::{BoxError, Context, Pinning, RunError, StartError, spawn, time};
use crate::time::Duration;

async fn until_shutdown(context: Context) -> Done {
    context.shutdown().await;
    Ok(())
}

/// What of a device fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Sleeping is an error.
    Wait,
    /// Receiving panics.
    Receive,
    /// No port can be opened.
    Port,
    /// The stack's addresses cannot be had.
    Address,
}

/// A queue of a cable with a fault.
struct Faulty(Cable, Fault);

impl Device for Faulty {
    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn pool(&self) -> &PacketPool {
        self.0.pool()
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        assert!(self.1 != Fault::Receive, "a bug in the driver");
        self.0.receive(batch, budget)
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        self.0.transmit(batch)
    }

    fn transmit_room(&mut self) -> usize {
        self.0.transmit_room()
    }
}

impl WaitDevice for Faulty {
    fn wait(&mut self, wake: RawFd, timeout: Option<Duration>) -> io::Result<()> {
        if self.1 == Fault::Wait { Err(io::Error::other("unplugged")) } else { self.0.wait(wake, timeout) }
    }

    fn statistics(&mut self) -> Vec<(&'static str, &'static str, u64)> {
        self.0.statistics()
    }

    fn steering(&mut self) -> &mut dyn Steering {
        self
    }
}

impl Steering for Faulty {
    fn open_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()> {
        if self.1 == Fault::Port {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.steering().open_port(protocol, port)
    }

    fn close_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()> {
        self.0.steering().close_port(protocol, port)
    }

    fn own_address(&mut self, _: core::net::IpAddr) -> io::Result<()> {
        if self.1 == Fault::Address { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }

    fn disown_address(&mut self, _: core::net::IpAddr) -> io::Result<()> {
        Ok(())
    }
}

/// A runtime of one sound shard and one whose device has `fault`.
fn with(fault: Fault) -> super::Builder {
    let mut plugs = cable(2, 1).unwrap().0;
    let plug = plugs.pop().unwrap();
    host(SERVER_V4, plugs).queue(move || plug.open(256).map(|cable| Faulty(cable, fault)))
}

#[test]
fn a_device_that_fails_ends_all_shards() {
    match with(Fault::Wait).start(until_shutdown).unwrap().wait() {
        Err(RunError::Device { shard: 1, source }) => assert_eq!(source.to_string(), "unplugged"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_beneath_the_application_ends_all_shards() {
    match with(Fault::Receive).start(until_shutdown).unwrap().wait() {
        Err(RunError::Panicked { shard: 1, what: "the stack", message }) => {
            assert_eq!(message, "a bug in the driver");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_that_cannot_be_steered_cannot_be_bound() {
    let app = |context: Context| async move {
        if context.shard() == 1 {
            for error in [TcpListener::bind(any(7)).err(), UdpSocket::bind(any(7)).err()] {
                let error = error.ok_or("bound")?;
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                assert!(error.to_string().contains("steering"), "{error}");
            }
        }
        Ok(())
    };
    let summary = with(Fault::Port).start(app).unwrap().wait().unwrap();
    assert_eq!(summary.metrics.runtime().steering_errors, 2);
    assert_eq!(summary.metrics.tcp().listeners, 0);
}

#[test]
fn addresses_that_cannot_be_steered_fail_the_start() {
    let error = with(Fault::Address).start(until_shutdown).err();
    assert!(matches!(error, Some(StartError::Steering { shard: 1, .. })), "{error:?}");
}

#[test]
fn a_cpu_that_does_not_exist_fails_the_start() {
    let cpus = vec![crate::runtime::sys::allowed_cpus().unwrap()[0], 1 << 20];
    let error = with(Fault::Wait).pin(Pinning::Cpus(cpus)).start(until_shutdown).err();
    assert!(matches!(error, Some(StartError::Pin { shard: 1, cpu: 1_048_576, .. })), "{error:?}");
}

#[test]
fn a_capture_file_that_cannot_be_made_fails_the_start_and_one_that_fills_up_is_reported() {
    let nowhere = host(SERVER_V4, cable(1, 1).unwrap().0).pcap("/no/such/folder/file.pcap");
    assert!(matches!(nowhere.start(until_shutdown).err(), Some(StartError::Capture { .. })));
    let full = host(SERVER_V4, cable(1, 1).unwrap().0).pcap("/dev/full");
    let app = |_| async {
        // Nobody answers the question for the neighbour's address, but it is sent.
        let connect = TcpStream::connect("192.0.2.2:7".parse()?);
        assert!(time::timeout(Duration::from_millis(1), connect).await.is_err());
        Ok(())
    };
    let summary = full.start(app).unwrap().wait().unwrap();
    assert!(summary.capture_error.is_some());
    assert!(summary.to_string().contains("the file is incomplete"), "{summary}");
}

#[test]
fn an_application_that_ignores_the_shutdown_is_cut_off() {
    let builder = host(SERVER_V4, cable(1, 1).unwrap().0).drain_timeout(Duration::from_millis(5));
    let runtime = builder.start(|_| core::future::pending()).unwrap();
    runtime.handle().shutdown();
    let summary = runtime.wait().unwrap();
    assert_eq!(summary.metrics.runtime().apps_cut_off, 1, "{summary}");
}

#[test]
fn a_runtime_that_is_dropped_shuts_down() {
    let (left, right) = cable(1, 1).unwrap();
    let serve = |_| async {
        let listener = TcpListener::bind(any(7))?;
        while let Ok((stream, _)) = listener.accept().await {
            spawn(stream.close()).detach();
        }
        Ok(())
    };
    let server_runtime = host(SERVER_V4, left).start(serve).unwrap();
    let handle = server_runtime.handle();
    let call = |_| async {
        let mut stream = TcpStream::connect(server(7)).await?;
        assert_eq!(stream.read(&mut [0; 1]).await?, 0);
        Ok(())
    };
    host(CLIENT_V4, right).start(call).unwrap().wait().unwrap();
    drop(server_runtime);
    assert!(handle.is_shutting_down() && handle.run_on(0, || async {}).is_err());
}

/// A queue whose receiver may wait on one thread while others send: nothing of the runtime's is in it but wakers.
#[derive(Default)]
struct Mail(Mutex<(VecDeque<u32>, Option<Waker>)>);

impl Mail {
    fn send(&self, item: u32) {
        let mut mail = self.0.lock().unwrap();
        mail.0.push_back(item);
        let waker = mail.1.take();
        drop(mail);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn receive(&self) -> u32 {
        core::future::poll_fn(|cx| {
            let mut mail = self.0.lock().unwrap();
            let item = mail.0.pop_front();
            if item.is_none() {
                mail.1 = Some(cx.waker().clone());
            }
            item.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Each item wakes a shard that has gone to sleep, or is about to: a lost wake-up stops the game.
#[test]
fn no_wake_up_between_threads_is_lost() {
    const ROUNDS: u32 = 20_000;
    let boxes: Arc<[Mail; 3]> = Arc::default();
    let players = Arc::clone(&boxes);
    // Shard 0 passes each item to shard 1, that to a thread, and the thread back to shard 0.
    let app = move |context: Context| {
        let boxes = Arc::clone(&players);
        async move {
            let game = async {
                for round in 0..ROUNDS {
                    let item = boxes[context.shard()].receive().await;
                    assert_eq!(item, round);
                    boxes[context.shard() + 1].send(item);
                }
                Ok::<_, BoxError>(())
            };
            time::timeout(Duration::from_secs(60), game).await?
        }
    };
    let runtime = host(SERVER_V4, cable(2, 1).unwrap().0).start(app).unwrap();
    let thread = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            boxes[0].send(round);
            futures_lite::future::block_on(boxes[2].receive());
        }
    });
    runtime.wait().unwrap();
    thread.join().unwrap();
}
