//! `type = "tcp"`.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{net, tls};
use crate::check::tcp::Settings;
use crate::check::{Outcome, Passed, Target};

pub(super) async fn probe(settings: &Settings, target: &Target) -> Outcome {
    net::settle(ask(settings, target).await)
}

async fn ask(settings: &Settings, target: &Target) -> Result<Outcome, Outcome> {
    let mut stream = net::connect(target).await?;
    let Some(tls) = &settings.tls else {
        talk(&mut stream, settings).await?;
        return Ok(Outcome::up());
    };
    let mut secured = tls::secure(stream, tls, target, None, b"").await?;
    talk(&mut secured.stream, settings).await?;
    Ok(Outcome::Up(Passed { weight_percent: None, note: secured.note }))
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    settings: &Settings,
) -> Result<(), Outcome> {
    if let Some(send) = &settings.send {
        let sent = async {
            stream.write_all(send.as_bytes()).await?;
            stream.flush().await
        };
        sent.await.map_err(|e| net::failed("send", &e))?;
    }
    let mut received = Vec::new();
    while !settings.satisfied(&received) {
        net::stage(format!("({})", settings.unsatisfied(&received, "still waiting")));
        let mut piece = [0; 4096];
        let room = piece.len().min(net::BOUND - received.len());
        let got = stream.read(piece.get_mut(..room).unwrap_or_default()).await;
        let got = got.map_err(|e| net::failed("receive", &e))?;
        received.extend_from_slice(piece.get(..got).unwrap_or_default());
        let end = match got {
            _ if received.len() == net::BOUND => "the server sends more than a check reads",
            0 => "the server closed the connection",
            _ => continue,
        };
        if settings.satisfied(&received) {
            break;
        }
        return Err(Outcome::down(settings.unsatisfied(&received, end)));
    }
    Ok(())
}
