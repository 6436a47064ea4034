//! Writes bytes into a packet, over as many frames as they need, and sums them on the way.

use super::checksum::Sum;
use super::packet::Packet;
use super::pool::{Frame, PacketPool};

/// Appends bytes to a packet. Further frames begin at the pool's headroom, where drivers want the bytes.
pub(crate) struct Writer<'a> {
    pool: &'a PacketPool,
    packet: Packet,
    /// The frame being filled behind the first, and up to where.
    tail: Option<(Frame, usize)>,
}

impl<'a> Writer<'a> {
    /// Writes behind what `packet`, which is in one frame of `pool`, has.
    pub(crate) fn new(pool: &'a PacketPool, packet: Packet) -> Self {
        Self { pool, packet, tail: None }
    }

    /// Appends `bytes` and adds them to `sum`; `None` when the pool is empty.
    pub(crate) fn write(&mut self, mut bytes: &[u8], sum: &mut Sum) -> Option<()> {
        while !bytes.is_empty() {
            let room = match &self.tail {
                None => self.packet.tailroom(),
                Some((frame, used)) => frame.layout().frame_size as usize - used,
            };
            if room == 0 {
                self.next_frame()?;
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            match &mut self.tail {
                None => sum.copy_and_add(self.packet.append(now.len())?, now),
                Some((frame, used)) => {
                    sum.copy_and_add(&mut frame.bytes_mut()[*used..][..now.len()], now);
                    *used += now.len();
                }
            }
            bytes = later;
        }
        Some(())
    }

    /// The packet with all that was written.
    pub(crate) fn finish(mut self) -> Option<Packet> {
        self.finish_tail()?;
        Some(self.packet)
    }

    fn next_frame(&mut self) -> Option<()> {
        let frame = self.pool.alloc()?;
        let start = frame.layout().headroom as usize;
        self.finish_tail()?;
        self.tail = Some((frame, start));
        Some(())
    }

    fn finish_tail(&mut self) -> Option<()> {
        let Some((frame, used)) = self.tail.take() else { return Some(()) };
        let start = frame.layout().headroom as usize;
        self.packet.push_frame(frame, start, used - start)
    }
}
