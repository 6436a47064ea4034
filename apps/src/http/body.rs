//! What an answer carries: fixed bytes and ranges of a source, in order, read piece by piece as hyper asks.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use bywash::runtime::net::Handover;
use futures_lite::FutureExt;
use http_body::{Frame, SizeHint};

use super::files::{OpenFile, Piece};

/// Where ranges come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(OpenFile),
    /// [`generated_byte`] at every offset, this many bytes.
    Generated(u64),
}

impl Source {
    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::File(file) => file.length,
            Self::Generated(length) => *length,
        }
    }
}

/// One stretch of a body.
#[derive(Clone, Debug)]
pub enum Part {
    /// These bytes.
    Bytes(Bytes),
    /// This range of the source.
    Range(Range<u64>),
}

/// A response body.
#[derive(Debug, Default)]
pub struct Body {
    source: Option<Source>,
    parts: VecDeque<Part>,
    reading: Option<blocking::Task<io::Result<Bytes>>>,
    remaining: u64,
    handover: Option<Handover>,
    on_end: Option<EndGuard>,
}

/// Calls back when the body was sent or given up.
pub struct EndGuard(Option<Box<dyn FnOnce()>>);

impl std::fmt::Debug for EndGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndGuard")
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

impl Body {
    /// A body of these parts.
    #[must_use]
    pub fn new(source: Option<Source>, parts: Vec<Part>) -> Self {
        let remaining = parts
            .iter()
            .map(|part| match part {
                Part::Bytes(bytes) => bytes.len() as u64,
                Part::Range(range) => range.end - range.start,
            })
            .sum();
        Self { source, parts: parts.into(), reading: None, remaining, handover: None, on_end: None }
    }

    /// A body of fixed bytes.
    pub fn fixed(bytes: impl Into<Bytes>) -> Self {
        Self::new(None, vec![Part::Bytes(bytes.into())])
    }

    /// Bytes not sent yet.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Notes what it gives away, so that the stream need not copy it.
    #[must_use]
    pub fn handed_over(mut self, handover: Handover) -> Self {
        self.handover = Some(handover);
        self
    }

    /// The frame of `bytes`.
    fn give(&self, bytes: Bytes) -> Frame<Bytes> {
        if let Some(handover) = &self.handover {
            handover.note(&bytes);
        }
        Frame::data(bytes)
    }

    /// Calls `call` when the body is dropped, which hyper does once it was sent or cannot be.
    #[must_use]
    pub fn on_end(mut self, call: impl FnOnce() + 'static) -> Self {
        self.on_end = Some(EndGuard(Some(Box::new(call))));
        self
    }

    /// The next piece of the source within the part in front.
    fn read(&mut self, range: Range<u64>) -> io::Result<Piece> {
        match self.source.as_ref().expect("only bodies with a source have ranges") {
            Source::File(file) => file.read(range.start, range.end - range.start),
            Source::Generated(_) => Ok(Piece::Ready(generated(range))),
        }
    }

    /// Takes what was read off the part in front.
    fn advance(&mut self, piece: Bytes) -> io::Result<Bytes> {
        if piece.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter while it was sent",
            ));
        }
        if let Some(Part::Range(range)) = self.parts.front_mut() {
            range.start += piece.len() as u64;
            if range.is_empty() {
                self.parts.pop_front();
            }
        }
        self.remaining -= piece.len() as u64;
        Ok(piece)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(piece) = reading.poll(context) else { return Poll::Pending };
                self.reading = None;
                let piece = piece.and_then(|piece| self.advance(piece));
                return Poll::Ready(Some(piece.map(|piece| self.give(piece))));
            }
            match self.parts.front_mut() {
                None => return Poll::Ready(None),
                Some(Part::Bytes(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.parts.pop_front();
                    self.remaining -= bytes.len() as u64;
                    if !bytes.is_empty() {
                        return Poll::Ready(Some(Ok(self.give(bytes))));
                    }
                }
                Some(Part::Range(range)) if range.is_empty() => {
                    self.parts.pop_front();
                }
                Some(Part::Range(range)) => {
                    let range = range.clone();
                    match self.read(range) {
                        Ok(Piece::Ready(piece)) => {
                            return Poll::Ready(Some(self.advance(piece).map(|piece| self.give(piece))));
                        }
                        Ok(Piece::Reading(task)) => self.reading = Some(task),
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

/// Period of the generated bytes: a prime, so that no power of two lines up with it and a misplaced block shows.
const GENERATED_PERIOD: usize = 65_521;

/// Two periods of generated bytes: every window of one period within them is contiguous.
static GENERATED: LazyLock<Bytes> =
    LazyLock::new(|| (0..2 * GENERATED_PERIOD as u64).map(generated_byte).collect::<Vec<u8>>().into());

/// The byte at `offset` of `/bytes/N`: the middle bits of a multiplicative hash of the offset's place in the period.
#[must_use]
pub fn generated_byte(offset: u64) -> u8 {
    let place = (offset % GENERATED_PERIOD as u64) as u32;
    (place.wrapping_mul(0x9e37_79b1) >> 13) as u8
}

/// Up to one period of generated bytes from the range's start, without copying.
fn generated(range: Range<u64>) -> Bytes {
    let start = (range.start % GENERATED_PERIOD as u64) as usize;
    let length = (range.end - range.start).min(GENERATED_PERIOD as u64) as usize;
    GENERATED.slice(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use http_body::Body as _;
    use http_body_util::BodyExt;

    fn collect(body: Body) -> io::Result<Vec<u8>> {
        block_on(body.collect()).map(|body| body.to_bytes().to_vec())
    }

    #[test]
    fn parts_come_in_order_and_the_hint_counts_down() {
        let parts =
            vec![Part::Bytes("ab".into()), Part::Range(3..3), Part::Range(5..7), Part::Bytes("z".into())];
        let mut body = Body::new(Some(Source::Generated(10)), parts);
        assert_eq!(body.size_hint().exact(), Some(5));
        block_on(body.frame()).unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(3));
        let rest = collect(body).unwrap();
        assert_eq!(rest, [generated_byte(5), generated_byte(6), b'z']);
    }

    #[test]
    fn generated_bytes_are_the_same_however_they_are_cut() {
        let end = 3 * GENERATED_PERIOD as u64 + 17;
        let whole = collect(Body::new(Some(Source::Generated(end)), vec![Part::Range(0..end)])).unwrap();
        assert_eq!(whole.len() as u64, end);
        assert!(whole.iter().enumerate().all(|(offset, &byte)| byte == generated_byte(offset as u64)));
        let cut = [0..1, 1..65_520, 65_520..65_522, 65_522..end].map(Part::Range).to_vec();
        assert_eq!(collect(Body::new(Some(Source::Generated(end)), cut)).unwrap(), whole);
    }

    #[test]
    fn a_file_that_shrinks_ends_the_body_with_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), "0123456789").unwrap();
        let root = super::super::files::Root::open(directory.path()).unwrap();
        let Ok(super::super::files::Opened::File(file)) = block_on(root.open_path("f".as_ref())) else {
            panic!("not a file")
        };
        std::fs::write(directory.path().join("f"), "01234").unwrap();
        let error = collect(Body::new(Some(Source::File(file)), vec![Part::Range(0..10)])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_end_is_told_once_whether_sent_or_given_up() {
        let ends = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = ends.clone();
        drop(Body::fixed("x").on_end(move || count.set(count.get() + 1)));
        let count = ends.clone();
        collect(Body::fixed("x").on_end(move || count.set(count.get() + 1))).unwrap();
        assert_eq!(ends.get(), 2);
    }
}
