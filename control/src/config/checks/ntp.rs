//! `type = "ntp"`.

use std::time::Duration;

use super::Context;
use crate::check::{Kind, ntp};
use crate::config::error::Sink;
use crate::config::read::Section;

#[expect(clippy::unnecessary_wraps, reason = "the form of every reader")]
pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    const DAY: Duration = Duration::from_secs(86_400);
    let stratum = s.integer("stratum", 1..=15, sink).and_then(|n| u8::try_from(n).ok());
    let offset = s.duration("offset", Duration::from_millis(1)..=DAY, sink);
    Some(Kind::Ntp(ntp::Settings { stratum: stratum.unwrap_or(15), offset }))
}
