//! What a check is: a question put to a real server again and again, and what its answer means.
//!
//! Pure. One file for each kind: its settings, and as much of its protocol as needs no socket.
//! [`crate::io::probe`] asks; [`crate::health`] counts the outcomes.
//!
//! # Adding a kind
//!
//! 1. `check/<kind>.rs`: `Settings` (`Ord` and `Hash`, so that equal checks are run once), protocol
//!    logic without I/O, unit tests; a `mod` line and a variant of [`Kind`] here, and its line in
//!    [`Kind::name`], [`Kind::has_port`] and [`Kind::wants_context`].
//! 2. `config/checks/<kind>.rs`: reads its keys; a line in `config::checks::KINDS`.
//! 3. `config/keys.rs`: its keys, in `ALL` under the heading `type = "<kind>"`; the section of
//!    that name in `docs/config.md`.
//! 4. `io/probe/<kind>.rs`: `probe(settings, target) -> Outcome`, bounded in bytes (its time is
//!    bounded by [`crate::io::probe::run`]); a line in `io::probe::ask`.
//! 5. Tests against real servers: `scripts/lablib/e2e/`, through `xvip probe`.

pub mod dns;
pub mod ftp;
pub mod http;
pub mod http_proxy;
pub mod icmp;
pub mod imap;
pub mod ldap;
pub mod lines;
pub mod mysql;
pub mod nntp;
pub mod ntp;
pub mod outcome;
pub mod path;
pub mod pattern;
pub mod pgsql;
pub mod pop3;
pub mod radius;
pub mod redis;
mod rules;
pub mod script;
pub mod secret;
pub mod sip;
pub mod smtp;
pub mod talk;
pub mod tcp;
pub mod tls;
pub mod udp;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dataplane_api::service::{Real, Service};

pub use outcome::{Outcome, Passed, REASON_MAX, Report};
pub use rules::{Passive, Require, Rules, Start};

/// One check of a real server, as configured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Check {
    /// What is asked.
    pub kind: Kind,
    /// Who is asked, if not the real's address.
    pub address: Option<IpAddr>,
    /// On which port, if not the real's. Once read from a file, it is there for every kind that
    /// has ports unless the real has a port itself.
    pub port: Option<u16>,
    /// How often, how long, and how many times before it counts.
    pub timing: Timing,
}

impl Check {
    /// What is to be done for `real` of `service`.
    #[must_use]
    pub fn probe(&self, service: &Service, real: &Real) -> Probe {
        let mut target = Target {
            address: self.address.unwrap_or(real.address),
            port: self.port.or(real.port).unwrap_or(0),
            vip: None,
            service: String::new(),
            real: String::new(),
        };
        if self.kind.wants_context() {
            let first = service.listen.first();
            target.vip = first.map(|l| SocketAddr::new(l.address, l.ports.first));
            service.name.clone_into(&mut target.service);
            real.name.clone_into(&mut target.real);
        }
        let (interval, timeout) = (self.timing.interval, self.timing.timeout);
        Probe { target, kind: self.kind.clone(), interval, timeout }
    }
}

/// Times and counts of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timing {
    /// From the start of one run to that of the next, 100 ms to 1 day. A run that takes longer
    /// delays the next one: there is never more than one.
    pub interval: Duration,
    /// Longest time of a whole run, 10 ms to 10 min.
    pub timeout: Duration,
    /// Passed runs in a row after which a real that was down counts as up, 1 to 255.
    pub rise: u8,
    /// Failed runs in a row after which a real that was up counts as down, 1 to 255.
    pub fall: u8,
}

impl Default for Timing {
    /// A server that refuses is down within 1.5 s, and one lost SYN (sent again after 1 s) takes
    /// no server down.
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// What is asked: the kind of a check with its settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A TCP connection can be opened, and the server says what it should.
    Tcp(tcp::Settings),
    /// A name server answers a question.
    Dns(dns::Settings),
    /// The server answers a ping.
    Icmp(icmp::Settings),
    /// A directory accepts a bind and answers a search.
    Ldap(ldap::Settings),
    /// A MySQL or MariaDB server lets us in and answers a query.
    Mysql(mysql::Settings),
    /// A time server is synchronised and right.
    Ntp(ntp::Settings),
    /// A PostgreSQL server lets us in and answers a query.
    Pgsql(pgsql::Settings),
    /// A RADIUS server answers.
    Radius(radius::Settings),
    /// A Redis server answers, in the role it should have.
    Redis(redis::Settings),
    /// A program says so.
    Script(script::Settings),
    /// A VIP answers through the forwarding path.
    Path(path::Settings),
    /// A SIP server answers `OPTIONS`.
    Sip(sip::Settings),
    /// A datagram is answered.
    Udp(udp::Settings),
    /// A web server answers as it should.
    Http(http::Settings),
    /// A proxy fetches a page or opens a tunnel.
    HttpProxy(http_proxy::Settings),
    /// A mail server takes mail.
    Smtp(smtp::Settings),
    /// A POP3 server.
    Pop3(lines::Settings),
    /// An IMAP server.
    Imap(lines::Settings),
    /// An FTP server.
    Ftp(lines::Settings),
    /// A news server.
    Nntp(nntp::Settings),
}

impl Kind {
    /// Its word in the file (`type = "…"`).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Dns(_) => "dns",
            Self::Icmp(_) => "icmp",
            Self::Ldap(settings) => settings.tls.pick("ldap", "ldaps"),
            Self::Mysql(_) => "mysql",
            Self::Ntp(_) => "ntp",
            Self::Pgsql(_) => "pgsql",
            Self::Radius(_) => "radius",
            Self::Redis(settings) => settings.tls.pick("redis", "rediss"),
            Self::Script(_) => "script",
            Self::Path(_) => "path",
            Self::Sip(_) => "sip",
            Self::Udp(_) => "udp",
            Self::Http(settings) if settings.tls.is_some() => "https",
            Self::Http(_) => "http",
            Self::HttpProxy(_) => "http_proxy",
            Self::Smtp(settings) => settings.tls.pick("smtp", "smtps"),
            Self::Pop3(settings) => settings.tls.pick("pop3", "pop3s"),
            Self::Imap(settings) => settings.tls.pick("imap", "imaps"),
            Self::Ftp(settings) => settings.tls.pick("ftp", "ftps"),
            Self::Nntp(settings) => settings.tls.pick("nntp", "nntps"),
        }
    }

    /// Whether it asks on a port of the real's. (A path check asks on one of the VIP's.)
    #[must_use]
    pub const fn has_port(&self) -> bool {
        !matches!(self, Self::Icmp(_) | Self::Script(_) | Self::Path(_))
    }

    /// Whether the question depends on the service and the real it is asked for, beyond address
    /// and port. Such a check is not shared between services.
    #[must_use]
    pub const fn wants_context(&self) -> bool {
        matches!(self, Self::Script(_) | Self::Path(_))
    }
}

/// Whom a check asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Address.
    pub address: IpAddr,
    /// Port; 0 for kinds without ports, if none is known.
    pub port: u16,
    /// First VIP and port of the service. `None` unless [`Kind::wants_context`].
    pub vip: Option<SocketAddr>,
    /// Name of the service. Empty unless [`Kind::wants_context`].
    pub service: String,
    /// Name of the real. Empty unless [`Kind::wants_context`].
    pub real: String,
}

impl Target {
    /// Address and port as a socket's.
    #[must_use]
    pub const fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == 0 { self.address.fmt(f) } else { self.socket().fmt(f) }
    }
}

/// Something to be done periodically: a check of a target. Equal ones are done once, however many
/// services want them; `rise` and `fall` are not part of it, for they only count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    /// Who is asked. First, so that comparisons end soon.
    pub target: Target,
    /// What is asked.
    pub kind: Kind,
    /// From the start of one run to that of the next.
    pub interval: Duration,
    /// Longest time of a whole run.
    pub timeout: Duration,
}

/// Every probe that is wanted: the whole set, never a difference.
pub type ProbeSet = BTreeSet<Arc<Probe>>;
