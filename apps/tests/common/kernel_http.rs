//! An HTTP server on the kernel's sockets in the peer's namespace, one thread a connection: what `bywash get` fetches from.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use bywash_apps::http::body::generated_byte;

use super::Bed;

/// Length of `/file`.
pub const BYTES: usize = 50_000_000;

/// Serves on port 80 of all addresses of the peer's.
pub fn start(bed: &Bed) {
    let listener = bed.peer().run(|| TcpListener::bind("[::]:80").expect("bind the kernel's TCP"));
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
        while field != "\r\n" {
            field.clear();
            reader.read_line(&mut field)?;
        }
        match line.split(' ').nth(1).unwrap_or_default() {
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
