//! The options of `bywash ct`: conntrack(8)'s, as far as they mean something here, read into the filter that the processes
//! apply.

use std::net::IpAddr;

use bywash::config::Cidr;
use bywash::flow::FlowFilter;
use bywash::flow::conntrack::{EventKind, TcpState};
use bywash::flow::flow_filter::{Family, MarkFilter, Translation, TupleFilter};
use clap::{Args, ValueEnum};

use super::show::PROTOCOLS;
use crate::control::ProcessArgs;

/// `bywash ct`.
#[derive(Clone, Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "conntrack(8) has these")]
pub struct CtArgs {
    /// List the flows (so also without any of these)
    #[arg(short = 'L', long, visible_alias = "list", group = "what")]
    pub dump: bool,
    /// Show one flow, which -p, -s, -d and the ports or --icmp-type and --icmp-id name
    #[arg(short = 'G', long, group = "what")]
    pub get: bool,
    /// End the flows, and show them
    #[arg(short = 'D', long, group = "what")]
    pub delete: bool,
    /// Show what happens to flows as it happens, until Ctrl-C
    #[arg(short = 'E', long, group = "what")]
    pub event: bool,
    /// Show how many flows there are; with -o extended, of which kinds and how many there may be
    #[arg(short = 'C', long, group = "what", conflicts_with = "filter")]
    pub count: bool,
    /// End all flows
    #[arg(short = 'F', long, group = "what", conflicts_with = "filter")]
    pub flush: bool,
    /// Which flows.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Which events: NEW, UPDATES, DESTROY, ALL
    #[arg(short, long, value_name = "KIND,...", value_delimiter = ',', value_parser = events, requires = "event",
        conflicts_with_all = ["dump", "get", "delete", "count", "flush"])]
    pub event_mask: Vec<Events>,
    /// Format: `extended` shows the IP version, `id` what names a flow, `timestamp` when events came and how old flows are,
    /// `json` lines of JSON
    #[arg(short, long, value_name = "FORMAT,...", value_delimiter = ',', value_enum, ignore_case = true)]
    pub output: Vec<Output>,
    /// Which processes.
    #[command(flatten)]
    pub process: ProcessArgs,
}

/// Which flows are meant; all that is given must hold.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "filter", multiple = true)]
#[command(next_help_heading = "Filter")]
pub struct FilterArgs {
    /// Protocol, by name or number: tcp, udp, icmp, icmpv6, ...
    #[arg(short, long, alias = "protonum", value_name = "PROTOCOL", value_parser = protocol)]
    pub proto: Option<u8>,
    /// IP version: ipv4 or ipv6; both unless given
    #[arg(short, long, value_name = "FAMILY", value_parser = family)]
    pub family: Option<Family>,
    /// Source of the first packet, an address or a network
    #[arg(short = 's', long, visible_alias = "src", value_name = "NETWORK")]
    pub orig_src: Option<Cidr>,
    /// Destination of the first packet
    #[arg(short = 'd', long, visible_alias = "dst", value_name = "NETWORK")]
    pub orig_dst: Option<Cidr>,
    /// Source of the answers
    #[arg(short, long, value_name = "NETWORK")]
    pub reply_src: Option<Cidr>,
    /// Destination of the answers
    #[arg(short = 'q', long, value_name = "NETWORK")]
    pub reply_dst: Option<Cidr>,
    /// Source port of the first packet
    #[arg(long, visible_alias = "orig-port-src", value_name = "PORT", value_parser = port)]
    pub sport: Option<u16>,
    /// Destination port of the first packet
    #[arg(long, visible_alias = "orig-port-dst", value_name = "PORT", value_parser = port)]
    pub dport: Option<u16>,
    /// Source port of the answers
    #[arg(long, value_name = "PORT", value_parser = port)]
    pub reply_port_src: Option<u16>,
    /// Destination port of the answers
    #[arg(long, value_name = "PORT", value_parser = port)]
    pub reply_port_dst: Option<u16>,
    /// Type of an ICMP query
    #[arg(long, value_name = "NUMBER")]
    pub icmp_type: Option<u8>,
    /// Identifier of an ICMP query
    #[arg(long, value_name = "NUMBER")]
    pub icmp_id: Option<u16>,
    /// TCP state: SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE or SYN_SENT2
    #[arg(long, value_name = "STATE", value_parser = state)]
    pub state: Option<TcpState>,
    /// Mark, and which of its bits count; decimal, or hexadecimal with 0x
    #[arg(short, long, value_name = "MARK[/MASK]", value_parser = mark)]
    pub mark: Option<MarkFilter>,
    /// Status: ASSURED, SEEN_REPLY, UNREPLIED (conntrack's UNSET)
    #[arg(
        short = 'u',
        long,
        value_name = "STATUS,...",
        value_delimiter = ',',
        value_enum,
        ignore_case = true
    )]
    pub status: Vec<Status>,
    /// Flows whose source is translated, to this address if one is given
    #[arg(short = 'n', long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "any", value_parser = translation)]
    pub src_nat: Option<Translation>,
    /// Flows whose destination is translated
    #[arg(short = 'g', long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "any", value_parser = translation)]
    pub dst_nat: Option<Translation>,
    /// Flows of which one or the other is
    #[arg(short = 'j', long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "any", value_parser = translation)]
    pub any_nat: Option<Translation>,
}

/// Events by conntrack's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// All kinds.
    All,
    /// One kind.
    One(EventKind),
}

/// Formats, which can be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// The IP version in front; of counts, more of them
    Extended,
    /// When events came; how old flows are
    Timestamp,
    /// What names a flow: number, shard and process
    Id,
    /// Lines of JSON
    Json,
}

/// Conditions of a flow's status, by conntrack's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Status {
    /// Not dropped to make room for others
    #[value(name = "ASSURED")]
    Assured,
    /// Answered
    #[value(name = "SEEN_REPLY")]
    SeenReply,
    /// Not answered
    #[value(name = "UNREPLIED", alias = "UNSET")]
    Unreplied,
}

impl CtArgs {
    /// Whether a format was asked for.
    #[must_use]
    pub fn shows(&self, output: Output) -> bool {
        self.output.contains(&output)
    }

    /// The kinds of events to follow.
    #[must_use]
    pub fn events(&self) -> Vec<EventKind> {
        let all = [EventKind::New, EventKind::Update, EventKind::Destroy];
        let named = |kind: &EventKind| self.event_mask.contains(&Events::One(*kind));
        let every = self.event_mask.is_empty() || self.event_mask.contains(&Events::All);
        all.into_iter().filter(|kind| every || named(kind)).collect()
    }
}

impl FilterArgs {
    /// What the processes are asked for.
    #[must_use]
    pub fn filter(&self) -> FlowFilter {
        let status = |wanted| self.status.contains(&wanted);
        let seen_reply = match (status(Status::SeenReply), status(Status::Unreplied)) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        FlowFilter {
            family: self.family,
            protocol: self.proto,
            original: TupleFilter {
                src: self.orig_src,
                dst: self.orig_dst,
                sport: self.sport,
                dport: self.dport,
            },
            reply: TupleFilter {
                src: self.reply_src,
                dst: self.reply_dst,
                sport: self.reply_port_src,
                dport: self.reply_port_dst,
            },
            icmp_type: self.icmp_type,
            icmp_id: self.icmp_id,
            state: self.state,
            mark: self.mark,
            seen_reply,
            assured: status(Status::Assured).then_some(true),
            src_nat: self.src_nat,
            dst_nat: self.dst_nat,
            any_nat: self.any_nat,
        }
    }

    /// Whether conditions contradict each other.
    #[must_use]
    pub fn contradiction(&self) -> Option<&'static str> {
        let status = |wanted| self.status.contains(&wanted);
        (status(Status::Unreplied) && (status(Status::SeenReply) || status(Status::Assured))).then_some(
            "a flow cannot be UNREPLIED and SEEN_REPLY or ASSURED at once: give one of them to --status",
        )
    }
}

fn protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
    let named = named.map(|(number, _)| *number).or((text == "ipv6-icmp").then_some(58));
    named.or_else(|| text.parse().ok()).ok_or_else(|| {
        let names: Vec<_> = PROTOCOLS.iter().map(|(_, name)| *name).collect();
        format!("`{text}` is no protocol known here; use {} or a number up to 255", names.join(", "))
    })
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("`{text}` is no port: 0 to 65535"))
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "ipv4" => Ok(Family::Ipv4),
        "ipv6" => Ok(Family::Ipv6),
        _ => Err(format!("`{text}` is neither ipv4 nor ipv6")),
    }
}

fn state(text: &str) -> Result<TcpState, String> {
    TcpState::named(text).ok_or_else(|| {
        let names = TcpState::ALL.map(TcpState::name).join(", ");
        format!("`{text}` is no state of TCP: {names}")
    })
}

fn events(text: &str) -> Result<Events, String> {
    Ok(match text.to_ascii_uppercase().as_str() {
        "ALL" => Events::All,
        "NEW" => Events::One(EventKind::New),
        "UPDATE" | "UPDATES" => Events::One(EventKind::Update),
        "DESTROY" => Events::One(EventKind::Destroy),
        _ => return Err(format!("`{text}` is none of NEW, UPDATES, DESTROY and ALL")),
    })
}

fn mark(text: &str) -> Result<MarkFilter, String> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    let (value, mask) = text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask)));
    let mask = mask.map_or(Some(u32::MAX), number);
    match (number(value), mask) {
        (Some(value), Some(mask)) => Ok(MarkFilter { value, mask }),
        _ => Err(format!("`{text}` is no mark such as 1 or 0x10/0xf0")),
    }
}

fn translation(text: &str) -> Result<Translation, String> {
    if text == "any" {
        return Ok(Translation::Any);
    }
    let address: Result<IpAddr, _> = text.parse();
    address.map(Translation::To).map_err(|_| format!("`{text}` is no address"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use clap::Parser;

    pub fn args(line: &[&str]) -> Result<CtArgs, clap::Error> {
        let line = ["bywash", "ct"].iter().chain(line);
        match crate::cli::Cli::try_parse_from(line)?.command {
            crate::cli::Command::Ct(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_wrong_port_is_told_what_ports_are() {
        for option in ["--sport", "--dport", "--reply-port-src", "--reply-port-dst"] {
            let error = args(&["-L", option, "http"]).unwrap_err().to_string();
            assert!(error.contains("`http` is no port: 0 to 65535"), "{error}");
        }
    }

    #[test]
    fn conntracks_options_become_the_filter() {
        let line = "-L -p tcp -f ipv4 -s 10.0.0.0/8 --dst 192.0.2.1 -r 192.0.2.2 -q 198.51.100.1 --orig-port-src 1 --dport 2 \
                    --reply-port-src 3 --reply-port-dst 4 --state established -m 0x10/0xf0 -u seen_reply,ASSURED -n -g \
                    203.0.113.1 -j --icmp-type 8 --icmp-id 9";
        let args = args(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        let network = |text: &str| Some(text.parse().unwrap());
        let expected = FlowFilter {
            family: Some(Family::Ipv4),
            protocol: Some(6),
            original: TupleFilter {
                src: network("10.0.0.0/8"),
                dst: network("192.0.2.1"),
                sport: Some(1),
                dport: Some(2),
            },
            reply: TupleFilter {
                src: network("192.0.2.2"),
                dst: network("198.51.100.1"),
                sport: Some(3),
                dport: Some(4),
            },
            icmp_type: Some(8),
            icmp_id: Some(9),
            state: Some(TcpState::Established),
            mark: Some(MarkFilter { value: 0x10, mask: 0xf0 }),
            seen_reply: Some(true),
            assured: Some(true),
            src_nat: Some(Translation::Any),
            dst_nat: Some(Translation::To("203.0.113.1".parse().unwrap())),
            any_nat: Some(Translation::Any),
        };
        assert_eq!(args.filter.filter(), expected);
        assert_eq!(self::args(&[]).unwrap().filter.filter(), FlowFilter::default());
    }

    #[test]
    fn protocols_marks_and_events_are_read_in_their_forms() {
        assert_eq!((protocol("UDP"), protocol("ipv6-icmp"), protocol("89")), (Ok(17), Ok(58), Ok(89)));
        assert!(protocol("tpc").unwrap_err().contains("icmpv6"));
        assert_eq!(mark("7"), Ok(MarkFilter { value: 7, mask: u32::MAX }));
        assert!(mark("7/").is_err() && mark("0xg").is_err());
        let kinds = |line: &[&str]| args(line).unwrap().events();
        assert_eq!(kinds(&["-E"]).len(), 3);
        assert_eq!(kinds(&["-E", "-e", "NEW,DESTROY"]), [EventKind::New, EventKind::Destroy]);
        assert_eq!(kinds(&["-E", "-e", "updates"]), [EventKind::Update]);
        assert_eq!(kinds(&["-E", "-e", "ALL"]).len(), 3);
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for line in [
            &["-L", "-D"][..],
            &["-F", "-p", "tcp"],
            &["-C", "-s", "192.0.2.1"],
            &["-L", "-e", "NEW"],
            &["--state", "OPEN"],
            &["-o", "xml"],
            &["-n", "somewhere"],
        ] {
            assert!(args(line).is_err(), "{line:?}");
        }
        assert!(args(&["-u", "UNSET,ASSURED"]).unwrap().filter.contradiction().is_some());
    }
}
