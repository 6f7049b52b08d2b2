//! The kinds that talk in lines: `smtp`, `smtps`, `submission`, `pop3`, `pop3s`, `imap`, `imaps`,
//! `ftp`, `ftps`, `nntp`, `nntps`.

use super::Context;
use super::common::{When, login, tls, token};
use crate::check::lines::Settings;
use crate::check::{Kind, nntp, smtp};
use crate::config::error::Sink;
use crate::config::read::Section;

const WORDS: &[(&str, When)] = &[("off", When::Off), ("starttls", When::Start), ("on", When::On)];

pub(super) fn smtp(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(mail(s, When::Off, sink))
}

pub(super) fn submission(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(mail(s, When::Start, sink))
}

pub(super) fn smtps(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    Some(mail(s, When::On, sink))
}

fn mail(s: &Section<'_>, default: When, sink: &mut Sink) -> Kind {
    let hello = token(s, "hello", sink).unwrap_or_else(|| "localhost".to_owned());
    let tls = tls(s, WORDS, default, sink);
    Kind::Smtp(smtp::Settings { tls, login: login(s, sink), hello })
}

pub(super) fn pop3(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::Off, sink);
    Some(Kind::Pop3(Settings { tls, login: login(s, sink) }))
}

pub(super) fn pop3s(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::On, sink);
    Some(Kind::Pop3(Settings { tls, login: login(s, sink) }))
}

pub(super) fn imap(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::Off, sink);
    Some(Kind::Imap(Settings { tls, login: login(s, sink) }))
}

pub(super) fn imaps(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::On, sink);
    Some(Kind::Imap(Settings { tls, login: login(s, sink) }))
}

pub(super) fn ftp(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::Off, sink);
    Some(Kind::Ftp(Settings { tls, login: login(s, sink) }))
}

pub(super) fn ftps(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::On, sink);
    Some(Kind::Ftp(Settings { tls, login: login(s, sink) }))
}

pub(super) fn nntp(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::Off, sink);
    let group = token(s, "group", sink);
    Some(Kind::Nntp(nntp::Settings { tls, login: login(s, sink), group }))
}

pub(super) fn nntps(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let tls = tls(s, WORDS, When::On, sink);
    let group = token(s, "group", sink);
    Some(Kind::Nntp(nntp::Settings { tls, login: login(s, sink), group }))
}
