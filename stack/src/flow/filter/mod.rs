//! The filter: rules in iptables' words, walked by the first packet of a flow in the chains that its way leads through.
//!
//! A text of rules ([`RuleSet::parse`], the format of iptables-save, and single `iptables` lines) becomes a [`RuleSet`]; every
//! word that is not understood is refused with file, line, column and reason, and nothing of the text is used then.
//! [`Walker`] is one shard's use of a rule set: it counts, and has the state of limits.

mod advice;
mod conntrack;
mod error;
mod head;
mod icmp;
mod limit;
mod link;
mod matches;
mod names;
mod options;
mod parse;
mod print;
mod rates;
mod rule;
mod set;
mod targets;
mod walk;
mod words;

#[cfg(test)]
mod tests;

pub use error::RuleError;
pub use rule::{
    Condition, ConnLimit, ConnMark, CtEnd, Family, HashKey, HashLimit, Hook, InterfaceName, Match, Module,
    NatTarget, Ports, Random, Rate, RateUnit, RejectWith, Rule, StateSet, Table, Target, TcpMss, TypeSet,
};
pub use set::AddressSet;
pub use walk::{Facts, Verdict, Walker};

use std::collections::BTreeMap;

/// Rules, checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuleSet {
    /// Tables that the text names.
    tables: BTreeMap<Table, Vec<Chain>>,
    sets: BTreeMap<String, AddressSet>,
}

/// A chain of rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// What happens at its end, for a built-in chain; `None`: back to where it was called from.
    pub policy: Option<Policy>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// What happens to a packet that no rule of a built-in chain decides about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// It may pass.
    Accept,
    /// It is dropped.
    Drop,
}

impl RuleSet {
    /// Reads rules. `file` is for messages.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, file: &str) -> Result<Self, RuleError> {
        parse::parse(text, file)
    }

    /// Whether any rule asks for the state of flows, or translates: without one, nothing needs to be tracked.
    #[must_use]
    pub fn needs_tracking(&self) -> bool {
        let nat = self
            .tables
            .get(&Table::Nat)
            .is_some_and(|chains| chains.iter().any(|chain| !chain.rules.is_empty()));
        nat || self.rules().any(|rule| {
            let asks = |condition: &Condition| condition.test.is_about_flows();
            rule.conditions.iter().any(asks) || matches!(rule.target, Target::ConnMark(_))
        })
    }

    /// Whether it changes nothing: no rules, and every packet may pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let chains = || self.tables.values().flatten();
        self.rules().next().is_none() && chains().all(|chain| chain.policy != Some(Policy::Drop))
    }

    /// Whether a rule may give a packet that leaves by this interface another source, so that it leads outside. `unnamed`: also a
    /// rule that names no interface.
    #[must_use]
    pub fn hides_sources(&self, interface: &str, unnamed: bool) -> bool {
        let hides = |rule: &Rule| {
            let mut out = rule.conditions.iter().filter_map(|condition| match &condition.test {
                Match::OutInterface(name) => Some(name.matches(interface) != condition.inverted),
                _ => None,
            });
            matches!(rule.target, Target::Snat(_) | Target::Masquerade { .. } | Target::Netmap(_))
                && out.next().unwrap_or(unnamed)
        };
        let before_routing = [Hook::Prerouting.name(), Hook::Output.name()];
        let chains = self.chains(Table::Nat).iter();
        chains
            .filter(|chain| !before_routing.contains(&chain.name.as_str()))
            .any(|chain| chain.rules.iter().any(hides))
    }

    /// The chains of a table, built-in ones first; none when the text does not name it.
    #[must_use]
    pub fn chains(&self, table: Table) -> &[Chain] {
        self.tables.get(&table).map_or(&[], Vec::as_slice)
    }

    /// The address sets, by name.
    #[must_use]
    pub fn sets(&self) -> &BTreeMap<String, AddressSet> {
        &self.sets
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.tables.values().flatten().flat_map(|chain| &chain.rules)
    }

    /// The chains of `table`, made if need be.
    fn table_mut(&mut self, table: Table) -> &mut Vec<Chain> {
        self.tables.entry(table).or_insert_with(|| {
            let built_in = |hook: &Hook| Chain {
                name: hook.name().to_owned(),
                policy: Some(Policy::Accept),
                rules: Vec::new(),
            };
            table.hooks().iter().map(built_in).collect()
        })
    }
}
