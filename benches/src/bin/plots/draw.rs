//! The plots.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::measure::{GOODPUT_MAX, LossResult, Queue, RTT, Shared, predicted};

type Result = core::result::Result<(), Box<dyn Error>>;

/// Stacks that are compared at each loss rate.
const STACKS: usize = 5;
const COLORS: [RGBColor; STACKS] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 140, 90),
    RGBColor(160, 160, 90),
    RGBColor(150, 90, 200),
];

/// Goodput by loss rate, one group of bars a loss rate, on a logarithmic scale, with what the response function predicts.
pub fn loss(path: &Path, results: &[LossResult]) -> Result {
    let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let rates: Vec<f64> = results.iter().filter(|r| r.burst == 1).fold(Vec::new(), |mut rates, r| {
        if rates.last() != Some(&r.loss) {
            rates.push(r.loss);
        }
        rates
    });
    let mut chart = ChartBuilder::on(&root)
        .caption("Goodput by random loss: 100 Mbit/s, 40 ms, queue of one BDP", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..rates.len() as f64, (0.8..130.0).log_scale())?;
    let label = |x: &f64| {
        let group = rates.get(*x as usize).filter(|_| (x.fract() - 0.5).abs() < 0.01);
        group.map_or(String::new(), |loss| format!("{} %", loss * 100.0))
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(2 * rates.len() + 1)
        .x_label_formatter(&label)
        .y_desc("Mbit/s of payload, logarithmic")
        .draw()?;
    for place in 0..STACKS {
        let bars =
            results.iter().filter(|r| r.burst == 1).enumerate().filter(|(index, _)| index % STACKS == place);
        let name = results[place].stack.name();
        let bars = bars.map(|(index, result)| {
            let left = (index / STACKS) as f64 + 0.1 + 0.16 * place as f64;
            Rectangle::new([(left, 0.8), (left + 0.145, result.goodput.median / 1e6)], COLORS[place].filled())
        });
        chart
            .draw_series(bars)?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], COLORS[place].filled()));
    }
    let lines = rates.iter().enumerate().map(|(group, &loss)| {
        let y = predicted(loss, RTT) / 1e6;
        PathElement::new([(group as f64 + 0.05, y), (group as f64 + 0.95, y)], BLACK.stroke_width(2))
    });
    chart
        .draw_series(lines)?
        .label("predicted for CUBIC (RFC 9438)")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], BLACK.stroke_width(2)));
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

/// Window, queue and goodput of one flow over time, one above the other.
pub fn series(directory: &Path, run: &Queue) -> Result {
    let path = directory.join(format!("flow-{}.svg", run.stack.name().to_lowercase()));
    let root = SVGBackend::new(&path, (900, 720)).into_drawing_area();
    root.fill(&WHITE)?;
    let parts = root.split_evenly((3, 1));
    let points = |value: fn(&super::measure::Sample) -> f64| {
        run.samples.iter().map(move |sample| (sample.at, value(sample))).collect::<Vec<_>>()
    };
    let name = run.stack.name();
    let title = |what| format!("{name}: {what}");
    line(&parts[0], &title("congestion window, KiB"), &[points(|sample| sample.cwnd / 1024.0)])?;
    line(&parts[1], &title("queue, KiB"), &[points(|sample| sample.queue / 1024.0)])?;
    line(&parts[2], &title("goodput, Mbit/s"), &[points(|sample| sample.goodput / 1e6)])?;
    root.present()?;
    Ok(())
}

/// Goodput of flows that share a link.
pub fn shared(directory: &Path, runs: &[Shared]) -> Result {
    let path = directory.join("shared.svg");
    let root = SVGBackend::new(&path, (900, 720)).into_drawing_area();
    root.fill(&WHITE)?;
    let parts = root.split_evenly((runs.len(), 1));
    for (part, run) in parts.iter().zip(runs) {
        let title = format!("{}: four flows, Mbit/s each", run.stack.name());
        let flow = |flow: &Vec<f64>| {
            flow.iter()
                .enumerate()
                .map(|(second, rate)| (second as f64 + 1.0, rate / 1e6))
                .collect::<Vec<_>>()
        };
        line(part, &title, &run.series.iter().map(flow).collect::<Vec<_>>())?;
    }
    root.present()?;
    Ok(())
}

fn line(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, lines: &[Vec<(f64, f64)>]) -> Result {
    let all = || lines.iter().flatten();
    let end = all().map(|point| point.0).fold(1.0, f64::max);
    // A single sample may count an instant's burst of bytes that had waited for a retransmission.
    let top = all().map(|point| point.1).fold(1.0, f64::max);
    let top = if title.contains("goodput") { top.min(GOODPUT_MAX * 1.5e-6) } else { top };
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..end, 0.0..top * 1.05)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("seconds").draw()?;
    for (line, color) in lines.iter().zip(COLORS) {
        let clipped = line.iter().map(|&(x, y)| (x, y.min(top * 1.05)));
        chart.draw_series(LineSeries::new(clipped, color.stroke_width(1)))?;
    }
    Ok(())
}
