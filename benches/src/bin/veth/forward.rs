//! A router between two veth pairs: ours, Linux, and a loop over AF_XDP rings that looks at nothing. One core makes the frames
//! and takes them at the other end, the other core forwards.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use bywash::config::{FilterConfig, ForwardConfig, LinkConfig, Route, StackConfig};
use bywash::device::{Device, WaitDevice as _};
use bywash::flow::filter::RuleSet;
use bywash::limits::BURST_PACKETS;
use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketBatch};
use bywash::runtime::{Pinning, Runtime};
use bywash_afxdp::testing::{PlainForwarder, VethOptions, VethPair};
use bywash_afxdp::{AttachOptions, LinkOptions, LinksOpener, Nic, Queue, QueueOptions, Steer};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::bed::cores;
use super::meter::{self, Credit, Meter, Reading};
use super::ours::Stack;
use super::{Plan, Result};
use bywash_benches::results::{Benchmark, Better, Target};

const TITLE: &str = "Forwarding between two NICs";
const ABOUT: &str = "\
UDP frames per second through a router with two veth NICs, counted where they arrive; at most 192 are under way. One core makes and
takes the frames, over AF_XDP, the other forwards: for Linux, receive packet steering moves the work there, which would run
on the sender's core else. `raw` is a loop over xsk-rs' rings that puts in other Ethernet addresses and looks at nothing else.

- *one flow*: routing alone; with connection tracking and a filter of 10 and of 10,000 rules in front of which established flows
  pass; with source translation (MASQUERADE).
- Nobody answers: for Linux such a flow stays NEW, so that each of its packets walks the rules that ours walk once a flow. Answered
  flows pass Linux's first rule.
- *new flows*: each frame begins a flow; the table has its default bound of 262,144, as Linux's, so that old flows make room.
- Linux has the same rules by `iptables-restore` (nf_tables), and its own limits; what it drops does not arrive.
- CPU is the time of the forwarding thread for each frame, with what the kernel does in it.";

/// Addresses that RFC 5737 keeps for documentation. The router has the first of each network.
const NEAR_NET: [u8; 3] = [192, 0, 2];
const FAR_NET: [u8; 3] = [198, 51, 100];
/// Behind the far host, whose kernel answers ARP, so that the sink's socket has its frames.
const DESTINATION: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const DESTINATION_NET: &str = "203.0.113.0/24";
const HEADERS: usize = 42;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Raw,
    Bywash,
    Linux,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw, xsk-rs",
            Self::Bywash => "bywash",
            Self::Linux => "Linux",
        }
    }
}

/// What the router does with a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rules {
    None,
    /// Connection tracking and this many rules.
    Filter(usize),
    /// Source translation besides.
    Masquerade(usize),
}

impl Rules {
    /// In iptables' words.
    fn text(self) -> Option<String> {
        let (count, translates) = match self {
            Self::None => return None,
            Self::Filter(count) => (count, false),
            Self::Masquerade(count) => (count, true),
        };
        let mut text = String::new();
        if translates {
            text.push_str("*nat\n-A POSTROUTING -o FAR -j MASQUERADE\nCOMMIT\n");
        }
        text.push_str("*filter\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n");
        for number in 0..count {
            let (a, b) = (number / 250, number % 250 + 1);
            text.push_str(&format!("-A FORWARD -s 10.{}.{}.{b}/32 -p udp -j DROP\n", a / 250, a % 250));
        }
        text.push_str("COMMIT\n");
        Some(text)
    }
}

#[derive(Clone, Copy)]
struct Case {
    frame: usize,
    new_flows: bool,
    rules: Rules,
}

impl Case {
    fn name(self) -> String {
        let flows = if self.new_flows { "new flows" } else { "one flow" };
        let rules = match self.rules {
            Rules::None => "routed".to_owned(),
            Rules::Filter(count) => format!("{count} rules"),
            Rules::Masquerade(count) => format!("MASQUERADE, {count} rules"),
        };
        format!("{flows}, {rules}, {} B", self.frame)
    }

    fn is_quick(self) -> bool {
        self.frame < 1514 || self.rules == Rules::Masquerade(10)
    }
}

/// Runs it.
pub fn run(plan: &Plan) -> Result<Benchmark> {
    let mut benchmark = Benchmark::new("veth-forward", 2, TITLE, ABOUT, &plan.command());
    let one = |frame, rules| Case { frame, new_flows: false, rules };
    let new = |rules| Case { frame: 60, new_flows: true, rules };
    let cases = [
        one(60, Rules::None),
        one(60, Rules::Filter(10)),
        one(60, Rules::Filter(10_000)),
        one(60, Rules::Masquerade(10)),
        one(1514, Rules::None),
        one(1514, Rules::Masquerade(10)),
        new(Rules::Filter(10)),
        new(Rules::Filter(10_000)),
        new(Rules::Masquerade(10)),
    ];
    for round in 0..plan.rounds {
        plan.tell(&benchmark, round, "forwarding");
        for &case in cases.iter().filter(|case| !plan.quick || case.is_quick()) {
            for who in [Who::Raw, Who::Bywash, Who::Linux] {
                if !plan.wants(&case.name(), who.name()) {
                    continue;
                }
                let bed = Bed::new()?;
                let reading = bed.measure(plan, case, who);
                let reading = reading.map_err(|error| format!("{}, {}: {error}", case.name(), who.name()))?;
                let (name, by) = (case.name(), who.name());
                benchmark.add(&name, by, "frames/s", Better::More, reading.rate);
                if who == Who::Bywash {
                    let target = (!case.new_flows).then_some(Target::AtLeast(0.85));
                    benchmark.compare(&name, "frames/s", by, Who::Raw.name(), target);
                    benchmark.compare(&name, "frames/s", by, Who::Linux.name(), Some(Target::AtLeast(1.0)));
                }
                if who != Who::Linux {
                    benchmark.add(&name, by, "CPU ns a frame", Better::Less, reading.cpu_nanos);
                }
            }
        }
    }
    Ok(benchmark)
}

/// Two hosts, and between them a namespace with an end of each one's link.
struct Bed {
    near: VethPair,
    far: VethPair,
    /// Of the forwarder and of the hosts.
    cores: [usize; 2],
    /// Ethernet addresses, destination and source, of what leaves by each link.
    addresses: [[u8; 12]; 2],
}

impl Bed {
    fn new() -> Result<Self> {
        let options = VethOptions { mtu: 1500, peer_offloads: false, queues: 1 };
        let near = VethPair::new(options);
        let far = near.beside(options);
        for (pair, net) in [(&near, NEAR_NET), (&far, FAR_NET)] {
            let [a, b, c] = net;
            pair.peer_address(&format!("{a}.{b}.{c}.2/24"));
            pair.stack.sh("ethtool", &format!("-K {} tx off tso off gso off gro off", pair.stack_interface));
        }
        let addresses = [&near, &far].map(|pair| {
            let peer = pair.peer.run(|| Nic::open(&pair.peer_interface))?.mac.0;
            let mut addresses = [0; 12];
            addresses[..6].copy_from_slice(&peer);
            addresses[6..].copy_from_slice(&pair.nic()?.mac.0);
            Ok::<_, bywash_afxdp::Error>(addresses)
        });
        let [first, second] = addresses;
        Ok(Self { near, far, cores: cores()?, addresses: [first?, second?] })
    }

    fn pin(core: usize) -> Result<()> {
        let mut cpus = CpuSet::new();
        cpus.set(core);
        Ok(sched_setaffinity(None, &cpus)?)
    }

    fn measure(&self, plan: &Plan, case: Case, who: Who) -> Result<Reading> {
        let (worker, arrived) = (Arc::new(Meter::default()), Meter::default());
        let router = match who {
            Who::Bywash => Some(self.bywash(case, &worker)?),
            _ => None,
        };
        if who == Who::Linux {
            self.linux(case)?;
        }
        let (arrived, worker) = (&arrived, &*worker);
        let reading = thread::scope(|scope| {
            let raw = (who == Who::Raw).then(|| scope.spawn(move || self.raw(worker)));
            let traffic = scope.spawn(move || self.traffic(case, arrived));
            if who == Who::Linux {
                worker.this_thread(); // its time means nothing
            }
            let reading = meter::read(arrived, worker, plan.warm_up(), plan.seconds());
            arrived.stop();
            worker.stop();
            for thread in [Some(traffic), raw].into_iter().flatten() {
                thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))?;
            }
            reading
        });
        drop(router);
        reading
    }

    /// The near host sends, the far one takes, on the calling thread.
    fn traffic(&self, case: Case, arrived: &Meter) -> Result<()> {
        Self::pin(self.cores[1])?;
        let open = |pair: &VethPair| -> Result<Queue> {
            pair.peer.enter();
            let steer = Nic::open(&pair.peer_interface)?.attach(&AttachOptions::default())?;
            Ok(steer.queue(0, &QueueOptions::default())?.open()?)
        };
        let (mut source, mut sink) = (open(&self.near)?, open(&self.far)?);
        sink.steering().own_address(DESTINATION.into())?;
        let mut frames = Frames::new(case, self.addresses[0]);
        let (mut batch, mut taken) = (PacketBatch::new(), PacketBatch::new());
        let mut credit = Credit::new(arrived);
        let mut sent = 0;
        while let Some(room) = credit.take(sent) {
            for _ in 0..room.min(BURST_PACKETS) {
                match Packet::copy_from(source.pool(), frames.next()) {
                    Some(packet) => batch.push_back(packet),
                    None => break,
                }
            }
            sent = source.transmit(&mut batch) as u64;
            batch.clear();
            // Completions are seen by those who receive.
            source.receive(&mut taken, BURST_PACKETS);
            taken.clear();
            arrived.add(sink.receive(&mut taken, BURST_PACKETS) as u64);
            taken.clear();
        }
        Ok(())
    }

    /// The steering programs; to be called where the NICs are.
    fn attach(&self) -> Result<[Steer; 2]> {
        let attach = |pair: &VethPair| -> Result<Steer> {
            Ok(Nic::open(&pair.stack_interface)?.attach(&AttachOptions::default())?)
        };
        Ok([attach(&self.near)?, attach(&self.far)?])
    }

    fn raw(&self, meter: &Meter) -> Result<()> {
        meter.this_thread();
        self.near.stack.enter();
        Self::pin(self.cores[0])?;
        let steers = self.attach()?;
        let mut forwarder = PlainForwarder::open(steers.each_ref(), &options())?;
        Ok(forwarder.forward(self.addresses, |_| meter.goes_on())?)
    }

    fn bywash(&self, case: Case, meter: &Arc<Meter>) -> Result<Stack> {
        let net = |net: [u8; 3]| format!("{}.{}.{}.1/24", net[0], net[1], net[2]).parse();
        let mut config = StackConfig::new(vec![net(NEAR_NET)?], [7; 32]);
        config.further_links =
            vec![LinkConfig { name: "FAR".into(), addresses: vec![net(FAR_NET)?], ..LinkConfig::default() }];
        config.routes = vec![Route {
            destination: DESTINATION_NET.parse()?,
            gateway: Ipv4Addr::new(FAR_NET[0], FAR_NET[1], FAR_NET[2], 2).into(),
            link: None,
        }];
        config.forward = Some(ForwardConfig::default());
        if let Some(text) = case.rules.text() {
            let rules = RuleSet::parse(&text, "rules").map_err(|error| error.to_string())?;
            config.filter = Some(FilterConfig::new(Arc::new(rules), "NEAR".into()));
        }
        let meter = meter.clone();
        let open = || -> Result<Runtime> {
            let steers = self.attach()?;
            let chosen = [0, 1].map(|link| (&steers[link], LinkOptions::default()));
            let opener = LinksOpener::new(&chosen, &options())?;
            let builder = Runtime::builder(config).pin(Pinning::Cpus(vec![self.cores[0]]));
            Ok(builder.queue(move || opener.open()).start(move |context| {
                let meter = meter.clone();
                async move {
                    meter.this_thread();
                    context.shutdown().await;
                    Ok(())
                }
            })?)
        };
        // Threads start in the namespace of the thread that makes them.
        let entered = || {
            self.near.stack.enter();
            open()
        };
        thread::scope(|scope| scope.spawn(entered).join())
            .unwrap_or_else(|_| Err("a thread panicked".into()))
            .map(Stack::new)
    }

    fn linux(&self, case: Case) -> Result<()> {
        let router = &self.near.stack;
        for (pair, net) in [(&self.near, NEAR_NET), (&self.far, FAR_NET)] {
            let [a, b, c] = net;
            pair.stack_address(&format!("{a}.{b}.{c}.1/24"));
            // Moves the work off the sender's core; /sys shows the namespace of whoever mounts it.
            let mask = 1 << self.cores[0];
            let file = format!("/sys/class/net/{}/queues/rx-0/rps_cpus", pair.stack_interface);
            let script = format!("mount -t sysfs sysfs /sys && echo {mask:x} > {file}");
            let status = router.command("unshare").args(["--mount", "sh", "-c", &script]).status()?;
            if !status.success() {
                return Err("receive packet steering cannot be set".into());
            }
        }
        router.sysctl("net/ipv4/ip_forward", "1");
        router.ip(&format!("route add {DESTINATION_NET} via {}.{}.{}.2", FAR_NET[0], FAR_NET[1], FAR_NET[2]));
        if let Some(text) = case.rules.text() {
            let text = text.replace("-o FAR", &format!("-o {}", self.far.stack_interface));
            let mut restore = router.command("iptables-restore").stdin(Stdio::piped()).spawn()?;
            restore.stdin.take().ok_or("no standard input")?.write_all(text.as_bytes())?;
            if !restore.wait()?.success() {
                return Err("iptables-restore refuses the rules".into());
            }
        }
        Ok(())
    }
}

fn options() -> QueueOptions {
    QueueOptions { frames: 8192, ..QueueOptions::default() }
}

/// Frames from the near host, one after the other.
struct Frames {
    frame: Vec<u8>,
    new_flows: bool,
    flow: u32,
}

impl Frames {
    fn new(case: Case, addresses: [u8; 12]) -> Self {
        let mut frame = [&addresses[6..], &addresses[..6], &[8, 0, 0x45, 0]].concat();
        frame.extend(((case.frame - 14) as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend([NEAR_NET[0], NEAR_NET[1], NEAR_NET[2], 2]);
        frame.extend(DESTINATION.octets());
        for word in [5000, 7, (case.frame - 34) as u16, 0] {
            frame.extend(word.to_be_bytes());
        }
        frame.resize(case.frame.max(HEADERS), 0);
        let mut this = Self { frame, new_flows: case.new_flows, flow: 0 };
        this.seal();
        this
    }

    /// The IPv4 checksum; the datagrams have none.
    fn seal(&mut self) {
        self.frame[24..26].fill(0);
        let mut sum = Sum::ZERO;
        sum.add(&self.frame[14..34]);
        self.frame[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
    }

    fn next(&mut self) -> &[u8] {
        if self.new_flows {
            self.flow = self.flow.wrapping_add(1);
            // Ports first, then the host, then the port that is sent to.
            let (port, rest) = (1024 + (self.flow % 60_000) as u16, self.flow / 60_000);
            self.frame[29] = 2 + (rest % 250) as u8;
            self.frame[34..36].copy_from_slice(&port.to_be_bytes());
            self.frame[36..38].copy_from_slice(&(7 + rest as u16).to_be_bytes());
            self.seal();
        }
        &self.frame
    }
}
