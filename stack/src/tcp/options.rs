//! TCP options: read from a segment into a value, and written in the order in which Linux writes them.
//!
//! Kinds: MSS (RFC 9293 section 3.7.1), window scale and timestamps (RFC 7323), SACK (RFC 2018), user timeout (RFC
//! 5482), accurate ECN (RFC 9768), Fast Open (RFC 7413, with the experimental kind of RFC 6994 that older peers use).

use super::seq::SeqNumber;

/// Bytes that options may take in a header (RFC 9293 section 3.1: the data offset has four bits).
pub const OPTIONS_LEN_MAX: usize = 40;
/// SACK blocks that fit in a header without timestamps (RFC 2018 section 3).
pub const SACK_BLOCKS_MAX: usize = 4;
/// Largest window shift (RFC 7323 section 2.3).
pub const WINDOW_SCALE_MAX: u8 = 14;
/// Bytes in the longest Fast Open cookie (RFC 7413 section 4.1.1); the shortest has [`FASTOPEN_COOKIE_MIN`].
pub const FASTOPEN_COOKIE_MAX: usize = 16;
/// Bytes in the shortest Fast Open cookie (RFC 7413 section 4.1.1).
pub const FASTOPEN_COOKIE_MIN: usize = 4;

const KIND_END: u8 = 0;
const KIND_NOP: u8 = 1;
const KIND_MSS: u8 = 2;
const KIND_WINDOW_SCALE: u8 = 3;
const KIND_SACK_PERMITTED: u8 = 4;
const KIND_SACK: u8 = 5;
const KIND_TIMESTAMPS: u8 = 8;
const KIND_USER_TIMEOUT: u8 = 28;
const KIND_FASTOPEN: u8 = 34;
const KIND_ACCURATE_ECN_0: u8 = 172;
const KIND_ACCURATE_ECN_1: u8 = 174;
const KIND_EXPERIMENT: u8 = 254;
/// Experiment identifier of Fast Open from the time before it had a kind of its own (RFC 7413 section 9, RFC 6994).
const FASTOPEN_MAGIC: [u8; 2] = [0xf9, 0x89];

/// The options of one segment. `None`, `false` or empty: not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Largest payload the sender takes, without options (RFC 9293 section 3.7.1). SYN only.
    pub mss: Option<u16>,
    /// Shift of the window, at most [`WINDOW_SCALE_MAX`]: a larger one is read as that (RFC 7323 section 2.3). SYN
    /// only.
    pub window_scale: Option<u8>,
    /// The sender understands SACK (RFC 2018 section 2). SYN only.
    pub sack_permitted: bool,
    /// Blocks received (RFC 2018 section 3).
    pub sack: SackBlocks,
    /// Timestamps (RFC 7323 section 3).
    pub timestamps: Option<Timestamps>,
    /// Fast Open cookie or the request for one (RFC 7413 section 2). SYN only.
    pub fastopen: Option<FastOpenOption>,
    /// What the sender received in ECN-capable packets (RFC 9768 section 3.2.3). Not on a SYN without ACK.
    pub accurate_ecn: Option<AccurateEcn>,
    /// User timeout the sender wants (RFC 5482 section 3.3).
    pub user_timeout: Option<UserTimeout>,
}

/// The two values of the timestamps option (RFC 7323 section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamps {
    /// The sender's clock.
    pub val: u32,
    /// The clock value it echoes; means something when the segment has an ACK.
    pub ecr: u32,
}

impl Timestamps {
    /// Bytes of the option when there is no other (RFC 7323 appendix A).
    pub const ALONE_LEN: usize = 12;
    /// What these bytes begin with: two NOPs, kind and length.
    pub(super) const ALONE: [u8; 4] = [KIND_NOP, KIND_NOP, KIND_TIMESTAMPS, 10];

    /// Writes the option as [`TcpOptions::emit`] does when there is no other; returns its length.
    #[inline]
    pub(super) fn emit_alone(self, bytes: &mut [u8; Self::ALONE_LEN]) -> usize {
        bytes[..4].copy_from_slice(&Self::ALONE);
        bytes[4..8].copy_from_slice(&self.val.to_be_bytes());
        bytes[8..].copy_from_slice(&self.ecr.to_be_bytes());
        bytes.len()
    }
}

/// The user timeout option (RFC 5482 section 3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserTimeout {
    /// The value counts minutes instead of seconds.
    pub minutes: bool,
    /// 0 to 32,767; 0 is reserved and to be ignored.
    pub value: u16,
}

impl UserTimeout {
    /// The timeout in seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.value as u32 * if self.minutes { 60 } else { 1 }
    }
}

/// The option of accurate ECN (RFC 9768 section 3.2.3): the low 24 bits of up to three byte counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccurateEcn {
    /// The counter of ECT(1) comes first, that of ECT(0) last: kind 174 instead of 172.
    order1: bool,
    fields: [u32; 3],
    len: u8,
}

impl AccurateEcn {
    /// An option with these counters, of which 24 bits and the first three count: in order 0 of ECT(0), CE and ECT(1),
    /// in order 1 of ECT(1), CE and ECT(0).
    #[must_use]
    pub fn new(order1: bool, counters: &[u32]) -> Self {
        let mut option = Self { order1, fields: [0; 3], len: counters.len().min(3) as u8 };
        for (field, counter) in option.fields.iter_mut().zip(counters) {
            *field = counter & 0xff_ffff;
        }
        option
    }

    /// Bytes in packets with ECT(0).
    #[must_use]
    pub fn e0b(&self) -> Option<u32> {
        self.field(if self.order1 { 2 } else { 0 })
    }

    /// Bytes in marked packets.
    #[must_use]
    pub fn ceb(&self) -> Option<u32> {
        self.field(1)
    }

    /// Bytes in packets with ECT(1).
    #[must_use]
    pub fn e1b(&self) -> Option<u32> {
        self.field(if self.order1 { 0 } else { 2 })
    }

    /// Bytes that it takes in a header, padding included.
    #[must_use]
    pub fn emitted_len(&self) -> usize {
        (2 + 3 * usize::from(self.len)).next_multiple_of(4)
    }

    fn field(&self, place: usize) -> Option<u32> {
        self.fields[..usize::from(self.len)].get(place).copied()
    }

    /// Any length is read: whole fields count, the rest is padding (section 3.2.3).
    fn parse(order1: bool, body: &[u8]) -> Self {
        let mut fields = [0; 3];
        let mut len = 0;
        for (field, bytes) in fields.iter_mut().zip(body.chunks_exact(3)) {
            *field = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
            len += 1;
        }
        Self { order1, fields, len }
    }

    fn emit(&self, writer: &mut Writer<'_>) {
        let kind = if self.order1 { KIND_ACCURATE_ECN_1 } else { KIND_ACCURATE_ECN_0 };
        let mut bytes = [kind, 2 + 3 * self.len, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (place, field) in bytes[2..].chunks_exact_mut(3).zip(self.fields) {
            place.copy_from_slice(&field.to_be_bytes()[1..]);
        }
        writer.put(&[&bytes[..usize::from(bytes[1])]]);
    }
}

/// Up to [`SACK_BLOCKS_MAX`] blocks, first and next-after-last sequence number of each, in the order sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SackBlocks {
    blocks: [(SeqNumber, SeqNumber); SACK_BLOCKS_MAX],
    len: u8,
}

impl SackBlocks {
    /// Adds a block; `false` when all places are taken.
    pub fn push(&mut self, block: (SeqNumber, SeqNumber)) -> bool {
        let Some(place) = self.blocks.get_mut(usize::from(self.len)) else { return false };
        *place = block;
        self.len += 1;
        true
    }
}

impl core::ops::Deref for SackBlocks {
    type Target = [(SeqNumber, SeqNumber)];
    fn deref(&self) -> &Self::Target {
        &self.blocks[..usize::from(self.len)]
    }
}

impl FromIterator<(SeqNumber, SeqNumber)> for SackBlocks {
    /// Takes the first [`SACK_BLOCKS_MAX`].
    fn from_iter<I: IntoIterator<Item = (SeqNumber, SeqNumber)>>(blocks: I) -> Self {
        let mut all = Self::default();
        for block in blocks.into_iter().take(SACK_BLOCKS_MAX) {
            all.push(block);
        }
        all
    }
}

/// A Fast Open option: a cookie, or the request for one when it is empty (RFC 7413 section 4.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FastOpenOption {
    cookie: [u8; FASTOPEN_COOKIE_MAX],
    len: u8,
    /// Carried in the experimental option kind 254 instead of kind 34.
    pub experimental: bool,
}

impl FastOpenOption {
    /// The request for a cookie.
    #[must_use]
    pub const fn request() -> Self {
        Self { cookie: [0; FASTOPEN_COOKIE_MAX], len: 0, experimental: false }
    }

    /// An option with `cookie`; `None` when its length is not even or not in 4..=16.
    #[must_use]
    pub fn with_cookie(cookie: &[u8]) -> Option<Self> {
        let len = cookie.len();
        if !(FASTOPEN_COOKIE_MIN..=FASTOPEN_COOKIE_MAX).contains(&len) || !len.is_multiple_of(2) {
            return None;
        }
        let mut option = Self::request();
        option.cookie[..len].copy_from_slice(cookie);
        option.len = len as u8;
        Some(option)
    }

    /// The same in the experimental option or not.
    #[must_use]
    pub const fn in_experimental(mut self, experimental: bool) -> Self {
        self.experimental = experimental;
        self
    }

    /// The cookie; empty in a request.
    #[must_use]
    pub fn cookie(&self) -> &[u8] {
        &self.cookie[..usize::from(self.len)]
    }

    fn parse(body: &[u8], experimental: bool) -> Option<Self> {
        let option = if body.is_empty() { Self::request() } else { Self::with_cookie(body)? };
        Some(Self { experimental, ..option })
    }
}

impl TcpOptions {
    /// Reads the options between byte 20 and the end of a header. Never fails: unknown kinds are skipped by their
    /// length (RFC 9293 section 3.1, MUST-4, MUST-6, MUST-64, MUST-68), a length that does not fit ends the reading (MUST-7), an option whose
    /// length is wrong for its kind is ignored, and of an option that comes twice the first counts.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        // What nearly every segment has, in the layout that RFC 7323 appendix A suggests.
        if let [KIND_NOP, KIND_NOP, KIND_TIMESTAMPS, 10, rest @ ..] = bytes
            && rest.len() == 8
        {
            options.timestamps = Some(Timestamps { val: be32(rest), ecr: be32(&rest[4..]) });
            return options;
        }
        while let Some((&kind, rest)) = bytes.split_first() {
            match kind {
                KIND_END => break,
                KIND_NOP => bytes = rest,
                _ => {
                    let Some(&len) = rest.first() else { break };
                    let len = usize::from(len);
                    if len < 2 || len > bytes.len() {
                        break;
                    }
                    options.read(kind, &bytes[2..len]);
                    bytes = &bytes[len..];
                }
            }
        }
        options
    }

    /// Writes the options and returns how many bytes they take: a multiple of 4. `syn` says which kind of segment it
    /// is: on a SYN the SACK blocks are left out, on others the options that belong to SYNs. What does not fit is left
    /// out: SACK blocks from the last, then the user timeout, then accurate ECN's and the Fast Open option.
    pub fn emit(&self, syn: bool, buf: &mut [u8; OPTIONS_LEN_MAX]) -> usize {
        let mut writer = Writer { buf, len: 0 };
        if syn {
            self.emit_syn(&mut writer);
        } else {
            self.emit_established(&mut writer);
        }
        if let Some(timeout) = self.user_timeout {
            let [high, low] = ((u16::from(timeout.minutes) << 15) | (timeout.value & 0x7fff)).to_be_bytes();
            writer.put(&[&[KIND_USER_TIMEOUT, 4, high, low]]);
        }
        debug_assert!(writer.len.is_multiple_of(4));
        writer.len
    }

    /// Bytes that [`TcpOptions::emit`] writes.
    #[must_use]
    pub fn emitted_len(&self, syn: bool) -> usize {
        self.emit(syn, &mut [0; OPTIONS_LEN_MAX])
    }

    /// Takes one option of `kind` with the bytes behind its length.
    fn read(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (KIND_MSS, &[high, low]) => keep(&mut self.mss, u16::from_be_bytes([high, low])),
            (KIND_WINDOW_SCALE, &[shift]) => keep(&mut self.window_scale, shift.min(WINDOW_SCALE_MAX)),
            (KIND_SACK_PERMITTED, []) => self.sack_permitted = true,
            (KIND_SACK, blocks) if self.sack.is_empty() && blocks.len().is_multiple_of(8) => {
                self.sack =
                    blocks.chunks_exact(8).map(|b| (SeqNumber(be32(b)), SeqNumber(be32(&b[4..])))).collect();
            }
            (KIND_TIMESTAMPS, body) if body.len() == 8 => {
                keep(&mut self.timestamps, Timestamps { val: be32(body), ecr: be32(&body[4..]) });
            }
            (KIND_USER_TIMEOUT, &[high, low]) => {
                let field = u16::from_be_bytes([high, low]);
                keep(
                    &mut self.user_timeout,
                    UserTimeout { minutes: field >> 15 == 1, value: field & 0x7fff },
                );
            }
            (KIND_ACCURATE_ECN_0, body) => keep(&mut self.accurate_ecn, AccurateEcn::parse(false, body)),
            (KIND_ACCURATE_ECN_1, body) => keep(&mut self.accurate_ecn, AccurateEcn::parse(true, body)),
            (KIND_FASTOPEN, cookie) => self.read_fastopen(cookie, false),
            (KIND_EXPERIMENT, body) => {
                if let Some(cookie) = body.strip_prefix(&FASTOPEN_MAGIC) {
                    self.read_fastopen(cookie, true);
                }
            }
            _ => {}
        }
    }

    fn read_fastopen(&mut self, cookie: &[u8], experimental: bool) {
        if let Some(option) = FastOpenOption::parse(cookie, experimental) {
            keep(&mut self.fastopen, option);
        }
    }

    /// RFC 9293 section 3.7.1, MUST-14.
    fn emit_syn(&self, writer: &mut Writer<'_>) {
        if let Some(mss) = self.mss {
            writer.put(&[&[KIND_MSS, 4], &mss.to_be_bytes()]);
        }
        match (self.timestamps, self.sack_permitted) {
            (Some(timestamps), true) => {
                writer.put(&[&[KIND_SACK_PERMITTED, 2], &timestamps_option(timestamps)]);
            }
            (Some(timestamps), false) => {
                writer.put(&[&[KIND_NOP, KIND_NOP], &timestamps_option(timestamps)]);
            }
            (None, _) => {}
        }
        if let Some(accurate_ecn) = &self.accurate_ecn {
            accurate_ecn.emit(writer);
        }
        if self.sack_permitted && self.timestamps.is_none() {
            writer.put(&[&[KIND_NOP, KIND_NOP, KIND_SACK_PERMITTED, 2]]);
        }
        if let Some(shift) = self.window_scale {
            writer.put(&[&[KIND_NOP, KIND_WINDOW_SCALE, 3, shift.min(WINDOW_SCALE_MAX)]]);
        }
        if let Some(fastopen) = &self.fastopen {
            let cookie = fastopen.cookie();
            let head: &[u8] = if fastopen.experimental {
                &[KIND_EXPERIMENT, cookie.len() as u8 + 4, FASTOPEN_MAGIC[0], FASTOPEN_MAGIC[1]]
            } else {
                &[KIND_FASTOPEN, cookie.len() as u8 + 2]
            };
            writer.put(&[head, cookie]);
        }
    }

    /// RFC 9293 section 3.2, MUST-65.
    fn emit_established(&self, writer: &mut Writer<'_>) {
        if let Some(timestamps) = self.timestamps {
            writer.put(&[&[KIND_NOP, KIND_NOP], &timestamps_option(timestamps)]);
        }
        if let Some(accurate_ecn) = &self.accurate_ecn {
            accurate_ecn.emit(writer);
        }
        let fit = (OPTIONS_LEN_MAX - writer.len - 4) / 8;
        let blocks = &self.sack[..self.sack.len().min(fit)];
        if blocks.is_empty() {
            return;
        }
        writer.put(&[&[KIND_NOP, KIND_NOP, KIND_SACK, blocks.len() as u8 * 8 + 2]]);
        for (start, end) in blocks {
            writer.put(&[&start.0.to_be_bytes(), &end.0.to_be_bytes()]);
        }
    }
}

/// The first of an option's occurrences counts.
fn keep<T>(place: &mut Option<T>, value: T) {
    if place.is_none() {
        *place = Some(value);
    }
}

/// The four bytes at the front of `bytes`, which has at least as many.
fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn timestamps_option(timestamps: Timestamps) -> [u8; 10] {
    let mut option = [KIND_TIMESTAMPS, 10, 0, 0, 0, 0, 0, 0, 0, 0];
    option[2..6].copy_from_slice(&timestamps.val.to_be_bytes());
    option[6..].copy_from_slice(&timestamps.ecr.to_be_bytes());
    option
}

/// Bytes written so far, always a multiple of 4.
struct Writer<'a> {
    buf: &'a mut [u8; OPTIONS_LEN_MAX],
    len: usize,
}

impl Writer<'_> {
    /// Writes the parts and pads them with no-operations, or nothing when they do not fit.
    /// RFC 9293 section 3.1, MUST-69.
    fn put(&mut self, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let padded = len.next_multiple_of(4);
        if self.len + padded > OPTIONS_LEN_MAX {
            return;
        }
        for part in parts {
            self.buf[self.len..][..part.len()].copy_from_slice(part);
            self.len += part.len();
        }
        self.buf[self.len..][..padded - len].fill(KIND_NOP);
        self.len += padded - len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::TcpOption;

    fn emitted(options: &TcpOptions, syn: bool) -> Vec<u8> {
        let mut buf = [0; OPTIONS_LEN_MAX];
        let len = options.emit(syn, &mut buf);
        buf[..len].to_vec()
    }

    #[test]
    fn a_syn_looks_like_linux() {
        // RFC 9293 section 3.7.1, MUST-14; RFC 9293 section 3.1, MUST-69.
        let mut options = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { val: 1, ecr: 0 }),
            ..TcpOptions::default()
        };
        let with = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(emitted(&options, true), with);
        options.timestamps = None;
        assert_eq!(emitted(&options, true), [2, 4, 5, 0xb4, 1, 1, 4, 2, 1, 3, 3, 7]);
    }

    #[test]
    fn timestamps_are_read_in_the_usual_layout_and_in_others() {
        let expected = Some(Timestamps { val: 0x0102_0304, ecr: 0x0506_0708 });
        let usual = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let behind = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
        let longer = [&usual[..], &[1, 1, 1, 1]].concat();
        for bytes in [&usual[..], &behind, &longer] {
            assert_eq!(
                TcpOptions::parse(bytes),
                TcpOptions { timestamps: expected, ..TcpOptions::default() }
            );
        }
        assert_eq!(TcpOptions::parse(&usual[..11]), TcpOptions::default());
    }

    #[test]
    fn three_sack_blocks_fit_beside_timestamps_and_four_without() {
        let sack: SackBlocks = (0..4).map(|i| (SeqNumber(i * 10), SeqNumber(i * 10 + 5))).collect();
        let mut options =
            TcpOptions { sack, timestamps: Some(Timestamps::default()), ..TcpOptions::default() };
        let bytes = emitted(&options, false);
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..4], [1, 1, 8, 10]);
        assert_eq!(bytes[12..16], [1, 1, 5, 26]);
        assert_eq!(TcpOptions::parse(&bytes).sack[..], sack[..3]);
        options.timestamps = None;
        assert_eq!(TcpOptions::parse(&emitted(&options, false)), options);
    }

    #[test]
    fn a_cookie_of_16_fits_beside_all_else_of_a_syn() {
        let options = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { val: 1, ecr: 2 }),
            fastopen: FastOpenOption::with_cookie(&[9; 16]),
            ..TcpOptions::default()
        };
        assert_eq!(emitted(&options, true).len(), 40);
        assert_eq!(TcpOptions::parse(&emitted(&options, true)), options);
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let options = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { val: 1, ecr: 2 }),
            fastopen: FastOpenOption::with_cookie(&[9; 16]),
            user_timeout: Some(UserTimeout { minutes: false, value: 30 }),
            ..TcpOptions::default()
        };
        assert_eq!(TcpOptions::parse(&emitted(&options, true)), TcpOptions { user_timeout: None, ..options });
    }

    #[test]
    fn the_experimental_fast_open_option_is_understood() {
        let parsed = TcpOptions::parse(&[254, 8, 0xf9, 0x89, 1, 2, 3, 4]).fastopen.unwrap();
        assert!(parsed.experimental);
        assert_eq!(parsed.cookie(), [1, 2, 3, 4]);
        let request = TcpOptions::parse(&[254, 4, 0xf9, 0x89]).fastopen.unwrap();
        assert!(request.experimental && request.cookie().is_empty());
        assert_eq!(TcpOptions::parse(&[254, 4, 0xca, 0xfe]).fastopen, None);
    }

    #[test]
    fn cookies_of_odd_or_wrong_length_are_ignored() {
        // RFC 7413 section 4.1.1.
        for len in [1, 2, 3, 5, 17, 18] {
            let mut option = vec![34, len + 2];
            option.resize(usize::from(len) + 2, 7);
            assert_eq!(TcpOptions::parse(&option).fastopen, None, "cookie of {len}");
            assert_eq!(FastOpenOption::with_cookie(&option[2..]), None);
        }
        assert_eq!(TcpOptions::parse(&[34, 2]).fastopen, Some(FastOpenOption::request()));
    }

    #[test]
    fn a_length_that_does_not_fit_ends_the_reading() {
        // RFC 9293 section 3.1, MUST-7.
        assert_eq!(TcpOptions::parse(&[2, 4, 5, 0xb4, 99, 0, 3, 3, 7]).window_scale, None);
        assert_eq!(TcpOptions::parse(&[2, 4, 5, 0xb4, 99, 1, 3, 3, 7]).window_scale, None);
        assert_eq!(TcpOptions::parse(&[2, 4, 5, 0xb4, 99, 40, 3, 3, 7]).mss, Some(1460));
        assert_eq!(TcpOptions::parse(&[2]), TcpOptions::default());
    }

    #[test]
    fn unknown_kinds_are_skipped_and_the_end_ends() {
        // RFC 9293 section 3.1, MUST-4, MUST-6.
        let options = TcpOptions::parse(&[99, 3, 42, 1, 3, 3, 7, 0, 2, 4, 5, 0xb4]);
        assert_eq!((options.window_scale, options.mss), (Some(7), None));
    }

    #[test]
    fn the_first_of_two_counts_and_a_wrong_length_is_no_option() {
        let options = TcpOptions::parse(&[2, 3, 9, 2, 4, 5, 0xb4, 2, 4, 1, 0]);
        assert_eq!(options.mss, Some(1460));
        assert!(TcpOptions::parse(&[5, 9, 0, 0, 0, 0, 0, 0, 0]).sack.is_empty());
    }

    #[test]
    fn a_window_scale_above_14_is_14() {
        // RFC 7323 section 2.3.
        assert_eq!(TcpOptions::parse(&[3, 3, 255]).window_scale, Some(14));
    }

    #[test]
    fn user_timeout_counts_seconds_or_minutes() {
        assert_eq!(TcpOptions::parse(&[28, 4, 0x80, 2]).user_timeout.unwrap().seconds(), 120);
        assert_eq!(TcpOptions::parse(&[28, 4, 0, 90]).user_timeout.unwrap().seconds(), 90);
    }

    prop_compose! {
        fn any_fastopen()(cookie in any::<[u8; 16]>(), words in 0usize..9, experimental: bool) -> FastOpenOption {
            let words = if words == 1 { 0 } else { words };
            FastOpenOption::parse(&cookie[..words * 2], experimental).unwrap()
        }
    }

    prop_compose! {
        fn any_options()(
            mss in any::<Option<u16>>(),
            window_scale in prop::option::of(0..=WINDOW_SCALE_MAX),
            sack_permitted: bool,
            sack in prop::collection::vec(any::<(u32, u32)>(), 0..=4),
            timestamps in prop::option::of(any::<(u32, u32)>()),
            fastopen in prop::option::of(any_fastopen()),
            user_timeout in prop::option::of((any::<bool>(), 0u16..1 << 15)),
            accurate_ecn in prop::option::of((any::<bool>(), prop::collection::vec(any::<u32>(), 0..=3))),
        ) -> TcpOptions {
            TcpOptions {
                accurate_ecn: accurate_ecn.map(|(order1, counters)| AccurateEcn::new(order1, &counters)),
                mss, window_scale, sack_permitted, fastopen,
                sack: sack.into_iter().map(|(start, end)| (SeqNumber(start), SeqNumber(end))).collect(),
                timestamps: timestamps.map(|(val, ecr)| Timestamps { val, ecr }),
                user_timeout: user_timeout.map(|(minutes, value)| UserTimeout { minutes, value }),
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..=60)) {
            // RFC 9293 section 3.1, MUST-64.
            let options = TcpOptions::parse(&bytes);
            prop_assert!(options.window_scale.unwrap_or(0) <= WINDOW_SCALE_MAX);
        }

        /// smoltcp reads what is written here as it was meant.
        #[test]
        fn smoltcp_reads_the_same(options in any_options(), syn: bool) {
            let bytes = emitted(&options, syn);
            let (mut rest, mut read) = (&bytes[..], TcpOptions::default());
            while !rest.is_empty() {
                let (next, option) = TcpOption::parse(rest).unwrap();
                rest = next;
                match option {
                    TcpOption::MaxSegmentSize(mss) => read.mss = Some(mss),
                    TcpOption::WindowScale(shift) => read.window_scale = Some(shift),
                    TcpOption::SackPermitted => read.sack_permitted = true,
                    TcpOption::TimeStamp { tsval, tsecr } => read.timestamps = Some(Timestamps { val: tsval, ecr: tsecr }),
                    TcpOption::SackRange(ranges) => {
                        read.sack = ranges.iter().flatten().map(|(a, b)| (SeqNumber(*a), SeqNumber(*b))).collect();
                    }
                    _ => {}
                }
            }
            let mine = TcpOptions::parse(&bytes);
            // It knows three blocks, and of the others only the kind.
            let sack = mine.sack.iter().take(3).copied().collect();
            prop_assert_eq!(read, TcpOptions { sack, fastopen: None, user_timeout: None, accurate_ecn: None, ..mine });
        }

        /// Whatever is read can be written, and reads the same again: nothing that is kept was misread.
        #[test]
        fn a_syn_reads_back(options in any_options()) {
            let sent = TcpOptions { sack: SackBlocks::default(), ..options };
            let bytes = emitted(&options, true);
            prop_assert!(bytes.len() <= 40 && bytes.len().is_multiple_of(4));
            let read = TcpOptions::parse(&bytes);
            let fits = bytes.len() + 4 <= 40 || read.user_timeout.is_some();
            prop_assert!(read.accurate_ecn.is_some() || sent.accurate_ecn.is_none() || bytes.len() > 28);
            let expected = TcpOptions {
                user_timeout: sent.user_timeout.filter(|_| fits),
                fastopen: sent.fastopen.filter(|_| read.fastopen.is_some()),
                accurate_ecn: sent.accurate_ecn.filter(|_| read.accurate_ecn.is_some()),
                ..sent
            };
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn a_segment_reads_back(options in any_options()) {
            // RFC 9293 section 3.2, MUST-65.
            let bytes = emitted(&options, false);
            prop_assert_eq!(bytes.len(), options.emitted_len(false));
            let read = TcpOptions::parse(&bytes);
            let before = options.timestamps.map_or(0, |_| 12) + options.accurate_ecn.map_or(0, |option| option.emitted_len());
            let fit = (OPTIONS_LEN_MAX - before - 4) / 8;
            prop_assert_eq!(read.accurate_ecn, options.accurate_ecn);
            prop_assert_eq!(&read.sack[..], &options.sack[..options.sack.len().min(fit)]);
            prop_assert_eq!(read.timestamps, options.timestamps);
            prop_assert!(read.mss.is_none() && read.window_scale.is_none() && read.fastopen.is_none() && !read.sack_permitted);
            prop_assert!(read.user_timeout == options.user_timeout || bytes.len() > 36);
        }
    }
}
