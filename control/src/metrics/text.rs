//! Writes samples as text: the Prometheus format, version 0.0.4, or OpenMetrics 1.0.
//!
//! They differ in the name under which a counter is declared, and in the last line.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Which of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    #[default]
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// What the header `Content-Type` says.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What a client that sends this `Accept` wants.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let wanted = accept.split(',').any(|kind| {
            kind.split(';').next().is_some_and(|k| k.trim() == "application/openmetrics-text")
        });
        if wanted { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Goes up and down.
    Gauge,
    /// Only goes up, until a restart; its name ends in `_total`.
    Counter,
    /// Counts in buckets, with sum and count.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Type,
    /// One line for the operator.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

/// Text in the making.
#[derive(Debug, Default)]
pub(super) struct Writer {
    format: Format,
    text: String,
    /// What the current metric has already: a sample given twice would spoil all of it.
    seen: BTreeSet<String>,
}

impl Writer {
    pub(super) fn new(format: Format) -> Self {
        Self { format, ..Self::default() }
    }

    /// One metric with its samples; nothing if there are none.
    pub(super) fn metric<'s>(
        &mut self,
        metric: &Metric,
        samples: impl IntoIterator<Item = (Vec<&'s str>, f64)>,
    ) {
        self.seen.clear();
        let mut begun = false;
        for (values, value) in samples {
            if !begun {
                self.begin(metric);
                begun = true;
            }
            let labels = labels(metric.labels.iter().copied().zip(values));
            if !self.seen.contains(&labels) {
                let _ = writeln!(self.text, "{}{labels} {}", metric.name, number(value));
                self.seen.insert(labels);
            }
        }
    }

    /// Names and types of what follows.
    fn begin(&mut self, metric: &Metric) {
        let (name, kind) = match (metric.kind, self.format) {
            (Type::Gauge, _) => (metric.name, "gauge"),
            (Type::Histogram, _) => (metric.name, "histogram"),
            (Type::Counter, Format::Prometheus) => (metric.name, "counter"),
            (Type::Counter, Format::OpenMetrics) => {
                (metric.name.trim_end_matches("_total"), "counter")
            }
        };
        let help = metric.help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A histogram: for each set of label values the counts of its buckets (not yet added up), the
    /// last without a bound, and the sum.
    pub(super) fn histogram<'s>(
        &mut self,
        metric: &Metric,
        bounds: &[f64],
        samples: impl IntoIterator<Item = (Vec<&'s str>, &'s [u64], f64)>,
    ) {
        let mut begun = false;
        for (values, counts, sum) in samples {
            if !begun {
                self.begin(metric);
                begun = true;
            }
            let pairs: Vec<_> = metric.labels.iter().copied().zip(values).collect();
            let mut total = 0_u64;
            for (at, count) in counts.iter().enumerate() {
                total = total.saturating_add(*count);
                let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), |b| number(*b));
                let with_bound = pairs.iter().copied().chain([("le", bound.as_str())]);
                let labels = labels(with_bound);
                let _ = writeln!(self.text, "{}_bucket{labels} {total}", metric.name);
            }
            let labels = labels(pairs.iter().copied());
            let _ = writeln!(self.text, "{}_sum{labels} {}", metric.name, number(sum));
            let _ = writeln!(self.text, "{}_count{labels} {total}", metric.name);
        }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

/// Whole numbers without a point.
fn number(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        format!("{value:.0}")
    } else {
        format!("{value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAUGE: Metric = Metric { name: "g", kind: Type::Gauge, help: "G.", labels: &["a", "b"] };
    const COUNTER: Metric =
        Metric { name: "c_total", kind: Type::Counter, help: "C.", labels: &[] };
    const HISTOGRAM: Metric =
        Metric { name: "h", kind: Type::Histogram, help: "H.", labels: &["t"] };

    fn write(format: Format) -> String {
        let mut writer = Writer::new(format);
        let forged = "x\"} 1\n\\";
        writer.metric(&GAUGE, [(vec![forged, "2"], 1.5), (vec![forged, "2"], 7.0)]);
        writer.metric(&COUNTER, [(vec![], 12_345_678.0)]);
        writer.metric(&GAUGE, []);
        writer.histogram(&HISTOGRAM, &[0.5, 1.0], [(vec!["x"], &[3, 2, 1][..], 4.25)]);
        writer.finish()
    }

    #[test]
    fn samples_are_grouped_escaped_and_never_doubled() {
        let expected = "# HELP g G.\n# TYPE g gauge\ng{a=\"x\\\"} 1\\n\\\\\",b=\"2\"} 1.5\n\
            # HELP c_total C.\n# TYPE c_total counter\nc_total 12345678\n\
            # HELP h H.\n# TYPE h histogram\nh_bucket{t=\"x\",le=\"0.5\"} 3\n\
            h_bucket{t=\"x\",le=\"1\"} 5\nh_bucket{t=\"x\",le=\"+Inf\"} 6\n\
            h_sum{t=\"x\"} 4.25\nh_count{t=\"x\"} 6\n";
        assert_eq!(write(Format::Prometheus), expected);
    }

    #[test]
    fn open_metrics_names_counters_without_their_ending_and_has_an_end() {
        let text = write(Format::OpenMetrics);
        assert!(text.contains("# TYPE c counter\nc_total 12345678\n"));
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn the_format_is_the_one_that_was_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
        assert_eq!(Format::accepted(""), Format::Prometheus);
    }
}
