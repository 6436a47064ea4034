//! URLs of `bywash get`, and where a redirect leads (RFC 9110 §10.2.2, RFC 3986 §5.2).

use hyper::Uri;

/// Why a URL cannot be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Not a URL.
    #[error("`{0}` is not a URL such as http://192.0.2.1:8080/path")]
    Malformed(String),
    /// Another scheme.
    #[error("`{0}` is not http: TLS and other protocols are not spoken here")]
    Scheme(String),
}

/// The URL that `text` is; without a scheme, http is meant.
pub fn parse(text: &str) -> Result<Uri, LocationError> {
    let malformed = || LocationError::Malformed(text.to_owned());
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let full = full.split('#').next().unwrap_or_default();
    let url: Uri = full.parse().map_err(|_| malformed())?;
    if url.scheme_str() != Some("http") {
        return Err(LocationError::Scheme(url.scheme_str().unwrap_or_default().to_owned()));
    }
    let authority = url.authority().ok_or_else(malformed)?;
    let (host, port) = (authority.host(), authority.port_u16());
    // `port_u16` is none for a port that is no number as well.
    let port_is_bad = port == Some(0) || (port.is_none() && !authority.as_str().ends_with(host));
    if host.is_empty() || host == "[]" || port_is_bad {
        return Err(malformed());
    }
    Ok(url)
}

/// Where a Location field leads from `base`.
pub fn resolve(base: &Uri, reference: &str) -> Result<Uri, LocationError> {
    let reference = reference.split('#').next().unwrap_or_default();
    let scheme_end = reference.find(':').filter(|&end| {
        let scheme = &reference[..end];
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    if let Some(end) = scheme_end {
        return if reference[..end].eq_ignore_ascii_case("http") {
            parse(reference)
        } else {
            Err(LocationError::Scheme(reference[..end].to_owned()))
        };
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return parse(&format!("http://{rest}"));
    }
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let (path, query) =
        reference.split_once('?').map_or((reference, None), |(path, query)| (path, Some(query)));
    let query = match query {
        None if path.is_empty() => base.query(),
        query => query,
    };
    let path = if path.is_empty() {
        base.path().to_owned()
    } else if path.starts_with('/') {
        remove_dot_segments(path)
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        remove_dot_segments(&format!("{folder}/{path}"))
    };
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    parse(&format!("http://{authority}{path}{query}"))
}

/// RFC 3986 §5.2.4, for a path that begins with a slash.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    if directory {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_a_host_and_http() {
        for (text, host, port) in [
            ("http://192.0.2.1/", "192.0.2.1", None),
            ("192.0.2.1:8080/x", "192.0.2.1", Some(8080)),
            ("http://[2001:db8::1]:81/", "[2001:db8::1]", Some(81)),
            ("http://example.org", "example.org", None),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.host(), url.port_u16()), (Some(host), port), "{text}");
        }
        for text in [
            "",
            "http://",
            "http:///x",
            "http://h:0/",
            "http://h:99999/",
            "http://[]/",
            "http://a b/",
            "/path",
        ] {
            assert!(matches!(parse(text), Err(LocationError::Malformed(_))), "{text}");
        }
        assert_eq!(parse("https://h/"), Err(LocationError::Scheme("https".into())));
    }

    #[test]
    fn references_resolve_as_in_rfc_3986_section_5_4() {
        let base = parse("http://a/b/c/d;p?q").unwrap();
        for (reference, want) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g/"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("g#s", "http://a/b/c/g"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("/./g/../h", "http://a/h"),
            ("HTTP://other:81/x", "http://other:81/x"),
        ] {
            assert_eq!(resolve(&base, reference).unwrap().to_string(), want, "{reference}");
        }
        assert_eq!(resolve(&base, "https://a/"), Err(LocationError::Scheme("https".into())));
        assert_eq!(resolve(&base, "javascript:x"), Err(LocationError::Scheme("javascript".into())));
    }
}
