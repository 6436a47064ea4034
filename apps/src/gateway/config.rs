//! The gateway's configuration file, from text to what the stack and the driver take. Every key is checked here or where it
//! is used, and a wrong one is refused with the file's name and line.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bywash::config::{
    Cidr, FilterConfig, ForwardConfig, LinkConfig, ReversePath, Route, StackConfig, UnsolicitedSyn,
};
use bywash::flow::conntrack::{ConntrackConfig, Timeouts};
use bywash::flow::gate::GateConfig;
use bywash::flow::nat::Filtering;
use bywash::runtime::Spin;
use bywash_afxdp::{HugePages, KernelAddresses, LinkOptions, Mode, QueueOptions};
use serde::Deserialize;
use serde::de::Error as _;

use crate::config_file::{ConfigFileError, read};
use crate::error::AppError;
use crate::stack::read_rules;
use crate::units::{self, QueueSet};

/// Frames of the packet memory for each queue of each NIC, unless the file says how many there are in all.
const FRAMES_PER_QUEUE: u32 = 4096;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// The NICs.
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
    #[serde(default, deserialize_with = "parsed_list")]
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
}

/// A route.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteTable {
    /// Destination.
    #[serde(deserialize_with = "parsed")]
    pub to: Cidr,
    /// Gateway.
    pub via: IpAddr,
    /// Name of its link, for link-local gateways.
    pub link: Option<String>,
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

/// A value written as the command line has it.
fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

fn parsed_option<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    parsed(deserializer).map(Some)
}

fn parsed_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let list = Vec::<String>::deserialize(deserializer)?;
    list.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

/// A number of seconds, or a time with its unit.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct Time;

    impl serde::de::Visitor<'_> for Time {
        type Value = Duration;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a number of seconds, or a time such as '5d'")
        }

        fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Duration, E> {
            self.visit_str(&seconds.to_string())
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            units::duration(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(Time).map(Some)
}

fn spin<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Spin>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::cli::spin(&text).map(Some).map_err(D::Error::custom)
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
                message: error.message().to_owned(),
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
        let links = &self.file.link;
        if links.is_empty() {
            return Err(self.wrong("no link: a gateway needs a [[link]] table with `interface` for each NIC"));
        }
        for (at, link) in links.iter().enumerate() {
            let same = |other: &&LinkTable| other.interface == link.interface || name(other) == name(link);
            if links[..at].iter().find(same).is_some() {
                return Err(self.wrong(format!("[[link]] {} is there twice", name(link))));
            }
            if link.address.is_empty() && !link.dhcp {
                let name = name(link);
                return Err(self.wrong(format!("[[link]] {name} has neither `address` nor `dhcp = true`")));
            }
        }
        for port in
            [self.file.admin.as_ref().map(|admin| admin.port), self.file.echo.as_ref().map(|echo| echo.port)]
        {
            if port == Some(0) {
                return Err(self.wrong("port 0 is no port to serve on"));
            }
        }
        if let (Some(admin), Some(echo)) = (&self.file.admin, &self.file.echo)
            && admin.port == echo.port
        {
            return Err(self.wrong(format!("[admin] and [echo] both want port {}", admin.port)));
        }
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
        config.forward = Some(ForwardConfig {
            reverse_path: match self.file.reverse_path {
                ReversePathWord::Off => ReversePath::Off,
                ReversePathWord::Loose => ReversePath::Loose,
                ReversePathWord::Strict => ReversePath::Strict,
            },
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
            Ok(Route { destination: route.to, gateway: route.via, link })
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
            (("port = 80", "port = 0"), None, "port 0"),
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
        assert!(parse("").unwrap_err().contains("link"));
    }
}
