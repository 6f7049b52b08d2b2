//! `type = "ldap"`: a directory accepts a bind and answers a search (RFC 4511).
//!
//! Messages are written and read by `lber`, the codec of `ldap3`. Its parser recurses, so that the
//! depth of a message is looked at before.

use bytes::BytesMut;
use lber::common::TagClass;
use lber::structure::{PL, StructureTag};
use lber::structures::{ASNTag, Boolean, Enumerated, Integer, OctetString, Sequence, Tag};

use super::Outcome;
use super::outcome::printable_bytes;
use super::pattern::Pattern;
use super::secret::Login;
use super::talk::{Step, Talk};
use super::tls::Tls;

/// Longest message of a server, in bytes.
const MESSAGE_MAX: usize = 64 << 10;
/// Deepest nesting: message, operation, attributes, attribute, values, value is 6; controls less.
const DEPTH_MAX: usize = 10;
/// The name of STARTTLS (RFC 4511 §4.14).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

/// What is asked of the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Whether and when TLS begins.
    pub tls: Tls,
    /// Who we bind as (the user is a distinguished name); `None`: anonymously.
    pub bind: Option<Login>,
    /// The entry that is read; `None`: the bind is all.
    pub base: Option<String>,
    /// The attribute that is asked for, with `base`; `None`: the entry only has to be there.
    pub attribute: Option<String>,
    /// What one of its values must match; `None`: it only has to have one.
    pub expect: Option<Pattern>,
}

/// Which answer is awaited; its number is the id of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    StartTls = 1,
    Bind = 2,
    Search = 3,
}

/// The conversation.
pub struct Dialog<'a> {
    settings: &'a Settings,
    password: String,
    asked: Asked,
    /// Values of the attribute so far; `None`: no entry has come.
    found: Option<Vec<Vec<u8>>>,
}

impl<'a> Dialog<'a> {
    /// With the password; empty for an anonymous bind.
    #[must_use]
    pub const fn new(settings: &'a Settings, password: String) -> Self {
        Self { settings, password, asked: Asked::StartTls, found: None }
    }

    fn send(&mut self, asked: Asked, operation: Tag) -> Step {
        self.asked = asked;
        Step::Send(message(asked as i64, operation))
    }

    fn bind(&mut self) -> Step {
        let dn = self.settings.bind.as_ref().map_or("", |b| b.user.as_str());
        let mut simple = octets(&self.password);
        (simple.class, simple.id) = (TagClass::Context, 0);
        let version = Integer { inner: 3, ..Default::default() };
        let inner =
            vec![Tag::Integer(version), Tag::OctetString(octets(dn)), Tag::OctetString(simple)];
        self.send(Asked::Bind, application(0, inner))
    }

    fn search(&mut self) -> Step {
        let Some(base) = &self.settings.base else { return good() };
        // "1.1" asks for no attribute (RFC 4511 §4.5.1.8).
        let attribute = self.settings.attribute.as_deref().unwrap_or("1.1");
        let mut present = octets("objectClass");
        (present.class, present.id) = (TagClass::Context, 7);
        let number = |inner| Tag::Integer(Integer { inner, ..Default::default() });
        let word = |inner| Tag::Enumerated(Enumerated { inner, ..Default::default() });
        let attributes = vec![Tag::OctetString(octets(attribute))];
        let inner = vec![
            Tag::OctetString(octets(base)),
            word(0),    // scope: the entry itself
            word(0),    // aliases are not followed
            number(1),  // at most one entry
            number(60), // seconds; our own timeout is shorter
            Tag::Boolean(Boolean { inner: false, ..Default::default() }),
            Tag::OctetString(present),
            Tag::Sequence(Sequence { inner: attributes, ..Default::default() }),
        ];
        self.send(Asked::Search, application(3, inner))
    }

    fn start_tls(&mut self) -> Step {
        let mut name = octets(START_TLS);
        (name.class, name.id) = (TagClass::Context, 0);
        self.send(Asked::StartTls, application(23, vec![Tag::OctetString(name)]))
    }

    /// Takes the values out of a search result entry.
    fn entry(&mut self, parts: Vec<StructureTag>) -> Step {
        let values = self.found.get_or_insert_default();
        let wanted = self.settings.attribute.as_deref().unwrap_or_default();
        let list = parts.into_iter().nth(1).and_then(StructureTag::expect_constructed);
        for attribute in list.unwrap_or_default() {
            let mut parts = attribute.expect_constructed().unwrap_or_default().into_iter();
            let name = parts.next().and_then(StructureTag::expect_primitive).unwrap_or_default();
            // Options may follow the name: "userCertificate;binary".
            let name = name.split(|b| *b == b';').next().unwrap_or_default();
            if name.eq_ignore_ascii_case(wanted.as_bytes()) {
                let set = parts.next().and_then(StructureTag::expect_constructed);
                let set = set.unwrap_or_default().into_iter();
                values.extend(set.filter_map(StructureTag::expect_primitive));
            }
        }
        Step::Listen
    }

    fn judge(&self) -> Step {
        let Some(values) = &self.found else { return Step::down("the entry is not there") };
        let Some(attribute) = &self.settings.attribute else { return good() };
        let Some(first) = values.first() else {
            return Step::down(format!("the entry has no {attribute}"));
        };
        match &self.settings.expect {
            Some(pattern) if !values.iter().any(|v| pattern.matches(v)) => {
                let shown = printable_bytes(first.get(..80).unwrap_or(first));
                Step::down(format!("{attribute} is \"{shown}\", which does not match"))
            }
            _ => good(),
        }
    }
}

impl Talk for Dialog<'_> {
    fn begin(&mut self) -> Step {
        if self.settings.tls.is_start() { self.start_tls() } else { self.bind() }
    }

    fn secured(&mut self) -> Step {
        self.bind()
    }

    fn frame(&self, received: &[u8]) -> Result<Option<usize>, String> {
        match received.first() {
            None => return Ok(None),
            Some(0x30) => {}
            Some(_) => {
                let start = received.get(..40).unwrap_or(received);
                return Err(format!("not an LDAP message: \"{}\"", start.escape_ascii()));
            }
        }
        let Some((header, length)) = length(received)? else { return Ok(None) };
        if length > MESSAGE_MAX {
            return Err(format!("a message of {length} bytes, more than a check reads"));
        }
        Ok(Some(header + length).filter(|whole| *whole <= received.len()))
    }

    fn hear(&mut self, message: &[u8]) -> Step {
        let Some((id, operation)) = take_apart(message) else {
            return Step::down("a malformed LDAP message");
        };
        let kind = operation.id;
        let Some(parts) = operation.expect_constructed() else {
            return Step::down("a malformed LDAP message");
        };
        // Unsolicited: the server ends the connection (RFC 4511 §4.4).
        if id == 0 {
            let (code, text) = result(&parts);
            return Step::down(format!("the server says good-bye: {}", explain(code, &text)));
        }
        if id != self.asked as u64 {
            return Step::down(format!(
                "an answer with id {id} to the message {}",
                self.asked as u64
            ));
        }
        match (self.asked, kind) {
            (Asked::Search, 4) => return self.entry(parts),
            (Asked::Search, 19) => return Step::Listen,
            (Asked::StartTls, 24) | (Asked::Bind, 1) | (Asked::Search, 5) => {}
            _ => return Step::down(format!("an answer of the wrong kind ({kind})")),
        }
        let (code, text) = result(&parts);
        if code != Some(0) {
            let what = self.asked.name();
            return Step::down(format!("{what} refused: {}", explain(code, &text)));
        }
        match self.asked {
            Asked::StartTls => Step::StartTls,
            Asked::Bind => self.search(),
            Asked::Search => self.judge(),
        }
    }

    fn waiting_for(&self) -> &'static str {
        match self.asked {
            Asked::StartTls => "to STARTTLS",
            Asked::Bind => "to the bind",
            Asked::Search => "to the search",
        }
    }
}

impl Asked {
    const fn name(self) -> &'static str {
        match self {
            Self::StartTls => "STARTTLS",
            Self::Bind => "bind",
            Self::Search => "search",
        }
    }
}

fn octets(text: &str) -> OctetString {
    OctetString { inner: text.as_bytes().to_vec(), ..Default::default() }
}

fn application(id: u64, inner: Vec<Tag>) -> Tag {
    Tag::Sequence(Sequence { id, class: TagClass::Application, inner })
}

fn message(id: i64, operation: Tag) -> Vec<u8> {
    let id = Tag::Integer(Integer { inner: id, ..Default::default() });
    let whole = Tag::Sequence(Sequence { inner: vec![id, operation], ..Default::default() });
    let mut bytes = BytesMut::new();
    // Writing to memory cannot fail.
    let _ = lber::write::encode_into(&mut bytes, whole.into_structure());
    bytes.to_vec()
}

/// Up, with an UnbindRequest as farewell.
fn good() -> Step {
    let unbind = StructureTag { class: TagClass::Application, id: 2, payload: PL::P(Vec::new()) };
    Step::Done(Outcome::up(), message(4, Tag::StructureTag(unbind)))
}

/// Bytes of the header, and the length behind it, if all of the header is there.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let Some(first) = bytes.get(1) else { return Ok(None) };
    if first & 0x80 == 0 {
        return Ok(Some((2, usize::from(*first))));
    }
    let count = usize::from(first & 0x7f);
    // Zero would be the indefinite form, which LDAP forbids (RFC 4511 §5.1).
    if count == 0 || count > 8 {
        return Err("not an LDAP message: its length has no allowed form".to_owned());
    }
    let Some(digits) = bytes.get(2..2 + count) else { return Ok(None) };
    let length = digits.iter().fold(0_u64, |sum, b| sum << 8 | u64::from(*b));
    Ok(Some((2 + count, usize::try_from(length).unwrap_or(usize::MAX))))
}

/// Whether elements nest no deeper than [`DEPTH_MAX`], and none is longer than what it is in.
fn is_shallow(bytes: &[u8]) -> bool {
    // Where the elements that are open end.
    let mut ends = vec![bytes.len()];
    let mut at = 0;
    while let Some(end) = ends.last().copied() {
        if at == end {
            ends.pop();
            continue;
        }
        let Some(element) = bytes.get(at..end) else { return false };
        let Ok(Some((header, length))) = length(element) else { return false };
        let (start, inside) = (at + header, element.len() - header.min(element.len()));
        if length > inside {
            return false;
        }
        if element[0] & 0x20 == 0 {
            at = start + length;
            continue;
        }
        if ends.len() > DEPTH_MAX {
            return false;
        }
        ends.push(start + length);
        at = start;
    }
    true
}

/// Id and operation of a message.
fn take_apart(message: &[u8]) -> Option<(u64, StructureTag)> {
    if !is_shallow(message) {
        return None;
    }
    let (_, whole) = lber::parse::parse_tag(message).ok()?;
    let mut parts = whole.expect_constructed()?.into_iter();
    let id = parts.next()?.expect_primitive()?;
    let operation = parts.next()?.match_class(TagClass::Application)?;
    Some((number(&id)?, operation))
}

fn number(bytes: &[u8]) -> Option<u64> {
    let ok = !bytes.is_empty() && bytes.len() <= 4;
    ok.then(|| bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b)))
}

/// Code and text of a result.
fn result(parts: &[StructureTag]) -> (Option<u64>, Vec<u8>) {
    let primitive = |at: usize| match parts.get(at).map(|p| &p.payload) {
        Some(PL::P(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    (primitive(0).and_then(|b| number(&b)), primitive(2).unwrap_or_default())
}

/// A code with its name (RFC 4511 §4.1.9), and what the server says of it.
fn explain(code: Option<u64>, text: &[u8]) -> String {
    let Some(code) = code else { return "no result code".to_owned() };
    let name = match code {
        1 => " (operationsError)",
        2 => " (protocolError)",
        8 => " (strongerAuthRequired)",
        10 => " (referral)",
        13 => " (confidentialityRequired)",
        32 => " (noSuchObject)",
        34 => " (invalidDNSyntax)",
        48 => " (inappropriateAuthentication)",
        49 => " (invalidCredentials)",
        50 => " (insufficientAccessRights)",
        51 => " (busy)",
        52 => " (unavailable)",
        53 => " (unwillingToPerform)",
        _ => "",
    };
    let text = printable_bytes(text.get(..120).unwrap_or(text));
    let colon = if text.is_empty() { "" } else { ": " };
    format!("code {code}{name}{colon}{text}")
}

#[cfg(test)]
mod tests;
