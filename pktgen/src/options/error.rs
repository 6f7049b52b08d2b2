//! What is wrong with options, where, and what would be right.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::Scenario;

/// Errors shown for one command line; one with more is beyond reading them all.
const SHOWN_MAX: usize = 50;
/// Longest line, in bytes, of which a picture is drawn.
const LINE_SHOWN_MAX: usize = 2000;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The command line.
    Flag,
    /// These bytes of the scenario file.
    File(Range<usize>),
    /// Nowhere: the default.
    Default,
}

/// One error.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// The option's key; empty if it is about none.
    pub(super) key: &'static str,
    pub(super) place: Place,
    /// What is wrong.
    pub(super) message: String,
    /// What is allowed there; may be empty.
    pub(super) allowed: String,
    /// What to do about it.
    pub(super) help: Option<String>,
}

/// Everything that is wrong. Displays as a report with a picture for each error in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    pictures: Vec<String>,
}

impl Errors {
    /// One error without a place.
    #[must_use]
    pub fn plain(message: impl fmt::Display) -> Self {
        Self { pictures: vec![format!("error: {message}")] }
    }

    /// A file that cannot be read at all.
    pub(super) fn file(name: &str, why: &str) -> Self {
        Self::plain(format_args!("{}: {why}", printable(name)))
    }

    /// Draws these, in the order of the file, flags first.
    pub(super) fn of(mut problems: Vec<Problem>, scenario: Option<Scenario<'_>>) -> Self {
        problems.sort_by_key(|p| match &p.place {
            Place::File(span) => span.start + 1,
            Place::Flag | Place::Default => 0,
        });
        let more = problems.len().saturating_sub(SHOWN_MAX);
        problems.truncate(SHOWN_MAX);
        let mut pictures: Vec<_> = problems.iter().map(|p| picture(p, scenario)).collect();
        if more > 0 {
            pictures.push(format!("... and {more} more errors not shown"));
        }
        Self { pictures }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pictures.join("\n"))
    }
}

impl std::error::Error for Errors {}

fn picture(problem: &Problem, scenario: Option<Scenario<'_>>) -> String {
    match (&problem.place, scenario) {
        (Place::File(span), Some(scenario)) => in_file(problem, span, scenario),
        _ => {
            let flag = match problem.key {
                "" => String::new(),
                key => format!("--{}: ", key.replace('_', "-")),
            };
            format!("error: {flag}{}{}", problem.message, tail(problem))
        }
    }
}

fn tail(problem: &Problem) -> String {
    let allowed = Some(&problem.allowed).filter(|a| !a.is_empty());
    allowed.into_iter().chain(&problem.help).map(|t| format!("\n   = {t}")).collect()
}

fn in_file(problem: &Problem, span: &Range<usize>, scenario: Scenario<'_>) -> String {
    let (text, name) = (scenario.text, printable(scenario.name));
    let at = text.floor_char_boundary(span.start.min(text.len()));
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let number = text[..at].matches('\n').count() + 1;
    let line = text[start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
    let from = (at - start).min(line.len());
    if line.len() > LINE_SHOWN_MAX {
        let column = line[..from].chars().count() + 1;
        return format!(
            "error: {}\n  --> {name}:{number}:{column}{}",
            problem.message,
            tail(problem)
        );
    }
    let to = line.ceil_char_boundary(span.end.saturating_sub(start).clamp(from, line.len()));
    let mark = AnnotationKind::Primary.span(from..to);
    let mark = if problem.allowed.is_empty() { mark } else { mark.label(&problem.allowed) };
    let snippet = Snippet::source(line).line_start(number).path(&name).annotation(mark);
    let group = Level::ERROR.primary_title(&problem.message).element(snippet);
    let group = group.elements(problem.help.as_ref().map(|h| Level::HELP.message(h)));
    Renderer::plain().render(&[group])
}

/// `text` as it may be shown: bounded, and without control characters that could move a cursor.
pub(super) fn printable(text: &str) -> String {
    const MAX: usize = 80;
    let mut shown = String::new();
    for c in text.chars().take(MAX) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if text.chars().nth(MAX).is_some() {
        shown.push_str("...");
    }
    shown
}
