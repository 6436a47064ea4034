//! Explicit congestion notification: a router marks packets instead of dropping them, the receiver tells the sender,
//! the sender reduces its window (RFC 3168 section 6.1; RFC 9768 with more accurate feedback). Here are the settings,
//! the negotiation on SYN and SYN-ACK, what a receiver tells and what a sender makes of it. `input` hands in what
//! arrived, `acknowledge` and `recovery` act on what is told, `output` asks what a segment carries. RFC 9768's counters
//! are in `accurate`.

mod accurate;

use core::fmt;
use core::str::FromStr;

use super::acknowledge::Feedback;
use super::connection::{Connection, Context, timestamp_before};
use super::header::Flags;
use super::input::Segment;
use super::options::{AccurateEcn, OPTIONS_LEN_MAX, TcpOptions};
use super::seq::SeqNumber;
use accurate::{Accurate, Counts, ace, ace_flags, handshake_encoding};

/// The ECN field of the IP header (RFC 3168 section 5): not ECN-capable.
const NOT_ECT: u8 = 0;
/// ECN-capable: what data is sent with.
const ECT0: u8 = 2;
/// Congestion was met.
const CE: u8 = 3;

/// The three flags that negotiate ECN on a SYN and carry its feedback later.
const ECN_FLAGS: Flags = Flags::AE.union(Flags::CWR).union(Flags::ECE);
/// An ECN-setup SYN (RFC 3168 section 6.1.1); with [`Flags::AE`] it asks for accurate ECN (RFC 9768 section 3.1.1).
const CLASSIC_SYN: Flags = Flags::CWR.union(Flags::ECE);
/// ACKs sent one by one after a mark, as in Linux: the peer's window may be very small.
const QUICK_ACKS_AFTER_MARK: u8 = 2;
/// SACK blocks that go before accurate ECN's option (RFC 9768 section 3.2.3.3), bytes.
const TWO_BLOCKS_LEN: usize = 20;
/// Accurate ECN's option with all counters, padded.
const WHOLE_OPTION_LEN: u16 = 12;

/// How two ends tell each other of marks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EcnMode {
    /// Not at all: packets are not ECN-capable.
    #[default]
    Off,
    /// One signal a round trip (RFC 3168).
    Classic,
    /// Counts of marked packets and bytes (RFC 9768).
    Accurate,
}

/// When ECN is used: Linux's `tcp_ecn`. Parsed from its numbers or from words, see [`EcnConfig::from_str`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EcnConfig {
    /// What our SYNs ask for.
    pub request: EcnMode,
    /// The most that we agree to when a peer's SYN asks.
    pub accept: EcnMode,
}

impl EcnConfig {
    /// Never: `tcp_ecn` 0.
    pub const OFF: Self = Self { request: EcnMode::Off, accept: EcnMode::Off };
    /// Asked for and agreed to: `tcp_ecn` 1.
    pub const ON: Self = Self { request: EcnMode::Classic, accept: EcnMode::Classic };
    /// Agreed to when a peer asks: `tcp_ecn` 2, the default of Linux and here.
    pub const ACCEPT: Self = Self { request: EcnMode::Off, accept: EcnMode::Classic };

    /// Accurate ECN asked for and agreed to: `tcp_ecn` 3. A peer that knows only classic ECN gets that.
    pub const ACCURATE: Self = Self { request: EcnMode::Accurate, accept: EcnMode::Accurate };
    /// Classic ECN asked for, either agreed to: `tcp_ecn` 4.
    pub const CLASSIC_ACCURATE: Self = Self { request: EcnMode::Classic, accept: EcnMode::Accurate };
    /// Either agreed to when a peer asks: `tcp_ecn` 5.
    pub const ACCEPT_ACCURATE: Self = Self { request: EcnMode::Off, accept: EcnMode::Accurate };

    /// All of them by `tcp_ecn`'s number, with the word that stands for it.
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::OFF, "off"),
        (Self::ON, "on"),
        (Self::ACCEPT, "accept"),
        (Self::ACCURATE, "accurate"),
        (Self::CLASSIC_ACCURATE, "classic-accurate"),
        (Self::ACCEPT_ACCURATE, "accept-accurate"),
    ];

    /// The setting that Linux's `tcp_ecn` has by this number; `None`: Linux has no such number.
    #[must_use]
    pub fn from_sysctl(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).map(|(config, _)| *config)
    }
}

impl Default for EcnConfig {
    fn default() -> Self {
        Self::ACCEPT
    }
}

/// When accurate ECN's option is sent (RFC 9768 section 3.2.3.3): Linux's `tcp_ecn_option`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum AccurateEcnOption {
    /// Never: 0.
    Never,
    /// On ACKs that have a changed counter to tell, with the counters that have changed ever, where the segment has room beside
    /// its payload.
    #[default]
    OnChange,
    /// On every segment to a peer that sends the option itself, with all counters: 2. A full segment carries 12 bytes less.
    Always,
}

/// What accurate ECN does where RFC 9768 leaves a choice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AccurateEcnConfig {
    /// When the option is sent.
    pub option: AccurateEcnOption,
    /// Send ACKs, FINs and retransmissions ECN-capable, too, as Linux does: what RFC 8311 section 4.3 leaves to experiments with
    /// control packets. Off: RFC 3168 sections 6.1.4 and 6.1.5.
    pub control_packets: bool,
    /// Send nothing ECN-capable where the handshake shows that the path changes the ECN field (RFC 9768 section 3.2.2.3): Linux's
    /// `tcp_ecn_fallback`. On.
    pub check_path: bool,
}

impl Default for AccurateEcnConfig {
    fn default() -> Self {
        Self { option: AccurateEcnOption::default(), control_packets: false, check_path: true }
    }
}

/// A setting of ECN that there is not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no ECN setting `{0}`: choose one of {words}, or a number of Linux's tcp_ecn from 0 to {last}",
    words = words(), last = EcnConfig::ALL.len() - 1)]
pub struct UnknownEcnConfig(pub String);

fn words() -> String {
    EcnConfig::ALL.iter().map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
}

impl FromStr for EcnConfig {
    type Err = UnknownEcnConfig;

    /// Reads `off`, `on`, `accept`, `accurate`, `classic-accurate`, `accept-accurate`, or `tcp_ecn`'s number for it.
    fn from_str(text: &str) -> Result<Self, UnknownEcnConfig> {
        let named = Self::ALL.iter().find(|(_, word)| *word == text).map(|(config, _)| *config);
        let numbered = || text.parse().ok().and_then(Self::from_sysctl);
        named.or_else(numbered).ok_or_else(|| UnknownEcnConfig(text.to_owned()))
    }
}

impl fmt::Display for EcnConfig {
    /// The word; `request/accept` for a combination that has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::ALL.iter().find(|(config, _)| config == self) {
            Some((_, word)) => f.write_str(word),
            None => write!(f, "{:?}/{:?}", self.request, self.accept),
        }
    }
}

// ---- negotiation

/// What was agreed to with a peer's SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Agreed {
    pub(super) mode: EcnMode,
    /// Nothing said that the peer may not understand it: data may be sent ECN-capable.
    pub(super) may_send: bool,
    /// The ECN field with which the last SYN arrived: accurate ECN's SYN-ACK tells.
    syn_ecn: u8,
}

impl Agreed {
    /// What a SYN with these `flags` asks for, as far as `accept` goes (RFC 3168 section 6.1.1, RFC 9768 table 2).
    /// Flags that mean nothing yet ask for accurate ECN (RFC 9768 section 3.1.3).
    /// RFC 9293 section 3.8.2, SHLD-8.
    pub(super) fn from_syn(flags: Flags, syn_ecn: u8, accept: EcnMode) -> Self {
        let mode = match flags & ECN_FLAGS {
            Flags::NONE => EcnMode::Off,
            flags if accept == EcnMode::Accurate && flags != CLASSIC_SYN => EcnMode::Accurate,
            flags if flags.contains(CLASSIC_SYN) => accept.min(EcnMode::Classic),
            _ => EcnMode::Off,
        };
        Self { mode, may_send: mode != EcnMode::Off, syn_ecn }
    }

    /// The SYN came again; `false`: it asks for what contradicts the first (RFC 9768 section 3.1.5), and the connection
    /// must be reset. One that does not ask any more is of a client that may not use ECN: nothing is sent ECN-capable
    /// then (RFC 3168 section 6.1.1.1), and accurate feedback goes on (RFC 9768 section 3.1.5).
    #[must_use]
    pub(super) fn note_syn_again(&mut self, flags: Flags, syn_ecn: u8, accept: EcnMode) -> bool {
        self.syn_ecn = syn_ecn;
        let again = Self::from_syn(flags, syn_ecn, accept).mode;
        match (self.mode, again) {
            (EcnMode::Classic, EcnMode::Off) => self.mode = EcnMode::Off,
            (EcnMode::Classic, EcnMode::Accurate) | (EcnMode::Accurate, EcnMode::Classic) => return false,
            _ => {}
        }
        self.may_send &= again != EcnMode::Off;
        true
    }

    /// The flags of the SYN-ACK that follows `timeouts` others. Accurate ECN's is plain when two were lost (RFC 9768
    /// section 3.2.3.2.2), and nothing is sent ECN-capable then (section 3.1.5).
    pub(super) fn syn_ack_flags(&mut self, timeouts: u8) -> Flags {
        match self.mode {
            EcnMode::Off => Flags::NONE,
            EcnMode::Classic => Flags::ECE,
            EcnMode::Accurate if timeouts >= 2 => {
                self.may_send = false;
                Flags::NONE
            }
            EcnMode::Accurate => ace_flags(handshake_encoding(self.syn_ecn)),
        }
    }

    /// Accurate ECN's option for the first SYN-ACK (RFC 9768 section 3.2.3.2.1).
    pub(super) fn syn_ack_option(self) -> Option<AccurateEcn> {
        (self.mode == EcnMode::Accurate).then(|| Accurate::default().whole_option())
    }

    /// What an ACK says that is sent before there is a connection.
    pub(super) fn ack_flags(self) -> Flags {
        if self.mode == EcnMode::Accurate { ace_flags(Accurate::default().received.cep) } else { Flags::NONE }
    }

    /// What a SYN cookie's SYN-ACK and the ACK of it settled: classic ECN by a bit of the cookie, accurate ECN by the
    /// flags of the ACK, which only who was offered it sets so (RFC 9768 section 3.2.2.1, note 3).
    pub(super) fn from_cookie(classic: bool, flags: Flags, accept: EcnMode) -> Self {
        let mode = match accept {
            EcnMode::Accurate if ace(flags) > 1 => EcnMode::Accurate,
            _ if classic => accept.min(EcnMode::Classic),
            _ => EcnMode::Off,
        };
        Self { mode, may_send: mode != EcnMode::Off, syn_ecn: NOT_ECT }
    }
}

/// A connection's ECN; nothing besides a word for one without.
#[derive(Debug, Default)]
pub(super) struct Ecn(Option<Box<Live>>);

/// The state of a connection that asks for ECN or has it.
#[derive(Clone, Debug, Default)]
struct Live {
    /// What our SYN asks for; later it says nothing.
    request: EcnMode,
    /// What both ends agreed on, and whether new data is sent ECN-capable.
    agreed: Agreed,
    config: AccurateEcnConfig,
    /// A SYN of ours was sent without asking.
    fell_back: bool,
    /// Classic: every ACK says that a mark was met, until the peer says that it reduced its window.
    echo: bool,
    /// Classic: the next new data says that we did.
    reduced: bool,
    /// An ECN-capable packet arrived.
    seen: bool,
    /// Segments that arrived at the peer marked or, with classic ECN, whose ACKs told of marks: Linux's `delivered_ce`.
    delivered_ce: u32,
    accurate: Accurate,
}

impl Ecn {
    /// Whether neither end has asked for it.
    pub(super) fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// Of a connection that begins with our SYN.
    pub(super) fn requesting(request: EcnMode, config: AccurateEcnConfig) -> Self {
        Self((request != EcnMode::Off).then(|| Box::new(Live { request, config, ..Live::default() })))
    }

    /// Of a connection whose SYN-ACK a listener sent.
    pub(super) fn agreed(agreed: Agreed, config: AccurateEcnConfig) -> Self {
        Self((agreed.mode != EcnMode::Off).then(|| Box::new(Live { agreed, config, ..Live::default() })))
    }

    /// What both ends agreed on.
    pub(super) fn mode(&self) -> EcnMode {
        self.0.as_ref().map_or(EcnMode::Off, |live| live.agreed.mode)
    }

    fn accurate(&self) -> Option<&Accurate> {
        self.0.as_deref().filter(|live| live.agreed.mode == EcnMode::Accurate).map(|live| &live.accurate)
    }

    fn accurate_mut(&mut self) -> Option<&mut Accurate> {
        let live = self.0.as_deref_mut().filter(|live| live.agreed.mode == EcnMode::Accurate);
        live.map(|live| &mut live.accurate)
    }

    pub(super) fn was_seen(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.seen)
    }

    pub(super) fn delivered_ce(&self) -> u32 {
        self.0.as_ref().map_or(0, |live| live.delivered_ce)
    }

    /// What accurate ECN counted since the connection began: what the peer told that it received, and what arrived here.
    pub(super) fn counts(&self) -> (Counts, Counts) {
        let none = Accurate::default();
        let accurate = self.accurate().unwrap_or(&none);
        (accurate.delivered.since_initial(), accurate.received.since_initial())
    }

    /// Whether our SYN asked and no plain one followed.
    pub(super) fn is_requesting(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.request != EcnMode::Off && !live.fell_back)
    }

    /// Whether a plain SYN followed one that asked.
    pub(super) fn fell_back(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.fell_back)
    }

    /// SYNs are plain from now on: one that asked was refused, perhaps by a middlebox that takes it for an attack (RFC
    /// 3168 section 6.1.1.1).
    pub(super) fn fall_back(&mut self) {
        if let Some(live) = &mut self.0 {
            live.fell_back |= live.request != EcnMode::Off;
        }
    }

    /// The `timeouts`th SYN was lost. Accurate ECN is asked for once more (RFC 9768 section 3.1.4.1).
    pub(super) fn note_syn_lost(&mut self, timeouts: u8) {
        if self.0.as_ref().is_some_and(|live| live.request != EcnMode::Accurate || timeouts > 1) {
            self.fall_back();
        }
    }

    /// Another choice of when accurate ECN's option is sent.
    pub(super) fn set_option(&mut self, option: AccurateEcnOption) {
        if let Some(live) = &mut self.0 {
            live.config.option = option;
        }
    }

    // ---- the handshake

    /// The flags of our SYN.
    pub(super) fn syn_flags(&self) -> Flags {
        match self.0.as_ref().filter(|live| !live.fell_back).map(|live| live.request) {
            Some(EcnMode::Classic) => CLASSIC_SYN,
            Some(EcnMode::Accurate) => ECN_FLAGS,
            _ => Flags::NONE,
        }
    }

    /// Flags and option of the SYN-ACK of a simultaneous or Fast Open that follows `timeouts` others; `again`: it was
    /// sent before.
    pub(super) fn syn_ack(&mut self, timeouts: u8, again: bool) -> (Flags, Option<AccurateEcn>) {
        let Some(live) = &mut self.0 else { return (Flags::NONE, None) };
        let sends = !again && live.config.option != AccurateEcnOption::Never;
        (live.agreed.syn_ack_flags(timeouts), live.agreed.syn_ack_option().filter(|_| sends))
    }

    /// The peer's SYN in a simultaneous open. What the peer makes of our SYN is what we make of its (RFC 9768 section
    /// 3.1.2).
    pub(super) fn take_simultaneous_syn(&mut self, syn: &Segment, accept: EcnMode) {
        let Some(live) = &self.0 else { return };
        let accept = if live.fell_back { EcnMode::Off } else { accept.min(live.request) };
        *self = Self::agreed(Agreed::from_syn(syn.flags, syn.ecn, accept), live.config);
    }

    /// As [`Agreed::note_syn_again`].
    #[must_use]
    pub(super) fn note_syn_again(&mut self, syn: &Segment, accept: EcnMode) -> bool {
        self.0.as_mut().is_none_or(|live| live.agreed.note_syn_again(syn.flags, syn.ecn, accept))
    }

    /// The answer to our SYN (RFC 3168 section 6.1.1, RFC 9768 table 2); whether it tells that the SYN was marked. A
    /// server that sends our flags back does not understand them (RFC 3168 section 6.1.1.2).
    pub(super) fn take_syn_ack(&mut self, syn_ack: &Segment) -> bool {
        let Some(live) = &mut self.0 else { return false };
        let answer = ace(syn_ack.flags);
        let mode = match live.request {
            EcnMode::Accurate if ![0b000, 0b001, 0b111].contains(&answer) => EcnMode::Accurate,
            EcnMode::Accurate if answer == 0b001 => EcnMode::Classic,
            EcnMode::Classic if answer & 0b011 == 0b001 => EcnMode::Classic,
            _ => {
                self.0 = None;
                return false;
            }
        };
        // Classic: what sent a plain SYN sends nothing ECN-capable (RFC 3168 section 6.1.1). Accurate: our SYN was not
        // ECN-capable; if it arrived otherwise the path changes what it should not (RFC 9768 section 3.2.2.3).
        let unchanged = [0b010, 0b101].contains(&answer) || !live.config.check_path;
        let may_send = if mode == EcnMode::Classic { !live.fell_back } else { unchanged };
        live.agreed = Agreed { mode, may_send, syn_ecn: NOT_ECT };
        if mode != EcnMode::Accurate {
            return false;
        }
        (live.accurate.news, live.accurate.greets) = (true, true);
        live.accurate.syn_ack_arrived(syn_ack.ecn);
        live.accurate.take_first_option(syn_ack.options.accurate_ecn);
        answer == handshake_encoding(CE)
    }

    /// The server sent its SYN-ACK again, so it has not got our ACK: the next tells that one's ECN field (RFC 9768 section
    /// 3.2.2.1), also if that SYN-ACK is plain, as after two that were lost.
    pub(super) fn note_syn_ack_again(&mut self, syn_ack: &Segment) {
        let is_client = self.0.as_ref().is_some_and(|live| live.request == EcnMode::Accurate);
        if let Some(accurate) = self.accurate_mut().filter(|_| is_client) {
            accurate.syn_ack_arrived(syn_ack.ecn);
        }
    }

    /// The first segment that acknowledges our SYN-ACK (RFC 9768 table 4); whether it tells that that was marked.
    pub(super) fn take_handshake_ack(&mut self, segment: &Segment) -> bool {
        let Some(live) = self.0.as_deref_mut().filter(|live| live.agreed.mode == EcnMode::Accurate) else {
            return false;
        };
        live.accurate.take_first_option(segment.options.accurate_ecn);
        if segment.payload_len() > 0 || !segment.options.sack.is_empty() {
            return false;
        }
        live.accurate.skip = true;
        match ace(segment.flags) {
            0 => (live.accurate.deaf, live.agreed.may_send) = (true, false),
            // Not ECN-capable as it was sent, or a value without meaning yet.
            1 | 2 | 5 | 7 => {}
            answer => {
                let marked = answer == handshake_encoding(CE);
                live.agreed.may_send &= !live.config.check_path;
                live.accurate.delivered.cep += u32::from(marked);
                live.delivered_ce += u32::from(marked);
                return marked;
            }
        }
        false
    }

    /// An ACK by itself is due, as only that can tell the ECN field of the SYN-ACK (RFC 9768 section 3.2.2.1).
    pub(super) fn owes_handshake_ack(&self) -> bool {
        self.accurate().is_some_and(|accurate| accurate.handshake_ack.is_some())
    }

    // ---- what a segment carries

    /// The flags of a segment without SYN: `new` when it brings data never sent before, `pure` when it is an ACK by
    /// itself.
    pub(super) fn flags(&self, new: bool, pure: bool) -> Flags {
        let Some(live) = &self.0 else { return Flags::NONE };
        match live.agreed.mode {
            EcnMode::Off => Flags::NONE,
            EcnMode::Classic => {
                let echo = if live.echo { Flags::ECE } else { Flags::NONE };
                echo | if new && live.reduced { Flags::CWR } else { Flags::NONE }
            }
            EcnMode::Accurate => live.accurate.flags(pure),
        }
    }

    /// Those of [`Ecn::flags`] that only the first of several segments cut from one has: CWR tells once (RFC 3168 section
    /// 6.1.2), a counter is the same in all.
    pub(super) fn first_flags(&self) -> Flags {
        if self.mode() == EcnMode::Classic { Flags::CWR } else { Flags::NONE }
    }

    /// Whether accurate ECN's option is due on the next segment that has room for it.
    pub(super) fn owes_option(&self) -> bool {
        self.accurate().is_some_and(|accurate| accurate.option(true).is_some())
    }

    /// The IP header's field of a segment without SYN: ECN-capable is only data that is sent for the first time, so that a mark
    /// or loss of it is sure to be told (RFC 3168 sections 6.1.1, 6.1.4, 6.1.5 and 6.1.6); accurate ECN may be configured to
    /// send all so, as its counters tell of marked ACKs, too.
    pub(super) fn codepoint(&self, new: bool) -> u8 {
        let Some(live) = &self.0 else { return NOT_ECT };
        let all = live.agreed.mode == EcnMode::Accurate && live.config.control_packets;
        if live.agreed.may_send && (new || all) { ECT0 } else { NOT_ECT }
    }

    /// Bytes that accurate ECN's option takes in every segment.
    pub(super) fn option_len(&self) -> u16 {
        if self.always_option().is_some() { WHOLE_OPTION_LEN } else { 0 }
    }

    /// The counters, if the option goes on every segment: to a peer that sends it, too.
    fn always_option(&self) -> Option<&Accurate> {
        let live = self.0.as_deref().filter(|live| live.config.option == AccurateEcnOption::Always)?;
        self.accurate().filter(|_| live.accurate.is_heard() && !live.accurate.mute)
    }

    /// An ACK goes out that tells with the option that a segment at `start` came twice.
    pub(super) fn note_duplicate_told(&mut self, start: SeqNumber) {
        if let Some(accurate) = self.accurate_mut() {
            accurate.told_duplicate = Some(start);
        }
    }

    /// A segment at `start` came again. If the last ACK told just that, it was lost or not understood: options may be what
    /// gets ACKs lost (RFC 9768 section 3.2.3.2.2), and are no longer sent: `true`.
    pub(super) fn note_duplicate(&mut self, start: SeqNumber) -> bool {
        let accurate = self.accurate_mut().filter(|accurate| accurate.told_duplicate == Some(start));
        accurate.map(|accurate| accurate.mute = true).is_some()
    }

    /// A segment without SYN went out.
    pub(super) fn note_sent(&mut self, new: bool, pure: bool, with_option: bool) {
        let Some(live) = &mut self.0 else { return };
        live.reduced &= !new;
        live.accurate.sent(pure, with_option);
        live.accurate.greets &= !new;
    }

    /// A retransmission timeout. If nothing was acknowledged yet, segments with options may not get through (RFC 9768
    /// section 3.2.3.2.2).
    pub(super) fn note_timeout(&mut self, nothing_acknowledged: bool) {
        if let Some(accurate) = self.accurate_mut().filter(|_| nothing_acknowledged) {
            accurate.mute = true;
        }
    }

    /// The window was reduced: the peer is to know, so that it ends its echo (RFC 3168 section 6.1.2). With accurate
    /// ECN nothing is said of it (RFC 9768 section 3.1.5).
    pub(super) fn note_reduced(&mut self) {
        self.set_reduced(self.mode() == EcnMode::Classic);
    }

    /// The reduction was taken back.
    pub(super) fn withdraw_reduced(&mut self) {
        self.set_reduced(false);
    }

    fn set_reduced(&mut self, reduced: bool) {
        if let Some(live) = &mut self.0 {
            live.reduced = reduced;
        }
    }
}

// ---- the receiver and the sender

impl Connection {
    /// The ECN field and the flags of an acceptable segment without SYN.
    pub(super) fn note_marks(&mut self, segment: &Segment) {
        let waiting = self.rcv_nxt() != self.last_ack_sent || segment.payload_len() > 0;
        // What arrives ahead of a gap draws an ACK of its own, and one more would count as another duplicate.
        let in_order = segment.payload_len() == 0 || segment.seq.le(self.rcv_nxt());
        let Some(live) = self.ecn.0.as_deref_mut() else { return };
        if live.agreed.mode == EcnMode::Accurate {
            live.seen |= segment.ecn != NOT_ECT;
            let due = live.accurate.arrived(segment.ecn, segment.merged, segment.payload_len(), waiting);
            self.ack_now |= due && in_order;
        } else {
            self.note_classic_marks(segment, in_order);
        }
    }

    /// RFC 3168 section 6.1.3. Only segments with data count, and probes of a closed window (sections 6.1.4 and 6.1.6).
    fn note_classic_marks(&mut self, segment: &Segment, in_order: bool) {
        let Some(live) = self.ecn.0.as_deref_mut() else { return };
        if segment.payload_len() == 0 && !segment.was_stripped() {
            return;
        }
        if segment.has(Flags::CWR) {
            // The peer's window may be one segment now: it should not wait for the next.
            live.echo = false;
            self.ack_now |= in_order;
        }
        let hurry = match segment.ecn {
            // When marks begin the peer should know at once.
            CE => !core::mem::replace(&mut live.echo, true),
            // A retransmission most likely (section 6.1.5): the peer's window is small, as in Linux.
            NOT_ECT => live.seen,
            _ => false,
        };
        live.seen |= segment.ecn != NOT_ECT;
        if hurry {
            self.ack_now |= in_order;
            self.quick_acks = self.quick_acks.max(QUICK_ACKS_AFTER_MARK);
            self.pingpong = false;
        }
    }

    /// Whether an ACK by which `delivered` segments arrived tells of congestion (RFC 3168 section 6.1.2, RFC 9768
    /// section 3.2.2.2).
    pub(super) fn take_marks(
        &mut self,
        segment: &Segment,
        feedback: &Feedback,
        delivered: u32,
        cx: &mut Context<'_>,
    ) -> bool {
        let marked = self.read_marks(segment, feedback, delivered, cx);
        if segment.options.accurate_ecn.is_some() {
            // The first one may be the sign to send it on every segment.
            self.update_mss();
        }
        marked
    }

    fn read_marks(
        &mut self,
        segment: &Segment,
        feedback: &Feedback,
        delivered: u32,
        cx: &mut Context<'_>,
    ) -> bool {
        let newer =
            segment.options.timestamps.is_some_and(|theirs| timestamp_before(self.ts_recent, theirs.val));
        let is_news = feedback.delivered > 0 || feedback.acked > 0 || (self.ts_enabled && newer);
        let mss = u32::from(self.mss);
        let Some(live) = self.ecn.0.as_deref_mut() else { return false };
        let marked = match live.agreed.mode {
            EcnMode::Classic if segment.has(Flags::ECE) => delivered,
            EcnMode::Accurate if is_news || live.accurate.skip => {
                if core::mem::take(&mut live.accurate.skip) || live.accurate.deaf {
                    return false;
                }
                let told = live.accurate.take(segment.flags, segment.options.accurate_ecn, delivered, mss);
                if told.contradicts {
                    // Section 3.2.3.2.5.
                    live.agreed.may_send = false;
                }
                if told.packets == 0 && told.bytes == 0 {
                    return false;
                }
                told.packets
            }
            _ => return false,
        };
        cx.counters.tcp_ecn_echoes += 1;
        live.delivered_ce = live.delivered_ce.wrapping_add(marked);
        true
    }

    /// Adds accurate ECN's option where it is due and there is room for it in a segment with `len` bytes of payload,
    /// two SACK blocks included (RFC 9768 section 3.2.3.3). `new`: the payload was never sent before.
    pub(super) fn add_accurate_option(&self, options: &mut TcpOptions, len: u32, new: bool, blocks: usize) {
        let room = usize::from(self.mtu().saturating_sub(self.fixed_headers()));
        if let Some(accurate) = self.ecn.always_option() {
            let before = options.emitted_len(false);
            let fields = accurate.fitting_fields(OPTIONS_LEN_MAX - before, blocks);
            let option = accurate.first_fields(fields);
            if fields > 0 && before + option.emitted_len() + len as usize <= room {
                options.accurate_ecn = Some(option);
            }
            return;
        }
        let live = self.ecn.0.as_deref().filter(|live| live.config.option == AccurateEcnOption::OnChange);
        let Some(option) = live.and(self.ecn.accurate()).and_then(|accurate| accurate.option(new)) else {
            return;
        };
        let blocks_len = if blocks == 0 { 0 } else { (4 + 8 * blocks).min(TWO_BLOCKS_LEN) };
        let total = options.emitted_len(false) + option.emitted_len() + blocks_len;
        if total <= OPTIONS_LEN_MAX && total + len as usize <= room {
            options.accurate_ecn = Some(option);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_numbers_and_words_name_the_same_settings() {
        for (number, (config, word)) in EcnConfig::ALL.iter().enumerate() {
            assert_eq!(EcnConfig::from_sysctl(number as u8), Some(*config));
            assert_eq!(number.to_string().parse(), Ok(*config));
            assert_eq!(word.parse(), Ok(*config));
            assert_eq!(config.to_string(), *word);
        }
        assert_eq!(EcnConfig::default(), EcnConfig::from_sysctl(2).unwrap());
        for text in ["", "9", "-1", "ON", "yes"] {
            let error = text.parse::<EcnConfig>().unwrap_err();
            assert!(error.to_string().contains("off, on, accept"), "{error}");
        }
    }

    #[test]
    fn only_flags_that_ask_are_agreed_to() {
        let agreed = |flags, accept| Agreed::from_syn(flags, NOT_ECT, accept).mode;
        assert_eq!(agreed(CLASSIC_SYN, EcnMode::Classic), EcnMode::Classic);
        assert_eq!(agreed(CLASSIC_SYN, EcnMode::Off), EcnMode::Off);
        for flags in [Flags::NONE, Flags::ECE, Flags::CWR, Flags::SYN] {
            assert_eq!(agreed(flags, EcnMode::Classic), EcnMode::Off, "{flags:?}");
        }
        // RFC 9768 table 2 and section 3.1.3.
        assert_eq!(agreed(ECN_FLAGS, EcnMode::Classic), EcnMode::Classic);
        assert_eq!(agreed(CLASSIC_SYN, EcnMode::Accurate), EcnMode::Classic);
        assert_eq!(agreed(Flags::NONE, EcnMode::Accurate), EcnMode::Off);
        for value in [1, 2, 4, 5, 6, 7] {
            assert_eq!(agreed(ace_flags(value), EcnMode::Accurate), EcnMode::Accurate, "{value}");
        }
    }
}
