//! A script's run against one router, and the comparison of two such runs.

use std::net::{IpAddr, Ipv4Addr};

use super::link::Side;
use super::packets::Packet;
use super::router::{Flow, Output, Router, Setup};
use super::show::{Names, fields, line};

/// A script with the rules under which it runs.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub setup: Setup,
    pub script: fn(&mut Run<'_>),
}

/// One router under one script.
pub struct Run<'a> {
    router: &'a mut dyn Router,
    names: Names,
    steps: Vec<Step>,
}

/// What was done, and what came of it.
struct Step {
    what: String,
    output: Output,
    flows: Option<Vec<Flow>>,
}

/// What a run left to compare.
pub struct Trace {
    router: &'static str,
    names: Names,
    steps: Vec<Step>,
}

/// Something that the two routers did not do alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The number of the step, from 1.
    pub step: usize,
    /// Where: a link and the field of a packet, or the flows.
    pub place: String,
    pub linux: String,
    pub ours: String,
}

/// Runs a scenario's script.
pub fn run(scenario: &Scenario, router: &mut dyn Router) -> Trace {
    let name = router.name();
    let mut run = Run { router, names: Names::default(), steps: Vec::new() };
    (scenario.script)(&mut run);
    Trace { router: name, names: run.names, steps: run.steps }
}

impl Run<'_> {
    /// A packet from the LAN.
    pub fn lan(&mut self, packet: &Packet) -> Output {
        self.send(Side::Lan, &packet.bytes())
    }

    /// A packet from outside.
    pub fn wan(&mut self, packet: &Packet) -> Output {
        self.send(Side::Wan, &packet.bytes())
    }

    /// An IP packet's bytes.
    pub fn send(&mut self, side: Side, packet: &[u8]) -> Output {
        if packet[0] >> 4 == 4 {
            self.names.ids.insert(u16::from_be_bytes([packet[4], packet[5]]));
            self.names.sources.insert([packet[12], packet[13], packet[14], packet[15]].into());
        }
        let output = self.router.exchange(side, packet);
        let what = format!("from the {}:{}", side.name(), line(packet, &Names::default()));
        self.steps.push(Step { what, output: output.clone(), flows: None });
        output
    }

    /// Lets time pass.
    pub fn wait(&mut self, seconds: u64) {
        let output = self.router.wait(seconds);
        self.steps.push(Step { what: format!("{seconds} s pass"), output, flows: None });
    }

    /// Compares the tables of flows.
    pub fn flows(&mut self) {
        let flows = self.router.flows();
        self.steps.push(Step { what: "the flows".to_owned(), output: Output::default(), flows });
    }

    /// The source address of the packet that came out on `side`: one that the router chose, within `range`, to be known as
    /// `name` from now on. Without a packet, the first.
    pub fn chosen_address(
        &mut self,
        output: &Output,
        side: Side,
        name: &str,
        range: std::ops::RangeInclusive<Ipv4Addr>,
    ) -> Ipv4Addr {
        let Some(packet) = output.on(side).first() else { return *range.start() };
        let addr = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        assert!(range.contains(&addr), "{}: {addr} is not in {range:?}", self.router.name());
        self.names.addresses.insert(addr.into(), name.to_owned());
        addr
    }

    /// The source port (or ICMP identifier) of the packet that came out on `side`: one that the router chose, within
    /// `range`, to be known as `name` from now on. Without a packet, 0.
    pub fn chosen(
        &mut self,
        output: &Output,
        side: Side,
        name: &str,
        range: std::ops::RangeInclusive<u16>,
    ) -> u16 {
        let Some(packet) = output.on(side).first() else { return 0 };
        let at = usize::from(packet[0] & 0xf) * 4 + if packet[9] == 1 { 4 } else { 0 };
        let port = u16::from_be_bytes([packet[at], packet[at + 1]]);
        assert!(range.contains(&port), "{}: {port} is not in {range:?}", self.router.name());
        self.name_port(port, name);
        port
    }

    /// Calls a port by a name from now on, where which it is depends on what the router chose.
    pub fn name_port(&mut self, port: u16, name: &str) {
        self.names.ports.insert(port, name.to_owned());
    }
}

impl Trace {
    /// All of it, to read.
    pub fn text(&self) -> String {
        let mut text = format!("  {}:\n", self.router);
        for (number, step) in self.steps.iter().enumerate() {
            text.push_str(&format!("  {:2} {}\n", number + 1, step.what));
            for side in Side::BOTH {
                for packet in step.output.on(side) {
                    text.push_str(&format!("     -> {}:{}\n", side.name(), line(packet, &self.names)));
                }
            }
            for flow in step.flows.iter().flatten() {
                text.push_str(&format!("     {} {} s\n", show(flow, &self.names), flow.timeout));
            }
        }
        text
    }

    pub fn steps(&self) -> usize {
        self.steps.len()
    }
}

/// What `ours` did otherwise than `linux`.
pub fn compare(linux: &Trace, ours: &Trace) -> Vec<Difference> {
    assert_eq!(linux.steps.len(), ours.steps.len(), "a script takes the same steps with each router");
    let mut differences = Vec::new();
    for (step, (a, b)) in linux.steps.iter().zip(&ours.steps).enumerate() {
        let mut differ = |place: String, linux: String, ours: String| {
            if linux != ours {
                differences.push(Difference { step: step + 1, place, linux, ours });
            }
        };
        for side in Side::BOTH {
            let (a, b) = (a.output.on(side), b.output.on(side));
            for at in 0..a.len().max(b.len()) {
                let place = format!("{} {}", side.name(), at + 1);
                match (a.get(at), b.get(at)) {
                    (Some(a), Some(b)) => {
                        let (a, b) = (fields(a, &linux.names), fields(b, &ours.names));
                        let value = |fields: &[(String, String)], name: &str| {
                            let found = fields.iter().find(|(other, _)| other == name);
                            found.map_or_else(|| "absent".to_owned(), |(_, value)| value.clone())
                        };
                        for (name, theirs) in &a {
                            differ(format!("{place} {name}"), theirs.clone(), value(&b, name));
                        }
                        for (name, own) in
                            b.iter().filter(|(name, _)| a.iter().all(|(other, _)| other != name))
                        {
                            differ(format!("{place} {name}"), "absent".to_owned(), own.clone());
                        }
                    }
                    (Some(a), None) => differ(place, short(a, &linux.names), "nothing".to_owned()),
                    (None, Some(b)) => differ(place, "nothing".to_owned(), short(b, &ours.names)),
                    (None, None) => {}
                }
            }
        }
        if let (Some(a), Some(b)) = (&a.flows, &b.flows) {
            let sorted = |flows: &[Flow], names: &Names| {
                let mut lines: Vec<(String, u64)> =
                    flows.iter().map(|flow| (show(flow, names), flow.timeout)).collect();
                lines.sort();
                lines
            };
            let (a, b) = (sorted(a, &linux.names), sorted(b, &ours.names));
            for (line, timeout) in &a {
                match b.iter().find(|(other, _)| other == line) {
                    None => differ("flow".to_owned(), line.clone(), "none".to_owned()),
                    // Both clocks run, and both round.
                    Some((_, other)) if timeout.abs_diff(*other) <= 2 => {}
                    Some((_, other)) => {
                        differ(
                            "flow's timeout".to_owned(),
                            format!("{timeout} s of {line}"),
                            format!("{other} s"),
                        );
                    }
                }
            }
            for (line, _) in b.iter().filter(|(line, _)| a.iter().all(|(other, _)| other != line)) {
                differ("flow".to_owned(), "none".to_owned(), line.clone());
            }
        }
    }
    differences
}

/// A packet by what tells it from others.
fn short(packet: &[u8], names: &Names) -> String {
    let wanted = [
        "src",
        "dst",
        "protocol",
        "source port",
        "destination port",
        "type",
        "code",
        "fragment",
        "tcp flags",
    ];
    let fields = fields(packet, names);
    let found = fields.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
    found.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// A flow but for its timeout.
fn show(flow: &Flow, names: &Names) -> String {
    let named = |tuple: &str| {
        let word = |word: &str| match word.split_once('=') {
            Some((name @ ("sport" | "dport" | "id"), port)) => {
                let known = port.parse().ok().and_then(|port: u16| names.ports.get(&port));
                known.map_or_else(|| word.to_owned(), |known| format!("{name}={known}"))
            }
            Some((name @ ("src" | "dst"), addr)) => {
                let known = addr.parse().ok().and_then(|addr: IpAddr| names.addresses.get(&addr));
                known.map_or_else(|| word.to_owned(), |known| format!("{name}={known}"))
            }
            _ => word.to_owned(),
        };
        tuple.split(' ').map(word).collect::<Vec<_>>().join(" ")
    };
    let [original, reply] = [0, 1].map(|at: usize| named(&flow.tuples[at]));
    let Flow { protocol, state, unreplied, assured, mark, .. } = flow;
    let flags =
        format!("{}{}", if *unreplied { " UNREPLIED" } else { "" }, if *assured { " ASSURED" } else { "" });
    format!("{protocol} {state} {original} | {reply} mark={mark}{flags}")
}
