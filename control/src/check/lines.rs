//! A conversation in lines of text, without I/O: SMTP, POP3, IMAP, FTP and NNTP share it.
//!
//! [`Lines`] turns bytes into lines, bounded in length and number, and hands them to a
//! [`Dialogue`], which knows the protocol and says what to do next. The shell does it. No answer,
//! whatever its bytes, makes this panic, grow without bound, or get raw into a reason.

use super::outcome::printable_bytes;
use super::secret::Login;
use super::tls::Tls;

/// Longest line, in bytes, without its end. RFC 5321 asks for 512, RFC 2449 for 512; greetings of
/// real servers are longer now and then.
pub const LINE_MAX: usize = 4096;
/// Most lines of one conversation; a greeting or a list of capabilities has a dozen.
pub const LINES_MAX: usize = 256;

/// A check by a conversation that has no settings of its own: POP3, IMAP, FTP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// When TLS begins.
    pub tls: Tls,
    /// Who to log in as: with USER and PASS, or LOGIN.
    pub login: Option<Login>,
}

/// What the shell does next.
#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    /// Wait for more bytes.
    Read,
    /// Send these bytes, then go on with [`Lines::go_on`].
    Send(Vec<u8>),
    /// Start TLS on the connection, then go on with [`Lines::secured`].
    StartTls,
    /// The check has passed; these bytes end the conversation politely.
    Finish(&'static [u8]),
    /// The check has failed, for this reason.
    Fail(String),
}

/// Shows no bytes that are sent: they may be a password.
impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read => f.write_str("Read"),
            Self::Send(bytes) => write!(f, "Send({} bytes)", bytes.len()),
            Self::StartTls => f.write_str("StartTls"),
            Self::Finish(_) => f.write_str("Finish"),
            Self::Fail(reason) => write!(f, "Fail({reason:?})"),
        }
    }
}

/// A protocol: what its lines mean.
pub trait Dialogue {
    /// Takes one line, without its end.
    fn line(&mut self, line: &[u8]) -> Action;

    /// TLS has been established after [`Action::StartTls`].
    fn secured(&mut self) -> Action;

    /// What is being waited for, for people: "the greeting".
    fn awaited(&self) -> &'static str;
}

/// Cuts what a server sends into lines for a [`Dialogue`].
pub struct Lines<D> {
    dialogue: D,
    partial: Vec<u8>,
    count: usize,
}

impl<D: Dialogue> Lines<D> {
    /// Begins: the server speaks first.
    pub fn new(dialogue: D) -> Self {
        Self { dialogue, partial: Vec::new(), count: 0 }
    }

    /// Takes what has arrived.
    pub fn receive(&mut self, bytes: &[u8]) -> Action {
        self.partial.extend_from_slice(bytes);
        self.go_on()
    }

    /// Goes on with what has arrived before.
    pub fn go_on(&mut self) -> Action {
        let mut begin = 0;
        let action = loop {
            let rest = self.partial.get(begin..).unwrap_or_default();
            let Some(length) = rest.iter().position(|b| *b == b'\n') else {
                let long = rest.len() > LINE_MAX;
                break if long { self.too_long() } else { Action::Read };
            };
            let line = rest.get(..length).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > LINE_MAX {
                break self.too_long();
            }
            self.count += 1;
            if self.count > LINES_MAX {
                break Action::Fail(format!(
                    "sends more than {LINES_MAX} lines (waiting for {})",
                    self.dialogue.awaited()
                ));
            }
            begin += length + 1;
            match self.dialogue.line(line) {
                Action::Read => {}
                action => break action,
            }
        };
        self.partial.drain(..begin.min(self.partial.len()));
        // What came in clear after the answer must not count as said under TLS (CVE-2011-0411).
        if action == Action::StartTls && !self.partial.is_empty() {
            let count = self.partial.len();
            return Action::Fail(format!("sends {count} bytes in clear where TLS must begin"));
        }
        action
    }

    /// TLS has been established.
    pub fn secured(&mut self) -> Action {
        self.dialogue.secured()
    }

    /// Why the check fails if the server has closed the connection.
    pub fn closed(&self) -> String {
        let awaited = self.dialogue.awaited();
        if self.partial.is_empty() {
            return format!("closed the connection (waiting for {awaited})");
        }
        let shown = show(&self.partial);
        format!("closed the connection in the middle of a line (waiting for {awaited}): {shown}")
    }

    /// What is being waited for, for people.
    pub fn awaited(&self) -> &'static str {
        self.dialogue.awaited()
    }

    fn too_long(&self) -> Action {
        let awaited = self.dialogue.awaited();
        Action::Fail(format!("sends a line of more than {LINE_MAX} bytes (waiting for {awaited})"))
    }
}

/// The beginning of what a server sent, for a reason: quoted, bounded, printable.
pub(super) fn show(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 80;
    match bytes.get(..SHOWN_MAX) {
        Some(start) if bytes.len() > SHOWN_MAX => format!("\"{}...\"", printable_bytes(start)),
        _ => format!("\"{}\"", printable_bytes(bytes)),
    }
}

/// A failure because of an answer, which is quoted.
pub(super) fn refused(awaited: &str, expected: &str, line: &[u8]) -> Action {
    Action::Fail(format!("{awaited}: expected {expected}, got {}", show(line)))
}

/// One command line, as bytes.
pub(super) fn command(words: &str) -> Action {
    Action::Send(format!("{words}\r\n").into_bytes())
}

/// What one line of a reply with a three-digit code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coded {
    /// More lines of this reply follow.
    More,
    /// The reply is whole; this is its code.
    Code(u16),
    /// No such reply.
    Bad,
}

/// Puts replies of several lines together: SMTP (RFC 5321 section 4.2.1) and FTP (RFC 959 section
/// 4.2). NNTP's (RFC 3977 section 3.2) have one line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Replies {
    /// Code of the reply whose first line has come.
    open: Option<u16>,
}

impl Replies {
    /// Takes one line. `free`: between first and last line anything may stand (FTP).
    pub(super) fn line(&mut self, line: &[u8], free: bool) -> Coded {
        let (code, more) = match (code(line), self.open) {
            (Some((code, more)), None) => (code, more),
            (Some((code, more)), Some(open)) if code == open => (code, more),
            (_, Some(_)) if free => return Coded::More,
            _ => return Coded::Bad,
        };
        self.open = more.then_some(code);
        if more { Coded::More } else { Coded::Code(code) }
    }
}

/// Code of a line, and whether it announces more. Three digits, then a space, `-` or the end:
/// a number of any other length is no code.
fn code(line: &[u8]) -> Option<(u16, bool)> {
    let (digits, rest) = line.split_at_checked(3)?;
    let valid = digits.iter().all(u8::is_ascii_digit) && (b'1'..=b'5').contains(digits.first()?);
    let number = digits.iter().fold(0_u16, |n, d| n * 10 + u16::from(d.wrapping_sub(b'0')));
    match rest.first() {
        None | Some(b' ') if valid => Some((number, false)),
        Some(b'-') if valid => Some((number, true)),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plays a conversation: what the server says, then what we are to do, as one line of text.
    pub(crate) fn play<D: Dialogue>(dialogue: D, script: &[(&str, &str)]) {
        let mut lines = Lines::new(dialogue);
        for (number, (said, expected)) in script.iter().enumerate() {
            let action = match *said {
                "<tls>" => lines.secured(),
                said => lines.receive(said.as_bytes()),
            };
            let shown = match &action {
                Action::Send(bytes) => {
                    format!("> {}", String::from_utf8_lossy(bytes).trim_end_matches("\r\n"))
                }
                Action::Finish(bytes) => {
                    format!("end {}", String::from_utf8_lossy(bytes).trim_end_matches("\r\n"))
                }
                Action::Fail(reason) => format!("fail {reason}"),
                Action::Read => "read".to_owned(),
                Action::StartTls => "tls".to_owned(),
            };
            assert_eq!(shown, *expected, "step {number}, after {said:?}");
        }
    }

    /// Echoes each line until `end`.
    struct Echo(usize);

    impl Dialogue for Echo {
        fn line(&mut self, line: &[u8]) -> Action {
            self.0 += 1;
            match line {
                b"end" => Action::Finish(b"bye\r\n"),
                b"tls" => Action::StartTls,
                b"more" => Action::Read,
                line => Action::Send(line.to_vec()),
            }
        }

        fn secured(&mut self) -> Action {
            Action::Read
        }

        fn awaited(&self) -> &'static str {
            "the end"
        }
    }

    #[test]
    fn lines_come_whole_however_the_bytes_are_cut() {
        let mut lines = Lines::new(Echo(0));
        for byte in b"mor" {
            assert_eq!(lines.receive(&[*byte]), Action::Read);
        }
        assert_eq!(lines.receive(b"e\r\nhello\nend\r\n"), Action::Send(b"hello".to_vec()));
        assert_eq!(lines.go_on(), Action::Finish(b"bye\r\n"));
    }

    #[test]
    fn a_line_without_end_and_lines_without_end_are_given_up() {
        let mut lines = Lines::new(Echo(0));
        for _ in 0..LINE_MAX {
            assert_eq!(lines.receive(b"x"), Action::Read);
        }
        let Action::Fail(reason) = lines.receive(b"x") else { panic!("accepted") };
        assert!(reason.contains("more than 4096 bytes") && reason.contains("the end"), "{reason}");

        let mut lines = Lines::new(Echo(0));
        let Action::Fail(reason) = lines.receive(&b"more\n".repeat(1000)) else { panic!() };
        assert!(reason.contains("more than 256 lines"), "{reason}");
    }

    #[test]
    fn bytes_in_clear_after_the_answer_to_starttls_are_refused() {
        assert_eq!(Lines::new(Echo(0)).receive(b"tls\r\n"), Action::StartTls);
        let Action::Fail(reason) = Lines::new(Echo(0)).receive(b"tls\r\nmore") else { panic!() };
        assert!(reason.contains("4 bytes in clear"), "{reason}");
    }

    #[test]
    fn the_reason_for_a_closed_connection_quotes_no_control_bytes() {
        let mut lines = Lines::new(Echo(0));
        assert_eq!(lines.closed(), "closed the connection (waiting for the end)");
        let _ = lines.receive(b"\x1b[2J\0\xff");
        assert!(lines.closed().ends_with(r#""\x1b[2J\x00\xff""#), "{}", lines.closed());
    }

    #[test]
    fn a_code_has_three_digits_and_replies_may_have_many_lines() {
        for (line, expected) in [
            ("220 ready", Coded::Code(220)),
            ("220", Coded::Code(220)),
            ("220-more", Coded::More),
            ("22", Coded::Bad),
            ("2200 no", Coded::Bad),
            ("99999999999999999999 no", Coded::Bad),
            ("020 no", Coded::Bad),
            ("620 no", Coded::Bad),
            ("-20 no", Coded::Bad),
            ("+22 no", Coded::Bad),
            ("", Coded::Bad),
        ] {
            assert_eq!(Replies::default().line(line.as_bytes(), false), expected, "{line}");
        }
        let mut replies = Replies::default();
        for (line, free, expected) in [
            ("220-first", true, Coded::More),
            ("anything", true, Coded::More),
            ("221 not the end", true, Coded::More),
            ("220 last", true, Coded::Code(220)),
            ("250-first", false, Coded::More),
            ("251-another code", false, Coded::Bad),
        ] {
            assert_eq!(replies.line(line.as_bytes(), free), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_end_in_bounded_space(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20),
        ) {
            let mut lines = Lines::new(Echo(0));
            for piece in pieces {
                let mut action = lines.receive(&piece);
                while let Action::Send(_) = action {
                    action = lines.go_on();
                }
                prop_assert!(lines.partial.len() <= LINE_MAX + 3000);
                if let Action::Fail(reason) = action {
                    prop_assert!(reason.chars().all(|c| !c.is_control()));
                    break;
                }
            }
        }
    }
}
