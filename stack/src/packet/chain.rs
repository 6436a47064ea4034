//! The frames of a packet behind its first, in order: few packets have any. The list lives in a box that returns to its
//! pool's store when it has become empty, so that in steady state neither long packets nor merged ones allocate.

use std::collections::VecDeque;

use super::pool::Frame;

/// The bytes of one frame that belong to a packet.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) frame: Frame,
    pub(super) start: u16,
    pub(super) len: u16,
    /// Bytes before `start` that are the headers of a packet of its own, which was merged; 0: the frame before goes on here.
    pub(super) headers: u16,
}

impl Segment {
    /// `None` when `start..start + len` is not inside the frame (which has at most 65,535 bytes).
    pub(super) fn new(frame: Frame, start: usize, len: usize) -> Option<Self> {
        let inside = start.checked_add(len).is_some_and(|end| end <= frame.bytes().len());
        inside.then(|| Self { frame, start: start as u16, len: len as u16, headers: 0 })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.frame.bytes()[usize::from(self.start)..][..usize::from(self.len)]
    }

    /// Headers and bytes.
    pub(super) fn whole(&self) -> &[u8] {
        &self.frame.bytes()[usize::from(self.start - self.headers)..][..usize::from(self.headers + self.len)]
    }

    /// With its headers in view again.
    pub(super) fn revealed(self) -> Self {
        let Self { frame, start, len, headers } = self;
        Self { frame, start: start - headers, len: len + headers, headers: 0 }
    }

    /// Cuts it to at most `left` bytes, and takes what it has from `left`.
    pub(super) fn truncate(&mut self, left: &mut usize) {
        self.len = usize::from(self.len).min(*left) as u16;
        *left -= usize::from(self.len);
    }
}

/// The frames behind the first.
#[derive(Debug, Default)]
pub(super) struct Rest(Option<Box<Chain>>);

#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Never empty while it is a packet's.
    segments: VecDeque<Segment>,
    /// How many of them have headers.
    packets: u16,
}

impl Rest {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |chain| chain.segments.len())
    }

    /// How many packets were merged.
    pub(super) fn packets(&self) -> u16 {
        self.0.as_ref().map_or(0, |chain| chain.packets)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.0.iter().flat_map(|chain| &chain.segments)
    }

    #[inline]
    pub(super) fn push_back(&mut self, segment: Segment) {
        let chain = self.0.get_or_insert_with(|| segment.frame.take_chain());
        chain.segments.push_back(segment);
    }

    /// Appends the first frame of a packet whose headers are hidden.
    #[inline]
    pub(super) fn push_packet(&mut self, segment: Segment) {
        let chain = self.0.get_or_insert_with(|| segment.frame.take_chain());
        chain.packets += 1;
        chain.segments.push_back(segment);
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<Segment> {
        let chain = self.0.as_mut()?;
        let segment = chain.segments.pop_front()?;
        chain.packets -= u16::from(segment.headers > 0);
        if chain.segments.is_empty() {
            self.0.take().into_iter().for_each(|chain| segment.frame.return_chain(chain));
        }
        Some(segment)
    }

    /// Cuts what is behind the first `left` bytes; frames at the end without any are freed.
    pub(super) fn truncate(&mut self, mut left: usize) {
        let Some(chain) = &mut self.0 else { return };
        let mut keep = 0;
        for (place, segment) in chain.segments.iter_mut().enumerate() {
            segment.truncate(&mut left);
            if segment.len > 0 {
                keep = place + 1;
            }
        }
        while self.len() > keep {
            self.pop_back();
        }
    }

    fn pop_back(&mut self) {
        let Some(chain) = &mut self.0 else { return };
        let Some(segment) = chain.segments.pop_back() else { return };
        chain.packets -= u16::from(segment.headers > 0);
        if chain.segments.is_empty() {
            self.0.take().into_iter().for_each(|chain| segment.frame.return_chain(chain));
        }
    }
}

/// Gives the frames in order.
impl Iterator for Rest {
    type Item = Segment;

    #[inline]
    fn next(&mut self) -> Option<Segment> {
        self.pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        while !self.is_empty() {
            self.pop_back();
        }
    }
}
