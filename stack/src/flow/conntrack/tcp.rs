//! What conntrack knows of a TCP connection that it only overhears: its state, and for each direction what may come.
//!
//! Window tracking follows Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2001). A segment from S to R
//! with SEG.SEQ, SEG.END (behind payload, SYN and FIN) and SEG.ACK (or the farthest SACK edge) is in the window when
//!
//! ```text
//! I    SEG.SEQ <= S.max_end                         it does not go beyond what R ever offered
//! II   SEG.END >= S.end - R.max_win                 it is not older than one of R's windows
//! III  SEG.ACK <= R.end                             it acknowledges only what R sent
//! IV   SEG.ACK >= R.end - max(S.max_win, 66,000)    its acknowledgment is not older than one window
//! ```
//!
//! where for each side `end` is behind the last byte it sent, `max_end` the end of what its peer ever offered it, and
//! `max_win` the largest window it offered. What breaks II or IV alone is old: its receiver discards it and says once more
//! what it has (RFC 9293 section 3.10.7.4), so it may pass and changes nothing. So does what breaks I by less than a window:
//! some senders do not see a window shrink.
//!
//! ```text
//!            SYN            SYN,ACK            ACK                FIN            ACK of FIN
//!  (new) ─────────▶ SynSent ────────▶ SynRecv ─────▶ Established ─────▶ FinWait ─────▶ CloseWait
//!                      │ SYN of the peer                                   │ FIN           │ FIN
//!                      ▼                                                   ▼               ▼
//!                   SynSent2 ──SYN,ACK──▶ SynRecv                        LastAck ──ACK──▶ TimeWait
//!
//!  RST in the window: any state ─▶ Close
//! ```
//!
//! So all valid sequences pass (RFC 5382 REQ-2), and each state has its timer (RFC 7857 section 2).

use serde::{Deserialize, Serialize};

use crate::flow::conntrack::Direction;
use crate::flow::view::TcpView;
use crate::tcp::header::Flags;
use crate::tcp::seq::SeqNumber;

/// Least distance that an old acknowledgment may have (inequality IV), for peers with tiny windows.
const ACK_WINDOW_MIN: u32 = 66_000;
/// A window field that is scaled by more than this is read as if by this (RFC 7323 section 2.3).
const SCALE_MAX: u8 = 14;

/// The connection's state, with netfilter's names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TcpState {
    /// A SYN was seen.
    SynSent,
    /// A SYN of the other side, too: simultaneous open.
    SynSent2,
    /// SYN and SYN,ACK.
    SynRecv,
    /// The handshake is complete, or was not seen.
    Established,
    /// One FIN.
    FinWait,
    /// That FIN was acknowledged.
    CloseWait,
    /// FINs of both sides.
    LastAck,
    /// All acknowledged.
    TimeWait,
    /// Reset.
    Close,
}

impl TcpState {
    /// All of them, in the order of a connection's life.
    pub const ALL: [Self; 9] = [
        Self::SynSent,
        Self::SynSent2,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
    ];

    /// The state that netfilter calls so, in whatever case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name().eq_ignore_ascii_case(name))
    }

    /// netfilter's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::SynSent2 => "SYN_SENT2",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
        }
    }
}

/// What a segment is, as far as the state goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    /// No sensible combination of control bits.
    None,
}

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpVerdict {
    /// It belongs to the connection and moved it on.
    Accept,
    /// It may pass (the end hosts answer it properly), but changes nothing here.
    Ignore,
    /// It begins a new connection with the tuple of one that is over.
    Reopen,
    /// It does not fit the connection.
    Invalid(Misfit),
}

/// Why a segment does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misfit {
    /// Control bits that no standard knows together.
    Flags,
    /// A segment that cannot come in this state.
    State,
    /// Inequality I: beyond what the receiver ever offered.
    Ahead,
    /// Inequality III: acknowledges what was not sent.
    AckAhead,
    /// A RST before what its receiver has acknowledged.
    Reset,
}

/// One direction: what its sender sent and may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Side {
    /// Behind the last byte sent.
    end: SeqNumber,
    /// The end of what the peer ever offered.
    max_end: SeqNumber,
    /// Largest window offered to the peer, scaled; 0 while nothing was heard of this side.
    max_win: u32,
    /// The farthest it acknowledged.
    max_ack: Option<SeqNumber>,
    /// Shift of the window fields it sends; `None`: not offered.
    scale: Option<u8>,
    sack: bool,
}

/// The connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpTrack {
    /// Where it is.
    pub state: TcpState,
    sides: [Side; 2],
    /// The last segment with payload, SYN or FIN, to count how often it was repeated.
    last: Option<(Direction, SeqNumber, SeqNumber)>,
    retransmissions: u8,
    /// Side 0 or 1 sent data that its peer has not acknowledged.
    unacknowledged: [bool; 2],
    fin_from: Option<Direction>,
}

impl TcpTrack {
    /// A connection that begins with `segment`; `loose`: also in its midst, as after a restart. Else why not.
    ///
    /// # Errors
    /// The segment is none with which a connection may begin.
    pub fn begin(segment: &TcpView, loose: bool) -> Result<Self, Misfit> {
        let state = match event(segment.flags) {
            Event::Syn => TcpState::SynSent,
            Event::Ack if loose => TcpState::Established,
            Event::None => return Err(Misfit::Flags),
            _ => return Err(Misfit::State),
        };
        let mut track = Self {
            state,
            sides: [Side::default(); 2],
            last: None,
            retransmissions: 0,
            unacknowledged: [false; 2],
            fin_from: None,
        };
        let end = segment.end();
        let window = u32::from(segment.window).max(1);
        let sender = &mut track.sides[0];
        (sender.end, sender.max_end, sender.max_win) = (end, end, window);
        if state == TcpState::SynSent {
            (sender.scale, sender.sack) =
                (segment.window_scale.map(|scale| scale.min(SCALE_MAX)), segment.sack_permitted);
        } else {
            // Unknown scales: as generous as the standard allows.
            (sender.scale, sender.sack, sender.max_win) = (Some(SCALE_MAX), true, window << SCALE_MAX);
            sender.max_end = end + sender.max_win;
            let receiver = &mut track.sides[1];
            (receiver.end, receiver.max_end) = (segment.ack, segment.ack + (window << SCALE_MAX));
            (receiver.scale, receiver.sack) = (Some(SCALE_MAX), true);
        }
        Ok(track)
    }

    /// Takes a later segment in. `liberal`: only RSTs must be in the window.
    pub fn update(&mut self, direction: Direction, segment: &TcpView, liberal: bool) -> TcpVerdict {
        let event = event(segment.flags);
        let next = match self.next_state(direction, event) {
            Next::To(state) => state,
            Next::Ignore => return TcpVerdict::Ignore,
            Next::Reopen => return TcpVerdict::Reopen,
            Next::Invalid if event == Event::None => return TcpVerdict::Invalid(Misfit::Flags),
            Next::Invalid => return TcpVerdict::Invalid(Misfit::State),
        };
        match self.check_window(direction, segment, event) {
            Ok(Place::Old) => return TcpVerdict::Ignore,
            Err(misfit) if !liberal || event == Event::Rst => return TcpVerdict::Invalid(misfit),
            Ok(Place::InWindow) | Err(_) => {}
        }
        self.note_repetition(direction, segment);
        if event == Event::Fin && self.fin_from.is_none() {
            self.fin_from = Some(direction);
        }
        self.state = next;
        TcpVerdict::Accept
    }

    /// The same segment came at least three times: the timeout is short then.
    #[must_use]
    pub fn is_retransmitting(&self) -> bool {
        self.retransmissions >= 3
    }

    /// Data was sent and not acknowledged.
    #[must_use]
    pub fn is_unacknowledged(&self) -> bool {
        self.unacknowledged != [false; 2]
    }

    #[allow(
        clippy::match_same_arms,
        reason = "the arms stand in the order of a connection's life, each with its reason"
    )]
    fn next_state(&self, direction: Direction, event: Event) -> Next {
        use Direction::{Original, Reply};
        use TcpState::*;
        match (event, direction, self.state) {
            (Event::None, ..) => Next::Invalid,
            // RFC 7857 section 2.2: it passes, and the connection is remembered for a while. Section 7.1: no longer than that.
            (Event::Rst, ..) => Next::To(Close),

            // A SYN again, or one that both sides sent. In later states it is old, or of a peer that has restarted: its
            // receiver answers with a challenge ACK, which sorts it out (RFC 5961 section 4).
            (Event::Syn, Original, SynSent | SynSent2) => Next::To(self.state),
            // RFC 5382 REQ-2a
            (Event::Syn, Reply, SynSent | SynSent2) => Next::To(SynSent2),
            (Event::Syn, _, TimeWait) | (Event::Syn, Original, Close) => Next::Reopen,
            (Event::Syn, Original, _) => Next::Ignore,
            // A server does not connect to its client from its own port.
            (Event::Syn, Reply, _) => Next::Invalid,

            (Event::SynAck, Reply, SynSent | SynSent2) | (Event::SynAck, Original, SynSent2) => {
                Next::To(SynRecv)
            }
            (Event::SynAck, Original, SynRecv) => Next::To(SynRecv),
            // Sent again because its acknowledgment was lost.
            (Event::SynAck, Reply, SynRecv | Established) => Next::Ignore,
            (Event::SynAck, ..) => Next::Invalid,

            (Event::Fin, _, SynSent | SynSent2) => Next::Invalid,
            (Event::Fin, _, SynRecv | Established) => Next::To(FinWait),
            (Event::Fin, from, FinWait | CloseWait) => {
                // The same side's FIN again is no second FIN.
                let again = self.fin_from == Some(from);
                Next::To(if again { self.state } else { LastAck })
            }
            (Event::Fin, _, state) => Next::To(state),

            (Event::Ack, Original, SynSent | SynSent2) => Next::Invalid,
            // To a SYN of an old connection: a challenge ACK.
            (Event::Ack, Reply, SynSent | SynSent2) => Next::Ignore,
            (Event::Ack, Original, SynRecv) => Next::To(Established),
            (Event::Ack, Reply, SynRecv) => Next::To(SynRecv),
            (Event::Ack, from, FinWait) => {
                let acknowledges = self.fin_from.is_some_and(|fin| fin != from);
                Next::To(if acknowledges { CloseWait } else { FinWait })
            }
            (Event::Ack, _, LastAck) => Next::To(TimeWait),
            (Event::Ack, _, state) => Next::To(state),
        }
    }

    /// The four inequalities, then what the segment teaches.
    fn check_window(
        &mut self,
        direction: Direction,
        segment: &TcpView,
        event: Event,
    ) -> Result<Place, Misfit> {
        let syn = segment.flags.contains(Flags::SYN);
        let (s, r) = (direction as usize, direction.other() as usize);
        let (mut seq, mut end) = (segment.seq, segment.end());
        self.meet(direction, segment);
        let (sender, receiver) = (self.sides[s], self.sides[r]);

        let has_ack = segment.flags.contains(Flags::ACK);
        // A segment without ACK acknowledges nothing new; so does a RST with 0 in an ACK field it should not have.
        let ack =
            if has_ack && !(event == Event::Rst && segment.ack.0 == 0) { segment.ack } else { receiver.end };
        let sack_edge = segment.sack_edge.filter(|edge| receiver.sack && edge.gt(ack)).unwrap_or(ack);
        if seq == end && event != Event::Rst {
            // Nothing in it has a place in the stream: keepalives and probes carry old numbers on purpose.
            (seq, end) = (sender.end, sender.end);
        }
        let shift = if syn { 0 } else { self.scale(s) };
        let window = u32::from(segment.window) << shift;

        // RFC 5961 section 3.2, as far as an observer knows what was acknowledged.
        if event == Event::Rst && receiver.max_ack.is_some_and(|acked| segment.seq.lt(acked)) {
            return Err(Misfit::Reset);
        }
        let is_recent = end.ge(sender.end - receiver.max_win - 1);
        let acks_recent = sack_edge.ge(receiver.end - sender.max_win.max(ACK_WINDOW_MIN));
        let acks_sent = sack_edge.le(receiver.end);
        if !seq.le(sender.max_end) {
            let near = end.since(sender.max_end) < receiver.max_win;
            if !(is_recent && acks_recent && acks_sent && near) {
                return Err(Misfit::Ahead);
            }
            // If its receiver takes it all the same, the acknowledgment is to be believed.
            self.sides[s].end = end;
            self.unacknowledged[s] = true;
            return Ok(Place::Old);
        }
        if !acks_sent {
            return Err(Misfit::AckAhead);
        }
        if !(is_recent && acks_recent) {
            return Ok(Place::Old);
        }

        let sender = &mut self.sides[s];
        sender.max_win = sender.max_win.max(window.saturating_add(sack_edge.since(ack)));
        if end.gt(sender.end) {
            sender.end = end;
            self.unacknowledged[s] |= segment.payload_len > 0;
        }
        if has_ack {
            sender.max_ack = Some(sender.max_ack.map_or(ack, |max| max.max(ack)));
        }
        let overshoot = if end.gt(sender.max_end) { end.since(sender.max_end) } else { 0 };
        let receiver = &mut self.sides[r];
        // A probe of a closed window may be taken all the same.
        receiver.max_win = receiver.max_win.saturating_add(overshoot);
        // An offer of nothing may be probed with one byte.
        receiver.max_end = receiver.max_end.max(ack + window.max(1));
        if ack == receiver.end {
            self.unacknowledged[r] = false;
        }
        Ok(Place::InWindow)
    }

    /// The first segment of a direction says where it begins; a SYN also what it can do.
    fn meet(&mut self, direction: Direction, segment: &TcpView) {
        let s = direction as usize;
        let syn = segment.flags.contains(Flags::SYN);
        let first = self.sides[s].max_win == 0;
        let end = segment.end();
        let again = syn && matches!(self.state, TcpState::SynSent | TcpState::SynSent2);
        // While it opens, the client may speak from elsewhere: with a new SYN, or with the RST that ends an old connection at
        // the peer (RFC 9293 section 3.5.1).
        let opens = self.state == TcpState::SynSent && direction == Direction::Original;
        let elsewhere = opens && !syn && end.gt(self.sides[s].end);
        if elsewhere && !first {
            let side = &mut self.sides[s];
            (side.end, side.max_end) = (end, end);
            return;
        }
        if !(first || again) {
            return;
        }
        let window = u32::from(segment.window).max(1);
        let side = &mut self.sides[s];
        if syn {
            let max_end = if first { end } else { side.max_end.max(end) };
            *side = Side { end, max_end, max_win: window, max_ack: side.max_ack, ..Side::default() };
            side.scale = segment.window_scale.map(|scale| scale.min(SCALE_MAX));
            side.sack = segment.sack_permitted;
        } else {
            // Picked up in its midst: as generous as the unknown scale may be.
            let shift = side.scale.unwrap_or(0);
            side.max_win = window << shift;
            if side.end.lt(end) {
                side.end = end;
            }
            side.max_end = side.max_end.max(end);
        }
    }

    /// Scaling is in use only when both SYNs offered it (RFC 7323 section 2.2).
    fn scale(&self, side: usize) -> u8 {
        match (self.sides[0].scale, self.sides[1].scale) {
            (Some(_), Some(_)) => self.sides[side].scale.unwrap_or(0),
            _ => 0,
        }
    }

    fn note_repetition(&mut self, direction: Direction, segment: &TcpView) {
        if segment.seq == segment.end() {
            // The peer has spoken.
            if self.last.is_some_and(|(from, ..)| from != direction) {
                (self.last, self.retransmissions) = (None, 0);
            }
            return;
        }
        let this = Some((direction, segment.seq, segment.end()));
        if self.last == this {
            self.retransmissions = self.retransmissions.saturating_add(1);
        } else {
            (self.last, self.retransmissions) = (this, 0);
        }
    }
}

/// Where a segment that fits lies.
enum Place {
    InWindow,
    /// Not in the window, but nothing that an honest host does not send.
    Old,
}

enum Next {
    To(TcpState),
    Ignore,
    Reopen,
    Invalid,
}

/// RFC 9293 section 3.1: PSH, URG and the ECN bits go with anything.
fn event(flags: Flags) -> Event {
    let has = |flag| flags.contains(flag);
    match (has(Flags::SYN), has(Flags::ACK), has(Flags::FIN), has(Flags::RST)) {
        (true, false, false, false) => Event::Syn,
        (true, true, false, false) => Event::SynAck,
        (false, true, true, false) => Event::Fin,
        (false, true, false, false) => Event::Ack,
        (false, _, false, true) => Event::Rst,
        _ => Event::None,
    }
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
