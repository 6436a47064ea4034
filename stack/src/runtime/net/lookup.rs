//! Names to addresses, by the stack's own resolver (smoltcp's) and the configured name servers.

use core::future::poll_fn;
use core::net::IpAddr;
use core::task::{Context, Poll};
use std::io;
use std::rc::{Rc, Weak};

use super::net_error;
use crate::runtime::local::{self, Local};
use crate::shard::{DnsQueryId, NetError};

/// The addresses of `host`: itself when it is an address, else what the name servers say, asked for A and AAAA records
/// at the same time. IPv6 addresses come first when the stack has one beyond its link, as RFC 6724 section 2 would
/// order them.
///
/// # Errors
/// `NotFound` when there is no such name or it has no address, `Other` when the name server failed, `TimedOut` when none
/// answered, `Unsupported` without a name server or off a shard's thread; the [`NetError`] inside says which.
pub async fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    let local = local::required()?;
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = literal.parse() {
        return Ok(vec![address]);
    }
    let mut four = Query::start(&local, host, false);
    let mut six = Query::start(&local, host, true);
    drop(local);
    let (four, six) = poll_fn(|cx| {
        let (four_done, six_done) = (four.poll(cx), six.poll(cx));
        if four_done && six_done { Poll::Ready((four.take(), six.take())) } else { Poll::Pending }
    })
    .await;
    let (four, six) = match (four, six) {
        (Err(four), Err(six)) => return Err(if says_more(&six) > says_more(&four) { six } else { four }),
        (four, six) => (four.unwrap_or_default(), six.unwrap_or_default()),
    };
    let addresses = if prefers_ipv6()? { [six, four].concat() } else { [four, six].concat() };
    if addresses.is_empty() {
        return Err(net_error(NetError::NoAddress));
    }
    Ok(addresses)
}

/// How much an error of one family's question says of the name, when both failed: that the name has no address of that family
/// says nothing of the other, and an answer more than silence.
fn says_more(error: &io::Error) -> u8 {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<NetError>()) {
        Some(NetError::NoAddress) => 0,
        Some(NetError::NameServerSilent) => 1,
        Some(NetError::NameServerFailed(_)) => 2,
        _ => 3,
    }
}

/// Whether one of our IPv6 addresses reaches beyond the link.
fn prefers_ipv6() -> io::Result<bool> {
    let addresses = local::required()?.addresses();
    Ok(addresses
        .iter()
        .any(|(address, _)| matches!(address, IpAddr::V6(six) if !six.is_unicast_link_local())))
}

/// One question to the resolver; withdrawn when dropped before the answer.
struct Query {
    local: Weak<Local>,
    asked: Option<DnsQueryId>,
    answer: io::Result<Vec<IpAddr>>,
}

impl Query {
    fn start(local: &Rc<Local>, name: &str, ipv6: bool) -> Self {
        let asked = local.with(|shard, _| shard.dns_query(name, ipv6).map_err(net_error)).flatten();
        let local = Rc::downgrade(local);
        match asked {
            Ok(id) => Self { local, asked: Some(id), answer: Ok(Vec::new()) },
            Err(error) => Self { local, asked: None, answer: Err(error) },
        }
    }

    /// Whether the answer is there.
    fn poll(&mut self, cx: &Context<'_>) -> bool {
        let Some(id) = self.asked else { return true };
        let local = self.local.upgrade().ok_or_else(local::gone);
        let polled = local.and_then(|local| local.with(|shard, _| shard.dns_poll(id, cx.waker())));
        self.answer = match polled {
            Ok(Poll::Pending) => return false,
            Ok(Poll::Ready(answer)) => answer.map_err(net_error),
            Err(error) => Err(error),
        };
        self.asked = None;
        true
    }

    fn take(&mut self) -> io::Result<Vec<IpAddr>> {
        core::mem::replace(&mut self.answer, Ok(Vec::new()))
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        if let (Some(id), Some(local)) = (self.asked.take(), self.local.upgrade()) {
            local.release(move |shard, _| shard.dns_cancel(id));
        }
    }
}
