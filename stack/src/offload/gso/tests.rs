use core::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::packet::PoolLayout;

/// Headers and payload of a super-segment.
#[derive(Clone, Debug)]
struct Super {
    headers: Vec<u8>,
    l3: usize,
    l4: usize,
    payload: Vec<u8>,
}

fn super_segment() -> impl Strategy<Value = Super> {
    let headers =
        (any::<bool>(), 0usize..3, 0usize..=10, 0usize..=10, prop::collection::vec(any::<u8>(), HEADERS_MAX));
    (headers, prop::collection::vec(any::<u8>(), 0..20_000)).prop_map(
        |((is_ipv4, tags, ip_options, tcp_options, mut bytes), payload)| {
            let l3 = 14 + 4 * tags;
            let ip_len = if is_ipv4 { 20 + 4 * ip_options } else { 40 };
            let l4 = l3 + ip_len;
            let tcp_len = 20 + 4 * tcp_options;
            bytes[l3] = if is_ipv4 { 0x40 | (ip_len / 4) as u8 } else { 0x60 };
            bytes[if is_ipv4 { l3 + 9 } else { l3 + 6 }] = protocol::TCP;
            bytes[l4 + 12] = (((tcp_len / 4) as u8) << 4) | (bytes[l4 + 12] & 0x0f);
            bytes.truncate(l4 + tcp_len);
            Super { headers: bytes, l3, l4, payload }
        },
    )
}

/// RFC 1071 in its plainest form.
fn checksum(words: &[&[u8]]) -> [u8; 2] {
    let bytes = words.concat();
    let sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// The segment from `start` to `end`, built by itself.
fn segment(whole: &Super, index: usize, start: usize, end: usize, first_only: u16) -> Vec<u8> {
    let Super { headers, l3, l4, payload } = whole;
    let mut bytes = headers.clone();
    bytes.extend_from_slice(&payload[start..end]);
    let (ip, tcp) = bytes[*l3..].split_at_mut(l4 - l3);
    let seq = u32::from_be_bytes(tcp[4..8].try_into().unwrap()).wrapping_add(start as u32);
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    let mut flags = u16::from_be_bytes([tcp[12], tcp[13]]);
    if start > 0 {
        flags &= !first_only;
    }
    if end < payload.len() {
        flags &= !0x0009;
    }
    tcp[12..14].copy_from_slice(&flags.to_be_bytes());
    tcp[16..18].fill(0);
    let tcp_len = tcp.len() as u16;
    let addresses = if ip[0] >> 4 == 4 {
        let total = ip.len() as u16 + tcp_len;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        if ip[6] & 0x40 == 0 {
            let ident = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index as u16);
            ip[4..6].copy_from_slice(&ident.to_be_bytes());
        }
        ip[10..12].fill(0);
        let sum = checksum(&[ip]);
        ip[10..12].copy_from_slice(&sum);
        ip[12..20].to_vec()
    } else {
        ip[4..6].copy_from_slice(&tcp_len.to_be_bytes());
        ip[8..40].to_vec()
    };
    let sum = checksum(&[&addresses, &[0, 6], &tcp_len.to_be_bytes(), tcp]);
    tcp[16..18].copy_from_slice(&sum);
    bytes
}

fn bytes(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

proptest! {
    /// Frame by frame and byte by byte what each segment built by itself is.
    #[test]
    fn frames_are_those_of_segments_built_one_by_one(
        whole in super_segment(),
        mss in 1usize..9000,
        first_only in prop_oneof![Just(0u16), Just(0x80)],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        frame_size in prop_oneof![Just(2048u32), 256u32..4096],
    ) {
        let mss = mss.max(whole.payload.len() / 500);
        let pool = PacketPool::heap(PoolLayout { frames: 2000, frame_size, headroom: 64 });
        let template = Template::new(&whole.headers, whole.l3, whole.l4, Flags(first_only)).unwrap();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.payload.len() + 1)).collect();
        ends.push(whole.payload.len());
        ends.sort_unstable();
        let starts = core::iter::once(0).chain(ends.iter().copied());
        let pieces: Vec<&[u8]> = starts.zip(&ends).map(|(start, end)| &whole.payload[start..*end]).collect();
        let mut frames = Vec::new();
        // A frame too small for the headers makes none.
        if whole.headers.len() > (frame_size - 64) as usize {
            prop_assert_eq!(template.cut(&pool, &pieces, mss, usize::MAX, |_| ()), 0);
            return Ok(());
        }
        let made = template.cut(&pool, &pieces, mss, usize::MAX, |packet| frames.push(packet));
        prop_assert_eq!(made, segments(whole.payload.len(), mss));
        for (index, packet) in frames.iter().enumerate() {
            let (start, end) = (index * mss, whole.payload.len().min((index + 1) * mss));
            prop_assert_eq!(bytes(packet), segment(&whole, index, start, end, first_only));
            prop_assert_eq!(packet.frames(), template.frames(&pool, end - start));
            prop_assert!(packet.starts_at(64));
        }
        drop(frames);
        prop_assert_eq!(pool.free_frames(), 2000);
    }

    /// Any bytes as headers: none or a template that cuts.
    #[test]
    fn any_headers_are_taken_or_refused(
        headers in prop::collection::vec(any::<u8>(), 0..200),
        l3 in 0usize..220,
        l4 in 0usize..220,
    ) {
        let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: 512, headroom: 0 });
        if let Some(template) = Template::new(&headers, l3, l4, Flags::NONE) {
            prop_assert_eq!(template.cut(&pool, &[b"0123456789"], 4, usize::MAX, |_| ()), 3);
        }
    }
}

/// A segment of ours over IPv4.
fn plain() -> Template {
    let mut headers = vec![0; 54];
    (headers[14], headers[46]) = (0x45, 0x50);
    Template::new(&headers, 14, 34, Flags::NONE).unwrap()
}

#[test]
fn an_empty_pool_and_a_bound_end_the_cut() {
    let pool = PacketPool::heap(PoolLayout { frames: 3, frame_size: 256, headroom: 64 });
    let payload: &[&[u8]] = &[&[1; 500]];
    let mut frames = Vec::new();
    assert_eq!(plain().cut(&pool, payload, 100, 2, |packet| frames.push(packet)), 2);
    frames.clear();
    assert_eq!(plain().cut(&pool, payload, 100, usize::MAX, |packet| frames.push(packet)), 3);
    assert_eq!(frames.len(), 3);
    frames.clear();
    // The second segment needs two frames and finds one: what was begun is freed.
    assert_eq!(plain().cut(&pool, payload, 300, usize::MAX, |packet| frames.push(packet)), 1);
    frames.clear();
    assert_eq!(pool.free_frames(), 3);
}

#[test]
fn a_segment_without_payload_is_one_frame() {
    let pool = PacketPool::heap(PoolLayout { frames: 1, frame_size: 256, headroom: 64 });
    let mut frames = Vec::new();
    assert_eq!(plain().cut(&pool, &[], 1, usize::MAX, |packet| frames.push(bytes(&packet))), 1);
    let ours: IpAddr = "0.0.0.0".parse().unwrap();
    let mut sum = Sum::pseudo_header(ours, ours, protocol::TCP, 20);
    sum.add(&frames[0][34..]);
    assert!(sum.is_valid());
    assert_eq!(frames[0].len(), 54);
}
