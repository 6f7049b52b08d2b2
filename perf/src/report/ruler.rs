//! Axes: where they begin and end, and where their ticks are.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::number;

/// How values lie along an axis.
#[derive(Clone, Debug)]
pub(super) enum Scale {
    /// Evenly, from 0.
    Linear,
    /// By decades.
    Log,
    /// By names: values are their places, from 0.
    Named(Vec<String>),
}

/// An axis with its ticks where people would put them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ruler {
    /// Its beginning.
    pub(super) from: f64,
    to: f64,
    log: bool,
    ticks: Vec<f64>,
    names: Vec<String>,
}

impl Ruler {
    /// One that has room for all these values; none if there are none that it can show.
    pub(super) fn over(scale: &Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let log = matches!(scale, Scale::Log);
        let values = values.filter(|v| v.is_finite() && (!log || *v > 0.0));
        let (least, most) = values.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        if least > most {
            return None;
        }
        Some(match scale {
            Scale::Linear => Self::linear(most),
            Scale::Log => Self::decades(least, most),
            Scale::Named(names) => Self {
                from: -0.4,
                to: names.len().saturating_sub(1) as f64 + 0.4,
                log,
                ticks: (0..names.len()).map(|n| n as f64).collect(),
                names: names.clone(),
            },
        })
    }

    /// Nanoseconds by decades, with their units.
    pub(super) fn times(values: impl Iterator<Item = f64>) -> Option<Self> {
        let ruler = Self::over(&Scale::Log, values)?;
        let whole = |v: f64| 10_f64.powf(v);
        let (low, high) = (ruler.from.log10().floor(), ruler.to.log10().ceil());
        let ticks: Vec<f64> = (low as i32..=high as i32).map(|n| whole(f64::from(n))).collect();
        let names = ticks.iter().map(|t| number::time(*t)).collect();
        Some(Self { from: whole(low), to: whole(high), log: true, ticks, names })
    }

    fn linear(most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 5.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|s| s * decade);
        let step = steps.into_iter().find(|s| *s >= rough * 0.999).unwrap_or(decade * 10.0);
        let count = (most / step * 0.9999).ceil() as usize;
        let ticks: Vec<f64> = (0..=count).map(|n| n as f64 * step).collect();
        Self { from: 0.0, to: count as f64 * step, log: false, ticks, names: Vec::new() }
    }

    fn decades(least: f64, most: f64) -> Self {
        let fine = most / least < 100.0;
        let marks: &[f64] = if fine { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        let all: Vec<f64> = (low..=high.max(low + 1))
            .flat_map(|decade| marks.iter().map(move |m| m * 10_f64.powi(decade)))
            .collect();
        let below = |v: &&f64| **v <= least * 1.0001;
        let above = |v: &&f64| **v >= most * 0.9999;
        let from = all.iter().rfind(below).copied().unwrap_or(least);
        let to = all.iter().find(above).copied().unwrap_or(most);
        let to = if to > from { to } else { from * 10.0 };
        let ticks = all.into_iter().filter(|t| (from..=to).contains(t)).collect();
        Self { from, to, log: true, ticks, names: Vec::new() }
    }
}

impl Ranged for Ruler {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let place = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).log10() } else { v };
        let share = (place(*value) - place(self.from)) / (place(self.to) - place(self.from));
        first + (share.clamp(-1.0, 2.0) * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Ruler {
    fn format(value: &f64) -> String {
        number::tick(*value)
    }

    fn format_ext(&self, value: &f64) -> String {
        let place = if self.log {
            self.ticks.iter().position(|tick| (tick / value - 1.0).abs() < 1e-6)
        } else {
            Some(value.round().max(0.0) as usize)
        };
        let name = place.and_then(|place| self.names.get(place));
        name.cloned().unwrap_or_else(|| Self::format(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_lie_far_apart_have_decades_with_units() {
        let ruler = Ruler::times([9_000.0, 6.4e6, 20_000.0].into_iter()).unwrap();
        assert_eq!((ruler.from, ruler.to), (1e3, 1e7));
        let ticks: Vec<_> = ruler.ticks.iter().map(|t| ruler.format_ext(t)).collect();
        assert_eq!(ticks, ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms"]);
        assert_eq!(Ruler::times(std::iter::empty()), None);
    }
}
