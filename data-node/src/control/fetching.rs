//! Chunks that this node gets from other nodes because the leader says so: asks what to fetch, does it, and tells how
//! that went.
//!
//! Invariant: orders come over the connection to the metadata service alone, and what its newest answer does not order is
//! not done. Nothing is asked while heartbeats say that there is nothing to fetch.

mod fetcher;
mod order;
mod queue;

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, pending},
    stream::FuturesUnordered,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use xdpfs_proto::node::v1::{ExchangeFetchesRequest, FetchEnd, FetchFailure, FetchedChunk, fetch_end};
use xdpfs_wire::{ChunkId, Receipt};

use self::{
    fetcher::Fetcher,
    order::{Order, Orders},
    queue::{End, Made, Queue},
};
use super::leader::{Call, Leader};
use crate::{
    disks::Disks,
    node_state::{NodeState, Registration},
};

/// The leader answers within a second, with or without news.
const EXCHANGE: Call = Call { name: "exchange fetches", patience: Duration::from_secs(4) };
/// After a refusal: the heartbeat finds out what is wrong.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Between two questions. The leader holds an answer without news back, but nothing relies on that.
const PAUSE: Duration = Duration::from_millis(2);
/// A question stands for this long before one that says more takes its place: one that is withdrawn before it has arrived
/// looks like a fault to the leader.
const ASKED_MIN: Duration = Duration::from_millis(20);
/// A fetch is given up if no answer has ordered it for this long. What nobody wants any more is deleted once its grace is
/// over, and must not come to be behind that.
const ORDERED_MAX: Duration = Duration::from_secs(5);

/// A fetch under way. None: it was given up.
type Running = BoxFuture<'static, (ChunkId, Option<End>)>;

/// Fetches chunks.
pub(super) struct Fetching {
    leader: Arc<Leader>,
    cluster_id: String,
    state: Arc<NodeState>,
    /// Whether the leader has something to fetch, by its answer to the last heartbeat.
    wanted: watch::Receiver<bool>,
    fetcher: Arc<Fetcher>,
    queue: Queue,
    running: FuturesUnordered<Running>,
    /// What ends each fetch that is under way.
    ends: BTreeMap<ChunkId, CancellationToken>,
    /// When the leader last said what stands.
    ordered_at: Instant,
}

impl Fetching {
    pub(super) fn new(
        leader: Arc<Leader>,
        cluster_id: String,
        disks: Disks,
        state: Arc<NodeState>,
        wanted: watch::Receiver<bool>,
    ) -> Self {
        Self {
            leader,
            cluster_id,
            fetcher: Arc::new(Fetcher::new(disks, Arc::clone(&state))),
            state,
            wanted,
            queue: Queue::default(),
            running: FuturesUnordered::new(),
            ends: BTreeMap::new(),
            ordered_at: Instant::now(),
        }
    }

    /// Fetches for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            if *self.wanted.borrow_and_update() {
                self.exchange().await;
                tokio::time::sleep(PAUSE).await;
                while let Some(Some(ended)) = self.running.next().now_or_never() {
                    self.note(ended);
                }
            } else {
                self.obey(Orders::default());
                if self.wanted.changed().await.is_err() {
                    // Heartbeats have ended, and the node with them.
                    return pending().await;
                }
            }
        }
    }

    /// Asks the leader, until it answers or there is more to tell it.
    async fn exchange(&mut self) {
        let told = self.queue.ended();
        let registration = self.state.registration();
        let request = self.request(&registration, &told);
        let leader = Arc::clone(&self.leader);
        let replaceable_at = Instant::now() + ASKED_MIN;
        let asked = leader.call(
            EXCHANGE,
            || request.clone(),
            |mut service, request| async move { service.exchange_fetches(request).await },
        );
        tokio::pin!(asked);
        tokio::select! {
            answer = &mut asked => match answer {
                Ok(answered) => {
                    self.queue.reported(&told);
                    self.obey(Orders::parse(answered.message));
                }
                Err(refusal) => {
                    tracing::debug!(%refusal, "the leader refuses to say what to fetch");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            },
            () = tokio::time::sleep_until(self.ordered_at + ORDERED_MAX), if !self.running.is_empty() => {
                self.obey(Orders::default());
            }
            Some(ended) = self.running.next(), if !self.running.is_empty() => {
                self.note(ended);
                tokio::time::sleep_until(replaceable_at).await;
            }
            // Perhaps whoever leads now knows nothing of fetches.
            changed = self.wanted.changed() => drop(changed),
        }
    }

    fn obey(&mut self, orders: Orders) {
        self.ordered_at = Instant::now();
        let Orders { orders, senseless, introduction } = orders;
        self.fetcher.introduce(introduction);
        for chunk in self.queue.obey(&orders) {
            tracing::debug!(%chunk, "a fetch is given up");
            self.ends.remove(&chunk).iter().for_each(CancellationToken::cancel);
        }
        for chunk in senseless {
            tracing::warn!(%chunk, "an order to fetch makes no sense");
            self.queue.refuse(chunk);
        }
        self.begin();
    }

    fn begin(&mut self) {
        while let Some(order) = self.queue.begin() {
            let cancelled = CancellationToken::new();
            self.ends.insert(order.chunk, cancelled.clone());
            self.running.push(run(Arc::clone(&self.fetcher), order, cancelled).boxed());
        }
    }

    fn note(&mut self, (chunk, end): (ChunkId, Option<End>)) {
        let Some(end) = end else { return };
        if let Err(failure) = end {
            tracing::debug!(%chunk, ?failure, "a fetch has failed");
        }
        self.ends.remove(&chunk);
        self.queue.end(chunk, end);
        self.begin();
    }

    fn request(&self, registration: &Registration, told: &[(ChunkId, End)]) -> ExchangeFetchesRequest {
        let id = |chunk: ChunkId| chunk.0.to_be_bytes().to_vec();
        let ended = told.iter().map(|(chunk, end)| FetchEnd {
            chunk_id: id(*chunk),
            end: Some(match end {
                Ok(Made { info, was_held }) => {
                    let mut receipt = Receipt {
                        chunk: *chunk,
                        length: info.length,
                        crc: info.crc,
                        node: registration.target.node,
                        node_epoch: registration.target.epoch,
                        mac: 0,
                    };
                    receipt.mac = registration.receipt_key.sign(&receipt);
                    let Receipt { length, crc, mac, .. } = receipt;
                    fetch_end::End::Fetched(FetchedChunk { length, crc32c: crc, mac, held: *was_held })
                }
                Err(failure) => fetch_end::End::Failed((*failure).into()),
            }),
        });
        ExchangeFetchesRequest {
            node_id: registration.target.node.0.into(),
            node_epoch: registration.number,
            cluster_id: self.cluster_id.clone(),
            ended: ended.collect(),
            known_chunk_ids: self.queue.known().into_iter().map(id).collect(),
        }
    }
}

/// On a task of its own, so that checksums keep nobody from talking to the leader.
async fn run(
    fetcher: Arc<Fetcher>,
    order: Arc<Order>,
    cancelled: CancellationToken,
) -> (ChunkId, Option<End>) {
    let chunk = order.chunk;
    let task = AbortOnDropHandle::new(tokio::spawn(async move { fetcher.fetch(&order).await }));
    let ended = cancelled.run_until_cancelled(task).await;
    (chunk, ended.map(|ended| ended.unwrap_or(Err(FetchFailure::Refused))))
}
