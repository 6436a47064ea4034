//! `--pcap FILE` as tshark reads it: whole exchanges in both directions, and nothing it finds fault with.

mod common;

use std::path::Path;
use std::process::Command;

use bywash::pcap::Writer;
use bywash::time::Duration;
use bywash_afxdp::require_root;
use common::server::{Server, bywash};
use common::{Bed, PEER4, PEER6, STACK4, STACK6, kernel_http, url};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire;

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
/// are missing from the capture. A window in full use is none. Nor is a checksum of 0xffff from the kernel, which writes
/// that for 0 in every protocol when its device sums nothing (one segment in 65,536): both stand for the same sum.
fn faults(file: &Path) -> Vec<String> {
    const FAULTS: &str = "_ws.malformed || _ws.short || ip.checksum.status == \"Bad\" \
        || tcp.checksum.status == \"Bad\" || udp.checksum.status == \"Bad\" || icmpv6.checksum.status == \"Bad\" \
        || (_ws.expert.severity >= \"Warning\" && !tcp.analysis.window_full && !tcp.analysis.zero_window)";
    let faults =
        format!("!(tcp.checksum == 0xffff && (ip.src == {PEER4} || ipv6.src == {PEER6})) && ({FAULTS})");
    tshark(file, &faults, &["frame.number", "_ws.col.Info", "_ws.expert.message"])
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

/// A segment from `src` whose TCP checksum is right as 0, with `checksum` in its place.
fn segment_of_sum_zero(src: &str, checksum: u16) -> Vec<u8> {
    let (src, dst): (wire::Ipv4Address, _) = (src.parse().unwrap(), wire::Ipv4Address::new(198, 51, 100, 1));
    let sums = ChecksumCapabilities::default();
    let mut bytes = vec![0; 54];
    let mut ethernet = wire::EthernetFrame::new_unchecked(&mut bytes);
    ethernet.set_ethertype(wire::EthernetProtocol::Ipv4);
    let mut ip = wire::Ipv4Packet::new_unchecked(ethernet.payload_mut());
    let header = wire::Ipv4Repr {
        src_addr: src,
        dst_addr: dst,
        next_header: wire::IpProtocol::Tcp,
        payload_len: 20,
        hop_limit: 64,
    };
    header.emit(&mut ip, &sums);
    let mut tcp = wire::TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_src_port(40_000);
    tcp.set_dst_port(80);
    tcp.set_header_len(20);
    tcp.set_ack(true);
    // The window makes the sum what it is to be.
    tcp.fill_checksum(&src.into(), &dst.into());
    let window = tcp.checksum();
    tcp.set_window_len(window);
    tcp.fill_checksum(&src.into(), &dst.into());
    assert_eq!(tcp.checksum(), 0);
    tcp.set_checksum(checksum);
    bytes
}

#[test]
fn a_checksum_of_all_ones_is_the_kernels_way_to_write_zero_and_a_fault_in_others() {
    for (src, checksum, sound) in [
        (PEER4, 0, true),
        (STACK4, 0, true),
        (PEER4, 0xffff, true),
        (STACK4, 0xffff, false),
        (PEER4, 1, false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("one.pcap");
        let mut writer = Writer::new(std::fs::File::create(&path).unwrap()).unwrap();
        writer.write_bytes(Duration::ZERO, &segment_of_sum_zero(src, checksum)).unwrap();
        writer.flush().unwrap();
        let found = faults(&path);
        assert_eq!(found.is_empty(), sound, "{src} {checksum:#x}: {found:#?}");
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
