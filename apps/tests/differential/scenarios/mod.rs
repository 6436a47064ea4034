//! The scripts, by what they are about.

mod filter;
mod icmp;
mod ip;
mod nat;
mod tcp;
mod udp;

use super::router::Setup;
use super::script::{Run, Scenario};

/// A router without rules.
pub const NONE: &str = "";
/// Flows are tracked, and what fits none is dropped.
pub const TRACKED: &str = "*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n";
/// The usual: what the LAN begins may pass, and what belongs to it; nothing else.
pub const FIREWALL: &str = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i lan -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";
/// The LAN behind the router's address, and what fits no flow dropped.
pub const MASQUERADE: &str = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n";

/// Hosts of the LAN and outside.
pub const L1: &str = "192.168.1.1";
pub const W2: &str = "192.0.2.2";
pub const R_WAN: &str = "192.0.2.254";
pub const L6: &str = "2001:db8:1::1";
pub const W6: &str = "2001:db8:2::2";

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [tcp::SCENARIOS, udp::SCENARIOS, icmp::SCENARIOS, ip::SCENARIOS, nat::SCENARIOS, filter::SCENARIOS]
        .into_iter()
        .flatten()
}

const fn scenario(name: &'static str, rules: &'static str, script: fn(&mut Run<'_>)) -> Scenario {
    Scenario { name, setup: Setup::new(rules), script }
}

/// The same over IPv6: the rules are ip6tables'.
const fn scenario6(name: &'static str, rules: &'static str, script: fn(&mut Run<'_>)) -> Scenario {
    let mut scenario = scenario(name, rules, script);
    scenario.setup.ipv6 = true;
    scenario
}

/// With other settings.
const fn with(scenario: Scenario, setup: Setup) -> Scenario {
    let rules = scenario.setup.rules;
    let ipv6 = scenario.setup.ipv6;
    Scenario { setup: Setup { rules, ipv6, ..setup }, ..scenario }
}
