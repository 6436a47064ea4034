//! dnsmasq as a DHCP and DNS server on the peer's interface of a veth pair.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Child, Stdio};
use std::time::Duration;

use bywash_afxdp::testing::VethPair;

use super::{PEER4, wait_until};

/// How long an exchange of DHCP messages may take on a busy machine, a lost one included.
pub const LEASE_LIMIT: Duration = Duration::from_secs(30);

/// A DHCP and DNS server on the peer's interface.
pub struct Dnsmasq {
    child: Child,
    directory: tempfile::TempDir,
}

impl Dnsmasq {
    /// Lends the addresses from `first` to `last`, asks for a renewal every three seconds (its leases are never shorter
    /// than two minutes), and knows `files.test`. It has forgotten all former leases.
    pub fn start(pair: &VethPair, first: &str, last: &str) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let log = File::create(directory.path().join("log")).expect("make a log");
        let mut command = pair.peer.command("dnsmasq");
        command.args(["--conf-file=/dev/null", "--no-daemon", "--user=root", "--pid-file", "--no-hosts"]);
        command.args(["--no-resolv", "--bind-interfaces", "--no-ping", "--log-dhcp", "--dhcp-authoritative"]);
        command.arg(format!("--interface={}", pair.peer_interface));
        command.arg(format!("--dhcp-range={first},{last},255.255.255.0,2m"));
        command.args(["--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100"]);
        command.arg(format!("--host-record=files.test,{PEER4}"));
        command.arg(format!("--dhcp-leasefile={}", directory.path().join("leases").display()));
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("start dnsmasq");
        let mut this = Self { child, directory };
        wait_until(LEASE_LIMIT, "dnsmasq serves", || {
            let ended = this.child.try_wait().expect("wait for dnsmasq");
            assert!(ended.is_none(), "dnsmasq ended at once: {}", this.log());
            this.log().contains("DHCP, IP range")
        });
        this
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// How often it has confirmed the lease of `address`.
    pub fn confirmed(&self, address: Ipv4Addr) -> usize {
        let of_address = format!(" {address} ");
        self.log().lines().filter(|line| line.contains("DHCPACK") && line.contains(&of_address)).count()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- dnsmasq's log:\n{}", self.log());
        }
    }
}
