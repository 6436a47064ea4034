//! For tests: network namespaces and veth pairs that vanish with the values that made them, and the steering program
//! for `BPF_PROG_TEST_RUN`.
//!
//! The namespaces have no names and are held by descriptors only, so that a killed test leaves nothing behind. Work in
//! one by [`Namespace::run`] (a closure on a thread of its own that entered the namespace) or [`Namespace::command`].
//! Takes root, and `ip` of iproute2.

mod plain;
mod stream;

pub use plain::{PlainForwarder, PlainSocket};
pub use stream::stream;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::bpf;
use crate::error::Error;
use crate::maps::PROGRAM;
use crate::nic::Nic;
use crate::program::Steer;
pub use crate::ring_bed::{Load, QueueBed, RingBed, Rival, forge, last_addresses};

thread_local! {
    static LIBRARY_RINGS: Cell<bool> = const { Cell::new(false) };
}

/// Lets the queues that this thread opens from now on access their rings through xsk-rs, as kernels before 6.4 demand.
pub fn use_library_rings(yes: bool) {
    LIBRARY_RINGS.set(yes);
}

pub(crate) fn library_rings() -> bool {
    LIBRARY_RINGS.get()
}

/// Whether this process may make namespaces and load programs. If not, says so on stderr with the test's name, past the
/// test harness's capturing, so that the skipped test is seen.
#[must_use]
pub fn is_root(test: &str) -> bool {
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        // In one piece: other tests write at the same time.
        let line = format!("SKIPPED {test}: needs root\n");
        let _ = io::stderr().write_all(line.as_bytes());
    }
    root
}

/// Returns from a test, reporting it as skipped by name, unless the process is root.
#[macro_export]
macro_rules! require_root {
    () => {{
        fn here() {}
        let name = ::core::any::type_name_of_val(&here).trim_end_matches("::here");
        if !$crate::testing::is_root(name) {
            return;
        }
    }};
}

/// A network namespace without a name. It is gone with the last of: this value, the processes started in it.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// A new one, with its loopback interface up.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn new() -> Self {
        let enter = || {
            // SAFETY: no pointers; only this thread changes its namespace, and it ends right afterwards.
            let unshared = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(unshared, 0, "unshare: {}", io::Error::last_os_error());
            OwnedFd::from(fs::File::open("/proc/thread-self/ns/net").expect("open the namespace"))
        };
        let fd = thread::scope(|scope| scope.spawn(enter).join()).expect("a thread in a new namespace");
        let this = Self { fd };
        this.ip("link set lo up");
        this
    }

    /// Runs `work` on a thread inside the namespace and returns what it returns; a panic is passed on.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let entered = || {
            set_namespace(self.fd.as_raw_fd()).expect("enter the namespace");
            work()
        };
        match thread::scope(|scope| scope.spawn(entered).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Puts the calling thread into the namespace, for good. For threads made for this.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn enter(&self) {
        set_namespace(self.fd.as_raw_fd()).expect("enter the namespace");
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let fd = self.fd.as_raw_fd();
        // SAFETY: setns(2) is safe between fork and exec; the descriptor is inherited by the fork.
        unsafe { command.pre_exec(move || set_namespace(fd)) };
        command
    }

    /// Runs `ip` with these arguments, separated by spaces.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn ip(&self, arguments: &str) {
        self.sh("ip", arguments);
    }

    /// Runs a command with these arguments, separated by spaces, and returns its output.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn sh(&self, program: &str, arguments: &str) -> String {
        let output = self.command(program).args(arguments.split_whitespace()).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {}\n{text}{errors}", output.status);
        text
    }

    /// Writes a sysctl of the namespace, for example `net/ipv4/ip_forward`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.run(|| {
            fs::write(format!("/proc/sys/{name}"), value)
                .unwrap_or_else(|e| panic!("sysctl {name}={value}: {e}"));
        });
    }

    /// A path by which `ip` knows the namespace, as long as this value lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

fn set_namespace(fd: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a veth pair is to be like.
#[derive(Clone, Copy, Debug)]
pub struct VethOptions {
    /// RX and TX queues of both ends.
    pub queues: u32,
    /// MTU of both ends, in bytes.
    pub mtu: usize,
    /// Whether the kernel's end may leave checksums and segmentation to the device, as it does by default on veth:
    /// then its TCP sends partial checksums and packets of up to 64 KiB.
    pub peer_offloads: bool,
}

impl Default for VethOptions {
    fn default() -> Self {
        Self { queues: 1, mtu: 1500, peer_offloads: true }
    }
}

/// Two namespaces joined by a veth pair. In `stack` is the interface a stack uses, in `peer` that of a kernel peer.
#[derive(Debug)]
pub struct VethPair {
    /// Where the stack's interface is.
    pub stack: Namespace,
    /// Where the kernel peer's interface is.
    pub peer: Namespace,
    /// Name of the stack's interface, unique on the machine.
    pub stack_interface: String,
    /// Name of the peer's interface, unique on the machine.
    pub peer_interface: String,
}

static NEXT_PAIR: AtomicU32 = AtomicU32::new(0);

impl VethPair {
    /// Makes both, up, without addresses.
    ///
    /// # Panics
    /// Without root, and when `ip` fails.
    #[must_use]
    pub fn new(options: VethOptions) -> Self {
        Self::of(Namespace::new(), options)
    }

    /// Another pair, whose stack's interface is in the same namespace as this one's and whose peer is in one of its own.
    ///
    /// # Panics
    /// As [`VethPair::new`].
    #[must_use]
    pub fn beside(&self, options: VethOptions) -> Self {
        let fd = self.stack.fd.try_clone().expect("another descriptor of the namespace");
        Self::of(Namespace { fd }, options)
    }

    fn of(stack: Namespace, options: VethOptions) -> Self {
        let peer = Namespace::new();
        let number = NEXT_PAIR.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}n{number:x}", std::process::id());
        let (a, b) = (format!("bws{id}"), format!("bwp{id}"));
        for namespace in [&stack, &peer] {
            // Addresses at once, without duplicate detection, and no packets nobody asked for.
            for name in ["default", "all"] {
                namespace.sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0");
                namespace.sysctl(&format!("net/ipv6/conf/{name}/router_solicitations"), "0");
            }
        }
        let (queues, mtu) = (options.queues, options.mtu);
        let each = format!("mtu {mtu} numrxqueues {queues} numtxqueues {queues}");
        let peer_path = peer.path();
        stack.ip(&format!("link add {a} {each} type veth peer name {b} {each} netns {peer_path}"));
        stack.ip(&format!("link set {a} up"));
        peer.ip(&format!("link set {b} up"));
        let this = Self { stack, peer, stack_interface: a, peer_interface: b };
        if !options.peer_offloads {
            let interface = &this.peer_interface;
            this.peer.sh("ethtool", &format!("-K {interface} tx off tso off gso off gro off"));
        }
        this
    }

    /// Gives the stack's interface an address in the kernel, for example `192.0.2.1/24`.
    ///
    /// # Panics
    /// When `ip` fails.
    pub fn stack_address(&self, cidr: &str) {
        self.stack.ip(&format!("address add {cidr} dev {}", self.stack_interface));
    }

    /// Gives the peer's interface an address.
    ///
    /// # Panics
    /// When `ip` fails.
    pub fn peer_address(&self, cidr: &str) {
        self.peer.ip(&format!("address add {cidr} dev {}", self.peer_interface));
    }

    /// Opens the stack's interface, inside its namespace.
    ///
    /// # Errors
    /// As [`Nic::open`].
    pub fn nic(&self) -> Result<Nic, Error> {
        self.stack.run(|| Nic::open(&self.stack_interface))
    }
}

/// The steering program, to be run on packets of a test's own.
#[derive(Debug)]
pub struct TestProgram {
    program: OwnedFd,
    ifindex: u32,
}

impl TestProgram {
    /// The program attached to `steer`'s interface.
    ///
    /// # Errors
    /// When there is none (any more), or the kernel does not let this process have it.
    pub fn of(steer: &Steer) -> io::Result<Self> {
        let ifindex = steer.nic().ifindex;
        let program = bpf::program_by_id(bpf::xdp_query(ifindex)?.program)?;
        let info = bpf::program_info(program.as_fd())?;
        assert_eq!(info.name.as_bytes(), PROGRAM.to_bytes(), "the steering program");
        Ok(Self { program, ifindex })
    }

    /// Runs it on a packet as if that had come in on `queue` of the interface. Must be called inside the interface's
    /// namespace.
    ///
    /// # Errors
    /// What the kernel answers; `EINVAL` for a packet shorter than an Ethernet header, or a queue that does not exist.
    pub fn run(&self, packet: &[u8], queue: u32) -> io::Result<XdpAction> {
        bpf::test_run(self.program.as_fd(), packet, self.ifindex, queue).map(|action| match action {
            2 => XdpAction::Pass,
            4 => XdpAction::Redirect,
            other => XdpAction::Other(other),
        })
    }
}

/// What an XDP program decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpAction {
    /// `XDP_PASS`: to the kernel.
    Pass,
    /// `XDP_REDIRECT`: to a socket.
    Redirect,
    /// Another one, by its number.
    Other(u32),
}

/// Keeps a program that is not Bywash's on an interface: it passes everything.
#[derive(Debug)]
pub struct ForeignProgram {
    _link: OwnedFd,
}

impl ForeignProgram {
    /// Attaches it to the interface `nic`, of the calling thread's namespace.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn attach(nic: &Nic) -> io::Result<Self> {
        let program = bpf::load_pass_all(c"someone_elses")?;
        Ok(Self { _link: bpf::xdp_link(program.as_fd(), nic.ifindex, 0)? })
    }
}

/// Takes these capabilities (by number, capabilities(7)) from the calling thread, for good.
///
/// # Panics
/// When the kernel refuses.
pub fn drop_capabilities(numbers: &[u32]) {
    let mut header: [u32; 2] = [LINUX_CAPABILITY_VERSION_3, 0];
    // Effective, permitted and inheritable; then the same of the capabilities from 32 on.
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: version 3 reads the header's two fields and fills two triples.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) };
    assert_eq!(got, 0, "capget: {}", io::Error::last_os_error());
    for number in numbers {
        for set in &mut sets[(number / 32) as usize][..2] {
            *set &= !(1 << (number % 32));
        }
    }
    // SAFETY: as above, but read.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(set, 0, "capset: {}", io::Error::last_os_error());
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
