//! The guard against creeping cost: counts the instructions of every load with `cargo bench --bench instructions`, prints them
//! per operation beside those on record in `benches/instructions.json`, and how they differ. It asserts nothing: compilers and C
//! libraries move the counts too.
//!
//! usage: instructions [--record]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bywash_benches::COUNTED_OPERATIONS;

/// Differences below this are not marked: the same sources built twice differ by less.
const NOTABLE: f64 = 0.01;

fn main() -> Result<(), Box<dyn Error>> {
    let record = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--record") => true,
        Some(_) => return Err("usage: instructions [--record]".into()),
    };
    let mut bench = Command::new("cargo");
    bench.args(["bench", "-p", "bywash-benches", "--bench", "instructions"]);
    if cfg!(feature = "lwip") {
        bench.args(["--features", "lwip"]);
    }
    // The counts are printed below.
    let output = bench.output()?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        return Err("cargo bench --bench instructions failed".into());
    }
    let counted = read_counts(&target_directory())?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let recorded: BTreeMap<String, f64> = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => BTreeMap::new(),
    };
    print!("{}", table(&counted, &recorded));
    if record {
        let mut all = recorded;
        all.extend(counted);
        fs::write(file, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

/// The target directory that this program lies in.
fn target_directory() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors().nth(2).unwrap_or(Path::new("target")).to_path_buf()
}

/// Instructions per operation by `rival/load`, from the files that callgrind and the loads have written.
fn read_counts(target: &Path) -> Result<BTreeMap<String, f64>, Box<dyn Error>> {
    let root = target.join("gungraun/bywash-benches/instructions/stacks");
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(&root)? {
        let directory = entry?;
        let name = directory.file_name().to_string_lossy().into_owned();
        let Some((function, case)) = name.split_once('.') else { continue };
        let text = fs::read_to_string(directory.path().join(format!("callgrind.{name}.out")))?;
        let total: f64 = total(&text).ok_or_else(|| format!("{name}: callgrind wrote no totals"))?;
        let load = case.replace('_', "-");
        let operations = if function == "timers" {
            COUNTED_OPERATIONS as f64
        } else {
            fs::read_to_string(target.join(format!("tmp/{function}-{load}.operations")))?.parse()?
        };
        let rival = if function == "timers" { "bywash" } else { function };
        counts.insert(format!("{load}/{rival}"), (total / operations).round());
    }
    Ok(counts)
}

/// The instructions in a callgrind file.
fn total(text: &str) -> Option<f64> {
    let line =
        text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")))?;
    line.split(' ').next()?.parse().ok()
}

fn table(counted: &BTreeMap<String, f64>, recorded: &BTreeMap<String, f64>) -> String {
    let mut text =
        format!("{:<36} {:>14} {:>12} {:>9}\n", "load/stack", "instructions", "on record", "change");
    for (name, count) in counted {
        let (before, change) = match recorded.get(name) {
            Some(before) => {
                let change = count / before - 1.0;
                let mark = if change.abs() >= NOTABLE { " !" } else { "" };
                (format!("{before:.0}"), format!("{:+.1} %{mark}", change * 100.0))
            }
            None => ("-".into(), String::new()),
        };
        text += &format!("{name:<36} {count:>14.0} {before:>12} {change:>9}\n");
    }
    text + "(per segment, request, connection or timer; ! marks a change of 1 % or more)\n"
}
