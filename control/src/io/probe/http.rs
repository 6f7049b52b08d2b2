//! `type = "http"`, `"https"` and `"http_proxy"`: HTTP/1.1 by hyper, one request a connection.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::http::{Error as BadRequest, Method, Uri};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{net, secret, tls};
use crate::check::http::{BODY_MAX, Expect, HEAD_MAX, Settings, basic, host_name, host_of};
use crate::check::http_proxy::{self, Ask};
use crate::check::{Outcome, Passed, Target};

/// Most headers of an answer.
const HEADERS_MAX: usize = 256;
/// Most bytes of an answer, with all that frames its body.
const ANSWER_MAX: usize = HEAD_MAX + 2 * BODY_MAX;
/// How we are called in a server's log.
const AGENT: &str = concat!("xvip/", env!("CARGO_PKG_VERSION"));

pub(super) async fn probe(settings: &Settings, target: &Target) -> Outcome {
    net::settle(ask(settings, target).await)
}

async fn ask(settings: &Settings, target: &Target) -> Result<Outcome, Outcome> {
    let credentials = secret::credentials(settings.login.as_ref()).await?;
    let usual = if settings.tls.is_some() { 443 } else { 80 };
    let host = settings.host.clone();
    let host = host.unwrap_or_else(|| host_of(target.address, target.port, usual));
    let mut request = Request::builder()
        .method(settings.method.as_str())
        .uri(settings.path.as_str())
        .header(HOST, host);
    if !settings.headers.iter().any(|h| h.name.eq_ignore_ascii_case(USER_AGENT.as_str())) {
        request = request.header(USER_AGENT, AGENT);
    }
    for header in &settings.headers {
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    if let Some(login) = &credentials {
        request = request.header(AUTHORIZATION, basic(login));
    }
    let data = settings.data.clone().unwrap_or_default();
    let request = request.header(CONNECTION, "close").body(data).map_err(|e| unfit(&e))?;

    let stream = net::connect(target).await?;
    let Some(tls) = &settings.tls else {
        exchange(stream, request, &settings.expect).await?;
        return Ok(Outcome::up());
    };
    let name = settings.host.as_deref().map(host_name);
    let secured = tls::secure(stream, tls, target, name, b"http/1.1").await?;
    exchange(secured.stream, request, &settings.expect).await?;
    Ok(Outcome::Up(Passed { weight_percent: None, note: secured.note }))
}

pub(super) async fn probe_proxy(settings: &http_proxy::Settings, target: &Target) -> Outcome {
    net::settle(ask_proxy(settings, target).await)
}

async fn ask_proxy(settings: &http_proxy::Settings, target: &Target) -> Result<Outcome, Outcome> {
    let credentials = secret::credentials(settings.login.as_ref()).await?;
    let (method, text) = match &settings.ask {
        Ask::Fetch(url) => (Method::GET, url),
        Ask::Tunnel(place) => (Method::CONNECT, place),
    };
    let uri: Uri = text.parse().map_err(|e: hyper::http::uri::InvalidUri| unfit(&e.into()))?;
    let host = uri.authority().map(ToString::to_string).unwrap_or_default();
    let mut request = Request::builder().method(method).uri(uri).header(HOST, host);
    if let Some(login) = &credentials {
        request = request.header(PROXY_AUTHORIZATION, basic(login));
    }
    let request = request.header(USER_AGENT, AGENT).body(String::new()).map_err(|e| unfit(&e))?;
    exchange(net::connect(target).await?, request, &settings.expect).await?;
    Ok(Outcome::up())
}

fn unfit(error: &BadRequest) -> Outcome {
    Outcome::cannot_run(format!("the request cannot be made: {error}"))
}

/// Sends the request and judges the answer.
async fn exchange<S>(stream: S, request: Request<String>, expect: &Expect) -> Result<(), Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Limited { stream, left: ANSWER_MAX, asked: false, reader: None });
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(io).await.map_err(|e| failed(&e))?;
    let dialogue = async {
        net::stage("to the request");
        let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
        judge(answer, expect).await
    };
    // The connection makes progress only while it is polled; its own end says nothing that the
    // dialogue does not say better.
    let driver = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = dialogue => result,
        () = driver => Err(Outcome::cannot_run("the connection ended without a result")),
    }
}

async fn judge(answer: Response<Incoming>, expect: &Expect) -> Result<(), Outcome> {
    let headers = answer.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let headers: Vec<_> = headers.collect();
    expect.head(answer.status().as_u16(), &headers).map_err(Outcome::down)?;
    if expect.body.is_none() {
        return Ok(());
    }
    net::stage("with the whole body");
    let mut body = answer.into_body();
    let mut received = Vec::new();
    while received.len() < BODY_MAX {
        let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await else { break };
        let frame = frame.map_err(|e| failed(&e))?;
        if let Some(data) = frame.data_ref() {
            let room = data.len().min(BODY_MAX - received.len());
            received.extend_from_slice(data.get(..room).unwrap_or_default());
        }
    }
    expect.body(&received).map_err(Outcome::down)
}

/// Why no answer could be had, in words.
fn failed(error: &hyper::Error) -> Outcome {
    if error.is_parse() {
        return Outcome::down(format!("the answer cannot be read: {error}"));
    }
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return net::failed("receive", io);
        }
        source = inner.source();
    }
    if error.is_incomplete_message() {
        return Outcome::down("closed the connection before the answer was whole");
    }
    Outcome::down(format!("HTTP: {error}"))
}

/// A stream that gives up after so many bytes received, and reads none before it has written: to
/// hyper, bytes that come before the request went are no answer, and whether they do is chance.
struct Limited<S> {
    stream: S,
    left: usize,
    /// Something was written.
    asked: bool,
    /// Who wants to read, until then.
    reader: Option<Waker>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the server sends more than a check reads")));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let got = buffer.filled().len().saturating_sub(before);
        self.left = self.left.saturating_sub(got);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.asked |= matches!(written, Poll::Ready(Ok(1..)));
        if let Some(reader) = self.reader.take_if(|_| !written.is_pending()) {
            reader.wake();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
