//! The four rings of a socket and the pool, and every movement of a frame between them: the pool, the fill and RX rings,
//! the stack, and the TX and completion rings. Every hand-over to a ring is a [`Frame::lend`], every return a
//! [`PacketPool::reclaim`], so that no frame can be lost or doubled, whatever the kernel puts into a ring.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use bywash::limits::BURST_PACKETS;
use bywash::packet::{Frame, Packet, PacketPool, Ring};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use crate::options::{ETHERNET_HEADER, QueueOptions, XDP_HEADROOM};
use crate::socket::{BindMode, Bound};
use crate::stats::QueueCounters;
use crate::umem::Memory;

/// `XDP_PKT_CONTD`: the packet goes on in the next descriptor.
pub(crate) const PACKET_CONTINUES: u32 = 1;

/// The four rings and the pool, and every movement of a frame between them.
pub(crate) struct Rings {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    pub pool: PacketPool,
    umem: Umem,
    frames: Box<[FrameDesc]>,
    pub fd: RawFd,
    fill_target: u32,
    always_push: bool,
    /// Syscalls for one push at most: enough to empty the TX ring at the kernel's 32 packets a call.
    pushes_max: usize,
    pub busy_poll: bool,
    tx_frames_max: usize,
    tx_len_max: usize,
    /// The kernel would not transmit all that is in the TX ring: it must be asked again.
    pub tx_pending: bool,
    pub counters: QueueCounters,
    pub scratch: Box<[FrameDesc; BURST_PACKETS]>,
}

impl Rings {
    /// Of a socket just bound; all frames are in the pool.
    pub fn new(bound: Bound, memory: Memory, options: &QueueOptions) -> Self {
        Self {
            fd: bound.rx.fd().as_raw_fd(),
            rx: bound.rx,
            tx: bound.tx,
            fill: bound.fill,
            completion: bound.completion,
            pool: memory.pool,
            umem: memory.umem,
            frames: memory.frames,
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
        }
    }

    pub fn frame_size(&self) -> usize {
        self.pool.layout().frame_size as usize
    }

    /// The frame behind a descriptor that `ring` returned; `None` when that ring does not have it.
    pub fn reclaim(&self, desc: &FrameDesc, ring: Ring) -> Option<Frame> {
        self.pool.reclaim(u32::try_from(desc.addr() / self.frame_size()).ok()?, ring)
    }

    /// Takes up to `max` descriptors from the RX ring into the scratch.
    pub fn take_received(&mut self, max: usize) -> usize {
        let max = max.min(self.scratch.len());
        // SAFETY: the frames named are only used after `PacketPool::reclaim` found that they were lent.
        unsafe { self.rx.consume(&mut self.scratch[..max]) }
    }

    /// Tops the fill ring up, and wakes the driver if it wants to be told of it. It may say so a little after it ran out,
    /// when the ring is full again.
    pub fn refill(&mut self) {
        self.top_up();
        if self.fill.needs_wakeup() {
            self.wake_receiver();
        }
    }

    /// Brings the fill ring to its target, so that each frame received gives one back, now or when frames return.
    fn top_up(&mut self) {
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
    }

    /// Lets the driver look at the fill ring (and poll its queue).
    pub fn wake_receiver(&mut self) {
        self.counters.rx_wakeups += 1;
        // SAFETY: nothing is received into: the buffer is null and its length 0. What it answers does not matter: RX
        // goes on by itself, or is woken again at the next call.
        unsafe {
            let (none, flags) = (core::ptr::null_mut(), libc::MSG_DONTWAIT);
            libc::recvfrom(self.fd, none, 0, flags, core::ptr::null_mut(), core::ptr::null_mut())
        };
    }

    /// Descriptors the TX ring has room for.
    pub fn room(&mut self) -> usize {
        self.tx.nb_free_exact() as usize
    }

    /// Whether the fill ring lacks frames while transmitted ones have not come back.
    pub fn starves_for_completions(&self) -> bool {
        let usage = self.pool.usage();
        usage.fill < self.fill_target && usage.tx > 0
    }

    /// Takes transmitted frames back to the pool.
    pub fn reap(&mut self) {
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
    pub fn sendable(&mut self, packet: Packet) -> Option<Packet> {
        let len = packet.len();
        if len == 0 || len > self.tx_len_max {
            self.counters.tx_too_long += 1;
            return None;
        }
        let fits = packet.frames() <= self.tx_frames_max && packet.is_in(&self.pool);
        let aligned = fits && packet.starts_at(XDP_HEADROOM as usize);
        let packet = if aligned { packet } else { self.realigned(packet)? };
        if packet.frames() > self.tx_frames_max {
            self.counters.tx_too_long += 1;
            return None;
        }
        Some(packet)
    }

    /// Moves the packet's bytes to the frames' headroom where they are not: in place, or into fresh frames when one
    /// frame's bytes do not fit behind its headroom, the packet has more frames than can be sent, or they are of another
    /// pool.
    fn realigned(&mut self, packet: Packet) -> Option<Packet> {
        let (start, size) = (XDP_HEADROOM as usize, self.frame_size());
        let frames = packet.frames();
        let mut segments = Vec::with_capacity(frames);
        let mut moved = false;
        let mut fits = frames <= self.tx_frames_max && packet.is_in(&self.pool);
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
    pub fn put(&mut self, packet: Packet) {
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
    pub fn push(&mut self) {
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
