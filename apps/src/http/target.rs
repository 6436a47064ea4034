//! A request's path (RFC 9110 §7.1, RFC 3986 §3.3): decoded once into plain names, so that nothing behind this file
//! sees a dot segment, an encoded slash or a NUL.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

/// Most names in a path: Linux's own bound on a path is 4096 bytes, and nobody nests deeper.
const SEGMENTS_MAX: usize = 256;

/// What must be encoded in one segment of a path (RFC 3986 §3.3: everything that is no pchar, and `%`).
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A path as names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    segments: Vec<OsString>,
    /// Whether the path ended in a slash: it means a directory.
    pub directory: bool,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// It does not begin with a slash.
    #[error("the request target must be a path beginning with a slash")]
    NotAPath,
    /// `..`, plain or encoded.
    #[error("the path has a `..` segment: resolve it before sending")]
    ParentSegment,
    /// An encoded slash or NUL within a name.
    #[error("the path has an encoded slash or NUL")]
    EncodedSeparator,
    /// Deeper than [`SEGMENTS_MAX`].
    #[error("the path has more than {SEGMENTS_MAX} segments")]
    TooDeep,
}

impl Target {
    /// Decodes a path (without query). Empty and `.` segments mean nothing and are left out.
    ///
    /// # Errors
    /// As [`BadTarget`] says.
    pub fn parse(path: &str) -> Result<Self, BadTarget> {
        let path = path.strip_prefix('/').ok_or(BadTarget::NotAPath)?;
        let mut segments = Vec::new();
        let mut directory = true;
        for segment in path.split('/') {
            let name: Vec<u8> = percent_decode_str(segment).collect();
            directory = matches!(name.as_slice(), b"" | b".");
            if directory {
                continue;
            }
            if name == b".." {
                return Err(BadTarget::ParentSegment);
            }
            if name.contains(&b'/') || name.contains(&0) {
                return Err(BadTarget::EncodedSeparator);
            }
            if segments.len() == SEGMENTS_MAX {
                return Err(BadTarget::TooDeep);
            }
            segments.push(OsString::from_vec(name));
        }
        Ok(Self { segments, directory })
    }

    /// The path below the served directory; `.` for the directory itself.
    #[must_use]
    pub fn file_path(&self) -> PathBuf {
        if self.segments.is_empty() { PathBuf::from(".") } else { self.segments.iter().collect() }
    }

    /// Whether any name begins with a dot.
    #[must_use]
    pub fn hidden(&self) -> bool {
        self.segments.iter().any(|name| name.as_bytes().first() == Some(&b'.'))
    }

    /// The path as a directory's URL: one slash at the beginning and one at the end, everything else encoded.
    #[must_use]
    pub fn directory_url(&self) -> String {
        let mut url = String::from("/");
        for name in &self.segments {
            url += &encode_segment(name.as_bytes());
            url.push('/');
        }
        url
    }

    /// The path decoded for people.
    #[must_use]
    pub fn display(&self) -> String {
        let mut text = String::from("/");
        for (index, name) in self.segments.iter().enumerate() {
            if index > 0 {
                text.push('/');
            }
            text += &name.to_string_lossy();
        }
        text
    }
}

/// A file name as one segment of a URL's path.
#[must_use]
pub fn encode_segment(name: &[u8]) -> String {
    percent_encode(name, SEGMENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Result<PathBuf, BadTarget> {
        Target::parse(text).map(|target| target.file_path())
    }

    #[test]
    fn plain_and_encoded_names_decode() {
        assert_eq!(path("/"), Ok(".".into()));
        assert_eq!(path("/a/b.txt"), Ok("a/b.txt".into()));
        assert_eq!(path("//a///./b"), Ok("a/b".into()));
        assert_eq!(path("/a%20b/%C3%A4"), Ok("a b/ä".into()));
        assert_eq!(path("/100%"), Ok("100%".into()));
        assert_eq!(path("/..."), Ok("...".into()));
    }

    #[test]
    fn traversal_in_every_spelling_is_refused() {
        for text in ["/..", "/../etc/passwd", "/a/../..", "/%2e%2e/x", "/.%2E", "/%2E./", "/a/%2e%2e"] {
            assert_eq!(path(text), Err(BadTarget::ParentSegment), "{text}");
        }
        for text in ["/..%2fetc", "/%2f", "/a%2Fb", "/a%00.txt"] {
            assert_eq!(path(text), Err(BadTarget::EncodedSeparator), "{text}");
        }
        for text in ["", "a", "*", "http://x/", "../x"] {
            assert_eq!(path(text), Err(BadTarget::NotAPath), "{text}");
        }
        assert_eq!(path(&"/a".repeat(SEGMENTS_MAX + 1)), Err(BadTarget::TooDeep));
    }

    #[test]
    fn a_directory_is_told_by_its_slash_and_its_url_has_exactly_two() {
        assert!(Target::parse("/a/").unwrap().directory && Target::parse("/a/.").unwrap().directory);
        assert!(!Target::parse("/a").unwrap().directory);
        assert_eq!(Target::parse("//evil.example").unwrap().directory_url(), "/evil.example/");
        assert_eq!(Target::parse("/a b/<c>%3F").unwrap().directory_url(), "/a%20b/%3Cc%3E%3F/");
    }

    #[test]
    fn dot_files_are_hidden_at_any_depth() {
        assert!(
            Target::parse("/.git/config").unwrap().hidden()
                && Target::parse("/a/%2ehtaccess").unwrap().hidden()
        );
        assert!(!Target::parse("/a.b/c").unwrap().hidden());
    }

    proptest! {
        #[test]
        fn no_path_leaves_its_directory(text in "/(\\.|/|%2e|%2f|%2E|%00|a|%){0,30}") {
            if let Ok(path) = path(&text) {
                let normal = path.components().all(|part| {
                    matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir)
                });
                prop_assert!(normal, "{text} became {path:?}");
            }
        }

        #[test]
        fn an_encoded_name_decodes_to_itself(name in "[^/\u{0}]{1,20}") {
            prop_assume!(name != "." && name != "..");
            let target = Target::parse(&format!("/{}", encode_segment(name.as_bytes()))).unwrap();
            prop_assert_eq!(target.file_path(), PathBuf::from(name));
        }
    }
}
