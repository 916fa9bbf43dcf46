//! What a process is and whom it trusts, as its trust directory said when it was last read: checked, and ready for
//! handshakes.
//!
//! Invariant: it is whole or it is not there. TLS 1.3 is all that is spoken, HTTP/2 within it but to browsers, and no
//! session is resumed: who was trusted once is asked again.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use crate::{
    certificate::Certificate,
    error::TrustError,
    files::{CA_FILE, CERTIFICATE_FILE, Files, KEY_FILE},
    principal::{Principal, Role},
    verify::{Audience, CallerVerifier, ServerVerifier},
};

/// HTTP/2, as the handshake names it.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
/// HTTP/1.1, which browsers are answered in.
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// Authorities that are trusted at once.
const AUTHORITIES_MAX: usize = 16;
/// Certificates between a member's own and its authority.
const CHAIN_MAX: usize = 8;

/// A process's place in a cluster.
pub(crate) struct Identity {
    files: Files,
    pub(crate) principal: Principal,
    /// When the own certificate expires.
    pub(crate) not_after: Duration,
    members: Arc<dyn ClientCertVerifier>,
    for_anyone: Arc<ServerConfig>,
    for_meta_servers: Arc<ServerConfig>,
    for_browsers: Arc<ServerConfig>,
    dialing: Arc<ClientConfig>,
    dialing_as_client: Arc<ClientConfig>,
}

impl Identity {
    /// Checks what the files hold, as it is now.
    pub(crate) fn new(files: Files, roles: &[Role]) -> Result<Self, TrustError> {
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(authorities(&files.ca).ok_or_else(|| TrustError::Malformed {
            path: files.path(CA_FILE),
            what: "certificates of authorities",
        })?);
        let path = files.path(CERTIFICATE_FILE);
        let malformed = || TrustError::Malformed { path: path.clone(), what: "certificate" };
        let chain = certificates(&files.certificate, CHAIN_MAX).ok_or_else(malformed)?;
        let (own, intermediates) = chain.split_first().ok_or_else(malformed)?;
        let read = Certificate::read(own).ok_or_else(malformed)?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|_| TrustError::Malformed { path: files.path(KEY_FILE), what: "key" })?;
        let key = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => TrustError::KeyMismatch { path: files.path(KEY_FILE) },
            source => TrustError::Tls { path: files.directory.clone(), source },
        })?;
        let tls = |source| TrustError::Tls { path: files.directory.clone(), source };
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let members = builder.build().map_err(|error| tls(Error::General(error.to_string())))?;
        members.verify_client_cert(own, intermediates, UnixTime::now()).map_err(|error| match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                TrustError::UnknownIssuer { path: path.clone(), ca: files.path(CA_FILE) }
            }
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => {
                let ago = now().saturating_sub(Duration::from_secs(read.not_after));
                TrustError::Expired { path: path.clone(), ago }
            }
            Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            ) => TrustError::NotYetValid { path: path.clone() },
            source => tls(source),
        })?;
        let principal = Principal::of(&read).ok_or_else(|| TrustError::NoPrincipal { path: path.clone() })?;
        if let (false, Some(needed)) = (roles.contains(&principal.role), roles.first()) {
            return Err(TrustError::WrongRole { path, is: principal.role, needed: *needed });
        }
        let key = Arc::new(SingleCertAndKey::from(key));
        let server = |audience| {
            let verifier = CallerVerifier::new(&roots, &provider, principal.cluster.clone(), audience)?;
            let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(Arc::new(verifier));
            let config = config.with_cert_resolver(Arc::clone(&key) as _);
            Ok(finish_server(config, ALPN_HTTP2))
        };
        let for_browsers = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&key) as _);
        let dialing = || {
            let verifier = ServerVerifier::new(&roots, &provider, Some(principal.cluster.clone()))?;
            client_builder(&provider, verifier)
        };
        let mut dialing_as_client = dialing().map_err(tls)?.with_no_client_auth();
        let mut dialing = dialing().map_err(tls)?.with_client_cert_resolver(Arc::clone(&key) as _);
        finish_client(&mut dialing);
        finish_client(&mut dialing_as_client);
        Ok(Self {
            for_anyone: server(Audience::Anyone).map_err(tls)?,
            for_meta_servers: server(Audience::MetaServers).map_err(tls)?,
            for_browsers: finish_server(for_browsers, ALPN_HTTP1),
            dialing: Arc::new(dialing),
            dialing_as_client: Arc::new(dialing_as_client),
            not_after: Duration::from_secs(read.not_after),
            members,
            principal,
            files,
        })
    }

    /// Whether reading these files again would make the same.
    pub(crate) fn is_made_of(&self, files: &Files) -> bool {
        self.files == *files
    }

    /// How to answer those who connect.
    pub(crate) fn server(&self, audience: Audience) -> &Arc<ServerConfig> {
        match audience {
            Audience::Anyone => &self.for_anyone,
            Audience::MetaServers => &self.for_meta_servers,
        }
    }

    /// How to answer browsers, which are asked for no certificate.
    pub(crate) const fn for_browsers(&self) -> &Arc<ServerConfig> {
        &self.for_browsers
    }

    /// How to connect to metadata servers.
    pub(crate) fn dialing(&self) -> &Arc<ClientConfig> {
        &self.dialing
    }

    /// How to connect to them without showing a certificate.
    pub(crate) const fn dialing_as_client(&self) -> &Arc<ClientConfig> {
        &self.dialing_as_client
    }

    /// Whether certificates that were shown before would still be accepted.
    pub(crate) fn still_trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((own, intermediates)) = chain.split_first() else { return false };
        self.members.verify_client_cert(own, intermediates, UnixTime::now()).is_ok()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// How to connect with nothing but authorities to trust; `None` if the text holds none.
pub(crate) fn dialing_without_identity(ca: &[u8]) -> Option<Result<Arc<ClientConfig>, Error>> {
    let roots = Arc::new(authorities(ca)?);
    let provider = Arc::new(ring::default_provider());
    let config = ServerVerifier::new(&roots, &provider, None)
        .and_then(|verifier| client_builder(&provider, verifier))
        .map(|builder| {
            let mut config = builder.with_no_client_auth();
            finish_client(&mut config);
            Arc::new(config)
        });
    Some(config)
}

fn client_builder(
    provider: &Arc<CryptoProvider>,
    verifier: ServerVerifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(provider)).with_protocol_versions(&[&TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

fn finish_server(mut config: ServerConfig, alpn: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn finish_client(config: &mut ClientConfig) {
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
}

fn authorities(pem: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, AUTHORITIES_MAX)? {
        roots.add(certificate).ok()?;
    }
    Some(roots)
}

/// At least one and at most `count_max` of them.
fn certificates(pem: &[u8], count_max: usize) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    (1..=count_max).contains(&certificates.len()).then_some(certificates)
}

/// Since the Unix epoch.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
