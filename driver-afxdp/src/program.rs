//! Attaching the steering program to an interface, or joining the one another Bywash process attached.
//!
//! The program hangs on a BPF link, which the kernel takes away with the last descriptor of it: a process that exits,
//! panics or is killed leaves nothing behind. A process that finds Bywash's program on the interface takes descriptors
//! of its link and maps, so that the program stays until the last of the processes is gone. Programs of others are never
//! replaced.

use core::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bywash::config::AddressUse;

use crate::bpf::{self, LoadError, Object};
use crate::error::Error;
use crate::groups::AllGroups;
use crate::maps::{Maps, PROGRAM};
use crate::nic::{AttachMode, Nic, attach_mode};
use crate::options::{Mode, QueueOptions};
use crate::ports::OpenPorts;
use crate::privileges::{self, Capability, Missing};
use crate::queue::QueueOpener;

/// The compiled program, aligned as an ELF file's structures want to be.
#[repr(C, align(8))]
struct Elf<T: ?Sized>(T);
static ELF: &Elf<[u8]> = &Elf(*include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o")));

const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// What loading and attaching the steering program and opening sockets takes. Locking packet memory beyond
/// `RLIMIT_MEMLOCK` takes `CAP_IPC_LOCK` as well.
pub const TO_ATTACH: &[Capability] =
    &[privileges::NET_ADMIN, privileges::BPF, privileges::PERFMON, privileges::NET_RAW];
/// What joining another process's program takes: the kernel wants it for descriptors by id.
const TO_JOIN: &[Capability] =
    &[privileges::SYS_ADMIN, privileges::NET_ADMIN, privileges::BPF, privileges::NET_RAW];

/// How long attaching and joining are tried while other processes on the interface come and go. The kernel takes a dead
/// process's link away a little after the process itself; meanwhile the program can neither be joined nor replaced.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Time between two attempts.
const INTERVAL: Duration = Duration::from_millis(5);

/// How to attach the steering program.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions {
    /// [`Mode::Generic`] attaches in generic mode, [`Mode::ZeroCopy`] and [`Mode::Copy`] only in native mode,
    /// [`Mode::Auto`] in native mode if the driver can.
    pub mode: Mode,
    /// Whose the addresses are: decides what the queues do with ARP, neighbour discovery and open ports.
    pub address_use: AddressUse,
}

/// The steering program on an interface. Cheap to clone, and shared by the queues made from it: it stays attached until
/// the last of them, in this and every other process, is gone.
#[derive(Clone)]
pub struct Steer {
    pub(crate) inner: Arc<Attached>,
}

/// A program on an interface and what keeps it there.
pub(crate) struct Attached {
    pub nic: Nic,
    pub mode: AttachMode,
    pub address_use: AddressUse,
    pub maps: Maps,
    pub ports: OpenPorts,
    joined: bool,
    _link: OwnedFd,
    /// Where the stack has addresses of its own.
    _groups: Option<AllGroups>,
}

impl Nic {
    /// Attaches the steering program, or joins the one that another Bywash process attached to this interface.
    ///
    /// # Errors
    /// [`Error::NoPrivilege`], [`Error::ProgramAttached`] (one that is not Bywash's), [`Error::OtherVersion`],
    /// [`Error::ModeConflict`], [`Error::MtuTooLarge`], [`Error::PeerHasMoreQueues`], [`Error::Unsupported`],
    /// [`Error::AttachRace`].
    pub fn attach(&self, options: &AttachOptions) -> Result<Steer, Error> {
        let started = Instant::now();
        loop {
            let query = bpf::xdp_query(self.ifindex).map_err(|source| Error::Interface {
                interface: self.name.clone(),
                what: "the attached XDP program",
                source,
            })?;
            let attached = match attach_mode(query.mode) {
                None => self.load(options)?,
                Some(mode) => self.join(query.program, mode, options)?,
            };
            if let Some(attached) = attached {
                return Ok(Steer { inner: Arc::new(attached) });
            }
            if started.elapsed() > PATIENCE {
                return Err(Error::AttachRace { interface: self.name.clone() });
            }
            thread::sleep(INTERVAL);
        }
    }

    /// Loads the program and attaches it; `None` when another process was faster.
    fn load(&self, options: &AttachOptions) -> Result<Option<Attached>, Error> {
        let object = self.load_object()?;
        let system = |what| move |source| Error::System { interface: self.name.clone(), what, source };
        let program = object.program_fd(PROGRAM).map_err(system("find the steering program"))?;
        let maps = Maps::of(&object, program.as_fd()).map_err(system("open the steering program's maps"))?;
        drop(object);
        let link = |flags| bpf::xdp_link(program.as_fd(), self.ifindex, flags);
        let (mode, link) = match options.mode {
            Mode::Generic => (AttachMode::Generic, link(XDP_FLAGS_SKB_MODE)),
            Mode::ZeroCopy | Mode::Copy => (AttachMode::Native, link(XDP_FLAGS_DRV_MODE)),
            Mode::Auto => match link(XDP_FLAGS_DRV_MODE) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    tracing::info!(interface = self.name, "no native XDP: attaching in generic mode");
                    (AttachMode::Generic, link(XDP_FLAGS_SKB_MODE))
                }
                native => (AttachMode::Native, native),
            },
        };
        match link {
            Ok(link) => Ok(Some(Attached {
                nic: self.clone(),
                mode,
                address_use: options.address_use,
                maps,
                ports: OpenPorts::default(),
                joined: false,
                _link: link,
                _groups: self.groups(options)?,
            })),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => Ok(None),
            Err(error) => Err(self.attach_error(error, mode)),
        }
    }

    /// The kernel has the groups of its own addresses.
    fn groups(&self, options: &AttachOptions) -> Result<Option<AllGroups>, Error> {
        if options.address_use == AddressUse::Shared {
            return Ok(None);
        }
        let what = "let in the packets of all multicast groups";
        AllGroups::join(self.ifindex).map(Some).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => Error::NoPrivilege { what, missing: Missing::of(TO_ATTACH) },
            _ => Error::System { interface: self.name.clone(), what, source },
        })
    }

    pub(crate) fn load_object(&self) -> Result<Object, Error> {
        // As many queues as the driver can ever have, so that `ethtool -L` while we run is no trouble.
        let max = self.channels.map_or(0, |channels| channels.combined.max.saturating_add(channels.rx.max));
        let queues = self.rx_queues.max(max).clamp(1, QUEUES_MAX);
        Object::load(&ELF.0, |object| Maps::size(object, queues))
            .map_err(|LoadError { source, log }| self.load_error(source, log))
    }

    /// Takes descriptors of the program that is on the interface; `None` when it went away meanwhile.
    fn join(&self, id: u32, mode: AttachMode, options: &AttachOptions) -> Result<Option<Attached>, Error> {
        let privilege = |error: &io::Error| error.raw_os_error() == Some(libc::EPERM);
        let vanished = |error: &io::Error| error.raw_os_error() == Some(libc::ENOENT);
        let no_privilege = || Error::NoPrivilege {
            what: "look at the XDP program on the interface",
            missing: Missing::of(TO_JOIN),
        };
        let system = |source| Error::System {
            interface: self.name.clone(),
            what: "join the steering program",
            source,
        };
        let program = match bpf::program_by_id(id) {
            Ok(program) => program,
            Err(error) if vanished(&error) => return Ok(None),
            Err(error) if privilege(&error) => return Err(no_privilege()),
            Err(error) => return Err(system(error)),
        };
        let info = bpf::program_info(program.as_fd()).map_err(system)?;
        if info.name.as_bytes() != PROGRAM.to_bytes() {
            return Err(Error::ProgramAttached { interface: self.name.clone(), id, name: info.name });
        }
        // The link first: with it held, program and maps stay.
        let Some(link) =
            bpf::xdp_link_of(id).map_err(|e| if privilege(&e) { no_privilege() } else { system(e) })?
        else {
            return Ok(None);
        };
        let maps = Maps::join(&info.maps).map_err(system)?.map_err(|difference| Error::OtherVersion {
            interface: self.name.clone(),
            id,
            difference,
        })?;
        let conflict = match options.mode {
            Mode::Auto => false,
            Mode::Generic => mode != AttachMode::Generic,
            Mode::ZeroCopy | Mode::Copy => mode != AttachMode::Native,
        };
        if conflict {
            return Err(Error::ModeConflict {
                interface: self.name.clone(),
                wanted: options.mode.name(),
                obtained: if mode == AttachMode::Native { "native" } else { "generic" },
            });
        }
        tracing::debug!(
            interface = self.name,
            program = id,
            "joined the steering program of another process"
        );
        let (nic, address_use) = (self.clone(), options.address_use);
        let ports = OpenPorts::default();
        let groups = self.groups(options)?;
        Ok(Some(Attached { nic, mode, address_use, maps, ports, joined: true, _link: link, _groups: groups }))
    }

    fn load_error(&self, source: io::Error, log: String) -> Error {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES)
                if log.is_empty() || !Missing::of(TO_ATTACH).lacking().is_empty() =>
            {
                Error::NoPrivilege { what: "load the steering program", missing: Missing::of(TO_ATTACH) }
            }
            _ => Error::Unsupported {
                interface: self.name.clone(),
                what: "load the steering program",
                source,
                log,
            },
        }
    }

    fn attach_error(&self, source: io::Error, mode: AttachMode) -> Error {
        let interface = self.name.clone();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                Error::NoPrivilege { what: "attach the steering program", missing: Missing::of(TO_ATTACH) }
            }
            // What drivers answer when a packet of this size does not fit the buffers they have for XDP.
            Some(libc::ERANGE | libc::EINVAL | libc::EOPNOTSUPP) if self.mtu > SAFE_XDP_MTU => {
                Error::MtuTooLarge {
                    interface,
                    mtu: self.mtu,
                    max: SAFE_XDP_MTU,
                    mode: if mode == AttachMode::Native {
                        "native XDP with this driver"
                    } else {
                        "generic XDP"
                    },
                }
            }
            Some(libc::ENOSPC) if self.driver.name == "veth" => {
                Error::PeerHasMoreQueues { interface, queues: self.rx_queues }
            }
            _ => Error::Unsupported {
                interface,
                what: "attach the steering program",
                source,
                log: String::new(),
            },
        }
    }
}

/// Queues the maps are made for at most; NICs have up to 1024 or so, and each costs 20 KiB of kernel memory.
const QUEUES_MAX: u32 = 1024;

/// An MTU with which every driver that has native XDP can attach: a packet with its headers fits one page with the room
/// XDP keeps.
const SAFE_XDP_MTU: usize = 3000;

impl Steer {
    /// Prepares queue `queue` for [`QueueOpener::open`] on the thread that will drive it. Options are checked here; the
    /// queue is only taken by `open`.
    ///
    /// # Errors
    /// [`Error::QueueOutOfRange`], [`Error::NotPowerOfTwo`], [`Error::BadFrameCount`], [`Error::ModeConflict`].
    pub fn queue(&self, queue: u32, options: &QueueOptions) -> Result<QueueOpener, Error> {
        QueueOpener::new(self, queue, options)
    }

    /// The interface.
    #[must_use]
    pub fn nic(&self) -> &Nic {
        &self.inner.nic
    }

    /// Where the program runs.
    #[must_use]
    pub fn mode(&self) -> AttachMode {
        self.inner.mode
    }

    /// Whether another process had attached the program.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.inner.joined
    }
}

impl fmt::Debug for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steer")
            .field("interface", &self.inner.nic.name)
            .field("mode", &self.inner.mode)
            .field("joined", &self.inner.joined)
            .finish_non_exhaustive()
    }
}
