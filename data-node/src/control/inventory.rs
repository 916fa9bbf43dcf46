//! Tells the leader all that is here, with lengths and checksums, when it takes an inventory: part by part, as the leader says.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::future::pending;
use tokio::sync::watch;
use xdpfs_chunk_store::ChunkInfo;
use xdpfs_proto::node::v1::{TellInventoryRequest, TellInventoryResponse};
use xdpfs_wire::ChunkId;

use super::leader::{Call, Leader};
use crate::{
    disks::Disks,
    node_state::{NodeState, Registration},
};

const TELL: Call = Call { name: "tell inventory", patience: Duration::from_secs(5) };
/// Chunks in one part.
const PART_CHUNKS_MAX: usize = 4096;
/// After a refusal: the heartbeat finds out what is wrong.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// No leader wants a node to wait for longer.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Tells inventories.
pub(super) struct InventoryTeller {
    leader: Arc<Leader>,
    cluster_id: String,
    disks: Disks,
    state: Arc<NodeState>,
    /// The inventory that the leader wants all chunks for, by its answer to the last heartbeat. Zero: none.
    wanted: watch::Receiver<u64>,
}

/// All chunks of a range of ids.
#[derive(Debug, Eq, PartialEq)]
struct Part {
    first: ChunkId,
    last: ChunkId,
    chunks: Vec<(ChunkId, ChunkInfo)>,
}

/// What the leader wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// What is here from this id on, after a while.
    Go(ChunkId, Duration),
    /// Nothing more.
    Done,
}

impl Part {
    /// One that isn't full reaches up to the highest id.
    fn new(first: ChunkId, chunks: Vec<(ChunkId, ChunkInfo)>, limit: usize) -> Self {
        let full = chunks.last().filter(|_| chunks.len() >= limit);
        let last = full.map_or(ChunkId(u128::MAX), |(chunk, _)| *chunk);
        Self { first, last, chunks }
    }
}

impl Step {
    /// An answer that makes no sense ends it.
    fn parse(answer: &TellInventoryResponse) -> Self {
        let next = <[u8; 16]>::try_from(answer.next.as_slice()).ok().filter(|_| !answer.done);
        next.map_or(Self::Done, |next| {
            let wait = Duration::from_millis(answer.wait_ms.into()).min(WAIT_MAX);
            Self::Go(ChunkId(u128::from_be_bytes(next)), wait)
        })
    }
}

impl InventoryTeller {
    pub(super) const fn new(
        leader: Arc<Leader>,
        cluster_id: String,
        disks: Disks,
        state: Arc<NodeState>,
        wanted: watch::Receiver<u64>,
    ) -> Self {
        Self { leader, cluster_id, disks, state, wanted }
    }

    /// Tells them for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            let number = *self.wanted.borrow_and_update();
            if number != 0 {
                let mut wanted = self.wanted.clone();
                tokio::select! {
                    () = self.tell(number) => {}
                    changed = wanted.changed() => drop(changed),
                }
            }
            // A leader that still waits says so with each answer to a heartbeat; what it waits for then is what was lost.
            if self.wanted.changed().await.is_err() {
                // Heartbeats have ended, and the node with them.
                return pending().await;
            }
        }
    }

    /// Tells all that is here, for the inventory of this number.
    async fn tell(&self, number: u64) {
        let mut first = ChunkId(0);
        loop {
            let registration = self.state.registration();
            let part = Part::new(first, self.disks.chunks(first, PART_CHUNKS_MAX), PART_CHUNKS_MAX);
            let told = self.leader.call(
                TELL,
                || request(&self.cluster_id, &registration, number, &part),
                |mut service, request| async move { service.tell_inventory(request).await },
            );
            match told.await {
                Ok(answered) => match Step::parse(&answered.message) {
                    Step::Go(next, wait) => {
                        first = next;
                        tokio::time::sleep(wait).await;
                    }
                    Step::Done => return,
                },
                Err(refusal) => {
                    tracing::debug!(%refusal, "the leader refuses an inventory");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
        }
    }
}

fn request(cluster_id: &str, registration: &Registration, number: u64, part: &Part) -> TellInventoryRequest {
    let id = |chunk: ChunkId| chunk.0.to_be_bytes().to_vec();
    TellInventoryRequest {
        node_id: registration.target.node.0.into(),
        node_epoch: registration.number,
        cluster_id: cluster_id.to_owned(),
        number,
        first: id(part.first),
        last: id(part.last),
        chunk_ids: part.chunks.iter().map(|(chunk, _)| id(*chunk)).collect(),
        lengths: part.chunks.iter().map(|(_, info)| info.length).collect(),
        crc32cs: part.chunks.iter().map(|(_, info)| info.crc).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_reaches_up_to_where_the_next_one_begins() {
        let chunks = |ids: &[u128]| -> Vec<_> {
            ids.iter().map(|id| (ChunkId(*id), ChunkInfo { length: 1, crc: 2 })).collect()
        };
        let last = |ids, limit| Part::new(ChunkId(3), chunks(ids), limit).last.0;
        assert_eq!(last(&[3, 9], 2), 9);
        assert_eq!(last(&[3, 9], 3), u128::MAX);
        assert_eq!(last(&[], 3), u128::MAX);
    }

    #[test]
    fn leader_says_where_to_go_on() {
        let answer = |next: Vec<u8>, done| TellInventoryResponse { done, next, wait_ms: 20 };
        let at = |id: u128| id.to_be_bytes().to_vec();
        let go = Step::Go(ChunkId(7), Duration::from_millis(20));
        assert_eq!(Step::parse(&answer(at(7), false)), go);
        assert_eq!(Step::parse(&answer(at(7), true)), Step::Done);
        assert_eq!(Step::parse(&answer(vec![1], false)), Step::Done);
        let long = TellInventoryResponse { wait_ms: u32::MAX, ..answer(at(0), false) };
        assert_eq!(Step::parse(&long), Step::Go(ChunkId(0), WAIT_MAX));
    }
}
