//! The page that clients get while a service has nobody to serve them: what is said, and how much
//! of a request is read before it is said. Pure.
//!
//! Every request gets the same answer, 503 (RFC 9110 §15.6.4) with `Retry-After` (§10.2.3), and the
//! connection is closed after it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use std::collections::BTreeMap;

/// Longest page, in bytes.
pub const PAGE_MAX: u64 = 256 << 10;
/// Most head of a request that is read, in bytes.
pub const HEAD_MAX: usize = 16 << 10;
/// Most ports with a page, over all services.
pub const PORTS_MAX: usize = 256;

/// The built-in page.
const BUILT_IN: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
    <title>Temporarily unavailable</title>\n<h1>Temporarily unavailable</h1>\n\
    <p>This service is not available at the moment. Please try again later.</p>\n</html>\n";

/// `sorry` of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sorry {
    /// File with the page; the built-in one if absent.
    pub file: Option<PathBuf>,
    /// What clients are told to wait, in seconds.
    pub retry_after_s: u32,
    /// The page; the shell reads it when the configuration is read.
    pub page: Option<Arc<[u8]>>,
}

/// What is said at each address.
pub type Pages = BTreeMap<SocketAddr, Arc<Answer>>;

/// A finished answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    head: Vec<u8>,
    page: Arc<[u8]>,
}

impl Answer {
    /// The answer of a service.
    #[must_use]
    pub fn new(sorry: &Sorry) -> Self {
        let page = sorry.page.clone().unwrap_or_else(|| BUILT_IN.as_bytes().into());
        let head = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\n\
             Content-Length: {}\r\nRetry-After: {}\r\nCache-Control: no-store\r\n\
             Connection: close\r\n\r\n",
            page.len(),
            sorry.retry_after_s
        );
        Self { head: head.into_bytes(), page }
    }

    /// The bytes for a request that began like this.
    #[must_use]
    pub fn bytes(&self, request: &[u8]) -> Vec<u8> {
        // The answer to HEAD has no content (RFC 9110 §9.3.2).
        let page: &[u8] = if request.starts_with(b"HEAD ") { &[] } else { &self.page };
        [&self.head, page].concat()
    }
}

/// What has come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Not the whole head yet.
    More,
    /// Enough to answer.
    Request,
    /// Not HTTP/1: TLS, another protocol, or too long a head. Closed without a word.
    Nonsense,
}

/// Judges what has come so far.
#[must_use]
pub fn heard(bytes: &[u8]) -> Heard {
    let token = |b: &u8| b.is_ascii_uppercase() || *b == b'-';
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let whole_line = line.len() < bytes.len();
    let method = line.iter().take_while(|b| token(b)).count();
    let odd_method = match line.get(method) {
        Some(b' ') => !(1..=32).contains(&method),
        Some(_) => true,
        None => method > 32,
    };
    let version = |l: &[u8]| l.trim_ascii_end().windows(7).any(|w| w == b"HTTP/1.");
    if odd_method || (whole_line && !version(line)) {
        return Heard::Nonsense;
    }
    let ended =
        bytes.windows(4).any(|w| w == b"\r\n\r\n") || bytes.windows(2).any(|w| w == b"\n\n");
    match (ended, bytes.len() >= HEAD_MAX) {
        (true, _) => Heard::Request,
        (false, true) => Heard::Nonsense,
        (false, false) => Heard::More,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(page: Option<&str>) -> Answer {
        let page = page.map(|p| p.as_bytes().into());
        Answer::new(&Sorry { file: None, retry_after_s: 30, page })
    }

    #[test]
    fn every_method_gets_the_page_and_head_gets_its_length_only() {
        let answer = answer(Some("sorry!"));
        for method in ["GET", "POST", "OPTIONS"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(heard(request.as_bytes()), Heard::Request);
            let text = String::from_utf8(answer.bytes(request.as_bytes())).unwrap();
            assert!(text.starts_with("HTTP/1.1 503 ") && text.ends_with("\r\n\r\nsorry!"));
            assert!(text.contains("\r\nRetry-After: 30\r\n") && text.contains("Length: 6\r\n"));
            assert!(text.contains("\r\nConnection: close\r\n"));
        }
        let head = String::from_utf8(answer.bytes(b"HEAD / HTTP/1.0\r\n\r\n")).unwrap();
        assert!(head.contains("Length: 6\r\n") && head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn without_a_file_there_is_a_page_all_the_same() {
        let text = String::from_utf8(answer(None).bytes(b"GET / HTTP/1.1\r\n\r\n")).unwrap();
        assert!(text.contains("<h1>Temporarily unavailable</h1>"));
    }

    #[test]
    fn half_a_request_waits_and_what_is_no_http_is_not_answered() {
        for more in ["", "GET", "GET / HTTP/1.1", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            assert_eq!(heard(more.as_bytes()), Heard::More, "{more:?}");
        }
        assert_eq!(heard(b"GET / HTTP/1.0\n\n"), Heard::Request);
        let tls = [0x16, 3, 1, 2, 0, 1, 0, 1];
        let long = format!("GET / HTTP/1.1\r\n{}", "x: y\r\n".repeat(HEAD_MAX / 6 + 1));
        for nonsense in [
            &tls[..],
            b"hello\r\n",
            b" GET / HTTP/1.1\r\n",
            b"GET /\r\n",
            &[b'A'; 99],
            long.as_bytes(),
        ] {
            assert_eq!(heard(nonsense), Heard::Nonsense, "{nonsense:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = heard(&bytes);
        }
    }
}
