//! The kinds that talk in messages: carries out what [`crate::check::talk`] decides, for LDAP,
//! MySQL, PostgreSQL and Redis.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{net, secret, tls};
use crate::check::secret::Secret;
use crate::check::talk::{Step, Talk};
use crate::check::tls::Tls;
use crate::check::{Outcome, Target, ldap, mysql, pgsql, redis};

/// Most messages of a server in one run: a stream of tiny ones ends too.
const MESSAGES_MAX: usize = 4096;

pub(super) async fn ldap(settings: &ldap::Settings, target: &Target) -> Outcome {
    let password = settings.bind.as_ref().map(|b| &b.password);
    let begin =
        |password: Option<String>| ldap::Dialog::new(settings, password.unwrap_or_default());
    net::settle(talk(&settings.tls, password, target, begin).await)
}

pub(super) async fn mysql(settings: &mysql::Settings, target: &Target) -> Outcome {
    let begin =
        |password: Option<String>| mysql::Dialog::new(settings, password.unwrap_or_default());
    net::settle(talk(&settings.tls, settings.password.as_ref(), target, begin).await)
}

pub(super) async fn pgsql(settings: &pgsql::Settings, target: &Target) -> Outcome {
    let begin =
        |password: Option<String>| pgsql::Dialog::new(settings, password.unwrap_or_default());
    net::settle(talk(&settings.tls, settings.password.as_ref(), target, begin).await)
}

pub(super) async fn redis(settings: &redis::Settings, target: &Target) -> Outcome {
    let begin = |password| redis::Dialog::new(settings, password);
    net::settle(talk(&settings.tls, settings.password.as_ref(), target, begin).await)
}

/// A connection, under TLS or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn talk<T: Talk>(
    tls: &Tls,
    password: Option<&Secret>,
    target: &Target,
    begin: impl FnOnce(Option<String>) -> T,
) -> Result<Outcome, Outcome> {
    let talk = begin(secret::reveal(password).await?);
    let stream = net::connect(target).await?;
    let wire = Wire { stream: Box::new(stream), received: Vec::new(), left: net::BOUND };
    converse(talk, wire, tls, target).await
}

async fn converse<T: Talk>(
    mut talk: T,
    mut wire: Wire,
    tls: &Tls,
    target: &Target,
) -> Result<Outcome, Outcome> {
    let mut note = None;
    if let Tls::On(settings) = tls {
        note = wire.secure(settings, target).await?;
    }
    let mut step = talk.begin();
    for _ in 0..MESSAGES_MAX {
        step = match step {
            Step::Send(bytes) => {
                wire.send(&bytes).await?;
                Step::Listen
            }
            Step::Listen => {
                net::stage(talk.waiting_for());
                let message = wire.message(&talk).await?;
                talk.hear(&message)
            }
            Step::StartTls | Step::SendStartTls(_) => {
                if let Step::SendStartTls(bytes) = &step {
                    wire.send(bytes).await?;
                }
                let Tls::Start(settings) = tls else {
                    return Err(Outcome::cannot_run("TLS begins where none was asked for"));
                };
                note = wire.secure(settings, target).await?;
                talk.secured()
            }
            Step::Done(mut outcome, farewell) => {
                // What a server does with it is no longer our business.
                let _ = wire.send(&farewell).await;
                if let Outcome::Up(passed) = &mut outcome {
                    passed.note = note;
                }
                return Ok(outcome);
            }
        };
    }
    Err(Outcome::down("the server sends more messages than a check reads"))
}

/// A connection with what has been received on it.
struct Wire {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    /// How many more bytes may be received.
    left: usize,
}

impl Wire {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Outcome> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|e| net::failed("send", &e))
    }

    /// Receives until there is a whole message.
    async fn message(&mut self, talk: &impl Talk) -> Result<Vec<u8>, Outcome> {
        loop {
            if let Some(length) = talk.frame(&self.received).map_err(Outcome::down)? {
                let rest = self.received.split_off(length.min(self.received.len()));
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            let mut piece = [0; 4096];
            let room = piece.len().min(self.left);
            let got = self.stream.read(piece.get_mut(..room).unwrap_or_default()).await;
            let got = got.map_err(|e| net::failed("receive", &e))?;
            if self.left == 0 {
                return Err(Outcome::down("the server sends more than a check reads"));
            }
            if got == 0 {
                return Err(Outcome::down("connection closed by the server"));
            }
            self.left -= got;
            self.received.extend_from_slice(piece.get(..got).unwrap_or_default());
        }
    }

    /// Begins TLS; what an operator should know of the certificate.
    async fn secure(
        &mut self,
        settings: &crate::check::tls::Settings,
        target: &Target,
    ) -> Result<Option<String>, Outcome> {
        // It came in clear text, from anybody (as in CVE-2021-23222).
        if !self.received.is_empty() {
            return Err(Outcome::down("the server sent more than was asked for before TLS"));
        }
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let secured = tls::secure(stream, settings, target, None, b"").await?;
        self.stream = Box::new(secured.stream);
        Ok(secured.note)
    }
}
