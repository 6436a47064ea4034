//! Any bytes, in any number of frames, through the parser: it never panics, what it accepts is what it says it is, and
//! how the packet lies in its frames makes no difference.

use bywash::config::Cidr;
use bywash::packet::checksum::Sum;
use bywash::packet::{Packet, PacketPool, PoolLayout};
use bywash::parse::{Kind, Parsed, Policy, parse};
use bywash::tcp::header::TcpHeader;
use bywash::tcp::options::TcpOptions;

use crate::frames;

/// Bytes of a frame of the pool; the smallest the pool takes, so that short inputs span several too.
const FRAME_BYTES: usize = 256;

/// Runs one input: its first byte says where the packet is cut and whether its checksums are put right first (a search
/// seldom guesses one), the rest is the packet.
///
/// # Panics
/// When the parser breaks a promise.
pub fn run(data: &[u8]) {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let policy = policy(cut & 1 != 0);
    let mut bytes = bytes.to_vec();
    if cut & 2 != 0 {
        frames::repair_checksums(&mut bytes);
    }
    let bytes = &bytes[..];
    let whole_pool = PacketPool::heap(PoolLayout { frames: 1, frame_size: 65_535, headroom: 0 });
    let Some(whole) = Packet::copy_from(&whole_pool, &bytes[..bytes.len().min(65_535)]) else { return };
    let parsed = parse(&whole, &policy);
    if let Ok(parsed) = &parsed {
        check(parsed, &bytes[..whole.len()], &policy);
    }
    assert_eq!(parse(&whole, &policy), parsed, "parsing again gives another result");

    let pool = PacketPool::heap(PoolLayout { frames: 512, frame_size: FRAME_BYTES as u32, headroom: 0 });
    let Some(pieces) = cut_up(&pool, bytes, usize::from(cut)) else { return };
    let of_pieces = parse(&pieces, &policy);
    // Headers must lie in the first frame; those that the parser counts as payload (ARP, ICMP) are short.
    let headers = |parsed: &Parsed| (usize::from(parsed.payload) + 32).min(parsed.end as usize);
    if let Ok(parsed) = parsed
        && headers(&parsed) <= pieces.head().len()
    {
        assert_eq!(of_pieces, Ok(parsed), "the cut into frames changed the result");
    }
    drop((pieces, whole));
    assert_eq!(pool.free_frames(), 512);
}

/// What every accepted packet promises.
fn check(parsed: &Parsed, bytes: &[u8], policy: &Policy) {
    let (l3, l4, payload) = (usize::from(parsed.l3), usize::from(parsed.l4), usize::from(parsed.payload));
    let end = parsed.end as usize;
    assert!(
        l3 <= l4 && l4 <= payload && payload <= end && end <= bytes.len(),
        "{parsed:?} of {}",
        bytes.len()
    );
    assert_ne!(parsed.kind, Kind::Unparsed);
    let flow = &parsed.flow;
    match parsed.kind {
        Kind::Tcp => {
            assert!((20..=60).contains(&(payload - l4)), "{parsed:?}");
            assert_eq!(flow.protocol, 6);
            assert!(policy.is_ours(flow.dst), "TCP to an address that is not ours: {parsed:?}");
            assert!(flow.src_port != 0 && flow.dst_port != 0, "{parsed:?}");
        }
        Kind::Udp => {
            assert_eq!((payload - l4, flow.protocol), (8, 17));
        }
        _ => {}
    }
    if parsed.kind == Kind::Tcp && !parsed.partial_checksum {
        let segment = &bytes[l4..end];
        let mut sum = Sum::pseudo_header(flow.src, flow.dst, 6, segment.len() as u32);
        sum.add(segment);
        assert!(sum.is_valid(), "a wrong TCP checksum was accepted: {parsed:?}");
    }
    if parsed.kind == Kind::Tcp {
        let header = TcpHeader::parse(&bytes[l4..end]).expect("the parser accepted the header");
        assert_eq!((header.header_len, header.src_port), (payload - l4, flow.src_port));
        let options = TcpOptions::parse(&bytes[l4 + 20..payload]);
        for syn in [false, true] {
            let mut emitted = [0; 40];
            assert!(options.emit(syn, &mut emitted) <= 40);
        }
    }
    assert!(!parsed.partial_checksum || policy.partial_checksums);
}

/// The packet in frames whose first holds as much as `cut` says (at most a frame).
fn cut_up(pool: &PacketPool, bytes: &[u8], cut: usize) -> Option<Packet> {
    let (head, mut rest) = bytes.split_at(bytes.len().min(cut.max(1)).min(FRAME_BYTES));
    let mut packet = Packet::copy_from(pool, head)?;
    while !rest.is_empty() {
        let mut frame = pool.alloc()?;
        let len = rest.len().min(FRAME_BYTES);
        frame.bytes_mut()[..len].copy_from_slice(&rest[..len]);
        packet.push_frame(frame, 0, len)?;
        rest = &rest[len..];
    }
    Some(packet)
}

fn policy(partial_checksums: bool) -> Policy {
    let cidr = |text: &str| text.parse::<Cidr>().expect("an address");
    Policy {
        mac: smoltcp::wire::EthernetAddress(frames::OUR_MAC),
        addresses: vec![cidr("10.0.0.1/24"), cidr("fd00::1/64"), cidr("fe80::1/64")],
        groups: vec!["224.0.0.1".parse().expect("a group"), "ff02::1".parse().expect("a group")],
        partial_checksums,
        dhcp: false,
        forwarding: false,
        hash_keys: (1, 2),
    }
}
