//! What can only be judged with all rules at hand: that chains and sets exist, that jumps do not go round in circles, and that
//! every rule stands where its target and interfaces mean something.

use std::collections::BTreeMap;

use super::parse::{Problem, problem};
use super::rule::{Hook, Match, Rule, Table, Target};
use super::{Chain, RuleSet};
use crate::limits;

/// A problem with its line.
type Located = (u32, Problem);

pub(super) fn check(set: &RuleSet) -> Result<(), Located> {
    for (&table, chains) in &set.tables {
        for chain in chains {
            for rule in &chain.rules {
                check_names(set, table, chains, rule)?;
            }
        }
        let mut depths = BTreeMap::new();
        for chain in chains {
            depth(chains, chain, &mut Vec::new(), &mut depths)?;
        }
        for chain in chains.iter().filter(|chain| chain.policy.is_some()) {
            if let Some(hook) = Hook::named(&chain.name) {
                check_places(table, hook, chains, chain, &mut Vec::new())?;
            }
        }
    }
    Ok(())
}

fn refuse<T>(rule: &Rule, reason: String) -> Result<T, Located> {
    Err((rule.line, problem(rule.target_column.max(1), reason)))
}

/// The chain that a rule leads to, if it does.
pub(super) fn chain_of(target: &Target) -> Option<&str> {
    match target {
        Target::Jump(name) | Target::Goto(name) => Some(name),
        _ => None,
    }
}

fn check_names(set: &RuleSet, table: Table, chains: &[Chain], rule: &Rule) -> Result<(), Located> {
    if let Some(name) = chain_of(&rule.target) {
        match chains.iter().find(|chain| chain.name == name) {
            Some(chain) if chain.policy.is_some() => {
                return refuse(rule, format!("{name} is built in: rules cannot lead there"));
            }
            Some(_) => {}
            None => {
                let reason = format!(
                    "`{name}` is neither a target known here nor a chain of the {} table",
                    table.name()
                );
                return refuse(rule, reason);
            }
        }
    }
    for condition in &rule.conditions {
        if let Match::Set { name, .. } = &condition.test
            && !set.sets.contains_key(name)
        {
            return refuse(rule, format!("there is no set {name}: `create {name} hash:net` first"));
        }
    }
    Ok(())
}

/// How many chains deep `chain` leads, itself counted.
fn depth<'a>(
    chains: &'a [Chain],
    chain: &'a Chain,
    way: &mut Vec<&'a str>,
    known: &mut BTreeMap<&'a str, usize>,
) -> Result<usize, Located> {
    if let Some(&depth) = known.get(chain.name.as_str()) {
        return Ok(depth);
    }
    way.push(&chain.name);
    let mut deepest = 0;
    for rule in &chain.rules {
        let Some(name) = chain_of(&rule.target) else { continue };
        if way.contains(&name) {
            return refuse(rule, format!("chain {name} leads to itself: {} -> {name}", way.join(" -> ")));
        }
        let Some(next) = chains.iter().find(|chain| chain.name == name) else { continue };
        // The way is bounded by the chains there are, as none repeats; the stack of a walk is bounded by this.
        if way.len() >= limits::FILTER_CHAIN_DEPTH {
            return refuse(rule, format!("more than {} chains deep", limits::FILTER_CHAIN_DEPTH));
        }
        deepest = deepest.max(depth(chains, next, way, known)?);
    }
    way.pop();
    if deepest + 1 + way.len() > limits::FILTER_CHAIN_DEPTH {
        let line =
            chain.rules.iter().find(|rule| chain_of(&rule.target).is_some()).map_or(1, |rule| rule.line);
        return Err((line, problem(1, format!("more than {} chains deep", limits::FILTER_CHAIN_DEPTH))));
    }
    known.insert(&chain.name, deepest + 1);
    Ok(deepest + 1)
}

/// That every rule reached from `hook` may stand there.
fn check_places<'a>(
    table: Table,
    hook: Hook,
    chains: &'a [Chain],
    chain: &'a Chain,
    seen: &mut Vec<&'a str>,
) -> Result<(), Located> {
    if seen.contains(&chain.name.as_str()) {
        return Ok(());
    }
    seen.push(&chain.name);
    for rule in &chain.rules {
        check_place(table, hook, rule, chain.policy.is_some())?;
        let next = chain_of(&rule.target).and_then(|name| chains.iter().find(|chain| chain.name == name));
        if let Some(next) = next {
            check_places(table, hook, chains, next, seen)?;
        }
    }
    Ok(())
}

/// `is_built_in`: the rule is in the hook's own chain. In others interfaces that a packet does not have there do not match, as in
/// iptables: the same chain may be for several hooks.
fn check_place(table: Table, hook: Hook, rule: &Rule, is_built_in: bool) -> Result<(), Located> {
    let (name, tables, hooks): (_, &[Table], &[Hook]) = match &rule.target {
        Target::Reject(_) => ("REJECT", &[Table::Filter], &[Hook::Input, Hook::Forward, Hook::Output]),
        Target::NoTrack { .. } => ("NOTRACK", &[Table::Raw], &[Hook::Prerouting, Hook::Output]),
        Target::Snat(_) => ("SNAT", &[Table::Nat], &[Hook::Postrouting, Hook::Input]),
        Target::Masquerade { .. } => ("MASQUERADE", &[Table::Nat], &[Hook::Postrouting]),
        Target::Dnat(_) => ("DNAT", &[Table::Nat], &[Hook::Prerouting, Hook::Output]),
        Target::Redirect { .. } => ("REDIRECT", &[Table::Nat], &[Hook::Prerouting, Hook::Output]),
        Target::Netmap(_) => ("NETMAP", &[Table::Nat], &Hook::ALL),
        // In the filter table it is for the whole flow, whose SYN,ACK no rule sees.
        Target::TcpMss(_) => ("TCPMSS", &[Table::Mangle, Table::Filter], &Hook::ALL),
        Target::Drop if table == Table::Nat => {
            return refuse(rule, "the nat table is no place to drop: use the filter table".to_owned());
        }
        _ => ("", &Table::ALL, &Hook::ALL),
    };
    if !tables.contains(&table) {
        return refuse(rule, format!("{name} belongs into the {} table", tables[0].name()));
    }
    if !hooks.contains(&hook) {
        let names: Vec<_> = hooks.iter().map(|hook| hook.name()).collect();
        return refuse(
            rule,
            format!(
                "{name} is possible in {} only, and this rule is reached from {}",
                names.join(" and "),
                hook.name()
            ),
        );
    }
    for condition in &rule.conditions {
        let (option, none) = match condition.test {
            Match::InInterface(_) if is_built_in => ("-i", matches!(hook, Hook::Output | Hook::Postrouting)),
            Match::OutInterface(_) if is_built_in => ("-o", matches!(hook, Hook::Input | Hook::Prerouting)),
            ref test if test.is_about_flows() => ("a flow's state", table == Table::Raw),
            _ => continue,
        };
        if none {
            return refuse(
                rule,
                format!("{option} means nothing in {} of the {} table", hook.name(), table.name()),
            );
        }
    }
    Ok(())
}
