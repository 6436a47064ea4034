//! Any bytes as an ICMP error that is translated with what it quotes: it never panics, what it refuses it does not change, and
//! of what it changes all checksums stay as right or wrong as they were.

use bywash::flow::FlowTuple;
use bywash::flow::nat::rewrite::{Checksum, rewrite, rewrite_error, transport_sum};
use bywash::flow::view::{PacketView, Transport};

/// Runs one input: an IP packet, from its header on.
///
/// # Panics
/// When a promise is broken.
pub fn run(data: &[u8]) {
    let bytes = &data[..data.len().min(2000)];
    let Some(view) = PacketView::of_ip(bytes) else { return };
    let ipv4 = view.tuple.is_ipv4();
    let other: FlowTuple = if ipv4 {
        FlowTuple::new(([203, 0, 113, 9], 999).into(), ([198, 18, 0, 1], 7).into(), view.tuple.protocol)
    } else {
        let end = |text: &str| text.parse::<core::net::SocketAddr>().expect("an end");
        FlowTuple::new(end("[2001:db8:9::9]:999"), end("[2001:db8:7::7]:7"), view.tuple.protocol)
    };
    let mut plain = bytes.to_vec();
    let whole = transport_sum(bytes);
    if rewrite(&mut plain, &other, Checksum::Whole).is_err() {
        assert_eq!(plain, bytes);
    } else if let Some(before) = whole.filter(|_| view.tuple.protocol == 6) {
        // Each of a sum's two zeros is as good as the other.
        assert_eq!(transport_sum(&plain).expect("as long as before") % 0xffff, before % 0xffff);
    }
    let Transport::Error { quoted: Some(quoted), .. } = view.transport else { return };
    let wanted = match quoted.icmp_query() {
        Some((kind, _)) => {
            FlowTuple::query(other.src(), other.dst(), quoted.protocol, kind, 77).expect("a query")
        }
        None => FlowTuple::new(other.source(), other.destination(), quoted.protocol),
    };
    if quoted.is_ipv4() != ipv4 {
        return;
    }
    let mut error = bytes.to_vec();
    match rewrite_error(&mut error, other.src(), other.dst(), &wanted) {
        Err(_) => assert_eq!(error, bytes),
        Ok(()) => {
            if let Some(before) = whole {
                assert_eq!(transport_sum(&error).expect("as long as before") % 0xffff, before % 0xffff);
            }
            let after = PacketView::of_ip(&error).expect("still a packet");
            assert_eq!((after.tuple.src(), after.tuple.dst()), (other.src(), other.dst()));
        }
    }
}

/// Names and inputs for `nat_icmp`.
#[must_use]
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let v4 = |number: u8, rest: &[u8]| {
        let total = (20 + rest.len()) as u16;
        let [high, low] = total.to_be_bytes();
        [&[0x45, 0, high, low, 0, 1, 0x40, 0, 64, number, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7][..], rest]
            .concat()
    };
    let v6 = |number: u8, rest: &[u8]| {
        let [high, low] = (rest.len() as u16).to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, high, low, number, 64];
        for low in [1u8, 2] {
            bytes.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low]);
        }
        [bytes, rest.to_vec()].concat()
    };
    let udp = [0x04, 0xd2, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4];
    let tcp = [0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0x12, 0x34, 0, 0];
    let echo = [8, 0, 1, 2, 0, 7, 0, 1];
    let error = |kind: u8, quote: Vec<u8>| [&[kind, 1, 0x33, 0x44, 0, 0, 0, 0][..], &quote].concat();
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, number, transport) in [("udp", 17, &udp[..]), ("tcp", 6, &tcp[..]), ("echo", 1, &echo[..])] {
        seeds.push((format!("v4-{name}"), v4(number, transport)));
        seeds.push((format!("v4-error-{name}"), v4(1, &error(3, v4(number, transport)))));
        seeds.push((format!("v4-error-{name}-short"), v4(1, &error(11, v4(number, &transport[..8])))));
        if number != 1 {
            seeds.push((format!("v6-error-{name}"), v6(58, &error(1, v6(number, transport)))));
        }
    }
    let extended = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp].concat();
    seeds.push(("v6-error-extended".to_owned(), v6(58, &error(3, v6(60, &extended)))));
    seeds
}
