//! Recovery and congestion control on a link, whole stacks in virtual time: what RACK-TLP (RFC 8985) promises for lost tails,
//! lost retransmissions and reordering, and what CUBIC's response function (RFC 9438 section 5) predicts.
#![cfg(feature = "sim")]

use std::collections::BTreeMap;

use bywash::counters::Counters;
use bywash::sim::bottleneck::{Bottleneck, Flow, Lab};
use bywash::sim::{Dice, Faults};
use bywash::tcp::{SocketOptions, TcpConfig};
use bywash::time::{Duration, Instant};

const MSS: u64 = 1448;
const SEEDS: u64 = 40;

/// A queue that does not overflow.
const AMPLE: usize = 16 << 20;

/// One CUBIC flow of `bytes` (`None`: without end) over 100 Mbit/s and 40 ms.
fn one_flow(bytes: Option<u64>, queue_bytes: usize, faults: Faults, seed: u64) -> Lab {
    let options = SocketOptions {
        receive_buffer_bytes: 8 << 20,
        send_buffer_bytes: 8 << 20,
        ..SocketOptions::default()
    };
    let flow = Flow { begins_at: Duration::ZERO, bytes, options, tcp: TcpConfig::default() };
    let bottleneck = Bottleneck {
        bits_per_second: 100_000_000,
        rtt: Duration::from_millis(40),
        queue_bytes,
        faults,
        flows: vec![flow],
        seed,
    };
    bottleneck.start()
}

/// Runs to the end of the flow: its sender's counters.
fn finish(mut lab: Lab) -> Counters {
    let deadline = Instant::ZERO + Duration::from_secs(60);
    while lab.received(0).finished_at.is_none() {
        lab.world.run_for(Duration::from_millis(20));
        assert!(lab.world.now() < deadline, "the flow does not end: {:?}", lab.info(0));
    }
    lab.counters(0)
}

/// Where a frame's payload begins and ends in the stream, from the sequence number of the SYN.
fn payload(frame: &[u8], isn: &mut Option<u32>) -> Option<(u64, u64)> {
    if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 6 {
        return None;
    }
    let ip_len = u64::from(u16::from_be_bytes([frame[16], frame[17]]));
    let seq = u32::from_be_bytes(frame.get(38..42)?.try_into().ok()?);
    let header = u64::from(frame[46] >> 4) * 4;
    if frame[47] & 2 != 0 {
        *isn = Some(seq);
        return None;
    }
    let start = u64::from(seq.wrapping_sub(isn.as_ref()?.wrapping_add(1)));
    let len = ip_len - 20 - header;
    (len > 0).then_some((start, start + len))
}

/// Drops each segment that begins at a position of `losses` as many times as said there.
fn drop_segments(lab: &mut Lab, mut losses: BTreeMap<u64, u32>) {
    let mut isn = None;
    lab.link().set_filter(Some(Box::new(move |_, frame| {
        let Some((start, _)) = payload(frame, &mut isn) else { return true };
        match losses.get_mut(&start) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        }
    })));
}

#[test]
fn a_lost_tail_is_repaired_without_timeout_and_without_excess() {
    // RFC 8985 section 7.
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed, 1);
        let segments = dice.range(60..=400);
        let lost = dice.range(1..=20);
        let mut lab = one_flow(Some(segments * MSS), AMPLE, Faults::default(), seed);
        drop_segments(&mut lab, (segments - lost..segments).map(|segment| (segment * MSS, 1)).collect());
        let counters = finish(lab);
        assert_eq!(
            (counters.tcp_timeouts, counters.tcp_tail_probes, counters.tcp_retransmits),
            (0, 1, lost),
            "seed {seed}: {lost} lost of {segments}"
        );
    }
}

#[test]
fn a_lost_retransmission_is_found_without_timeout() {
    // RFC 8985 section 6.2, with something sent after it.
    for seed in 0..SEEDS {
        let mut dice = Dice::new(seed, 2);
        let (first, count) = (dice.range(20..=800), dice.range(1..=5));
        let losses = dice.range(2..=4) as u32;
        let mut lab = one_flow(Some(4000 * MSS), AMPLE, Faults::default(), seed);
        drop_segments(&mut lab, (first..first + count).map(|segment| (segment * MSS, losses)).collect());
        let counters = finish(lab);
        assert_eq!(
            (counters.tcp_timeouts, counters.tcp_retransmits),
            (0, u64::from(losses) * count),
            "seed {seed}: {count} from the {first}th on"
        );
    }
}

#[test]
fn reordering_costs_one_lesson() {
    // RFC 8985 section 6.2: until reordering is known, three SACKed segments show a loss, so whatever is overtaken within the
    // round trip that the lesson takes may be sent again. What that round teaches is not forgotten.
    for packets in 3..=30 {
        for seed in 0..8 {
            let held = Duration::from_nanos(1514 * 80) * packets;
            let faults =
                Faults { reorder: 0.01, reorder_delay: held, reorder_delay_min: held, ..Faults::default() };
            let mut lab = one_flow(Some(2500 * MSS), AMPLE, faults, seed);
            let resent = lab.watch_to_end(0, Instant::ZERO + Duration::from_secs(60));
            let round = Duration::from_millis(40) + held + Duration::from_millis(5);
            let case = format!("by {packets}, seed {seed}: {resent:?}");
            assert_eq!((resent.after_lesson, lab.counters(0).tcp_timeouts), (0, 0), "{case}");
            assert!(resent.span <= round, "{case}");
        }
    }
}

/// Payload bytes a second that CUBIC's response function predicts at random loss `p` and a round trip of 40 ms: the average
/// window of RFC 9438 section 5.1 or, where it is larger, the Reno-friendly one of section 4.3, sqrt(3 / 2p), and no more than
/// the link carries.
fn predicted(p: f64) -> f64 {
    let (c, beta, rtt): (f64, f64, f64) = (0.4, 0.7, 0.040);
    let cubic = (c * (3.0 + beta) / (4.0 * (1.0 - beta))).powf(0.25) * (rtt / p).powf(0.75);
    let link = 100e6 / 8.0 * MSS as f64 / 1514.0;
    (cubic.max((1.5 / p).sqrt()) * MSS as f64 / rtt).min(link)
}

#[test]
fn cubic_keeps_up_with_its_response_function() {
    // RFC 9438 section 5.
    for (loss, seconds) in [(0.0, 20), (0.001, 100), (0.01, 100), (0.03, 100)] {
        for seed in 0..3 {
            let mut lab = one_flow(None, 500_000, Faults::default(), seed);
            lab.world.run_for(Duration::from_millis(500));
            lab.link().config.faults.loss = loss;
            lab.world.run_for(Duration::from_secs(20));
            let before = lab.received(0).bytes;
            lab.world.run_for(Duration::from_secs(seconds));
            let ratio = (lab.received(0).bytes - before) as f64 / seconds as f64 / predicted(loss);
            assert!(ratio >= 0.8, "loss {loss}, seed {seed}: {ratio:.2} of what is predicted");
            assert_eq!(lab.counters(0).tcp_timeouts, 0, "loss {loss}, seed {seed}");
        }
    }
}
