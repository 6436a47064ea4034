//! The four rings of a bound socket, accessed in one of two ways: in mappings of this crate's own (`ring.rs`), or, where the
//! kernel does not map the rings of a bound socket a second time (before 6.4), through xsk-rs, one call into libxdp's C a
//! descriptor. What goes in and out is the same; only through xsk-rs must a packet begin at its frame's headroom.

use std::os::fd::{AsRawFd, RawFd};

use bywash::limits::BURST_PACKETS;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use crate::options::QueueOptions;
use crate::ring::{Desc, Mapped};
use crate::socket::RingHandles;
use crate::umem::Memory;

/// A socket's rings.
pub(crate) struct Access {
    /// Holds the socket, in either case.
    library: Library,
    mapped: Option<Mapped>,
}

/// What access through xsk-rs takes.
struct Library {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: Umem,
    frame_size: u64,
    /// The descriptor of each frame, by its index: xsk-rs makes them once and lets no address be set later. Empty when it
    /// is not used.
    frames: Box<[FrameDesc]>,
    scratch: Box<[FrameDesc; BURST_PACKETS]>,
}

impl Access {
    /// To the rings of a socket just bound over `memory`.
    pub fn new(handles: RingHandles, memory: &Memory, options: &QueueOptions) -> Self {
        let fd = handles.1.fd().as_raw_fd();
        let mapped = match Mapped::of(fd, options.rx_ring, options.tx_ring) {
            Ok(mapped) => Some(mapped),
            Err(error) => {
                tracing::debug!(%error, "the rings cannot be mapped again: accessed through libxdp's calls");
                None
            }
        };
        #[cfg(feature = "testing")]
        let mapped = mapped.filter(|_| !crate::testing::library_rings());
        let (tx, rx, fill, completion) = handles;
        let frames = if mapped.is_some() { Box::default() } else { memory.frames.clone() };
        let umem = memory.umem.clone();
        let scratch = Box::new([FrameDesc::default(); BURST_PACKETS]);
        let frame_size = u64::from(options.frame_size);
        Self { library: Library { rx, tx, fill, completion, umem, frame_size, frames, scratch }, mapped }
    }

    /// Changes between the two ways; without a mapping libxdp's, which must have been the way from the start then.
    #[cfg(feature = "testing")]
    pub fn set_mapped(&mut self, mapped: Option<Mapped>) {
        self.mapped = mapped;
    }

    /// The socket.
    pub fn fd(&self) -> RawFd {
        self.library.rx.fd().as_raw_fd()
    }

    /// Whether what is sent may begin anywhere in its frame, or only at the headroom.
    pub fn sends_from_anywhere(&self) -> bool {
        self.mapped.is_some()
    }

    /// Takes received descriptors; returns how many.
    pub fn receive(&mut self, out: &mut [Desc]) -> usize {
        if let Some(mapped) = &mut self.mapped {
            return mapped.rx.consume(out);
        }
        let Library { rx, scratch, .. } = &mut self.library;
        let max = out.len().min(scratch.len());
        // SAFETY: the frames named are only used after `PacketPool::reclaim` found that they were lent.
        let count = unsafe { rx.consume(&mut scratch[..max]) };
        for (out, desc) in out.iter_mut().zip(&scratch[..count]) {
            let (addr, len) = (desc.addr() as u64, desc.lengths().data() as u32);
            *out = Desc { addr, len, options: desc.options() };
        }
        count
    }

    /// Frames the fill ring has room for.
    pub fn fill_room(&mut self) -> u32 {
        match &mut self.mapped {
            Some(mapped) => mapped.fill.room(),
            None => self.library.fill.nb_free_exact(),
        }
    }

    /// Puts frames into the fill ring, by their addresses; all were just lent to it.
    ///
    /// # Panics
    /// When there are more than it has room for, or than a burst has.
    pub fn fill(&mut self, addrs: &[u64]) {
        if let Some(mapped) = &mut self.mapped {
            return mapped.fill.produce(addrs);
        }
        let Library { fill, scratch, frames, frame_size, .. } = &mut self.library;
        for (desc, addr) in scratch.iter_mut().zip(addrs) {
            *desc = frames[(addr / *frame_size) as usize];
        }
        // SAFETY: these frames were just lent to this ring, so that nobody else uses them.
        let put = unsafe { fill.produce(&scratch[..addrs.len()]) };
        assert_eq!(put, addrs.len(), "the fill ring had room");
    }

    /// Whether the driver wants to be told of what is in the fill ring.
    pub fn fill_needs_wakeup(&self) -> bool {
        match &self.mapped {
            Some(mapped) => mapped.fill.needs_wakeup(),
            None => self.library.fill.needs_wakeup(),
        }
    }

    /// Descriptors the TX ring has room for.
    pub fn tx_room(&mut self) -> usize {
        match &mut self.mapped {
            Some(mapped) => mapped.tx.room() as usize,
            None => self.library.tx.nb_free_exact() as usize,
        }
    }

    /// Puts descriptors into the TX ring; their frames were just lent to it.
    ///
    /// # Panics
    /// When there are more than it has room for, or than a burst has.
    pub fn send(&mut self, descs: &[Desc]) {
        if let Some(mapped) = &mut self.mapped {
            return mapped.tx.produce(descs);
        }
        let Library { tx, scratch, frames, frame_size, umem, .. } = &mut self.library;
        for (place, desc) in scratch.iter_mut().zip(descs) {
            let mut named = frames[(desc.addr / *frame_size) as usize];
            debug_assert_eq!(named.addr() as u64, desc.addr, "the packet begins at its frame's headroom");
            // SAFETY: the frame was just lent and is not in the ring yet, so that nobody else sees its bytes; the cursor
            // only notes the length in the descriptor.
            unsafe { umem.data_mut(&mut named) }.cursor().set_pos(desc.len as usize);
            named.set_options(desc.options);
            *place = named;
        }
        // SAFETY: these frames were just lent to this ring, so that nobody else uses them.
        let put = unsafe { tx.produce(&scratch[..descs.len()]) };
        assert_eq!(put, descs.len(), "the TX ring had room");
    }

    /// Whether the kernel wants to be told of what is in the TX ring.
    pub fn tx_needs_wakeup(&self) -> bool {
        match &self.mapped {
            Some(mapped) => mapped.tx.needs_wakeup(),
            None => self.library.tx.needs_wakeup(),
        }
    }

    /// Takes addresses of transmitted frames; returns how many.
    pub fn complete(&mut self, out: &mut [u64]) -> usize {
        if let Some(mapped) = &mut self.mapped {
            return mapped.completion.consume(out);
        }
        let Library { completion, scratch, .. } = &mut self.library;
        let max = out.len().min(scratch.len());
        // SAFETY: the frames named are only used after `PacketPool::reclaim` found that they were lent.
        let count = unsafe { completion.consume(&mut scratch[..max]) };
        for (out, desc) in out.iter_mut().zip(&scratch[..count]) {
            *out = desc.addr() as u64;
        }
        count
    }
}
