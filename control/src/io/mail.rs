//! Sends an alert by SMTP (lettre), over a connection of its own.

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message as Letter, Tokio1Executor};

use super::alert::{certificates, chain, secret};
use crate::alert::{self, Mail, Message, Target};

/// Hands the message to the mail server.
///
/// # Errors
/// In words: no connection, no TLS, refused.
pub(super) async fn send(mail: &Mail, target: &Target, message: &Message) -> Result<(), String> {
    let letter = letter(mail, target, message)?;
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host)
        .port(mail.port)
        // The attempt as a whole is bounded by the caller; this bounds its connecting as well.
        .timeout(Some(target.timeout));
    // An unqualified name is refused by many servers; the default (an address) by none.
    if message.sender.node.trim_matches('.').contains('.') {
        transport = transport.hello_name(ClientId::Domain(message.sender.node.clone()));
    }
    transport = match mail.tls {
        alert::Tls::None => transport,
        alert::Tls::Starttls => transport.tls(Tls::Required(parameters(mail).await?)),
        alert::Tls::Tls => transport.tls(Tls::Wrapper(parameters(mail).await?)),
    };
    if let Some((user, file)) = &mail.login {
        transport = transport.credentials(Credentials::new(user.clone(), secret(file).await?));
    }
    let server = format!("{}:{}", mail.host, mail.port);
    let sent = transport.build().send(letter).await;
    sent.map(|_| ()).map_err(|e| format!("{server}: {}", chain(&e)))
}

fn letter(mail: &Mail, target: &Target, message: &Message) -> Result<Letter, String> {
    let mailbox = |text: &str| {
        text.parse::<Mailbox>().map_err(|e| format!("`{text}` is no mail address: {e}"))
    };
    let time = UNIX_EPOCH + Duration::from_millis(message.unix_ms);
    // The same for each attempt, so that a mail that was taken twice is seen as one.
    let name = target.name.replace('.', "-");
    let number = message.test.unwrap_or(0);
    let id = format!("<{}-{number}-{name}@{}>", message.unix_ms, domain(mail));
    let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
    let mut builder: MessageBuilder = Letter::builder()
        .from(mailbox(&mail.from)?)
        .subject(message.subject())
        .date(time)
        .message_id(Some(id))
        // RFC 3834: nobody's holiday reply to this.
        .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()));
    for to in &mail.to {
        builder = builder.to(mailbox(to)?);
    }
    let builder = builder.header(ContentType::TEXT_PLAIN);
    builder.body(message.text()).map_err(|e| format!("cannot write the mail: {e}"))
}

/// The domain of the sender's address.
fn domain(mail: &Mail) -> &str {
    let address = mail.from.trim_end_matches('>');
    address.rsplit_once('@').map_or("localhost", |(_, domain)| domain)
}

/// Reads certificates beside the loop: the system's are many.
async fn parameters(mail: &Mail) -> Result<TlsParameters, String> {
    let own = match &mail.ca_file {
        Some(path) => {
            let shown = path.display();
            let pem = certificates(path).await?;
            Some(Certificate::from_pem(&pem).map_err(|e| format!("{shown}: {}", chain(&e)))?)
        }
        None => None,
    };
    let host = mail.host.clone();
    let built = tokio::task::spawn_blocking(move || {
        let mut builder = TlsParameters::builder(host);
        if let Some(own) = own {
            let store = CertificateStore::None;
            builder = builder.certificate_store(store).add_root_certificate(own);
        }
        builder.build_rustls()
    });
    let built = built.await.map_err(|e| format!("cannot prepare TLS: {e}"))?;
    built.map_err(|e| format!("cannot prepare TLS: {}", chain(&e)))
}
