//! What can be said about alerts in the configuration file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Event, Severity};

/// `[alert]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long changes are gathered into one message; 0 sends at once.
    pub digest: Duration,
    /// Most messages an hour to each target, 1 to 3600.
    pub per_hour: u32,
    /// How long delivery of a message is tried again before it is given up.
    pub give_up: Duration,
    /// Who is told.
    pub targets: Vec<Arc<Target>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            digest: Duration::from_secs(30),
            per_hour: 20,
            give_up: Duration::from_secs(24 * 3600),
            targets: Vec::new(),
        }
    }
}

impl Settings {
    /// Messages that may follow each other at once.
    pub(super) const fn burst(&self) -> u32 {
        if self.per_hour < 5 { self.per_hour } else { 5 }
    }
}

/// Someone who is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Unique name, for `xvip alert test` and the status.
    pub name: String,
    /// What it is told.
    pub filter: Filter,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// How.
    pub how: How,
}

/// Which problems are told. Their ends are, whatever their own severity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// At least this severe.
    pub severity: Severity,
    /// Only of these services; of all if empty. What is about no service is always told.
    pub services: Vec<String>,
}

impl Filter {
    /// Whether the event is let through.
    #[must_use]
    pub fn lets_through(&self, event: &Event) -> bool {
        let service = match &event.service {
            Some(name) => self.services.is_empty() || self.services.contains(name),
            None => true,
        };
        service && event.kind.severity() >= self.severity
    }
}

/// The ways to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// A mail by SMTP (RFC 5321).
    Mail(Mail),
    /// An HTTP POST with a JSON body.
    Webhook(Webhook),
    /// A program with JSON on its standard input.
    Command(Command),
}

impl How {
    /// The word for it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Mail(_) => "mail",
            Self::Webhook(_) => "webhook",
            Self::Command(_) => "command",
        }
    }
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    None,
    /// STARTTLS (RFC 3207), required.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314).
    Tls,
}

/// A mailbox and the server that takes mail for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Host name or address of the server; the name in its certificate.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Protection of the connection.
    pub tls: Tls,
    /// Certificates to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Sender's address.
    pub from: String,
    /// Recipients' addresses.
    pub to: Vec<String>,
    /// Log-in name, and the file with the password, which others cannot read.
    pub login: Option<(String, PathBuf)>,
}

/// A URL that takes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Whether it is `https`.
    pub https: bool,
    /// Host name or address; the name in its certificate.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What is asked for there: path and query.
    pub path: String,
    /// Certificates to trust instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// File with the token sent as `Authorization: Bearer`, which others cannot read.
    pub token_file: Option<PathBuf>,
}

impl Webhook {
    /// Host and port as in a URL, the usual port left out.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let usual = if self.https { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Absolute path of the program, then its arguments.
    pub argv: Vec<String>,
}
