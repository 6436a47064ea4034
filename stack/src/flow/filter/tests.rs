use proptest::prelude::*;

use super::*;
use crate::flow::conntrack::CtState;
use crate::flow::testing::{syn, udp};
use crate::flow::view::PacketView;
use crate::time::{Duration, Instant};

fn parsed(text: &str) -> RuleSet {
    RuleSet::parse(text, "rules").unwrap_or_else(|error| panic!("{error}"))
}

fn refused(text: &str) -> String {
    RuleSet::parse(text, "rules").expect_err(text).to_string()
}

struct Asked {
    verdict: Verdict,
    mark: u32,
    conn_mark: u32,
    untracked: bool,
    mss: Option<TcpMss>,
}

fn ask_as(
    walker: &mut Walker,
    table: Table,
    hook: Hook,
    view: &PacketView,
    state: CtState,
    seconds: u64,
) -> Asked {
    let own = ["192.0.2.1/24", "2001:db8::1/64"].map(|cidr| cidr.parse().unwrap());
    let mut facts = Facts {
        view,
        in_interface: matches!(hook, Hook::Prerouting | Hook::Input | Hook::Forward).then_some("lan0"),
        out_interface: matches!(hook, Hook::Forward | Hook::Output | Hook::Postrouting).then_some("wan"),
        state,
        snat: false,
        dnat: false,
        mark: 0,
        conn_mark: 0,
        untracked: false,
        mss: None,
        flow: None,
        own: &own,
        alive: &mut |_| true,
    };
    let now = Instant::ZERO + Duration::from_secs(seconds);
    let verdict = walker.walk(now, table, hook, &mut facts);
    let Facts { mark, conn_mark, untracked, mss, .. } = facts;
    Asked { verdict, mark, conn_mark, untracked, mss }
}

fn input(text: &str, view: &PacketView) -> Verdict {
    let mut walker = Walker::new(&parsed(text), 1);
    ask_as(&mut walker, Table::Filter, Hook::Input, view, CtState::New, 0).verdict
}

#[test]
fn the_lines_that_users_know_work() {
    let set = parsed(
        "-A INPUT -p tcp --dport 22 -m limit --limit 3/second -j ACCEPT\n\
         -t nat -A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 192.168.1.100:80\n\
         iptables -t nat -A POSTROUTING -o wan -j MASQUERADE\n",
    );
    assert_eq!(set.chains(Table::Filter)[0].rules.len(), 1);
    let mut walker = Walker::new(&set, 1);
    let view = syn("203.0.113.9:4000", "192.0.2.1:80");
    let Verdict::Translate(Target::Dnat(to)) =
        ask_as(&mut walker, Table::Nat, Hook::Prerouting, &view, CtState::New, 0).verdict
    else {
        panic!()
    };
    assert_eq!(to[0].addresses, Some(("192.168.1.100".parse().unwrap(), "192.168.1.100".parse().unwrap())));
    assert_eq!(to[0].ports, Some(80..=80));
    let masquerade = ask_as(&mut walker, Table::Nat, Hook::Postrouting, &view, CtState::New, 0).verdict;
    assert_eq!(masquerade, Verdict::Translate(Target::Masquerade { ports: None, random: None }));
}

#[test]
fn what_is_printed_means_the_same() {
    let text = "\
create blocked hash:net
add blocked 203.0.113.0/24
add blocked 2001:db8::/32
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -i wan -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.168.1.10:80 --to-destination 192.168.1.11:80 --persistent
-A PREROUTING -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 8081
-A PREROUTING -d 198.51.100.0/24 -j NETMAP --to 10.1.1.0/24
-A POSTROUTING -s 192.168.1.0/24 -o wan -j SNAT --to-source 192.0.2.1-192.0.2.4 --random
-A POSTROUTING -o ppp+ -p udp -j MASQUERADE --to-ports 1024-2047
COMMIT
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ssh - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -s 10.0.0.0/8 ! -i wan -p tcp -m multiport --dports 80,443,8000:8100 -j ACCEPT
-A INPUT -m set --match-set blocked src -j DROP
-A INPUT -p tcp -m tcp --dport 22 -m comment --comment \"ssh from anywhere\" -j ssh
-A INPUT -p icmp -m icmp --icmp-type 8 -m limit --limit 10/sec --limit-burst 20 -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m connlimit --connlimit-above 20 --connlimit-mask 24 --connlimit-saddr -j REJECT --reject-with tcp-reset
-A INPUT -m mark ! --mark 0x1/0xff -j LOG --log-prefix \"no mark: \" --log-level 6
-A INPUT -4 -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -j MARK --set-xmark 0x10/0xf0
-A FORWARD -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A ssh -m hashlimit --hashlimit-upto 5/min --hashlimit-burst 5 --hashlimit-mode srcip --hashlimit-name ssh --hashlimit-htable-max 1000 --hashlimit-htable-expire 30000 --hashlimit-srcmask 24 -j ACCEPT
-A ssh -j RETURN
COMMIT
";
    assert_eq!(parsed(text).to_string(), text);
}

/// What is printed is read again: names stand without quotes, and protocol 0 is every one however it is written.
#[test]
fn names_and_numbers_can_be_printed() {
    for line in ["-N 'a b'", "-N \"a\u{7f}\"", "create 's t' hash:net", "-A INPUT -i 'a\tb' -j DROP"] {
        refused(line);
    }
    assert_eq!(parsed("-A INPUT -p 00 -j DROP").to_string(), parsed("-A INPUT -j DROP").to_string());
}

#[test]
fn a_wrong_line_is_refused_with_its_place_and_the_reason() {
    for (text, message) in [
        ("-A INPUT -p tcp --dport 99999 -j ACCEPT", "rules:1:25: `99999` is no port"),
        ("\n# x\n-A INPUT -j ACEPT", "rules:3:13: `ACEPT` is neither a target known here nor a chain"),
        ("-A INPUT --dport 22 -j ACCEPT", "rules:1:10: `--dport` needs a protocol with ports before it"),
        ("-A NOWHERE -j ACCEPT", "rules:1:4: there is no chain NOWHERE in the filter table"),
        ("-A PREROUTING -j ACCEPT", "rules:1:4: the filter table has no chain PREROUTING"),
        ("-A INPUT -s 10.0.0.0/33 -j DROP", "rules:1:13: `10.0.0.0/33` is no address or network"),
        ("-A INPUT -s example.org -j DROP", "names are not looked up"),
        ("-A INPUT -s 10.0.0.1 -d ::1 -j DROP", "rules:1:25: ::1 is of another IP version"),
        ("-A INPUT -m nonsense -j DROP", "rules:1:13: `nonsense` is no match known here"),
        ("-A INPUT -m conntrack --ctstate OLD -j DROP", "`OLD` is no state: INVALID, NEW"),
        ("-A INPUT -o wan -j DROP", "-o means nothing in INPUT"),
        ("-A OUTPUT -i wan -j DROP", "-i means nothing in OUTPUT"),
        ("-A INPUT -j SNAT --to-source 192.0.2.1", "SNAT belongs into the nat table"),
        (
            "-t nat -A PREROUTING -j SNAT --to-source 192.0.2.1",
            "SNAT is possible in POSTROUTING and INPUT only",
        ),
        ("-t nat -A PREROUTING -j DNAT --to-destination 10.0.0.1:80", "needs a protocol with ports"),
        ("-A INPUT -j REJECT --reject-with tcp-reset", "needs `-p tcp`"),
        ("-A INPUT -j LOG --log-prefix \"open", "rules:1:30: this quote is not closed"),
        ("-A INPUT ! -j DROP", "! cannot stand before `-j`"),
        ("-A INPUT -j DROP !", "nothing follows this !"),
        ("-A INPUT -p tcp -m limit --limit 0/second", "0 in a second is no rate"),
        ("*filter\n-A INPUT -j ACCEPT", "rules:2:1: `*filter` of line 1 is not ended by `COMMIT`"),
        ("*security\nCOMMIT", "rules:1:2: `security` is no table known here"),
        ("-N a\n-N b\n-A a -j b\n-A b -j a", "leads to itself: a -> b -> a"),
        ("-N a\n-N a", "chain a exists already"),
        ("-P INPUT REJECT", "`REJECT` is no policy"),
        ("-A INPUT -m set --match-set none src -j DROP", "there is no set none"),
        (
            "-t raw -A PREROUTING -m conntrack --ctstate NEW -j DROP",
            "means nothing in PREROUTING of the raw table",
        ),
        ("COMMIT", "`COMMIT` without a `*table`"),
        ("-D INPUT -j ACCEPT", "`-D` makes no sense in a file"),
        ("-N a\n-A INPUT -j a\n-X a", "rules:3:4: a has rules, or one leads there"),
        ("-X INPUT", "INPUT is built in"),
        ("-A INPUT -s 10.0.0.1 -s 10.0.0.2 -j DROP", "rules:1:22: `-s` is there twice"),
        ("-A INPUT -p tcp --dport 1 --dport 2 -j DROP", "an option of `-m tcp` is there twice"),
        ("-A INPUT ! -s 10.0.0.1,10.0.0.2 -j DROP", "rules:1:15: ! stands before one network only"),
        ("-A INPUT -m conntrack -j DROP", "rules:1:13: `-m conntrack` needs an option"),
        ("-A INPUT -m recent --set -j DROP", "rules:1:13: `-m recent` is not known here: use -m hashlimit"),
        ("-A INPUT -j NFLOG --nflog-group 1", "rules:1:13: `-j NFLOG` is not known here: use LOG"),
        ("-A INPUT -f -j DROP", "rules:1:10: `-f` is not known here: fragments are put together"),
        ("-A INPUT -m iprange --src-range 10.0.0.9-10.0.0.1 -j DROP", "`10.0.0.9-10.0.0.1` is no range"),
        ("-A INPUT -m addrtype --dst-type ANYCAST -j DROP", "`ANYCAST` is no type known here: UNICAST"),
        ("-t raw -A PREROUTING -m conntrack --ctorigdst 10.0.0.1 -j DROP", "means nothing in PREROUTING"),
        ("-t nat -A POSTROUTING -p tcp -j SNAT --to-source 10.0.0.1:1-9/1", "only DNAT shifts ports"),
        ("-A", "`-A` needs a chain"),
    ] {
        let error = refused(text);
        assert!(error.contains(message), "{text}\n  {error}\n  {message}");
    }
}

#[test]
fn rules_are_asked_in_order_until_one_decides() {
    let view = syn("10.0.0.9:1000", "192.0.2.1:22");
    assert_eq!(input("-A INPUT -p tcp --dport 22 -j DROP\n-A INPUT -j ACCEPT", &view), Verdict::Drop);
    assert_eq!(input("-A INPUT -p tcp --dport 23 -j DROP\n-A INPUT -j ACCEPT", &view), Verdict::Accept);
    assert_eq!(input("-P INPUT DROP", &view), Verdict::Drop);
    assert_eq!(input("-A INPUT -j DROP\n-I INPUT -p tcp -j ACCEPT", &view), Verdict::Accept);
    let reject = "-A INPUT -p tcp --syn -j REJECT --reject-with tcp-reset";
    assert_eq!(input(reject, &view), Verdict::Reject(RejectWith::TcpReset));
}

#[test]
fn conditions_hold_as_they_say() {
    let view = syn("10.0.0.9:1000", "192.0.2.1:443");
    for (conditions, holds) in [
        ("-s 10.0.0.0/8", true),
        ("! -s 10.0.0.0/8", false),
        ("-s 10.0.0.0/255.0.0.0", true),
        ("-d 192.0.2.1", true),
        ("-s 2001:db8::/32", false),
        ("-p udp", false),
        ("! -p udp", true),
        ("-p all", true),
        ("-i lan0", true),
        ("-i lan+", true),
        ("! -i lan+", false),
        ("-p tcp --sport 1000", true),
        ("-p tcp --sport 1001:", false),
        ("-p tcp ! --dport 443", false),
        ("-p tcp --dport https", true),
        ("-p tcp -m multiport --dports 80,400:500", true),
        ("-p tcp -m multiport --ports 1000", true),
        ("-p tcp --tcp-flags SYN,ACK SYN", true),
        ("-p tcp --tcp-flags SYN,ACK ACK", false),
        ("-p tcp ! --syn", false),
        ("-m conntrack --ctstate NEW", true),
        ("-m conntrack ! --ctstate NEW,RELATED", false),
        ("-m state --state ESTABLISHED", false),
        ("-m mark --mark 0", true),
        ("-m mark --mark 1", false),
        ("-m iprange --src-range 10.0.0.1-10.0.0.9", true),
        ("-m iprange --src-range 10.0.0.10-10.0.1.9", false),
        ("-m iprange ! --dst-range 192.0.2.0-192.0.2.1", false),
        ("-m iprange --src-range ::-ffff::", false),
        ("-m addrtype --dst-type LOCAL", true),
        ("-m addrtype --dst-type BROADCAST,MULTICAST", false),
        ("-m addrtype ! --src-type LOCAL --dst-type UNICAST,LOCAL", true),
        ("-m addrtype --src-type unicast", true),
        ("-m comment --comment x", true),
        ("-p tcp -m tcp", true),
        ("-p tcp -m multiport --dport 22,443", true),
        ("-m conntrack --ctstate new", true),
        ("-m conntrack ! --ctorigdst 192.0.2.2", false),
        ("-s 10/8", true),
        ("-s 0/0", true),
        ("-s 10.0.0.1,10.0.0.9", true),
        ("-i +", true),
        ("-4", true),
        ("-6", false),
    ] {
        let verdict = input(&format!("-A INPUT {conditions} -j DROP"), &view);
        assert_eq!(verdict == Verdict::Drop, holds, "{conditions}");
    }
}

#[test]
fn types_of_addresses_are_those_of_the_host() {
    let own = ["192.0.2.1/24", "10.0.0.2/31", "2001:db8::1/64"].map(|cidr| cidr.parse().unwrap());
    for (addr, wanted) in [
        ("192.0.2.1", "LOCAL"),
        ("127.0.0.9", "LOCAL"),
        ("2001:db8::1", "LOCAL"),
        ("::1", "LOCAL"),
        ("192.0.2.255", "BROADCAST"),
        ("255.255.255.255", "BROADCAST"),
        ("0.1.2.3", "BROADCAST"),
        ("10.0.0.3", "UNICAST"),
        ("192.0.2.2", "UNICAST"),
        ("192.0.3.255", "UNICAST"),
        ("224.0.0.1", "MULTICAST"),
        ("ff02::1", "MULTICAST"),
        ("2001:db8::ffff:ffff:ffff:ffff", "UNICAST"),
    ] {
        for name in TypeSet::NAMES {
            let mut types = TypeSet::default();
            assert!(types.add(name));
            assert_eq!(types.contains(addr.parse().unwrap(), &own), name == wanted, "{addr} {name}");
        }
    }
}

#[test]
fn a_flow_is_asked_for_its_tuples_in_both_directions() {
    let view = syn("10.0.0.9:1000", "192.168.1.5:8080");
    let original = syn("10.0.0.9:1000", "192.0.2.1:80").tuple;
    let reply = view.tuple.reversed();
    for (conditions, holds) in [
        ("--ctorigdst 192.0.2.1 --ctorigdstport 80", true),
        ("--ctorigdst 192.0.2.0/24 --ctorigdstport 81", false),
        ("--ctorigsrc 10.0.0.9 --ctorigsrcport 900:1000", true),
        ("--ctreplsrc 192.168.1.5 --ctreplsrcport 8080", true),
        ("--ctrepldst 10.0.0.9 --ctrepldstport 1000", true),
        ("! --ctreplsrc 192.168.1.5", false),
        ("--ctproto tcp", true),
        ("--ctproto 17", false),
    ] {
        let rules = parsed(&format!("-A FORWARD -m conntrack {conditions} -j DROP"));
        assert!(rules.needs_tracking());
        let mut walker = Walker::new(&rules, 1);
        for flow in [Some((&original, &reply)), None] {
            let mut facts = Facts {
                view: &view,
                in_interface: Some("wan"),
                out_interface: Some("lan0"),
                state: CtState::New,
                snat: false,
                dnat: true,
                mark: 0,
                conn_mark: 0,
                untracked: false,
                mss: None,
                flow,
                own: &[],
                alive: &mut |_| true,
            };
            let verdict = walker.walk(Instant::ZERO, Table::Filter, Hook::Forward, &mut facts);
            // What has no flow is not another flow.
            let wanted = flow.is_some() && holds;
            assert_eq!(verdict == Verdict::Drop, wanted, "{conditions} {flow:?}");
        }
    }
}

#[test]
fn a_list_of_addresses_is_a_rule_for_each_pair() {
    let set = parsed(
        "-A INPUT -s 10.0.0.1,10.0.0.2 -d 192.0.2.1,192.0.2.2 -m limit --limit 1/s --limit-burst 1 -j ACCEPT\n-P INPUT DROP",
    );
    let rules: Vec<String> = set.chains(Table::Filter)[0].rules.iter().map(ToString::to_string).collect();
    let pairs = [(1, 1), (1, 2), (2, 1), (2, 2)];
    let wanted = pairs.map(|(from, to)| {
        format!(" -s 10.0.0.{from}/32 -d 192.0.2.{to}/32 -m limit --limit 1/sec --limit-burst 1 -j ACCEPT")
    });
    assert_eq!(rules, wanted);
    // Each has a limit of its own.
    let mut walker = Walker::new(&set, 1);
    let mut passes = |from: u8| {
        let view = syn(&format!("10.0.0.{from}:1000"), "192.0.2.1:22");
        ask_as(&mut walker, Table::Filter, Hook::Input, &view, CtState::New, 0).verdict == Verdict::Accept
    };
    assert_eq!([passes(1), passes(1), passes(2), passes(2)], [true, false, true, false]);
    let inserted = parsed("-I INPUT -s 10.0.0.1,10.0.0.2 -j ACCEPT");
    assert!(inserted.chains(Table::Filter)[0].rules[0].to_string().starts_with(" -s 10.0.0.2/32"));
    let many = |count: usize| vec!["10.0.0.1"; count].join(",");
    assert!(refused(&format!("-A INPUT -s {} -d {} -j DROP", many(65), many(64))).contains("more than 4096"));
}

#[test]
fn a_bucket_of_hashlimit_lives_as_long_as_its_unit() {
    // So that its burst is not there again sooner than the rate says.
    let set = parsed(
        "-A INPUT -m hashlimit --hashlimit-upto 2/min --hashlimit-burst 2 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT\n-P INPUT DROP",
    );
    let mut walker = Walker::new(&set, 1);
    let view = syn("10.0.0.9:1000", "192.0.2.1:22");
    let mut passed = |seconds| {
        let mut ask =
            || ask_as(&mut walker, Table::Filter, Hook::Input, &view, CtState::New, seconds).verdict;
        (0..5).filter(|_| ask() == Verdict::Accept).count()
    };
    assert_eq!([passed(0), passed(15), passed(35), passed(120)], [2, 0, 1, 2]);
}

#[test]
fn options_count_wherever_in_the_rule_they_stand() {
    for (text, printed) in [
        (
            "-A INPUT -m limit -p tcp --limit 3/min --syn --limit-burst 9 --dport 80 -j ACCEPT",
            "-A INPUT -p tcp -m limit --limit 3/min --limit-burst 9 -m tcp --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
        ),
        (
            "-A INPUT -4 -m connlimit ! --connlimit-upto 3 -m comment --comment a.b --connlimit-daddr -j DROP",
            "-A INPUT -4 -m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-daddr -m comment --comment \"a.b\" -j DROP",
        ),
        ("-A INPUT -j DROP -p tcp -c 1 2", "-A INPUT -p tcp -j DROP"),
        ("/sbin/iptables -w 5 -A INPUT -p vrrp -j ACCEPT", "-A INPUT -4 -p vrrp -j ACCEPT"),
        ("-A INPUT -6 -j REJECT", "-A INPUT -6 -j REJECT --reject-with icmp6-port-unreachable"),
    ] {
        let set = parsed(text);
        assert_eq!(format!("-A INPUT{}", set.chains(Table::Filter)[0].rules[0]), printed);
    }
}

#[test]
fn empty_chains_of_ones_own_can_go() {
    let set = parsed("-N a\n-N b\n-N c\n-A a -j ACCEPT\n-A INPUT -j b\n-Z\n-X\n-F\n-X b");
    let names: Vec<_> = set.chains(Table::Filter)[3..].iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(names, ["a"]);
}

#[test]
fn chains_are_called_and_return() {
    let view = syn("10.0.0.9:1000", "192.0.2.1:22");
    let rules = |body: &str| format!("-N a\n-N b\n{body}\n-A INPUT -j DROP");
    assert_eq!(input(&rules("-A INPUT -j a\n-A a -j RETURN\n-A a -j ACCEPT"), &view), Verdict::Drop);
    assert_eq!(input(&rules("-A INPUT -j a\n-A a -j b\n-A b -j ACCEPT"), &view), Verdict::Accept);
    // After goto, the end of the chain leads past the one that jumped.
    assert_eq!(
        input(&rules("-P INPUT ACCEPT\n-A INPUT -g a\n-A a -j b\n-A b -p udp -j DROP"), &view),
        Verdict::Accept
    );
}

#[test]
fn a_chain_for_several_hooks_may_ask_for_interfaces() {
    // As Docker's: what this host sends came in by none.
    let text = "-N own\n-A INPUT -j own\n-A OUTPUT -j own\n-A own -i lan0 -j RETURN\n-A own ! -i wan -j DROP";
    let mut walker = Walker::new(&parsed(text), 1);
    let view = syn("10.0.0.9:1000", "192.0.2.1:22");
    let mut ask = |hook| ask_as(&mut walker, Table::Filter, hook, &view, CtState::New, 0).verdict;
    assert_eq!([ask(Hook::Input), ask(Hook::Output)], [Verdict::Accept, Verdict::Drop]);
}

#[test]
fn chains_that_are_too_deep_are_refused() {
    let mut text = String::new();
    for i in 0..20 {
        text += &format!("-N c{i}\n");
    }
    for i in 0..19 {
        text += &format!("-A c{i} -j c{}\n", i + 1);
    }
    text += "-A INPUT -j c0\n";
    assert!(refused(&text).contains("more than 16 chains deep"));
}

#[test]
fn a_limit_lets_its_burst_pass_and_then_its_rate() {
    let set = parsed("-A INPUT -m limit --limit 2/second --limit-burst 3 -j ACCEPT\n-A INPUT -j DROP");
    let mut walker = Walker::new(&set, 1);
    let view = syn("10.0.0.9:1000", "192.0.2.1:22");
    let mut passed = |seconds| {
        (0..10)
            .filter(|_| {
                ask_as(&mut walker, Table::Filter, Hook::Input, &view, CtState::New, seconds).verdict
                    == Verdict::Accept
            })
            .count()
    };
    assert_eq!([passed(0), passed(1), passed(100)], [3, 2, 3]);
}

#[test]
fn shards_share_a_limit() {
    let set = parsed("-A INPUT -m limit --limit 100/second --limit-burst 100 -j ACCEPT\n-A INPUT -j DROP");
    let view = syn("10.0.0.9:1000", "192.0.2.1:22");
    let mut walker = Walker::new(&set, 4);
    let mut passed = 0;
    for second in 0..=10 {
        for _ in 0..200 {
            let asked = ask_as(&mut walker, Table::Filter, Hook::Input, &view, CtState::New, second);
            passed += u32::from(asked.verdict == Verdict::Accept);
        }
    }
    assert_eq!(passed, 25 + 10 * 25);
}

#[test]
fn one_network_has_so_many_flows() {
    let set = parsed("-A INPUT -p tcp --syn -m connlimit --connlimit-above 3 --connlimit-mask 24 -j DROP");
    let mut walker = Walker::new(&set, 1);
    let mut from = |host: u8| {
        let view = syn(&format!("10.0.0.{host}:1000"), "192.0.2.1:22");
        ask_as(&mut walker, Table::Filter, Hook::Input, &view, CtState::New, 0).verdict
    };
    assert!((1..=3).all(|host| from(host) == Verdict::Accept));
    assert_eq!(from(4), Verdict::Drop);
}

#[test]
fn marks_are_set_saved_and_restored() {
    let text = "-A FORWARD -j MARK --set-mark 5\n-A FORWARD -m mark --mark 5 -j CONNMARK --save-mark\n\
                -A FORWARD -j MARK --or-mark 2\n-A FORWARD -j MARK --and-mark 3";
    let mut walker = Walker::new(&parsed(text), 1);
    let view = udp("10.0.0.9:1000", "192.0.2.1:53");
    let asked = ask_as(&mut walker, Table::Filter, Hook::Forward, &view, CtState::New, 0);
    assert_eq!((asked.mark, asked.conn_mark), (3, 5));
    let text = "-A FORWARD -j MARK --set-mark 0x12\n-A FORWARD -j CONNMARK --set-mark 0x340\n\
                -A FORWARD -j CONNMARK --save-mark --nfmask 0xf --ctmask 0xf0\n\
                -A FORWARD -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf00";
    let mut walker = Walker::new(&parsed(text), 1);
    let asked = ask_as(&mut walker, Table::Filter, Hook::Forward, &view, CtState::New, 0);
    assert_eq!((asked.mark, asked.conn_mark), (0x300, 0x302));
}

#[test]
fn raw_and_mss_say_what_to_do_with_the_packet() {
    let text = "-t raw -A PREROUTING -p udp -j NOTRACK\n-A FORWARD -p tcp --syn -j TCPMSS --set-mss 1200";
    let mut walker = Walker::new(&parsed(text), 1);
    let view = udp("10.0.0.9:1000", "192.0.2.1:53");
    assert!(ask_as(&mut walker, Table::Raw, Hook::Prerouting, &view, CtState::Untracked, 0).untracked);
    let view = syn("10.0.0.9:1000", "192.0.2.1:53");
    let asked = ask_as(&mut walker, Table::Filter, Hook::Forward, &view, CtState::New, 0);
    assert_eq!(asked.mss, Some(TcpMss::Set(1200)));
}

#[test]
fn tracking_is_needed_only_for_rules_that_ask_for_it() {
    assert!(!parsed("-A INPUT -p tcp --dport 22 -j ACCEPT\n-P INPUT DROP").needs_tracking());
    assert!(parsed("-A INPUT -m conntrack --ctstate NEW -j ACCEPT").needs_tracking());
    assert!(parsed("-t nat -A POSTROUTING -o wan -j MASQUERADE").needs_tracking());
    assert!(parsed("*filter\n:INPUT ACCEPT\nCOMMIT").is_empty());
}

#[test]
fn counts_are_kept_by_rule() {
    let set = parsed("-A INPUT -p udp -j ACCEPT\n-A INPUT -p tcp -j ACCEPT");
    let mut walker = Walker::new(&set, 1);
    let view = syn("10.0.0.9:1000", "192.0.2.1:22");
    ask_as(&mut walker, Table::Filter, Hook::Input, &view, CtState::New, 0);
    let counts: Vec<_> = walker.counts().iter().map(|count| (count.packets, count.bytes)).collect();
    assert_eq!(counts, [(0, 0), (1, 40)]);
}

proptest! {
    /// Whatever the text: rules or an error with a place, no panic; and what was understood can be printed and read again.
    #[test]
    fn any_text_is_survived(lines in prop::collection::vec(prop::sample::subsequence(WORDS.to_vec(), 0..12).prop_shuffle(), 0..8)) {
        let text: String = lines.iter().map(|words| words.join(" ") + "\n").collect();
        if let Ok(set) = RuleSet::parse(&text, "rules") {
            let printed = set.to_string();
            let again = RuleSet::parse(&printed, "printed").map_err(|error| TestCaseError::fail(format!("{error}\n{printed}")))?;
            prop_assert_eq!(again.to_string(), printed);
        }
    }
}

const WORDS: [&str; 44] = [
    "-A",
    "INPUT",
    "-t",
    "nat",
    "POSTROUTING",
    "-p",
    "tcp",
    "udp",
    "--dport",
    "22",
    "1:5",
    "-m",
    "limit",
    "--limit",
    "3/second",
    "-j",
    "ACCEPT",
    "DROP",
    "MASQUERADE",
    "DNAT",
    "--to-destination",
    "10.0.0.1",
    "10.0.0.1:80",
    "!",
    "-s",
    "10.0.0.0/8",
    "::1",
    "*filter",
    "COMMIT",
    ":x",
    "-",
    "-N",
    "x",
    "conntrack",
    "--ctstate",
    "NEW",
    "\"",
    "mark",
    "--mark",
    "0x1/0x3",
    "-P",
    "REJECT",
    "LOG",
    "-i",
];
