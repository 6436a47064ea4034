//! RFC 9293 sections 3.10.1 to 3.10.6: OPEN, SEND, RECEIVE, CLOSE, ABORT and STATUS in every state. A listener has no
//! handle to send or receive with, so those clauses have no meaning in LISTEN, nor in SYN-RECEIVED after a passive
//! open.

use core::task::{Poll, Waker};

use super::*;

impl Scene {
    fn poll_send(&mut self, bytes: &[u8]) -> Poll<Result<usize, TcpError>> {
        let id = self.id();
        let result = self.t.tcp.poll_send(self.t.now, id, bytes, Waker::noop());
        self.t.transmit();
        result
    }

    fn poll_recv(&mut self) -> Poll<Result<usize, TcpError>> {
        let id = self.id();
        self.t.tcp.poll_recv(self.t.now, id, &mut [0; 8], Waker::noop())
    }

    fn abort(&mut self) {
        let id = self.id();
        self.t.tcp.abort(self.t.now, id);
        self.t.transmit();
    }

    /// A handle of a connection that is gone.
    fn stale() -> Self {
        let mut s = Self::syn_sent();
        s.abort();
        s.t.expect_nothing();
        s.is(State::Closed)
    }
}

// ---- 3.10.1 OPEN

#[test]
fn open_closed_sends_a_syn_or_listens() {
    Scene::syn_sent();
    Scene::listen();
    let mut s = Scene::closed();
    for remote in ["0.0.0.0:80", "198.51.100.7:0"] {
        let open = s.t.tcp.connect(s.t.now, s.t.local, remote.parse().unwrap(), SocketOptions::default());
        assert_eq!(open, Err(TcpError::InvalidInput), "{remote}");
    }
}

#[test]
fn open_closed_fails_without_room() {
    let config = TcpConfig { connections_max: 1, ..TcpConfig::default() };
    let mut s = Scene { t: Harness::with(config), ..Scene::closed() };
    let open = |s: &mut Scene, port| {
        let local = SocketAddr::new(s.t.local.ip(), port);
        s.t.tcp.connect(s.t.now, local, s.t.remote, SocketOptions::default())
    };
    assert!(open(&mut s, 4000).is_ok());
    assert_eq!(open(&mut s, 4001), Err(TcpError::TableFull));
}

#[test]
fn open_listen_leaves_the_listener_alone() {
    // Deviation: a listener does not turn into an active open; it serves many connections (MUST-42) and stays.
    let mut s = Scene::listen();
    s.t.inject(syn().port(50_001));
    s.t.expect(syn_ack().port(50_001));
    assert_eq!(s.t.tcp.listen(s.t.local, 16, SocketOptions::default()), Err(TcpError::AddrInUse));
    assert_eq!(s.state(), State::Listen);
}

fn open_fails_where_there_is_a_connection(s: &mut Scene) {
    let state = s.state();
    let open = s.t.tcp.connect(s.t.now, s.t.local, s.t.remote, SocketOptions::default());
    assert_eq!((open, s.state()), (Err(TcpError::AddrInUse), state));
}
in_each!(open_fails_where_there_is_a_connection:
    syn_sent syn_received syn_received_active established fin_wait_1 fin_wait_2 close_wait closing last_ack
    time_wait);

// ---- 3.10.2 SEND

fn send_without_connection_fails(s: &mut Scene) {
    assert_eq!(s.poll_send(b"abc"), Poll::Ready(Err(TcpError::NotConnected)));
}
in_each!(send_without_connection_fails: stale);

fn send_queues_until_established(s: &mut Scene) {
    assert_eq!(s.poll_send(b"abc"), Poll::Ready(Ok(3)));
    s.t.expect_nothing();
    s.t.inject(syn_ack());
    s.t.advance(SECOND);
    assert!(s.t.wire.sent.iter().any(|sent| sent.payload == b"abc"));
}
in_each!(send_queues_until_established: syn_sent syn_received_active);

fn send_carries_the_acknowledgment(s: &mut Scene) {
    assert_eq!(s.poll_send(b"abc"), Poll::Ready(Ok(3)));
    s.t.expect(seg().ack(s.rcv_nxt).data("abc"));
}
in_each!(send_carries_the_acknowledgment: established close_wait);

/// Insufficient resources: the caller waits.
fn send_waits_for_room(s: &mut Scene) {
    s.t.set(s.id(), |options| options.send_buffer_bytes = 100);
    assert_eq!(s.poll_send(&[7; 200]), Poll::Ready(Ok(100)));
    assert_eq!(s.poll_send(b"x"), Poll::Pending);
}
in_each!(send_waits_for_room: syn_sent syn_received_active established close_wait);

fn send_after_closing_fails(s: &mut Scene) {
    assert_eq!(s.poll_send(b"abc"), Poll::Ready(Err(TcpError::Shutdown)));
    s.t.expect_nothing();
}
in_each!(send_after_closing_fails: fin_wait_1 fin_wait_2 closing last_ack time_wait);

// ---- 3.10.3 RECEIVE

fn receive_without_connection_fails(s: &mut Scene) {
    assert_eq!(s.poll_recv(), Poll::Ready(Err(TcpError::NotConnected)));
}
in_each!(receive_without_connection_fails: stale);

fn receive_waits_for_text(s: &mut Scene) {
    assert_eq!(s.poll_recv(), Poll::Pending);
}
in_each!(receive_waits_for_text: syn_sent syn_received_active established fin_wait_1 fin_wait_2);

fn receive_gives_text_in_order(s: &mut Scene) {
    s.t.inject(s.seg().data("abc"));
    s.t.inject(s.seg().seq(s.rcv_nxt + 3).data("def"));
    assert_eq!(s.t.recv(s.id()), b"abcdef");
}
in_each!(receive_gives_text_in_order: established fin_wait_1 fin_wait_2);

#[test]
fn receive_close_wait_gives_what_is_on_hand_then_the_end() {
    let mut s = Scene::established();
    s.t.inject(s.seg().with(Flags::FIN).data("abc"));
    assert_eq!((s.state(), s.poll_recv()), (State::CloseWait, Poll::Ready(Ok(3))));
    assert_eq!(s.poll_recv(), Poll::Ready(Ok(0)));
}

/// "Connection closing" is the end of the stream, as sockets tell it.
fn receive_after_the_fin_gives_the_end(s: &mut Scene) {
    assert_eq!(s.poll_recv(), Poll::Ready(Ok(0)));
}
in_each!(receive_after_the_fin_gives_the_end: close_wait closing last_ack time_wait);

#[test]
fn receive_in_closing_still_gives_what_is_on_hand() {
    // Deviation: the clause fails at once; text that was acknowledged is not thrown away.
    let mut s = Scene::fin_wait_1();
    s.t.inject(s.seg().with(Flags::FIN).data("abc"));
    assert_eq!((s.state(), s.t.recv(s.id())), (State::Closing, b"abc".to_vec()));
}

// ---- 3.10.4 CLOSE

#[test]
fn close_without_connection_fails() {
    let mut s = Scene::stale();
    assert_eq!(s.t.tcp.shutdown(s.t.now, s.id(), Shutdown::Write), Err(TcpError::NotConnected));
    s.t.close(s.id());
    s.t.expect_nothing();
}

#[test]
fn close_listen_forgets_the_listener() {
    let mut s = Scene::listen();
    let listener = s.listener.take().unwrap();
    s.t.tcp.close_listener(s.t.now, listener).unwrap();
    assert_eq!(s.t.tcp.poll_accept(listener, Waker::noop()), Poll::Ready(Err(TcpError::NotConnected)));
    s.t.inject(syn());
    s.expect_reset_ack(1);
}

#[test]
fn close_syn_sent_deletes_the_connection() {
    let mut s = Scene::syn_sent();
    s.t.close(s.id());
    s.t.expect_silence(300 * SECOND);
    assert_eq!(s.state(), State::Closed);
    s.t.expect_clean();
}

#[test]
fn close_syn_received_sends_the_fin_after_the_handshake() {
    // Queued in either case: the FIN follows the handshake's ACK.
    let mut s = Scene::syn_received_active();
    s.t.shutdown(s.id(), Shutdown::Write);
    assert_eq!(s.state(), State::FinWait1);
    s.t.inject(s.acking());
    s.t.expect(fin());
}

#[test]
fn close_established_sends_the_fin_behind_the_text() {
    let mut s = Scene::established();
    s.t.set(s.id(), |options| options.nodelay = true);
    s.t.send(s.id(), "abc");
    s.t.expect(seg().data("abc"));
    s.shut();
    s.t.expect(fin().seq(4));
    assert_eq!(s.state(), State::FinWait1);
}

#[test]
fn close_close_wait_sends_the_fin_behind_the_text() {
    let mut s = Scene::close_wait();
    s.t.send(s.id(), "abc");
    s.t.expect(seg().ack(2).data("abc"));
    s.shut();
    s.t.expect(fin().seq(4).ack(2));
    assert_eq!(s.state(), State::LastAck);
}

/// No second FIN is sent and no state changes.
fn close_again_changes_nothing(s: &mut Scene) {
    let (state, id) = (s.state(), s.id());
    let _ = s.t.tcp.shutdown(s.t.now, id, Shutdown::Write);
    s.t.transmit();
    s.t.expect_nothing();
    assert_eq!(s.state(), state);
}
in_each!(close_again_changes_nothing: fin_wait_1 fin_wait_2 closing last_ack time_wait);

// ---- 3.10.5 ABORT

fn abort_without_connection_is_nothing(s: &mut Scene) {
    s.abort();
    s.t.expect_nothing();
}
in_each!(abort_without_connection_is_nothing: stale);

/// `<SEQ=SND.NXT><CTL=RST>`, queues are flushed, the connection is deleted.
fn abort_resets(s: &mut Scene) {
    s.abort();
    let reset = s.t.wire.sent.pop_front().unwrap();
    assert!(reset.flags.contains(Flags::RST), "{reset:?}");
    assert_eq!(reset.seq, s.snd_nxt);
    s.t.expect_silence(200 * SECOND);
    assert_eq!(s.state(), State::Closed);
    s.t.expect_clean();
}
in_each!(abort_resets: syn_received_active established fin_wait_1 fin_wait_2 close_wait);

#[test]
fn abort_flushes_what_was_queued() {
    let mut s = Scene::established();
    s.t.send(s.id(), pattern(1, 20_000));
    s.snd_nxt = s.t.wire.sent.iter().map(|sent| sent.seq + sent.payload.len() as u32).max().unwrap();
    s.t.wire.sent.clear();
    abort_resets(&mut s);
}

/// No RST: nobody would be helped by it.
fn abort_deletes_quietly(s: &mut Scene) {
    s.abort();
    s.t.expect_nothing();
}
in_each!(abort_deletes_quietly: syn_sent closing last_ack time_wait);

#[test]
fn abort_listen_resets_what_was_not_accepted() {
    let mut s = Scene::syn_received();
    s.t.inject(s.acking());
    let listener = s.listener.take().unwrap();
    s.t.tcp.close_listener(s.t.now, listener).unwrap();
    s.t.transmit();
    assert!(s.t.wire.sent.pop_front().unwrap().flags.contains(Flags::RST));
    assert_eq!(s.state(), State::Closed);
}

// ---- 3.10.6 STATUS

#[test]
fn status_names_every_state() {
    let scenes = [
        (Scene::closed(), "CLOSED"),
        (Scene::listen(), "LISTEN"),
        (Scene::syn_sent(), "SYN-SENT"),
        (Scene::syn_received(), "SYN-RECEIVED"),
        (Scene::established(), "ESTABLISHED"),
        (Scene::fin_wait_1(), "FIN-WAIT-1"),
        (Scene::fin_wait_2(), "FIN-WAIT-2"),
        (Scene::close_wait(), "CLOSE-WAIT"),
        (Scene::closing(), "CLOSING"),
        (Scene::last_ack(), "LAST-ACK"),
        (Scene::time_wait(), "TIME-WAIT"),
    ];
    for (s, name) in scenes {
        assert_eq!(s.state().to_string(), name);
        if let Some(id) = s.handle {
            assert_eq!(s.t.tcp.state(id), Some(s.state()));
        }
    }
    assert_eq!(Scene::stale().t.tcp.state(Scene::stale().id()), None);
}
