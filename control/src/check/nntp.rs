//! `type = "nntp"`, `"nntps"`: greeting, TLS, login and a group if wanted, QUIT (RFC 3977, 4642,
//! 4643).

use super::lines::{Action, Coded, Dialogue, Replies, command, refused};
use super::secret::{Credentials, Login};
use super::tls::Tls;

/// A check of a news server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// When TLS begins.
    pub tls: Tls,
    /// Who to log in as, with AUTHINFO.
    pub login: Option<Login>,
    /// A group that must exist.
    pub group: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    StartTls,
    User,
    Pass,
    Group,
}

/// The conversation.
pub struct Nntp<'a> {
    settings: &'a Settings,
    credentials: Option<Credentials>,
    state: State,
}

impl<'a> Nntp<'a> {
    /// Begins before the greeting.
    #[must_use]
    pub fn new(settings: &'a Settings, credentials: Option<Credentials>) -> Self {
        Self { settings, credentials, state: State::Greeting }
    }

    fn log_in(&mut self) -> Action {
        let Some(login) = &self.credentials else { return self.group() };
        self.state = State::User;
        command(&format!("AUTHINFO USER {}", login.user))
    }

    fn group(&mut self) -> Action {
        let Some(group) = &self.settings.group else { return Action::Finish(b"QUIT\r\n") };
        self.state = State::Group;
        command(&format!("GROUP {group}"))
    }
}

impl Dialogue for Nntp<'_> {
    fn line(&mut self, line: &[u8]) -> Action {
        // Replies have one line (RFC 3977 section 3.2): 200-more is no code.
        let code = match Replies::default().line(line, false) {
            Coded::Code(code) => code,
            Coded::More | Coded::Bad => return refused(self.awaited(), "a reply of NNTP", line),
        };
        match (self.state, code) {
            (State::Greeting, 200 | 201) if self.settings.tls.is_start() => {
                self.state = State::StartTls;
                command("STARTTLS")
            }
            (State::Greeting, 200 | 201) => self.log_in(),
            (State::StartTls, 382) => Action::StartTls,
            (State::User, 381) => {
                self.state = State::Pass;
                let password = self.credentials.take().map(|c| c.password).unwrap_or_default();
                command(&format!("AUTHINFO PASS {password}"))
            }
            (State::User | State::Pass, 281) => self.group(),
            (State::Group, 211) => Action::Finish(b"QUIT\r\n"),
            (State::Greeting, _) => refused(self.awaited(), "200 or 201", line),
            (State::StartTls, _) => refused(self.awaited(), "382", line),
            (State::User | State::Pass, _) => refused(self.awaited(), "281", line),
            (State::Group, _) => refused(self.awaited(), "211", line),
        }
    }

    fn secured(&mut self) -> Action {
        self.log_in()
    }

    fn awaited(&self) -> &'static str {
        match self.state {
            State::Greeting => "the greeting",
            State::StartTls => "the answer to STARTTLS",
            State::User => "the answer to AUTHINFO USER",
            State::Pass => "the answer to the login",
            State::Group => "the answer to GROUP",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::play;
    use super::*;

    fn settings(tls: Tls, group: Option<&str>) -> Settings {
        Settings { tls, login: None, group: group.map(str::to_owned) }
    }

    #[test]
    fn a_greeting_is_enough_whether_posting_is_allowed_or_not() {
        let settings = settings(Tls::Off, None);
        play(Nntp::new(&settings, None), &[("200 posting\r\n", "end QUIT")]);
        play(Nntp::new(&settings, None), &[("201 reading\r\n", "end QUIT")]);
    }

    #[test]
    fn tls_then_login_then_group() {
        let settings = settings(Tls::Start(Default::default()), Some("news.test"));
        let login = Credentials { user: "tim".to_owned(), password: "pass".to_owned() };
        play(
            Nntp::new(&settings, Some(login)),
            &[
                ("200 ready\r\n", "> STARTTLS"),
                ("382 go\r\n", "tls"),
                ("<tls>", "> AUTHINFO USER tim"),
                ("381 password?\r\n", "> AUTHINFO PASS pass"),
                ("281 in\r\n", "> GROUP news.test"),
                ("211 0 1 0 news.test\r\n", "end QUIT"),
            ],
        );
    }

    #[test]
    fn wrong_answers_fail_with_what_was_said() {
        let settings = settings(Tls::Off, Some("news.test"));
        for (said, expected) in [
            ("400 full", "200 or 201"),
            ("502 no", "200 or 201"),
            ("200-more", "a reply of NNTP"),
            ("* OK", "a reply of NNTP"),
        ] {
            let reason = format!("fail the greeting: expected {expected}, got \"{said}\"");
            play(Nntp::new(&settings, None), &[(&format!("{said}\r\n"), &reason)]);
        }
        let reason = r#"fail the answer to GROUP: expected 211, got "411 no such group""#;
        play(
            Nntp::new(&settings, None),
            &[("200 ready\r\n", "> GROUP news.test"), ("411 no such group\r\n", reason)],
        );
    }
}
