//! From the options to a running stack: look at the NIC, put the configuration together, attach the steering program, open
//! every queue on its own thread, say what was obtained, and sum up at the end.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bywash::config::{AddressUse, Cidr, FilterConfig, Route, StackConfig};
use bywash::flow::filter::RuleSet;
use bywash::limits::{INTERFACE_ADDRESSES, INTERFACE_ROUTES};
use bywash::runtime::control_socket;
use bywash::runtime::time::timeout;
use bywash::runtime::{BoxError, Context, Handle, Metrics, Pinning, Runtime, Summary};
use bywash::tcp::SocketOptions;
use bywash_afxdp::{AttachOptions, HugePages, Mode, Nic, ObtainedMode, PortAddresses, QueueOptions, Steer};
use futures_lite::future::or;

use crate::cli::{HugePagesArg, ModeArg, StackArgs, SwitchArg, TcpArgs};
use crate::error::AppError;
use crate::reservation::{Protocol, Reservation};
use crate::units::{QueueSet, bytes_for_people};
use crate::{kernel_net, signals};

/// Name servers that the stack's resolver takes.
const NAME_SERVERS_MAX: usize = 4;
/// How long DHCP servers may be silent before the log says so. Those that ping an address before they offer it take 3 s.
const DHCP_SILENCE: Duration = Duration::from_secs(5);

/// A NIC with its steering program and everything decided, not yet running.
pub struct Prepared {
    nic: Nic,
    steer: Steer,
    queues: Vec<u32>,
    queue_options: QueueOptions,
    config: StackConfig,
    args: StackArgs,
    reservation: Reservation,
}

/// A running stack.
pub struct Running {
    runtime: Runtime,
    _reservation: Reservation,
    /// Dropping it ends the thread that logs figures.
    _stats: Option<Sender<()>>,
}

/// Looks at the NIC and decides; `purpose` names the command in messages.
///
/// # Errors
/// Options that contradict each other or the NIC; no privilege.
pub fn prepare(args: &StackArgs) -> Result<Prepared, AppError> {
    let Some(interface) = &args.interface else {
        return Err(AppError::Usage(
            "no interface: say --interface NAME, or `interface = \"NAME\"` in the configuration file; `bywash nic` lists them"
                .into(),
        ));
    };
    let nic = Nic::open(interface)?;
    if !nic.is_up {
        return Err(AppError::Unsuccessful(format!(
            "{interface} is down: `ip link set {interface} up` first"
        )));
    }
    if !nic.has_carrier {
        tracing::warn!("{interface} has no carrier: is the cable plugged in, the other end up?");
    }
    let config = stack_config(args, interface)?;
    config.validate(nic.mtu).map_err(|error| AppError::Usage(error.to_string()))?;
    let queues = chosen_queues(&args.queues, nic.rx_queues);
    let mode = match args.mode {
        ModeArg::Auto => Mode::Auto,
        ModeArg::ZeroCopy => Mode::ZeroCopy,
        ModeArg::Copy => Mode::Copy,
        ModeArg::Generic => Mode::Generic,
    };
    let queue_options = queue_options(args, mode, &config);
    let steer = nic.attach(&AttachOptions { mode, address_use: config.address_use })?;
    for &queue in &queues {
        steer.queue(queue, &queue_options)?; // wrong options are said before any thread starts
    }
    Ok(Prepared {
        nic,
        steer,
        queues,
        queue_options,
        config,
        args: args.clone(),
        reservation: Reservation::default(),
    })
}

impl Prepared {
    /// Starts a thread for every queue and runs `app` on each. `what` says in one line what is served, for the log.
    ///
    /// # Errors
    /// A queue that is taken, memory that cannot be locked, and so on.
    pub fn start<F, Fut>(self, what: &str, app: F) -> Result<Running, AppError>
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + 'static,
    {
        let reload = self.args.rules.clone().map(reload_rules);
        signals::install(reload).map_err(|error| AppError::System { what: "listen for signals", error })?;
        let obtained: Arc<Mutex<Vec<ObtainedMode>>> = Arc::default();
        let pinning = self.args.cpus.clone().map_or(Pinning::Auto, |cpus| Pinning::Cpus(cpus.0));
        let mut builder = Runtime::builder(self.config.clone())
            .spin(self.args.spin)
            .pin(pinning)
            .drain_timeout(self.args.drain_timeout);
        if let Some(path) = &self.args.pcap {
            builder = builder.pcap(path);
        }
        if let Some(path) = control_path(self.args.no_control, self.args.control.as_ref()) {
            builder = builder.control(path);
        }
        for &queue in &self.queues {
            let opener = self.steer.queue(queue, &self.queue_options)?;
            let obtained = obtained.clone();
            builder = builder.queue(move || -> Result<_, bywash_afxdp::Error> {
                let queue = opener.open()?;
                obtained.lock().expect("nobody panics with it").push(queue.mode());
                Ok(queue)
            });
        }
        let dhcp = self.config.dhcp;
        let runtime = builder.start(move |context| {
            let asks = dhcp && context.shard() == 0;
            let waiting = context.clone();
            let app = app(context);
            // Either alone: what is said about a missing lease must not keep a command from ending.
            async move { if asks { or(app, tell_of_silence(waiting)).await } else { app.await } }
        })?;
        signals::drain_on_signal(runtime.handle());
        let obtained = obtained.lock().expect("nobody panics with it").clone();
        tracing::info!("{}", self.start_line(what, &obtained));
        let stats = self.args.stats_interval.filter(|interval| !interval.is_zero());
        let stats = stats.map(|interval| log_figures(runtime.handle(), interval, figures)).transpose();
        let stats =
            stats.map_err(|error| AppError::System { what: "start the thread that logs figures", error })?;
        Ok(Running { runtime, _reservation: self.reservation, _stats: stats })
    }

    /// Says that `port` will be served, to find out before it is whether that would take it from a program on a shared
    /// address.
    ///
    /// # Errors
    /// A port that is taken.
    pub fn reserve(&mut self, protocol: Protocol, port: u16) -> Result<(), AppError> {
        match self.config.address_use {
            AddressUse::Own => Ok(()),
            AddressUse::Shared => {
                self.reservation.add(&self.config.addresses, self.nic.ifindex, protocol, port)
            }
        }
    }

    /// The largest IP packet in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.args.mtu.map_or(self.nic.mtu, |mtu| mtu.min(self.nic.mtu))
    }

    /// The addresses as configured; DHCP's are not known yet.
    #[must_use]
    pub fn addresses(&self) -> &[Cidr] {
        &self.config.addresses
    }

    fn start_line(&self, what: &str, obtained: &[ObtainedMode]) -> String {
        let mut modes: Vec<String> = obtained.iter().map(|mode| mode.bind.to_string()).collect();
        modes.sort_unstable();
        modes.dedup();
        let queues: Vec<String> = self.queues.iter().map(ToString::to_string).collect();
        let plural = if queues.len() == 1 { "queue" } else { "queues" };
        let mut addresses: Vec<String> = self.config.addresses.iter().map(ToString::to_string).collect();
        if self.config.dhcp {
            addresses.push("DHCP".into());
        }
        let whose = match self.config.address_use {
            AddressUse::Own => "own",
            AddressUse::Shared => "shared with the kernel",
        };
        format!(
            "ready: {what} on {} ({}), {plural} {} of {}, {}, {} ({whose})",
            self.nic.name,
            self.nic.driver.name,
            queues.join(","),
            self.nic.rx_queues,
            modes.join(" and "),
            addresses.join(", "),
        )
    }
}

impl Running {
    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.runtime.handle()
    }

    /// Waits for the end and returns the final figures.
    ///
    /// # Errors
    /// What ended the runtime early.
    pub fn wait(self) -> Result<Summary, AppError> {
        Ok(self.runtime.wait()?)
    }
}

/// No address came by DHCP.
#[derive(Debug, thiserror::Error)]
#[error("no address: no DHCP server answered within {0:?}; --address CIDR gives one without")]
pub struct NoLease(Duration);

/// Waits until the stack has an address, which takes time with `--dhcp` only, or is to end.
///
/// # Errors
/// [`NoLease`] after `limit`.
pub async fn address_within(context: &Context, limit: Duration) -> Result<(), NoLease> {
    timeout(limit, or(context.configured(), context.shutdown())).await.map_err(|_| NoLease(limit))
}

/// Warns when no DHCP server answers; never ends.
async fn tell_of_silence<T>(context: Context) -> T {
    if timeout(DHCP_SILENCE, context.configured()).await.is_err() {
        tracing::warn!("no DHCP server has answered for {DHCP_SILENCE:?}; still asking");
    }
    std::future::pending().await
}

/// Where the control socket goes. Without a place for it, and none asked for, the stack runs without.
pub fn control_path(no_control: bool, control: Option<&PathBuf>) -> Option<PathBuf> {
    if no_control || control.is_some() {
        return control.cloned();
    }
    control_socket::default_path()
        .inspect_err(|error| {
            tracing::warn!(
                "no control socket for `bywash ss` and `bywash ct`: {error}; --control PATH gives it a place"
            );
        })
        .ok()
}

/// The queues to use, in order. A number too high is left to the driver, which says how many there are.
fn chosen_queues(wish: &QueueSet, available: u32) -> Vec<u32> {
    match wish {
        QueueSet::All => (0..available).collect(),
        QueueSet::Some(queues) => queues.clone(),
    }
}

fn queue_options(args: &StackArgs, mode: Mode, config: &StackConfig) -> QueueOptions {
    let defaults = QueueOptions::default();
    let huge_pages = match args.huge_pages {
        HugePagesArg::Auto => HugePages::Auto,
        HugePagesArg::Never => HugePages::Never,
        HugePagesArg::Require => HugePages::Require,
    };
    let port_addresses = PortAddresses::Listed(config.addresses.iter().map(|cidr| cidr.addr).collect());
    QueueOptions {
        mode,
        frames: args.frames.unwrap_or(defaults.frames),
        rx_ring: args.ring.unwrap_or(defaults.rx_ring),
        tx_ring: args.ring.unwrap_or(defaults.tx_ring),
        mtu: args.mtu,
        huge_pages,
        port_addresses,
        ..defaults
    }
}

/// The stack's configuration, with the kernel's addresses where they are shared.
fn stack_config(args: &StackArgs, interface: &str) -> Result<StackConfig, AppError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| AppError::System { what: "get random numbers", error: error.into() })?;
    let mut config = StackConfig::new(args.address.clone(), seed);
    config.dhcp = args.dhcp;
    config.mtu = args.mtu;
    config.partial_checksums = args.partial_checksums.into();
    config.tcp.ecn = args.ecn;
    config.gro = args.gro == SwitchArg::On;
    config.gso = args.gso == SwitchArg::On;
    config.tcp.options.congestion = args.congestion;
    if let Some(path) = &args.rules {
        let mut filter = FilterConfig::new(read_rules(path)?, interface.to_owned());
        if let Some(entries_max) = args.conntrack_max {
            filter.gate.conntrack.entries_max = entries_max;
        }
        config.filter = Some(filter);
    }
    config.dns_servers.clone_from(&args.dns);
    config.routes = args.gateway.iter().map(|&gateway| default_route(gateway)).collect();
    config.routes.extend(&args.route);
    if args.share_address {
        share_with_kernel(&mut config, interface)?;
    } else if config.addresses.is_empty() && !config.dhcp {
        return Err(AppError::Usage(
            "no address: say --address CIDR for one of the stack's own, --share-address for the kernel's, or --dhcp".into(),
        ));
    }
    Ok(config)
}

/// Largest file of rules read, in bytes: some hundred thousand rules; a larger one is a mistaken path.
const RULES_BYTES_MAX: u64 = 64 << 20;

/// Reads a file of rules.
///
/// # Errors
/// It cannot be read, or a rule is wrong.
pub fn read_rules(path: &Path) -> Result<Arc<RuleSet>, AppError> {
    use std::io::Read as _;
    let file_error = |error: std::io::Error| {
        let error = match error.kind() {
            std::io::ErrorKind::InvalidData => {
                std::io::Error::other("it is no text in UTF-8: save it as such")
            }
            _ => error,
        };
        AppError::File { what: "read the rules", path: path.to_owned(), error }
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(file_error)?;
    file.take(RULES_BYTES_MAX + 1).read_to_string(&mut text).map_err(file_error)?;
    if text.len() as u64 > RULES_BYTES_MAX {
        return Err(AppError::Usage(format!(
            "{}: more than {RULES_BYTES_MAX} bytes are no rules",
            path.display()
        )));
    }
    let rules = RuleSet::parse(&text, &path.display().to_string());
    rules.map(Arc::new).map_err(|error| AppError::Usage(error.to_string()))
}

/// Reads the rules again at SIGHUP; wrong ones are told, and the old ones stay.
#[must_use]
pub fn reload_rules(path: PathBuf) -> signals::Reload {
    Box::new(move |handle| {
        let set = read_rules(&path).and_then(|rules| {
            handle.set_rules(&rules).map_err(|error| AppError::Usage(format!("{}: {error}", path.display())))
        });
        match set {
            Ok(()) => tracing::info!("rules read again from {}", path.display()),
            Err(error) => tracing::error!("the rules stay as they were: {error}"),
        }
    })
}

/// Takes over what the kernel has on the interface, as far as it fits and was not said otherwise.
fn share_with_kernel(config: &mut StackConfig, interface: &str) -> Result<(), AppError> {
    config.address_use = AddressUse::Shared;
    let error = |error| AppError::System { what: "list the interface's addresses", error };
    config.addresses = kernel_net::addresses(interface).map_err(error)?;
    if config.addresses.is_empty() {
        return Err(AppError::Unsuccessful(format!(
            "the kernel has no address on {interface} to share: add one (`ip address add ...`) or use --address"
        )));
    }
    if config.addresses.len() > INTERFACE_ADDRESSES {
        tracing::warn!(
            "{interface} has more than {INTERFACE_ADDRESSES} addresses: the last ones are not served"
        );
        config.addresses.truncate(INTERFACE_ADDRESSES);
    }
    let given = config.routes.len();
    for route in kernel_net::gateways(interface) {
        let known = config.routes[..given].iter().any(|other| other.destination == route.destination);
        let on_link = config.addresses.iter().any(|address| address.contains(route.gateway));
        if !known && on_link && config.routes.len() < INTERFACE_ROUTES {
            config.routes.push(route);
        } else {
            tracing::debug!(destination = %route.destination, gateway = %route.gateway, "the kernel's route is not used");
        }
    }
    if config.dns_servers.is_empty() {
        config.dns_servers = kernel_net::name_servers();
        config.dns_servers.truncate(NAME_SERVERS_MAX);
    }
    Ok(())
}

/// The route to everywhere through `gateway`.
fn default_route(gateway: std::net::IpAddr) -> Route {
    let everywhere = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    Route { destination: everywhere.parse().expect("a network"), gateway, link: None }
}

/// A listener's options from the command line.
#[must_use]
pub fn socket_options(stack: &StackArgs, args: &TcpArgs) -> SocketOptions {
    let mut options = SocketOptions {
        nodelay: true,
        user_timeout: args.user_timeout,
        congestion: stack.congestion,
        ..SocketOptions::default()
    };
    if let Some(keepalive) = args.keepalive {
        options.keepalive = true;
        options.keepalive_idle = keepalive.idle;
        options.keepalive_interval = keepalive.interval;
        options.keepalive_count = keepalive.count;
    }
    if let Some(bytes) = args.receive_buffer {
        options.receive_buffer_bytes = bytes;
    }
    options.fastopen_qlen = args.fastopen.unwrap_or(0);
    if let Some(bytes) = args.send_buffer {
        options.send_buffer_bytes = bytes;
    }
    options
}

/// Starts a thread that logs what happened in every `interval`, until the returned sender is dropped.
///
/// # Errors
/// When the system refuses the thread.
pub fn log_figures(
    handle: Handle,
    interval: Duration,
    figures: fn(&Metrics, &Metrics) -> String,
) -> std::io::Result<Sender<()>> {
    let (keep, ended) = channel::<()>();
    let log = move || {
        let mut before = handle.metrics();
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(interval) {
            let now = handle.metrics();
            tracing::info!("{}", figures(&before, &now));
            before = now;
        }
    };
    std::thread::Builder::new().name("bywash-figures".into()).spawn(log)?;
    Ok(keep)
}

/// What happened between two snapshots.
fn figures(before: &Metrics, now: &Metrics) -> String {
    let seconds = (now.elapsed.saturating_sub(before.elapsed)).as_secs_f64().max(1e-3);
    let (old, new) = (before.counters(), now.counters());
    let rate = |old: u64, new: u64| (new.saturating_sub(old)) as f64 / seconds;
    let drops = |counters: &bywash::counters::Counters| counters.drops().map(|(_, count)| count).sum::<u64>();
    let cpu = now.cpu().saturating_sub(before.cpu()).as_secs_f64() / seconds * 100.0;
    let tcp = now.tcp();
    format!(
        "in {:.0} packets/s {}/s, out {:.0} packets/s {}/s, {} connections, {} in TIME-WAIT, {} sent again, {} dropped, CPU {cpu:.1} %",
        rate(old.rx_packets, new.rx_packets),
        bytes_for_people(rate(old.rx_bytes, new.rx_bytes) as u64),
        rate(old.tx_packets, new.tx_packets),
        bytes_for_people(rate(old.tx_bytes, new.tx_bytes) as u64),
        tcp.connections,
        tcp.time_wait,
        new.tcp_retransmits.saturating_sub(old.tcp_retransmits),
        drops(&new).saturating_sub(drops(&old)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bywash::config::PartialChecksums;
    use clap::Parser;

    fn args(more: &[&str]) -> StackArgs {
        let line = ["bywash", "echo", "-i", "lo"].iter().chain(more);
        match crate::cli::Cli::parse_from(line).command {
            crate::cli::Command::Echo(args) => args.stack,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn own_addresses_gateways_and_routes_become_the_configuration() {
        let args = args(&[
            "--address",
            "192.0.2.10/24",
            "--address",
            "2001:db8::10/64",
            "--gateway",
            "192.0.2.1",
            "--gateway",
            "2001:db8::1",
            "--route",
            "198.51.100.0/24 via 192.0.2.2",
            "--dns",
            "192.0.2.53",
        ]);
        let config = stack_config(&args, "lo").unwrap();
        assert_eq!((config.addresses.len(), config.address_use), (2, AddressUse::Own));
        let destinations: Vec<_> = config.routes.iter().map(|route| route.destination.to_string()).collect();
        assert_eq!(destinations, ["0.0.0.0/0", "::/0", "198.51.100.0/24"]);
        assert_eq!(config.dns_servers.len(), 1);
        assert_ne!(config.seed, stack_config(&args, "lo").unwrap().seed);
    }

    #[test]
    fn partial_checksums_are_the_devices_choice_unless_said() {
        let setting = |more: &[&str]| {
            let line = [&["--address", "192.0.2.10/24"], more].concat();
            stack_config(&args(&line), "lo").unwrap().partial_checksums
        };
        assert_eq!(setting(&[]), PartialChecksums::Auto);
        assert_eq!(setting(&["--partial-checksums", "verify"]), PartialChecksums::Verify);
        assert_eq!(setting(&["--partial-checksums", "trust"]), PartialChecksums::Trust);
    }

    #[test]
    fn shared_addresses_are_the_kernels() {
        let config = stack_config(&args(&["--share-address"]), "lo").unwrap();
        assert_eq!(config.address_use, AddressUse::Shared);
        assert!(config.addresses.contains(&"127.0.0.1/8".parse().unwrap()));
    }

    #[test]
    fn no_address_and_no_interface_are_usage_errors() {
        assert!(
            matches!(stack_config(&args(&[]), "lo"), Err(AppError::Usage(text)) if text.contains("--dhcp"))
        );
        let nameless = StackArgs { interface: None, ..args(&[]) };
        assert!(matches!(prepare(&nameless), Err(AppError::Usage(text)) if text.contains("--interface")));
    }

    #[test]
    fn the_options_of_a_listener_follow_the_command_line() {
        let tcp = TcpArgs {
            backlog: 5,
            keepalive: Some(crate::cli::KeepaliveArg {
                idle: Duration::from_secs(2),
                interval: Duration::from_secs(1),
                count: 3,
            }),
            user_timeout: Some(Duration::from_secs(7)),
            receive_buffer: Some(65_536),
            send_buffer: None,
            fastopen: Some(9),
        };
        let stack = args(&["--congestion", "bbr"]);
        let options = socket_options(&stack, &tcp);
        assert_eq!(options.congestion.name(), "bbr");
        assert!(options.keepalive && options.nodelay);
        assert_eq!((options.keepalive_idle.as_secs(), options.keepalive_count), (2, 3));
        assert_eq!((options.user_timeout, options.receive_buffer_bytes), (tcp.user_timeout, 65_536));
        assert_eq!(options.fastopen_qlen, 9);
        assert_eq!(options.send_buffer_bytes, SocketOptions::default().send_buffer_bytes);
    }
}
