//! Every load on every stack, timed by criterion one after the other: for work on the stack, with criterion's statistics and its
//! comparison with the last run. `cargo bench -p bywash-benches --bench stack [FILTER]`. Side by side, in rounds:
//! `cargo run --release -p bywash-benches --bin stack`.

use std::time::{Duration, Instant};

use bywash_benches::loads::{Load, Running};
use bywash_benches::ours::Bywash;
use bywash_benches::smoltcp_tcp::Smoltcp;
use bywash_benches::stack::Stack;
use bywash_benches::timers::{Operation, Timers};
use criterion::{Bencher, Criterion};

/// The time of `iterations` operations: runs end with a burst, so what was done is scaled to that.
fn time<S: Stack>(b: &mut Bencher<'_>, running: &mut Option<Running<S>>, load: Load) {
    // Built when criterion comes to it, so that a filter skips it.
    let running = running.get_or_insert_with(|| Running::new(load));
    b.iter_custom(|iterations| {
        let (done, worked) = running.run(iterations);
        worked.mul_f64(iterations as f64 / done as f64)
    });
}

fn load<S: Stack>(c: &mut Criterion, load: Load) {
    let mut running = None;
    c.bench_function(&format!("{}/{}", load.name(), S::NAME), |b| time::<S>(b, &mut running, load));
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for each in Load::COMPARED {
        load::<Bywash>(&mut criterion, each);
        load::<Smoltcp>(&mut criterion, each);
        #[cfg(feature = "lwip")]
        load::<bywash_benches::lwip::Lwip>(&mut criterion, each);
    }
    for each in Load::LARGE {
        load::<Bywash>(&mut criterion, each);
    }
    for operation in Operation::ALL {
        let mut timers = None;
        criterion.bench_function(operation.name(), |b| {
            let timers = timers.get_or_insert_with(Timers::new);
            b.iter_custom(|iterations| {
                let start = Instant::now();
                timers.run(operation, iterations);
                start.elapsed()
            });
        });
    }
    criterion.final_summary();
}
