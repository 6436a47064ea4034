//! What the test asks of a router, whoever it is: packets in, packets out, and the flows that it knows.

use super::link::Side;

/// How a router is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// As iptables-save prints them.
    pub rules: &'static str,
    /// They are IPv6's, and the script is.
    pub ipv6: bool,
    /// MTU of the links.
    pub mtus: [usize; 2],
    /// Linux: `nf_conntrack_tcp_loose`.
    pub loose: bool,
    /// Linux: `nf_conntrack_tcp_be_liberal`.
    pub liberal: bool,
    /// Linux: `nf_conntrack_NAME_timeout`, in seconds. (`tcp_syn_sent` is Linux's `tcp_timeout_syn_sent`.)
    pub timeouts: &'static [(&'static str, u64)],
}

impl Setup {
    pub const fn new(rules: &'static str) -> Self {
        Self { rules, ipv6: false, mtus: [1500, 1500], loose: true, liberal: false, timeouts: &[] }
    }
}

/// What came out, by link.
#[derive(Clone, Default, Debug)]
pub struct Output {
    pub lan: Vec<Vec<u8>>,
    pub wan: Vec<Vec<u8>>,
}

impl Output {
    pub fn of(&mut self, side: Side) -> &mut Vec<Vec<u8>> {
        match side {
            Side::Lan => &mut self.lan,
            Side::Wan => &mut self.wan,
        }
    }

    pub fn on(&self, side: Side) -> &[Vec<u8>] {
        match side {
            Side::Lan => &self.lan,
            Side::Wan => &self.wan,
        }
    }
}

/// A line of `conntrack -L`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Flow {
    pub protocol: u8,
    /// TCP's, else empty.
    pub state: String,
    /// Original and reply.
    pub tuples: [String; 2],
    pub unreplied: bool,
    pub assured: bool,
    pub mark: u32,
    /// Seconds left.
    pub timeout: u64,
}

/// A router under test.
pub trait Router {
    fn name(&self) -> &'static str;

    /// Sends a packet to the router and returns what came of it, all of it.
    fn exchange(&mut self, side: Side, packet: &[u8]) -> Output;

    /// Lets time pass.
    fn wait(&mut self, seconds: u64) -> Output;

    /// The flows it knows; `None`: it does not tell.
    fn flows(&mut self) -> Option<Vec<Flow>>;
}
