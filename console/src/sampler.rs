//! Looks at the cluster while somebody does, and for a while after, so that charts are there when the page is opened
//! again.
//!
//! It asks as the visitor who came last: a server has no key of its own. Where nobody has come there is no history, and
//! no request. Invariant: however many visitors there are, one request every two seconds.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use xdpfs_client::{ErrorKind, ObjectClient};

use crate::history::{History, KEPT, LOOK_EVERY, Sample};

/// What was seen, and who came last.
#[derive(Debug)]
pub(crate) struct Sampler<C> {
    history: Mutex<History>,
    last: watch::Sender<Option<(C, Instant)>>,
}

impl<C: ObjectClient> Sampler<C> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { history: Mutex::default(), last: watch::Sender::new(None) })
    }

    /// The cluster has just told this visitor its state.
    pub(crate) fn visited(&self, client: &C) {
        self.last.send_replace(Some((client.clone(), Instant::now())));
    }

    pub(crate) fn after(&self, time_ms: u64) -> Vec<Sample> {
        self.with_history(|history| history.after(time_ms))
    }

    fn with_history<T>(&self, act: impl FnOnce(&mut History) -> T) -> T {
        act(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        let (started, mut last) = (Instant::now(), self.last.subscribe());
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let visitor = last.borrow_and_update().clone();
            let Some((client, came)) = visitor.filter(|(_, came)| came.elapsed() < KEPT) else {
                // The sender lives as long as this.
                let _ = last.changed().await;
                continue;
            };
            match client.cluster_status().await {
                Ok(status) => {
                    self.with_history(|history| history.note(started.elapsed(), now_ms(), status));
                }
                Err(error) if error.kind() == ErrorKind::Unauthenticated => {
                    // The key was revoked; another visitor may have come meanwhile.
                    let is_his =
                        |last: &Option<(C, Instant)>| last.as_ref().is_some_and(|(_, at)| *at == came);
                    self.last.send_if_modified(|last| is_his(last) && last.take().is_some());
                }
                // There is nothing to draw.
                Err(_) => {}
            }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use xdpfs_client::{
        Error,
        failing::{FailingClient, Fault, Method, Plan},
        mock::MockClient,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn cluster_is_looked_at_from_the_first_visit_until_long_after_the_last() {
        let client = MockClient::new();
        let sampler = Sampler::new();
        let task = tokio::spawn(Arc::clone(&sampler).run());
        tokio::time::sleep(KEPT).await;
        assert!(sampler.after(0).is_empty(), "nobody came");
        sampler.visited(&client);
        tokio::time::sleep(LOOK_EVERY * 5).await;
        assert!((3..=6).contains(&sampler.after(0).len()), "{}", sampler.after(0).len());
        tokio::time::sleep(KEPT * 2).await;
        let count = sampler.after(0).len();
        tokio::time::sleep(KEPT).await;
        assert_eq!(sampler.after(0).len(), count, "nobody looks any more");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn key_that_was_revoked_is_used_no_more() {
        let refused = Fault::Refuse(Error::Unauthenticated { message: "revoked".into() });
        let client =
            FailingClient::new(MockClient::new(), Plan::default().on(Method::ClusterStatus, 1, refused));
        let sampler = Sampler::new();
        let task = tokio::spawn(Arc::clone(&sampler).run());
        sampler.visited(&client);
        tokio::time::sleep(LOOK_EVERY * 10).await;
        // The second call would be served.
        assert!(sampler.after(0).is_empty());
        assert!(sampler.last.borrow().is_none());
        task.abort();
    }
}
