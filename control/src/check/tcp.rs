//! `type = "tcp"`: a TCP connection can be opened, with TLS if wanted, and the server says what it
//! should.
//!
//! It is closed with a reset, so that neither side keeps anything of it.

use super::lines::show;
use super::pattern::Pattern;
use super::tls;

/// What is said, and what must come back. The default asks for no more than the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// TLS, with the connection.
    pub tls: Option<tls::Settings>,
    /// Sent first.
    pub send: Option<String>,
    /// What must occur in what the server sends.
    pub expect: Option<Pattern>,
}

impl Settings {
    /// Whether what has been received is enough to pass.
    #[must_use]
    pub fn satisfied(&self, received: &[u8]) -> bool {
        self.expect.as_ref().is_none_or(|pattern| pattern.matches(received))
    }

    /// Why the check fails with no more than `received`: `how` it ended, in words.
    #[must_use]
    pub fn unsatisfied(&self, received: &[u8], how: &str) -> String {
        let text = self.expect.as_ref().map(Pattern::text).unwrap_or_default();
        if received.is_empty() {
            return format!("{how} without a byte; expected {text:?}");
        }
        format!("{how}; expected {text:?}, got {}", show(received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_may_come_anywhere_and_else_the_reason_quotes_what_came() {
        let expect = Some(Pattern::new(r"\+PONG\r\n").unwrap());
        let settings = Settings { expect, ..Settings::default() };
        assert!(settings.satisfied(b"\0\0+PONG\r\n\xff") && !settings.satisfied(b"+PON"));
        assert!(Settings::default().satisfied(b""));
        let reason = settings.unsatisfied(b"-ERR\x07", "the server closed the connection");
        assert!(reason.ends_with(r#"got "-ERR\x07""#), "{reason}");
        let reason = settings.unsatisfied(b"", "the server closed the connection");
        assert!(reason.contains("without a byte"), "{reason}");
    }
}
