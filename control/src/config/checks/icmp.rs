//! `type = "icmp"`.

use super::Context;
use crate::check::{Kind, icmp};
use crate::config::error::Sink;
use crate::config::read::Section;

#[expect(clippy::unnecessary_wraps, reason = "the form of every reader")]
pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let range = icmp::COOKIE as u32..=u32::from(icmp::PAYLOAD_MAX);
    let size = s.integer("size", range, sink).and_then(|n| u16::try_from(n).ok());
    Some(Kind::Icmp(icmp::Settings { size: size.unwrap_or(56) }))
}
