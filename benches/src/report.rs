//! Medians and ratios from criterion's result files: one line a benchmark, and how many times faster ours is where
//! smoltcp ran the same in the same run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The directory that criterion's files of this run go to: beside the benchmark's binary, in the target directory.
#[must_use]
pub fn directory() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe.ancestors().nth(3).unwrap_or(Path::new("target"));
    target.join("criterion")
}

/// Reads the median, in nanoseconds, of every benchmark run since `start`, by group, function and parameter.
///
/// # Errors
/// When the directory cannot be read.
pub fn medians(directory: &Path, start: SystemTime) -> io::Result<BTreeMap<String, f64>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(dir) = pending.pop() {
        let estimates = dir.join("new/estimates.json");
        if let Ok(text) = fs::read_to_string(&estimates) {
            if fs::metadata(&estimates)?.modified()? < start {
                continue;
            }
            let json: serde_json::Value = serde_json::from_str(&text)?;
            if let Some(median) = json["median"]["point_estimate"].as_f64() {
                let name = dir.strip_prefix(directory).unwrap_or(&dir).display().to_string();
                found.insert(name, median);
            }
            continue;
        }
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.file_name() != "report" {
                pending.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// Prints the table.
pub fn print(medians: &BTreeMap<String, f64>) {
    println!("\n{:<48} {:>14} {:>10}", "benchmark", "median", "smoltcp /");
    for (name, &median) in medians {
        let rival = name.contains("/bywash").then(|| name.replacen("/bywash", "/smoltcp", 1));
        let ratio = rival.and_then(|rival| medians.get(&rival)).map(|rival| rival / median);
        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2} x"));
        println!("{name:<48} {:>14} {ratio:>10}", duration(median));
    }
    println!("(smoltcp's median over ours, same run and machine: above 1 ours is faster)");
}

fn duration(nanos: f64) -> String {
    match nanos {
        nanos if nanos < 1e3 => format!("{nanos:.1} ns"),
        nanos if nanos < 1e6 => format!("{:.2} us", nanos / 1e3),
        nanos => format!("{:.2} ms", nanos / 1e6),
    }
}
