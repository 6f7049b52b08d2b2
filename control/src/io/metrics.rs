//! Serves the metrics by HTTP to whoever may connect: a few connections at a time, short requests,
//! little time. It only passes questions on to the loop; no client can hold that up.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Event;
use crate::metrics::Format;
use crate::node::{ClientId, Input};

/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 8;
/// Longest time for the head of a request, and for anything to happen on a connection.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Longest life of a connection; Prometheus opens another one.
const CONNECTION_MAX: Duration = Duration::from_secs(120);
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Pause before an address that cannot be listened at is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Clients of metrics have numbers that clients of the control socket never reach.
const FIRST_CLIENT: u64 = 1 << 63;

/// The server; it ends when this is dropped.
pub(super) struct Server {
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Listens at `address`, if need be later; says so each time that changes.
    pub(super) fn start(address: SocketAddr, events: mpsc::Sender<Event>) -> Self {
        Self { task: tokio::spawn(listen(address, events)) }
    }
}

async fn listen(address: SocketAddr, events: mpsc::Sender<Event>) {
    let listener = loop {
        let listener = TcpListener::bind(address).await;
        let result = listener.as_ref().map(|_| ()).map_err(|e| format!("cannot listen: {e}"));
        if events.send(Event::Input(Input::Listening(address, result))).await.is_err() {
            return;
        }
        match listener {
            Ok(listener) => break listener,
            Err(_) => sleep(RETRY).await,
        }
    };
    let (slots, next) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(AtomicU64::new(0)));
    // Connections end with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: one will be given back.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
            let (events, next) = (events.clone(), Arc::clone(&next));
            connections.spawn(async move {
                let _ = timeout(CONNECTION_MAX, serve(stream, events, next)).await;
                drop(slot);
            });
        }
    }
}

async fn serve(stream: TcpStream, events: mpsc::Sender<Event>, next: Arc<AtomicU64>) {
    let service = service_fn(move |request| {
        let client = ClientId(FIRST_CLIENT + next.fetch_add(1, Ordering::Relaxed) % FIRST_CLIENT);
        answer(request, client, events.clone())
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Result<Response<Full<Bytes>>, Infallible>;

async fn answer(
    request: Request<Incoming>,
    client: ClientId,
    events: mpsc::Sender<Event>,
) -> Answer {
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let accept = request.headers().get(ACCEPT).and_then(|v| v.to_str().ok());
            let format = Format::accepted(accept.unwrap_or_default());
            let (reply, replied) = oneshot::channel();
            let scrape = Event::Request(client, reply, Input::Scrape(client, format));
            let sent = events.send(scrape).await;
            match (sent, replied.await) {
                (Ok(()), Ok(text)) => page(StatusCode::OK, format.content_type(), text),
                _ => plain(StatusCode::SERVICE_UNAVAILABLE, "xvip-control is stopping\n"),
            }
        }
        (&Method::GET | &Method::HEAD, "/") => {
            plain(StatusCode::OK, "xvip: metrics are at /metrics\n")
        }
        (&Method::GET | &Method::HEAD, _) => plain(StatusCode::NOT_FOUND, "only /metrics\n"),
        _ => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            response
        }
    };
    // A body that was sent along is not read.
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let close = hyper::header::HeaderValue::from_static("close");
        response.headers_mut().insert(hyper::header::CONNECTION, close);
    }
    Ok(response)
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", text.to_owned())
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
