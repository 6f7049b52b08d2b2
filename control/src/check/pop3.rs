//! `type = "pop3"`, `"pop3s"`: greeting, TLS and login if wanted, QUIT (RFC 1939, 2595).

use super::lines::{Action, Dialogue, Settings, command, refused};
use super::secret::Credentials;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Stls,
    User,
    Pass,
}

/// The conversation.
pub struct Pop3 {
    starttls: bool,
    credentials: Option<Credentials>,
    state: State,
}

impl Pop3 {
    /// Begins before the greeting.
    #[must_use]
    pub fn new(settings: &Settings, credentials: Option<Credentials>) -> Self {
        let starttls = settings.tls.is_start();
        Self { starttls, credentials, state: State::Greeting }
    }

    fn log_in(&mut self) -> Action {
        let Some(login) = &self.credentials else { return Action::Finish(b"QUIT\r\n") };
        self.state = State::User;
        command(&format!("USER {}", login.user))
    }
}

impl Dialogue for Pop3 {
    fn line(&mut self, line: &[u8]) -> Action {
        let rest = line.strip_prefix(b"+OK");
        if !rest.is_some_and(|rest| matches!(rest.first(), None | Some(b' '))) {
            return refused(self.awaited(), "+OK", line);
        }
        match self.state {
            State::Greeting if self.starttls => {
                self.state = State::Stls;
                command("STLS")
            }
            State::Greeting => self.log_in(),
            State::Stls => Action::StartTls,
            State::User => {
                self.state = State::Pass;
                let password = self.credentials.take().map(|c| c.password).unwrap_or_default();
                command(&format!("PASS {password}"))
            }
            State::Pass => Action::Finish(b"QUIT\r\n"),
        }
    }

    fn secured(&mut self) -> Action {
        self.log_in()
    }

    fn awaited(&self) -> &'static str {
        match self.state {
            State::Greeting => "the greeting",
            State::Stls => "the answer to STLS",
            State::User => "the answer to USER",
            State::Pass => "the answer to the login",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::play;
    use super::super::tls::Tls;
    use super::*;

    fn login() -> Option<Credentials> {
        Some(Credentials { user: "tim".to_owned(), password: "two words".to_owned() })
    }

    #[test]
    fn the_greeting_is_enough_without_a_login() {
        let settings = Settings { tls: Tls::Off, login: None };
        play(Pop3::new(&settings, None), &[("+OK POP3 ready <1@x>\r\n", "end QUIT")]);
        play(Pop3::new(&settings, None), &[("+OK\n", "end QUIT")]);
    }

    #[test]
    fn stls_comes_before_the_login() {
        let settings = Settings { tls: Tls::Start(Default::default()), login: None };
        play(
            Pop3::new(&settings, login()),
            &[
                ("+OK ready\r\n", "> STLS"),
                ("+OK go\r\n", "tls"),
                ("<tls>", "> USER tim"),
                ("+OK\r\n", "> PASS two words"),
                ("+OK logged in\r\n", "end QUIT"),
            ],
        );
    }

    #[test]
    fn wrong_answers_fail_with_what_was_said_and_never_with_the_password() {
        let settings = Settings { tls: Tls::Off, login: None };
        for said in ["-ERR busy", "220 smtp", "+OKAY", "", "\0\0"] {
            let reason =
                format!("fail the greeting: expected +OK, got \"{}\"", said.replace('\0', r"\x00"));
            play(Pop3::new(&settings, None), &[(&format!("{said}\r\n"), &reason)]);
        }
        play(
            Pop3::new(&settings, login()),
            &[
                ("+OK\r\n", "> USER tim"),
                ("+OK\r\n", "> PASS two words"),
                (
                    "-ERR [AUTH] no\r\n",
                    r#"fail the answer to the login: expected +OK, got "-ERR [AUTH] no""#,
                ),
            ],
        );
    }
}
