//! The gateway's page for administrators: links, flows and drops, as HTML for people, as JSON and as Prometheus' counters for
//! programs. It changes nothing.

use std::fmt::Write as _;
use std::future::Future;

use bywash::runtime::{Handle, Metrics};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use crate::http::body::Body;
use crate::http::server::Respond;
use crate::units::bytes_for_people;

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
/// Prometheus' text exposition format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page.
pub struct Admin {
    handle: Handle,
}

impl Admin {
    /// A page about this runtime.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }
}

impl Respond for Admin {
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> {
        let handle = self.handle.clone();
        async move {
            let head = request.method() == Method::HEAD;
            let known = matches!(*request.method(), Method::GET | Method::HEAD);
            let path = request.uri().path();
            let (status, kind, text) = if !known {
                (StatusCode::METHOD_NOT_ALLOWED, TEXT, "405: this page can only be read\n".to_owned())
            } else if matches!(path, "/" | "/status.json" | "/metrics") {
                // Another thread asks: a shard must not wait for itself.
                let metrics = blocking::unblock(move || handle.metrics()).await;
                match path {
                    "/" => (StatusCode::OK, HTML, page(&Status::of(&metrics))),
                    "/metrics" => (StatusCode::OK, PROMETHEUS, metrics.prometheus()),
                    _ => (StatusCode::OK, JSON, json(&Status::of(&metrics))),
                }
            } else {
                (StatusCode::NOT_FOUND, TEXT, "404: there are /, /status.json and /metrics\n".to_owned())
            };
            let mut response = Response::new(Body::fixed(text));
            *response.status_mut() = status;
            let length = response.body().remaining();
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(CONTENT_LENGTH, length.into());
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            if head { response.map(|_| Body::default()) } else { response }
        }
    }
}

/// What the page says.
#[derive(Debug, Serialize)]
struct Status {
    uptime_seconds: f64,
    links: Vec<LinkStatus>,
    forwarded_packets: u64,
    forwarded_bytes: u64,
    flows: usize,
    flows_max: usize,
    connections: usize,
    frames_free: u32,
    frames: u32,
    drops: Vec<Drop>,
}

#[derive(Debug, Serialize)]
struct LinkStatus {
    name: String,
    mac: String,
    mtu: usize,
    addresses: Vec<String>,
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Drop {
    reason: &'static str,
    packets: u64,
    help: &'static str,
}

impl Status {
    fn of(metrics: &Metrics) -> Self {
        let (counters, pool) = (metrics.counters(), metrics.pool());
        let flows = metrics.shards.iter().filter_map(|shard| shard.flows);
        let (flows, flows_max) = flows.fold((0, 0), |sum, (flows, max)| (sum.0 + flows, sum.1 + max));
        Self {
            uptime_seconds: metrics.elapsed.as_secs_f64(),
            links: metrics
                .links()
                .into_iter()
                .map(|link| LinkStatus {
                    name: link.name,
                    mac: link.mac.to_string(),
                    mtu: link.mtu,
                    addresses: link.addresses.iter().map(ToString::to_string).collect(),
                    rx_packets: link.traffic.rx_packets,
                    rx_bytes: link.traffic.rx_bytes,
                    tx_packets: link.traffic.tx_packets,
                    tx_bytes: link.traffic.tx_bytes,
                })
                .collect(),
            forwarded_packets: counters.forwarded_packets,
            forwarded_bytes: counters.forwarded_bytes,
            flows,
            flows_max,
            connections: metrics.tcp().connections,
            frames_free: pool.free,
            frames: pool.total,
            drops: counters
                .drops()
                .filter(|(_, packets)| *packets > 0)
                .map(|(reason, packets)| Drop { reason: reason.name(), packets, help: reason.help() })
                .collect(),
        }
    }
}

fn json(status: &Status) -> String {
    serde_json::to_string_pretty(status).expect("names and numbers become JSON") + "\n"
}

/// Text as HTML has it; link names are the administrator's own.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(status: &Status) -> String {
    let mut html = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Bywash gateway</title>\
         <meta http-equiv=\"refresh\" content=\"2\"><style>body{font-family:sans-serif}td,th{padding:.2em .8em;\
         text-align:right}td:first-child,th:first-child{text-align:left}</style></head><body>\n<h1>Bywash gateway</h1>\n",
    );
    let _ = writeln!(
        html,
        "<p>Up {:.0} s. {} packets ({}) forwarded. {} of {} flows. {} connections of its own. {} of {} frames free.</p>",
        status.uptime_seconds,
        status.forwarded_packets,
        bytes_for_people(status.forwarded_bytes),
        status.flows,
        status.flows_max,
        status.connections,
        status.frames_free,
        status.frames,
    );
    html.push_str(
        "<h2>Links</h2>\n<table><tr><th>Link<th>Addresses<th>Ethernet<th>MTU<th>In, packets<th>bytes<th>Out, packets<th>bytes</tr>\n",
    );
    for link in &status.links {
        let _ = writeln!(
            html,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escaped(&link.name),
            escaped(&link.addresses.join(", ")),
            link.mac,
            link.mtu,
            link.rx_packets,
            bytes_for_people(link.rx_bytes),
            link.tx_packets,
            bytes_for_people(link.tx_bytes),
        );
    }
    html.push_str("</table>\n<h2>Dropped</h2>\n<table><tr><th>Reason<th>Packets<th>What it means</tr>\n");
    for drop in &status.drops {
        let _ = writeln!(html, "<tr><td>{}<td>{}<td>{}</tr>", drop.reason, drop.packets, escaped(drop.help));
    }
    html.push_str("</table>\n<p><a href=\"/status.json\">JSON</a>, <a href=\"/metrics\">metrics</a></p></body></html>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_the_figures_say() {
        let link = LinkStatus {
            name: "<lan>".into(),
            mac: "02-00-00-00-00-01".into(),
            mtu: 1500,
            addresses: vec!["192.0.2.1/24".into()],
            rx_packets: 7,
            rx_bytes: 0,
            tx_packets: 9,
            tx_bytes: 0,
        };
        let status = Status {
            uptime_seconds: 1.0,
            links: vec![link],
            forwarded_packets: 41,
            forwarded_bytes: 0,
            flows: 3,
            flows_max: 100,
            connections: 0,
            frames_free: 1,
            frames: 2,
            drops: vec![Drop { reason: "filtered", packets: 5, help: "A rule." }],
        };
        let html = page(&status);
        for text in [
            "&lt;lan&gt;",
            "192.0.2.1/24",
            "<td>7<td>",
            "41 packets",
            "3 of 100 flows",
            "<td>filtered<td>5<td>A rule.",
        ] {
            assert!(html.contains(text), "{text} is not in {html}");
        }
        let json: serde_json::Value = serde_json::from_str(&json(&status)).unwrap();
        assert_eq!((&json["flows"], &json["drops"][0]["packets"]), (&3.into(), &5.into()));
    }
}
