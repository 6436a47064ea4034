//! What a client remembers of servers (RFC 7413 section 4.1.3): for each pair of addresses the newest cookie, the MSS that
//! goes with it, and whether Fast Open fails on the path (sections 4.2.1, 4.2.2 and 7.1). Bounded; the pair that was not
//! used for longest goes first.

use core::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::FastOpenNews;
use crate::tcp::options::FastOpenOption;
use crate::tcp::table::{List, Slab, TupleKey};
use crate::time::{Duration, Instant};

/// Losses in a row with which a path counts as one that drops Fast Open.
const LOSSES: u8 = 2;
/// The pause doubles this often at most (Linux's bound).
const DOUBLINGS: u8 = 6;
/// Pause after a RST: most likely nobody listens there, but a middlebox that answers Fast Open so must not make every
/// connection fail.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// The memory of one shard.
pub(in crate::tcp) struct ClientCache {
    by_pair: HashTable<u32>,
    hasher: SipHasher13,
    entries: Slab<Entry>,
    /// Used longest ago first.
    used: List,
    max: usize,
    pause: Duration,
}

struct Entry {
    /// The two addresses; the ports are 0.
    pair: TupleKey,
    knowledge: Knowledge,
}

#[derive(Clone, PartialEq, Eq)]
struct Knowledge {
    cookie: Option<FastOpenOption>,
    /// The server's MSS option; 0: unknown.
    mss: u16,
    /// Requests use the experimental option: the server ignored the other.
    experimental: bool,
    /// Requests without a cookie in the answer: the second option is tried once only.
    ignored: bool,
    /// SYNs lost in a row that had the option.
    losses: u8,
    /// No Fast Open before.
    avoid_until: Instant,
}

/// How to open the next connection to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tcp) enum Advice {
    /// With data and this cookie.
    Cookie {
        cookie: FastOpenOption,
        /// The server's MSS; `None`: unknown.
        mss: Option<u16>,
    },
    /// With this request for a cookie.
    Request(FastOpenOption),
    /// Without Fast Open.
    Avoid,
}

/// How a server took an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tcp) enum Report {
    /// It answered.
    Answered {
        /// The cookie in the SYN-ACK.
        cookie: Option<FastOpenOption>,
        /// The MSS option in it.
        mss: Option<u16>,
        /// What our SYN had carried was not taken.
        outcome: Outcome,
    },
    /// With a RST.
    Refused,
    /// Never.
    TimedOut,
}

/// What became of the option in the SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tcp) enum Outcome {
    /// The answer is to the first SYN, or shows that it arrived.
    Arrived,
    /// It arrived, asked for a cookie and got none.
    RequestIgnored {
        /// The request's option was the experimental one.
        experimental: bool,
    },
    /// The SYN had to be sent again, plain, and the answer is to that (section 4.2.2).
    Lost,
}

impl ClientCache {
    /// Remembers `max` pairs. `pause`: how long a path is left alone at first.
    pub(in crate::tcp) fn new(hasher: SipHasher13, max: usize, pause: Duration) -> Self {
        Self { by_pair: HashTable::new(), hasher, entries: Slab::new(), used: List::EMPTY, max, pause }
    }

    /// How to open a connection from `local` to `remote` at `now`.
    pub(in crate::tcp) fn advice(&mut self, now: Instant, local: IpAddr, remote: IpAddr) -> Advice {
        let Some(index) = self.find(&pair(local, remote)) else {
            return Advice::Request(FastOpenOption::request());
        };
        self.touch(index);
        match self.entries.get(index).map(|entry| &entry.knowledge) {
            Some(known) if now < known.avoid_until => Advice::Avoid,
            Some(Knowledge { cookie: Some(cookie), mss, .. }) => {
                Advice::Cookie { cookie: *cookie, mss: (*mss > 0).then_some(*mss) }
            }
            Some(Knowledge { experimental: true, .. }) => {
                Advice::Request(FastOpenOption::request().in_experimental(true))
            }
            _ => Advice::Request(FastOpenOption::request()),
        }
    }

    /// Takes note of how an attempt went; whether that changes how the next is made.
    pub(in crate::tcp) fn note(&mut self, now: Instant, news: &FastOpenNews) -> bool {
        let Some(index) = self.find_or_insert(pair(news.local, news.remote)) else { return false };
        let pause = self.pause;
        let Some(entry) = self.entries.get_mut(index) else { return false };
        let before = entry.knowledge.clone();
        entry.knowledge.take(now, pause, news.report);
        entry.knowledge != before
    }

    /// How many pairs are remembered.
    #[cfg(test)]
    pub(in crate::tcp) fn len(&self) -> usize {
        self.entries.len()
    }

    fn find(&self, pair: &TupleKey) -> Option<u32> {
        let same = |index: &u32| self.entries.get(*index).is_some_and(|entry| entry.pair == *pair);
        self.by_pair.find(self.hasher.hash(&pair.bytes()), same).copied()
    }

    fn find_or_insert(&mut self, pair: TupleKey) -> Option<u32> {
        if let Some(index) = self.find(&pair) {
            self.touch(index);
            return Some(index);
        }
        if self.entries.len() >= self.max {
            self.forget(self.used.front()?);
        }
        let index = self.entries.insert(Entry {
            pair,
            knowledge: Knowledge {
                cookie: None,
                mss: 0,
                experimental: false,
                ignored: false,
                losses: 0,
                avoid_until: Instant::ZERO,
            },
        });
        self.entries.push_back(&mut self.used, index);
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.by_pair.insert_unique(hasher.hash(&pair.bytes()), index, |other| {
            entries.get(*other).map_or(0, |entry| hasher.hash(&entry.pair.bytes()))
        });
        Some(index)
    }

    fn touch(&mut self, index: u32) {
        self.entries.unlink(&mut self.used, index);
        self.entries.push_back(&mut self.used, index);
    }

    fn forget(&mut self, index: u32) {
        let Some(hash) = self.entries.get(index).map(|entry| self.hasher.hash(&entry.pair.bytes())) else {
            return;
        };
        if let Ok(entry) = self.by_pair.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        self.entries.unlink(&mut self.used, index);
        self.entries.remove(index);
    }
}

impl Knowledge {
    fn take(&mut self, now: Instant, pause: Duration, report: Report) {
        match report {
            Report::Answered { cookie, mss, outcome } => {
                self.mss = mss.unwrap_or(self.mss);
                if cookie.is_some() {
                    self.cookie = cookie;
                    self.ignored = false;
                }
                match outcome {
                    Outcome::Lost => self.note_loss(now, pause),
                    Outcome::Arrived => self.losses = 0,
                    Outcome::RequestIgnored { experimental } => {
                        self.losses = 0;
                        self.experimental = !experimental && !self.ignored;
                        self.ignored = true;
                    }
                }
            }
            Report::Refused => self.avoid_until = self.avoid_until.max(now + REFUSED_PAUSE),
            Report::TimedOut => self.note_loss(now, pause),
        }
    }

    /// One loss is congestion; several in a row are the path's dislike of Fast Open.
    /// RFC 7413 section 4.1.3.1.
    fn note_loss(&mut self, now: Instant, pause: Duration) {
        self.losses = self.losses.saturating_add(1);
        if let Some(times) = self.losses.checked_sub(LOSSES) {
            self.avoid_until = now + pause * (1 << times.min(DOUBLINGS));
        }
    }
}

fn pair(local: IpAddr, remote: IpAddr) -> TupleKey {
    TupleKey::new(SocketAddr::new(local, 0), SocketAddr::new(remote, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const LOST: Report = Report::Answered { cookie: None, mss: None, outcome: Outcome::Lost };

    fn cache(max: usize) -> ClientCache {
        ClientCache::new(SipHasher13::new_with_keys(1, 2), max, HOUR)
    }

    fn note(cache: &mut ClientCache, now: Instant, local: u8, remote: u8, report: Report) -> bool {
        cache.note(now, &FastOpenNews { local: ip(local), remote: ip(remote), report })
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn cookie(byte: u8) -> FastOpenOption {
        FastOpenOption::with_cookie(&[byte; 8]).unwrap()
    }

    fn answered(cookie: FastOpenOption, mss: Option<u16>) -> Report {
        Report::Answered { cookie: Some(cookie), mss, outcome: Outcome::Arrived }
    }

    fn ignored(experimental: bool) -> Report {
        Report::Answered { cookie: None, mss: None, outcome: Outcome::RequestIgnored { experimental } }
    }

    #[test]
    fn the_newest_cookie_and_mss_are_kept_for_each_pair_of_addresses() {
        // RFC 7413 section 4.1.3.
        let (mut cache, now) = (cache(8), Instant::ZERO);
        assert_eq!(cache.advice(now, ip(1), ip(2)), Advice::Request(FastOpenOption::request()));
        note(&mut cache, now, 1, 2, answered(cookie(1), Some(1400)));
        note(&mut cache, now, 1, 2, answered(cookie(2), None));
        assert_eq!(cache.advice(now, ip(1), ip(2)), Advice::Cookie { cookie: cookie(2), mss: Some(1400) });
        for (local, remote) in [(3, 2), (1, 3), (2, 1)] {
            assert!(matches!(cache.advice(now, ip(local), ip(remote)), Advice::Request(_)));
        }
    }

    #[test]
    fn the_pair_used_longest_ago_goes_first() {
        let (mut cache, now) = (cache(2), Instant::ZERO);
        note(&mut cache, now, 1, 2, answered(cookie(2), None));
        note(&mut cache, now, 1, 3, answered(cookie(3), None));
        assert!(matches!(cache.advice(now, ip(1), ip(2)), Advice::Cookie { .. }));
        note(&mut cache, now, 1, 4, answered(cookie(4), None));
        assert_eq!(cache.len(), 2);
        assert!(matches!(cache.advice(now, ip(1), ip(3)), Advice::Request(_)));
        assert!(matches!(cache.advice(now, ip(1), ip(2)), Advice::Cookie { .. }));
        assert!(matches!(cache.advice(now, ip(1), ip(4)), Advice::Cookie { .. }));
    }

    #[test]
    fn a_server_that_ignores_one_option_is_asked_by_the_other_once() {
        let (mut cache, now) = (cache(8), Instant::ZERO);
        let experimental = FastOpenOption::request().in_experimental(true);
        note(&mut cache, now, 1, 2, ignored(false));
        assert_eq!(cache.advice(now, ip(1), ip(2)), Advice::Request(experimental));
        note(&mut cache, now, 1, 2, ignored(true));
        assert_eq!(cache.advice(now, ip(1), ip(2)), Advice::Request(FastOpenOption::request()));
        note(&mut cache, now, 1, 2, ignored(false));
        assert_eq!(cache.advice(now, ip(1), ip(2)), Advice::Request(FastOpenOption::request()));
    }

    #[test]
    fn a_path_that_loses_the_option_again_and_again_is_left_alone_ever_longer() {
        // RFC 7413 section 4.1.3.1.
        let mut cache = cache(8);
        let mut now = Instant::ZERO;
        note(&mut cache, now, 1, 2, answered(cookie(1), None));
        note(&mut cache, now, 1, 2, LOST);
        assert!(matches!(cache.advice(now, ip(1), ip(2)), Advice::Cookie { .. }), "one loss is congestion");
        for hours in [1, 2, 4, 8, 16, 32, 64, 64] {
            note(&mut cache, now, 1, 2, LOST);
            let end = now + HOUR * hours;
            assert_eq!(cache.advice(end - Duration::from_nanos(1), ip(1), ip(2)), Advice::Avoid, "{hours}");
            assert!(matches!(cache.advice(end, ip(1), ip(2)), Advice::Cookie { .. }), "{hours}");
            now = end;
        }
        note(&mut cache, now, 1, 2, answered(cookie(1), None));
        note(&mut cache, now, 1, 2, Report::TimedOut);
        assert!(matches!(cache.advice(now, ip(1), ip(2)), Advice::Cookie { .. }), "success forgives");
        assert!(
            matches!(cache.advice(now, ip(1), ip(3)), Advice::Request(_)),
            "other paths are not concerned"
        );
    }

    #[test]
    fn a_refused_attempt_is_followed_by_plain_ones() {
        let (mut cache, now) = (cache(8), Instant::ZERO);
        note(&mut cache, now, 1, 2, answered(cookie(1), None));
        note(&mut cache, now, 1, 2, Report::Refused);
        assert_eq!(cache.advice(now, ip(1), ip(2)), Advice::Avoid);
        assert!(matches!(cache.advice(now + REFUSED_PAUSE, ip(1), ip(2)), Advice::Cookie { .. }));
    }

    #[test]
    fn a_cache_without_room_remembers_nothing() {
        let (mut cache, now) = (cache(0), Instant::ZERO);
        note(&mut cache, now, 1, 2, answered(cookie(1), None));
        assert_eq!(cache.len(), 0);
        assert!(matches!(cache.advice(now, ip(1), ip(2)), Advice::Request(_)));
    }

    #[test]
    fn only_what_changes_the_next_attempt_is_news() {
        let (mut cache, now) = (cache(8), Instant::ZERO);
        assert!(note(&mut cache, now, 1, 2, answered(cookie(1), Some(1400))));
        assert!(!note(&mut cache, now, 1, 2, answered(cookie(1), Some(1400))));
        assert!(note(&mut cache, now, 1, 2, answered(cookie(2), Some(1400))));
        assert!(note(&mut cache, now, 1, 2, LOST));
    }
}
