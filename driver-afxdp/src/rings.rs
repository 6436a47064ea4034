//! The pool and the four rings of a socket, and every movement of a frame between them: the pool, the fill and RX rings,
//! the stack, and the TX and completion rings. Every hand-over to a ring is a [`Frame::lend`], every return a
//! [`PacketPool::reclaim`], so that no frame can be lost or doubled, whatever the kernel puts into a ring. All of it goes
//! by bursts; how the rings' memory is accessed is `access.rs`.
//!
//! The pool may be that of several sockets. A frame that one received and another transmits comes back by the completion
//! ring of the other, to the pool, and from there to whichever fill ring lacks one. So each socket counts what its own
//! rings have and keeps to its [`Share`]: none can take what the others need to go on.

use std::io;
use std::os::fd::RawFd;

use bywash::limits::BURST_PACKETS;
use bywash::packet::{Frame, Packet, PacketPool, Ring};

use crate::access::Access;
use crate::options::{ETHERNET_HEADER, QueueOptions, XDP_HEADROOM};
use crate::ring::Desc;
use crate::socket::{BindMode, Bound};
use crate::stats::QueueCounters;
use crate::umem::Memory;

/// `XDP_PKT_CONTD`: the packet goes on in the next descriptor.
pub(crate) const PACKET_CONTINUES: u32 = 1;

/// How many of the pool's frames a socket's rings may have at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    /// Those that wait to be received into.
    pub fill: u32,
    /// Those given for transmission and not come back yet.
    pub tx: u32,
}

impl Share {
    /// Of the only socket of a pool: as many as its TX ring takes.
    pub fn of_one(options: &QueueOptions) -> Self {
        Self { fill: options.fill_target(), tx: u32::MAX }
    }

    /// Of each of `sockets` that share a pool: all fill rings have half of it at most and all TX rings a quarter, so that
    /// one whose NIC takes nothing any more stops no other, and a quarter is left to hold.
    pub fn of_each(options: &QueueOptions, sockets: u32) -> Self {
        Self { fill: options.rx_ring.min(options.frames / 2 / sockets), tx: options.frames / 4 / sockets }
    }
}

/// The four rings and the pool, and every movement of a frame between them.
pub(crate) struct Rings {
    access: Access,
    pub pool: PacketPool,
    pub fd: RawFd,
    share: Share,
    /// Frames that this socket's fill ring and NIC have to receive into.
    filled: u32,
    /// Frames that this socket's TX ring and NIC have, or the completion ring.
    under_way: u32,
    always_push: bool,
    /// Syscalls for one push at most: enough to empty the TX ring at the kernel's 32 packets a call.
    pushes_max: usize,
    pub busy_poll: bool,
    tx_frames_max: usize,
    tx_len_max: usize,
    /// The kernel would not transmit all that is in the TX ring: it must be asked again.
    pub tx_pending: bool,
    pub counters: QueueCounters,
    /// Descriptors on their way: received ones, or the first `staged` to be sent.
    pub scratch: Box<[Desc; BURST_PACKETS]>,
    staged: usize,
    addrs: Box<[u64; BURST_PACKETS]>,
}

impl Rings {
    /// Of a socket just bound over `memory`, none of whose frames it has yet.
    pub fn new(bound: Bound, memory: &Memory, options: &QueueOptions, share: Share) -> Self {
        let access = Access::new(bound.handles, memory, options);
        Self {
            fd: access.fd(),
            access,
            pool: memory.pool.clone(),
            share,
            filled: 0,
            under_way: 0,
            // Without need-wakeup a zero-copy driver looks at the TX ring by itself; copy mode never does.
            always_push: bound.mode == BindMode::Copy && !options.need_wakeup,
            pushes_max: options.tx_ring.div_ceil(32) as usize,
            busy_poll: options.busy_poll.is_some(),
            tx_frames_max: bound.tx_frames_max,
            tx_len_max: bound.mtu + ETHERNET_HEADER,
            tx_pending: false,
            counters: QueueCounters::default(),
            scratch: Box::new([Desc::default(); BURST_PACKETS]),
            staged: 0,
            addrs: Box::new([0; BURST_PACKETS]),
        }
    }

    pub fn frame_size(&self) -> usize {
        self.pool.layout().frame_size as usize
    }

    /// The address by which the rings know a frame's headroom.
    fn addr(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.pool.layout().frame_size) + u64::from(XDP_HEADROOM)
    }

    /// The number of the frame at an address, which may be none of the pool's.
    fn index(&self, addr: u64) -> u32 {
        // Frame sizes are powers of two.
        u32::try_from(addr >> self.pool.layout().frame_size.trailing_zeros()).unwrap_or(u32::MAX)
    }

    /// The received frame at an address; `None` when it was not lent to be received into.
    pub fn reclaim(&mut self, addr: u64) -> Option<Frame> {
        let frame = self.pool.reclaim(self.index(addr), Ring::Fill)?;
        self.filled = self.filled.saturating_sub(1);
        Some(frame)
    }

    /// Takes up to `max` descriptors from the RX ring into the scratch.
    pub fn take_received(&mut self, max: usize) -> usize {
        let max = max.min(self.scratch.len());
        self.access.receive(&mut self.scratch[..max])
    }

    /// Tops the fill ring up, and wakes the driver if it wants to be told of it. It may say so a little after it ran out,
    /// when the ring is full again.
    pub fn refill(&mut self) {
        self.top_up();
        if self.access.fill_needs_wakeup() {
            self.wake_receiver();
        }
    }

    /// Brings the fill ring to its target, so that each frame received gives one back, now or when frames return.
    fn top_up(&mut self) {
        let mut want = self.share.fill.saturating_sub(self.filled);
        if want == 0 {
            return;
        }
        want = want.min(self.access.fill_room());
        while want > 0 {
            let mut indices = [0; BURST_PACKETS];
            let chunk = self.pool.lend_free(Ring::Fill, &mut indices[..BURST_PACKETS.min(want as usize)]);
            if chunk == 0 {
                self.counters.rx_starved += 1;
                break;
            }
            for (place, index) in indices[..chunk].iter().enumerate() {
                self.addrs[place] = self.addr(*index);
            }
            self.access.fill(&self.addrs[..chunk]);
            self.filled += chunk as u32;
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

    /// Frames that may be given for transmission now.
    pub fn room(&mut self) -> usize {
        let share = self.share.tx.saturating_sub(self.under_way);
        self.access.tx_room().min(share as usize)
    }

    /// Whether it is the TX ring itself that has no room for so many frames: `poll` tells when it has some again, but not
    /// when frames come back that this socket's share lacked.
    pub fn is_full(&mut self, frames: usize) -> bool {
        self.access.tx_room() < frames
    }

    /// Whether the fill ring lacks frames while transmitted ones have not come back.
    pub fn starves_for_completions(&self) -> bool {
        self.filled < self.share.fill && self.pool.usage().tx > 0
    }

    /// Takes transmitted frames back to the pool.
    pub fn reap(&mut self) {
        loop {
            let count = self.access.complete(&mut self.addrs[..]);
            let indices = self.addrs[..count].iter().map(|&addr| self.index(addr));
            let known = self.pool.free_lent(Ring::Tx, indices);
            self.under_way = self.under_way.saturating_sub(known as u32);
            self.counters.completions += known as u64;
            self.counters.bad_completions += (count - known) as u64;
            if count < self.addrs.len() {
                return;
            }
        }
    }

    /// Whether the packet can go into the TX ring as it is: of this pool's frames, not too many, each with bytes, and (through
    /// xsk-rs) these at the frame's headroom.
    pub fn is_ready(&self, packet: &Packet) -> bool {
        let fits = packet.frames() <= self.tx_frames_max && packet.is_in(&self.pool);
        let placed = || match self.access.sends_from_anywhere() {
            true => packet.segments().all(|bytes| !bytes.is_empty()),
            false => packet.starts_at(XDP_HEADROOM as usize),
        };
        fits && placed() && packet.len() <= self.tx_len_max
    }

    /// The packet as it can go into the TX ring. `None`, which is counted, when it cannot be sent at all.
    pub fn made_ready(&mut self, packet: Packet) -> Option<Packet> {
        let len = packet.len();
        if len == 0 || len > self.tx_len_max {
            self.counters.tx_too_long += 1;
            return None;
        }
        let packet = self.realigned(packet)?;
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

    /// Puts a packet that is ready in line for the TX ring, which has room for all of its frames.
    pub fn stage(&mut self, packet: Packet) {
        let frames = packet.frames();
        assert!(frames <= self.scratch.len(), "a packet's frames fit one burst");
        if self.staged + frames > self.scratch.len() {
            self.send_staged();
        }
        let frame_size = u64::from(self.pool.layout().frame_size);
        for (i, (frame, start, len)) in packet.into_frames().enumerate() {
            let addr = u64::from(frame.lend(Ring::Tx)) * frame_size + start as u64;
            let options = if i + 1 < frames { PACKET_CONTINUES } else { 0 };
            self.scratch[self.staged] = Desc { addr, len: len as u32, options };
            self.staged += 1;
        }
        self.under_way += frames as u32;
        self.counters.tx_packets += 1;
        self.counters.tx_frames += frames as u64;
    }

    /// Puts what was staged into the TX ring.
    pub fn send_staged(&mut self) {
        self.access.send(&self.scratch[..self.staged]);
        self.staged = 0;
    }

    /// Lets the kernel transmit what is in the TX ring, if it wants to be told.
    pub fn push(&mut self) {
        self.tx_pending = false;
        if !self.always_push && !self.access.tx_needs_wakeup() {
            return;
        }
        for _ in 0..self.pushes_max {
            let before = self.access.tx_room();
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
                Some(libc::EAGAIN) if self.access.tx_room() > before => {}
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
