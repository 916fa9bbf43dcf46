//! The clients of those who look, kept for a while: making one takes sockets and handshakes.
//!
//! Invariant: a client is kept only once the cluster has served it, so that whoever shows wrong keys puts nobody else's
//! out; and those that are not kept are few at a time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use xdpfs_client::{AccessKey, Error, ErrorKind, Result};

use crate::{Entrance, credential::VisitorId};

/// Clients that are kept at once.
pub const VISITORS_MAX: usize = 16;
/// Clients of whom nobody knows yet whether they are served.
const STRANGERS_MAX: usize = 8;
/// How long a stranger waits for his turn.
const STRANGER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a client is kept that nobody uses.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// All who look.
pub(crate) struct Visitors<E: Entrance> {
    entrance: E,
    known: Mutex<Known<E::Client>>,
    strangers: Arc<Semaphore>,
}

/// One who asks for something.
pub(crate) struct Visit<'a, E: Entrance> {
    visitors: &'a Visitors<E>,
    id: VisitorId,
    client: E::Client,
    /// None: he is known.
    stranger: Option<OwnedSemaphorePermit>,
}

/// Why nobody can speak for a visitor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    #[error(transparent)]
    Client(#[from] Error),
    #[error("too many are finding out whether they are let in: try again in a moment")]
    TooMany,
}

/// Clients that have been served. Pure: it is told what time it is.
#[derive(Debug)]
struct Known<C>(BTreeMap<VisitorId, (C, Instant)>);

impl<C: Clone> Known<C> {
    fn find(&mut self, id: VisitorId, now: Instant) -> Option<C> {
        self.0.retain(|_, (_, used)| now.saturating_duration_since(*used) < KEPT_FOR);
        let (client, used) = self.0.get_mut(&id)?;
        *used = now;
        Some(client.clone())
    }

    fn keep(&mut self, id: VisitorId, client: &C, now: Instant) {
        if self.0.len() >= VISITORS_MAX && !self.0.contains_key(&id) {
            let oldest = self.0.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            oldest.map(|oldest| self.0.remove(&oldest));
        }
        self.0.entry(id).or_insert_with(|| (client.clone(), now));
    }
}

impl<E: Entrance> Visitors<E> {
    pub(crate) fn new(entrance: E) -> Self {
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        Self { entrance, known: Mutex::new(Known(BTreeMap::new())), strangers }
    }

    /// Lets somebody ask with this key, or without one.
    pub(crate) async fn enter(&self, key: Option<AccessKey>) -> Result<Visit<'_, E>, EntryError> {
        let id = VisitorId::of(key.as_ref());
        let known = self.with_known(|known| known.find(id, Instant::now()));
        if let Some(client) = known {
            return Ok(Visit { visitors: self, id, client, stranger: None });
        }
        let turn = tokio::time::timeout(STRANGER_PATIENCE, Arc::clone(&self.strangers).acquire_owned());
        // The semaphore is never closed.
        let Ok(Ok(permit)) = turn.await else { return Err(EntryError::TooMany) };
        // Others who show the same may have been served meanwhile.
        if let Some(client) = self.with_known(|known| known.find(id, Instant::now())) {
            return Ok(Visit { visitors: self, id, client, stranger: None });
        }
        Ok(Visit { visitors: self, id, client: self.entrance.connect(key)?, stranger: Some(permit) })
    }

    fn with_known<T>(&self, act: impl FnOnce(&mut Known<E::Client>) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<E: Entrance> Visit<'_, E> {
    /// Asks, and remembers what the answer says of the visitor.
    pub(crate) async fn ask<T, F: Future<Output = Result<T>>>(
        &mut self,
        request: impl FnOnce(E::Client) -> F,
    ) -> Result<T> {
        let answer = request(self.client.clone()).await;
        let (id, client) = (self.id, &self.client);
        match answer.as_ref().map_err(Error::kind) {
            Err(ErrorKind::Unauthenticated) => {
                self.visitors.with_known(|known| known.0.remove(&id));
            }
            Ok(_) | Err(ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                self.visitors.with_known(|known| known.keep(id, client, Instant::now()));
                self.stranger = None;
            }
            // Nothing is known of the key.
            Err(_) => {}
        }
        answer
    }

    /// Who speaks for him.
    pub(crate) const fn client(&self) -> &E::Client {
        &self.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> VisitorId {
        VisitorId::of(Some(&format!("XK{number}.S").parse().unwrap()))
    }

    #[test]
    fn client_that_was_used_least_goes_when_there_are_too_many() {
        let (start, mut known) = (Instant::now(), Known(BTreeMap::new()));
        let second = |count: usize| start + Duration::from_secs(count as u64);
        for number in 0..VISITORS_MAX {
            known.keep(id(number), &number, second(number));
        }
        assert_eq!(known.find(id(0), second(VISITORS_MAX)), Some(0));
        known.keep(id(99), &99, second(VISITORS_MAX + 1));
        assert_eq!(known.0.len(), VISITORS_MAX);
        assert_eq!(known.find(id(1), second(VISITORS_MAX + 1)), None, "it was the oldest");
        assert_eq!(known.find(id(0), second(VISITORS_MAX + 1)), Some(0), "it was used again");
    }

    #[test]
    fn client_that_nobody_uses_goes() {
        let (start, mut known) = (Instant::now(), Known(BTreeMap::new()));
        known.keep(id(1), &1, start);
        assert_eq!(known.find(id(1), start + KEPT_FOR / 2), Some(1));
        assert_eq!(known.find(id(1), start + KEPT_FOR), Some(1), "use counts");
        assert_eq!(known.find(id(1), start + KEPT_FOR * 2), None);
    }
}
