//! How the metadata servers are spoken to: with TLS as a member of the cluster, or in plaintext.
//!
//! Invariant: the secrets of key epochs come this way, so plaintext leaves this host only if somebody has said so.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use xdpfs_observe::{Scrape, catalogue as names};
use xdpfs_trust::{Role, TlsTrust, Trust, TrustError};

use crate::config::MetaEndpoint;

/// How the metadata servers are spoken to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// The directory with this process's certificate and key and the authorities that it trusts. None: plaintext.
    pub tls: Option<PathBuf>,
    /// Whether plaintext is spoken with metadata servers on other hosts.
    pub insecure: bool,
}

/// A link that cannot be.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum LinkError {
    /// Secrets would be seen on the way.
    #[error(
        "the secrets of the cluster would come in plaintext from {0}: give --tls DIR (xdpfs-cli init makes the \
         certificates), or --insecure if everybody on that network is trusted"
    )]
    Insecure(MetaEndpoint),
    /// TLS and plaintext are asked for.
    #[error("--tls and --insecure contradict each other: give one of them")]
    InsecureTls,
}

/// A link that is in force: the trust directory is followed for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct OpenLink {
    tls: Option<TlsTrust>,
    certificate: OwnCertificate,
    _follower: Option<AbortOnDropHandle<()>>,
}

impl Link {
    /// Whether the metadata servers may be spoken to so.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub fn check(&self, endpoints: &[MetaEndpoint]) -> Result<(), LinkError> {
        if self.tls.is_some() && self.insecure {
            return Err(LinkError::InsecureTls);
        }
        let is_elsewhere = |endpoint: &&MetaEndpoint| !is_loopback(endpoint.host());
        match endpoints.iter().find(is_elsewhere) {
            Some(endpoint) if self.tls.is_none() && !self.insecure => {
                Err(LinkError::Insecure(endpoint.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Reads the certificates, and follows what becomes of them.
    ///
    /// # Errors
    /// They cannot be used.
    pub(crate) async fn open(&self, roles: &'static [Role]) -> Result<OpenLink, TrustError> {
        let Some(directory) = self.tls.clone() else { return Ok(OpenLink::default()) };
        let path = directory.clone();
        let opened = tokio::task::spawn_blocking(move || Trust::open(&directory, roles)).await;
        let trust = opened.unwrap_or_else(|error| Err(interrupted(&path, error)))?;
        let tls = Some(trust.dialing());
        let follow = Arc::clone(&trust).follow(CancellationToken::new());
        let certificate = OwnCertificate(Some(trust));
        Ok(OpenLink { tls, certificate, _follower: Some(AbortOnDropHandle::new(tokio::spawn(follow))) })
    }
}

impl OpenLink {
    pub(crate) fn tls(&self) -> Option<TlsTrust> {
        self.tls.clone()
    }

    /// The certificates, if there are any.
    pub(crate) fn trust(&self) -> Option<Arc<Trust>> {
        self.certificate.0.clone()
    }

    pub(crate) fn certificate(&self) -> OwnCertificate {
        self.certificate.clone()
    }
}

/// This process's own certificate as it is at present, if it has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnCertificate(Option<Arc<Trust>>);

impl OwnCertificate {
    /// The last second, since the Unix epoch, in which it holds.
    pub(crate) fn expiry_s(&self) -> Option<u64> {
        self.0.as_ref().map(|trust| trust.expiry().as_secs())
    }

    pub(crate) fn collect(&self, scrape: &mut Scrape<'_>) {
        let expiry_s = self.expiry_s().map(|expiry_s| expiry_s as f64);
        scrape.optional_gauge(&names::CERTIFICATE_EXPIRES, expiry_s);
    }
}

/// Only the end of the runtime keeps a file from being read.
fn interrupted(path: &Path, error: tokio::task::JoinError) -> TrustError {
    TrustError::Read { path: path.to_owned(), source: std::io::Error::other(error) }
}

/// Whether what is said to this host stays on it.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_leaves_the_host_only_if_that_is_asked_for() {
        let insecure = Link { insecure: true, ..Link::default() };
        let tls = Link { tls: Some("/tls".into()), ..Link::default() };
        let check = |link: &Link, endpoints: &[&str], expect: bool| {
            let endpoints: Vec<MetaEndpoint> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(link.check(&endpoints).is_ok(), expect, "{link:?} {endpoints:?}");
        };
        for here in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"] {
            check(&Link::default(), &[here], true);
        }
        for elsewhere in ["10.0.0.1:1", "meta-1:1", "[fd00::1]:1", "127.0.0.1.example:1"] {
            check(&Link::default(), &["127.0.0.1:1", elsewhere], false);
            check(&insecure, &[elsewhere], true);
            check(&tls, &[elsewhere], true);
        }
        check(&Link { insecure: true, ..tls }, &["127.0.0.1:1"], false);
    }
}
