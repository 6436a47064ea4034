//! The Range header (RFC 9110 §14): which bytes of a representation a request asks for, and multipart answers
//! (§14.6). Pure arithmetic on lengths.

use std::ops::Range;

/// Ranges taken from one request; a header with more is ignored, as RFC 9110 §14.2 permits: many small ranges cost the
/// server more than the whole file.
pub const RANGES_MAX: usize = 16;

/// What to send of a representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it, with 200.
    Whole,
    /// These ranges of bytes, with 206: none empty, none beyond the end, in the order asked for.
    Ranges(Vec<Range<u64>>),
    /// No byte asked for exists: 416.
    Unsatisfiable,
}

/// What the value of a Range header selects of `length` bytes.
///
/// A header that is malformed, has another unit than bytes or asks for more than [`RANGES_MAX`] or for overlapping
/// ranges selects everything: RFC 9110 §14.2 lets a server ignore it.
#[must_use]
pub fn select(header: &[u8], length: u64) -> Selection {
    let Some(specs) = std::str::from_utf8(header).ok().and_then(parse) else {
        return Selection::Whole;
    };
    let mut ranges: Vec<Range<u64>> = specs.iter().filter_map(|spec| spec.resolve(length)).collect();
    if ranges.is_empty() {
        return Selection::Unsatisfiable;
    }
    if overlap(&ranges) {
        return Selection::Whole;
    }
    ranges.shrink_to_fit();
    Selection::Ranges(ranges)
}

/// One range-spec as written (RFC 9110 §14.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// `first-` or `first-last`, both included.
    From { first: u64, last: Option<u64> },
    /// `-n`: the last n bytes.
    Suffix(u64),
}

impl Spec {
    /// The bytes it means of `length`; `None` if there is none (RFC 9110 §14.1.2).
    fn resolve(self, length: u64) -> Option<Range<u64>> {
        match self {
            Self::From { first, last } => {
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                (first < end).then_some(first..end)
            }
            Self::Suffix(count) => (count > 0 && length > 0).then_some(length.saturating_sub(count)..length),
        }
    }
}

/// `bytes=0-99,200-,-5`; `None` where the header must or may be ignored.
fn parse(header: &str) -> Option<Vec<Spec>> {
    let (unit, list) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    // RFC 9110 §5.6.1: empty elements of a list are skipped.
    for element in list.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|e| !e.is_empty())
    {
        if specs.len() == RANGES_MAX {
            return None;
        }
        let (first, last) = element.split_once('-')?;
        specs.push(match (first, last) {
            ("", count) => Spec::Suffix(number(count)?),
            (first, "") => Spec::From { first: number(first)?, last: None },
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                Spec::From { first, last: Some(last) }
            }
        });
    }
    if specs.is_empty() { None } else { Some(specs) }
}

/// Digits only; a number beyond 2^64 counts as the largest, since no file is longer.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Whether any two of the ranges share a byte. At most [`RANGES_MAX`] of them.
fn overlap(ranges: &[Range<u64>]) -> bool {
    ranges.iter().enumerate().any(|(index, one)| {
        ranges[..index].iter().any(|other| one.start < other.end && other.start < one.end)
    })
}

/// The value of Content-Range for one range (RFC 9110 §14.4).
#[must_use]
pub fn content_range(range: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// What goes before one part of a multipart/byteranges body (RFC 9110 §14.6).
#[must_use]
pub fn part_head(boundary: &str, content_type: &str, range: &Range<u64>, length: u64, first: bool) -> String {
    let line_break = if first { "" } else { "\r\n" };
    let content_range = content_range(range, length);
    format!(
        "{line_break}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {content_range}\r\n\r\n"
    )
}

/// What goes after the last part.
#[must_use]
pub fn parts_tail(boundary: &str) -> String {
    format!("\r\n--{boundary}--\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(header: &str, length: u64) -> Selection {
        select(header.as_bytes(), length)
    }

    #[test]
    fn the_examples_of_rfc_9110_section_14_1_2_hold() {
        // 10,000 bytes, as there.
        for (header, want) in [
            ("bytes=0-499", 0..500),
            ("bytes=500-999", 500..1000),
            ("bytes=-500", 9500..10_000),
            ("bytes=9500-", 9500..10_000),
            ("bytes=9999-20000", 9999..10_000),
            ("bytes=-20000", 0..10_000),
            ("BYTES = 0-0", 0..1),
        ] {
            assert_eq!(ranges(header, 10_000), Selection::Ranges(vec![want]), "{header}");
        }
        assert_eq!(ranges("bytes=0-0,-1", 10_000), Selection::Ranges(vec![0..1, 9999..10_000]));
        assert_eq!(ranges("bytes= 0-0 ,, 5-6,", 10_000), Selection::Ranges(vec![0..1, 5..7]));
    }

    #[test]
    fn ranges_beyond_the_end_are_dropped_and_none_left_is_416() {
        assert_eq!(ranges("bytes=5-6,20-30,0-0", 10), Selection::Ranges(vec![5..7, 0..1]));
        assert_eq!(ranges("bytes=10-", 10), Selection::Unsatisfiable);
        assert_eq!(ranges("bytes=-0", 10), Selection::Unsatisfiable);
        assert_eq!(ranges("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(ranges("bytes=-5", 0), Selection::Unsatisfiable);
    }

    #[test]
    fn malformed_foreign_overlapping_and_excessive_ranges_are_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=1",
            "bytes=+1-2",
            "bytes=1-2x",
            "bytes=--1",
            "items=0-1",
            "bytes=0-5,5-9",
            "bytes=0-9,-1",
            "bytes=0-1,0-1",
        ] {
            assert_eq!(ranges(header, 10), Selection::Whole, "{header}");
        }
        let many = |count: usize| {
            (0..count).map(|index| format!("{0}-{0}", index * 2)).collect::<Vec<_>>().join(",")
        };
        assert!(matches!(ranges(&format!("bytes={}", many(RANGES_MAX)), 1000), Selection::Ranges(_)));
        assert_eq!(ranges(&format!("bytes={}", many(RANGES_MAX + 1)), 1000), Selection::Whole);
    }

    #[test]
    fn parts_are_framed_as_section_14_6_shows() {
        let mut body = String::new();
        for (index, range) in [0..1, 5..7].iter().enumerate() {
            body += &part_head("XX", "text/plain", range, 10, index == 0);
            body += &"abcdefghij"[range.start as usize..range.end as usize];
        }
        body += &parts_tail("XX");
        assert_eq!(
            body,
            "--XX\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-0/10\r\n\r\na\
             \r\n--XX\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-6/10\r\n\r\nfg\r\n--XX--\r\n"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_header_ranges_are_inside_disjoint_and_not_empty(
            header in prop_oneof![any::<Vec<u8>>(), "bytes=[0-9,\\- ]{0,40}".prop_map(String::into_bytes)],
            length in prop_oneof![0u64..50, any::<u64>()],
        ) {
            if let Selection::Ranges(ranges) = select(&header, length) {
                prop_assert!(!ranges.is_empty() && ranges.len() <= RANGES_MAX && !overlap(&ranges));
                prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= length));
            }
        }
    }
}
