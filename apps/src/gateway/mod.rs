//! `bywash gateway`: several NICs, one stack: routes, filters, translates, and serves a page and echo at its own addresses.
//!
//! [`config`] reads the file, [`admin`] is the page. Each thread drives some queues of every NIC as one device with one packet
//! memory: a forwarded frame goes from the one NIC's ring to the other's.

pub mod admin;
pub mod config;
pub mod sense;
mod values;

use std::fmt::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use bywash::config::{AddressUse, Cidr, StackConfig};
use bywash::runtime::net::{SocketOptions, TcpListener};
use bywash::runtime::{BoxError, Context, Metrics, Pinning, Runtime, Spin};
use bywash::shard::LinkTraffic;
use bywash::time::Duration;
use bywash_afxdp::{AttachOptions, LinksOpener, Nic, Steer};

use crate::cli::{GatewayArgs, GlobalArgs};
use crate::error::AppError;
use crate::http::server::{self, Server};
use crate::http::watch::Timeouts;
use crate::units::bytes_for_people;
use crate::{echo, kernel_net, signals, stack};
use admin::Admin;
use config::{Configuration, LinkTable};

/// Connections to the page, and to the echo service, at a time.
const CONNECTIONS_MAX: usize = 10_000;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 1024;
/// How long the page's connections may be silent, by what they are at.
const TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(60),
    header: Duration::from_secs(10),
    stall: Duration::from_secs(30),
};

/// Runs `bywash gateway`.
///
/// # Errors
/// As [`AppError`] says.
pub fn run(args: &GatewayArgs, global: &GlobalArgs) -> Result<(), AppError> {
    let Some(path) = &global.config else {
        return Err(AppError::Usage(
            "no configuration: say --config FILE; `bywash help gateway` shows one".into(),
        ));
    };
    let configuration = Configuration::read(path)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| AppError::System { what: "get random numbers", error: error.into() })?;
    let config = configuration.stack(seed)?;
    if args.check {
        return check(path, &configuration, &config);
    }
    warn_of_strangers(&config);
    let opened = Opened::open(path, &configuration, &config)?;
    opened.start(args, &configuration, config)
}

/// `--check`: says what the files mean, without touching a NIC.
fn check(path: &Path, configuration: &Configuration, config: &StackConfig) -> Result<(), AppError> {
    // The MTU of the NICs is not looked at: any that links have.
    let mtu = usize::from(u16::MAX);
    let links = || config.further_links.iter().try_for_each(|link| link.validate_mtu(mtu));
    config
        .validate(mtu)
        .and_then(|()| links())
        .map_err(|error| AppError::Usage(format!("{}: {error}", path.display())))?;
    println!("{} is good: {}", path.display(), names(configuration));
    warn_of_strangers(config);
    if let Some(filter) = &config.filter {
        print!("{}", filter.rules);
    }
    Ok(())
}

/// Packets to an address that the kernel has as well are the kernel's: nothing of the gateway's is there.
fn warn_of_kernel(link: &LinkTable) {
    if link.kernel_addresses.is_some() {
        return;
    }
    let of_kernel = kernel_net::addresses(&link.interface).unwrap_or_default();
    for cidr in link.address.iter().filter(|own| of_kernel.iter().any(|cidr| cidr.addr == own.addr)) {
        tracing::warn!(
            "the kernel has {} on {}, too, and what is sent to it stays with the kernel: the gateway forwards, but serves nothing \
             there; `ip address del {cidr} dev {}` leaves it to the gateway",
            cidr.addr,
            link.interface,
            link.interface
        );
    }
}

/// Rules that name interfaces which are no link never match, or, with `!`, always.
fn warn_of_strangers(config: &StackConfig) {
    let Some(filter) = &config.filter else { return };
    let links = config.link_names();
    let strangers = sense::strangers(&filter.rules, &links);
    if !strangers.is_empty() {
        tracing::warn!(
            "rules name {}, and no link has that name: there are {}",
            strangers.join(", "),
            links.join(", ")
        );
    }
}

fn names(configuration: &Configuration) -> String {
    let links = configuration.file.link.iter().map(|link| {
        let mut text = format!("{} ({})", config::name(link), link.interface);
        for address in &link.address {
            let _ = write!(text, " {address}");
        }
        if link.dhcp {
            text.push_str(" DHCP");
        }
        if link.advertise.is_some() {
            text.push_str(" advertised");
        }
        text
    });
    links.collect::<Vec<_>>().join(", ")
}

/// NICs with their steering programs, not yet running.
struct Opened {
    nics: Vec<(Nic, Steer)>,
}

impl Opened {
    fn open(path: &Path, configuration: &Configuration, config: &StackConfig) -> Result<Self, AppError> {
        let mut nics = Vec::new();
        for link in &configuration.file.link {
            let nic = Nic::open(&link.interface)?;
            if !nic.is_up {
                let name = &link.interface;
                return Err(AppError::Unsuccessful(format!("{name} is down: `ip link set {name} up` first")));
            }
            if !nic.has_carrier {
                tracing::warn!(
                    "{} has no carrier: is the cable plugged in, the other end up?",
                    link.interface
                );
            }
            warn_of_kernel(link);
            nics.push(nic);
        }
        let mtu = nics.iter().map(|nic| nic.mtu).min().unwrap_or(0);
        config.validate(mtu).map_err(|error| AppError::Usage(format!("{}: {error}", path.display())))?;
        let attach =
            AttachOptions { mode: configuration.file.stack.mode.into(), address_use: AddressUse::Own };
        let attached = |nic: Nic| {
            let steer = nic.attach(&attach)?;
            Ok::<_, bywash_afxdp::Error>((nic, steer))
        };
        Ok(Self { nics: nics.into_iter().map(attached).collect::<Result<_, _>>()? })
    }

    fn start(
        self,
        args: &GatewayArgs,
        configuration: &Configuration,
        config: StackConfig,
    ) -> Result<(), AppError> {
        let rx_queues: Vec<u32> = self.nics.iter().map(|(nic, _)| nic.rx_queues).collect();
        let shares = configuration.shares(&rx_queues)?;
        let (threads, mut queues) = (shares.len(), 0);
        let mut openers = Vec::with_capacity(threads);
        for share in shares {
            let own = share.iter().map(|link| link.queues.len() as u32).sum();
            queues += own;
            let links: Vec<_> = self.nics.iter().map(|(_, steer)| steer).zip(share).collect();
            openers.push(LinksOpener::new(&links, &configuration.queue_options(own, threads as u32))?);
        }
        let reload = configuration.rules_path().map(stack::reload_rules);
        signals::install(reload).map_err(|error| AppError::System { what: "listen for signals", error })?;
        let pinning = match configuration.file.stack.cpu {
            None => Pinning::Auto,
            Some(first) => Pinning::Cpus((first..first + threads).collect()),
        };
        let mut builder = Runtime::builder(configuration.for_each_of(threads, config))
            .spin(configuration.file.stack.spin.unwrap_or(Spin::Off))
            .pin(pinning)
            .drain_timeout(args.drain_timeout);
        if let Some(path) = &args.pcap {
            builder = builder.pcap(path);
        }
        if let Some(path) = stack::control_path(args.no_control, args.control.as_ref()) {
            builder = builder.control(path);
        }
        let modes: Arc<Mutex<Vec<String>>> = Arc::default();
        for opener in openers {
            let obtained = modes.clone();
            builder = builder.queue(move || -> Result<_, bywash_afxdp::Error> {
                let links = opener.open()?;
                let mode = |link: usize| {
                    links.queues(link).first().map_or_else(String::new, |queue| queue.mode().to_string())
                };
                let of_links = (0..bywash::device::Device::links(&links)).map(mode);
                obtained.lock().expect("nobody panics with it").extend(of_links);
                Ok(links)
            });
        }
        let plan = Plan {
            admin: configuration.admin_addresses()?,
            admin_from: configuration.admin_from()?,
            admin_port: configuration.file.admin.as_ref().map_or(0, |admin| admin.port),
            echo_port: configuration.file.echo.as_ref().map(|echo| echo.port),
        };
        let runtime = builder.start(move |context| serve(plan.clone(), context))?;
        signals::drain_on_signal(runtime.handle());
        let mut modes = modes.lock().expect("nobody panics with it").clone();
        modes.sort();
        modes.dedup();
        tracing::info!(
            "ready: gateway between {}, {queues} queues on {threads} {}, {}",
            names(configuration),
            if threads == 1 { "thread" } else { "threads" },
            modes.join(" and ")
        );
        let stats = args.stats_interval.filter(|interval| !interval.is_zero());
        let stats = stats.map(|interval| stack::log_figures(runtime.handle(), interval, figures)).transpose();
        let _stats =
            stats.map_err(|error| AppError::System { what: "start the thread that logs figures", error })?;
        println!("{}", runtime.wait()?);
        Ok(())
    }
}

/// What the gateway serves itself.
#[derive(Clone)]
struct Plan {
    /// Where the page is.
    admin: Vec<std::net::IpAddr>,
    admin_port: u16,
    /// Who may ask for it.
    admin_from: Vec<Cidr>,
    echo_port: Option<u16>,
}

async fn serve(plan: Plan, context: Context) -> Result<(), BoxError> {
    let options = SocketOptions { nodelay: true, ..SocketOptions::default() };
    let server = Server::new(Admin::new(context.handle()), TIMEOUTS, CONNECTIONS_MAX);
    let from = plan.admin_from;
    let page = Rc::new(server.only_for(move |peer| from.iter().any(|network| network.contains(peer))));
    let mut accepting = Vec::new();
    for &addr in &plan.admin {
        let addr = std::net::SocketAddr::new(addr, plan.admin_port);
        let listener = TcpListener::bind_with(addr, BACKLOG, options.clone())?;
        accepting.push(bywash::runtime::spawn(server::accept(listener, page.clone(), context.clone())));
    }
    let echo = plan.echo_port.map(|port| echo::Plan {
        port,
        tcp: true,
        udp: true,
        backlog: BACKLOG,
        connections_max: CONNECTIONS_MAX,
        options,
    });
    match echo {
        Some(plan) => echo::serve(plan, context).await?,
        None => context.shutdown().await,
    }
    drop(accepting);
    Ok(())
}

/// What happened between two snapshots, link by link.
fn figures(before: &Metrics, now: &Metrics) -> String {
    let seconds = (now.elapsed.saturating_sub(before.elapsed)).as_secs_f64().max(1e-3);
    let (old, new) = (before.counters(), now.counters());
    let rate = |old: u64, new: u64| new.saturating_sub(old) as f64 / seconds;
    let mut text = String::new();
    let earlier = before.links();
    for (at, link) in now.links().iter().enumerate() {
        let earlier = earlier.get(at).map(|link| link.traffic).unwrap_or_default();
        let LinkTraffic { rx_packets, rx_bytes, tx_packets, tx_bytes } = link.traffic;
        let _ = write!(
            text,
            "{}: in {:.0} packets/s {}/s, out {:.0} packets/s {}/s; ",
            link.name,
            rate(earlier.rx_packets, rx_packets),
            bytes_for_people(rate(earlier.rx_bytes, rx_bytes) as u64),
            rate(earlier.tx_packets, tx_packets),
            bytes_for_people(rate(earlier.tx_bytes, tx_bytes) as u64),
        );
    }
    let drops = |counters: &bywash::counters::Counters| counters.drops().map(|(_, count)| count).sum::<u64>();
    let cpu = now.cpu().saturating_sub(before.cpu()).as_secs_f64() / seconds * 100.0;
    let flows = now.shards.iter().filter_map(|shard| shard.flows).map(|(flows, _)| flows).sum::<usize>();
    let _ = write!(
        text,
        "forwarded {:.0} packets/s, {flows} flows, {} dropped, CPU {cpu:.1} %",
        rate(old.forwarded_packets, new.forwarded_packets),
        drops(&new).saturating_sub(drops(&old)),
    );
    text
}
