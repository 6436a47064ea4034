//! `bywash ct` beside Linux's own connection tracking: the same words, the same lines, and what deleting a flow does.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bywash_afxdp::require_root;
use bywash_afxdp::testing::{VethOptions, VethPair};
use common::server::Server;
use common::{Bed, KERNEL4, KERNEL6, STACK4, STACK6, wait_until};

/// Connections may begin with a SYN only, so that a segment of a flow that was deleted is dropped.
const RULES: &str = "\
*filter
:INPUT DROP [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -p tcp --dport 80 --syn -j ACCEPT
-A INPUT -p udp -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
COMMIT
";

/// The gateway's address on its outer link.
const GATEWAY_WAN: &str = "198.51.100.1";

/// `bywash ct` for the process with this control socket.
struct Ct(String);

impl Ct {
    fn of(server: &Server) -> Self {
        Self(server.path("control.sock").to_str().expect("UTF-8").to_owned())
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bywash"));
        command.env_remove("BYWASH_LOG").args(["ct", "--control", &self.0]);
        command.args(arguments.split_whitespace());
        command
    }

    /// Standard output and standard error; whether it succeeded.
    fn try_ct(&self, arguments: &str) -> (String, String, bool) {
        let output = self.command(arguments).output().expect("run bywash ct");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr), output.status.success())
    }

    fn ct(&self, arguments: &str) -> String {
        let (shown, errors, success) = self.try_ct(arguments);
        assert!(success, "{arguments}: {errors}");
        shown
    }

    fn follow(&self, arguments: &str) -> Follower {
        Follower::start(self.command(arguments))
    }
}

/// A server whose rules track flows.
struct Tracker {
    server: Server,
    ct: Ct,
}

impl Tracker {
    fn start(bed: &Bed, rules: &str) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = directory.path().join("rules");
        fs::write(&path, rules).expect("write the rules");
        // Segments of flows that a test deletes are dropped, FINs too: there is nothing to wait for at the end.
        let server = Server::http(
            bed,
            &["--rules", path.to_str().unwrap(), "--control", "../control.sock", "--drain-timeout", "1s"],
        );
        Self { ct: Ct::of(&server), server }
    }
}

impl Deref for Tracker {
    type Target = Ct;

    fn deref(&self) -> &Ct {
        &self.ct
    }
}

/// `bywash gateway` from the peer's link to another one.
struct Gateway {
    child: Child,
    ct: Ct,
    _directory: tempfile::TempDir,
}

impl Gateway {
    /// Its addresses are [`STACK4`] and [`GATEWAY_WAN`]; the links are called lan and wan.
    fn start(bed: &Bed, wan: &VethPair, rules: &str) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
        let link = |interface: &str, name: &str, address: &str| {
            format!(
                "[[link]]\ninterface = \"{interface}\"\nname = \"{name}\"\naddress = [\"{address}/24\"]\n"
            )
        };
        let (inside, outside) = (&bed.pair.stack_interface, &wan.stack_interface);
        let links = link(inside, "lan", STACK4) + &link(outside, "wan", GATEWAY_WAN);
        fs::write(path("gw.toml"), format!("rules = \"rules\"\n{links}")).expect("write the configuration");
        fs::write(path("rules"), rules).expect("write the rules");
        let mut command = bed.pair.stack.command(env!("CARGO_BIN_EXE_bywash"));
        command.env("BYWASH_LOG", "warn").args(["gateway", "--config", &path("gw.toml")]);
        let child = command.args(["--control", &path("control.sock")]).spawn().expect("start bywash gateway");
        let gateway = Self { child, ct: Ct(path("control.sock")), _directory: directory };
        wait_until(Duration::from_secs(20), "the gateway runs", || gateway.ct.try_ct("-C").2);
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that follows flows.
struct Follower {
    child: Child,
    received: Receiver<String>,
}

impl Follower {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run a follower");
        let lines = BufReader::new(child.stdout.take().unwrap());
        let (sender, received) = channel();
        std::thread::spawn(move || {
            lines.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Self { child, received }
    }

    /// Has something happen until it is told, as it is once the follower is known to the process; the line that tells it.
    fn begin(&self, mut happen: impl FnMut()) -> String {
        let start = Instant::now();
        loop {
            happen();
            if let Ok(line) = self.received.recv_timeout(Duration::from_millis(200)) {
                return line;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "no event");
        }
    }

    fn line(&self) -> String {
        self.received.recv_timeout(Duration::from_secs(10)).expect("an event")
    }

    /// Ctrl-C; standard error, and the lines that had not been looked at.
    fn stop(mut self) -> (String, Vec<String>) {
        let status = Command::new("kill").args(["-s", "INT", &self.child.id().to_string()]).status();
        assert!(status.expect("run kill").success());
        assert!(self.child.wait().expect("wait for bywash ct").success());
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).expect("read its errors");
        (errors, self.received.iter().collect())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection with one answered request, kept open.
fn open_connection(bed: &Bed, host: &str) -> TcpStream {
    let mut stream = bed.connect(host, 80);
    request(&mut stream);
    stream
}

fn request(stream: &mut TcpStream) {
    write!(stream, "GET /bytes/10 HTTP/1.1\r\nHost: test\r\n\r\n").expect("send the request");
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer).expect("read the answer");
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
}

/// The names and words of a line, without what differs from flow to flow.
fn shape(line: &str) -> Vec<String> {
    let word = |word: &str| match word.split_once('=') {
        Some((name, _)) => format!("{name}="),
        None if word.parse::<u64>().is_ok() => "NUMBER".to_owned(),
        None => word.to_owned(),
    };
    line.split_whitespace().map(word).collect()
}

fn field(line: &str, name: &str) -> String {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
}

#[test]
fn flows_are_listed_filtered_counted_and_deleted() {
    require_root!();
    let bed = Bed::simple();
    let tracker = Tracker::start(&bed, RULES);
    let mut kept = open_connection(&bed, STACK4);
    let mut cut = open_connection(&bed, STACK6);
    assert!(bed.ping(STACK4));
    let (shown, errors, _) = tracker.try_ct("-L -p tcp");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(errors.contains("2 flow entries have been shown."), "{errors}");
    let port = kept.local_addr().unwrap().port();
    let line = tracker.ct(&format!("-p tcp --sport {port}"));
    assert!(
        line.starts_with("tcp      6 43199") && line.contains(" ESTABLISHED src=192.0.2.1 dst="),
        "{line}"
    );
    assert_eq!((field(&line, "sport"), field(&line, "dport")), (port.to_string(), "80".to_owned()));
    assert!(line.contains("[ASSURED] mark=0 use=1"), "{line}");
    let packets: u64 = field(&line, "packets").parse().unwrap();
    assert!(packets >= 3, "SYN, ACK, request: {line}");

    for (filter, flows) in [
        ("-p icmp", 1),
        ("-p icmp --icmp-type 8", 1),
        ("-f ipv6 -p tcp", 1),
        ("-s 192.0.2.0/24 -p tcp", 1),
        ("-d 192.0.2.10 --dport 80", 1),
        ("-r 192.0.2.10 -q 192.0.2.1 --reply-port-src 80", 1),
        ("--state ESTABLISHED -u ASSURED", 2),
        ("--state TIME_WAIT", 0),
        ("-p tcp -u UNREPLIED", 0),
        ("-p tcp -m 1", 0),
        ("-p tcp -n", 0),
        ("-p tcp -j", 0),
    ] {
        assert_eq!(tracker.ct(&format!("-L {filter}")).lines().count(), flows, "{filter}");
    }
    let count: u64 = tracker.ct("-C").trim().parse().unwrap();
    assert!(count >= 3, "{count}");
    let detail = tracker.ct("-C -o extended");
    assert!(detail.contains("maximum 262144") && detail.contains("(ESTABLISHED 2)"), "{detail}");
    let whole = format!("-G -p tcp -s 192.0.2.1 -d {STACK4} --sport {port} --dport 80");
    assert_eq!(tracker.ct(&whole).lines().count(), 1);
    assert!(tracker.ct("-o json -p tcp").lines().all(|line| line.contains("\"state\":\"ESTABLISHED\"")));
    assert!(tracker.ct("-L -p icmp -o extended,id").starts_with("ipv4     2 icmp     1 "));

    // The flow that is deleted was let through by its first packet: the next one is no SYN.
    request(&mut cut);
    let deleted = tracker.ct("-D -f ipv6 -p tcp");
    assert!(deleted.contains(&format!("src={}", common::PEER6)), "{deleted}");
    cut.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    cut.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(cut.read(&mut [0; 100]).is_err(), "dropped");
    request(&mut kept);
    assert_eq!(tracker.ct("-f ipv6 -p tcp"), "");
    let (_, errors, success) = tracker.try_ct("-D -f ipv6 -p tcp");
    assert!(!success && errors.contains("0 flow entries have been deleted."), "{errors}");
    let (_, errors, success) = tracker.try_ct(&whole.replace(&port.to_string(), "1"));
    assert!(!success && errors.contains("such a flow does not exist"), "{errors}");
    let (_, errors, _) = tracker.try_ct("-F");
    assert!(errors.contains("connection tracking table has been emptied."), "{errors}");
    assert_eq!(tracker.ct("-p tcp"), "");
    tracker.server.stop();
}

#[test]
fn events_tell_of_beginning_change_and_end() {
    require_root!();
    let bed = Bed::simple();
    let tracker = Tracker::start(&bed, RULES);
    let follower = tracker.follow("-E -o timestamp");
    follower.begin(|| assert!(bed.ping(STACK4)));
    let stream = open_connection(&bed, STACK4);
    let port = stream.local_addr().unwrap().port();
    let next = || loop {
        let line = follower.line();
        if line.contains(&format!("sport={port}")) {
            return line;
        }
    };
    let began = next();
    let (time, new) = began.split_once('\t').expect("a time in front");
    assert!(time.starts_with('[') && time.len() == "[1795977025.004700]".len(), "{time}");
    assert!(new.starts_with("    [NEW] tcp      6 120 SYN_SENT src=192.0.2.1 "), "{new}");
    assert!(new.contains("dport=80 [UNREPLIED] src="), "{new}");
    let answered = next();
    assert!(answered.contains("\t [UPDATE] tcp      6 60 SYN_RECV "), "{answered}");
    let open = next();
    assert!(open.contains("\t [UPDATE] tcp      6 432000 ESTABLISHED "), "{open}");
    assert!(open.ends_with("[ASSURED]"), "{open}");
    tracker.ct(&format!("-D -p tcp --sport {port}"));
    let end = next();
    assert!(end.contains("\t[DESTROY] tcp      6 ") && end.contains(" packets="), "{end}");
    // Without its process there is nothing to follow.
    tracker.server.stop();
    while follower.received.recv_timeout(Duration::from_secs(10)) != Err(RecvTimeoutError::Disconnected) {}
}

#[test]
fn a_follower_hears_what_it_asked_for_and_counts_it_at_ctrl_c() {
    require_root!();
    let bed = Bed::simple();
    let tracker = Tracker::start(&bed, RULES);
    let follower = tracker.follow("-E -e DESTROY -p tcp -o json");
    let line = follower.begin(|| {
        assert!(bed.ping(STACK4), "an event that is not asked for");
        let _stream = open_connection(&bed, STACK4);
        tracker.ct("-F");
    });
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&json["event"], &json["pid"]), (&"DESTROY".into(), &tracker.server.pid().into()));
    assert_eq!((&json["flow"]["protocol"], &json["flow"]["original"]["dport"]), (&6.into(), &80.into()));
    let (errors, further) = follower.stop();
    let told = 1 + further.iter().filter(|line| line.contains("\"DESTROY\"")).count();
    assert_eq!(told, 1 + further.len(), "{further:?}");
    assert!(errors.contains(&format!("{told} flow events have been shown.")), "{errors}");
    tracker.server.stop();
}

#[test]
fn lines_have_the_fields_of_linuxs_conntrack_in_its_order() {
    require_root!();
    let bed = Bed::simple();
    kernel_tracks(&bed);
    let tracker = Tracker::start(&bed, RULES);

    let theirs = bed.pair.stack.run(|| std::net::TcpListener::bind((KERNEL4, 80)).expect("listen"));
    let (to_us, to_them) = (open_connection(&bed, STACK4), bed.connect(KERNEL4, 80));
    let socket = bed.pair.peer.run(|| UdpSocket::bind("0.0.0.0:0").expect("a socket"));
    for host in [STACK4, KERNEL4] {
        socket.send_to(b"x", SocketAddr::new(host.parse().unwrap(), 9)).expect("send");
    }
    for host in [STACK4, KERNEL4, STACK6, KERNEL6] {
        assert!(bed.ping(host), "{host}");
    }
    let by_protocol = |text: String| -> BTreeMap<String, String> {
        let name = |line: &str| line.split_whitespace().nth(2).unwrap().to_owned();
        let counted = |line: &&str| !line.contains("dst=ff02:") && !line.contains("dst=224.");
        text.lines().filter(counted).map(|line| (name(line), line.to_owned())).collect()
    };
    let ours = by_protocol(tracker.ct("-L -o extended"));
    let linux = by_protocol(bed.pair.stack.sh("conntrack", "-L -o extended"));
    for protocol in ["tcp", "udp", "icmp", "icmpv6"] {
        let (ours, linux) = (&ours[protocol], &linux[protocol]);
        assert_eq!(shape(ours), shape(linux), "{ours}\n{linux}");
        // The padding too: what is in front of the numbers.
        let front = |line: &str| line[.."ipv4     2 tcp      ".len()].to_owned();
        assert_eq!(front(ours), front(linux));
    }
    drop((theirs, to_us, to_them));
    tracker.server.stop();
}

#[test]
fn events_have_the_fields_of_linuxs_conntrack_in_its_order() {
    require_root!();
    let bed = Bed::simple();
    kernel_tracks(&bed);
    let tracker = Tracker::start(&bed, RULES);
    let theirs = bed.pair.stack.run(|| std::net::TcpListener::bind((KERNEL4, 80)).expect("listen"));
    let ours = tracker.follow("-E -o extended");
    let mut command = bed.pair.stack.command("conntrack");
    command.args(["-E", "-o", "extended"]);
    let linux = Follower::start(command);
    ours.begin(|| assert!(bed.ping(STACK4)));
    linux.begin(|| assert!(bed.ping(KERNEL4)));
    let streams = [STACK4, KERNEL4].map(|host| bed.connect(host, 80));
    let of = |stream: &TcpStream| format!("sport={} dport=80", stream.local_addr().unwrap().port());
    for happens in ["[NEW]", "[UPDATE]", "[UPDATE]", "[DESTROY]"] {
        if happens == "[DESTROY]" {
            // Not before both are open.
            tracker.ct("-D -p tcp --dport 80");
            bed.pair.stack.sh("conntrack", "-D -p tcp --dport 80");
        }
        let [ours, linux] = [(&ours, &streams[0]), (&linux, &streams[1])].map(|(follower, stream)| {
            let flow = of(stream);
            let line = std::iter::repeat_with(|| follower.line()).find(|line| line.contains(&flow)).unwrap();
            // Who deleted it.
            line.split(" [USERSPACE]").next().unwrap_or_default().to_owned()
        });
        assert!(ours.contains(happens), "{ours}");
        assert_eq!(shape(&ours), shape(&linux), "{ours}\n{linux}");
    }
    drop((theirs, streams));
    tracker.server.stop();
}

/// Has the kernel of the stack's namespace track flows to its own addresses, as it does once a rule asks for their state.
fn kernel_tracks(bed: &Bed) {
    bed.pair.stack.sh("nft", "add table inet test");
    bed.pair.stack.sh("nft", "add chain inet test input { type filter hook input priority 0 ; }");
    bed.pair.stack.sh("nft", "add rule inet test input ct state new accept");
    bed.pair.stack.sysctl("net/netfilter/nf_conntrack_acct", "1");
}

#[test]
fn a_gateways_flows_are_chosen_by_their_translation_and_cut_by_deletion() {
    require_root!();
    let bed = Bed::simple();
    let wan = bed.pair.beside(VethOptions::default());
    wan.peer_address("198.51.100.2/24");
    bed.peer().ip(&format!("route add 198.51.100.0/24 via {STACK4}"));
    let rules = "*nat\n-A POSTROUTING -o wan -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP\n\
                 -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
                 -A FORWARD -i lan -p tcp --syn -j ACCEPT\nCOMMIT\n";
    let gateway = Gateway::start(&bed, &wan, rules);
    let listener = wan.peer.run(|| std::net::TcpListener::bind("198.51.100.2:80").expect("listen"));
    let pass = || {
        let client = bed.connect("198.51.100.2", 80);
        let (server, peer) = listener.accept().expect("accept");
        assert_eq!(peer.ip().to_string(), GATEWAY_WAN);
        (client, server)
    };
    let (mut client, mut server) = pass();
    let port = client.local_addr().unwrap().port();
    let line = gateway.ct.ct(&format!("-L -p tcp -n {GATEWAY_WAN}"));
    let (original, reply) = line.split_once(" src=198.51.100.2 ").expect("both directions");
    assert!(original.contains(&format!("src=192.0.2.1 dst=198.51.100.2 sport={port} dport=80 ")), "{line}");
    assert!(reply.starts_with(&format!("dst={GATEWAY_WAN} sport=80 ")), "{line}");
    for filter in ["-g", "-n 198.51.100.9", &format!("-j {STACK4}")] {
        assert_eq!(gateway.ct.ct(&format!("-p tcp {filter}")), "", "{filter}");
    }
    client.write_all(b"passes").unwrap();
    server.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(gateway.ct.ct("-D -p tcp -n").lines().count(), 1);
    client.write_all(b"does not").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(server.read(&mut [0; 8]).is_err(), "it is no SYN");
    pass();
}

#[test]
fn processes_without_tracking_say_what_would_make_them_track() {
    require_root!();
    let bed = Bed::simple();
    let tracker = Tracker::start(&bed, "-A INPUT -p tcp --dport 9 -j DROP\n");
    let (_, errors, success) = tracker.try_ct("-L");
    assert!(!success && errors.contains("no rule asks for them") && errors.contains("--ctstate"), "{errors}");
    tracker.server.stop();
    let server = Server::http(&bed, &["--control", "../control.sock"]);
    let tracker = Tracker { ct: Ct::of(&server), server };
    for command in ["-L", "-D", "-E", "-C", "-F"] {
        let (_, errors, success) = tracker.try_ct(command);
        assert!(!success && errors.contains("start the process with --rules FILE"), "{command}: {errors}");
    }
    let (_, errors, success) = tracker.try_ct("-G -p tcp");
    assert!(!success && errors.contains("-G needs all of one flow"), "{errors}");
    tracker.server.stop();
}
