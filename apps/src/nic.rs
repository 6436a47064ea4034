//! `bywash nic`: what `ethtool -i`, `-l`, `-g`, `-x` and `-k` show of a NIC, what it can do with XDP, and what to do about
//! what is missing. Starts nothing and needs no privilege.

use std::fmt::Write as _;

use bywash_afxdp::{Missing, Nic, Setting, TO_ATTACH, interfaces};
use serde::Serialize;

use crate::cli::NicArgs;
use crate::error::AppError;

/// Least ring size below which bursts at line rate are lost while a thread sleeps: 512 full frames are 0.6 ms at 10 Gbit/s.
const RING_ADVISED: u32 = 512;

/// A NIC as shown; its JSON form is for scripts, so fields are only added.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the interface.
    pub interface: String,
    /// Driver, such as `ixgbe`.
    pub driver: String,
    /// The driver's version.
    pub driver_version: String,
    /// The NIC's firmware; empty when it has none.
    pub firmware: String,
    /// Place on the bus, such as `0000:01:00.0`; empty for virtual ones.
    pub bus: String,
    /// Ethernet address.
    pub mac: String,
    /// Largest IP packet in bytes.
    pub mtu: usize,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// Memory node; absent where there is one only.
    pub numa_node: Option<u32>,
    /// Receive queues in use: `--queues` takes numbers below it.
    pub rx_queues: u32,
    /// Transmit queues in use.
    pub tx_queues: u32,
    /// What `ethtool -L` may set; absent when the driver does not say.
    pub channels: Option<ChannelsReport>,
    /// What `ethtool -G` may set; absent when the driver does not say.
    pub rings: Option<RingsReport>,
    /// Queues that the RSS hash spreads over; 0 when the driver has no table.
    pub rss_queues: u32,
    /// What the NIC does for the kernel's stack.
    pub offloads: Vec<OffloadReport>,
    /// XDP features by the kernel's names; absent when the kernel does not say or the driver has none.
    pub xdp_features: Option<Vec<&'static str>>,
    /// Modes of `--mode` that can be expected to work, fastest first.
    pub modes: Vec<&'static str>,
    /// The XDP program attached.
    pub attached: Option<AttachedReport>,
    /// Capabilities that this process lacks for AF_XDP.
    pub lacking: Vec<&'static str>,
    /// What to do about what is missing.
    pub advice: Vec<String>,
}

/// A number that can be changed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SettingReport {
    /// Now.
    pub current: u32,
    /// At most.
    pub max: u32,
}

/// Queues by kind.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ChannelsReport {
    /// Receive only.
    pub rx: SettingReport,
    /// Transmit only.
    pub tx: SettingReport,
    /// Both.
    pub combined: SettingReport,
}

/// Ring sizes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RingsReport {
    /// Receive.
    pub rx: SettingReport,
    /// Transmit.
    pub tx: SettingReport,
}

/// One offload.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OffloadReport {
    /// `ethtool -K`'s name.
    pub name: &'static str,
    /// On or off.
    pub on: bool,
}

/// An attached program.
#[derive(Clone, Debug, Serialize)]
pub struct AttachedReport {
    /// Its id, as `bpftool prog` shows it.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `native`, `generic`, ...
    pub mode: String,
}

/// Runs `bywash nic`.
///
/// # Errors
/// No such interface, or the kernel does not tell its basic facts.
pub fn run(args: &NicArgs) -> Result<(), AppError> {
    let text = match (&args.interface, args.json) {
        (Some(name), false) => render(&Report::of(&Nic::open(name)?)),
        (Some(name), true) => json(&Report::of(&Nic::open(name)?)),
        (None, wants_json) => {
            let reports: Vec<Report> = interfaces()
                .iter()
                .filter_map(|name| Nic::open(name).ok())
                .map(|nic| Report::of(&nic))
                .collect();
            if wants_json { json(&reports) } else { overview(&reports) }
        }
    };
    print!("{text}");
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain data always serialises") + "\n"
}

impl Report {
    /// What there is to say of `nic`.
    #[must_use]
    pub fn of(nic: &Nic) -> Self {
        let setting = |setting: Setting| SettingReport { current: setting.current, max: setting.max };
        let mut rss = nic.rss.clone();
        rss.sort_unstable();
        rss.dedup();
        let offloads = &nic.offloads;
        let offloads = [
            ("rx-checksum", offloads.rx_checksum),
            ("tx-checksum", offloads.tx_checksum),
            ("tso", offloads.tso),
            ("gso", offloads.gso),
            ("gro", offloads.gro),
            ("lro", offloads.lro),
            ("rx-vlan", offloads.rx_vlan),
            ("tx-vlan", offloads.tx_vlan),
            ("ntuple", offloads.ntuple),
            ("rx-hash", offloads.rx_hash),
        ];
        let mut modes = Vec::new();
        if let Some(features) = nic.xdp_features {
            if features.zero_copy() {
                modes.push("zero-copy");
            }
            if features.native() && features.redirect() {
                modes.push("copy");
            }
        }
        modes.push("generic");
        let mut report = Self {
            interface: nic.name.clone(),
            driver: nic.driver.name.clone(),
            driver_version: nic.driver.version.clone(),
            firmware: nic.driver.firmware.clone(),
            bus: nic.driver.bus.clone(),
            mac: nic.mac.0.map(|byte| format!("{byte:02x}")).join(":"),
            mtu: nic.mtu,
            up: nic.is_up,
            carrier: nic.has_carrier,
            numa_node: nic.numa_node,
            rx_queues: nic.rx_queues,
            tx_queues: nic.tx_queues,
            channels: nic.channels.map(|channels| ChannelsReport {
                rx: setting(channels.rx),
                tx: setting(channels.tx),
                combined: setting(channels.combined),
            }),
            rings: nic.rings.map(|rings| RingsReport { rx: setting(rings.rx), tx: setting(rings.tx) }),
            rss_queues: rss.len() as u32,
            offloads: offloads
                .into_iter()
                .filter_map(|(name, on)| Some(OffloadReport { name, on: on? }))
                .collect(),
            xdp_features: nic.xdp_features.map(|features| features.names().collect()),
            modes,
            attached: nic.attached.as_ref().map(|program| AttachedReport {
                id: program.id,
                name: program.name.clone(),
                mode: program.mode.to_string(),
            }),
            lacking: lacking(),
            advice: Vec::new(),
        };
        report.advice = report.advise();
        report
    }

    fn offload(&self, name: &str) -> Option<bool> {
        self.offloads.iter().find(|offload| offload.name == name).map(|offload| offload.on)
    }

    /// What stands in the way, most important first.
    fn advise(&self) -> Vec<String> {
        let name = &self.interface;
        let mut advice = Vec::new();
        if !self.lacking.is_empty() {
            let lacking = self.lacking.join(", ");
            advice.push(format!("run as root, or give the program {lacking} (setcap): AF_XDP needs it"));
        }
        if !self.up {
            advice.push(format!("set it up: ip link set {name} up"));
        } else if !self.carrier {
            advice.push("no carrier: check the cable, or set the other end up".into());
        }
        match &self.attached {
            Some(program) if program.name != bywash_program_name() => advice.push(format!(
                "another XDP program ({:?}, id {}) is attached: end its owner, or ip link set dev {name} xdp off",
                program.name, program.id
            )),
            _ => {}
        }
        self.advise_modes(&mut advice);
        self.advise_queues(&mut advice);
        if self.offload("lro") == Some(true) {
            advice.push(format!(
                "large receive offload does not go with XDP on many drivers: ethtool -K {name} lro off"
            ));
        }
        // Outside the frame the tag is lost to XDP, and with it the difference between a VLAN's packets and untagged ones.
        if self.offload("rx-vlan") == Some(true) {
            let command = match self.driver.as_str() {
                // What veth passes on beside the frame is what its other end did not put into it.
                "veth" => format!("ethtool -K PEER txvlan off ({name}'s other end)"),
                _ => format!("ethtool -K {name} rxvlan off"),
            };
            advice.push(format!(
                "VLAN tags are taken off, so that tagged frames look untagged to XDP: {command}"
            ));
        }
        advice
    }

    fn advise_modes(&self, advice: &mut Vec<String>) {
        let name = &self.interface;
        if !self.modes.contains(&"copy") && !self.modes.contains(&"zero-copy") {
            advice.push(if name == "lo" {
                "the loopback interface has generic mode only, and its packets carry partial checksums: use a veth pair".into()
            } else {
                "the driver says nothing of native XDP (or the kernel is older than 6.3): expect generic mode, which is slow".into()
            });
        } else if !self.modes.contains(&"zero-copy") && self.driver == "veth" {
            advice.push(format!(
                "veth copies each packet; and let the peer cut its packets itself where receiving fails: ethtool -K PEER tso off \
                 gso off ({name}'s other end)"
            ));
        }
        let features = self.xdp_features.as_deref().unwrap_or_default();
        if self.mtu > 3500 && !features.contains(&"rx-sg") {
            advice.push(format!(
                "an MTU of {} needs packets in several frames, which the driver cannot: ip link set {name} mtu 1500",
                self.mtu
            ));
        }
    }

    fn advise_queues(&self, advice: &mut Vec<String>) {
        let name = &self.interface;
        if let Some(rings) = self.rings
            && rings.rx.current < RING_ADVISED
            && rings.rx.max > rings.rx.current
        {
            let size = rings.rx.max.min(4096);
            advice.push(format!(
                "a receive ring of {} loses bursts: ethtool -G {name} rx {size}",
                rings.rx.current
            ));
        }
        if let Some(channels) = self.channels {
            let (queues, max) = (channels.combined.current, channels.combined.max);
            let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
            if max > queues && queues < cpus {
                let wanted = max.min(cpus);
                advice.push(format!(
                    "{queues} of {max} queues are in use: ethtool -L {name} combined {wanted} spreads over more CPUs"
                ));
            }
        }
        if self.rss_queues > 0 && self.rss_queues < self.rx_queues {
            advice.push(format!(
                "RSS spreads over {} of {} queues only: ethtool -X {name} equal {}",
                self.rss_queues, self.rx_queues, self.rx_queues
            ));
        }
    }
}

/// The name of the steering program, as the kernel shows it (15 characters at most).
fn bywash_program_name() -> &'static str {
    "bywash_steer"
}

/// The capabilities that AF_XDP with a steering program needs and this process lacks.
fn lacking() -> Vec<&'static str> {
    Missing::of(TO_ATTACH).lacking().iter().map(|capability| capability.name).collect()
}

/// One line a NIC.
fn overview(reports: &[Report]) -> String {
    let mut lines =
        vec![["NAME", "DRIVER", "STATE", "MTU", "QUEUES", "BEST MODE", "XDP PROGRAM"].map(str::to_owned)];
    for report in reports {
        let program = report
            .attached
            .as_ref()
            .map_or("-".into(), |program| format!("{} ({})", program.name, program.mode));
        lines.push([
            report.interface.clone(),
            or_dash(&report.driver),
            state(report).into(),
            report.mtu.to_string(),
            report.rx_queues.to_string(),
            report.modes.first().copied().unwrap_or("-").into(),
            program,
        ]);
    }
    let widths: Vec<usize> =
        (0..7).map(|column| lines.iter().map(|line| line[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

fn state(report: &Report) -> &'static str {
    match (report.up, report.carrier) {
        (false, _) => "down",
        (true, false) => "no carrier",
        (true, true) => "up",
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// Everything about one NIC.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "{what:<14}{value}");
    };
    line("interface", format!("{} ({})", report.interface, state(report)));
    line("driver", format!("{} {}", report.driver, report.driver_version).trim().into());
    for (what, value) in [("firmware", &report.firmware), ("bus", &report.bus)] {
        if !value.is_empty() {
            line(what, value.clone());
        }
    }
    line("address", report.mac.clone());
    line("mtu", report.mtu.to_string());
    if let Some(node) = report.numa_node {
        line("numa node", node.to_string());
    }
    line("queues", queues(report));
    if let Some(rings) = report.rings {
        line("rings", format!("receive {}, transmit {}", of_max(rings.rx), of_max(rings.tx)));
    }
    let offloads: Vec<String> = report
        .offloads
        .iter()
        .map(|offload| format!("{} {}", offload.name, if offload.on { "on" } else { "off" }))
        .collect();
    line("offloads", or_dash(&offloads.join(", ")));
    let features =
        report.xdp_features.as_ref().map_or("the kernel does not say".into(), |names| names.join(", "));
    line("xdp features", features);
    line("modes", report.modes.join(", "));
    let attached = report.attached.as_ref();
    line("xdp program", attached.map_or("none".into(), |p| format!("{:?}, id {}, {}", p.name, p.id, p.mode)));
    if report.advice.is_empty() {
        text += "\nNothing is missing.\n";
    } else {
        text += "\nWhat to do:\n";
        for advice in &report.advice {
            let _ = writeln!(text, "  - {advice}");
        }
    }
    text
}

fn queues(report: &Report) -> String {
    let mut value = format!("{} receive, {} transmit", report.rx_queues, report.tx_queues);
    if let Some(channels) = report.channels {
        for (what, setting) in [("combined", channels.combined), ("rx", channels.rx), ("tx", channels.tx)] {
            if setting.max > 0 {
                let _ = write!(value, "; {what} {}", of_max(setting));
            }
        }
    }
    if report.rss_queues > 0 {
        let _ = write!(value, "; RSS over {}", report.rss_queues);
    }
    value
}

fn of_max(setting: SettingReport) -> String {
    format!("{} of {}", setting.current, setting.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let setting = |current, max| SettingReport { current, max };
        Report {
            interface: "eth7".into(),
            driver: "ixgbe".into(),
            driver_version: "6.1".into(),
            firmware: String::new(),
            bus: "0000:01:00.0".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            up: true,
            carrier: true,
            numa_node: Some(1),
            rx_queues: 1,
            tx_queues: 1,
            channels: Some(ChannelsReport { rx: setting(0, 0), tx: setting(0, 0), combined: setting(1, 1) }),
            rings: Some(RingsReport { rx: setting(1024, 4096), tx: setting(1024, 4096) }),
            rss_queues: 1,
            offloads: vec![OffloadReport { name: "lro", on: false }],
            xdp_features: Some(vec!["basic", "redirect", "xsk-zerocopy", "rx-sg"]),
            modes: vec!["zero-copy", "copy", "generic"],
            attached: None,
            lacking: Vec::new(),
            advice: Vec::new(),
        }
    }

    #[test]
    fn a_nic_that_lacks_nothing_gets_no_advice() {
        assert_eq!(report().advise(), Vec::<String>::new());
        let text = render(&report());
        assert!(text.contains("eth7 (up)") && text.contains("Nothing is missing"), "{text}");
        assert!(
            text.contains("rings         receive 1024 of 4096") && text.contains("combined 1 of 1"),
            "{text}"
        );
    }

    #[test]
    fn each_lack_has_its_command() {
        let program = AttachedReport { id: 5, name: "other".into(), mode: "native".into() };
        let setting = |current, max| SettingReport { current, max };
        let rings = RingsReport { rx: setting(256, 8192), tx: setting(256, 8192) };
        let on = |name| vec![OffloadReport { name, on: true }];
        for (report, command) in [
            (Report { up: false, ..report() }, "ip link set eth7 up"),
            (Report { carrier: false, ..report() }, "no carrier"),
            (Report { lacking: vec!["CAP_NET_ADMIN"], ..report() }, "CAP_NET_ADMIN"),
            (Report { attached: Some(program), ..report() }, "ip link set dev eth7 xdp off"),
            (Report { modes: vec!["generic"], ..report() }, "generic mode"),
            (Report { mtu: 9000, xdp_features: Some(vec!["basic"]), ..report() }, "mtu 1500"),
            (Report { rings: Some(rings), ..report() }, "ethtool -G eth7 rx 4096"),
            (Report { rx_queues: 4, ..report() }, "ethtool -X eth7 equal 4"),
            (Report { offloads: on("lro"), ..report() }, "ethtool -K eth7 lro off"),
            (Report { offloads: on("rx-vlan"), ..report() }, "ethtool -K eth7 rxvlan off"),
        ] {
            let advice = report.advise();
            assert!(advice.len() == 1 && advice[0].contains(command), "{command}: {advice:?}");
        }
    }

    #[test]
    fn our_own_program_is_no_obstacle() {
        let name = bywash_program_name().to_owned();
        let attached = Some(AttachedReport { id: 5, name, mode: "native".into() });
        assert!(Report { attached, ..report() }.advise().is_empty());
    }

    #[test]
    fn the_overview_lines_up() {
        let text = overview(&[report(), Report { interface: "a-longer-name".into(), up: false, ..report() }]);
        let columns: Vec<_> = text.lines().map(|line| line.find("ixgbe").or(line.find("DRIVER"))).collect();
        assert!(columns.iter().all(|&column| column == columns[0]), "{text}");
        assert!(text.contains("down"));
    }

    #[test]
    fn the_loopback_interface_can_be_shown() {
        let report = Report::of(&Nic::open("lo").unwrap());
        assert!(render(&report).contains("lo (up)") || !report.up);
        let json: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
        assert_eq!(json["interface"], "lo");
    }
}
