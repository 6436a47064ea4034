//! Segments by fields, as frames from host 2 to host 1, for tests of what merges and cuts segments.

use core::net::IpAddr;

use crate::packet::checksum::Sum;

/// The Ethernet address of host 1.
pub(crate) const US: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A segment, by fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spec {
    pub(crate) v6: bool,
    pub(crate) mac: u8,
    pub(crate) port: u16,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) flow_label: u16,
    pub(crate) ident: u16,
    pub(crate) df: bool,
    pub(crate) ip_option: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// With the accurate ECN bit as 0x100.
    pub(crate) flags: u16,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            v6: false,
            mac: 2,
            port: 1000,
            tos: 0,
            ttl: 64,
            flow_label: 0,
            ident: 0,
            df: true,
            ip_option: false,
            seq: 1,
            ack: 7,
            flags: 0x10,
            window: 500,
            options: Vec::new(),
            payload: vec![b'x'; 100],
        }
    }
}

pub(crate) fn timestamps(val: u32, ecr: u32) -> Vec<u8> {
    [[1, 1, 8, 10], val.to_be_bytes(), ecr.to_be_bytes()].concat()
}

impl Spec {
    pub(crate) fn end(&self) -> u32 {
        self.seq.wrapping_add(self.payload.len() as u32)
    }

    /// The segment of as much payload that follows.
    pub(crate) fn next(&self) -> Self {
        Self { seq: self.end(), ..self.clone() }
    }

    pub(crate) fn ack(ack: u32) -> Self {
        Self { ack, payload: Vec::new(), ..Self::default() }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let (src, dst): (IpAddr, IpAddr) = if self.v6 {
            ("2001:db8::2".parse().unwrap(), "2001:db8::1".parse().unwrap())
        } else {
            ("192.0.2.2".parse().unwrap(), "192.0.2.1".parse().unwrap())
        };
        let offset = (20 + self.options.len()) as u16 / 4;
        let mut tcp = [self.port, 80].map(u16::to_be_bytes).concat();
        tcp.extend([self.seq, self.ack].map(u32::to_be_bytes).concat());
        tcp.extend([offset << 12 | self.flags, self.window, 0, 0].map(u16::to_be_bytes).concat());
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let mut sum = Sum::pseudo_header(src, dst, 6, tcp.len() as u32);
        sum.add(&tcp);
        tcp[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        let mut frame = [&US[..], &[2, 0, 0, 0, 0, self.mac]].concat();
        if let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) {
            let word = 6 << 28 | u32::from(self.tos) << 20 | u32::from(self.flow_label);
            frame.extend([0x86, 0xdd]);
            frame.extend(word.to_be_bytes());
            frame.extend((tcp.len() as u16).to_be_bytes());
            frame.extend([6, self.ttl]);
            frame.extend([src.octets(), dst.octets()].concat());
        } else {
            let options: &[u8] = if self.ip_option { &[1, 1, 1, 0] } else { &[] };
            let len = (20 + options.len() + tcp.len()) as u16;
            let mut ip = vec![0x45 + options.len() as u8 / 4, self.tos];
            ip.extend([len, self.ident, u16::from(self.df) << 14].map(u16::to_be_bytes).concat());
            ip.extend([self.ttl, 6, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1]);
            ip.extend(options);
            let mut sum = Sum::ZERO;
            sum.add(&ip);
            ip[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(ip);
        }
        frame.extend(tcp);
        // Ethernet padding.
        frame.resize(frame.len().max(60), 0xee);
        frame
    }
}
