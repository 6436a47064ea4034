//! Explicit congestion notification: a router marks packets instead of dropping them, the receiver tells the sender, the
//! sender reduces its window (RFC 3168 section 6.1). Here are the settings, the negotiation on SYN and SYN-ACK, what a receiver
//! echoes and what a sender makes of the echo. `input` hands in what arrived, `acknowledge` and `recovery` act on the echo,
//! `output` asks what a segment carries.

use core::fmt;
use core::str::FromStr;

use super::connection::{Connection, Context};
use super::header::Flags;
use super::input::Segment;

/// The ECN field of the IP header (RFC 3168 section 5): not ECN-capable.
pub(super) const NOT_ECT: u8 = 0;
/// ECN-capable: what data is sent with.
pub(super) const ECT0: u8 = 2;
/// Congestion was met.
pub(super) const CE: u8 = 3;

/// The three flags that negotiate ECN on a SYN and carry its feedback later.
const ECN_FLAGS: Flags = Flags::AE.union(Flags::CWR).union(Flags::ECE);
/// An ECN-setup SYN (RFC 3168 section 6.1.1).
const CLASSIC_SYN: Flags = Flags::CWR.union(Flags::ECE);
/// ACKs sent one by one after a mark, as in Linux: the peer's window may be very small.
const QUICK_ACKS_AFTER_MARK: u8 = 2;

/// How two ends tell each other of marks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum EcnMode {
    /// Not at all: packets are not ECN-capable.
    #[default]
    Off,
    /// One signal a round trip (RFC 3168).
    Classic,
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

    /// All of them by `tcp_ecn`'s number, with the word that stands for it.
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::OFF, "off"), (Self::ON, "on"), (Self::ACCEPT, "accept")];

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

    /// Reads `off`, `on`, `accept`, or `tcp_ecn`'s number for it.
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

/// What a listener agreed to with a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Agreed {
    pub(super) mode: EcnMode,
    /// Nothing said that the peer may not understand it: data may be sent ECN-capable.
    pub(super) may_send: bool,
}

impl Agreed {
    /// What a SYN with these `flags` asks for, as far as `accept` goes (RFC 3168 section 6.1.1).
    pub(super) fn from_syn(flags: Flags, accept: EcnMode) -> Self {
        let mode = match flags & ECN_FLAGS {
            Flags::NONE => EcnMode::Off,
            flags if flags.contains(CLASSIC_SYN) => accept.min(EcnMode::Classic),
            _ => EcnMode::Off,
        };
        Self { mode, may_send: mode != EcnMode::Off }
    }

    /// The SYN came again. One that does not ask any more is of a client that will not use ECN (RFC 3168 section 6.1.1.1).
    pub(super) fn note_syn_again(&mut self, flags: Flags) {
        if !(flags & ECN_FLAGS).contains(CLASSIC_SYN) {
            *self = Self::default();
        }
    }

    /// The flags of the SYN-ACK.
    pub(super) fn syn_ack_flags(self) -> Flags {
        match self.mode {
            EcnMode::Off => Flags::NONE,
            EcnMode::Classic => Flags::ECE,
        }
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
    /// What both ends agreed on.
    mode: EcnMode,
    /// New data is sent ECN-capable.
    may_send: bool,
    /// A SYN of ours was sent without asking: what we send must not be ECN-capable (RFC 3168 section 6.1.1).
    fell_back: bool,
    /// Every ACK says that a mark was met, until the peer says that it reduced its window.
    echo: bool,
    /// The next new data says that we did.
    reduced: bool,
    /// An ECN-capable packet arrived.
    seen: bool,
    /// Segments that arrived at the peer, as ACKs said that tell of marks: Linux's `delivered_ce`.
    delivered_ce: u32,
}

impl Ecn {
    /// Of a connection that begins with our SYN.
    pub(super) fn requesting(request: EcnMode) -> Self {
        Self((request != EcnMode::Off).then(|| Box::new(Live { request, ..Live::default() })))
    }

    /// Of a connection whose SYN-ACK a listener sent.
    pub(super) fn agreed(agreed: Agreed) -> Self {
        let Agreed { mode, may_send } = agreed;
        Self((mode != EcnMode::Off).then(|| Box::new(Live { mode, may_send, ..Live::default() })))
    }

    /// What both ends agreed on.
    pub(super) fn mode(&self) -> EcnMode {
        self.0.as_ref().map_or(EcnMode::Off, |live| live.mode)
    }

    pub(super) fn was_seen(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.seen)
    }

    pub(super) fn delivered_ce(&self) -> u32 {
        self.0.as_ref().map_or(0, |live| live.delivered_ce)
    }

    /// Whether our SYN asked and no plain one followed.
    pub(super) fn is_requesting(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.request != EcnMode::Off && !live.fell_back)
    }

    /// Whether a plain SYN followed one that asked.
    pub(super) fn fell_back(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.fell_back)
    }

    /// SYNs are plain from now on: one that asked was lost or refused, perhaps by a middlebox that takes it for an attack
    /// (RFC 3168 section 6.1.1.1).
    pub(super) fn fall_back(&mut self) {
        if let Some(live) = &mut self.0 {
            live.fell_back |= live.request != EcnMode::Off;
        }
    }

    /// The flags of our SYN, or of the SYN-ACK of a simultaneous or Fast Open.
    pub(super) fn syn_flags(&self, is_syn_ack: bool) -> Flags {
        let Some(live) = &self.0 else { return Flags::NONE };
        match (is_syn_ack, live.request) {
            (true, _) => Agreed { mode: live.mode, may_send: live.may_send }.syn_ack_flags(),
            (false, EcnMode::Classic) if !live.fell_back => CLASSIC_SYN,
            (false, _) => Flags::NONE,
        }
    }

    /// The answer to our SYN (RFC 3168 section 6.1.1): a server that sends our flags back does not understand them (section
    /// 6.1.1.2).
    pub(super) fn take_syn_ack(&mut self, flags: Flags) {
        let agrees = flags.contains(Flags::ECE) && !flags.contains(Flags::CWR);
        match &mut self.0 {
            Some(live) if agrees => (live.mode, live.may_send) = (EcnMode::Classic, !live.fell_back),
            _ => self.0 = None,
        }
    }

    /// A SYN without ACK for a connection that is not a listener's: of a simultaneous open, or the first SYN again.
    pub(super) fn take_syn(&mut self, flags: Flags, accept: EcnMode) {
        let agreed = Agreed::from_syn(flags, accept);
        let fell_back = self.fell_back();
        *self = Self::agreed(Agreed { may_send: agreed.may_send && !fell_back, ..agreed });
    }

    // ---- what a segment carries

    /// The flags of a segment without SYN; `new`: it brings data never sent before.
    pub(super) fn flags(&self, new: bool) -> Flags {
        let Some(live) = self.0.as_ref().filter(|live| live.mode == EcnMode::Classic) else {
            return Flags::NONE;
        };
        let echo = if live.echo { Flags::ECE } else { Flags::NONE };
        echo | if new && live.reduced { Flags::CWR } else { Flags::NONE }
    }

    /// The IP header's field: ECN-capable is only data that is sent for the first time, so that a mark or loss of it is sure to
    /// be told (RFC 3168 sections 6.1.1, 6.1.4, 6.1.5 and 6.1.6).
    pub(super) fn codepoint(&self, new: bool) -> u8 {
        let may_send = self.0.as_ref().is_some_and(|live| live.may_send);
        if new && may_send { ECT0 } else { NOT_ECT }
    }

    /// New data went out.
    pub(super) fn note_new_data_sent(&mut self) {
        self.set_reduced(false);
    }

    /// The window was reduced: the peer is to know, so that it ends its echo (RFC 3168 section 6.1.2).
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
    /// The marks and flags of an acceptable segment without SYN (RFC 3168 section 6.1.3). Only segments with data count, and
    /// probes of a closed window (sections 6.1.4 and 6.1.6).
    pub(super) fn note_marks(&mut self, segment: &Segment) {
        let Some(live) = self.ecn.0.as_deref_mut().filter(|live| live.mode == EcnMode::Classic) else {
            return;
        };
        if segment.payload_len() == 0 && !segment.was_stripped() {
            return;
        }
        if segment.has(Flags::CWR) {
            // The peer's window may be one segment now: it should not wait for the next.
            live.echo = false;
            self.ack_now = true;
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
            self.ack_now = true;
            self.quick_acks = self.quick_acks.max(QUICK_ACKS_AFTER_MARK);
            self.pingpong = false;
        }
    }

    /// Whether an ACK tells of congestion (RFC 3168 section 6.1.2).
    pub(super) fn tells_of_marks(&self, segment: &Segment) -> bool {
        self.ecn.mode() == EcnMode::Classic && segment.has(Flags::ECE)
    }

    /// An ACK that tells of marks was processed, by which `delivered` segments arrived.
    pub(super) fn count_marks(&mut self, delivered: u32, cx: &mut Context<'_>) {
        cx.counters.tcp_ecn_echoes += 1;
        if let Some(live) = &mut self.ecn.0 {
            live.delivered_ce = live.delivered_ce.wrapping_add(delivered);
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
        let agreed = |flags, accept| Agreed::from_syn(flags, accept).mode;
        assert_eq!(agreed(CLASSIC_SYN, EcnMode::Classic), EcnMode::Classic);
        assert_eq!(agreed(CLASSIC_SYN, EcnMode::Off), EcnMode::Off);
        for flags in [Flags::NONE, Flags::ECE, Flags::CWR, Flags::SYN] {
            assert_eq!(agreed(flags, EcnMode::Classic), EcnMode::Off, "{flags:?}");
        }
    }
}
