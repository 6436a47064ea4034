//! The kept corpora through the fuzz targets' code, on a stable toolchain: what a search found once stays found.

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        if std::panic::catch_unwind(|| run(&bytes)).is_err() {
            panic!(
                "{} fails; run `cargo +nightly fuzz run --features libfuzzer {target} {0}`",
                path.display()
            );
        }
        inputs += 1;
    }
    assert!(inputs >= 10, "only {inputs} inputs in {}", dir.display());
}

#[test]
fn the_parser_keeps_its_promises_on_the_corpus() {
    replay("parse", bywash_fuzz::parse::run);
}

#[test]
fn the_shard_keeps_its_promises_on_the_corpus() {
    replay("shard", bywash_fuzz::shard::run);
}

#[test]
fn gro_keeps_its_promises_on_the_corpus() {
    replay("gro", bywash_fuzz::gro::run);
}

#[test]
fn merging_and_cutting_change_nothing_on_the_corpus() {
    replay("gro_gso", bywash_fuzz::gro_gso::run);
}

#[test]
fn rules_are_read_or_refused_on_the_corpus() {
    replay("rules", bywash_fuzz::rules::run);
}

#[test]
fn flows_keep_their_promises_on_the_corpus() {
    replay("conntrack", bywash_fuzz::conntrack::run);
}

#[test]
fn translated_errors_keep_their_checksums_on_the_corpus() {
    replay("nat_icmp", bywash_fuzz::nat_icmp::run);
}
