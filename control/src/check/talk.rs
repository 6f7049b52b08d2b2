//! A conversation over a stream, without the stream: LDAP, MySQL, PostgreSQL, Redis.
//!
//! [`crate::io::probe`] carries it out: it reads until [`Talk::frame`] knows a whole message, hands
//! it to [`Talk::hear`], and does what that says. Bytes and time are bounded there.

use super::Outcome;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this, then listen.
    Send(Vec<u8>),
    /// Listen: the server has more to say.
    Listen,
    /// Send this (it may be empty), begin TLS, then call [`Talk::secured`].
    StartTls,
    /// Send this before TLS begins, without waiting for an answer; then as [`Step::StartTls`].
    SendStartTls(Vec<u8>),
    /// It is over. The bytes are a farewell, sent without waiting for an answer.
    Done(Outcome, Vec<u8>),
}

impl Step {
    /// The server is down, for this reason.
    #[must_use]
    pub fn down(reason: impl AsRef<str>) -> Self {
        Self::Done(Outcome::down(reason), Vec::new())
    }
}

/// One side of a conversation: ours.
pub trait Talk {
    /// What to do once the connection is there.
    fn begin(&mut self) -> Step;

    /// What to do once TLS has been agreed on, if it began in the course of the conversation.
    fn secured(&mut self) -> Step;

    /// The length of the first message of what was received, if all of it is there.
    ///
    /// # Errors
    /// If it is no message or longer than any that belongs here; why, in words.
    fn frame(&self, received: &[u8]) -> Result<Option<usize>, String>;

    /// What to do after a message that [`Talk::frame`] has cut out.
    fn hear(&mut self, message: &[u8]) -> Step;

    /// What we are waiting for, as in "no answer within 1s to the login".
    fn waiting_for(&self) -> &'static str;
}

/// Plays a server in tests: every message that `bytes` hold, one after the other.
#[cfg(test)]
pub(super) fn hear_all(talk: &mut impl Talk, mut bytes: &[u8]) -> Step {
    let mut step = Step::Listen;
    while !bytes.is_empty() {
        match talk.frame(bytes) {
            Ok(Some(length)) => {
                assert!(length > 0 && length <= bytes.len());
                step = talk.hear(&bytes[..length]);
                bytes = &bytes[length..];
            }
            Ok(None) => return Step::Listen,
            Err(reason) => return Step::down(reason),
        }
        if let Step::Done(..) = step {
            return step;
        }
    }
    step
}

/// The reason of a step that says the server is down.
#[cfg(test)]
pub(super) fn reason(step: Step) -> String {
    match step {
        Step::Done(Outcome::Down(reason), _) => reason,
        other => panic!("{other:?}"),
    }
}
