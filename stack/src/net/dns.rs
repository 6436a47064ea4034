//! Name server queries: smoltcp's resolver, with handles that a stale use cannot harm and a bound on their number.

use core::net::IpAddr;
use core::task::{Poll, Waker};

use smoltcp::socket::dns;
use smoltcp::wire::{DnsQueryType, IpAddress};

use super::iface::Iface;
use crate::limits;
use crate::shard::{DnsQueryId, NetError};

/// A query on its way.
pub(super) struct Query {
    generation: u32,
    handle: dns::QueryHandle,
    /// Which set of sockets carries it: that of the name servers' IP version.
    ipv6: bool,
}

impl Iface {
    /// Replaces the name servers, the first asked first.
    pub(crate) fn set_dns_servers(&mut self, servers: &[IpAddr]) {
        for ipv6 in [false, true] {
            let servers: Vec<IpAddress> = servers
                .iter()
                .filter(|server| server.is_ipv6() == ipv6)
                .map(|server| (*server).into())
                .take(limits::DNS_SERVERS)
                .collect();
            let family = self.family(ipv6);
            family.sockets.get_mut::<dns::Socket<'_>>(family.dns).update_servers(&servers);
        }
    }

    /// Starts to ask for the addresses of `name`: IPv6 ones or IPv4 ones. `servers` are the present ones; queries go to those
    /// of the first one's IP version.
    pub(crate) fn dns_query(
        &mut self,
        name: &str,
        ipv6: bool,
        servers: &[IpAddr],
    ) -> Result<DnsQueryId, NetError> {
        let carrier = servers.first().ok_or(NetError::NoNameServer)?.is_ipv6();
        if self.queries.len() >= limits::DNS_QUERIES {
            return Err(NetError::TooManySockets);
        }
        let kind = if ipv6 { DnsQueryType::Aaaa } else { DnsQueryType::A };
        let handle = self.start_query(name, carrier, kind).map_err(|_| NetError::InvalidInput)?;
        self.generation = self.generation.wrapping_add(1);
        let query = Query { generation: self.generation, handle, ipv6: carrier };
        self.dirty = true;
        Ok(DnsQueryId(self.queries.insert(query) as u32, self.generation))
    }

    /// The answer; the query is over once this is ready.
    pub(crate) fn dns_poll(&mut self, id: DnsQueryId, waker: &Waker) -> Poll<Result<Vec<IpAddr>, NetError>> {
        let Some(query) = self.query(id) else { return Poll::Ready(Err(NetError::NotFound)) };
        let (handle, ipv6) = (query.handle, query.ipv6);
        let family = self.family(ipv6);
        let socket = family.sockets.get_mut::<dns::Socket<'_>>(family.dns);
        let result = match socket.get_query_result(handle) {
            Err(dns::GetQueryResultError::Pending) => {
                socket.register_query_waker(handle, waker);
                return Poll::Pending;
            }
            Ok(addresses) => Ok(addresses.iter().map(|addr| (*addr).into()).collect()),
            Err(dns::GetQueryResultError::Failed) => Err(NetError::NameNotFound),
        };
        self.end_query(id);
        Poll::Ready(result)
    }

    /// Gives a query up.
    pub(crate) fn dns_cancel(&mut self, id: DnsQueryId) {
        let Some(query) = self.query(id) else { return };
        let (handle, ipv6) = (query.handle, query.ipv6);
        let family = self.family(ipv6);
        family.sockets.get_mut::<dns::Socket<'_>>(family.dns).cancel_query(handle);
        self.end_query(id);
    }

    fn end_query(&mut self, id: DnsQueryId) {
        self.queries.remove(id.0 as usize);
        // The next poll gives its port back.
        self.dirty = true;
    }

    /// The ports that answers to queries come to.
    pub(crate) fn dns_ports(&self) -> &[u16] {
        &self.dns_ports
    }

    /// smoltcp does not say which query has which port; they are all forgotten when no query is left, and the oldest where
    /// there are more than queries.
    pub(super) fn forget_dns_ports(&mut self) {
        if self.queries.is_empty() {
            self.dns_ports.clear();
        }
        let excess = self.dns_ports.len().saturating_sub(limits::DNS_QUERIES);
        self.dns_ports.drain(..excess);
    }

    fn query(&self, id: DnsQueryId) -> Option<&Query> {
        self.queries.get(id.0 as usize).filter(|query| query.generation == id.1)
    }
}
