//! The kinds that ask in a datagram: DNS, NTP, RADIUS, SIP, and payloads of the operator's.
//!
//! Sockets are connected, so that only the server is heard, and its ICMP errors are.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::UdpSocket;

use super::{net, random, secret};
use crate::check::{Outcome, Target, dns, ntp, radius, sip, udp};

/// Longest datagram.
const DATAGRAM_MAX: usize = 65_535;
/// Most datagrams that are looked at in one run.
const DATAGRAMS_MAX: usize = 64;

/// Sends `request` and hands what comes to `judge` until that says something.
async fn ask<T>(
    socket: &UdpSocket,
    request: &[u8],
    mut judge: impl FnMut(&[u8]) -> Option<T>,
) -> Result<T, Outcome> {
    socket.send(request).await.map_err(|e| failed("send", &e))?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    for _ in 0..DATAGRAMS_MAX {
        let got = socket.recv(&mut buffer).await.map_err(|e| failed("receive", &e))?;
        if let Some(verdict) = judge(buffer.get(..got).unwrap_or_default()) {
            return Ok(verdict);
        }
        net::stage("that belongs to the request, but others");
    }
    let many = format!("{DATAGRAMS_MAX} datagrams, and none answers the request");
    Err(Outcome::down(many))
}

fn failed(doing: &str, error: &std::io::Error) -> Outcome {
    if error.kind() == ErrorKind::ConnectionRefused {
        return Outcome::down("the port is closed (ICMP port unreachable)");
    }
    net::failed(doing, error)
}

pub(super) async fn udp(settings: &udp::Settings, target: &Target, timeout: Duration) -> Outcome {
    let asked = async {
        let socket = net::udp(target).await?;
        ask(&socket, &settings.send, |answer| Some(settings.judge(answer))).await
    };
    if settings.silence == udp::Silence::Down {
        return net::settle(asked.await);
    }
    // A little less than the timeout of the run, which would mean down.
    let patience = timeout.saturating_sub((timeout / 10).min(Duration::from_millis(20)));
    match tokio::time::timeout(patience, asked).await {
        Ok(result) => net::settle(result),
        Err(_) => Outcome::up(),
    }
}

pub(super) async fn ntp(settings: &ntp::Settings, target: &Target) -> Outcome {
    let asked = async {
        let cookie = random::bytes()?;
        let socket = net::udp(target).await?;
        let sent = since_1970();
        let judge = |packet: &[u8]| settings.judge(cookie, packet, sent, since_1970());
        ask(&socket, &ntp::request(cookie), judge).await
    };
    net::settle(asked.await)
}

/// The time of day: what an offset is measured against.
#[expect(clippy::disallowed_methods, reason = "a clock is what this kind is about")]
fn since_1970() -> Duration {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

pub(super) async fn radius(settings: &radius::Settings, target: &Target) -> Outcome {
    let asked = async {
        let secret = secret::reveal(Some(&settings.secret)).await?.unwrap_or_default();
        let password = match &settings.request {
            radius::Request::Status => None,
            radius::Request::Access { password, .. } => secret::reveal(Some(password)).await?,
        };
        let [id] = random::bytes()?;
        let authenticator = random::bytes()?;
        let keys = radius::Keys { id, authenticator, secret: secret.as_bytes() };
        let packet = settings.packet(&keys, password.unwrap_or_default().as_bytes());
        let socket = net::udp(target).await?;
        ask(&socket, &packet, |answer| settings.judge(&keys, answer)).await
    };
    net::settle(asked.await)
}

pub(super) async fn dns(settings: &dns::Settings, target: &Target) -> Outcome {
    let asked = async {
        let id = u16::from_be_bytes(random::bytes()?);
        let question = settings.question(id)?;
        if settings.transport == dns::Transport::Udp {
            let socket = net::udp(target).await?;
            let judge = |answer: &[u8]| match settings.judge(id, answer) {
                dns::Read::NotOurs => None,
                dns::Read::Truncated => Some(None),
                dns::Read::Judged(outcome) => Some(Some(outcome)),
            };
            if let Some(outcome) = ask(&socket, &question, judge).await? {
                return Ok(outcome);
            }
            // Whole answers are to be had over TCP (RFC 7766 §5).
        }
        dns_over_tcp(settings, target, id, &question).await
    };
    net::settle(asked.await)
}

async fn dns_over_tcp(
    settings: &dns::Settings,
    target: &Target,
    id: u16,
    question: &[u8],
) -> Result<Outcome, Outcome> {
    // Two bytes of length stand before each message (RFC 1035 §4.2.2).
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut stream = net::Bounded::new(net::connect(target).await?, DATAGRAM_MAX + 2);
    stream.send(&[&length[..], question].concat()).await?;
    net::stage("to the question over TCP");
    let head = stream.exactly(2).await?;
    let length = head.first_chunk().map_or(0, |b| u16::from_be_bytes(*b));
    let answer = stream.exactly(usize::from(length)).await?;
    match settings.judge(id, &answer) {
        dns::Read::Judged(outcome) => Ok(outcome),
        dns::Read::Truncated => Ok(Outcome::down("the answer is cut, although over TCP")),
        dns::Read::NotOurs => Ok(Outcome::down("the answer is not to our question")),
    }
}

pub(super) async fn sip(settings: &sip::Settings, target: &Target) -> Outcome {
    let asked = async {
        let token = format!("{:016x}", u64::from_be_bytes(random::bytes()?));
        if settings.transport == sip::Transport::Tcp {
            return sip_over_tcp(settings, target, &token).await;
        }
        let socket = net::udp(target).await?;
        let local = socket.local_addr().map_err(|e| net::failed("open a socket", &e))?;
        let request = settings.request(target.socket(), local, &token);
        ask(&socket, request.as_bytes(), |answer| settings.judge(&token, answer)).await
    };
    net::settle(asked.await)
}

async fn sip_over_tcp(
    settings: &sip::Settings,
    target: &Target,
    token: &str,
) -> Result<Outcome, Outcome> {
    let stream = net::connect(target).await?;
    let local = stream.local_addr().map_err(|e| net::failed("connect", &e))?;
    let mut stream = net::Bounded::new(stream, sip::ANSWER_MAX);
    stream.send(settings.request(target.socket(), local, token).as_bytes()).await?;
    net::stage("to OPTIONS");
    let mut received = Vec::new();
    loop {
        let more = stream.some().await?;
        if more.is_empty() {
            return Ok(Outcome::down("connection closed by the server"));
        }
        // Where the end of a head could begin that was not there before.
        let mut from = received.len().saturating_sub(3);
        received.extend(more);
        while let Some(end) = received.get(from..).and_then(sip::head_end) {
            let head: Vec<u8> = received.drain(..from + end).collect();
            from = 0;
            if let Some(outcome) = settings.judge(token, &head) {
                return Ok(outcome);
            }
        }
    }
}
