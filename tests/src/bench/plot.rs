//! Draws what was measured, as one SVG: (a) what a packet costs over the number of flows, (b) packets a second as
//! shares of a bare redirect, (c) requests a second by contender. A part that was not measured says so.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::http::Http;
use super::path::{Cell, FlowsAre};
use super::rate::Rate;
use super::report::Report;

/// Width and height, and the height of (a).
const SIZE: (u32, u32) = (1_100, 1_020);
const CURVES: u32 = 560;
/// Where bars begin and where the longest ends, pixels from the left of their half.
const BARS: (i32, i32) = (150, 370);
/// Height of a bar with the room below it, and of a heading, pixels.
const ROW: i32 = 26;
const HEADING: i32 = 34;

const OURS: RGBColor = BLUE;
const OTHERS: RGBColor = RGBColor(150, 150, 150);
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Draws all parts.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(report: &Report, file: &Path) -> Result<()> {
    draw_parts(report, file).map_err(|error| anyhow!("draw {}: {error}", file.display()))
}

fn draw_parts(report: &Report, file: &Path) -> Drawn {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, bottom) = root.split_vertically(CURVES);
    let (left, right) = bottom.split_horizontally(SIZE.0 / 2);
    draw_cells(&report.path.cells, &top)?;
    draw_bars("(b) Packets delivered, 1 = a bare redirect", &rate_groups(&report.rates), &left)?;
    draw_bars("(c) HTTP requests a second, 64 connections", &http_groups(&report.https), &right)?;
    root.present()?;
    Ok(())
}

/// (a), the cells of the first mode.
fn draw_cells(cells: &[Cell], area: &Area<'_>) -> Drawn {
    let title = "(a) Cost of a packet, ns of one CPU less those of an empty program";
    let Some(mode) = cells.first().map(|cell| cell.mode) else { return not_measured(title, area) };
    let cells: Vec<&Cell> = cells.iter().filter(|cell| cell.mode == mode).collect();
    let top = cells.iter().map(|cell| cell.net_ns).fold(0.0, f64::max);
    let mode = format!("{mode:?}").to_lowercase();
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{title}, mode {mode}"), (FONT, 19))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.7f64..1.4e8f64).log_scale(), (30f64..top * 1.4).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("established flows, drawn at random; crosses: a flood of 50 million new flows, one a packet")
        .y_desc("ns, logarithmic")
        .x_label_formatter(&|flows| short(*flows))
        .y_label_formatter(&|ns| format!("{ns:.0}"))
        .label_style((FONT, 13))
        .draw()?;
    let series = [
        ("reference", FlowsAre::Stable, "the same path with an LRU hash that tracks every flow", RED),
        ("balance", FlowsAre::Moving, "ours, every slot moving", MAGENTA),
        ("balance", FlowsAre::Always, "ours, tracking = always", GREEN),
        ("balance", FlowsAre::Stable, "ours, slots stable", OURS),
    ];
    for (program, flows_are, label, colour) in series {
        let of_it = |cell: &&&Cell| cell.program == program && cell.flows_are == flows_are;
        let point = |cell: &&Cell| (f64::from(cell.flows), cell.net_ns);
        let (flood, mut established): (Vec<&Cell>, Vec<&Cell>) =
            cells.iter().filter(of_it).partition(|cell| cell.flood);
        established.sort_unstable_by_key(|cell| cell.flows);
        let points: Vec<_> = established.iter().map(point).collect();
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        chart.draw_series(flood.iter().map(|cell| Cross::new(point(cell), 6, colour.stroke_width(3))))?;
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .margin(16)
        .label_font((FONT, 14))
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

/// One bar: who, how long, what is written at its end, whose.
struct Bar {
    name: String,
    value: f64,
    text: String,
    is_ours: bool,
}

fn rate_groups(rates: &[Rate]) -> Vec<(String, Vec<Bar>)> {
    let bar = |rate: &Rate| Bar {
        name: rate.contender.words().to_owned(),
        value: rate.share,
        text: format!("{:.2}, {}/s", rate.share, short(rate.packets_per_s)),
        is_ours: rate.contender == super::rate::Contender::Balance,
    };
    grouped(rates.iter().map(|rate| (rate.load.to_owned(), bar(rate))))
}

fn http_groups(https: &[Http]) -> Vec<(String, Vec<Bar>)> {
    let bar = |http: &Http| Bar {
        name: http.contender.words().to_owned(),
        value: http.requests_per_s,
        text: format!("{}, {:.2} of multipath", short(http.requests_per_s), http.share),
        is_ours: http.contender == super::http::Contender::Balance,
    };
    let kind =
        |http: &Http| if http.close { "a connection for each request" } else { "connections are kept" };
    grouped(https.iter().map(|http| (kind(http).to_owned(), bar(http))))
}

/// Neighbours of one name together.
fn grouped(bars: impl Iterator<Item = (String, Bar)>) -> Vec<(String, Vec<Bar>)> {
    let mut groups: Vec<(String, Vec<Bar>)> = Vec::new();
    for (name, bar) in bars {
        match groups.last_mut() {
            Some((last, bars)) if *last == name => bars.push(bar),
            _ => groups.push((name, vec![bar])),
        }
    }
    groups
}

/// Horizontal bars under headings; the longest of each group has the whole width.
fn draw_bars(title: &str, groups: &[(String, Vec<Bar>)], area: &Area<'_>) -> Drawn {
    if groups.is_empty() {
        return not_measured(title, area);
    }
    area.draw(&Text::new(title.to_owned(), (16, 12), (FONT, 19).into_font()))?;
    let (begin, end) = BARS;
    let style = TextStyle::from((FONT, 13).into_font());
    let to_the_left = style.pos(Pos::new(HPos::Right, VPos::Center));
    let to_the_right = style.pos(Pos::new(HPos::Left, VPos::Center));
    let mut y = 40;
    for (heading, bars) in groups {
        area.draw(&Text::new(heading.clone(), (16, y + 8), (FONT, 14).into_font()))?;
        y += HEADING;
        let longest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
        for bar in bars {
            let length = f64::from(end - begin) * bar.value / longest;
            let tip = begin + length.round() as i32;
            let colour = if bar.is_ours { OURS } else { OTHERS };
            area.draw(&Rectangle::new([(begin, y), (tip, y + ROW - 8)], colour.filled()))?;
            let middle = y + (ROW - 8) / 2;
            area.draw(&Text::new(bar.name.clone(), (begin - 8, middle), to_the_left.clone()))?;
            area.draw(&Text::new(bar.text.clone(), (tip + 6, middle), to_the_right.clone()))?;
            y += ROW;
        }
    }
    Ok(())
}

fn not_measured(title: &str, area: &Area<'_>) -> Drawn {
    area.draw(&Text::new(format!("{title}: not measured"), (16, 12), (FONT, 19).into_font()))?;
    Ok(())
}

/// `1.5 M`, `23.4 k`, `7`.
fn short(number: f64) -> String {
    let round = |number: f64| {
        let digits = if number < 9.95 && number.fract() > 0.05 { 1 } else { 0 };
        format!("{number:.digits$}")
    };
    match number {
        million if million >= 1e6 => format!("{} M", round(million / 1e6)),
        thousand if thousand >= 1e3 => format!("{} k", round(thousand / 1e3)),
        small => round(small),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::path::PathReport;
    use lb_common::abi::backend::Mode;

    fn drawn(report: &Report) -> String {
        let dir = crate::scratch::ScratchDir::create().unwrap();
        let file = dir.path().join("bench.svg");
        draw(report, &file).unwrap();
        std::fs::read_to_string(file).unwrap()
    }

    #[test]
    fn every_part_and_every_contender_is_in_the_picture() {
        let cell = |program, flows, flood, net_ns| Cell {
            mode: Mode::Ipip,
            flows_are: FlowsAre::Stable,
            flows,
            flood,
            program,
            ns: net_ns,
            net_ns,
        };
        let cells = vec![cell("balance", 1, false, 60.0), cell("reference", 50_000_000, true, 900.0)];
        let rate = |contender, share| Rate {
            load: "flood",
            contender,
            packets_per_s: share * 2.7e6,
            share,
            delivered: 1.0,
        };
        use crate::bench::rate::Contender::{Balance, BareRedirect};
        let rates = vec![rate(BareRedirect, 1.0), rate(Balance, 0.78)];
        let https = crate::bench::http::Contender::ALL.map(|contender| Http {
            close: true,
            contender,
            requests_per_s: 23_400.0,
            share: 0.97,
            latency_p99_ms: 3.0,
            errors: 0,
            offloads: Default::default(),
        });
        let path = PathReport { cells, ..PathReport::default() };
        let svg = drawn(&Report { path, rates, https: https.into(), ..Report::default() });
        for words in
            ["(a) Cost", "(b) Packets", "(c) HTTP", "0.78, 2.1 M/s", "23 k, 0.97 of multipath", "HAProxy"]
        {
            assert!(svg.contains(words), "no {words:?} in {svg}");
        }
        assert!(!svg.contains("not measured"));
    }

    #[test]
    fn what_was_not_measured_says_so() {
        assert_eq!(drawn(&Report::default()).matches("not measured").count(), 3);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1.0, 100_000.0, 1e6, 2_650_000.0, 9_400.0, 23_400.0].map(short),
            ["1", "100 k", "1 M", "2.6 M", "9.4 k", "23 k"]
        );
    }
}
