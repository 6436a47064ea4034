//! AF_XDP sockets driven through xsk-rs alone, as its examples do: what our own rings, queues and links are measured
//! against (`benches/`). Same steering program, copy mode, sizes of [`QueueOptions`]; no checks, no counters, no packet pool.

use core::net::IpAddr;
use core::num::NonZeroU32;
use core::time::Duration;
use std::io;
use std::os::fd::AsRawFd;

use bywash::device::Steering;
use bywash::limits::BURST_PACKETS;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::bpf;
use crate::options::{KernelAddresses, QueueOptions, XDP_HEADROOM};
use crate::program::Steer;
use crate::queue::{poll, readable};
use crate::rings::{PACKET_CONTINUES, Share};
use crate::steer::{QueueSteering, Whose};

/// How long a receiver sleeps at most before it looks whether it is to go on, in milliseconds.
const POLL_MS: i32 = 10;

/// A socket on one queue.
pub struct PlainSocket {
    ends: Ends,
    umem: Umem,
    /// Frames that are in no ring.
    idle: Vec<FrameDesc>,
    scratch: [FrameDesc; BURST_PACKETS],
    /// Bytes of a frame that a packet may take.
    room: usize,
}

/// A socket's steering and its rings.
struct Ends {
    steering: QueueSteering,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

impl PlainSocket {
    /// Binds to `queue` of the interface that `steer` is attached to, in the calling thread's namespace, and puts half of
    /// the frames into the fill ring.
    ///
    /// # Errors
    /// What xsk-rs or the kernel answers.
    pub fn open(steer: &Steer, queue: u32, options: &QueueOptions) -> io::Result<Self> {
        let (umem, mut idle) = memory(options)?;
        let filled = idle.split_off(idle.len() - options.fill_target() as usize);
        let whose = Whose::ByAddress(&options.port_addresses);
        let ends = Ends::open(steer, queue, options, &umem, &filled, whose)?;
        let room = (options.frame_size - XDP_HEADROOM) as usize;
        Ok(Self { ends, umem, idle, scratch: [FrameDesc::default(); BURST_PACKETS], room })
    }

    /// Packets to `addr` come to this socket.
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    pub fn own_address(&mut self, addr: IpAddr) -> io::Result<()> {
        self.ends.steering.own_address(addr)
    }

    /// Sends `packet` over and over, in bursts; the frames' bytes are written once. `more` gets the packets of each burst and
    /// says how many the next may have; `None`: no more.
    pub fn transmit(&mut self, packet: &[u8], mut more: impl FnMut(u64) -> Option<usize>) {
        let pieces: Vec<&[u8]> = packet.chunks(self.room).collect();
        for desc in &mut self.idle {
            // SAFETY: the frame is in no ring.
            let mut data = unsafe { self.umem.data_mut(desc) };
            // Every frame gets the head, whatever place it will take: nobody reads what follows.
            data.cursor().set_pos(pieces[0].len());
            data.contents_mut().copy_from_slice(pieces[0]);
        }
        let mut packets = 0;
        while let Some(may) = more(packets as u64) {
            self.ends.reap(&mut self.idle);
            let room = (self.ends.tx.nb_free_exact() as usize).min(self.idle.len()).min(BURST_PACKETS);
            packets = (room / pieces.len()).min(may);
            let mut count = 0;
            for _ in 0..packets {
                for (i, piece) in pieces.iter().enumerate() {
                    let mut desc = self.idle.pop().expect("counted above");
                    // SAFETY: the frame is in no ring; the cursor only notes the length.
                    unsafe { self.umem.data_mut(&mut desc) }.cursor().set_pos(piece.len());
                    desc.set_options(if i + 1 < pieces.len() { PACKET_CONTINUES } else { 0 });
                    self.scratch[count] = desc;
                    count += 1;
                }
            }
            self.ends.send(&self.scratch[..count], &mut self.idle);
        }
    }

    /// Receives and drops. `go_on` gets the packets of each burst.
    ///
    /// # Errors
    /// What `poll(2)` answers.
    pub fn drop_all(&mut self, mut go_on: impl FnMut(u64) -> bool) -> io::Result<()> {
        loop {
            // SAFETY: what is received is only given back to the fill ring.
            let count = unsafe { self.ends.rx.poll_and_consume(&mut self.scratch, POLL_MS)? };
            if !go_on(self.dropped(count)) {
                return Ok(());
            }
        }
    }

    /// Receives a burst, if there is one, and drops it; returns its packets.
    pub fn take(&mut self) -> u64 {
        // SAFETY: what is received is only given back to the fill ring.
        let count = unsafe { self.ends.rx.consume(&mut self.scratch) };
        self.dropped(count)
    }

    /// Gives `count` received frames in the scratch back; returns how many packets they were.
    fn dropped(&mut self, count: usize) -> u64 {
        let received = &self.scratch[..count];
        // SAFETY: these frames were just received. Each came from the fill ring, which so has room for them.
        unsafe { self.ends.fill.produce(received) };
        received.iter().filter(|desc| !desc.has_more_frames()).count() as u64
    }

    /// Sends back what comes, with its Ethernet addresses swapped. `go_on` gets the packets of each burst.
    ///
    /// # Errors
    /// What `poll(2)` answers.
    pub fn reflect(&mut self, mut go_on: impl FnMut(u64) -> bool) -> io::Result<()> {
        let mut is_head = true;
        loop {
            // SAFETY: what is received is sent, and goes to the fill ring when it has been.
            let count = unsafe { self.ends.rx.poll_and_consume(&mut self.scratch, POLL_MS)? };
            let mut packets = 0;
            for desc in &mut self.scratch[..count] {
                if is_head {
                    // SAFETY: the frame was just received and is in no ring.
                    let mut data = unsafe { self.umem.data_mut(desc) };
                    let (dst, src) = data.contents_mut()[..12].split_at_mut(6);
                    dst.swap_with_slice(src);
                }
                is_head = !desc.has_more_frames();
                packets += u64::from(is_head);
            }
            self.ends.reap(&mut self.idle);
            let most = self.idle.len();
            self.ends.fill(&mut self.idle, most);
            self.ends.send(&self.scratch[..count], &mut self.idle);
            if !go_on(packets) {
                return Ok(());
            }
        }
    }
}

/// Two NICs over one packet memory, a queue of each: what comes in by one goes out by the other.
pub struct PlainForwarder {
    ends: [Ends; 2],
    umem: Umem,
    /// Frames that are in no ring.
    idle: Vec<FrameDesc>,
    scratch: [FrameDesc; BURST_PACKETS],
    /// Frames that each fill ring and NIC have.
    filled: [usize; 2],
    fill_target: usize,
}

impl PlainForwarder {
    /// Binds to queue 0 of the interfaces that these are attached to, in the calling thread's namespace. Everything that
    /// comes in there is the sockets'. Each fill ring gets what one of [`Links`](crate::Links) gets.
    ///
    /// # Errors
    /// What xsk-rs or the kernel answers.
    pub fn open(steers: [&Steer; 2], options: &QueueOptions) -> io::Result<Self> {
        let (umem, mut idle) = memory(options)?;
        let fill_target = Share::of_each(options, 2).fill as usize;
        let mut open = |steer| {
            let filled = idle.split_off(idle.len() - fill_target);
            Ends::open(steer, 0, options, &umem, &filled, Whose::Stacks(&KernelAddresses::None))
        };
        let ends = [open(steers[0])?, open(steers[1])?];
        let scratch = [FrameDesc::default(); BURST_PACKETS];
        Ok(Self { ends, umem, idle, scratch, filled: [fill_target; 2], fill_target })
    }

    /// Forwards; what leaves by a link gets the Ethernet addresses (destination and source, 12 bytes) of `addresses`.
    /// `go_on` gets the packets of each round.
    ///
    /// # Errors
    /// What `poll(2)` answers.
    pub fn forward(
        &mut self,
        addresses: [[u8; 12]; 2],
        mut go_on: impl FnMut(u64) -> bool,
    ) -> io::Result<()> {
        let mut is_head = [true; 2];
        loop {
            let (mut received, mut packets) = (0, 0);
            for from in [0, 1] {
                let to = 1 - from;
                // SAFETY: what is received is sent, and goes to a fill ring when it has been.
                let count = unsafe { self.ends[from].rx.consume(&mut self.scratch) };
                self.filled[from] -= count;
                for desc in &mut self.scratch[..count] {
                    if is_head[from] {
                        // SAFETY: the frame was just received and is in no ring.
                        let mut data = unsafe { self.umem.data_mut(desc) };
                        data.contents_mut()[..12].copy_from_slice(&addresses[to]);
                    }
                    is_head[from] = !desc.has_more_frames();
                    packets += u64::from(is_head[from]);
                }
                self.ends[to].reap(&mut self.idle);
                if count > 0 {
                    self.ends[to].send(&self.scratch[..count], &mut self.idle);
                }
                let lacking = self.fill_target - self.filled[from];
                self.filled[from] += self.ends[from].fill(&mut self.idle, lacking);
                received += count;
            }
            if !go_on(packets) {
                return Ok(());
            }
            if received == 0 {
                let mut fds = self.ends.each_ref().map(|ends| readable(ends.rx.fd().as_raw_fd()));
                poll(&mut fds, Some(Duration::from_millis(POLL_MS as u64)))?;
            }
        }
    }
}

/// A new packet memory and its frames.
fn memory(options: &QueueOptions) -> io::Result<(Umem, Vec<FrameDesc>)> {
    let umem = UmemConfig::builder()
        .frame_size(FrameSize::new(options.frame_size).map_err(io::Error::other)?)
        .fill_queue_size(size(options.rx_ring)?)
        .comp_queue_size(size(options.tx_ring)?)
        .build()
        .map_err(io::Error::other)?;
    let frames = NonZeroU32::new(options.frames).ok_or(io::ErrorKind::InvalidInput)?;
    Umem::new(umem, frames, false).map_err(io::Error::other)
}

fn size(size: u32) -> io::Result<QueueSize> {
    QueueSize::new(size).map_err(io::Error::other)
}

impl Ends {
    /// Of a socket over `umem`, whose frames `filled` are to be received into and in no other ring.
    fn open(
        steer: &Steer,
        queue: u32,
        options: &QueueOptions,
        umem: &Umem,
        filled: &[FrameDesc],
        whose: Whose<'_>,
    ) -> io::Result<Self> {
        let config = SocketConfig::builder()
            .rx_queue_size(size(options.rx_ring)?)
            .tx_queue_size(size(options.tx_ring)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG)
            .build();
        let interface = Interface::new(bpf::c_name(&steer.nic().name)?);
        // SAFETY: the UMEM is bound to each queue once only, and libxdp loads no program.
        let socket = unsafe { Socket::new(config, umem, &interface, queue) };
        let (tx, rx, rings) = socket.map_err(io::Error::other)?;
        let (mut fill, completion) = rings.ok_or(io::ErrorKind::AddrInUse)?;
        // SAFETY: these frames are in no other ring.
        unsafe { fill.produce(filled) };
        let steering = QueueSteering::start(&steer.inner, queue, rx.fd().as_raw_fd(), whose)?;
        Ok(Self { steering, rx, tx, fill, completion })
    }

    /// Puts descriptors into the TX ring, if it has room for all, and lets the kernel send them.
    fn send(&mut self, descs: &[FrameDesc], idle: &mut Vec<FrameDesc>) {
        // SAFETY: these frames are in no ring.
        let put = unsafe { self.tx.produce(descs) };
        if put < descs.len() {
            idle.extend_from_slice(descs);
        }
        if self.tx.needs_wakeup() {
            // What it answers does not matter: what remains is sent with the next call.
            let _ = self.tx.wakeup();
        }
    }

    /// Takes transmitted frames back.
    fn reap(&mut self, idle: &mut Vec<FrameDesc>) {
        let mut done = [FrameDesc::default(); BURST_PACKETS];
        loop {
            // SAFETY: what has been transmitted is in no ring any more.
            let count = unsafe { self.completion.consume(&mut done) };
            idle.extend_from_slice(&done[..count]);
            if count < done.len() {
                return;
            }
        }
    }

    /// Puts idle frames, `most` at most, into the fill ring; returns how many.
    fn fill(&mut self, idle: &mut Vec<FrameDesc>, most: usize) -> usize {
        let count = idle.len().min(most).min(self.fill.nb_free_exact() as usize);
        let frames = idle.split_off(idle.len() - count);
        // SAFETY: these frames are in no ring.
        unsafe { self.fill.produce(&frames) };
        count
    }
}
