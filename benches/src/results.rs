//! What a benchmark measured: samples of rivals that took turns, round by round, in one run; their medians, and the ratios
//! of ours to each rival, taken within each round so that the machine's moods cancel out. One JSON file a benchmark,
//! `bench-NAME.json`; `table.rs` and `chart.rs` show it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// One benchmark of one run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Benchmark {
    /// Short, of lower-case letters, digits and hyphens: names the files.
    pub name: String,
    /// Place in the report: benchmarks are shown by part, then by name.
    pub part: u32,
    /// Heading.
    pub title: String,
    /// What the figures mean, in plain sentences (Markdown).
    pub about: String,
    /// The command that runs it.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured, in the order of the first samples.
    pub rows: Vec<Row>,
    /// Which rows are compared.
    pub comparisons: Vec<Comparison>,
}

/// One rival's samples in one case.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was done: `keep-alive, 64 connections`.
    pub case: String,
    /// Who did it: `bywash`, `nginx`.
    pub rival: String,
    /// What of it was measured: `requests/s`.
    pub unit: String,
    /// Which direction is good.
    pub better: Better,
    /// One a round.
    pub samples: Vec<f64>,
}

/// Whether more is better, or less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// As for rates.
    More,
    /// As for latencies and costs.
    Less,
}

/// Two rows of one case and unit: `ours` is divided by `rival`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// The rows' case.
    pub case: String,
    /// The rows' unit.
    pub unit: String,
    /// The row above the line.
    pub ours: String,
    /// The row below the line.
    pub rival: String,
    /// What the ratio's median is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// A bound on the median of a ratio.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this.
    AtMost(f64),
}

impl Target {
    /// Whether `value` meets it.
    #[must_use]
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// Median, least and largest of samples.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The middle one, or the mean of the middle two.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these samples; `None` when there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

impl Row {
    /// Median, least and largest.
    ///
    /// # Panics
    /// Without samples, which no row of [`Benchmark::add`] is.
    #[must_use]
    pub fn spread(&self) -> Spread {
        Spread::of(&self.samples).expect("a row has samples")
    }
}

impl Benchmark {
    /// An empty one, on this machine.
    #[must_use]
    pub fn new(name: &str, part: u32, title: &str, about: &str, command: &str) -> Self {
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
        Self {
            name: name.into(),
            part,
            title: title.into(),
            about: about.into(),
            command: command.into(),
            machine: Machine::this(),
            rows: Vec::new(),
            comparisons: Vec::new(),
        }
    }

    /// Adds one round's sample of `rival` in `case`. Each rival adds one in each round, so that the samples at one place
    /// were taken next to each other.
    ///
    /// # Panics
    /// On a sample that is no number.
    pub fn add(&mut self, case: &str, rival: &str, unit: &str, better: Better, sample: f64) {
        assert!(sample.is_finite(), "{case}, {rival}: {sample} {unit}");
        match self.row_mut(case, rival, unit) {
            Some(row) => row.samples.push(sample),
            None => self.rows.push(Row {
                case: case.into(),
                rival: rival.into(),
                unit: unit.into(),
                better,
                samples: vec![sample],
            }),
        }
    }

    /// Asks for the ratio of `ours` to `rival` in `case`. The same comparison twice is one, with the first's target.
    pub fn compare(&mut self, case: &str, unit: &str, ours: &str, rival: &str, target: Option<Target>) {
        let (case, unit, ours, rival) = (case.into(), unit.into(), ours.into(), rival.into());
        let new = Comparison { case, unit, ours, rival, target };
        let same = |c: &Comparison| {
            (&c.case, &c.unit, &c.ours, &c.rival) == (&new.case, &new.unit, &new.ours, &new.rival)
        };
        if !self.comparisons.iter().any(same) {
            self.comparisons.push(new);
        }
    }

    /// The row of `rival` in `case`.
    #[must_use]
    pub fn row(&self, case: &str, rival: &str, unit: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.case == case && row.rival == rival && row.unit == unit)
    }

    fn row_mut(&mut self, case: &str, rival: &str, unit: &str) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.case == case && row.rival == rival && row.unit == unit)
    }

    /// The ratio of a comparison: within each round, then median and spread of these. `None` when a row is missing (a
    /// rival that could not be had) or one has rounds that the other has not.
    #[must_use]
    pub fn ratio(&self, comparison: &Comparison) -> Option<Spread> {
        let Comparison { case, unit, ours, rival, .. } = comparison;
        let (ours, rival) = (self.row(case, ours, unit)?, self.row(case, rival, unit)?);
        if ours.samples.len() != rival.samples.len() {
            return None;
        }
        let ratios: Vec<f64> = ours.samples.iter().zip(&rival.samples).map(|(a, b)| a / b).collect();
        Spread::of(&ratios)
    }

    /// Rounds of the row with the most.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.rows.iter().map(|row| row.samples.len()).max().unwrap_or(0)
    }

    /// Writes `bench-NAME.json` into `directory`, which is made if need be.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let json = serde_json::to_string_pretty(self)?;
        fs::write(directory.join(format!("bench-{}.json", self.name)), json + "\n")
    }
}

/// Every benchmark whose file is in `directory`, in the report's order.
///
/// # Errors
/// When the directory or a file cannot be read, or a file is not what [`Benchmark::write`] writes.
pub fn read_all(directory: &Path) -> io::Result<Vec<Benchmark>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !(name.starts_with("bench-") && name.ends_with(".json")) {
            continue;
        }
        let wrong = |error| io::Error::other(format!("{}: {error}", path.display()));
        let benchmark: Benchmark = serde_json::from_str(&fs::read_to_string(&path)?).map_err(wrong)?;
        if benchmark.rows.iter().any(|row| row.samples.is_empty()) {
            return Err(io::Error::other(format!("{}: a row without samples", path.display())));
        }
        found.insert((benchmark.part, benchmark.name.clone()), benchmark);
    }
    Ok(found.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: [&[f64]; 2]) -> Benchmark {
        let mut benchmark = Benchmark::new("test", 1, "Test", "", "make bench");
        for (rival, samples) in ["bywash", "nginx"].iter().zip(samples) {
            for &sample in samples {
                benchmark.add("one", rival, "requests/s", Better::More, sample);
            }
        }
        benchmark.compare("one", "requests/s", "bywash", "nginx", Some(Target::AtLeast(1.5)));
        benchmark
    }

    #[test]
    fn the_median_of_an_odd_number_is_the_middle_one() {
        let spread = Spread::of(&[9.0, 1.0, 5.0]).unwrap();
        assert_eq!(spread, Spread { median: 5.0, min: 1.0, max: 9.0 });
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 2.0, 100.0]).unwrap();
        assert_eq!(spread, Spread { median: 3.0, min: 1.0, max: 100.0 });
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_each_round() {
        // The machine was ten times slower in the second round; the ratio of medians would be 20 / 6.
        let benchmark = of([&[20.0, 2.0, 60.0], &[10.0, 1.0, 20.0]]);
        let ratio = benchmark.ratio(&benchmark.comparisons[0]).unwrap();
        assert_eq!(ratio, Spread { median: 2.0, min: 2.0, max: 3.0 });
    }

    #[test]
    fn rows_of_different_rounds_have_no_ratio() {
        let benchmark = of([&[20.0, 2.0], &[10.0]]);
        assert_eq!(benchmark.ratio(&benchmark.comparisons[0]), None);
    }

    #[test]
    fn a_rival_that_is_missing_has_no_ratio() {
        let mut benchmark = of([&[20.0], &[10.0]]);
        benchmark.compare("one", "requests/s", "bywash", "lighttpd", None);
        assert_eq!(benchmark.ratio(&benchmark.comparisons[1]), None);
    }

    #[test]
    fn a_comparison_asked_for_twice_is_one() {
        let mut benchmark = of([&[20.0], &[10.0]]);
        benchmark.compare("one", "requests/s", "bywash", "nginx", None);
        assert_eq!(benchmark.comparisons.len(), 1);
        assert_eq!(benchmark.comparisons[0].target, Some(Target::AtLeast(1.5)));
    }

    #[test]
    fn targets_hold_at_their_bound() {
        assert!(Target::AtLeast(1.5).is_met(1.5) && !Target::AtLeast(1.5).is_met(1.49));
        assert!(Target::AtMost(1.0).is_met(1.0) && !Target::AtMost(1.0).is_met(1.01));
    }

    #[test]
    fn a_file_is_read_back_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut second = of([&[20.0, 21.5], &[10.0, 9.0]]);
        second.part = 2;
        second.name = "a".into();
        let first = of([&[1.0], &[2.0]]);
        second.write(directory.path()).unwrap();
        first.write(directory.path()).unwrap();
        fs::write(directory.path().join("congestion.json"), "{}").unwrap();
        assert_eq!(read_all(directory.path()).unwrap(), [first, second]);
    }

    #[test]
    fn a_file_of_another_kind_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("bench-x.json"), "{}").unwrap();
        assert!(read_all(directory.path()).unwrap_err().to_string().contains("bench-x.json"));
    }
}
