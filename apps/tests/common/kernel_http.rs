//! An HTTP server on the kernel's sockets in a peer's namespace, one thread a connection: what `bywash get` fetches from, and
//! what clients reach through a gateway.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;

use bywash_afxdp::testing::Namespace;
use bywash_apps::http::body::generated_byte;
use sha2::{Digest, Sha256};

/// Length of `/file`.
pub const BYTES: usize = 50_000_000;
/// `/bytes/N` are these again and again. A prime: a misplaced block shows.
const PERIOD: usize = 1_000_003;

/// Serves on port 80 of all the namespace's addresses.
pub fn start(namespace: &Namespace) {
    let listener = namespace.run(|| TcpListener::bind("[::]:80").expect("bind the kernel's TCP"));
    let body: std::sync::Arc<[u8]> = (0..BYTES as u64).map(generated_byte).collect();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let body = body.clone();
            std::thread::spawn(move || answer(stream, &body));
        }
    });
}

fn answer(mut stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut field = line.clone();
        let mut length = 0;
        while field != "\r\n" {
            field.clear();
            reader.read_line(&mut field)?;
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let path = line.split(' ').nth(1).unwrap_or_default();
        if let Some(length) = path.strip_prefix("/bytes/") {
            let length = length.parse().map_err(std::io::Error::other)?;
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
            bytes(length).try_for_each(|piece| stream.write_all(piece))?;
            continue;
        }
        match path {
            "/digest" => {
                let digest = digest_of(&mut Read::take(&mut reader, length))?;
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{digest}", digest.len())?;
            }
            "/file" => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
                stream.write_all(body)?;
            }
            "/small" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsmall\n")?,
            "/moved" => write!(stream, "HTTP/1.1 302 Found\r\nLocation: small\r\nContent-Length: 0\r\n\r\n")?,
            "/loop" => write!(stream, "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n")?,
            "/short" => {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nnot a thousand")?;
                return Ok(());
            }
            "/silent" => drop(stream.read(&mut [0])?),
            _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
}

/// What `/bytes/N` answers, in pieces.
pub fn bytes(length: u64) -> impl Iterator<Item = &'static [u8]> {
    static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..PERIOD).map(|_| next()).collect()
    });
    let mut left = length;
    std::iter::from_fn(move || {
        let piece = left.min(PERIOD as u64);
        left -= piece;
        (piece > 0).then(|| &BLOCK[..piece as usize])
    })
}

/// SHA-256 of all that can be read, in hexadecimal.
pub fn digest_of(from: &mut impl Read) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// SHA-256 of `/bytes/N`.
pub fn digest_of_bytes(length: u64) -> String {
    let mut hash = Sha256::new();
    bytes(length).for_each(|piece| hash.update(piece));
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
