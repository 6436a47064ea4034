//! The control socket's requests about flows (`bywash ct`): listed, deleted, counted in portions, and followed.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Header, Refusal, ask, on_thread, write_line};
use crate::flow::FlowFilter;
use crate::flow::conntrack::EventKind;
use crate::flow::listed::{FlowCounts, FlowEvent, FlowKinds, ListedFlow};
use crate::limits;
use crate::runtime::control::Handle;
use crate::runtime::followers::{Follower, Interest, Losses};
use crate::runtime::local::Local;
use crate::shard::{NotTracked, Shard};
use crate::time;

/// The requests' names.
pub(super) const REQUESTS: [&str; 5] =
    ["flows", "delete-flows", "flush-flows", "count-flows", "follow-flows"];

/// A request about flows.
#[derive(Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    Flows {
        #[serde(default)]
        filter: FlowFilter,
    },
    DeleteFlows {
        #[serde(default)]
        filter: FlowFilter,
    },
    FlushFlows {},
    CountFlows {
        #[serde(default)]
        kinds: bool,
    },
    FollowFlows {
        #[serde(default)]
        filter: FlowFilter,
        #[serde(default = "all_kinds")]
        events: BTreeSet<EventKind>,
    },
}

fn all_kinds() -> BTreeSet<EventKind> {
    [EventKind::New, EventKind::Update, EventKind::Destroy].into()
}

#[derive(Serialize)]
struct FlowLine<'a> {
    shard: usize,
    flow: &'a ListedFlow,
}

#[derive(Serialize)]
struct EventLine<'a> {
    shard: usize,
    #[serde(flatten)]
    event: &'a FlowEvent,
}

/// Lines that have one thing to say.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Word<'a> {
    Counts(&'a FlowCounts),
    Kinds(&'a FlowKinds),
    Following(Answered),
    Lost(u64),
    Alive(bool),
    End(Totals),
}

#[derive(Serialize, Default)]
struct Answered {
    /// Shards that did not answer in time.
    silent_shards: Vec<usize>,
}

#[derive(Serialize, Default)]
struct Totals {
    flows: u64,
    #[serde(flatten)]
    answered: Answered,
}

impl Request {
    /// The request of that name in `line`; `None`: there is none of that name.
    pub(super) fn parse(name: &str, line: &[u8]) -> Option<serde_json::Result<Self>> {
        REQUESTS.contains(&name).then(|| {
            let mut fields: Map<String, Value> = serde_json::from_slice(line)?;
            fields.remove("version");
            serde_json::from_value(fields.into())
        })
    }

    pub(super) fn answer(
        self,
        stream: &UnixStream,
        writer: &mut impl Write,
        handle: &Handle,
    ) -> io::Result<()> {
        if let Some(reason) = untracked(handle) {
            let code = match reason {
                NotTracked::NoRules => "no-rules",
                NotTracked::NotAsked => "not-tracked",
            };
            return write_line(writer, &Refusal::new(code, &reason.to_string()));
        }
        match self {
            Self::Flows { filter } => list(writer, handle, "flows", true, move |stack, now, cursor| {
                stack.list_flows(now, &filter, cursor, limits::LISTING_PLACES)
            }),
            Self::DeleteFlows { filter } => {
                list(writer, handle, "delete-flows", true, move |stack, now, cursor| {
                    stack.delete_flows(now, &filter, cursor, limits::LISTING_PLACES)
                })
            }
            Self::FlushFlows {} => list(writer, handle, "flush-flows", false, |stack, now, cursor| {
                stack.delete_flows(now, &FlowFilter::default(), cursor, limits::LISTING_PLACES)
            }),
            Self::CountFlows { kinds } => count(writer, handle, kinds),
            Self::FollowFlows { filter, events } => {
                // What was asked for before is answered.
                writer.flush()?;
                let mut writer = BufWriter::new(Patient { stream, handle });
                follow(&mut writer, handle, Interest { filter, kinds: events })
            }
        }
    }
}

/// Why no shard tracks flows; `None`: one does, or may.
fn untracked(handle: &Handle) -> Option<NotTracked> {
    let mut reason = None;
    for shard in 0..handle.shards() {
        reason = Some(ask(handle, shard, |stack, _| stack.count_flows())?.err()?);
    }
    reason
}

/// Goes through the flows of all shards in portions, and writes them if they are wanted.
fn list(
    writer: &mut impl Write,
    handle: &Handle,
    answer: &'static str,
    shown: bool,
    portion: impl Fn(&mut Shard, time::Instant, u32) -> Result<(Vec<ListedFlow>, Option<u32>), NotTracked>
    + Clone
    + Send
    + 'static,
) -> io::Result<()> {
    write_line(writer, &Header::new(answer, handle))?;
    let mut totals = Totals::default();
    for shard in 0..handle.shards() {
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let portion = portion.clone();
            let Some(found) = ask(handle, shard, move |stack, now| portion(stack, now, from)) else {
                totals.answered.silent_shards.push(shard);
                break;
            };
            let (flows, next) = found.unwrap_or_default();
            totals.flows += flows.len() as u64;
            for flow in flows.iter().filter(|_| shown) {
                write_line(writer, &FlowLine { shard, flow })?;
            }
            cursor = next;
        }
    }
    write_line(writer, &Word::End(totals))
}

fn count(writer: &mut impl Write, handle: &Handle, wants_kinds: bool) -> io::Result<()> {
    write_line(writer, &Header::new("count-flows", handle))?;
    let (mut counts, mut kinds) = (FlowCounts::default(), FlowKinds::default());
    let mut answered = Answered::default();
    for shard in 0..handle.shards() {
        match ask(handle, shard, |stack, _| stack.count_flows()) {
            Some(of_shard) => {
                let FlowCounts { entries, maximum } = of_shard.unwrap_or_default();
                counts.entries += entries;
                counts.maximum += maximum;
            }
            None => answered.silent_shards.push(shard),
        }
        let mut cursor = wants_kinds.then_some(0);
        while let Some(from) = cursor {
            let found = ask(handle, shard, move |stack, _| stack.flow_kinds(from, limits::LISTING_PLACES));
            let Some(found) = found else {
                if answered.silent_shards.last() != Some(&shard) {
                    answered.silent_shards.push(shard);
                }
                break;
            };
            let (of_portion, next) = found.unwrap_or_default();
            kinds.merge(&of_portion);
            cursor = next;
        }
    }
    write_line(writer, &Word::Counts(&counts))?;
    if wants_kinds {
        write_line(writer, &Word::Kinds(&kinds))?;
    }
    write_line(writer, &Word::End(Totals { flows: counts.entries, answered }))
}

/// Writes what happens to flows until the client or the runtime has gone.
fn follow(writer: &mut impl Write, handle: &Handle, interest: Interest) -> io::Result<()> {
    write_line(writer, &Header::new("follow-flows", handle))?;
    let (follower, events) = Follower::new(interest);
    let mut answered = Answered::default();
    for shard in 0..handle.shards() {
        let follower = follower.clone();
        let added = on_thread(handle, shard, move |local| {
            local.with(|stack, _| local.followers.add(stack, follower)).is_ok()
        });
        if added.is_none() {
            answered.silent_shards.push(shard);
        }
    }
    let losses = follower.losses();
    // The shards' clones alone keep the channel open: it ends with the runtime.
    drop(follower);
    let told = write_line(writer, &Word::Following(answered)).and_then(|()| tell(writer, &events, &losses));
    drop(events);
    for shard in 0..handle.shards() {
        let losses = losses.clone();
        let remove = move |local: &Rc<Local>| {
            let _ = local.with(|stack, _| local.followers.remove(stack, &losses));
        };
        // A shard that takes no command now notices with its next event.
        let _ = handle.try_send(shard, Box::new(remove));
    }
    write_line(writer, &Word::End(Totals { flows: told?, answered: Answered::default() }))?;
    writer.flush()
}

/// Writes events and losses until the runtime has gone; how many events.
fn tell(writer: &mut impl Write, events: &Receiver<(usize, FlowEvent)>, losses: &Losses) -> io::Result<u64> {
    let mut told = 0;
    let mut write_event = |writer: &mut _, (shard, event): (usize, FlowEvent)| {
        told += 1;
        write_line(writer, &EventLine { shard, event: &event })
    };
    let mut heard = Instant::now();
    loop {
        match events.try_recv() {
            Ok(event) => {
                write_event(writer, event)?;
                if heard.elapsed() < limits::FLOW_FOLLOWER_HEARTBEAT {
                    continue;
                }
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
        // Nothing waits, or has not for long.
        let lost = losses.take();
        if lost > 0 {
            write_line(writer, &Word::Lost(lost))?;
        }
        writer.flush()?;
        heard = Instant::now();
        match events.recv_timeout(limits::FLOW_FOLLOWER_HEARTBEAT) {
            Ok(event) => write_event(writer, event)?,
            Err(RecvTimeoutError::Timeout) => write_line(writer, &Word::Alive(true))?,
            Err(RecvTimeoutError::Disconnected) => return Ok(told),
        }
    }
}

/// Waits for a client that does not read (`bywash ct -E | less`) for as long as the runtime runs: it loses events meanwhile,
/// and nobody else does.
struct Patient<'a> {
    stream: &'a UnixStream,
    handle: &'a Handle,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&mut &*self.stream).write(bytes) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                        && !self.handle.is_shutting_down() => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
