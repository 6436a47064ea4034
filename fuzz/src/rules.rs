//! Any text as rules: it is refused with a place inside it, or understood; and what is understood can be printed, read again,
//! and walked by a packet.

use core::net::SocketAddr;

use bywash::flow::FlowTuple;
use bywash::flow::conntrack::CtState;
use bywash::flow::filter::{Facts, Hook, RuleSet, Table, Walker};
use bywash::flow::view::{PacketView, Transport};
use bywash::time::Instant;

/// Runs one input: a text of rules.
///
/// # Panics
/// When the rules break a promise.
pub fn run(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let set = match RuleSet::parse(text, "fuzz") {
        Ok(set) => set,
        Err(error) => {
            let lines = text.lines().count().max(1);
            assert!((1..=lines).contains(&(error.line as usize)), "{error} of {lines} lines");
            assert!(error.column >= 1 && !error.reason.is_empty(), "{error}");
            return;
        }
    };
    let printed = set.to_string();
    let again = RuleSet::parse(&printed, "printed").unwrap_or_else(|error| panic!("{error}\n{printed}"));
    assert_eq!(again.to_string(), printed);
    let mut walker = Walker::new(&set, 3);
    for (src, dst) in [("192.0.2.1:1000", "198.51.100.1:80"), ("[2001:db8::1]:1000", "[2001:db8::2]:53")] {
        let (src, dst): (SocketAddr, SocketAddr) =
            (src.parse().expect("an end"), dst.parse().expect("an end"));
        let tuple = FlowTuple::new(src, dst, 17);
        let view = PacketView { tuple, len: 60, packets: 1, hash: 0, transport: Transport::Ports };
        for table in Table::ALL {
            for hook in Hook::ALL {
                let mut facts = Facts {
                    view: &view,
                    in_interface: Some("eth0"),
                    out_interface: Some("eth1"),
                    state: CtState::New,
                    snat: false,
                    dnat: true,
                    mark: 1,
                    conn_mark: 2,
                    untracked: false,
                    mss: None,
                    flow: Some((&tuple, &tuple)),
                    own: &[],
                    alive: &mut |_| true,
                };
                let _ = walker.walk(Instant::from_millis(5), table, hook, &mut facts);
            }
        }
    }
}

/// Names and inputs for `rules`.
#[must_use]
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    [
        ("ssh", "-A INPUT -p tcp --dport 22 -m limit --limit 3/second -j ACCEPT\n"),
        ("dnat", "-t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 192.168.1.100:80\n"),
        ("masquerade", "iptables -t nat -A POSTROUTING -o wan -j MASQUERADE\n"),
        ("states", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-P INPUT DROP\n"),
        ("section", "*filter\n:INPUT DROP [0:0]\n:own - [0:0]\n-A INPUT -j own\n-A own -g own2\n:own2 - [0:0]\nCOMMIT\n"),
        ("multiport", "-A INPUT -p udp -m multiport ! --dports 1:5,9 -j REJECT --reject-with icmp6-no-route\n"),
        ("set", "create x hash:net\nadd x 10.0.0.0/8\nadd x ::/0\n-A INPUT -m set ! --match-set x src -j DROP\n"),
        ("hashlimit", "-A INPUT -m hashlimit --hashlimit-above 5/min --hashlimit-mode srcip,dstport --hashlimit-name h -j DROP\n"),
        ("connlimit", "-A INPUT -p tcp --syn -m connlimit --connlimit-above 3 --connlimit-mask 24 -j DROP\n"),
        ("marks", "-A INPUT -j MARK --set-mark 0x1/0x3\n-A INPUT -m mark ! --mark 1 -j CONNMARK --save-mark\n"),
        ("log", "-A INPUT -m comment --comment \"a \\\"b\\\"\" -j LOG --log-prefix 'x y ' --log-level debug\n"),
        ("ranges", "-t nat -A POSTROUTING -p udp -j SNAT --to-source [::1-::9]:5-9 --random --persistent\n"),
        ("icmp", "-A INPUT -p icmp --icmp-type 3/1 -j ACCEPT\n-6 -A INPUT -p icmpv6 --icmpv6-type echo-request -j DROP\n"),
        ("raw", "-t raw -A PREROUTING -i eth+ -j CT --notrack\n-t raw -A OUTPUT -p 47 -j NOTRACK\n"),
        ("wrong", "-A INPUT -p tcp --dport 99999 -j\n"),
    ]
    .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
    .to_vec()
}
