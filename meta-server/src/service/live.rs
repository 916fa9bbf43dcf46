//! What of a server's configuration may change while it runs.
//!
//! Invariant: whoever is being served goes on as he began.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::watch;
use xdpfs_trust::Limits;

use super::HANDSHAKES_MAX;
use crate::config::{Config, RootKey};

/// What is in force at present.
#[derive(Debug)]
pub(crate) struct Live {
    requests_max: Arc<AtomicUsize>,
    connections: watch::Sender<Limits>,
    root_key: RwLock<Option<Arc<RootKey>>>,
}

impl Live {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            requests_max: Arc::new(config.requests_max.into()),
            connections: watch::Sender::new(limits(config)),
            root_key: RwLock::new(config.root_key.clone().map(Arc::new)),
        }
    }

    pub(super) fn requests_max(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.requests_max)
    }

    pub(super) fn connections(&self) -> watch::Receiver<Limits> {
        self.connections.subscribe()
    }

    /// The key that may do everything, if there is one.
    pub(crate) fn root_key(&self) -> Option<Arc<RootKey>> {
        self.root_key.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes by this configuration from here on. A root key is replaced, and the old one good for nothing; none at all takes
    /// a restart, which decides whether a server may be without.
    pub(crate) fn follow(&self, config: &Config) {
        xdpfs_trust::allow_connections(config.connections_max);
        self.requests_max.store(config.requests_max, Ordering::Relaxed);
        self.connections.send_if_modified(|limits| {
            let is_new = *limits != self::limits(config);
            *limits = self::limits(config);
            is_new
        });
        let mut root_key = self.root_key.write().unwrap_or_else(PoisonError::into_inner);
        match (&*root_key, &config.root_key) {
            (Some(old), Some(new)) if **old == *new => {}
            (None, None) => {}
            (Some(_), None) => {
                tracing::warn!("the root key stays in force: to be without one takes a restart")
            }
            (_, Some(new)) => {
                tracing::info!(id = %new.id, "the root key is another one, and in force");
                *root_key = Some(Arc::new(new.clone()));
            }
        }
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        connections_max: config.connections_max,
        handshakes_max: HANDSHAKES_MAX.min(config.connections_max),
    }
}
