//! One RX/TX queue pair of a NIC as a packet device: frames go round between the pool, the fill and RX rings, the
//! stack, and the TX and completion rings. Every hand-over to a ring is a [`Frame::lend`], every return a
//! [`PacketPool::reclaim`], so that no frame can be lost or doubled, whatever the kernel puts into a ring.
//!
//! [`Frame::lend`]: bywash::packet::Frame::lend

use core::fmt;
use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use bywash::device::{Capabilities, Device, Steering, WaitDevice};
use bywash::limits::BURST_PACKETS;
use bywash::packet::{Frame, Packet, PacketBatch, PacketPool, Ring};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use crate::error::Error;
use crate::link::{LinkState, LinkWatch};
use crate::maps::ADDRESSES_PER_QUEUE;
use crate::nic::AttachMode;
use crate::options::{ETHERNET_HEADER, Mode, PortAddresses, QueueOptions, XDP_HEADROOM};
use crate::program::{Attached, Steer};
use crate::socket::{self, BindMode, ObtainedMode};
use crate::stats::{QueueCounters, XdpStatistics};
use crate::steer::QueueSteering;
use crate::umem::Memory;

/// `XDP_PKT_CONTD`: the packet goes on in the next descriptor.
const PACKET_CONTINUES: u32 = 1;

/// Frames one received packet may span: 64 KiB and an Ethernet header in frames of 2048 bytes take 37. A longer one is
/// dropped and counted.
const RX_FRAMES_MAX: usize = 40;

/// How long a sleeper waits before it gives the kernel another push to transmit what it would not take at once.
const TX_RETRY_INTERVAL: Duration = Duration::from_millis(1);
/// How long a sleeper waits at most for a completion that nothing announces, while packets are left over for want of
/// room in the TX ring, or the NIC for want of frames.
const COMPLETION_INTERVAL: Duration = Duration::from_millis(1);

/// A queue about to be opened on the thread that will drive it.
pub struct QueueOpener {
    attached: Arc<Attached>,
    queue: u32,
    options: QueueOptions,
}

impl QueueOpener {
    pub(crate) fn new(steer: &Steer, queue: u32, options: &QueueOptions) -> Result<Self, Error> {
        let attached = &steer.inner;
        let (interface, queues) = (attached.nic.name.clone(), attached.nic.rx_queues);
        if queue >= queues.min(attached.maps.queue_count) {
            return Err(Error::QueueOutOfRange { interface, queue, queues });
        }
        options.check()?;
        let generic = attached.mode == AttachMode::Generic;
        if generic && matches!(options.mode, Mode::ZeroCopy | Mode::Copy)
            || !generic && options.mode == Mode::Generic
        {
            return Err(Error::ModeConflict {
                interface,
                wanted: options.mode.name(),
                obtained: if generic { "generic" } else { "native" },
            });
        }
        if let PortAddresses::Listed(addresses) = &options.port_addresses
            && !QueueOptions::addresses_in_bounds(addresses)
        {
            return Err(Error::TooManyAddresses { addresses: addresses.len(), max: ADDRESSES_PER_QUEUE });
        }
        Ok(Self { attached: attached.clone(), queue, options: options.clone() })
    }

    /// The queue's number.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Takes the queue: allocates the frames, binds the socket, fills the fill ring, and then lets the steering program
    /// hand packets over. No port or address is open yet.
    ///
    /// # Errors
    /// [`Error::QueueTaken`], [`Error::NoPrivilege`], [`Error::LockedMemoryLimit`], [`Error::Memory`],
    /// [`Error::NoAfXdp`], [`Error::NoZeroCopy`], [`Error::MtuTooLarge`], [`Error::Unsupported`], [`Error::System`].
    pub fn open(self) -> Result<Queue, Error> {
        let Self { attached, queue, options } = self;
        let memory = Memory::new(&options)?;
        let bound = socket::bind(&attached.nic, attached.mode, queue, &options, &memory.umem)?;
        let fd = bound.rx.fd().as_raw_fd();
        let system = |what| {
            let interface = attached.nic.name.clone();
            move |source| Error::System { interface, what, source }
        };
        let link = LinkWatch::new(attached.nic.ifindex).map_err(system("watch the link"))?;
        let mut rings = Rings {
            rx: bound.rx,
            tx: bound.tx,
            fill: bound.fill,
            completion: bound.completion,
            pool: memory.pool,
            umem: memory.umem,
            frames: memory.frames,
            fd,
            fill_target: options.fill_target(),
            // Without need-wakeup a zero-copy driver looks at the TX ring by itself; copy mode never does.
            always_push: bound.mode == BindMode::Copy && !options.need_wakeup,
            pushes_max: options.tx_ring.div_ceil(32) as usize,
            busy_poll: options.busy_poll.is_some(),
            tx_frames_max: bound.tx_frames_max,
            tx_len_max: bound.mtu + ETHERNET_HEADER,
            tx_pending: false,
            counters: QueueCounters::default(),
            scratch: Box::new([FrameDesc::default(); BURST_PACKETS]),
        };
        // The NIC must have frames before the first packet is steered here.
        rings.refill();
        let steering = QueueSteering::start(&attached, queue, fd, &options)
            .map_err(system("set up the queue's steering"))?;
        let mode = ObtainedMode {
            bind: bound.mode,
            attach: attached.mode,
            multi_buffer: bound.multi_buffer,
            huge_pages: memory.huge_pages,
        };
        let capabilities = Capabilities {
            mac: attached.nic.mac,
            mtu: bound.mtu,
            partial_checksums: attached.nic.partial_checksums(),
            tx_frames_max: bound.tx_frames_max,
        };
        tracing::info!(interface = attached.nic.name, queue, %mode, mtu = bound.mtu, "queue opened");
        Ok(Queue {
            steering,
            rings,
            link,
            link_state: if attached.nic.has_carrier { LinkState::Up } else { LinkState::Down },
            partial: Partial::None,
            tx_blocked: false,
            capabilities,
            mode,
            queue,
            attached,
        })
    }
}

impl fmt::Debug for QueueOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueOpener")
            .field("interface", &self.attached.nic.name)
            .field("queue", &self.queue)
            .field("options", &self.options)
            .finish()
    }
}

/// An open queue: what the shard drives. Belongs to one thread.
///
/// Closing it (dropping it) first gives the queue's traffic back to the kernel, then closes the socket. Frames that
/// packets or slices still hold stay valid until these are gone.
pub struct Queue {
    // The order of the fields is the order of closing: no more packets, then the rings, then the rest.
    steering: QueueSteering,
    rings: Rings,
    link: LinkWatch,
    link_state: LinkState,
    partial: Partial,
    /// Packets were left over because the TX ring was full.
    tx_blocked: bool,
    capabilities: Capabilities,
    mode: ObtainedMode,
    queue: u32,
    attached: Arc<Attached>,
}

/// A received packet whose last frames are not there yet.
enum Partial {
    None,
    /// Frames so far.
    Some(Packet),
    /// It is being dropped, up to its last frame.
    Dropping,
}

impl Queue {
    /// What was obtained.
    #[must_use]
    pub fn mode(&self) -> ObtainedMode {
        self.mode
    }

    /// The queue's number.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// The name of the interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.attached.nic.name
    }

    /// What the driver counted.
    #[must_use]
    pub fn counters(&self) -> QueueCounters {
        self.rings.counters
    }

    /// What the kernel counted of the socket.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn xdp_statistics(&self) -> io::Result<XdpStatistics> {
        XdpStatistics::read(self.rings.fd)
    }

    /// Whether the link was up when the queue last slept or was opened.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.link_state == LinkState::Up
    }

    /// Takes what the RX ring has, up to `budget` packets.
    fn receive_ring(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        let mut received = 0;
        while received < budget {
            let descs = self.rings.take_received(budget - received);
            if descs == 0 {
                break;
            }
            for i in 0..descs {
                let desc = self.rings.scratch[i];
                if let Some(packet) = self.take_frame(&desc) {
                    batch.push_back(packet);
                    received += 1;
                }
            }
        }
        self.rings.counters.rx_packets += received as u64;
        received
    }

    /// Adds a received frame to the packet it belongs to; returns the packet when it is whole.
    fn take_frame(&mut self, desc: &FrameDesc) -> Option<Packet> {
        let frame = self.rings.reclaim(desc, Ring::Fill);
        let start = desc.addr() % self.rings.frame_size();
        let len = desc.lengths().data();
        let counters = &mut self.rings.counters;
        let partial = core::mem::replace(&mut self.partial, Partial::None);
        let next = match (partial, frame) {
            (Partial::Dropping, _) => Partial::Dropping,
            (_, None) => {
                counters.rx_bad_descriptors += 1;
                Partial::Dropping
            }
            (Partial::None, Some(frame)) => match Packet::from_frame(frame, start, len) {
                Some(packet) => Partial::Some(packet),
                None => {
                    counters.rx_bad_descriptors += 1;
                    Partial::Dropping
                }
            },
            (Partial::Some(packet), Some(_)) if packet.frames() == RX_FRAMES_MAX => {
                counters.rx_too_many_frames += 1;
                Partial::Dropping
            }
            (Partial::Some(mut packet), Some(frame)) => match packet.push_frame(frame, start, len) {
                Some(()) => Partial::Some(packet),
                None => {
                    counters.rx_bad_descriptors += 1;
                    Partial::Dropping
                }
            },
        };
        if desc.options() & PACKET_CONTINUES != 0 {
            self.partial = next;
            return None;
        }
        match next {
            Partial::Some(packet) => Some(packet),
            Partial::None | Partial::Dropping => None,
        }
    }

    /// Takes copies of what the kernel got as well, up to `budget`.
    fn receive_copies(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        let before = batch.len();
        let (pool, counters) = (&self.rings.pool, &mut self.rings.counters);
        self.steering.take_copies(budget, |bytes| match Packet::copy_from(pool, bytes) {
            Some(packet) => batch.push_back(packet),
            None => counters.rx_copies_no_frame += 1,
        });
        let received = batch.len() - before;
        self.rings.counters.rx_copies += received as u64;
        received
    }

    /// Reads what became of the link.
    fn read_link_news(&mut self) -> io::Result<()> {
        let Some(state) = self.link.news() else { return Ok(()) };
        if state != self.link_state {
            tracing::warn!(interface = self.interface(), queue = self.queue, ?state, "the link changed");
            self.link_state = state;
            self.rings.counters.link_changes += 1;
        }
        if state == LinkState::Gone {
            let text = format!("the interface {} was removed", self.interface());
            return Err(io::Error::new(io::ErrorKind::NetworkDown, text));
        }
        Ok(())
    }
}

impl Device for Queue {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &PacketPool {
        &self.rings.pool
    }

    fn receive(&mut self, batch: &mut PacketBatch, budget: usize) -> usize {
        let budget = budget.min(BURST_PACKETS.saturating_sub(batch.len()));
        let mut received = self.receive_copies(batch, budget);
        received += self.receive_ring(batch, budget - received);
        self.rings.reap();
        self.rings.refill();
        if self.rings.tx_pending {
            self.rings.push();
        }
        if received == 0 && self.rings.busy_poll {
            self.rings.wake_receiver();
        }
        received
    }

    fn transmit(&mut self, batch: &mut PacketBatch) -> usize {
        self.rings.reap();
        let mut room = self.rings.tx.nb_free_exact() as usize;
        let (mut taken, mut put) = (0, false);
        self.tx_blocked = false;
        while let Some(packet) = batch.pop_front() {
            let Some(packet) = self.rings.sendable(packet) else {
                taken += 1;
                continue;
            };
            if packet.frames() > room {
                batch.push_front(packet);
                self.tx_blocked = true;
                self.rings.counters.tx_ring_full += 1;
                break;
            }
            room -= packet.frames();
            taken += 1;
            put = true;
            self.rings.put(packet);
        }
        if put || self.rings.tx_pending {
            self.rings.push();
        }
        taken
    }

    fn transmit_room(&mut self) -> usize {
        self.rings.reap();
        self.rings.tx.nb_free_exact() as usize
    }
}

impl WaitDevice for Queue {
    fn wait(&mut self, wake: RawFd, timeout: Option<Duration>) -> io::Result<()> {
        self.rings.reap();
        self.rings.refill();
        if self.rings.tx_pending {
            self.rings.push();
        }
        if self.tx_blocked && self.rings.tx.nb_free_exact() > 0 {
            self.tx_blocked = false;
            return Ok(());
        }
        let mut timeout = timeout;
        let mut cap = |most: Duration| timeout = Some(timeout.map_or(most, |timeout| timeout.min(most)));
        if self.rings.tx_pending {
            cap(TX_RETRY_INTERVAL);
        }
        // Completions wake nobody while the TX ring has room, and frames in it may be all that the NIC waits for.
        if self.tx_blocked || self.rings.starves_for_completions() {
            cap(COMPLETION_INTERVAL);
        }
        let readable = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [self.rings.fd, wake, self.steering.copies_fd(), self.link.fd()].map(readable);
        if self.tx_blocked {
            fds[0].events |= libc::POLLOUT;
        }
        poll(&mut fds, timeout)?;
        if fds[3].revents != 0 { self.read_link_news() } else { Ok(()) }
    }

    fn statistics(&mut self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all: Vec<_> = self.rings.counters.iter().collect();
        all.extend(self.xdp_statistics().unwrap_or_default().iter());
        all.extend(self.steering.counters());
        all
    }

    fn steering(&mut self) -> &mut dyn Steering {
        &mut self.steering
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("interface", &self.interface())
            .field("queue", &self.queue)
            .field("mode", &self.mode)
            .field("pool", &self.rings.pool)
            .finish_non_exhaustive()
    }
}

/// The four rings and the pool, and every movement of a frame between them.
struct Rings {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    pool: PacketPool,
    umem: Umem,
    frames: Box<[FrameDesc]>,
    fd: RawFd,
    fill_target: u32,
    always_push: bool,
    /// Syscalls for one push at most: enough to empty the TX ring at the kernel's 32 packets a call.
    pushes_max: usize,
    busy_poll: bool,
    tx_frames_max: usize,
    tx_len_max: usize,
    /// The kernel would not transmit all that is in the TX ring: it must be asked again.
    tx_pending: bool,
    counters: QueueCounters,
    scratch: Box<[FrameDesc; BURST_PACKETS]>,
}

impl Rings {
    fn frame_size(&self) -> usize {
        self.pool.layout().frame_size as usize
    }

    /// The frame behind a descriptor that `ring` returned; `None` when that ring does not have it.
    fn reclaim(&self, desc: &FrameDesc, ring: Ring) -> Option<Frame> {
        self.pool.reclaim(u32::try_from(desc.addr() / self.frame_size()).ok()?, ring)
    }

    /// Takes up to `max` descriptors from the RX ring into the scratch.
    fn take_received(&mut self, max: usize) -> usize {
        let max = max.min(self.scratch.len());
        // SAFETY: the frames named are only used after `PacketPool::reclaim` found that they were lent.
        unsafe { self.rx.consume(&mut self.scratch[..max]) }
    }

    /// Tops the fill ring up to its target, so that each frame received gives one back, now or when frames return.
    fn refill(&mut self) {
        let mut want = self.fill_target.saturating_sub(self.pool.usage().fill);
        if want == 0 {
            return;
        }
        want = want.min(self.fill.nb_free_exact());
        while want > 0 {
            let chunk = want.min(BURST_PACKETS as u32).min(self.pool.free_frames()) as usize;
            if chunk == 0 {
                self.counters.rx_starved += 1;
                break;
            }
            for i in 0..chunk {
                let Some(frame) = self.pool.alloc() else { unreachable!("counted free frames above") };
                self.scratch[i] = self.frames[frame.lend(Ring::Fill) as usize];
            }
            // SAFETY: these frames were just lent to this ring, so that nobody else uses them.
            let put = unsafe { self.fill.produce(&self.scratch[..chunk]) };
            assert_eq!(put, chunk, "the fill ring had room");
            want -= chunk as u32;
        }
        if self.fill.needs_wakeup() {
            self.wake_receiver();
        }
    }

    /// Lets the driver look at the fill ring (and poll its queue).
    fn wake_receiver(&mut self) {
        self.counters.rx_wakeups += 1;
        // SAFETY: nothing is received into: the buffer is null and its length 0. What it answers does not matter: RX
        // goes on by itself, or is woken again at the next call.
        unsafe {
            let (none, flags) = (core::ptr::null_mut(), libc::MSG_DONTWAIT);
            libc::recvfrom(self.fd, none, 0, flags, core::ptr::null_mut(), core::ptr::null_mut())
        };
    }

    /// Whether the fill ring lacks frames while transmitted ones have not come back.
    fn starves_for_completions(&self) -> bool {
        let usage = self.pool.usage();
        usage.fill < self.fill_target && usage.tx > 0
    }

    /// Takes transmitted frames back to the pool.
    fn reap(&mut self) {
        loop {
            // SAFETY: the frames named are only used after `PacketPool::reclaim` found that they were lent.
            let count = unsafe { self.completion.consume(&mut self.scratch[..]) };
            for i in 0..count {
                match self.reclaim(&self.scratch[i], Ring::Tx) {
                    Some(frame) => {
                        drop(frame);
                        self.counters.completions += 1;
                    }
                    None => self.counters.bad_completions += 1,
                }
            }
            if count < self.scratch.len() {
                return;
            }
        }
    }

    /// The packet as it can go into the TX ring: every frame's bytes at the frame's headroom. `None` when it cannot be
    /// sent at all.
    fn sendable(&mut self, packet: Packet) -> Option<Packet> {
        let len = packet.len();
        if len == 0 || len > self.tx_len_max {
            self.counters.tx_too_long += 1;
            return None;
        }
        let aligned = packet.headroom() == XDP_HEADROOM as usize && packet.frames() == 1;
        let packet = if aligned { packet } else { self.realigned(packet)? };
        if packet.frames() > self.tx_frames_max {
            self.counters.tx_too_long += 1;
            return None;
        }
        Some(packet)
    }

    /// Moves the packet's bytes to the frames' headroom where they are not: in place, or into fresh frames when one
    /// frame's bytes do not fit behind its headroom or the packet has more frames than can be sent.
    fn realigned(&mut self, packet: Packet) -> Option<Packet> {
        let (start, size) = (XDP_HEADROOM as usize, self.frame_size());
        let frames = packet.frames();
        let mut segments = Vec::with_capacity(frames);
        let mut moved = false;
        let mut fits = frames <= self.tx_frames_max;
        for (frame, at, len) in packet.into_frames() {
            moved |= at != start;
            fits &= start + len <= size && len > 0;
            segments.push((frame, at, len));
        }
        self.counters.tx_realigned += u64::from(moved || !fits);
        if fits {
            let mut out: Option<Packet> = None;
            for (mut frame, at, len) in segments {
                if at != start {
                    frame.bytes_mut().copy_within(at..at + len, start);
                }
                match &mut out {
                    None => out = Some(Packet::from_frame(frame, start, len)?),
                    Some(packet) => packet.push_frame(frame, start, len)?,
                }
            }
            return out;
        }
        let repacked = self.repack(&segments);
        self.counters.tx_no_frame += u64::from(repacked.is_none());
        repacked
    }

    /// The segments' bytes in as few fresh frames as possible; `None` when the pool has too few.
    fn repack(&self, segments: &[(Frame, usize, usize)]) -> Option<Packet> {
        let start = XDP_HEADROOM as usize;
        let room = self.frame_size() - start;
        let mut out: Option<Packet> = None;
        let (mut frame, mut filled) = (self.pool.alloc()?, 0);
        for (from, at, len) in segments {
            let mut bytes = &from.bytes()[*at..at + len];
            while !bytes.is_empty() {
                if filled == room {
                    let full = core::mem::replace(&mut frame, self.pool.alloc()?);
                    append_frame(&mut out, full, start, filled)?;
                    filled = 0;
                }
                let count = bytes.len().min(room - filled);
                frame.bytes_mut()[start + filled..][..count].copy_from_slice(&bytes[..count]);
                filled += count;
                bytes = &bytes[count..];
            }
        }
        append_frame(&mut out, frame, start, filled)?;
        out
    }

    /// Puts a packet that [`Rings::sendable`] returned into the TX ring, which has room for all of its frames.
    fn put(&mut self, packet: Packet) {
        let frames = packet.frames();
        assert!(frames <= self.scratch.len(), "a packet's frames fit one burst");
        for (i, (frame, _, len)) in packet.into_frames().enumerate() {
            let mut desc = self.frames[frame.lend(Ring::Tx) as usize];
            // SAFETY: the frame was just lent and is not in the ring yet, so that nobody else sees its bytes; the
            // cursor only notes the length in the descriptor.
            unsafe { self.umem.data_mut(&mut desc) }.cursor().set_pos(len);
            desc.set_options(if i + 1 < frames { PACKET_CONTINUES } else { 0 });
            self.scratch[i] = desc;
        }
        // SAFETY: these frames were just lent to this ring, so that nobody else uses them.
        let put = unsafe { self.tx.produce(&self.scratch[..frames]) };
        assert_eq!(put, frames, "the TX ring had room");
        self.counters.tx_packets += 1;
        self.counters.tx_frames += frames as u64;
    }

    /// Lets the kernel transmit what is in the TX ring, if it wants to be told.
    fn push(&mut self) {
        self.tx_pending = false;
        if !self.always_push && !self.tx.needs_wakeup() {
            return;
        }
        for _ in 0..self.pushes_max {
            let before = self.tx.nb_free_exact();
            self.counters.tx_wakeups += 1;
            // SAFETY: nothing is sent from: the buffer is null and its length 0.
            let result = unsafe {
                libc::sendto(self.fd, core::ptr::null(), 0, libc::MSG_DONTWAIT, core::ptr::null(), 0)
            };
            if result >= 0 {
                return;
            }
            self.tx_pending = true;
            match io::Error::last_os_error().raw_os_error() {
                // Copy mode sends so many at a time: on, as long as that moves anything.
                Some(libc::EAGAIN) if self.tx.nb_free_exact() > before => {}
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {
                    self.counters.tx_retries += 1;
                    return;
                }
                Some(libc::ENETDOWN | libc::ENXIO) => {
                    self.counters.tx_link_down += 1;
                    return;
                }
                _ => {
                    self.counters.tx_errors += 1;
                    return;
                }
            }
        }
    }
}

fn append_frame(packet: &mut Option<Packet>, frame: Frame, start: usize, len: usize) -> Option<()> {
    match packet {
        None => *packet = Some(Packet::from_frame(frame, start, len)?),
        Some(packet) => packet.push_frame(frame, start, len)?,
    }
    Some(())
}

/// `poll(2)` with a timeout in nanoseconds; an interruption is a return like any other.
fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(core::ptr::null(), |timeout| &raw const *timeout);
    // SAFETY: the array has the length passed; the timeout is null or valid; no signal mask is passed.
    let result = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as _, timeout, core::ptr::null()) };
    match io::Error::last_os_error() {
        error if result < 0 && error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
