//! `type = "http"`, `"https"`: a request and what its answer must be. Redirects are not followed:
//! they are answers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::lines::show;
use super::pattern::Pattern;
use super::secret::{Credentials, Login};
use super::smtp::base64;
use super::tls;

/// Longest body that is looked at, in bytes; what follows is not read.
pub const BODY_MAX: usize = 64 << 10;
/// Longest head (status line and headers), in bytes.
pub const HEAD_MAX: usize = 64 << 10;

/// What is asked of a web server and what it must answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// TLS, with the connection.
    pub tls: Option<tls::Settings>,
    /// The request line's first word, like `GET`.
    pub method: String,
    /// Path and query, from the first `/`.
    pub path: String,
    /// `Host`; the address and port if absent.
    pub host: Option<String>,
    /// More headers.
    pub headers: Vec<Header>,
    /// What is sent after the headers.
    pub data: Option<String>,
    /// Who to log in as, with Basic authentication (RFC 7617).
    pub login: Option<Login>,
    /// What must come back.
    pub expect: Expect,
}

/// What must come back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expect {
    /// The status is in one of these.
    pub status: Vec<StatusRange>,
    /// Headers that must be there, with what must occur in them.
    pub headers: Vec<(String, Pattern)>,
    /// What must occur in the body.
    pub body: Option<Pattern>,
}

/// A header of the request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Header {
    /// Whether its value is a secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        ["authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token"]
            .iter()
            .any(|name| self.name.eq_ignore_ascii_case(name))
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.is_secret() { "not shown" } else { &self.value };
        write!(f, "{}: {value}", self.name)
    }
}

/// Status codes from `first` to `last`, both among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusRange {
    /// From 100.
    pub first: u16,
    /// To 599.
    pub last: u16,
}

/// A success or a redirect.
pub const STATUS_DEFAULT: StatusRange = StatusRange { first: 200, last: 399 };

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl Expect {
    /// Whether the status line and the headers are as they should be.
    ///
    /// # Errors
    /// What is not, in words.
    pub fn head(&self, status: u16, headers: &[(&str, &[u8])]) -> Result<(), String> {
        if !self.status.iter().any(|r| (r.first..=r.last).contains(&status)) {
            let expected: Vec<_> = self.status.iter().map(ToString::to_string).collect();
            return Err(format!("status {status}, expected {}", expected.join(", ")));
        }
        for (name, pattern) in &self.headers {
            let mut named = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            let Some((_, first)) = named.next() else {
                return Err(format!("no header {name}, expected one with {:?}", pattern.text()));
            };
            if !pattern.matches(first) && !named.any(|(_, value)| pattern.matches(value)) {
                let text = pattern.text();
                return Err(format!("header {name} is {}, expected {text:?}", show(first)));
            }
        }
        Ok(())
    }

    /// Whether the body, or its first [`BODY_MAX`] bytes, is as it should be.
    ///
    /// # Errors
    /// What is not, in words.
    pub fn body(&self, body: &[u8]) -> Result<(), String> {
        let Some(pattern) = self.body.as_ref().filter(|p| !p.matches(body)) else { return Ok(()) };
        let text = pattern.text();
        let place = if body.len() < BODY_MAX {
            format!("the body ({} bytes)", body.len())
        } else {
            format!("the first {} KiB of the body", BODY_MAX >> 10)
        };
        Err(format!("{text:?} is not in {place}, which begins {}", show(body)))
    }
}

/// `Host` for an address and a port: the port is left out where it is the usual one.
#[must_use]
pub fn host_of(address: IpAddr, port: u16, usual: u16) -> String {
    match address {
        _ if port != usual => SocketAddr::new(address, port).to_string(),
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// A name or address without the port: `example.com` of `example.com:443`, `::1` of `[::1]:443`.
#[must_use]
pub fn host_name(host: &str) -> &str {
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        return inside;
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The value of `Authorization` for a name and a password (RFC 7617).
#[must_use]
pub fn basic(login: &Credentials) -> String {
    format!("Basic {}", base64(format!("{}:{}", login.user, login.password).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect() -> Expect {
        Expect {
            status: vec![
                StatusRange { first: 200, last: 200 },
                StatusRange { first: 300, last: 399 },
            ],
            headers: vec![("Server".to_owned(), Pattern::new("^nginx").unwrap())],
            body: Some(Pattern::new("ok").unwrap()),
        }
    }

    #[test]
    fn status_headers_and_body_must_all_be_as_expected() {
        let expect = expect();
        let nginx: [(&str, &[u8]); 2] = [("server", b"other"), ("SERVER", b"nginx/1.22")];
        assert_eq!(expect.head(200, &nginx), Ok(()));
        assert_eq!(expect.head(302, &nginx), Ok(()));
        let reason = expect.head(404, &nginx).unwrap_err();
        assert_eq!(reason, "status 404, expected 200, 300-399");
        let none: [(&str, &[u8]); 1] = [("date", b"nginx")];
        let reason = expect.head(200, &none).unwrap_err();
        assert_eq!(reason, r#"no header Server, expected one with "^nginx""#);
        let other: [(&str, &[u8]); 1] = [("server", b"a\x1b\xffpache")];
        let reason = expect.head(200, &other).unwrap_err();
        assert_eq!(reason, r#"header Server is "a\x1b\xffpache", expected "^nginx""#);
        assert_eq!(expect.body(b"all ok"), Ok(()));
        let reason = expect.body(b"\0wrong").unwrap_err();
        assert_eq!(reason, r#""ok" is not in the body (6 bytes), which begins "\x00wrong""#);
    }

    #[test]
    fn hosts_are_written_and_read_with_and_without_port() {
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(host_of(v6, 80, 80), "[2001:db8::1]");
        assert_eq!(host_of(v6, 81, 80), "[2001:db8::1]:81");
        assert_eq!(host_of("10.0.0.1".parse().unwrap(), 80, 80), "10.0.0.1");
        for (host, name) in [
            ("example.com", "example.com"),
            ("example.com:443", "example.com"),
            ("[::1]:443", "::1"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn secrets_in_headers_are_not_shown() {
        let header = |name: &str| Header { name: name.to_owned(), value: "hunter2".to_owned() };
        assert!(!format!("{:?}", header("authorization")).contains("hunter2"));
        assert!(format!("{:?}", header("x-trace")).contains("hunter2"));
        let login = Credentials { user: "Aladdin".to_owned(), password: "open sesame".to_owned() };
        // The example of RFC 7617 section 2.
        assert_eq!(basic(&login), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
