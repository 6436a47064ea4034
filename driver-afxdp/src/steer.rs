//! One queue's part of the steering program: which ports and addresses come to its socket, and the copies of what the
//! kernel gets as well. A queue's entries in the maps are written by the process that has the queue bound, and nobody
//! else; it removes them when it closes the queue, and those a killed process left when it opens it. Ports are opened on
//! all queues of the process at once ([`crate::ports`]).

use core::net::IpAddr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use bywash::config::AddressUse;
use bywash::device::{Protocol, Steering};

use crate::bpf::{self, RecordRing};
use crate::maps::{
    self, ADDRESS_KERNEL, ADDRESS_OWNED, ADDRESS_SHARED, ADDRESSES_PER_QUEUE, AddressKey, COPY_BYTES_MAX,
    COPY_RING_BYTES, QUEUE_ACTIVE, QUEUE_ANY_ADDRESS, QUEUE_SHARED, QUEUE_WHOLE,
};
use crate::options::{KernelAddresses, PortAddresses};
use crate::program::Attached;

/// Whose the packets of a queue are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose<'a> {
    /// As the addresses say that are owned and, where they are shared with the kernel, the open ports at these.
    ByAddress(&'a PortAddresses),
    /// The stack's, but for what concerns these addresses.
    Stacks(&'a KernelAddresses),
}

/// The steering of one bound queue. Dropping it gives the queue's traffic back to the kernel.
pub(crate) struct QueueSteering {
    attached: Arc<Attached>,
    queue: u32,
    copies: RecordRing,
    /// Addresses that the kernel has, and what they are while the stack does not own them.
    kernels: Vec<IpAddr>,
    kind: u32,
    /// Whether all else is the stack's.
    whole: bool,
    /// Entries in the address map.
    addresses: u32,
}

impl QueueSteering {
    /// Starts steering to the socket `socket`, which is bound to `queue` and ready to receive. Nothing is steered until
    /// ports or addresses are opened, unless everything is.
    pub fn start(attached: &Arc<Attached>, queue: u32, socket: RawFd, whose: Whose<'_>) -> io::Result<Self> {
        let ring = bpf::create_ring(COPY_RING_BYTES)?;
        let ring_fd = ring.as_raw_fd() as u32;
        let copies = RecordRing::new(ring)?;
        let (kind, whole) = match whose {
            Whose::ByAddress(_) => (ADDRESS_SHARED, false),
            Whose::Stacks(_) => (ADDRESS_KERNEL, true),
        };
        // From here on dropping undoes what was done.
        let attached = attached.clone();
        let mut this = Self { attached, queue, copies, kernels: Vec::new(), kind, whole, addresses: 0 };
        this.clear()?;
        let maps = &this.attached.maps;
        bpf::update(maps.copies.as_fd(), &queue, &ring_fd)?;
        bpf::update(maps.xsks.as_fd(), &queue, &(socket as u32))?;
        let flags = QUEUE_ACTIVE | this.list_addresses(whose)?;
        let Attached { ports, maps, .. } = &*this.attached;
        ports.join(queue, &maps.ports);
        bpf::update(maps.queues.as_fd(), &queue, &flags)?;
        Ok(this)
    }

    /// Lists the kernel's addresses; returns further flags.
    fn list_addresses(&mut self, whose: Whose<'_>) -> io::Result<u32> {
        let of_interface = || self.attached.nic.addresses();
        let (addresses, mut flags) = match whose {
            Whose::ByAddress(_) if self.attached.address_use != AddressUse::Shared => return Ok(0),
            Whose::ByAddress(PortAddresses::Any) => return Ok(QUEUE_SHARED | QUEUE_ANY_ADDRESS),
            Whose::ByAddress(PortAddresses::Listed(addresses)) => (addresses.clone(), QUEUE_SHARED),
            Whose::ByAddress(PortAddresses::Interface) => (of_interface()?, QUEUE_SHARED),
            Whose::Stacks(KernelAddresses::Interface) => (of_interface()?, QUEUE_WHOLE),
            Whose::Stacks(KernelAddresses::Listed(addresses)) => (addresses.clone(), QUEUE_WHOLE),
            Whose::Stacks(KernelAddresses::None) => return Ok(QUEUE_WHOLE),
        };
        if !addresses.is_empty() {
            flags |= QUEUE_SHARED;
        }
        for &addr in &addresses {
            self.set_address(addr, self.kind)?;
        }
        self.kernels = addresses;
        Ok(flags)
    }

    fn set_address(&mut self, addr: IpAddr, kind: u32) -> io::Result<()> {
        let addrs = self.attached.maps.addrs.as_fd();
        let key = AddressKey::new(self.queue, addr);
        let is_new = bpf::lookup::<_, u32>(addrs, &key).is_err();
        if is_new && self.addresses >= ADDRESSES_PER_QUEUE {
            let text = format!("a queue has at most {ADDRESSES_PER_QUEUE} addresses; {addr} is one too many");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        bpf::update(addrs, &key, &kind)?;
        self.addresses += u32::from(is_new);
        Ok(())
    }

    /// Removes everything of this queue from the maps. The configuration goes first: from then on the program passes
    /// all packets.
    fn clear(&mut self) -> io::Result<()> {
        let maps = &self.attached.maps;
        bpf::update(maps.queues.as_fd(), &self.queue, &0u32)?;
        self.attached.ports.leave(self.queue, &maps.ports);
        maps.ports.clear(self.queue);
        maps::clear_addresses(maps, self.queue)?;
        self.addresses = 0;
        bpf::delete(maps.xsks.as_fd(), &self.queue)?;
        bpf::delete(maps.copies.as_fd(), &self.queue)
    }

    /// Hands up to `max` copied packets to `take`.
    pub fn take_copies(&mut self, max: usize, mut take: impl FnMut(&[u8])) {
        self.copies.consume(max, &mut |record: &[u8]| {
            // `struct copy`: the length, then the bytes.
            let Some((len, bytes)) = record.split_first_chunk::<4>() else { return };
            let len = u32::from_ne_bytes(*len) as usize;
            debug_assert!(len <= COPY_BYTES_MAX);
            take(&bytes[..len.min(bytes.len())]);
        });
    }

    /// Readable when there are copies.
    pub fn copies_fd(&self) -> RawFd {
        self.copies.as_fd().as_raw_fd()
    }

    /// The program's counters for this queue: name, help, value.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counts = self.attached.maps.counts(self.queue).unwrap_or_default();
        maps::VERDICTS.iter().zip(counts).map(|(&(name, help), count)| (name, help, count)).collect()
    }
}

impl Drop for QueueSteering {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(
                interface = self.attached.nic.name,
                queue = self.queue,
                %error,
                "cannot clear the queue's steering"
            );
        }
    }
}

impl Steering for QueueSteering {
    fn open_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()> {
        self.attached.ports.open(self.queue, protocol, port, &self.attached.maps.ports);
        Ok(())
    }

    fn close_port(&mut self, protocol: Protocol, port: u16) -> io::Result<()> {
        self.attached.ports.close(self.queue, protocol, port, &self.attached.maps.ports);
        Ok(())
    }

    fn own_address(&mut self, addr: IpAddr) -> io::Result<()> {
        if self.whole && !self.kernels.contains(&addr) {
            return Ok(());
        }
        self.set_address(addr, ADDRESS_OWNED)
    }

    fn disown_address(&mut self, addr: IpAddr) -> io::Result<()> {
        if self.kernels.contains(&addr) {
            return self.set_address(addr, self.kind);
        }
        let addrs = self.attached.maps.addrs.as_fd();
        let key = AddressKey::new(self.queue, addr);
        if bpf::lookup::<_, u32>(addrs, &key).is_ok() {
            bpf::delete(addrs, &key)?;
            self.addresses = self.addresses.saturating_sub(1);
        }
        Ok(())
    }
}
