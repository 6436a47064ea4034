//! A model for tests: flows with unbounded data over one link of fixed rate with a drop-tail queue and a fixed
//! propagation time. No segments, no reordering; a hole is found when three later segments arrived. It shows what an
//! algorithm does to the path, not what the engine makes of it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

use super::pacing::Pacer;
use super::{Ack, Algorithm, Congestion, CongestionControl, LossKind, LostSegment};
use crate::tcp::delivery_rate::{DeliveryRate, Snapshot};
use crate::time::{Duration, Instant};

const MSS: u32 = 1448;

struct Transmission {
    number: u64,
    segment: u64,
    sent_at: Instant,
    snapshot: Snapshot,
}

struct Flow {
    congestion: Congestion,
    rate: DeliveryRate,
    pacer: Pacer,
    pacing_timer_runs: bool,
    starts_at: Instant,
    /// In flight, oldest first.
    sent: VecDeque<Transmission>,
    transmissions: u64,
    next_segment: u64,
    /// To be sent again.
    lost: BTreeSet<u64>,
    /// Sent and not delivered.
    missing: BTreeSet<u64>,
    recover: Option<u64>,
    srtt: Duration,
    min_rtt: Duration,
    cwnd_limited: bool,
}

enum Event {
    Start(usize),
    /// The ACK of a transmission arrives.
    Acked(usize, u64),
    Paced(usize),
}

struct Model {
    now: Instant,
    bytes_per_second: u64,
    propagation: Duration,
    queue_bytes: u64,
    /// One of so many segments is lost on the way, by a fixed sequence; 0: none.
    loss_one_in: u32,
    random: u32,
    link_free_at: Instant,
    flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    payload: std::collections::HashMap<u64, Event>,
    next_event: u64,
    drops: u64,
    /// Bytes queued, as arriving segments find it, since statistics were reset.
    queued_sum: u128,
    arrivals: u64,
}

impl Model {
    fn new(mbit: u64, propagation_ms: u64, queue_bytes: u64) -> Self {
        Self {
            now: Instant::ZERO,
            bytes_per_second: mbit * 125_000,
            propagation: Duration::from_millis(propagation_ms),
            queue_bytes,
            loss_one_in: 0,
            random: 0x9E37_79B9,
            link_free_at: Instant::ZERO,
            flows: Vec::new(),
            events: BinaryHeap::new(),
            payload: std::collections::HashMap::new(),
            next_event: 0,
            drops: 0,
            queued_sum: 0,
            arrivals: 0,
        }
    }

    fn bdp(&self) -> u64 {
        self.bytes_per_second * self.propagation.as_millis() as u64 / 1000
    }

    fn flow(&mut self, algorithm: Algorithm, starts_at_ms: u64) {
        let id = self.flows.len();
        let mut congestion = Congestion::new(algorithm, 77 + 13 * id as u32);
        let starts_at = Instant::from_millis(starts_at_ms);
        congestion.on_established(starts_at, MSS);
        congestion.on_handshake_rtt(self.propagation);
        self.flows.push(Flow {
            congestion,
            rate: DeliveryRate::default(),
            pacer: Pacer::new(),
            pacing_timer_runs: false,
            starts_at,
            sent: VecDeque::new(),
            transmissions: 0,
            next_segment: 0,
            lost: BTreeSet::new(),
            missing: BTreeSet::new(),
            recover: None,
            srtt: self.propagation,
            min_rtt: Duration::MAX,
            cwnd_limited: false,
        });
        self.at(starts_at, Event::Start(id));
    }

    fn at(&mut self, time: Instant, event: Event) {
        self.payload.insert(self.next_event, event);
        self.events.push(Reverse((time, self.next_event)));
        self.next_event += 1;
    }

    /// Runs until `seconds` and returns the bytes a second that each flow delivered since the last call.
    fn run_to(&mut self, seconds: u64) -> Vec<u64> {
        let end = Instant::from_millis(seconds * 1000);
        let from = self.now;
        let before: Vec<u64> = self.flows.iter().map(|flow| flow.rate.delivered()).collect();
        (self.queued_sum, self.arrivals, self.drops) = (0, 0, 0);
        while let Some(&Reverse((time, id))) = self.events.peek() {
            if time > end {
                break;
            }
            self.events.pop();
            self.now = time;
            match self.payload.remove(&id).unwrap() {
                Event::Start(flow) => self.send(flow),
                Event::Paced(flow) => {
                    self.flows[flow].pacing_timer_runs = false;
                    self.send(flow);
                }
                Event::Acked(flow, number) => self.acked(flow, number),
            }
        }
        self.now = end;
        let elapsed_ms = (end - from).as_millis() as u64;
        let delivered = self.flows.iter().map(|flow| flow.rate.delivered());
        delivered.zip(before).map(|(now, before)| (now - before) * 1000 / elapsed_ms).collect()
    }

    fn mean_queue_bytes(&self) -> u64 {
        (self.queued_sum / u128::from(self.arrivals.max(1))) as u64
    }

    fn is_lost_on_the_way(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.loss_one_in > 0 && self.random.is_multiple_of(self.loss_one_in)
    }

    fn send(&mut self, id: usize) {
        loop {
            let now = self.now;
            let flow = &mut self.flows[id];
            let in_flight = flow.sent.len() as u32 * MSS;
            if in_flight + MSS > flow.congestion.cwnd().max(MSS) {
                flow.cwnd_limited = true;
                return;
            }
            if let Some(rate) = flow.congestion.pacing_rate() {
                if let Some(next) = flow.pacer.earliest(now) {
                    if !core::mem::replace(&mut flow.pacing_timer_runs, true) {
                        self.at(next, Event::Paced(id));
                    }
                    return;
                }
                flow.pacer.on_send(now, MSS, rate);
            }
            let segment = flow.lost.pop_first().unwrap_or_else(|| {
                flow.next_segment += 1;
                flow.next_segment - 1
            });
            let snapshot = flow.rate.on_send(now, in_flight);
            let number = flow.transmissions;
            flow.transmissions += 1;
            flow.missing.insert(segment);
            flow.sent.push_back(Transmission { number, segment, sent_at: now, snapshot });
            self.enqueue(id, number);
        }
    }

    fn enqueue(&mut self, id: usize, number: u64) {
        let wait = self.link_free_at.saturating_since(self.now);
        let queued = self.bytes_per_second * wait.as_nanos() as u64 / 1_000_000_000;
        self.queued_sum += u128::from(queued);
        self.arrivals += 1;
        if queued + u64::from(MSS) > self.queue_bytes || self.is_lost_on_the_way() {
            self.drops += 1;
            return;
        }
        let time = Duration::from_nanos(u64::from(MSS) * 1_000_000_000 / self.bytes_per_second);
        self.link_free_at = self.link_free_at.max(self.now) + time;
        self.at(self.link_free_at + self.propagation, Event::Acked(id, number));
    }

    fn acked(&mut self, id: usize, number: u64) {
        let now = self.now;
        let flow = &mut self.flows[id];
        let in_flight_before = flow.sent.len() as u32 * MSS;
        let first_missing = flow.missing.first().copied().unwrap_or(flow.next_segment);
        let Some(place) = flow.sent.iter().position(|sent| sent.number == number) else { return };
        let delivered = flow.sent.remove(place).unwrap();
        flow.missing.remove(&delivered.segment);
        flow.rate.on_delivered(now, MSS, delivered.sent_at, &delivered.snapshot);
        let rtt = now - delivered.sent_at;
        flow.srtt = (flow.srtt * 7 + rtt) / 8;
        flow.min_rtt = flow.min_rtt.min(rtt);
        let lost_bytes = flow.find_losses(now, number);
        let acked_to = flow.missing.first().copied().unwrap_or(flow.next_segment);
        let was_in_recovery = flow.recover.is_some();
        if flow.recover.is_some_and(|recover| acked_to >= recover) {
            flow.recover = None;
            flow.congestion.on_recovery_exit(now);
        }
        let ack = Ack {
            now,
            acked_bytes: (acked_to - first_missing) as u32 * MSS,
            acks: 1,
            delivered_bytes: MSS,
            rtt: Some(rtt),
            srtt: Some(flow.srtt),
            in_flight_before,
            is_app_limited: !flow.cwnd_limited,
            in_recovery: was_in_recovery,
            mss: MSS,
            rate: flow.rate.sample(now, Some(flow.min_rtt)),
            in_flight_after: flow.sent.len() as u32 * MSS,
            lost_bytes,
            delivered_total: flow.rate.delivered(),
            min_rtt: Some(flow.min_rtt),
            acked_to: acked_to * u64::from(MSS),
            sent_to: flow.next_segment * u64::from(MSS),
        };
        flow.congestion.on_ack(&ack);
        assert!(flow.congestion.cwnd() >= MSS && flow.starts_at <= now);
        self.send(id);
    }
}

impl Flow {
    /// Nothing is reordered: what was sent three or more transmissions before a delivered one is lost.
    fn find_losses(&mut self, now: Instant, delivered: u64) -> u32 {
        let mut lost_bytes = 0;
        while self.sent.front().is_some_and(|oldest| oldest.number + 3 <= delivered) {
            let oldest = self.sent.pop_front().unwrap();
            self.lost.insert(oldest.segment);
            self.rate.on_lost(MSS);
            lost_bytes += MSS;
            self.congestion.on_segment_lost(&LostSegment {
                now,
                bytes: MSS,
                lost_since_sent: self.rate.lost_since(&oldest.snapshot),
                delivered_total: self.rate.delivered(),
                snapshot: oldest.snapshot,
            });
        }
        if lost_bytes > 0 && self.recover.is_none() {
            let in_flight = self.sent.len() as u32 * MSS + lost_bytes;
            self.congestion.on_loss_event(now, in_flight, LossKind::FastRetransmit);
            self.recover = Some(self.next_segment);
        }
        lost_bytes
    }
}

/// Jain's fairness index.
fn fairness(rates: &[u64]) -> f64 {
    let sum: f64 = rates.iter().map(|rate| *rate as f64).sum();
    let squares: f64 = rates.iter().map(|rate| (*rate as f64).powi(2)).sum();
    sum * sum / (rates.len() as f64 * squares)
}

/// Share of the link, percent.
fn utilisation(model: &Model, rates: &[u64]) -> u64 {
    rates.iter().sum::<u64>() * 100 / model.bytes_per_second
}

#[test]
fn cubic_fills_a_link_whose_queue_is_a_bandwidth_delay_product() {
    let mut model = Model::new(100, 40, 500_000);
    assert_eq!(model.bdp(), 500_000);
    model.flow(Algorithm::Cubic, 0);
    let start = model.run_to(2);
    assert!(utilisation(&model, &start) > 80, "{start:?}");
    let steady = model.run_to(60);
    assert!(utilisation(&model, &steady) >= 99, "{steady:?}");
}

#[test]
fn the_first_slow_start_overflows_the_queue_by_less_than_reno_s() {
    let drops = [Algorithm::Cubic, Algorithm::NewReno].map(|algorithm| {
        let mut model = Model::new(100, 40, 1_000_000);
        model.flow(algorithm, 0);
        model.run_to(2);
        assert!(!model.flows[0].congestion.in_slow_start());
        model.drops
    });
    assert!(drops[0] < drops[1] / 2, "{drops:?}");
}

#[test]
fn four_cubic_flows_share_a_link_fairly() {
    let mut model = Model::new(100, 40, 500_000);
    (0..4).for_each(|n| model.flow(Algorithm::Cubic, n * 3_000));
    model.run_to(60);
    let rates = model.run_to(180);
    assert!(fairness(&rates) > 0.95 && utilisation(&model, &rates) >= 95, "{rates:?}");
}

#[test]
fn cubic_reaches_what_its_response_function_predicts() {
    // RFC 9438 section 5, Figure 8, and where it is larger Reno's window of section 5.1, 1.2 / sqrt(p).
    for one_in in [1000u32, 100] {
        let mut model = Model::new(1000, 40, 100_000_000);
        model.loss_one_in = one_in;
        model.flow(Algorithm::Cubic, 0);
        model.run_to(10);
        let rate = model.run_to(200)[0] as f64;
        let p = 1.0 / f64::from(one_in);
        let window = (1.054 * 0.04f64.powf(0.75) / p.powf(0.75)).max(1.2 / p.sqrt());
        let predicted = window * f64::from(MSS) / 0.04;
        assert!(rate > 0.8 * predicted, "{one_in}: {rate} of {predicted}");
    }
}

#[test]
fn bbr_fills_the_link_and_keeps_the_queue_short() {
    // RFC 9293 section 3.8.2, MAY-18.
    for (mbit, rtt_ms) in [(10, 40), (100, 40), (1000, 10)] {
        let mut model = Model::new(mbit, rtt_ms, u64::MAX >> 20);
        model.flow(Algorithm::Bbr, 0);
        let start = model.run_to(2);
        assert!(utilisation(&model, &start) > 80, "{mbit}: {start:?}");
        let steady = model.run_to(40);
        assert!(utilisation(&model, &steady) >= 90, "{mbit}: {steady:?}");
        let queue = model.mean_queue_bytes();
        assert!(queue < model.bdp() / 4, "{mbit}: {queue} of {}", model.bdp());
    }
}

#[test]
fn bbr_keeps_most_of_its_rate_through_random_loss_of_one_percent() {
    let rates = [Algorithm::Bbr, Algorithm::Cubic].map(|algorithm| {
        let mut model = Model::new(100, 40, 500_000);
        model.loss_one_in = 100;
        model.flow(algorithm, 0);
        model.run_to(5);
        let rates = model.run_to(60);
        utilisation(&model, &rates)
    });
    assert!(rates[0] >= 60 && rates[0] > 8 * rates[1], "{rates:?} percent");
}

#[test]
fn bbr_flows_share_a_link_and_lose_little() {
    let mut model = Model::new(100, 40, 500_000);
    (0..4).for_each(|n| model.flow(Algorithm::Bbr, n * 2_000));
    model.run_to(60);
    let rates = model.run_to(180);
    assert!(fairness(&rates) > 0.85 && utilisation(&model, &rates) >= 85, "{rates:?}");
    let lost = model.drops as f64 / model.arrivals as f64;
    assert!(lost < 0.02, "{lost}");
}

#[test]
fn bbr_leaves_cubic_a_share_and_keeps_one() {
    let mut model = Model::new(100, 40, 500_000);
    model.flow(Algorithm::Cubic, 0);
    model.flow(Algorithm::Bbr, 5_000);
    model.run_to(30);
    let rates = model.run_to(180);
    assert!(rates.iter().all(|rate| *rate > model.bytes_per_second / 10), "{rates:?}");
}

#[test]
fn bbr_finds_more_bandwidth_and_less() {
    let mut model = Model::new(50, 40, 1_000_000);
    model.flow(Algorithm::Bbr, 0);
    model.run_to(10);
    model.bytes_per_second *= 2;
    model.run_to(20);
    let more = model.run_to(30);
    assert!(utilisation(&model, &more) >= 85, "{more:?}");
    model.bytes_per_second /= 4;
    model.run_to(45);
    let less = model.run_to(60);
    assert!(utilisation(&model, &less) >= 85, "{less:?}");
    assert!(model.mean_queue_bytes() < model.bdp(), "{}", model.mean_queue_bytes());
}
