//! The upload sink: counts and hashes what arrives and keeps none of it.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::BodyExt;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What arrived.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// From the first byte asked for to the last, in milliseconds.
    pub milliseconds: u64,
}

/// Why an upload ended early.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// More than allowed; the limit.
    #[error("the upload is larger than the {0} bytes that --max-upload allows")]
    TooLarge(u64),
    /// The connection or the chunked coding broke.
    #[error("the upload broke off: {0}")]
    Broken(String),
}

/// Reads a body to its end.
///
/// # Errors
/// As [`SinkError`] says.
pub async fn drain<B>(mut body: B, bytes_max: u64) -> Result<Receipt, SinkError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if body.size_hint().lower() > bytes_max {
        return Err(SinkError::TooLarge(bytes_max));
    }
    let (mut hash, mut bytes, start) = (Sha256::new(), 0u64, Instant::now());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| SinkError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue }; // trailers
        bytes += data.remaining() as u64;
        if bytes > bytes_max {
            return Err(SinkError::TooLarge(bytes_max));
        }
        hash.update(&data);
    }
    Ok(Receipt { bytes, sha256: hex(&hash.finalize()), milliseconds: milliseconds(start.elapsed()) })
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::block_on;
    use http_body_util::{Full, StreamBody};
    use std::convert::Infallible;

    #[test]
    fn the_receipt_has_length_and_hash() {
        let receipt = block_on(drain(Full::new(Bytes::from_static(b"abc")), 3)).unwrap();
        assert_eq!(receipt.bytes, 3);
        // FIPS 180-2, appendix B.1.
        assert_eq!(receipt.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_stated_length_is_refused_at_once_and_an_unstated_one_when_it_passes() {
        let body = Full::new(Bytes::from_static(b"abcd"));
        assert!(matches!(block_on(drain(body, 3)), Err(SinkError::TooLarge(3))));
        let frames = ["ab", "cd"].map(|text| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(text))));
        let body = StreamBody::new(futures_lite::stream::iter(frames));
        assert!(matches!(block_on(drain(body, 3)), Err(SinkError::TooLarge(3))));
    }

    #[test]
    fn a_broken_body_is_told() {
        let frames = [Ok(http_body::Frame::data(Bytes::from("ab"))), Err("cut")];
        let body = StreamBody::new(futures_lite::stream::iter(frames));
        assert!(matches!(block_on(drain(body, 3)), Err(SinkError::Broken(text)) if text == "cut"));
    }
}
