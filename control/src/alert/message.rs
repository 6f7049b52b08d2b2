//! What is sent: a few lines for people, the same as JSON for programs.

use serde::Serialize;
use serde_json::{Value, json};

use super::Sender;
use super::gather::Lines;
use crate::event::{Event, Phase, Severity};
use crate::time::{Stamp, show_duration};

/// Lines in a message; the rest is counted.
pub const LINES_SHOWN_MAX: usize = 200;

/// What became of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it first changed, milliseconds since 1970.
    pub unix_ms: u64,
    /// The last change: how it is now.
    pub event: Event,
    /// Changes since it was last told, this one included.
    pub changes: u64,
    /// How long the problem lasted, if it is over.
    pub lasted_ms: Option<u64>,
}

impl Line {
    /// How often it went and came back.
    #[must_use]
    pub const fn flaps(&self) -> u64 {
        match self.event.kind.phase() {
            Phase::Note => 0,
            Phase::Problem | Phase::Recovery => self.changes / 2,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.event.text();
        let lasted = self.lasted_ms.map(|ms| shown(ms, self.flaps()));
        let times = |n: u64| if n == 1 { "once".to_owned() } else { format!("{n} times") };
        match (self.flaps(), lasted) {
            (0, Some(lasted)) => text.push_str(&format!(" (lasted {lasted})")),
            (0, None) if self.changes > 1 => {
                text.push_str(&format!(" ({})", times(self.changes)));
            }
            (0, None) => {}
            (flaps, Some(lasted)) => {
                text.push_str(&format!(" (flapped {} in {lasted})", times(flaps)));
            }
            (flaps, None) => text.push_str(&format!(" (flapped {})", times(flaps))),
        }
        text
    }
}

/// To the second once it is longer than some.
fn shown(ms: u64, flaps: u64) -> String {
    let ms = if ms >= 10_000 || flaps > 0 && ms >= 1000 { ms / 1000 * 1000 } else { ms };
    show_duration(std::time::Duration::from_millis(ms))
}

/// One message to one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// From whom.
    pub sender: Sender,
    /// When it was put together, milliseconds since 1970.
    pub unix_ms: u64,
    /// Of its worst line.
    pub severity: Severity,
    /// What became of what, in the order of the first change; at most [`LINES_SHOWN_MAX`].
    pub lines: Vec<Line>,
    /// Changes beyond those.
    pub more: u64,
    /// Number of the test, if it is one.
    pub test: Option<u64>,
}

#[derive(Serialize)]
struct JsonLine<'a> {
    time: String,
    severity: Severity,
    #[serde(flatten)]
    event: &'a Event,
    text: String,
    flaps: u64,
    lasted_ms: Option<u64>,
}

impl Message {
    pub(super) fn new(gathered: Lines, sender: &Sender, unix_ms: u64) -> Self {
        let Lines { mut lines, mut more } = gathered;
        let worst = lines.iter().map(|l| l.event.kind.severity()).max();
        if lines.len() > LINES_SHOWN_MAX {
            more += (lines.len() - LINES_SHOWN_MAX) as u64;
            // The worst are shown whatever came before them.
            lines.sort_by_key(|l| std::cmp::Reverse(l.event.kind.severity()));
            lines.truncate(LINES_SHOWN_MAX);
            lines.sort_by_key(|l| l.unix_ms);
        }
        let severity = worst.unwrap_or(Severity::Info);
        Self { sender: sender.clone(), unix_ms, severity, lines, more, test: None }
    }

    pub(super) fn test(number: u64, sender: &Sender, unix_ms: u64) -> Self {
        let test = Some(number);
        let (severity, lines) = (Severity::Info, Vec::new());
        Self { sender: sender.clone(), unix_ms, severity, lines, more: 0, test }
    }

    /// One line that says the most important.
    #[must_use]
    pub fn subject(&self) -> String {
        let Sender { node, instance } = &self.sender;
        let from = format!("[{instance} {node}]");
        if self.test.is_some() {
            return format!("{from} test of the alerts");
        }
        let worst = self.lines.iter().find(|l| l.event.kind.severity() == self.severity);
        let what = worst.map_or_else(String::new, Line::text);
        let what: String = what.chars().take(160).collect();
        let word = self.severity.name().to_uppercase();
        match self.lines.len() as u64 + self.more {
            0 | 1 => format!("{from} {word}: {what}"),
            n => format!("{from} {word}: {n} changes, {what}"),
        }
    }

    /// All of it for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Sender { node, instance } = &self.sender;
        let mut text = match self.test {
            Some(_) => "This is a test, asked for with `xvip alert test`.\n".to_owned(),
            None => String::new(),
        };
        for line in &self.lines {
            let severity = line.event.kind.severity();
            let time = Stamp { unix_ms: line.unix_ms };
            text.push_str(&format!("{time}  {:<8}  {}\n", severity.name(), line.text()));
        }
        if self.more > 0 {
            text.push_str(&format!("… and {} more changes; see xvip events\n", self.more));
        }
        let time = Stamp { unix_ms: self.unix_ms };
        text.push_str(&format!("\nnode {node}, instance {instance}, sent {time}\n"));
        text
    }

    /// All of it for programs; `docs/protocols.md` explains it.
    #[must_use]
    pub fn json(&self) -> Value {
        let line = |l: &Line| {
            let line = JsonLine {
                time: Stamp { unix_ms: l.unix_ms }.to_string(),
                severity: l.event.kind.severity(),
                event: &l.event,
                text: l.text(),
                flaps: l.flaps(),
                lasted_ms: l.lasted_ms,
            };
            // Strings and numbers only: there is nothing in it that JSON cannot say.
            serde_json::to_value(line).unwrap_or(Value::Null)
        };
        json!({
            "version": 1,
            "node": self.sender.node,
            "instance": self.sender.instance,
            "time": Stamp { unix_ms: self.unix_ms }.to_string(),
            "severity": self.severity,
            "test": self.test.is_some(),
            "subject": self.subject(),
            "text": self.text(),
            "changes": self.lines.iter().map(line).collect::<Vec<_>>(),
            "more": self.more,
        })
    }
}
