//! Name server queries: smoltcp's resolver, with handles that a stale use cannot harm and a bound on their number.
//!
//! smoltcp says of a failed query only that it failed. What was asked from which port, and with which code it was
//! answered, is read from the messages on their way out and in (RFC 1035 section 4).

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
    question: Vec<u8>,
}

/// A question as it went out.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) port: u16,
    id: [u8; 2],
    /// Name and type, as in the message's question section.
    question: Vec<u8>,
    /// The answer's RCODE; `None`: there was no answer.
    rcode: Option<u8>,
}

/// Bytes of a message's header.
const HEADER: usize = 12;

impl Asked {
    /// Reads a query on its way out; `None` for something that is none.
    pub(super) fn read(port: u16, message: &[u8]) -> Option<Self> {
        let question = message.get(HEADER..)?;
        let name = question.iter().position(|&byte| byte == 0)? + 1;
        let question = question.get(..name + 2)?.to_vec();
        Some(Self { port, id: [message[0], message[1]], question, rcode: None })
    }

    /// Takes note of an answer to it.
    fn hear(&mut self, message: &[u8]) {
        let [id0, id1, flags, codes, ..] = *message else { return };
        if [id0, id1] == self.id && flags & 0x80 != 0 {
            self.rcode = Some(codes & 0xf);
        }
    }

    fn failure(&self) -> NetError {
        match self.rcode {
            None => NetError::NameServerSilent,
            Some(0) => NetError::NoAddress,
            Some(3) => NetError::NameNotFound,
            Some(rcode) => NetError::NameServerFailed(rcode),
        }
    }
}

/// Name and type as in a question section; smoltcp has accepted the name.
fn question(name: &str, kind: DnsQueryType) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 4);
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(u16::from(kind).to_be_bytes());
    bytes
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
        let question = question(name, kind);
        let query = Query { generation: self.generation, handle, ipv6: carrier, question };
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
            Err(dns::GetQueryResultError::Failed) => Err(self.why_failed(id)),
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

    /// Takes note of queries that went out; those sent again are known.
    pub(super) fn note_queries(&mut self, sent: Vec<Asked>) {
        for asked in sent {
            if !self.dns_ports.contains(&asked.port) {
                self.dns_ports.push(asked.port);
                self.dns_asked.push(asked);
            }
        }
    }

    /// A name server's datagram to `port`, before smoltcp reads it.
    pub(super) fn hear_answer(&mut self, port: u16, message: &[u8]) {
        if let Some(asked) = self.dns_asked.iter_mut().find(|asked| asked.port == port) {
            asked.hear(message);
        }
    }

    /// Two queries with the same question at a time may be taken for each other: their answers are alike.
    fn why_failed(&self, id: DnsQueryId) -> NetError {
        let question = self.query(id).map(|query| &query.question);
        // The latest one: earlier ones are of queries that are over.
        let asked = self.dns_asked.iter().rfind(|asked| Some(&asked.question) == question);
        asked.map_or(NetError::NameServerSilent, Asked::failure)
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
            self.dns_asked.clear();
        }
        let excess = self.dns_ports.len().saturating_sub(limits::DNS_QUERIES);
        self.dns_ports.drain(..excess);
        let excess = self.dns_asked.len().saturating_sub(limits::DNS_QUERIES);
        self.dns_asked.drain(..excess);
    }

    fn query(&self, id: DnsQueryId) -> Option<&Query> {
        self.queries.get(id.0 as usize).filter(|query| query.generation == id.1)
    }
}
