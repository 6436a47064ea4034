//! Binding AF_XDP sockets to queues, one or several over one packet memory: zero-copy, else copy; multi-buffer where it
//! works; what was really obtained. Sockets over one memory are bound in one and the same way, that of the first: the
//! kernel takes no flags with the others.

use core::ffi::{c_int, c_void};
use core::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use bywash::limits::BURST_PACKETS;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use crate::bpf;
use crate::error::Error;
use crate::nic::{AttachMode, Nic};
use crate::options::{BusyPoll, Mode, QueueOptions};
use crate::privileges::{self, Missing};
use crate::umem::{Memory, os_error};

/// How long a queue may be busy before it counts as taken: the kernel releases a dead process's socket a little after
/// the process itself, and a restart at once should not fail.
const BUSY_PATIENCE: Duration = Duration::from_millis(1500);
/// Time between two attempts meanwhile.
const BUSY_INTERVAL: Duration = Duration::from_millis(10);

/// Frames one packet may span in copy mode (the kernel's `MAX_SKB_FRAGS` with its default of 17, and the head).
const COPY_FRAMES_MAX: usize = 17;

/// From linux/if_xdp.h.
const XDP_OPTIONS: c_int = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
/// Since Linux 6.17: packets one `sendto` transmits in copy mode, 32 without it.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
/// Packets per `sendto` in copy mode asked for: four bursts.
const TX_BUDGET: u32 = 256;

const SO_PREFER_BUSY_POLL: c_int = 69;
const SO_BUSY_POLL_BUDGET: c_int = 70;

/// How the socket was bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BindMode {
    /// The NIC reads and writes the frames.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl fmt::Display for BindMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        })
    }
}

/// What was obtained, as the kernel reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ObtainedMode {
    /// How the socket is bound, from `XDP_OPTIONS`.
    pub bind: BindMode,
    /// How the steering program is attached.
    pub attach: AttachMode,
    /// Whether packets may span several frames.
    pub multi_buffer: bool,
    /// Whether the frames are in huge pages.
    pub huge_pages: bool,
}

impl fmt::Display for ObtainedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} XDP", self.bind, self.attach)?;
        for (on, what) in [(self.multi_buffer, ", multi-buffer"), (self.huge_pages, ", huge pages")] {
            if on {
                f.write_str(what)?;
            }
        }
        f.write_str(")")
    }
}

/// A bound socket.
pub(crate) struct Bound {
    pub handles: RingHandles,
    pub mode: BindMode,
    pub multi_buffer: bool,
    pub tx_frames_max: usize,
    /// Largest IP packet.
    pub mtu: usize,
}

/// Where a socket is to be bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub nic: &'a Nic,
    pub attach: AttachMode,
    pub queue: u32,
}

impl Place<'_> {
    /// Largest IP packet that is to pass.
    fn mtu(&self, options: &QueueOptions) -> usize {
        options.mtu.unwrap_or(self.nic.mtu).min(self.nic.mtu)
    }
}

/// One way to bind that is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Attempt {
    mode: BindMode,
    multi_buffer: bool,
}

/// Allocates the frames and binds a socket over them to each place, in their order, the best way that works for all.
pub(crate) fn bind(places: &[Place<'_>], options: &QueueOptions) -> Result<(Memory, Vec<Bound>), Error> {
    // One of them takes packets of any size, or the largest of those that do not is what can be had.
    let possible = |attempt: &Attempt, place: &Place<'_>| {
        (attempt.multi_buffer || place.mtu(options) <= options.one_frame_mtu())
            && attempts(place, options).contains(attempt)
    };
    let mut memory = None;
    let mut refusal = None;
    for attempt in attempts(&places[0], options) {
        if !places.iter().all(|place| possible(&attempt, place)) {
            continue;
        }
        let fresh = memory.take().map_or_else(|| Memory::new(options), Ok)?;
        let mut handles = Vec::with_capacity(places.len());
        for place in places {
            match bind_patiently(place, options, &fresh.umem, attempt) {
                Ok(rings) => handles.push(rings),
                Err(source) => {
                    let (interface, queue) = (&place.nic.name, place.queue);
                    tracing::debug!(interface, queue, ?attempt, error = %source, "cannot bind so");
                    if let Some(error) = hopeless(place, options, &source) {
                        return Err(error);
                    }
                    refusal = Some((place, attempt, source));
                    break;
                }
            }
        }
        if handles.len() == places.len() {
            let finish = |(place, rings)| finish(place, options, rings, attempt);
            let bound = places.iter().zip(handles).map(finish).collect::<Result<_, _>>()?;
            return Ok((fresh, bound));
        }
        // A memory with a socket has that one's way of binding for good.
        if handles.is_empty() {
            memory = Some(fresh);
        }
    }
    Err(match refusal {
        Some((place, Attempt { mode: BindMode::ZeroCopy, .. }, source)) => {
            Error::NoZeroCopy { interface: place.nic.name.clone(), queue: place.queue, source }
        }
        // Copy mode works with every size except without multi-buffer.
        Some((_, Attempt { multi_buffer: true, .. }, _)) | None => too_large(places, options),
        Some((place, _, source)) => Error::Unsupported {
            interface: place.nic.name.clone(),
            what: "bind an AF_XDP socket",
            source,
            log: String::new(),
        },
    })
}

/// The error about the place with the largest MTU.
fn too_large(places: &[Place<'_>], options: &QueueOptions) -> Error {
    let place = places.iter().max_by_key(|place| place.mtu(options)).expect("at least one place");
    Error::MtuTooLarge {
        interface: place.nic.name.clone(),
        mtu: place.mtu(options),
        max: options.one_frame_mtu(),
        mode: if options.mode == Mode::ZeroCopy {
            "zero-copy mode, whose driver takes one frame a packet"
        } else {
            "one frame a packet, which is all this kernel or driver can"
        },
    }
}

/// The ways to bind, best first. Some drivers want zero-copy or copy stated, so one of the two always is.
fn attempts(place: &Place<'_>, options: &QueueOptions) -> Vec<Attempt> {
    let zero_copy_frames = place.nic.xdp_features.map_or(0, |features| features.zero_copy_frames_max);
    let zero_copy = [
        (zero_copy_frames > 1).then_some(Attempt { mode: BindMode::ZeroCopy, multi_buffer: true }),
        Some(Attempt { mode: BindMode::ZeroCopy, multi_buffer: false }),
    ];
    let copy = [true, false].map(|multi_buffer| Some(Attempt { mode: BindMode::Copy, multi_buffer }));
    match options.mode {
        Mode::ZeroCopy => zero_copy.into_iter().flatten().collect(),
        Mode::Auto if place.attach == AttachMode::Native => {
            zero_copy.into_iter().chain(copy).flatten().collect()
        }
        Mode::Auto | Mode::Copy | Mode::Generic => copy.into_iter().flatten().collect(),
    }
}

/// The error that no other way of binding can help, if `source` is one.
fn hopeless(place: &Place<'_>, options: &QueueOptions, source: &io::Error) -> Option<Error> {
    let (interface, queue) = (place.nic.name.clone(), place.queue);
    Some(match source.raw_os_error()? {
        libc::EBUSY => Error::QueueTaken { interface, queue },
        libc::EPERM | libc::EACCES => {
            Error::NoPrivilege { what: "bind an AF_XDP socket", missing: Missing::of(&[privileges::NET_RAW]) }
        }
        libc::ENOBUFS => {
            Error::LockedMemoryLimit { bytes: options.bytes(), limit: privileges::locked_memory_limit() }
        }
        libc::ENODEV => {
            Error::NoSuchInterface { name: interface, existing: crate::nic::interfaces().join(", ") }
        }
        libc::ENETDOWN => Error::System {
            interface,
            what: "bind an AF_XDP socket to an interface that is down (`ip link set up`)",
            source: io::Error::from_raw_os_error(libc::ENETDOWN),
        },
        _ => return None,
    })
}

/// xsk-rs' sides of the four rings, each of which keeps the socket open.
pub(crate) type RingHandles = (TxQueue, RxQueue, FillQueue, CompQueue);

/// Binds, and waits for a while if the queue is busy.
fn bind_patiently(
    place: &Place<'_>,
    options: &QueueOptions,
    umem: &Umem,
    attempt: Attempt,
) -> io::Result<RingHandles> {
    let started = Instant::now();
    loop {
        match bind_once(place, options, umem, attempt) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && started.elapsed() < BUSY_PATIENCE => {
                thread::sleep(BUSY_INTERVAL);
            }
            result => return result,
        }
    }
}

fn bind_once(
    place: &Place<'_>,
    options: &QueueOptions,
    umem: &Umem,
    attempt: Attempt,
) -> io::Result<RingHandles> {
    let mut flags = match attempt.mode {
        BindMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
        BindMode::Copy => BindFlags::XDP_COPY,
    };
    flags.set(BindFlags::XDP_USE_NEED_WAKEUP, options.need_wakeup);
    flags.set(BindFlags::XDP_USE_SG, attempt.multi_buffer);
    let size = |size| QueueSize::new(size).map_err(io::Error::other);
    let config = SocketConfig::builder()
        .rx_queue_size(size(options.rx_ring)?)
        .tx_queue_size(size(options.tx_ring)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    let interface = Interface::new(bpf::c_name(&place.nic.name)?);
    // SAFETY: the UMEM is bound to each queue once only, and libxdp loads no program.
    let socket = unsafe { Socket::new(config, umem, &interface, place.queue) };
    let (tx, rx, rings) = socket.map_err(|error| os_error(&error))?;
    let (fill, completion) =
        rings.ok_or_else(|| io::Error::other("the UMEM already was bound to this queue"))?;
    Ok((tx, rx, fill, completion))
}

/// Reads back what was obtained and sets what remains.
fn finish(
    place: &Place<'_>,
    options: &QueueOptions,
    handles: RingHandles,
    attempt: Attempt,
) -> Result<Bound, Error> {
    let &Place { nic, queue, .. } = place;
    let mtu = place.mtu(options);
    let fd = handles.1.fd().as_raw_fd();
    let system = |what| move |source| Error::System { interface: nic.name.clone(), what, source };
    let mode = obtained(fd).map_err(system("read XDP_OPTIONS of the socket"))?;
    if let Some(busy_poll) = options.busy_poll {
        set_busy_poll(fd, busy_poll).map_err(system("set busy polling"))?;
    }
    if mode == BindMode::Copy {
        // Older kernels do not know it and are asked several times a burst instead.
        let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, TX_BUDGET.min(options.tx_ring));
    }
    let zero_copy_frames_max = nic.xdp_features.map_or(1, |features| features.zero_copy_frames_max as usize);
    let tx_frames_max = match (attempt.multi_buffer, mode) {
        (false, _) => 1,
        (true, BindMode::Copy) => COPY_FRAMES_MAX,
        (true, BindMode::ZeroCopy) => zero_copy_frames_max.clamp(1, BURST_PACKETS),
    };
    tracing::debug!(interface = nic.name, queue, ?attempt, ?mode, mtu, "bound");
    let multi_buffer = attempt.multi_buffer;
    Ok(Bound { handles, mode, multi_buffer, tx_frames_max, mtu })
}

/// What the kernel says of a bound socket.
fn obtained(fd: RawFd) -> io::Result<BindMode> {
    let mut flags = 0u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `flags` is a place of `len` bytes.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_XDP, XDP_OPTIONS, (&raw mut flags).cast::<c_void>(), &raw mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(if flags & XDP_OPTIONS_ZEROCOPY != 0 { BindMode::ZeroCopy } else { BindMode::Copy })
}

fn set_busy_poll(fd: RawFd, busy_poll: BusyPoll) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, busy_poll.micros)?;
    set_option(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, busy_poll.budget)
}

fn set_option(fd: RawFd, level: c_int, name: c_int, value: u32) -> io::Result<()> {
    let len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the value is `len` bytes long.
    let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast::<c_void>(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
