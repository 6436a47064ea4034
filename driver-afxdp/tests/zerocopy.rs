//! Queues bound zero-copy on a real driver. Runs in the small machine of `driver-afxdp/vm` (`make test-zerocopy`), which
//! says in the environment which interface to take: elsewhere there is none whose traffic may be had, and the test says
//! that it was skipped.
//!
//! - `BYWASH_ZEROCOPY_NIC`: the interface; its queues 0 to `BYWASH_ZEROCOPY_QUEUES` - 1 are bound.
//! - `BYWASH_ZEROCOPY_PEER`: the network namespace (a path) of the interface `peer` at the other end.

mod common;

use std::fmt::Debug;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use bywash::config::AddressUse;
use bywash::device::{Device, WaitDevice};
use bywash::packet::PacketBatch;
use bywash_afxdp::{
    AttachMode, AttachOptions, BindMode, LinkOptions, LinksOpener, Mode, Nic, QueueOptions, Steer,
};
use common::*;

/// Frames sent to the queues, a different flow each.
const FRAMES: u16 = 512;
/// Frames on the way at a time: what is tested here is not loss.
const BURST: usize = 16;

/// The NIC under test: its name, how many queues are bound, and the namespace of its peer. `None`, with a word, where there
/// is none.
fn nic_under_test(test: &str) -> Option<(String, u32, String)> {
    let Ok(interface) = env::var("BYWASH_ZEROCOPY_NIC") else {
        eprintln!("SKIPPED zerocopy::{test}: needs a NIC of its own, run `make test-zerocopy`");
        return None;
    };
    let queues = env::var("BYWASH_ZEROCOPY_QUEUES").unwrap().parse().unwrap();
    Some((interface, queues, env::var("BYWASH_ZEROCOPY_PEER").unwrap()))
}

fn attach_zero_copy(interface: &str) -> Steer {
    let options = AttachOptions { mode: Mode::ZeroCopy, address_use: AddressUse::Own };
    Nic::open(interface).unwrap().attach(&options).unwrap()
}

#[test]
fn zero_copy_queues_carry_frames_both_ways() {
    let Some((interface, queues, peer)) = nic_under_test("zero_copy_queues_carry_frames_both_ways") else {
        return;
    };
    let steer = attach_zero_copy(&interface);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ready, are_ready) = mpsc::channel();
        let reflectors: Vec<_> = (0..queues)
            .map(|queue| {
                let (steer, over, ready) = (&steer, &over, ready.clone());
                scope.spawn(move || reflect(steer, queue, &ready, over))
            })
            .collect();
        (0..queues).for_each(|_| are_ready.recv_timeout(PATIENCE).unwrap());
        wait_for_carrier(&interface);
        scope.spawn(move || send_and_compare(&peer)).join().unwrap();
        over.store(true, Ordering::Relaxed);
        let received: Vec<u64> = reflectors.into_iter().map(|thread| thread.join().unwrap()).collect();
        println!("frames by queue: {received:?}");
        assert_eq!(received.iter().sum::<u64>(), u64::from(FRAMES));
        assert!(received.iter().all(|&count| count > 0), "every queue had flows");
    });
}

/// The kernel binds all sockets over one packet memory in the way of the first.
#[test]
fn zero_copy_queues_share_one_packet_memory() {
    let Some((interface, queues, peer)) = nic_under_test("zero_copy_queues_share_one_packet_memory") else {
        return;
    };
    let steer = attach_zero_copy(&interface);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ready, is_ready) = mpsc::channel();
        let (steer, over) = (&steer, &over);
        let reflector = scope.spawn(move || {
            let link = LinkOptions { queues: (0..queues).collect(), ..LinkOptions::default() };
            let options = QueueOptions { mode: Mode::ZeroCopy, frames: 1024, ..small() };
            let mut links = LinksOpener::new(&[(steer, link)], &options).unwrap().open().unwrap();
            assert!(links.queues(0).iter().all(|queue| queue.mode().bind == BindMode::ZeroCopy));
            ready.send(()).unwrap();
            while !over.load(Ordering::Relaxed) {
                reflect_burst(&mut links);
            }
            let started = Instant::now();
            while links.pool().usage().tx > 0 {
                assert!(started.elapsed() < PATIENCE, "frames are missing: {links:?}");
                links.wait(event_fd().as_raw_fd(), Some(Duration::from_millis(10))).unwrap();
            }
            let usage = links.pool().usage();
            assert_eq!((usage.free + usage.fill, usage.held), (usage.total, 0));
            assert_eq!(links.pool().bogus_returns(), 0);
            links.queues(0).iter().map(|queue| queue.counters().rx_packets).collect::<Vec<_>>()
        });
        is_ready.recv_timeout(PATIENCE).unwrap();
        wait_for_carrier(&interface);
        let sent = scope.spawn(move || send_and_compare(&peer)).join();
        over.store(true, Ordering::Relaxed);
        let received = reflector.join().unwrap();
        sent.unwrap();
        println!("frames by queue, one memory: {received:?}");
        assert!(received.iter().all(|&count| count > 0), "every queue had flows");
    });
}

/// Sends back what arrives at a queue, with the Ethernet addresses exchanged, until it is over; returns how many.
fn reflect(steer: &Steer, id: u32, ready: &mpsc::Sender<()>, over: &AtomicBool) -> u64 {
    let options = QueueOptions { mode: Mode::ZeroCopy, ..small() };
    let mut queue = steer.queue(id, &options).unwrap().open().unwrap();
    println!("queue {id}: {}", queue.mode());
    assert_eq!((queue.mode().bind, queue.mode().attach), (BindMode::ZeroCopy, AttachMode::Native));
    queue.steering().own_address(IpAddr::V4(OWN)).unwrap();
    ready.send(()).unwrap();
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        count += reflect_burst(&mut queue);
    }
    assert_all_frames_back(&mut queue);
    count
}

/// Waits for packets, a while at most, and sends the burst back; returns how many they were.
fn reflect_burst(device: &mut (impl WaitDevice + Debug)) -> u64 {
    let mut batch = PacketBatch::new();
    if device.receive(&mut batch, 64) == 0 {
        device.wait(event_fd().as_raw_fd(), Some(Duration::from_millis(20))).unwrap();
    }
    // What the guest's kernel hears too comes as copies, and on a link that is the stack's as a whole all else.
    batch.retain(|packet| packet.head()[12..14] == [8, 0] && packet.head()[23] == 17);
    batch.retain(|packet| packet.head()[30..34] == OWN.octets());
    batch.iter_mut().for_each(|packet| exchange(packet.head_mut()));
    let count = batch.len() as u64;
    transmit_all(device, &mut batch);
    count
}

fn exchange(frame: &mut [u8]) {
    let (dst, src) = frame[..12].split_at_mut(6);
    dst.swap_with_slice(src);
}

/// As the peer: sends frames of all sizes and expects each back.
fn send_and_compare(namespace: &str) {
    let namespace = File::open(namespace).unwrap();
    // SAFETY: an open file of a network namespace; it changes this thread only.
    let entered = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(entered, 0, "setns: {}", std::io::Error::last_os_error());
    let socket = RawSocket::open("peer");
    let frame =
        |i: u16| udp(PEER, OWN, 5000 + i, 7, &pattern(usize::from(i), 18 + usize::from(i) * 1454 / 511));
    let mut frames: Vec<_> = (0..FRAMES).map(frame).collect();
    for burst in frames.chunks_mut(BURST) {
        burst.iter().for_each(|frame| socket.send(frame));
        burst.iter_mut().for_each(|frame| exchange(frame));
        // Flows on different queues overtake each other.
        let mut left: Vec<&Vec<u8>> = burst.iter().collect();
        while !left.is_empty() {
            let received = socket.receive().expect("a reflected frame");
            let place = left.iter().position(|frame| **frame == received);
            left.swap_remove(place.unwrap_or_else(|| panic!("{} bytes nobody sent", received.len())));
        }
    }
}

/// Some drivers drop the link for a while when a program or a socket comes.
fn wait_for_carrier(interface: &str) {
    let started = Instant::now();
    let mut up_since = None;
    while up_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(2)) {
        assert!(started.elapsed() < 3 * PATIENCE, "{interface} has no carrier");
        let carrier = fs::read_to_string(format!("/sys/class/net/{interface}/carrier"));
        up_since = if carrier.is_ok_and(|text| text.trim() == "1") {
            up_since.or(Some(Instant::now()))
        } else {
            None
        };
        thread::sleep(Duration::from_millis(50));
    }
}
