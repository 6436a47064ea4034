//! `--pcap FILE` as tshark reads it: whole exchanges in both directions, and nothing it finds fault with.

mod common;

use std::path::Path;
use std::process::Command;

use bywash_afxdp::require_root;
use common::server::{Server, bywash};
use common::{Bed, PEER4, STACK4, STACK6, kernel_http, url};

/// tshark's fields of the packets that `filter` shows, one line each, separated by spaces. Checksums are verified.
fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-2", "-R", filter, "-T", "fields", "-E", "separator=/s"]);
    for check in ["ip", "tcp", "udp"] {
        command.args(["-o", &format!("{check}.check_checksum:TRUE")]);
    }
    command.args(fields.iter().flat_map(|field| ["-e", *field])).arg("-r").arg(file);
    let output = command.output().expect("run tshark");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark {filter}: {}: {errors}", output.status);
    assert!(!errors.contains("cut short") && !errors.contains("damaged"), "{errors}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// What tshark finds fault with: malformed packets, wrong checksums, and all that it calls worse than a note, such as segments that
/// are missing from the capture. A window in full use is none.
fn faults(file: &Path) -> Vec<String> {
    const FAULTS: &str = "_ws.malformed || _ws.short || ip.checksum.status == \"Bad\" \
        || tcp.checksum.status == \"Bad\" || udp.checksum.status == \"Bad\" || icmpv6.checksum.status == \"Bad\" \
        || (_ws.expert.severity >= \"Warning\" && !tcp.analysis.window_full && !tcp.analysis.zero_window)";
    tshark(file, FAULTS, &["frame.number", "_ws.col.Info", "_ws.expert.message"])
}

fn assert_sound(file: &Path) {
    let found = faults(file);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_servers_capture_shows_its_exchanges_in_both_directions_without_fault() {
    require_root!();
    for (queues, mtu) in [(1, 1500), (2, 9000)] {
        let bed = Bed::new(queues, mtu);
        // Checksums of a veth peer are partial unless it makes them itself.
        bed.peer().sh("ethtool", &format!("-K {} tx off tso off gso off", bed.pair.peer_interface));
        let server = Server::http(&bed, &["--pcap", "../seen.pcap"]);
        let upload = server.path("upload");
        std::fs::write(&upload, vec![7; 300_000]).unwrap();
        for host in [STACK4, STACK6] {
            assert_eq!(bed.curl(&[&url(host, "/")]), b"<h1>hello</h1>\n");
            assert_eq!(bed.curl(&[&url(host, "/bytes/300000")]).len(), 300_000);
            bed.curl(&["-T", upload.to_str().unwrap(), &url(host, "/sink")]);
            assert!(bed.ping(host));
        }
        let (kept, _) = server.stop_and_keep();
        let file = kept.path().join("seen.pcap");
        assert_sound(&file);

        for (name, host) in [("ip", STACK4), ("ipv6", STACK6)] {
            let requests = format!("http.request && {name}.dst == {host}");
            let lines = tshark(&file, &requests, &["http.request.method", "http.request.uri"]);
            assert_eq!(lines, ["GET /", "GET /bytes/300000", "PUT /sink"]);
            let answers = format!("http.response.code == 200 && {name}.src == {host}");
            let lines = tshark(&file, &answers, &["http.content_length"]);
            assert!(lines.len() == 3 && lines[..2] == ["15", "300000"], "{lines:?}");
            // Every connection from its SYN to both FINs, in order of time.
            for flag in ["syn", "fin"] {
                for way in ["src", "dst"] {
                    let ends = format!("tcp.flags.{flag} == 1 && {name}.{way} == {host}");
                    assert_eq!(tshark(&file, &ends, &["frame.number"]).len(), 3, "{ends}");
                }
            }
        }
        for (echo, way) in [(0, "src"), (8, "dst")] {
            assert_eq!(
                tshark(&file, &format!("icmp.type == {echo} && ip.{way} == {STACK4}"), &["ip.id"]).len(),
                1
            );
        }
    }
}

#[test]
fn a_clients_capture_shows_its_request_and_the_answer_without_fault() {
    require_root!();
    let bed = Bed::simple();
    bed.peer().sh("ethtool", &format!("-K {} tx off tso off gso off", bed.pair.peer_interface));
    kernel_http::start(bed.peer());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("seen.pcap");
    let address = format!("{STACK4}/24");
    let url = url(PEER4, "/small");
    let output = bywash(&bed, &["get", "--address", &address, "--pcap", file.to_str().unwrap(), &url])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"small\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_sound(&file);
    assert_eq!(
        tshark(&file, "http.request", &["ip.src", "ip.dst", "http.request.uri"]),
        [format!("{STACK4} {PEER4} /small")]
    );
    assert_eq!(tshark(&file, "http.response", &["ip.src", "http.response.code"]), [format!("{PEER4} 200")]);

    // tshark sees a changed byte of the last packet: "no faults" above means something.
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(faults(&file).len(), 1);
}
