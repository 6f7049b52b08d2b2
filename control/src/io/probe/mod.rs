//! Puts checks to real servers. One file for each kind, or family of kinds.
//!
//! A kind's `probe(settings, target)` says what it found. Its time is bounded here, by the timeout
//! of the whole run; its bytes are bounded by the kind itself (see [`net`]). A run that is given up
//! is dropped at an `.await`: what it holds is closed then.

mod datagram;
mod http;
mod icmp;
mod lines;
mod net;
mod path;
pub(super) mod prober;
mod random;
mod script;
mod secret;
mod talk;
mod tcp;
mod tls;

use crate::check::{Kind, Outcome, Probe, Report};

pub use path::Paths;

/// Runs a check once; `paths`: for those that the data plane carries out.
pub async fn run(probe: &Probe, paths: &Paths) -> Report {
    if let Kind::Path(settings) = &probe.kind {
        return paths.probe(settings, &probe.target, probe.timeout).await;
    }
    let start = tokio::time::Instant::now();
    let outcome = net::within(probe.timeout, ask(probe)).await;
    Report { outcome, took: start.elapsed() }
}

async fn ask(probe: &Probe) -> Outcome {
    let target = &probe.target;
    match &probe.kind {
        Kind::Tcp(settings) => tcp::probe(settings, target).await,
        Kind::Http(settings) => http::probe(settings, target).await,
        Kind::HttpProxy(settings) => http::probe_proxy(settings, target).await,
        Kind::Smtp(settings) => lines::smtp(settings, target).await,
        Kind::Pop3(settings) => lines::pop3(settings, target).await,
        Kind::Imap(settings) => lines::imap(settings, target).await,
        Kind::Ftp(settings) => lines::ftp(settings, target).await,
        Kind::Nntp(settings) => lines::nntp(settings, target).await,
        Kind::Dns(settings) => datagram::dns(settings, target).await,
        Kind::Ntp(settings) => datagram::ntp(settings, target).await,
        Kind::Radius(settings) => datagram::radius(settings, target).await,
        Kind::Sip(settings) => datagram::sip(settings, target).await,
        Kind::Udp(settings) => datagram::udp(settings, target, probe.timeout).await,
        Kind::Ldap(settings) => talk::ldap(settings, target).await,
        Kind::Mysql(settings) => talk::mysql(settings, target).await,
        Kind::Pgsql(settings) => talk::pgsql(settings, target).await,
        Kind::Redis(settings) => talk::redis(settings, target).await,
        Kind::Icmp(settings) => icmp::probe(settings, target).await,
        Kind::Script(settings) => script::probe(settings, target).await,
        Kind::Path(_) => Outcome::cannot_run("only the data plane can send it"),
    }
}

#[cfg(test)]
mod tests;
