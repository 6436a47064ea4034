//! `bywash get`: fetches a URL with hyper's HTTP/1.1 client on the stack's streams, once ([`download`]) or many times
//! ([`load`]). Both connect through [`Connection`]; [`location`] follows redirects.

mod download;
mod fast_open;
mod load;
mod location;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use bywash::runtime::net::{TcpStream, lookup};
use bywash::runtime::spawn;
use bywash::runtime::time::timeout;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Response, Uri};

use crate::cli::GetArgs;
use crate::error::AppError;
use crate::stack;

/// Port of a URL that names none.
const HTTP_PORT: u16 = 80;

/// Runs `bywash get`.
///
/// # Errors
/// [`AppError::Unsuccessful`] when the answer was not 2xx or did not come; otherwise as [`AppError`] says.
pub fn run(args: &GetArgs) -> Result<(), AppError> {
    let url =
        location::parse(&args.url).map_err(|error| AppError::Usage(format!("{}: {error}", args.url)))?;
    match args.requests {
        Some(requests) => load::run(args, &url, requests),
        None => download::run(args, url),
    }
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
enum GetError {
    #[error(transparent)]
    NoLease(#[from] stack::NoLease),
    #[error("cannot resolve {0}: {1}")]
    Resolve(String, io::Error),
    #[error("cannot connect to {0}: {1}")]
    Connect(String, io::Error),
    #[error("no connection to {0} within {1:?} (--connect-timeout)")]
    ConnectTimeout(String, Duration),
    #[error("the server sent nothing for {0:?} (--stall-timeout)")]
    Stalled(Duration),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Location(#[from] location::LocationError),
    #[error("more than {0} redirects (--max-redirects), the last to {1}")]
    TooManyRedirects(u32, Uri),
    #[error("cannot write to {0}: {1}")]
    Write(String, io::Error),
    #[error("{0}: {1}")]
    Status(Uri, hyper::StatusCode),
}

/// A connection that takes one request after the other.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    stall_timeout: Duration,
}

impl Connection {
    /// Connects to the URL's host, trying its addresses in turn.
    async fn open(url: &Uri, connect_timeout: Duration, stall_timeout: Duration) -> Result<Self, GetError> {
        let host = url.host().unwrap_or_default();
        let port = url.port_u16().unwrap_or(HTTP_PORT);
        let resolve_error = |error| GetError::Resolve(host.to_owned(), error);
        let addresses = match timeout(connect_timeout, lookup(host)).await {
            Ok(found) => found.map_err(resolve_error)?,
            Err(_) => {
                let text = format!("no name server answered within {connect_timeout:?} (--connect-timeout)");
                return Err(resolve_error(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
        };
        let connect = async {
            let share = connect_timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
            let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
            for addr in addresses {
                match timeout(share, TcpStream::connect((addr, port).into())).await {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => failure = error,
                    Err(_) => failure = io::ErrorKind::TimedOut.into(),
                }
            }
            Err(GetError::Connect(format!("{host}:{port}"), failure))
        };
        let connected = timeout(connect_timeout, connect).await;
        let stream =
            connected.map_err(|_| GetError::ConnectTimeout(format!("{host}:{port}"), connect_timeout))??;
        let _ = stream.set_nodelay(true);
        Self::begin(stream, stall_timeout).await
    }

    /// As [`Connection::open`], but connects with the first request, by Fast Open: the SYN carries it, if a connection before
    /// it brings a cookie. `report` is told how it went.
    async fn open_fast(
        url: &Uri,
        connect_timeout: Duration,
        stall_timeout: Duration,
        report: fast_open::Report,
    ) -> Result<Self, GetError> {
        let host = url.host().unwrap_or_default();
        let port = url.port_u16().unwrap_or(HTTP_PORT);
        let late = |_| GetError::ConnectTimeout(format!("{host}:{port}"), connect_timeout);
        let failed = |error| GetError::Connect(format!("{host}:{port}"), error);
        let addresses = timeout(connect_timeout, lookup(host)).await.map_err(late)?;
        let addresses = addresses.map_err(|error| GetError::Resolve(host.to_owned(), error))?;
        let addr = addresses.first().ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?;
        let remote = (*addr, port).into();
        timeout(connect_timeout, fast_open::get_cookie(remote)).await.map_err(late)?.map_err(failed)?;
        Self::begin(fast_open::FastOpenStream::new(remote, report), stall_timeout).await
    }

    async fn begin(
        stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
        stall_timeout: Duration,
    ) -> Result<Self, GetError> {
        let (sender, connection) = handshake(stream).await?;
        spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        })
        .detach();
        Ok(Self { sender, stall_timeout })
    }

    /// Sends a GET and waits for the answer's header.
    async fn get(&mut self, url: &Uri) -> Result<Response<Incoming>, GetError> {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let request = Request::get(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("bywash/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .body(Empty::new())
            .expect("parts of a URL are valid in a request");
        let stall = self.stall_timeout;
        timeout(stall, async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
        .await
        .map_err(|_| GetError::Stalled(stall))?
        .map_err(GetError::Http)
    }
}
