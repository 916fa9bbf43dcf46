//! The status page: what a browser gets from a metadata server over HTTP/1.1.
//!
//! Everything that it shows comes by the SDK with the visitor's own access key, so that the same rights hold, the same
//! limits and the same ways to a leader. Invariant: read-only; nothing is answered that the visitor could not ask the
//! cluster for; bounded in every direction; no name of an object and no key in any log.

mod answer;
mod credential;
mod download;
mod gate;
mod history;
mod page;
mod patience;
mod query;
mod record;
mod router;
mod sampler;
mod server;
mod visitors;

use std::collections::BTreeSet;

use xdpfs_client::{AccessKey, Client, ClientConfig, ObjectClient, Result};

pub use self::{
    history::KEPT,
    server::{Console, ConsoleError},
    visitors::VISITORS_MAX,
};

/// Downloads at once; more are told to come again.
pub const DOWNLOADS_MAX: usize = 8;
/// Connections at once; when there are as many, those end that have been idle for longest.
pub const CONNECTIONS_MAX: usize = 128;

/// How a visitor gets to the cluster.
pub trait Entrance: Send + Sync + 'static {
    /// What speaks to the cluster for him.
    type Client: ObjectClient;

    /// A client that shows this key, or none.
    ///
    /// # Errors
    /// Those of the client, as if no socket can be had.
    fn connect(&self, key: Option<AccessKey>) -> Result<Self::Client>;
}

/// The cluster that `config` names; whose key its clients show is the visitor's.
#[derive(Clone, Debug)]
pub struct ClusterEntrance(pub ClientConfig);

impl Entrance for ClusterEntrance {
    type Client = Client;

    fn connect(&self, access_key: Option<AccessKey>) -> Result<Client> {
        Client::connect(ClientConfig { access_key, ..self.0.clone() })
    }
}

/// By which names browsers reach the page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Names {
    /// Whatever the certificate says: the browser sees to it.
    OfCertificate,
    /// These, addresses and `localhost`. In plaintext nothing else keeps a page of somebody else's, whose name he lets
    /// stand for this server's address, from being taken for ours.
    These(BTreeSet<String>),
}
