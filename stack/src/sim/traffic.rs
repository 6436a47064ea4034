//! The applications of the experiments: an [`Endpoint`] sends a pattern (or echoes) and checks what it reads, with the
//! read and write sizes, pauses, half-closes and aborts of its [`Plan`]; [`Dial`] opens its connection, [`Listen`]
//! accepts and starts one for each.

use core::cell::Cell;
use core::net::SocketAddr;
use core::ops::RangeInclusive;
use core::task::Poll;
use std::collections::VecDeque;
use std::rc::Rc;

use super::app::{App, Context, Next};
use super::checker::{Checker, Pattern};
use crate::tcp::{ConnId, ListenerId, Shutdown, SocketOptions, State, TcpError, Tuple};
use crate::time::{Duration, Instant};

/// Reads and writes an endpoint makes before it lets others run.
const CALLS_PER_RUN: usize = 32;
/// Bytes an echoing endpoint holds before it stops reading.
const ECHO_BYTES: usize = 16 << 10;
/// Time before a connection that could not be opened is tried again.
const REDIAL_AFTER: Duration = Duration::from_secs(1);

/// When an endpoint begins to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// As soon as the connection is open.
    AtOnce,
    /// When it has read the peer's FIN: the other direction of a half-closed connection.
    AfterFin,
}

/// How an endpoint ends its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// Half-closes when all is sent, reads to the peer's FIN, closes.
    Shutdown,
    /// Closes when all is sent and the peer's FIN was read.
    AfterFin,
    /// Closes when all is sent and this many bytes were read, FIN or not.
    WhenRead(u64),
    /// Aborts when this many bytes were sent and read together.
    Abort(u64),
}

/// What an endpoint does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes to send; not used by an echo.
    pub send_bytes: u64,
    /// Sends back what it reads.
    pub echo: bool,
    /// What it reads must be what it sent: the peer echoes.
    pub expects_echo: bool,
    /// Bytes offered in one call.
    pub write_bytes: RangeInclusive<u64>,
    /// Bytes asked for in one call.
    pub read_bytes: RangeInclusive<u64>,
    /// Reads without copying, holding on to up to this many chunks at a time; 0 copies.
    pub chunks_held: usize,
    /// Probability of a pause after a read.
    pub pause: f64,
    /// Longest pause.
    pub pause_for: Duration,
    /// When sending begins.
    pub begin: Begin,
    /// How it ends.
    pub finish: Finish,
    /// Waits until everything sent was acknowledged before it finishes.
    pub flush: bool,
    /// Whether errors are allowed: this end or the other aborts.
    pub may_fail: bool,
    /// Socket options.
    pub options: SocketOptions,
}

/// An open connection that follows a plan.
pub struct Endpoint {
    id: ConnId,
    tuple: Tuple,
    plan: Plan,
    checker: Checker,
    tx: Pattern,
    rx: Pattern,
    sent: u64,
    received: u64,
    echo: VecDeque<u8>,
    chunks: VecDeque<crate::tcp::Chunk>,
    fin_read: bool,
    write_closed: bool,
    paused_until: Option<Instant>,
    scratch: Vec<u8>,
}

/// What one step of an endpoint came to.
enum Step {
    /// Something was done: go on.
    Went,
    /// Nothing can be done before a wake-up.
    Blocked,
}

impl Endpoint {
    /// An endpoint for the open connection `id`; the checker is told.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn new(id: ConnId, tuple: Tuple, plan: Plan, checker: &Checker) -> Self {
        checker.opened(tuple, plan.may_fail);
        let tx = Pattern::new(tuple.local, tuple.remote);
        let rx = if plan.expects_echo { tx } else { Pattern::new(tuple.remote, tuple.local) };
        Self {
            id,
            tuple,
            plan,
            checker: checker.clone(),
            tx,
            rx,
            sent: 0,
            received: 0,
            echo: VecDeque::new(),
            chunks: VecDeque::new(),
            fin_read: false,
            write_closed: false,
            paused_until: None,
            scratch: Vec::new(),
        }
    }

    fn advance(&mut self, cx: &mut Context<'_>) -> Result<Next, TcpError> {
        for _ in 0..CALLS_PER_RUN {
            if self.finish(cx)? {
                return Ok(Next::Done);
            }
            let read = self.read(cx)?;
            let written = self.write(cx)?;
            if matches!((read, written), (Step::Blocked, Step::Blocked)) {
                if self.finish(cx)? {
                    return Ok(Next::Done);
                }
                return Ok(self.paused_until.map_or(Next::Wait, Next::Sleep));
            }
        }
        Ok(Next::Sleep(cx.now))
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<Step, TcpError> {
        if self.paused_until.is_some_and(|until| cx.now < until) || self.fin_read {
            return Ok(Step::Blocked);
        }
        self.paused_until = None;
        if self.plan.echo && self.echo.len() >= ECHO_BYTES {
            return Ok(Step::Blocked);
        }
        let got = if self.plan.chunks_held > 0 { self.read_chunk(cx)? } else { self.read_copy(cx)? };
        let Some(got) = got else { return Ok(Step::Blocked) };
        if got == 0 {
            self.fin_read = true;
            self.checker.fin(self.tuple);
        } else {
            self.received += got as u64;
            self.checker.received(self.tuple, self.rx, &self.scratch);
            if self.plan.echo {
                self.echo.extend(&self.scratch);
            }
            if cx.dice.chance(self.plan.pause) {
                self.paused_until = Some(cx.now + cx.dice.duration(self.plan.pause_for));
            }
        }
        Ok(Step::Went)
    }

    /// Bytes read into the scratch buffer; 0 at the FIN, `None` when there are none yet.
    fn read_copy(&mut self, cx: &mut Context<'_>) -> Result<Option<usize>, TcpError> {
        let size = cx.dice.range(self.plan.read_bytes.clone()).max(1) as usize;
        self.scratch.resize(size, 0);
        match cx.shard.tcp().poll_recv(cx.now, self.id, &mut self.scratch, cx.waker) {
            Poll::Pending => Ok(None),
            Poll::Ready(result) => {
                let got = result?;
                self.scratch.truncate(got);
                Ok(Some(got))
            }
        }
    }

    fn read_chunk(&mut self, cx: &mut Context<'_>) -> Result<Option<usize>, TcpError> {
        match cx.shard.tcp().poll_recv_chunk(cx.now, self.id, cx.waker) {
            Poll::Pending => Ok(None),
            Poll::Ready(result) => {
                self.scratch.clear();
                let Some(chunk) = result? else { return Ok(Some(0)) };
                self.scratch.extend_from_slice(&chunk);
                self.chunks.push_back(chunk);
                if self.chunks.len() > self.plan.chunks_held {
                    self.chunks.pop_front();
                }
                if self.scratch.is_empty() {
                    self.checker.violation(format!("{:?}: an empty chunk", self.tuple));
                }
                Ok(Some(self.scratch.len()))
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<Step, TcpError> {
        let waits = self.plan.begin == Begin::AfterFin && !self.fin_read;
        if self.all_sent() || waits || self.write_closed {
            return Ok(Step::Blocked);
        }
        let size = cx.dice.range(self.plan.write_bytes.clone()).max(1) as usize;
        if self.plan.echo {
            let (bytes, _) = self.echo.as_slices();
            self.scratch = bytes[..size.min(bytes.len())].to_vec();
            if self.scratch.is_empty() {
                return Ok(Step::Blocked);
            }
        } else {
            let left = usize::try_from(self.plan.send_bytes - self.sent).unwrap_or(usize::MAX);
            self.scratch.resize(size.min(left), 0);
            self.tx.fill(self.sent, &mut self.scratch);
        }
        match cx.shard.tcp().poll_send(cx.now, self.id, &self.scratch, cx.waker) {
            Poll::Pending => Ok(Step::Blocked),
            Poll::Ready(result) => {
                let taken = result?;
                if taken == 0 || taken > self.scratch.len() {
                    let offered = self.scratch.len();
                    self.checker.violation(format!("{:?} took {taken} of {offered} bytes", self.tuple));
                }
                if self.plan.echo {
                    self.echo.drain(..taken);
                }
                self.sent += taken as u64;
                self.checker.sent(self.tuple, taken as u64);
                Ok(Step::Went)
            }
        }
    }

    fn all_sent(&self) -> bool {
        if self.plan.echo { self.fin_read && self.echo.is_empty() } else { self.sent >= self.plan.send_bytes }
    }

    /// Half-closes, closes or aborts when the plan says so; true when the connection was let go.
    fn finish(&mut self, cx: &mut Context<'_>) -> Result<bool, TcpError> {
        if cx.shard.tcp_ref().state(self.id) == Some(State::SynSent) {
            // Opened by Fast Open: ending it now would end the attempt.
            match cx.shard.tcp().poll_connected(self.id, cx.waker) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result?,
            }
        }
        if let Finish::Abort(after) = self.plan.finish
            && self.sent + self.received >= after
        {
            self.checker.closed(self.tuple);
            cx.shard.tcp().abort(cx.now, self.id);
            self.checker.ended(self.tuple, Ok(()));
            return Ok(true);
        }
        if !self.all_sent() {
            return Ok(false);
        }
        if self.plan.flush {
            match cx.shard.tcp().poll_flushed(self.id, cx.waker) {
                Poll::Pending => return Ok(false),
                Poll::Ready(result) => result?,
            }
        }
        let over = match self.plan.finish {
            Finish::Shutdown => {
                if !self.write_closed {
                    self.write_closed = true;
                    self.checker.closed(self.tuple);
                    cx.shard.tcp().shutdown(cx.now, self.id, Shutdown::Write)?;
                }
                self.fin_read
            }
            Finish::AfterFin | Finish::Abort(_) => self.fin_read,
            Finish::WhenRead(bytes) => self.received >= bytes,
        };
        if over {
            self.checker.closed(self.tuple);
            cx.shard.tcp().close(cx.now, self.id);
            self.checker.ended(self.tuple, Ok(()));
        }
        Ok(over)
    }
}

impl App for Endpoint {
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        match self.advance(cx) {
            Ok(next) => next,
            Err(error) => {
                self.checker.ended(self.tuple, Err(error));
                self.checker.closed(self.tuple);
                cx.shard.tcp().close(cx.now, self.id);
                Next::Done
            }
        }
    }

    fn describe(&self) -> String {
        format!(
            "{} -> {}: sent {} of {}, received {}, FIN read {}, write closed {}, paused {:?}, {:?}",
            self.tuple.local,
            self.tuple.remote,
            self.sent,
            self.plan.send_bytes,
            self.received,
            self.fin_read,
            self.write_closed,
            self.paused_until,
            self.plan.finish,
        )
    }
}

/// Opens a connection and follows a plan on it. With `fastopen_qlen` in the plan's options it opens by Fast Open: the plan
/// begins at once, and an attempt that fails is not repeated.
pub struct Dial {
    /// Own address; `None`: the stack chooses. Both ends dialling each other's fixed address is a simultaneous open.
    pub local: Option<SocketAddr>,
    /// The peer.
    pub remote: SocketAddr,
    /// When to begin.
    pub at: Instant,
    /// How often to try again when the connection could not be opened: a SYN lost over and over gives up in the end.
    pub retries: u32,
    /// Not to reach the peer in the end is no fault.
    pub may_miss: bool,
    /// What to do once it is open.
    pub plan: Plan,
    /// Where to account for it.
    pub checker: Checker,
    state: DialState,
}

enum DialState {
    Waiting,
    Connecting(ConnId),
    Open(Box<Endpoint>),
}

impl Dial {
    /// A client that dials `remote` at once, from an address of the stack's choice, up to 8 times.
    #[must_use]
    pub fn new(remote: SocketAddr, plan: Plan, checker: &Checker) -> Self {
        Self {
            local: None,
            remote,
            at: Instant::ZERO,
            retries: 8,
            may_miss: false,
            plan,
            checker: checker.clone(),
            state: DialState::Waiting,
        }
    }

    /// What the endpoint writes before the SYN leaves rides on it: the pattern depends on the port that is chosen first.
    fn open_fast(&mut self, cx: &mut Context<'_>) -> Next {
        let options = self.plan.options.clone();
        let opened = cx.shard.tcp_connect_with_data(cx.now, self.local, self.remote, options, &[]);
        match opened.and_then(|(id, _)| Ok((id, cx.shard.tcp().tuple(id)?))) {
            Ok((id, tuple)) => {
                let mut endpoint = Endpoint::new(id, tuple, self.plan.clone(), &self.checker);
                let next = endpoint.run(cx);
                self.state = DialState::Open(Box::new(endpoint));
                next
            }
            Err(error) => self.failed(cx, error),
        }
    }

    fn failed(&mut self, cx: &Context<'_>, error: TcpError) -> Next {
        self.checker.progressed();
        if self.retries == 0 && (self.plan.may_fail || self.may_miss) {
            self.checker.unopened();
            return Next::Done;
        }
        if self.retries == 0 {
            self.checker.violation(format!("{} cannot be reached: {error}", self.remote));
            return Next::Done;
        }
        self.retries -= 1;
        self.at = cx.now + REDIAL_AFTER;
        self.state = DialState::Waiting;
        Next::Sleep(self.at)
    }
}

impl App for Dial {
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        if let DialState::Open(endpoint) = &mut self.state {
            return endpoint.run(cx);
        }
        if matches!(self.state, DialState::Waiting) {
            if cx.now < self.at {
                return Next::Sleep(self.at);
            }
            if self.plan.options.fastopen_qlen > 0 {
                return self.open_fast(cx);
            }
            match cx.shard.tcp_connect(cx.now, self.local, self.remote, self.plan.options.clone()) {
                Ok(id) => self.state = DialState::Connecting(id),
                Err(error) => return self.failed(cx, error),
            }
        }
        let DialState::Connecting(id) = self.state else { return Next::Wait };
        match cx.shard.tcp().poll_connected(id, cx.waker) {
            Poll::Pending => Next::Wait,
            Poll::Ready(Err(error)) => {
                cx.shard.tcp().close(cx.now, id);
                self.failed(cx, error)
            }
            Poll::Ready(Ok(())) => match cx.shard.tcp().tuple(id) {
                Ok(tuple) => {
                    let mut endpoint = Endpoint::new(id, tuple, self.plan.clone(), &self.checker);
                    let next = endpoint.run(cx);
                    self.state = DialState::Open(Box::new(endpoint));
                    next
                }
                Err(error) => self.failed(cx, error),
            },
        }
    }

    fn describe(&self) -> String {
        match &self.state {
            DialState::Waiting => format!("dials {} at {:?}", self.remote, self.at),
            DialState::Connecting(id) => format!("connects to {} as {id:?}", self.remote),
            DialState::Open(endpoint) => endpoint.describe(),
        }
    }
}

/// Accepts connections on a port and follows a plan on each, until told to stop.
pub struct Listen {
    /// Where to listen; the unspecified address means every address of the host.
    pub addr: SocketAddr,
    /// Accepted connections that may wait.
    pub backlog: usize,
    /// What to do on each connection.
    pub plan: Plan,
    /// Where to account for them.
    pub checker: Checker,
    /// Set, and the host's applications woken, to close the listener.
    pub stop: Rc<Cell<bool>>,
    id: Option<ListenerId>,
}

impl Listen {
    /// A listener on `addr` that closes when `stop` is set and its host's applications are woken.
    #[must_use]
    pub fn new(
        addr: SocketAddr,
        backlog: usize,
        plan: Plan,
        checker: &Checker,
        stop: &Rc<Cell<bool>>,
    ) -> Self {
        Self { addr, backlog, plan, checker: checker.clone(), stop: stop.clone(), id: None }
    }
}

impl App for Listen {
    fn run(&mut self, cx: &mut Context<'_>) -> Next {
        let id = match self.id {
            Some(id) => id,
            None => match cx.shard.tcp_listen(self.addr, self.backlog, self.plan.options.clone()) {
                Ok(id) => *self.id.insert(id),
                Err(error) => {
                    self.checker.violation(format!("cannot listen on {}: {error}", self.addr));
                    return Next::Done;
                }
            },
        };
        if self.stop.get() {
            if let Err(error) = cx.shard.tcp_close_listener(cx.now, id) {
                self.checker.violation(format!("cannot close the listener on {}: {error}", self.addr));
            }
            return Next::Done;
        }
        while let Poll::Ready(accepted) = cx.shard.tcp().poll_accept(id, cx.waker) {
            match accepted {
                Ok((conn, _)) => match cx.shard.tcp().tuple(conn) {
                    Ok(tuple) => {
                        let endpoint = Endpoint::new(conn, tuple, self.plan.clone(), &self.checker);
                        cx.spawned.push(Box::new(endpoint));
                    }
                    // Reset by the peer while it waited.
                    Err(_) => cx.shard.tcp().close(cx.now, conn),
                },
                Err(error) => {
                    self.checker.violation(format!("accepting on {} failed: {error}", self.addr));
                    return Next::Done;
                }
            }
        }
        Next::Wait
    }

    fn describe(&self) -> String {
        format!("listens on {}", self.addr)
    }
}
