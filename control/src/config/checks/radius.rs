//! `type = "radius"`.

use super::Context;
use super::common::word;
use super::wire::{needs, password};
use crate::check::Kind;
use crate::check::radius::{Expect, PASSWORD_MAX, Request, Settings};
use crate::check::secret::Secret;
use crate::config::error::{Error, Sink};
use crate::config::read::Section;

const EXPECT: &[(&str, Expect)] =
    &[("accept", Expect::Accept), ("reject", Expect::Reject), ("any", Expect::Any)];

pub(super) fn read(s: &Section<'_>, _: &Context<'_>, sink: &mut Sink) -> Option<Kind> {
    let secret = password(s, "secret", "secret_file", sink);
    if s.value("secret").is_none() {
        s.require("secret_file", "secret_file = \"/etc/xvip/radius.secret\"", sink);
    }
    for key in ["password", "password_file"] {
        needs(s, key, "user", "user = \"probe\"", sink);
    }
    let user = word(s, "user", sink);
    let password = password(s, "password", "password_file", sink);
    if matches!(&password, Some(Secret::Inline(text)) if text.len() > PASSWORD_MAX) {
        let message = format!("longer than the {PASSWORD_MAX} bytes that RADIUS can carry");
        sink.push(Error::new(s.place("password"), message, ""));
    }
    let request = match (user, password) {
        (None, _) => Request::Status,
        (Some(user), Some(password)) => Request::Access { user, password },
        (Some(_), None) => {
            let error = Error::new(s.place("user"), "`user` without a password", "");
            sink.push(error.help("add password_file = \"/etc/xvip/radius.password\""));
            return None;
        }
    };
    let nas = word(s, "nas_identifier", sink).filter(|n| n.len() <= 253);
    let expect = s.choice("expect", EXPECT, sink).unwrap_or_default();
    let nas = nas.unwrap_or_else(|| "xvip".to_owned());
    Some(Kind::Radius(Settings { secret: secret?, request, nas, expect }))
}
