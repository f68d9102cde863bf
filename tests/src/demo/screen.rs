//! Draws a picture on a terminal. Knows no balancer and no keys; what is drawn is what the picture says.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, SparklineBar, Table};

use super::picture::{BackendPicture, Picture};

/// Height of the curve, lines, and on a low screen.
const CURVE: u16 = 4;
const CURVE_LOW: u16 = 2;
/// A screen with fewer lines is low: what can be done without is left out.
const LOW: u16 = 32;
/// A screen with fewer columns is narrow: it has no bars, and rates of requests only.
const NARROW: u16 = 110;
/// Cells of the longest bar, at least and at most, and of all that stands beside it.
const BAR_MIN: u16 = 4;
const BAR_MAX: u16 = 30;
const BESIDE: u16 = 97;
/// The keys, each with what it does; they fit into 80 columns.
const KEYS: [(&str, &str); 9] = [
    ("↑↓", "choose"),
    ("k", "kill"),
    ("h", "hang"),
    ("d", "drain"),
    ("a", "add"),
    ("f", "flood"),
    ("r", "kill lb"),
    ("t", "undo"),
    ("q", "quit"),
];

/// What is drawn below the picture.
#[derive(Clone, Debug, Default)]
pub(super) struct Footer {
    /// Commands to try in another terminal.
    pub(super) hints: Vec<String>,
}

/// Draws everything; `chosen` is the number of the backend that the keys mean.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture, chosen: usize, footer: &Footer) {
    let backends = u16::try_from(picture.backends.len()).unwrap_or(u16::MAX);
    let low = frame.area().height < LOW;
    let keys = key_lines(footer, frame.area().width, low);
    let areas: [Rect; 7] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(1 + if low { CURVE_LOW } else { CURVE }),
        Constraint::Length(backends.saturating_add(2)),
        Constraint::Length(1),
        Constraint::Min(if low { 2 } else { 3 }),
        Constraint::Length(u16::try_from(keys.len()).unwrap_or(0) + 1),
    ])
    .areas(frame.area());
    let [title, sums, curve, table, drops, events, bottom] = areas;
    frame.render_widget(headline(picture), title);
    frame.render_widget(totals(picture), sums);
    draw_curve(frame, picture, curve);
    frame.render_widget(backend_table(picture, chosen, table.width), table);
    frame.render_widget(drop_line(picture), drops);
    draw_events(frame, picture, events);
    frame.render_widget(Paragraph::new(keys).block(line_above()), bottom);
}

fn headline(picture: &Picture) -> Line<'static> {
    let daemon = match &picture.daemon {
        Ok(text) => text.clone().dark_gray(),
        Err(text) => format!(" {text} ").white().on_red(),
    };
    let words = format!("  {}, {}, {}  ", picture.mode, picture.device, clock(picture.running));
    Line::from(vec![" Switchyard ".black().on_cyan().bold(), words.into(), daemon])
}

fn totals(picture: &Picture) -> Paragraph<'static> {
    let tally = &picture.tally;
    let line = |what: &'static str, rate: String, rest: Vec<Span<'static>>| {
        let mut spans = vec![format!(" {what:<18}").bold(), format!("{rate:>9}  ").cyan().bold()];
        spans.extend(rest);
        Line::from(spans)
    };
    let lines = vec![
        line(
            "HTTP requests",
            format!("{:.0}/s", picture.requests_per_s),
            vec![
                format!("{} ok   ", count(tally.requests_ok)).into(),
                bad(tally.requests_failed, "failed"),
                met(tally.failed_on_killed, "met a killed backend"),
            ],
        ),
        line(
            "datagrams",
            format!("{:.0}/s", picture.datagrams_per_s),
            vec![
                format!("{} ok   ", count(tally.udp_answered)).into(),
                bad(tally.udp_lost, "lost"),
                met(tally.udp_lost_on_killed, "met a killed backend"),
            ],
        ),
        line(
            "long connections",
            format!("{} open", tally.long_lived),
            vec![
                bad(tally.connections_broken, "broken"),
                met(tally.broken_on_killed, "died with their backend"),
            ],
        ),
    ];
    Paragraph::new(lines)
}

/// A count that should be 0.
fn bad(number: u64, what: &str) -> Span<'static> {
    let text = format!("{} {what}   ", count(number));
    if number == 0 { text.green() } else { text.red().bold() }
}

/// A count that is nobody's fault here.
fn met(number: u64, what: &str) -> Span<'static> {
    if number == 0 { Span::default() } else { format!("{} {what}", count(number)).yellow() }
}

fn draw_curve(frame: &mut Frame<'_>, picture: &Picture, area: Rect) {
    let block = line_above();
    let inner = block.inner(area);
    let top = picture.beats.iter().map(|beat| beat.requests_per_s as u64).max().unwrap_or(1).max(1);
    let title = format!(" requests/s, at most {} ", count(top)).dark_gray();
    frame.render_widget(block.title(title), area);
    let newest = picture.beats.len().saturating_sub(usize::from(inner.width));
    let bar = |beat: &super::rates::Beat| {
        let colour = match (beat.failed, beat.met_killed) {
            (true, _) => Color::Red,
            (false, true) => Color::Yellow,
            (false, false) => Color::Green,
        };
        SparklineBar::from(beat.requests_per_s as u64).style(Style::new().fg(colour))
    };
    let bars: Vec<SparklineBar> = picture.beats[newest..].iter().map(bar).collect();
    frame.render_widget(Sparkline::default().data(bars).max(top), inner);
}

/// The columns: heading, width, and whether numbers stand in it. A narrow screen has fewer.
fn columns(width: u16) -> Vec<(&'static str, Constraint, bool)> {
    let bar = width.saturating_sub(BESIDE).clamp(BAR_MIN, BAR_MAX);
    let all = [
        ("  name", Constraint::Length(6), false),
        ("intent", Constraint::Length(8), false),
        ("health", Constraint::Length(9), false),
        ("breaker", Constraint::Length(7), false),
        ("slots", Constraint::Length(6), true),
        ("req/s", Constraint::Length(5), true),
        ("", Constraint::Length(bar), false),
        ("udp/s", Constraint::Length(5), true),
        ("long", Constraint::Length(4), true),
        ("tracked", Constraint::Length(7), true),
        ("what happened", Constraint::Fill(1), false),
    ];
    let narrow = width < NARROW;
    all.into_iter().filter(|(name, ..)| !narrow || !["", "udp/s", "tracked"].contains(name)).collect()
}

fn backend_table(picture: &Picture, chosen: usize, width: u16) -> Table<'static> {
    let columns = columns(width);
    let top = picture.backends.iter().map(|backend| backend.requests_per_s).fold(1.0, f64::max);
    let headings = columns.iter().map(|(name, _, number)| cell((*name).into(), *number));
    let headings = Row::new(headings.collect::<Vec<_>>()).dark_gray();
    let rows = picture.backends.iter().enumerate().map(|(index, backend)| {
        let cells = columns.iter().map(|(name, width, number)| {
            cell(backend_cell(backend, name, *width, top, index == chosen), *number)
        });
        let row = Row::new(cells.collect::<Vec<_>>());
        let marked = Style::new().add_modifier(Modifier::BOLD).bg(Color::Indexed(236));
        if index == chosen { row.style(marked) } else { row }
    });
    let widths = columns.iter().map(|(_, width, _)| *width);
    Table::new(rows.collect::<Vec<_>>(), widths).header(headings).column_spacing(1).block(line_above())
}

fn cell(text: Line<'static>, is_number: bool) -> Cell<'static> {
    if is_number { Cell::from(Text::from(text).right_aligned()) } else { Cell::from(text) }
}

/// What stands in a column for a backend; `top`: the rate that has the longest bar.
fn backend_cell(
    backend: &BackendPicture,
    column: &str,
    width: Constraint,
    top: f64,
    is_chosen: bool,
) -> Line<'static> {
    match column {
        "  name" => format!("{}{}", if is_chosen { "▶ " } else { "  " }, backend.name).bold().into(),
        "intent" if backend.is_enabled() => backend.intent.clone().into(),
        "intent" => backend.intent.clone().yellow().into(),
        "health" => match backend.health.as_str() {
            "up" => backend.health.clone().green().into(),
            "unknown" | "-" | "coming up" => backend.health.clone().yellow().into(),
            _ => backend.health.clone().red().bold().into(),
        },
        "breaker" => backend.breaker.clone().into(),
        "slots" => format!("{:.1} %", backend.share * 100.0).into(),
        "req/s" => format!("{:.0}", backend.requests_per_s).into(),
        "udp/s" => format!("{:.0}", backend.datagrams_per_s).into(),
        "long" => backend.long_lived.to_string().into(),
        "tracked" => count(backend.tracked_flows).into(),
        "what happened" => backend.note.clone().dark_gray().into(),
        _ => {
            let Constraint::Length(longest) = width else { return Line::default() };
            let cells = (f64::from(longest) * backend.requests_per_s / top).round() as usize;
            "█".repeat(cells).green().into()
        }
    }
}

fn line_above() -> Block<'static> {
    Block::new().borders(Borders::TOP).border_style(Style::new().dark_gray())
}

fn drop_line(picture: &Picture) -> Line<'static> {
    if picture.drops.is_empty() {
        return Line::from(vec![" drops in the last minute  ".dark_gray(), "none".green()]);
    }
    let drops = picture.drops.iter().map(|(reason, packets)| format!("{reason} {}", count(*packets)));
    let text = drops.collect::<Vec<_>>().join("   ");
    Line::from(vec![" drops in the last minute  ".dark_gray(), text.yellow()])
}

/// The newest events, the newest at the bottom.
fn draw_events(frame: &mut Frame<'_>, picture: &Picture, area: Rect) {
    let block = line_above();
    let room = usize::from(block.inner(area).height);
    let newest = picture.events.len().saturating_sub(room);
    let line = |event: &super::board::Event| {
        let time = format!(" {:>8} ", clock(Duration::from_millis(event.at_ms))).dark_gray();
        let text = event.text.clone();
        Line::from(vec![time, if event.is_problem { text.red().bold() } else { text.into() }])
    };
    let lines: Vec<Line<'_>> = picture.events[newest..].iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// The keys, and below them what else can be tried: as many in a line as fit, and on a low screen one line.
fn key_lines(footer: &Footer, width: u16, low: bool) -> Vec<Line<'static>> {
    let mut keys = vec![Span::raw(" ")];
    for (key, what) in KEYS {
        keys.push(format!(" {key} ").black().on_gray());
        keys.push(format!("{what} ").into());
    }
    let mut hints = vec![" in another terminal:".to_owned()];
    for hint in &footer.hints {
        match hints.last_mut() {
            Some(last) if last.len() + 3 + hint.len() <= usize::from(width) => {
                last.push_str("   ");
                last.push_str(hint);
            }
            _ => hints.push(format!("   {hint}")),
        }
    }
    hints.truncate(if low { 1 } else { hints.len() });
    let hints = hints.into_iter().map(|line| Line::from(line.dark_gray()));
    [Line::from(keys)].into_iter().chain(hints).collect()
}

/// `1:05`.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let apart = |(index, digit): (usize, char)| {
        let comma = index > 0 && (digits.len() - index).is_multiple_of(3);
        [comma.then_some(','), Some(digit)].into_iter().flatten().collect::<Vec<_>>()
    };
    digits.chars().enumerate().flat_map(apart).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::board::Event;
    use crate::demo::load::Tally;
    use crate::demo::rates::Beat;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn picture() -> Picture {
        let backend = |name: &str, health: &str, note: &str| BackendPicture {
            name: name.to_owned(),
            is_alive: health == "up",
            intent: "enabled".to_owned(),
            health: health.to_owned(),
            breaker: "-".to_owned(),
            share: 0.5,
            requests_per_s: 640.0,
            datagrams_per_s: 320.0,
            long_lived: 30,
            tracked_flows: 1_234,
            note: note.to_owned(),
        };
        Picture {
            mode: "l2",
            running: Duration::from_secs(65),
            daemon: Err("lb serve is dead, packets go on".to_owned()),
            device: "native XDP on eth0".to_owned(),
            tally: Tally { requests_ok: 1_234_567, failed_on_killed: 41, ..Tally::default() },
            requests_per_s: 1_280.0,
            datagrams_per_s: 640.0,
            beats: vec![Beat { requests_per_s: 1_280.0, met_killed: true, failed: false }; 300],
            backends: vec![backend("b0", "up", ""), backend("b1", "down", "killed; out after 612 ms")],
            drops: vec![("no_backend".to_owned(), 3)],
            events: vec![Event { at_ms: 61_000, text: "b1 was killed".to_owned(), is_problem: false }; 40],
        }
    }

    fn drawn(width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let footer = Footer { hints: vec!["in another terminal: lb status".to_owned()] };
        terminal.draw(|frame| draw(frame, &picture(), 1, &footer)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn all_that_matters_is_on_the_screen() {
        let screen = drawn(120, 34);
        for words in [
            "lb serve is dead",
            "1,234,567 ok",
            "0 failed",
            "41 met a killed backend",
            "▶ b1",
            "killed; out after 612 ms",
            "no_backend 3",
            "1:01 b1 was killed",
            "kill lb",
            "lb status",
        ] {
            assert!(screen.contains(words), "no {words:?} in\n{screen}");
        }
    }

    #[test]
    fn eighty_columns_and_24_lines_show_what_one_must_know() {
        let screen = drawn(80, 24);
        for words in [
            "packets go on",
            "41 met a killed backend",
            "b0",
            "▶ b1",
            "killed; out after 612 ms",
            " q quit",
            "lb status",
        ] {
            assert!(screen.contains(words), "no {words:?} in\n{screen}");
        }
    }

    #[test]
    fn a_small_terminal_is_no_panic() {
        for (width, height) in [(1, 1), (20, 5), (80, 24), (300, 100)] {
            let _ = drawn(width, height);
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(clock(Duration::from_secs(3_605)), "60:05");
    }
}
