//! What the service answers, request by request, in memory.

use super::super::files::Root;
use super::*;
use futures_lite::future::block_on;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderName, IF_NONE_MATCH, IF_RANGE};
use std::path::Path;

const CONTENT: &[u8] = b"0123456789abcdefghij";

fn site(directory: &Path) -> Site {
    std::fs::create_dir_all(directory.join("sub/deeper")).unwrap();
    std::fs::write(directory.join("index.html"), "<h1>hello</h1>").unwrap();
    std::fs::write(directory.join("file.txt"), CONTENT).unwrap();
    std::fs::write(directory.join("empty.bin"), "").unwrap();
    std::fs::write(directory.join(".secret"), "x").unwrap();
    std::fs::write(directory.join("sub/a b.css"), "body{}").unwrap();
    Site {
        files: Files::new(Root::open(directory).unwrap(), 1 << 20),
        index: "index.html".into(),
        listing: false,
        hidden: false,
        sink: "/sink".into(),
        upload_bytes_max: 10,
        metrics: "/metrics".into(),
        metrics_text: Box::new(|| Box::pin(async { "bywash_up 1\n".into() })),
        boundary_secret: 0xabc,
        boundaries: Cell::new(0),
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn send(
    site: &Site,
    method: Method,
    path: &str,
    fields: &[(HeaderName, &str)],
    body: &'static str,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(name, *value);
    }
    let response = block_on(respond(site, request.body(Full::new(Bytes::from(body))).unwrap()));
    let (parts, body) = response.into_parts();
    let body = block_on(body.collect()).unwrap().to_bytes().to_vec();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

fn get(path: &str, fields: &[(HeaderName, &str)]) -> Answer {
    let directory = tempfile::tempdir().unwrap();
    send(&site(directory.path()), Method::GET, path, fields, "")
}

#[test]
fn a_file_comes_whole_with_type_length_and_validators() {
    let answer = get("/file.txt?query", &[]);
    assert_eq!((answer.status, answer.body.as_slice()), (200, CONTENT));
    assert_eq!(answer.header(CONTENT_TYPE), "text/plain; charset=utf-8");
    assert_eq!(answer.header(CONTENT_LENGTH), "20");
    assert_eq!(answer.header(ACCEPT_RANGES), "bytes");
    assert!(answer.header(ETAG).starts_with('"') && !answer.header(LAST_MODIFIED).is_empty());
    assert!(answer.header(SERVER).starts_with("bywash/"));
    assert_eq!(get("/sub/a%20b.css", &[]).header(CONTENT_TYPE), "text/css; charset=utf-8");
    let empty = get("/empty.bin", &[]);
    assert_eq!((empty.status, empty.header(CONTENT_LENGTH)), (200, "0"));
    assert_eq!(empty.header(CONTENT_TYPE), "application/octet-stream");
}

#[test]
fn head_has_the_header_of_get_and_no_body() {
    let directory = tempfile::tempdir().unwrap();
    let site = site(directory.path());
    let head = send(&site, Method::HEAD, "/file.txt", &[(RANGE, "bytes=0-1")], "");
    assert_eq!((head.status, head.header(CONTENT_LENGTH), head.body.len()), (200, "20", 0));
    let head = send(&site, Method::HEAD, "/nothing", &[], "");
    assert_eq!((head.status, head.body.len()), (404, 0));
}

#[test]
fn one_range_is_206_with_its_place() {
    let answer = get("/file.txt", &[(RANGE, "bytes=2-4")]);
    assert_eq!((answer.status, answer.body.as_slice()), (206, &CONTENT[2..5]));
    assert_eq!(answer.header(CONTENT_RANGE), "bytes 2-4/20");
    assert_eq!(answer.header(CONTENT_LENGTH), "3");
    let answer = get("/file.txt", &[(RANGE, "bytes=-3")]);
    assert_eq!((answer.status, answer.body.as_slice()), (206, b"hij".as_slice()));
}

#[test]
fn several_ranges_are_a_multipart_body_of_the_stated_length() {
    let answer = get("/file.txt", &[(RANGE, "bytes=0-1,18-")]);
    assert_eq!(answer.status, 206);
    let boundary = answer.header(CONTENT_TYPE).strip_prefix("multipart/byteranges; boundary=").unwrap();
    let want = format!(
        "--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 0-1/20\r\n\r\n01\
         \r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes 18-19/20\r\n\r\nij\
         \r\n--{boundary}--\r\n"
    );
    assert_eq!(String::from_utf8(answer.body.clone()).unwrap(), want);
    assert_eq!(answer.header(CONTENT_LENGTH), want.len().to_string());
    assert!(answer.headers.get(CONTENT_RANGE).is_none());
}

#[test]
fn a_range_beyond_the_end_is_416_with_the_length() {
    let answer = get("/file.txt", &[(RANGE, "bytes=20-")]);
    assert_eq!((answer.status, answer.header(CONTENT_RANGE)), (416, "bytes */20"));
}

#[test]
fn if_range_with_another_state_gives_the_whole_file() {
    let etag = {
        let directory = tempfile::tempdir().unwrap();
        let site = site(directory.path());
        let etag = send(&site, Method::GET, "/file.txt", &[], "").header(ETAG).to_owned();
        let fields = [(RANGE, "bytes=0-0"), (IF_RANGE, etag.as_str())];
        assert_eq!(send(&site, Method::GET, "/file.txt", &fields, "").status, 206);
        etag
    };
    assert_eq!(get("/file.txt", &[(RANGE, "bytes=0-0"), (IF_RANGE, &format!("W/{etag}"))]).status, 200);
}

#[test]
fn a_known_state_is_304_without_body_and_length() {
    let directory = tempfile::tempdir().unwrap();
    let site = site(directory.path());
    let etag = send(&site, Method::GET, "/file.txt", &[], "").header(ETAG).to_owned();
    let answer = send(&site, Method::GET, "/file.txt", &[(IF_NONE_MATCH, &etag), (RANGE, "bytes=0-0")], "");
    assert_eq!((answer.status, answer.body.len(), answer.header(ETAG)), (304, 0, etag.as_str()));
    assert!(answer.headers.get(CONTENT_LENGTH).is_none());
}

#[test]
fn directories_redirect_to_their_slash_and_serve_their_index() {
    let answer = get("/sub", &[]);
    assert_eq!((answer.status, answer.header(LOCATION)), (301, "/sub/"));
    assert_eq!(get("//sub//deeper", &[]).header(LOCATION), "/sub/deeper/");
    assert_eq!(get("/", &[]).body, b"<h1>hello</h1>");
    assert_eq!(get("/", &[]).header(CONTENT_TYPE), "text/html; charset=utf-8");
    assert_eq!(get("/sub/", &[]).status, 404);
    assert_eq!(get("/file.txt/", &[]).status, 404);
}

#[test]
fn listings_are_shown_where_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let site = Site { listing: true, ..site(directory.path()) };
    let answer = send(&site, Method::GET, "/sub/", &[], "");
    let page = String::from_utf8(answer.body.clone()).unwrap();
    assert!(answer.status == 200 && page.contains("./a%20b.css") && page.contains("deeper/"), "{page}");
}

#[test]
fn nothing_outside_the_directory_or_hidden_is_served() {
    for path in ["/../Cargo.toml", "/%2e%2e/x", "/sub/..%2f..%2fetc/passwd", "/a%00b"] {
        assert_eq!(get(path, &[]).status, 400, "{path}");
    }
    assert_eq!(get("/.secret", &[]).status, 404);
    let directory = tempfile::tempdir().unwrap();
    let site = Site { hidden: true, ..site(directory.path()) };
    assert_eq!(send(&site, Method::GET, "/.secret", &[], "").status, 200);
}

#[test]
fn uploads_are_measured_and_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let site = site(directory.path());
    for method in [Method::PUT, Method::POST] {
        let answer = send(&site, method, "/sink", &[], "abc");
        assert_eq!(answer.status, 200);
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["bytes"], 3);
        assert_eq!(json["sha256"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
    let answer = send(&site, Method::PUT, "/sink", &[], "more than ten");
    assert_eq!((answer.status, answer.header(CONNECTION)), (413, "close"));
}

#[test]
fn other_methods_are_405_with_what_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let site = site(directory.path());
    let answer = send(&site, Method::DELETE, "/file.txt", &[], "");
    assert_eq!((answer.status, answer.header(ALLOW)), (405, "GET, HEAD, OPTIONS"));
    let answer = send(&site, Method::GET, "/sink", &[], "");
    assert_eq!((answer.status, answer.header(ALLOW)), (405, "OPTIONS, POST, PUT"));
    let answer = send(&site, Method::OPTIONS, "/", &[], "");
    assert_eq!((answer.status, answer.headers.get(CONTENT_LENGTH)), (204, None));
}

#[test]
fn the_counters_and_generated_bytes_have_their_paths() {
    let metrics = get("/metrics", &[]);
    assert_eq!(
        (metrics.body.as_slice(), metrics.header(CACHE_CONTROL)),
        (b"bywash_up 1\n".as_slice(), "no-store")
    );
    let answer = get("/bytes/100000", &[(RANGE, "bytes=70000-70001")]);
    let want = [70_000, 70_001].map(super::super::body::generated_byte);
    assert_eq!((answer.status, answer.body.as_slice()), (206, want.as_slice()));
    assert_eq!(get("/bytes/0", &[]).status, 200);
    assert_eq!(get("/bytes/x", &[]).status, 404);
}
