//! Shows benchmarks from their JSON files: a chart beside each file and the page `benches/BENCHMARKS.md`, or the table of
//! ratios on standard output, or the README's block.
//!
//! usage: report [--results DIRECTORY] [--print] [--readme FILE]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use bywash_benches::{chart, results, table};

const USAGE: &str = "usage: report [--results DIRECTORY] [--print] [--readme FILE]";
/// The README's block is between these lines.
const BEGIN: &str = "<!-- bench-quick: written by `make bench-quick README=1` -->";
const END: &str = "<!-- /bench-quick -->";

fn main() -> Result<(), Box<dyn Error>> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut directory = benches.join("results");
    let (mut print, mut readme) = (false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--results" => directory = PathBuf::from(arguments.next().ok_or(USAGE)?),
            "--readme" => readme = Some(PathBuf::from(arguments.next().ok_or(USAGE)?)),
            "--print" => print = true,
            _ => return Err(USAGE.into()),
        }
    }
    let benchmarks = results::read_all(&directory)?;
    if print {
        print!("{}", table::ratios(&benchmarks));
    }
    if let Some(path) = &readme {
        let text = fs::read_to_string(path)?;
        fs::write(path, replace(&text, &table::short(&benchmarks))?)?;
    }
    if !print && readme.is_none() {
        for benchmark in &benchmarks {
            chart::draw(benchmark, &directory.join(format!("bench-{}.svg", benchmark.name)))?;
        }
        fs::write(benches.join("BENCHMARKS.md"), table::page(&benchmarks))?;
    }
    Ok(())
}

/// `text` with `block` between the two lines that are there for it.
fn replace(text: &str, block: &str) -> Result<String, String> {
    let missing = || format!("no lines `{BEGIN}` and `{END}`");
    let (before, rest) = text.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    Ok(format!("{before}{BEGIN}\n{block}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_block_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&text, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
    }

    #[test]
    fn a_file_without_the_block_is_left_alone() {
        assert!(replace("nothing here", "new").is_err());
    }
}
