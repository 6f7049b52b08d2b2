//! `type = "pgsql"`: a PostgreSQL server lets us in and answers a query.
//!
//! Messages and SCRAM are those of `postgres-protocol`, which knows no I/O. What would make it
//! work or allocate without bound is looked at before it is handed over.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{
    AuthenticationSaslBody, DataRowBody, ErrorResponseBody, Header, Message,
};
use postgres_protocol::message::frontend;

use super::Outcome;
use super::outcome::printable_bytes;
use super::pattern::Pattern;
use super::secret::Secret;
use super::talk::{Step, Talk};
use super::tls::Tls;

/// Longest message of a server, in bytes.
const MESSAGE_MAX: usize = 64 << 10;
/// Most rounds of a password's hash that we compute: some 10 ms. The server's default is 4096.
pub const ROUNDS_MAX: u32 = 32_768;

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Whether TLS is asked for.
    pub tls: Tls,
    /// Who we log in as; `None`: the server is only asked whether it speaks TLS.
    pub user: Option<String>,
    /// The password, if the server asks for one.
    pub password: Option<Secret>,
    /// The database; that of the user's name if absent.
    pub database: Option<String>,
    /// The query; `None`: an empty one.
    pub query: Option<String>,
    /// What its first row must match, columns separated by a tab, NULL as `NULL`. `None`: the query
    /// only has to succeed.
    pub expect: Option<Pattern>,
}

/// How far the conversation is.
enum Stage {
    /// The answer to the request for TLS: one byte.
    Tls,
    Login,
    Scram(Box<ScramSha256>),
    /// Let in; the server tells of itself.
    Ready,
    Query,
}

/// The conversation.
pub struct Dialog<'a> {
    settings: &'a Settings,
    password: String,
    stage: Stage,
    row: Option<Vec<u8>>,
}

impl<'a> Dialog<'a> {
    /// With the password; empty if there is none.
    #[must_use]
    pub const fn new(settings: &'a Settings, password: String) -> Self {
        Self { settings, password, stage: Stage::Tls, row: None }
    }

    fn startup(&mut self) -> Step {
        self.stage = Stage::Login;
        let user = self.settings.user.as_deref().unwrap_or_default();
        let database = self.settings.database.as_deref().unwrap_or(user);
        let parameters = [("user", user), ("database", database), ("application_name", "xvip")];
        write(|buffer| frontend::startup_message(parameters, buffer))
    }

    fn tls(&mut self, answer: u8) -> Step {
        match (answer, &self.settings.tls) {
            (b'S' | b'N', Tls::Off) => Step::Done(Outcome::up(), Vec::new()),
            (b'S', _) => Step::StartTls,
            (b'N', _) => Step::down("the server does not speak TLS"),
            (other, _) => {
                let shown = printable_bytes(&[other]);
                Step::down(format!("not PostgreSQL: \"{shown}\" as answer to the request for TLS"))
            }
        }
    }

    fn login(&mut self, message: Message) -> Step {
        let user = self.settings.user.as_deref().unwrap_or_default();
        match message {
            Message::AuthenticationOk => {
                self.stage = Stage::Ready;
                Step::Listen
            }
            Message::AuthenticationCleartextPassword => {
                if self.settings.tls.is_off() {
                    return Step::down("the server wants the password in clear text: set tls");
                }
                write(|buffer| frontend::password_message(self.password.as_bytes(), buffer))
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(user.as_bytes(), self.password.as_bytes(), body.salt());
                write(|buffer| frontend::password_message(hash.as_bytes(), buffer))
            }
            Message::AuthenticationSasl(body) => self.scram(&body),
            Message::AuthenticationSaslContinue(body) => self.prove(body.data()),
            Message::AuthenticationSaslFinal(body) => match &mut self.stage {
                // It knows our password too.
                Stage::Scram(scram) => match scram.finish(body.data()) {
                    Ok(()) => Step::Listen,
                    Err(error) => Step::down(format!("login: {error}")),
                },
                _ => Step::down("an unexpected message during login"),
            },
            _ => Step::down("the server wants a login of a kind that is not supported"),
        }
    }

    fn scram(&mut self, body: &AuthenticationSaslBody) -> Step {
        let mut offered = body.mechanisms();
        loop {
            match offered.next() {
                Ok(Some(SCRAM_SHA_256)) => break,
                Ok(Some(_)) => {}
                Ok(None) => return Step::down("the server does not offer SCRAM-SHA-256"),
                Err(_) => return Step::down("a malformed message during login"),
            }
        }
        // We could bind to the channel, but do not: "n", not "y" (RFC 5802 §6).
        let scram = ScramSha256::new(self.password.as_bytes(), ChannelBinding::unsupported());
        let step = write(|b| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), b));
        self.stage = Stage::Scram(Box::new(scram));
        step
    }

    fn prove(&mut self, challenge: &[u8]) -> Step {
        let Stage::Scram(scram) = &mut self.stage else {
            return Step::down("an unexpected message during login");
        };
        if let Some(rounds) = rounds(challenge)
            && rounds > u64::from(ROUNDS_MAX)
        {
            return Step::down(format!("the server wants {rounds} rounds of hashing"));
        }
        match scram.update(challenge) {
            Ok(()) => write(|buffer| frontend::sasl_response(scram.message(), buffer)),
            Err(error) => Step::down(format!("login: {error}")),
        }
    }

    fn ready(&mut self) -> Step {
        match self.stage {
            Stage::Ready => {
                self.stage = Stage::Query;
                let query = self.settings.query.as_deref().unwrap_or_default();
                write(|buffer| frontend::query(query, buffer))
            }
            Stage::Query => self.judge(),
            Stage::Tls | Stage::Login | Stage::Scram(_) => {
                Step::down("the server let us in without a login")
            }
        }
    }

    fn judge(&self) -> Step {
        let Some(pattern) = &self.settings.expect else { return good() };
        match &self.row {
            None => Step::down("the query gave no row"),
            Some(row) if pattern.matches(row) => good(),
            Some(row) => {
                let shown = printable_bytes(row.get(..80).unwrap_or(row));
                Step::down(format!("the query gave \"{shown}\", which does not match"))
            }
        }
    }

    fn data(&mut self, body: &DataRowBody) -> Step {
        if self.row.is_some() {
            return Step::Listen;
        }
        match row(body) {
            Some(row) => {
                self.row = Some(row);
                Step::Listen
            }
            None => Step::down("a malformed row"),
        }
    }
}

impl Talk for Dialog<'_> {
    fn begin(&mut self) -> Step {
        if self.settings.user.is_some() && self.settings.tls.is_off() {
            return self.startup();
        }
        let mut buffer = BytesMut::new();
        frontend::ssl_request(&mut buffer);
        Step::Send(buffer.to_vec())
    }

    fn secured(&mut self) -> Step {
        if self.settings.user.is_some() { self.startup() } else { good() }
    }

    fn frame(&self, received: &[u8]) -> Result<Option<usize>, String> {
        if let Stage::Tls = self.stage {
            return Ok(received.first().map(|_| 1));
        }
        // Looked at before the parser, which would reserve as much as a header says.
        let header = Header::parse(received).map_err(|_| {
            let start = received.get(..40).unwrap_or(received);
            format!("not a message of PostgreSQL: \"{}\"", start.escape_ascii())
        })?;
        let Some(header) = header else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > MESSAGE_MAX {
            return Err(format!("a message of {length} bytes, more than a check reads"));
        }
        Ok(Some(1 + length).filter(|whole| *whole <= received.len()))
    }

    fn hear(&mut self, message: &[u8]) -> Step {
        if let (Stage::Tls, [answer]) = (&self.stage, message) {
            return self.tls(*answer);
        }
        let message = match Message::parse(&mut BytesMut::from(message)) {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => return Step::down("a malformed message"),
        };
        match message {
            Message::ErrorResponse(body) => Step::down(format!("refused: {}", error(&body))),
            Message::ReadyForQuery(_) => self.ready(),
            Message::NoticeResponse(_)
            | Message::ParameterStatus(_)
            | Message::BackendKeyData(_)
            | Message::NotificationResponse(_)
            | Message::RowDescription(_)
            | Message::CommandComplete(_)
            | Message::EmptyQueryResponse => Step::Listen,
            Message::DataRow(body) if matches!(self.stage, Stage::Query) => self.data(&body),
            other if matches!(self.stage, Stage::Login | Stage::Scram(_)) => self.login(other),
            _ => Step::down("an unexpected message"),
        }
    }

    fn waiting_for(&self) -> &'static str {
        match self.stage {
            Stage::Tls => "to the request for TLS",
            Stage::Login | Stage::Scram(_) | Stage::Ready => "to the login",
            Stage::Query => "to the query",
        }
    }
}

/// What `message` writes, to be sent.
fn write<E: std::fmt::Display>(message: impl FnOnce(&mut BytesMut) -> Result<(), E>) -> Step {
    let mut buffer = BytesMut::new();
    match message(&mut buffer) {
        Ok(()) => Step::Send(buffer.to_vec()),
        // A NUL in a name, which the reader of the file has ruled out.
        Err(error) => Step::Done(Outcome::cannot_run(error.to_string()), Vec::new()),
    }
}

/// Up, with a Terminate as farewell.
fn good() -> Step {
    Step::Done(Outcome::up(), b"X\0\0\0\x04".to_vec())
}

/// The number of rounds in a challenge (`i=`, RFC 5802 §5.1); `u64::MAX` if it is none.
fn rounds(challenge: &[u8]) -> Option<u64> {
    let text = challenge.split(|b| *b == b',').find_map(|part| part.strip_prefix(b"i="))?;
    let number = std::str::from_utf8(text).ok().and_then(|t| t.parse().ok());
    Some(number.unwrap_or(u64::MAX))
}

/// Code and text of an error.
fn error(body: &ErrorResponseBody) -> String {
    let (mut code, mut text) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let value = field.value_bytes();
        match field.type_() {
            b'C' => code = printable_bytes(value.get(..5).unwrap_or(value)),
            b'M' => text = printable_bytes(value.get(..150).unwrap_or(value)),
            _ => {}
        }
    }
    format!("error {code}: {text}")
}

/// The columns of a row, separated by tabs.
fn row(body: &DataRowBody) -> Option<Vec<u8>> {
    let mut row = Vec::new();
    let mut ranges = body.ranges();
    let mut first = true;
    while let Some(range) = ranges.next().ok()? {
        if !std::mem::take(&mut first) {
            row.push(b'\t');
        }
        match range {
            None => row.extend(b"NULL"),
            Some(range) => row.extend(body.buffer().get(range)?),
        }
    }
    Some(row)
}

#[cfg(test)]
mod tests;
