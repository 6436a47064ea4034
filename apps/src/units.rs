//! Durations, sizes and lists as people write them on a command line or in a configuration file, and figures as people
//! read them. Used by clap's value parsers, so every error says what would have been right.

use std::time::Duration;

/// Longest duration taken: a century. Anything longer means "for ever" and is a slip more often than a wish.
const DURATION_SECONDS_MAX: f64 = 100.0 * 365.25 * 86_400.0;

/// A duration: `90`, `1.5s`, `250ms`, `40us`, `2m`, `1h`, `5d`; a bare number is seconds.
///
/// # Errors
/// Text that is none of these.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{unit}` is no unit of time; use us, ms, s, m, h or d, as in 250ms")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is not a duration such as 250ms, 10s or 2m"))?;
    let seconds = number * factor;
    if seconds > DURATION_SECONDS_MAX {
        return Err(format!("{text} is more than a century"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A number of bytes: `1500`, `64k`, `16M`, `1G` (powers of 1024; `KiB`, `MiB`, `GiB` mean the same).
///
/// # Errors
/// Text that is none of these, or more than 2^63 bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("`{unit}` is no unit of size; use k, M, G or T, as in 64k")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("`{text}` is not a size such as 1500, 64k or 16M"))?;
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes <= 1 << 63)
        .ok_or_else(|| format!("{text} is more than 2^63 bytes"))
}

/// A size that fits the machine's address space.
///
/// # Errors
/// As [`size`].
pub fn size_usize(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("{text} is too large for this machine"))
}

/// Which of a NIC's queues to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueSet {
    /// Every receive queue that the NIC has.
    All,
    /// These, in this order, without repetition.
    Some(Vec<u32>),
}

impl std::str::FromStr for QueueSet {
    type Err = String;

    /// `all`, `0`, `0,1`, `0-3`, `0,2-5`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        index_list(text, QUEUES_MAX).map(Self::Some)
    }
}

/// Highest queue number taken plus one: the XDP socket map's size is of this order, no NIC has more.
const QUEUES_MAX: u32 = 1024;
/// Highest CPU number taken plus one: Linux's `CPU_SETSIZE` is 1024, kernels are built for at most 8192.
const CPUS_MAX: u32 = 8192;

/// CPU numbers: `0,1`, `2-5`.
///
/// # Errors
/// Text that is no such list.
pub fn cpu_list(text: &str) -> Result<CpuList, String> {
    index_list(text, CPUS_MAX).map(|cpus| CpuList(cpus.into_iter().map(|cpu| cpu as usize).collect()))
}

/// CPUs to pin threads to, in the queues' order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// Numbers below `max` and ranges of them, in the order written.
fn index_list(text: &str, max: u32) -> Result<Vec<u32>, String> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let parse = |number: &str| {
            number
                .trim()
                .parse::<u32>()
                .ok()
                .filter(|&number| number < max)
                .ok_or_else(|| format!("`{number}` is not a number below {max}; say, for example, 0,2-3"))
        };
        let (first, last) = (parse(first)?, parse(last)?);
        if first > last {
            return Err(format!("`{part}` runs backwards"));
        }
        for index in first..=last {
            if list.contains(&index) {
                return Err(format!("{index} is in `{text}` twice"));
            }
            list.push(index);
        }
    }
    Ok(list)
}

/// Bytes for people: `832 B`, `1.5 kB`, `104.9 MB` (powers of 1000, as disks and networks are sold).
#[must_use]
pub fn bytes_for_people(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_every_unit_and_refuse_the_rest() {
        for (text, want) in [
            ("90", Duration::from_secs(90)),
            ("1.5s", Duration::from_millis(1500)),
            ("250ms", Duration::from_millis(250)),
            ("40us", Duration::from_micros(40)),
            ("2m", Duration::from_secs(120)),
            ("0", Duration::ZERO),
            ("1h", Duration::from_secs(3600)),
            ("5d", Duration::from_secs(432_000)),
        ] {
            assert_eq!(duration(text), Ok(want), "{text}");
        }
        for text in ["", "s", "1.2.3s", "5 s", "-1s", "1y", "99999999999999h", "NaN", "inf"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_and_do_not_overflow() {
        for (text, want) in [("0", 0), ("1500", 1500), ("64k", 65_536), ("16MiB", 16 << 20), ("2G", 2 << 30)]
        {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for text in ["", "k", "1.5k", "-1", "10x", "99999999999T", "16777216T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn queue_sets_are_all_or_distinct_numbers() {
        assert_eq!("all".parse(), Ok(QueueSet::All));
        assert_eq!("0".parse(), Ok(QueueSet::Some(vec![0])));
        assert_eq!("3,0-1".parse(), Ok(QueueSet::Some(vec![3, 0, 1])));
        for text in ["", "a", "1,", "2-1", "0,0", "0-2,1", "1024", "-1"] {
            assert!(text.parse::<QueueSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_shown_with_one_decimal() {
        for (bytes, want) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (104_857_600, "104.9 MB")]
        {
            assert_eq!(bytes_for_people(bytes), want);
        }
        assert_eq!(bytes_for_people(u64::MAX), "18.4 EB");
    }
}
