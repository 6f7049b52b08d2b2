//! `type = "imap"`, `"imaps"`: greeting, TLS and login if wanted, LOGOUT (RFC 9051).

use super::lines::{Action, Dialogue, Settings, command, refused};
use super::secret::Credentials;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    StartTls,
    Noop,
    Login,
}

/// The conversation.
pub struct Imap {
    starttls: bool,
    credentials: Option<Credentials>,
    state: State,
}

impl Imap {
    /// Begins before the greeting.
    #[must_use]
    pub fn new(settings: &Settings, credentials: Option<Credentials>) -> Self {
        let starttls = settings.tls.is_start();
        Self { starttls, credentials, state: State::Greeting }
    }

    fn log_in(&mut self) -> Action {
        let Some(login) = self.credentials.take() else {
            self.state = State::Noop;
            return command("x2 NOOP");
        };
        self.state = State::Login;
        command(&format!("x2 LOGIN {} {}", quoted(&login.user), quoted(&login.password)))
    }

    fn greeting(&mut self, line: &[u8]) -> Action {
        match word(line, b"* ") {
            Some(word) if word.eq_ignore_ascii_case(b"OK") && self.starttls => {
                self.state = State::StartTls;
                command("x1 STARTTLS")
            }
            Some(word) if word.eq_ignore_ascii_case(b"OK") => self.log_in(),
            // Logged in by other means, as over a tunnel: there is nothing more to ask.
            Some(word) if word.eq_ignore_ascii_case(b"PREAUTH") && !self.starttls => {
                self.credentials = None;
                self.log_in()
            }
            _ => refused(self.awaited(), "* OK", line),
        }
    }
}

impl Dialogue for Imap {
    fn line(&mut self, line: &[u8]) -> Action {
        let tag: &[u8] = match self.state {
            State::Greeting => return self.greeting(line),
            State::StartTls => b"x1 ",
            State::Noop | State::Login => b"x2 ",
        };
        if word(line, b"* ").is_some_and(|w| w.eq_ignore_ascii_case(b"BYE")) {
            return refused(self.awaited(), "OK", line);
        }
        if line.starts_with(b"* ") {
            return Action::Read;
        }
        match word(line, tag) {
            Some(word) if word.eq_ignore_ascii_case(b"OK") => match self.state {
                State::StartTls => Action::StartTls,
                State::Greeting | State::Noop | State::Login => Action::Finish(b"x3 LOGOUT\r\n"),
            },
            _ => refused(self.awaited(), "OK", line),
        }
    }

    fn secured(&mut self) -> Action {
        self.log_in()
    }

    fn awaited(&self) -> &'static str {
        match self.state {
            State::Greeting => "the greeting",
            State::StartTls => "the answer to STARTTLS",
            State::Noop => "the answer to NOOP",
            State::Login => "the answer to the login",
        }
    }
}

/// The word after `tag`, if the line begins with that.
fn word<'a>(line: &'a [u8], tag: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(tag)?;
    rest.split(|b| *b == b' ').next()
}

/// A quoted string (RFC 9051 section 4.3). Control characters are refused with the configuration.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::play;
    use super::super::tls::Tls;
    use super::*;

    fn login() -> Option<Credentials> {
        Some(Credentials { user: "tim".to_owned(), password: r#"a "b\c""#.to_owned() })
    }

    const PLAIN: Settings = Settings { tls: Tls::Off, login: None };

    #[test]
    fn without_a_login_the_server_must_answer_one_command() {
        play(
            Imap::new(&PLAIN, None),
            &[
                ("* OK [CAPABILITY IMAP4rev1] ready\r\n", "> x2 NOOP"),
                ("* CAPABILITY IMAP4rev1\r\nx2 OK done\r\n", "end x3 LOGOUT"),
            ],
        );
        play(Imap::new(&PLAIN, login()), &[("* PREAUTH welcome\r\n", "> x2 NOOP")]);
    }

    #[test]
    fn starttls_comes_before_the_login_whose_words_are_quoted() {
        let settings = Settings { tls: Tls::Start(Default::default()), login: None };
        play(
            Imap::new(&settings, login()),
            &[
                ("* ok ready\r\n", "> x1 STARTTLS"),
                ("x1 OK begin\r\n", "tls"),
                ("<tls>", r#"> x2 LOGIN "tim" "a \"b\\c\"""#),
                ("* 1 EXISTS\r\nx2 OK in\r\n", "end x3 LOGOUT"),
            ],
        );
    }

    #[test]
    fn wrong_answers_fail_with_what_was_said() {
        for said in ["* BYE too many", "* NO", "x2 OK", "220 smtp", "", "*OK"] {
            let reason = format!("fail the greeting: expected * OK, got \"{said}\"");
            play(Imap::new(&PLAIN, None), &[(&format!("{said}\r\n"), &reason)]);
        }
        for said in ["x2 NO failed", "x2 BAD", "x1 OK stale", "* BYE gone", "+ more?"] {
            let reason = format!("fail the answer to the login: expected OK, got \"{said}\"");
            let script = [
                ("* OK\r\n", r#"> x2 LOGIN "tim" "a \"b\\c\"""#),
                (&*format!("{said}\r\n"), &*reason),
            ];
            play(Imap::new(&PLAIN, login()), &script);
        }
    }
}
