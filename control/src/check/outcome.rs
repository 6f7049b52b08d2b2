//! What came of one run of a check.

use std::time::Duration;

/// Longest reason or note, in bytes.
pub const REASON_MAX: usize = 256;

/// What one run of a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered as it should.
    Up(Passed),
    /// It did not; why, in words. At most [`REASON_MAX`] printable bytes: see [`Outcome::down`].
    Down(String),
    /// The question could not be put, which says nothing of the server; why, in words.
    CannotRun(String),
}

/// Particulars of a passed run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Share of its configured weight that the server asks for, 0 to 100.
    pub weight_percent: Option<u8>,
    /// What an operator should know although the check passed (a certificate ends in 9 days).
    pub note: Option<String>,
}

impl Outcome {
    /// Passed, and nothing else to say.
    #[must_use]
    pub const fn up() -> Self {
        Self::Up(Passed { weight_percent: None, note: None })
    }

    /// Failed; bytes of a hostile server in `reason` do no harm.
    #[must_use]
    pub fn down(reason: impl AsRef<str>) -> Self {
        Self::Down(printable(reason.as_ref()))
    }

    /// Not carried out.
    #[must_use]
    pub fn cannot_run(reason: impl AsRef<str>) -> Self {
        Self::CannotRun(printable(reason.as_ref()))
    }

    /// `up`, `down` or `cannot-check`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Down(_) => "down",
            Self::CannotRun(_) => "cannot-check",
        }
    }

    /// Why, or what there is to know.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Up(passed) => passed.note.as_deref(),
            Self::Down(reason) | Self::CannotRun(reason) => Some(reason),
        }
    }
}

/// One run of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it found.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// `text` for people and logs: at most [`REASON_MAX`] bytes of printable ASCII, the rest escaped.
#[must_use]
pub fn printable(text: &str) -> String {
    escape(text.chars().flat_map(|c| {
        let plain = c == ' ' || c.is_ascii_graphic();
        let escaped = (!plain).then(|| c.escape_default());
        escaped.into_iter().flatten().chain(plain.then_some(c))
    }))
}

/// As [`printable`], of bytes that may be no text at all.
#[must_use]
pub fn printable_bytes(bytes: &[u8]) -> String {
    let escaped = bytes.iter().flat_map(|b| std::ascii::escape_default(*b));
    escape(escaped.map(char::from))
}

/// Cut at [`REASON_MAX`]; what comes in is ASCII.
fn escape(chars: impl Iterator<Item = char>) -> String {
    const MORE: &str = "...";
    let mut text: String = chars.take(REASON_MAX + 1).collect();
    if text.len() > REASON_MAX {
        text.truncate(REASON_MAX - MORE.len());
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_answer_is_shown_short_and_without_a_control_character() {
        let hostile = format!("\u{1b}[2J\0\n\u{202e}é{}", "x".repeat(1 << 20));
        for outcome in [Outcome::down(&hostile), Outcome::cannot_run(&hostile)] {
            let reason = outcome.reason().unwrap();
            assert_eq!(reason.len(), REASON_MAX);
            assert!(reason.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{reason}");
            assert!(reason.starts_with(r"\u{1b}[2J\u{0}\n\u{202e}\u{e9}xx"), "{reason}");
        }
        assert_eq!(printable_bytes(b"a\xff\0b"), r"a\xff\x00b");
    }
}
