//! What is wrong with a configuration file, where, and what would be right.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use super::machine::Machine;

/// Errors shown for one file; a file with more is beyond reading them all.
pub const SHOWN_MAX: usize = 50;
/// Longest line, in bytes, of which a picture is drawn.
const LINE_SHOWN_MAX: usize = 2000;

/// One error with its place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Error {
    /// Bytes of the text at fault.
    pub(super) span: Range<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// What is allowed there; beside the caret.
    pub(super) allowed: String,
    /// What to do about it.
    pub(super) help: Option<String>,
    /// Another place that takes part, with its role.
    pub(super) other: Option<(Range<usize>, String)>,
}

impl Error {
    /// An error at `span`.
    pub(super) fn new(
        span: Range<usize>,
        message: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        let (message, allowed) = (message.into(), allowed.into());
        Self { span, message, allowed, help: None, other: None }
    }

    /// Adds what to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds a suggestion, if there is one.
    pub(super) fn did_you_mean(mut self, candidate: Option<&str>) -> Self {
        if let Some(candidate) = candidate {
            self.help = Some(format!("did you mean `{candidate}`?"));
        }
        self
    }

    /// Adds another place that takes part.
    pub(super) fn other(mut self, span: Range<usize>, role: impl Into<String>) -> Self {
        self.other = Some((span, role.into()));
        self
    }
}

/// Collects errors while reading goes on, so that one run shows them all.
#[derive(Debug, Default)]
pub(super) struct Sink {
    errors: Vec<Error>,
    more: usize,
    /// Everybody can read the file: it must hold no secret.
    pub(super) public: bool,
    /// The machine that the file is for.
    pub(super) machine: Machine,
    /// Where secrets stand; no picture shows them.
    secrets: Vec<Range<usize>>,
    /// Files with secrets, and where they are named.
    secret_files: Vec<(PathBuf, Range<usize>)>,
}

impl Sink {
    /// Notes a file that holds a secret, to be looked at in the end.
    pub(super) fn secret_file(&mut self, path: PathBuf, span: Range<usize>) {
        self.secret_files.push((path, span));
    }

    /// Looks at every file with a secret.
    pub(super) fn inspect_secrets(&mut self) {
        for (path, span) in std::mem::take(&mut self.secret_files) {
            if let Err(message) = (self.machine.secret)(&path) {
                let message = format!("{}: {}", printable(&path.display().to_string()), message);
                self.push(Error::new(span, message, "a file that others cannot read"));
            }
        }
    }

    /// Notes an error.
    pub(super) fn push(&mut self, error: Error) {
        if self.errors.len() < SHOWN_MAX {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
    }

    /// Notes where a secret stands.
    pub(super) fn hide(&mut self, span: Range<usize>) {
        self.secrets.push(span);
    }

    /// Where secrets stand.
    pub(super) fn secrets(&self) -> &[Range<usize>] {
        &self.secrets
    }

    /// Whether nothing was wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Turns what was collected into the report on `text`.
    pub(super) fn report(mut self, text: &str, file: &str) -> Errors {
        self.errors.sort_by_key(|e| (e.span.start, e.span.end));
        let lines = Lines::of(text);
        let list = self.errors.iter().map(|e| lines.finding(e)).collect();
        let masked = mask(text, &self.secrets);
        let shown = Lines::of(&masked);
        let pictures = self.errors.iter().map(|e| shown.picture(e, file)).collect();
        Errors { file: printable(file), list, pictures, more: self.more }
    }
}

/// One error as data, for machine output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Line, from 1; 0 if the file could not be read at all.
    pub line: usize,
    /// Column in characters, from 1; 0 if the file could not be read at all.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What is allowed there; may be empty.
    pub allowed: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Everything that is wrong with a file. Displays as a report with a picture for each error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// The file.
    pub file: String,
    /// The errors, in the order of the text, at most [`SHOWN_MAX`].
    pub list: Vec<Finding>,
    /// How many more there are.
    pub more: usize,
    #[serde(skip)]
    pictures: Vec<String>,
}

impl Errors {
    /// The file itself is at fault: missing, unreadable, not text.
    #[must_use]
    pub fn unreadable(file: &str, message: impl Into<String>, help: Option<&str>) -> Self {
        let (file, message) = (printable(file), message.into());
        let picture = match help {
            Some(help) => format!("error: {file}: {message}\n   = help: {help}"),
            None => format!("error: {file}: {message}"),
        };
        let (allowed, help) = (String::new(), help.map(str::to_owned));
        let finding = Finding { line: 0, column: 0, message, allowed, help };
        Self { file, list: vec![finding], more: 0, pictures: vec![picture] }
    }

    /// How many errors there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.more
    }

    /// One line: the first error and how many there are.
    #[must_use]
    pub fn summary(&self) -> String {
        let Some(first) = self.list.first() else { return self.file.clone() };
        let place = match first.line {
            0 => self.file.clone(),
            line => format!("{}:{line}:{}", self.file, first.column),
        };
        match self.count() {
            1 => format!("{place}: {}", first.message),
            n => format!("{place}: {} (and {} more)", first.message, n - 1),
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for picture in &self.pictures {
            writeln!(f, "{picture}\n")?;
        }
        if self.more > 0 {
            writeln!(f, "... and {} more errors not shown", self.more)?;
        }
        let count = self.count();
        write!(f, "{}: {count} error{}", self.file, if count == 1 { "" } else { "s" })
    }
}

impl std::error::Error for Errors {}

/// `text` with a `*` for each byte of the secrets in it; ends of lines stay.
fn mask<'t>(text: &'t str, secrets: &[Range<usize>]) -> Cow<'t, str> {
    let mut bytes = text.as_bytes().to_vec();
    for secret in secrets {
        let hidden = bytes.get_mut(secret.clone()).unwrap_or_default();
        hidden.iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b'*');
    }
    // Spans of values begin and end at characters, so that what is left is text.
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Where each line of a text begins.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let mut starts = vec![0];
        starts.extend(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
        Self { text, starts }
    }

    /// Index of the line with byte `at`, its first byte, and its text without the end of line.
    fn line(&self, at: usize) -> (usize, usize, &'a str) {
        let index = self.starts.partition_point(|s| *s <= at).saturating_sub(1);
        let start = self.starts[index];
        let end = self.starts.get(index + 1).map_or(self.text.len(), |next| next - 1);
        (index, start, self.text.get(start..end).unwrap_or_default().trim_end_matches('\r'))
    }

    fn finding(&self, error: &Error) -> Finding {
        let (index, start, line) = self.line(error.span.start);
        let before = line.floor_char_boundary(error.span.start.saturating_sub(start));
        Finding {
            line: index + 1,
            column: line[..before].chars().count() + 1,
            message: error.message.clone(),
            allowed: error.allowed.clone(),
            help: error.help.clone(),
        }
    }

    /// A snippet of the first line of `span`, with the caret under the part that is on it.
    fn snippet(
        &self,
        span: &Range<usize>,
        kind: AnnotationKind,
        label: String,
        file: &'a str,
    ) -> Option<Snippet<'a, annotate_snippets::Annotation<'a>>> {
        let (index, start, line) = self.line(span.start);
        if line.len() > LINE_SHOWN_MAX {
            return None;
        }
        let from = line.floor_char_boundary(span.start - start);
        let to = line.ceil_char_boundary(span.end.saturating_sub(start)).max(from);
        let annotation = kind.span(from..to);
        let annotation = if label.is_empty() { annotation } else { annotation.label(label) };
        Some(Snippet::source(line).line_start(index + 1).path(file).annotation(annotation))
    }

    fn picture(&self, error: &Error, file: &str) -> String {
        let file = printable(file);
        let main = self.snippet(&error.span, AnnotationKind::Primary, error.allowed.clone(), &file);
        let Some(main) = main else {
            let f = self.finding(error);
            let tail = [Some(f.allowed).filter(|a| !a.is_empty()), f.help].into_iter().flatten();
            let tail: String = tail.map(|t| format!("\n   = {t}")).collect();
            return format!("error: {}\n  --> {file}:{}:{}{tail}", f.message, f.line, f.column);
        };
        let mut group = Level::ERROR.primary_title(&error.message).element(main);
        if let Some((span, role)) = &error.other {
            let other = self.snippet(span, AnnotationKind::Primary, role.clone(), &file);
            group = group.elements(other);
        }
        group = group.elements(error.help.as_ref().map(|h| Level::HELP.message(h)));
        Renderer::plain().render(&[group])
    }
}

/// `text` as it may be shown: bounded, and without control characters that could move a cursor.
pub(super) fn printable(text: &str) -> String {
    const MAX: usize = 80;
    let mut shown: String = text.chars().take(MAX).flat_map(show).collect();
    if text.chars().nth(MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

fn show(c: char) -> impl Iterator<Item = char> {
    let escaped = if c.is_control() { Some(c.escape_default()) } else { None };
    let plain = if escaped.is_none() { Some(c) } else { None };
    escaped.into_iter().flatten().chain(plain)
}
