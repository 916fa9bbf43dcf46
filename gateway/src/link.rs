//! How callers and metadata servers are spoken to: with TLS by the certificates of one directory, or in plaintext.
//!
//! Invariant: access keys pass in both directions, so plaintext leaves this host only if somebody has said so. To the
//! cluster this process shows no certificate: it is a client.

use std::{path::PathBuf, sync::Arc};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use xdpfs_client::Endpoints;
use xdpfs_observe::{Scrape, catalogue as names};
use xdpfs_trust::{Audience, Role, Security, TlsTrust, Trust, TrustError};

/// The certificates in force, if there are any; followed for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Link {
    trust: Option<Arc<Trust>>,
    _follower: Option<AbortOnDropHandle<()>>,
}

impl Link {
    /// Reads the directory, and follows what becomes of it.
    pub(crate) async fn open(directory: Option<PathBuf>) -> Result<Self, TrustError> {
        let Some(directory) = directory else { return Ok(Self::default()) };
        let path = directory.clone();
        let opened = tokio::task::spawn_blocking(move || Trust::open(&directory, &[Role::Gateway])).await;
        // Only the end of the runtime keeps a file from being read.
        let interrupted = |error| Err(TrustError::Read { path, source: std::io::Error::other(error) });
        let trust = opened.unwrap_or_else(interrupted)?;
        let follow = Arc::clone(&trust).follow(CancellationToken::new());
        Ok(Self { trust: Some(trust), _follower: Some(AbortOnDropHandle::new(tokio::spawn(follow))) })
    }

    /// How callers are spoken to.
    pub(crate) fn security(&self) -> Security {
        match &self.trust {
            Some(trust) => Security::Tls(Arc::clone(trust), Audience::Anyone),
            None => Security::Plaintext,
        }
    }

    /// How metadata servers are.
    pub(crate) fn dialing(&self) -> Option<TlsTrust> {
        self.trust.as_ref().map(Trust::dialing_as_client)
    }

    pub(crate) const fn trust(&self) -> Option<&Arc<Trust>> {
        self.trust.as_ref()
    }
}

/// What is told of the certificate, if there is one.
pub(crate) fn collect(trust: Option<&Arc<Trust>>, scrape: &mut Scrape<'_>) {
    scrape.optional_gauge(&names::CERTIFICATE_EXPIRES, trust.map(|trust| trust.expiry().as_secs() as f64));
}

/// A metadata server to whom keys would be shown on the way.
pub(crate) fn exposed(endpoints: &Endpoints) -> Option<&str> {
    endpoints.iter().find(|endpoint| {
        let host = endpoint.rsplit_once(':').map_or(*endpoint, |(host, _)| host);
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_here =
            bare.parse().is_ok_and(|address: std::net::IpAddr| address.to_canonical().is_loopback());
        !is_here && !bare.eq_ignore_ascii_case("localhost")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_other_hosts_are_found() {
        let check = |text: &str, expect: Option<&str>| {
            let endpoints: Endpoints = text.parse().unwrap();
            assert_eq!(exposed(&endpoints), expect, "{text}");
        };
        check("127.0.0.1:1,[::1]:2,localhost:3", None);
        check("127.0.0.1:1,meta-1:2", Some("meta-1:2"));
        check("10.0.0.1:1", Some("10.0.0.1:1"));
    }
}
