//! Two runtimes on a cable in memory: whole stacks, real threads, no NIC. A panic in an application fails its test
//! through `RunError::Panicked`.

mod blocking;
mod cancel;
mod control_socket;
mod faults;
mod flows;
#[cfg(all(feature = "hyper", feature = "tokio"))]
mod foreign;
mod life;
mod tcp;
mod udp;

use core::future::Future;
use core::net::SocketAddr;

use super::testing::{Plug, cable};
use super::{BoxError, Builder, Context, Pinning, Runtime, Summary};
use crate::config::StackConfig;
use crate::time::Duration;

const SERVER_V4: &str = "192.0.2.1";
const CLIENT_V4: &str = "192.0.2.2";

type Done = Result<(), BoxError>;

/// The server's address with this port.
fn server(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER_V4.parse().unwrap(), port)
}

/// Any address of ours with this port.
fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

/// A runtime on these plugs, not yet started.
fn host(addr: &str, plugs: Vec<Plug>) -> Builder {
    host_with(addr, plugs, |_| ())
}

/// As [`host`], configured further.
fn host_with(addr: &str, plugs: Vec<Plug>, configure: impl FnOnce(&mut StackConfig)) -> Builder {
    let mut config = StackConfig::new(vec![format!("{addr}/24").parse().unwrap()], [addr.len() as u8; 32]);
    config.seed[..addr.len()].copy_from_slice(addr.as_bytes());
    config.dns_servers = vec![SERVER_V4.parse().unwrap()];
    configure(&mut config);
    let builder = Runtime::builder(config).pin(Pinning::None).drain_timeout(Duration::from_secs(20));
    plugs.into_iter().fold(builder, |builder, plug| builder.queue(|| plug.open(2048)))
}

/// Runs `serve` on every shard of a server and `call` on every shard of a client until `call` has ended everywhere;
/// then shuts the server down.
fn run<S, C>(
    queues: (usize, usize),
    serve: impl Fn(Context) -> S + Send + Sync + 'static,
    call: impl Fn(Context) -> C + Send + Sync + 'static,
) -> (Summary, Summary)
where
    S: Future<Output = Done> + 'static,
    C: Future<Output = Done> + 'static,
{
    let (left, right) = cable(queues.0, queues.1).unwrap();
    let server = host(SERVER_V4, left).start(serve).unwrap();
    let client = host(CLIENT_V4, right).start(call).unwrap();
    let client = client.wait().unwrap();
    server.handle().shutdown();
    let server = server.wait().unwrap();
    for summary in [&server, &client] {
        assert_eq!(summary.frames_missing(), 0, "{summary}");
        assert_eq!(summary.metrics.runtime().task_panics, 0, "{summary}");
    }
    (server, client)
}

/// Bytes that show where in a stream they belong.
fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|at| (at * 31 + (at >> 8) * 7) as u8).collect()
}
