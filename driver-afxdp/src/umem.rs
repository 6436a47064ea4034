//! A queue's packet memory: one UMEM registered with the kernel, seen as the [`PacketPool`] whose frames the rings and
//! the stack hand to each other.

use core::num::NonZeroU32;
use core::ptr::NonNull;
use std::io;

use bywash::packet::{PacketPool, PoolLayout, Region};
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use crate::error::Error;
use crate::options::{HugePages, QueueOptions, XDP_HEADROOM};
use crate::privileges::{self, Missing};

/// Size of a huge page on the machines there are; a pool that does not fill them exactly uses small ones.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// A UMEM and what is needed to name its frames to the rings.
pub(crate) struct Memory {
    pub umem: Umem,
    pub pool: PacketPool,
    /// The descriptor of each frame, by its index: xsk-rs makes them once and lets no address be set later.
    pub frames: Box<[FrameDesc]>,
    pub huge_pages: bool,
}

impl Memory {
    /// Allocates and registers the frames.
    pub fn new(options: &QueueOptions) -> Result<Self, Error> {
        let huge = match options.huge_pages {
            HugePages::Never => None,
            HugePages::Auto if !options.bytes().is_multiple_of(HUGE_PAGE_BYTES) => None,
            HugePages::Auto | HugePages::Require => Some(create(options, true)),
        };
        let ((umem, frames), huge_pages) = match huge {
            Some(Ok(umem)) => (umem, true),
            Some(Err(error)) if options.huge_pages == HugePages::Require => return Err(error),
            Some(Err(_)) | None => (create(options, false)?, false),
        };
        let region = UmemRegion::new(&umem, &frames, options);
        let layout =
            PoolLayout { frames: options.frames, frame_size: options.frame_size, headroom: XDP_HEADROOM };
        // SAFETY: the UMEM was just allocated, and apart from the kernel, which has the frames that were lent, only the
        // pool reads or writes it: this crate uses xsk-rs's accessors only to note lengths of frames that are lent.
        let pool = unsafe { PacketPool::from_region(Box::new(region), layout) };
        Ok(Self { umem, pool, frames: frames.into_boxed_slice(), huge_pages })
    }
}

fn create(options: &QueueOptions, huge_pages: bool) -> Result<(Umem, Vec<FrameDesc>), Error> {
    let bytes = options.bytes();
    let impossible = |what: String| Error::Memory { bytes, huge_pages, source: io::Error::other(what) };
    let queue_size = |size| QueueSize::new(size).map_err(|error| impossible(error.to_string()));
    let config = UmemConfig::builder()
        .frame_size(FrameSize::new(options.frame_size).map_err(|error| impossible(error.to_string()))?)
        .fill_queue_size(queue_size(options.rx_ring)?)
        // One completion for each descriptor of the TX ring: the kernel sends nothing that it could not complete.
        .comp_queue_size(queue_size(options.tx_ring)?)
        .build()
        .map_err(|error| impossible(error.to_string()))?;
    let frames = NonZeroU32::new(options.frames).ok_or_else(|| impossible("no frames".to_owned()))?;
    Umem::new(config, frames, huge_pages).map_err(|error| refusal(os_error(&error), bytes, huge_pages))
}

/// What the kernel's answer to a new AF_XDP socket and its UMEM means.
fn refusal(source: io::Error, bytes: u64, huge_pages: bool) -> Error {
    match source.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT) => Error::NoAfXdp,
        Some(libc::EPERM | libc::EACCES) => {
            Error::NoPrivilege { what: "open an AF_XDP socket", missing: Missing::of(&[privileges::NET_RAW]) }
        }
        Some(libc::ENOBUFS) => Error::LockedMemoryLimit { bytes, limit: privileges::locked_memory_limit() },
        _ => Error::Memory { bytes, huge_pages, source },
    }
}

/// The OS error behind one of xsk-rs's.
pub(crate) fn os_error(error: &dyn std::error::Error) -> io::Error {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match source.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

/// The UMEM's memory; holds the UMEM, so that the memory stays until the pool is gone.
struct UmemRegion {
    base: NonNull<u8>,
    len: usize,
    _umem: Umem,
}

impl UmemRegion {
    fn new(umem: &Umem, frames: &[FrameDesc], options: &QueueOptions) -> Self {
        // SAFETY: the descriptor is of this UMEM, and nobody writes the frame yet.
        let data = unsafe { umem.data(&frames[0]) }.contents().as_ptr();
        // The slice is empty and starts at the first frame's packet. The memory itself is a mapping made by a syscall,
        // no allocation of Rust's, so that its address may be taken as exposed.
        let base = core::ptr::with_exposed_provenance_mut::<u8>(data.expose_provenance() - frames[0].addr());
        let base = NonNull::new(base).expect("a mapping is not at address 0");
        Self { base, len: options.bytes() as usize, _umem: umem.clone() }
    }
}

// SAFETY: the mapping has `frames * frame_size` bytes from `base`, does not move, and lives as long as the UMEM held
// here. Nothing else touches it: see `Memory::new`.
unsafe impl Region for UmemRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_refusals_are_told_apart() {
        let of = |code| refusal(io::Error::from_raw_os_error(code), 4096, false);
        assert!(matches!(of(libc::EAFNOSUPPORT), Error::NoAfXdp));
        assert!(matches!(of(libc::EPERM), Error::NoPrivilege { .. }));
        assert!(matches!(of(libc::ENOBUFS), Error::LockedMemoryLimit { bytes: 4096, .. }));
        assert!(matches!(of(libc::ENOMEM), Error::Memory { bytes: 4096, huge_pages: false, .. }));
    }
}
