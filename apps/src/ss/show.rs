//! How `bywash ss` shows sockets: columns and words of ss(8), so that eyes and scripts that know it find their way.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::model::{Memory, Socket, State, Timer};
use crate::cli::SsArgs;

/// One row and what follows it.
#[must_use]
pub fn row(args: &SsArgs, pid: u32, shard: usize, socket: &Socket) -> String {
    let mut line = String::new();
    if args.udp && args.tcp {
        let _ = write!(line, "{:<5} ", socket.protocol);
    }
    let _ = write!(
        line,
        "{:<10} {:<6} {:<6} {:>24} {:>24}",
        socket.state().label(),
        socket.recv_q,
        socket.send_q,
        address(Some(socket.local)),
        address(socket.remote),
    );
    if args.processes {
        let _ = write!(line, " users:((\"bywash\",pid={pid}))");
    }
    if let Some(timer) = socket.timer.as_ref().filter(|_| args.options) {
        let _ = write!(line, " {}", timer_words(timer));
    }
    if args.extended {
        let _ = write!(line, " shard:{shard} place:{}", socket.place);
        if socket.orphan {
            line += " orphan";
        }
        if socket.half_open > 0 {
            let _ = write!(line, " half_open:{}", socket.half_open);
        }
    }
    let mut more = Vec::new();
    more.extend(socket.memory.as_ref().filter(|_| args.memory).map(memory_words));
    if args.info && socket.info.is_some() {
        more.push(info_words(socket));
    }
    if !more.is_empty() {
        let _ = write!(line, "\n\t {}", more.join(" "));
    }
    line
}

/// The line of titles.
#[must_use]
pub fn titles(args: &SsArgs) -> String {
    let netid = if args.udp && args.tcp { "Netid " } else { "" };
    format!(
        "{netid}{:<10} {:<6} {:<6} {:>24} {:>24}",
        "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port"
    )
}

fn address(addr: Option<SocketAddr>) -> String {
    addr.map_or_else(|| "*:*".to_owned(), |addr| addr.to_string())
}

/// Seconds and milliseconds; ss(8) calls both `ms`.
fn timer_words(timer: &Timer) -> String {
    let ms = timer.remaining / 1000;
    let (minutes, seconds, rest) = (ms / 60_000, ms / 1000 % 60, ms % 1000);
    let time = match (minutes, seconds) {
        (0, 0) => format!("{rest}ms"),
        (0, seconds) => format!("{seconds}.{rest:03}sec"),
        (minutes, seconds) => format!("{minutes}min{seconds}sec"),
    };
    format!("timer:({},{time},{})", timer.kind, timer.retries)
}

fn memory_words(memory: &Memory) -> String {
    let Memory { receive, receive_max, send, send_max } = memory;
    format!("skmem:(r{receive},rb{receive_max},t0,tb{send_max},f0,w{send},o0,bl0,d0)")
}

/// Microseconds as ss(8) writes milliseconds: without trailing zeros.
fn ms(micros: u64) -> String {
    let text = format!("{}.{:03}", micros / 1000, micros % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A connection's figures in the words and the order of `ss -ti`. What is zero or usual is left out, as there.
#[must_use]
pub fn info_words(socket: &Socket) -> String {
    let mut words = options(socket);
    let n = |name| socket.figure(name);
    let (rtt, mss, cwnd) = (n("rtt"), n("snd_mss"), n("snd_cwnd"));
    words.push(format!("rto:{}", ms(n("rto"))));
    push_count(&mut words, socket, &["backoff"]);
    words.push(format!("rtt:{}/{}", ms(rtt), ms(n("rttvar"))));
    if n("ato") > 0 {
        words.push(format!("ato:{}", ms(n("ato"))));
    }
    for (word, name) in [("mss", "snd_mss"), ("pmtu", "pmtu"), ("rcvmss", "rcv_mss"), ("advmss", "advmss")] {
        words.push(format!("{word}:{}", n(name)));
    }
    words.push(format!("cwnd:{cwnd}"));
    if n("snd_ssthresh") != u64::from(u32::MAX) {
        words.push(format!("ssthresh:{}", n("snd_ssthresh")));
    }
    let bytes = ["bytes_sent", "bytes_retrans", "bytes_acked", "bytes_received"];
    push_count(&mut words, socket, &bytes);
    push_count(&mut words, socket, &["segs_out", "segs_in", "data_segs_out", "data_segs_in"]);
    if rtt > 0 {
        words.push(format!("send {}bps", u128::from(cwnd * mss) * 8_000_000 / u128::from(rtt)));
    }
    for (word, name) in
        [("lastsnd", "last_data_sent"), ("lastrcv", "last_data_recv"), ("lastack", "last_ack_recv")]
    {
        if n(name) >= 1000 {
            words.push(format!("{word}:{}", n(name) / 1000));
        }
    }
    if n("pacing_rate") > 0 {
        words.push(format!("pacing_rate {}bps", n("pacing_rate").saturating_mul(8)));
    }
    if n("delivery_rate") > 0 {
        words.push(format!("delivery_rate {}bps", n("delivery_rate").saturating_mul(8)));
    }
    push_count(&mut words, socket, &["delivered"]);
    if socket.flag("delivery_rate_app_limited") {
        words.push("app_limited".into());
    }
    limits(&mut words, socket);
    losses(&mut words, socket);
    receiver(&mut words, socket);
    words.join(" ")
}

fn options(socket: &Socket) -> Vec<String> {
    let mut words = Vec::new();
    for (name, word) in [("timestamps", "ts"), ("sack", "sack"), ("fastopen_syn_data", "fastopen")] {
        if socket.flag(name) {
            words.push(word.to_owned());
        }
    }
    words.push(socket.word("congestion").to_owned());
    if socket.flag("wscale") {
        words.push(format!("wscale:{},{}", socket.figure("snd_wscale"), socket.figure("rcv_wscale")));
    }
    words
}

fn push_count(words: &mut Vec<String>, socket: &Socket, names: &[&str]) {
    for name in names {
        let count = socket.figure(name);
        if count > 0 {
            words.push(format!("{name}:{count}"));
        }
    }
}

fn limits(words: &mut Vec<String>, socket: &Socket) {
    let busy = socket.figure("busy_time");
    if busy == 0 {
        return;
    }
    words.push(format!("busy:{}ms", busy / 1000));
    for name in ["rwnd_limited", "sndbuf_limited"] {
        let time = socket.figure(name);
        if time > 0 {
            words.push(format!("{name}:{}ms({:.1}%)", time / 1000, time as f64 * 100.0 / busy as f64));
        }
    }
}

fn losses(words: &mut Vec<String>, socket: &Socket) {
    push_count(words, socket, &["unacked"]);
    let (retrans, total) = (socket.figure("retrans"), socket.figure("total_retrans"));
    if retrans + total > 0 {
        words.push(format!("retrans:{retrans}/{total}"));
    }
    push_count(words, socket, &["lost", "sacked", "dsack_dups"]);
    if socket.figure("reordering") > 3 {
        words.push(format!("reordering:{}", socket.figure("reordering")));
    }
    push_count(words, socket, &["reord_seen"]);
    push_count(words, socket, &["total_rto", "total_rto_recoveries"]);
    if socket.figure("total_rto_time") > 0 {
        words.push(format!("total_rto_time:{}ms", socket.figure("total_rto_time") / 1000));
    }
}

fn receiver(words: &mut Vec<String>, socket: &Socket) {
    for (word, name) in [("rcv_rtt", "rcv_rtt")] {
        if socket.figure(name) > 0 {
            words.push(format!("{word}:{}", ms(socket.figure(name))));
        }
    }
    push_count(words, socket, &["rcv_space", "rcv_ssthresh"]);
    if socket.figure("notsent_bytes") > 0 {
        words.push(format!("notsent:{}", socket.figure("notsent_bytes")));
    }
    if socket.figure("min_rtt") > 0 {
        words.push(format!("minrtt:{}", ms(socket.figure("min_rtt"))));
    }
    push_count(words, socket, &["rcv_ooopack", "snd_wnd", "rcv_wnd"]);
}

/// How many there are of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    listening: u64,
    established: u64,
    half_open: u64,
    time_wait: u64,
    other: u64,
    orphaned: u64,
    udp: u64,
}

impl Summary {
    /// Counts a socket.
    pub fn add(&mut self, socket: &Socket) {
        if socket.protocol == "udp" {
            self.udp += 1;
            return;
        }
        self.orphaned += u64::from(socket.orphan);
        *match socket.state() {
            State::Listen => &mut self.listening,
            State::Established => &mut self.established,
            State::SynReceived => &mut self.half_open,
            State::TimeWait => &mut self.time_wait,
            _ => &mut self.other,
        } += 1;
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { listening, established, half_open, time_wait, other, orphaned, udp } = self;
        let tcp = listening + established + half_open + time_wait + other;
        writeln!(f, "Total: {}", tcp + udp)?;
        writeln!(
            f,
            "TCP:   {tcp} (listening {listening}, estab {established}, synrecv {half_open}, timewait {time_wait}, \
             other {other}, orphaned {orphaned})"
        )?;
        write!(f, "UDP:   {udp}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::json;

    fn args(more: &[&str]) -> SsArgs {
        let line = ["bywash", "ss"].iter().chain(more);
        match crate::cli::Cli::parse_from(line).command {
            crate::cli::Command::Ss(args) => args.completed(),
            other => panic!("{other:?}"),
        }
    }

    fn established() -> Socket {
        Socket {
            state: "ESTABLISHED".into(),
            local: "192.0.2.10:80".parse().unwrap(),
            remote: Some("192.0.2.1:40000".parse().unwrap()),
            recv_q: 3,
            send_q: 14_480,
            timer: Some(Timer { kind: "on".into(), remaining: 1_204_000, retries: 2 }),
            memory: Some(Memory { receive: 4096, receive_max: 65_536, send: 16_384, send_max: 32_768 }),
            info: Some(json!({
                "timestamps": true, "sack": true, "wscale": true, "snd_wscale": 7, "rcv_wscale": 6,
                "congestion": "cubic", "rto": 201_000, "rtt": 1_250, "rttvar": 500, "snd_mss": 1448, "pmtu": 1500,
                "rcv_mss": 536, "advmss": 1460, "snd_cwnd": 10, "snd_ssthresh": u32::MAX, "bytes_sent": 14_480,
                "segs_out": 11, "total_retrans": 4, "retrans": 1, "busy_time": 200_000, "rwnd_limited": 50_000,
                "reordering": 3, "rcv_space": 14_600,
            })),
            ..Socket::default()
        }
    }

    #[test]
    fn a_row_has_the_columns_of_ss() {
        let text = row(&args(&[]), 7, 0, &established());
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(words, ["ESTAB", "3", "14480", "192.0.2.10:80", "192.0.2.1:40000"]);
        let titles = titles(&args(&["-tu"]));
        assert!(titles.starts_with("Netid State") && titles.ends_with("Peer Address:Port"), "{titles}");
    }

    #[test]
    fn what_is_asked_for_follows() {
        let text = row(&args(&["-timoep"]), 7, 1, &established());
        assert!(text.contains("timer:(on,1.204sec,2) shard:1 place:0"), "{text}");
        assert!(text.contains("users:((\"bywash\",pid=7))"), "{text}");
        assert!(
            text.contains("\n\t skmem:(r4096,rb65536,t0,tb32768,f0,w16384,o0,bl0,d0) ts sack cubic"),
            "{text}"
        );
    }

    #[test]
    fn the_info_line_speaks_as_ss_does() {
        assert_eq!(
            info_words(&established()),
            "ts sack cubic wscale:7,6 rto:201 rtt:1.25/0.5 mss:1448 pmtu:1500 rcvmss:536 advmss:1460 cwnd:10 \
             bytes_sent:14480 segs_out:11 send 92672000bps busy:200ms rwnd_limited:50ms(25.0%) retrans:1/4 rcv_space:14600"
        );
    }

    #[test]
    fn figures_that_another_version_does_not_have_are_left_out() {
        let old: Socket = serde_json::from_value(json!({
            "protocol": "tcp", "state": "LAST-ACK", "local": "[2001:db8::1]:7", "info": {}, "new_field": 1,
        }))
        .unwrap();
        assert_eq!(old.state(), State::LastAck);
        assert!(row(&args(&["-i"]), 1, 0, &old).contains("*:*"));
    }

    #[test]
    fn a_summary_counts_by_state() {
        let mut summary = Summary::default();
        summary.add(&established());
        summary.add(&Socket { state: "LISTEN".into(), ..Socket::default() });
        summary.add(&Socket { protocol: "udp".into(), ..Socket::default() });
        assert!(summary.to_string().contains("TCP:   2 (listening 1, estab 1,"), "{summary}");
    }
}
