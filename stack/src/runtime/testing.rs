//! A cable in memory: devices for two runtimes in one process that hand each other copies of their frames, across
//! threads. For tests and examples without a NIC and without root; real queues come from `bywash-afxdp`.

use core::net::IpAddr;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use smoltcp::wire::EthernetAddress;

use super::sys;
use super::wake::Alarm;
use crate::device::{Capabilities, Device, Protocol, Steering, WaitDevice};
use crate::packet::{Packet, PacketBatch, PacketPool, PoolLayout};
use crate::time::Duration;

/// Frames on their way to one queue; a full queue loses frames, as a NIC's would.
const QUEUE_FRAMES: usize = 1024;
/// Longest IP packet on the cable, in bytes.
const MTU: usize = 1500;

/// One queue's end of a cable, to be opened on the thread that will use it.
pub struct Plug {
    mac: EthernetAddress,
    frames: Receiver<Box<[u8]>>,
    alarm: Arc<Alarm>,
    /// The other side's queues.
    others: Vec<Socket>,
    ports: Ports,
}

/// Where frames to a queue go in.
#[derive(Clone)]
struct Socket {
    sender: Sender<Box<[u8]>>,
    alarm: Arc<Alarm>,
}

/// The ports that one side's steering has open.
#[derive(Clone, Default)]
pub struct Ports(Arc<Mutex<BTreeSet<(&'static str, u16)>>>);

impl Ports {
    /// `("tcp", 80)` and the like, in order.
    #[must_use]
    pub fn open(&self) -> Vec<(&'static str, u16)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// A cable between two hosts with this many queues each. Like a NIC's receive-side scaling, each end spreads the frames
/// it receives over its queues by their addresses and ports.
///
/// # Errors
/// When an eventfd cannot be had.
pub fn cable(left_queues: usize, right_queues: usize) -> io::Result<(Vec<Plug>, Vec<Plug>)> {
    let side = |queues: usize| -> io::Result<Vec<_>> {
        (0..queues)
            .map(|_| {
                let (sender, frames) = crossbeam_channel::bounded(QUEUE_FRAMES);
                Ok((Socket { sender, alarm: Arc::new(Alarm::new()?) }, frames))
            })
            .collect()
    };
    let (left, right) = (side(left_queues)?, side(right_queues)?);
    let sockets = |side: &[(Socket, Receiver<Box<[u8]>>)]| -> Vec<Socket> {
        side.iter().map(|(socket, _)| socket.clone()).collect()
    };
    let (to_left, to_right) = (sockets(&left), sockets(&right));
    let plugs = |side: Vec<(Socket, Receiver<Box<[u8]>>)>, others: &[Socket], last: u8| {
        let ports = Ports::default();
        let plug = |(socket, frames): (Socket, _)| Plug {
            mac: EthernetAddress([2, 0, 0, 0, 0, last]),
            frames,
            alarm: socket.alarm,
            others: others.to_vec(),
            ports: ports.clone(),
        };
        side.into_iter().map(plug).collect()
    };
    Ok((plugs(left, &to_right, 1), plugs(right, &to_left, 2)))
}

impl Plug {
    /// The ports that this side's steering has open.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports.clone()
    }

    /// The device, with a pool of `frames` frames. It must stay on this thread.
    ///
    /// # Errors
    /// None; the `Result` is what [`super::Builder::queue`] wants.
    pub fn open(self, frames: u32) -> io::Result<Cable> {
        let pool = PacketPool::heap(PoolLayout { frames, frame_size: 2048, headroom: 256 });
        let capabilities =
            Capabilities { mac: self.mac, mtu: MTU, partial_checksums: false, tx_frames_max: usize::MAX };
        Ok(Cable { plug: self, pool, capabilities, lost: 0, no_frame: 0 })
    }
}

/// One queue of a host on a cable.
pub struct Cable {
    plug: Plug,
    pool: PacketPool,
    capabilities: Capabilities,
    lost: u64,
    no_frame: u64,
}

impl Device for Cable {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &PacketPool {
        &self.pool
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        self.plug.alarm.rearm();
        let old = batch.len();
        for bytes in self.plug.frames.try_iter().take(budget) {
            match Packet::copy_from(&self.pool, &bytes) {
                Some(packet) => batch.push_back(packet),
                None => self.no_frame += 1,
            }
        }
        batch.len() - old
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        let sent = batch.len();
        let mut bytes = Vec::new();
        for packet in batch.drain(..) {
            packet.copy_to(&mut bytes);
            let other = &self.plug.others[queue_of(&bytes) % self.plug.others.len()];
            match other.sender.try_send(bytes.as_slice().into()) {
                Ok(()) => other.alarm.notify(),
                Err(_) => self.lost += 1,
            }
        }
        sent
    }

    fn transmit_room(&mut self) -> usize {
        QUEUE_FRAMES
    }
}

/// A hash over the addresses and ports of an IPv4 frame; 0 for all others.
fn queue_of(frame: &[u8]) -> usize {
    match (frame.get(12..14), frame.get(26..38)) {
        (Some([8, 0]), Some(flow)) => {
            flow.iter().fold(0usize, |hash, &byte| hash.wrapping_mul(31).wrapping_add(byte.into())) >> 2
        }
        _ => 0,
    }
}

impl WaitDevice for Cable {
    fn wait(&mut self, wake: RawFd, timeout: Option<Duration>) -> io::Result<()> {
        let alarm = &self.plug.alarm;
        if alarm.prepare_sleep() {
            let slept = sys::poll_readable(&[alarm.fd(), wake], timeout);
            alarm.woke_up();
            return slept;
        }
        Ok(())
    }

    fn statistics(&mut self) -> Vec<(&'static str, &'static str, u64)> {
        vec![
            ("lost", "Frames for which the other side's queue had no room.", self.lost),
            ("no_frame", "Frames for which the pool had no room.", self.no_frame),
        ]
    }

    fn steering(&mut self) -> &mut dyn Steering {
        &mut self.plug.ports
    }
}

impl Steering for Ports {
    fn open_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((name(protocol), port));
        Ok(())
    }

    fn close_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(name(protocol), port));
        Ok(())
    }

    fn own_address(&mut self, _: IpAddr) -> io::Result<()> {
        Ok(())
    }

    fn disown_address(&mut self, _: IpAddr) -> io::Result<()> {
        Ok(())
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Echo => "echo",
    }
}
