//! A queue over a real veth pair: frames in, frames out, and every frame of the pool accounted for.

mod common;

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use bywash::config::AddressUse;
use bywash::device::{Device, Protocol, WaitDevice};
use bywash::packet::{Packet, PacketBatch, PacketPool, PoolLayout};
use bywash_afxdp::testing::{VethOptions, VethPair, forge, use_library_rings};
use bywash_afxdp::{
    AttachMode, AttachOptions, BindMode, Error, Mode, Nic, PortAddresses, QueueOptions, require_root,
};
use common::*;

/// Sends frames from the peer, reflects them in the stack's queue, and compares what comes back.
fn reflect(pair: &VethPair, options: &QueueOptions, frames: &[Vec<u8>], check: impl Fn(&Packet) + Send) {
    reflect_by(false, pair, options, frames, check);
}

/// As [`reflect`], by the library's ring calls or not.
fn reflect_by(
    library: bool,
    pair: &VethPair,
    options: &QueueOptions,
    frames: &[Vec<u8>],
    check: impl Fn(&Packet) + Send,
) {
    std::thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        scope.spawn(move || {
            pair.stack.enter();
            use_library_rings(library);
            let mut queue = open_owning(pair, options);
            ready.send(()).unwrap();
            let mut left = frames.len();
            while left > 0 {
                let mut batch = PacketBatch::new();
                receive_until(&mut queue, &mut batch, |batch| !batch.is_empty());
                batch.iter().for_each(&check);
                left -= batch.len();
                transmit_all(&mut queue, &mut batch);
            }
            assert_all_frames_back(&mut queue);
            assert_eq!(queue.counters().rx_packets, frames.len() as u64);
            assert_eq!(queue.counters().tx_packets, frames.len() as u64);
        });
        scope.spawn(move || {
            pair.peer.enter();
            let socket = RawSocket::open(&pair.peer_interface);
            is_ready.recv().unwrap();
            // In bursts that fit the rings: what is tested here is not loss.
            for burst in frames.chunks(64) {
                burst.iter().for_each(|frame| socket.send(frame));
                for frame in burst {
                    let received = socket.receive().expect("a reflected frame");
                    assert!(received == *frame, "{} bytes came back as {}", frame.len(), received.len());
                }
            }
        });
    });
}

#[test]
fn frames_come_in_and_go_out_unchanged() {
    require_root!();
    let pair = pair(VethOptions::default());
    let frames: Vec<_> = (0..2000).map(|i| udp(PEER, OWN, 5000, 7, &pattern(i, 18 + i % 1455))).collect();
    reflect(&pair, &small(), &frames, |packet| assert_eq!(packet.frames(), 1));
}

#[test]
fn jumbo_frames_cross_in_several_buffers() {
    require_root!();
    let pair = pair(VethOptions { mtu: 9000, ..VethOptions::default() });
    let frames: Vec<_> = (0..300).map(|i| udp(PEER, OWN, 5000, 7, &pattern(i, 8972 - i % 7))).collect();
    reflect(&pair, &small(), &frames, |packet| assert_eq!(packet.frames(), 3));
}

/// What kernels before 6.4 need.
#[test]
fn frames_of_every_size_cross_by_the_librarys_ring_calls() {
    require_root!();
    let pair = pair(VethOptions { mtu: 9000, ..VethOptions::default() });
    let frames: Vec<_> = (0..2000).map(|i| udp(PEER, OWN, 5000, 7, &pattern(i, 18 + i * 7 % 8955))).collect();
    reflect_by(true, &pair, &small(), &frames, |packet| {
        assert_eq!(packet.frames(), packet.len().div_ceil(4096 - 256));
    });
}

#[test]
fn jumbo_frames_cross_in_small_buffers() {
    require_root!();
    let pair = pair(VethOptions { mtu: 9000, ..VethOptions::default() });
    let frames: Vec<_> = (0..100).map(|i| udp(PEER, OWN, 5000, 7, &pattern(i, 8972 - i % 7))).collect();
    let options = QueueOptions { frame_size: 2048, frames: 2048, rx_ring: 1024, tx_ring: 1024, ..small() };
    reflect(&pair, &options, &frames, |packet| {
        assert_eq!(packet.frames(), 6);
    });
}

#[test]
fn generic_mode_carries_frames_too() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let nic = Nic::open(&pair.stack_interface).unwrap();
        let options = AttachOptions { mode: Mode::Generic, address_use: AddressUse::Own };
        let steer = nic.attach(&options).unwrap();
        let mut queue = steer.queue(0, &small()).unwrap().open().unwrap();
        queue.steering().own_address(IpAddr::V4(OWN)).unwrap();
        assert_eq!(queue.mode().attach, AttachMode::Generic);
        assert_eq!(Nic::open(&pair.stack_interface).unwrap().attached.unwrap().mode, AttachMode::Generic);
        let frames: Vec<_> = (0..50).map(|i| udp(PEER, OWN, 5000, 7, &pattern(i, 100 + i))).collect();
        send_from_peer(&pair, &frames);
        let mut batch = PacketBatch::new();
        receive_until(&mut queue, &mut batch, |batch| batch.len() == frames.len());
        for (packet, frame) in batch.iter().zip(&frames) {
            assert_eq!(packet.head(), frame);
        }
    });
}

/// Sends frames from the peer's interface.
fn send_from_peer(pair: &VethPair, frames: &[Vec<u8>]) {
    pair.peer.run(|| {
        let socket = RawSocket::open(&pair.peer_interface);
        frames.iter().for_each(|frame| socket.send(frame));
    });
}

/// Runs `send` while the peer's interface is watched, which must see these frames in this order.
fn peer_receives(pair: &VethPair, expected: &[Vec<u8>], send: impl FnOnce()) {
    std::thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        scope.spawn(move || {
            pair.peer.enter();
            let socket = RawSocket::open(&pair.peer_interface);
            ready.send(()).unwrap();
            for (index, frame) in expected.iter().enumerate() {
                let received = socket.receive().expect("a frame");
                assert!(received == *frame, "frame {index}: {} of {} bytes", received.len(), frame.len());
            }
        });
        is_ready.recv().unwrap();
        send();
    });
}

#[test]
fn the_mode_obtained_is_the_kernels_word() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let queue = open_owning(&pair, &small());
        assert_eq!((queue.mode().bind, queue.mode().attach), (BindMode::Copy, AttachMode::Native));
        assert!(queue.mode().multi_buffer);
        assert_eq!(queue.mode().to_string(), "copy (native XDP, multi-buffer)");
        assert_eq!(queue.capabilities().mtu, 1500);
        assert!(queue.capabilities().partial_checksums, "veth");
        let steer = attach(&pair, AddressUse::Own).unwrap();
        drop(queue);
        let zero_copy = QueueOptions { mode: Mode::ZeroCopy, ..small() };
        let error = steer.queue(0, &zero_copy).unwrap().open().unwrap_err();
        assert!(matches!(error, Error::NoZeroCopy { queue: 0, .. }), "{error}");
        let copy = QueueOptions { mode: Mode::Copy, need_wakeup: false, ..small() };
        assert_eq!(steer.queue(0, &copy).unwrap().open().unwrap().mode().bind, BindMode::Copy);
    });
}

#[test]
fn two_queues_of_one_process_get_their_own_flows() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let mut queues = [0, 1].map(|id| steer.queue(id, &small()).unwrap().open().unwrap());
        for queue in &mut queues {
            queue.steering().own_address(IpAddr::V4(OWN)).unwrap();
        }
        let frames: Vec<_> = (0..64u16).map(|i| udp(PEER, OWN, 5000 + i, 7, &i.to_be_bytes())).collect();
        send_from_peer(&pair, &frames);
        let started = Instant::now();
        let mut batches = [PacketBatch::new(), PacketBatch::new()];
        while batches.iter().map(PacketBatch::len).sum::<usize>() < frames.len() {
            assert!(started.elapsed() < PATIENCE, "{queues:?}");
            for (queue, batch) in queues.iter_mut().zip(&mut batches) {
                queue.receive(batch, 64);
            }
        }
        let mut received: Vec<_> = batches.iter().flatten().map(|packet| packet.head().to_vec()).collect();
        received.sort();
        assert_eq!(received, frames, "each frame once");
        assert!(batches.iter().all(|batch| !batch.is_empty()), "flows on both queues");
    });
}

#[test]
fn a_queue_is_taken_once() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    pair.stack.run(|| {
        let mut first = open_owning(&pair, &small());
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let error = steer.queue(0, &small()).unwrap().open().unwrap_err();
        assert!(matches!(error, Error::QueueTaken { queue: 0, .. }), "{error}");
        // The attempt did not disturb the one who has it.
        send_from_peer(&pair, &vec![udp(PEER, OWN, 1, 2, b"x"); 20]);
        let mut batch = PacketBatch::new();
        let other = steer.queue(1, &small()).unwrap().open();
        if other.is_ok() {
            receive_until(&mut first, &mut batch, |batch| batch.len() == 20);
        }
        assert!(other.is_ok(), "the other queue is free");
        drop((first, batch));
        steer.queue(0, &small()).unwrap().open().expect("free again at once");
    });
}

#[test]
fn the_kernels_traffic_passes_while_ports_are_the_stacks() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Shared).unwrap();
        let mut queue = steer.queue(0, &small()).unwrap().open().unwrap();
        queue.steering().open_port(Protocol::Udp, 7).unwrap();
        queue.steering().open_port(Protocol::Tcp, 80).unwrap();
        let listener = std::net::TcpListener::bind((KERNEL, 2222)).unwrap();
        let socket = std::net::UdpSocket::bind((KERNEL, 2223)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::scope(|scope| {
            let echo = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap()
            });
            pair.peer.run(|| {
                use std::io::{Read, Write};
                let mut stream = std::net::TcpStream::connect((KERNEL, 2222)).unwrap();
                let data = pattern(3, 1 << 20);
                let mut writer = stream.try_clone().unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        writer.write_all(&data).unwrap();
                        writer.shutdown(std::net::Shutdown::Write).unwrap();
                    });
                    let mut back = Vec::new();
                    stream.read_to_end(&mut back).unwrap();
                    assert!(back == data, "TCP to a port that is not the stack's");
                });
                let udp = std::net::UdpSocket::bind((PEER, 0)).unwrap();
                udp.send_to(b"kernel", (KERNEL, 2223)).unwrap();
                udp.send_to(b"stack", (KERNEL, 7)).unwrap();
            });
            assert_eq!(echo.join().unwrap(), 1 << 20);
        });
        assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 6, "UDP to a port that is not the stack's");
        assert!(pair.peer.run(|| answers_ping(KERNEL)));
        assert!(answers_ping(PEER));
        let mut batch = PacketBatch::new();
        let of_stack = |packet: &Packet| packet.head().ends_with(b"stack");
        receive_until(&mut queue, &mut batch, |batch| batch.iter().any(of_stack));
        for packet in &batch {
            // All else the stack sees is copies of ARP.
            assert!(of_stack(packet) || packet.head()[12..14] == [8, 6], "{:x?}", packet.head());
        }
    });
}

#[test]
fn ports_open_and_close_while_traffic_flows() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Shared).unwrap();
        let options = QueueOptions { port_addresses: PortAddresses::Listed(vec![KERNEL.into()]), ..small() };
        let mut queue = steer.queue(0, &options).unwrap().open().unwrap();
        let kernel = std::net::UdpSocket::bind((KERNEL, 9000)).unwrap();
        kernel.set_read_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..20 {
            queue.steering().open_port(Protocol::Udp, 9000).unwrap();
            send_from_peer(&pair, &[udp(PEER, KERNEL, 1, 9000, b"for the stack")]);
            let mut batch = PacketBatch::new();
            receive_until(&mut queue, &mut batch, |batch| batch.iter().any(|p| p.head().ends_with(b"stack")));
            queue.steering().close_port(Protocol::Udp, 9000).unwrap();
            let mut frame = udp(PEER, KERNEL, 1, 9000, b"for the kernel");
            frame[..6].copy_from_slice(queue.capabilities().mac.as_bytes());
            send_from_peer(&pair, &[frame]);
            let mut bytes = [0; 64];
            let len = kernel.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], b"for the kernel");
        }
    });
}

#[test]
fn a_pool_that_the_application_holds_empty_recovers() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let options = QueueOptions { frames: 8, rx_ring: 64, tx_ring: 64, ..QueueOptions::default() };
        let mut queue = open_owning(&pair, &options);
        let frames = vec![udp(PEER, OWN, 1, 2, b"hold me"); 8];
        let mut held = PacketBatch::new();
        for round in 1..=3 {
            send_from_peer(&pair, &frames);
            receive_until(&mut queue, &mut held, |held| held.len() >= 4);
            // Four more arrive into the frames that were given back, and then there are none.
            send_from_peer(&pair, &frames);
            receive_until(&mut queue, &mut held, |held| held.len() == 8);
            assert_eq!(queue.pool().usage().held, 8);
            send_from_peer(&pair, &frames);
            assert_eq!(queue.receive(&mut held, 10), 0, "no frame to receive into");
            assert!(queue.counters().rx_starved >= round);
            held.clear();
            // The sleeper tops the fill ring up.
            queue.wait(event_fd().as_raw_fd(), Some(Duration::ZERO)).unwrap();
            assert_eq!(queue.pool().usage().fill, 4);
        }
        assert!(queue.xdp_statistics().unwrap().rx_fill_ring_empty_descs > 0);
        send_from_peer(&pair, &frames[..1]);
        receive_until(&mut queue, &mut held, |held| held.len() == 1);
        held.clear();
        assert_all_frames_back(&mut queue);
    });
}

#[test]
fn packets_are_sent_from_where_they_begin() {
    require_root!();
    // None is moved, over several frames or not.
    assert_eq!(send_from_headroom_and_elsewhere(false), 0);
}

#[test]
fn packets_that_begin_elsewhere_are_moved_for_the_librarys_ring_calls() {
    require_root!();
    // Each that begins elsewhere, and none that was built by the stack.
    assert_eq!(send_from_headroom_and_elsewhere(true), 7);
}

/// Sends packets of many lengths, each from the headroom and from elsewhere; returns how many were moved for that.
fn send_from_headroom_and_elsewhere(library: bool) -> u64 {
    let pair = pair(VethOptions { mtu: 9000, ..VethOptions::default() });
    pair.stack.run(|| {
        use_library_rings(library);
        let mut queue = open_owning(&pair, &small());
        let expected: Vec<_> = [1, 60, 1514, 3000, 4096, 8000, 9014]
            .iter()
            .map(|&len| ethernet_of(&pattern(len, len.max(15))))
            .collect();
        let mut batch = PacketBatch::new();
        let pool = queue.pool().clone();
        for frame in &expected {
            // As the stack builds: at the pool's headroom.
            let mut built = Packet::copy_from(&pool, frame).unwrap();
            assert_eq!(built.headroom(), 256);
            // Moved to the front of the first frame.
            let mut early = Packet::copy_from(&pool, frame).unwrap();
            let first = early.head().to_vec();
            let mut rest: Vec<_> = early.into_frames().collect();
            let (mut head, _, _) = rest.remove(0);
            head.bytes_mut()[..first.len()].copy_from_slice(&first);
            early = Packet::from_frame(head, 0, first.len()).unwrap();
            for (frame, start, len) in rest {
                early.push_frame(frame, start, len).unwrap();
            }
            built.parsed = Default::default();
            batch.push_back(built);
            batch.push_back(early);
        }
        let twice: Vec<_> = expected.iter().flat_map(|frame| [frame.clone(), frame.clone()]).collect();
        peer_receives(&pair, &twice, || transmit_all(&mut queue, &mut batch));
        assert_all_frames_back(&mut queue);
        queue.counters().tx_realigned
    })
}

/// `bytes` with an Ethernet header of IPv4 in front, as long as `bytes`.
fn ethernet_of(bytes: &[u8]) -> Vec<u8> {
    let mut frame = bytes.to_vec();
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    frame
}

#[test]
fn what_does_not_fit_the_ring_stays_with_the_caller() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let options = QueueOptions { frames: 512, rx_ring: 64, tx_ring: 64, ..QueueOptions::default() };
        let mut queue = open_owning(&pair, &options);
        pair.stack.ip(&format!("link set {} down", pair.stack_interface));
        let pool = queue.pool().clone();
        let packet = |i: usize| Packet::copy_from(&pool, &ethernet_of(&pattern(i, 100))).unwrap();
        let mut batch: PacketBatch = (0..100).map(packet).collect();
        assert_eq!(queue.transmit_room(), 64);
        assert_eq!(queue.transmit(&mut batch), 64);
        assert_eq!((batch.len(), queue.transmit_room()), (36, 0));
        assert_eq!(batch[0].head(), ethernet_of(&pattern(64, 100)), "in order");
        assert_eq!(queue.transmit(&mut batch), 0);
        assert!(queue.counters().tx_link_down > 0);
        assert_eq!(queue.pool().usage().tx, 64);

        // Up again, all go out.
        let expected: Vec<_> = (0..100).map(|i| ethernet_of(&pattern(i, 100))).collect();
        peer_receives(&pair, &expected, || {
            pair.stack.ip(&format!("link set {} up", pair.stack_interface));
            transmit_all(&mut queue, &mut batch);
            assert_all_frames_back(&mut queue);
        });
    });
}

#[test]
fn what_cannot_be_sent_is_dropped_and_counted() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let mut queue = open_owning(&pair, &small());
        let pool = queue.pool().clone();
        let empty = Packet::alloc(&pool).unwrap();
        let long = Packet::copy_from(&pool, &[0; 1515]).unwrap();
        let mut batch = PacketBatch::from([empty, long]);
        assert_eq!(queue.transmit(&mut batch), 2);
        assert_eq!((queue.counters().tx_too_long, queue.counters().tx_packets), (2, 0));
        assert_all_frames_back(&mut queue);
    });
}

/// Keeps the level of every event.
#[derive(Clone, Default)]
struct Levels(std::sync::Arc<std::sync::Mutex<Vec<tracing::Level>>>);

impl tracing::Subscriber for Levels {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().unwrap().push(*event.metadata().level());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_link_that_goes_down_and_up_is_survived_and_reported() {
    require_root!();
    let pair = pair(VethOptions::default());
    let levels = Levels::default();
    pair.stack.run(|| {
        let _logs = tracing::subscriber::set_default(levels.clone());
        let mut queue = open_owning(&pair, &small());
        let wake = event_fd();
        let wait_for_link = |queue: &mut bywash_afxdp::Queue, up| {
            let started = Instant::now();
            while queue.link_is_up() != up {
                assert!(started.elapsed() < PATIENCE);
                queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
            }
        };
        wait_for_link(&mut queue, true);
        levels.0.lock().unwrap().clear();
        pair.peer.ip(&format!("link set {} down", pair.peer_interface));
        wait_for_link(&mut queue, false);
        assert!(levels.0.lock().unwrap().contains(&tracing::Level::WARN));
        levels.0.lock().unwrap().clear();
        pair.peer.ip(&format!("link set {} up", pair.peer_interface));
        wait_for_link(&mut queue, true);
        let told = levels.0.lock().unwrap().clone();
        assert!(told.contains(&tracing::Level::INFO) && !told.contains(&tracing::Level::WARN), "{told:?}");
        assert!(queue.counters().link_changes >= 2);
        send_from_peer(&pair, &[udp(PEER, OWN, 1, 2, b"back")]);
        let mut batch = PacketBatch::new();
        receive_until(&mut queue, &mut batch, |batch| batch.len() == 1);
    });
}

#[test]
fn a_queue_opened_while_the_link_is_down_works_once_it_is_up() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.ip(&format!("link set {} down", pair.stack_interface));
    pair.stack.run(|| {
        let mut queue = open_owning(&pair, &small());
        assert!(!queue.link_is_up());
        pair.stack.ip(&format!("link set {} up", pair.stack_interface));
        let wake = event_fd();
        let started = Instant::now();
        while !queue.link_is_up() {
            assert!(started.elapsed() < PATIENCE);
            queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))).unwrap();
        }
        send_from_peer(&pair, &[udp(PEER, OWN, 1, 2, b"up")]);
        let mut batch = PacketBatch::new();
        receive_until(&mut queue, &mut batch, |batch| batch.len() == 1);
    });
}

#[test]
fn a_removed_interface_ends_the_wait_with_an_error() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let mut queue = open_owning(&pair, &small());
        pair.stack.ip(&format!("link delete {}", pair.stack_interface));
        let wake = event_fd();
        let started = Instant::now();
        let error = loop {
            assert!(started.elapsed() < PATIENCE);
            if let Err(error) = queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(100))) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkDown);
        assert!(error.to_string().contains(&pair.stack_interface), "{error}");
    });
}

#[test]
fn waiting_ends_by_the_eventfd_a_packet_or_a_copy() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Shared).unwrap();
        let mut queue = steer.queue(0, &small()).unwrap().open().unwrap();
        queue.steering().open_port(Protocol::Udp, 7).unwrap();
        let mut batch = PacketBatch::new();
        while queue.receive(&mut batch, 64) > 0 {}
        let wake = event_fd();
        let one = 1u64;
        // SAFETY: eight bytes of an integer.
        unsafe { libc::write(wake.as_raw_fd(), (&raw const one).cast(), 8) };
        queue.wait(wake.as_raw_fd(), None).unwrap();

        let quiet = event_fd();
        send_from_peer(&pair, &[udp(PEER, KERNEL, 1, 7, b"a packet")]);
        while queue.receive(&mut batch, 64) == 0 {
            queue.wait(quiet.as_raw_fd(), None).unwrap();
        }
        // The peer asks who has an address, which the kernel and the stack hear.
        pair.peer.run(|| {
            let socket = std::net::UdpSocket::bind((PEER, 0)).unwrap();
            socket.send_to(b"anybody?", "192.0.2.99:9").unwrap();
        });
        let is_arp = |packet: &Packet| packet.head()[12..14] == [8, 6];
        while !batch.iter().any(is_arp) {
            if queue.receive(&mut batch, 64) == 0 {
                queue.wait(quiet.as_raw_fd(), None).unwrap();
            }
        }
    });
}

#[test]
fn packets_outlive_their_queue() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let mut queue = open_owning(&pair, &small());
        let frame = udp(PEER, OWN, 1, 2, b"still here");
        send_from_peer(&pair, std::slice::from_ref(&frame));
        let mut batch = PacketBatch::new();
        receive_until(&mut queue, &mut batch, |batch| batch.len() == 1);
        let slices: Vec<_> = batch.pop_front().unwrap().into_slices(0..usize::MAX).collect();
        drop(queue);
        assert_eq!(slices[0][..], frame);
    });
}

#[test]
fn a_kernel_peers_unsegmented_packets_arrive_whole() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        // Native XDP on a veth switches its peer's TSO and GSO off; generic XDP does not.
        let options = AttachOptions { mode: Mode::Generic, address_use: AddressUse::Own };
        let steer = Nic::open(&pair.stack_interface).unwrap().attach(&options).unwrap();
        let mut queue = steer.queue(0, &small()).unwrap().open().unwrap();
        queue.steering().own_address(IpAddr::V4(OWN)).unwrap();
        let payload = pattern(1, 40_000);
        pair.peer.ip(&format!("neighbor add {OWN} lladdr 02:00:00:00:00:01 dev {}", pair.peer_interface));
        pair.peer.run(|| {
            let socket = std::net::UdpSocket::bind((PEER, 5000)).unwrap();
            let segment = 1000i32;
            // SAFETY: the value is four bytes long.
            let set = unsafe {
                let (level, name) = (libc::SOL_UDP, libc::UDP_SEGMENT);
                libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const segment).cast(), 4)
            };
            assert_eq!(set, 0);
            socket.send_to(&payload, (OWN, 7)).unwrap();
        });
        let mut batch = PacketBatch::new();
        let bytes = |batch: &PacketBatch| batch.iter().map(|packet| packet.len() - 42).sum::<usize>();
        receive_until(&mut queue, &mut batch, |batch| bytes(batch) >= payload.len());
        let mut received = Vec::new();
        for packet in &batch {
            packet.pieces(42..usize::MAX).for_each(|piece| received.extend_from_slice(piece));
        }
        assert!(received == payload);
        assert_eq!((batch.len(), batch[0].frames()), (1, 11));
    });
}

#[test]
fn packets_of_another_pool_are_copied() {
    require_root!();
    let pair = pair(VethOptions { mtu: 9000, ..VethOptions::default() });
    pair.stack.run(|| {
        let mut queue = open_owning(&pair, &small());
        let other = PacketPool::heap(PoolLayout { frames: 32, frame_size: 4096, headroom: 256 });
        let expected: Vec<_> = [100, 9000].map(|len| ethernet_of(&pattern(len, len))).into();
        let mut batch: PacketBatch =
            expected.iter().map(|frame| Packet::copy_from(&other, frame).unwrap()).collect();
        peer_receives(&pair, &expected, || transmit_all(&mut queue, &mut batch));
        assert_eq!((other.free_frames(), queue.counters().tx_realigned), (32, 2));
        assert_all_frames_back(&mut queue);
    });
}

#[test]
fn descriptors_that_cannot_be_are_counted_and_touch_no_frame() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let options = small();
        let mut queue = open_owning(&pair, &options);
        let usage = queue.pool().usage();
        let (frame_size, frames) = (u64::from(options.frame_size), u64::from(options.frames));
        // Frames start to be lent from the first on: the last is still in the pool.
        let (lent, held) = (256, (frames - 1) * frame_size + 256);
        let received = [
            (frames * frame_size, 60, 0),  // behind the last frame
            (u64::MAX, 60, 0),             // far behind it
            (held, 60, 0),                 // a frame that is not lent
            (lent, options.frame_size, 0), // bytes that reach beyond the frame: it is lent no longer
            (lent, 60, 0),                 // the same frame again
            (held, 60, 1),
            (held, 60, 0), // two frames of one packet
        ];
        forge(&queue, &options, &received, &[held, u64::MAX, lent]).unwrap();
        let mut batch = PacketBatch::new();
        assert_eq!(queue.receive(&mut batch, 64), 0);
        assert!(batch.is_empty());
        let counters = queue.counters();
        assert_eq!((counters.rx_bad_descriptors, counters.bad_completions), (6, 3));
        assert_eq!((counters.rx_packets, counters.completions), (0, 0));
        let now = queue.pool().usage();
        assert_eq!((now.free, now.fill), (usage.free + 1, usage.fill - 1), "the one that was lent is back");
        assert_eq!((now.tx, now.held), (0, 0));
    });
}

#[test]
fn a_burst_takes_few_syscalls() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let mut queue = open_owning(&pair, &small());
        let pool = queue.pool().clone();
        let frame = ethernet_of(&pattern(1, 100));
        let mut batch: PacketBatch = (0..64).map(|_| Packet::copy_from(&pool, &frame).unwrap()).collect();
        assert_eq!(queue.transmit(&mut batch), 64);
        // One, or two at the 32 packets a call of kernels before 6.17, and a third that finds nothing left.
        assert!((1..=3).contains(&queue.counters().tx_wakeups), "{:?}", queue.counters());
        assert_all_frames_back(&mut queue);
    });
}

#[test]
fn the_nic_lets_in_all_groups_while_the_stack_has_addresses_of_its_own() {
    require_root!();
    let pair = pair(VethOptions::default());
    let who_wants_all = || {
        let output = pair.stack.command("ip").args(["-d", "link", "show", &pair.stack_interface]).output();
        let text = String::from_utf8(output.expect("run ip").stdout).expect("text");
        let count = text.split_whitespace().skip_while(|word| *word != "allmulti").nth(1);
        count.and_then(|count| count.parse::<u32>().ok()).unwrap_or_else(|| panic!("{text}"))
    };
    assert_eq!(who_wants_all(), 0);
    pair.stack.run(|| {
        // The kernel has joined the groups of the addresses that it shares.
        let shared = attach(&pair, AddressUse::Shared).unwrap();
        assert_eq!(who_wants_all(), 0);
        let own = attach(&pair, AddressUse::Own).unwrap();
        let another = attach(&pair, AddressUse::Own).unwrap();
        assert_eq!(who_wants_all(), 2);
        drop((own, shared));
        assert_eq!(who_wants_all(), 1);
        drop(another);
    });
    assert_eq!(who_wants_all(), 0);
}
