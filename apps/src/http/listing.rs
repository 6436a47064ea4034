//! Directory listings: a page of links, every name escaped for where it stands.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType};

use super::target::{Target, encode_segment};
use crate::units::bytes_for_people;

/// Most entries on a page; a larger directory is cut there and says so.
const ENTRIES_MAX: usize = 10_000;

/// One line of a listing.
struct Entry {
    name: OsString,
    directory: bool,
    bytes: u64,
}

/// The page for `directory`, which `target` led to. Blocks on the disk: call it off the shard's thread.
///
/// # Errors
/// What the system says of the directory; entries that vanish meanwhile are left out.
pub fn page(directory: &OwnedFd, target: &Target, hidden: bool) -> io::Result<String> {
    let mut entries = Vec::new();
    let mut cut = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." || (!hidden && name.first() == Some(&b'.')) {
            continue;
        }
        // Links are shown as links' own entries; following them is for the request to the name.
        let Ok(status) = rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        cut = entries.len() == ENTRIES_MAX;
        if cut {
            break;
        }
        let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
        let bytes = u64::try_from(status.st_size).unwrap_or(0);
        entries.push(Entry { name: OsString::from_vec(name.to_vec()), directory: is_directory, bytes });
    }
    entries.sort_by(|a, b| b.directory.cmp(&a.directory).then_with(|| a.name.cmp(&b.name)));
    Ok(render(target, &entries, cut))
}

/// The page as HTML.
fn render(target: &Target, entries: &[Entry], cut: bool) -> String {
    let title = escape(&target.display());
    let mut page = format!(
        "<!doctype html>\n<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body><h1>{title}</h1>\n<table>\n"
    );
    if target.directory_url() != "/" {
        page += "<tr><td><a href=\"../\">../</a></td><td></td></tr>\n";
    }
    for entry in entries {
        let slash = if entry.directory { "/" } else { "" };
        let href = escape(&encode_segment(entry.name.as_bytes()));
        let name = escape(&entry.name.to_string_lossy());
        let size = if entry.directory { String::new() } else { bytes_for_people(entry.bytes) };
        // "./" in front: a name with a colon must not read as a scheme (RFC 3986 section 4.2).
        page += &format!(
            "<tr><td><a href=\"./{href}{slash}\">{name}{slash}</a></td><td align=\"right\">{size}</td></tr>\n"
        );
    }
    page += "</table>\n";
    if cut {
        page += &format!("<p>There are more than {ENTRIES_MAX} entries; the rest is not shown.</p>\n");
    }
    page + "</body></html>\n"
}

/// Text for HTML, inside an element or a quoted attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(directory: &std::path::Path, target: &str, hidden: bool) -> String {
        let open = std::fs::File::open(directory).unwrap();
        super::page(&open.into(), &Target::parse(target).unwrap(), hidden).unwrap()
    }

    #[test]
    fn names_are_escaped_sorted_and_directories_come_first() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a b.txt", "<script>\"'&", "x:y", ".hidden"] {
            std::fs::write(directory.path().join(name), "12345").unwrap();
        }
        std::fs::create_dir(directory.path().join("zdir")).unwrap();
        let page = page(directory.path(), "/s<b>/", false);
        assert!(page.contains("<title>/s&lt;b&gt;</title>") && page.contains("href=\"../\""));
        assert!(
            page.contains("href=\"./%3Cscript%3E%22&#39;&amp;\">&lt;script&gt;&quot;&#39;&amp;</a>"),
            "{page}"
        );
        assert!(page.contains("href=\"./a%20b.txt\">a b.txt</a></td><td align=\"right\">5 B<"));
        assert!(page.contains("href=\"./x:y\"") && !page.contains("hidden"));
        let place = |text: &str| page.find(text).unwrap();
        assert!(place("zdir/") < place("a b.txt") && place("a b.txt") < place("b.txt</a>"));
    }

    #[test]
    fn hidden_files_are_shown_on_demand_and_the_root_has_no_parent() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".hidden"), "").unwrap();
        let page = page(directory.path(), "/", true);
        assert!(page.contains(".hidden") && !page.contains("../"));
    }
}
