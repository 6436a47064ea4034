//! Runs a script: events at their virtual times, blocking calls in a thread of their own, packets compared to what the script
//! expects with sequence numbers and timestamps translated between the two.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, mpsc};

use libc::c_int;

use crate::assertions;
use crate::call::{Outcome, Scene, perform};
use crate::interface::Interface;
use crate::script::{Action, Arg, Call, Event, Packet, Script, Segment, TcpOption, When};
use crate::wire;

const SYN: u16 = 2;
const RST: u16 = 4;
const PSH: u16 = 8;
const ACK: u16 = 16;
const LISTEN_PORT: u16 = 8080;
const FIRST_REMOTE_PORT: u16 = 40_000;
/// Looks at a thread that sleeps before it is believed to be blocked, and the pause before each.
const ASLEEP_LOOKS: usize = 3;
const ASLEEP_PAUSE: std::time::Duration = std::time::Duration::from_millis(1);
/// Real time after which a call that neither sleeps nor returns is a hang.
const HANG: std::time::Duration = std::time::Duration::from_secs(10);

/// The network of a run.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Family of the sockets.
    pub domain: c_int,
    /// How far times may be off, microseconds.
    pub tolerance: i64,
    /// Microseconds in a tick of the stack's timestamps: then they are compared to the script's, else only their echoes.
    pub timestamp_tick: Option<i64>,
}

/// A connection as script and stack see it.
struct Flow {
    local_port: u16,
    remote_port: u16,
    /// What to add to the script's local sequence numbers to get the stack's.
    offset: Option<u32>,
    /// The peer's initial sequence number: scripts count from it, but for SYNs and their acknowledgments.
    remote_isn: Option<u32>,
    /// The stack's timestamps by the script's, and the first pair.
    timestamps: HashMap<u32, u32>,
    first_timestamps: Option<(u32, u32)>,
    /// Payload of a full segment to the peer, by its SYN.
    mss: usize,
    /// The last packet that the stack sent, for ICMP to quote.
    last_sent: Vec<u8>,
}

/// Where the listening socket is.
#[derive(PartialEq)]
enum Passive {
    None,
    Listening,
    /// A SYN has come and nothing was accepted yet.
    Opening,
}

pub struct Run<'a> {
    interface: Arc<Interface>,
    network: Network,
    directory: &'a Path,
    scene: Scene,
    start: i64,
    /// Time of the event before, since the start.
    previous: i64,
    flows: Vec<Flow>,
    current: Option<usize>,
    current_fd: Option<c_int>,
    passive: Passive,
    /// The script's number of the listening socket.
    listener: Option<i64>,
    /// A connection was asked for and its SYN has not been seen.
    connecting: bool,
    remote_port: u16,
    blocked: Option<Blocked>,
    assertions: assertions::Assertions,
}

struct Blocked {
    call: Call,
    line: usize,
    done: mpsc::Receiver<(Outcome, i64)>,
    until: i64,
}

pub fn run(script: &Script, interface: Interface, network: Network, directory: &Path) -> Result<(), String> {
    let interface = Arc::new(interface);
    // A socket of AF_INET6 names IPv4 addresses by mapped ones.
    let any = |ip: IpAddr, port| match ip {
        IpAddr::V4(ip) if network.domain == libc::AF_INET6 => {
            SocketAddr::new(ip.to_ipv6_mapped().into(), port)
        }
        ip => SocketAddr::new(ip, port),
    };
    let mut run = Run {
        start: interface.now(),
        scene: Scene {
            fds: HashMap::new(),
            bind_to: any(network.local, LISTEN_PORT),
            connect_to: any(network.remote, LISTEN_PORT),
            domain: network.domain,
            start: interface.now(),
            tolerance: network.tolerance,
        },
        interface,
        network,
        directory,
        previous: 0,
        flows: Vec::new(),
        current: None,
        current_fd: None,
        passive: Passive::None,
        listener: None,
        connecting: false,
        remote_port: FIRST_REMOTE_PORT,
        blocked: None,
        assertions: assertions::Assertions::default(),
    };
    for event in &script.events {
        run.event(event).map_err(|error| format!("line {}: {error}", event.line))?;
    }
    run.await_blocked()?;
    run.assertions.check()
}

impl Run<'_> {
    fn now(&self) -> i64 {
        self.interface.now() - self.start
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let (earliest, latest) = match event.when {
            When::At(time) => (time, time),
            When::After(delay) => (self.previous + delay, self.previous + delay),
            When::Between(first, last) => (self.previous + first, self.previous + last),
            When::Any => (self.previous, i64::MAX / 2),
        };
        let until = event.until.map(|until| match event.when {
            When::At(_) => until,
            _ => self.previous + until,
        });
        let exact = matches!(event.when, When::At(_) | When::After(_));
        let mut happened = earliest;
        match &event.action {
            Action::Expect(Packet::Tcp(expected)) => {
                let at = self.expect(expected)? - self.start;
                let tolerance = self.network.tolerance;
                if at < earliest - tolerance || at > latest + tolerance {
                    return Err(format!("sent at {}, expected at {}", seconds(at), seconds(earliest)));
                }
                if !exact {
                    happened = at;
                }
            }
            Action::Expect(Packet::Icmp { .. }) => return Err("cannot expect ICMP".into()),
            Action::Inject(packet) => {
                self.wait_until(earliest);
                self.inject(packet)?;
            }
            Action::Call(call) => {
                self.wait_until(earliest);
                self.call(call, until, event.line)?;
            }
            Action::Shell(command) => {
                self.wait_until(earliest);
                shell(command, self.directory)?;
            }
            Action::Python(code) => {
                self.wait_until(earliest);
                let fd = self.current_fd.ok_or("no socket to ask")?;
                self.assertions.note(&self.interface, fd, event.line, code)?;
            }
        }
        self.previous = happened;
        Ok(())
    }

    fn wait_until(&self, time: i64) {
        loop {
            let left = time - self.now();
            if left <= 0 {
                return;
            }
            // The last stretch is spun through, as runners do.
            if left > 20 {
                self.interface.sleep(left - 20);
            }
        }
    }

    // ---- calls

    fn call(&mut self, call: &Call, until: Option<i64>, line: usize) -> Result<(), String> {
        self.await_blocked()?;
        let fd = match call.args.first() {
            Some(Arg::Int(fd)) => Some(*fd),
            _ => None,
        };
        match call.name.as_str() {
            "listen" => (self.passive, self.listener) = (Passive::Listening, fd),
            // SYNs are then for the connection there is.
            "close" if fd.is_some() && fd == self.listener => {
                (self.passive, self.listener) = (Passive::None, None);
            }
            "connect" => self.connecting = true,
            "sendto" | "sendmsg" if is_fastopen(call) => self.connecting = true,
            _ => {}
        }
        let Some(until) = until else {
            let outcome = perform(&self.interface, &self.scene, call);
            return self.settle(call, outcome);
        };
        let (sender, done) = mpsc::channel();
        let thread_id = Arc::new(AtomicI32::new(0));
        let (interface, scene, owned) = (self.interface.clone(), self.scene.clone(), call.clone());
        let id = thread_id.clone();
        std::thread::spawn(move || {
            // SAFETY: asks for a number.
            id.store(unsafe { libc::gettid() }, Ordering::SeqCst);
            let outcome = perform(&interface, &scene, &owned);
            let ended = interface.now();
            // The runner may have given up.
            let _ = sender.send((outcome, ended));
        });
        let mut blocked = Blocked { call: call.clone(), line, done, until };
        let begun = std::time::Instant::now();
        loop {
            if let Ok(done) = blocked.done.try_recv() {
                return self.ended(&mut blocked, done);
            }
            if stays_asleep(thread_id.load(Ordering::SeqCst)) {
                // It may have slept on its way out.
                if let Ok(done) = blocked.done.try_recv() {
                    return self.ended(&mut blocked, done);
                }
                self.blocked = Some(blocked);
                return Ok(());
            }
            if begun.elapsed() > HANG {
                return Err(format!("{} neither sleeps nor returns", call.name));
            }
            std::thread::yield_now();
        }
    }

    /// Lets time pass until the blocked call has returned.
    fn await_blocked(&mut self) -> Result<(), String> {
        let Some(mut blocked) = self.blocked.take() else { return Ok(()) };
        let end = blocked.until + self.network.tolerance;
        let line = blocked.line;
        loop {
            if let Ok(done) = blocked.done.try_recv() {
                return self.ended(&mut blocked, done).map_err(|error| format!("(line {line}) {error}"));
            }
            if self.now() > end {
                // It was woken but is still on its way, or not at all.
                return match blocked.done.recv_timeout(std::time::Duration::from_secs(1)) {
                    Ok(done) => self.ended(&mut blocked, done),
                    Err(_) => Err(format!("(line {line}) {} still blocks", blocked.call.name)),
                };
            }
            self.interface.sleep(100);
        }
    }

    fn ended(&mut self, blocked: &mut Blocked, (outcome, ended): (Outcome, i64)) -> Result<(), String> {
        let call = blocked.call.clone();
        self.settle(&call, outcome)?;
        let ended = ended - self.start;
        if (ended - blocked.until).abs() > self.network.tolerance {
            return Err(format!(
                "{} returned at {}, expected at {}",
                call.name,
                seconds(ended),
                seconds(blocked.until)
            ));
        }
        Ok(())
    }

    fn settle(&mut self, call: &Call, outcome: Outcome) -> Result<(), String> {
        if let Some(problem) = outcome.problem {
            return Err(problem);
        }
        for (number, fd) in outcome.opened {
            self.scene.fds.insert(number, fd);
            if matches!(call.name.as_str(), "socket" | "accept") {
                self.current_fd = Some(fd);
            }
        }
        if call.name == "accept" && outcome.result >= 0 {
            self.passive = Passive::Listening;
        }
        Ok(())
    }

    // ---- packets

    fn inject(&mut self, packet: &Packet) -> Result<(), String> {
        let segment = match packet {
            Packet::Tcp(segment) => segment,
            Packet::Icmp { code, mtu, seq } => {
                let flow = self.current.map(|at| &self.flows[at]).ok_or("no connection for ICMP")?;
                let mut quoted = flow.last_sent.clone();
                let header = if quoted.first().is_some_and(|byte| byte >> 4 == 6) { 40 } else { 20 };
                let place = quoted.get_mut(header + 4..header + 8).ok_or("nothing sent for ICMP to quote")?;
                place.copy_from_slice(&seq.wrapping_add(flow.offset.unwrap_or(0)).to_be_bytes());
                let bytes = wire::icmp_error(self.network.remote, code, *mtu, &quoted)?;
                self.interface.inject(&bytes);
                return Ok(());
            }
        };
        if segment.flags & (SYN | ACK) == SYN && self.passive == Passive::Listening {
            self.passive = Passive::Opening;
            self.flows.push(Flow::new(LISTEN_PORT, self.remote_port));
            self.remote_port += 1;
            self.current = Some(self.flows.len() - 1);
        }
        let at = match self.current {
            Some(at) => at,
            // To nobody.
            None => {
                self.flows.push(Flow::new(LISTEN_PORT, self.remote_port));
                self.current = Some(0);
                0
            }
        };
        let flow = &mut self.flows[at];
        if let Some(TcpOption::Mss(mss)) = segment.options.iter().flatten().next() {
            flow.mss = (*mss).into();
        }
        let mut seq = segment.seq;
        if segment.flags & SYN != 0 {
            flow.remote_isn.get_or_insert(seq);
        } else {
            seq = seq.wrapping_add(flow.remote_isn.unwrap_or(0));
        }
        let offset = flow.offset.unwrap_or(0);
        let options = segment.options.iter().flatten().map(|option| match option {
            TcpOption::Ts(val, ecr) => TcpOption::Ts(*val, flow.timestamps.get(ecr).copied().unwrap_or(*ecr)),
            TcpOption::Sack(blocks) => TcpOption::Sack(
                blocks.iter().map(|(a, b)| (a.wrapping_add(offset), b.wrapping_add(offset))).collect(),
            ),
            other => other.clone(),
        });
        let packet = wire::Packet {
            src: (self.network.remote, flow.remote_port),
            dst: (self.network.local, flow.local_port),
            seq,
            ack: segment.ack.map_or(0, |ack| ack.wrapping_add(offset)),
            flags: segment.flags,
            window: segment.window.unwrap_or(0),
            urgent: segment.urgent,
            options: options.collect(),
            payload_len: segment.len,
            ecn: segment.ecn.unwrap_or(0),
        };
        self.interface.inject(&packet.to_bytes());
        Ok(())
    }

    /// Waits for the next packet of the current connection and compares it; when it was sent.
    fn expect(&mut self, expected: &Segment) -> Result<i64, String> {
        loop {
            let Some((at, bytes)) = self.interface.receive() else {
                return Err("nothing was sent".into());
            };
            let mut got = wire::Packet::from_bytes(&bytes)?;
            let flow = self.flow_of(&got);
            if flow != self.current && self.current.is_some() {
                continue;
            }
            let Some(index) = flow else { return Err(format!("an unexpected packet: {got:?}")) };
            self.flows[index].last_sent = bytes;
            self.gather(expected.len, &mut got)?;
            self.compare(index, expected, &got).map_err(|difference| {
                let offset = self.flows[index].offset.unwrap_or(0);
                format!("{difference}\n      sent: {}", describe(&got, offset))
            })?;
            return Ok(at);
        }
    }

    /// Scripts written with a device in mind that cuts large packets expect as one what leaves in several segments.
    fn gather(&mut self, wanted_len: usize, got: &mut wire::Packet) -> Result<(), String> {
        while got.payload_len > 0 && got.payload_len < wanted_len {
            let Some((_, bytes)) = self.interface.receive() else { return Ok(()) };
            let next = wire::Packet::from_bytes(&bytes)?;
            let follows = next.seq == got.seq.wrapping_add(got.payload_len as u32)
                && (next.src, next.dst, next.payload_len > 0) == (got.src, got.dst, true);
            if !follows {
                return Err(format!("{} B were sent at once, then: {}", got.payload_len, describe(&next, 0)));
            }
            got.payload_len += next.payload_len;
            got.flags |= next.flags;
        }
        Ok(())
    }

    fn flow_of(&mut self, packet: &wire::Packet) -> Option<usize> {
        let known = self
            .flows
            .iter()
            .rposition(|flow| (flow.local_port, flow.remote_port) == (packet.src.1, packet.dst.1));
        if known.is_none() && self.connecting && packet.flags & (SYN | ACK) == SYN {
            self.connecting = false;
            self.flows.push(Flow::new(packet.src.1, packet.dst.1));
            self.current = Some(self.flows.len() - 1);
            return self.current;
        }
        known
    }

    fn compare(&mut self, index: usize, expected: &Segment, got: &wire::Packet) -> Result<(), String> {
        let flow = &mut self.flows[index];
        if got.flags & SYN != 0 {
            flow.offset = Some(got.seq);
        }
        let offset = *flow.offset.get_or_insert_with(|| {
            // A RST to somebody unknown takes its number from what it answers.
            if got.flags & RST != 0 { 0 } else { got.seq.wrapping_sub(expected.seq) }
        });
        let differs = |what: &str, wanted: &dyn core::fmt::Debug, got: &dyn core::fmt::Debug| {
            Err(format!("{what}: expected {wanted:?}, got {got:?}"))
        };
        // Linux pushes what is longer than a segment, wherever a write ended; not all scripts say so.
        let unsaid = if got.payload_len > flow.mss { PSH } else { 0 };
        if expected.flags | unsaid != got.flags | unsaid {
            return Err(format!("flags: expected {}, got {}", flags(expected.flags), flags(got.flags)));
        }
        let seq = if got.flags & SYN == 0 { got.seq.wrapping_sub(offset) } else { expected.seq };
        if (expected.seq, expected.len) != (seq, got.payload_len) {
            return differs("sequence and length", &(expected.seq, expected.len), &(seq, got.payload_len));
        }
        let base = if got.flags & SYN == 0 { flow.remote_isn.unwrap_or(0) } else { 0 };
        let ack = (got.flags & ACK != 0).then_some(got.ack.wrapping_sub(base));
        if expected.ack.is_some() && expected.ack != ack {
            return differs("ack", &expected.ack, &ack);
        }
        if expected.window.is_some_and(|window| window != got.window) {
            return differs("win", &expected.window, &got.window);
        }
        if expected.urgent != got.urgent {
            return differs("urg", &expected.urgent, &got.urgent);
        }
        if expected.ecn.is_some_and(|ecn| ecn != got.ecn) {
            return differs("ECN bits", &expected.ecn, &got.ecn);
        }
        let Some(options) = &expected.options else { return Ok(()) };
        let mut wanted = options.clone();
        for (wanted, got) in wanted.iter_mut().zip(&got.options) {
            // What the stack's clock says is compared only on request, and then to what it said first; what it echoes always is.
            if let (TcpOption::Ts(script, ecr), TcpOption::Ts(live, _)) = (&wanted, got) {
                let first = *flow.first_timestamps.get_or_insert((*script, *live));
                let passed = [script.wrapping_sub(first.0), live.wrapping_sub(first.1)].map(i64::from);
                let tick = self.network.timestamp_tick.unwrap_or(0);
                if (passed[0] - passed[1]).abs() * tick > (2 * self.network.tolerance).max(tick) {
                    return differs("ticks since the first timestamp", &passed[0], &passed[1]);
                }
                flow.timestamps.insert(*script, *live);
                *wanted = TcpOption::Ts(*live, *ecr);
            }
        }
        let mut sent = got.options.clone();
        for option in &mut sent {
            if let TcpOption::Sack(blocks) = option {
                for edge in blocks.iter_mut().flat_map(|(start, end)| [start, end]) {
                    *edge = edge.wrapping_sub(base);
                }
            }
        }
        if wanted != sent {
            return differs("options", options, &sent);
        }
        Ok(())
    }
}

impl Flow {
    fn new(local_port: u16, remote_port: u16) -> Self {
        Self {
            local_port,
            remote_port,
            offset: None,
            remote_isn: None,
            timestamps: HashMap::new(),
            first_timestamps: None,
            mss: 536,
            last_sent: Vec::new(),
        }
    }
}

fn is_fastopen(call: &Call) -> bool {
    let flag = i64::from(libc::MSG_FASTOPEN);
    call.args.iter().skip(2).any(|arg| matches!(arg, Arg::Int(flags) if flags & flag != 0))
}

fn flags(bits: u16) -> String {
    let names = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'W', 'A'];
    names.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, name)| *name).collect()
}

fn describe(packet: &wire::Packet, offset: u32) -> String {
    let seq = packet.seq.wrapping_sub(offset);
    format!(
        "{} {seq}:{}({}) ack {} win {} {:?}",
        flags(packet.flags),
        seq.wrapping_add(packet.payload_len as u32),
        packet.payload_len,
        packet.ack,
        packet.window,
        packet.options
    )
}

fn seconds(micros: i64) -> String {
    format!("{:.6} s", micros as f64 / 1e6)
}

/// Whether the thread sleeps in a system call, as `/proc` has it, and goes on to: one that waits for a lock on its way into the
/// call, the allocator's for instance, is awake again as soon as its holder has run.
fn stays_asleep(thread: c_int) -> bool {
    let Some(first) = asleep_since(thread) else { return false };
    (0..ASLEEP_LOOKS).all(|_| {
        std::thread::sleep(ASLEEP_PAUSE);
        asleep_since(thread) == Some(first)
    })
}

/// How many times a thread that sleeps has gone to sleep.
fn asleep_since(thread: c_int) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("State:").filter(|state| state.starts_with('S'))?;
    field("voluntary_ctxt_switches:")?.parse().ok()
}

pub fn shell(command: &str, directory: &Path) -> Result<(), String> {
    let output = std::process::Command::new("bash")
        .args(["-c", command])
        .current_dir(directory)
        .env("PACKETDRILL_PID", std::process::id().to_string())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{}` failed: {}", command.trim(), String::from_utf8_lossy(&output.stderr).trim()))
}
