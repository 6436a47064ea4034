//! Matches, targets and options of iptables that are not here: why, and what to use instead.

const FIRST_PACKET: &str = "rules are asked about a flow's first packet only";
const PAYLOAD: &str = "payload is not looked at";
const FIELDS: &str = "Diffserv and ECN fields are neither looked at nor changed";
const HOPS: &str =
    "hop limits are not looked at (neighbour discovery, which rules guard with them, is never filtered)";
const EXTENSIONS: &str = "IPv6 extension headers are not looked at";
const NO_PROCESS: &str = "packets of other programs do not come by here";

const MATCHES: [(&str, &str); 39] = [
    ("ah", "match the protocol: -p ah"),
    ("bpf", PAYLOAD),
    ("cgroup", NO_PROCESS),
    ("connbytes", FIRST_PACKET),
    ("connlabel", "use -m connmark"),
    ("cpu", "threads share the flows by their addresses"),
    ("devgroup", "name the interfaces, with + for all that begin so"),
    ("dscp", FIELDS),
    ("dst", EXTENSIONS),
    ("ecn", FIELDS),
    ("esp", "match the protocol: -p esp"),
    ("eui64", "use -s"),
    ("frag", EXTENSIONS),
    ("geoip", "use -m set with the country's networks in a hash:net"),
    ("hbh", EXTENSIONS),
    ("helper", "no helper follows what a protocol negotiates"),
    ("hl", HOPS),
    ("ipv6header", EXTENSIONS),
    ("length", FIRST_PACKET),
    ("mac", "Ethernet addresses are not looked at: use -i and -s"),
    ("osf", PAYLOAD),
    ("owner", NO_PROCESS),
    ("physdev", "there are no bridges here: use -i and -o"),
    ("pkttype", "use -m addrtype --dst-type BROADCAST or MULTICAST"),
    ("policy", "there is no IPsec here"),
    ("quota", FIRST_PACKET),
    ("rateest", FIRST_PACKET),
    ("realm", "use -i and -o"),
    (
        "recent",
        "use -m hashlimit --hashlimit-mode srcip, for flows begun, or -m connlimit, for those that there are",
    ),
    ("rpfilter", "a gateway's configuration has reverse-path, which is strict unless it says otherwise"),
    ("rt", EXTENSIONS),
    ("socket", NO_PROCESS),
    ("statistic", "several --to-destination of one DNAT share flows out among servers"),
    ("string", PAYLOAD),
    ("tcpmss", "TCPMSS raises no MSS, so leave it out"),
    ("time", "change the file at that hour and send SIGHUP"),
    ("tos", FIELDS),
    ("ttl", HOPS),
    ("u32", PAYLOAD),
];

const TARGETS: [(&str, &str); 27] = [
    ("AUDIT", "use LOG"),
    ("CHECKSUM", "checksums that a sender left to its device are completed, so leave the rule out"),
    ("CLASSIFY", "there are no classes: use MARK"),
    ("CLUSTERIP", "one host has an address"),
    ("CONNSECMARK", "there are no security labels"),
    ("DNPT", "use NETMAP"),
    ("DSCP", FIELDS),
    ("ECN", FIELDS),
    ("HL", "a router takes one hop from each packet"),
    ("HMARK", "use MARK"),
    ("IDLETIMER", "`bywash ct` shows how long flows have been idle"),
    ("LED", "use LOG"),
    ("NFLOG", "use LOG"),
    ("NFQUEUE", "there is no program to hand packets to"),
    ("QUEUE", "there is no program to hand packets to"),
    ("RATEEST", FIRST_PACKET),
    ("SAME", "use SNAT --persistent"),
    ("SECMARK", "there are no security labels"),
    ("SET", "sets change with the file: send SIGHUP"),
    ("SNPT", "use NETMAP"),
    ("SYNPROXY", "use -m hashlimit or -m connlimit"),
    ("TEE", "use --pcap"),
    ("TOS", FIELDS),
    ("TPROXY", "use REDIRECT or DNAT"),
    ("TRACE", "use LOG"),
    ("TTL", "a router takes one hop from each packet"),
    ("ULOG", "use LOG"),
];

const OPTIONS: [(&str, &str); 15] = [
    ("--ctdir", FIRST_PACKET),
    ("--ctexpire", FIRST_PACKET),
    ("--ctstatus", FIRST_PACKET),
    ("--tcp-option", "options of TCP are not looked at"),
    ("--limit-iface-in", "use -i with the link's networks in -d"),
    ("--limit-iface-out", "use -o with the link's networks in -s"),
    ("--return-nomatch", "sets here have no exceptions"),
    ("--update-counters", "sets here have no counters"),
    ("--bytes-eq", "sets here have no counters"),
    ("--hashlimit-rate-match", FIRST_PACKET),
    ("--hashlimit-rate-interval", FIRST_PACKET),
    ("-f", FRAGMENTS),
    ("--fragment", FRAGMENTS),
    ("--fragments", FRAGMENTS),
    ("--chunk-types", PAYLOAD),
];
const FRAGMENTS: &str = "fragments are put together before rules see them, so leave the rule out";

fn find(table: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == name).map(|(_, advice)| *advice)
}

/// About `-m NAME`.
pub(super) fn of_match(name: &str) -> Option<&'static str> {
    find(&MATCHES, name)
}

/// About `-j NAME`.
pub(super) fn of_target(name: &str) -> Option<&'static str> {
    find(&TARGETS, name)
}

/// About an option.
pub(super) fn of_option(name: &str) -> Option<&'static str> {
    find(&OPTIONS, name)
}
