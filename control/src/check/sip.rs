//! `type = "sip"`: a SIP server answers `OPTIONS` (RFC 3261 §11).

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Outcome;
use super::outcome::printable;

/// Longest answer, in bytes.
pub const ANSWER_MAX: usize = 16 << 10;

/// What is asked, and what the answer may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// How the request travels.
    pub transport: Transport,
    /// Whose options are asked for: the user part of the URI. `None`: those of the server.
    pub user: Option<String>,
    /// The host part of the URI; the server's address if absent.
    pub host: Option<String>,
    /// Codes that are good, 200 to 699; if none is given, every 2xx.
    pub status: Vec<u16>,
}

/// How the request travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// In a datagram.
    #[default]
    Udp,
    /// Over TCP.
    Tcp,
}

/// Whether `text` can be the user or host part of a URI without being escaped.
#[must_use]
pub fn is_plain(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/[]:".contains(&b);
    !text.is_empty() && text.len() <= 255 && text.bytes().all(allowed)
}

impl Settings {
    /// The request from `local` to `server`; `token` (letters and digits) makes it unique.
    #[must_use]
    pub fn request(&self, server: SocketAddr, local: SocketAddr, token: &str) -> String {
        let transport = match self.transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        let host = self.host.clone().unwrap_or_else(|| server.to_string());
        let uri = match &self.user {
            Some(user) => format!("sip:{user}@{host}"),
            None => format!("sip:{host}"),
        };
        let mut text = String::with_capacity(512);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "OPTIONS {uri} SIP/2.0\r\n\
             Via: SIP/2.0/{transport} {local};branch=z9hG4bK{token};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:xvip@{local}>;tag={token}\r\n\
             To: <{uri}>\r\n\
             Call-ID: {token}@xvip\r\n\
             CSeq: 1 OPTIONS\r\n\
             Contact: <sip:xvip@{local}>\r\n\
             Accept: application/sdp\r\n\
             User-Agent: xvip\r\n\
             Content-Length: 0\r\n\r\n"
        );
        text
    }

    /// Judges a message. `None` if it does not end our request: another's, or a 1xx.
    #[must_use]
    pub fn judge(&self, token: &str, message: &[u8]) -> Option<Outcome> {
        let text = String::from_utf8_lossy(message);
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let Some(rest) = status.strip_prefix("SIP/2.0 ") else {
            // A request of the server's own is none of our business.
            let request = status.ends_with(" SIP/2.0");
            let wrong = || Outcome::down(format!("not a SIP answer: \"{}\"", printable(status)));
            return (!request).then(wrong);
        };
        if !self.is_ours(token, lines) {
            return None;
        }
        let code = rest.get(..3).filter(|c| c.bytes().all(|b| b.is_ascii_digit()));
        let code = code.filter(|_| matches!(rest.as_bytes().get(3), None | Some(b' ')));
        match code.and_then(|c| c.parse::<u16>().ok()) {
            None => Some(Outcome::down(format!("not a SIP answer: \"{}\"", printable(status)))),
            Some(100..200) => None,
            Some(code) if self.is_good(code) => Some(Outcome::up()),
            Some(_) => Some(Outcome::down(format!("answered {}", printable(rest)))),
        }
    }

    fn is_good(&self, code: u16) -> bool {
        if self.status.is_empty() { code / 100 == 2 } else { self.status.contains(&code) }
    }

    /// The answer carries the call of our request.
    fn is_ours<'a>(&self, token: &str, lines: impl Iterator<Item = &'a str>) -> bool {
        for line in lines.take_while(|l| !l.is_empty()) {
            let Some((name, value)) = line.split_once(':') else { continue };
            let name = name.trim();
            if name.eq_ignore_ascii_case("call-id") || name.eq_ignore_ascii_case("i") {
                return value.trim().strip_suffix("@xvip") == Some(token);
            }
        }
        false
    }
}

/// Where the head of the message in `bytes` ends, if it does.
#[must_use]
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(status: &[u16]) -> Settings {
        let (user, host, status) = (Some("ping".to_owned()), None, status.to_vec());
        Settings { transport: Transport::Udp, user, host, status }
    }

    fn answer(first: &str, call: &str) -> Vec<u8> {
        format!("{first}\r\nVia: x\r\nCall-ID: {call}@xvip\r\n\r\n").into_bytes()
    }

    #[test]
    fn a_request_has_every_header_that_it_must_have() {
        let server = "10.0.0.1:5060".parse().unwrap();
        let text = settings(&[]).request(server, "10.0.0.9:4000".parse().unwrap(), "t0k");
        assert!(text.starts_with("OPTIONS sip:ping@10.0.0.1:5060 SIP/2.0\r\n"));
        // RFC 3261 §8.1.1: these six, and Via with the magic cookie.
        for header in ["To", "From", "CSeq", "Call-ID", "Max-Forwards", "Via"] {
            assert_eq!(text.matches(&format!("\r\n{header}: ")).count(), 1, "{header}");
        }
        assert!(text.contains("branch=z9hG4bKt0k;rport") && text.ends_with("\r\n\r\n"));
        let server = "[2001:db8::1]:5060".parse().unwrap();
        let settings = Settings { user: None, ..settings(&[]) };
        let text = settings.request(server, "[2001:db8::9]:4000".parse().unwrap(), "t0k");
        assert!(text.starts_with("OPTIONS sip:[2001:db8::1]:5060 SIP/2.0\r\n"));
    }

    #[test]
    fn answers_are_judged_by_their_code() {
        let s = settings(&[]);
        assert_eq!(s.judge("t", &answer("SIP/2.0 200 OK", "t")), Some(Outcome::up()));
        assert_eq!(s.judge("t", &answer("SIP/2.0 100 Trying", "t")), None);
        let busy = s.judge("t", &answer("SIP/2.0 503 Service\x1b Unavailable", "t")).unwrap();
        assert_eq!(busy.reason(), Some(r"answered 503 Service\u{1b} Unavailable"));
        let s = settings(&[404]);
        assert_eq!(s.judge("t", &answer("SIP/2.0 404 Not Found", "t")), Some(Outcome::up()));
        assert!(s.judge("t", &answer("SIP/2.0 200 OK", "t")).unwrap().reason().is_some());
    }

    #[test]
    fn what_does_not_belong_to_our_call_is_no_answer() {
        let s = settings(&[]);
        assert_eq!(s.judge("t", &answer("SIP/2.0 200 OK", "other")), None);
        assert_eq!(s.judge("t", b"SIP/2.0 200 OK\r\n\r\nCall-ID: t@xvip\r\n"), None);
        assert_eq!(s.judge("t", &answer("OPTIONS sip:me SIP/2.0", "t")), None);
    }

    #[test]
    fn nonsense_is_told_and_escaped() {
        let s = settings(&[]);
        for first in ["HTTP/1.1 200 OK", "SIP/2.0 99999999999 OK", "SIP/2.0 2\u{0}0 OK", ""] {
            let outcome = s.judge("t", &answer(first, "t")).unwrap();
            assert!(outcome.reason().unwrap().starts_with("not a SIP answer"), "{first:?}");
        }
        assert!(s.judge("t", &[0xff; 70_000]).unwrap().reason().unwrap().len() <= 256);
    }
}
