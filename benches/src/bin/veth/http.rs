//! HTTP servers side by side, with wrk as the client: `bywash http`, nginx, and a tokio and hyper server on the kernel's
//! TCP. Keep-alive and a connection for each request.

use std::convert::Infallible;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use bywash::runtime::net::TcpListener;
use bywash::runtime::{BoxError, Context, spawn};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::bed::{self, Bed, KERNEL, STACK, Server, Side};
use super::kernel::Background;
use super::meter::Meter;
use super::{Plan, Result, ours};
use bywash_benches::results::{Benchmark, Better, Target};

const PORT: u16 = 80;
/// nginx and hyper on the kernel's sockets are at one address.
const HYPER_PORT: u16 = 8080;
const PAGE: &str =
    "<!doctype html><title>Bywash</title><p>This page came through a TCP/IP stack in user space.</p>\n";

/// Ours and the rival that does the same on the kernel's TCP: files, and a page from memory by the same service.
const PAIRS: [(&str, &str); 2] = [("bywash", "nginx"), ("hyper on bywash", "hyper on tokio")];

/// Longer than servers and file systems take for news.
const AT_REST: Duration = Duration::from_secs(5);

const NEW_CONNECTIONS: &str = "new connections, 64 at a time";
const TITLE: &str = "HTTP against the kernel";
const ABOUT: &str = "\
A page of 97 bytes, asked for by `wrk` with one thread on one core; the servers run on the other: `bywash http` (files below a
directory; small ones are kept in memory, and each request sees whether the file changed) beside `nginx` (one process, files, sendfile;
it keeps files open, and looks whether they changed once a second); and one hyper service that answers from memory, on our sockets (`hyper on
bywash`) beside the kernel's (`hyper on tokio`, one thread). The kernel's offloads are at veth's default (on); MTU 1500. *New connections*: `Connection: close`, 64 at a time. Latencies are wrk's, from
request to whole answer, under the load that the server bears: a faster server is measured under a higher one.";

/// Runs it.
pub fn run(plan: &Plan) -> Result<Benchmark> {
    let mut benchmark = Benchmark::new("veth-http", 3, TITLE, ABOUT, &plan.command());
    let bed = Arc::new(Bed::new(1500, true)?);
    let work = std::env::current_exe()?.with_file_name("bench-veth-work");
    fs::create_dir_all(&work)?;
    let page = work.join("index.html");
    if fs::read(&page).ok().as_deref() != Some(PAGE.as_bytes()) {
        fs::write(&page, PAGE)?;
        // Files that a server has have not changed just now.
        thread::sleep(AT_REST);
    }
    let script = work.join("latency.lua");
    fs::write(&script, include_str!("latency.lua"))?;
    let nginx = bed::tool("nginx");
    if nginx.is_none() {
        eprintln!("nginx cannot be had: without it");
    }
    let counts: &[usize] = if plan.quick { &[64] } else { &[1, 64, 256, 1024] };
    for round in 0..plan.rounds {
        plan.tell(&benchmark, round, "bywash http, nginx, hyper");
        let mut all = |who: &str, address: Ipv4Addr, port: u16| -> Result<()> {
            for &count in counts {
                let case = if count == 1 {
                    "keep-alive, 1 connection".into()
                } else {
                    format!("keep-alive, {count} connections")
                };
                if plan.wants(&case, who) {
                    let figures = wrk(&bed, plan, &script, (address, port), count, true)?;
                    record(&mut benchmark, &case, who, &figures, count >= 64);
                }
            }
            if plan.wants(NEW_CONNECTIONS, who) {
                let figures = wrk(&bed, plan, &script, (address, port), 64, false)?;
                record_connections(&mut benchmark, who, &figures);
            }
            Ok(())
        };
        let root = work.display().to_string();
        let server = bed.bywash("http", &["--root", &root], PORT)?;
        all("bywash", STACK, PORT)?;
        drop(server);
        if let Some(nginx) = &nginx {
            let server = start_nginx(&bed, &work, nginx)?;
            all("nginx", KERNEL, PORT)?;
            drop(server);
        }
        let server = ours::start(&bed, Side::Server, STACK, hyper_on_bywash)?;
        bed.await_port(STACK, HYPER_PORT)?;
        all("hyper on bywash", STACK, HYPER_PORT)?;
        drop(server);
        let server = Background::start(&bed, Side::Server, hyper_on_kernel);
        bed.await_port(KERNEL, HYPER_PORT)?;
        all("hyper on tokio", KERNEL, HYPER_PORT)?;
        drop(server);
    }
    Ok(benchmark)
}

/// What wrk saw.
struct Figures {
    rate: f64,
    /// p50, p99, p999 in microseconds.
    latency: [f64; 3],
}

fn record(benchmark: &mut Benchmark, case: &str, who: &str, figures: &Figures, loaded: bool) {
    benchmark.add(case, who, "requests/s", Better::More, figures.rate);
    for (ours, rival) in PAIRS {
        let target = (loaded && rival == "nginx").then_some(Target::AtLeast(1.5));
        benchmark.compare(case, "requests/s", ours, rival, target);
    }
    for (unit, micros) in ["p50, us", "p99, us", "p999, us"].into_iter().zip(figures.latency) {
        benchmark.add(case, who, unit, Better::Less, micros);
        for (ours, rival) in PAIRS {
            let target =
                (loaded && rival == "nginx" && unit.starts_with("p99,")).then_some(Target::AtMost(1.0));
            benchmark.compare(case, unit, ours, rival, target);
        }
    }
}

fn record_connections(benchmark: &mut Benchmark, who: &str, figures: &Figures) {
    let case = NEW_CONNECTIONS;
    benchmark.add(case, who, "connections/s", Better::More, figures.rate);
    for (ours, rival) in PAIRS {
        let target = (rival == "nginx").then_some(Target::AtLeast(2.0));
        benchmark.compare(case, "connections/s", ours, rival, target);
    }
}

fn wrk(
    bed: &Bed,
    plan: &Plan,
    script: &Path,
    (address, port): (Ipv4Addr, u16),
    connections: usize,
    keep_alive: bool,
) -> Result<Figures> {
    let mut wrk = bed.command(Side::Client, bed::tool("wrk").ok_or("wrk is not installed")?);
    // wrk's unit is the second.
    let seconds = plan.seconds().as_secs().max(1) * if plan.quick { 1 } else { 2 };
    wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"]).arg(script);
    if !keep_alive {
        wrk.args(["-H", "Connection: close"]);
    }
    let text = bed.run(wrk.arg(format!("http://{address}:{port}/")))?;
    figures(&text).ok_or_else(|| format!("wrk says: {text}").into())
}

/// Reads what `latency.lua` wrote; a failed request is no figure.
fn figures(text: &str) -> Option<Figures> {
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "))?;
    let numbers: Vec<f64> = line.split(' ').map_while(|word| word.parse().ok()).collect();
    let [requests, micros, failed, p50, p99, p999] = numbers[..] else { return None };
    if failed > 0.0 {
        eprintln!("  ({failed} requests failed)");
    }
    Some(Figures { rate: (requests - failed) / micros * 1e6, latency: [p50, p99, p999] })
}

fn start_nginx(bed: &Bed, work: &Path, nginx: &Path) -> Result<Server> {
    let at = work.display();
    let config = format!(
        "daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/nginx.log; user root;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; sendfile on; keepalive_requests 1000000000;
            open_file_cache max=1024 inactive=60s; open_file_cache_valid 1s; types {{ text/html html; }}
            client_body_temp_path {at}; proxy_temp_path {at}; fastcgi_temp_path {at};
            uwsgi_temp_path {at}; scgi_temp_path {at};
            server {{ listen {KERNEL}:{PORT} backlog=4096; root {at}; }}
        }}\n"
    );
    let path = work.join("nginx.conf");
    fs::write(&path, config)?;
    let mut command = bed.command(Side::Server, nginx);
    command.arg("-c").arg(&path).stderr(Stdio::null());
    let server = bed::start(&mut command)?;
    bed.await_port(KERNEL, PORT)?;
    Ok(server)
}

/// The same service on our stack.
async fn hyper_on_bywash(context: Context) -> core::result::Result<(), BoxError> {
    let listener = TcpListener::bind_with(([0, 0, 0, 0], HYPER_PORT).into(), 4096, ours::options())?;
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn(async move {
                let _ = http1::Builder::new().serve_connection(stream, service_fn(page)).await;
            })
            .detach();
        }
    })
    .detach();
    context.shutdown().await;
    Ok(())
}

/// tokio and hyper on the kernel's sockets, on this thread.
fn hyper_on_kernel(meter: &Meter) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((KERNEL, HYPER_PORT).into())?;
        let listener = socket.listen(4096)?;
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::task::spawn_local(async move {
                    let io = TokioIo::new(stream);
                    let _ = http1::Builder::new().serve_connection(io, service_fn(page)).await;
                });
            }
        });
        while meter.goes_on() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    })
}

async fn page(_: Request<hyper::body::Incoming>) -> core::result::Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(PAGE.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_requests_do_not_count() {
        let figures = figures("noise\nRESULT 1000 2000000 100 50 60 70\n").unwrap();
        assert_eq!((figures.rate, figures.latency), (450.0, [50.0, 60.0, 70.0]));
    }

    #[test]
    fn without_the_line_there_are_no_figures() {
        assert!(figures("unable to connect\n").is_none());
    }
}
