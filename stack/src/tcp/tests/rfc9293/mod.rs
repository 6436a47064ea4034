//! RFC 9293 section 3.10, event by event and state by state: each clause is a function that is run in every state it
//! names, as a test of its own (`clause::state`). Written from the text of the RFC, with RFC 5961, 7323 and 1337
//! where they change it. [`Scene`] brings a connection into each of the eleven states.

mod acknowledgments;
mod calls;
mod fin;
mod resets;
mod sequence;
mod syn;
mod syn_sent;
mod text;
mod timeouts;
mod unsynchronized;

use super::super::header::Flags;
use super::super::testing::*;
use super::super::*;
use crate::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Farther than any window without scaling reaches.
const BEYOND: u32 = 70_000;

/// Runs a clause in each of the states, as tests `clause::state`.
macro_rules! in_each {
    ($clause:ident: $($state:ident)+) => {
        mod $clause {
            $(
                #[test]
                fn $state() {
                    super::$clause(&mut super::Scene::$state());
                }
            )+
        }
    };
}
use in_each;

/// A connection in some state, with what RFC 9293 section 3.3.1 calls RCV.NXT, SND.UNA and SND.NXT. It has no options
/// but an MSS of 1000. Nobody listens any more unless the state comes from LISTEN.
struct Scene {
    t: Harness,
    /// None where the application has no handle yet.
    handle: Option<ConnId>,
    listener: Option<ListenerId>,
    rcv_nxt: u32,
    snd_una: u32,
    snd_nxt: u32,
}

impl Scene {
    fn closed() -> Self {
        Self { t: Harness::new(), handle: None, listener: None, rcv_nxt: 1, snd_una: 1, snd_nxt: 1 }
    }

    fn listen() -> Self {
        let mut s = Self::closed();
        s.listener = Some(s.t.tcp.listen(s.t.local, 16, SocketOptions::default()).unwrap());
        s.is(State::Listen)
    }

    fn syn_sent() -> Self {
        let mut s = Self { rcv_nxt: 0, snd_una: 0, ..Self::closed() };
        s.handle = Some(s.t.connect_with(SocketOptions::default()));
        s.t.expect(syn());
        s.is(State::SynSent)
    }

    /// SYN-RECEIVED after a passive open.
    fn syn_received() -> Self {
        let mut s = Self { snd_una: 0, ..Self::listen() };
        s.t.inject(syn().mss(1000));
        s.t.expect(syn_ack());
        s.is(State::SynReceived)
    }

    /// SYN-RECEIVED after an active open: both opened at once.
    fn syn_received_active() -> Self {
        let mut s = Self::syn_sent();
        s.rcv_nxt = 1;
        s.t.inject(syn().mss(1000));
        s.t.expect(syn_ack());
        s.is(State::SynReceived)
    }

    fn established() -> Self {
        Self::established_with(SocketOptions::default())
    }

    fn established_with(options: SocketOptions) -> Self {
        let mut s = Self::closed();
        let listener = s.t.tcp.listen(s.t.local, 16, options).unwrap();
        s.t.inject(syn().mss(1000));
        s.t.expect(syn_ack());
        s.t.inject(seg());
        s.handle = Some(s.t.accept(listener).unwrap().0);
        s.t.tcp.close_listener(s.t.now, listener).unwrap();
        s.is(State::Established)
    }

    fn fin_wait_1() -> Self {
        let mut s = Self::established();
        s.shut();
        s.t.expect(fin());
        s.is(State::FinWait1)
    }

    fn fin_wait_2() -> Self {
        let mut s = Self::fin_wait_1();
        s.snd_una = 2;
        s.t.inject(seg().ack(2));
        s.is(State::FinWait2)
    }

    fn close_wait() -> Self {
        let mut s = Self::established();
        s.rcv_nxt = 2;
        s.t.inject(fin());
        s.t.expect(seg().ack(2));
        s.is(State::CloseWait)
    }

    fn closing() -> Self {
        let mut s = Self::fin_wait_1();
        s.rcv_nxt = 2;
        s.t.inject(fin());
        s.t.expect(seg().seq(2).ack(2));
        s.is(State::Closing)
    }

    fn last_ack() -> Self {
        let mut s = Self::close_wait();
        s.shut();
        s.t.expect(fin().ack(2));
        s.is(State::LastAck)
    }

    fn time_wait() -> Self {
        let mut s = Self::fin_wait_2();
        s.rcv_nxt = 2;
        s.t.inject(fin().ack(2));
        s.t.expect(seg().seq(2).ack(2));
        s.is(State::TimeWait)
    }

    fn is(self, state: State) -> Self {
        assert_eq!(self.state(), state);
        self
    }

    /// Closes the write side; the FIN takes a number.
    fn shut(&mut self) {
        let id = self.id();
        self.t.shutdown(id, Shutdown::Write);
        self.snd_nxt += 1;
    }

    fn id(&self) -> ConnId {
        self.handle.unwrap()
    }

    /// The state that a segment of the peer meets.
    fn state(&self) -> State {
        let tuple = Tuple { local: self.t.local, remote: self.t.remote };
        let ours = self.t.tcp.ends().find(|(other, _)| *other == tuple).map(|(_, state)| state);
        ours.unwrap_or(if self.listener.is_some() { State::Listen } else { State::Closed })
    }

    /// An acceptable segment that says nothing new.
    fn seg(&self) -> Seg {
        seg().seq(self.rcv_nxt).ack(self.snd_una)
    }

    /// An acceptable segment that acknowledges all there is.
    fn acking(&self) -> Seg {
        seg().seq(self.rcv_nxt).ack(self.snd_nxt)
    }

    /// A reset as the peer of this connection sends it.
    fn reset(&self) -> Seg {
        rst().seq(self.rcv_nxt)
    }

    /// The answer is `<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>`, and there is no other.
    #[track_caller]
    fn expect_ack(&mut self) {
        self.t.expect(seg().seq(self.snd_nxt).ack(self.rcv_nxt));
        self.t.expect_nothing();
    }

    /// `<SEQ=seq><CTL=RST>`, and nothing else.
    #[track_caller]
    fn expect_reset(&mut self, seq: u32) {
        self.t.expect(rst().seq(seq));
        self.t.expect_nothing();
    }

    /// `<SEQ=0><ACK=ack><CTL=RST,ACK>`, and nothing else. The sequence number is zero on the wire.
    #[track_caller]
    fn expect_reset_ack(&mut self, ack: u32) {
        let sent = self.t.wire.sent.pop_front().unwrap();
        assert_eq!((sent.flags, sent.raw_seq.0, sent.ack), (Flags::RST | Flags::ACK, 0, ack), "{sent:?}");
        self.t.expect_nothing();
    }

    /// The segment draws `<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>` and changes nothing. Challenge ACKs are limited to 10 in
    /// 5 s (RFC 5961 section 7), and so are calls of this.
    #[track_caller]
    fn only_draws_an_ack(&mut self, segment: Seg) {
        let (state, unread) = (self.state(), self.unread());
        self.t.inject(segment);
        self.expect_ack();
        assert_eq!((self.state(), self.unread()), (state, unread));
    }

    /// The segment draws nothing and changes nothing.
    #[track_caller]
    fn is_dropped(&mut self, segment: Seg) {
        let (state, unread) = (self.state(), self.unread());
        self.t.inject(segment);
        self.t.expect_nothing();
        assert_eq!((self.state(), self.unread()), (state, unread));
    }

    /// Whether the reader has something to wait for, as `Harness::end` tells.
    fn unread(&mut self) -> Option<Option<Result<usize, TcpError>>> {
        self.handle.map(|id| self.t.end(id))
    }

    /// What the application learns that ended the connection.
    fn error(&mut self) -> Option<TcpError> {
        let id = self.id();
        self.t.tcp.take_error(id)
    }
}
