//! `type = "tcp"`.

use super::Context;
use super::common::{When, pattern, tls};
use crate::check::tls::Tls;
use crate::check::{Kind, tcp};
use crate::config::error::{Error, Sink};
use crate::config::read::Section;

/// Longest `send`, in bytes.
const SEND_MAX: usize = 4096;

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let words = [("off", When::Off), ("on", When::On)];
    let tls = match tls(s, &words, When::Off, sink) {
        Tls::Off => None,
        Tls::Start(settings) | Tls::On(settings) => Some(settings),
    };
    let send = s.string("send", sink).and_then(|text| {
        let fits = (1..=SEND_MAX).contains(&text.value.len());
        if !fits {
            let message = format!("`send` has {} bytes", text.value.len());
            sink.push(Error::new(text.span, message, format!("expected 1 to {SEND_MAX}")));
        }
        fits.then(|| text.value.to_owned())
    });
    let expect = pattern(s, "expect", sink);
    Some(Kind::Tcp(tcp::Settings { tls, send, expect }))
}
