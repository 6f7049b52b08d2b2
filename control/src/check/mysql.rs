//! `type = "mysql"`: a MySQL or MariaDB server greets, lets us in, and answers a query.
//!
//! Packets of greeting and login are read and written by `mysql_common`, which also makes the
//! answers to its challenges ([`plugin`]).

mod plugin;

use mysql_common::constants::CapabilityFlags;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{
    AuthPlugin, AuthSwitchRequest, ErrPacket, HandshakePacket, HandshakeResponse, SslRequest,
};
use mysql_common::proto::MySerialize;

use self::plugin::{Plugin, Secrets};
use super::Outcome;
use super::outcome::printable_bytes;
use super::pattern::Pattern;
use super::secret::Secret;
use super::talk::{Step, Talk};
use super::tls::Tls;

/// Longest packet of a server, in bytes.
const PACKET_MAX: usize = 64 << 10;
/// Most columns of a result.
const COLUMNS_MAX: u64 = 64;
/// `utf8mb4_general_ci` and the like are chosen by this version's default.
const VERSION: (u16, u16, u16) = (8, 0, 0);
const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;
const COM_PING: u8 = 14;

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Whether TLS begins after the greeting.
    pub tls: Tls,
    /// Who we log in as; `None`: the greeting is all.
    pub user: Option<String>,
    /// The password; `None`: an empty one.
    pub password: Option<Secret>,
    /// The database that is used.
    pub database: Option<String>,
    /// The query; `None`: `COM_PING`.
    pub query: Option<String>,
    /// What its first row must match, columns separated by a tab, NULL as `NULL`. `None`: the query
    /// only has to succeed.
    pub expect: Option<Pattern>,
}

/// How far the conversation is.
#[derive(Debug)]
enum Stage {
    Greeting,
    Secured,
    Login(Plugin),
    Ping,
    Columns,
    /// Definitions that are still to come, then an end.
    Definitions(u64),
    Rows,
}

/// The conversation.
pub struct Dialog<'a> {
    settings: &'a Settings,
    password: String,
    stage: Stage,
    /// Sequence number of the packet that comes next.
    sequence: u8,
    nonce: Vec<u8>,
    plugin: Vec<u8>,
    capabilities: CapabilityFlags,
    columns: u64,
    row: Option<Vec<u8>>,
}

impl<'a> Dialog<'a> {
    /// With the password; empty if there is none.
    #[must_use]
    pub const fn new(settings: &'a Settings, password: String) -> Self {
        Self {
            settings,
            password,
            stage: Stage::Greeting,
            sequence: 0,
            nonce: Vec::new(),
            plugin: Vec::new(),
            capabilities: CapabilityFlags::empty(),
            columns: 0,
            row: None,
        }
    }

    fn greeting(&mut self, packet: &[u8]) -> Step {
        // Refused before it begins: too many connections, host blocked.
        if packet.first() == Some(&0xff) {
            return Step::down(format!("refused: {}", error(packet)));
        }
        if packet.first() != Some(&10) {
            return Step::down("not a greeting of MySQL");
        }
        let Ok(greeting) = ParseBuf(packet).parse::<HandshakePacket<'_>>(()) else {
            return Step::down("a malformed greeting");
        };
        if self.settings.user.is_none() {
            return Step::Done(Outcome::up(), Vec::new());
        }
        let needed = CapabilityFlags::CLIENT_PROTOCOL_41
            | CapabilityFlags::CLIENT_SECURE_CONNECTION
            | CapabilityFlags::CLIENT_PLUGIN_AUTH;
        if !greeting.capabilities().contains(needed) {
            return Step::down("the server is older than MySQL 5.5: it has no plugins for login");
        }
        self.nonce = greeting.nonce();
        self.plugin = greeting.auth_plugin_name_ref().unwrap_or_default().to_vec();
        self.capabilities =
            needed | CapabilityFlags::CLIENT_LONG_PASSWORD | CapabilityFlags::CLIENT_TRANSACTIONS;
        if self.settings.tls.is_off() {
            return self.login();
        }
        if !greeting.capabilities().contains(CapabilityFlags::CLIENT_SSL) {
            return Step::down("the server does not speak TLS");
        }
        self.capabilities |= CapabilityFlags::CLIENT_SSL;
        self.stage = Stage::Secured;
        let mut request = Vec::new();
        SslRequest::new(self.capabilities, PACKET_MAX as u32, 45).serialize(&mut request);
        Step::SendStartTls(self.packet(&request))
    }

    /// The handshake response: user, database, and the answer to the challenge.
    fn login(&mut self) -> Step {
        // A plugin that is not ours is switched from: the server will ask for the user's own.
        if Plugin::named(&self.plugin).is_err() {
            self.plugin = b"mysql_native_password".to_vec();
        }
        let answer = match self.challenge() {
            Ok(answer) => answer,
            Err(reason) => return Step::down(reason),
        };
        let plugin = AuthPlugin::from_bytes(&self.plugin);
        let response = HandshakeResponse::new(
            Some(answer),
            VERSION,
            self.settings.user.as_ref().map(|u| u.as_bytes()),
            self.settings.database.as_ref().map(|d| d.as_bytes()),
            Some(plugin),
            self.capabilities,
            None,
            PACKET_MAX as u32,
        );
        let mut body = Vec::new();
        response.serialize(&mut body);
        Step::Send(self.packet(&body))
    }

    /// Starts the plugin; its answer to the nonce.
    fn challenge(&mut self) -> Result<Vec<u8>, String> {
        let plugin = Plugin::named(&self.plugin)?;
        self.stage = Stage::Login(plugin);
        let nonce = self.nonce.clone();
        self.answer(&nonce).map(Option::unwrap_or_default)
    }

    fn answer(&mut self, challenge: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let tls = !self.settings.tls.is_off();
        let Self { password, nonce, stage, .. } = self;
        let secrets = Secrets { password: password.as_bytes(), nonce, tls };
        let Stage::Login(plugin) = stage else { return Err("a challenge at no time".to_owned()) };
        plugin.answer(challenge, secrets)
    }

    /// A packet during login.
    fn authenticate(&mut self, packet: &[u8]) -> Step {
        match packet {
            [0, ..] => self.command(),
            [0xff, ..] => Step::down(format!("login refused: {}", error(packet))),
            [0xfe] => Step::down("login by the password of MySQL 4.0 is not supported"),
            [0xfe, ..] => self.switch(packet),
            [1, more @ ..] => self.more(more),
            _ => Step::down("an unexpected packet during login"),
        }
    }

    fn switch(&mut self, packet: &[u8]) -> Step {
        let Ok(request) = ParseBuf(packet).parse::<AuthSwitchRequest<'_>>(()) else {
            return Step::down("a malformed packet during login");
        };
        self.plugin = request.auth_plugin().as_bytes().to_vec();
        let data = request.plugin_data();
        self.nonce = data.strip_suffix(&[0]).unwrap_or(data).to_vec();
        match self.challenge() {
            Ok(answer) => Step::Send(self.packet(&answer)),
            Err(reason) => Step::down(reason),
        }
    }

    /// More data of the plugin: the server knows the password already, or wants the whole of it.
    fn more(&mut self, data: &[u8]) -> Step {
        match self.answer(data) {
            Err(reason) => Step::down(reason),
            Ok(None) => Step::Listen,
            // Without TLS the plugin would ask for a key and encrypt the password with it, whoever
            // it is from.
            Ok(Some(_)) if self.settings.tls.is_off() => {
                Step::down("the server wants the whole password, which goes only over TLS: set tls")
            }
            Ok(Some(answer)) => Step::Send(self.packet(&answer)),
        }
    }

    fn command(&mut self) -> Step {
        self.sequence = 0;
        match &self.settings.query {
            None => {
                self.stage = Stage::Ping;
                Step::Send(self.packet(&[COM_PING]))
            }
            Some(query) => {
                self.stage = Stage::Columns;
                let command = [&[COM_QUERY], query.as_bytes()].concat();
                Step::Send(self.packet(&command))
            }
        }
    }

    /// The first packet of a result: how many columns it has, or that it has no rows.
    fn columns(&mut self, packet: &[u8]) -> Step {
        match packet {
            [0, ..] => self.judge(),
            [0xff, ..] => Step::down(format!("query refused: {}", error(packet))),
            // The server wants to read one of our files (CVE-2019-2503 and many others).
            [0xfb, ..] => Step::down("the server asks for a file of ours"),
            _ => match ParseBuf(packet).checked_eat_lenenc_int() {
                Some(count @ 1..=COLUMNS_MAX) => {
                    self.columns = count;
                    self.stage = Stage::Definitions(count);
                    Step::Listen
                }
                _ => Step::down("a malformed result"),
            },
        }
    }

    fn rows(&mut self, packet: &[u8]) -> Step {
        match packet {
            [0xff, ..] => Step::down(format!("query refused: {}", error(packet))),
            [0xfe, rest @ ..] if rest.len() < 8 => self.judge(),
            _ if self.row.is_some() => Step::Listen,
            _ => match row(packet, self.columns) {
                Some(row) => {
                    self.row = Some(row);
                    Step::Listen
                }
                None => Step::down("a malformed row"),
            },
        }
    }

    fn judge(&mut self) -> Step {
        let Some(pattern) = &self.settings.expect else { return self.good() };
        match &self.row {
            None => Step::down("the query gave no row"),
            Some(row) if pattern.matches(row) => self.good(),
            Some(row) => {
                let shown = printable_bytes(row.get(..80).unwrap_or(row));
                Step::down(format!("the query gave \"{shown}\", which does not match"))
            }
        }
    }

    fn good(&mut self) -> Step {
        self.sequence = 0;
        Step::Done(Outcome::up(), self.packet(&[COM_QUIT]))
    }

    /// `body` as the next packet of ours.
    fn packet(&mut self, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        [&length[..3], &[sequence], body].concat()
    }
}

impl Talk for Dialog<'_> {
    fn begin(&mut self) -> Step {
        Step::Listen
    }

    fn secured(&mut self) -> Step {
        self.login()
    }

    fn frame(&self, received: &[u8]) -> Result<Option<usize>, String> {
        let Some(&[a, b, c, sequence]) = received.first_chunk() else { return Ok(None) };
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        // An error before login may come with any number.
        if sequence != self.sequence && !matches!(self.stage, Stage::Greeting) {
            let expected = self.sequence;
            return Err(format!("packet number {sequence} instead of {expected}"));
        }
        if length > PACKET_MAX {
            return Err(format!("a packet of {length} bytes, more than a check reads"));
        }
        Ok(Some(4 + length).filter(|whole| *whole <= received.len()))
    }

    fn hear(&mut self, message: &[u8]) -> Step {
        let packet = message.get(4..).unwrap_or_default();
        self.sequence = message.get(3).map_or(0, |s| s.wrapping_add(1));
        match self.stage {
            Stage::Greeting => self.greeting(packet),
            Stage::Secured => Step::down("the server went on without TLS"),
            Stage::Login(_) => self.authenticate(packet),
            Stage::Ping => match packet {
                [0, ..] => self.good(),
                [0xff, ..] => Step::down(format!("ping refused: {}", error(packet))),
                _ => Step::down("an unexpected answer to the ping"),
            },
            Stage::Columns => self.columns(packet),
            Stage::Definitions(0) => {
                self.stage = Stage::Rows;
                Step::Listen
            }
            Stage::Definitions(left) => {
                self.stage = Stage::Definitions(left - 1);
                Step::Listen
            }
            Stage::Rows => self.rows(packet),
        }
    }

    fn waiting_for(&self) -> &'static str {
        match self.stage {
            Stage::Greeting => "to the connection: no greeting came",
            Stage::Secured => "to the request for TLS",
            Stage::Login(_) => "to the login",
            Stage::Ping => "to the ping",
            Stage::Columns | Stage::Definitions(_) | Stage::Rows => "to the query",
        }
    }
}

/// Code and text of an error packet.
fn error(packet: &[u8]) -> String {
    // Before login there is no SQL state; it is told by its mark.
    let state = packet.get(3) == Some(&b'#');
    let flags = if state { CapabilityFlags::CLIENT_PROTOCOL_41 } else { CapabilityFlags::empty() };
    match ParseBuf(packet).parse::<ErrPacket<'_>>(flags) {
        Ok(ErrPacket::Error(error)) => {
            let text = error.message_ref();
            let text = printable_bytes(text.get(..150).unwrap_or(text));
            format!("error {}: {text}", error.error_code())
        }
        _ => "a malformed error".to_owned(),
    }
}

/// The columns of a row, separated by tabs.
fn row(packet: &[u8], columns: u64) -> Option<Vec<u8>> {
    let mut buffer = ParseBuf(packet);
    let mut row = Vec::new();
    for column in 0..columns {
        if column > 0 {
            row.push(b'\t');
        }
        if buffer.0.first() == Some(&0xfb) {
            buffer.skip(1);
            row.extend(b"NULL");
        } else {
            row.extend(buffer.checked_eat_lenenc_str()?);
        }
    }
    Some(row)
}

#[cfg(test)]
mod tests;
