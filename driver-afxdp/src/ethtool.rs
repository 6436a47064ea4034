//! What `ethtool -i`, `-l`, `-g`, `-k` and `-x` show, asked with the `SIOCETHTOOL` and `SIOCGIF*` ioctls
//! (linux/ethtool.h): they answer for the calling thread's network namespace, which sysfs does not.

use core::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GDRVINFO: u32 = 0x03;
const GLINK: u32 = 0x0a;
const GRINGPARAM: u32 = 0x10;
const GRXCSUM: u32 = 0x14;
const GTXCSUM: u32 = 0x16;
const GTSO: u32 = 0x1e;
const GGSO: u32 = 0x23;
const GFLAGS: u32 = 0x25;
const GGRO: u32 = 0x2b;
const GRXFHINDIR: u32 = 0x38;
const GCHANNELS: u32 = 0x3c;

const FLAG_TXVLAN: u32 = 1 << 7;
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;
const FLAG_NTUPLE: u32 = 1 << 27;
const FLAG_RXHASH: u32 = 1 << 28;

/// Largest indirection table read; NICs have up to 2048 entries.
const INDIRECTION_ENTRIES_MAX: usize = 4096;

/// The driver behind an interface (`ethtool -i`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Driver {
    /// Its name, for example `veth`, `virtio_net` or `igb`.
    pub name: String,
    /// Its version; of drivers inside the kernel that is the kernel's.
    pub version: String,
    /// The NIC's firmware, empty when there is none.
    pub firmware: String,
    /// Where the NIC is, for example `0000:00:03.0`; empty for virtual ones.
    pub bus: String,
}

/// A number of something: in use now and at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// In use now.
    pub current: u32,
    /// The most the hardware can.
    pub max: u32,
}

/// Queues (`ethtool -l`); drivers have separate RX and TX queues, combined ones, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Queues that only receive.
    pub rx: Setting,
    /// Queues that only transmit.
    pub tx: Setting,
    /// Queues that do both.
    pub combined: Setting,
}

/// Descriptors in the NIC's own rings (`ethtool -g`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// Of each RX queue.
    pub rx: Setting,
    /// Of each TX queue.
    pub tx: Setting,
}

/// What the NIC does for the kernel's stack (`ethtool -k`); `None`: the driver does not say.
///
/// AF_XDP packets bypass most of it; what matters is noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checks checksums on reception.
    pub rx_checksum: Option<bool>,
    /// Computes checksums on transmission: a veth or virtio neighbour with this on sends partial ones.
    pub tx_checksum: Option<bool>,
    /// Segments TCP. On a veth neighbour it makes packets of up to 64 KiB.
    pub tso: Option<bool>,
    /// Segments in software.
    pub gso: Option<bool>,
    /// Merges received segments in software (behind XDP, so without effect here).
    pub gro: Option<bool>,
    /// Merges received segments in hardware: must be off for native XDP.
    pub lro: Option<bool>,
    /// Takes VLAN tags out of received frames: then the steering program does not see them.
    pub rx_vlan: Option<bool>,
    /// Puts VLAN tags into transmitted frames.
    pub tx_vlan: Option<bool>,
    /// Steering rules can be set (`ethtool -N`).
    pub ntuple: Option<bool>,
    /// Computes the RSS hash of received packets.
    pub rx_hash: Option<bool>,
}

#[repr(C)]
struct DrvInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    fw_version: [u8; 32],
    bus_info: [u8; 32],
    erom_version: [u8; 32],
    reserved2: [u8; 12],
    numbers: [u32; 5],
}

/// `cmd`, then the maxima of rx, tx, other and combined, then their present values.
#[repr(C)]
struct GetChannels {
    cmd: u32,
    max: [u32; 4],
    current: [u32; 4],
}

/// `cmd`, then the maxima of rx, rx mini, rx jumbo and tx, then their present values.
#[repr(C)]
struct GetRings {
    cmd: u32,
    max: [u32; 4],
    current: [u32; 4],
}

#[repr(C)]
struct GetValue {
    cmd: u32,
    data: u32,
}

#[repr(C)]
struct GetIndirection {
    cmd: u32,
    size: u32,
    ring: [u32; INDIRECTION_ENTRIES_MAX],
}

/// An interface asked by ioctl.
pub(crate) struct Ethtool {
    socket: OwnedFd,
    name: [c_char; libc::IFNAMSIZ],
}

impl Ethtool {
    /// For the interface `name` of this thread's network namespace; whether it exists shows at the first question.
    pub fn new(name: &CStr) -> io::Result<Self> {
        let bytes = name.to_bytes();
        if bytes.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut copy = [0; libc::IFNAMSIZ];
        for (to, from) in copy.iter_mut().zip(bytes) {
            *to = *from as c_char;
        }
        // SAFETY: `fd` is open and nobody else's.
        Ok(Self { socket: unsafe { OwnedFd::from_raw_fd(fd) }, name: copy })
    }

    pub fn driver(&self) -> io::Result<Driver> {
        // SAFETY: all-zero is a value of this structure of integers.
        let mut info: DrvInfo = unsafe { core::mem::zeroed() };
        info.cmd = GDRVINFO;
        self.ethtool(&mut info)?;
        Ok(Driver {
            name: text(&info.driver),
            version: text(&info.version),
            firmware: text(&info.fw_version),
            bus: text(&info.bus_info),
        })
    }

    pub fn channels(&self) -> io::Result<Channels> {
        let mut get = GetChannels { cmd: GCHANNELS, max: [0; 4], current: [0; 4] };
        self.ethtool(&mut get)?;
        let setting = |i: usize| Setting { current: get.current[i], max: get.max[i] };
        Ok(Channels { rx: setting(0), tx: setting(1), combined: setting(3) })
    }

    pub fn rings(&self) -> io::Result<Rings> {
        let mut get = GetRings { cmd: GRINGPARAM, max: [0; 4], current: [0; 4] };
        self.ethtool(&mut get)?;
        let setting = |i: usize| Setting { current: get.current[i], max: get.max[i] };
        Ok(Rings { rx: setting(0), tx: setting(3) })
    }

    pub fn offloads(&self) -> Offloads {
        let on = |cmd| self.value(cmd).ok().map(|value| value != 0);
        let flags = self.value(GFLAGS).ok();
        let flag = |bit| flags.map(|flags| flags & bit != 0);
        Offloads {
            rx_checksum: on(GRXCSUM),
            tx_checksum: on(GTXCSUM),
            tso: on(GTSO),
            gso: on(GGSO),
            gro: on(GGRO),
            lro: flag(FLAG_LRO),
            rx_vlan: flag(FLAG_RXVLAN),
            tx_vlan: flag(FLAG_TXVLAN),
            ntuple: flag(FLAG_NTUPLE),
            rx_hash: flag(FLAG_RXHASH),
        }
    }

    /// Whether there is a carrier.
    pub fn carrier(&self) -> io::Result<bool> {
        self.value(GLINK).map(|value| value != 0)
    }

    /// The RSS indirection table: the RX queue for each slot of the hash.
    pub fn indirection(&self) -> io::Result<Vec<u32>> {
        let mut get =
            Box::new(GetIndirection { cmd: GRXFHINDIR, size: 0, ring: [0; INDIRECTION_ENTRIES_MAX] });
        self.ethtool(&mut *get)?;
        get.size = get.size.min(INDIRECTION_ENTRIES_MAX as u32);
        if get.size > 0 {
            self.ethtool(&mut *get)?;
        }
        Ok(get.ring[..(get.size as usize).min(INDIRECTION_ENTRIES_MAX)].to_vec())
    }

    pub fn mac(&self) -> io::Result<[u8; 6]> {
        let request = self.interface(libc::SIOCGIFHWADDR, None)?;
        // SAFETY: SIOCGIFHWADDR fills this member of the union.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok(core::array::from_fn(|i| data[i] as u8))
    }

    pub fn mtu(&self) -> io::Result<usize> {
        let request = self.interface(libc::SIOCGIFMTU, None)?;
        // SAFETY: SIOCGIFMTU fills this member of the union.
        Ok(usize::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0))
    }

    /// The interface's flags, `IFF_UP` and so on.
    pub fn flags(&self) -> io::Result<c_int> {
        let request = self.interface(libc::SIOCGIFFLAGS, None)?;
        // SAFETY: SIOCGIFFLAGS fills this member of the union.
        Ok(c_int::from(unsafe { request.ifr_ifru.ifru_flags }))
    }

    fn value(&self, cmd: u32) -> io::Result<u32> {
        let mut get = GetValue { cmd, data: 0 };
        self.ethtool(&mut get)?;
        Ok(get.data)
    }

    /// An ethtool command: `request` must be the structure that belongs to the command in its first field.
    fn ethtool<T>(&self, request: &mut T) -> io::Result<()> {
        self.interface(SIOCETHTOOL, Some((&raw mut *request).cast())).map(|_| ())
    }

    fn interface(&self, command: libc::c_ulong, data: Option<*mut c_void>) -> io::Result<libc::ifreq> {
        // SAFETY: all-zero is a value of this structure of integers and pointers.
        let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
        request.ifr_name = self.name;
        if let Some(data) = data {
            request.ifr_ifru.ifru_data = data.cast();
        }
        // SAFETY: the kernel reads and writes `request` and, for SIOCETHTOOL, the structure behind `data`, which the
        // caller borrows mutably and which has the size of its command's.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), command as _, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
    }
}

/// The text in a NUL-terminated field.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
