//! `type = "radius"`: a RADIUS server answers, authentically (RFC 2865, RFC 5997, RFC 2869 §5.14).
//!
//! Every request carries a Message-Authenticator; an answer counts only if its own authenticators
//! are right, so that a server with another secret is not up.

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};

use super::Outcome;
use super::outcome::printable_bytes;
use super::secret::Secret;

/// Longest packet, in bytes (RFC 2865 §3).
pub const PACKET_MAX: usize = 4096;
/// Longest password, in bytes (RFC 2865 §5.2).
pub const PASSWORD_MAX: usize = 128;
const HEADER: usize = 20;
const MESSAGE_AUTHENTICATOR: u8 = 80;

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// The secret shared with the server.
    pub secret: Secret,
    /// What is sent.
    pub request: Request,
    /// The name we give ourselves (NAS-Identifier).
    pub nas: String,
    /// Which answer is good.
    pub expect: Expect,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// Status-Server: is anybody there?
    Status,
    /// Access-Request of a user.
    Access {
        /// The user's name.
        user: String,
        /// The user's password.
        password: Secret,
    },
}

/// Which answer is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expect {
    /// Access-Accept (to Status-Server also Accounting-Response).
    #[default]
    Accept,
    /// Access-Reject: the server works, though it does not know the user.
    Reject,
    /// Any of its answers, Access-Challenge too.
    Any,
}

/// What a request is made of, beside its settings.
pub struct Keys<'a> {
    /// Its identifier.
    pub id: u8,
    /// Its authenticator, random.
    pub authenticator: [u8; 16],
    /// The secret shared with the server.
    pub secret: &'a [u8],
}

impl Settings {
    /// The packet that is sent; `password` is the user's.
    #[must_use]
    pub fn packet(&self, keys: &Keys<'_>, password: &[u8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(128);
        let code = match &self.request {
            Request::Status => 12,
            Request::Access { user, .. } => {
                attribute(&mut body, 1, user.as_bytes());
                attribute(&mut body, 2, &hidden(password, keys));
                1
            }
        };
        attribute(&mut body, 32, self.nas.as_bytes());
        attribute(&mut body, MESSAGE_AUTHENTICATOR, &[0; 16]);
        let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut packet = [&[code, keys.id], &length[..], &keys.authenticator, &body].concat();
        let sum = authenticate(keys.secret, &[&packet]);
        let at = packet.len() - 16;
        packet[at..].copy_from_slice(&sum);
        packet
    }

    /// Judges a packet. `None` if it is not an answer to ours.
    #[must_use]
    pub fn judge(&self, keys: &Keys<'_>, bytes: &[u8]) -> Option<Outcome> {
        let head: &[u8; HEADER] = bytes.first_chunk()?;
        let (code, length) = (head[0], usize::from(u16::from_be_bytes([head[2], head[3]])));
        if head[1] != keys.id {
            return None;
        }
        // What is behind the length is padding (RFC 2865 §3).
        let Some(packet) = bytes.get(..length).filter(|p| p.len() >= HEADER) else {
            return Some(Outcome::down("an answer with a length that cannot be"));
        };
        if let Err(reason) = is_authentic(packet, keys) {
            return Some(Outcome::down(reason));
        }
        let name = match code {
            2 => "Access-Accept",
            3 => "Access-Reject",
            5 => "Accounting-Response",
            11 => "Access-Challenge",
            _ => return Some(Outcome::down(format!("an answer of unknown code {code}"))),
        };
        let good = match self.expect {
            Expect::Accept => matches!((&self.request, code), (_, 2) | (Request::Status, 5)),
            Expect::Reject => code == 3,
            Expect::Any => true,
        };
        if good {
            return Some(Outcome::up());
        }
        let message = find(packet, 18).map(|m| format!(": {}", printable_bytes(m)));
        Some(Outcome::down(format!("answered {name}{}", message.unwrap_or_default())))
    }
}

/// Adds an attribute of at most 253 bytes.
fn attribute(body: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = value.get(..253).unwrap_or(value);
    body.push(kind);
    body.push(u8::try_from(value.len() + 2).unwrap_or(u8::MAX));
    body.extend(value);
}

/// The password as it is sent (RFC 2865 §5.2).
fn hidden(password: &[u8], keys: &Keys<'_>) -> Vec<u8> {
    let mut plain = password.get(..PASSWORD_MAX).unwrap_or(password).to_vec();
    plain.resize(plain.len().max(1).next_multiple_of(16), 0);
    let mut sent: Vec<u8> = Vec::with_capacity(plain.len());
    for block in plain.chunks(16) {
        let before = sent.last_chunk::<16>().copied().unwrap_or(keys.authenticator);
        let mask = Md5::new().chain_update(keys.secret).chain_update(before).finalize();
        sent.extend(block.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    }
    sent
}

fn authenticate(secret: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(secret) else { return [0; 16] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// The value of the first attribute of a kind.
fn find(packet: &[u8], kind: u8) -> Option<&[u8]> {
    attributes(packet).ok()?.into_iter().find(|(k, _)| *k == kind).map(|(_, at)| &packet[at])
}

/// Kinds and places of a packet's attributes.
fn attributes(packet: &[u8]) -> Result<Vec<(u8, std::ops::Range<usize>)>, String> {
    let mut found = Vec::new();
    let mut at = HEADER;
    while at < packet.len() {
        let (kind, length) = match packet.get(at..at + 2) {
            Some(&[kind, length]) => (kind, usize::from(length)),
            _ => return Err("an answer with a cut attribute".to_owned()),
        };
        if length < 2 || at + length > packet.len() {
            return Err("an answer with a cut attribute".to_owned());
        }
        found.push((kind, at + 2..at + length));
        at += length;
    }
    Ok(found)
}

/// Whether an answer is from who knows the secret, and to our request.
fn is_authentic(packet: &[u8], keys: &Keys<'_>) -> Result<(), String> {
    const WRONG: &str =
        "an answer with a wrong authenticator: does the server have another secret?";
    let (head, rest) = packet.split_at(4);
    let body = rest.get(16..).unwrap_or_default();
    let sum = Md5::new()
        .chain_update(head)
        .chain_update(keys.authenticator)
        .chain_update(body)
        .chain_update(keys.secret)
        .finalize();
    if rest.get(..16) != Some(sum.as_slice()) {
        return Err(WRONG.to_owned());
    }
    // Not every server sends one; what it sends must be right.
    for (kind, at) in attributes(packet)? {
        if kind != MESSAGE_AUTHENTICATOR {
            continue;
        }
        let (start, end) = (at.start, at.end);
        let parts = [head, &keys.authenticator, &packet[HEADER..start], &[0; 16], &packet[end..]];
        if packet[at] != authenticate(keys.secret, &parts) {
            return Err(WRONG.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(request: Request, expect: Expect) -> Settings {
        let secret = Secret::Inline("xyzzy5461".to_owned());
        Settings { secret, request, nas: "xvip".to_owned(), expect }
    }

    fn access() -> Request {
        Request::Access { user: "nemo".to_owned(), password: Secret::Inline(String::new()) }
    }

    const KEYS: Keys<'static> = Keys {
        id: 0,
        // RFC 2865 §7.1.
        authenticator: [
            0x0f, 0x40, 0x3f, 0x94, 0x73, 0x97, 0x80, 0x57, 0xbd, 0x83, 0xd5, 0xcb, 0x98, 0xf4,
            0x22, 0x7a,
        ],
        secret: b"xyzzy5461",
    };

    /// An answer with its authenticator.
    fn answer(code: u8, attributes: &[u8]) -> Vec<u8> {
        let mut packet = vec![code, 0, 0, (HEADER + attributes.len()) as u8];
        packet.extend([0; 16]);
        packet.extend(attributes);
        sign(&mut packet);
        packet
    }

    fn sign(packet: &mut [u8]) {
        let body = [&packet[..4], &KEYS.authenticator, &packet[20..], KEYS.secret].concat();
        packet[4..20].copy_from_slice(&Md5::digest(body));
    }

    #[test]
    fn a_password_is_hidden_as_in_the_example_of_the_rfc() {
        let hex = "0dbe708d93d413ce3196e43f782a0aee";
        let expected = super::super::udp::from_hex(hex).unwrap();
        assert_eq!(hidden(b"arctangent", &KEYS), expected);
        assert_eq!((hidden(b"", &KEYS).len(), hidden(&[b'x'; 17], &KEYS).len()), (16, 32));
        let packet = settings(access(), Expect::Accept).packet(&KEYS, b"arctangent");
        assert_eq!(packet[..4], [1, 0, 0, packet.len() as u8]);
        assert_eq!(packet[20..28], *b"\x01\x06nemo\x02\x12");
        // The last attribute is the sum over the packet with zeros in its place.
        let (start, sum) = packet.split_at(packet.len() - 16);
        assert_eq!(start[start.len() - 2..], [80, 18]);
        assert_eq!(sum, authenticate(KEYS.secret, &[start, &[0; 16]]));
    }

    #[test]
    fn the_answer_of_the_rfc_is_authentic() {
        // RFC 2865 §7.1: the Access-Accept to the request above.
        let hex = "02000026 86fe220e7624ba2a1005f6bf9b55e0b2 \
                   060600000001 0f0600000000 0e06c0a80103";
        let bytes = super::super::udp::from_hex(hex).unwrap();
        let s = settings(access(), Expect::Accept);
        assert_eq!(s.judge(&KEYS, &bytes), Some(Outcome::up()));
        for at in 4..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            let outcome = s.judge(&KEYS, &wrong).unwrap();
            assert!(outcome.reason().unwrap().contains("another secret"), "{at}");
        }
    }

    #[test]
    fn answers_are_judged_by_what_is_expected() {
        let reject = answer(3, b"\x12\x06no\x1b!");
        let judge = |request, expect, packet: &[u8]| {
            settings(request, expect).judge(&KEYS, packet).unwrap()
        };
        let outcome = judge(access(), Expect::Accept, &reject);
        assert_eq!(outcome.reason(), Some(r"answered Access-Reject: no\x1b!"));
        assert_eq!(judge(access(), Expect::Reject, &reject), Outcome::up());
        assert_eq!(judge(access(), Expect::Any, &answer(11, b"")), Outcome::up());
        assert_eq!(judge(Request::Status, Expect::Accept, &answer(5, b"")), Outcome::up());
        assert!(judge(access(), Expect::Accept, &answer(5, b"")).reason().is_some());
        let odd = judge(access(), Expect::Any, &answer(77, b""));
        assert!(odd.reason().unwrap().contains("unknown code 77"));
    }

    #[test]
    fn a_wrong_message_authenticator_is_found_behind_a_right_response_authenticator() {
        let s = settings(Request::Status, Expect::Accept);
        let mut packet = answer(2, &[[80, 18].as_slice(), &[0; 16]].concat());
        assert!(s.judge(&KEYS, &packet).unwrap().reason().unwrap().contains("another secret"));
        let parts = [&packet[..4], &KEYS.authenticator, &packet[20..]];
        let sum = authenticate(KEYS.secret, &parts);
        packet[22..].copy_from_slice(&sum);
        sign(&mut packet);
        assert_eq!(s.judge(&KEYS, &packet), Some(Outcome::up()));
    }

    #[test]
    fn cut_and_foreign_packets_are_no_answers() {
        let s = settings(Request::Status, Expect::Accept);
        let whole = answer(2, b"\x12\x06okay");
        for end in 0..HEADER {
            assert_eq!(s.judge(&KEYS, &whole[..end]), None);
        }
        for end in HEADER..whole.len() {
            assert!(s.judge(&KEYS, &whole[..end]).unwrap().reason().is_some());
        }
        assert_eq!(s.judge(&Keys { id: 1, ..KEYS }, &whole), None);
        for bad in [&b"\x12"[..], b"\x12\0", b"\x12\x01", b"\x12\x09okay"] {
            let outcome = s.judge(&KEYS, &answer(2, bad)).unwrap();
            assert!(outcome.reason().unwrap().contains("cut attribute"));
        }
        let mut short = whole;
        short[3] = 19;
        assert!(s.judge(&KEYS, &short).unwrap().reason().unwrap().contains("cannot be"));
    }
}
