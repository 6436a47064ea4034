//! The stream under hyper that sends the request with the SYN (TCP Fast Open, RFC 7413): it connects when hyper writes
//! first, and takes what hyper writes along.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bywash::runtime::net::{FastOpenFailure, TcpInfo, TcpStream};
use hyper::rt::{Read, ReadBufCursor, Write};

/// What became of a Fast Open, once the handshake is over.
#[derive(Clone, Default)]
pub struct Report(Rc<RefCell<Option<TcpInfo>>>);

impl Report {
    /// One line for people; `None` before the handshake is over.
    pub fn line(&self) -> Option<String> {
        let info = self.0.borrow();
        let info = info.as_ref()?;
        let rtt_ms = info.rtt.as_secs_f64() * 1e3;
        Some(match info.fastopen_client_fail {
            None if info.fastopen_syn_data => {
                format!(
                    "Fast Open: the server took the request with the SYN, one round trip of {rtt_ms:.3} ms saved"
                )
            }
            None => "Fast Open: the SYN had no room for the request".into(),
            Some(FastOpenFailure::CookieUnavailable) => "Fast Open: the server gave no cookie".into(),
            Some(FastOpenFailure::DataNotAcked) => {
                "Fast Open: the server did not take the request with the SYN, it was sent again".into()
            }
            Some(FastOpenFailure::SynRetransmitted) => {
                "Fast Open: the SYN with the request was lost, it was sent again".into()
            }
        })
    }
}

/// Connects, so that the stack has a cookie of the server's afterwards if the server gives any.
pub async fn get_cookie(remote: SocketAddr) -> io::Result<()> {
    TcpStream::connect_with_data(remote, &[]).await?.close().await
}

/// A stream that connects with its first write.
pub struct FastOpenStream {
    remote: SocketAddr,
    state: State,
    report: Report,
    /// Of the task that wants to read before the connection is there.
    reader: Option<Waker>,
}

enum State {
    Idle,
    /// With this many bytes.
    Connecting(Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>, usize),
    Connected(TcpStream),
}

impl FastOpenStream {
    pub fn new(remote: SocketAddr, report: Report) -> Self {
        Self { remote, state: State::Idle, report, reader: None }
    }

    fn connected(&mut self) -> Option<Pin<&mut TcpStream>> {
        match &mut self.state {
            State::Connected(stream) => Some(Pin::new(stream)),
            _ => None,
        }
    }
}

impl Read for FastOpenStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(stream) = self.connected() {
            return stream.poll_read(cx, buf);
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Write for FastOpenStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let State::Idle = this.state {
            let (remote, request) = (this.remote, bytes.to_vec());
            let connect = async move { TcpStream::connect_with_data(remote, &request).await };
            this.state = State::Connecting(Box::pin(connect), bytes.len());
        }
        match &mut this.state {
            State::Connecting(connect, taken) => {
                let (connected, taken) = (ready!(connect.as_mut().poll(cx)), *taken);
                let stream = connected.inspect_err(|_| this.state = State::Idle)?;
                stream.set_nodelay(true)?;
                *this.report.0.borrow_mut() = stream.info().ok();
                this.state = State::Connected(stream);
                if let Some(reader) = this.reader.take() {
                    reader.wake();
                }
                Poll::Ready(Ok(taken))
            }
            State::Connected(stream) => Pin::new(stream).poll_write(cx, bytes),
            State::Idle => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connected().map_or(Poll::Ready(Ok(())), |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connected().map_or(Poll::Ready(Ok(())), |stream| stream.poll_shutdown(cx))
    }
}
