//! Which real server an operator means: by name, by address, or by address and port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::{Overrides, RealKey};
use crate::config::{Config, nearest};

/// Reals named in one message.
const SHOWN_MAX: usize = 8;

/// A real that can be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity.
    pub key: RealKey,
    /// Its name.
    pub name: String,
}

impl Candidate {
    /// Everything it answers to.
    pub(super) fn words(&self) -> BTreeSet<String> {
        BTreeSet::from([self.name.clone(), self.key.address.to_string(), self.key.text()])
    }
}

/// Why a word means no real, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved(pub String);

/// Every real of the configuration.
pub(super) fn candidates(config: &Config) -> impl Iterator<Item = Candidate> {
    config.services.iter().flat_map(|entry| {
        let service = &entry.service;
        let reals = service.reals.iter();
        reals.map(|real| Candidate {
            key: RealKey::new(&service.name, real),
            name: real.name.clone(),
        })
    })
}

/// `word` as addresses are shown, if it is one: `[2001:DB8::1]` and `2001:db8::1` are the same.
pub(super) fn normal(word: &str) -> String {
    let bare = word.strip_prefix('[').and_then(|w| w.strip_suffix(']')).unwrap_or(word);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.to_string();
    }
    word.parse::<SocketAddr>().map_or_else(|_| word.to_owned(), |socket| socket.to_string())
}

/// The reals that `word` means, in `service` if one is named. `all`: in every service, if it is in
/// several. Reals that have left the file but still have an override can be meant too, where
/// nothing in the file is.
///
/// # Errors
/// No real, or several: what there is instead.
pub fn resolve(
    word: &str,
    service: Option<&str>,
    all: bool,
    config: &Config,
    overrides: &Overrides,
) -> Result<Vec<Candidate>, Unresolved> {
    let known = config.services.iter().any(|e| Some(e.service.name.as_str()) == service);
    let gone =
        overrides.iter().map(|(key, o)| Candidate { key: key.clone(), name: o.name.clone() });
    let gone: Vec<Candidate> = gone.collect();
    if let Some(service) = service
        && !known
        && !gone.iter().any(|c| c.key.service == service)
    {
        return Err(no_service(service, config));
    }
    let inside = |c: &Candidate| service.is_none_or(|s| s == c.key.service);
    let meant = normal(word);
    let means = |c: &Candidate| inside(c) && c.words().contains(&meant);
    let mut found: Vec<Candidate> = candidates(config).filter(means).collect();
    if found.is_empty() {
        found = gone.into_iter().filter(means).collect();
    }
    match found.len() {
        0 => Err(unknown(word, service, config)),
        1 => Ok(found),
        _ if all => Ok(found),
        _ => Err(ambiguous(word, &found)),
    }
}

fn no_service(service: &str, config: &Config) -> Unresolved {
    let names: Vec<&str> = config.services.iter().map(|e| e.service.name.as_str()).collect();
    let mut message = format!("no service is called `{service}`");
    match nearest(service, &names) {
        Some(near) => message.push_str(&format!("; did you mean `{near}`?")),
        None => message.push_str(&format!(": there is {}", list(names.into_iter()))),
    }
    Unresolved(message)
}

fn unknown(word: &str, service: Option<&str>, config: &Config) -> Unresolved {
    let inside = |c: &Candidate| service.is_none_or(|s| s == c.key.service);
    let words: BTreeSet<String> =
        candidates(config).filter(inside).flat_map(|c| c.words()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let place = service.map_or_else(String::new, |s| format!(" of service `{s}`"));
    let mut message = format!("no real server{place} is `{word}` (name, address or address:port)");
    match nearest(word, &words) {
        Some(near) => message.push_str(&format!("; did you mean `{near}`?")),
        None => {
            let names: BTreeSet<String> =
                candidates(config).filter(inside).map(|c| c.name).collect();
            message.push_str(&format!(": there is {}", list(names.iter().map(String::as_str))));
        }
    }
    Unresolved(message)
}

fn ambiguous(word: &str, found: &[Candidate]) -> Unresolved {
    let services: BTreeSet<&str> = found.iter().map(|c| c.key.service.as_str()).collect();
    let several =
        |c: &&Candidate| found.iter().filter(|o| o.key.service == c.key.service).count() > 1;
    let mut message = format!("`{word}` is {} real servers", found.len());
    if let Some(twice) = found.iter().find(several) {
        let same = found.iter().filter(|c| c.key.service == twice.key.service);
        let texts: Vec<String> = same.map(|c| c.key.text()).collect();
        message.push_str(&format!(
            ": in service `{}` name one of {}, or all of them with --all",
            twice.key.service,
            list(texts.iter().map(String::as_str))
        ));
    } else {
        message.push_str(&format!(
            ", one in each of {}: name one with --service, or all of them with --all",
            list(services.into_iter())
        ));
    }
    Unresolved(message)
}

/// A few of many.
fn list<'a>(words: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = words.len();
    if count == 0 {
        return "none".to_owned();
    }
    let mut text = words.take(SHOWN_MAX).map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
    if count > SHOWN_MAX {
        text.push_str(&format!(" and {} more", count - SHOWN_MAX));
    }
    text
}
