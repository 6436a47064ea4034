//! Lets a stream know bytes again that reach it as plain slices: hyper takes [`Bytes`] from a body, but asks its stream to
//! write borrowed slices of them. A body that notes here what it gives away has it kept in the send buffer as it is, instead
//! of copied.
//!
//! A note is a share of the bytes. While it lives, their memory is nobody else's, so that a slice that lies within them by its
//! address is one of them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use crate::limits;

/// Runs of bytes on their way to one stream, from [`TcpStream::handover`](super::TcpStream::handover). Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Handover(Rc<RefCell<VecDeque<Bytes>>>);

impl Handover {
    /// Notes bytes that are about to be written to the stream, in the order in which they will be. Those that are too short to
    /// be kept are not noted. Of more than [`limits::HANDOVER_RUNS`] the oldest are forgotten, and copied when they are written.
    pub fn note(&self, bytes: &Bytes) {
        if bytes.len() < limits::TCP_BYTES_KEPT_MIN {
            return;
        }
        let mut runs = self.0.borrow_mut();
        if runs.len() == limits::HANDOVER_RUNS {
            runs.pop_front();
        }
        runs.push_back(bytes.clone());
    }

    /// The bytes of `slice`, shared, if it lies in a run that was noted. The runs before it are forgotten.
    pub(super) fn find(&self, slice: &[u8]) -> Option<Bytes> {
        let mut runs = self.0.borrow_mut();
        let place = slice.as_ptr_range();
        let within = |run: &Bytes| {
            let run = run.as_ptr_range();
            run.start <= place.start && place.end <= run.end
        };
        let index = runs.iter().position(within)?;
        runs.drain(..index);
        runs.front().map(|run| run.slice_ref(slice))
    }

    /// All of `slice`, which was found, is written: the run is forgotten if it ends there.
    pub(super) fn written(&self, slice: &[u8]) {
        let end = slice.as_ptr_range().end;
        let mut runs = self.0.borrow_mut();
        if runs.front().is_some_and(|run| run.as_ptr_range().end == end) {
            runs.pop_front();
        }
    }

    /// Runs that were noted and not yet written.
    #[cfg(test)]
    pub(in crate::runtime) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_noted_bytes_is_known_by_its_place_and_nothing_else() {
        let handover = Handover::default();
        let bytes = Bytes::from(vec![7; 5000]);
        handover.note(&bytes);
        let found = handover.find(&bytes[10..50]).unwrap();
        assert_eq!((found.as_ptr(), found.len()), (bytes[10..].as_ptr(), 40));
        assert!(handover.find(&[7; 40]).is_none(), "equal bytes elsewhere");
    }

    #[test]
    fn a_run_is_let_go_when_its_end_is_written() {
        let handover = Handover::default();
        let bytes = Bytes::from(vec![7; 5000]);
        handover.note(&bytes);
        for (slice, left) in [(&bytes[..4000], 1), (&bytes[4000..], 0)] {
            assert!(handover.find(slice).is_some());
            handover.written(slice);
            assert_eq!(handover.len(), left);
        }
        assert!(bytes.is_unique());
    }

    #[test]
    fn short_bytes_are_not_noted() {
        let handover = Handover::default();
        handover.note(&Bytes::from(vec![7; limits::TCP_BYTES_KEPT_MIN - 1]));
        assert_eq!(handover.len(), 0);
    }

    #[test]
    fn runs_before_the_one_found_are_let_go() {
        let handover = Handover::default();
        let [first, second] = [1, 2].map(|byte| Bytes::from(vec![byte; 5000]));
        handover.note(&first);
        handover.note(&second);
        assert!(handover.find(&first).is_some());
        assert!(handover.find(&second[..1]).is_some());
        assert!(first.is_unique() && !second.is_unique());
        assert!(handover.find(&first).is_none());
    }

    #[test]
    fn of_too_many_the_oldest_is_forgotten() {
        let handover = Handover::default();
        let run = |byte| Bytes::from(vec![byte as u8; 5000]);
        let runs: Vec<Bytes> = (0..=limits::HANDOVER_RUNS).map(run).collect();
        runs.iter().for_each(|run| handover.note(run));
        assert!(runs[0].is_unique());
        assert!(handover.find(&runs[1]).is_some());
    }
}
