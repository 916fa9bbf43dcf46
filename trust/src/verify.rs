//! Who passes a handshake: what rustls verifies, and then the principal that the certificate names.
//!
//! Invariant: nothing here weakens rustls. A certificate that rustls refuses is refused, whatever it names.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{
    certificate::Certificate,
    principal::{ClusterName, Principal, Role},
};

/// Whom a listener lets in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Audience {
    /// Anyone: whoever shows no certificate is a client. One that is shown must be the cluster's.
    Anyone,
    /// The cluster's own metadata servers.
    MetaServers,
}

/// The certificate is good, but not one for whom it was shown.
#[derive(Debug)]
pub(crate) struct WrongPrincipal;

/// Judges those who connect.
#[derive(Debug)]
pub(crate) struct CallerVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    cluster: ClusterName,
    audience: Audience,
}

/// Judges those who are connected to: metadata servers, and of one's own cluster if one has one.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
    cluster: Option<ClusterName>,
}

impl CallerVerifier {
    pub(crate) fn new(
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        cluster: ClusterName,
        audience: Audience,
    ) -> Result<Self, Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        let inner = builder.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { inner, cluster, audience })
    }
}

impl ServerVerifier {
    pub(crate) fn new(
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        cluster: Option<ClusterName>,
    ) -> Result<Self, Error> {
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        let inner = builder.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { inner, cluster })
    }
}

impl fmt::Display for WrongPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate is for another cluster or another role")
    }
}

impl std::error::Error for WrongPrincipal {}

/// Whose a certificate is that rustls has verified.
fn principal(certificate: &CertificateDer<'_>) -> Option<Principal> {
    Principal::of(&Certificate::read(certificate)?)
}

impl ClientCertVerifier for CallerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.audience != Audience::Anyone
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let is_let_in = principal(end_entity).is_some_and(|principal| {
            principal.cluster == self.cluster
                && (self.audience == Audience::Anyone || principal.role == Role::Meta)
        });
        // rustls says "access denied" to the other end.
        let denied = || CertificateError::ApplicationVerificationFailure.into();
        if is_let_in { Ok(verified) } else { Err(denied()) }
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

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let is_meta_server = principal(end_entity).is_some_and(|principal| {
            principal.role == Role::Meta
                && self.cluster.as_ref().is_none_or(|cluster| *cluster == principal.cluster)
        });
        if is_meta_server {
            return Ok(verified);
        }
        Err(CertificateError::Other(OtherError(Arc::new(WrongPrincipal))).into())
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
