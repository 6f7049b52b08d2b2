//! Draws the screen, whatever its size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row as TableRow, Table};

use super::app::App;
use super::model::{Row, Sort, total};
use crate::table::{clean, count, ms};

/// Lines above and below the rows: two of summary, the headings, and the keys.
const OTHER_LINES: u16 = 4;

/// One column: heading, width, the narrowest screen that shows it, and the cell.
struct Column {
    heading: &'static str,
    width: u16,
    screen: u16,
    cell: fn(&Row) -> String,
}

/// After the name, in the order of the screen.
const COLUMNS: [Column; 9] = [
    Column { heading: "STATE", width: 12, screen: 30, cell: |r| clean(&r.state) },
    Column { heading: "ADDRESS", width: 21, screen: 118, cell: |r| clean(&r.address) },
    Column { heading: "WEIGHT", width: 6, screen: 92, cell: |r| r.weight.to_string() },
    Column { heading: "ACTIVE", width: 7, screen: 40, cell: |r| count(r.active) },
    Column { heading: "OTHER", width: 7, screen: 100, cell: |r| count(r.inactive) },
    Column { heading: "CONN/S", width: 7, screen: 50, cell: |r| rate(r.rates.conns) },
    Column { heading: "PKT/S", width: 7, screen: 60, cell: |r| rate(r.rates.packets) },
    Column { heading: "BIT/S IN", width: 8, screen: 70, cell: |r| rate(r.rates.bits_in) },
    Column { heading: "BIT/S OUT", width: 9, screen: 80, cell: |r| rate(r.rates.bits_out) },
];

/// Rounded, as people read it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(crate) fn rate(value: f64) -> String {
    count(value.round() as u64)
}

/// Rows that fit on a screen of this height.
pub(crate) fn page(height: u16) -> usize {
    usize::from(height.saturating_sub(OTHER_LINES))
}

/// Draws everything.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &App) {
    let parts = [Constraint::Length(2), Constraint::Min(0), Constraint::Length(1)];
    let [top, middle, bottom] = Layout::vertical(parts).areas(frame.area());
    frame.render_widget(Paragraph::new(summary(app)), top);
    rows(frame, app, middle);
    frame.render_widget(Paragraph::new(keys(app)), bottom);
}

/// What matters of the node, in two lines.
pub(crate) fn summary(app: &App) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if let Some(sample) = app.sample() {
        let (status, (rates, active)) = (&sample.status, total(&app.groups));
        let mut first = format!("{} ({})", clean(&status.node), clean(&status.instance));
        match &status.data_plane {
            Some(d) if status.agent.state == "connected" => {
                let lease = if d.lease_ms > 0 { "" } else { ", NO LEASE" };
                first.push_str(&format!("  data plane up {}{lease}", ms(d.uptime_ms)));
                let percent = (d.table.used * 100).checked_div(d.table.capacity).unwrap_or(0);
                first.push_str(&format!("  table {} ({percent} %)", count(d.table.used)));
            }
            _ => first.push_str("  DATA PLANE LOST"),
        }
        if let Some(busy) = app.busy() {
            first.push_str(&format!("  polls {busy} % busy"));
        }
        let short = status.spare.iter().filter(|s| s.short).count();
        if short > 0 {
            first.push_str(&format!("  N-1: {short} short"));
        }
        lines.push(Line::from(first));
        lines.push(Line::from(format!(
            "{} active  {} conn/s  {} packets/s  {}bit/s in  {}bit/s out",
            count(active),
            rate(rates.conns),
            rate(rates.packets),
            rate(rates.bits_in),
            rate(rates.bits_out)
        )));
    }
    if let Some(problem) = &app.problem {
        lines.truncate(1);
        lines.insert(0, Line::styled(clean(problem), Style::new().fg(Color::Red)));
    } else if lines.is_empty() {
        lines.push(Line::from("asking …"));
    }
    lines
}

fn rows(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let columns: Vec<_> = COLUMNS.iter().filter(|c| c.screen <= area.width).collect();
    let mut widths = vec![Constraint::Min(10)];
    widths.extend(columns.iter().map(|c| Constraint::Length(c.width)));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut headings = vec!["SERVICE / REAL".to_owned()];
    headings.extend(columns.iter().map(|c| right(c, c.heading)));
    let mut all = Vec::new();
    for group in app.shown() {
        let mut add = |row: &Row, indent: &str, mut style: Style| {
            if row.troubled() {
                style = style.fg(Color::Red);
            } else if matches!(row.state.as_str(), "drained" | "disabled" | "slow-start") {
                style = style.fg(Color::Yellow);
            }
            let mut cells = vec![format!("{indent}{}", clean(&row.name))];
            cells.extend(columns.iter().map(|c| right(c, &(c.cell)(row))));
            all.push(TableRow::new(cells).style(style));
        };
        add(&group.service, "", bold);
        for real in &group.reals {
            add(real, "  ", Style::new());
        }
    }
    let fit = usize::from(area.height.saturating_sub(1));
    let scroll = app.scroll.min(all.len().saturating_sub(fit));
    let shown = all.into_iter().skip(scroll).take(fit);
    let table = Table::new(shown, widths).header(TableRow::new(headings).style(bold));
    frame.render_widget(table, area);
}

/// Numbers stand to the right, words to the left.
fn right(column: &Column, text: &str) -> String {
    let width = usize::from(column.width);
    match column.heading {
        "STATE" | "ADDRESS" => text.to_owned(),
        _ => format!("{text:>width$}"),
    }
}

fn keys(app: &App) -> Line<'static> {
    let reverse = Style::new().add_modifier(Modifier::REVERSED);
    if app.typing {
        let typed = format!("filter: {}_  (Enter: keep, Esc: clear)", app.filter);
        return Line::styled(typed, reverse);
    }
    let mut spans = Vec::new();
    if app.paused {
        spans.push(Span::styled("PAUSED", reverse));
        spans.push(Span::raw(" "));
    }
    if !app.filter.is_empty() {
        spans.push(Span::styled(format!("only {}", app.filter), reverse));
        spans.push(Span::raw(" "));
    }
    spans.push(Span::raw("q quit  space pause  / filter  r reverse  sort:"));
    for (key, name, sort) in Sort::ALL {
        let style = if sort == app.sort { reverse } else { Style::new() };
        spans.push(Span::raw(" "));
        spans.push(Span::styled(format!("{key} {name}"), style));
    }
    Line::from(spans)
}
