//! `type = "ldap"` and `type = "ldaps"`.

use super::Context;
use super::common::{When, pattern, tls, word};
use super::wire::{needs, password};
use crate::check::Kind;
use crate::check::ldap::Settings;
use crate::check::secret::Login;
use crate::config::error::{Error, Sink};
use crate::config::read::Section;

const WORDS: &[(&str, When)] = &[("off", When::Off), ("starttls", When::Start), ("on", When::On)];

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(settings(s, When::Off, sink))
}

pub(super) fn read_tls(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(settings(s, When::On, sink))
}

fn settings(s: &Section<'_>, default: When, sink: &mut Sink) -> Kind {
    let tls = tls(s, WORDS, default, sink);
    let user = word(s, "bind_dn", sink);
    let secret = password(s, "password", "password_file", sink);
    let dn = "bind_dn = \"cn=probe,dc=example,dc=com\"";
    needs(s, "password", "bind_dn", dn, sink);
    needs(s, "password_file", "bind_dn", dn, sink);
    if user.is_some() && s.value("password").is_none() && s.value("password_file").is_none() {
        // With an empty password servers let anybody in, as nobody (RFC 4513 §5.1.2).
        let error = Error::new(s.place("bind_dn"), "`bind_dn` without a password", "");
        sink.push(error.help("add password_file = \"/etc/xvip/ldap.password\""));
    }
    needs(s, "attribute", "base", "base = \"dc=example,dc=com\"", sink);
    needs(s, "expect", "attribute", "attribute = \"description\"", sink);
    let bind = user.zip(secret).map(|(user, password)| Login { user, password });
    let (base, attribute) = (word(s, "base", sink), word(s, "attribute", sink));
    let expect = pattern(s, "expect", sink);
    Kind::Ldap(Settings { tls, bind, base, attribute, expect })
}
