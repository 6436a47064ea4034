//! A socket's error queue: what became of writes whose sender wants to know (`MSG_ZEROCOPY` with `SO_ZEROCOPY`, and
//! `SO_TIMESTAMPING`), read by `recvmsg` with `MSG_ERRQUEUE`. Zero copy is not what happens here, and the notices say so.

use std::collections::VecDeque;

use bywash::time::Instant;
use libc::c_int;

use crate::sockets::{Object, World};

/// `SOF_TIMESTAMPING_*`.
const TX_SOFTWARE: c_int = 1 << 1;
const REPORT_SOFTWARE: c_int = 1 << 4;
const OPT_ID: c_int = 1 << 7;
const TX_SCHED: c_int = 1 << 8;
const TX_ACK: c_int = 1 << 9;
const OPT_TSONLY: c_int = 1 << 11;
/// All flags that Linux knows.
const TIMESTAMPING_MASK: c_int = (1 << 18) - 1;
/// `SCM_TSTAMP_*`.
const TSTAMP_SND: u32 = 0;
const TSTAMP_SCHED: u32 = 1;
const TSTAMP_ACK: u32 = 2;
/// `SO_EE_ORIGIN_*` and `SO_EE_CODE_ZEROCOPY_COPIED`.
const ORIGIN_TIMESTAMPING: u8 = 4;
const ORIGIN_ZEROCOPY: u8 = 5;
const ZEROCOPY_COPIED: u8 = 1;
/// Notices that wait to be read, and writes that are followed; the newest are dropped beyond it.
const NOTICES_MAX: usize = 4096;

/// What the kernel's `sock_extended_err` says, and when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) errno: c_int,
    pub(crate) origin: u8,
    pub(crate) code: u8,
    pub(crate) info: u32,
    pub(crate) data: u32,
    /// Of timestamps only.
    pub(crate) at: Option<Instant>,
    /// The packet that it is about would come with it.
    pub(crate) truncated: bool,
}

/// A write that is followed: until its last byte is sent, or acknowledged.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// Bytes written up to its end.
    end: u64,
    /// Its number among those with `MSG_ZEROCOPY`.
    zerocopy: Option<u32>,
    /// Flags of `SO_TIMESTAMPING` when it was written, and the number of its last byte.
    timestamping: c_int,
    key: u32,
    sent: bool,
}

/// A socket's notices and what they will come of.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    pub(crate) zerocopy: bool,
    pub(crate) timestamping: c_int,
    /// Bytes written when `SOF_TIMESTAMPING_OPT_ID` was turned on: numbers count from there.
    key_base: u64,
    written: u64,
    next_zerocopy: u32,
    writes: VecDeque<Write>,
    queue: VecDeque<Notice>,
}

impl Notices {
    /// Those of a connection that the socket with these accepts.
    pub(crate) fn inherited(&self) -> Self {
        Self { zerocopy: self.zerocopy, timestamping: self.timestamping, ..Self::default() }
    }

    /// `SO_TIMESTAMPING`; `false`: there are no such flags.
    pub(crate) fn set_timestamping(&mut self, flags: c_int) -> bool {
        if flags & !TIMESTAMPING_MASK != 0 {
            return false;
        }
        if flags & OPT_ID != 0 && self.timestamping & OPT_ID == 0 {
            self.key_base = self.written;
        }
        self.timestamping = flags;
        true
    }

    /// `len` bytes were written by one call.
    pub(crate) fn note_written(&mut self, len: usize, zerocopy: bool) {
        self.written += len as u64;
        let zerocopy = (zerocopy && self.zerocopy && len > 0).then(|| {
            self.next_zerocopy += 1;
            self.next_zerocopy - 1
        });
        let wants_times = self.timestamping & (TX_SOFTWARE | TX_SCHED | TX_ACK) != 0;
        if len > 0 && (zerocopy.is_some() || wants_times) && self.writes.len() < NOTICES_MAX {
            self.writes.push_back(Write {
                end: self.written,
                zerocopy,
                timestamping: self.timestamping,
                key: (self.written - 1).wrapping_sub(self.key_base) as u32,
                sent: false,
            });
        }
    }

    /// `unsent` and `queued` of the bytes written are not sent, and not acknowledged.
    fn progress(&mut self, now: Instant, unsent: u64, queued: u64) {
        let (sent, acked) = (self.written.saturating_sub(unsent), self.written.saturating_sub(queued));
        let mut fresh = Vec::new();
        for write in self.writes.iter_mut().filter(|write| !write.sent && write.end <= sent) {
            write.sent = true;
            for (flag, info) in [(TX_SCHED, TSTAMP_SCHED), (TX_SOFTWARE, TSTAMP_SND)] {
                fresh.extend(write.timestamp(flag, info, now));
            }
        }
        while let Some(write) = self.writes.front().copied().filter(|write| write.end <= acked) {
            self.writes.pop_front();
            fresh.extend(write.timestamp(TX_ACK, TSTAMP_ACK, now));
            if let Some(number) = write.zerocopy {
                self.note_zerocopy(number);
            }
        }
        for notice in fresh {
            self.push(notice);
        }
    }

    /// Numbers in a row are told by one notice.
    fn note_zerocopy(&mut self, number: u32) {
        let last = self.queue.back_mut().filter(|last| last.origin == ORIGIN_ZEROCOPY);
        match last.filter(|last| last.data.wrapping_add(1) == number) {
            Some(last) => last.data = number,
            None => self.push(Notice {
                errno: 0,
                origin: ORIGIN_ZEROCOPY,
                code: ZEROCOPY_COPIED,
                info: number,
                data: number,
                at: None,
                truncated: false,
            }),
        }
    }

    fn push(&mut self, notice: Notice) {
        if self.queue.len() < NOTICES_MAX {
            self.queue.push_back(notice);
        }
    }

    /// The oldest.
    pub(crate) fn take(&mut self) -> Option<Notice> {
        self.queue.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Write {
    fn timestamp(&self, flag: c_int, info: u32, now: Instant) -> Option<Notice> {
        let wanted = self.timestamping & flag != 0 && self.timestamping & REPORT_SOFTWARE != 0;
        wanted.then_some(Notice {
            errno: libc::ENOMSG,
            origin: ORIGIN_TIMESTAMPING,
            code: 0,
            info,
            data: if self.timestamping & OPT_ID != 0 { self.key } else { 0 },
            at: Some(now),
            truncated: self.timestamping & OPT_TSONLY == 0,
        })
    }
}

impl World {
    /// Something happened: what was sent or acknowledged by it gets its notices.
    pub(crate) fn note_progress(&mut self) {
        let (tcp, now) = (&self.stack.tcp, self.stack.now);
        for object in self.objects.values_mut() {
            let Object::Socket(socket) = object else { continue };
            if socket.notices.writes.is_empty() {
                continue;
            }
            let readiness = socket.connection().and_then(|id| tcp.readiness(id).ok());
            // What no connection has any more is done with.
            let (unsent, queued) =
                readiness.map_or((0, 0), |readiness| (readiness.unsent_bytes, readiness.queued_bytes));
            socket.notices.progress(now, unsent as u64, queued as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_one_notice() {
        let mut notices = Notices { zerocopy: true, ..Notices::default() };
        for _ in 0..3 {
            notices.note_written(100, true);
        }
        notices.progress(Instant::ZERO, 0, 150);
        notices.progress(Instant::ZERO, 0, 0);
        let notice = notices.take().unwrap();
        assert_eq!((notice.info, notice.data, notice.code), (0, 2, ZEROCOPY_COPIED));
        assert_eq!(notices.take(), None);
        notices.note_written(100, true);
        notices.note_written(100, false);
        notices.progress(Instant::ZERO, 0, 0);
        assert_eq!(notices.take().map(|notice| (notice.info, notice.data)), Some((3, 3)));
    }

    #[test]
    fn timestamps_tell_the_last_byte_of_a_write_when_it_is_sent_and_acknowledged() {
        let mut notices = Notices::default();
        notices.note_written(10, false);
        assert!(notices.set_timestamping(TX_SCHED | TX_ACK | REPORT_SOFTWARE | OPT_ID));
        notices.note_written(1000, false);
        notices.progress(Instant::from_millis(1), 1, 1000);
        assert!(notices.is_empty());
        notices.progress(Instant::from_millis(2), 0, 1000);
        notices.progress(Instant::from_millis(3), 0, 0);
        let told: Vec<_> = std::iter::from_fn(|| notices.take()).collect();
        let told: Vec<_> = told.iter().map(|notice| (notice.info, notice.data, notice.at)).collect();
        let at = |ms| Some(Instant::from_millis(ms));
        assert_eq!(told, [(TSTAMP_SCHED, 999, at(2)), (TSTAMP_ACK, 999, at(3))]);
        assert!(!notices.set_timestamping(1 << 30));
    }
}
