//! TCP Fast Open (RFC 7413), both sides: data in the SYN, for a client that shows a cookie which the server gave its address
//! earlier. Here are the server's decision on a SYN, the bound on connections that nobody has confirmed, what a SYN of ours
//! carries, and what the answer to it means. Cookies are made in `cookie`, a client's are kept in `cache`.
//!
//! A connection opened by a SYN's data exists at once, in SYN-RECEIVED and in the accept queue. Every other SYN goes the
//! way of `syn_queue`, where data in it is not acknowledged. A FIN in a SYN is never acknowledged: the peer sends it again.

mod cache;
mod cookie;

use core::net::IpAddr;
use std::collections::VecDeque;

use super::congestion::CongestionControl;
use super::connection::{Connection, Context};
use super::engine::Tcp;
use super::input::Segment;
use super::options::{FastOpenOption, OPTIONS_LEN_MAX, TcpOptions};
use super::seq::SeqNumber;
use super::{ListenerId, State, TcpError};
use crate::counters::Counters;
use crate::limits;
use crate::time::Instant;

pub(super) use cache::{Advice, ClientCache};
pub(super) use cookie::{CookieMaker, Ends};

use super::info::FastOpenFailure;
use cache::{Outcome, Report};
use cookie::Validity;

/// What the server makes of a SYN.
pub(super) enum Verdict {
    /// Take its data; the SYN-ACK carries this option.
    Open(Option<FastOpenOption>),
    /// As any SYN; `Some`: the SYN-ACK carries a cookie, in the experimental option or not.
    Regular(Option<bool>),
}

/// `PendingFastOpenRequests` of a listener (RFC 7413 section 4.2) and its bound.
#[derive(Debug, Default)]
pub(super) struct PendingFastOpens {
    /// 0: `FastOpenEnabled` is off.
    qlen: usize,
    pending: usize,
    /// When those that were reset stop counting: RSTs from spoofed clients would make room for further SYNs otherwise
    /// (section 5.1). With `pending` at most `qlen`.
    reset: VecDeque<Instant>,
}

impl PendingFastOpens {
    /// `qlen` counts as [`limits::TCP_FASTOPEN_QLEN`] when it is more.
    pub(super) fn new(qlen: usize) -> Self {
        Self { qlen: qlen.min(limits::TCP_FASTOPEN_QLEN), ..Self::default() }
    }

    /// Takes another bound; what is pending stays.
    pub(super) fn set_qlen(&mut self, qlen: usize) {
        self.qlen = qlen.min(limits::TCP_FASTOPEN_QLEN);
    }

    fn has_room(&mut self, now: Instant) -> bool {
        while self.reset.front().is_some_and(|until| *until <= now) {
            self.reset.pop_front();
        }
        self.pending + self.reset.len() < self.qlen
    }

    fn end(&mut self, now: Instant, was_reset: bool) {
        self.pending = self.pending.saturating_sub(1);
        if was_reset && self.pending + self.reset.len() < self.qlen {
            self.reset.push_back(now + limits::TCP_FASTOPEN_RESET_MEMORY);
        }
    }
}

/// What a connection with Fast Open knows of it.
#[cfg_attr(test, derive(Debug))]
pub(super) struct FastOpen {
    side: Side,
    /// What our first SYN or SYN-ACK carries.
    option: Option<FastOpenOption>,
    /// The SYN's data was acknowledged: `TCPI_OPT_SYN_DATA`.
    pub(super) syn_data: bool,
    pub(super) cookie_requested: bool,
    pub(super) failure: Option<FastOpenFailure>,
}

#[cfg_attr(test, derive(Debug))]
enum Side {
    Client {
        /// Most data for the SYN, by the server's MSS; `None`: no cookie, no data.
        mss: Option<u16>,
        /// Data in the first SYN, bytes.
        sent: u32,
        /// News for the cache.
        report: Option<Report>,
    },
    /// The listener that counts the connection as pending.
    Server { pending: Option<ListenerId> },
}

// ---- the server: a SYN arrives

impl Tcp {
    /// RFC 7413 section 4.2.2, "Server: Receiving SYN", steps 1 to 3 and 5; the order of checks is Linux's.
    pub(super) fn fastopen_verdict(
        &mut self,
        now: Instant,
        id: ListenerId,
        syn: &Segment,
        counters: &mut Counters,
    ) -> Verdict {
        let without_cookie = self.config.fastopen.server_without_cookie;
        let Some(listener) = self.listeners.get_mut(id).filter(|listener| listener.fastopen.qlen > 0) else {
            return Verdict::Regular(None);
        };
        let option = syn.options.fastopen;
        if option.is_none() && !(without_cookie && syn.payload_len() > 0) {
            return Verdict::Regular(None);
        }
        counters.tcp_fastopen_cookie_requests +=
            u64::from(option.is_some_and(|option| option.cookie().is_empty()));
        if !listener.fastopen.has_room(now) {
            counters.tcp_fastopen_listen_overflows += 1;
            return Verdict::Regular(None);
        }
        let Some(option) = option.filter(|_| !without_cookie) else { return Verdict::Open(None) };
        let ends = Ends { client: syn.key().remote().ip(), server: syn.key().local().ip() };
        let cookies = listener.cookies.as_deref().unwrap_or(&self.fastopen_cookies);
        match cookies.check(now, ends, option.cookie()) {
            _ if option.cookie().is_empty() => Verdict::Regular(Some(option.experimental)),
            Validity::Current => Verdict::Open(None),
            Validity::Old => {
                counters.tcp_fastopen_passive_old_key += 1;
                Verdict::Open(Some(cookies.cookie(now, ends).in_experimental(option.experimental)))
            }
            Validity::Invalid => {
                counters.tcp_fastopen_passive_fails += 1;
                Verdict::Regular(Some(option.experimental))
            }
        }
    }

    /// Keeps the books of Fast Open for a connection to which something happened.
    pub(super) fn follow_fastopen(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.tables.connections.get_mut(index) else { return };
        let (local, remote) = (connection.key.local().ip(), connection.key.remote().ip());
        let settled = connection.syn_acked() || connection.state.is_over();
        let failed = !connection.syn_acked() && connection.state.is_over();
        let error = connection.error.filter(|_| failed);
        let tried_once = connection.retransmits == 0 && !connection.ecn.fell_back();
        let Some(open) = connection.fastopen_mut() else { return };
        match &mut open.side {
            Side::Client { mss, sent, report } => {
                let attempted = open.option.is_some() || *sent > 0;
                let report = report.take().or(match error.filter(|_| attempted) {
                    // The answer to a plain SYN says nothing about Fast Open.
                    Some(TcpError::ConnectionRefused) if tried_once => Some(Report::Refused),
                    Some(TcpError::TimedOut) => Some(Report::TimedOut),
                    _ => None,
                });
                if settled {
                    (open.option, *mss, *sent) = (None, None, 0);
                }
                if let Some(report) = report {
                    let news = FastOpenNews { local, remote, report };
                    if self.fastopen_cache.note(now, &news) {
                        self.tell_of_fastopen(news);
                    }
                }
            }
            Side::Server { pending } => {
                let Some(id) = pending.take_if(|_| settled) else { return };
                let was_reset = error == Some(TcpError::ConnectionReset);
                if let Some(listener) = self.listeners.get_mut(id) {
                    listener.fastopen.end(now, was_reset);
                }
            }
        }
    }
}

// ---- what shards tell each other

/// What an active open with Fast Open taught one shard of a server: the others are to know it, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastOpenNews {
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
    pub(super) report: Report,
}

impl Tcp {
    fn tell_of_fastopen(&mut self, news: FastOpenNews) {
        if self.fastopen_news.len() < self.fastopen_news_max {
            self.fastopen_news.push(news);
        }
    }

    /// What the client cache of this shard learned since the last call, for [`Tcp::hear_of_fastopen`] of the other shards: at
    /// most [`limits::TCP_FASTOPEN_NEWS`], what is beyond stays with this shard. Empty where there is one shard only.
    #[must_use]
    pub fn take_fastopen_news(&mut self) -> Vec<FastOpenNews> {
        core::mem::take(&mut self.fastopen_news)
    }

    /// Takes in what another shard learned: cookies, and paths that lose Fast Open (RFC 7413 section 4.1.3).
    pub fn hear_of_fastopen(&mut self, now: Instant, news: &FastOpenNews) {
        self.fastopen_cache.note(now, news);
    }
}

impl Connection {
    /// Makes a new connection in SYN-RECEIVED one that begins with the SYN's data (section 4.2.2, "Server: Receiving SYN",
    /// steps 4 to 6). `listener` counts it as pending.
    pub(super) fn open_with_data(
        &mut self,
        listener: ListenerId,
        answer: Option<FastOpenOption>,
        syn: Segment,
        cx: &mut Context<'_>,
    ) {
        (self.snd_nxt, self.syn_sent_at) = (self.iss, None);
        self.syn_due = true;
        self.set_send_window(&syn);
        self.congestion.on_established(cx.now, u32::from(self.mss));
        let payload = syn.payload_len() > 0;
        self.cold_mut().fastopen = Some(Box::new(FastOpen {
            side: Side::Server { pending: Some(listener) },
            option: answer,
            syn_data: payload,
            cookie_requested: false,
            failure: None,
        }));
        self.take_syn_text(syn, cx);
    }

    /// Whether a SYN with data opened it from the other side.
    pub(super) fn was_opened_with_data(&self) -> bool {
        self.fastopen().is_some_and(|open| matches!(open.side, Side::Server { .. }))
    }

    /// Whether data may go out although our SYN-ACK is not acknowledged: it is sent, and the client showed a cookie.
    pub(super) fn may_send_early(&self) -> bool {
        self.was_opened_with_data() && self.snd_nxt.gt(self.iss)
    }
}

impl PendingFastOpens {
    /// One more connection waits for its handshake's ACK.
    pub(super) fn begin(&mut self) {
        self.pending += 1;
    }
}

// ---- the client

impl Connection {
    /// Makes the active open that is about to begin a Fast Open, as the cache advises.
    /// RFC 7413 section 4.2.1.
    pub(super) fn plan_fastopen(&mut self, advice: Advice, without_cookie: bool) {
        let default_mss = self.mss;
        let (option, mss) = match advice {
            Advice::Cookie { cookie, mss } => (Some(cookie), Some(mss.unwrap_or(default_mss))),
            Advice::Request(_) if without_cookie => (None, Some(default_mss)),
            Advice::Request(request) => (Some(request), None),
            Advice::Avoid => (None, None),
        };
        self.cold_mut().fastopen = Some(Box::new(FastOpen {
            side: Side::Client { mss, sent: 0, report: None },
            option,
            syn_data: false,
            cookie_requested: matches!(advice, Advice::Request(_)) && option.is_some(),
            failure: mss.is_none().then_some(FastOpenFailure::CookieUnavailable),
        }));
    }

    /// What the SYN or SYN-ACK that is sent now carries: an option, and payload bytes. Only the first one has any: what
    /// follows a timeout is plain, for the sake of networks and servers that drop the others (sections 4.2.1 and 4.2.2).
    pub(super) fn fastopen_syn(&self) -> (Option<FastOpenOption>, u32) {
        let Some(open) = self.fastopen().filter(|_| !self.snd_nxt.gt(self.iss)) else {
            return (None, 0);
        };
        match (&open.side, self.state) {
            (Side::Client { mss, .. }, State::SynSent) => {
                // The MSS counts no options (RFC 6691). As in Linux, room for all there can be is left: a middlebox may add
                // some.
                let path = self.mtu().saturating_sub(self.fixed_headers());
                let room = |mss: u16| usize::from(mss.min(path)).saturating_sub(OPTIONS_LEN_MAX);
                (open.option, mss.map_or(0, |mss| room(mss).min(self.send.len()) as u32))
            }
            (Side::Server { .. }, _) => (open.option, 0),
            _ => (None, 0),
        }
    }

    /// The first SYN went out with `len` bytes of data.
    pub(super) fn note_syn_data_sent(&mut self, len: u32, counters: &mut Counters) {
        if let Some(FastOpen { side: Side::Client { sent, .. }, .. }) = self.fastopen_mut() {
            *sent = len;
            counters.tcp_bytes_tx += u64::from(len);
            self.statistics.data_segments_out += u32::from(len > 0);
        }
    }

    /// Section 4.2.2, "Client: Receiving SYN-ACK": our SYN is acknowledged up to `ack`, and SND.UNA is behind it. Data of
    /// the SYN that is not acknowledged counts as never sent, so it goes with the next ACK.
    pub(super) fn conclude_fastopen(
        &mut self,
        ack: SeqNumber,
        syn_ack: Option<&TcpOptions>,
        cx: &mut Context<'_>,
    ) {
        let retransmitted = self.retransmits > 0;
        let data = self.iss + 1;
        let Some(open) = self.fastopen_mut() else { return };
        let Side::Client { sent, report, .. } = &mut open.side else { return };
        let sent = core::mem::take(sent);
        let acked = if ack.gt(data) { ack.since(data).min(sent) } else { 0 };
        if sent > 0 && acked == sent {
            open.syn_data = true;
            cx.counters.tcp_fastopen_active += 1;
        } else if sent > 0 {
            let why =
                if retransmitted { FastOpenFailure::SynRetransmitted } else { FastOpenFailure::DataNotAcked };
            open.failure = Some(why);
            cx.counters.tcp_fastopen_active_fails += 1;
        }
        if let Some(options) = syn_ack.filter(|_| open.option.is_some() || sent > 0) {
            let cookie = options.fastopen.filter(|option| !option.cookie().is_empty());
            let request = open.option.filter(|option| option.cookie().is_empty());
            let outcome = match (cookie, request) {
                (None, _) if retransmitted && acked == 0 => Outcome::Lost,
                (None, Some(request)) if !retransmitted => {
                    Outcome::RequestIgnored { experimental: request.experimental }
                }
                _ => Outcome::Arrived,
            };
            *report = Some(Report::Answered { cookie, mss: options.mss, outcome });
        }
        if sent > 0 {
            self.send.acknowledge(acked as usize);
            self.statistics.bytes_acked += u64::from(acked);
            (self.snd_una, self.una_offset) = (data + acked, 1 + u64::from(acked));
            (self.snd_nxt, self.snd_sml) = (self.snd_una, self.snd_una);
        }
        if !self.has_unfinished_output() {
            self.wake_flusher();
        }
    }
}
