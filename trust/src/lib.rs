//! Who may speak to whom: TLS on gRPC connections, certificates that say which member of which cluster their holder
//! is, and doors that stay open to clients whatever others do.
//!
//! [`Trust`] is a process's directory of certificates, followed while it changes; [`listen`] lets callers in,
//! [`Dialer`] connects to metadata servers; `Authority` makes certificates. Invariant: keys are in no log and in no
//! `Debug`, and where TLS is asked for, nothing else is spoken. This crate knows nothing of objects.

#[cfg(feature = "authority")]
mod authority;
mod certificate;
mod der;
mod descriptors;
mod dial;
mod doors;
mod error;
mod files;
mod greeting;
mod identity;
mod listener;
mod net;
mod presence;
mod principal;
mod tls;
mod trust;
mod verify;

#[cfg(feature = "authority")]
pub use authority::{Authority, AuthorityError, Issued, LIFETIME, Request};
pub use certificate::Certificate;
pub use descriptors::allow_connections;
pub use dial::{DialError, Dialed, Dialer, Mismatch};
pub use doors::Limits;
pub use error::TrustError;
pub use files::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, first_certificate};
pub use listener::{
    Caller, Connection, HANDSHAKE_TIMEOUT, Security, listen, listen_to_browsers, listen_within,
};
pub use net::Listener;
pub use presence::{Attended, PresenceLayer, Present};
pub use principal::{ClusterName, NameError, Principal, Role};
pub use tls::TlsTrust;
pub use trust::{LOOK_EVERY, Trust};
pub use verify::Audience;
