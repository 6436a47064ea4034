//! Those who follow a shard's flows (`bywash ct -E`): at the end of a turn each gets the events that it asked for through a
//! bounded channel. Where nobody follows, a turn costs one look at an empty list, and connection tracking keeps no events.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::flow::FlowFilter;
use crate::flow::conntrack::{Event, EventKind};
use crate::flow::listed::{FlowEvent, ListedFlow};
use crate::limits;
use crate::shard::{NotTracked, Shard};
use crate::time::Instant;

/// What a follower wants to hear of.
#[derive(Clone, Debug)]
pub(super) struct Interest {
    pub(super) filter: FlowFilter,
    pub(super) kinds: BTreeSet<EventKind>,
}

/// A follower as all shards know it; its clones are the same one.
#[derive(Clone)]
pub(super) struct Follower {
    interest: Arc<Interest>,
    /// Events with the shard that they are from.
    events: Sender<(usize, FlowEvent)>,
    /// Added to by the shards, emptied by who writes to the follower.
    lost: Arc<AtomicU64>,
}

impl Follower {
    /// A follower, and where it gets its events.
    pub(super) fn new(interest: Interest) -> (Self, Receiver<(usize, FlowEvent)>) {
        let (events, receiver) = crossbeam_channel::bounded(limits::FLOW_FOLLOWER_EVENTS);
        (Self { interest: Arc::new(interest), events, lost: Arc::default() }, receiver)
    }

    /// The count of what it loses.
    pub(super) fn losses(&self) -> Losses {
        Losses(Arc::clone(&self.lost))
    }

    /// Gives it an event that it wants. `false`: it has gone.
    fn tell(&self, shard: usize, now: Instant, event: &Event) -> bool {
        let Interest { filter, kinds } = &*self.interest;
        if !kinds.contains(&event.kind) || !filter.fits(&event.entry) {
            return true;
        }
        let told = FlowEvent { event: event.kind, flow: ListedFlow::new(now, event.id, &event.entry) };
        match self.events.try_send((shard, told)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// How many events a follower has lost; it also tells followers apart.
#[derive(Clone)]
pub(super) struct Losses(Arc<AtomicU64>);

impl Losses {
    /// Those since the last call.
    pub(super) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// The followers of one shard, on its thread.
#[derive(Default)]
pub(super) struct Followers {
    list: RefCell<Vec<Follower>>,
    /// Some, so that a turn looks at nothing else.
    any: Cell<bool>,
}

impl Followers {
    pub(super) fn is_empty(&self) -> bool {
        !self.any.get()
    }

    /// Takes one in: it hears of what happens from now on.
    pub(super) fn add(&self, shard: &mut Shard, follower: Follower) -> Result<(), NotTracked> {
        shard.follow_flows(true)?;
        self.list.borrow_mut().push(follower);
        self.any.set(true);
        Ok(())
    }

    /// Lets one go.
    pub(super) fn remove(&self, shard: &mut Shard, losses: &Losses) {
        self.list.borrow_mut().retain(|follower| !Arc::ptr_eq(&follower.lost, &losses.0));
        self.settle(shard);
    }

    /// Tells all of them what has happened.
    pub(super) fn tell(&self, index: usize, shard: &mut Shard, now: Instant) {
        let mut list = self.list.borrow_mut();
        let lost = shard.take_flow_events(|event| list.retain(|follower| follower.tell(index, now, event)));
        if lost > 0 {
            for follower in list.iter() {
                follower.lost.fetch_add(lost, Ordering::Relaxed);
            }
        }
        drop(list);
        self.settle(shard);
    }

    fn settle(&self, shard: &mut Shard) {
        let any = !self.list.borrow().is_empty();
        if self.any.replace(any) && !any {
            // Without tracking there is nothing to end.
            let _ = shard.follow_flows(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::conntrack::{Conntrack, ConntrackConfig, Tracked};
    use crate::flow::testing::udp;

    fn event() -> Event {
        let view = udp("10.0.0.2:5000", "192.0.2.1:53");
        let mut table = Conntrack::new(ConntrackConfig::default(), (1, 2), Instant::ZERO);
        table.follow(true);
        let Tracked::Begin(begin) = table.track(Instant::ZERO, &view) else { panic!("it begins nothing") };
        table.confirm(Instant::ZERO, begin).unwrap();
        let mut told = None;
        table.take_events(|event| told = Some(event.clone()));
        told.unwrap()
    }

    fn interest(kinds: &[EventKind], filter: FlowFilter) -> Interest {
        Interest { filter, kinds: kinds.iter().copied().collect() }
    }

    #[test]
    fn a_follower_hears_only_what_it_asked_for() {
        let udp = FlowFilter { protocol: Some(17), ..FlowFilter::default() };
        let tcp = FlowFilter { protocol: Some(6), ..FlowFilter::default() };
        for (kinds, filter, heard) in [
            (&[EventKind::New][..], udp.clone(), 1),
            (&[EventKind::Update, EventKind::Destroy], udp, 0),
            (&[EventKind::New], tcp, 0),
        ] {
            let (follower, events) = Follower::new(interest(kinds, filter));
            assert!(follower.tell(3, Instant::ZERO, &event()));
            assert_eq!(events.try_iter().filter(|(shard, _)| *shard == 3).count(), heard);
        }
    }

    #[test]
    fn a_follower_that_is_too_slow_loses_events_and_can_tell_how_many() {
        let (follower, events) = Follower::new(interest(&[EventKind::New], FlowFilter::default()));
        let (losses, event) = (follower.losses(), event());
        for _ in 0..limits::FLOW_FOLLOWER_EVENTS + 3 {
            assert!(follower.tell(0, Instant::ZERO, &event));
        }
        assert_eq!((losses.take(), losses.take()), (3, 0));
        assert_eq!(events.try_iter().count(), limits::FLOW_FOLLOWER_EVENTS);
        drop(events);
        assert!(!follower.tell(0, Instant::ZERO, &event), "it has gone");
    }
}
