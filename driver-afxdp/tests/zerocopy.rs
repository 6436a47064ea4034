//! Queues bound zero-copy on a real driver. Runs in the small machine of `driver-afxdp/vm` (`make test-zerocopy`), which
//! says in the environment which interface to take: elsewhere there is none whose traffic may be had, and the test says
//! that it was skipped.
//!
//! - `BYWASH_ZEROCOPY_NIC`: the interface; its queues 0 to `BYWASH_ZEROCOPY_QUEUES` - 1 are bound.
//! - `BYWASH_ZEROCOPY_PEER`: the network namespace (a path) of the interface `peer` at the other end.

mod common;

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
use bywash_afxdp::{AttachMode, AttachOptions, BindMode, Mode, Nic, QueueOptions, Steer};
use common::*;

/// Frames sent to the queues, a different flow each.
const FRAMES: u16 = 512;
/// Frames on the way at a time: what is tested here is not loss.
const BURST: usize = 16;

#[test]
fn zero_copy_queues_carry_frames_both_ways() {
    let test = "zerocopy::zero_copy_queues_carry_frames_both_ways";
    let Ok(interface) = env::var("BYWASH_ZEROCOPY_NIC") else {
        eprintln!("SKIPPED {test}: needs a NIC of its own, run `make test-zerocopy`");
        return;
    };
    let queues: u32 = env::var("BYWASH_ZEROCOPY_QUEUES").unwrap().parse().unwrap();
    let peer = env::var("BYWASH_ZEROCOPY_PEER").unwrap();
    let nic = Nic::open(&interface).unwrap();
    let options = AttachOptions { mode: Mode::ZeroCopy, address_use: AddressUse::Own };
    let steer = nic.attach(&options).unwrap();
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

/// Sends back what arrives at a queue, with the Ethernet addresses exchanged, until it is over; returns how many.
fn reflect(steer: &Steer, id: u32, ready: &mpsc::Sender<()>, over: &AtomicBool) -> u64 {
    let options = QueueOptions { mode: Mode::ZeroCopy, ..small() };
    let mut queue = steer.queue(id, &options).unwrap().open().unwrap();
    println!("queue {id}: {}", queue.mode());
    assert_eq!((queue.mode().bind, queue.mode().attach), (BindMode::ZeroCopy, AttachMode::Native));
    queue.steering().own_address(IpAddr::V4(OWN)).unwrap();
    ready.send(()).unwrap();
    let wake = event_fd();
    let mut batch = PacketBatch::new();
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        if queue.receive(&mut batch, 64) == 0 {
            queue.wait(wake.as_raw_fd(), Some(Duration::from_millis(20))).unwrap();
        }
        // ARP and neighbour discovery of the guest's kernel come too, as copies.
        batch.retain(|packet| packet.head()[12..14] == [8, 0] && packet.head()[23] == 17);
        count += batch.len() as u64;
        batch.iter_mut().for_each(|packet| exchange(packet.head_mut()));
        transmit_all(&mut queue, &mut batch);
    }
    assert_all_frames_back(&mut queue);
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
