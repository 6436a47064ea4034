//! The same packets through a shard that merges and one that does not: what arrives, what is acknowledged and what is counted
//! is the same; only how often the stack looks and answers differs.

use core::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::config::AddressUse;
use crate::offload::testing::{Spec, timestamps};
use crate::tcp::{State, TcpInfo};

const MSS: usize = 100;

fn unmerged() -> StackConfig {
    // The peer is learned from its packets.
    StackConfig { address_use: AddressUse::Shared, gro: false, ..config(1) }
}

fn merging() -> StackConfig {
    StackConfig { gro: true, ..unmerged() }
}

/// What a sender is told by one packet of the stack's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    payload: usize,
}

fn told(frame: &[u8]) -> Option<Told> {
    let (l4, end) = match frame[12..14] {
        [8, 0] if frame[23] == 6 => (34, 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]))),
        [0x86, 0xdd] if frame[20] == 6 => (54, 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]]))),
        _ => return None,
    };
    let word = |at: usize| u32::from_be_bytes(frame[l4 + at..l4 + at + 4].try_into().unwrap());
    let header = usize::from(frame[l4 + 12] >> 4) * 4;
    Some(Told {
        seq: word(4),
        ack: word(8),
        flags: frame[l4 + 13],
        window: word(12) as u16,
        payload: end - l4 - header,
    })
}

/// A host with a connection that a peer opened, who exists only as frames.
struct End {
    host: Host,
    now: Instant,
    id: ConnId,
    /// The next segment of the peer's, without payload.
    next: Spec,
    /// What the stack sends next.
    snd_nxt: u32,
    received: Vec<u8>,
    written: usize,
    heard: Vec<Told>,
}

impl End {
    fn new(config: &StackConfig, v6: bool, options: &[u8]) -> Self {
        let mut host = Host::new(1, config);
        let mut now = Instant::from_millis(10);
        let to: SocketAddr = if v6 { "[2001:db8::1]:80" } else { "192.0.2.1:80" }.parse().unwrap();
        let listener = host.shard.tcp_listen(to, 1, SocketOptions::default()).unwrap();
        let syn_options = [&[2, 4, 0, MSS as u8, 4, 2, 1, 1], options].concat();
        let syn = Spec {
            v6,
            seq: 0xffff_ff00,
            ack: 0,
            flags: 2,
            window: 8000,
            options: syn_options,
            payload: Vec::new(),
            ..Spec::default()
        };
        host.device.rx.push_back(syn.frame());
        while host.poll(now) {}
        let answer = told(&host.device.tx.pop_back().unwrap()).unwrap();
        let options = options.to_vec();
        let next = Spec { seq: syn.seq + 1, ack: answer.seq.wrapping_add(1), flags: 0x10, options, ..syn };
        host.device.rx.push_back(next.frame());
        now += Duration::from_millis(1);
        while host.poll(now) {}
        let (id, _) = ready(host.shard.tcp().poll_accept(listener, no_waker())).unwrap();
        host.device.tx.clear();
        let snd_nxt = next.ack;
        Self { host, now, id, next, snd_nxt, received: Vec::new(), written: 0, heard: Vec::new() }
    }

    /// The frames as one burst; then the application reads all there is and writes `write` bytes.
    fn burst(&mut self, frames: &[Vec<u8>], write: usize) {
        self.now += Duration::from_millis(3);
        self.host.device.rx.extend(frames.iter().cloned());
        self.host.poll(self.now);
        let tcp = self.host.shard.tcp();
        let mut buffer = [0; 4096];
        while let Poll::Ready(Ok(len @ 1..)) = tcp.poll_recv(self.now, self.id, &mut buffer, no_waker()) {
            self.received.extend_from_slice(&buffer[..len]);
        }
        if let Poll::Ready(Ok(len)) = tcp.poll_send(self.now, self.id, &vec![7; write], no_waker()) {
            self.written += len;
        }
        while self.host.poll(self.now) {}
        self.heard.extend(self.host.device.tx.drain(..).filter_map(|frame| told(&frame)));
        let ends = self.heard.iter().map(|told| told.seq.wrapping_add(told.payload as u32));
        self.snd_nxt =
            ends.fold(self.snd_nxt, |max, end| if end.wrapping_sub(max) < 1 << 31 { end } else { max });
    }

    fn info(&self) -> TcpInfo {
        self.host.shard.tcp_ref().info(self.now, self.id).unwrap()
    }

    /// What must not depend on merging.
    fn essence(&self) -> impl PartialEq + core::fmt::Debug {
        let info = self.info();
        let counters = self.host.shard.counters();
        let last_ack = self.heard.last().map(|told| (told.ack, told.window));
        (
            (info.state, self.received.clone(), info.bytes_received, info.unread_bytes, info.rcv_wnd),
            (info.bytes_acked, info.snd_wnd, info.segs_in, info.received_ce, info.rcv_mss),
            (counters.tcp_segments_rx, counters.tcp_bytes_rx, counters.rx_packets, counters.tcp_resets_tx),
            last_ack,
        )
    }
}

#[test]
fn a_burst_of_full_segments_is_acknowledged_once_for_all() {
    for v6 in [false, true] {
        let (mut merging, mut plain) = (End::new(&merging(), v6, &[]), End::new(&unmerged(), v6, &[]));
        let segment = Spec { payload: vec![1; MSS], ..merging.next.clone() };
        let mut specs = vec![segment];
        for _ in 0..9 {
            specs.push(specs[specs.len() - 1].next());
        }
        let frames: Vec<_> = specs.iter().map(Spec::frame).collect();
        merging.burst(&frames, 0);
        plain.burst(&frames, 0);
        assert_eq!(merging.essence(), plain.essence());
        assert_eq!(merging.heard.len(), 1);
        assert_eq!(merging.heard[0].ack, specs[9].end());
        assert_eq!(merging.info().data_segs_in, 10);
        let counters = merging.host.shard.counters();
        assert_eq!((counters.gro_packets, counters.gro_merged, counters.rx_packets), (1, 9, 12));
        assert_eq!(plain.host.shard.counters().gro_packets, 0);
    }
}

#[test]
fn a_merged_packet_with_a_fin_ends_the_stream() {
    let mut end = End::new(&merging(), false, &[]);
    let first = Spec { payload: vec![1; MSS], ..end.next.clone() };
    let last = Spec { flags: 0x19, payload: vec![2; 30], ..first.next() };
    end.burst(&[first.frame(), last.frame()], 0);
    assert_eq!(end.host.shard.counters().gro_packets, 1);
    assert_eq!((end.received.len(), end.info().state), (MSS + 30, State::CloseWait));
    assert_eq!(end.heard.last().unwrap().ack, last.end().wrapping_add(1));
}

#[test]
fn acknowledgments_of_one_burst_are_processed_once_and_count_as_many() {
    let (mut merging, mut plain) = (End::new(&merging(), false, &[]), End::new(&unmerged(), false, &[]));
    for end in [&mut merging, &mut plain] {
        end.burst(&[], 10 * MSS);
        assert_eq!(end.heard.len(), 10);
        let acks: Vec<_> = (1..=10)
            .map(|count| {
                Spec { ack: end.next.ack.wrapping_add(count * MSS as u32), ..end.next.clone() }.frame()
            })
            .collect();
        end.burst(&acks, 0);
    }
    assert_eq!(merging.essence(), plain.essence());
    let (one, other) = (merging.info(), plain.info());
    assert_eq!(
        (one.unacked, one.snd_cwnd, one.snd_ssthresh),
        (other.unacked, other.snd_cwnd, other.snd_ssthresh)
    );
    assert_eq!(one.min_rtt, other.min_rtt);
    assert_eq!(merging.host.shard.counters().gro_acks_thinned, 9);
}

#[test]
fn while_something_is_missing_every_acknowledgment_is_processed() {
    let mut end = End::new(&merging(), false, &[]);
    end.burst(&[], 10 * MSS);
    let at = |segments: u32| end.next.ack.wrapping_add(segments * MSS as u32);
    let hole = [&[1, 1, 5, 10][..], &at(3).to_be_bytes(), &at(4).to_be_bytes()].concat();
    let sack = Spec { ack: at(1), options: hole, ..end.next.clone() };
    let acks = [at(5), at(6), at(7)].map(|ack| Spec { ack, ..end.next.clone() }.frame());
    end.burst(&[sack.frame()], 0);
    end.burst(&acks, 0);
    let counters = end.host.shard.counters();
    assert_eq!((counters.gro_merged, counters.gro_acks_thinned), (2, 0));
    assert_eq!(end.info().bytes_acked, 7 * MSS as u64);
}

#[test]
fn a_chain_of_acknowledgments_to_nobody_is_refused_one_by_one() {
    let mut host = Host::new(1, &merging());
    let acks = [10, 20, 30].map(|ack| Spec::ack(ack).frame());
    host.device.rx.extend(acks);
    while host.poll(Instant::from_millis(10)) {}
    let resets: Vec<_> = host.device.tx.iter().filter_map(|frame| told(frame)).collect();
    assert_eq!(
        resets.iter().map(|told| (told.seq, told.flags)).collect::<Vec<_>>(),
        [(10, 4), (20, 4), (30, 4)]
    );
    assert_eq!(host.shard.counters().dropped(crate::counters::DropReason::TcpNoConnection), 3);
}

#[test]
fn who_has_no_sack_gets_a_duplicate_ack_for_each_segment_ahead_of_a_gap() {
    let config = |sack| {
        let mut config = merging();
        config.tcp.sack = sack;
        config
    };
    for (sack, expected) in [(false, 4), (true, 1)] {
        let mut end = End::new(&config(sack), false, &[]);
        let missing = Spec { payload: vec![1; MSS], ..end.next.clone() };
        let mut specs = vec![missing.next()];
        for _ in 0..3 {
            specs.push(specs[specs.len() - 1].next());
        }
        end.burst(&specs.iter().map(Spec::frame).collect::<Vec<_>>(), 0);
        assert_eq!(end.host.shard.counters().gro_packets, 1);
        assert_eq!(end.heard.len(), expected, "SACK: {sack}");
        assert!(end.heard.iter().all(|told| told.ack == missing.seq));
        assert_eq!(end.info().rcv_ooopack, 4);
    }
}

#[test]
fn payload_of_merged_frames_stays_there_or_is_copied_out_as_is_asked_for() {
    for (copied, held) in [(false, 3), (true, 0)] {
        let mut config = merging();
        config.tcp.copy_received = copied;
        let mut end = End::new(&config, false, &[]);
        let first = Spec { payload: pattern(1000), ..end.next.clone() };
        let specs = [first.clone(), first.next(), first.next().next()];
        end.host.device.rx.extend(specs.iter().map(Spec::frame));
        end.host.poll(end.now);
        assert_eq!(end.host.shard.counters().gro_packets, 1);
        assert_eq!(end.host.device.pool().shared_frames(), held, "copied: {copied}");
        end.burst(&[], 0);
        assert_eq!(end.received, specs.map(|spec| spec.payload).concat());
        assert_eq!(end.host.device.pool().shared_frames(), 0);
    }
}

/// What one step does to the next segment.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    value: u8,
    /// The burst ends with it.
    ends: bool,
    write: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..40, any::<u8>(), prop::bool::weighted(0.2), 0u8..4)
        .prop_map(|(kind, value, ends, write)| Step { kind, value, ends, write });
    prop::collection::vec(step, 1..120)
}

proptest! {
    /// Lost, doubled, reordered, damaged and odd segments in bursts.
    #[test]
    fn the_stream_and_what_the_peer_is_told_do_not_depend_on_merging(steps in steps(), v6 in any::<bool>(), stamped in any::<bool>(), copied in any::<bool>()) {
        let options = if stamped { timestamps(100, 0) } else { Vec::new() };
        let mut merging = merging();
        merging.tcp.copy_received = copied;
        let mut ends = [End::new(&merging, v6, &options), End::new(&unmerged(), v6, &options)];
        prop_assert_eq!(ends[0].next.clone(), ends[1].next.clone());
        let (mut burst, mut sent): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        let (mut next, mut clock, mut count) = (ends[0].next.clone(), 100, 0u8);
        for Step { kind, value, ends: over, write } in steps {
            let mut spec = next.clone();
            count = count.wrapping_add(1);
            spec.payload = (0..MSS).map(|at| count.wrapping_mul(3).wrapping_add(at as u8)).collect();
            if stamped {
                spec.options = timestamps(clock, 0);
            }
            let mut goes = true;
            match kind {
                0 => goes = false,
                1 => spec.payload.truncate(value.into()),
                2 => spec.flags |= 0x08,
                3 => spec.tos = value & 3,
                4 => clock += u32::from(value),
                5 => spec.ttl = value.max(1),
                6 => spec.flags ^= 1 << (value % 8),
                7..12 => spec.payload.clear(),
                _ => {}
            }
            let known = ends.iter().map(|end| end.snd_nxt).min_by_key(|nxt| nxt.wrapping_sub(next.ack)).unwrap();
            if (7..12).contains(&kind) || kind == 12 {
                // Acknowledges some of what both have sent.
                let open = known.wrapping_sub(next.ack);
                next.ack = next.ack.wrapping_add(open.min(u32::from(value)));
                spec.ack = next.ack;
            }
            if spec.flags & 7 == 0 {
                next.seq = spec.end();
            }
            let mut frame = spec.frame();
            match kind {
                13 => burst.extend(sent.get(usize::from(value) % sent.len().max(1)).cloned()),
                14 => {
                    let at = 14 + usize::from(value) % (frame.len() - 14);
                    frame[at] ^= 1 << (value % 8);
                }
                _ => {}
            }
            if goes {
                sent.push(frame.clone());
                burst.push(frame);
            }
            if kind == 15 && burst.len() > 1 {
                let last = burst.len() - 1;
                burst.swap(usize::from(value) % last, last);
            }
            if over || burst.len() > 60 {
                for end in &mut ends {
                    end.burst(&burst, usize::from(write) * MSS);
                }
                burst.clear();
                if !ends.iter().all(|end| end.host.shard.tcp_ref().info(end.now, end.id).is_ok()) {
                    break;
                }
            }
        }
        let alive = ends.iter().map(|end| end.host.shard.tcp_ref().info(end.now, end.id).is_ok()).collect::<Vec<_>>();
        prop_assert_eq!(alive[0], alive[1]);
        let [merging, plain] = &ends;
        prop_assert_eq!(&merging.received, &plain.received);
        if alive[0] {
            prop_assert_eq!(merging.essence(), plain.essence());
        }
    }
}
