//! Checks that nobody else has an address of ours, and tells everybody that we have it: ARP probes and announcements
//! (RFC 5227 sections 2.1 and 2.3), duplicate address detection (RFC 4862 section 5.4) and unsolicited neighbour
//! advertisements (RFC 4861 section 7.2.6).
//!
//! The addresses are the operator's, or DHCP's, and a server must not be down for seconds at every start: they are used
//! meanwhile, as in RFC 4429. A conflict is logged and counted by [`super::egress`] and ends the announcements; it does
//! not take the address away. It knows time and order; the frames are built by [`super::arp`] and [`super::ndp`].

use core::net::IpAddr;

use crate::limits;
use crate::time::{Duration, Instant};

/// What is to be sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Ask whether somebody has the address.
    Probe(IpAddr),
    /// Say that we have it.
    Announce(IpAddr),
}

/// The addresses under way: at most as many as the interface has.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    under_way: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    addr: IpAddr,
    at: Instant,
    probes: u8,
    announcements: u8,
}

impl Announcer {
    /// `addresses` are ours from now on: starts with those that are not among `known`, after `delay` (a random one below
    /// [`limits::ADDRESS_PROBE_DELAY`], so that machines that start together do not speak at once), and forgets those that
    /// are ours no longer.
    pub(crate) fn use_addresses(
        &mut self,
        now: Instant,
        known: &[IpAddr],
        addresses: &[IpAddr],
        delay: Duration,
    ) {
        self.under_way.retain(|entry| addresses.contains(&entry.addr));
        for &addr in addresses.iter().filter(|addr| !known.contains(addr)) {
            let probes = if addr.is_ipv4() { limits::ARP_PROBES } else { limits::DAD_SOLICITATIONS };
            let announcements = limits::ADDRESS_ANNOUNCEMENTS;
            self.under_way.push(Entry { addr, at: now + delay, probes, announcements });
        }
    }

    /// Somebody else has the address: nothing more is said of it.
    pub(crate) fn conflict(&mut self, addr: IpAddr) {
        self.under_way.retain(|entry| entry.addr != addr);
    }

    /// The next thing whose time has come; to be called until it returns `None`.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Step> {
        let index = self.under_way.iter().position(|entry| entry.at <= now)?;
        let entry = &mut self.under_way[index];
        let addr = entry.addr;
        if entry.probes > 0 {
            entry.probes -= 1;
            entry.at = now + limits::ADDRESS_PROBE_INTERVAL;
            return Some(Step::Probe(addr));
        }
        entry.announcements -= 1;
        entry.at = now + limits::ADDRESS_ANNOUNCE_INTERVAL;
        if entry.announcements == 0 {
            self.under_way.swap_remove(index);
        }
        Some(Step::Announce(addr))
    }

    /// When [`Announcer::due`] next has something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.under_way.iter().map(|entry| entry.at).min()
    }
}
