//! Connections: accepting, one task each, their timeouts, and their end at a shutdown. On every shard by itself.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bywash::runtime::net::{Shutdown, SocketOptions, TcpListener, TcpStream};
use bywash::runtime::time::{now, sleep, sleep_until, timeout};
use bywash::runtime::{BoxError, Context, spawn};
use bywash::time::Duration;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

use super::body::Body;
use super::file_cache::{Files, UNUSED_INTERVAL};
use super::files::Root;
use super::service::{Site, respond};
use super::watch::{Phase, Timeouts, Watch, Watched};
use crate::cli::HttpArgs;
use crate::error::AppError;
use crate::reservation::Protocol;
use crate::stack;

/// What a connection beyond the limit is told.
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 39\r\n\r\n503: too many connections; try later.\r\n";
/// How long such a connection may take to hear it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections of a shard that are being told so at a time; further ones are reset.
const REFUSALS_MAX: usize = 256;

/// What answers requests.
pub trait Respond {
    /// The answer to a request. Never fails: what goes wrong becomes a status.
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>>;
}

impl Respond for Site {
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> {
        respond(self, request)
    }
}

/// What every connection of a shard shares.
pub struct Server<R> {
    site: R,
    timeouts: Timeouts,
    connections: Cell<usize>,
    connections_max: usize,
    refusals: Cell<usize>,
    /// Whose connections are taken; the others' are reset.
    welcomes: Box<dyn Fn(IpAddr) -> bool>,
}

impl<R: Respond> Server<R> {
    /// A server whose requests `site` answers, for at most `connections_max` connections at a time.
    pub fn new(site: R, timeouts: Timeouts, connections_max: usize) -> Self {
        Self {
            site,
            timeouts,
            connections: Cell::new(0),
            connections_max,
            refusals: Cell::new(0),
            welcomes: Box::new(|_| true),
        }
    }

    /// The same server for those peers alone that `welcomes` knows.
    #[must_use]
    pub fn only_for(self, welcomes: impl Fn(IpAddr) -> bool + 'static) -> Self {
        Self { welcomes: Box::new(welcomes), ..self }
    }
}

/// Runs `bywash http`.
///
/// # Errors
/// As [`AppError`] says.
pub fn run(args: &HttpArgs) -> Result<(), AppError> {
    let root = Root::open(&args.root);
    let root = root.map_err(|error| AppError::File { what: "serve", path: args.root.clone(), error })?;
    for (option, path) in [("--sink", &args.sink), ("--metrics", &args.metrics)] {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(AppError::Usage(format!("{option} {path}: a path begins with a slash")));
        }
    }
    let mut prepared = stack::prepare(&args.stack)?;
    prepared.reserve(Protocol::Tcp, args.port)?;
    let secret = getrandom::u64()
        .map_err(|error| AppError::System { what: "get random numbers", error: error.into() })?;
    let what = format!("HTTP on port {}, serving {}", args.port, args.root.display());
    let plan = Plan {
        port: args.port,
        backlog: args.tcp_options.backlog,
        options: stack::socket_options(&args.stack, &args.tcp_options),
        timeouts: Timeouts {
            idle: args.idle_timeout,
            header: args.header_timeout,
            stall: args.stall_timeout,
        },
        connections_max: args.max_connections,
        root,
        file_cache: args.file_cache,
        index: args.index.clone(),
        listing: args.listing,
        hidden: args.hidden,
        sink: args.sink.clone(),
        upload_bytes_max: args.max_upload,
        metrics: args.metrics.clone(),
        secret,
    };
    let running = prepared.start(&what, move |context| serve(plan.clone(), context))?;
    println!("{}", running.wait()?);
    Ok(())
}

/// What every shard's server is made from.
#[derive(Clone)]
struct Plan {
    port: u16,
    backlog: usize,
    options: SocketOptions,
    timeouts: Timeouts,
    connections_max: usize,
    root: Root,
    /// Bytes.
    file_cache: usize,
    index: String,
    listing: bool,
    hidden: bool,
    sink: String,
    upload_bytes_max: u64,
    metrics: String,
    secret: u64,
}

/// One shard's server.
async fn serve(plan: Plan, context: Context) -> Result<(), BoxError> {
    let handle = context.handle();
    // Another thread asks: a shard must not wait for the others.
    let metrics_text = move || -> std::pin::Pin<Box<dyn Future<Output = String>>> {
        let handle = handle.clone();
        Box::pin(blocking::unblock(move || handle.metrics().prometheus()))
    };
    let site = Site {
        files: Files::new(plan.root, plan.file_cache),
        index: plan.index,
        listing: plan.listing,
        hidden: plan.hidden,
        sink: plan.sink,
        upload_bytes_max: plan.upload_bytes_max,
        metrics: plan.metrics,
        metrics_text: Box::new(metrics_text),
        boundary_secret: plan.secret ^ context.shard() as u64,
        boundaries: Cell::new(0),
    };
    let server = Rc::new(Server::new(site, plan.timeouts, plan.connections_max));
    let listen =
        |ip| TcpListener::bind_with(SocketAddr::new(ip, plan.port), plan.backlog, plan.options.clone());
    let four = accept(listen(Ipv4Addr::UNSPECIFIED.into())?, server.clone(), context.clone());
    let six = accept(listen(Ipv6Addr::UNSPECIFIED.into())?, server.clone(), context);
    let tidy = async move {
        loop {
            sleep(UNUSED_INTERVAL).await;
            server.site.files.forget_unused();
        }
    };
    let accepting = async {
        futures_lite::future::zip(four, six).await;
    };
    futures_lite::future::or(accepting, tidy).await;
    Ok(())
}

/// Accepts until the shutdown.
pub async fn accept<R: Respond + 'static>(listener: TcpListener, server: Rc<Server<R>>, context: Context) {
    while let Ok((stream, peer)) = listener.accept().await {
        if !(server.welcomes)(peer.ip()) {
            tracing::debug!(%peer, "not among those who may ask");
            stream.abort();
        } else if let Some(place) = Place::take(&server) {
            spawn(connection(stream, peer, place, context.clone())).detach();
        } else if server.refusals.get() < REFUSALS_MAX {
            tracing::debug!(%peer, "too many connections");
            spawn(refuse(stream, server.clone())).detach();
        } else {
            stream.abort();
        }
    }
}

/// A counted connection.
struct Place<R>(Rc<Server<R>>);

impl<R> Place<R> {
    fn take(server: &Rc<Server<R>>) -> Option<Self> {
        let count = &server.connections;
        if count.get() >= server.connections_max {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(server.clone()))
    }
}

impl<R> Drop for Place<R> {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}

/// Why a connection's task ends.
enum End {
    /// hyper is done with it.
    Done(hyper::Result<()>),
    /// It waited too long.
    TimedOut(Phase),
    /// The server shuts down.
    Shutdown,
}

async fn connection<R: Respond>(stream: TcpStream, peer: SocketAddr, place: Place<R>, context: Context) {
    let server = &place.0;
    let watch = Rc::new(Watch::new(server.timeouts, now()));
    let handover = stream.handover();
    let service = service_fn(|request| {
        watch.request(now());
        let (watch, server, handover) = (watch.clone(), server.clone(), handover.clone());
        async move {
            tracing::debug!(%peer, method = %request.method(), path = request.uri().path(), "request");
            let response = server.site.respond(request).await;
            let note_end = move || watch.answered(now());
            Ok::<_, Infallible>(response.map(|body| body.handed_over(handover).on_end(note_end)))
        }
    });
    // Timeouts are the watch's: hyper's own would allocate a timer for each request.
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).half_close(true).pipeline_flush(true);
    let mut exchange = pin!(builder.serve_connection(Watched::new(stream, watch.clone(), now), service));
    let mut shutdown = pin!(context.shutdown());
    let mut too_long = pin!(sleep_until(watch.deadline()));
    let mut told = false;
    loop {
        let end = std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = exchange.as_mut().poll(cx) {
                return Poll::Ready(End::Done(result));
            }
            if !told && shutdown.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Shutdown);
            }
            too_long.as_mut().poll(cx).map(|()| End::TimedOut(watch.phase()))
        })
        .await;
        match end {
            End::Done(Ok(())) => return,
            End::Done(Err(error)) => {
                tracing::debug!(%peer, %error, "connection ended");
                return;
            }
            End::Shutdown => {
                told = true;
                exchange.as_mut().graceful_shutdown();
            }
            End::TimedOut(phase) if watch.deadline() <= now() => {
                tracing::debug!(%peer, ?phase, "connection timed out");
                return;
            }
            End::TimedOut(_) => too_long.reset(watch.deadline()),
        }
    }
}

/// Says that there are too many connections, and hears the client out, so that it reads the answer before a RST.
async fn refuse<R>(mut stream: TcpStream, server: Rc<Server<R>>) {
    server.refusals.set(server.refusals.get() + 1);
    let farewell = async {
        stream.write_all(TOO_MANY).await?;
        stream.shutdown(Shutdown::Write)?;
        while stream.read_chunk().await?.is_some() {}
        Ok::<_, std::io::Error>(())
    };
    let _ = timeout(REFUSAL_TIMEOUT, farewell).await;
    server.refusals.set(server.refusals.get() - 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_states_its_own_length() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
