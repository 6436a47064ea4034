//! Conditional requests (RFC 9110 §13): whether what the client has is still right. Pure functions of the header
//! fields and the representation's validators.

use std::time::{Duration, SystemTime};

use hyper::header::{
    HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};

/// What tells one state of a representation from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validators {
    /// A strong entity tag with its quotes (RFC 9110 §8.8.3).
    pub etag: String,
    /// Time of the last change (§8.8.2); HTTP dates have whole seconds.
    pub last_modified: Option<SystemTime>,
}

/// What the preconditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates the preconditions of a GET or HEAD in the order of RFC 9110 §13.2.2 (If-Range is [`range_applies`]).
#[must_use]
pub fn evaluate(headers: &HeaderMap, validators: &Validators) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !etag_listed(headers, &IF_MATCH, &validators.etag, false) {
            return Verdict::Failed;
        }
    } else if let (Some(date), Some(modified)) =
        (date(headers, &IF_UNMODIFIED_SINCE), validators.last_modified)
        && whole_seconds(modified) > date
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if etag_listed(headers, &IF_NONE_MATCH, &validators.etag, true) {
            return Verdict::NotModified;
        }
    } else if let (Some(date), Some(modified)) = (date(headers, &IF_MODIFIED_SINCE), validators.last_modified)
        && whole_seconds(modified) <= date
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether a Range header counts: there is no If-Range, or it names exactly this state (RFC 9110 §13.1.5).
#[must_use]
pub fn range_applies(headers: &HeaderMap, validators: &Validators) -> bool {
    let mut values = headers.get_all(IF_RANGE).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(value), None) => {
            let text = value.to_str().unwrap_or_default().trim();
            if text.starts_with('"') || text.starts_with("W/") {
                text == validators.etag // strong comparison: a weak tag never matches
            } else {
                httpdate::parse_http_date(text)
                    .is_ok_and(|date| validators.last_modified.map(whole_seconds) == Some(date))
            }
        }
        (Some(_), Some(_)) => false,
    }
}

/// Whether the list of entity tags in `name` has `etag`; `*` is every tag (RFC 9110 §13.1.1, §13.1.2).
fn etag_listed(headers: &HeaderMap, name: &HeaderName, etag: &str, weak_comparison: bool) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|list| {
        list.trim() == "*" || etags(list).any(|(weak, tag)| tag == etag && (weak_comparison || !weak))
    })
}

/// The entity tags of a list, each with whether it is weak. Stops at what is none (RFC 9110 §8.8.3).
fn etags(list: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
        let length = tag.strip_prefix('"')?.find('"')? + 2;
        let (tag, after) = tag.split_at(length);
        rest = after;
        Some((weak, tag))
    })
}

/// The date of a header; a malformed date or a repeated header counts as none (RFC 9110 §13.1.3, §13.1.4).
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    httpdate::parse_http_date(value.to_str().ok()?).ok()
}

/// The time as an HTTP date can say it.
#[must_use]
pub fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn validators() -> Validators {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        Validators { etag: "\"abc\"".into(), last_modified: Some(modified) }
    }
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn verdict(fields: &[(HeaderName, &str)]) -> Verdict {
        evaluate(&headers(fields), &validators())
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn if_none_match_compares_weakly_and_hides_the_date() {
        for list in ["\"abc\"", "*", "\"x\", W/\"abc\"", "W/\"y\",\"abc\""] {
            assert_eq!(verdict(&[(IF_NONE_MATCH, list)]), Verdict::NotModified, "{list}");
        }
        for list in ["\"x\"", "abc", "", "\"abc"] {
            let fields = [(IF_NONE_MATCH, list), (IF_MODIFIED_SINCE, LATER)];
            assert_eq!(verdict(&fields), Verdict::Proceed, "{list}");
        }
    }

    #[test]
    fn if_modified_since_compares_whole_seconds() {
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, SAME)]), Verdict::NotModified);
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, LATER)]), Verdict::NotModified);
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, EARLIER)]), Verdict::Proceed);
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, "yesterday")]), Verdict::Proceed);
    }

    #[test]
    fn if_match_compares_strongly_and_hides_if_unmodified_since() {
        assert_eq!(verdict(&[(IF_MATCH, "\"abc\""), (IF_UNMODIFIED_SINCE, EARLIER)]), Verdict::Proceed);
        assert_eq!(verdict(&[(IF_MATCH, "*")]), Verdict::Proceed);
        assert_eq!(verdict(&[(IF_MATCH, "W/\"abc\"")]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "\"abc\"")]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_UNMODIFIED_SINCE, EARLIER)]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_UNMODIFIED_SINCE, SAME)]), Verdict::Proceed);
    }

    #[test]
    fn if_range_takes_only_the_exact_state() {
        for (value, want) in [
            ("\"abc\"", true),
            ("W/\"abc\"", false),
            ("\"x\"", false),
            (SAME, true),
            (LATER, false),
            (EARLIER, false),
            ("junk", false),
        ] {
            assert_eq!(range_applies(&headers(&[(IF_RANGE, value)]), &validators()), want, "{value}");
        }
        assert!(range_applies(&HeaderMap::new(), &validators()));
        let mut twice = headers(&[(IF_RANGE, "\"abc\"")]);
        twice.append(IF_RANGE, HeaderValue::from_static("\"abc\""));
        assert!(!range_applies(&twice, &validators()));
    }
}
