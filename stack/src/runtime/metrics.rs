//! Figures for people and for Prometheus: snapshots of what every shard counted, and their sums.

use core::fmt::{self, Display, Write as _};

use crate::counters::Counters;
use crate::flow::conntrack::ConntrackCounters;
use crate::packet::PoolUse;
use crate::shard::{LinkState, LinkTraffic};
use crate::tcp::Census;
use crate::time::Duration;

/// Declares what a shard's thread counts besides the packets.
macro_rules! runtime_counters {
    ($($name:ident $help:literal,)*) => {
        /// What a shard's thread counted besides the packets.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct RuntimeCounters {
            $(#[doc = $help] pub $name: u64,)*
        }

        impl RuntimeCounters {
            /// Every counter: name, help text, value.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $help, self.$name),)*].into_iter()
            }

            /// Adds another shard's counts to these.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

runtime_counters! {
    turns "Turns of the shard's loop.",
    sleeps "Times the shard's thread slept for want of work.",
    wakeups "Of those, sleeps that another thread ended.",
    slept_nanoseconds "Time the shard's thread slept for want of work.",
    spun_nanoseconds "Time the shard's thread looked for work again and again instead.",
    spins_preempted "Times another thread took the CPU from the spinning one.",
    tasks "Tasks run: futures polled.",
    task_panics "Spawned tasks that panicked.",
    steering_errors "Changes of the steering that the device refused.",
    apps_cut_off "Applications that had not ended when the shutdown's time was over.",
    connections_aborted "Connections aborted because they had not finished when the shutdown's time was over.",
}

/// One shard's figures at one time.
#[derive(Clone, Debug, Default)]
pub struct ShardMetrics {
    /// Which shard.
    pub shard: usize,
    /// What the stack counted.
    pub counters: Counters,
    /// TCP's listeners and connections.
    pub tcp: Census,
    /// Flows tracked, and how many may be, where rules ask for them.
    pub flows: Option<(usize, usize)>,
    /// What connection tracking counted, where rules ask for it.
    pub flow_counters: Option<ConntrackCounters>,
    /// The links.
    pub links: Vec<LinkState>,
    /// Where the pool's frames are.
    pub pool: PoolUse,
    /// How often a frame was wanted and none was free.
    pub pool_alloc_failures: u64,
    /// How often a ring returned a frame that it did not have.
    pub pool_bogus_returns: u64,
    /// The driver's own counters: name, help text, value.
    pub driver: Vec<(&'static str, &'static str, u64)>,
    /// What the thread counted.
    pub runtime: RuntimeCounters,
    /// CPU time the shard's thread used.
    pub cpu: Duration,
    /// How long after the runtime's start the figures were taken.
    pub uptime: Duration,
}

/// All shards' figures.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Shard by shard.
    pub shards: Vec<ShardMetrics>,
    /// How long the runtime has run.
    pub elapsed: Duration,
    /// Packets missing from the capture file because its writer did not keep up; `None` without a capture.
    pub capture_lost: Option<u64>,
}

impl Metrics {
    /// The sum of all shards' counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.sum(Counters::default(), |sum, shard| sum.add(&shard.counters))
    }

    /// The sum of what all threads counted.
    #[must_use]
    pub fn runtime(&self) -> RuntimeCounters {
        self.sum(RuntimeCounters::default(), |sum, shard| sum.add(&shard.runtime))
    }

    /// The sum of all shards' listeners and connections.
    #[must_use]
    pub fn tcp(&self) -> Census {
        self.sum(Census::default(), |sum, shard| {
            sum.listeners += shard.tcp.listeners;
            sum.syn_received += shard.tcp.syn_received;
            sum.connections += shard.tcp.connections;
            sum.ended += shard.tcp.ended;
            sum.time_wait += shard.tcp.time_wait;
            sum.buffered_bytes += shard.tcp.buffered_bytes;
        })
    }

    /// The sum of all shards' frames.
    #[must_use]
    pub fn pool(&self) -> PoolUse {
        self.sum(PoolUse::default(), |sum, shard| {
            sum.total += shard.pool.total;
            sum.free += shard.pool.free;
            sum.fill += shard.pool.fill;
            sum.tx += shard.pool.tx;
            sum.held += shard.pool.held;
            sum.shared += shard.pool.shared;
        })
    }

    /// The links, each with the sum of what went over it on all shards.
    #[must_use]
    pub fn links(&self) -> Vec<LinkState> {
        self.sum(Vec::new(), |sum: &mut Vec<LinkState>, shard| {
            for (at, link) in shard.links.iter().enumerate() {
                match sum.get_mut(at) {
                    Some(same) => same.traffic.add(&link.traffic),
                    None => sum.push(link.clone()),
                }
            }
        })
    }

    /// CPU time of all shards' threads.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.sum(Duration::ZERO, |sum, shard| *sum += shard.cpu)
    }

    fn sum<T>(&self, mut sum: T, mut add: impl FnMut(&mut T, &ShardMetrics)) -> T {
        self.shards.iter().for_each(|shard| add(&mut sum, shard));
        sum
    }

    /// The figures in Prometheus' text exposition format: counters as `bywash_<name>_total{shard="0"}`, the driver's as
    /// `bywash_driver_<name>_total`, drops as `bywash_drops_total{shard="0",reason="..."}`.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut text = Exposition { text: String::with_capacity(16 << 10), shards: &self.shards };
        text.counters(|shard| Box::new(shard.counters.iter()), "");
        text.counters(|shard| Box::new(shard.runtime.iter()), "runtime_");
        text.counters(|shard| Box::new(shard.driver.iter().copied()), "driver_");
        text.family("drops_total", "counter", "Packets dropped, by reason.");
        text.samples("drops_total", |shard| {
            let reasons = shard.counters.drops();
            reasons.map(|(reason, count)| (Some(("reason", reason.name())), count.to_string())).collect()
        });
        text.gauges("tcp_connections", "TCP connections, by state.", "state", |shard| {
            let Census { syn_received, connections, time_wait, .. } = shard.tcp;
            vec![("syn_received", syn_received), ("open", connections), ("time_wait", time_wait)]
        });
        text.gauge("tcp_listeners", "gauge", "TCP listeners.", |shard| shard.tcp.listeners.to_string());
        text.gauge("tcp_buffered_bytes", "gauge", "Bytes in TCP's send and receive buffers.", |shard| {
            shard.tcp.buffered_bytes.to_string()
        });
        if self.shards.iter().any(|shard| shard.flows.is_some()) {
            let flows = |shard: &ShardMetrics| shard.flows.unwrap_or_default();
            text.gauge("flows", "gauge", "Flows tracked.", move |shard| flows(shard).0.to_string());
            text.gauge("flows_max", "gauge", "Flows that may be tracked.", move |shard| {
                flows(shard).1.to_string()
            });
            type Figure = fn(&ConntrackCounters) -> u64;
            let figures: [(&str, &str, Figure); 4] = [
                ("flows_begun_total", "Flows that were let through.", |counted| counted.confirmed),
                ("flows_expired_total", "Flows that ended for want of packets.", |counted| counted.expired),
                (
                    "flow_early_drops_total",
                    "Flows that were not assured and ended early, to make room.",
                    |counted| counted.early_drops,
                ),
                ("flow_packets_invalid_total", "Packets that fit no flow.", |counted| counted.invalid),
            ];
            for (name, help, of) in figures {
                text.gauge(name, "counter", help, move |shard| {
                    of(&shard.flow_counters.unwrap_or_default()).to_string()
                });
            }
        }
        if self.shards.iter().any(|shard| shard.links.len() > 1) {
            text.links();
        }
        text.gauges("pool_frames", "Frames of the packet pool, by place.", "place", |shard| {
            let pool = shard.pool;
            let packets = pool.held.saturating_sub(pool.shared);
            let places = [
                ("free", pool.free),
                ("fill", pool.fill),
                ("tx", pool.tx),
                ("packets", packets),
                ("shared", pool.shared),
            ];
            places.map(|(place, frames)| (place, frames as usize)).to_vec()
        });
        text.gauge("pool_alloc_failures_total", "counter", "Frames wanted while none was free.", |shard| {
            shard.pool_alloc_failures.to_string()
        });
        text.gauge(
            "pool_bogus_returns_total",
            "counter",
            "Frames returned by a ring without them.",
            |shard| shard.pool_bogus_returns.to_string(),
        );
        text.gauge("cpu_seconds_total", "counter", "CPU time of the shard's thread.", |shard| {
            format!("{:.6}", shard.cpu.as_secs_f64())
        });
        text.gauge("uptime_seconds", "gauge", "Time since the runtime's start.", |shard| {
            format!("{:.6}", shard.uptime.as_secs_f64())
        });
        if let Some(lost) = self.capture_lost {
            text.family("capture_lost_total", "counter", "Packets missing from the capture file.");
            let _ = writeln!(text.text, "bywash_capture_lost_total {lost}");
        }
        text.text
    }
}

type Samples<'a> = Box<dyn Iterator<Item = (&'static str, &'static str, u64)> + 'a>;
type Label = (&'static str, &'static str);

/// The text being written. Writing to a `String` cannot fail.
struct Exposition<'a> {
    text: String,
    shards: &'a [ShardMetrics],
}

impl<'a> Exposition<'a> {
    /// The lines that open a family of metrics; once each.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP bywash_{name} {help}\n# TYPE bywash_{name} {kind}");
    }

    fn samples(&mut self, name: &str, of: impl Fn(&'a ShardMetrics) -> Vec<(Option<Label>, String)>) {
        for shard in self.shards {
            for (label, value) in of(shard) {
                let _ = write!(self.text, "bywash_{name}{{shard=\"{}\"", shard.shard);
                if let Some((key, label)) = label {
                    let _ = write!(self.text, ",{key}=\"{label}\"");
                }
                let _ = writeln!(self.text, "}} {value}");
            }
        }
    }

    /// What went over each of several links.
    fn links(&mut self) {
        type Figure = fn(&LinkTraffic) -> u64;
        let figures: [(&str, &str, Figure); 4] = [
            ("link_rx_packets_total", "Packets received on the link.", |traffic| traffic.rx_packets),
            ("link_rx_bytes_total", "Bytes received on the link.", |traffic| traffic.rx_bytes),
            ("link_tx_packets_total", "Packets sent on the link.", |traffic| traffic.tx_packets),
            ("link_tx_bytes_total", "Bytes sent on the link.", |traffic| traffic.tx_bytes),
        ];
        for (name, help, value) in figures {
            self.family(name, "counter", help);
            for shard in self.shards {
                for link in &shard.links {
                    let (shard, value) = (shard.shard, value(&link.traffic));
                    let label = &link.name;
                    let _ =
                        writeln!(self.text, "bywash_{name}{{shard=\"{shard}\",link=\"{label}\"}} {value}");
                }
            }
        }
    }

    /// Counters that all shards have under the same names (a shard that has none yet is left out).
    fn counters(&mut self, of: impl Fn(&'a ShardMetrics) -> Samples<'a>, prefix: &str) {
        let Some(widest) = self.shards.iter().max_by_key(|shard| of(shard).count()) else { return };
        for (name, help, _) in of(widest) {
            let full = format!("{prefix}{name}_total");
            self.family(&full, "counter", help);
            self.samples(&full, |shard| {
                let own = of(shard).filter(|(own, ..)| *own == name);
                own.map(|(.., value)| (None, value.to_string())).collect()
            });
        }
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        of: impl Fn(&'a ShardMetrics) -> Vec<(&'static str, usize)>,
    ) {
        self.family(name, "gauge", help);
        self.samples(name, |shard| {
            of(shard).into_iter().map(|(value, count)| (Some((label, value)), count.to_string())).collect()
        });
    }

    fn gauge(&mut self, name: &str, kind: &str, help: &str, of: impl Fn(&'a ShardMetrics) -> String) {
        self.family(name, kind, help);
        self.samples(name, |shard| vec![(None, of(shard))]);
    }
}

/// What a runtime did in its life. Its `Display` is a short summary for people.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// The final figures. Where the pools' frames are was read after every shard was taken down: all but those lent to
    /// the rings should be free.
    pub metrics: Metrics,
    /// From the runtime's start to its end.
    pub elapsed: Duration,
    /// Why the capture file is incomplete, if it is.
    pub capture_error: Option<String>,
}

impl Summary {
    /// Frames that are in no place where they belong after the end; more than 0 is a leak.
    #[must_use]
    pub fn frames_missing(&self) -> u32 {
        self.metrics.pool().held
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.metrics.counters();
        let seconds = self.elapsed.as_secs_f64();
        let cpu = self.metrics.cpu().as_secs_f64();
        let share = if seconds > 0.0 { 100.0 * cpu / seconds } else { 0.0 };
        let shards = self.metrics.shards.len();
        writeln!(f, "ran {seconds:.1} s on {shards} shard(s), CPU {cpu:.2} s ({share:.1} % of one core)")?;
        writeln!(f, "received  {} packets, {}", sum.rx_packets, Bytes(sum.rx_bytes))?;
        writeln!(f, "sent      {} packets, {}", sum.tx_packets, Bytes(sum.tx_bytes))?;
        writeln!(
            f,
            "tcp       {} accepted, {} opened, {} failed, {} reset, {} in TIME-WAIT; {} segments sent again",
            sum.tcp_passive_opens,
            sum.tcp_active_opens,
            sum.tcp_attempt_fails,
            sum.tcp_established_resets,
            self.metrics.tcp().time_wait,
            sum.tcp_retransmits,
        )?;
        let runtime = self.metrics.runtime();
        if runtime.connections_aborted > 0 {
            let aborted = runtime.connections_aborted;
            writeln!(f, "          {aborted} connection(s) aborted when the shutdown's time was over")?;
        }
        if runtime.apps_cut_off + runtime.task_panics + runtime.steering_errors > 0 {
            writeln!(
                f,
                "tasks     {} application(s) cut off by the shutdown, {} panic(s), {} refused change(s) of the steering",
                runtime.apps_cut_off, runtime.task_panics, runtime.steering_errors,
            )?;
        }
        let drops: Vec<_> = sum.drops().filter(|&(_, count)| count > 0).collect();
        if drops.is_empty() {
            writeln!(f, "drops     none")?;
        }
        for (reason, count) in drops {
            writeln!(f, "drops     {count} {}: {}", reason.name(), reason.help())?;
        }
        if let Some(lost) = self.metrics.capture_lost.filter(|&lost| lost > 0) {
            writeln!(f, "capture   {lost} packets are missing: the file's writer did not keep up")?;
        }
        if let Some(error) = &self.capture_error {
            writeln!(f, "capture   the file is incomplete: {error}")?;
        }
        let (pool, missing) = (self.metrics.pool(), self.frames_missing());
        match missing {
            0 => write!(f, "frames    all {} back", pool.total),
            missing => write!(f, "frames    {missing} of {} missing", pool.total),
        }
    }
}

/// A number of bytes with a unit people read: powers of 1000, one decimal.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        match units.into_iter().find(|&(size, _)| self.0 >= size) {
            Some((size, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / size as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::counters::DropReason;

    fn sample() -> Metrics {
        let mut counters = Counters::default();
        (counters.rx_packets, counters.rx_bytes) = (7, 1_234_567);
        counters.drop(DropReason::Martian);
        let shard = ShardMetrics {
            counters,
            driver: vec![("rx_dropped", "Dropped by the socket.", 3)],
            pool: PoolUse { total: 16, free: 4, fill: 8, tx: 1, held: 3, shared: 2 },
            ..ShardMetrics::default()
        };
        let second = ShardMetrics { shard: 1, ..ShardMetrics::default() };
        Metrics { shards: vec![shard, second], elapsed: Duration::from_secs(2), capture_lost: Some(0) }
    }

    #[test]
    fn every_sample_belongs_to_a_family_that_is_declared_once_and_before_it() {
        let text = sample().prometheus();
        let mut declared = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", name, ..] => assert!(declared.insert(name, None).is_none(), "{name} twice"),
                ["#", "TYPE", name, kind] => assert_eq!(declared.get_mut(name).unwrap().replace(kind), None),
                [sample, value] => {
                    let name = sample.split('{').next().unwrap();
                    let kind = declared[name].expect("declared before its samples");
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                    assert!(value.parse::<f64>().is_ok(), "{line}");
                }
                _ => panic!("unexpected line: {line}"),
            }
        }
    }

    #[test]
    fn samples_carry_the_shards_and_the_labels() {
        let text = sample().prometheus();
        for line in [
            "bywash_rx_packets_total{shard=\"0\"} 7",
            "bywash_rx_packets_total{shard=\"1\"} 0",
            "bywash_driver_rx_dropped_total{shard=\"0\"} 3",
            "bywash_drops_total{shard=\"0\",reason=\"martian\"} 1",
            "bywash_pool_frames{shard=\"0\",place=\"packets\"} 1",
        ] {
            assert!(text.lines().any(|own| own == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn the_summary_names_drops_and_missing_frames() {
        let text =
            Summary { metrics: sample(), elapsed: Duration::from_secs(2), capture_error: None }.to_string();
        assert!(text.contains("7 packets, 1.2 MB"), "{text}");
        assert!(text.contains("1 martian"), "{text}");
        assert!(text.contains("3 of 16 missing"), "{text}");
    }
}
