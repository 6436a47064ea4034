//! For the benchmark of ring accesses: one bound socket on an idle interface, its rings accessed in either of the two ways
//! of `access.rs`, while this file plays the kernel's part in them. For tests: a kernel that is broken ([`forge`]).

use std::hint::black_box;
use std::io;
use std::os::fd::RawFd;

use bywash::device::Device;
use bywash::limits::BURST_PACKETS;
use bywash::packet::PacketBatch;

use crate::access::Access;
use crate::error::Error;
use crate::nic::{AttachMode, Nic};
use crate::options::{QueueOptions, XDP_HEADROOM};
use crate::program::AttachOptions;
use crate::queue::Queue;
use crate::ring::{Desc, KernelSides, Mapped};
use crate::socket::{self, Place};

/// A way to the rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rival {
    /// Through xsk-rs, one call a packet into the TX ring, bursts elsewhere.
    CallsPerPacket,
    /// Through xsk-rs, bursts everywhere.
    CallsPerBurst,
    /// In this crate's mappings, bursts everywhere.
    Inline,
}

/// What goes through the rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// A packet from the RX ring, and a frame into the fill ring for it.
    Receive,
    /// A packet into the TX ring, and its frame out of the completion ring.
    Send,
}

/// A bound socket, both sides of whose rings are here.
pub struct RingBed {
    access: Access,
    options: QueueOptions,
    descs: [Desc; BURST_PACKETS],
    addrs: [u64; BURST_PACKETS],
}

impl RingBed {
    /// On `queue` of `interface`, of the calling thread's namespace. No program sends its packets to the socket.
    ///
    /// # Errors
    /// As [`crate::QueueOpener::open`].
    pub fn open(interface: &str, queue: u32) -> Result<Self, Error> {
        let options = QueueOptions { frames: 512, rx_ring: 256, tx_ring: 256, ..QueueOptions::default() };
        let nic = Nic::open(interface)?;
        let place = Place { nic: &nic, attach: AttachMode::Native, queue };
        let (memory, mut bound) = socket::bind(&[place], &options)?;
        crate::testing::use_library_rings(true);
        let access = Access::new(bound.remove(0).handles, &memory, &options);
        crate::testing::use_library_rings(false);
        let frame_size = u64::from(options.frame_size);
        let addrs = core::array::from_fn(|i| i as u64 * frame_size + u64::from(XDP_HEADROOM));
        let descs = addrs.map(|addr| Desc { addr, len: 60, options: 0 });
        Ok(Self { access, options, descs, addrs })
    }

    /// Takes `packets` through the rings in bursts of `burst` (at most [`BURST_PACKETS`]), playing the kernel's
    /// part.
    ///
    /// # Errors
    /// `EBUSY` where the kernel maps no rings of a bound socket.
    ///
    /// # Panics
    /// When an entry does not arrive: nothing was measured then.
    pub fn run(&mut self, rival: Rival, load: Load, packets: u64, burst: usize) -> io::Result<()> {
        let (fd, options) = (self.access.fd(), &self.options);
        let mapped = || Mapped::of(fd, options.rx_ring, options.tx_ring);
        let mut kernel = mapped()?.into_kernel_sides();
        let positions = kernel.positions();
        if rival == Rival::Inline {
            self.access.set_mapped(Some(mapped()?));
        }
        let each = if rival == Rival::CallsPerPacket { 1 } else { burst };
        let mut left = packets;
        while left > 0 {
            let count = burst.min(left as usize).min(BURST_PACKETS);
            match load {
                Load::Receive => self.receive(&mut kernel, count),
                Load::Send => self.send(&mut kernel, count, each),
            }
            left -= count as u64;
        }
        if rival == Rival::Inline {
            // libxdp has its own copies of the positions: to it nothing happened.
            self.access.set_mapped(None);
            kernel.restore(positions);
        }
        Ok(())
    }

    /// Sends `packets` of 60 bytes for real, in bursts of `burst`. Not after [`RingBed::run`], of which the kernel knows
    /// nothing.
    pub fn transmit(&mut self, packets: u64, burst: usize) {
        let (mut sent, mut completed) = (0, 0);
        while completed < packets {
            let count = burst.min((packets - sent) as usize).min(self.access.tx_room());
            self.access.send(&self.descs[..count]);
            sent += count as u64;
            if self.access.tx_needs_wakeup() {
                push(self.access.fd());
            }
            completed += self.access.complete(&mut [0; BURST_PACKETS]) as u64;
        }
    }

    fn receive(&mut self, kernel: &mut KernelSides, count: usize) {
        kernel.rx.produce(&self.descs[..count]);
        let mut received = [Desc::default(); BURST_PACKETS];
        assert_eq!(self.access.receive(&mut received[..count]), count);
        assert!(self.access.fill_room() as usize >= count);
        let mut addrs = [0; BURST_PACKETS];
        for (addr, desc) in addrs.iter_mut().zip(&received[..count]) {
            *addr = desc.addr;
        }
        self.access.fill(&addrs[..count]);
        black_box(self.access.fill_needs_wakeup());
        assert_eq!(kernel.fill.consume(&mut addrs[..count]), count);
    }

    fn send(&mut self, kernel: &mut KernelSides, count: usize, each: usize) {
        assert!(self.access.tx_room() >= count);
        for descs in self.descs[..count].chunks(each) {
            self.access.send(descs);
        }
        black_box(self.access.tx_needs_wakeup());
        let mut sent = [Desc::default(); BURST_PACKETS];
        assert_eq!(kernel.tx.consume(&mut sent[..count]), count);
        kernel.completion.produce(&self.addrs[..count]);
        let mut addrs = [0; BURST_PACKETS];
        assert_eq!(self.access.complete(&mut addrs[..count]), count);
    }
}

/// A queue between whose rings and a stack nothing else is: the driver's own work.
pub struct QueueBed {
    queue: Queue,
    kernel: KernelSides,
    batch: PacketBatch,
}

impl QueueBed {
    /// Queue 0 of `interface`, of the calling thread's namespace, to which nothing is steered.
    ///
    /// # Errors
    /// As [`crate::QueueOpener::open`].
    ///
    /// # Panics
    /// Where the kernel maps no rings of a bound socket.
    pub fn open(interface: &str) -> Result<Self, Error> {
        let options = QueueOptions { frames: 512, rx_ring: 256, tx_ring: 256, ..QueueOptions::default() };
        let queue = Nic::open(interface)?.attach(&AttachOptions::default())?.queue(0, &options)?.open()?;
        let mapped = Mapped::of(queue.socket(), options.rx_ring, options.tx_ring).expect("rings to map");
        let kernel = mapped.into_kernel_sides();
        kernel.ask_for_nothing();
        Ok(Self { queue, kernel, batch: PacketBatch::new() })
    }

    /// Receives `packets` of 60 bytes and sends them again, in bursts of `burst` (at most [`BURST_PACKETS`]).
    ///
    /// # Panics
    /// When one does not come through.
    pub fn reflect(&mut self, packets: u64, burst: usize) {
        let Self { queue, kernel, batch } = self;
        let mut left = packets;
        while left > 0 {
            let count = burst.min(left as usize).min(BURST_PACKETS);
            let mut addrs = [0; BURST_PACKETS];
            assert_eq!(kernel.fill.consume(&mut addrs[..count]), count);
            let mut descs = addrs.map(|addr| Desc { addr, len: 60, options: 0 });
            kernel.rx.produce(&descs[..count]);
            assert_eq!(queue.receive(batch, BURST_PACKETS), count);
            assert_eq!(queue.transmit(batch), count);
            assert_eq!(kernel.tx.consume(&mut descs[..count]), count);
            kernel.completion.produce(&descs.map(|desc| desc.addr)[..count]);
            left -= count as u64;
        }
    }
}

/// Puts entries of nobody's into the RX ring of `queue`, opened with `options` (address, length and options of each) and completion ring (addresses), as
/// a kernel would that is broken. The real one's packets do not arrive any more afterwards.
///
/// # Errors
/// `EBUSY` where the kernel maps no rings of a bound socket.
///
/// # Panics
/// When they do not fit the rings.
pub fn forge(
    queue: &Queue,
    options: &QueueOptions,
    received: &[(u64, u32, u32)],
    completed: &[u64],
) -> io::Result<()> {
    let mut kernel = Mapped::of(queue.socket(), options.rx_ring, options.tx_ring)?.into_kernel_sides();
    let descs: Vec<_> = received.iter().map(|&(addr, len, options)| Desc { addr, len, options }).collect();
    kernel.rx.produce(&descs);
    kernel.completion.produce(completed);
    Ok(())
}

/// Where the bytes began that `queue`, opened with `options`, received last and transmitted last, counted from the first
/// frame of its packet memory.
///
/// # Errors
/// `EBUSY` where the kernel maps no rings of a bound socket.
pub fn last_addresses(queue: &Queue, options: &QueueOptions) -> io::Result<[u64; 2]> {
    let Mapped { rx, tx, .. } = Mapped::of(queue.socket(), options.rx_ring, options.tx_ring)?;
    Ok([rx.last().addr, tx.last().addr])
}

/// Lets the kernel transmit; what it answers does not matter, completions say what it did.
fn push(fd: RawFd) {
    // SAFETY: nothing is sent from: the buffer is null and its length 0.
    unsafe { libc::sendto(fd, core::ptr::null(), 0, libc::MSG_DONTWAIT, core::ptr::null(), 0) };
}
