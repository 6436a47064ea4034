//! Bywash in this process, on one queue: the servers of RFC 862, 863 and 864 (echo, discard, character generator), and
//! their clients for both ends ours. Same driver and runtime as the `bywash` command.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use bywash::config::StackConfig;
use bywash::runtime::net::{SocketOptions, TcpListener, TcpStream};
use bywash::runtime::{BoxError, Context, Pinning, Runtime, spawn};
use bywash_afxdp::{AttachOptions, Nic, QueueOptions};

use super::Result;
use super::bed::{Bed, PEER, STACK, Side};
use super::meter::Meter;

/// Port of the echo server (RFC 862).
pub const ECHO: u16 = 7;
/// Port of the server that reads and drops (RFC 863).
pub const DISCARD: u16 = 9;
/// Port of the server that sends without end (RFC 864).
pub const CHARGEN: u16 = 19;

/// Bytes of one write.
const WRITE_BYTES: usize = 256 << 10;

/// A running stack; it ends with this value.
pub struct Stack(Option<Runtime>);

impl Stack {
    /// Of this runtime.
    pub fn new(runtime: Runtime) -> Self {
        Self(Some(runtime))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.handle().shutdown_now();
            let _ = runtime.wait();
        }
    }
}

/// Starts a stack with one address on a side's interface and runs `app` on its shard.
pub fn start<F, Fut>(bed: &Bed, side: Side, address: Ipv4Addr, app: F) -> Result<Stack>
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = core::result::Result<(), BoxError>> + 'static,
{
    let interface = match side {
        Side::Server => &bed.pair.stack_interface,
        Side::Client => &bed.pair.peer_interface,
    };
    // Threads start in the namespace of the thread that makes them.
    bed.on(side, || {
        let steer = Nic::open(interface)?.attach(&AttachOptions::default())?;
        let opener = steer.queue(0, &QueueOptions::default())?;
        let config = StackConfig::new(vec![format!("{address}/24").parse()?], [side as u8; 32]);
        let builder = Runtime::builder(config).pin(Pinning::Cpus(vec![bed.core(side)]));
        Ok(Stack(Some(builder.queue(move || opener.open()).start(app)?)))
    })
}

/// Nagle off.
pub fn options() -> SocketOptions {
    SocketOptions { nodelay: true, ..SocketOptions::default() }
}

/// Starts the three servers at [`STACK`]; `meter` watches the shard's thread.
pub fn serve(bed: &Bed, meter: &Arc<Meter>) -> Result<Stack> {
    let meter = meter.clone();
    start(bed, Side::Server, STACK, move |context| {
        let meter = meter.clone();
        async move {
            meter.this_thread();
            for port in [ECHO, DISCARD, CHARGEN] {
                let listener = TcpListener::bind_with(([0, 0, 0, 0], port).into(), 2048, options())?;
                spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        spawn(connection(port, stream)).detach();
                    }
                })
                .detach();
            }
            context.shutdown().await;
            Ok(())
        }
    })
}

async fn connection(port: u16, mut stream: TcpStream) -> io::Result<()> {
    match port {
        ECHO => {
            while let Some(chunk) = stream.read_chunk().await? {
                stream.write_chunk(chunk).await?;
            }
        }
        DISCARD => while stream.read_chunk().await?.is_some() {},
        _ => send_without_end(&mut stream).await?,
    }
    Ok(())
}

async fn send_without_end(stream: &mut TcpStream) -> io::Result<()> {
    let bytes = Bytes::from(vec![0x5a; WRITE_BYTES]);
    loop {
        stream.write_bytes(bytes.clone()).await?;
    }
}

/// What a client does with a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Reads what [`CHARGEN`] sends, and counts bytes.
    Read,
    /// Writes to [`DISCARD`], and counts bytes taken by the stack.
    Write,
    /// Asks [`ECHO`] with so many bytes again and again, on so many connections, and counts answers.
    Ask { bytes: usize, connections: usize },
}

/// Starts a client at [`PEER`] for the server at [`STACK`]; `meter` counts.
pub fn client(bed: &Bed, what: Use, meter: &Arc<Meter>) -> Result<Stack> {
    let meter = meter.clone();
    start(bed, Side::Client, PEER, move |context| {
        let meter = meter.clone();
        async move {
            let connections = if let Use::Ask { connections, .. } = what { connections } else { 1 };
            for _ in 0..connections {
                let meter = meter.clone();
                spawn(async move {
                    if let Err(error) = use_server(what, &meter).await {
                        eprintln!("client: {error}");
                    }
                })
                .detach();
            }
            context.shutdown().await;
            Ok(())
        }
    })
}

async fn use_server(what: Use, meter: &Meter) -> io::Result<()> {
    let port = match what {
        Use::Read => CHARGEN,
        Use::Write => DISCARD,
        Use::Ask { .. } => ECHO,
    };
    let mut stream = TcpStream::connect_with(None, (STACK, port).into(), options()).await?;
    match what {
        Use::Read => {
            while let Some(chunk) = stream.read_chunk().await? {
                meter.add(chunk.len() as u64);
            }
        }
        Use::Write => {
            let bytes = Bytes::from(vec![0x5a; WRITE_BYTES]);
            loop {
                stream.write_bytes(bytes.clone()).await?;
                meter.add(WRITE_BYTES as u64);
            }
        }
        Use::Ask { bytes, .. } => {
            let request = vec![0x5a; bytes];
            loop {
                stream.write_all(&request).await?;
                let mut left = bytes;
                while left > 0 {
                    let Some(chunk) = stream.read_chunk().await? else { return Ok(()) };
                    left -= chunk.len();
                }
                meter.add(1);
            }
        }
    }
    Ok(())
}
