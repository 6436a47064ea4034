//! Thousands of experiments drawn from seeds: whatever the network does, every byte arrives once and in order, every
//! connection ends, every frame returns to its pool. Environment: `BYWASH_SEEDS` (number of seeds each test covers),
//! `BYWASH_FIRST_SEED` (where they begin), and for `replay` `BYWASH_SEED` and `BYWASH_PCAP`.
#![cfg(feature = "sim")]

use std::fs::File;
use std::io::{BufWriter, Write};

use bywash::sim::scenario::Scenario;

/// Seeds of each of the eight parts: 16,000 in all, which take one to two minutes on two cores without optimisation.
const SEEDS: u64 = 2000;
/// Failing seeds after which a part gives up.
const FAILURES_MAX: usize = 5;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The `part`-th of 8 parts, so that the test runner's threads (or processes) share the work.
fn run_part(part: u64) {
    let count = number("BYWASH_SEEDS", SEEDS);
    let first = number("BYWASH_FIRST_SEED", 0) + part * count;
    let mut failures = Vec::new();
    let (mut ends, mut unaccepted) = (0, 0);
    for seed in first..first + count {
        match std::panic::catch_unwind(|| Scenario::from_seed(seed).run()) {
            Ok(Ok(outcome)) => {
                ends += outcome.ends as u64;
                unaccepted += outcome.unaccepted;
            }
            Ok(Err(failure)) => failures.push(failure.to_string()),
            Err(_) => failures.push(format!(
                "seed {seed} panicked; replay: BYWASH_SEED={seed} cargo test -p bywash --features sim --test \
                 sim_faults replay -- --nocapture"
            )),
        }
        if failures.len() >= FAILURES_MAX {
            break;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(unaccepted * 200 <= ends, "{unaccepted} of {ends} ends were reset before they were accepted");
}

macro_rules! parts {
    ($($name:ident $part:literal,)*) => {
        $(#[test]
        fn $name() {
            run_part($part);
        })*
    };
}

parts! {
    every_byte_arrives_and_every_connection_ends_1_of_8 0,
    every_byte_arrives_and_every_connection_ends_2_of_8 1,
    every_byte_arrives_and_every_connection_ends_3_of_8 2,
    every_byte_arrives_and_every_connection_ends_4_of_8 3,
    every_byte_arrives_and_every_connection_ends_5_of_8 4,
    every_byte_arrives_and_every_connection_ends_6_of_8 5,
    every_byte_arrives_and_every_connection_ends_7_of_8 6,
    every_byte_arrives_and_every_connection_ends_8_of_8 7,
}

#[test]
fn a_seed_repeats_to_the_byte() {
    for seed in [1, 2, 3] {
        let scenario = Scenario::from_seed(seed);
        assert_eq!(scenario.run().unwrap(), scenario.run().unwrap());
    }
}

/// Runs the seed in `BYWASH_SEED` (0 without it), and writes what the hosts see to files whose names begin
/// with `BYWASH_PCAP`.
#[test]
fn replay() {
    let scenario = Scenario::from_seed(number("BYWASH_SEED", 0));
    println!("{scenario:#?}");
    let outcome = match std::env::var("BYWASH_PCAP") {
        Ok(path) => scenario.run_captured(["first", "second"].map(|host| {
            let path = format!("{path}.{host}.pcap");
            let file = File::create(&path).unwrap_or_else(|error| panic!("cannot create {path}: {error}"));
            Box::new(BufWriter::new(file)) as Box<dyn Write>
        })),
        Err(_) => scenario.run(),
    };
    match outcome {
        Ok(outcome) => println!("{outcome:#?}"),
        Err(failure) => panic!("{failure}"),
    }
}
