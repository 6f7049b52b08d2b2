//! `type = "ftp"`, `"ftps"`: greeting, TLS and login if wanted, QUIT (RFC 959, 4217).

use super::lines::{Action, Coded, Dialogue, Replies, Settings, command, refused};
use super::secret::Credentials;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    AuthTls,
    User,
    Pass,
}

/// The conversation.
pub struct Ftp {
    starttls: bool,
    credentials: Option<Credentials>,
    state: State,
    replies: Replies,
}

impl Ftp {
    /// Begins before the greeting.
    #[must_use]
    pub fn new(settings: &Settings, credentials: Option<Credentials>) -> Self {
        let starttls = settings.tls.is_start();
        Self { starttls, credentials, state: State::Greeting, replies: Replies::default() }
    }

    fn log_in(&mut self) -> Action {
        let Some(login) = &self.credentials else { return Action::Finish(b"QUIT\r\n") };
        self.state = State::User;
        command(&format!("USER {}", login.user))
    }
}

impl Dialogue for Ftp {
    fn line(&mut self, line: &[u8]) -> Action {
        let code = match self.replies.line(line, true) {
            Coded::More => return Action::Read,
            Coded::Bad => return refused(self.awaited(), "a reply of FTP", line),
            Coded::Code(code) => code,
        };
        match (self.state, code) {
            (State::Greeting, 220) if self.starttls => {
                self.state = State::AuthTls;
                command("AUTH TLS")
            }
            (State::Greeting, 220) => self.log_in(),
            (State::AuthTls, 234) => Action::StartTls,
            (State::User, 331) => {
                self.state = State::Pass;
                let password = self.credentials.take().map(|c| c.password).unwrap_or_default();
                command(&format!("PASS {password}"))
            }
            // 230: this user needs no password. 202: PASS was superfluous.
            (State::User | State::Pass, 230) | (State::Pass, 202) => Action::Finish(b"QUIT\r\n"),
            (State::Greeting, _) => refused(self.awaited(), "220", line),
            (State::AuthTls, _) => refused(self.awaited(), "234", line),
            (State::User | State::Pass, _) => refused(self.awaited(), "230", line),
        }
    }

    fn secured(&mut self) -> Action {
        self.log_in()
    }

    fn awaited(&self) -> &'static str {
        match self.state {
            State::Greeting => "the greeting",
            State::AuthTls => "the answer to AUTH TLS",
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
        Some(Credentials { user: "anonymous".to_owned(), password: "xvip".to_owned() })
    }

    const PLAIN: Settings = Settings { tls: Tls::Off, login: None };

    #[test]
    fn a_greeting_of_many_lines_is_enough_without_a_login() {
        play(
            Ftp::new(&PLAIN, None),
            &[("220-Welcome\r\n  anything\r\n221 here\r\n", "read"), ("220 ready\r\n", "end QUIT")],
        );
    }

    #[test]
    fn a_login_goes_over_tls_if_wanted_and_with_or_without_password() {
        let settings = Settings { tls: Tls::Start(Default::default()), login: None };
        play(
            Ftp::new(&settings, login()),
            &[
                ("220 ready\r\n", "> AUTH TLS"),
                ("234 go\r\n", "tls"),
                ("<tls>", "> USER anonymous"),
                ("331 password?\r\n", "> PASS xvip"),
                ("230 in\r\n", "end QUIT"),
            ],
        );
        play(
            Ftp::new(&PLAIN, login()),
            &[("220 ready\r\n", "> USER anonymous"), ("230 in\r\n", "end QUIT")],
        );
    }

    #[test]
    fn wrong_answers_fail_with_what_was_said() {
        for (said, expected) in
            [("120 wait", "220"), ("421 full", "220"), ("2201 no", "a reply of FTP")]
        {
            let reason = format!("fail the greeting: expected {expected}, got \"{said}\"");
            play(Ftp::new(&PLAIN, None), &[(&format!("{said}\r\n"), &reason)]);
        }
        let reason = r#"fail the answer to the login: expected 230, got "332 account?""#;
        play(
            Ftp::new(&PLAIN, login()),
            &[
                ("220 ready\r\n", "> USER anonymous"),
                ("331 password?\r\n", "> PASS xvip"),
                ("332 account?\r\n", reason),
            ],
        );
    }
}
