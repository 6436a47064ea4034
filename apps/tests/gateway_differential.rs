//! Our router beside Linux's: the same rules, the same addresses, the same packets from either side, and what comes out
//! compared field by field, with the flows that both know. The router is the shard in memory, so that its time is the
//! script's; some scripts run against `bywash gateway` over AF_XDP, too.

mod differential;

use std::fmt::Write as _;
use std::fs::File;

use differential::known::{KNOWN, Known};
use differential::memory::Memory;
use differential::scenarios::all;
use differential::script::{Difference, Scenario, compare, run};
use differential::wire::{Gateway, Kernel};

/// One such test has the machine at a time: the end-to-end tests load it.
fn turn() -> File {
    let turn =
        File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/end-to-end.lock")).expect("create the lock file");
    turn.lock().expect("wait for the other tests");
    turn
}

/// Frames that one CPU sends are worked off in their order.
fn stay_on_this_cpu() {
    let mut set = rustix::thread::CpuSet::new();
    set.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &set).expect("stay on this CPU");
}

/// Scenarios can be chosen by a part of their name, in `BYWASH_SCENARIO`; with `BYWASH_TRACES` set, a scenario that fails
/// shows all that came out.
fn is_wanted(scenario: &Scenario) -> bool {
    std::env::var("BYWASH_SCENARIO").map_or(true, |wanted| scenario.name.contains(&wanted))
}

/// Whether `known` has this difference of `scenario`.
fn covers(known: &Known, scenario: &Scenario, difference: &Difference) -> bool {
    known.is_of(scenario.name)
        && (known.steps.is_empty() || known.steps.contains(&difference.step))
        && difference.place.starts_with(known.place)
}

#[test]
fn the_router_does_what_linux_does() {
    bywash_afxdp::require_root!();
    let _turn = turn();
    stay_on_this_cpu();
    let mut kernel = Kernel::new();
    let (mut report, mut seen) = (String::new(), vec![0usize; KNOWN.len()]);
    let (mut scenarios, mut steps, mut equal) = (0, 0, 0);
    for scenario in all().filter(|scenario| is_wanted(scenario)) {
        kernel.set_up(&scenario.setup);
        let linux = run(scenario, &mut kernel);
        let ours = run(scenario, &mut Memory::new(&scenario.setup));
        let differences = compare(&linux, &ours);
        (scenarios, steps, equal) =
            (scenarios + 1, steps + linux.steps(), equal + usize::from(differences.is_empty()));
        let mut unknown = Vec::new();
        for difference in &differences {
            match KNOWN.iter().position(|known| covers(known, scenario, difference)) {
                Some(at) => seen[at] += 1,
                None => unknown.push(difference),
            }
        }
        if !unknown.is_empty() {
            let _ = writeln!(report, "\n== {}\n{}", scenario.name, scenario.setup.rules);
            for Difference { step, place, linux, ours } in unknown {
                let _ = writeln!(report, "  step {step}, {place}: linux {linux}; bywash {ours}");
            }
            if std::env::var_os("BYWASH_TRACES").is_some() {
                let _ = write!(report, "{}{}", linux.text(), ours.text());
            }
        }
    }
    for (known, _) in KNOWN.iter().zip(&seen).filter(|(_, seen)| **seen == 0) {
        if all().any(|scenario| known.is_of(scenario.name) && is_wanted(scenario)) {
            let Known { scenario, steps, place, .. } = known;
            let _ = writeln!(report, "\n== {scenario}: no difference at {place} in steps {steps:?} any more");
        }
    }
    eprintln!("{scenarios} scenarios of {steps} steps, {equal} without a difference");
    assert!(report.is_empty(), "{report}");
}

#[test]
fn every_known_difference_is_one_of_a_scenario() {
    for known in KNOWN {
        assert!(all().any(|scenario| known.is_of(scenario.name)), "there is no `{}`", known.scenario);
        assert!(!known.reason.is_empty());
    }
    let mut names: Vec<_> = all().map(|scenario| scenario.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two scenarios have one name");
}

/// Scripts that run over AF_XDP, too: each of the ways through the router once.
const OVER_THE_WIRE: [&str; 6] = [
    "masquerade tcp",
    "forwarded ports",
    "hairpin",
    "icmp errors masqueraded",
    "fragments out of order",
    "ipv6 forwarding",
];

#[test]
fn the_gateway_does_what_the_shard_does() {
    bywash_afxdp::require_root!();
    let _turn = turn();
    for name in OVER_THE_WIRE {
        let scenario = all().find(|scenario| scenario.name == name).expect("a scenario of that name");
        let shard = run(scenario, &mut Memory::new(&scenario.setup));
        let gateway = run(scenario, &mut Gateway::start(&scenario.setup));
        let differences = compare(&shard, &gateway);
        assert!(differences.is_empty(), "{name}: {differences:#?}\n{}{}", shard.text(), gateway.text());
    }
}
