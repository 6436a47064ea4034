//! `bywash ping`: echo requests from the stack, one line a reply, statistics at the end.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bywash::runtime::net::{Pinger, lookup};
use bywash::runtime::time::{now, timeout};
use bywash::runtime::{BoxError, Context};

use crate::cli::PingArgs;
use crate::error::AppError;
use crate::stack;

/// How long DHCP may take, and name resolution after it.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// An IPv6 header and ICMPv6's; IPv4's are 20 bytes less.
const HEADERS_MAX: usize = 48;

/// What came of it.
#[derive(Clone, Debug, Default)]
struct Outcome {
    addr: Option<IpAddr>,
    statistics: Statistics,
}

/// Runs `bywash ping`.
///
/// # Errors
/// [`AppError::Unsuccessful`] when no reply came; otherwise as [`AppError`] says.
pub fn run(args: &PingArgs) -> Result<(), AppError> {
    let prepared = stack::prepare(&args.stack)?;
    let unfragmented = prepared.mtu().saturating_sub(HEADERS_MAX);
    if args.stack.share_address && usize::from(args.size) > unfragmented {
        tracing::warn!(
            "fragments to a shared address stay with the kernel: replies will be missing; use --size {unfragmented} or less, or \
             an address of the stack's own (--address)"
        );
    }
    let outcome: Arc<Mutex<Outcome>> = Arc::default();
    let plan = Plan {
        host: args.host.clone(),
        count: args.count.unwrap_or(u64::MAX),
        interval: args.interval,
        size: usize::from(args.size),
        timeout: args.timeout,
        family: match (args.ipv4, args.ipv6) {
            (true, _) => Some(Family::V4),
            (_, true) => Some(Family::V6),
            _ => None,
        },
    };
    let shared = outcome.clone();
    let running = prepared
        .start(&format!("ping {}", args.host), move |context| ping(plan.clone(), context, shared.clone()))?;
    let ended = running.wait();
    let outcome = outcome.lock().map(|outcome| outcome.clone()).unwrap_or_default();
    if let Some(addr) = outcome.addr {
        println!("\n--- {} ({addr}) ---\n{}", args.host, outcome.statistics);
    }
    ended?;
    if outcome.statistics.received == 0 {
        return Err(AppError::Unsuccessful(format!("no reply from {}", args.host)));
    }
    Ok(())
}

/// An address family that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// What to do.
#[derive(Clone)]
struct Plan {
    host: String,
    count: u64,
    interval: Duration,
    size: usize,
    timeout: Duration,
    family: Option<Family>,
}

/// The first shard pings; the others hand over the replies that come to their queues.
async fn ping(plan: Plan, context: Context, outcome: Arc<Mutex<Outcome>>) -> Result<(), BoxError> {
    if context.shard() != 0 {
        return Ok(());
    }
    stack::address_within(&context, START_TIMEOUT).await?;
    let found = timeout(START_TIMEOUT, lookup(&plan.host)).await;
    let addresses = found
        .map_err(|_| format!("no answer about {} within {START_TIMEOUT:?}", plan.host))?
        .map_err(|error| format!("{}: {error}", plan.host))?;
    let fits = |addr: &&IpAddr| plan.family.is_none_or(|family| (family == Family::V4) == addr.is_ipv4());
    let addr =
        *addresses.iter().find(fits).ok_or_else(|| format!("{} has no address of that family", plan.host))?;
    let mut pinger = Pinger::new(addr)?;
    lock(&outcome).addr = Some(addr);
    println!("PING {} ({addr}): {} bytes of payload", plan.host, plan.size);
    let stop = async {
        context.shutdown().await;
        Ok(())
    };
    futures_lite::future::or(exchange(&plan, &mut pinger, &outcome), stop).await
}

/// Sends every interval and takes replies until all are there or too late.
async fn exchange(plan: &Plan, pinger: &mut Pinger, outcome: &Mutex<Outcome>) -> Result<(), BoxError> {
    let payload: Vec<u8> = (0..plan.size).map(|index| index as u8).collect();
    let mut sent = 0;
    let mut next = now();
    loop {
        if sent < plan.count && now() >= next {
            // Sequence numbers wrap; a reply that late has been given up for long.
            if let Err(error) = pinger.send(sent as u16, &payload) {
                println!("seq={sent}: not sent: {error}");
            }
            sent += 1;
            next = next.max(now() - plan.interval.min(Duration::from_secs(1))) + plan.interval;
            lock(outcome).statistics.sent += 1;
        }
        let wait = if sent < plan.count { next.saturating_since(now()) } else { plan.timeout };
        match timeout(wait, pinger.receive()).await {
            Ok(echo) => {
                let echo = echo?;
                let damaged = if echo.payload == payload { "" } else { " (payload is damaged)" };
                let hops = echo.hop_limit.map_or(String::new(), |hops| format!(" ttl={hops}"));
                let late = echo.rtt > plan.timeout;
                println!(
                    "{} bytes from {}: seq={}{hops} time={:.3} ms{}{damaged}",
                    echo.payload.len(),
                    echo.from,
                    echo.seq,
                    echo.rtt.as_secs_f64() * 1e3,
                    if late { " (late)" } else { "" },
                );
                if !late {
                    lock(outcome).statistics.record(echo.rtt);
                }
                if lock(outcome).statistics.received >= plan.count {
                    return Ok(());
                }
            }
            Err(_) if sent >= plan.count => return Ok(()),
            Err(_) => {}
        }
    }
}

fn lock(outcome: &Mutex<Outcome>) -> std::sync::MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Round trips in sum.
#[derive(Clone, Debug, Default, PartialEq)]
struct Statistics {
    sent: u64,
    received: u64,
    min_ms: f64,
    max_ms: f64,
    sum_ms: f64,
    squares_ms: f64,
}

impl Statistics {
    fn record(&mut self, rtt: Duration) {
        let ms = rtt.as_secs_f64() * 1e3;
        self.min_ms = if self.received == 0 { ms } else { self.min_ms.min(ms) };
        self.max_ms = self.max_ms.max(ms);
        self.sum_ms += ms;
        self.squares_ms += ms * ms;
        self.received += 1;
    }
}

impl std::fmt::Display for Statistics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lost = self.sent.saturating_sub(self.received);
        let percent = if self.sent == 0 { 0.0 } else { lost as f64 * 100.0 / self.sent as f64 };
        write!(f, "{} sent, {} received, {percent:.1} % lost", self.sent, self.received)?;
        if self.received > 0 {
            let count = self.received as f64;
            let mean = self.sum_ms / count;
            let deviation = (self.squares_ms / count - mean * mean).max(0.0).sqrt();
            write!(
                f,
                "\nround trip min/avg/max/mdev {:.3}/{mean:.3}/{:.3}/{deviation:.3} ms",
                self.min_ms, self.max_ms
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_ping() {
        let mut statistics = Statistics { sent: 4, ..Statistics::default() };
        for ms in [2, 4, 6] {
            statistics.record(Duration::from_millis(ms));
        }
        let text = statistics.to_string();
        assert!(text.starts_with("4 sent, 3 received, 25.0 % lost\n"), "{text}");
        assert!(text.ends_with("min/avg/max/mdev 2.000/4.000/6.000/1.633 ms"), "{text}");
    }

    #[test]
    fn nothing_received_has_no_round_trip() {
        assert_eq!(
            Statistics { sent: 3, ..Statistics::default() }.to_string(),
            "3 sent, 0 received, 100.0 % lost"
        );
        assert_eq!(Statistics::default().to_string(), "0 sent, 0 received, 0.0 % lost");
    }
}
