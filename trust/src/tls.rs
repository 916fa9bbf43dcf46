//! How TLS is spoken to metadata servers.

use std::{fmt, path::Path, sync::Arc};

use rustls::ClientConfig;

use crate::{error::TrustError, files::read_file, identity::dialing_without_identity, trust::Trust};

/// Whom a client trusts, and as whom it comes. Cheap to clone.
#[derive(Clone)]
pub struct TlsTrust(Source);

#[derive(Clone)]
enum Source {
    /// Authorities only.
    Fixed(Arc<ClientConfig>),
    /// Whatever is in force.
    Following(Arc<Trust>),
    /// The authorities that are in force.
    FollowingAsClient(Arc<Trust>),
}

impl TlsTrust {
    /// Trusts the authorities in a file of certificates, and shows no certificate. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, or holds none.
    pub fn from_ca_file(path: &Path) -> Result<Self, TrustError> {
        let ca = read_file(path)?;
        let config = dialing_without_identity(&ca).ok_or_else(|| TrustError::Malformed {
            path: path.to_owned(),
            what: "certificates of authorities",
        })?;
        let config = config.map_err(|source| TrustError::Tls { path: path.to_owned(), source })?;
        Ok(Self(Source::Fixed(config)))
    }

    pub(crate) const fn following(trust: Arc<Trust>) -> Self {
        Self(Source::Following(trust))
    }

    pub(crate) const fn following_as_client(trust: Arc<Trust>) -> Self {
        Self(Source::FollowingAsClient(trust))
    }

    /// For the next handshake.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        match &self.0 {
            Source::Fixed(config) => Arc::clone(config),
            Source::Following(trust) => Arc::clone(trust.identity().dialing()),
            Source::FollowingAsClient(trust) => Arc::clone(trust.identity().dialing_as_client()),
        }
    }
}

impl fmt::Debug for TlsTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTrust(..)")
    }
}
