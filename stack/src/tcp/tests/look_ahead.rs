//! What a burst is said to bring is a hint: whatever comes instead, and whatever has become of a connection meanwhile, each
//! segment finds its own.

use std::net::SocketAddr;

use siphasher::sip::SipHasher13;

use super::super::table::TupleKey;
use super::super::testing::*;
use super::super::*;
use crate::counters::DropReason;

const PORTS: [u16; 3] = [2001, 2002, 2003];

/// Three connections from these ports.
fn three() -> (Harness, [ConnId; 3]) {
    let mut t = Harness::new();
    let listener = t.tcp.listen(t.local, 16, SocketOptions::default()).unwrap();
    let ids = PORTS.map(|port| {
        t.inject(syn().port(port).mss(1000));
        t.expect(syn_ack().port(port));
        t.inject(seg().port(port));
        t.accept(listener).unwrap().0
    });
    (t, ids)
}

/// Tells of segments from these ports, longer than their headers or not.
fn look_ahead(t: &mut Harness, ports: &[(u16, bool)]) {
    let (key, other_key) = t.tcp.hash_keys();
    let hasher = SipHasher13::new_with_keys(key, other_key);
    let hash = |port| TupleKey::new(t.local, SocketAddr::new(t.remote.ip(), port)).hash(&hasher);
    let hashes: Vec<(u32, bool)> = ports.iter().map(|(port, long)| (hash(*port), *long)).collect();
    t.tcp.look_ahead(hashes.into_iter());
}

#[test]
fn what_was_told_need_not_come() {
    let (mut t, ids) = three();
    // The last one is nobody's.
    look_ahead(&mut t, &[(2001, true), (2001, false), (2003, true), (2002, false), (9999, true)]);
    for (port, text) in [(2003, "c"), (2001, "a"), (2002, "b"), (2002, "bb")] {
        t.tcp.step_ahead();
        let seq = text.len() as u32;
        t.receive(&seg().port(port).seq(seq).data(text));
    }
    // More than were told of.
    t.tcp.step_ahead();
    t.receive(&seg().port(2001).seq(2).data("A"));
    t.tcp.step_ahead();
    t.receive(&seg().port(2001).seq(3).data("z"));
    assert_eq!(ids.map(|id| t.recv(id)), [b"aAz".to_vec(), b"bbb".to_vec(), b"c".to_vec()]);
}

#[test]
fn a_connection_that_ends_in_the_burst_gets_no_more_of_it() {
    let (mut t, ids) = three();
    look_ahead(&mut t, &[(2001, false), (2001, true), (2001, false)]);
    t.tcp.step_ahead();
    t.receive(&rst().port(2001));
    assert_eq!(t.state(ids[0]), State::Closed);
    t.tcp.step_ahead();
    t.receive(&seg().port(2001).data("late"));
    assert_eq!(t.dropped(DropReason::TcpNoConnection), 1);
    // Its place has another tenant by the time of the next.
    t.close(ids[0]);
    t.inject(syn().port(2004).mss(1000));
    t.inject(seg().port(2004));
    t.tcp.step_ahead();
    t.receive(&seg().port(2001));
    assert_eq!(t.dropped(DropReason::TcpNoConnection), 2);
    assert_eq!(t.recv(ids[1]), b"");
}
