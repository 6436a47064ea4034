//! A network interface: what `ethtool` would show of it, its XDP features, and the program attached to it. Everything
//! starts here: [`Nic::open`], then [`Nic::attach`] (`program.rs`), then a queue of the resulting [`crate::Steer`].

use core::ffi::CStr;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fs;
use std::io;
use std::path::Path;

use smoltcp::wire::EthernetAddress;

use crate::bpf;
use crate::error::Error;
use crate::ethtool::Ethtool;
pub use crate::ethtool::{Channels, Driver, Offloads, Rings, Setting};

/// A network interface as it was when it was opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Nic {
    /// Its name.
    pub name: String,
    /// Its number in this network namespace.
    pub ifindex: u32,
    /// Its driver.
    pub driver: Driver,
    /// Its Ethernet address.
    pub mac: EthernetAddress,
    /// Largest IP packet in bytes.
    pub mtu: usize,
    /// Whether it is set up (`ip link set up`).
    pub is_up: bool,
    /// Whether it has a carrier.
    pub has_carrier: bool,
    /// RX queues in use, numbered from 0, at least 1: each can have one AF_XDP socket.
    pub rx_queues: u32,
    /// TX queues in use, at least 1.
    pub tx_queues: u32,
    /// What the driver says of its queues; `None`: nothing.
    pub channels: Option<Channels>,
    /// Sizes of the hardware's rings; `None`: the driver has none or does not say.
    pub rings: Option<Rings>,
    /// The memory node it is attached to; `None`: there is only one, or it is not hardware.
    pub numa_node: Option<u32>,
    /// The RX queue of each slot of the RSS hash; empty when the driver has no table.
    pub rss: Vec<u32>,
    /// What the NIC does for the kernel's stack.
    pub offloads: Offloads,
    /// What the driver can do with XDP; `None`: the kernel does not say (before Linux 6.3), or the driver can nothing.
    pub xdp_features: Option<XdpFeatures>,
    /// The XDP program attached to it.
    pub attached: Option<AttachedProgram>,
}

/// What a driver can do with XDP (`NETDEV_XDP_ACT_*` of linux/netdev.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpFeatures {
    bits: u64,
    /// Frames that one packet may span in zero-copy mode; 0 or 1: no multi-buffer there.
    pub zero_copy_frames_max: u32,
}

impl XdpFeatures {
    /// The features' names, in the order of their bits.
    const NAMES: [&'static str; 7] =
        ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"];

    /// Native XDP: programs run in the driver.
    #[must_use]
    pub fn native(self) -> bool {
        self.has(0)
    }

    /// Packets can be redirected, which AF_XDP needs in native mode.
    #[must_use]
    pub fn redirect(self) -> bool {
        self.has(1)
    }

    /// AF_XDP without copies.
    #[must_use]
    pub fn zero_copy(self) -> bool {
        self.has(3)
    }

    /// Received packets may span several frames.
    #[must_use]
    pub fn rx_multi_buffer(self) -> bool {
        self.has(5)
    }

    /// The names of all features it has.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().enumerate().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| name)
    }

    fn has(self, bit: usize) -> bool {
        self.bits >> bit & 1 == 1
    }
}

/// Where an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachMode {
    /// In the driver, before the kernel makes an skb.
    Native,
    /// In the kernel's generic path, on skbs: slow, but with every driver.
    Generic,
    /// In the NIC.
    Offloaded,
    /// Several at once.
    Multiple,
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
            Self::Multiple => "multiple",
        })
    }
}

/// The XDP program attached to an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttachedProgram {
    /// Its id, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name; empty when it has none, or this process may not ask.
    pub name: String,
    /// Where it runs.
    pub mode: AttachMode,
}

impl Nic {
    /// Looks at the interface `name` of this thread's network namespace. Needs no privilege.
    ///
    /// # Errors
    /// [`Error::NoSuchInterface`] with the names that exist; [`Error::Interface`] when the kernel does not tell its
    /// address, MTU or flags.
    pub fn open(name: &str) -> Result<Self, Error> {
        let no_such = || Error::NoSuchInterface { name: name.to_owned(), existing: interfaces().join(", ") };
        let c_name = bpf::c_name(name).map_err(|_| no_such())?;
        // SAFETY: a C string.
        let ifindex = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if ifindex == 0 {
            return Err(no_such());
        }
        let fail = |what| {
            let interface = name.to_owned();
            move |source| Error::Interface { interface, what, source }
        };
        let ethtool = Ethtool::new(&c_name).map_err(fail("anything"))?;
        let flags = ethtool.flags().map_err(fail("flags"))?;
        let driver = ethtool.driver().unwrap_or_default();
        let channels = ethtool.channels().ok();
        let (rx_queues, tx_queues) = queues(name, ifindex, channels);
        let query = bpf::xdp_query(ifindex).unwrap_or_default();
        Ok(Self {
            name: name.to_owned(),
            ifindex,
            mac: EthernetAddress(ethtool.mac().map_err(fail("Ethernet address"))?),
            mtu: ethtool.mtu().map_err(fail("MTU"))?,
            is_up: flags & libc::IFF_UP != 0,
            has_carrier: ethtool.carrier().unwrap_or(flags & libc::IFF_RUNNING != 0),
            rx_queues,
            tx_queues,
            channels,
            rings: ethtool.rings().ok(),
            numa_node: numa_node(&driver),
            rss: ethtool.indirection().unwrap_or_default(),
            offloads: ethtool.offloads(),
            xdp_features: (query.features != 0).then_some(XdpFeatures {
                bits: query.features,
                zero_copy_frames_max: query.zero_copy_frames_max,
            }),
            attached: attached(query),
            driver,
        })
    }

    /// Whether neighbours may hand over packets whose checksum was left to the device: the virtual ones that need no
    /// wire.
    #[must_use]
    pub fn partial_checksums(&self) -> bool {
        matches!(self.driver.name.as_str(), "veth" | "virtio_net" | "tun" | "xen_netfront" | "vif")
    }

    /// The addresses the kernel has on this interface, in its own order.
    ///
    /// # Errors
    /// When the kernel does not list them.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let mut list = core::ptr::null_mut();
        // SAFETY: `list` is a place for the answer, freed below.
        if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut addresses = Vec::new();
        let mut next = list;
        // SAFETY: `next` is null or an entry of the list, which lives until `freeifaddrs`.
        while let Some(entry) = unsafe { next.as_ref() } {
            next = entry.ifa_next;
            // SAFETY: the name is a C string in the list.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            if name.to_bytes() == self.name.as_bytes() {
                addresses.extend(address(entry.ifa_addr));
            }
        }
        // SAFETY: from `getifaddrs`, and no longer used.
        unsafe { libc::freeifaddrs(list) };
        Ok(addresses)
    }
}

/// The IP address behind a socket address, if it is one.
fn address(addr: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: null, or a socket address whose family says what follows.
    match i32::from(unsafe { addr.as_ref() }?.sa_family) {
        libc::AF_INET => {
            // SAFETY: the family is AF_INET; the alignment is not relied upon.
            let addr = unsafe { addr.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family is AF_INET6; the alignment is not relied upon.
            let addr = unsafe { addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(addr.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Names of all interfaces in this network namespace.
pub fn interfaces() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: no arguments; the list ends with an index of 0 and is freed below.
    let list = unsafe { libc::if_nameindex() };
    if list.is_null() {
        return names;
    }
    let mut entry = list;
    // SAFETY: `entry` walks the list to its end, and names are C strings in it.
    unsafe {
        while (*entry).if_index != 0 {
            names.push(CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
            entry = entry.add(1);
        }
        libc::if_freenameindex(list);
    }
    names
}

fn attached(query: bpf::XdpQuery) -> Option<AttachedProgram> {
    let mode = attach_mode(query.mode)?;
    let name = bpf::program_by_id(query.program)
        .and_then(|program| bpf::program_info(std::os::fd::AsFd::as_fd(&program)))
        .map(|info| info.name)
        .unwrap_or_default();
    Some(AttachedProgram { id: query.program, name, mode })
}

/// The kernel's `XDP_ATTACHED_*` as a mode; `None` when nothing is attached.
pub(crate) fn attach_mode(mode: u8) -> Option<AttachMode> {
    match mode {
        1 => Some(AttachMode::Native),
        2 => Some(AttachMode::Generic),
        3 => Some(AttachMode::Offloaded),
        4 => Some(AttachMode::Multiple),
        _ => None,
    }
}

/// RX and TX queues in use. A driver without ethtool's channels has its queues listed in sysfs, which is only believed
/// when it shows this very interface (it may belong to another network namespace); otherwise there is one.
fn queues(name: &str, ifindex: u32, channels: Option<Channels>) -> (u32, u32) {
    if let Some(channels) = channels {
        let combined = channels.combined.current;
        let (rx, tx) = (channels.rx.current + combined, channels.tx.current + combined);
        if rx > 0 && tx > 0 {
            return (rx, tx);
        }
    }
    let folder = Path::new("/sys/class/net").join(name);
    let same =
        fs::read_to_string(folder.join("ifindex")).is_ok_and(|text| text.trim() == ifindex.to_string());
    let count = |kind: &str| {
        let entries = fs::read_dir(folder.join("queues")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(kind)).count() as u32
    };
    if same { (count("rx-").max(1), count("tx-").max(1)) } else { (1, 1) }
}

/// The memory node of a PCI device; the kernel says -1 when there is only one.
fn numa_node(driver: &Driver) -> Option<u32> {
    if driver.bus.is_empty() || driver.bus.contains('/') {
        return None;
    }
    ["pci", "virtio"].into_iter().find_map(|bus| {
        let path = Path::new("/sys/bus").join(bus).join("devices").join(&driver.bus).join("numa_node");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_interface_is_answered_with_those_that_exist() {
        for name in ["nosuch0", "", "a\0b", "a-name-much-too-long-for-an-interface"] {
            let error = Nic::open(name).unwrap_err();
            assert!(
                matches!(&error, Error::NoSuchInterface { existing, .. } if existing.contains("lo")),
                "{error}"
            );
        }
    }

    #[test]
    fn loopback_is_an_interface_with_a_queue_and_an_address() {
        let nic = Nic::open("lo").unwrap();
        assert_eq!((nic.rx_queues, nic.mac), (1, EthernetAddress([0; 6])));
        assert!(nic.ifindex > 0 && nic.mtu > 1500);
    }

    #[test]
    fn features_are_named_by_their_bits() {
        let features = XdpFeatures { bits: 0b010_1011, zero_copy_frames_max: 0 };
        assert!(
            features.native() && features.redirect() && features.zero_copy() && features.rx_multi_buffer()
        );
        let names: Vec<_> = features.names().collect();
        assert_eq!(names, ["basic", "redirect", "xsk-zerocopy", "rx-sg"]);
    }
}
