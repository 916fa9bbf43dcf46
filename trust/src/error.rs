//! Why a trust directory cannot be used, in words that say what to do.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::principal::Role;

/// Why certificates and keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A certificate is over.
    #[error("the certificate in {} expired {} ago: make a new one with xdpfs-cli certify", .path.display(), days(*.ago))]
    Expired {
        /// Where it is.
        path: PathBuf,
        /// For how long.
        ago: Duration,
    },
    /// Anybody on the machine could read the key.
    #[error("the key {} is open to everybody on this machine (mode {mode:03o}): chmod 600 {}", .path.display(), .path.display())]
    KeyIsOpen {
        /// Where it is.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The key belongs to another certificate.
    #[error("the key {} does not belong to the certificate beside it", .path.display())]
    KeyMismatch {
        /// Where it is.
        path: PathBuf,
    },
    /// A file holds nothing that can be used.
    #[error("{} holds no {what} that can be read", .path.display())]
    Malformed {
        /// Where it is.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// The certificate says nothing of a cluster.
    #[error(
        "the certificate in {} names no member of a cluster (a URI such as xdpfs://CLUSTER/node): make one with \
         xdpfs-cli init", .path.display()
    )]
    NoPrincipal {
        /// Where it is.
        path: PathBuf,
    },
    /// A certificate does not hold yet.
    #[error("the certificate in {} does not hold yet: is this machine's clock right?", .path.display())]
    NotYetValid {
        /// Where it is.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificates make no TLS configuration.
    #[error("the certificates in {} cannot be used", .path.display())]
    Tls {
        /// Where they are.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// None of the trusted authorities has made the certificate.
    #[error("the certificate {} was made by no authority in {}", .path.display(), .ca.display())]
    UnknownIssuer {
        /// Where the certificate is.
        path: PathBuf,
        /// Where the authorities are.
        ca: PathBuf,
    },
    /// The certificate is for something else.
    #[error("the certificate in {} is one for {is}, and this needs one for {needed}", .path.display())]
    WrongRole {
        /// Where it is.
        path: PathBuf,
        /// What it is for.
        is: Role,
        /// What is needed.
        needed: Role,
    },
}

impl TrustError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }
}

fn days(duration: Duration) -> String {
    match duration.as_secs() / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "a day".to_owned(),
        days => format!("{days} days"),
    }
}
