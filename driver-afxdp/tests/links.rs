//! Two NICs as one device, over real veth pairs: a forwarder of a few lines between kernel peers on both sides, the frames
//! that packets go through it in, and the pool that the NICs share.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bywash::config::AddressUse;
use bywash::device::{Device, WaitDevice};
use bywash::packet::{Packet, PacketBatch};
use bywash_afxdp::testing::{VethOptions, VethPair, last_addresses, use_library_rings};
use bywash_afxdp::{
    BindMode, Error, KernelAddresses, LinkOptions, Links, LinksOpener, QueueOptions, Steer, require_root,
};
use common::*;

/// The host behind the second link; [`PEER`] is behind the first.
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

/// Frames for two links of one queue each.
fn options() -> QueueOptions {
    QueueOptions { frames: 1024, rx_ring: 256, tx_ring: 256, ..QueueOptions::default() }
}

/// Two hosts, [`PEER`] and [`FAR`], each on a link of its own, that take each other for neighbours behind the forwarder.
/// The kernel has [`KERNEL`] on the first link.
struct Bed {
    pairs: [VethPair; 2],
    /// Addresses of the device's ends of the links.
    macs: [[u8; 6]; 2],
}

const HOSTS: [Ipv4Addr; 2] = [PEER, FAR];

/// Where tests send frames that a raw socket receives and the kernel behind it leaves alone.
const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 9];

impl Bed {
    fn new(options: VethOptions) -> Self {
        // Checksums in full: what one host leaves to its device the other's would not add.
        let near = pair(VethOptions { peer_offloads: false, ..options });
        let far = near.beside(VethOptions { peer_offloads: false, ..options });
        far.peer_address(&format!("{FAR}/24"));
        let pairs = [near, far];
        let macs = pairs.each_ref().map(|pair| pair.nic().unwrap().mac.0);
        let bed = Self { pairs, macs };
        for (side, other) in [(0, FAR), (1, PEER)] {
            let VethPair { peer, peer_interface, .. } = &bed.pairs[side];
            let mac = bed.macs[side].map(|byte| format!("{byte:02x}")).join(":");
            peer.ip(&format!("neighbor add {other} lladdr {mac} dev {peer_interface}"));
        }
        bed
    }

    /// The address of a host.
    fn host_mac(&self, link: usize) -> [u8; 6] {
        let VethPair { peer, peer_interface, .. } = &self.pairs[link];
        peer.run(|| bywash_afxdp::Nic::open(peer_interface)).unwrap().mac.0
    }

    /// The steering programs; to be called where the NICs are.
    fn attach(&self) -> [Steer; 2] {
        [0, 1].map(|link| attach(&self.pairs[link], AddressUse::Own).unwrap())
    }

    /// Both NICs as a device; to be called where they are.
    fn open(&self, options: &QueueOptions) -> Links {
        let steers = self.attach();
        let links = [0, 1].map(|link| (&steers[link], LinkOptions::default()));
        LinksOpener::new(&links, options).unwrap().open().unwrap()
    }

    /// A frame from the host at one link to the other, as it leaves that host.
    fn frame(&self, from: usize, payload: &[u8]) -> Vec<u8> {
        let mut frame = udp(HOSTS[from], HOSTS[1 - from], 5000, 7, payload);
        frame[..6].copy_from_slice(&self.macs[from]);
        frame
    }

    /// The same as it arrives at the other host, addressed to [`NOBODY`].
    fn forwarded(&self, from: usize, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        frame[..6].copy_from_slice(&NOBODY);
        frame[6..12].copy_from_slice(&self.macs[1 - from]);
        frame
    }

    /// A raw socket of each host.
    fn sockets(&self) -> [RawSocket; 2] {
        let open = |pair: &VethPair| pair.peer.run(|| RawSocket::open(&pair.peer_interface));
        self.pairs.each_ref().map(open)
    }

    /// Runs `work` with a forwarder going on meanwhile.
    fn while_forwarding(&self, options: &QueueOptions, library: bool, work: impl FnOnce()) {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (ready, is_ready) = std::sync::mpsc::channel();
            let over = &over;
            let forwarder = scope.spawn(move || {
                self.pairs[0].stack.enter();
                use_library_rings(library);
                let mut links = self.open(options);
                let hosts = [0, 1].map(|link| self.host_mac(link));
                ready.send(()).unwrap();
                let wake = event_fd();
                while !over.load(Ordering::Relaxed) {
                    if forward(&mut links, hosts) == 0 {
                        links.wait(wake.as_raw_fd(), Some(Duration::from_millis(10))).unwrap();
                    }
                }
                assert_all_back(&mut links);
                assert_eq!(statistic(&mut links, "driver_tx_realigned"), 0, "a packet was moved");
            });
            is_ready.recv().unwrap();
            // The forwarder must end also when this panics.
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            over.store(true, Ordering::Relaxed);
            forwarder.join().unwrap();
            worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

/// Addresses a packet to `dst` on the link that it will leave by.
fn address(packet: &mut Packet, dst: [u8; 6], src: [u8; 6]) {
    packet.head_mut()[..6].copy_from_slice(&dst);
    packet.head_mut()[6..12].copy_from_slice(&src);
}

/// Takes a burst from each link to the other and addresses it to the host there; returns how many packets.
fn forward(links: &mut Links, hosts: [[u8; 6]; 2]) -> usize {
    let mut forwarded = 0;
    for from in [0, 1] {
        let (mut received, to) = (PacketBatch::new(), 1 - from);
        links.receive_on(from, &mut received, 64);
        received.retain(|packet| packet.head().get(30..34) == Some(&HOSTS[to].octets()));
        let mac = links.capabilities_of(to).mac.0;
        received.iter_mut().for_each(|packet| address(packet, hosts[to], mac));
        forwarded += received.len();
        transmit_all_on(links, to, &mut received);
    }
    forwarded
}

/// Receives on a link until there are `count` packets of IPv4, sleeping in between.
fn receive_on(links: &mut Links, link: usize, count: usize) -> PacketBatch {
    let (wake, started) = (event_fd(), Instant::now());
    let mut batch = PacketBatch::new();
    while batch.len() < count {
        assert!(started.elapsed() < PATIENCE, "{} of {count} packets: {links:?}", batch.len());
        let mut burst = PacketBatch::new();
        if links.receive_on(link, &mut burst, 64) == 0 {
            links.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
        }
        batch.extend(burst.into_iter().filter(|packet| packet.head()[12..14] == [8, 0]));
    }
    batch
}

/// Transmits all of `batch` on a link, sleeping when there is no room.
fn transmit_all_on(links: &mut Links, link: usize, batch: &mut PacketBatch) {
    let (wake, started) = (event_fd(), Instant::now());
    while !batch.is_empty() {
        assert!(started.elapsed() < PATIENCE, "could not transmit: {links:?}");
        if links.transmit_on(link, batch) == 0 {
            links.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
        }
    }
}

/// Waits until every frame is back in the pool or in a fill ring, and says so.
fn assert_all_back(links: &mut Links) {
    let (wake, started) = (event_fd(), Instant::now());
    while links.pool().usage().tx > 0 {
        assert!(started.elapsed() < PATIENCE, "frames are missing: {links:?}");
        links.wait(wake.as_raw_fd(), Some(Duration::from_millis(10))).unwrap();
    }
    let usage = links.pool().usage();
    assert_eq!((usage.free + usage.fill, usage.held), (usage.total, 0));
    assert_eq!(links.pool().bogus_returns(), 0);
    for name in ["driver_rx_bad_descriptors", "driver_bad_completions"] {
        assert_eq!(statistic(links, name), 0, "{name}");
    }
}

/// Sends a megabyte each way over one connection from the host of `client` to an echoing server at `address`, which is
/// the host of `server` or the kernel at its other end.
fn echo_a_megabyte(address: Ipv4Addr, server: &VethPair, is_peer: bool, client: &VethPair) {
    let namespace = if is_peer { &server.peer } else { &server.stack };
    let listener = namespace.run(|| TcpListener::bind((address, 2222)).unwrap());
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap()
        });
        client.peer.run(|| {
            let mut stream = TcpStream::connect((address, 2222)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let data = pattern(3, 1 << 20);
            let mut writer = stream.try_clone().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    writer.write_all(&data).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                stream.read_to_end(&mut back).unwrap();
                assert!(back == data, "{} bytes came back", back.len());
            });
        });
    });
}

/// What two hosts and the kernel between them are to reach of each other.
fn hosts_reach_each_other(bed: &Bed) {
    let [near, far] = &bed.pairs;
    assert!(near.peer.run(|| answers_ping(FAR)) && far.peer.run(|| answers_ping(PEER)));
    let socket = far.peer.run(|| UdpSocket::bind((FAR, 9)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = near.peer.run(|| UdpSocket::bind((PEER, 0)).unwrap());
    for i in 0..200 {
        let (sent, mut received) = (pattern(i, 1 + i * 7), [0; 2048]);
        client.send_to(&sent, (FAR, 9)).unwrap();
        let len = socket.recv(&mut received).unwrap();
        assert!(received[..len] == sent, "datagram {i}");
    }
    echo_a_megabyte(FAR, far, true, near);
    // The kernel's own address on the first link.
    assert!(near.peer.run(|| answers_ping(KERNEL)) && near.stack.run(|| answers_ping(PEER)));
    echo_a_megabyte(KERNEL, near, false, near);
}

#[test]
fn hosts_reach_each_other_and_the_kernel_through_a_forwarder() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    bed.while_forwarding(&options(), false, || hosts_reach_each_other(&bed));
}

#[test]
fn hosts_reach_each_other_with_jumbo_frames_over_several_queues() {
    require_root!();
    let bed = Bed::new(VethOptions { mtu: 9000, queues: 2, ..VethOptions::default() });
    let options = QueueOptions { frames: 2048, ..options() };
    bed.while_forwarding(&options, false, || hosts_reach_each_other(&bed));
}

/// What kernels before 6.4 need.
#[test]
fn hosts_reach_each_other_by_the_librarys_ring_calls() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    bed.while_forwarding(&options(), true, || hosts_reach_each_other(&bed));
}

#[test]
fn a_packet_goes_out_in_the_frames_it_came_in() {
    require_root!();
    for (mtu, payload, frames) in [(1500, 18, 1), (1500, 1472, 1), (9000, 8972, 3)] {
        let bed = Bed::new(VethOptions { mtu, ..VethOptions::default() });
        let sockets = bed.sockets();
        bed.pairs[0].stack.run(|| {
            let mut links = bed.open(&options());
            for from in [0, 1, 1, 0] {
                let frame = bed.frame(from, &pattern(from, payload));
                sockets[from].send(&frame);
                let mut packet = receive_on(&mut links, from, 1);
                assert_eq!(packet[0].frames(), frames);
                address(&mut packet[0], NOBODY, bed.macs[1 - from]);
                transmit_all_on(&mut links, 1 - from, &mut packet);
                assert!(sockets[1 - from].receive().unwrap() == bed.forwarded(from, &frame));
                let [received, _] = last_addresses(&links.queues(from)[0], &options()).unwrap();
                let [_, sent] = last_addresses(&links.queues(1 - from)[0], &options()).unwrap();
                assert_eq!(received, sent, "where the last frame's bytes are");
            }
            assert_eq!(statistic(&mut links, "driver_tx_realigned"), 0);
            assert_all_back(&mut links);
        });
    }
}

#[test]
fn frames_wander_between_the_nics_without_end() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    let [near, far] = bed.sockets();
    bed.pairs[0].stack.run(|| {
        let mut links = bed.open(&options());
        // All in one direction, several times as many as the pool has frames: each that the second NIC has transmitted must
        // come to the first one's fill ring again.
        for round in 0..100 {
            let frames: Vec<_> = (0..64).map(|i| bed.frame(0, &pattern(i * round, 40 + i))).collect();
            frames.iter().for_each(|frame| near.send(frame));
            let mut left = frames.len();
            let wake = event_fd();
            while left > 0 {
                let count = forward(&mut links, [NOBODY; 2]);
                left -= count;
                if count == 0 {
                    links.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
                }
            }
            for frame in &frames {
                assert!(far.receive().unwrap() == bed.forwarded(0, frame), "round {round}");
            }
        }
        assert_all_back(&mut links);
        assert_eq!(statistic(&mut links, "driver_rx_starved"), 0);
        let usage = links.pool().usage();
        assert_eq!((usage.fill, usage.free), (512, 512), "half of the pool waits to be received into");
    });
}

#[test]
fn a_link_that_takes_nothing_does_not_stop_the_other() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    let ([near, far], VethPair { stack, .. }) = (bed.sockets(), &bed.pairs[0]);
    stack.run(|| {
        let mut links = bed.open(&options());
        stack.ip(&format!("link set {} down", bed.pairs[1].stack_interface));
        // Packets to the second link until it takes no more: an eighth of the pool, which two links share.
        let room = links.transmit_room_on(1);
        assert_eq!(room, 128);
        let frame = bed.forwarded(0, &bed.frame(0, b"for later"));
        let mut waiting: PacketBatch =
            (0..200).map(|_| Packet::copy_from(links.pool(), &frame).unwrap()).collect();
        assert_eq!(links.transmit_on(1, &mut waiting), room);
        assert_eq!((links.transmit_on(1, &mut waiting), links.transmit_room_on(1)), (0, 0));
        // The first link reflects several times what the pool has.
        for _ in 0..50 {
            let frames: Vec<_> = (0..64).map(|i| bed.frame(0, &pattern(i, 100))).collect();
            frames.iter().for_each(|frame| near.send(frame));
            let mut batch = receive_on(&mut links, 0, frames.len());
            batch.iter_mut().for_each(|packet| address(packet, NOBODY, bed.macs[0]));
            transmit_all_on(&mut links, 0, &mut batch);
            for frame in &frames {
                assert!(near.receive().unwrap()[14..] == frame[14..]);
            }
        }
        assert_eq!(links.transmit_room_on(1), 0, "still waiting");
        // And nothing that the second was given is lost.
        stack.ip(&format!("link set {} up", bed.pairs[1].stack_interface));
        transmit_all_on(&mut links, 1, &mut waiting);
        for index in 0..200 {
            assert!(far.receive().expect("a packet that waited") == frame, "{index}");
            if index % 32 == 0 {
                links.wait(event_fd().as_raw_fd(), Some(Duration::ZERO)).unwrap();
            }
        }
        assert_all_back(&mut links);
    });
}

#[test]
fn a_link_that_goes_down_and_up_forwards_again() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    let far = &bed.pairs[1];
    far.stack.run(|| {
        let mut links = bed.open(&options());
        let until = |links: &mut Links, up: bool| {
            let (wake, started) = (event_fd(), Instant::now());
            while links.queues(1)[0].link_is_up() != up {
                assert!(started.elapsed() < PATIENCE, "news of the link");
                links.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
            }
        };
        for _ in 0..3 {
            assert!(links.queues(0)[0].link_is_up() && links.queues(1)[0].link_is_up());
            far.peer.ip(&format!("link set {} down", far.peer_interface));
            until(&mut links, false);
            assert!(links.queues(0)[0].link_is_up(), "the other");
            far.peer.ip(&format!("link set {} up", far.peer_interface));
            until(&mut links, true);
            let sockets = bed.sockets();
            let frame = bed.frame(0, b"up again");
            sockets[0].send(&frame);
            let mut batch = receive_on(&mut links, 0, 1);
            address(&mut batch[0], NOBODY, bed.macs[1]);
            transmit_all_on(&mut links, 1, &mut batch);
            assert!(sockets[1].receive().unwrap() == bed.forwarded(0, &frame));
        }
        assert_all_back(&mut links);
    });
}

#[test]
fn a_nic_that_is_removed_ends_the_sleep_with_its_name() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    bed.pairs[0].stack.run(|| {
        let mut links = bed.open(&options());
        let name = &bed.pairs[1].stack_interface;
        bed.pairs[0].stack.ip(&format!("link delete {name}"));
        let (wake, started) = (event_fd(), Instant::now());
        let error = loop {
            assert!(started.elapsed() < PATIENCE, "news of the link");
            if let Err(error) = links.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkDown);
        assert!(error.to_string().contains(name.as_str()), "{error}");
    });
}

#[test]
fn closing_gives_both_nics_back_to_the_kernel() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    let (sockets, [near, far]) = (bed.sockets(), &bed.pairs);
    far.stack_address("198.51.100.1/24");
    far.peer_address("198.51.100.2/24");
    let far_kernel = Ipv4Addr::new(198, 51, 100, 1);
    near.stack.run(|| {
        for _ in 0..2 {
            let steers = bed.attach();
            let all = LinkOptions { kernel_addresses: KernelAddresses::None, ..LinkOptions::default() };
            let chosen = [0, 1].map(|link| (&steers[link], all.clone()));
            let mut links = LinksOpener::new(&chosen, &options()).unwrap().open().unwrap();
            assert!(links.queues(0).iter().chain(links.queues(1)).all(|q| q.mode().bind == BindMode::Copy));
            // What is for the kernel's addresses is the stack's here: nothing answers.
            for (link, dst) in [(0, KERNEL), (1, far_kernel)] {
                let mut frame = udp(HOSTS[link], dst, 1, 2, b"to the kernel");
                frame[..6].copy_from_slice(&bed.macs[link]);
                sockets[link].send(&frame);
                assert_eq!(receive_on(&mut links, link, 1)[0].head(), frame);
            }
            drop((links, steers));
            assert!(near.peer.run(|| answers_ping(KERNEL)) && far.peer.run(|| answers_ping(far_kernel)));
            for pair in [near, far] {
                assert_eq!(pair.nic().unwrap().attached, None);
            }
        }
    });
}

#[test]
fn a_link_transmits_on_its_next_queue_when_one_is_full() {
    require_root!();
    let bed = Bed::new(VethOptions { queues: 2, ..VethOptions::default() });
    let far = &bed.pairs[1];
    bed.pairs[0].stack.run(|| {
        let mut links = bed.open(&QueueOptions { frames: 2048, ..options() });
        assert_eq!(links.queues(1).len(), 2);
        far.stack.ip(&format!("link set {} down", far.stack_interface));
        assert_eq!(links.transmit_room_on(1), 256);
        let frame = bed.forwarded(0, &bed.frame(0, b"many"));
        let mut batch: PacketBatch =
            (0..300).map(|_| Packet::copy_from(links.pool(), &frame).unwrap()).collect();
        assert_eq!(links.transmit_on(1, &mut batch), 256);
        assert!(links.queues(1).iter().all(|queue| queue.counters().tx_packets == 128), "on both");
        far.stack.ip(&format!("link set {} up", far.stack_interface));
        transmit_all_on(&mut links, 1, &mut batch);
        assert_all_back(&mut links);
        assert_eq!(statistic(&mut links, "driver_tx_packets"), 300, "the sum over the queues");
    });
}

#[test]
fn all_queues_of_a_link_are_received_from() {
    require_root!();
    let bed = Bed::new(VethOptions { queues: 2, ..VethOptions::default() });
    let [socket, _] = bed.sockets();
    bed.pairs[0].stack.run(|| {
        let mut links = bed.open(&QueueOptions { frames: 2048, ..options() });
        let mut frames: Vec<_> = (0..64u16)
            .map(|i| {
                let mut frame = udp(PEER, FAR, 5000 + i, 7, &i.to_be_bytes());
                frame[..6].copy_from_slice(&bed.macs[0]);
                frame
            })
            .collect();
        frames.iter().for_each(|frame| socket.send(frame));
        let mut received: Vec<_> =
            receive_on(&mut links, 0, frames.len()).iter().map(|packet| packet.head().to_vec()).collect();
        received.sort();
        frames.sort();
        assert!(received == frames, "each once");
        assert!(links.queues(0).iter().all(|queue| queue.counters().rx_packets > 0), "flows on both");
        assert!(links.queues(1).iter().all(|queue| queue.counters().rx_packets == 0));
        // A budget smaller than what one queue has leaves the other its turn.
        for round in 0..2 {
            frames.iter().for_each(|frame| socket.send(frame));
            let mut batch = PacketBatch::new();
            let before: Vec<_> = links.queues(0).iter().map(|queue| queue.counters().rx_packets).collect();
            assert_eq!((links.receive_on(0, &mut batch, 1), links.receive_on(0, &mut batch, 1)), (1, 1));
            let after: Vec<_> = links.queues(0).iter().map(|queue| queue.counters().rx_packets).collect();
            assert!(before.iter().zip(&after).all(|(before, after)| before + 1 == *after), "round {round}");
            receive_on(&mut links, 0, frames.len() - 2);
        }
    });
}

#[test]
fn what_cannot_be_opened_is_refused_before() {
    require_root!();
    let bed = Bed::new(VethOptions { queues: 2, ..VethOptions::default() });
    bed.pairs[0].stack.run(|| {
        let steers = bed.attach();
        let queues = |queues: &[u32]| LinkOptions { queues: queues.to_vec(), ..LinkOptions::default() };
        let refused = |links: &[(&Steer, LinkOptions)], options: &QueueOptions| {
            LinksOpener::new(links, options).unwrap_err()
        };
        assert!(matches!(refused(&[], &options()), Error::NoLinks));
        let both = [(&steers[0], queues(&[1])), (&steers[0], queues(&[0, 1]))];
        assert!(matches!(refused(&both, &options()), Error::QueueTwice { queue: 1, .. }));
        let absent = [(&steers[0], queues(&[0])), (&steers[1], queues(&[2]))];
        assert!(matches!(refused(&absent, &options()), Error::QueueOutOfRange { queue: 2, queues: 2, .. }));
        let all = [0, 1].map(|link| (&steers[link], LinkOptions::default()));
        let error = refused(&all, &QueueOptions { frames: 1023, ..options() });
        assert!(matches!(error, Error::BadFrameCount { frames: 1023, min: 1024, .. }), "{error}");
        let many = (0..65).map(|i| IpAddr::V4(Ipv4Addr::new(10, 0, 0, i))).collect();
        let kernel_addresses = KernelAddresses::Listed(many);
        let error = refused(&[(&steers[0], LinkOptions { queues: vec![0], kernel_addresses })], &options());
        assert!(matches!(error, Error::TooManyAddresses { addresses: 65, .. }), "{error}");
        assert_eq!(error.to_string(), "65 addresses of the kernel's are too many: list at most 64");
    });
}

#[test]
fn what_is_prepared_on_one_thread_is_opened_on_another() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    bed.pairs[0].stack.run(|| {
        let steers = bed.attach();
        let chosen = [0, 1].map(|link| (&steers[link], LinkOptions::default()));
        let opener = LinksOpener::new(&chosen, &options()).unwrap();
        let open = move || opener.open().map(|links| links.links());
        assert_eq!(thread::scope(|scope| scope.spawn(open).join()).unwrap().unwrap(), 2);
    });
}

#[test]
fn a_queue_that_another_has_leaves_the_other_nic_alone() {
    require_root!();
    let bed = Bed::new(VethOptions::default());
    bed.pairs[0].stack.run(|| {
        let steers = bed.attach();
        let taken = steers[1].queue(0, &small()).unwrap().open().unwrap();
        let links = [0, 1].map(|link| (&steers[link], LinkOptions::default()));
        let error = LinksOpener::new(&links, &options()).unwrap().open().unwrap_err();
        let name = &bed.pairs[1].stack_interface;
        assert!(matches!(&error, Error::QueueTaken { interface, queue: 0 } if interface == name), "{error}");
        drop(taken);
        drop(LinksOpener::new(&links, &options()).unwrap().open().expect("both are free again"));
    });
}
