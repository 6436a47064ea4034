//! `bywash echo`: sends back what arrives (RFC 862), over TCP and UDP, on every shard.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;

use bywash::limits::UDP_PAYLOAD_BYTES;
use bywash::runtime::net::{Shutdown, SocketOptions, TcpListener, TcpStream, UdpSocket};
use bywash::runtime::{BoxError, Context, spawn};

use crate::cli::EchoArgs;
use crate::error::AppError;
use crate::reservation::Protocol;
use crate::stack;

/// Both families' "any address".
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// What every shard's server is made from.
#[derive(Clone)]
pub struct Plan {
    /// Port of both protocols.
    pub port: u16,
    /// Serve TCP.
    pub tcp: bool,
    /// Serve UDP.
    pub udp: bool,
    /// Connections that may wait to be accepted.
    pub backlog: usize,
    /// TCP connections at a time.
    pub connections_max: usize,
    /// The listeners' options.
    pub options: SocketOptions,
}

/// Runs `bywash echo`.
///
/// # Errors
/// As [`AppError`] says.
pub fn run(args: &EchoArgs) -> Result<(), AppError> {
    let plan = Plan {
        port: args.port,
        tcp: !args.udp,
        udp: !args.tcp,
        backlog: args.tcp_options.backlog,
        connections_max: args.max_connections,
        options: stack::socket_options(&args.stack, &args.tcp_options),
    };
    let protocols = match (plan.tcp, plan.udp) {
        (true, true) => "TCP and UDP",
        (true, false) => "TCP",
        _ => "UDP",
    };
    let what = format!("echo on {protocols} port {}", plan.port);
    let mut prepared = stack::prepare(&args.stack)?;
    for (wanted, protocol) in [(plan.tcp, Protocol::Tcp), (plan.udp, Protocol::Udp)] {
        if wanted {
            prepared.reserve(protocol, plan.port)?;
        }
    }
    let running = prepared.start(&what, move |context| serve(plan.clone(), context))?;
    println!("{}", running.wait()?);
    Ok(())
}

/// One shard's server, until the shutdown.
///
/// # Errors
/// A port that is taken.
pub async fn serve(plan: Plan, context: Context) -> Result<(), BoxError> {
    let connections = Rc::new(Cell::new(0));
    let mut servers: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for ip in ANY {
        let addr = SocketAddr::new(ip, plan.port);
        if plan.tcp {
            let listener = TcpListener::bind_with(addr, plan.backlog, plan.options.clone())?;
            servers.push(Box::pin(accept(listener, connections.clone(), plan.connections_max)));
        }
        if plan.udp {
            servers.push(Box::pin(datagrams(UdpSocket::bind(addr)?, plan.port)));
        }
    }
    let servers: Vec<_> = servers.into_iter().map(spawn).collect();
    context.shutdown().await;
    drop(servers); // cancels them: no more connections and datagrams; those accepted go on
    Ok(())
}

/// Accepts until the shutdown.
async fn accept(listener: TcpListener, connections: Rc<Cell<usize>>, max: usize) {
    while let Ok((stream, peer)) = listener.accept().await {
        if connections.get() >= max {
            tracing::debug!(%peer, "too many connections");
            stream.abort();
            continue;
        }
        connections.set(connections.get() + 1);
        let connections = connections.clone();
        spawn(async move {
            if let Err(error) = echo(stream).await {
                tracing::debug!(%peer, %error, "connection ended");
            }
            connections.set(connections.get() - 1);
        })
        .detach();
    }
}

/// Sends back a connection's bytes until its FIN, then ours.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    while let Some(chunk) = stream.read_chunk().await? {
        stream.write_chunk(chunk).await?;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.flushed().await
}

/// Sends back datagrams.
async fn datagrams(socket: UdpSocket, port: u16) {
    let mut bytes = vec![0; UDP_PAYLOAD_BYTES];
    while let Ok((length, peer)) = socket.recv_from(&mut bytes).await {
        // Another echo server: the two would send one datagram to and fro for ever.
        if peer.port() == port {
            continue;
        }
        if let Err(error) = socket.send_to(&bytes[..length], peer).await {
            tracing::debug!(%peer, %error, "a datagram was not sent back");
        }
    }
}
