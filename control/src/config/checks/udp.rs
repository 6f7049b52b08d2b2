//! `type = "udp"`.

use super::Context;
use super::common::pattern;
use crate::check::Kind;
use crate::check::udp::{PAYLOAD_MAX, Settings, Silence, from_hex};
use crate::config::error::{Error, Sink};
use crate::config::read::Section;

const SILENCE: &[(&str, Silence)] = &[("down", Silence::Down), ("up", Silence::Up)];

#[expect(clippy::unnecessary_wraps, reason = "the form of every reader")]
pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    if let (Some(first), Some(second)) = (s.value("send"), s.value("send_hex")) {
        let error = Error::new(second.span(), "`send` and `send_hex` in one check", "one of them");
        sink.push(error.other(first.span(), "first here"));
    }
    let text = s.string("send", sink).map(|text| (text.value.as_bytes().to_vec(), text.span));
    let hex = s.string("send_hex", sink).and_then(|text| match from_hex(text.value) {
        Ok(bytes) => Some((bytes, text.span)),
        Err(reason) => {
            let message = format!("`send_hex` is {reason}");
            sink.push(Error::new(text.span, message, "expected like \"de ad be ef\""));
            None
        }
    });
    let payload = text.or(hex);
    if let Some((bytes, span)) = &payload
        && bytes.len() > PAYLOAD_MAX
    {
        let message = format!("longer than the {PAYLOAD_MAX} bytes that fit every packet");
        sink.push(Error::new(span.clone(), message, ""));
    }
    let send = payload.map(|(bytes, _)| bytes).unwrap_or_default();
    let expect = pattern(s, "expect", sink);
    let silence = s.choice("silence", SILENCE, sink).unwrap_or_default();
    Some(Kind::Udp(Settings { send, expect, silence }))
}
