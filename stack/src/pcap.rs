//! Writes packets as a capture file that tcpdump, tshark and Wireshark read.
//!
//! The classic pcap format (draft-ietf-opsawg-pcap) with nanosecond timestamps, link type Ethernet: what the runtime's
//! `--pcap` and the simulator's replay write. Bytes come from the frames as they were received or given to the driver.

use std::io::{self, Write};

use crate::packet::Packet;
use crate::time::Duration;

/// Bytes kept of one packet; what is longer is cut, and its true length recorded.
pub const SNAP_LENGTH: usize = 65_535;

/// Magic number of a capture with nanosecond timestamps, in the writer's byte order (little endian here).
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const VERSION_MAJOR: u16 = 2;
const VERSION_MINOR: u16 = 4;
const LINKTYPE_ETHERNET: u32 = 1;

/// A capture file being written. Wrap a file in a [`std::io::BufWriter`]: every packet is several small writes.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Writes the file's header to `out`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = [0; 24];
        header[0..4].copy_from_slice(&MAGIC_NANOSECONDS.to_le_bytes());
        header[4..6].copy_from_slice(&VERSION_MAJOR.to_le_bytes());
        header[6..8].copy_from_slice(&VERSION_MINOR.to_le_bytes());
        header[16..20].copy_from_slice(&(SNAP_LENGTH as u32).to_le_bytes());
        header[20..24].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self { out })
    }

    /// Appends `packet`, seen `since_epoch` after 1970-01-01 UTC (in the simulator: after the origin of its time).
    /// Seconds beyond 32 bits (the year 2106) wrap.
    ///
    /// # Errors
    /// Those of the underlying writer.
    pub fn write(&mut self, since_epoch: Duration, packet: &Packet) -> io::Result<()> {
        self.write_header(since_epoch, packet.len())?;
        let mut left = SNAP_LENGTH;
        for bytes in packet.segments() {
            let len = bytes.len().min(left);
            self.out.write_all(&bytes[..len])?;
            left -= len;
        }
        Ok(())
    }

    /// Appends a packet that is one run of bytes, Ethernet header first; as [`Writer::write`] for the rest.
    ///
    /// # Errors
    /// Those of the underlying writer.
    pub fn write_bytes(&mut self, since_epoch: Duration, bytes: &[u8]) -> io::Result<()> {
        self.write_header(since_epoch, bytes.len())?;
        self.out.write_all(&bytes[..bytes.len().min(SNAP_LENGTH)])
    }

    /// Hands what is buffered to the file.
    ///
    /// # Errors
    /// Those of the underlying writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Flushes and gives the underlying writer back.
    ///
    /// # Errors
    /// Those of the underlying writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_header(&mut self, since_epoch: Duration, len: usize) -> io::Result<()> {
        let original = u32::try_from(len).unwrap_or(u32::MAX);
        let kept = len.min(SNAP_LENGTH) as u32;
        let mut header = [0; 16];
        header[0..4].copy_from_slice(&(since_epoch.as_secs() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&since_epoch.subsec_nanos().to_le_bytes());
        header[8..12].copy_from_slice(&kept.to_le_bytes());
        header[12..16].copy_from_slice(&original.to_le_bytes());
        self.out.write_all(&header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{PacketPool, PoolLayout};

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_header_says_nanoseconds_and_ethernet() {
        let file = Writer::new(Vec::new()).unwrap().finish().unwrap();
        assert_eq!(file.len(), 24);
        assert_eq!((word(&file, 0), word(&file, 16), word(&file, 20)), (0xa1b2_3c4d, 65_535, 1));
        assert_eq!(file[4..8], [2, 0, 4, 0]);
    }

    #[test]
    fn a_packet_of_several_frames_is_one_record() {
        let pool = PacketPool::heap(PoolLayout { frames: 4, frame_size: 256, headroom: 64 });
        let bytes: Vec<u8> = (0..600u32).map(|i| i as u8).collect();
        let packet = Packet::copy_from(&pool, &bytes).unwrap();
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.write(Duration::new(1_700_000_000, 123_456_789), &packet).unwrap();
        let file = writer.finish().unwrap();
        assert_eq!((word(&file, 24), word(&file, 28)), (1_700_000_000, 123_456_789));
        assert_eq!((word(&file, 32), word(&file, 36)), (600, 600));
        assert_eq!(file[40..], bytes);
    }

    #[test]
    fn a_packet_beyond_the_snap_length_is_cut_and_its_length_kept() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.write_bytes(Duration::ZERO, &vec![7; SNAP_LENGTH + 14]).unwrap();
        writer.write_bytes(Duration::ZERO, &[8; 60]).unwrap();
        let file = writer.finish().unwrap();
        assert_eq!((word(&file, 32), word(&file, 36)), (65_535, 65_549));
        assert_eq!(file.len(), 24 + 16 + SNAP_LENGTH + 16 + 60);
    }
}
