//! What must hold whatever the network does, kept apart from the code under test: every byte arrives once, in order and
//! unchanged; a FIN comes after all of them; every end ends; errors only where the experiment allows them.
//!
//! Each direction of a connection carries a pattern that depends on its two ends and on the position, so that a byte
//! from another place of the stream, or of another connection, is told from the right one.

use core::cell::RefCell;
use core::hash::Hasher;
use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::rc::Rc;

use siphasher::sip::SipHasher13;

use crate::shard::Shard;
use crate::tcp::{Census, TcpError, Tuple};

/// Violations kept; the first ones say what went wrong.
const VIOLATIONS_KEPT: usize = 16;

/// The pattern of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    key: u64,
}

impl Pattern {
    /// The pattern of the bytes that `from` sends `to`.
    #[must_use]
    pub fn new(from: SocketAddr, to: SocketAddr) -> Self {
        let mut hasher = SipHasher13::new_with_keys(0x6279_7761_7368, 1);
        for end in [from, to] {
            hasher.write(end.ip().to_canonical().to_string().as_bytes());
            hasher.write_u16(end.port());
        }
        Self { key: hasher.finish() }
    }

    /// The byte at `position`.
    #[must_use]
    pub fn byte(self, position: u64) -> u8 {
        (self.word(position / 8) >> (position % 8 * 8)) as u8
    }

    /// Writes the bytes from `position` on.
    pub fn fill(self, position: u64, bytes: &mut [u8]) {
        let mut word = self.word(position / 8);
        for (at, byte) in (position..).zip(bytes) {
            if at % 8 == 0 {
                word = self.word(at / 8);
            }
            *byte = (word >> (at % 8 * 8)) as u8;
        }
    }

    /// Where `bytes`, read at `position`, first differ.
    #[must_use]
    pub fn mismatch(self, position: u64, bytes: &[u8]) -> Option<u64> {
        let mut word = self.word(position / 8);
        for (at, &byte) in (position..).zip(bytes) {
            if at % 8 == 0 {
                word = self.word(at / 8);
            }
            if byte != (word >> (at % 8 * 8)) as u8 {
                return Some(at);
            }
        }
        None
    }

    /// Eight bytes of the pattern: splitmix64 of the key and the index.
    fn word(self, index: u64) -> u64 {
        let mut z = self.key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
struct Direction {
    sent: u64,
    received: u64,
    /// The writer said that nothing more comes.
    closed: bool,
    /// The reader saw the end.
    fin: bool,
}

/// One end of a connection.
#[derive(Clone, Debug)]
struct End {
    ended: Option<Result<(), TcpError>>,
    may_fail: bool,
}

#[derive(Debug, Default)]
struct Book {
    /// By writer and reader.
    directions: BTreeMap<(SocketAddr, SocketAddr), Direction>,
    /// By local and remote address.
    ends: BTreeMap<(SocketAddr, SocketAddr), End>,
    violations: Vec<String>,
    violation_count: usize,
    progress: u64,
    bytes_received: u64,
    errors_allowed: u64,
    unaccepted: u64,
}

/// The book all applications of an experiment write into. Cheap to clone: every clone is the same book.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    book: Rc<RefCell<Book>>,
}

impl Checker {
    /// An end of a connection is open. `may_fail`: it may end with an error (an abort is planned, say).
    pub fn opened(&self, tuple: Tuple, may_fail: bool) {
        let key = (canonical(tuple.local), canonical(tuple.remote));
        let mut book = self.book.borrow_mut();
        book.progress += 1;
        if book.ends.insert(key, End { ended: None, may_fail }).is_some() {
            book.violation(format!("{key:?} was opened twice"));
        }
    }

    /// `bytes` more were taken by the stack at `tuple.local`.
    pub fn sent(&self, tuple: Tuple, bytes: u64) {
        let mut book = self.book.borrow_mut();
        book.progress += 1;
        let direction = book.direction(tuple.local, tuple.remote);
        direction.sent += bytes;
        if direction.closed {
            book.violation(format!("{tuple:?} took bytes after its FIN"));
        }
    }

    /// The application at `tuple.local` sends nothing more (shutdown or close).
    pub fn closed(&self, tuple: Tuple) {
        let mut book = self.book.borrow_mut();
        book.progress += 1;
        book.direction(tuple.local, tuple.remote).closed = true;
    }

    /// The application at `tuple.local` read `bytes`, which must be the next ones of `pattern`.
    pub fn received(&self, tuple: Tuple, pattern: Pattern, bytes: &[u8]) {
        let mut book = self.book.borrow_mut();
        book.progress += 1;
        book.bytes_received += bytes.len() as u64;
        let direction = book.direction(tuple.remote, tuple.local);
        let position = direction.received;
        direction.received += bytes.len() as u64;
        let (sent, received, fin) = (direction.sent, direction.received, direction.fin);
        if let Some(at) = pattern.mismatch(position, bytes) {
            book.violation(format!(
                "{tuple:?} read a wrong byte at {at} ({} bytes at {position})",
                bytes.len()
            ));
        }
        if received > sent {
            book.violation(format!("{tuple:?} read {received} bytes of {sent} sent"));
        }
        if fin {
            book.violation(format!("{tuple:?} read bytes after the FIN"));
        }
    }

    /// The application at `tuple.local` read the end of the stream.
    pub fn fin(&self, tuple: Tuple) {
        let mut book = self.book.borrow_mut();
        book.progress += 1;
        let direction = book.direction(tuple.remote, tuple.local);
        direction.fin = true;
        let (sent, received, closed) = (direction.sent, direction.received, direction.closed);
        if received != sent || !closed {
            book.violation(format!(
                "{tuple:?} read the end after {received} of {sent} bytes (closed: {closed})"
            ));
        }
    }

    /// The application at `tuple.local` let the connection go, or lost it.
    pub fn ended(&self, tuple: Tuple, result: Result<(), TcpError>) {
        let key = (canonical(tuple.local), canonical(tuple.remote));
        let mut book = self.book.borrow_mut();
        book.progress += 1;
        let may_fail = book.ends.get(&key).is_some_and(|end| end.may_fail);
        let accepted = book.ends.contains_key(&(key.1, key.0));
        match result {
            // The handshake's last ACK was lost until the server gave up: the client learns by a reset.
            Err(_) if !may_fail && !accepted => book.unaccepted += 1,
            Err(error) if !may_fail => book.violation(format!("{tuple:?} ended with: {error}")),
            Err(_) => book.errors_allowed += 1,
            Ok(()) => {}
        }
        if let Some(end) = book.ends.get_mut(&key) {
            end.ended = Some(result);
        }
    }

    /// A connection could not be opened, which the experiment allows; counted as one that was never accepted.
    pub fn unopened(&self) {
        self.book.borrow_mut().unaccepted += 1;
    }

    /// Something that must not happen happened.
    pub fn violation(&self, what: String) {
        self.book.borrow_mut().violation(what);
    }

    /// Something happened that need not be checked but shows that the experiment goes on.
    pub fn progressed(&self) {
        self.book.borrow_mut().progress += 1;
    }

    /// Rises with everything that happens: a run in which it stands still is stuck.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.book.borrow().progress
    }

    /// Bytes read by applications so far, all connections together.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.book.borrow().bytes_received
    }

    /// Ends of connections opened so far.
    #[must_use]
    pub fn ends(&self) -> usize {
        self.book.borrow().ends.len()
    }

    /// Clients that lost a connection which the server never accepted. TCP allows that on a path that loses the last ACK of
    /// the handshake over and over; it should be rare.
    #[must_use]
    pub fn unaccepted(&self) -> u64 {
        self.book.borrow().unaccepted
    }

    /// Whether nothing was violated so far.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.book.borrow().violation_count == 0
    }

    /// What was violated so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.book.borrow().violations.clone()
    }

    /// The final verdict on all streams: the violations, none when all is well.
    #[must_use]
    pub fn verdict(&self) -> Vec<String> {
        let mut book = self.book.borrow_mut();
        let mut found = Vec::new();
        for (&(local, remote), end) in &book.ends {
            if end.ended.is_none() {
                found.push(format!("{local} -> {remote} never ended"));
            }
        }
        for (&(from, to), direction) in &book.directions {
            let may_fail =
                [(from, to), (to, from)].iter().any(|key| book.ends.get(key).is_none_or(|end| end.may_fail));
            if !may_fail && direction.received != direction.sent {
                let (received, sent) = (direction.received, direction.sent);
                found.push(format!("{from} -> {to}: {received} of {sent} bytes were read"));
            }
        }
        found.into_iter().for_each(|what| book.violation(what));
        if book.violation_count > book.violations.len() {
            let more = format!("... {} violations in all", book.violation_count);
            book.violations.push(more);
        }
        book.violations.clone()
    }
}

impl Book {
    fn direction(&mut self, from: SocketAddr, to: SocketAddr) -> &mut Direction {
        self.directions.entry((canonical(from), canonical(to))).or_default()
    }

    fn violation(&mut self, what: String) {
        self.violation_count += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(what);
        }
    }
}

/// Without scope and flow label, which differ between the two ends' views.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

/// What is wrong with a shard that should be at rest: connections left, buffers not freed. TIME-WAIT is at rest too when
/// `time_wait` allows it.
#[must_use]
pub fn unrest(shard: &Shard, time_wait: bool) -> Option<String> {
    let census = shard.tcp_ref().census();
    let rest = Census { time_wait: if time_wait { census.time_wait } else { 0 }, ..Census::default() };
    if census == rest {
        return None;
    }
    let left: Vec<_> = shard.tcp_ref().connections().take(4).collect();
    Some(format!("{census:?}, for one {left:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple() -> Tuple {
        Tuple { local: "10.0.0.1:80".parse().unwrap(), remote: "10.0.0.2:5000".parse().unwrap() }
    }

    fn mirror(tuple: Tuple) -> Tuple {
        Tuple { local: tuple.remote, remote: tuple.local }
    }

    fn transfer(checker: &Checker, sent: u64, bytes: &[u8]) {
        let (a, b) = (tuple(), mirror(tuple()));
        checker.opened(a, false);
        checker.opened(b, false);
        checker.sent(a, sent);
        checker.closed(a);
        checker.closed(b);
        checker.received(b, Pattern::new(a.local, a.remote), bytes);
        checker.fin(b);
        checker.ended(a, Ok(()));
        checker.ended(b, Ok(()));
    }

    fn pattern(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Pattern::new(tuple().local, tuple().remote).fill(0, &mut bytes);
        bytes
    }

    #[test]
    fn a_whole_transfer_is_clean() {
        let checker = Checker::default();
        transfer(&checker, 1000, &pattern(1000));
        assert_eq!(checker.verdict(), Vec::<String>::new());
    }

    #[test]
    fn missing_doubled_and_exchanged_bytes_are_found() {
        let mut exchanged = pattern(1000);
        exchanged.swap(500, 501);
        let doubled = [pattern(500), pattern(500)].concat();
        for bytes in [pattern(999), pattern(1001), exchanged, doubled] {
            let checker = Checker::default();
            transfer(&checker, 1000, &bytes);
            assert!(!checker.verdict().is_empty());
        }
    }

    #[test]
    fn an_error_is_a_violation_unless_allowed() {
        for may_fail in [false, true] {
            let checker = Checker::default();
            checker.opened(tuple(), may_fail);
            checker.opened(mirror(tuple()), may_fail);
            checker.ended(tuple(), Err(TcpError::ConnectionReset));
            checker.ended(mirror(tuple()), Ok(()));
            assert_eq!(checker.verdict().is_empty(), may_fail);
        }
    }

    #[test]
    fn a_connection_that_was_never_accepted_may_be_lost_and_is_counted() {
        let checker = Checker::default();
        checker.opened(tuple(), false);
        checker.sent(tuple(), 10);
        checker.ended(tuple(), Err(TcpError::ConnectionReset));
        assert_eq!((checker.verdict(), checker.unaccepted()), (Vec::new(), 1));
    }

    #[test]
    fn an_end_that_never_ends_is_found() {
        let checker = Checker::default();
        checker.opened(tuple(), true);
        assert_eq!(checker.verdict().len(), 1);
    }

    #[test]
    fn the_pattern_is_the_same_in_any_pieces() {
        let pattern = Pattern::new(tuple().local, tuple().remote);
        let mut bytes = [0; 100];
        pattern.fill(3, &mut bytes);
        assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == pattern.byte(3 + i as u64)));
        assert_eq!(pattern.mismatch(3, &bytes), None);
        bytes[50] ^= 1;
        assert_eq!(pattern.mismatch(3, &bytes), Some(53));
    }
}
