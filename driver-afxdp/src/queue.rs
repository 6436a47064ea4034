//! One RX/TX queue pair of a NIC as a packet device of the stack: opening it, bursts of packets in (from the RX ring and
//! from the copies of what the kernel gets as well) and out, and sleep. The frames' way through the rings is `rings.rs`.

use core::fmt;
use core::time::Duration;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use bywash::device::{Capabilities, Device, Steering, WaitDevice};
use bywash::limits::BURST_PACKETS;
use bywash::packet::{Frame, Packet, PacketBatch, PacketPool};

use crate::error::Error;
use crate::link::{LinkState, LinkWatch};
use crate::nic::{AttachMode, Nic};
use crate::options::{Mode, PortAddresses, QueueOptions};
use crate::program::{Attached, Steer};
use crate::ring::Desc;
use crate::rings::{PACKET_CONTINUES, Rings, Share};
use crate::socket::{self, Bound, ObtainedMode, Place};
use crate::stats::{QueueCounters, XdpStatistics};
use crate::steer::{QueueSteering, Whose};
use crate::umem::Memory;

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
        options.check()?;
        check_place(&steer.inner, queue, options)?;
        if let PortAddresses::Listed(addresses) = &options.port_addresses {
            QueueOptions::check_addresses("for open ports", addresses)?;
        }
        Ok(Self { attached: steer.inner.clone(), queue, options: options.clone() })
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
        let place = Place { nic: &attached.nic, attach: attached.mode, queue };
        let (memory, mut bound) = socket::bind(&[place], &options)?;
        let bound = bound.pop().expect("a socket for the place");
        let taken = Taken { bound, memory: &memory, share: Share::of_one(&options) };
        Queue::start(attached, queue, taken, &options, Whose::ByAddress(&options.port_addresses))
    }
}

/// Whether a socket can be had at `queue` of an interface.
pub(crate) fn check_place(attached: &Attached, queue: u32, options: &QueueOptions) -> Result<(), Error> {
    let (interface, queues) = (attached.nic.name.clone(), attached.nic.rx_queues);
    if queue >= queues.min(attached.maps.queue_count) {
        return Err(Error::QueueOutOfRange { interface, queue, queues });
    }
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
    Ok(())
}

/// A socket just bound to a queue, and its frames.
pub(crate) struct Taken<'a> {
    pub bound: Bound,
    pub memory: &'a Memory,
    pub share: Share,
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
/// Closing it (dropping it) gives the queue's traffic back to the kernel. Packets and slices of its pool that are still
/// held stay valid; the socket, and with it the queue, is given up with the last of them, because libxdp closes it only
/// with its packet memory.
pub struct Queue {
    // The order of the fields is the order of closing: no more packets, then the rings, then the rest.
    steering: QueueSteering,
    rings: Rings,
    link: LinkWatch,
    link_state: LinkState,
    partial: Partial,
    /// Frames of a packet that was left over because there was no room for it; 0 when there is none.
    tx_wanted: usize,
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
    /// Makes a bound socket a device: fills the fill ring, and then lets the steering program hand packets over.
    pub(crate) fn start(
        attached: Arc<Attached>,
        queue: u32,
        taken: Taken<'_>,
        options: &QueueOptions,
        whose: Whose<'_>,
    ) -> Result<Self, Error> {
        let Taken { bound, memory, share } = taken;
        let fd = bound.handles.1.fd().as_raw_fd();
        let system = |what| {
            let interface = attached.nic.name.clone();
            move |source| Error::System { interface, what, source }
        };
        // Watched first and looked at then, so that no change is missed.
        let link = LinkWatch::new(attached.nic.ifindex).map_err(system("watch the link"))?;
        let now = Nic::open(&attached.nic.name)?;
        let up = now.is_up && now.has_carrier;
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
        let mut rings = Rings::new(bound, memory, options, share);
        // The NIC must have frames before the first packet is steered here.
        rings.refill();
        let steering = QueueSteering::start(&attached, queue, fd, whose)
            .map_err(system("set up the queue's steering"))?;
        tracing::info!(interface = attached.nic.name, queue, %mode, mtu = capabilities.mtu, "queue opened");
        Ok(Self {
            steering,
            rings,
            link,
            link_state: if up { LinkState::Up } else { LinkState::Down },
            partial: Partial::None,
            tx_wanted: 0,
            capabilities,
            mode,
            queue,
            attached,
        })
    }

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

    #[cfg(feature = "testing")]
    pub(crate) fn socket(&self) -> RawFd {
        self.rings.fd
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
                if let Some(packet) = self.take_frame(desc) {
                    batch.push_back(packet);
                    received += 1;
                }
            }
        }
        self.rings.counters.rx_packets += received as u64;
        received
    }

    /// A received frame: as a packet, if it is one by itself, as nearly all are; else [`Queue::join_frame`].
    fn take_frame(&mut self, desc: Desc) -> Option<Packet> {
        let frame = self.rings.reclaim(desc.addr);
        let start = desc.addr as usize & (self.rings.frame_size() - 1);
        let len = desc.len as usize;
        let continues = desc.options & PACKET_CONTINUES != 0;
        if continues || !matches!(self.partial, Partial::None) {
            return self.join_frame(frame, start, len, continues);
        }
        let packet = frame.and_then(|frame| Packet::from_frame(frame, start, len));
        self.rings.counters.rx_bad_descriptors += u64::from(packet.is_none());
        packet
    }

    /// Adds a frame to the packet it belongs to; returns the packet when it is whole.
    fn join_frame(
        &mut self,
        frame: Option<Frame>,
        start: usize,
        len: usize,
        continues: bool,
    ) -> Option<Packet> {
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
        if continues {
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
            match state {
                LinkState::Up => {
                    tracing::info!(interface = self.interface(), queue = self.queue, "the link is up");
                }
                LinkState::Down => {
                    tracing::warn!(interface = self.interface(), queue = self.queue, "the link is down");
                }
                LinkState::Gone => {
                    tracing::warn!(interface = self.interface(), queue = self.queue, "the link is gone");
                }
            }
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
        let mut room = self.rings.room();
        let (mut taken, mut put) = (0, false);
        self.tx_wanted = 0;
        while let Some(front) = batch.front() {
            let ready = self.rings.is_ready(front);
            let Some(mut packet) = batch.pop_front() else { break };
            if !ready {
                match self.rings.made_ready(packet) {
                    Some(made) => packet = made,
                    None => {
                        taken += 1;
                        continue;
                    }
                }
            }
            let frames = packet.frames();
            if frames > room {
                batch.push_front(packet);
                self.tx_wanted = frames;
                self.rings.counters.tx_ring_full += 1;
                break;
            }
            room -= frames;
            taken += 1;
            put = true;
            self.rings.stage(packet);
        }
        if put {
            self.rings.send_staged();
        }
        if put || self.rings.tx_pending {
            self.rings.push();
        }
        taken
    }

    fn transmit_room(&mut self) -> usize {
        self.rings.reap();
        self.rings.room()
    }
}

/// Sleep. A device of several queues sleeps on all of them at once.
impl Queue {
    /// Takes transmitted frames back to the pool, before any queue of it gets ready to sleep.
    pub(crate) fn reap(&mut self) {
        self.rings.reap();
    }

    /// Gets ready to sleep; the longest sleep that this queue allows, `None` without such a limit. Zero when there is
    /// something to do.
    pub(crate) fn before_sleep(&mut self) -> Option<Duration> {
        self.rings.refill();
        if self.rings.tx_pending {
            self.rings.push();
        }
        if self.tx_wanted > 0 && self.rings.room() >= self.tx_wanted {
            self.tx_wanted = 0;
            return Some(Duration::ZERO);
        }
        let mut most = self.rings.tx_pending.then_some(TX_RETRY_INTERVAL);
        // Completions wake nobody while the TX ring has room, and frames in it may be all that the NIC waits for.
        if self.tx_wanted > 0 || self.rings.starves_for_completions() {
            most = Some(most.map_or(COMPLETION_INTERVAL, |most| most.min(COMPLETION_INTERVAL)));
        }
        most
    }

    /// What ends the sleep: packets or room in the TX ring, copies, news of the link.
    pub(crate) fn sources(&mut self) -> [libc::pollfd; 3] {
        let mut sources = [self.rings.fd, self.steering.copies_fd(), self.link.fd()].map(readable);
        if self.tx_wanted > 0 && self.rings.is_full(self.tx_wanted) {
            sources[0].events |= libc::POLLOUT;
        }
        sources
    }

    /// Deals with what ended the sleep.
    pub(crate) fn after_sleep(&mut self, sources: &[libc::pollfd]) -> io::Result<()> {
        if sources[2].revents != 0 { self.read_link_news() } else { Ok(()) }
    }
}

impl WaitDevice for Queue {
    fn wait(&mut self, wake: RawFd, timeout: Option<Duration>) -> io::Result<()> {
        self.reap();
        let most = self.before_sleep();
        if most == Some(Duration::ZERO) {
            return Ok(());
        }
        let [socket, copies, link] = self.sources();
        let mut fds = [socket, copies, link, readable(wake)];
        poll(&mut fds, shorter(most, timeout))?;
        self.after_sleep(&fds)
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

/// The shorter of two limits of a sleep; `None` is none.
pub(crate) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (limit, None) | (None, limit) => limit,
    }
}

/// An entry for [`poll`].
pub(crate) fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

/// `poll(2)` with a timeout in nanoseconds; an interruption is a return like any other.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(core::ptr::null(), |timeout| &raw const *timeout);
    // SAFETY: the array has the length passed; the timeout is null or valid; no signal mask is passed.
    if unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as _, timeout, core::ptr::null()) } >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}
