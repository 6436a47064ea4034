//! Ping sockets: echo requests of ours and the replies to them (RFC 792, RFC 4443 section 4). Own sockets rather than
//! smoltcp's, which do not tell a reply's hop limit and keep 64 KiB buffers.

use core::net::IpAddr;
use core::task::{Poll, Waker};
use std::collections::VecDeque;

use slab::Slab;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr};

use super::egress::{IPV4_HEADER, IPV6_HEADER, Output};
use super::fragment::write_header;
use crate::counters::{Counters, DropReason};
use crate::limits;
use crate::parse::protocol;
use crate::shard::{EchoReply, NetError, PingId};
use crate::time::Instant;

/// The largest echo payload: an IPv4 packet's 65,535 bytes less the headers.
const PAYLOAD_MAX: usize = 65_535 - 20 - 8;

/// The ping sockets of one shard.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    sockets: Slab<Ping>,
    generation: u32,
    next_ident: u16,
}

#[derive(Debug)]
struct Ping {
    generation: u32,
    remote: IpAddr,
    ident: u16,
    replies: VecDeque<EchoReply>,
    waker: Option<Waker>,
}

/// A request that could not be sent at once because there is no time to send it at: it waits for the next poll.
#[derive(Debug)]
pub(crate) struct EchoRequest {
    packet: Vec<u8>,
}

impl EchoRequest {
    pub(crate) fn send(mut self, now: Instant, output: &mut Output) {
        output.counters.icmp_tx += 1;
        output.send_ip(now, &mut self.packet);
    }
}

impl Pings {
    /// `first_ident`: where identifiers begin, not to be guessed.
    pub(crate) fn new(first_ident: u16) -> Self {
        Self { next_ident: first_ident, ..Self::default() }
    }

    /// Opens a socket with an identifier that is `shard` modulo `shards`, by which its replies find the shard; returns that
    /// too.
    pub(crate) fn open(
        &mut self,
        remote: IpAddr,
        shard: u16,
        shards: u16,
    ) -> Result<(PingId, u16), NetError> {
        if self.sockets.len() >= limits::PING_SOCKETS {
            return Err(NetError::TooManySockets);
        }
        if remote.is_unspecified() {
            return Err(NetError::InvalidInput);
        }
        let free = |this: &Self, ident: u16| this.sockets.iter().all(|(_, ping)| ping.ident != ident);
        let ident = loop {
            self.next_ident = self.next_ident.wrapping_add(1);
            // Fewer sockets than identifiers of this shard: one is free.
            if self.next_ident % shards == shard && free(self, self.next_ident) {
                break self.next_ident;
            }
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let ping = Ping { generation, remote, ident, replies: VecDeque::new(), waker: None };
        Ok((PingId(self.sockets.insert(ping) as u32, generation), ident))
    }

    /// Builds an echo request.
    pub(crate) fn request(
        &self,
        id: PingId,
        seq_no: u16,
        data: &[u8],
        hop_limit: Option<u8>,
        output: &Output,
    ) -> Result<EchoRequest, NetError> {
        let ping = self.get(id).ok_or(NetError::NotFound)?;
        if data.len() > PAYLOAD_MAX {
            return Err(NetError::MessageTooLong);
        }
        let source = output.routes.source(ping.remote).ok_or(NetError::NetworkUnreachable)?;
        let (ident, hop_limit) = (ping.ident, hop_limit.unwrap_or(limits::HOP_LIMIT));
        if hop_limit == 0 {
            return Err(NetError::InvalidInput);
        }
        let checksums = ChecksumCapabilities::default();
        let packet = match (source, ping.remote) {
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let repr = Icmpv6Repr::EchoRequest { ident, seq_no, data };
                let mut packet = vec![0; IPV6_HEADER + repr.buffer_len()];
                write_header(
                    &mut packet,
                    source,
                    ping.remote,
                    protocol::ICMPV6,
                    repr.buffer_len(),
                    0,
                    hop_limit,
                );
                repr.emit(
                    &src,
                    &dst,
                    &mut Icmpv6Packet::new_unchecked(&mut packet[IPV6_HEADER..]),
                    &checksums,
                );
                packet
            }
            _ => {
                let repr = Icmpv4Repr::EchoRequest { ident, seq_no, data };
                let mut packet = vec![0; IPV4_HEADER + repr.buffer_len()];
                write_header(
                    &mut packet,
                    source,
                    ping.remote,
                    protocol::ICMPV4,
                    repr.buffer_len(),
                    0,
                    hop_limit,
                );
                repr.emit(&mut Icmpv4Packet::new_unchecked(&mut packet[IPV4_HEADER..]), &checksums);
                packet
            }
        };
        Ok(EchoRequest { packet })
    }

    /// Takes in an echo reply: `message` is the ICMP message, checksum verified. Returns whether a socket waited for it.
    pub(crate) fn receive(
        &mut self,
        from: IpAddr,
        hop_limit: u8,
        message: &[u8],
        counters: &mut Counters,
    ) -> bool {
        let Some((header, payload)) = message.split_at_checked(8) else { return false };
        let ident = u16::from_be_bytes([header[4], header[5]]);
        let seq = u16::from_be_bytes([header[6], header[7]]);
        let fits = |ping: &Ping| ping.ident == ident && (ping.remote == from || ping.remote.is_multicast());
        let Some((_, ping)) = self.sockets.iter_mut().find(|(_, ping)| fits(ping)) else { return false };
        if ping.replies.len() == limits::PING_REPLIES {
            counters.drop(DropReason::IcmpIgnored);
            return true;
        }
        ping.replies.push_back(EchoReply {
            from,
            ident,
            seq,
            payload: payload.to_vec(),
            hop_limit: Some(hop_limit),
        });
        if let Some(waker) = ping.waker.take() {
            waker.wake();
        }
        true
    }

    /// The next reply.
    pub(crate) fn poll_recv(&mut self, id: PingId, waker: &Waker) -> Poll<Result<EchoReply, NetError>> {
        let Some(ping) = self.sockets.get_mut(id.0 as usize).filter(|ping| ping.generation == id.1) else {
            return Poll::Ready(Err(NetError::NotFound));
        };
        if let Some(reply) = ping.replies.pop_front() {
            return Poll::Ready(Ok(reply));
        }
        ping.waker = Some(waker.clone());
        Poll::Pending
    }

    /// Closes a socket, and returns its identifier; replies under way are ignored.
    pub(crate) fn close(&mut self, id: PingId) -> Option<u16> {
        self.get(id)?;
        Some(self.sockets.remove(id.0 as usize).ident)
    }

    fn get(&self, id: PingId) -> Option<&Ping> {
        self.sockets.get(id.0 as usize).filter(|ping| ping.generation == id.1)
    }
}
