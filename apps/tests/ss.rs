//! `bywash ss` beside the kernel's `ss` at the other end of the same connections, and the SYN options on the wire.

mod common;

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use bywash_afxdp::require_root;
use common::server::{Server, bywash};
use common::{Bed, PEER4, STACK4, kernel_http, url, wait_until};

/// `bywash ss` with these arguments: standard output, or standard error where it fails.
fn ss(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_bywash"))
        .env_remove("BYWASH_LOG")
        .arg("ss")
        .args(arguments)
        .output()
        .expect("run bywash ss");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The number behind `name:` in an info line.
fn figure(line: &str, name: &str) -> u64 {
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
    let digits = word.unwrap_or_else(|| panic!("no {name} in {line}"));
    digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn a_connection_with_a_slow_client_shows_with_its_queues_and_figures() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::http(&bed, &["--control", "../control.sock"]);
    let path = server.path("control.sock");
    let control = path.to_str().unwrap();
    let mut stream = bed.connect(STACK4, 80);
    let local = stream.local_addr().unwrap();
    // A client that does not read: its window closes, and the rest stays with the server.
    write!(stream, "GET /bytes/50000000 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let ask = |more: &[&str]| ss(&[&["--control", control], more].concat()).unwrap();
    let mut shown = String::new();
    wait_until(Duration::from_secs(20), "the window is closed", || {
        shown = ask(&["-tioe", "dst", &local.to_string()]);
        shown.contains("timer:(persist,")
    });
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "titles, row, figures: {shown}");
    let words: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(words[..2], ["ESTAB", "0"]);
    assert_eq!(words[3..5], [format!("{STACK4}:80"), local.to_string()]);
    let waiting: u64 = words[2].parse().unwrap();
    assert!(waiting > 0, "{shown}");
    let figures = lines[2];
    assert!(figures.trim_start().starts_with("ts sack cubic wscale:"), "{figures}");
    assert_eq!((figure(figures, "mss"), figure(figures, "pmtu")), (1448, 1500));
    assert_eq!(figure(figures, "notsent"), waiting, "all that was sent is acknowledged");
    assert_eq!(figure(figures, "bytes_acked"), figure(figures, "bytes_sent"));
    assert!(figure(figures, "rwnd_limited") > 0 && figure(figures, "busy") > 0, "{figures}");

    // What the kernel says of the same connection; ss shows its options with -o.
    let kernel = bed.peer_command("ss").args(["-tionH", "dst", STACK4]).output().expect("run ss");
    let kernel = String::from_utf8(kernel.stdout).unwrap();
    let theirs = kernel.lines().nth(1).expect("the kernel's figures");
    assert!(theirs.contains(" ts sack "), "{theirs}");
    let wscale = |line: &str| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("wscale:")).unwrap().to_owned();
        let (snd, rcv) = word.split_once(',').unwrap();
        (snd.to_owned(), rcv.to_owned())
    };
    let ((snd, rcv), (their_snd, their_rcv)) = (wscale(figures), wscale(theirs));
    assert_eq!((snd, rcv), (their_rcv, their_snd));
    assert_eq!(figure(theirs, "bytes_received"), figure(figures, "bytes_sent"));

    // The others: a listener, nothing in TIME-WAIT, a summary, JSON, a filter that is none.
    assert!(ask(&["-tlH"]).lines().any(|line| line.contains("LISTEN") && line.contains("0.0.0.0:80")));
    assert_eq!(ask(&["-H", "state", "time-wait"]), "");
    assert!(ask(&["-s"]).contains("estab 1"), "{}", ask(&["-s"]));
    let json = ask(&["--json", "sport = :80"]);
    assert!(
        json.contains("\"bytes_acked\"") && json.contains(&format!("\"pid\": {}", server.pid())),
        "{json}"
    );
    let error = ss(&["--control", control, "sport", "=", "http"]).unwrap_err();
    assert!(error.contains("column 9"), "{error}");

    // The client reads on: everything arrives.
    let mut rest = vec![0; 1 << 20];
    let mut total = 0;
    while total < 50_000_000 {
        total += stream.read(&mut rest).unwrap();
    }
    server.stop();
    assert!(!path.exists(), "removed at the end");
}

#[test]
fn running_processes_are_found_by_themselves_and_a_killed_one_is_not() {
    require_root!();
    let bed = Bed::simple();
    let server = Server::echo(&bed, &[]);
    let pid = server.pid().to_string();
    let listed = ss(&["-tulpH", "--pid", &pid]).unwrap();
    assert_eq!(listed.matches(&format!("pid={pid}")).count(), 4, "TCP and UDP, IPv4 and IPv6: {listed}");
    server.kill();
    let error = ss(&["--pid", &pid]).unwrap_err();
    assert!(error.contains("stale"), "{error}");
    let error = ss(&["--pid", "4194305"]).unwrap_err();
    assert!(error.contains("no running bywash process with pid 4194305"), "{error}");
    // The next one that starts tidies up.
    let server = Server::echo(&bed, &[]);
    assert!(!std::path::Path::new(&format!("/run/bywash/{pid}.sock")).exists());
    server.stop();
    let without = Server::echo(&bed, &["--no-control"]);
    let error = ss(&["--pid", &without.pid().to_string()]).unwrap_err();
    assert!(error.contains("no running bywash process"), "{error}");
    without.stop();
}

#[test]
fn a_syn_has_its_options_in_linuxs_order() {
    require_root!();
    let bed = Bed::simple();
    kernel_http::start(bed.peer());
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (directory.path().join("ours.pcap"), directory.path().join("theirs.pcap"));
    // The stack as client, then the kernel as client of the stack: both SYNs as the stack saw them.
    let address = format!("{STACK4}/24");
    let output = bywash(&bed, &["get", "--address", &address, "--pcap", ours.to_str().unwrap()])
        .arg(url(PEER4, "/small"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = Server::http(&bed, &["--pcap", theirs.to_str().unwrap()]);
    bed.get(STACK4, "/");
    server.stop();
    let kinds = |file: &std::path::Path, flags: &str| {
        let output = Command::new("tshark")
            .args(["-n", "-Y", flags, "-T", "fields", "-e", "tcp.option_kind", "-r"])
            .arg(file)
            .output()
            .expect("run tshark");
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    let (syn, syn_ack) =
        ("tcp.flags.syn == 1 && tcp.flags.ack == 0", "tcp.flags.syn == 1 && tcp.flags.ack == 1");
    // MSS, SACK permitted, timestamps, no-operation, window scale.
    assert_eq!(kinds(&ours, syn), "2,4,8,1,3");
    assert_eq!(kinds(&theirs, syn), "2,4,8,1,3", "the kernel's");
    assert_eq!(kinds(&theirs, syn_ack), "2,4,8,1,3");
    assert_eq!(kinds(&ours, syn_ack), "2,4,8,1,3", "the kernel's");
}
