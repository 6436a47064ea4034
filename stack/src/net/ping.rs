//! Ping: sends echo requests and hands their replies to whoever asked (RFC 792, RFC 4443 section 4).
//!
//! A reply finds its ping by its identifier, which also names the shard (`ident % shards == shard`). Done here rather
//! than with smoltcp's ICMP sockets because those do not tell a reply's hop limit and share one for all requests.

use core::net::IpAddr;
use core::task::{Poll, Waker};
use std::collections::{BTreeMap, VecDeque};

use super::egress::{HOP_LIMIT, IPV4_HEADER, IPV6_HEADER, Output};
use super::fragment::write_header;
use super::route::NextHop;
use super::slots::{Handle, Slots};
use crate::counters::DropReason;
use crate::limits;
use crate::packet::Packet;
use crate::packet::checksum::Sum;
use crate::parse::protocol;
use crate::shard::{EchoReply, NetError};
use crate::time::Instant;

const ICMP_HEADER: usize = 8;
const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
/// Payload of the longest request: what an IPv4 packet holds.
const PAYLOAD_MAX: usize = 65_535 - IPV4_HEADER - ICMP_HEADER;

/// Whether an ICMP message of this type is an echo request.
pub(crate) fn is_request(ipv6: bool, kind: u8) -> bool {
    kind == ECHO_REQUEST[usize::from(ipv6)]
}

/// Whether an ICMP message of this type is an echo reply.
pub(crate) fn is_reply(ipv6: bool, kind: u8) -> bool {
    kind == ECHO_REPLY[usize::from(ipv6)]
}

/// The pings of one shard.
#[derive(Debug)]
pub(crate) struct Pings {
    slots: Slots<Ping>,
    by_ident: BTreeMap<u16, Handle>,
    shard: u16,
    shards: u16,
}

#[derive(Debug)]
struct Ping {
    remote: IpAddr,
    ident: u16,
    replies: VecDeque<EchoReply>,
    waker: Option<Waker>,
}

impl Pings {
    pub(crate) fn new(shard: u16, shards: u16) -> Self {
        Self { slots: Slots::new(limits::PING_SOCKETS), by_ident: BTreeMap::new(), shard, shards: shards.max(1) }
    }

    /// A ping to `remote`; its identifier is the first free one of this shard's from `random` on.
    pub(crate) fn open(&mut self, remote: IpAddr, random: u16) -> Result<Handle, NetError> {
        if remote.is_unspecified() {
            return Err(NetError::InvalidInput);
        }
        let count = u16::MAX / self.shards;
        let ident = (0..count)
            .map(|step| (random % count + step) % count * self.shards + self.shard)
            .find(|ident| !self.by_ident.contains_key(ident))
            .ok_or(NetError::TooManySockets)?;
        let ping = Ping { remote, ident, replies: VecDeque::new(), waker: None };
        let handle = self.slots.insert(ping).ok_or(NetError::TooManySockets)?;
        self.by_ident.insert(ident, handle);
        Ok(handle)
    }

    pub(crate) fn close(&mut self, handle: Handle) {
        if let Some(ping) = self.slots.remove(handle) {
            self.by_ident.remove(&ping.ident);
        }
    }

    /// Sends one request. It is not kept when it cannot go now.
    pub(crate) fn send(
        &self,
        now: Instant,
        handle: Handle,
        seq: u16,
        payload: &[u8],
        hop_limit: Option<u8>,
        output: &mut Output,
    ) -> Result<(), NetError> {
        let ping = self.slots.get(handle).ok_or(NetError::NotFound)?;
        if hop_limit == Some(0) {
            return Err(NetError::InvalidInput);
        }
        if payload.len() > PAYLOAD_MAX {
            return Err(NetError::MessageTooLong);
        }
        let src = output.routes.source(ping.remote).ok_or(NetError::NetworkUnreachable)?;
        let ipv6 = ping.remote.is_ipv6();
        let (header_len, number) =
            if ipv6 { (IPV6_HEADER, protocol::ICMPV6) } else { (IPV4_HEADER, protocol::ICMPV4) };
        let len = ICMP_HEADER + payload.len();
        let mut packet = vec![0; header_len + len];
        write_header(&mut packet, src, ping.remote, number, len, 0, hop_limit.unwrap_or(HOP_LIMIT));
        let message = &mut packet[header_len..];
        message[0] = ECHO_REQUEST[usize::from(ipv6)];
        message[4..6].copy_from_slice(&ping.ident.to_be_bytes());
        message[6..8].copy_from_slice(&seq.to_be_bytes());
        message[8..].copy_from_slice(payload);
        let mut sum =
            if ipv6 { Sum::pseudo_header(src, ping.remote, number, len as u32) } else { Sum::default() };
        sum.add(message);
        message[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
        output.counters.icmp_tx += 1;
        output.send_ip(now, &mut packet);
        Ok(())
    }

    pub(crate) fn poll_recv(&mut self, handle: Handle, waker: &Waker) -> Poll<Result<EchoReply, NetError>> {
        let Some(ping) = self.slots.get_mut(handle) else { return Poll::Ready(Err(NetError::NotFound)) };
        if let Some(reply) = ping.replies.pop_front() {
            return Poll::Ready(Ok(reply));
        }
        ping.waker = Some(waker.clone());
        Poll::Pending
    }

    /// The shard whose ping an echo reply answers.
    pub(crate) fn owner(&self, message: &[u8]) -> u16 {
        ident(message) % self.shards
    }

    /// Takes in an echo reply, its checksum verified; one that answers nothing is dropped and counted.
    pub(crate) fn receive(&mut self, packet: &Packet, output: &mut Output) {
        let parsed = &packet.parsed;
        let message = packet.pieces(usize::from(parsed.l4)..parsed.end as usize).collect::<Vec<_>>().concat();
        let handle = self.by_ident.get(&ident(&message)).copied();
        let Some(ping) = handle.and_then(|handle| self.slots.get_mut(handle)) else {
            return output.counters.drop(DropReason::IcmpIgnored);
        };
        // A request to a group is answered by its members.
        let answers = ping.remote == parsed.flow.src || matches!(output.routes.next_hop(ping.remote), Some(NextHop::Group(_)));
        if !answers || ping.replies.len() == limits::PING_REPLIES {
            return output.counters.drop(DropReason::IcmpIgnored);
        }
        ping.replies.push_back(EchoReply {
            from: parsed.flow.src,
            ident: ping.ident,
            seq: u16::from_be_bytes([message[6], message[7]]),
            payload: message[ICMP_HEADER..].to_vec(),
            hop_limit: Some(parsed.hop_limit),
        });
        if let Some(waker) = ping.waker.take() {
            waker.wake();
        }
    }
}

/// The identifier of an echo message of at least eight bytes.
fn ident(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[4], message[5]])
}
