//! The kinds that talk in lines: carries out what [`crate::check::lines`] decides.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{net, secret, tls};
use crate::check::lines::{Action, Dialogue, Lines, Settings};
use crate::check::secret::{Credentials, Login};
use crate::check::tls::Tls;
use crate::check::{Outcome, Passed, Target, ftp, imap, nntp, pop3, smtp};

/// How long a server may take to close the connection after our farewell.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) async fn smtp(settings: &smtp::Settings, target: &Target) -> Outcome {
    let begin = |login| smtp::Smtp::new(settings, login);
    talk(&settings.tls, settings.login.as_ref(), target, begin).await
}

pub(super) async fn pop3(settings: &Settings, target: &Target) -> Outcome {
    let begin = |login| pop3::Pop3::new(settings, login);
    talk(&settings.tls, settings.login.as_ref(), target, begin).await
}

pub(super) async fn imap(settings: &Settings, target: &Target) -> Outcome {
    let begin = |login| imap::Imap::new(settings, login);
    talk(&settings.tls, settings.login.as_ref(), target, begin).await
}

pub(super) async fn ftp(settings: &Settings, target: &Target) -> Outcome {
    let begin = |login| ftp::Ftp::new(settings, login);
    talk(&settings.tls, settings.login.as_ref(), target, begin).await
}

pub(super) async fn nntp(settings: &nntp::Settings, target: &Target) -> Outcome {
    let begin = |login| nntp::Nntp::new(settings, login);
    talk(&settings.tls, settings.login.as_ref(), target, begin).await
}

/// A connection, under TLS or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn talk<D: Dialogue>(
    tls: &Tls,
    login: Option<&Login>,
    target: &Target,
    begin: impl FnOnce(Option<Credentials>) -> D,
) -> Outcome {
    match secret::credentials(login).await {
        Ok(credentials) => net::settle(converse(Lines::new(begin(credentials)), tls, target).await),
        Err(outcome) => outcome,
    }
}

async fn converse<D: Dialogue>(
    mut lines: Lines<D>,
    tls: &Tls,
    target: &Target,
) -> Result<Outcome, Outcome> {
    let mut stream: Box<dyn Stream> = Box::new(net::connect(target).await?);
    let mut note = None;
    if let Tls::On(settings) = tls {
        let secured = tls::secure(stream, settings, target, None, b"").await?;
        (stream, note) = (Box::new(secured.stream), secured.note);
    }
    let mut left = net::BOUND;
    let mut action = Action::Read;
    loop {
        action = match action {
            Action::Read => {
                net::stage(format!("(waiting for {})", lines.awaited()));
                let mut piece = [0; 4096];
                let room = piece.len().min(left);
                let got = stream.read(piece.get_mut(..room).unwrap_or_default()).await;
                let got = got.map_err(|e| net::failed(lines.awaited(), &e))?;
                left -= got;
                if got == 0 && left > 0 {
                    return Ok(Outcome::down(lines.closed()));
                }
                if left == 0 {
                    return Ok(Outcome::down("the server sends more than a check reads"));
                }
                lines.receive(piece.get(..got).unwrap_or_default())
            }
            Action::Send(bytes) => {
                let sent = async {
                    stream.write_all(&bytes).await?;
                    stream.flush().await
                };
                sent.await.map_err(|e| net::failed(lines.awaited(), &e))?;
                lines.go_on()
            }
            Action::StartTls => {
                let Tls::Start(settings) = tls else {
                    return Ok(Outcome::cannot_run("TLS begins where none was asked for"));
                };
                let secured = tls::secure(stream, settings, target, None, b"").await?;
                (stream, note) = (Box::new(secured.stream), secured.note);
                lines.secured()
            }
            Action::Finish(farewell) => {
                take_leave(stream, farewell);
                return Ok(Outcome::Up(Passed { weight_percent: None, note }));
            }
            Action::Fail(reason) => return Ok(Outcome::down(reason)),
        }
    }
}

/// Ends the conversation politely, after the result is known: a server that is slow to say good-bye
/// is up, and one that is cut off writes complaints into its log.
fn take_leave(mut stream: Box<dyn Stream>, farewell: &'static [u8]) {
    tokio::spawn(tokio::time::timeout(FAREWELL, async move {
        stream.write_all(farewell).await?;
        stream.flush().await?;
        let mut piece = [0; 512];
        // One answer, or the end.
        stream.read(&mut piece).await
    }));
}
