//! One connection's state: the transmission control block of RFC 9293 section 3.3.1, with its buffers, timers and the wakers
//! of the tasks that wait for it. `input` and `recovery` change it by segments, `output` reads what to send off it,
//! `timers` act on its deadlines; the engine does what concerns the tables (`engine`).

use core::num::NonZeroU32;
use core::task::Waker;
use std::collections::VecDeque;
use std::rc::Rc;

use super::chronograph::Chronograph;
use super::config::{SocketOptions, TcpConfig};
use super::congestion::pacing::Pacer;
use super::congestion::{Congestion, CongestionControl};
use super::delivery_rate::DeliveryRate;
use super::ecn::{self, Ecn};
use super::fast_path::Prediction;
use super::fastopen::FastOpen;
use super::header::Flags;
use super::info::{Statistics, Troubles};
use super::options::{TcpOptions, Timestamps};
use super::path_mtu::MtuSearch;
use super::rack::Rack;
use super::receive_queue::ReceiveQueue;
use super::receive_rate::ReceiveRate;
use super::recovery::LossRecovery;
use super::reply::{Replies, Reply};
use super::rtt::RttEstimator;
use super::scoreboard::Scoreboard;
use super::segment_size::{DEFAULT_MSS_IPV4, DEFAULT_MSS_IPV6};
use super::send_queue::SendQueue;
use super::seq::SeqNumber;
use super::table::TupleKey;
use super::timers::Timers;
use super::tuning::Tuning;
use super::{State, TcpError};
use crate::counters::Counters;
use crate::time::{Duration, Instant};

/// Segments acknowledged one by one when a connection begins, so that the peer's slow start is not held up (Linux's
/// `TCP_MAX_QUICKACKS`).
pub(super) const QUICK_ACKS: u8 = 16;
/// A TS.Recent older than this says nothing (RFC 7323 section 5.5).
pub(super) const TIMESTAMP_AGE_MAX_S: u32 = 24 * 24 * 3600;

/// What the functions of a connection work with besides the connection.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) config: &'a TcpConfig,
    pub(super) counters: &'a mut Counters,
    /// RSTs that answer segments.
    pub(super) replies: &'a mut Replies,
    /// All buffers together are over [`TcpConfig::buffered_bytes_max`].
    pub(super) pressure: bool,
}

/// One connection. Sequence numbers satisfy `snd_una <= snd_nxt` and `rcv_nxt <= rcv_edge`.
///
/// What comes first is all that a segment without news reads and writes ([`Prediction`]): with its place's own 12 bytes in
/// front ([`Connections`](super::connections::Connections)) two cache lines. The others follow without gaps between them.
#[cfg_attr(test, derive(Debug))]
#[repr(C)]
pub(super) struct Connection {
    // A segment without news.
    pub(super) key: TupleKey,
    /// Next sequence number never sent: RFC 9293's SND.NXT.
    pub(super) snd_nxt: SeqNumber,
    /// Oldest unacknowledged sequence number.
    pub(super) snd_una: SeqNumber,
    pub(super) snd_wl1: SeqNumber,
    pub(super) snd_wl2: SeqNumber,
    pub(super) snd_wnd: u32,
    /// Largest window the peer announced.
    pub(super) snd_wnd_max: u32,
    pub(super) last_ack_sent: SeqNumber,
    pub(super) ts_recent: u32,
    /// Second in which `ts_recent` was set.
    pub(super) ts_recent_at_s: u32,
    pub(super) last_heard: Instant,
    /// What a segment without news is, as long as nothing else happens; `None`: not known.
    pub(super) prediction: Option<Prediction>,
    pub(super) state: State,
    /// The tables still lead segments here; otherwise only the application's handle does.
    pub(super) attached: bool,
    /// The application let go.
    pub(super) orphan: bool,
    pub(super) listed: Listed,
    pub(super) ts_enabled: bool,
    pub(super) snd_wscale: u8,
    pub(super) keepalive_probes: u8,
    /// The application closed the write side: a FIN follows the queue.
    pub(super) fin_queued: bool,
    /// Its first is the count of segments in.
    pub(super) statistics: Statistics,

    // What else a segment reads first.
    cold: Option<Box<Cold>>,
    pub(super) ecn: Ecn,
    pub(super) receive: ReceiveQueue,
    pub(super) sent: Scoreboard,
    pub(super) rack: Rack,
    pub(super) loss: LossRecovery,
    pub(super) rate: DeliveryRate,
    pub(super) send: SendQueue,

    // The application and the engine.
    pub(super) options: Rc<SocketOptions>,
    pub(super) recv_waker: Option<Waker>,
    pub(super) send_waker: Option<Waker>,
    pub(super) timers: Timers,
    /// Memory of the buffers as the engine last counted it.
    pub(super) buffered: usize,
    pub(super) last_data_at: Instant,

    // Send side and loss recovery.
    /// `snd_una` as an offset that does not wrap: ISS is 0.
    pub(super) una_offset: u64,
    /// A round trip is over when this offset is acknowledged: then the next is measured for SRTT.
    pub(super) round_end: u64,
    pub(super) last_sent_at: Instant,
    /// When acknowledgment last made progress, or waiting for it began.
    pub(super) progress_at: Instant,
    /// When our SYN was sent, if it was sent once only.
    pub(super) syn_sent_at: Option<Instant>,
    pub(super) congestion: Congestion,
    pub(super) pacer: Pacer,
    pub(super) chronograph: Chronograph,
    pub(super) rtt: RttEstimator,
    pub(super) iss: SeqNumber,
    /// End of the last segment sent that was not full (Minshall's rule, RFC 9293 appendix A.3).
    pub(super) snd_sml: SeqNumber,
    pub(super) ts_offset: u32,
    /// Up to here, growth of cwnd is earned: cwnd limited what was sent.
    pub(super) cwnd_limited: SeqNumber,
    /// Most bytes in flight at a time of late, and up to where that holds: slow start may double them.
    pub(super) flight_most: u32,
    pub(super) flight_most_until: SeqNumber,
    /// When the retransmission timer last fired, by a clock of milliseconds that wraps ([`timestamp`]), or long ago: older
    /// echoes say nothing about what was sent since.
    pub(super) timed_out_ms: u32,

    // Receive side.
    pub(super) irs: SeqNumber,
    /// Right edge of the window announced: RCV.NXT + RCV.WND.
    pub(super) rcv_edge: SeqNumber,
    /// A FIN that waits behind a gap.
    pub(super) peer_fin: Option<SeqNumber>,
    /// One more than the place of the listener in whose accept queue it waits.
    pub(super) listener: Option<NonZeroU32>,

    // Sizes and delays.
    /// Effective send MSS: payload bytes in a full segment (RFC 9293 section 3.7.1).
    pub(super) mss: u16,
    pub(super) peer_mss: u16,
    /// MSS option that we sent; 0: not known here.
    pub(super) our_mss: u16,
    /// MTU towards the peer; 0 until the egress was asked.
    pub(super) mtu: u16,
    /// Delay of ACKs, adapted as in Linux; 0 before any data.
    pub(super) ato_ms: u16,
    /// Largest segment received.
    pub(super) rcv_mss: u16,

    // Flags and small counts: the send side's first.
    syn_acknowledged: bool,
    /// More is to follow the last write: its end is held back like a corked one, and not pushed.
    pub(super) more: bool,
    /// An ACK came since: Nagle's rule alone holds that end back, as in Linux.
    pub(super) more_acked: bool,
    /// The FIN is part of what was sent.
    pub(super) fin_sent: bool,
    pub(super) rcv_wscale: u8,
    /// Window scaling is offered or agreed on; a shift of 0 is one too (RFC 7323 section 2.2).
    pub(super) wscale_enabled: bool,
    pub(super) syn_due: bool,
    pub(super) probe_due: bool,
    pub(super) keepalive_due: bool,
    /// The override timeout of RFC 9293 section 3.8.6.2.1 (4), or cork's, has passed.
    pub(super) override_due: bool,
    /// Windows are paced, whatever the congestion control.
    pub(super) paces_windows: bool,
    /// Both ends understand SACK (RFC 2018).
    pub(super) sack_enabled: bool,
    /// Retransmission timeouts since the last progress; while the window is closed, probes since the last answer.
    pub(super) retransmits: u8,
    /// Probes of a closed window since it closed.
    pub(super) probes: u8,
    pub(super) fin_received: bool,
    /// The application reads no more.
    pub(super) read_shut: bool,
    /// An ACK is due with the next segment, or by itself.
    pub(super) ack_now: bool,
    /// Duplicate ACKs due, each by itself (RFC 5681 section 3.2: the peer counts them).
    pub(super) duplicate_acks_owed: u8,
    pub(super) quick_acks: u8,
    /// The application answers what it gets: ACKs ride on the answers.
    pub(super) pingpong: bool,
    pub(super) error: Option<TcpError>,
}

/// Which of the engine's lists a connection is in, waiting for its turn to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Listed {
    #[default]
    Nowhere,
    /// Something happened to it, which its timers do not know of yet.
    Touched,
    /// It has something to send, and there was no room for it.
    Ready,
}

/// What few connections need, and none that never sent anything.
#[derive(Default)]
#[cfg_attr(test, derive(Debug))]
pub(super) struct Cold {
    /// A connection that Fast Open opened, or was to open.
    pub(super) fastopen: Option<Box<FastOpen>>,
    pub(super) flush_waker: Option<Waker>,
    /// What ICMP said about our segments: the reason to give when the connection is given up.
    pub(super) soft_error: Option<TcpError>,
    /// End of urgent data: RCV.UP (RFC 9293 section 3.8.5).
    pub(super) urgent: Option<SeqNumber>,
    /// End of the urgent data that is sent, until it is acknowledged: SND.UP.
    pub(super) urgent_out: Option<SeqNumber>,
    /// What arrived twice, to be told with the next ACK (RFC 2883).
    pub(super) duplicate_block: Option<(SeqNumber, SeqNumber)>,
    /// When ICMP last lowered the path's MTU.
    pub(super) mtu_told_at: Option<Instant>,
    /// IP is to be told that the peer does not answer.
    pub(super) advises_ip: bool,
    /// A search for the path's MTU.
    pub(super) mtu_search: Option<Box<MtuSearch>>,
    pub(super) receive_rate: Option<Box<ReceiveRate>>,
    /// The receive buffer grows: its bound, and what decides on that.
    pub(super) tuning: Option<Tuning>,
    pub(super) troubles: Troubles,
    /// Where records of the application end, as offsets like `una_offset`: no segment goes across.
    pub(super) record_ends: VecDeque<u64>,
    /// The TIME-WAIT entry that went on when this handle stayed: place and generation.
    pub(super) time_wait: Option<(u32, u32)>,
    /// Challenge ACKs sent since.
    challenges: u8,
    challenges_since: Instant,
}

/// What a handshake settled for a connection that a listener accepts.
pub(super) struct Handshake {
    pub(super) key: TupleKey,
    pub(super) iss: SeqNumber,
    pub(super) irs: SeqNumber,
    pub(super) ts_offset: u32,
    /// TS.Recent when both ends use timestamps.
    pub(super) ts_recent: Option<u32>,
    /// Shift of the peer's windows, when both ends scale.
    pub(super) wscale: Option<u8>,
    /// Both ends understand SACK.
    pub(super) sack: bool,
    pub(super) ecn: ecn::Agreed,
    pub(super) peer_mss: u16,
    /// MSS option that we sent and MTU of the path; 0: not known here.
    pub(super) our_mss: u16,
    pub(super) mtu: u16,
    /// When the SYN-ACK was sent, if it was sent once only.
    pub(super) syn_ack_sent_at: Option<Instant>,
    /// A SYN-ACK counts as lost.
    pub(super) timed_out: bool,
}

impl Connection {
    /// A connection that begins with our SYN.
    pub(super) fn connecting(
        now: Instant,
        key: TupleKey,
        iss: SeqNumber,
        ts_offset: u32,
        options: Rc<SocketOptions>,
        config: &TcpConfig,
    ) -> Self {
        let mut connection = Self::new(now, key, iss, options, config);
        connection.state = State::SynSent;
        connection.ts_enabled = config.timestamps;
        connection.sack_enabled = config.sack;
        connection.ecn = Ecn::requesting(config.ecn.request, config.accurate_ecn);
        connection.ts_offset = ts_offset;
        if config.window_scaling {
            connection.wscale_enabled = true;
            connection.rcv_wscale = window_scale_for(&connection.options);
        }
        connection.syn_due = true;
        connection
    }

    /// A listener's connection in SYN-RECEIVED; the ACK of our SYN is what it processes next.
    pub(super) fn accepted(
        now: Instant,
        handshake: &Handshake,
        options: Rc<SocketOptions>,
        config: &TcpConfig,
    ) -> Self {
        let mut connection = Self::new(now, handshake.key, handshake.iss, options, config);
        connection.state = State::SynReceived;
        connection.snd_nxt = handshake.iss + 1;
        connection.begin_receiving(handshake.irs);
        connection.ts_enabled = handshake.ts_recent.is_some();
        connection.ts_offset = handshake.ts_offset;
        connection.ts_recent = handshake.ts_recent.unwrap_or(0);
        connection.ts_recent_at_s = seconds(now);
        if let Some(shift) = handshake.wscale {
            connection.wscale_enabled = true;
            connection.snd_wscale = shift;
            connection.rcv_wscale = window_scale_for(&connection.options);
        }
        (connection.our_mss, connection.mtu) = (handshake.our_mss, handshake.mtu);
        connection.set_peer_mss(Some(handshake.peer_mss));
        connection.syn_sent_at = handshake.syn_ack_sent_at;
        connection.sack_enabled = handshake.sack;
        connection.ecn = Ecn::agreed(handshake.ecn, config.accurate_ecn);
        connection.retransmits = u8::from(handshake.timed_out);
        connection
    }

    fn new(
        now: Instant,
        key: TupleKey,
        iss: SeqNumber,
        options: Rc<SocketOptions>,
        config: &TcpConfig,
    ) -> Self {
        let default_mss = if key.is_ipv4() { DEFAULT_MSS_IPV4 } else { DEFAULT_MSS_IPV6 };
        Self {
            key,
            state: State::Closed,
            attached: true,
            orphan: false,
            listed: Listed::Nowhere,
            listener: None,
            prediction: None,
            iss,
            snd_una: iss,
            snd_nxt: iss,
            una_offset: 0,
            snd_wl1: SeqNumber(0),
            snd_wl2: SeqNumber(0),
            snd_sml: iss,
            snd_wnd: 0,
            snd_wnd_max: 0,
            send: SendQueue::new(),
            syn_acknowledged: false,
            fin_queued: false,
            more: false,
            more_acked: false,
            fin_sent: false,
            mss: default_mss,
            peer_mss: default_mss,
            our_mss: 0,
            mtu: 0,
            snd_wscale: 0,
            rcv_wscale: 0,
            wscale_enabled: false,
            ts_enabled: false,
            ts_offset: 0,
            syn_due: false,
            probe_due: false,
            keepalive_due: false,
            override_due: false,
            congestion: Congestion::new(options.congestion, iss.0).paced(config.pacing),
            rtt: RttEstimator::new(config.initial_rto, config.min_rto, config.max_rto),
            rate: DeliveryRate::default(),
            pacer: Pacer::new(),
            paces_windows: config.pacing,
            sack_enabled: false,
            sent: Scoreboard::default(),
            rack: Rack::new(),
            loss: LossRecovery::default(),
            ecn: Ecn::default(),
            cwnd_limited: iss,
            flight_most: 0,
            flight_most_until: iss,
            retransmits: 0,
            probes: 0,
            keepalive_probes: 0,
            syn_sent_at: None,
            round_end: 0,
            timed_out_ms: timestamp(now, 0).wrapping_sub(1 << 31),
            last_sent_at: now,
            progress_at: now,
            irs: SeqNumber(0),
            receive: ReceiveQueue::new(SeqNumber(0)),
            rcv_edge: SeqNumber(0),
            last_ack_sent: SeqNumber(0),
            peer_fin: None,
            fin_received: false,
            read_shut: false,
            ts_recent: 0,
            ts_recent_at_s: seconds(now),
            last_heard: now,
            last_data_at: now,
            ack_now: false,
            duplicate_acks_owed: 0,
            quick_acks: QUICK_ACKS,
            pingpong: false,
            ato_ms: 0,
            rcv_mss: DEFAULT_MSS_IPV4,
            options,
            recv_waker: None,
            send_waker: None,
            error: None,
            timers: Timers::default(),
            buffered: 0,
            statistics: Statistics::default(),
            chronograph: Chronograph::default(),
            cold: None,
        }
    }

    /// Sets the receive side to follow the peer's SYN. Its window is that of our SYN, which is never scaled.
    pub(super) fn begin_receiving(&mut self, irs: SeqNumber) {
        self.irs = irs;
        self.receive = ReceiveQueue::new(irs + 1);
        self.last_ack_sent = irs + 1;
        self.rcv_edge = irs + 1 + u32::from(syn_window(self.receive_cap(), &self.options));
    }

    /// Takes over what the peer's SYN says in its options.
    pub(super) fn adopt_syn_options(&mut self, now: Instant, options: &TcpOptions) {
        match options.timestamps.filter(|_| self.ts_enabled) {
            Some(timestamps) => {
                self.ts_recent = timestamps.val;
                self.ts_recent_at_s = seconds(now);
            }
            None => self.ts_enabled = false,
        }
        self.sack_enabled &= options.sack_permitted;
        match options.window_scale {
            Some(shift) if self.wscale_enabled => self.snd_wscale = shift,
            _ => (self.wscale_enabled, self.rcv_wscale) = (false, 0),
        }
        self.set_peer_mss(options.mss);
    }

    // ---- sequence space

    /// Next sequence number expected, the peer's FIN included.
    pub(super) fn rcv_nxt(&self) -> SeqNumber {
        self.receive.rcv_nxt()
    }

    /// RCV.WND: what was announced and is still to come.
    pub(super) fn rcv_wnd(&self) -> u32 {
        let rcv_nxt = self.rcv_nxt();
        if self.rcv_edge.gt(rcv_nxt) { self.rcv_edge.since(rcv_nxt) } else { 0 }
    }

    /// Whether the peer acknowledged our SYN.
    pub(super) fn syn_acked(&self) -> bool {
        // Not by comparing SND.UNA with ISS: every 4 GiB they are equal again.
        self.syn_acknowledged
    }

    /// Sequence number of the first byte in the send queue.
    pub(super) fn data_start(&self) -> SeqNumber {
        if self.syn_acked() { self.snd_una } else { self.iss + 1 }
    }

    /// Sequence number behind the last byte in the send queue: the FIN's, once it is queued and until it is acknowledged.
    pub(super) fn data_end(&self) -> SeqNumber {
        self.data_start() + self.send.len() as u32
    }

    pub(super) fn fin_acked(&self) -> bool {
        self.fin_sent && self.snd_una == self.snd_nxt
    }

    /// Bytes (and controls) sent and not acknowledged.
    pub(super) fn outstanding(&self) -> u32 {
        self.snd_nxt.since(self.snd_una)
    }

    /// Bytes believed to be in the network.
    pub(super) fn in_flight(&self) -> u32 {
        self.sent.in_flight()
    }

    /// SND.NXT as an offset, see `una_offset`.
    pub(super) fn nxt_offset(&self) -> u64 {
        self.una_offset + u64::from(self.outstanding())
    }

    /// Whether there is something that the peer has not got, sent or not.
    pub(super) fn has_unfinished_output(&self) -> bool {
        self.outstanding() > 0 || !self.send.is_empty() || (self.fin_queued && !self.fin_acked())
    }

    /// Whether something waits for the peer's closed window to open, and nothing outstanding will draw an ACK.
    pub(super) fn is_window_closed(&self) -> bool {
        self.snd_wnd == 0
            && self.outstanding() == 0
            && self.syn_acked()
            && !self.state.is_over()
            && self.has_unfinished_output()
    }

    /// The peer acknowledged our SYN.
    pub(super) fn note_syn_acknowledged(&mut self) {
        self.syn_acknowledged = true;
        self.snd_una = self.iss + 1;
        self.una_offset = 1;
    }

    // ---- receive window

    pub(super) fn receive_cap(&self) -> usize {
        let tuning = self.cold.as_ref().and_then(|cold| cold.tuning.as_ref());
        tuning.map_or(self.options.receive_buffer_start(), |tuning| tuning.receive_cap)
    }

    /// The window field for a segment sent now, never taking back what was announced (RFC 9293 sections 3.8.6 and
    /// 3.8.6.2.2): the right edge stands until it may move by a segment or half the buffer.
    ///
    /// An edge that the scale cannot express is rounded up, so it creeps by less than 1 << scale a segment; the receive
    /// queue has room for that (see `Connection::insert_cap`).
    /// RFC 9293 section 3.8.6.2.2, MUST-39; RFC 9293 section 3.8.6.1, MAY-8; RFC 7323 section 2.4.
    pub(super) fn select_window(&self, pressure: bool) -> u16 {
        let cap = self.receive_cap();
        let most = ReceiveQueue::window_max(cap);
        let space = if pressure {
            self.receive.space(pressure_cap(cap))
        } else {
            most.saturating_sub(self.receive.readable())
        };
        let current = self.rcv_wnd();
        let free = self.options.clamped(space).min(65_535 << self.rcv_wscale) as u32;
        let step = u32::from(self.mss).min(most as u32 / 2);
        let kept = current.div_ceil(1 << self.rcv_wscale);
        let window = if free >= current + step { kept.max(free >> self.rcv_wscale) } else { kept };
        window.min(65_535) as u16
    }

    /// Bound for the receive queue: a sixteenth above the one that windows come from, for edges that were rounded up.
    pub(super) fn insert_cap(&self, pressure: bool) -> usize {
        let cap = self.receive_cap();
        let cap = cap + cap / 16;
        if pressure { pressure_cap(cap) } else { cap }
    }

    /// Whether reading has opened the window so far that the peer should hear of it at once: it was down to half of
    /// what it would be now (as in Linux), by at least the step of RFC 9293 section 3.8.6.2.2.
    pub(super) fn owes_window_update(&self) -> bool {
        let current = self.rcv_wnd();
        // No window is larger than an empty queue's, or the present one rounded up.
        let most = ReceiveQueue::window_max(self.receive_cap()).min(u32::MAX as usize) as u32;
        if most / 2 < current && current >= 1 << self.rcv_wscale {
            return false;
        }
        let next = u32::from(self.select_window(false)) << self.rcv_wscale;
        next > current && next / 2 >= current && self.state.may_receive()
    }

    /// As [`Connection::owes_window_update`], for a read of `len` bytes. Where the window could have been as wide before, it
    /// is the peer's first window that was narrow (SYNs have no scale), and the next ACK is early enough.
    pub(super) fn owes_window_update_for(&self, len: usize) -> bool {
        if !self.owes_window_update() {
            return false;
        }
        let before = self.options.clamped(self.receive.space(self.receive_cap()).saturating_sub(len));
        let current = self.rcv_wnd() as usize;
        current == 0 || before / 2 <= current
    }

    // ---- timestamps

    /// TSval now: milliseconds plus a secret offset (RFC 7323 section 5.4).
    pub(super) fn ts_now(&self, now: Instant) -> u32 {
        timestamp(now, self.ts_offset)
    }

    pub(super) fn timestamps(&self, now: Instant) -> Option<Timestamps> {
        self.ts_enabled.then(|| Timestamps { val: self.ts_now(now), ecr: self.ts_recent })
    }

    // ---- acknowledgments

    /// The sequence number of segments without payload: SND.NXT, or the window's edge when the peer took back window behind
    /// SND.NXT or a probe is out, so that a peer with a closed window accepts the ACK (RFC 9293 appendix A.2).
    pub(super) fn ack_seq(&self) -> SeqNumber {
        if !self.syn_acked() {
            return self.snd_nxt;
        }
        self.snd_nxt.min(self.snd_una + self.snd_wnd)
    }

    /// Owes an ACK to a segment that is not acceptable and could be part of an attack or an ACK war: RFC 5961 section 7's
    /// limit, for each connection so that nothing can be learned about others.
    /// RFC 5961 section 7.
    pub(super) fn challenge(&mut self, cx: &mut Context<'_>) {
        let cold = self.cold_mut();
        if cold.challenges == 0 || cx.now - cold.challenges_since >= cx.config.challenge_interval {
            (cold.challenges, cold.challenges_since) = (0, cx.now);
        }
        if cold.challenges >= cx.config.challenge_acks {
            cx.counters.tcp_challenge_acks_limited += 1;
            return;
        }
        cold.challenges += 1;
        cx.counters.tcp_challenge_acks += 1;
        self.ack_now = true;
    }

    /// A RST that the peer accepts: SEQ=SND.NXT (RFC 9293 section 3.10.5), with ACK as everyone sends it, timestamps
    /// included (RFC 7323 section 5.2).
    /// RFC 7323 section 5.2.
    pub(super) fn reset(&self, now: Instant) -> Reply {
        Reply {
            key: self.key,
            seq: self.ack_seq(),
            ack: self.rcv_nxt(),
            flags: Flags::RST | Flags::ACK,
            window: self.select_window(false),
            timestamps: self.timestamps(now),
            syn_ack: None,
            ip: self.options.ip,
        }
    }

    // ---- the end

    /// Enters ESTABLISHED, or where a close during the handshake leads (RFC 9293 section 3.10.4).
    pub(super) fn establish(&mut self, cx: &mut Context<'_>) {
        self.state = if self.fin_queued { State::FinWait1 } else { State::Established };
        self.note_timeouts_over(cx.now);
        self.timers.retransmit = None;
        self.syn_due = false;
        if core::mem::take(&mut self.retransmits) > 0 {
            // RFC 5681 section 3.1 and RFC 6298 section 5.7.
            self.congestion.on_handshake_loss();
            self.rtt.syn_was_lost();
        }
        self.congestion.on_established(cx.now, u32::from(self.mss));
        if let Some(rtt) = self.rtt.srtt() {
            self.congestion.on_handshake_rtt(rtt);
        }
        self.begin_mtu_search(cx);
        self.progress_at = cx.now;
        self.last_data_at = cx.now;
        self.wake_senders();
    }

    /// The connection is over: nothing more is sent. What was received stays readable, as it was acknowledged.
    /// RFC 9293 section 3.6, MUST-12.
    pub(super) fn finish(&mut self, error: Option<TcpError>) {
        self.state = State::Closed;
        self.error = self.error.or(error);
        self.send.clear();
        self.ack_now = false;
        self.stop();
        self.wake_all();
    }

    /// The connection is over on our side, a TIME-WAIT entry goes on without it.
    pub(super) fn stop(&mut self) {
        self.timers = Timers { armed: self.timers.armed.take(), ..Timers::default() };
        (self.syn_due, self.probe_due, self.keepalive_due, self.override_due) = (false, false, false, false);
        self.duplicate_acks_owed = 0;
        self.sent.clear();
        if self.orphan {
            self.receive.clear();
        }
    }

    /// The connection is given up for lack of answers; ICMP may have said why (RFC 9293 section 3.9.2.2).
    pub(super) fn time_out(&mut self, cx: &mut Context<'_>) {
        cx.counters.tcp_timeout_drops += 1;
        self.count_failure(cx.counters);
        let error = self.cold.as_ref().and_then(|cold| cold.soft_error);
        self.finish(Some(error.unwrap_or(TcpError::TimedOut)));
    }

    /// Counts the end of a connection that was never established.
    pub(super) fn count_failure(&self, counters: &mut Counters) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            counters.tcp_attempt_fails += 1;
        }
    }

    // ---- wakers and the like

    pub(super) fn wake_readers(&mut self) {
        if let Some(waker) = self.recv_waker.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_senders(&mut self) {
        if let Some(waker) = self.send_waker.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_flusher(&mut self) {
        if let Some(waker) = self.cold.as_mut().and_then(|cold| cold.flush_waker.take()) {
            waker.wake();
        }
    }

    pub(super) fn wake_all(&mut self) {
        self.wake_readers();
        self.wake_senders();
        self.wake_flusher();
    }

    pub(super) fn cold(&self) -> Option<&Cold> {
        self.cold.as_deref()
    }

    pub(super) fn cold_mut(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    pub(super) fn fastopen(&self) -> Option<&FastOpen> {
        self.cold.as_ref()?.fastopen.as_deref()
    }

    pub(super) fn fastopen_mut(&mut self) -> Option<&mut FastOpen> {
        self.cold.as_mut()?.fastopen.as_deref_mut()
    }

    pub(super) fn receive_rate(&self) -> Option<&ReceiveRate> {
        self.cold.as_ref()?.receive_rate.as_deref()
    }

    pub(super) fn receive_rate_mut(&mut self) -> Option<&mut ReceiveRate> {
        self.cold.as_mut()?.receive_rate.as_deref_mut()
    }

    pub(super) fn mtu_search(&self) -> Option<&MtuSearch> {
        self.cold.as_ref()?.mtu_search.as_deref()
    }

    pub(super) fn mtu_search_mut(&mut self) -> Option<&mut MtuSearch> {
        self.cold.as_mut()?.mtu_search.as_deref_mut()
    }

    /// Memory behind the buffers.
    pub(super) fn memory(&self) -> usize {
        self.send.memory() + self.receive.memory() + self.sent.memory()
    }

    /// How long acknowledgment may make no progress.
    /// RFC 9293 section 3.8.3, MUST-20.
    pub(super) fn patience(&self, config: &TcpConfig) -> Duration {
        let limit = if self.orphan { config.orphan_give_up_after } else { config.give_up_after };
        self.options.user_timeout.unwrap_or(limit)
    }
}

/// A buffer's bound while all buffers together are over theirs.
pub(super) fn pressure_cap(cap_bytes: usize) -> usize {
    cap_bytes.min(crate::limits::TCP_PRESSURE_BUFFER_BYTES)
}

/// The window field of a SYN, never scaled (RFC 7323 section 2.2).
pub(super) fn syn_window(receive_buffer_bytes: usize, options: &SocketOptions) -> u16 {
    options.clamped(ReceiveQueue::window_max(receive_buffer_bytes)).min(65_535) as u16
}

/// The least shift with which the largest window can be announced, at most 14 (RFC 7323 section 2.3).
pub(super) fn window_scale_for(options: &SocketOptions) -> u8 {
    let window = options.clamped(ReceiveQueue::window_max(options.receive_buffer_limit()));
    (0..14).find(|shift| window >> shift <= 65_535).unwrap_or(14)
}

/// A TSval: milliseconds plus an offset (RFC 7323 section 5.4).
/// RFC 7323 section 4.1.
pub(super) fn timestamp(now: Instant, offset: u32) -> u32 {
    (now.as_millis() as u32).wrapping_add(offset)
}

/// Whole seconds, wrapping after 136 years.
pub(super) fn seconds(now: Instant) -> u32 {
    now.as_secs() as u32
}

/// Whether timestamp `a` is before `b` (RFC 7323 section 5.2).
pub(super) fn timestamp_before(a: u32, b: u32) -> bool {
    SeqNumber(a).lt(SeqNumber(b))
}
