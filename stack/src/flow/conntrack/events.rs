//! What happens to flows, for those who follow it (`bywash ct -E`): a bounded queue between two looks of the runtime, which
//! exists only while somebody follows.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Entry, EntryId};
use crate::limits;

/// Something happened to a flow.
#[derive(Clone, Debug)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The flow.
    pub id: EntryId,
    /// The entry as it was then.
    pub entry: Entry,
}

/// What happened to an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventKind {
    /// It was confirmed.
    New,
    /// It was answered, assured, marked, or its state changed.
    Update,
    /// It ended.
    Destroy,
}

/// The events since the last look, oldest first.
#[derive(Debug, Default)]
pub(super) struct Events {
    queue: VecDeque<Event>,
    /// Further ones, for which there was no room.
    lost: u64,
}

impl Events {
    /// Keeps an event; `false`: it is lost.
    pub(super) fn push(&mut self, kind: EventKind, id: EntryId, entry: &Entry) -> bool {
        let has_room = self.queue.len() < limits::CONNTRACK_EVENTS;
        if has_room {
            self.queue.push_back(Event { kind, id, entry: *entry });
        } else {
            self.lost += 1;
        }
        has_room
    }

    /// Shows and forgets all events; how many were lost.
    pub(super) fn take(&mut self, mut each: impl FnMut(&Event)) -> u64 {
        self.queue.drain(..).for_each(|event| each(&event));
        core::mem::take(&mut self.lost)
    }
}
