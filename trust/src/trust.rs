//! A process's trust directory, followed: what is written there is in force for every later handshake.
//!
//! Invariant: what cannot be used changes nothing but the log.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    error::TrustError,
    files::Files,
    identity::{Identity, now},
    principal::{Principal, Role},
    tls::TlsTrust,
};

/// How often the directory is looked at. Polled, because that works for every kind of mount.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// From when on a certificate that ends is worth a warning, and how often it is said again.
const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 3600);
const EXPIRY_WARNED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Who this process is, and whom it trusts, at present.
#[derive(Debug)]
pub struct Trust {
    directory: PathBuf,
    /// What its certificate may be for.
    roles: &'static [Role],
    current: RwLock<Arc<Identity>>,
    /// Raised with every change.
    changes: watch::Sender<u64>,
    /// Somebody does not want to wait for the next look.
    wanted: Notify,
}

/// What is remembered between two looks.
#[derive(Default)]
struct Looked {
    refused: Option<Refused>,
    warned_at: Option<Duration>,
}

/// What the directory holds and cannot be used.
struct Refused {
    /// None: it cannot be read.
    content: Option<Files>,
    /// What is wrong with it.
    words: String,
    has_been_told: bool,
}

impl Trust {
    /// Reads a trust directory. The certificate must be for one of `roles`. Blocks.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn open(directory: &Path, roles: &'static [Role]) -> Result<Arc<Self>, TrustError> {
        let identity = Identity::new(Files::read(directory)?, roles)?;
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            roles,
            current: RwLock::new(Arc::new(identity)),
            changes: watch::Sender::new(0),
            wanted: Notify::new(),
        }))
    }

    /// Whose certificate it is.
    #[must_use]
    pub fn principal(&self) -> Principal {
        self.identity().principal.clone()
    }

    /// Until when its certificate holds, since the Unix epoch.
    #[must_use]
    pub fn expiry(&self) -> Duration {
        self.identity().not_after
    }

    /// How to connect to the cluster's metadata servers, as this process.
    #[must_use]
    pub fn dialing(self: &Arc<Self>) -> TlsTrust {
        TlsTrust::following(Arc::clone(self))
    }

    /// How to connect to the cluster's metadata servers on behalf of a client: without showing a certificate, so that
    /// nothing is granted that a client would not get.
    #[must_use]
    pub fn dialing_as_client(self: &Arc<Self>) -> TlsTrust {
        TlsTrust::following_as_client(Arc::clone(self))
    }

    /// Has whoever follows the directory look at it at once.
    pub fn look_now(&self) {
        self.wanted.notify_one();
    }

    /// Follows what is written to the directory, until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.look_for_ever()).await;
    }

    async fn look_for_ever(&self) {
        let mut looked = Looked::default();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.wanted.notified() => {}
            }
            self.look(&mut looked).await;
            self.warn_of_expiry(&mut looked);
        }
    }

    async fn look(&self, looked: &mut Looked) {
        let Some(read) = self.read().await else { return };
        let files = read.as_ref().ok();
        if files.is_some_and(|files| self.identity().is_made_of(files)) {
            looked.refused = None;
            return;
        }
        let content = files.cloned();
        let error = match read.and_then(|files| Identity::new(files, self.roles)) {
            Ok(identity) => {
                tracing::info!(principal = %identity.principal, "new certificates are in force");
                self.change(identity);
                *looked = Looked::default();
                return;
            }
            Err(error) => error,
        };
        // Files are written one after the other: what stays as it is, is worth a word, once.
        let words = error.to_string();
        match &mut looked.refused {
            Some(refused) if (&refused.content, &refused.words) == (&content, &words) => {
                if !std::mem::replace(&mut refused.has_been_told, true) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "new certificates cannot be used; the old ones stay in force");
                }
            }
            refused => *refused = Some(Refused { content, words, has_been_told: false }),
        }
    }

    /// `None`: the process ends.
    async fn read(&self) -> Option<Result<Files, TrustError>> {
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || Files::read(&directory)).await.ok()
    }

    fn change(&self, identity: Identity) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identity);
        self.changes.send_modify(|count| *count += 1);
    }

    fn warn_of_expiry(&self, looked: &mut Looked) {
        let (now, not_after) = (now(), self.identity().not_after);
        let left = not_after.saturating_sub(now);
        if !is_worth_a_word(left, looked.warned_at.map(|at| now.saturating_sub(at))) {
            return;
        }
        looked.warned_at = Some(now);
        let days = left.as_secs() / 86_400;
        if left.is_zero() {
            tracing::error!("this process's certificate has expired: nobody will speak to it");
        } else {
            tracing::warn!(days, "this process's certificate expires soon");
        }
    }

    pub(crate) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Whether it should be said that a certificate has so much time left, if that was said so long ago.
fn is_worth_a_word(left: Duration, said_ago: Option<Duration>) -> bool {
    left <= EXPIRY_WARNING && said_ago.is_none_or(|ago| ago >= EXPIRY_WARNED_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_said_a_month_before_and_once_a_day() {
        let days = |days: u64| Duration::from_secs(days * 24 * 3600);
        let check = |left, said_ago, expect| assert_eq!(is_worth_a_word(left, said_ago), expect, "{left:?}");
        check(days(31), None, false);
        check(days(30), None, true);
        check(days(29), Some(Duration::from_secs(2)), false);
        check(days(29), Some(days(1)), true);
        check(Duration::ZERO, None, true);
    }
}
