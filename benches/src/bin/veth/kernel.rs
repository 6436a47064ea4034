//! The kernel's side: servers and clients on its sockets, each on one thread of a side of the bed. Echo is driven by
//! epoll, as an ordinary server of many connections is.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

use super::Result;
use super::bed::{Bed, KERNEL, Side};
use super::meter::Meter;

/// Bytes of one read or write of bulk data: iperf3's.
const BULK_BYTES: usize = 128 << 10;
/// How long a loop sleeps before it looks whether it is to go on.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
const EVENTS: usize = 256;
/// Figures of latency, in nanoseconds.
const SECOND: u64 = 1_000_000_000;

/// A thread that ends when this is dropped.
pub struct Background {
    meter: Arc<Meter>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Runs `work` on a side until it sees its meter stopped.
    pub fn start(
        bed: &Arc<Bed>,
        side: Side,
        work: impl FnOnce(&Meter) -> Result<()> + Send + 'static,
    ) -> Self {
        let meter = Arc::new(Meter::default());
        let (bed, watched) = (bed.clone(), meter.clone());
        let run = move || {
            watched.this_thread();
            if let Err(error) = bed.enter(side).and_then(|()| work(&watched)) {
                eprintln!("a server in the background: {error}");
            }
        };
        Self { meter, thread: Some(thread::spawn(run)) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.meter.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    bind(&listener, &SocketAddr::from((KERNEL, port)))?;
    listen(&listener, 4096)?;
    Ok(listener.into())
}

/// An echo server (RFC 862) at [`KERNEL`], by epoll.
pub fn echo(port: u16, meter: &Meter) -> Result<()> {
    let listener = listen(port)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let of_listener = u64::MAX;
    epoll::add(&epoll, &listener, EventData::new_u64(of_listener), EventFlags::IN)?;
    let mut connections: slab::Slab<TcpStream> = slab::Slab::new();
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
    let mut bytes = vec![0; 64 << 10];
    while meter.goes_on() {
        let count = epoll::wait(&epoll, &mut events, Some(&LOOK))?;
        for event in &events[..count] {
            let data = event.data.u64();
            if data == of_listener {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    let entry = connections.vacant_entry();
                    epoll::add(&epoll, &stream, EventData::new_u64(entry.key() as u64), EventFlags::IN)?;
                    entry.insert(stream);
                }
                continue;
            }
            let stream = &mut connections[data as usize];
            match stream.read(&mut bytes) {
                Ok(len @ 1..) if stream.write_all(&bytes[..len]).is_ok() => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => drop(connections.remove(data as usize)),
            }
        }
    }
    Ok(())
}

/// At [`KERNEL`]: reads and drops what each connection brings (RFC 863), one connection after the other.
pub fn discard(port: u16, meter: &Meter) -> Result<()> {
    serve_one_by_one(port, meter, |stream| {
        let mut bytes = vec![0; BULK_BYTES];
        while meter.goes_on() && matches!(stream.read(&mut bytes), Ok(1..)) {}
    })
}

/// At [`KERNEL`]: sends without end (RFC 864), one connection after the other.
pub fn chargen(port: u16, meter: &Meter) -> Result<()> {
    serve_one_by_one(port, meter, |stream| {
        let bytes = vec![0x5a; BULK_BYTES];
        while meter.goes_on() && stream.write_all(&bytes).is_ok() {}
    })
}

fn serve_one_by_one(port: u16, meter: &Meter, serve: impl Fn(&mut TcpStream)) -> Result<()> {
    let listener = listen(port)?;
    listener.set_nonblocking(true)?;
    while meter.goes_on() {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(Duration::from_millis(50)))?;
                stream.set_write_timeout(Some(Duration::from_millis(50)))?;
                serve(&mut stream);
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
    Ok(())
}

/// The direction of bulk data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bulk {
    /// The server sends.
    Read,
    /// The server receives.
    Write,
}

/// Bits per second between this client and a server, after a warm-up; to be called on the client's side.
pub fn bulk(server: SocketAddr, what: Bulk, warm_up: Duration, seconds: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut bytes = vec![0x5a; BULK_BYTES];
    let mut transfer = |until: Instant| -> Result<u64> {
        let mut total = 0;
        while Instant::now() < until {
            total += match what {
                Bulk::Read => stream.read(&mut bytes)?,
                Bulk::Write => stream.write(&bytes)?,
            } as u64;
        }
        Ok(total)
    };
    transfer(Instant::now() + warm_up)?;
    let begin = Instant::now();
    let total = transfer(begin + seconds)?;
    let rate = total as f64 * 8.0 / begin.elapsed().as_secs_f64();
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    Ok(rate)
}

/// What a client that asks and awaits answers saw.
pub struct Asked {
    /// Answers per second.
    pub rate: f64,
    /// From request to whole answer, in nanoseconds.
    pub latency: Histogram<u64>,
}

/// Asks an echo server with `len` bytes on each of `count` connections again and again, one request under way on each; to
/// be called on the client's side.
pub fn ask(
    server: SocketAddr,
    count: usize,
    len: usize,
    warm_up: Duration,
    seconds: Duration,
) -> Result<Asked> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let request = vec![0x5a; len];
    let mut answer = vec![0; len];
    let mut latency = Histogram::new_with_bounds(100, 10 * SECOND, 3)?;
    let mut connections = Vec::with_capacity(count);
    for i in 0..count {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&epoll, &stream, EventData::new_u64(i as u64), EventFlags::IN)?;
        connections.push((stream, 0, Instant::now()));
    }
    for (stream, _, asked) in &mut connections {
        *asked = Instant::now();
        stream.write_all(&request)?;
    }
    let begin = Instant::now() + warm_up;
    let (mut answers, mut late) = (0u64, Instant::now());
    let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
    loop {
        let ready = epoll::wait(&epoll, &mut events, Some(&LOOK))?;
        let now = Instant::now();
        if now >= begin + seconds {
            break;
        }
        if ready > 0 {
            late = now;
        } else if late.elapsed() > Duration::from_secs(2) {
            return Err("no answer for 2 s".into());
        }
        for event in &events[..ready] {
            let (stream, got, asked) = &mut connections[event.data.u64() as usize];
            match stream.read(&mut answer[..len - *got]) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(more) => *got += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            }
            if *got == len {
                let now = Instant::now();
                if now >= begin {
                    answers += 1;
                    latency.saturating_record((now - *asked).as_nanos() as u64);
                }
                *got = 0;
                *asked = now;
                stream.write_all(&request)?;
            }
        }
    }
    Ok(Asked { rate: answers as f64 / seconds.as_secs_f64(), latency })
}

/// Opens `count` connections to `server` from the ports of `source` from 10,000 on.
pub fn connect_from(source: Ipv4Addr, server: SocketAddr, count: u16) -> Result<Vec<TcpStream>> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let mut held = Vec::with_capacity(count.into());
    for i in 0..count {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::from((source, 10_000 + i)))?;
        connect(&socket, &server).map_err(|error| format!("connection {i}: {error}"))?;
        held.push(socket.into());
    }
    Ok(held)
}
