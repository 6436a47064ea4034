//! tcpdump as the witness on the peer's interface, and its file as TCP segments.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
};

use super::{Bed, wait_until};

/// A running tcpdump.
pub struct Capture {
    child: Child,
    directory: tempfile::TempDir,
}

/// One TCP segment as seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Since the epoch.
    pub at: Duration,
    pub src: IpAddress,
    pub dst: IpAddress,
    pub src_port: u16,
    pub dst_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// Payload bytes, also those that the snapshot length cut off.
    pub length: u32,
    /// As on the wire, not scaled.
    pub window: u16,
}

impl Segment {
    /// Sequence number behind it.
    pub fn end(&self) -> u32 {
        self.seq.wrapping_add(self.length + u32::from(self.syn) + u32::from(self.fin))
    }

    /// Whether it acknowledges `seq` (everything in front of it).
    pub fn acks(&self, seq: u32) -> bool {
        self.ack.wrapping_sub(seq) as i32 >= 0
    }
}

impl Capture {
    /// Starts to capture what `filter` lets through, on the peer's interface.
    pub fn start(bed: &Bed, filter: &str) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let mut command = bed.peer_command("tcpdump");
        command.args([
            "-i",
            &bed.pair.peer_interface,
            "-s",
            "128",
            "-B",
            "65536",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
        ]);
        command.arg("-w").arg(directory.path().join("pcap")).args(filter.split(' '));
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("start tcpdump");
        let errors = child.stderr.take().expect("piped above");
        let mut lines = BufReader::new(errors).lines();
        let listening = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on"));
        assert!(listening, "tcpdump did not start with {filter:?}");
        // Its last words (packets dropped) must have a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, directory }
    }

    /// What was captured so far.
    pub fn segments(&self) -> Vec<Segment> {
        read(&self.directory.path().join("pcap"))
    }

    /// Waits until the segments captured satisfy `done`, and returns them.
    pub fn wait(&self, limit: Duration, what: &str, done: impl Fn(&[Segment]) -> bool) -> Vec<Segment> {
        let mut segments = Vec::new();
        wait_until(limit, what, || {
            segments = self.segments();
            done(&segments)
        });
        segments
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// The TCP segments of a capture file in this machine's byte order with microseconds.
pub fn read(path: &Path) -> Vec<Segment> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let mut segments = Vec::new();
    let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
    while let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) {
        let field =
            |index: usize| u32::from_ne_bytes(header[index..index + 4].try_into().expect("four bytes"));
        let at = Duration::from_secs(field(0).into()) + Duration::from_micros(field(4).into());
        // The last record may be half written.
        let Some((frame, next)) = after.split_at_checked(field(8) as usize) else { break };
        segments.extend(segment(at, frame));
        rest = next;
    }
    segments
}

fn segment(at: Duration, frame: &[u8]) -> Option<Segment> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    // Headers only: the snapshot is shorter than the packet, which a checked view would refuse.
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_unchecked(ethernet.payload());
            let (header, total) = (usize::from(ip.header_len()), usize::from(ip.total_len()));
            let wanted = ip.next_header() == IpProtocol::Tcp;
            let tcp = ethernet.payload().get(header..).filter(|_| wanted)?;
            tcp_segment(at, ip.src_addr().into(), ip.dst_addr().into(), tcp, total.checked_sub(header)?)
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_unchecked(ethernet.payload());
            let wanted = ip.next_header() == IpProtocol::Tcp;
            let tcp = ethernet.payload().get(40..).filter(|_| wanted)?;
            tcp_segment(at, ip.src_addr().into(), ip.dst_addr().into(), tcp, usize::from(ip.payload_len()))
        }
        _ => None,
    }
}

fn tcp_segment(at: Duration, src: IpAddress, dst: IpAddress, bytes: &[u8], length: usize) -> Option<Segment> {
    let tcp = TcpPacket::new_unchecked(bytes.get(..20).map(|_| bytes)?);
    let length = length.checked_sub(usize::from(tcp.header_len()))? as u32;
    Some(Segment {
        at,
        src,
        dst,
        src_port: tcp.src_port(),
        dst_port: tcp.dst_port(),
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack_number().0 as u32,
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        length,
        window: tcp.window_len(),
    })
}
