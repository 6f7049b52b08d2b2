//! Regular expressions of checks, compiled once and compared by their text.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use regex::bytes::{Regex, RegexBuilder};

/// Longest expression, in bytes.
pub const PATTERN_MAX: usize = 1024;
/// Memory that a compiled expression may take, in bytes: it bounds the time of a match, which is at
/// most its size times the text's. `[ab]*a[ab]{400}c` fits and takes 0.2 s for 64 KiB of `a` and `b`
/// in a development build; ordinary ones take microseconds.
const COMPILED_MAX: usize = 32 << 10;
/// Memory for the cache while matching, in bytes.
const CACHE_MAX: usize = 1 << 20;

/// A regular expression over bytes. Matching takes time linear to the text (crate `regex`).
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_MAX {
            return Err(format!("longer than {PATTERN_MAX} bytes"));
        }
        let mut builder = RegexBuilder::new(text);
        // Bytes, not text: `.` and `\w` mean one byte, which also keeps expressions small.
        builder.unicode(false).size_limit(COMPILED_MAX).dfa_size_limit(CACHE_MAX);
        match builder.build() {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err("needs too much memory; use smaller repetitions".to_owned())
            }
            // The error is a drawing of several lines; its last says what is wrong.
            Err(error) => {
                let shown = error.to_string();
                let last = shown.lines().last().unwrap_or_default();
                Err(last.trim_start_matches("error: ").to_owned())
            }
        }
    }

    /// Whether it occurs in `bytes`.
    #[must_use]
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_bytes_and_are_compared_by_their_text() {
        let pattern = Pattern::new(r"(?i)ok\b").unwrap();
        assert!(pattern.matches(b"all \xff\0 OK now") && !pattern.matches(b"broken"));
        assert_eq!(pattern, Pattern::new(r"(?i)ok\b").unwrap());
        assert_ne!(pattern, Pattern::new("ok").unwrap());
    }

    #[test]
    fn words_and_letters_beyond_ascii_are_bytes() {
        for (text, bytes) in
            [(r"(?i)status: \w{2,40} é{2}", "STATUS: fine éé"), (r"^.{4}$", "\u{e9}\u{e9}")]
        {
            assert!(Pattern::new(text).unwrap().matches(bytes.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_too_big_a_one_is_refused_in_one_line() {
        for (text, part) in [
            ("(", "unclosed group"),
            ("a{9999}{9999}", "memory"),
            ("[ab]*a[ab]{5000}c", "memory"),
            (&"a".repeat(2000), "longer"),
        ] {
            let error = Pattern::new(text).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }
}
