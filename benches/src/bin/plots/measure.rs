//! The experiments: 100 Mbit/s, 40 ms, a queue of one bandwidth-delay product, unless said otherwise.

use bywash::sim::Faults;
use bywash::sim::bottleneck::{Bottleneck, Flow, Lab};
use bywash::sim::{Dice, Link};
use bywash::tcp::congestion::Algorithm;
use bywash::tcp::{SocketOptions, TcpConfig};
use bywash::time::{Duration, Instant};

/// Bits per second of the bottleneck.
pub const RATE: u64 = 100_000_000;
/// Round-trip time without queue.
pub const RTT: Duration = Duration::from_millis(40);
/// Payload bytes of a full segment.
pub const MSS: f64 = 1448.0;
/// What of the link's rate is payload: headers of Ethernet, IP and TCP with timestamps take the rest.
pub const GOODPUT_MAX: f64 = RATE as f64 * MSS / 1514.0;
/// Seeds of each figure that is drawn by lot.
pub const SEEDS: u64 = 3;

const BUFFER_BYTES: usize = 8 << 20;
/// Losses begin after the handshake, whose timeouts are another matter.
const HANDSHAKE: Duration = Duration::from_millis(500);

/// Which stack a flow has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stack {
    pub algorithm: Algorithm,
    pub repair: Repair,
}

/// How losses are found and repaired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// With SACK, RACK-TLP and all the rest.
    Sack,
    /// By duplicate ACKs: what is left of the stack's recovery without SACK, which is proportional rate reduction, F-RTO and
    /// Eifel detection, but neither RACK nor probes of tails.
    NoSack,
    /// The same without timestamps, and so without Eifel detection, and with RFC 6298 section 2.4's second as the least
    /// timeout: the nearest to RFC 5681 and RFC 6582 alone.
    Plain,
}

impl Stack {
    pub fn name(self) -> String {
        let name = match self.algorithm {
            Algorithm::Cubic => "CUBIC",
            Algorithm::NewReno => "NewReno",
            Algorithm::Bbr => "BBR",
        };
        match self.repair {
            Repair::Sack => name.to_owned(),
            Repair::NoSack => format!("{name} without SACK"),
            Repair::Plain => format!("{name}, RFC 6582 alone"),
        }
    }

    fn config(self) -> TcpConfig {
        let mut config = TcpConfig { sack: self.repair == Repair::Sack, ..TcpConfig::default() };
        if self.repair == Repair::Plain {
            (config.timestamps, config.min_rto) = (false, Duration::from_secs(1));
        }
        config
    }
}

pub const CUBIC: Stack = Stack { algorithm: Algorithm::Cubic, repair: Repair::Sack };
pub const BBR: Stack = Stack { algorithm: Algorithm::Bbr, repair: Repair::Sack };
pub const NEWRENO: Stack = Stack { algorithm: Algorithm::NewReno, repair: Repair::Sack };
pub const NEWRENO_NO_SACK: Stack = Stack { algorithm: Algorithm::NewReno, repair: Repair::NoSack };
pub const NEWRENO_PLAIN: Stack = Stack { algorithm: Algorithm::NewReno, repair: Repair::Plain };

/// Median, least and largest of several seeds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { median: values[values.len() / 2], min: values[0], max: values[values.len() - 1] }
    }
}

fn bottleneck(stack: Stack, begins: &[Duration], bytes: Option<u64>, seed: u64) -> Bottleneck {
    let options = SocketOptions {
        congestion: stack.algorithm,
        receive_buffer_bytes: BUFFER_BYTES,
        send_buffer_bytes: BUFFER_BYTES,
        ..SocketOptions::default()
    };
    let flow = |&begins_at| Flow { begins_at, bytes, options: options.clone(), tcp: stack.config() };
    let mut bottleneck = Bottleneck {
        bits_per_second: RATE,
        rtt: RTT,
        queue_bytes: 0,
        faults: Faults::default(),
        flows: begins.iter().map(flow).collect(),
        seed,
    };
    bottleneck.queue_bytes = bottleneck.bandwidth_delay_product();
    bottleneck
}

// ---- random loss

/// One stack at one loss rate.
pub struct LossResult {
    pub stack: Stack,
    /// Round-trip time without queue.
    pub rtt: Duration,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Packets that are lost in a row, one to so many.
    pub burst: u64,
    /// Payload bits per second after slow start.
    pub goodput: Spread,
    /// Retransmission timeouts of all seeds.
    pub timeouts: u64,
    /// Segments sent again beyond those that were lost, of all seeds.
    pub spurious: i64,
    pub lost: u64,
}

/// What CUBIC's response function predicts at random loss `p` and this round-trip time, payload bits per second: RFC 9438 section 5.1's average
/// window, or section 4.3's Reno-friendly one where that is larger, and no more than the link carries.
pub fn predicted(p: f64, round_trip: Duration) -> f64 {
    if p <= 0.0 {
        return GOODPUT_MAX;
    }
    let rtt = round_trip.as_secs_f64();
    let (c, beta): (f64, f64) = (0.4, 0.7);
    let cubic = (c * (3.0 + beta) / (4.0 * (1.0 - beta))).powf(0.25) * (rtt / p).powf(0.75);
    (cubic * MSS * 8.0 / rtt).max(reno(p, round_trip)).min(GOODPUT_MAX)
}

/// The same for Reno, and CUBIC in its Reno-friendly region: sqrt(3 / 2p) segments a round trip.
pub fn reno(p: f64, rtt: Duration) -> f64 {
    (1.5 / p).sqrt() * MSS * 8.0 / rtt.as_secs_f64()
}

pub fn random_loss() -> Vec<LossResult> {
    let mut results = Vec::new();
    for (loss, burst) in [(0.0, 1), (0.001, 1), (0.01, 1), (0.03, 1), (0.01, 8)] {
        for stack in [CUBIC, NEWRENO, NEWRENO_NO_SACK, NEWRENO_PLAIN, BBR] {
            results.push(loss_result(stack, RTT, loss, burst, HANDSHAKE, Duration::from_secs(60)));
        }
    }
    results
}

/// Round-trip time of the path on which CUBIC leaves Reno's behaviour.
const LONG_RTT: Duration = Duration::from_millis(200);

/// Where CUBIC's own response function is the larger one.
pub fn long_path() -> Vec<LossResult> {
    let mut results = Vec::new();
    for loss in [0.00003, 0.0001, 0.0003, 0.001] {
        for stack in [CUBIC, NEWRENO_NO_SACK] {
            results.push(loss_result(stack, LONG_RTT, loss, 1, HANDSHAKE, Duration::from_secs(400)));
        }
    }
    results
}

/// Losses begin at `from`; the measurement lasts `time` and begins when 250 round trips have passed since then.
fn loss_result(
    stack: Stack,
    rtt: Duration,
    loss: f64,
    burst: u64,
    from: Duration,
    time: Duration,
) -> LossResult {
    let warm_up = rtt * 250;
    let (mut goodput, mut timeouts, mut spurious, mut lost) = (Vec::new(), 0, 0, 0);
    for seed in 1..=SEEDS {
        let mut bottleneck = bottleneck(stack, &[Duration::ZERO], None, seed);
        bottleneck.rtt = rtt;
        bottleneck.queue_bytes = bottleneck.bandwidth_delay_product();
        let mut lab = bottleneck.start();
        lab.world.run_for(from);
        // `loss` is the share of packets lost; a burst begins as much more seldom as it is longer.
        lab.link().config.faults.loss = loss * 2.0 / (burst as f64 + 1.0);
        lab.link().config.faults.loss_burst_packets = burst;
        lab.world.run_for(warm_up);
        let before = lab.received(0).bytes;
        lab.world.run_for(time);
        let bytes = lab.received(0).bytes - before;
        goodput.push(bytes as f64 * 8.0 / time.as_secs_f64());
        let counters = lab.counters(0);
        let stats = lab.link().stats;
        timeouts += counters.tcp_timeouts;
        spurious += counters.tcp_retransmits as i64 - (stats.lost + stats.queue_full) as i64;
        lost += stats.lost + stats.queue_full;
    }
    LossResult { stack, rtt, loss, burst, goodput: Spread::of(goodput), timeouts, spurious, lost }
}

/// What becomes of recovery by RFC 6582 alone when random loss sets in while the losses of slow start are repaired.
pub struct Backoff {
    pub loss: f64,
    /// Timeouts of the first seed, one after the other.
    pub timeouts: Vec<Timeout>,
    /// Payload bits per second when random loss begins later.
    pub later: Spread,
    pub later_from: Duration,
}

pub struct Timeout {
    pub at: Instant,
    /// Segments acknowledged since the timeout before.
    pub acked: u64,
    /// Segments that count as lost.
    pub lost: u32,
    /// The next timeout comes after this time.
    pub next: Duration,
}

const BACKOFF_LOSS: f64 = 0.01;
const BACKOFF_TIME: Duration = Duration::from_secs(70);
const BACKOFF_LATER: Duration = Duration::from_secs(5);

pub fn backoff() -> Backoff {
    let mut lab = bottleneck(NEWRENO_PLAIN, &[Duration::ZERO], None, 1).start();
    lab.world.run_for(HANDSHAKE);
    lab.link().config.faults.loss = BACKOFF_LOSS;
    let (mut timeouts, mut acked) = (Vec::new(), 0);
    while lab.world.now() < Instant::ZERO + BACKOFF_TIME {
        lab.world.step(Instant::ZERO + BACKOFF_TIME);
        let new = lab.counters(0).tcp_timeouts as usize > timeouts.len();
        let Some(info) = lab.info(0).filter(|_| new) else { continue };
        let all = info.bytes_acked / MSS as u64;
        timeouts.push(Timeout {
            at: lab.world.now(),
            acked: all - core::mem::replace(&mut acked, all),
            lost: info.lost,
            next: info.rto,
        });
    }
    let later = loss_result(NEWRENO_PLAIN, RTT, BACKOFF_LOSS, 1, BACKOFF_LATER, Duration::from_secs(60));
    Backoff { loss: BACKOFF_LOSS, timeouts, later: later.goodput, later_from: BACKOFF_LATER }
}

// ---- four flows

/// Four flows of one kind that begin one after the other.
pub struct Shared {
    pub stack: Stack,
    /// Jain's index of the flows' goodput while all four are there.
    pub jain: Spread,
    /// Of all four together.
    pub goodput: Spread,
    /// Packets the queue dropped, of all seeds.
    pub dropped: u64,
    pub timeouts: u64,
    /// Goodput of each flow of the first seed, second by second.
    pub series: Vec<Vec<f64>>,
}

/// Seconds between two flows' beginnings.
const STAGGER: u64 = 5;
/// Seconds of the measurement, after the last has begun and as long again as that took.
const SHARED_SECONDS: u64 = 120;

pub fn shared_link() -> Vec<Shared> {
    [CUBIC, NEWRENO, BBR].map(shared).into()
}

fn shared(stack: Stack) -> Shared {
    let begins: Vec<_> = (0..4).map(|flow| Duration::from_secs(flow * STAGGER)).collect();
    let settle = 3 * STAGGER * 2;
    let (mut jain, mut goodput, mut dropped, mut timeouts) = (Vec::new(), Vec::new(), 0, 0);
    let mut series = vec![Vec::new(); 4];
    for seed in 1..=SEEDS {
        let mut lab = bottleneck(stack, &begins, None, seed).start();
        let mut at_settled = [0; 4];
        for second in 0..settle + SHARED_SECONDS {
            if second == settle {
                at_settled = [0, 1, 2, 3].map(|flow| lab.received(flow).bytes);
            }
            let before = [0, 1, 2, 3].map(|flow| lab.received(flow).bytes);
            lab.world.run_for(Duration::from_secs(1));
            if seed == 1 {
                for (flow, line) in series.iter_mut().enumerate() {
                    line.push((lab.received(flow).bytes - before[flow]) as f64 * 8.0);
                }
            }
        }
        let rates = [0, 1, 2, 3]
            .map(|flow| (lab.received(flow).bytes - at_settled[flow]) as f64 * 8.0 / SHARED_SECONDS as f64);
        let sum: f64 = rates.iter().sum();
        jain.push(sum * sum / (4.0 * rates.iter().map(|rate| rate * rate).sum::<f64>()));
        goodput.push(sum);
        dropped += lab.link().stats.queue_full;
        timeouts += (0..4).map(|flow| lab.counters(flow).tcp_timeouts).sum::<u64>();
    }
    Shared { stack, jain: Spread::of(jain), goodput: Spread::of(goodput), dropped, timeouts, series }
}

// ---- queues

/// One flow alone, no random loss: the queue and the window over time.
pub struct Queue {
    pub stack: Stack,
    /// Every 20 ms: seconds, queue in bytes, congestion window in bytes, payload bits per second.
    pub samples: Vec<Sample>,
    pub goodput: f64,
    /// Bytes, after the first five seconds.
    pub mean: f64,
    pub p95: f64,
    pub dropped: u64,
}

pub struct Sample {
    pub at: f64,
    pub queue: f64,
    pub cwnd: f64,
    pub goodput: f64,
}

const SAMPLE: Duration = Duration::from_millis(20);
const QUEUE_SECONDS: u64 = 40;

pub fn queues() -> Vec<Queue> {
    [CUBIC, BBR, NEWRENO].map(queue).into()
}

fn queue(stack: Stack) -> Queue {
    let mut lab = bottleneck(stack, &[Duration::ZERO], None, 1).start();
    let mut samples = Vec::new();
    let mut before = 0;
    for _ in 0..Duration::from_secs(QUEUE_SECONDS).as_millis() / SAMPLE.as_millis() {
        lab.world.run_for(SAMPLE);
        let bytes = lab.received(0).bytes;
        let cwnd = lab.info(0).map_or(0, |info| info.snd_cwnd * info.snd_mss);
        samples.push(Sample {
            at: lab.world.now().as_millis() as f64 / 1000.0,
            queue: lab.queue_bytes() as f64,
            cwnd: f64::from(cwnd),
            goodput: (bytes - before) as f64 * 8.0 / SAMPLE.as_secs_f64(),
        });
        before = bytes;
    }
    let settled: Vec<&Sample> = samples.iter().filter(|sample| sample.at > 5.0).collect();
    let mut queue: Vec<f64> = settled.iter().map(|sample| sample.queue).collect();
    queue.sort_by(f64::total_cmp);
    let mean = queue.iter().sum::<f64>() / queue.len() as f64;
    let p95 = queue[queue.len() * 95 / 100];
    let goodput = settled.iter().map(|sample| sample.goodput).sum::<f64>() / settled.len() as f64;
    let dropped = lab.link().stats.queue_full;
    Queue { stack, samples, goodput, mean, p95, dropped }
}

// ---- recovery

/// Counts of many transfers that all met the same kind of trouble.
#[derive(Default)]
pub struct Recovery {
    pub what: &'static str,
    pub transfers: u64,
    pub lost: u64,
    pub retransmits: u64,
    pub timeouts: u64,
    pub tail_probes: u64,
    pub undos: u64,
    pub dsacks: u64,
    /// Most segments that one transfer sent again beyond those lost.
    pub spurious_max: i64,
    /// Segments sent again after the sender could know of reordering, all transfers together.
    pub after_lesson: u64,
}

/// Transfers of each kind.
const TRANSFERS: u64 = 100;

pub fn recovery() -> Vec<Recovery> {
    let tail = repeat("a lost tail of 1 to 20 segments", |seed, dice| {
        let segments = dice.range(40..=400);
        let first = segments - dice.range(1..=20);
        let mut lab = transfer(segments, seed);
        drop_segments(lab.link(), first, segments - first, 1);
        lab
    });
    let again = repeat("1 to 5 segments lost, and their retransmissions 1 to 3 times", |seed, dice| {
        let (first, count, times) = (dice.range(20..=600), dice.range(1..=5), dice.range(2..=4));
        let mut lab = transfer(4000, seed);
        drop_segments(lab.link(), first, count, times as u32);
        lab
    });
    let reordered = repeat("1 % of packets overtaken by 3 to 30", |seed, dice| {
        let mut lab = transfer(3000, seed);
        let held = Duration::from_nanos(1514 * 8_000_000_000 / RATE) * dice.range(3..=30) as u32;
        let faults = &mut lab.link().config.faults;
        (faults.reorder, faults.reorder_delay, faults.reorder_delay_min) = (0.01, held, held);
        lab
    });
    vec![tail, again, reordered]
}

/// A CUBIC transfer of so many segments over a queue that does not overflow.
fn transfer(segments: u64, seed: u64) -> Lab {
    let mut bottleneck = bottleneck(CUBIC, &[Duration::ZERO], Some(segments * MSS as u64), seed);
    bottleneck.queue_bytes = 2 * BUFFER_BYTES;
    bottleneck.start()
}

fn repeat(what: &'static str, start: impl Fn(u64, &mut Dice) -> Lab) -> Recovery {
    let mut sum = Recovery { what, transfers: TRANSFERS, ..Recovery::default() };
    for seed in 1..=TRANSFERS {
        let mut lab = start(seed, &mut Dice::new(seed, 0x9107));
        let resent = lab.watch_to_end(0, Instant::ZERO + Duration::from_secs(120));
        sum.after_lesson += resent.after_lesson;
        let counters = lab.counters(0);
        let lost = lab.link().stats.filtered;
        sum.lost += lost;
        sum.retransmits += counters.tcp_retransmits;
        sum.timeouts += counters.tcp_timeouts;
        sum.tail_probes += counters.tcp_tail_probes;
        sum.undos += counters.tcp_undos;
        sum.dsacks += counters.tcp_dsacks_rx;
        sum.spurious_max = sum.spurious_max.max(counters.tcp_retransmits as i64 - lost as i64);
    }
    sum
}

/// Drops `count` segments from the `first` on, each `times` times.
fn drop_segments(link: &mut Link, first: u64, count: u64, times: u32) {
    let mut isn = None;
    let mut left = vec![times; count as usize];
    link.set_filter(Some(Box::new(move |_, frame| {
        let Some(start) = stream_position(frame, &mut isn) else { return true };
        let Some(index) = (start / MSS as u64).checked_sub(first) else { return true };
        match left.get_mut(index as usize) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        }
    })));
}

/// Where a frame's payload begins in the stream; `None` without payload. `isn` is learnt from the SYN.
fn stream_position(frame: &[u8], isn: &mut Option<u32>) -> Option<u64> {
    if frame.get(12..14)? != [8, 0] || frame.get(23) != Some(&6) {
        return None;
    }
    let seq = u32::from_be_bytes(frame.get(38..42)?.try_into().ok()?);
    if frame.get(47)? & 2 != 0 {
        *isn = Some(seq);
        return None;
    }
    let headers = 20 + usize::from(frame[46] >> 4) * 4;
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    (total > headers).then_some(u64::from(seq.wrapping_sub(isn.as_ref()?.wrapping_add(1))))
}
