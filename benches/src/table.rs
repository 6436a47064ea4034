//! Benchmarks as text: the page for readers (Markdown), and the short table of ratios that ends a run.

use core::fmt::{self, Write};

use crate::results::{Benchmark, Better, Comparison, Spread, Target};

const HEAD: &str = "\
# Benchmarks

Written by `cargo run --release -p bywash-benches --bin report` from the JSON files in `results/`, which `make bench` writes.
All rivals of a benchmark run side by side in one run and take turns, round by round. A figure is the median of the rounds
(least to largest); a ratio is ours divided by the rival's in the same round, then the median of these (least to largest).
";

/// The page for readers. Charts are named as `chart.rs` writes them, below `results/`.
#[must_use]
pub fn page(benchmarks: &[Benchmark]) -> String {
    let mut text = HEAD.to_owned();
    for benchmark in benchmarks {
        // Writing to a string does not fail.
        let _ = section(&mut text, benchmark);
    }
    text
}

fn section(text: &mut String, benchmark: &Benchmark) -> fmt::Result {
    writeln!(text, "\n## {}\n\n{}\n", benchmark.title, benchmark.about.trim())?;
    writeln!(
        text,
        "`{}`; {}; {} rounds.\n\n![{}](results/bench-{}.svg)\n",
        benchmark.command,
        benchmark.machine.describe(),
        benchmark.rounds(),
        benchmark.title,
        benchmark.name
    )?;
    writeln!(text, "| case | unit | who | median (least to largest) |\n|---|---|---|---|")?;
    let (mut case, mut unit) = ("", "");
    for row in &benchmark.rows {
        let same = (row.case.as_str(), row.unit.as_str()) == (case, unit);
        (case, unit) = (&row.case, &row.unit);
        let better = if row.better == Better::Less { " (less is better)" } else { "" };
        let (case, unit) = if same { ("", String::new()) } else { (case, format!("{unit}{better}")) };
        writeln!(text, "| {case} | {unit} | {} | {} |", row.rival, spread(row.spread()))?;
    }
    if !benchmark.comparisons.is_empty() {
        writeln!(
            text,
            "\n| case | ratio | of | median (least to largest) | target |\n|---|---|---|---|---|"
        )?;
    }
    for comparison in &benchmark.comparisons {
        let Comparison { case, unit, ours, rival, .. } = comparison;
        let ratio = benchmark.ratio(comparison);
        let shown = ratio.map_or_else(|| "not measured".to_owned(), spread);
        let target = verdict(comparison, ratio);
        writeln!(text, "| {case} | {ours} / {rival} | {unit} | {shown} | {target} |")?;
    }
    Ok(())
}

/// The ratios alone, in columns, for a terminal.
#[must_use]
pub fn ratios(benchmarks: &[Benchmark]) -> String {
    let mut lines = Vec::new();
    for benchmark in benchmarks {
        for comparison in &benchmark.comparisons {
            lines.push(ratio_cells(benchmark, comparison));
        }
    }
    let head = ["benchmark", "case", "ratio", "of", "ours", "rival", "ratio", "target"].map(String::from);
    columns(&head, &lines)
}

/// The ratios that have a target, as a Markdown table: the README's block.
#[must_use]
pub fn short(benchmarks: &[Benchmark]) -> String {
    let mut text = String::new();
    if let Some(first) = benchmarks.first() {
        let _ = writeln!(
            text,
            "On a {}; ratios are medians of rounds in which the rivals took turns.\n",
            first.machine.describe()
        );
    }
    text += "| case | ratio | of | median (least to largest) | target |\n|---|---|---|---|---|\n";
    for benchmark in benchmarks {
        for comparison in benchmark.comparisons.iter().filter(|c| c.target.is_some()) {
            let Comparison { case, unit, ours, rival, .. } = comparison;
            let ratio = benchmark.ratio(comparison);
            let shown = ratio.map_or_else(|| "not measured".to_owned(), spread);
            let target = verdict(comparison, ratio);
            let _ = writeln!(text, "| {case} | {ours} / {rival} | {unit} | {shown} | {target} |");
        }
    }
    text
}

fn ratio_cells(benchmark: &Benchmark, comparison: &Comparison) -> [String; 8] {
    let Comparison { case, unit, ours, rival, .. } = comparison;
    let median = |who: &str| {
        benchmark.row(case, who, unit).map_or_else(|| "-".into(), |row| number(row.spread().median))
    };
    let ratio = benchmark.ratio(comparison);
    [
        benchmark.name.clone(),
        case.clone(),
        format!("{ours} / {rival}"),
        unit.clone(),
        median(ours),
        median(rival),
        ratio.map_or_else(|| "not measured".into(), spread),
        verdict(comparison, ratio),
    ]
}

fn verdict(comparison: &Comparison, ratio: Option<Spread>) -> String {
    let Some(target) = comparison.target else { return String::new() };
    let bound = match target {
        Target::AtLeast(bound) => format!("at least {bound}"),
        Target::AtMost(bound) => format!("at most {bound}"),
    };
    match ratio {
        None => bound,
        Some(ratio) if target.is_met(ratio.median) => format!("{bound}: met"),
        Some(_) => format!("{bound}: missed"),
    }
}

fn columns<const N: usize>(head: &[String; N], lines: &[[String; N]]) -> String {
    let width = |column: usize| {
        core::iter::once(head).chain(lines).map(|line| line[column].chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; N] = core::array::from_fn(width);
    let mut text = String::new();
    for line in core::iter::once(head).chain(lines) {
        let mut whole = String::new();
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(whole, "{cell:<width$}  ");
        }
        text += whole.trim_end();
        text.push('\n');
    }
    text
}

fn spread(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("{} ({} to {})", number(median), number(min), number(max))
}

/// A number with three digits at least and separators of thousands.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1000.0 {
        let decimals = if size < 10.0 {
            2
        } else if size < 100.0 {
            1
        } else {
            0
        };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{size:.0}");
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn benchmark() -> Benchmark {
        let mut benchmark = Benchmark::new("http", 3, "HTTP", "Who serves more.", "make bench");
        for (rival, samples) in [("bywash", [120_000.0, 130_000.0]), ("nginx", [60_000.0, 65_000.0])] {
            for sample in samples {
                benchmark.add("64 connections", rival, "requests/s", Better::More, sample);
            }
        }
        let compare = |b: &mut Benchmark, rival, target| {
            b.compare("64 connections", "requests/s", "bywash", rival, target);
        };
        compare(&mut benchmark, "nginx", Some(Target::AtLeast(2.5)));
        compare(&mut benchmark, "hyper", None);
        benchmark
    }

    #[test]
    fn numbers_have_three_digits_and_separated_thousands() {
        let shown = [0.5, 12.34, 999.4, 1000.0, 1_234_567.8, -4321.0].map(number);
        assert_eq!(shown, ["0.50", "12.3", "999", "1,000", "1,234,568", "-4,321"]);
    }

    #[test]
    fn the_page_shows_figures_ratios_and_whether_targets_are_met() {
        let page = page(&[benchmark()]);
        assert!(
            page.contains("| 64 connections | requests/s | bywash | 125,000 (120,000 to 130,000) |"),
            "{page}"
        );
        assert!(
            page.contains("| bywash / nginx | requests/s | 2.00 (2.00 to 2.00) | at least 2.5: missed |")
        );
        assert!(page.contains("| bywash / hyper | requests/s | not measured |  |"));
        assert!(page.contains("![HTTP](results/bench-http.svg)"));
    }

    #[test]
    fn the_short_table_has_what_has_a_target() {
        let short = short(&[benchmark()]);
        assert!(short.contains("bywash / nginx") && !short.contains("hyper"));
    }

    #[test]
    fn the_terminals_columns_are_aligned() {
        let text = ratios(&[benchmark()]);
        let place = text.lines().map(|line| line.find("requests/s").or_else(|| line.find("of "))).nth(1);
        assert!(text.lines().skip(1).all(|line| line.find("requests/s") == place.flatten()), "{text}");
    }
}
