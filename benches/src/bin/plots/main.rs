//! Measures congestion control and loss recovery on whole simulated stacks and writes what came of it: plots (SVG) and
//! figures (JSON) to `benches/results/`, tables to `benches/CONGESTION.md`. All is virtual time and seeded: every run on
//! every machine gives the same files.

mod draw;
mod measure;
mod tables;

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let results = benches.join("results");
    fs::create_dir_all(&results)?;
    let loss = measure::random_loss();
    let backoff = measure::backoff();
    let long = measure::long_path();
    let shared = measure::shared_link();
    let queues = measure::queues();
    let recovery = measure::recovery();
    draw::loss(&results.join("loss.svg"), &loss)?;
    for run in &queues {
        draw::series(&results, run)?;
    }
    draw::shared(&results, &shared)?;
    let json = tables::json(&loss, &long, &shared, &queues, &recovery);
    fs::write(results.join("congestion.json"), serde_json::to_string_pretty(&json)? + "\n")?;
    let text = tables::markdown(&loss, &backoff, &long, &shared, &queues, &recovery);
    fs::write(benches.join("CONGESTION.md"), &text)?;
    print!("{text}");
    Ok(())
}
