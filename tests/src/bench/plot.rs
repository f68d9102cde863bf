//! Draws what a packet costs over the number of flows, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::path::{Cell, FlowsAre};

const SIZE: (u32, u32) = (900, 520);

/// Draws the cells of the first mode.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(cells: &[Cell], file: &Path) -> Result<()> {
    let Some(mode) = cells.first().map(|cell| cell.mode) else { return Ok(()) };
    let cells: Vec<&Cell> = cells.iter().filter(|cell| cell.mode == mode).collect();
    draw_cells(&cells, file).map_err(|error| anyhow!("draw {}: {error}", file.display()))
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw_cells(cells: &[&Cell], file: &Path) -> Drawn {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let top = cells.iter().map(|cell| cell.net_ns).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .caption("Cost of a packet, ns of one CPU less an empty program", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((1f64..1e8f64).log_scale(), (20f64..top * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("flows (the last points: 50 million new ones, one a packet)")
        .y_desc("ns, logarithmic")
        .draw()?;
    let series = [
        ("balance", FlowsAre::Stable, "ours, tracking auto, slots stable", BLUE),
        ("balance", FlowsAre::Moving, "ours, every slot moving", MAGENTA),
        ("balance", FlowsAre::Always, "ours, tracking always", GREEN),
        ("reference", FlowsAre::Stable, "the same path with an LRU hash", RED),
    ];
    for (program, flows_are, label, colour) in series {
        let of_it = |cell: &&&Cell| cell.program == program && cell.flows_are == flows_are;
        let points = cells.iter().filter(of_it).map(|cell| (f64::from(cell.flows), cell.net_ns));
        let mut points: Vec<(f64, f64)> = points.collect();
        points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        chart
            .draw_series(LineSeries::new(points, colour))?
            .label(label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour));
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
