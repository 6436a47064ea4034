//! What an answer's header says of a representation: worked out once, and for kept files not again.

use std::path::Path;

use hyper::header::HeaderValue;

use super::conditional::{Validators, whole_seconds};

/// The fields that describe a representation.
#[derive(Debug)]
pub struct Description {
    /// Its state, for preconditions.
    pub validators: Validators,
    /// Content-Type (RFC 9110 §8.3).
    pub content_type: HeaderValue,
    /// ETag (§8.8.3).
    pub etag: HeaderValue,
    /// Last-Modified (§8.8.2).
    pub last_modified: Option<HeaderValue>,
}

impl Description {
    /// Of a representation in the state of `validators`.
    ///
    /// # Panics
    /// When `content_type` or the tag are not visible ASCII, as they always are here.
    #[must_use]
    pub fn new(validators: Validators, content_type: &str) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).expect("built from visible ASCII");
        let date = |time| value(&httpdate::fmt_http_date(whole_seconds(time)));
        Self {
            content_type: value(content_type),
            etag: value(&validators.etag),
            last_modified: validators.last_modified.map(date),
            validators,
        }
    }
}

/// The media type that the name suggests; text is taken to be UTF-8.
#[must_use]
pub fn content_type(path: &Path) -> String {
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    if kind.type_() == mime_guess::mime::TEXT { format!("{kind}; charset=utf-8") } else { kind.to_string() }
}
