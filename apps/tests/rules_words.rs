//! Rules as users have them: what iptables takes is taken, means the same when it is read back from iptables-save, and is
//! printed as iptables-save prints it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use bywash::flow::filter::{RuleSet, Table};
use bywash_afxdp::require_root;
use bywash_afxdp::testing::Namespace;

const TAKEN: &str = include_str!("rules_words/taken.txt");
const FILES: [(&str, &str); 4] = [
    ("a home router's", include_str!("rules_words/router.rules")),
    ("a Docker host's", include_str!("rules_words/docker.rules")),
    ("a front end's", include_str!("rules_words/frontend.rules")),
    ("a router's with zones", include_str!("rules_words/zones.rules")),
];
/// Chains to which lines of `taken.txt` lead.
const CHAINS: [&str; 4] = ["own", "DOCKER", "DOCKER-USER", "KUBE"];
/// The iptables whose print is compared letter for letter; others differ in some words.
const ITS_VERSION: &str = "v1.8.9 ";

fn parsed(text: &str) -> RuleSet {
    RuleSet::parse(text, "rules").unwrap_or_else(|error| panic!("{error}"))
}

/// A table's rules as they are printed, without `-4` and `-6`, which each of Linux's programs leaves out.
fn printed(set: &RuleSet, table: Table) -> Vec<String> {
    let text = set.to_string();
    let section = text.lines().skip_while(|line| *line != format!("*{}", table.name()));
    let rules = section.take_while(|line| *line != "COMMIT").filter(|line| line.starts_with("-A "));
    rules.map(|rule| rule.replacen(" -4", "", 1).replacen(" -6", "", 1)).collect()
}

/// A text for one IP version: each rule says so.
fn of_version(text: &str, version: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let begins = line.find("-A ").map(|at| at + 3).filter(|at| line[..*at].starts_with(['-', '[']));
        match begins.and_then(|at| line[at..].find(' ').map(|len| at + len)) {
            Some(at) => writeln!(all, "{} -{version}{}", &line[..at], &line[at..]),
            None => writeln!(all, "{line}"),
        }
        .expect("write to a string");
        all
    })
}

/// What iptables-save says when `text` was restored.
fn through_linux(text: &str, version: &str) -> String {
    let namespace = Namespace::new();
    let program = if version == "4" { "iptables" } else { "ip6tables" };
    let mut child = namespace
        .command(format!("{program}-restore"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}-restore: {error}"));
    child.stdin.take().expect("piped above").write_all(text.as_bytes()).expect("write the rules");
    let output = child.wait_with_output().expect("wait for it");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    let saved = namespace.command(format!("{program}-save")).output().expect("run iptables-save");
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    String::from_utf8(saved.stdout).expect("UTF-8")
}

fn is_its_version() -> bool {
    let output = std::process::Command::new("iptables").arg("-V").output().expect("run iptables");
    String::from_utf8_lossy(&output.stdout).contains(ITS_VERSION)
}

/// Reads `text`, and what Linux makes of it, and compares.
fn compare(name: &str, text: &str, version: &str) {
    let ours = parsed(&of_version(text, version));
    let saved = through_linux(text, version);
    let back = parsed(&of_version(&saved, version));
    for table in Table::ALL {
        let (ours, back) = (printed(&ours, table), printed(&back, table));
        for (at, (ours, back)) in ours.iter().zip(&back).enumerate() {
            assert_eq!(ours, back, "{name}, {table:?}, rule {at}: what Linux printed is not what was read");
        }
        assert_eq!(ours.len(), back.len(), "{name}, {table:?}");
    }
    for table in Table::ALL.into_iter().filter(|_| is_its_version()) {
        let section = saved.lines().skip_while(|line| line.strip_prefix('*') != Some(table.name()));
        let section = section.take_while(|line| *line != "COMMIT");
        let of_linux: Vec<_> = section.filter(|line| line.starts_with("-A ")).collect();
        assert_eq!(printed(&ours, table), of_linux, "{name}: {table:?}");
    }
}

#[test]
fn lines_that_linux_takes_mean_and_look_the_same() {
    require_root!();
    let lines = TAKEN.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<_> = lines.map(|line| line.splitn(3, ' ').collect::<Vec<_>>()).collect();
    for version in ["4", "6"] {
        let mut text = String::new();
        for table in Table::ALL {
            let _ = writeln!(text, "*{}", table.name());
            CHAINS.iter().for_each(|chain| text += &format!(":{chain} - [0:0]\n"));
            let its = lines.iter().filter(|line| line[0] == version && line[1] == table.name());
            its.for_each(|line| text += &format!("{}\n", line[2]));
            text += "COMMIT\n";
        }
        compare(&format!("taken.txt, IPv{version}"), &text, version);
    }
}

#[test]
fn files_that_users_have_mean_and_look_the_same() {
    require_root!();
    for (name, text) in FILES {
        compare(name, text, "4");
        // As a program on another system may have written it.
        let theirs = text.replace('\n', "\r\n");
        assert_eq!(parsed(&theirs), parsed(text), "{name}, with CRLF");
    }
}

#[test]
fn what_is_not_here_is_refused_with_what_to_use_instead() {
    for (rule, says) in [
        ("-A INPUT -m conntrack --ctstatus ASSURED -j ACCEPT", "first packet"),
        ("-A INPUT -m conntrack --ctdir ORIGINAL -j ACCEPT", "first packet"),
        ("-A INPUT -m conntrack --ctexpire 10:20 -j ACCEPT", "first packet"),
        ("-A INPUT -p tcp --tcp-option 2 -j DROP", "not looked at"),
        ("-A INPUT -s 10.1.2.3/255.0.255.0 -j DROP", "must come first"),
        (
            "-A INPUT -m hashlimit --hashlimit-above 512kb/s --hashlimit-name b -j DROP",
            "bytes are not counted",
        ),
        ("-A FORWARD -p tcp --syn -m tcpmss --mss 1400:1536 -j TCPMSS --clamp-mss-to-pmtu", "leave it out"),
        ("-t mangle -A PREROUTING -j DSCP --set-dscp 10", "Diffserv"),
        ("-t mangle -A PREROUTING -j TTL --ttl-set 64", "one hop"),
        ("-t mangle -A POSTROUTING -p udp --dport bootpc -j CHECKSUM --checksum-fill", "leave the rule out"),
        ("-t mangle -A PREROUTING -p tcp -j TPROXY --on-port 1", "REDIRECT"),
        ("-A INPUT -j NFLOG --nflog-group 5", "use LOG"),
        ("-A INPUT -j NFQUEUE --queue-num 0", "no program"),
        ("-t raw -A PREROUTING -p tcp --dport 21 -j CT --helper ftp", "rules of their own"),
        ("-t raw -A PREROUTING -m rpfilter --invert -j DROP", "reverse-path"),
        ("-A INPUT -m addrtype --src-type LOCAL --limit-iface-in -j ACCEPT", "use -i"),
        ("-A INPUT -f -j DROP", "leave the rule out"),
        ("-A INPUT -m ttl --ttl-lt 5 -j ACCEPT", "hop limits"),
        ("-6 -A INPUT -p icmpv6 --icmpv6-type 134 -m hl --hl-eq 255 -j ACCEPT", "never filtered"),
        ("-A INPUT -m dscp --dscp-class EF -j ACCEPT", "Diffserv"),
        ("-A INPUT -m length --length 100 -j ACCEPT", "first packet"),
        ("-A INPUT -m mac --mac-source 00:11:22:aa:bb:cc -j ACCEPT", "use -i and -s"),
        ("-A INPUT -m time --timestart 08:00 -j ACCEPT", "SIGHUP"),
        ("-A INPUT -m recent --set --name SSH", "-m hashlimit"),
        ("-A OUTPUT -m owner --uid-owner 0 -j ACCEPT", "other programs"),
        ("-A INPUT -m statistic --mode random --probability 0.5 -j ACCEPT", "--to-destination"),
        ("-A INPUT -m pkttype --pkt-type broadcast -j DROP", "-m addrtype"),
        ("-A INPUT -m string --string x --algo bm -j DROP", "payload"),
        ("-A INPUT -m physdev --physdev-is-bridged -j ACCEPT", "use -i and -o"),
        ("-A INPUT -m policy --dir in --pol ipsec -j ACCEPT", "IPsec"),
        ("-6 -A INPUT -m rt --rt-type 0 -j DROP", "extension headers"),
        ("create s hash:ip timeout 60", "leave `timeout` out"),
        ("create s hash:ip,port", "hash:ip or hash:net"),
    ] {
        let error = RuleSet::parse(rule, "rules").expect_err(rule).to_string();
        assert!(error.starts_with("rules:1:") && error.contains(says), "{rule}\n  {error}");
    }
}
