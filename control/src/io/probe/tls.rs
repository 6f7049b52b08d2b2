//! TLS for checks: rustls with ring. Files of certificates are read when a check first needs them
//! and again when they have changed; what is wrong with them is said as "cannot check", for it says
//! nothing of the server. Runs on the thread of the checks; files are read beside it.
//!
//! Sessions are never resumed: each run sees the certificate that a new client would see.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::der::Decode;

use super::net;
use super::secret::{Readers, aside, open, read};
use crate::check::tls::{Settings, Trust, expiry_note};
use crate::check::{Outcome, Target};

/// Largest file of certificates, in bytes; that of all public authorities has 220 kB.
const FILE_MAX: u64 = 4 << 20;
/// Configurations kept; more than that many different ones are made anew now and then.
const KEPT_MAX: usize = 1024;
/// How long the system's authorities are believed without another look.
const SYSTEM_AGE_MAX: Duration = Duration::from_secs(3600);

/// A connection under TLS, and what an operator should know of the certificate.
pub(super) struct Secured<S> {
    /// The connection.
    pub(super) stream: TlsStream<S>,
    /// For example that the certificate ends soon.
    pub(super) note: Option<String>,
}

/// Starts TLS on `stream`. `host`: the name to ask for, if the settings have none; else the
/// address. `alpn`: the protocol to ask for, if any.
pub(super) async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    settings: &Settings,
    target: &Target,
    host: Option<&str>,
    alpn: &'static [u8],
) -> Result<Secured<S>, Outcome> {
    let config = config(settings, alpn).await?;
    let name = server_name(settings, host, target.address);
    let connector = TlsConnector::from(config);
    net::stage("to the start of TLS");
    let connected = connector.connect(name.clone(), stream).await;
    let stream = connected.map_err(|e| failed(&e, settings, &name))?;
    net::stage("");
    let certificates = stream.get_ref().1.peer_certificates();
    let note = settings
        .expires
        .zip(certificates.and_then(|c| c.first()))
        .and_then(|(warn, der)| expiry_note(UnixTime::now().as_secs(), not_after(der)?, warn));
    Ok(Secured { stream, note })
}

fn server_name(settings: &Settings, host: Option<&str>, address: IpAddr) -> ServerName<'static> {
    let name = settings.server_name.as_deref().or(host);
    let name = name.and_then(|n| ServerName::try_from(n.to_owned()).ok());
    name.unwrap_or_else(|| ServerName::IpAddress(address.into()))
}

/// When a certificate ends, in seconds since 1970; `None` if it is no certificate.
fn not_after(der: &CertificateDer<'_>) -> Option<u64> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

/// How webpki calls an authority's certificate that is used as a server's.
const SELF_SIGNED: &str = "CaUsedAsEndEntity";

/// Why TLS could not be started, in words, with the remedy where there is one.
fn failed(error: &std::io::Error, settings: &Settings, name: &ServerName<'_>) -> Outcome {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let Some(tls) = inner else { return net::failed("TLS", error) };
    let name = name.to_str();
    let words = match tls {
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the certificate is not for {name} (see `server_name`)")
            }
            // Bad signature: an authority of the same name, but not the same key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match &settings
                .trust
            {
                Trust::File(path) => {
                    format!("the certificate is not signed by an authority in {}", path.display())
                }
                Trust::System | Trust::Anything => {
                    "the certificate is not signed by a known authority (see `verify`)".to_owned()
                }
            },
            // What `openssl req -x509` makes: an authority's certificate that a server shows as its
            // own. webpki says so before it looks for who signed it; the kind has no name in rustls.
            CertificateError::Other(other) if format!("{other:?}").contains(SELF_SIGNED) => {
                "the certificate is self-signed, so not signed by a known authority: name a file \
                 that holds it as `verify`"
                    .to_owned()
            }
            other => format!("the certificate is no good: {other}"),
        },
        Error::InvalidMessage(_) => "TLS: the server's answer is not TLS".to_owned(),
        Error::AlertReceived(alert) => format!("TLS: the server refuses with {alert:?}"),
        other => format!("TLS: {other}"),
    };
    Outcome::down(words)
}

/// What identifies the contents of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

struct Kept {
    config: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
    made: tokio::time::Instant,
}

type Key = (Settings, &'static [u8]);

thread_local! {
    static KEPT: RefCell<BTreeMap<Key, Kept>> = const { RefCell::new(BTreeMap::new()) };
}

/// The configuration for `settings`, from the last time if its files are the same.
async fn config(settings: &Settings, alpn: &'static [u8]) -> Result<Arc<ClientConfig>, Outcome> {
    let copy = settings.clone();
    let stamps = match files(settings).next() {
        Some(_) => aside(move || stamps(&copy)).await?,
        None => Vec::new(),
    };
    let key = (settings.clone(), alpn);
    let now = tokio::time::Instant::now();
    let kept = KEPT.with_borrow(|kept| {
        let found = kept.get(&key).filter(|k| k.stamps == stamps);
        let fresh = |k: &&Kept| {
            settings.trust != Trust::System || now.duration_since(k.made) < SYSTEM_AGE_MAX
        };
        found.filter(fresh).map(|k| Arc::clone(&k.config))
    });
    if let Some(config) = kept {
        return Ok(config);
    }
    let copy = settings.clone();
    let config = Arc::new(aside(move || make(&copy, alpn)).await?);
    KEPT.with_borrow_mut(|kept| {
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, Kept { config: Arc::clone(&config), stamps, made: now });
    });
    Ok(config)
}

fn files(settings: &Settings) -> impl Iterator<Item = (&PathBuf, &'static str, Readers)> {
    let authorities = match &settings.trust {
        Trust::File(path) => Some((path, "the authorities", Readers::All)),
        Trust::System | Trust::Anything => None,
    };
    let client = settings.client.iter().flat_map(|c| {
        let certificate = (&c.certificate, "the certificate", Readers::All);
        [certificate, (&c.key, "the private key", Readers::Few)]
    });
    authorities.into_iter().chain(client)
}

fn stamps(settings: &Settings) -> Result<Vec<Stamp>, Outcome> {
    files(settings).map(|(path, what, who)| stamp(path, what, who)).collect()
}

fn stamp(path: &Path, what: &str, readers: Readers) -> Result<Stamp, Outcome> {
    let file = open(path, what, readers)?;
    let m = file.metadata();
    let changed = (m.ctime(), m.ctime_nsec());
    Ok(Stamp { device: m.dev(), inode: m.ino(), size: m.size(), changed })
}

fn make(settings: &Settings, alpn: &[u8]) -> Result<ClientConfig, Outcome> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(&settings.trust, &provider)?;
    let wrong = |e: Error| Outcome::cannot_run(format!("TLS cannot be set up: {e}"));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = certificates(&client.certificate, "the certificate")?;
            let shown = client.key.display();
            let pem = read(&client.key, "the private key", FILE_MAX, Readers::Few)?;
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| {
                Outcome::cannot_run(format!("{shown} holds no private key without password: {e}"))
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|e| {
                let certificate = client.certificate.display();
                Outcome::cannot_run(format!("{shown} and {certificate} do not work together: {e}"))
            })?
        }
    };
    config.resumption = Resumption::disabled();
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    Ok(config)
}

fn certificates(path: &Path, what: &str) -> Result<Vec<CertificateDer<'static>>, Outcome> {
    let pem = read(path, what, FILE_MAX, Readers::All)?;
    let listed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let shown = path.display();
    match listed {
        Ok(list) if list.is_empty() => {
            Err(Outcome::cannot_run(format!("{what}: {shown} holds no certificate in PEM form")))
        }
        Ok(list) => Ok(list),
        Err(e) => Err(Outcome::cannot_run(format!("{what}: {shown} is damaged: {e}"))),
    }
}

fn verifier(
    trust: &Trust,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Outcome> {
    let mut roots = RootCertStore::empty();
    let listed = match trust {
        Trust::Anything => return Ok(Arc::new(Anything(Arc::clone(provider)))),
        Trust::File(path) => certificates(path, "the authorities")?,
        Trust::System => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(listed.iter().cloned());
    let own = match trust {
        Trust::File(_) => listed,
        Trust::System | Trust::Anything => Vec::new(),
    };
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let inner = inner.build().map_err(|e| match trust {
        Trust::System | Trust::Anything => Outcome::cannot_run(format!(
            "this system trusts no authority ({e}): install ca-certificates, or see `verify`"
        )),
        Trust::File(path) => {
            Outcome::cannot_run(format!("{} holds no usable certificate: {e}", path.display()))
        }
    })?;
    Ok(Arc::new(Verifier { inner, own }))
}

/// Verifies as browsers do, and besides takes a certificate that stands in the operator's own file
/// of authorities, which is how self-signed ones are trusted.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.own.iter().any(|own| own.as_ref() == end_entity.as_ref()) {
            let inner = &self.inner;
            return inner.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            );
        }
        let problem = |p| Err(Error::InvalidCertificate(p));
        let Ok(certificate) = x509_cert::Certificate::from_der(end_entity) else {
            return problem(CertificateError::BadEncoding);
        };
        let validity = certificate.tbs_certificate.validity;
        if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
            return problem(CertificateError::Expired);
        }
        if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
            return problem(CertificateError::NotValidYet);
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// `verify = "off"`: any certificate will do, but its owner must have the key.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
