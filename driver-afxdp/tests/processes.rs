//! Several processes on one interface: each has its queue, and nothing is left behind, however they end.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bywash::config::AddressUse;
use bywash::device::{Device, WaitDevice};
use bywash::packet::PacketBatch;
use bywash_afxdp::testing::{VethOptions, VethPair};
use bywash_afxdp::{AttachOptions, AttachedProgram, Mode, Nic, Steer, require_root};
use common::*;

/// In the environment of a child: interface and queue.
const CHILD: &str = "BYWASH_TEST_CHILD";

/// A process that reflects what comes to [`OWN`] on one queue, until its stdin ends.
#[test]
#[ignore = "started by the other tests as a process of its own"]
fn child_process() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (interface, queue) = what.split_once(' ').unwrap();
    let open = || {
        let nic = Nic::open(interface)?;
        let steer = nic.attach(&AttachOptions { mode: Mode::Auto, address_use: AddressUse::Own })?;
        let opener = steer.queue(queue.parse().unwrap(), &small())?;
        Ok::<_, bywash_afxdp::Error>((opener.open()?, steer.is_joined()))
    };
    let (mut queue, joined) = match open() {
        Ok(queue) => queue,
        Err(error) => return say(&format!("error {error}")),
    };
    queue.steering().own_address(IpAddr::V4(OWN)).unwrap();
    say(if joined { "joined" } else { "attached" });
    let mut batch = PacketBatch::new();
    loop {
        if queue.receive(&mut batch, 64) == 0 {
            // Its stdin takes the place of the eventfd.
            queue.wait(std::io::stdin().as_raw_fd(), None).unwrap();
            let mut stdin = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid entry.
            if unsafe { libc::poll(&raw mut stdin, 1, 0) } > 0 {
                return;
            }
        }
        transmit_all(&mut queue, &mut batch);
    }
}

/// Past the test harness, which would mix its own words in.
fn say(word: &str) {
    let mut stderr = std::io::stderr();
    stderr.write_all(format!("child: {word}\n").as_bytes()).unwrap();
}

struct Process {
    child: Child,
    word: String,
}

impl Process {
    /// Starts a child for a queue and waits for its first word.
    fn start(pair: &VethPair, queue: u32) -> Self {
        let mut command: Command = pair.stack.command(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "child_process", "--nocapture"]);
        command.env(CHILD, format!("{} {queue}", pair.stack_interface));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.as_mut().unwrap()).lines().map_while(Result::ok);
        let word = lines.filter_map(|line| line.strip_prefix("child: ").map(str::to_owned)).next();
        let word = word.unwrap_or_else(|| panic!("the child said nothing: {:?}", child.wait()));
        Self { child, word }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends its stdin, and waits for it to end by itself.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }
}

fn attached(pair: &VethPair) -> Option<AttachedProgram> {
    pair.nic().unwrap().attached
}

/// The kernel takes the program away a little after the process.
fn assert_detached(pair: &VethPair) {
    let started = Instant::now();
    while let Some(program) = attached(pair) {
        assert!(started.elapsed() < PATIENCE, "{program:?} is still attached");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends 64 flows to [`OWN`] and counts those reflected, up to `expected`. `round` tells its frames from those of other
/// calls.
fn reflected(pair: &VethPair, expected: usize, round: &[u8]) -> usize {
    pair.peer.run(|| {
        let socket = RawSocket::open(&pair.peer_interface);
        (0..64u16).for_each(|i| socket.send(&udp(PEER, OWN, 5000 + i, 7, round)));
        let frames = std::iter::from_fn(|| socket.receive());
        frames.filter(|frame| frame.ends_with(round)).take(expected).count()
    })
}

#[test]
fn a_killed_process_leaves_nothing_and_the_next_starts_at_once() {
    require_root!();
    let pair = pair(VethOptions::default());
    for _ in 0..3 {
        let process = Process::start(&pair, 0);
        assert_eq!(process.word, "attached");
        assert_eq!(reflected(&pair, 64, b"alive"), 64);
        process.kill();
    }
    assert_detached(&pair);
    assert!(pair.peer.run(|| answers_ping(KERNEL)), "the interface works on");
}

#[test]
fn a_process_that_ends_by_itself_leaves_nothing() {
    require_root!();
    let pair = pair(VethOptions::default());
    Process::start(&pair, 0).end();
    assert_detached(&pair);
}

#[test]
fn two_processes_share_an_interface_and_the_last_takes_the_program_with_it() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    let first = Process::start(&pair, 0);
    let second = Process::start(&pair, 1);
    assert_eq!((first.word.as_str(), second.word.as_str()), ("attached", "joined"));
    let program = attached(&pair).unwrap();
    assert_eq!(reflected(&pair, 64, b"both"), 64, "both queues");
    first.kill();
    assert_eq!(attached(&pair), Some(program.clone()), "the second process holds it");
    assert!(reflected(&pair, 8, b"one left") == 8, "the second one's flows");
    let again = Process::start(&pair, 0);
    assert_eq!(again.word, "joined");
    assert_eq!(reflected(&pair, 64, b"again"), 64, "both queues again");
    second.end();
    assert_eq!(attached(&pair), Some(program));
    again.kill();
    assert_detached(&pair);
}

#[test]
fn a_process_is_told_that_another_has_the_queue() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    let first = Process::start(&pair, 0);
    let second = Process::start(&pair, 0);
    let expected = format!("error queue 0 of {} is taken by another AF_XDP socket", pair.stack_interface);
    assert!(second.word.starts_with(&expected), "{}", second.word);
    second.end();
    assert_eq!(reflected(&pair, 8, b"undisturbed"), 8, "the first was not disturbed");
    first.end();
    assert_detached(&pair);
}

#[test]
fn what_a_killed_process_left_in_its_queue_is_cleared() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    let program = pair.stack.run(|| {
        let keeper = attach(&pair, AddressUse::Own).unwrap();
        Process::start(&pair, 0).kill();
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let queue = steer.queue(0, &small()).unwrap().open().unwrap();
        let program = bywash_afxdp::testing::TestProgram::of(&keeper).unwrap();
        let action = program.run(&udp(PEER, OWN, 1, 2, b"x"), 0).unwrap();
        assert_eq!(action, bywash_afxdp::testing::XdpAction::Pass, "the address is no longer owned");
        drop(queue);
        keeper
    });
    drop(program);
    assert_detached(&pair);
}

#[test]
fn many_that_attach_and_detach_at_once_all_succeed() {
    require_root!();
    let pair = pair(VethOptions::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                pair.stack.enter();
                for _ in 0..25 {
                    drop::<Steer>(attach(&pair, AddressUse::Own).unwrap());
                }
            });
        }
    });
    assert_detached(&pair);
}
