//! AF_XDP sockets driven through xsk-rs alone, as its examples do: what our own rings and queues are measured against
//! (`benches/`). Same steering program, copy mode, sizes of [`QueueOptions`]; no checks, no counters, no packet pool.

use core::net::IpAddr;
use core::num::NonZeroU32;
use std::io;
use std::os::fd::AsRawFd;

use bywash::device::Steering;
use bywash::limits::BURST_PACKETS;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::bpf;
use crate::options::{QueueOptions, XDP_HEADROOM};
use crate::program::Steer;
use crate::rings::PACKET_CONTINUES;
use crate::steer::{QueueSteering, Whose};

/// How long a receiver sleeps at most before it looks whether it is to go on, in milliseconds.
const POLL_MS: i32 = 10;

/// A socket on one queue.
pub struct PlainSocket {
    steering: QueueSteering,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: Umem,
    /// Frames that are in no ring.
    idle: Vec<FrameDesc>,
    scratch: [FrameDesc; BURST_PACKETS],
    /// Bytes of a frame that a packet may take.
    room: usize,
}

impl PlainSocket {
    /// Binds to `queue` of the interface that `steer` is attached to, in the calling thread's namespace, and puts half of
    /// the frames into the fill ring.
    ///
    /// # Errors
    /// What xsk-rs or the kernel answers.
    pub fn open(steer: &Steer, queue: u32, options: &QueueOptions) -> io::Result<Self> {
        let size = |size| QueueSize::new(size).map_err(io::Error::other);
        let umem = UmemConfig::builder()
            .frame_size(FrameSize::new(options.frame_size).map_err(io::Error::other)?)
            .fill_queue_size(size(options.rx_ring)?)
            .comp_queue_size(size(options.tx_ring)?)
            .build()
            .map_err(io::Error::other)?;
        let frames = NonZeroU32::new(options.frames).ok_or(io::ErrorKind::InvalidInput)?;
        let (umem, mut idle) = Umem::new(umem, frames, false).map_err(io::Error::other)?;
        let config = SocketConfig::builder()
            .rx_queue_size(size(options.rx_ring)?)
            .tx_queue_size(size(options.tx_ring)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG)
            .build();
        let interface = Interface::new(bpf::c_name(&steer.nic().name)?);
        // SAFETY: the UMEM is bound to this queue only, and libxdp loads no program.
        let socket = unsafe { Socket::new(config, &umem, &interface, queue) };
        let (tx, rx, rings) = socket.map_err(io::Error::other)?;
        let (mut fill, completion) = rings.ok_or(io::ErrorKind::AddrInUse)?;
        let filled = idle.split_off(idle.len() - options.fill_target() as usize);
        // SAFETY: these frames are in no other ring.
        unsafe { fill.produce(&filled) };
        let steering = QueueSteering::start(
            &steer.inner,
            queue,
            rx.fd().as_raw_fd(),
            Whose::ByAddress(&options.port_addresses),
        )?;
        let room = (options.frame_size - XDP_HEADROOM) as usize;
        let scratch = [FrameDesc::default(); BURST_PACKETS];
        Ok(Self { steering, rx, tx, fill, completion, umem, idle, scratch, room })
    }

    /// Packets to `addr` come to this socket.
    ///
    /// # Errors
    /// When the kernel refuses the map update.
    pub fn own_address(&mut self, addr: IpAddr) -> io::Result<()> {
        self.steering.own_address(addr)
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
            self.reap();
            let room = (self.tx.nb_free_exact() as usize).min(self.idle.len()).min(BURST_PACKETS);
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
            self.send(count);
        }
    }

    /// Receives and drops. `go_on` gets the packets of each burst.
    ///
    /// # Errors
    /// What `poll(2)` answers.
    pub fn drop_all(&mut self, mut go_on: impl FnMut(u64) -> bool) -> io::Result<()> {
        loop {
            // SAFETY: what is received is only given back to the fill ring.
            let count = unsafe { self.rx.poll_and_consume(&mut self.scratch, POLL_MS)? };
            let received = &self.scratch[..count];
            let packets = received.iter().filter(|desc| !desc.has_more_frames()).count();
            // SAFETY: these frames were just received. Each came from the fill ring, which so has room for them.
            unsafe { self.fill.produce(received) };
            if !go_on(packets as u64) {
                return Ok(());
            }
        }
    }

    /// Sends back what comes, with its Ethernet addresses swapped. `go_on` gets the packets of each burst.
    ///
    /// # Errors
    /// What `poll(2)` answers.
    pub fn reflect(&mut self, mut go_on: impl FnMut(u64) -> bool) -> io::Result<()> {
        let mut is_head = true;
        loop {
            // SAFETY: what is received is sent, and goes to the fill ring when it has been.
            let count = unsafe { self.rx.poll_and_consume(&mut self.scratch, POLL_MS)? };
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
            self.reap();
            let give_back = self.idle.len().min(self.fill.nb_free_exact() as usize);
            let back = self.idle.split_off(self.idle.len() - give_back);
            // SAFETY: these frames are in no ring.
            unsafe { self.fill.produce(&back) };
            self.send(count);
            if !go_on(packets) {
                return Ok(());
            }
        }
    }

    /// Puts the first `count` descriptors of the scratch into the TX ring and lets the kernel send them.
    fn send(&mut self, count: usize) {
        // SAFETY: these frames are in no ring.
        let put = unsafe { self.tx.produce(&self.scratch[..count]) };
        if put < count {
            self.idle.extend_from_slice(&self.scratch[..count]);
        }
        if self.tx.needs_wakeup() {
            // What it answers does not matter: what remains is sent with the next call.
            let _ = self.tx.wakeup();
        }
    }

    /// Takes transmitted frames back.
    fn reap(&mut self) {
        let mut done = [FrameDesc::default(); BURST_PACKETS];
        loop {
            // SAFETY: what has been transmitted is in no ring any more.
            let count = unsafe { self.completion.consume(&mut done) };
            self.idle.extend_from_slice(&done[..count]);
            if count < done.len() {
                return;
            }
        }
    }
}
