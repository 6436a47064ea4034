//! What a user is told when something cannot be had.

mod common;

use std::net::IpAddr;

use bywash::config::AddressUse;
use bywash_afxdp::testing::{ForeignProgram, VethOptions, drop_capabilities};
use bywash_afxdp::{AttachOptions, Error, HugePages, Mode, Nic, PortAddresses, QueueOptions, require_root};
use common::*;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The text of an error, which must contain all of `parts`.
#[track_caller]
fn says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn a_queue_out_of_range_is_refused_with_the_number_there_is() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let error = steer.queue(2, &small()).unwrap_err();
        assert!(matches!(error, Error::QueueOutOfRange { queue: 2, queues: 2, .. }));
        let name = &pair.stack_interface;
        says(&error, &[&format!("queue 2 does not exist on {name}: it has 2; see `bywash nic {name}`")]);
    });
}

#[test]
fn options_out_of_bounds_are_refused_before_anything_is_opened() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let refuse = |options: QueueOptions| steer.queue(0, &options).unwrap_err();
        says(&refuse(QueueOptions { rx_ring: 1000, ..small() }), &["RX ring", "1000", "power of two"]);
        says(&refuse(QueueOptions { frames: 2, ..small() }), &["2 frames", "8 to"]);
        let listed = PortAddresses::Listed(vec![IpAddr::V4(KERNEL); 65]);
        says(&refuse(QueueOptions { port_addresses: listed, ..small() }), &["65 addresses", "at most 64"]);
        let generic = QueueOptions { mode: Mode::Generic, ..small() };
        says(&refuse(generic), &["already is in native XDP mode", "generic mode"]);
    });
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let nic = Nic::open(&pair.stack_interface).unwrap();
        let foreign = ForeignProgram::attach(&nic).unwrap();
        let attached = Nic::open(&pair.stack_interface).unwrap().attached.unwrap();
        assert_eq!(attached.name, "someone_elses");
        let error = attach(&pair, AddressUse::Own).unwrap_err();
        assert!(matches!(&error, Error::ProgramAttached { id, .. } if *id == attached.id));
        let remove = format!("ip link set dev {} xdp off", pair.stack_interface);
        says(&error, &["someone_elses", &format!("id {}", attached.id), &remove]);
        assert_eq!(Nic::open(&pair.stack_interface).unwrap().attached, Some(attached));
        drop(foreign);
        attach(&pair, AddressUse::Own).expect("free now");
    });
}

#[test]
fn another_attach_mode_than_the_one_there_is_conflicts() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let nic = Nic::open(&pair.stack_interface).unwrap();
        let with = |mode| nic.attach(&AttachOptions { mode, address_use: AddressUse::Own });
        let native = with(Mode::Copy).unwrap();
        says(&with(Mode::Generic).unwrap_err(), &["native XDP mode", "generic mode cannot"]);
        with(Mode::Auto).expect("whatever there is");
        drop(native);
        let _generic = with(Mode::Generic).unwrap();
        says(&with(Mode::ZeroCopy).unwrap_err(), &["generic XDP mode", "zero-copy"]);
    });
}

#[test]
fn missing_capabilities_are_named() {
    require_root!();
    let pair = pair(VethOptions::default());
    // Each in a thread of its own: capabilities are a thread's.
    let without = |numbers: &[u32]| {
        pair.stack.run(|| {
            drop_capabilities(numbers);
            attach(&pair, AddressUse::Own).unwrap_err()
        })
    };
    let error = without(&[CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW]);
    says(
        &error,
        &[
            "lacks CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_NET_RAW;",
            "setcap cap_net_admin,cap_bpf,cap_perfmon,cap_net_raw+ep",
        ],
    );
    let error = without(&[CAP_NET_ADMIN, CAP_SYS_ADMIN]);
    assert!(matches!(error, Error::NoPrivilege { .. }));
    says(&error, &["lacks CAP_NET_ADMIN;"]);

    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let opener = steer.queue(0, &small()).unwrap();
        drop_capabilities(&[CAP_NET_RAW]);
        let error = opener.open().unwrap_err();
        says(&error, &["open an AF_XDP socket", "lacks CAP_NET_RAW"]);
    });

    let first = pair.stack.run(|| attach(&pair, AddressUse::Own).unwrap());
    let error = without(&[CAP_SYS_ADMIN]);
    says(&error, &["look at the XDP program on the interface", "lacks CAP_SYS_ADMIN"]);
    drop(first);
}

#[test]
fn the_named_capabilities_are_enough() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let named = [CAP_NET_ADMIN, CAP_BPF, CAP_PERFMON, CAP_NET_RAW, CAP_IPC_LOCK];
        drop_capabilities(&(0..41).filter(|number| !named.contains(number)).collect::<Vec<_>>());
        open_owning(&pair, &small());
        drop_capabilities(&[CAP_PERFMON]);
        says(&attach(&pair, AddressUse::Own).unwrap_err(), &["lacks CAP_PERFMON;"]);
    });
}

#[test]
fn looking_at_an_interface_takes_no_privilege() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    pair.stack.run(|| {
        let _steer = attach(&pair, AddressUse::Own).unwrap();
        drop_capabilities(&(0..41).collect::<Vec<_>>());
        let nic = Nic::open(&pair.stack_interface).unwrap();
        assert_eq!((nic.driver.name.as_str(), nic.rx_queues, nic.tx_queues, nic.mtu), ("veth", 2, 2, 1500));
        assert!(nic.is_up && nic.has_carrier);
        assert_eq!(nic.channels.unwrap().rx.max, 2);
        let features = nic.xdp_features.unwrap();
        assert!(features.native() && features.redirect() && features.rx_multi_buffer());
        assert!(!features.zero_copy());
        assert!(nic.attached.is_some());
        assert!(nic.addresses().unwrap().contains(&IpAddr::V4(KERNEL)));
    });
}

#[test]
fn the_locked_memory_limit_is_named() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let opener = steer.queue(0, &QueueOptions { frames: 4096, ..small() }).unwrap();
        // The limit is the process's, but threads with CAP_IPC_LOCK, as those of the other tests, have none.
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a place for the limit.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) }, 0);
        limit.rlim_cur = 1 << 20;
        // SAFETY: the limit is valid.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }, 0);
        drop_capabilities(&[CAP_IPC_LOCK]);
        let error = opener.open().unwrap_err();
        assert!(matches!(error, Error::LockedMemoryLimit { bytes: 16_777_216, .. }), "{error}");
        says(&error, &["RLIMIT_MEMLOCK) is 1048576 bytes", "CAP_IPC_LOCK"]);
        steer.queue(0, &QueueOptions { frames: 64, ..small() }).unwrap().open().expect("fewer frames");
    });
}

#[test]
fn huge_pages_are_used_fallen_back_from_or_required() {
    require_root!();
    let pair = pair(VethOptions::default());
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let open = |huge_pages, frames| {
            steer.queue(0, &QueueOptions { huge_pages, frames, ..small() }).unwrap().open()
        };
        let free = free_huge_pages();
        assert_eq!(open(HugePages::Auto, 512).unwrap().mode().huge_pages, free >= 1);
        assert!(!open(HugePages::Auto, 500).unwrap().mode().huge_pages, "they do not fill a huge page");
        assert!(!open(HugePages::Never, 512).unwrap().mode().huge_pages);
        match open(HugePages::Require, 512) {
            Ok(queue) => assert!(queue.mode().huge_pages && free >= 1),
            Err(error) => {
                assert_eq!(free, 0);
                says(&error, &["2097152 bytes", "huge pages", "vm.nr_hugepages"]);
            }
        }
    });
}

fn free_huge_pages() -> u32 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    line.map_or(0, |number| number.trim().parse().unwrap())
}

#[test]
fn an_mtu_too_large_for_the_mode_is_refused_with_the_largest_that_works() {
    require_root!();
    let pair = pair(VethOptions { mtu: 9000, ..VethOptions::default() });
    pair.stack.run(|| {
        let steer = attach(&pair, AddressUse::Own).unwrap();
        let open = |options| steer.queue(0, &options).unwrap().open();
        let zero_copy = QueueOptions { mode: Mode::ZeroCopy, ..small() };
        let error = open(zero_copy.clone()).unwrap_err();
        assert!(matches!(error, Error::MtuTooLarge { mtu: 9000, max: 3826, .. }), "{error}");
        says(&error, &["an MTU of 9000", "zero-copy mode", "at most 3826"]);
        let error = open(QueueOptions { mtu: Some(3826), ..zero_copy }).unwrap_err();
        assert!(matches!(error, Error::NoZeroCopy { .. }), "small enough, but veth has none: {error}");
        let queue = open(QueueOptions { mtu: Some(1400), ..small() }).unwrap();
        assert_eq!(bywash::device::Device::capabilities(&queue).mtu, 1400);
    });
}

#[test]
fn a_peer_with_more_queues_is_explained() {
    require_root!();
    let pair = pair(VethOptions { queues: 2, ..VethOptions::default() });
    pair.stack.sh("ethtool", &format!("-L {} rx 1", pair.stack_interface));
    pair.stack.run(|| {
        let error = Nic::open(&pair.stack_interface)
            .unwrap()
            .attach(&AttachOptions { mode: Mode::Copy, ..AttachOptions::default() })
            .unwrap_err();
        assert!(matches!(error, Error::PeerHasMoreQueues { queues: 1, .. }), "{error}");
    });
}
