//! A queue over a real veth pair: frames in, frames out, and every frame of the pool accounted for.

mod common;

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use bywash::config::AddressUse;
use bywash::device::{Device, Protocol, WaitDevice};
use bywash::packet::{Packet, PacketBatch};
use bywash_afxdp::testing::{VethOptions, VethPair};
use bywash_afxdp::{
    AttachMode, AttachOptions, BindMode, Error, Mode, Nic, PortAddresses, QueueOptions, require_root,
};
use common::*;

/// Sends frames from the peer, reflects them in the stack's queue, and compares what comes back.
fn reflect(pair: &VethPair, options: &QueueOptions, frames: &[Vec<u8>], check: impl Fn(&Packet) + Send) {
    std::thread::scope(|scope| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        scope.spawn(move || {
            pair.stack.enter();
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
