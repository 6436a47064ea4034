//! The gateway's configuration file, from text to what the stack and the driver take. Every key is checked here or where it
//! is used, and a wrong one is refused with the file's name and line.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bywash::config::{
    Advertise, AdvertisedPrefix, Cidr, FilterConfig, ForwardConfig, LinkConfig, ReversePath, Route,
    StackConfig, UnsolicitedSyn,
};
use bywash::flow::conntrack::{ConntrackConfig, Timeouts};
use bywash::flow::gate::GateConfig;
use bywash::flow::nat::Filtering;
use bywash::runtime::Spin;
use bywash_afxdp::{HugePages, KernelAddresses, LinkOptions, Mode, QueueOptions};
use serde::Deserialize;

use super::sense;
use super::values::{destination, own_addresses, parsed, parsed_list, parsed_option, port, spin, time};
use crate::config_file::{ConfigFileError, read};
use crate::error::AppError;
use crate::stack::read_rules;
use crate::units::QueueSet;

/// Frames of the packet memory for each queue of each NIC, unless the file says how many there are in all.
const FRAMES_PER_QUEUE: u32 = 4096;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// The NICs.
    #[serde(default)]
    pub link: Vec<LinkTable>,
    /// Routes through gateways.
    #[serde(default)]
    pub route: Vec<RouteTable>,
    /// Name servers, for DHCP-less gateways that look names up themselves.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// File of rules, relative to this one.
    pub rules: Option<PathBuf>,
    /// Whose packets are forwarded.
    #[serde(default)]
    pub reverse_path: ReversePathWord,
    /// What becomes of connections from outside that nobody expects.
    #[serde(default)]
    pub unsolicited_syn: UnsolicitedSynWord,
    /// Who may send to a translated port.
    #[serde(default)]
    pub filtering: FilteringWord,
    /// Connection tracking.
    #[serde(default)]
    pub conntrack: ConntrackTable,
    /// The page for administrators.
    pub admin: Option<AdminTable>,
    /// The echo service.
    pub echo: Option<EchoTable>,
    /// How packets get in and out.
    #[serde(default)]
    pub stack: StackTable,
}

/// A NIC.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinkTable {
    /// The interface.
    pub interface: String,
    /// What rules call it; the interface's name unless given.
    pub name: Option<String>,
    /// Addresses of the gateway on it.
    #[serde(default, deserialize_with = "own_addresses")]
    pub address: Vec<Cidr>,
    /// Ask for an address, gateway and name servers.
    #[serde(default)]
    pub dhcp: bool,
    /// Largest IP packet.
    pub mtu: Option<usize>,
    /// RX queues.
    #[serde(default, deserialize_with = "parsed_option")]
    pub queues: Option<QueueSet>,
    /// Addresses whose packets stay with the kernel; unless given, those that the interface has.
    pub kernel_addresses: Option<Vec<IpAddr>>,
    /// Tell IPv6 hosts of this router; unless given, nobody does.
    pub advertise: Option<AdvertiseTable>,
}

/// [`Advertise`]: what is not given is RFC 4861's default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdvertiseTable {
    /// The longest time between two advertisements.
    #[serde(deserialize_with = "time")]
    pub interval: Option<Duration>,
    /// How long hosts use this router as default router; 0: not at all. Unless given, three times the interval.
    #[serde(deserialize_with = "time")]
    pub lifetime: Option<Duration>,
    /// Hosts get their addresses by DHCPv6.
    pub managed: bool,
    /// Hosts get other settings by DHCPv6.
    pub other_config: bool,
    /// Prefixes; unless given, the link's networks.
    pub prefix: Option<Vec<PrefixTable>>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
}

/// [`AdvertisedPrefix`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PrefixTable {
    /// The prefix.
    #[serde(deserialize_with = "parsed")]
    pub prefix: Cidr,
    /// Its addresses are on the link.
    pub on_link: Option<bool>,
    /// Hosts make addresses of it; unless given, if it is of 64 bits.
    pub autonomous: Option<bool>,
    /// How long it is valid.
    #[serde(default, deserialize_with = "time")]
    pub valid: Option<Duration>,
    /// How long addresses made of it are used for new connections.
    #[serde(default, deserialize_with = "time")]
    pub preferred: Option<Duration>,
}

impl AdvertiseTable {
    fn read(&self) -> Advertise {
        let default = Advertise::default();
        let interval = self.interval.unwrap_or(default.interval);
        let prefix = |table: &PrefixTable| {
            let default = AdvertisedPrefix::of(table.prefix);
            let valid = table.valid.unwrap_or(default.valid);
            AdvertisedPrefix {
                on_link: table.on_link.unwrap_or(default.on_link),
                autonomous: table.autonomous.unwrap_or(default.autonomous),
                valid,
                preferred: table.preferred.unwrap_or(default.preferred.min(valid)),
                ..default
            }
        };
        Advertise {
            interval,
            lifetime: self.lifetime.unwrap_or(interval.saturating_mul(3)),
            managed: self.managed,
            other_config: self.other_config,
            prefixes: self.prefix.as_ref().map(|tables| tables.iter().map(prefix).collect()),
            dns_servers: self.dns.clone(),
        }
    }
}

/// A route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteTable {
    /// Destination; `None`: wherever else.
    #[serde(deserialize_with = "destination")]
    pub to: Option<Cidr>,
    /// Gateway.
    pub via: IpAddr,
    /// Name of its link, for link-local gateways.
    pub link: Option<String>,
}

impl RouteTable {
    /// Its destination.
    pub(super) fn destination(&self) -> Cidr {
        let any = if self.via.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        self.to.unwrap_or(Cidr { addr: any, prefix_len: 0 })
    }
}

/// [`ReversePath`] in words.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReversePathWord {
    /// No check.
    Off,
    /// There is a route to the source.
    Loose,
    /// The route to the source is by the link that the packet came by.
    #[default]
    Strict,
}

/// [`Filtering`] in words (RFC 4787 REQ-8a, RFC 5382 REQ-3a).
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilteringWord {
    /// Anybody.
    EndpointIndependent,
    /// Whoever has the address of one that was sent to.
    AddressDependent,
    /// Whoever was sent to.
    #[default]
    AddressAndPortDependent,
}

/// [`UnsolicitedSyn`] in words (RFC 5382 REQ-4).
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnsolicitedSynWord {
    /// After six seconds they are told that the port is unreachable, unless somebody inside connects there meanwhile.
    #[default]
    Wait,
    /// They are reset at once, as by Linux.
    Reset,
}

/// Whose timeouts hold where the file says nothing of one.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultsWord {
    /// Linux's.
    #[default]
    Linux,
    /// What RFC 4787, RFC 5382, RFC 5508 and RFC 7857 ask of a NAT.
    Rfc,
}

/// Connection tracking: bounds and timeouts by Linux's names.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConntrackTable {
    /// Most flows, in equal parts for the threads.
    pub max: Option<usize>,
    /// Take over connections that are under way.
    pub tcp_loose: Option<bool>,
    /// Let segments out of the window pass.
    pub tcp_be_liberal: Option<bool>,
    /// `linux` or `rfc`: whose timeouts those are that `timeouts` does not name.
    pub defaults: DefaultsWord,
    /// Seconds, or times such as 5d (RFC 4787 REQ-5b, RFC 5382 REQ-5a, RFC 5508 REQ-2a).
    pub timeouts: TimeoutsTable,
}

macro_rules! timeouts {
    ($($name:ident),*) => {
        /// How long flows live without a packet, by state.
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        #[allow(missing_docs)]
        pub struct TimeoutsTable {
            $(#[serde(deserialize_with = "time")] pub $name: Option<Duration>,)*
        }

        impl TimeoutsTable {
            fn apply(&self, timeouts: &mut Timeouts) {
                $(if let Some(time) = self.$name { timeouts.$name = time; })*
            }
        }
    };
}

timeouts!(
    tcp_syn_sent,
    tcp_syn_recv,
    tcp_established,
    tcp_fin_wait,
    tcp_close_wait,
    tcp_last_ack,
    tcp_time_wait,
    tcp_close,
    tcp_max_retrans,
    tcp_unacknowledged,
    udp,
    udp_stream,
    icmp,
    icmpv6,
    generic
);

/// The page for administrators.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdminTable {
    /// Its TCP port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// Name of the link at whose addresses it is; the first unless given.
    pub link: Option<String>,
    /// The networks whose hosts may ask for it; unless given, those of the link.
    #[serde(default, deserialize_with = "parsed_list")]
    pub from: Vec<Cidr>,
}

/// The echo service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EchoTable {
    /// Its TCP and UDP port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
}

/// How packets get in and out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StackTable {
    /// `auto`, `zero-copy`, `copy` or `generic`.
    pub mode: ModeWord,
    /// Frames of 4096 bytes in all, in equal parts for the threads.
    pub frames: Option<u32>,
    /// Entries of each ring.
    pub ring: Option<u32>,
    /// `auto`, `never` or `require`.
    pub huge_pages: HugePagesWord,
    /// Threads; unless given, as many as the NIC with the fewest queues has, and there are CPUs.
    pub threads: Option<NonZeroUsize>,
    /// What an idle thread does.
    #[serde(deserialize_with = "spin")]
    pub spin: Option<Spin>,
    /// The CPU of the first thread; the next ones are for further threads.
    pub cpu: Option<usize>,
    /// Merge segments.
    pub gro: Option<bool>,
}

/// [`Mode`] in words.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ModeWord {
    #[default]
    Auto,
    ZeroCopy,
    Copy,
    Generic,
}

impl From<ModeWord> for Mode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Auto => Self::Auto,
            ModeWord::ZeroCopy => Self::ZeroCopy,
            ModeWord::Copy => Self::Copy,
            ModeWord::Generic => Self::Generic,
        }
    }
}

/// [`HugePages`] in words.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum HugePagesWord {
    #[default]
    Auto,
    Never,
    Require,
}

/// A configuration that was read, and where from.
#[derive(Debug)]
pub struct Configuration {
    /// The file's content.
    pub file: File,
    path: PathBuf,
}

impl Configuration {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is wrong; with its line.
    pub fn read(path: &Path) -> Result<Self, AppError> {
        let text = read(path)
            .map_err(|error| ConfigFileError::Read { path: path.to_owned(), error })
            .map_err(AppError::from)?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, AppError> {
        let file: File = toml::from_str(text).map_err(|error: toml::de::Error| {
            let span: Range<usize> = error.span().unwrap_or(0..0);
            ConfigFileError::Content {
                path: path.to_owned(),
                line: text[..span.start.min(text.len())].matches('\n').count() + 1,
                message: explained(error.message()),
            }
        })?;
        let this = Self { file, path: path.to_owned() };
        this.check()?;
        Ok(this)
    }

    /// An error about the file as a whole.
    fn wrong(&self, message: impl std::fmt::Display) -> AppError {
        AppError::Usage(format!("{}: {message}", self.path.display()))
    }

    fn check(&self) -> Result<(), AppError> {
        sense::check(&self.file).map_err(|message| self.wrong(message))?;
        self.admin_addresses().map(|_| ())
    }

    /// Where the page for administrators is, if anywhere.
    ///
    /// # Errors
    /// There is no such link, or it has no static address.
    pub fn admin_addresses(&self) -> Result<Vec<IpAddr>, AppError> {
        Ok(self.admin_networks()?.iter().map(|cidr| cidr.addr).collect())
    }

    /// The networks whose hosts may ask for the page.
    ///
    /// # Errors
    /// As [`Configuration::admin_addresses`].
    pub fn admin_from(&self) -> Result<Vec<Cidr>, AppError> {
        match &self.file.admin {
            Some(admin) if !admin.from.is_empty() => Ok(admin.from.clone()),
            _ => self.admin_networks().map(<[_]>::to_vec),
        }
    }

    /// The addresses of the page with their networks.
    fn admin_networks(&self) -> Result<&[Cidr], AppError> {
        let Some(admin) = &self.file.admin else { return Ok(&[]) };
        let link = match &admin.link {
            None => &self.file.link[0],
            Some(wanted) => {
                let found = self.file.link.iter().find(|link| name(link) == wanted);
                found.ok_or_else(|| self.wrong(format!("[admin] link `{wanted}` is no link's name")))?
            }
        };
        if link.address.is_empty() {
            let name = name(link);
            return Err(self.wrong(format!(
                "[admin] is on link {name}, which has no static address; say `link` with one that has"
            )));
        }
        Ok(&link.address)
    }

    /// The file of rules, if there is one.
    #[must_use]
    pub fn rules_path(&self) -> Option<PathBuf> {
        let rules = self.file.rules.as_ref()?;
        Some(self.path.parent().unwrap_or(Path::new("")).join(rules))
    }

    /// The stack's configuration, rules included.
    ///
    /// # Errors
    /// The rules are wrong, or a route's link.
    pub fn stack(&self, seed: [u8; 32]) -> Result<StackConfig, AppError> {
        let [first, further @ ..] = &self.file.link[..] else { unreachable!("checked when read") };
        let mut config = StackConfig::new(first.address.clone(), seed);
        config.dhcp = first.dhcp;
        config.mtu = first.mtu;
        config.further_links = further
            .iter()
            .map(|link| LinkConfig {
                name: name(link).to_owned(),
                addresses: link.address.clone(),
                dhcp: link.dhcp,
                mtu: link.mtu,
            })
            .collect();
        let advertised = self.file.link.iter().enumerate();
        config.forward = Some(ForwardConfig {
            reverse_path: match self.file.reverse_path {
                ReversePathWord::Off => ReversePath::Off,
                ReversePathWord::Loose => ReversePath::Loose,
                ReversePathWord::Strict => ReversePath::Strict,
            },
            advertise: advertised
                .filter_map(|(at, link)| Some((at, link.advertise.as_ref()?.read())))
                .collect(),
            unsolicited_syn: match self.file.unsolicited_syn {
                UnsolicitedSynWord::Wait => UnsolicitedSyn::Wait,
                UnsolicitedSynWord::Reset => UnsolicitedSyn::Reset,
            },
        });
        config.routes = self.routes()?;
        config.dns_servers.clone_from(&self.file.dns);
        config.gro = self.file.stack.gro.unwrap_or(true);
        let rules = match self.rules_path() {
            Some(path) => read_rules(&path)?,
            // None: everything passes, and rules may come later.
            None => std::sync::Arc::default(),
        };
        config.filter = Some(FilterConfig { rules, interface: name(first).to_owned(), gate: self.gate() });
        Ok(config)
    }

    fn routes(&self) -> Result<Vec<Route>, AppError> {
        let route = |route: &RouteTable| {
            let at = |wanted: &String| {
                let at = self.file.link.iter().position(|link| name(link) == wanted);
                at.ok_or_else(|| self.wrong(format!("[[route]] link `{wanted}` is no link's name")))
            };
            let link = route.link.as_ref().map(at).transpose()?;
            Ok(Route { destination: route.destination(), gateway: route.via, link })
        };
        self.file.route.iter().map(route).collect()
    }

    fn gate(&self) -> GateConfig {
        let table = &self.file.conntrack;
        let mut conntrack = ConntrackConfig::default();
        conntrack.entries_max = table.max.unwrap_or(conntrack.entries_max);
        conntrack.tcp_loose = table.tcp_loose.unwrap_or(conntrack.tcp_loose);
        conntrack.tcp_be_liberal = table.tcp_be_liberal.unwrap_or(conntrack.tcp_be_liberal);
        conntrack.timeouts = match table.defaults {
            DefaultsWord::Linux => Timeouts::default(),
            DefaultsWord::Rfc => Timeouts::rfc(),
        };
        table.timeouts.apply(&mut conntrack.timeouts);
        let filtering = match self.file.filtering {
            FilteringWord::EndpointIndependent => Filtering::EndpointIndependent,
            FilteringWord::AddressDependent => Filtering::AddressDependent,
            FilteringWord::AddressAndPortDependent => Filtering::AddressAndPortDependent,
        };
        GateConfig { conntrack, filtering }
    }

    /// How each NIC is opened by each thread: the NICs' queues are dealt out, so that every thread has some of each.
    /// `rx_queues`: how many the NICs have.
    ///
    /// # Errors
    /// A NIC has fewer queues than there are to be threads.
    pub fn shares(&self, rx_queues: &[u32]) -> Result<Vec<Vec<LinkOptions>>, AppError> {
        let mut links = self.link_options();
        for (link, count) in links.iter_mut().zip(rx_queues) {
            if link.queues.is_empty() {
                link.queues = (0..*count).collect();
            }
        }
        let (at, fewest) = links
            .iter()
            .map(|link| link.queues.len())
            .enumerate()
            .min_by_key(|(_, count)| *count)
            .expect("checked when read");
        let threads = match self.file.stack.threads {
            Some(threads) if threads.get() > fewest => {
                let (name, threads) = (name(&self.file.link[at]), threads.get());
                return Err(self.wrong(format!(
                    "[stack] threads = {threads}, but link {name} has {fewest} of the queues that each thread needs one of; \
                     `ethtool -L` may give it more"
                )));
            }
            Some(threads) => threads.get(),
            None => fewest.min(std::thread::available_parallelism().map_or(1, NonZeroUsize::get)).max(1),
        };
        let share = |thread: usize| {
            let part = |link: &LinkOptions| LinkOptions {
                queues: link.queues.iter().copied().skip(thread).step_by(threads).collect(),
                ..link.clone()
            };
            links.iter().map(part).collect()
        };
        Ok((0..threads).map(share).collect())
    }

    /// The configuration of each of so many threads: their tables of flows together have the bound that the file says.
    #[must_use]
    pub fn for_each_of(&self, threads: usize, mut config: StackConfig) -> StackConfig {
        if let Some(filter) = &mut config.filter {
            filter.gate.conntrack.entries_max = filter.gate.conntrack.entries_max.div_ceil(threads);
        }
        config
    }

    /// How each NIC is opened, by all threads together.
    #[must_use]
    pub fn link_options(&self) -> Vec<LinkOptions> {
        let options = |link: &LinkTable| LinkOptions {
            queues: match &link.queues {
                None | Some(QueueSet::All) => Vec::new(),
                Some(QueueSet::Some(queues)) => queues.clone(),
            },
            kernel_addresses: match &link.kernel_addresses {
                None => KernelAddresses::Interface,
                Some(list) if list.is_empty() => KernelAddresses::None,
                Some(list) => KernelAddresses::Listed(list.clone()),
            },
        };
        self.file.link.iter().map(options).collect()
    }

    /// How the queues of each of so many threads are, of which it has `queues` in all.
    #[must_use]
    pub fn queue_options(&self, queues: u32, threads: u32) -> QueueOptions {
        let table = &self.file.stack;
        let defaults = QueueOptions::default();
        QueueOptions {
            mode: table.mode.into(),
            frames: match table.frames {
                Some(frames) => frames / threads.max(1),
                None => FRAMES_PER_QUEUE.saturating_mul(queues.max(1)),
            },
            rx_ring: table.ring.unwrap_or(defaults.rx_ring),
            tx_ring: table.ring.unwrap_or(defaults.tx_ring),
            huge_pages: match table.huge_pages {
                HugePagesWord::Auto => HugePages::Auto,
                HugePagesWord::Never => HugePages::Never,
                HugePagesWord::Require => HugePages::Require,
            },
            ..defaults
        }
    }
}

/// What TOML's reader says, and what to do where that is not plain.
fn explained(message: &str) -> String {
    let twice = "[[link]] and [[route]] have two brackets: there may be several";
    match message {
        "duplicate key" => format!("this is there twice ({twice})"),
        "invalid type: map, expected a sequence" => format!("this is a table of its own ({twice})"),
        other => other.to_owned(),
    }
}

/// What rules call a link.
pub fn name(link: &LinkTable) -> &str {
    link.name.as_deref().unwrap_or(&link.interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
[[link]]
interface = 'eth0'
name = 'lan'
address = ['192.168.1.254/24', '2001:db8:1::fe/64']

[[link]]
interface = 'eth1'
name = 'wan'
dhcp = true
kernel-addresses = []

[[route]]
to = '2001:db8:9::/48'
via = 'fe80::1'
link = 'lan'

[conntrack]
max = 1000
[conntrack.timeouts]
tcp-established = '2h'
udp = 20
udp-stream = '1d'

[admin]
port = 80
";

    fn parse(text: &str) -> Result<Configuration, String> {
        Configuration::parse(text, Path::new("gw.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_becomes_links_routes_and_bounds() {
        let configuration = parse(FILE).unwrap();
        let config = configuration.stack([0; 32]).unwrap();
        config.validate(1500).unwrap();
        assert_eq!(config.link_names(), ["lan", "wan"]);
        assert_eq!((config.dhcp_link(), config.addresses.len()), (Some(1), 2));
        assert_eq!(config.routes[0].link, Some(0));
        let conntrack = config.filter.unwrap().gate.conntrack;
        assert_eq!((conntrack.entries_max, conntrack.timeouts.tcp_established.as_secs()), (1000, 7200));
        assert_eq!((conntrack.timeouts.udp.as_secs(), conntrack.timeouts.udp_stream.as_secs()), (20, 86_400));
        assert_eq!(configuration.admin_addresses().unwrap().len(), 2);
        assert_eq!(configuration.admin_from().unwrap(), configuration.file.link[0].address);
        let elsewhere = parse(&format!("{FILE}from = ['10.0.0.0/8']\n")).unwrap();
        assert_eq!(elsewhere.admin_from().unwrap(), ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(configuration.link_options()[1].kernel_addresses, KernelAddresses::None);
        assert_eq!(configuration.queue_options(2, 1).frames, 8192);
    }

    #[test]
    fn one_address_needs_no_brackets_and_default_is_a_destination() {
        let text = FILE.replacen("dhcp = true", "address = '203.0.113.2/24'", 1);
        let text =
            text.replacen("[conntrack]", "[[route]]\nto = 'default'\nvia = '203.0.113.1'\n[conntrack]", 1);
        let config = parse(&text).unwrap().stack([0; 32]).unwrap();
        config.validate(1500).unwrap();
        assert_eq!(config.further_links[0].addresses, ["203.0.113.2/24".parse().unwrap()]);
        assert_eq!(config.routes[1].destination, "0.0.0.0/0".parse().unwrap());
    }

    #[test]
    fn the_standards_timeouts_are_a_word() {
        // RFC 4787 REQ-5b, REQ-5c, REQ-8a; RFC 5382 REQ-3a, REQ-5a; RFC 5508 REQ-2a
        let text =
            FILE.replace("max = 1000", "max = 1000\ndefaults = 'rfc'").replace("udp-stream = '1d'", "");
        let text = format!("filtering = 'endpoint-independent'\nunsolicited-syn = 'reset'\n{text}");
        let config = parse(&text).unwrap().stack([0; 32]).unwrap();
        assert_eq!(config.forward.unwrap().unsolicited_syn, UnsolicitedSyn::Reset);
        let gate = config.filter.unwrap().gate;
        let timeouts = gate.conntrack.timeouts;
        let seconds = [timeouts.udp_stream, timeouts.tcp_syn_sent, timeouts.icmp].map(|time| time.as_secs());
        assert_eq!((seconds, gate.filtering), ([300, 240, 60], Filtering::EndpointIndependent));
        // What the file names is what it says.
        assert_eq!((timeouts.udp.as_secs(), timeouts.tcp_established.as_secs()), (20, 7200));
        let config = parse(FILE).unwrap().stack([0; 32]).unwrap();
        assert_eq!(config.forward.unwrap().unsolicited_syn, UnsolicitedSyn::Wait);
        assert!(parse(&FILE.replace("max = 1000", "defaults = 'bsd'")).unwrap_err().contains("bsd"));
    }

    #[test]
    fn queues_are_dealt_out_to_the_threads() {
        let queues = |configuration: &Configuration, rx_queues: &[u32]| {
            let shares = configuration.shares(rx_queues).map_err(|error| error.to_string())?;
            let of = |share: Vec<LinkOptions>| share.into_iter().map(|link| link.queues).collect::<Vec<_>>();
            Ok::<_, String>(shares.into_iter().map(of).collect::<Vec<_>>())
        };
        let two = parse(&format!("{FILE}[stack]\nthreads = 2\nframes = 8192\n")).unwrap();
        let dealt = queues(&two, &[3, 2]).unwrap();
        assert_eq!(dealt, [vec![vec![0, 2], vec![0]], vec![vec![1], vec![1]]]);
        assert_eq!(two.queue_options(3, 2).frames, 4096);
        let config = two.for_each_of(2, two.stack([0; 32]).unwrap());
        assert_eq!(config.filter.unwrap().gate.conntrack.entries_max, 500);
        let error = queues(&two, &[2, 1]).unwrap_err();
        assert!(error.contains("threads = 2") && error.contains("link wan has 1"), "{error}");
        assert_eq!(queues(&parse(FILE).unwrap(), &[8, 1]).unwrap().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (change, line, word) in [
            (("port = 80", "prot = 80"), Some(25), "prot"),
            (("udp = 20", "udp = -20"), Some(21), "-20"),
            (("udp = 20", "udp = true"), Some(21), "a number of seconds"),
            (("dhcp = true", "dhcp = 'yes'"), Some(9), "boolean"),
            (("'192.168.1.254/24'", "'192.168.1.254/99'"), Some(4), "prefix length"),
            (("'2h'", "'two hours'"), Some(20), "two hours"),
            (("dhcp = true", ""), None, "neither `address` nor `dhcp"),
            (("name = 'wan'", "name = 'lan'"), None, "twice"),
            (("link = 'lan'", "link = 'dmz'"), None, "dmz"),
            (("port = 80", "port = 80\nlink = 'wan'"), None, "no static address"),
            (("port = 80", "port = 0"), Some(25), "`0` is no port"),
            (("port = 80", "port = 80000"), Some(25), "1 to 65535"),
            (("port = 80", "port = '80'"), Some(25), "without quotes"),
            (("'192.168.1.254/24'", "'192.168.1.254'"), Some(4), "such as 192.168.1.254/24"),
            (("[[route]]", "[route]"), Some(12), "two brackets"),
            (("[[link]]", "[link]"), Some(6), "two brackets"),
            (("[[link]]\ninterface = 'eth1'", "[[link]]\ninterface = 'lo'"), None, "lo is no NIC"),
            (("name = 'wan'", "name = 'the wan'"), None, "1 to 15 characters"),
            (("name = 'wan'", "name = 'a-very-long-name'"), None, "1 to 15 characters"),
            (("dhcp = true", "address = ['192.168.1.7/24']"), None, "lan and wan are in one network"),
            (("dhcp = true", "address = ['192.168.1.254/32']"), None, "192.168.1.254 is there twice"),
            (("dhcp = true", "address = ['192.168.0.1/16']"), None, "lan and wan are in one network"),
            (("via = 'fe80::1'", "via = '2001:db8:1::fe'"), None, "the gateway's own address"),
            (
                (
                    "[conntrack]",
                    "[[route]]\nto = '2001:db8:9::1/48'\nvia = 'fe80::2'\nlink = 'lan'\n[conntrack]",
                ),
                None,
                "two routes to 2001:db8:9::/48",
            ),
            (("max = 1000", "max = 0"), None, "[conntrack] max"),
            (("[admin]", "[stack]\nthreads = 0\n[admin]"), Some(25), "nonzero"),
        ] {
            let text = FILE.replacen(change.0, change.1, 1);
            assert_ne!(text, FILE, "{change:?}");
            let error = parse(&text)
                .and_then(|file| file.stack([0; 32]).map_err(|error| error.to_string()))
                .unwrap_err();
            assert!(error.starts_with("gw.toml:") && error.contains(word), "{error}");
            if let Some(line) = line {
                assert!(error.starts_with(&format!("gw.toml:{line}:")), "{error}");
            }
        }
    }

    #[test]
    fn a_file_without_links_says_what_is_missing() {
        assert!(parse("link = []").unwrap_err().contains("[[link]]"));
        assert!(parse("").unwrap_err().contains("[[link]]"));
    }
}
