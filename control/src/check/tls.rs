//! TLS of a check: whom to trust, under which name, and when to warn.

use std::path::PathBuf;
use std::time::Duration;

/// How TLS is used by a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Who vouches for the server's certificate.
    pub trust: Trust,
    /// The name that is asked for (SNI) and that the certificate must be for. If absent: the host
    /// of the request, or else the address.
    pub server_name: Option<String>,
    /// A certificate that ends sooner than this is told of.
    pub expires: Option<Duration>,
    /// Our own certificate, for servers that ask for one.
    pub client: Option<ClientCertificate>,
}

/// Who vouches for a server's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trust {
    /// The certificate authorities that the system trusts.
    #[default]
    System,
    /// Those in this file (PEM), and certificates that stand in it themselves.
    File(PathBuf),
    /// Nobody: any certificate will do.
    Anything,
}

/// Files of a certificate of our own (PEM).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientCertificate {
    /// The certificate, followed by those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key; others than its owner and group must not be able to read it.
    pub key: PathBuf,
}

/// When TLS begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tls {
    /// Never.
    #[default]
    Off,
    /// When the protocol's own command has been accepted (STARTTLS, STLS, AUTH TLS).
    Start(Settings),
    /// With the connection.
    On(Settings),
}

impl Tls {
    /// Whether the protocol has a command for it.
    #[must_use]
    pub const fn is_start(&self) -> bool {
        matches!(self, Self::Start(_))
    }

    /// Whether everything goes in clear text.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    /// The name of a kind: `with` if TLS begins with the connection.
    #[must_use]
    pub(super) const fn pick(&self, without: &'static str, with: &'static str) -> &'static str {
        match self {
            Self::Off | Self::Start(_) => without,
            Self::On(_) => with,
        }
    }
}

/// Words on the end of a certificate that an operator should know: `None` if there is more time
/// than `warn`. Times in seconds since 1970.
#[must_use]
pub fn expiry_note(now: u64, not_after: u64, warn: Duration) -> Option<String> {
    const DAY: u64 = 86_400;
    if let Some(over) = now.checked_sub(not_after) {
        return Some(match over / DAY {
            0 => "the certificate ended today".to_owned(),
            1 => "the certificate ended yesterday".to_owned(),
            days => format!("the certificate ended {days} days ago"),
        });
    }
    let left = not_after - now;
    if left >= warn.as_secs() {
        return None;
    }
    Some(match left / DAY {
        0 => "the certificate ends within a day".to_owned(),
        1 => "the certificate ends in 1 day".to_owned(),
        days => format!("the certificate ends in {days} days"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_told_in_days_once_it_is_near() {
        let day = 86_400;
        let warn = Duration::from_secs(14 * day);
        for (left, expected) in [
            (14 * day as i64, None),
            (9 * day as i64 + 5, Some("the certificate ends in 9 days")),
            (day as i64, Some("the certificate ends in 1 day")),
            (1, Some("the certificate ends within a day")),
            (0, Some("the certificate ended today")),
            (-(day as i64), Some("the certificate ended yesterday")),
            (-3 * day as i64, Some("the certificate ended 3 days ago")),
        ] {
            let note = expiry_note(1_000_000_000, (1_000_000_000 + left) as u64, warn);
            assert_eq!(note.as_deref(), expected, "{left}");
        }
        assert_eq!(expiry_note(0, u64::MAX, warn), None);
    }
}
