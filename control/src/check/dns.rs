//! `type = "dns"`: a name server answers a question as it should (RFC 1035).
//!
//! Messages are written and read by `hickory-proto`. An answer counts only if it has our id and
//! repeats our question; what else arrives is somebody else's.

use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::Outcome;
use super::outcome::printable;

/// Most expected records of one check.
pub const ANSWERS_MAX: usize = 32;

/// What is asked, and what the answer must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// The name, as [`canonical`] gives it.
    pub name: String,
    /// The type of record.
    pub record: Type,
    /// How the question travels.
    pub transport: Transport,
    /// The code that the answer must carry.
    pub rcode: Rcode,
    /// Records that must be among those of the answer. If none are given and `rcode` is `NOERROR`,
    /// there must be at least one record of the type.
    pub answer: Vec<String>,
    /// Whether the server is asked to ask others.
    pub recursion: bool,
}

/// Types of record that can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// IPv4 address.
    #[default]
    A,
    /// IPv6 address.
    Aaaa,
    /// Name of an address.
    Ptr,
    /// Canonical name.
    Cname,
    /// Mail exchange.
    Mx,
    /// Name server.
    Ns,
    /// Start of a zone.
    Soa,
    /// Place of a service.
    Srv,
    /// Text.
    Txt,
}

impl Type {
    /// Every type and its word in the file.
    pub const ALL: &[(&str, Self)] = &[
        ("A", Self::A),
        ("AAAA", Self::Aaaa),
        ("PTR", Self::Ptr),
        ("CNAME", Self::Cname),
        ("MX", Self::Mx),
        ("NS", Self::Ns),
        ("SOA", Self::Soa),
        ("SRV", Self::Srv),
        ("TXT", Self::Txt),
    ];

    const fn wire(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Ptr => RecordType::PTR,
            Self::Cname => RecordType::CNAME,
            Self::Mx => RecordType::MX,
            Self::Ns => RecordType::NS,
            Self::Soa => RecordType::SOA,
            Self::Srv => RecordType::SRV,
            Self::Txt => RecordType::TXT,
        }
    }
}

/// How the question travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// In a datagram; an answer that does not fit one is fetched over TCP.
    #[default]
    Udp,
    /// Over TCP.
    Tcp,
}

/// Codes of an answer that can be expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rcode {
    /// No error.
    #[default]
    NoError,
    /// The server did not understand.
    FormErr,
    /// The server failed.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// The server does not do that.
    NotImp,
    /// The server will not answer us.
    Refused,
}

impl Rcode {
    /// Every code and its word in the file.
    pub const ALL: &[(&str, Self)] = &[
        ("NOERROR", Self::NoError),
        ("FORMERR", Self::FormErr),
        ("SERVFAIL", Self::ServFail),
        ("NXDOMAIN", Self::NxDomain),
        ("NOTIMP", Self::NotImp),
        ("REFUSED", Self::Refused),
    ];

    const fn wire(self) -> ResponseCode {
        match self {
            Self::NoError => ResponseCode::NoError,
            Self::FormErr => ResponseCode::FormErr,
            Self::ServFail => ResponseCode::ServFail,
            Self::NxDomain => ResponseCode::NXDomain,
            Self::NotImp => ResponseCode::NotImp,
            Self::Refused => ResponseCode::Refused,
        }
    }
}

/// `text` as a name of a question: lower case, with its final dot. An IP address becomes the name
/// its `PTR` records are under.
///
/// # Errors
/// What is wrong with it, in words.
pub fn canonical(text: &str, record: Type) -> Result<String, String> {
    if let (Type::Ptr, Ok(address)) = (record, text.parse::<IpAddr>()) {
        return Ok(Name::from(address).to_string());
    }
    let mut name = Name::from_ascii(text).map_err(|e| e.to_string())?;
    name.set_fqdn(true);
    Ok(name.to_lowercase().to_string())
}

/// What a message turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Not the answer to our question.
    NotOurs,
    /// The answer, cut to fit a datagram.
    Truncated,
    /// The answer, judged.
    Judged(Outcome),
}

impl Settings {
    /// The question under `id`.
    ///
    /// # Errors
    /// If the name is none, which the reader of the file has ruled out.
    pub fn question(&self, id: u16) -> Result<Vec<u8>, Outcome> {
        let query = self.query().map_err(Outcome::cannot_run)?;
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.recursion;
        message.add_query(query);
        message.to_vec().map_err(|e| Outcome::cannot_run(format!("write the question: {e}")))
    }

    fn query(&self) -> Result<Query, String> {
        let name = Name::from_ascii(&self.name).map_err(|e| e.to_string())?;
        Ok(Query::query(name, self.record.wire()))
    }

    /// Judges a message that came while the question with `id` was open.
    #[must_use]
    pub fn judge(&self, id: u16, bytes: &[u8]) -> Read {
        // The id is looked at first, so that a message of somebody else's is never an answer.
        if bytes.get(..2) != Some(&id.to_be_bytes()[..]) {
            return Read::NotOurs;
        }
        let message = match Message::from_vec(bytes) {
            Ok(message) => message,
            Err(error) => return down(format!("the answer is malformed: {error}")),
        };
        if message.metadata.message_type != MessageType::Response {
            return Read::NotOurs;
        }
        let rcode = message.metadata.response_code;
        // A server that refuses may leave the question out (RFC 1035 §4.1.1 requires it not for
        // errors of format); with records it may not.
        let bare = message.queries.is_empty() && rcode != ResponseCode::NoError;
        if !bare && !self.is_asked(&message.queries) {
            return Read::NotOurs;
        }
        if message.metadata.truncation {
            return Read::Truncated;
        }
        if rcode != self.rcode.wire() {
            let expected = self.rcode.wire();
            return down(format!("answered {rcode}, expected {expected}"));
        }
        self.judge_records(&message.answers)
    }

    fn is_asked(&self, queries: &[Query]) -> bool {
        let [query] = queries else { return false };
        let same_name = Name::from_ascii(&self.name)
            .is_ok_and(|name| name.eq_ignore_root_case(&query.name().to_lowercase()));
        same_name && query.query_type() == self.record.wire() && query.query_class() == DNSClass::IN
    }

    fn judge_records(&self, answers: &[Record]) -> Read {
        let ours = || answers.iter().filter(|r| r.record_type() == self.record.wire());
        if self.answer.is_empty() {
            if self.rcode == Rcode::NoError && ours().next().is_none() {
                return down(format!("no {} record in the answer", self.record.wire()));
            }
            return Read::Judged(Outcome::up());
        }
        for wanted in &self.answer {
            if !ours().any(|r| is(&r.data, wanted)) {
                let found: Vec<_> =
                    ours().take(4).map(|r| printable(&r.data.to_string())).collect();
                let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
                return down(format!("record {wanted} is not in the answer, but {found}"));
            }
        }
        Read::Judged(Outcome::up())
    }
}

fn down(reason: String) -> Read {
    Read::Judged(Outcome::down(reason))
}

/// Whether a record is what the file calls `wanted`.
fn is(data: &RData, wanted: &str) -> bool {
    match data {
        RData::A(address) => IpAddr::from_str(wanted) == Ok(IpAddr::V4(address.0)),
        RData::AAAA(address) => IpAddr::from_str(wanted) == Ok(IpAddr::V6(address.0)),
        RData::TXT(text) => text.to_string() == wanted,
        other => plain(&other.to_string()) == plain(wanted),
    }
}

/// Names compare without case, with or without their final dots.
fn plain(text: &str) -> String {
    let words = text.split_ascii_whitespace().map(|w| w.trim_end_matches('.'));
    words.collect::<Vec<_>>().join(" ").to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
