//! `type = "smtp"`, `"smtps"`, `"submission"`: greeting, EHLO, TLS and login if wanted, QUIT
//! (RFC 5321, 3207, 4954).

use super::lines::{Action, Coded, Dialogue, Replies, command, refused};
use super::secret::{Credentials, Login};
use super::tls::Tls;

/// A check of a mail server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// When TLS begins.
    pub tls: Tls,
    /// Who to log in as, with AUTH PLAIN.
    pub login: Option<Login>,
    /// The name we give ourselves.
    pub hello: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
}

/// The conversation.
pub struct Smtp<'a> {
    settings: &'a Settings,
    credentials: Option<Credentials>,
    state: State,
    replies: Replies,
    starttls_offered: bool,
    secured: bool,
}

impl<'a> Smtp<'a> {
    /// Begins before the greeting.
    #[must_use]
    pub fn new(settings: &'a Settings, credentials: Option<Credentials>) -> Self {
        Self {
            settings,
            credentials,
            state: State::Greeting,
            replies: Replies::default(),
            starttls_offered: false,
            secured: !settings.tls.is_start(),
        }
    }

    fn ehlo(&mut self) -> Action {
        self.state = State::Ehlo;
        command(&format!("EHLO {}", self.settings.hello))
    }

    /// EHLO has been accepted.
    fn greeted(&mut self) -> Action {
        if !self.secured {
            if !self.starttls_offered {
                return Action::Fail("the server does not offer STARTTLS".to_owned());
            }
            self.state = State::StartTls;
            return command("STARTTLS");
        }
        let Some(login) = self.credentials.take() else { return Action::Finish(b"QUIT\r\n") };
        self.state = State::Auth;
        command(&format!("AUTH PLAIN {}", plain(&login)))
    }
}

impl Dialogue for Smtp<'_> {
    fn line(&mut self, line: &[u8]) -> Action {
        if self.state == State::Ehlo {
            let word = line.get(4..).unwrap_or_default();
            self.starttls_offered |= word.trim_ascii().eq_ignore_ascii_case(b"STARTTLS");
        }
        let code = match self.replies.line(line, false) {
            Coded::More => return Action::Read,
            Coded::Bad => return refused(self.awaited(), "a reply of SMTP", line),
            Coded::Code(code) => code,
        };
        match (self.state, code) {
            (State::Greeting, 220) => self.ehlo(),
            // A server of before 1995; it cannot have STARTTLS or AUTH.
            (State::Ehlo, 500 | 501 | 502 | 504) if self.plain_enough() => {
                self.state = State::Helo;
                command(&format!("HELO {}", self.settings.hello))
            }
            (State::Ehlo | State::Helo, 250) => self.greeted(),
            (State::StartTls, 220) => Action::StartTls,
            (State::Auth, 235) => Action::Finish(b"QUIT\r\n"),
            (State::Greeting | State::StartTls, _) => refused(self.awaited(), "220", line),
            (State::Ehlo | State::Helo, _) => refused(self.awaited(), "250", line),
            (State::Auth, _) => refused(self.awaited(), "235", line),
        }
    }

    fn secured(&mut self) -> Action {
        self.secured = true;
        self.ehlo()
    }

    fn awaited(&self) -> &'static str {
        match self.state {
            State::Greeting => "the greeting",
            State::Ehlo => "the answer to EHLO",
            State::Helo => "the answer to HELO",
            State::StartTls => "the answer to STARTTLS",
            State::Auth => "the answer to the login",
        }
    }
}

impl Smtp<'_> {
    fn plain_enough(&self) -> bool {
        self.settings.tls == Tls::Off && self.settings.login.is_none()
    }
}

/// The initial response of SASL PLAIN (RFC 4616), in base64.
fn plain(login: &Credentials) -> String {
    base64(format!("\0{}\0{}", login.user, login.password).as_bytes())
}

/// Base64 (RFC 4648 section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position) & 63) as usize;
            let letter = ALPHABET.get(index).copied().unwrap_or(b'=');
            text.push(if position > group.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::play;
    use super::super::secret::Secret;
    use super::*;

    fn settings(tls: Tls, login: bool) -> Settings {
        let password = Secret::Inline("pass".to_owned());
        let login = login.then(|| Login { user: "tim".to_owned(), password });
        Settings { tls, login, hello: "lb1".to_owned() }
    }

    fn start() -> Tls {
        Tls::Start(super::super::tls::Settings::default())
    }

    #[test]
    fn a_greeting_and_ehlo_are_enough() {
        let settings = settings(Tls::Off, false);
        play(
            Smtp::new(&settings, None),
            &[
                ("220-mail ESMTP\r\n220 ready\r\n", "> EHLO lb1"),
                ("250-mail\r\n250-PIPELINING\r\n250 8BITMIME\r\n", "end QUIT"),
            ],
        );
        play(
            Smtp::new(&settings, None),
            &[
                ("220 old\r\n", "> EHLO lb1"),
                ("502 what?\r\n", "> HELO lb1"),
                ("250 mail\r\n", "end QUIT"),
            ],
        );
    }

    #[test]
    fn starttls_comes_before_the_login_and_ehlo_is_said_again() {
        let settings = settings(start(), true);
        let login = Credentials { user: "tim".to_owned(), password: "tanstaaftanstaaf".to_owned() };
        play(
            Smtp::new(&settings, Some(login)),
            &[
                ("220 ready\r\n", "> EHLO lb1"),
                ("250-mail\r\n250 starttls\r\n", "> STARTTLS"),
                ("220 go\r\n", "tls"),
                ("<tls>", "> EHLO lb1"),
                // The example of RFC 4616, without authorisation identity.
                ("250 AUTH PLAIN\r\n", "> AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm"),
                ("235 welcome\r\n", "end QUIT"),
            ],
        );
    }

    #[test]
    fn wrong_answers_fail_with_what_was_said() {
        let (off, start) = (settings(Tls::Off, false), settings(start(), false));
        for (settings, said, reason) in [
            (&off, "554 no\r\n", r#"fail the greeting: expected 220, got "554 no""#),
            (&off, "+OK\r\n", r#"fail the greeting: expected a reply of SMTP, got "+OK""#),
            (&off, "2200 x\r\n", r#"fail the greeting: expected a reply of SMTP, got "2200 x""#),
            (
                &off,
                "220-a\r\n221 b\r\n",
                r#"fail the greeting: expected a reply of SMTP, got "221 b""#,
            ),
        ] {
            play(Smtp::new(settings, None), &[(said, reason)]);
        }
        for (settings, said, reason) in [
            (&off, "421 busy\r\n", r#"fail the answer to EHLO: expected 250, got "421 busy""#),
            (&start, "250 mail\r\n", "fail the server does not offer STARTTLS"),
            (&start, "502 no\r\n", r#"fail the answer to EHLO: expected 250, got "502 no""#),
        ] {
            let script = [("220 hi\r\n", "> EHLO lb1"), (said, reason)];
            play(Smtp::new(settings, None), &script);
        }
    }

    #[test]
    fn base64_is_that_of_the_examples_of_its_standard() {
        // RFC 4648 section 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
