//! The gate: takes a packet through tables and chains in netfilter's order, with connection tracking and translation between
//! them.
//!
//! ```text
//! received ─ raw PREROUTING ─ track ─ nat PREROUTING ─┬─ filter INPUT ─ nat INPUT ─ confirm ─▶ a local socket
//!            [Gate::arrive]                           │  [Gate::deliver]
//!                                                     └─ filter FORWARD ─ nat POSTROUTING ─ confirm ─▶ the wire
//!                                                        [Gate::forward]
//! a local socket ─ raw OUTPUT ─ track ─ nat OUTPUT ─ filter OUTPUT ─ nat POSTROUTING ─ confirm ─▶ the wire
//!                  [Gate::send]
//! ```
//!
//! The mangle table's chain of each place comes before the others but raw's, and every packet walks it. Of the other tables
//! only the first packet of a flow walks rules; one that belongs to a flow that was let through costs one lookup. ICMP errors
//! about a flow (RELATED) and packets that fit none (INVALID, UNTRACKED) walk each time. Where no rule asks for flows and
//! none translates, nothing is tracked, and only packets that begin something should be shown to the gate.

use core::net::IpAddr;

use super::FlowTuple;
use super::conntrack::{
    Begin, ConfirmError, Conntrack, ConntrackConfig, CtState, Direction, Entry, EntryId, Hit, Place, Taken,
    Tracked,
};
use super::filter::{Facts, Hook, RejectWith, RuleSet, Table, TcpMss, Verdict, Walker};
use super::nat::{self, Endpoint, Filtering, Nat, NatError};
use super::view::{PacketView, Transport};
use crate::config::Cidr;
use crate::counters::DropReason;
use crate::tcp::header::Flags;
use crate::time::Instant;

/// An interface as rules know it.
#[derive(Clone, Copy, Debug)]
pub struct Interface<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address of the packet's IP version, for MASQUERADE and REDIRECT.
    pub address: Option<IpAddr>,
}

/// What the gate is made of.
#[derive(Clone, Debug, Default)]
pub struct GateConfig {
    /// Bounds and timeouts of connection tracking.
    pub conntrack: ConntrackConfig,
    /// Who may send to a mapping.
    pub filtering: Filtering,
}

/// One shard's tables, flows and translations.
pub struct Gate {
    walker: Walker,
    table: Option<Conntrack>,
    nat: Nat,
    config: GateConfig,
    hash_keys: (u64, u64),
    shards: u16,
    /// No rule is for every packet on its way through: see [`Gate::follow`].
    quick: bool,
    /// This host's addresses, with their networks.
    own: Vec<Cidr>,
    /// Flows that have begun, and that have ended, as their replies arrive; where other shards want to know.
    changes: (Vec<FlowTuple>, Vec<FlowTuple>),
}

/// A packet under way through the gate.
#[derive(Debug)]
pub struct Passage {
    view: PacketView,
    state: CtState,
    hit: Option<Hit>,
    begin: Option<Box<Begin>>,
    /// It came from inside to an outside endpoint, to turn back there (RFC 4787 section 6): nobody is looked for behind that yet.
    turns: bool,
    /// Its mark.
    pub mark: u32,
    /// The MSS that a SYN may offer at most, as a rule said.
    pub mss: Option<TcpMss>,
}

/// What the packet becomes on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Its own addresses and ports.
    Packet(FlowTuple),
    /// It is an ICMP error: its addresses, and those of the packet that it quotes.
    Error {
        /// Source and destination of the error.
        addresses: (IpAddr, IpAddr),
        /// Of the quoted packet.
        quoted: FlowTuple,
    },
}

/// Why a packet does not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It is dropped.
    Drop(DropReason),
    /// It is dropped, counted as filtered, and its sender told.
    Reject(RejectWith),
}

impl Gate {
    /// A gate with these rules, for one of `shards` shards. `seed` must be unpredictable on a real network and the same on
    /// all shards; `hash_keys`: [`Conntrack::new`]'s.
    #[must_use]
    pub fn new(
        rules: &RuleSet,
        config: GateConfig,
        seed: [u8; 32],
        hash_keys: (u64, u64),
        shard: u16,
        shards: u16,
        now: Instant,
    ) -> Self {
        let walker = Walker::new(rules, shards);
        let mut gate = Self {
            quick: is_quick(&walker),
            walker,
            table: None,
            nat: Nat::new(config.filtering, seed, shard, shards),
            config,
            hash_keys,
            shards,
            own: Vec::new(),
            changes: Default::default(),
        };
        gate.track_if_needed(now, rules);
        gate
    }

    /// This host has these addresses from now on: what `-m addrtype` asks for.
    pub fn set_addresses(&mut self, own: &[Cidr]) {
        self.own = own.to_vec();
    }

    /// Other rules from now on. Flows that were let through go on, as does their translation.
    pub fn reload(&mut self, now: Instant, rules: &RuleSet) {
        self.walker = Walker::new(rules, self.shards);
        self.quick = is_quick(&self.walker);
        self.track_if_needed(now, rules);
    }

    fn track_if_needed(&mut self, now: Instant, rules: &RuleSet) {
        if rules.needs_tracking() && self.table.is_none() {
            let mut table = Conntrack::new(self.config.conntrack.clone(), self.hash_keys, now);
            if self.shards > 1 {
                table.note_all_ended();
            }
            self.table = Some(table);
        }
    }

    /// The flows, when they are tracked.
    #[must_use]
    pub fn flows(&mut self) -> Option<&mut Conntrack> {
        self.table.as_mut()
    }

    /// The flows, to look at.
    #[must_use]
    pub fn table(&self) -> Option<&Conntrack> {
        self.table.as_ref()
    }

    /// Whether flows are tracked: every packet must be shown to the gate then.
    #[must_use]
    pub fn tracks(&self) -> bool {
        self.table.is_some()
    }

    /// The rules' counts and limits.
    #[must_use]
    pub fn walker(&self) -> &Walker {
        &self.walker
    }

    /// The mappings.
    #[must_use]
    pub fn nat(&self) -> &Nat {
        &self.nat
    }

    // ---- received packets

    /// A packet came in.
    ///
    /// # Errors
    /// It does not pass.
    pub fn arrive(
        &mut self,
        now: Instant,
        view: PacketView,
        from: Interface<'_>,
    ) -> Result<Passage, Refused> {
        let mut passage = self.enter(now, view, Hook::Prerouting, Some(from), None)?;
        self.before_routing(now, &mut passage, from)?;
        Ok(passage)
    }

    /// As [`Gate::arrive`], for a packet from inside to an outside endpoint of somebody's: it is to leave as if its destination were
    /// outside, and then to arrive again from there. Rules may say otherwise.
    ///
    /// # Errors
    /// It does not pass.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        view: PacketView,
        from: Interface<'_>,
    ) -> Result<Passage, Refused> {
        let mut passage = self.enter(now, view, Hook::Prerouting, Some(from), None)?;
        passage.turns = true;
        self.before_routing(now, &mut passage, from)?;
        Ok(passage)
    }

    fn before_routing(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        from: Interface<'_>,
    ) -> Result<(), Refused> {
        self.mangle(now, passage, Hook::Prerouting, Some(from), None)
            .and_then(|()| self.translate(now, passage, Hook::Prerouting, Some(from), None))
            .map_err(|refused| self.refuse(passage, refused))
    }

    /// A packet that arrived goes nowhere: what it would have begun does not begin.
    pub(crate) fn abandon(&mut self, mut passage: Passage) {
        self.refuse(&mut passage, Refused::Drop(DropReason::Filtered));
    }

    /// The flow of a packet that came in, if no rule would be asked about it on its way to another interface: then
    /// [`Gate::follow`] is all that [`Gate::arrive`] and [`Gate::forward`] would do.
    pub(crate) fn known(&self, now: Instant, view: &PacketView) -> Option<(Place, &Entry)> {
        let table = self.table.as_ref().filter(|_| self.quick)?;
        // The first segments of a connection may be changed, and may begin another one.
        if matches!(view.transport, Transport::Tcp(tcp) if tcp.flags.contains(Flags::SYN)) {
            return None;
        }
        let place = table.place_of(view)?;
        let entry = table.at(place).filter(|_| !table.is_over(now, place))?;
        Some((place, entry))
    }

    /// Which of the tenants of its place a flow's entry is.
    pub(crate) fn generation(&self, place: Place) -> u32 {
        self.table.as_ref().map_or(0, |table| table.generation(place))
    }

    /// Takes a packet into account in its flow, which [`Gate::known`] found. `None`: it goes on as the flow does. Else it does
    /// not fit, and has arrived as INVALID.
    pub(crate) fn follow(&mut self, now: Instant, place: Place, view: &PacketView) -> Option<Passage> {
        match self.table.as_mut().map(|table| table.take(now, place, view)) {
            Some(Taken::Known(_)) => None,
            _ => Some(Passage { state: CtState::Invalid, ..Passage::new(*view) }),
        }
    }

    /// As [`Gate::follow`] for a datagram of a flow that [`Gate::known`] found under the same rules, where it changes nothing but the
    /// flow's counts and end; `false`: it may, and nothing happened. `generation`: that of the place then; `len`: of the IP
    /// packet.
    #[inline]
    pub(crate) fn follow_datagram(&mut self, now: Instant, place: Place, generation: u32, len: u32) -> bool {
        self.table.as_mut().is_some_and(|table| table.take_datagram(now, place, generation, len))
    }

    /// It is for this host. Then it is what [`Gate::change`] says.
    ///
    /// # Errors
    /// It does not pass.
    pub fn deliver(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        from: Interface<'_>,
    ) -> Result<Option<Change>, Refused> {
        self.mangle(now, passage, Hook::Input, Some(from), None)
            .and_then(|()| self.filter(now, passage, Hook::Input, Some(from), None))
            .and_then(|()| self.translate(now, passage, Hook::Input, Some(from), None))
            .map(|()| self.leave_to_owner(passage))
            .and_then(|()| self.confirm(now, passage))
            .map_err(|refused| self.refuse(passage, refused))
    }

    /// It goes on by another interface.
    ///
    /// # Errors
    /// It does not pass.
    pub fn forward(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        from: Interface<'_>,
        to: Interface<'_>,
    ) -> Result<Option<Change>, Refused> {
        self.mangle(now, passage, Hook::Forward, Some(from), Some(to))
            .and_then(|()| self.filter(now, passage, Hook::Forward, Some(from), Some(to)))
            .and_then(|()| self.mangle(now, passage, Hook::Postrouting, None, Some(to)))
            .and_then(|()| self.translate(now, passage, Hook::Postrouting, None, Some(to)))
            .and_then(|()| self.confirm(now, passage))
            .map_err(|refused| self.refuse(passage, refused))
    }

    // ---- packets of this host

    /// A packet of this host leaves by `to`.
    ///
    /// # Errors
    /// It does not pass.
    pub fn send(
        &mut self,
        now: Instant,
        view: PacketView,
        to: Interface<'_>,
    ) -> Result<(Passage, Option<Change>), Refused> {
        let mut passage = self.enter(now, view, Hook::Output, None, Some(to))?;
        let passes = self
            .mangle(now, &mut passage, Hook::Output, None, Some(to))
            .and_then(|()| self.translate(now, &mut passage, Hook::Output, None, Some(to)))
            .and_then(|()| self.filter(now, &mut passage, Hook::Output, None, Some(to)))
            .and_then(|()| self.mangle(now, &mut passage, Hook::Postrouting, None, Some(to)))
            .and_then(|()| self.translate(now, &mut passage, Hook::Postrouting, None, Some(to)))
            .and_then(|()| self.confirm(now, &mut passage));
        match passes {
            Ok(change) => Ok((passage, change)),
            Err(refused) => Err(self.refuse(&mut passage, refused)),
        }
    }

    /// An ICMP error of this router about a packet in transit leaves by `to`. It belongs to no flow of the table: it tells of
    /// the packet as it came.
    ///
    /// # Errors
    /// It does not pass.
    pub fn tell(&mut self, now: Instant, view: PacketView, to: Interface<'_>) -> Result<(), Refused> {
        let state = if self.tracks() { CtState::Related } else { CtState::Untracked };
        let mut passage = Passage { state, ..Passage::new(view) };
        for (table, hook) in [
            (Table::Raw, Hook::Output),
            (Table::Mangle, Hook::Output),
            (Table::Filter, Hook::Output),
            (Table::Mangle, Hook::Postrouting),
        ] {
            self.walk(now, &mut passage, table, hook, None, Some(to))?;
        }
        Ok(())
    }

    // ---- other shards

    /// The flows that have begun and those that have ended since the last call, as their replies arrive: where there are
    /// several shards, of which one may have to be told.
    pub fn take_changes(&mut self) -> (Vec<FlowTuple>, Vec<FlowTuple>) {
        core::mem::take(&mut self.changes)
    }

    // ---- time

    /// Ends flows whose time is over.
    pub fn advance(&mut self, now: Instant) {
        if let Some(table) = &mut self.table {
            table.advance(now);
        }
        self.release_ended();
    }

    /// When [`Gate::advance`] is next needed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.table.as_ref()?.next_deadline()
    }

    /// Ends a flow; `false`: it had ended.
    pub fn delete(&mut self, id: EntryId) -> bool {
        let deleted = self.table.as_mut().is_some_and(|table| table.delete(id));
        self.release_ended();
        deleted
    }

    /// Ends the flows that were given `addr` as their source: it is this host's no longer. Looks at all flows.
    pub fn forget_address(&mut self, addr: IpAddr) {
        let Some(table) = &mut self.table else { return };
        let mut found = Vec::new();
        table.list(0, u32::MAX, |id, entry| {
            if entry.is_translated() && entry.reply.dst() == addr {
                found.push(id);
            }
        });
        for id in found {
            table.delete(id);
        }
        self.release_ended();
    }

    // ---- steps

    /// The raw table, then tracking.
    fn enter(
        &mut self,
        now: Instant,
        view: PacketView,
        hook: Hook,
        from: Option<Interface<'_>>,
        to: Option<Interface<'_>>,
    ) -> Result<Passage, Refused> {
        let mut passage = Passage::new(view);
        let untracked = self.walk(now, &mut passage, Table::Raw, hook, from, to)?;
        let Some(table) = self.table.as_mut().filter(|_| !untracked) else { return Ok(passage) };
        match table.track(now, &passage.view) {
            Tracked::Known(hit) => {
                passage.state = hit.state;
                passage.hit = Some(hit);
            }
            Tracked::Begin(begin) => {
                passage.state = CtState::New;
                passage.begin = Some(begin);
            }
            Tracked::Invalid(_) => passage.state = CtState::Invalid,
            Tracked::Untracked => {}
        }
        self.release_ended();
        Ok(passage)
    }

    /// The mangle table, for every packet.
    fn mangle(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        hook: Hook,
        from: Option<Interface<'_>>,
        to: Option<Interface<'_>>,
    ) -> Result<(), Refused> {
        if !self.walker.judges(Table::Mangle, hook) {
            return Ok(());
        }
        self.walk(now, passage, Table::Mangle, hook, from, to).map(|_| ())
    }

    /// The filter table, for what was not let through before.
    fn filter(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        hook: Hook,
        from: Option<Interface<'_>>,
        to: Option<Interface<'_>>,
    ) -> Result<(), Refused> {
        let known = matches!(passage.hit, Some(hit) if hit.state != CtState::Related || !passage.is_error());
        if known {
            return Ok(());
        }
        self.walk(now, passage, Table::Filter, hook, from, to).map(|_| ())
    }

    /// The nat table, for the first packet of a flow.
    fn translate(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        hook: Hook,
        from: Option<Interface<'_>>,
        to: Option<Interface<'_>>,
    ) -> Result<(), Refused> {
        if passage.begin.is_none() {
            return Ok(());
        }
        let (verdict, _) = self.verdict(now, passage, Table::Nat, hook, from, to);
        let (Some(table), Some(begin)) = (&mut self.table, &mut passage.begin) else { return Ok(()) };
        match verdict {
            Verdict::Translate(target) => {
                let here = if hook == Hook::Postrouting { to } else { from.or(to) };
                let address = here.and_then(|interface| interface.address);
                self.nat.set_up(table, begin, &target, hook, address).map_err(refused)
            }
            _ if hook == Hook::Prerouting && !passage.turns => {
                if let Some(inside) = self.nat.inbound(&begin.entry.original) {
                    self.nat.let_in(begin, inside);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What the filtering keeps from a mapping's owner begins no flow here: that would take the endpoint from the owner, whose next
    /// packet to the same host had to show another one (RFC 4787 REQ-1, RFC 5382 REQ-4).
    fn leave_to_owner(&mut self, passage: &mut Passage) {
        let Some(begin) = &passage.begin else { return };
        let original = &begin.entry.original;
        if begin.entry.reply == original.reversed()
            && self.nat.mappings().owner(&Endpoint::destination_of(original)).is_some()
        {
            self.refuse(passage, Refused::Drop(DropReason::Filtered));
        }
    }

    /// The end of the way: a flow that begins exists from now on, and keeps its mapping; what was stopped before refreshes none (RFC
    /// 7857 section 7).
    fn confirm(&mut self, now: Instant, passage: &mut Passage) -> Result<Option<Change>, Refused> {
        if let (Some(begin), Some(table)) = (&mut passage.begin, &mut self.table) {
            self.nat.make_unique(table, begin).map_err(refused)?;
            let Some(begin) = passage.begin.take() else { return Ok(None) };
            let direction = Direction::Original;
            let id = table.confirm(now, begin).map_err(|error| {
                Refused::Drop(match error {
                    ConfirmError::TableFull => DropReason::ConntrackTableFull,
                    ConfirmError::Clash => DropReason::ConntrackClash,
                })
            })?;
            if let Some(entry) = table.get(id) {
                self.nat.keep(entry);
                if self.shards > 1 {
                    self.changes.0.push(entry.reply);
                }
            }
            passage.hit = Some(Hit { id, direction, state: CtState::New });
            self.release_ended();
        }
        Ok(self.change(passage))
    }

    /// RFC 4787 REQ-12b, RFC 5382 REQ-9: so errors are translated, too: what they quote (RFC 5508 REQ-4a, REQ-5a), where they go (RFC
    /// 5508 REQ-4c); their type and code are their own (RFC 5508 REQ-4b, REQ-5b).
    ///
    /// What the packet becomes; `None`: it stays as it is. After PREROUTING, where it goes to; at the end of its way, all of
    /// it.
    #[must_use]
    pub fn change(&self, passage: &Passage) -> Option<Change> {
        if let Some(begin) = &passage.begin {
            let forward = begin.entry.reply.reversed();
            return (forward != passage.view.tuple).then_some(Change::Packet(forward));
        }
        let hit = passage.hit?;
        let entry = self.table.as_ref()?.get(hit.id)?;
        if !passage.is_error() {
            return nat::translated(entry, hit.direction).map(Change::Packet);
        }
        if !entry.is_translated() {
            return None;
        }
        // The error goes against the packet that it is about. Where its sender's side of the flow is known by another
        // address on the other side, so is its sender, be it the flow's end or a router before it (RFC 5508 REQ-5c).
        let (before, after) = (entry.tuple(hit.direction), entry.tuple(hit.direction.other()).reversed());
        let hidden = before.src() != after.src();
        let from = if hidden { after.src() } else { passage.view.tuple.src() };
        Some(Change::Error { addresses: (from, after.dst()), quoted: *entry.tuple(hit.direction.other()) })
    }

    /// The MSS that a SYN may offer at most: a rule said so of it or, where it answers one, of the flow's first packet.
    #[must_use]
    pub fn mss(&self, passage: &Passage) -> Option<TcpMss> {
        let of_flow = || self.table.as_ref()?.get(passage.hit?.id)?.mss;
        passage.mss.or_else(of_flow)
    }

    /// Walks a chain in which nothing is translated; whether the packet is not to be tracked.
    fn walk(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        table: Table,
        hook: Hook,
        from: Option<Interface<'_>>,
        to: Option<Interface<'_>>,
    ) -> Result<bool, Refused> {
        let (verdict, untracked) = self.verdict(now, passage, table, hook, from, to);
        match verdict {
            Verdict::Accept | Verdict::Translate(_) => Ok(untracked),
            Verdict::Drop => Err(Refused::Drop(DropReason::Filtered)),
            Verdict::Reject(with) => Err(Refused::Reject(with)),
        }
    }

    fn verdict(
        &mut self,
        now: Instant,
        passage: &mut Passage,
        table: Table,
        hook: Hook,
        from: Option<Interface<'_>>,
        to: Option<Interface<'_>>,
    ) -> (Verdict, bool) {
        if !self.walker.has_chain(table, hook) {
            return (Verdict::Accept, false);
        }
        let came_as = passage.view.tuple;
        passage.view.tuple = self.as_seen(passage, table, hook);
        let flow = passage
            .hit
            .and_then(|hit| self.table.as_ref()?.get(hit.id))
            .or(passage.begin.as_deref().map(|begin| &begin.entry));
        let (conn_mark, snat, dnat) =
            flow.map_or((0, false, false), |entry| (entry.mark, entry.is_src_nat(), entry.is_dst_nat()));
        let flows = self.table.as_ref();
        let mut facts = Facts {
            view: &passage.view,
            in_interface: from.map(|interface| interface.name),
            out_interface: to.map(|interface| interface.name),
            state: passage.state,
            snat,
            dnat,
            mark: passage.mark,
            conn_mark,
            untracked: false,
            mss: passage.mss,
            flow: flow.map(|entry| (&entry.original, &entry.reply)),
            own: &self.own,
            alive: &mut |tuple| flows.is_some_and(|flows| flows.find(tuple).is_some()),
        };
        let before = facts.mss;
        let verdict = self.walker.walk(now, table, hook, &mut facts);
        let Facts { mark, conn_mark: new_mark, untracked, mss, .. } = facts;
        (passage.mark, passage.mss) = (mark, mss);
        passage.view.tuple = came_as;
        if let Some(begin) = &mut passage.begin
            && table == Table::Filter
            && mss != before
        {
            begin.entry.mss = mss;
        }
        if new_mark != conn_mark {
            match (&mut passage.begin, passage.hit, &mut self.table) {
                (Some(begin), ..) => begin.entry.mark = new_mark,
                (None, Some(hit), Some(table)) => table.set_mark(hit.id, new_mark),
                _ => {}
            }
        }
        (verdict, untracked)
    }

    /// The packet's tuple as a chain's rules see it: what it is by now, once it is routed with its new destination.
    fn as_seen(&self, passage: &Passage, table: Table, hook: Hook) -> FlowTuple {
        let came_as = passage.view.tuple;
        match (table, &passage.begin) {
            (Table::Filter | Table::Nat, Some(begin)) => begin.entry.reply.reversed(),
            (Table::Mangle, _) if !matches!(hook, Hook::Prerouting | Hook::Output) => {
                match self.change(passage) {
                    Some(Change::Packet(to)) => came_as.with_destination(to.dst(), to.dst_port),
                    _ => came_as,
                }
            }
            _ => came_as,
        }
    }

    /// A packet does not pass: the flow that it would have begun does not begin.
    fn refuse(&mut self, passage: &mut Passage, refused: Refused) -> Refused {
        if let (Some(begin), Some(table)) = (passage.begin.take(), &mut self.table) {
            table.give_back(begin);
        }
        refused
    }

    fn release_ended(&mut self) {
        let Some(table) = &mut self.table else { return };
        for entry in table.take_ended() {
            self.nat.release(&entry);
            if self.shards > 1 {
                self.changes.1.push(entry.reply);
            }
        }
    }
}

impl Passage {
    fn new(view: PacketView) -> Self {
        Self { view, state: CtState::Untracked, hit: None, begin: None, turns: false, mark: 0, mss: None }
    }

    /// The packet as it arrived.
    #[must_use]
    pub fn view(&self) -> &PacketView {
        &self.view
    }

    /// What connection tracking says of the packet.
    #[must_use]
    pub fn state(&self) -> CtState {
        self.state
    }

    /// The flow that it belongs to, and which way it goes there, once there is one.
    pub(crate) fn hit(&self) -> Option<Hit> {
        self.hit
    }

    /// The flow that it belongs to, once there is one.
    #[must_use]
    pub fn flow(&self) -> Option<EntryId> {
        self.hit.map(|hit| hit.id)
    }

    fn is_error(&self) -> bool {
        matches!(self.view.transport, Transport::Error { .. })
    }
}

/// Whether no rule looks at the later packets of a flow that goes from one interface to another.
fn is_quick(walker: &Walker) -> bool {
    !walker.judges(Table::Raw, Hook::Prerouting)
        && [Hook::Prerouting, Hook::Forward, Hook::Postrouting]
            .iter()
            .all(|hook| !walker.judges(Table::Mangle, *hook))
}

fn refused(error: NatError) -> Refused {
    Refused::Drop(match error {
        NatError::NoFreePort => DropReason::NatNoFreePort,
        NatError::NoAddress => DropReason::NatNoAddress,
    })
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
