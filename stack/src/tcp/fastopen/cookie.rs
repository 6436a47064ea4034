//! The server's cookies (RFC 7413 section 4.1.2): a keyed hash of the client's address, so that only a client that receives
//! at its address can show one. Keys follow from the stack's secret, so that every shard makes the same cookies, or are
//! given by the operator, so that several servers behind one address do (section 6.3.4). With the operator's keys cookies are
//! Linux's, so that those servers need not all be of one kind.

use core::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::tcp::config::FastOpenKeys;
use crate::tcp::isn::derive;
use crate::tcp::options::FastOpenOption;
use crate::time::{Duration, Instant};

/// What a cookie is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tcp) enum Validity {
    /// Made with the key of today.
    Current,
    /// Made with the key before it: good, but a new one should be sent.
    Old,
    /// Not ours, not this client's, or expired.
    Invalid,
}

/// Whom a cookie is for, and whose it is.
#[derive(Clone, Copy, Debug)]
pub(in crate::tcp) struct Ends {
    pub(in crate::tcp) client: IpAddr,
    pub(in crate::tcp) server: IpAddr,
}

/// Makes and checks cookies.
pub(in crate::tcp) struct CookieMaker {
    keys: Keys,
}

enum Keys {
    /// A new key every `lifetime`, derived from the stack's secret.
    Rotating { secret: SipHasher24, lifetime: Duration },
    /// The operator's.
    Given { primary: SipHasher24, backup: Option<SipHasher24> },
}

impl CookieMaker {
    pub(in crate::tcp) fn new(seed: &[u8; 32], lifetime: Duration, given: Option<&FastOpenKeys>) -> Self {
        let keys = match given {
            Some(keys) => Keys::Given {
                primary: SipHasher24::new_with_key(&keys.primary),
                backup: keys.backup.as_ref().map(SipHasher24::new_with_key),
            },
            None => Keys::Rotating { secret: derive(seed, b"fast open cookie"), lifetime },
        };
        Self { keys }
    }

    /// `GetCookie` of section 4.1.2.
    pub(in crate::tcp) fn cookie(&self, now: Instant, ends: Ends) -> FastOpenOption {
        let cookie = match &self.keys {
            Keys::Rotating { secret, lifetime } => hash(secret, epoch(now, *lifetime), ends.client),
            Keys::Given { primary, .. } => linux_hash(primary, ends),
        };
        FastOpenOption::with_cookie(&cookie.to_be_bytes()).unwrap_or_default()
    }

    /// `IsCookieValid` of section 4.1.2.
    pub(in crate::tcp) fn check(&self, now: Instant, ends: Ends, cookie: &[u8]) -> Validity {
        let Ok(cookie) = cookie.try_into().map(u64::from_be_bytes) else { return Validity::Invalid };
        let (current, old) = match &self.keys {
            Keys::Rotating { secret, lifetime } => {
                let epoch = epoch(now, *lifetime);
                (
                    hash(secret, epoch, ends.client),
                    epoch.checked_sub(1).map(|old| hash(secret, old, ends.client)),
                )
            }
            Keys::Given { primary, backup } => {
                (linux_hash(primary, ends), backup.as_ref().map(|backup| linux_hash(backup, ends)))
            }
        };
        if cookie == current {
            Validity::Current
        } else if old == Some(cookie) {
            Validity::Old
        } else {
            Validity::Invalid
        }
    }
}

/// Which key is in use. The hash of the number with the secret stands for a key of its own.
fn epoch(now: Instant, lifetime: Duration) -> u64 {
    (u128::from(now.as_nanos()) / lifetime.as_nanos().max(1)) as u64
}

fn hash(key: &SipHasher24, epoch: u64, client: IpAddr) -> u64 {
    let mut bytes = [0; 8 + 1 + 16];
    bytes[..8].copy_from_slice(&epoch.to_be_bytes());
    match client {
        IpAddr::V4(ip) => {
            bytes[8] = 4;
            bytes[9..13].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[8] = 6;
            bytes[9..].copy_from_slice(&ip.octets());
        }
    }
    key.hash(&bytes)
}

/// What Linux makes cookies of: both addresses. Its bytes are the hash's in little-endian order.
fn linux_hash(key: &SipHasher24, ends: Ends) -> u64 {
    let mut bytes = [0; 32];
    let len = match (ends.client, ends.server) {
        (IpAddr::V4(client), IpAddr::V4(server)) => {
            bytes[..4].copy_from_slice(&client.octets());
            bytes[4..8].copy_from_slice(&server.octets());
            8
        }
        (client, server) => {
            for (place, ip) in bytes.chunks_exact_mut(16).zip([client, server]) {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                place.copy_from_slice(&ip.octets());
            }
            32
        }
    };
    key.hash(&bytes[..len]).swap_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ip(client: &str) -> Ends {
        Ends { client: client.parse().unwrap(), server: "198.51.100.1".parse().unwrap() }
    }

    #[test]
    fn given_keys_make_linuxs_cookies() {
        let mut primary = [0; 16];
        for (place, byte) in primary.chunks_exact_mut(4).zip([0xa1, 0xb2, 0xc3, 0xd4]) {
            place.fill(byte);
        }
        let maker = CookieMaker::new(&[7; 32], HOUR, Some(&FastOpenKeys { primary, backup: None }));
        for (client, server, cookie) in [
            ("192.0.2.1", "192.168.0.1", 0x3021_b9d8_8901_7eeb_u64),
            ("fd3d:fa7b:d17d::1", "fd3d:a0b:17d6::1", 0xc1d1_e974_2a47_a9bc),
        ] {
            let ends = Ends { client: client.parse().unwrap(), server: server.parse().unwrap() };
            assert_eq!(maker.cookie(Instant::ZERO, ends).cookie(), cookie.to_be_bytes());
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_client_only() {
        let maker = CookieMaker::new(&[7; 32], HOUR, None);
        let cookie = maker.cookie(Instant::ZERO, ip("192.0.2.1"));
        assert_eq!(cookie.cookie().len(), 8);
        assert_eq!(maker.check(Instant::ZERO, ip("192.0.2.1"), cookie.cookie()), Validity::Current);
        for other in ["192.0.2.2", "2001:db8::1", "::c000:201"] {
            assert_eq!(maker.check(Instant::ZERO, ip(other), cookie.cookie()), Validity::Invalid, "{other}");
        }
    }

    #[test]
    fn every_shard_makes_the_same_cookie_and_another_stack_does_not() {
        let cookie = |seed| CookieMaker::new(&[seed; 32], HOUR, None).cookie(Instant::ZERO, ip("192.0.2.1"));
        assert_eq!(cookie(1), cookie(1));
        assert_ne!(cookie(1), cookie(2));
    }

    #[test]
    fn a_cookie_is_good_for_two_keys_and_then_expires() {
        let maker = CookieMaker::new(&[7; 32], HOUR, None);
        let client = ip("2001:db8::1");
        let cookie = maker.cookie(Instant::from_millis(10), client);
        let check = |at| maker.check(at, client, cookie.cookie());
        assert_eq!(check(Instant::ZERO + HOUR - Duration::from_nanos(1)), Validity::Current);
        assert_eq!(check(Instant::ZERO + HOUR), Validity::Old);
        assert_eq!(check(Instant::ZERO + HOUR * 2 - Duration::from_nanos(1)), Validity::Old);
        assert_eq!(check(Instant::ZERO + HOUR * 2), Validity::Invalid);
    }

    #[test]
    fn given_keys_make_the_same_cookies_on_every_server_and_the_backup_stays_valid() {
        let keys = |primary, backup: Option<u8>| FastOpenKeys {
            primary: [primary; 16],
            backup: backup.map(|backup| [backup; 16]),
        };
        let before = CookieMaker::new(&[1; 32], HOUR, Some(&keys(1, None)));
        let after = CookieMaker::new(&[2; 32], HOUR, Some(&keys(2, Some(1))));
        let client = ip("192.0.2.1");
        let cookie = before.cookie(Instant::ZERO, client);
        assert_eq!(after.check(Instant::ZERO, client, cookie.cookie()), Validity::Old);
        let cookie = after.cookie(Instant::ZERO, client);
        assert_eq!(after.check(Instant::ZERO + HOUR * 100, client, cookie.cookie()), Validity::Current);
        assert_eq!(before.check(Instant::ZERO, client, cookie.cookie()), Validity::Invalid);
    }

    #[test]
    fn a_cookie_of_another_length_is_not_ours() {
        let maker = CookieMaker::new(&[7; 32], HOUR, None);
        let client = ip("192.0.2.1");
        let cookie = maker.cookie(Instant::ZERO, client);
        for cookie in [&cookie.cookie()[..4], &[cookie.cookie(), &[0; 8]].concat(), &[]] {
            assert_eq!(maker.check(Instant::ZERO, client, cookie), Validity::Invalid);
        }
    }
}
