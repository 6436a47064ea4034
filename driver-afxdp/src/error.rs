//! What can go wrong between a NIC's name and a working queue, each with what to do about it.

use std::io;

use crate::privileges::Missing;

/// Why a NIC, its steering program or a queue could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such network interface in this network namespace.
    #[error("no network interface is named {name:?}; there are: {existing} (see `ip link`)")]
    NoSuchInterface {
        /// What was asked for.
        name: String,
        /// The names that exist, separated by commas.
        existing: String,
    },
    /// The kernel would not tell something about the interface.
    #[error("cannot read {what} of {interface}: {source}")]
    Interface {
        /// Name of the interface.
        interface: String,
        /// What was asked.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The queue number is too large.
    #[error("queue {queue} does not exist on {interface}: it has {queues}; see `bywash nic {interface}`")]
    QueueOutOfRange {
        /// Name of the interface.
        interface: String,
        /// What was asked for.
        queue: u32,
        /// How many RX queues are in use, numbered from 0.
        queues: u32,
    },
    /// Another socket of this or another process is bound to the queue.
    #[error(
        "queue {queue} of {interface} is taken by another AF_XDP socket; end the process that has it (`ss --xdp -p` \
         shows it) or take another queue"
    )]
    QueueTaken {
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The process may not do this.
    #[error("no permission to {what}: {missing}")]
    NoPrivilege {
        /// What was tried.
        what: &'static str,
        /// The capabilities that it takes and the process lacks.
        missing: Missing,
    },
    /// The kernel would not lock the packet memory into RAM.
    #[error(
        "cannot lock {bytes} bytes of packet memory: the locked-memory limit (RLIMIT_MEMLOCK) is {limit}; raise it \
         (`ulimit -l unlimited`, LimitMEMLOCK= in a systemd unit), grant CAP_IPC_LOCK, or use fewer frames"
    )]
    LockedMemoryLimit {
        /// Size of the packet memory.
        bytes: u64,
        /// The limit in words.
        limit: String,
    },
    /// There is not enough memory, or there are too few huge pages.
    #[error("cannot allocate {bytes} bytes of packet memory{}: {source}", if *.huge_pages { " in huge pages (see /proc/meminfo, and `sysctl vm.nr_hugepages`)" } else { "" })]
    Memory {
        /// Size of the packet memory.
        bytes: u64,
        /// Whether huge pages were required.
        huge_pages: bool,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A program that is not Bywash's is attached to the interface. It is left alone.
    #[error(
        "an XDP program is already attached to {interface}: {name:?}, id {id}; if nothing needs it, remove it with \
         `ip link set dev {interface} xdp off` (or end the process that holds its link: `bpftool link`)"
    )]
    ProgramAttached {
        /// Name of the interface.
        interface: String,
        /// The program's id, as `bpftool prog` shows it.
        id: u32,
        /// The program's name, empty when it has none.
        name: String,
    },
    /// The steering program of a Bywash of another version is attached to the interface.
    #[error(
        "{interface} is steered by another version of Bywash (program id {id}: {difference}); use the same version in \
         all processes on this interface, or end the others"
    )]
    OtherVersion {
        /// Name of the interface.
        interface: String,
        /// The program's id.
        id: u32,
        /// What differs.
        difference: String,
    },
    /// The other processes on the interface came and went so fast that neither attaching nor joining succeeded.
    #[error(
        "could neither attach to {interface} nor join the steering program of the processes on it; try again"
    )]
    AttachRace {
        /// Name of the interface.
        interface: String,
    },
    /// The program on the interface is attached in another mode than asked for.
    #[error(
        "{interface} already is in {obtained} XDP mode, so that {wanted} cannot be had; end the other processes on it"
    )]
    ModeConflict {
        /// Name of the interface.
        interface: String,
        /// What was asked for.
        wanted: &'static str,
        /// What there is.
        obtained: &'static str,
    },
    /// Packets of this size cannot be had in the mode.
    #[error(
        "an MTU of {mtu} on {interface} is too large for {mode}: at most {max}; lower it (`ip link set dev {interface} \
         mtu {max}`), or allow another mode"
    )]
    MtuTooLarge {
        /// Name of the interface.
        interface: String,
        /// The MTU wanted, in bytes.
        mtu: usize,
        /// The largest that would work, in bytes.
        max: usize,
        /// The mode, in words.
        mode: &'static str,
    },
    /// The kernel has no AF_XDP sockets.
    #[error("this kernel has no AF_XDP sockets; Bywash needs Linux 5.18 or later with CONFIG_XDP_SOCKETS=y")]
    NoAfXdp,
    /// The kernel or the driver lacks something the steering program or the socket needs.
    #[error(
        "this kernel or the driver of {interface} cannot {what} ({source}); Bywash needs Linux 5.18 or later, and a \
         driver with XDP for more than generic mode; see `bywash nic {interface}`{}", if .log.is_empty() { String::new() } else { format!("\n{}", .log) }
    )]
    Unsupported {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
        /// The end of the kernel verifier's log, if it refused the program.
        log: String,
    },
    /// No zero-copy.
    #[error(
        "no zero-copy on queue {queue} of {interface} ({source}): its driver or this kernel cannot; allow copy mode, or \
         see `bywash nic {interface}`"
    )]
    NoZeroCopy {
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No link was named.
    #[error("a device of several links needs one at least: name a NIC")]
    NoLinks,
    /// A queue was named for more than one link, or twice for one.
    #[error("queue {queue} of {interface} is named twice: name each NIC, and each of its queues, once")]
    QueueTwice {
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// A ring's size is not possible.
    #[error("{what} is {value}: it must be a power of two from {min} to {max}")]
    NotPowerOfTwo {
        /// Which option.
        what: &'static str,
        /// Its value.
        value: u32,
        /// The least possible value.
        min: u32,
        /// The largest possible value.
        max: u32,
    },
    /// The number of frames is not possible.
    #[error("{frames} frames are too few or too many: there must be {min} to {max}")]
    BadFrameCount {
        /// What was asked for.
        frames: u32,
        /// The least possible number.
        min: u32,
        /// The largest possible number.
        max: u32,
    },
    /// More addresses than the steering program keeps for a queue.
    #[error("{addresses} addresses {what} are too many: list at most {max}")]
    TooManyAddresses {
        /// What they are listed for.
        what: &'static str,
        /// How many were listed.
        addresses: usize,
        /// The most possible.
        max: u32,
    },
    /// The link to a peer with more TX queues than this end has RX queues cannot carry XDP (veth).
    #[error(
        "{interface} has fewer RX queues ({queues}) than its peer has TX queues, so that its driver refuses XDP; make \
         them equal (`ethtool -L`, or numrxqueues/numtxqueues of `ip link add`)"
    )]
    PeerHasMoreQueues {
        /// Name of the interface.
        interface: String,
        /// RX queues of this end.
        queues: u32,
    },
    /// A syscall failed in a way that has no better explanation.
    #[error("cannot {what} on {interface}: {source}")]
    System {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}
