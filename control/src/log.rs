//! One line for each transition: what happened and why, as `key=value`.
//!
//! The core makes [`Record`]s; [`crate::io::log`] stamps and writes them.

use std::fmt;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Normal course of things.
    Info,
    /// Something is not as wanted; xvip goes on and retries.
    Warn,
    /// An operator has to act.
    Error,
}

/// A line of the log without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// How much it matters.
    pub level: Level,
    /// What happened; a fixed word that a search finds.
    pub event: &'static str,
    /// The particulars.
    pub fields: Vec<(&'static str, String)>,
}

impl Record {
    /// A record without particulars.
    #[must_use]
    pub const fn new(level: Level, event: &'static str) -> Self {
        Self { level, event, fields: Vec::new() }
    }

    /// Adds one particular.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.fields.push((key, value.to_string()));
        self
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        write!(f, "level={level} event={}", self.event)?;
        for (key, value) in &self.fields {
            let plain = !value.is_empty()
                && value.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '=');
            // Quoted and escaped otherwise, so that no value can forge a line or a key.
            if plain { write!(f, " {key}={value}")? } else { write!(f, " {key}={value:?}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_forge_a_line_or_a_key() {
        let record = Record::new(Level::Warn, "x").with("a", "plain").with("b", "c=d\nlevel=error");
        assert_eq!(record.to_string(), r#"level=warn event=x a=plain b="c=d\nlevel=error""#);
    }
}
