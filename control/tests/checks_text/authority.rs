//! A certificate authority for tests, and servers with its certificates.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::server::{Server, read_line};

/// A certificate with its key.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// What a certificate says.
pub(crate) struct Leaf {
    pub(crate) name: &'static str,
    /// Days until it ends; negative for one that has ended.
    pub(crate) days: i64,
}

impl Default for Leaf {
    fn default() -> Self {
        Self { name: "web.example", days: 100 }
    }
}

/// Signs, and keeps its files in a directory of its own.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    key: Vec<u8>,
    directory: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec!["ca.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tests of xvip");
        let key = KeyPair::generate().unwrap();
        let bytes = key.serialize_der();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, key: bytes, directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory().join("ca.pem")
    }

    /// Its own certificate, for a server.
    pub(crate) fn itself(&self) -> Identity {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        Identity { chain: vec![self.issuer.der().clone()], key }
    }

    fn signed(&self, leaf: &Leaf) -> (String, KeyPair) {
        let mut params = CertificateParams::new(vec![leaf.name.to_owned()]).unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        // Some hours from the border between two days.
        let end = now.checked_add_signed(leaf.days * 86_400 + 10_000 * leaf.days.signum()).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key)
    }

    /// A certificate for a server.
    pub(crate) fn leaf(&self, leaf: &Leaf) -> Identity {
        let (pem, key) = self.signed(leaf);
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        Identity { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }

    /// A certificate for a client, and its key, as files.
    pub(crate) fn client_files(&self) -> (PathBuf, PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        let (pem, key) = self.signed(&Leaf { name: "probe.example", days: 100 });
        let paths = (self.directory().join("client.pem"), self.directory().join("client.key"));
        std::fs::write(&paths.0, pem).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&paths.1, PermissionsExt::from_mode(0o600)).unwrap();
        paths
    }

    /// A web server that demands a certificate of this authority.
    pub(crate) fn serve_with_clients(&self, answer: &'static str) -> Server {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(rustls::crypto::ring::default_provider()),
        );
        let verifier = verifier.build().unwrap();
        let identity = self.leaf(&Leaf::default());
        let config = builder().with_client_cert_verifier(verifier);
        start(config.with_single_cert(identity.chain, identity.key).unwrap(), answer)
    }
}

fn builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
}

/// A web server with this certificate and one answer.
pub(crate) fn serve(identity: Identity, answer: &'static str) -> Server {
    let config = builder().with_no_client_auth();
    start(config.with_single_cert(identity.chain, identity.key).unwrap(), answer)
}

fn start(config: ServerConfig, answer: &'static str) -> Server {
    let config = Arc::new(config);
    Server::start(move |mut stream: TcpStream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut secured = rustls::Stream::new(&mut tls, &mut stream);
        while read_line(&mut secured).is_some_and(|line| !line.is_empty()) {}
        let _ = secured.write_all(answer.as_bytes());
        let _ = secured.flush();
        let _ = stream.read(&mut [0; 64]);
    })
}
