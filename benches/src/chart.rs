//! A benchmark as a chart (SVG): a panel for each unit, a group of bars for each case, a bar for each rival with its median
//! as length and its least and largest sample as a whisker.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::results::{Benchmark, Better, Row};
use crate::table::number;

type Result = core::result::Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const COLORS: [RGBColor; 6] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 140, 90),
    RGBColor(150, 90, 200),
    RGBColor(230, 150, 0),
    RGBColor(110, 110, 110),
];
const WIDTH: u32 = 900;
const BAR: i32 = 14;
const GAP: i32 = 12;
const HEAD: i32 = 34;
/// Pixels left for the names of cases, and at the right for the numbers.
const LABELS: i32 = 300;
const NUMBERS: i32 = 110;

/// Writes the chart to `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(benchmark: &Benchmark, path: &Path) -> Result {
    let rivals = distinct(benchmark.rows.iter().map(|row| row.rival.as_str()));
    let units = distinct(benchmark.rows.iter().map(|row| row.unit.as_str()));
    let panels: Vec<Vec<&Row>> =
        units.iter().map(|unit| benchmark.rows.iter().filter(|row| row.unit == *unit).collect()).collect();
    let height = 2 * HEAD + panels.iter().map(|rows| panel_height(rows)).sum::<i32>();
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(benchmark.title.clone(), (12, 10), ("sans-serif", 20)))?;
    legend(&root, &rivals)?;
    let mut top = 2 * HEAD;
    for rows in &panels {
        panel(&root, top, rows, &rivals)?;
        top += panel_height(rows);
    }
    root.present()?;
    Ok(())
}

/// The values in the order in which they first come.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    values.fold(Vec::new(), |mut seen, value| {
        if !seen.contains(&value) {
            seen.push(value);
        }
        seen
    })
}

fn panel_height(rows: &[&Row]) -> i32 {
    let cases = distinct(rows.iter().map(|row| row.case.as_str())).len() as i32;
    HEAD + rows.len() as i32 * BAR + cases * GAP
}

fn color(rivals: &[&str], rival: &str) -> RGBColor {
    let place = rivals.iter().position(|name| *name == rival).unwrap_or(0);
    COLORS[place % COLORS.len()]
}

fn legend(root: &Area<'_>, rivals: &[&str]) -> Result {
    let mut left = 12;
    for rival in rivals {
        let square = [(left, HEAD + 6), (left + 12, HEAD + 18)];
        root.draw(&Rectangle::new(square, color(rivals, rival).filled()))?;
        root.draw(&Text::new((*rival).to_owned(), (left + 18, HEAD + 6), ("sans-serif", 13)))?;
        left += 36 + 7 * rival.chars().count() as i32;
    }
    Ok(())
}

fn panel(root: &Area<'_>, top: i32, rows: &[&Row], rivals: &[&str]) -> Result {
    let Some(first) = rows.first() else { return Ok(()) };
    let better = if first.better == Better::Less { "less is better" } else { "more is better" };
    root.draw(&Text::new(format!("{} ({better})", first.unit), (12, top + 10), ("sans-serif", 15)))?;
    let largest = rows.iter().map(|row| row.spread().max).fold(f64::MIN_POSITIVE, f64::max);
    let scale = f64::from(WIDTH as i32 - LABELS - NUMBERS) / largest;
    let at = |value: f64| LABELS + (value * scale).round() as i32;
    let mut y = top + HEAD;
    for case in distinct(rows.iter().map(|row| row.case.as_str())) {
        root.draw(&Text::new(case.to_owned(), (12, y), ("sans-serif", 13)))?;
        for row in rows.iter().filter(|row| row.case == case) {
            let spread = row.spread();
            let bar = [(LABELS, y), (at(spread.median), y + BAR - 2)];
            root.draw(&Rectangle::new(bar, color(rivals, &row.rival).filled()))?;
            let middle = y + BAR / 2 - 1;
            let whisker = [(at(spread.min), middle), (at(spread.max), middle)];
            root.draw(&PathElement::new(whisker, BLACK.stroke_width(1)))?;
            let right = at(spread.max) + 6;
            root.draw(&Text::new(number(spread.median), (right, y), ("sans-serif", 12)))?;
            y += BAR;
        }
        y += GAP;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_cases_rivals_units_and_medians() {
        let mut benchmark = Benchmark::new("t", 1, "A title", "", "");
        for (rival, sample) in [("bywash", 2048.0), ("nginx", 1024.0)] {
            benchmark.add("a case", rival, "requests/s", Better::More, sample);
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.svg");
        draw(&benchmark, &path).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for text in ["A title", "a case", "bywash", "nginx", "requests/s", "2,048", "1,024"] {
            assert!(svg.contains(text), "{text}");
        }
    }
}
