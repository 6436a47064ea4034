//! Several NICs as one device with a link for each, for a stack that forwards: [`LinksOpener`] opens it, [`Links`] is it.
//! All frames are of one pool, registered with the kernel once and shared by a socket on each queue of each NIC, so that
//! a packet received on one link goes out by another as it is, without a copy: its frame goes from the RX ring of the one
//! to the TX ring of the other, comes back by that one's completion ring, and is lent to whichever fill ring lacks one.
//!
//! The links are the stack's as a whole (`QUEUE_WHOLE` of `bpf/steer.bpf.c`), but for the addresses that the kernel keeps
//! there. One thread drives them all; each socket's own work is [`Queue`]'s, and its part of the pool is
//! [`Share::of_each`].

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use bywash::device::{Capabilities, Device, Protocol, Steering, WaitDevice};
use bywash::limits::BURST_PACKETS;
use bywash::packet::{PacketBatch, PacketPool};

use crate::error::Error;
use crate::options::{FRAMES, KernelAddresses, QueueOptions};
use crate::program::{Attached, Steer};
use crate::queue::{Queue, Taken, check_place, poll, readable, shorter};
use crate::rings::Share;
use crate::socket::{self, Place};
use crate::steer::Whose;

/// Frames of the pool for each queue at least: a burst may be under way on each, which has a quarter of the pool.
const FRAMES_PER_QUEUE_MIN: u32 = 4 * BURST_PACKETS as u32;

/// What of a NIC is to be a link.
#[derive(Clone, Debug, Default)]
pub struct LinkOptions {
    /// Its RX queues, each once; empty: all that are in use. What comes in on others stays with the kernel.
    pub queues: Vec<u32>,
    /// Whose packets stay with the kernel, where they arrive on this link: what comes to them by another is the stack's. What
    /// the interface is given later is not among them. An address that the stack takes for its own
    /// ([`Steering::own_address`]) is the stack's all the same, as long as it has it.
    pub kernel_addresses: KernelAddresses,
}

/// A [`Links`] about to be opened on the thread that will drive it.
#[derive(Debug)]
pub struct LinksOpener {
    links: Vec<Chosen>,
    options: QueueOptions,
}

/// A link about to be opened.
struct Chosen {
    attached: Arc<Attached>,
    options: LinkOptions,
}

impl LinksOpener {
    /// Prepares a device whose links are these NICs, in this order, for [`LinksOpener::open`]. Whose the addresses are
    /// according to [`AttachOptions`](crate::AttachOptions) is of no meaning here.
    ///
    /// Of `options`, the frames are those of the whole device, at least 256 for each queue. All fill rings together have
    /// half of them at most and all TX rings a quarter, in equal parts; the rings' sizes are those of each queue.
    ///
    /// # Errors
    /// [`Error::NoLinks`], [`Error::QueueTwice`], [`Error::QueueOutOfRange`], [`Error::TooManyAddresses`],
    /// [`Error::NotPowerOfTwo`], [`Error::BadFrameCount`], [`Error::ModeConflict`].
    pub fn new(links: &[(&Steer, LinkOptions)], options: &QueueOptions) -> Result<Self, Error> {
        options.check()?;
        let (mut chosen, mut seen) = (Vec::with_capacity(links.len()), HashSet::new());
        for (steer, link) in links {
            let (attached, mut link) = (steer.inner.clone(), link.clone());
            if link.queues.is_empty() {
                link.queues = (0..attached.nic.rx_queues).collect();
            }
            for &queue in &link.queues {
                check_place(&attached, queue, options)?;
                if !seen.insert((attached.nic.ifindex, queue)) {
                    return Err(Error::QueueTwice { interface: attached.nic.name.clone(), queue });
                }
            }
            if let KernelAddresses::Listed(addresses) = &link.kernel_addresses {
                QueueOptions::check_addresses("of the kernel's", addresses)?;
            }
            chosen.push(Chosen { attached, options: link });
        }
        if chosen.is_empty() {
            return Err(Error::NoLinks);
        }
        let min = FRAMES_PER_QUEUE_MIN.saturating_mul(seen.len() as u32);
        if options.frames < min {
            return Err(Error::BadFrameCount { frames: options.frames, min, max: *FRAMES.end() });
        }
        Ok(Self { links: chosen, options: options.clone() })
    }

    /// Takes all queues: allocates the frames, binds the sockets, all in the same mode, fills the fill rings, and then
    /// lets the steering programs hand everything over that is not for the kernel's addresses.
    ///
    /// # Errors
    /// As [`QueueOpener::open`](crate::QueueOpener::open), about the first NIC with which it happens.
    pub fn open(self) -> Result<Links, Error> {
        let Self { links, options } = self;
        let places: Vec<Place<'_>> = links.iter().flat_map(Chosen::places).collect();
        let (memory, bound) = socket::bind(&places, &options)?;
        let share = Share::of_each(&options, bound.len() as u32);
        let mut bound = bound.into_iter();
        let mut open = |chosen: &Chosen| {
            let whose = Whose::Stacks(&chosen.options.kernel_addresses);
            let queues = chosen.options.queues.iter().zip(bound.by_ref()).map(|(&queue, bound)| {
                let taken = Taken { bound, memory: &memory, share };
                Queue::start(chosen.attached.clone(), queue, taken, &options, whose)
            });
            Ok(Link { queues: queues.collect::<Result<_, Error>>()?, receive_next: 0, transmit_next: 0 })
        };
        let links = links.iter().map(&mut open).collect::<Result<_, Error>>()?;
        Ok(Links { links, pool: memory.pool, fds: Vec::new() })
    }
}

impl Chosen {
    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let Attached { nic, mode, .. } = &*self.attached;
        self.options.queues.iter().map(move |&queue| Place { nic, attach: *mode, queue })
    }
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen")
            .field("interface", &self.attached.nic.name)
            .field("options", &self.options)
            .finish()
    }
}

/// Several NICs as one device. Belongs to one thread.
///
/// Closing it (dropping it) gives the links' traffic back to the kernel. Packets and slices of its pool that are still held
/// stay valid; the first NIC's first queue is given up with the last of them, because libxdp closes the socket that
/// registered the packet memory only with it.
///
/// Ports mean nothing here ([`Steering::open_port`] does nothing), and addresses only where the kernel has them as well:
/// the stack's own are the stack's on all links.
pub struct Links {
    links: Box<[Link]>,
    pool: PacketPool,
    /// Kept for [`WaitDevice::wait`].
    fds: Vec<libc::pollfd>,
}

/// A NIC.
struct Link {
    queues: Box<[Queue]>,
    /// The queue that is asked for packets first, the next time.
    receive_next: usize,
    /// The queue that transmits. The next one does when it is full, so that a flow's packets keep their order as long as
    /// the NIC keeps up.
    transmit_next: usize,
}

impl Links {
    /// The queues of a link: their modes, counters, interface, and whether it is up.
    ///
    /// # Panics
    /// When there is no such link.
    #[must_use]
    pub fn queues(&self, link: usize) -> &[Queue] {
        &self.links[link].queues
    }

    fn all_queues(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.links.iter_mut().flat_map(|link| link.queues.iter_mut())
    }
}

impl Device for Links {
    fn capabilities(&self) -> &Capabilities {
        self.capabilities_of(0)
    }

    fn pool(&self) -> &PacketPool {
        &self.pool
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        self.receive_on(0, batch, budget)
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        self.transmit_on(0, batch)
    }

    fn transmit_room(&mut self) -> usize {
        self.transmit_room_on(0)
    }

    fn links(&self) -> usize {
        self.links.len()
    }

    fn capabilities_of(&self, link: usize) -> &Capabilities {
        self.links[link].queues[0].capabilities()
    }

    fn receive_on(&mut self, link: usize, batch: &mut PacketBatch, budget: usize) -> usize {
        let Link { queues, receive_next, .. } = &mut self.links[link];
        let first = *receive_next;
        *receive_next = (first + 1) % queues.len();
        let (before, after) = queues.split_at_mut(first);
        let mut received = 0;
        for queue in after.iter_mut().chain(before) {
            received += queue.receive(batch, budget - received);
        }
        received
    }

    fn transmit_on(&mut self, link: usize, batch: &mut PacketBatch) -> usize {
        let Link { queues, transmit_next, .. } = &mut self.links[link];
        let mut taken = 0;
        for _ in 0..queues.len() {
            taken += queues[*transmit_next].transmit(batch);
            if batch.is_empty() {
                break;
            }
            *transmit_next = (*transmit_next + 1) % queues.len();
        }
        taken
    }

    fn transmit_room_on(&mut self, link: usize) -> usize {
        self.links[link].queues.iter_mut().map(Queue::transmit_room).sum()
    }
}

impl WaitDevice for Links {
    fn wait(&mut self, wake: RawFd, timeout: Option<Duration>) -> io::Result<()> {
        // All of them first: what one has transmitted another may lack to receive into.
        self.all_queues().for_each(Queue::reap);
        let most = self.all_queues().map(Queue::before_sleep).fold(None, shorter);
        if most == Some(Duration::ZERO) {
            return Ok(());
        }
        let mut fds = core::mem::take(&mut self.fds);
        fds.clear();
        fds.push(readable(wake));
        fds.extend(self.all_queues().flat_map(Queue::sources));
        let slept = poll(&mut fds, shorter(most, timeout));
        let sources = fds[1..].as_chunks::<3>().0;
        let ended = slept
            .and_then(|()| self.all_queues().zip(sources).try_for_each(|(queue, of)| queue.after_sleep(of)));
        self.fds = fds;
        ended
    }

    /// Each figure is the sum over all queues of all links; [`Links::queues`] has those of each.
    fn statistics(&mut self) -> Vec<(&'static str, &'static str, u64)> {
        let mut sums: Vec<(&'static str, &'static str, u64)> = Vec::new();
        for queue in self.all_queues() {
            let figures = queue.statistics();
            if sums.is_empty() {
                sums = figures;
            } else {
                sums.iter_mut().zip(figures).for_each(|(sum, figure)| sum.2 += figure.2);
            }
        }
        sums
    }

    fn steering(&mut self) -> &mut dyn Steering {
        self
    }
}

impl Steering for Links {
    fn open_port(&mut self, _protocol: Protocol, _port: u16) -> io::Result<()> {
        Ok(())
    }

    fn close_port(&mut self, _protocol: Protocol, _port: u16) -> io::Result<()> {
        Ok(())
    }

    fn own_address(&mut self, addr: IpAddr) -> io::Result<()> {
        self.all_queues().try_for_each(|queue| queue.steering().own_address(addr))
    }

    fn disown_address(&mut self, addr: IpAddr) -> io::Result<()> {
        self.all_queues().try_for_each(|queue| queue.steering().disown_address(addr))
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.links.iter().flat_map(|link| &link.queues)).finish()
    }
}
