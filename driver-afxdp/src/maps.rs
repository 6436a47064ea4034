//! The steering program's maps as this side sees them: the mirror of `bpf/steer.bpf.c`, and the check that a program
//! another process loaded has the same.

use core::ffi::{CStr, c_void};
use core::net::IpAddr;
use core::sync::atomic::{AtomicU8, Ordering};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use bywash::device::Protocol;

use crate::bpf::{self, Object, Pod};
use crate::ports::Bits;

/// Version of everything in `bpf/steer.bpf.c` that two processes share; raised by any change of its maps' meaning.
pub(crate) const ABI_VERSION: u32 = 3;
/// First half of the entry in `bw_abi`: "bywa".
const ABI_MAGIC: u32 = 0x6279_7761;

/// The program's name, by which another process knows it.
pub(crate) const PROGRAM: &CStr = c"bywash_steer";

/// `QUEUE_*`: the queue is in use.
pub(crate) const QUEUE_ACTIVE: u32 = 1;
/// `QUEUE_*`: the kernel has addresses here as well; copies of ARP and neighbour discovery.
pub(crate) const QUEUE_SHARED: u32 = 2;
/// `QUEUE_*`: open ports count at every unicast destination.
pub(crate) const QUEUE_ANY_ADDRESS: u32 = 4;

/// `QUEUE_*`: everything is the stack's, but for what concerns the kernel's addresses; with [`QUEUE_SHARED`] there are such.
pub(crate) const QUEUE_WHOLE: u32 = 8;

/// `ADDRESS_*`: the stack's alone.
pub(crate) const ADDRESS_OWNED: u32 = 1;
/// `ADDRESS_*`: the kernel's as well; only open ports are the stack's.
pub(crate) const ADDRESS_SHARED: u32 = 2;

/// `ADDRESS_*`: the kernel's alone, on a queue whose other packets are the stack's.
pub(crate) const ADDRESS_KERNEL: u32 = 3;

/// Bytes of one bitmap of 65,536 ports.
const BITMAP_BYTES: usize = 8192;
/// Bytes of a queue's port bitmaps: TCP's, UDP's, then the identifiers of echo requests.
const PORT_BYTES: usize = 3 * BITMAP_BYTES;
/// `COPY_BYTES_MAX`: longest packet that is copied.
pub(crate) const COPY_BYTES_MAX: usize = 512;
/// Room for copies not yet read, per queue: about 120 of them; further ones are counted as failed and only go to the
/// kernel. The least that is whole pages on machines with 64 KiB pages.
pub(crate) const COPY_RING_BYTES: u32 = 64 * 1024;
/// Addresses of one queue, owned and shared; more is an error to the caller. Above the stack's own bound
/// (`limits::INTERFACE_ADDRESSES`) because an interface shared with the kernel can have more.
pub const ADDRESSES_PER_QUEUE: u32 = 64;

/// Key of `bw_addrs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct AddressKey {
    pub queue: u32,
    bytes: [u8; 16],
}
// SAFETY: 20 bytes of integers without padding.
unsafe impl Pod for AddressKey {}

impl AddressKey {
    pub fn new(queue: u32, addr: IpAddr) -> Self {
        let addr = match addr {
            IpAddr::V4(addr) => addr.to_ipv6_mapped(),
            IpAddr::V6(addr) => addr,
        };
        Self { queue, bytes: addr.octets() }
    }
}

/// Number of a queue's counters.
const COUNTERS: usize = 16;

/// Value of `bw_counters` on one CPU.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct CounterValues([u64; COUNTERS]);
// SAFETY: an array of integers.
unsafe impl Pod for CounterValues {}

/// The program's verdicts, in the order of `enum verdict`: name and help of each one's counter.
pub(crate) const VERDICTS: [(&str, &str); 13] = [
    ("xdp_passed", "Packets on the queue that the steering program left to the kernel."),
    ("xdp_passed_truncated", "Packets left to the kernel because a header was cut short."),
    ("xdp_passed_vlan", "Packets left to the kernel because they carry a VLAN tag."),
    ("xdp_passed_fragment", "Fragments left to the kernel because it shares their destination address."),
    ("xdp_no_socket", "Packets left to the kernel because no socket was bound to the queue."),
    ("xdp_copied", "Packets of which the stack got a copy (ARP, neighbour discovery)."),
    (
        "xdp_copy_failed",
        "Packets of which the stack should have got a copy, but the ring of copies was full or they were too long.",
    ),
    ("xdp_arp", "ARP packets steered to the stack."),
    ("xdp_neighbor_discovery", "Neighbour solicitations steered to the stack."),
    ("xdp_tcp", "TCP packets steered to the stack."),
    ("xdp_udp", "UDP packets steered to the stack."),
    ("xdp_icmp", "ICMP packets steered to the stack."),
    ("xdp_other", "Packets of other protocols (IPv6 extension headers included) steered to the stack."),
];

/// All maps of a loaded program.
pub(crate) struct Maps {
    pub xsks: OwnedFd,
    pub queues: OwnedFd,
    pub addrs: OwnedFd,
    pub copies: OwnedFd,
    pub counters: OwnedFd,
    pub ports: PortMap,
    abi: OwnedFd,
    /// How many queues the maps have room for.
    pub queue_count: u32,
}

/// Each map: its name, type, key and value size.
const SHAPES: [(&CStr, u32, usize, usize); 7] = [
    (c"bw_xsks", libbpf_sys::BPF_MAP_TYPE_XSKMAP, 4, 4),
    (c"bw_queues", libbpf_sys::BPF_MAP_TYPE_ARRAY, 4, 4),
    (c"bw_addrs", libbpf_sys::BPF_MAP_TYPE_HASH, size_of::<AddressKey>(), 4),
    (c"bw_copies", libbpf_sys::BPF_MAP_TYPE_ARRAY_OF_MAPS, 4, 4),
    (c"bw_counters", libbpf_sys::BPF_MAP_TYPE_PERCPU_ARRAY, 4, size_of::<CounterValues>()),
    (c"bw_ports", libbpf_sys::BPF_MAP_TYPE_ARRAY, 4, PORT_BYTES),
    (c"bw_abi", libbpf_sys::BPF_MAP_TYPE_ARRAY, 4, 8),
];

impl Maps {
    /// Sizes the maps of an object that is about to be loaded for `queues` queues.
    pub fn size(object: &Object, queues: u32) -> io::Result<()> {
        for name in [c"bw_xsks", c"bw_queues", c"bw_copies", c"bw_counters", c"bw_ports"] {
            object.set_max_entries(name, queues)?;
        }
        object.set_max_entries(c"bw_addrs", queues.saturating_mul(ADDRESSES_PER_QUEUE))
    }

    /// The maps of an object that was just loaded with `program`; marks them with the version.
    pub fn of(object: &Object, program: BorrowedFd<'_>) -> io::Result<Self> {
        let mut fds = Vec::new();
        for (name, ..) in SHAPES {
            fds.push(object.map_fd(name)?);
        }
        let maps = Self::check(fds)?.map_err(io::Error::other)?;
        bpf::bind_map(program, maps.abi.as_fd())?;
        bpf::update(maps.abi.as_fd(), &0u32, &(u64::from(ABI_MAGIC) << 32 | u64::from(ABI_VERSION)))?;
        Ok(maps)
    }

    /// The maps of a program that another process loaded; the inner error says in which way they are not like ours.
    pub fn join(ids: &[u32]) -> io::Result<Result<Self, String>> {
        let mut found: [Option<OwnedFd>; SHAPES.len()] = Default::default();
        for &id in ids {
            let fd = bpf::map_by_id(id)?;
            let name = bpf::map_info(fd.as_fd())?.name;
            if let Some(i) = SHAPES.iter().position(|(shape, ..)| shape.to_bytes() == name.as_bytes()) {
                found[i] = Some(fd);
            }
        }
        let mut fds = Vec::new();
        for (fd, (name, ..)) in found.into_iter().zip(SHAPES) {
            let Some(fd) = fd else { return Ok(Err(format!("it has no map {}", name.to_string_lossy()))) };
            fds.push(fd);
        }
        let maps = match Self::check(fds)? {
            Ok(maps) => maps,
            Err(difference) => return Ok(Err(difference)),
        };
        let abi: u64 = bpf::lookup(maps.abi.as_fd(), &0u32)?;
        if (abi >> 32) as u32 != ABI_MAGIC || abi as u32 != ABI_VERSION {
            return Ok(Err(format!("its maps are of version {}, not {ABI_VERSION}", abi as u32)));
        }
        Ok(Ok(maps))
    }

    /// Takes descriptors in the order of `SHAPES` after comparing them with it.
    fn check(fds: Vec<OwnedFd>) -> io::Result<Result<Self, String>> {
        let mut queue_count = u32::MAX;
        for (fd, (name, kind, key, value)) in fds.iter().zip(SHAPES) {
            let info = bpf::map_info(fd.as_fd())?;
            if (info.kind, info.key_size as usize, info.value_size as usize) != (kind, key, value) {
                return Ok(Err(format!("its map {} has another shape", name.to_string_lossy())));
            }
            if name != c"bw_addrs" && name != c"bw_abi" {
                queue_count = queue_count.min(info.max_entries);
            }
        }
        let Ok([xsks, queues, addrs, copies, counters, ports, abi]) = <[OwnedFd; 7]>::try_from(fds) else {
            return Ok(Err("it lacks maps".to_owned()));
        };
        let ports = PortMap::new(ports, queue_count)?;
        Ok(Ok(Self { xsks, queues, addrs, copies, counters, ports, abi, queue_count }))
    }

    /// A queue's counters, summed over the CPUs, in the order of [`VERDICTS`].
    pub fn counts(&self, queue: u32) -> io::Result<[u64; VERDICTS.len()]> {
        let values: Vec<CounterValues> = bpf::lookup_per_cpu(self.counters.as_fd(), &queue)?;
        Ok(core::array::from_fn(|i| values.iter().map(|cpu| cpu.0[i]).sum()))
    }
}

/// The bitmaps of open ports, mapped into this process.
pub(crate) struct PortMap {
    base: ptr::NonNull<AtomicU8>,
    queues: u32,
    _fd: OwnedFd,
}

// SAFETY: the mapping is only reached through atomics, and unmapped when nobody has the value any more.
unsafe impl Send for PortMap {}
// SAFETY: as above.
unsafe impl Sync for PortMap {}

impl PortMap {
    fn new(fd: OwnedFd, queues: u32) -> io::Result<Self> {
        let (len, access) = (queues as usize * PORT_BYTES, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new shared mapping of the map's whole array; the kernel refuses a wrong length.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            ptr::NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { base, queues, _fd: fd })
    }

    fn byte(&self, queue: u32, index: usize) -> &AtomicU8 {
        assert!(queue < self.queues && index < PORT_BYTES, "a queue and a port of this map");
        // SAFETY: the mapping has `queues * PORT_BYTES` bytes and lives as long as `self`; an `AtomicU8` is one byte.
        unsafe { self.base.add(queue as usize * PORT_BYTES + index).as_ref() }
    }

    /// Closes all ports of a queue.
    pub fn clear(&self, queue: u32) {
        (0..PORT_BYTES).for_each(|index| self.byte(queue, index).store(0, Ordering::Relaxed));
    }
}

impl Bits for PortMap {
    /// Opens or closes a port.
    fn set(&self, queue: u32, protocol: Protocol, port: u16, open: bool) {
        let bitmap = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Echo => 2,
        };
        let index = bitmap * BITMAP_BYTES + usize::from(port >> 3);
        let bit = 1 << (port & 7);
        // Relaxed: a port opens some time after the call, and nothing else is ordered by it.
        if open {
            self.byte(queue, index).fetch_or(bit, Ordering::Relaxed);
        } else {
            self.byte(queue, index).fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

impl Drop for PortMap {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length and unmapped only here.
        unsafe { libc::munmap(self.base.as_ptr().cast::<c_void>(), self.queues as usize * PORT_BYTES) };
    }
}

/// Removes every address of `queue` from the map.
pub(crate) fn clear_addresses(maps: &Maps, queue: u32) -> io::Result<()> {
    let mut stale = Vec::new();
    let mut key: Option<AddressKey> = None;
    // Another process that changes the table can make the walk start again, so that only a bound ends it surely.
    for _ in 0..maps.queue_count.saturating_mul(ADDRESSES_PER_QUEUE).saturating_mul(2) {
        key = bpf::next_key(maps.addrs.as_fd(), key.as_ref())?;
        match key {
            Some(key) if key.queue == queue => stale.push(key),
            Some(_) => {}
            None => break,
        }
    }
    stale.iter().try_for_each(|key| bpf::delete(maps.addrs.as_fd(), key))
}
