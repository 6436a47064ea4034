//! What the tests over real veth pairs share: frames, a raw socket as the kernel's side, and a bed with both ends.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bywash::config::AddressUse;
use bywash::device::{Device, WaitDevice};
use bywash::packet::PacketBatch;
use bywash_afxdp::testing::{VethOptions, VethPair};
use bywash_afxdp::{AttachOptions, Error, Mode, Nic, Queue, QueueOptions, Steer};

/// The stack's own address in these tests: the kernel does not have it.
pub const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The kernel's address on the stack's interface.
pub const KERNEL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The peer's address.
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// How long a test waits for something that should happen at once, before it fails.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Sizes that need little memory.
pub fn small() -> QueueOptions {
    QueueOptions { frames: 512, rx_ring: 256, tx_ring: 256, ..QueueOptions::default() }
}

/// A veth pair with kernel addresses on both ends.
pub fn pair(options: VethOptions) -> VethPair {
    let pair = VethPair::new(options);
    pair.stack_address(&format!("{KERNEL}/24"));
    pair.peer_address(&format!("{PEER}/24"));
    pair
}

/// Attaches in the calling thread's namespace.
pub fn attach(pair: &VethPair, address_use: AddressUse) -> Result<Steer, Error> {
    let options = AttachOptions { mode: Mode::Auto, address_use };
    Nic::open(&pair.stack_interface)?.attach(&options)
}

/// Opens queue 0 with [`OWN`] owned, in the calling thread's namespace.
pub fn open_owning(pair: &VethPair, options: &QueueOptions) -> Queue {
    let steer = attach(pair, AddressUse::Own).unwrap();
    let mut queue = steer.queue(0, options).unwrap().open().unwrap();
    queue.steering().own_address(IpAddr::V4(OWN)).unwrap();
    queue
}

/// An Ethernet frame with a UDP datagram of `payload`; no UDP checksum.
pub fn udp(src: Ipv4Addr, dst: Ipv4Addr, src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0]);
    frame.extend(((20 + udp_len) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    let mut sum = bywash::packet::checksum::Sum::ZERO;
    sum.add(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
    for word in [src_port, dst_port, udp_len as u16, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// Bytes that differ from frame to frame and place to place.
pub fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + i / 251) as u8).collect()
}

/// A raw socket (packet(7)) on an interface of the calling thread's namespace, for frames of IPv4.
pub struct RawSocket {
    fd: OwnedFd,
}

impl RawSocket {
    pub fn open(interface: &str) -> Self {
        let protocol = (libc::ETH_P_IP as u16).to_be();
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol))
        };
        assert!(fd >= 0, "raw socket: {}", io::Error::last_os_error());
        // SAFETY: `fd` is open and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: all-zero is a value of this structure of integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        // SAFETY: a C string.
        address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        // SAFETY: the address is `len` bytes long.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(bound, 0, "bind: {}", io::Error::last_os_error());
        let timeout = libc::timeval { tv_sec: PATIENCE.as_secs() as i64, tv_usec: 0 };
        let buffer = 16i32 << 20;
        // SAFETY: both values have the lengths passed.
        unsafe {
            let (fd, sol) = (fd.as_raw_fd(), libc::SOL_SOCKET);
            libc::setsockopt(
                fd,
                sol,
                libc::SO_RCVTIMEO,
                (&raw const timeout).cast(),
                size_of_val(&timeout) as u32,
            );
            libc::setsockopt(fd, sol, libc::SO_RCVBUFFORCE, (&raw const buffer).cast(), 4);
        }
        Self { fd }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer has the length passed.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "send: {}", io::Error::last_os_error());
    }

    /// The next incoming frame; `None` after [`PATIENCE`].
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65_536];
        loop {
            // SAFETY: all-zero is a value of this structure of integers.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: buffer and address have the lengths passed.
            let len = unsafe {
                let (buffer, address) = (frame.as_mut_ptr().cast(), (&raw mut from).cast());
                libc::recvfrom(self.fd.as_raw_fd(), buffer, frame.len(), 0, address, &raw mut from_len)
            };
            if len < 0 {
                return None;
            }
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                frame.truncate(len as usize);
                return Some(frame);
            }
        }
    }
}

/// Receives until `enough` says so or [`PATIENCE`] is over; sleeps in between as a shard does.
pub fn receive_until(queue: &mut Queue, batch: &mut PacketBatch, enough: impl Fn(&PacketBatch) -> bool) {
    let wake = event_fd();
    let started = Instant::now();
    let mut burst = PacketBatch::new();
    while !enough(batch) {
        assert!(started.elapsed() < PATIENCE, "waited too long; {} packets, {:?}", batch.len(), queue);
        if queue.receive(&mut burst, 64) == 0 {
            queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
        }
        batch.append(&mut burst);
    }
}

/// Transmits all of `batch`, sleeping when the ring is full.
pub fn transmit_all(queue: &mut (impl WaitDevice + std::fmt::Debug), batch: &mut PacketBatch) {
    let wake = event_fd();
    let started = Instant::now();
    while !batch.is_empty() {
        assert!(started.elapsed() < PATIENCE, "could not transmit: {queue:?}");
        if queue.transmit(batch) == 0 {
            queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
        }
    }
}

/// Waits until every frame is back in the pool or in the fill ring, and says so.
pub fn assert_all_frames_back(queue: &mut Queue) {
    let wake = event_fd();
    let started = Instant::now();
    loop {
        let usage = queue.pool().usage();
        if usage.tx == 0 && usage.held == 0 {
            assert_eq!(usage.free + usage.fill, usage.total);
            assert_eq!(queue.pool().bogus_returns(), 0);
            let counters = queue.counters();
            assert_eq!((counters.rx_bad_descriptors, counters.bad_completions), (0, 0));
            return;
        }
        assert!(started.elapsed() < PATIENCE, "frames are missing: {usage:?}");
        queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(10))).unwrap();
    }
}

/// An eventfd that nobody writes.
pub fn event_fd() -> OwnedFd {
    // SAFETY: no pointers; the new descriptor is nobody else's.
    unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)) }
}

/// One of the device's statistics by name.
pub fn statistic(device: &mut impl WaitDevice, name: &str) -> u64 {
    let all = device.statistics();
    all.iter().find(|(n, ..)| *n == name).unwrap_or_else(|| panic!("no statistic {name}")).2
}

/// Whether `dst` answers a ping of the calling thread's namespace (ICMP echo, RFC 792) within [`PATIENCE`].
pub fn answers_ping(dst: Ipv4Addr) -> bool {
    // SAFETY: no pointers; the new descriptor is nobody else's.
    let fd = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP);
        assert!(fd >= 0, "raw socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    // The kernel's UDP sockets share their calls with raw ones.
    let socket = std::net::UdpSocket::from(fd);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = [8, 0, 0, 0, 0x42, 0x57, 0, 1, 1, 2, 3, 4];
    let mut sum = bywash::packet::checksum::Sum::ZERO;
    sum.add(&request);
    request[2..4].copy_from_slice(&sum.checksum().to_be_bytes());
    socket.send_to(&request, (dst, 0)).unwrap();
    let mut reply = [0; 128];
    while let Ok((len, from)) = socket.recv_from(&mut reply) {
        if from.ip() == IpAddr::V4(dst) && reply[..len].get(20) == Some(&0) {
            return reply[24..len] == request[4..];
        }
    }
    false
}
