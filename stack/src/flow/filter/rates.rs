//! The options of `-m limit`, `-m hashlimit` and `-m connlimit`, which make one condition together, wherever in the rule
//! they stand.

use super::options::{Words, number};
use super::parse::{Problem, problem};
use super::rule::{ConnLimit, Family, HashKey, HashLimit, Match, Rate, RateUnit};
use super::words::Word;

/// Default burst of `limit` and `hashlimit`.
pub(super) const BURST: u32 = 5;
/// In what parts of a second Linux keeps the time that a rate gives each event: `limit`, and `hashlimit`.
const LIMIT_SCALE: u64 = 10_000;
const HASH_LIMIT_SCALE: u64 = 1_000_000;

/// What the options have said so far.
pub(super) enum Pending {
    Limit { rate: Option<(u32, RateUnit)>, burst: u32 },
    HashLimit(HashOptions),
    ConnLimit { flows: Option<(u32, bool)>, prefix: Option<u8>, destination: bool },
}

/// Those of `hashlimit`.
#[derive(Default)]
pub(super) struct HashOptions {
    /// The rate, and the unit as it was written; whether it is an upper bound or a lower one.
    rate: Option<((u32, RateUnit), RateUnit, bool)>,
    burst: Option<u32>,
    key: HashKey,
    masks: [Option<u8>; 2],
    name: Option<String>,
    size: Option<u32>,
    entries_max: Option<u32>,
    collect_ms: Option<u32>,
    expire_ms: Option<u32>,
}

impl Pending {
    /// For `-m NAME`, if it is one of these.
    pub(super) fn new(name: &str) -> Option<Self> {
        Some(match name {
            "limit" => Self::Limit { rate: None, burst: BURST },
            "hashlimit" => Self::HashLimit(HashOptions::default()),
            "connlimit" => Self::ConnLimit { flows: None, prefix: None, destination: false },
            _ => return None,
        })
    }

    /// The match that has this option.
    pub(super) fn module(option: &str) -> Option<&'static str> {
        if matches!(option, "--limit" | "--limit-burst") {
            Some("limit")
        } else if option == "--hashlimit" || option.starts_with("--hashlimit-") {
            Some("hashlimit")
        } else {
            option.starts_with("--connlimit-").then_some("connlimit")
        }
    }

    /// Takes an option; whether it may be inverted.
    pub(super) fn option(
        &mut self,
        word: &Word,
        inverted: bool,
        words: &mut Words<'_>,
    ) -> Result<bool, Problem> {
        const RATE: &str = "a rate, such as 3/second";
        let text = word.text.as_str();
        match (self, text) {
            (Self::Limit { rate, .. }, "--limit") => {
                *rate = Some(read_rate(words.value(word, RATE)?, LIMIT_SCALE)?.0);
            }
            (Self::Limit { burst, .. }, "--limit-burst") => {
                *burst = burst_of(words.value(word, "a number")?)?;
            }
            (Self::HashLimit(options), "--hashlimit" | "--hashlimit-upto" | "--hashlimit-above") => {
                let (rate, unit) = read_rate(words.value(word, RATE)?, HASH_LIMIT_SCALE)?;
                options.rate = Some((rate, unit, (text == "--hashlimit-above") != inverted));
                return Ok(true);
            }
            (Self::HashLimit(options), _) => options.option(word, words)?,
            (Self::ConnLimit { flows, .. }, "--connlimit-upto" | "--connlimit-above") => {
                let count = number(words.value(word, "a number")?)?;
                *flows = Some((count, (text == "--connlimit-above") != inverted));
                return Ok(true);
            }
            (Self::ConnLimit { prefix, .. }, "--connlimit-mask") => {
                *prefix = Some(read_prefix(words.value(word, "a prefix length")?)?);
            }
            (Self::ConnLimit { destination, .. }, "--connlimit-saddr") => *destination = false,
            (Self::ConnLimit { destination, .. }, "--connlimit-daddr") => *destination = true,
            _ => return Err(super::matches::unknown(word)),
        }
        Ok(false)
    }

    /// The condition. `name`: where the match was loaded.
    pub(super) fn finish(self, name: u32, family: Family) -> Result<Match, Problem> {
        match self {
            Self::Limit { rate, burst } => {
                // iptables' default.
                let (events, unit) = rate.unwrap_or((3, RateUnit::Hour));
                Ok(Match::Limit(Rate { events, unit, burst }))
            }
            Self::HashLimit(options) => options.finish(name, family),
            Self::ConnLimit { flows, prefix, destination } => {
                let Some((flows, above)) = flows else {
                    return Err(problem(name, "connlimit needs --connlimit-upto or --connlimit-above"));
                };
                let prefix = prefix.filter(|prefix| !is_whole(*prefix, family));
                Ok(Match::ConnLimit(ConnLimit { flows, above, prefix, destination }))
            }
        }
    }
}

impl HashOptions {
    fn option(&mut self, word: &Word, words: &mut Words<'_>) -> Result<(), Problem> {
        match word.text.as_str() {
            "--hashlimit-burst" => self.burst = Some(burst_of(words.value(word, "a number")?)?),
            "--hashlimit-name" => self.name = Some(words.value(word, "a name")?.text.clone()),
            "--hashlimit-mode" => self.key = hash_mode(words.value(word, "srcip, dstip, srcport, dstport")?)?,
            "--hashlimit-srcmask" => {
                self.masks[0] = Some(read_prefix(words.value(word, "a prefix length")?)?);
            }
            "--hashlimit-dstmask" => {
                self.masks[1] = Some(read_prefix(words.value(word, "a prefix length")?)?);
            }
            "--hashlimit-htable-size" => self.size = Some(number(words.value(word, "a number")?)?),
            "--hashlimit-htable-max" => {
                self.entries_max = Some(number(words.value(word, "a number")?)?.max(1));
            }
            "--hashlimit-htable-gcinterval" => {
                self.collect_ms = Some(number(words.value(word, "milliseconds")?)?);
            }
            "--hashlimit-htable-expire" => {
                self.expire_ms = Some(number(words.value(word, "milliseconds")?)?.max(1));
            }
            _ => return Err(super::matches::unknown(word)),
        }
        Ok(())
    }

    fn finish(mut self, name: u32, family: Family) -> Result<Match, Problem> {
        let Some(((events, unit), written, above)) = self.rate else {
            return Err(problem(name, "hashlimit needs --hashlimit-upto or --hashlimit-above"));
        };
        let Some(label) = self.name else { return Err(problem(name, "hashlimit needs --hashlimit-name")) };
        let whole = |mask: Option<u8>| mask.filter(|mask| !is_whole(*mask, family)).unwrap_or(128);
        self.key.source = self.key.source.map(|_| whole(self.masks[0]));
        self.key.destination = self.key.destination.map(|_| whole(self.masks[1]));
        Ok(Match::HashLimit(HashLimit {
            name: label,
            rate: Rate { events, unit, burst: self.burst.unwrap_or(BURST) },
            above,
            key: self.key,
            size: self.size.filter(|size| *size > 0),
            entries_max: self.entries_max,
            collect_ms: self.collect_ms.unwrap_or(HashLimit::COLLECT_MS),
            // Forgotten sooner, a bucket would be full again sooner than its rate says.
            expire_ms: self.expire_ms.unwrap_or(written.seconds() * 1000),
        }))
    }
}

/// Whether a mask leaves out nothing of an address.
fn is_whole(prefix: u8, family: Family) -> bool {
    prefix == 128 || prefix == 32 && family == Family::Ipv4
}

fn burst_of(word: &Word) -> Result<u32, Problem> {
    match number(word)? {
        burst @ 1..=10_000 => Ok(burst),
        _ => Err(problem(word.column, format!("`{}` is no burst: 1 to 10000", word.text))),
    }
}

/// `N/second`, or a beginning of the unit; without a unit, a second. As Linux counts it and iptables-save prints it, in parts of a
/// second of which there are `scale`; and the unit as it was written.
fn read_rate(word: &Word, scale: u64) -> Result<((u32, RateUnit), RateUnit), Problem> {
    let bad = || {
        let reason = if word.text.ends_with("b/s") || word.text.ends_with("b/second") {
            format!(
                "`{}`: bytes are not counted, as rules are asked about a flow's first packet only",
                word.text
            )
        } else {
            format!("`{}` is no rate, such as 3/second, 10/minute, 5/hour or 1/day", word.text)
        };
        problem(word.column, reason)
    };
    let (events, unit) = word.text.split_once('/').unwrap_or((&word.text, "second"));
    let events: u32 = events.parse().map_err(|_| bad())?;
    let unit = RateUnit::ALL
        .into_iter()
        .find(|known| !unit.is_empty() && known.names().0.starts_with(&unit.to_ascii_lowercase()))
        .ok_or_else(bad)?;
    if events == 0 || events > 1_000_000 {
        return Err(problem(
            word.column,
            format!("{events} in a {} is no rate: 1 to 1000000", unit.names().0),
        ));
    }
    Ok((rounded(events, unit, scale), unit))
}

/// A rate as iptables-save prints it: in the shortest unit in which the time between events still gives a number to be
/// trusted.
fn rounded(events: u32, unit: RateUnit, scale: u64) -> (u32, RateUnit) {
    let in_unit = |unit: RateUnit| scale * u64::from(unit.seconds());
    let period = in_unit(unit) / u64::from(events);
    if period == 0 {
        // Faster than Linux can say.
        return (events, unit);
    }
    let is_good = |unit: &RateUnit| {
        let whole = in_unit(*unit);
        period <= whole && whole / period >= whole % period
    };
    let mut best = RateUnit::Day;
    for unit in RateUnit::ALL.into_iter().rev().skip(1) {
        if !is_good(&unit) {
            break;
        }
        best = unit;
    }
    ((in_unit(best) / period) as u32, best)
}

fn hash_mode(word: &Word) -> Result<HashKey, Problem> {
    let mut key = HashKey::default();
    for part in word.text.split(',') {
        match part {
            "srcip" => key.source = Some(128),
            "dstip" => key.destination = Some(128),
            "srcport" => key.source_port = true,
            "dstport" => key.destination_port = true,
            other => {
                return Err(problem(
                    word.column,
                    format!("`{other}` is not srcip, dstip, srcport or dstport"),
                ));
            }
        }
    }
    Ok(key)
}

fn read_prefix(word: &Word) -> Result<u8, Problem> {
    match number(word)? {
        prefix @ 0..=128 => Ok(prefix as u8),
        _ => Err(problem(
            word.column,
            format!("`{}` is no prefix length: 0 to 32, over IPv6 to 128", word.text),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_that_iptables_save_prints() {
        use RateUnit::{Day, Hour, Minute, Second};
        for ((events, unit), printed) in [
            ((60, Minute), (1, Second)),
            ((120, Minute), (2, Second)),
            ((7, Minute), (7, Minute)),
            ((24, Day), (1, Hour)),
            ((100, Hour), (100, Hour)),
            ((3000, Second), (3333, Second)),
            ((10_000, Second), (10_000, Second)),
            ((20_000, Second), (20_000, Second)),
            ((3, Hour), (3, Hour)),
        ] {
            assert_eq!(rounded(events, unit, LIMIT_SCALE), printed, "{events} {unit:?}");
        }
        assert_eq!(rounded(3000, Second, HASH_LIMIT_SCALE), (3003, Second));
    }
}
