//! Charts as SVG: lines over one axis, and bars. They carry their own colours for light and dark
//! pages, name what they were measured on, and use whatever sans-serif font the reader has.

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ruler::Ruler;
pub(super) use super::ruler::Scale;

const WIDTH: u32 = 820;
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const QUIET: RGBColor = RGBColor(0x59, 0x63, 0x6e);
const GRID: RGBColor = RGBColor(0xd9, 0xdf, 0xe5);
/// Of what is compared with.
const OTHER: RGBColor = RGBColor(0x8b, 0x94, 0x9e);
/// Of middle brightness, so that each stands out from a white and from a black page; also told
/// apart by people who do not tell red from green.
const SERIES: [RGBColor; 6] = [
    RGBColor(0x2f, 0x81, 0xf7),
    RGBColor(0xe3, 0x77, 0x1a),
    RGBColor(0x1a, 0x9c, 0x74),
    RGBColor(0xb3, 0x5f, 0xd6),
    RGBColor(0xd6, 0x45, 0x5d),
    RGBColor(0xa8, 0x8a, 0x10),
];
/// What a dark page shows in place of the colours above.
const STYLE: &str = "<style>
text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif }
@media (prefers-color-scheme: dark) {
  [fill='#FFFFFF'] { fill: #0D1117 } [stroke='#FFFFFF'] { stroke: #0D1117 }
  [fill='#1F2328'] { fill: #E6EDF3 } [stroke='#1F2328'] { stroke: #E6EDF3 }
  [fill='#59636E'] { fill: #9DA7B3 } [stroke='#59636E'] { stroke: #9DA7B3 }
  [stroke='#D9DFE5'] { stroke: #30363D }
}
</style>
";

/// An axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// What it shows, with its unit.
    pub(super) label: String,
    /// How.
    pub(super) scale: Scale,
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// As the legend says it.
    pub(super) name: String,
    /// In order of the first.
    pub(super) points: Vec<(f64, f64)>,
    /// Whether it is a measure to compare with: drawn dashed and grey, without marks.
    pub(super) limit: bool,
}

/// A chart of lines.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    /// What it shows.
    pub(super) title: String,
    /// What it was measured on.
    pub(super) source: String,
    /// From left to right.
    pub(super) x: Axis,
    /// Upwards.
    pub(super) y: Axis,
    /// The lines.
    pub(super) series: Vec<Series>,
}

/// A bar.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// At its left.
    pub(super) name: String,
    /// Its length.
    pub(super) value: f64,
    /// Least and most of the rounds that it is the median of.
    pub(super) range: (f64, f64),
    /// At its right.
    pub(super) text: String,
    /// Whether it is ours; others are grey.
    pub(super) ours: bool,
    /// Whether there is a gap above it.
    pub(super) gap: bool,
}

/// A chart of bars.
#[derive(Clone, Debug)]
pub(super) struct Bars {
    /// What it shows.
    pub(super) title: String,
    /// What it was measured on.
    pub(super) source: String,
    /// What the length of a bar is, with its unit.
    pub(super) label: String,
    /// From above.
    pub(super) bars: Vec<Bar>,
    /// Values are nanoseconds that lie far apart: by decades, with units.
    pub(super) log: bool,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Lines {
    /// The chart as SVG.
    ///
    /// # Errors
    /// If there is nothing to draw.
    pub(super) fn svg(&self) -> anyhow::Result<String> {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (x, y) = (
            Ruler::over(&self.x.scale, points().map(|p| p.0)).context("no points")?,
            Ruler::over(&self.y.scale, points().map(|p| p.1)).context("no points")?,
        );
        let names: Vec<_> = self.series.iter().map(|s| (s.name.as_str(), s.limit)).collect();
        draw(420, |area| {
            let mut top = head(area, &self.title, &self.source)?;
            top = legend(area, &names, top)?;
            let mut chart = ChartBuilder::on(area)
                .margin_top(top + 8)
                .margin_right(28)
                .margin_bottom(8)
                .margin_left(8)
                .x_label_area_size(44)
                .y_label_area_size(62)
                .build_cartesian_2d(x.clone(), y.clone())?;
            mesh(&mut chart, &self.x.label, &self.y.label)?;
            for (number, series) in self.series.iter().enumerate() {
                let color = color(number, series.limit);
                let points = series.points.iter().copied();
                if series.limit {
                    let line = DashedLineSeries::new(points, 7, 5, color.stroke_width(2));
                    chart.draw_series(line)?;
                } else {
                    chart.draw_series(LineSeries::new(points, color.stroke_width(3)))?;
                    let marks = series.points.iter().map(|p| Circle::new(*p, 4, color.filled()));
                    chart.draw_series(marks)?;
                }
            }
            Ok(())
        })
    }
}

impl Bars {
    /// The chart as SVG.
    ///
    /// # Errors
    /// If there is nothing to draw.
    pub(super) fn svg(&self) -> anyhow::Result<String> {
        const BAR: f64 = 26.0;
        const GAP: f64 = 14.0;
        let ends = self.bars.iter().map(|b| b.value.max(b.range.1));
        let ruler = if self.log {
            let begins = self.bars.iter().map(|b| b.value.min(b.range.0).max(1.0));
            Ruler::times(ends.chain(begins)).context("no bars")?
        } else {
            Ruler::over(&Scale::Linear, ends).context("no bars")?
        };
        let from = ruler.from;
        let gaps = self.bars.iter().skip(1).filter(|b| b.gap).count();
        let height = BAR * self.bars.len() as f64 + GAP * gaps as f64;
        let longest = |text: fn(&Bar) -> &str| {
            self.bars.iter().map(|b| width(text(b), 14.0)).max().unwrap_or(0)
        };
        let (left, right) = (longest(|b| &b.name) + 20, longest(|b| &b.text) + 24);
        let lines = wrapped(&self.title, (WIDTH - 32) as f64 / (17.0 * 0.56)).len() as u32;
        draw(height as u32 + 100 + 22 * lines, |area| {
            let top = head(area, &self.title, &self.source)?;
            let mut chart = ChartBuilder::on(area)
                .margin_top(top + 4)
                .margin_right(right)
                .margin_bottom(8)
                .margin_left(left)
                .x_label_area_size(44)
                .build_cartesian_2d(ruler.clone(), 0.0..height)?;
            mesh(&mut chart, "", "")?;
            // Below the whole chart: what is left for the bars may be too narrow.
            let (middle, bottom) = (WIDTH as i32 / 2, area.dim_in_pixel().1 as i32 - 16);
            text(area, &self.label, (middle, bottom), 13.0, INK, HPos::Center)?;
            let mut at = height;
            for (number, bar) in self.bars.iter().enumerate() {
                if bar.gap && number > 0 {
                    at -= GAP;
                }
                let color = if bar.ours { SERIES[0] } else { OTHER };
                let corners = [(from, at - 4.0), (bar.value, at - BAR + 4.0)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
                let middle = at - BAR / 2.0;
                let spread = [(bar.range.0, middle), (bar.range.1, middle)];
                chart.draw_series([PathElement::new(spread, INK.stroke_width(1))])?;
                let (_, y) = chart.backend_coord(&(from, middle));
                let (x, _) = chart.backend_coord(&(bar.value.max(bar.range.1), middle));
                text(area, &bar.name, (left as i32 - 8, y), 14.0, INK, HPos::Right)?;
                text(area, &bar.text, (x + 8, y), 14.0, INK, HPos::Left)?;
                at -= BAR;
            }
            Ok(())
        })
    }
}

fn draw(
    height: u32,
    content: impl FnOnce(&Area<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&PAPER)?;
        content(&area)?;
        area.present()?;
    }
    let head = svg.find('>').ok_or_else(|| anyhow!("no drawing"))? + 2;
    svg.insert_str(head.min(svg.len()), STYLE);
    Ok(svg)
}

fn color(number: usize, limit: bool) -> RGBColor {
    if limit { OTHER } else { SERIES[number % SERIES.len()] }
}

/// Pixels that a text takes, at most: fonts differ from reader to reader.
fn width(text: &str, size: f64) -> u32 {
    (text.chars().count() as f64 * size * 0.56).ceil() as u32
}

fn text(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: f64,
    color: RGBColor,
    anchor: HPos,
) -> anyhow::Result<()> {
    // The backend divides by 1.24, as if sizes were heights of lines.
    let style = ("sans-serif", size * 1.24).into_text_style(area).color(&color);
    area.draw_text(text, &style.pos(Pos::new(anchor, VPos::Center)), at)?;
    Ok(())
}

/// Title and source; returns where they end.
fn head(area: &Area<'_>, title: &str, source: &str) -> anyhow::Result<u32> {
    let mut y = 22;
    for line in wrapped(title, (WIDTH - 32) as f64 / (17.0 * 0.56)) {
        text(area, &line, (16, y), 17.0, INK, HPos::Left)?;
        y += 22;
    }
    // A word too many goes to the next line, not over the edge.
    for line in wrapped(source, (WIDTH - 32) as f64 / (11.5 * 0.56)) {
        text(area, &line, (16, y), 11.5, QUIET, HPos::Left)?;
        y += 16;
    }
    Ok(y as u32)
}

fn wrapped(text: &str, most: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if (line.chars().count() + 1 + word.chars().count()) as f64 <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// What each line is; returns where that ends.
fn legend(area: &Area<'_>, names: &[(&str, bool)], top: u32) -> anyhow::Result<u32> {
    let (mut x, mut y) = (16, top as i32 + 8);
    for (number, (name, limit)) in names.iter().enumerate() {
        let room = 28 + width(name, 13.0) as i32 + 14;
        if x + room > WIDTH as i32 && x > 16 {
            (x, y) = (16, y + 20);
        }
        let stroke = color(number, *limit).stroke_width(if *limit { 2 } else { 4 });
        let parts: &[(i32, i32)] = if *limit { &[(0, 8), (13, 21)] } else { &[(0, 21)] };
        for (from, to) in parts {
            area.draw(&PathElement::new([(x + from, y), (x + to, y)], stroke))?;
        }
        text(area, name, (x + 28, y), 13.0, INK, HPos::Left)?;
        x += room;
    }
    Ok((y + 10) as u32)
}

/// Grid, ticks and what the axes are.
fn mesh<X, Y>(
    chart: &mut ChartContext<'_, SVGBackend<'_>, Cartesian2d<X, Y>>,
    x: &str,
    y: &str,
) -> anyhow::Result<()>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let labels = ("sans-serif", 12.5 * 1.24).into_font().color(&QUIET);
    let names = ("sans-serif", 13.0 * 1.24).into_font().color(&INK);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x)
        .x_labels(16)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(QUIET)
        .label_style(labels)
        .axis_desc_style(names);
    if y.is_empty() {
        mesh.disable_y_axis().disable_y_mesh();
    } else {
        mesh.y_desc(y).y_labels(16);
    }
    mesh.draw()?;
    Ok(())
}
