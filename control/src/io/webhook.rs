//! Posts an alert as JSON (hyper, rustls), over a connection of its own.

use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::alert::{certificates, chain, printable, secret};
use crate::alert::{Message, Webhook};

/// Bytes of an answer that are looked at, for the reason of a refusal.
const ANSWER_MAX: usize = 4096;

/// Posts the message; taken is what is answered with 2xx.
///
/// # Errors
/// In words: no connection, no TLS, another answer.
pub(super) async fn post(hook: &Webhook, message: &Message) -> Result<(), String> {
    let request = request(hook, message).await?;
    let server = hook.authority();
    let said = |what: &str, e: &dyn std::error::Error| format!("{server}: {what}: {}", chain(e));
    let stream = TcpStream::connect((hook.host.as_str(), hook.port)).await;
    let stream = stream.map_err(|e| said("cannot connect", &e))?;
    if !hook.https {
        return exchange(stream, request).await.map_err(|e| format!("{server}: {e}"));
    }
    let connector = TlsConnector::from(Arc::new(tls(hook).await?));
    let name = ServerName::try_from(hook.host.clone());
    let name = name.map_err(|e| said("no name for a certificate", &e))?;
    let stream = connector.connect(name, stream).await.map_err(|e| said("TLS", &e))?;
    exchange(stream, request).await.map_err(|e| format!("{server}: {e}"))
}

async fn request(hook: &Webhook, message: &Message) -> Result<Request<Full<Bytes>>, String> {
    let body = Bytes::from(message.json().to_string());
    let mut builder = Request::post(&hook.path)
        .header(HOST, hook.authority())
        .header(USER_AGENT, concat!("xvip/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json");
    if let Some(path) = &hook.token_file {
        let token = format!("Bearer {}", secret(path).await?);
        let value = HeaderValue::try_from(token);
        let mut value = value.map_err(|_| format!("{}: is no token", path.display()))?;
        value.set_sensitive(true);
        builder = builder.header(AUTHORIZATION, value);
    }
    builder.body(Full::new(body)).map_err(|e| format!("cannot write the request: {e}"))
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(), String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| chain(&e))?;
    // Ends with us: when the caller's time is up, both halves are dropped.
    let answer =
        async move { judge(sender.send_request(request).await.map_err(|e| chain(&e))?).await };
    tokio::pin!(connection, answer);
    tokio::select! {
        // The connection may end before its answer has been looked at.
        _ = &mut connection => answer.await,
        result = &mut answer => result,
    }
}

async fn judge(response: Response<Incoming>) -> Result<(), String> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let said = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned());
    let said = printable(&said.unwrap_or_default());
    let colon = if said.is_empty() { "" } else { ": " };
    Err(format!("answered {status}{colon}{said}"))
}

/// Trusts the given file, or what the system trusts. Read beside the loop.
async fn tls(hook: &Webhook) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &hook.ca_file {
        let (pem, shown) = (certificates(path).await?, path.display());
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|e| format!("{shown}: {e}"))?;
            roots.add(certificate).map_err(|e| format!("{shown}: {e}"))?;
        }
    } else {
        let load = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
        let found = load.await.map_err(|e| format!("cannot read certificates: {e}"))?;
        roots.add_parsable_certificates(found.certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| format!("cannot prepare TLS: {e}"))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
