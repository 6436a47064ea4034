//! Instructions of every load and timer operation, counted by callgrind: `cargo bench -p bywash-benches --bench instructions`. Only
//! what the stack under test and its server do is counted, as in the timings. `--bin instructions` runs this, divides the
//! counts by the operations and compares them with those on record.

#![allow(missing_docs)] // of what the macros make

use std::fs;
use std::path::Path;

use bywash_benches::COUNTED_OPERATIONS;
use bywash_benches::loads::{Load, Running};
#[cfg(feature = "lwip")]
use bywash_benches::lwip::Lwip;
use bywash_benches::ours::Bywash;
use bywash_benches::smoltcp_tcp::Smoltcp;
use bywash_benches::stack::Stack;
use bywash_benches::timers::{Operation, Timers};
use gungraun::prelude::*;
use gungraun::{Callgrind, EntryPoint};

/// Runs a warm load and writes down how many operations it took: a run ends with a burst.
fn count<S: Stack>(mut running: Running<S>) -> Running<S> {
    let (done, _) = running.run(COUNTED_OPERATIONS);
    let file = format!("{}-{}.operations", S::NAME, running.load().name());
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(file), done.to_string())
        .expect("the file is written");
    running
}

#[library_benchmark(setup = Running::new)]
#[bench::bulk_receive(Load::BulkReceive)]
#[bench::bulk_send(Load::BulkSend)]
#[bench::request_response(Load::RequestResponse)]
#[bench::requests_1k(Load::Requests(1000))]
#[bench::connect_accept_close(Load::ConnectAcceptClose)]
#[bench::demux_1(Load::Demux(1))]
#[bench::demux_1k(Load::Demux(1000))]
#[bench::demux_100k(Load::Demux(100_000))]
fn bywash(running: Running<Bywash>) -> Running<Bywash> {
    count(running)
}

#[library_benchmark(setup = Running::new)]
#[bench::bulk_receive(Load::BulkReceive)]
#[bench::bulk_send(Load::BulkSend)]
#[bench::request_response(Load::RequestResponse)]
#[bench::requests_1k(Load::Requests(1000))]
#[bench::connect_accept_close(Load::ConnectAcceptClose)]
#[bench::demux_1(Load::Demux(1))]
#[bench::demux_1k(Load::Demux(1000))]
fn smoltcp(running: Running<Smoltcp>) -> Running<Smoltcp> {
    count(running)
}

#[cfg(feature = "lwip")]
#[library_benchmark(setup = Running::new)]
#[bench::bulk_receive(Load::BulkReceive)]
#[bench::bulk_send(Load::BulkSend)]
#[bench::request_response(Load::RequestResponse)]
#[bench::requests_1k(Load::Requests(1000))]
#[bench::connect_accept_close(Load::ConnectAcceptClose)]
#[bench::demux_1(Load::Demux(1))]
#[bench::demux_1k(Load::Demux(1000))]
fn lwip(running: Running<Lwip>) -> Running<Lwip> {
    count(running)
}

fn timers_for(operation: Operation) -> (Timers, Operation) {
    let mut timers = Timers::new();
    timers.run(operation, 1000);
    (timers, operation)
}

#[library_benchmark(
    setup = timers_for,
    config = LibraryBenchmarkConfig::default().tool(Callgrind::default().entry_point(EntryPoint::Default))
)]
#[bench::timer_arm_and_cancel(Operation::ArmAndCancel)]
#[bench::timer_rearm(Operation::Rearm)]
#[bench::timer_arm_and_expire(Operation::ArmAndExpire)]
fn timers((mut timers, operation): (Timers, Operation)) -> Timers {
    timers.run(operation, COUNTED_OPERATIONS);
    timers
}

#[cfg(not(feature = "lwip"))]
library_benchmark_group!(name = stacks, benchmarks = [bywash, smoltcp, timers]);
#[cfg(feature = "lwip")]
library_benchmark_group!(name = stacks, benchmarks = [bywash, smoltcp, lwip, timers]);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::default().entry_point(EntryPoint::Custom("*measured_work*".into()))),
    library_benchmark_groups = stacks
);
