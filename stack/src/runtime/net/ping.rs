//! Echo requests (ping) from the stack.

use core::fmt;
use core::net::IpAddr;
use std::collections::BTreeMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::net_error;
use super::waiters::Waiters;
use crate::runtime::local::{self, Local};
use crate::runtime::time::now;
use crate::shard::PingId;
use crate::time::{Duration, Instant};

/// Requests of one [`Pinger`] whose replies still count; the oldest is forgotten beyond it.
const OUTSTANDING: usize = 64;

/// An answered echo request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Echo {
    /// Who answered.
    pub from: IpAddr,
    /// The request's sequence number.
    pub seq: u16,
    /// The bytes that came back: those sent, if all is well.
    pub payload: Vec<u8>,
    /// The reply's TTL or hop limit on arrival, where the stack knows it.
    pub hop_limit: Option<u8>,
    /// From the request's sending to the reply's arrival at this task.
    pub rtt: Duration,
}

/// Sends echo requests to one address: ICMP (RFC 792) or ICMPv6 (RFC 4443 section 4).
pub struct Pinger {
    local: Weak<Local>,
    id: PingId,
    hop_limit: Option<u8>,
    waiters: Arc<Waiters>,
    /// When each request was sent.
    sent: BTreeMap<u16, Instant>,
}

impl Pinger {
    /// A pinger of `addr`, with an identifier of its own.
    ///
    /// # Errors
    /// Without a route to `addr` or an address of its family, with too many pingers, or when the NIC's steering refuses the
    /// identifier.
    pub fn new(addr: IpAddr) -> io::Result<Self> {
        let local = local::required()?;
        local.settle_steering();
        let id = local.with(|shard, _| shard.ping_open(addr))?.map_err(net_error)?;
        let pinger = Self {
            local: Rc::downgrade(&local),
            id,
            hop_limit: None,
            waiters: Arc::default(),
            sent: BTreeMap::new(),
        };
        local.apply_steering()?;
        Ok(pinger)
    }

    /// The TTL or hop limit of further requests; `None`: the stack's default.
    pub fn set_hop_limit(&mut self, hop_limit: Option<u8>) {
        self.hop_limit = hop_limit;
    }

    /// Sends a request and waits for its reply, for ever: bound it with [`crate::runtime::time::timeout`]. Late replies
    /// to other requests are passed over.
    ///
    /// # Errors
    /// When the request cannot be sent: payload too long, no route, the runtime has ended.
    pub async fn ping(&mut self, seq: u16, payload: &[u8]) -> io::Result<Echo> {
        self.send(seq, payload)?;
        loop {
            let echo = self.receive().await?;
            if echo.seq == seq {
                return Ok(echo);
            }
        }
    }

    /// Sends a request without waiting for its reply.
    ///
    /// # Errors
    /// As [`Pinger::ping`].
    pub fn send(&mut self, seq: u16, payload: &[u8]) -> io::Result<()> {
        let local = self.local.upgrade().ok_or_else(local::gone)?;
        let (id, hop_limit) = (self.id, self.hop_limit);
        local.with(|shard, _| shard.ping_send(id, seq, payload, hop_limit))?.map_err(net_error)?;
        self.sent.insert(seq, now());
        if self.sent.len() > OUTSTANDING {
            let oldest = self.sent.iter().min_by_key(|&(_, &at)| at).map(|(&seq, _)| seq);
            oldest.map(|seq| self.sent.remove(&seq));
        }
        Ok(())
    }

    /// The next reply to any request of this pinger that has not been answered before. Cancel safe.
    ///
    /// # Errors
    /// When the runtime has ended.
    pub async fn receive(&mut self) -> io::Result<Echo> {
        loop {
            let (local, id) = (&self.local, self.id);
            let polled = self.waiters.wait(|waker| {
                let local = local.upgrade().ok_or_else(local::gone);
                match local.and_then(|local| local.with(|shard, _| shard.ping_poll_recv(id, waker))) {
                    Ok(polled) => polled.map_err(net_error),
                    Err(error) => core::task::Poll::Ready(Err(error)),
                }
            });
            let reply = polled.await?;
            if let Some(sent) = self.sent.remove(&reply.seq) {
                let rtt = now() - sent;
                let (from, seq, hop_limit) = (reply.from, reply.seq, reply.hop_limit);
                return Ok(Echo { from, seq, payload: reply.payload, hop_limit, rtt });
            }
        }
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        if let Some(local) = self.local.upgrade() {
            let id = self.id;
            local.release(move |shard, _| shard.ping_close(id));
        }
    }
}

impl fmt::Debug for Pinger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinger").field("id", &self.id).finish_non_exhaustive()
    }
}
