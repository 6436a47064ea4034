//! Frames through what forwards between two veth pairs: sent by the host at one, taken by the host at the other, by one
//! thread and through plain sockets, so that the forwarder has a core of its own.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bywash::limits::BURST_PACKETS;

use super::{PlainSocket, VethPair};
use crate::nic::Nic;
use crate::options::QueueOptions;
use crate::program::AttachOptions;

/// Frames under way at most: fewer than the 256 that veth's own ring takes, so that nothing is lost.
const IN_FLIGHT: u64 = 192;
/// Silence after which frames must have been lost.
const LOST_AFTER: Duration = Duration::from_millis(20);

/// Sends `frame`, whose IP destination is `dst`, from the peer of `from` over and over and takes what arrives at the peer of
/// `to`; `arrived` gets the number of each burst (0 when nothing came) and says whether to go on. The calling thread enters
/// the peers' namespaces for good.
///
/// # Errors
/// When the sockets cannot be had.
pub fn stream(
    from: &VethPair,
    to: &VethPair,
    frame: &[u8],
    dst: IpAddr,
    mut arrived: impl FnMut(u64) -> bool,
) -> io::Result<()> {
    let open = |pair: &VethPair| {
        pair.peer.enter();
        let nic = Nic::open(&pair.peer_interface).map_err(io::Error::other)?;
        let steer = nic.attach(&AttachOptions::default()).map_err(io::Error::other)?;
        PlainSocket::open(&steer, 0, &QueueOptions::default())
    };
    let (mut source, mut sink) = (open(from)?, open(to)?);
    sink.own_address(dst)?;
    let (mut under_way, mut heard) = (0, Instant::now());
    source.transmit(frame, |sent| {
        under_way += sent;
        loop {
            let count = sink.take();
            if !arrived(count) {
                return None;
            }
            if count > 0 {
                (under_way, heard) = (under_way.saturating_sub(count), Instant::now());
            } else if heard.elapsed() > LOST_AFTER {
                (under_way, heard) = (0, Instant::now());
            }
            if under_way + BURST_PACKETS as u64 <= IN_FLIGHT {
                return Some(BURST_PACKETS);
            }
        }
    });
    Ok(())
}
