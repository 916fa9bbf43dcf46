//! Tells the leader which chunks are here: all of them after each registration, then slowly round and round.

use std::{convert::Infallible, sync::Arc, time::Duration};

use xdpfs_proto::node::v1::{ReportChunksRequest, ReportChunksResponse};
use xdpfs_wire::ChunkId;

use super::leader::{Call, Leader};
use crate::{
    disks::Disks,
    node_state::{NodeState, Registration},
};

const REPORT: Call = Call { name: "report chunks", patience: Duration::from_secs(5) };
/// Chunks in one page.
const PAGE_CHUNKS_MAX: usize = 4096;
/// Between two pages, once the whole store has been told.
const PAGE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two pages of the first round, and after a refusal.
const FIRST_ROUND_INTERVAL: Duration = Duration::from_millis(10);

/// Sends chunk reports.
pub(super) struct ChunkReports {
    leader: Arc<Leader>,
    cluster_id: String,
    disks: Disks,
    state: Arc<NodeState>,
    round: Round,
}

/// A walk through all ids.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Round {
    /// The registration that it belongs to; another one begins a new first round.
    registration: u32,
    next: ChunkId,
    first: bool,
}

/// All chunks of a range of ids.
#[derive(Debug, Eq, PartialEq)]
struct Page {
    first: ChunkId,
    last: ChunkId,
    chunks: Vec<ChunkId>,
}

impl Round {
    const fn of(registration: u32) -> Self {
        Self { registration, next: ChunkId(0), first: true }
    }

    /// The page that starts where this round stands. A page that isn't full reaches up to the highest id.
    fn page(&self, chunks: Vec<ChunkId>, limit: usize) -> Page {
        let last = chunks.last().copied().filter(|_| chunks.len() == limit).unwrap_or(ChunkId(u128::MAX));
        Page { first: self.next, last, chunks }
    }

    /// The page was taken.
    fn advance(&mut self, page: &Page) {
        match page.last.0.checked_add(1) {
            Some(next) => self.next = ChunkId(next),
            None => *self = Self { next: ChunkId(0), first: false, ..*self },
        }
    }
}

impl ChunkReports {
    pub(super) fn new(leader: Arc<Leader>, cluster_id: String, disks: Disks, state: Arc<NodeState>) -> Self {
        let round = Round::of(state.registration().number);
        Self { leader, cluster_id, disks, state, round }
    }

    /// Sends them for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        loop {
            self.report().await;
            let interval = if self.round.first { FIRST_ROUND_INTERVAL } else { PAGE_INTERVAL };
            tokio::time::sleep(interval).await;
        }
    }

    async fn report(&mut self) {
        let registration = self.state.registration();
        if self.round.registration != registration.number {
            self.round = Round::of(registration.number);
        }
        let chunks = self.disks.chunk_ids(self.round.next, PAGE_CHUNKS_MAX);
        let page = self.round.page(chunks, PAGE_CHUNKS_MAX);
        let sent = self.leader.call(
            REPORT,
            || request(&self.cluster_id, &registration, &page),
            |mut service, request| async move { service.report_chunks(request).await },
        );
        match sent.await {
            Ok(answered) => {
                note_differences(&page, answered.message);
                self.round.advance(&page);
            }
            Err(refusal) => {
                // Most likely the registration is out of date; the heartbeat finds out and makes a new one.
                tracing::debug!(%refusal, "the leader refuses a chunk report");
                self.round.first = false;
            }
        }
    }
}

fn request(cluster_id: &str, registration: &Registration, page: &Page) -> ReportChunksRequest {
    let id = |chunk: &ChunkId| chunk.0.to_be_bytes().to_vec();
    ReportChunksRequest {
        node_id: registration.target.node.0.into(),
        node_epoch: registration.number,
        first: id(&page.first),
        last: id(&page.last),
        chunk_ids: page.chunks.iter().map(id).collect(),
        cluster_id: cluster_id.to_owned(),
    }
}

fn note_differences(page: &Page, answer: ReportChunksResponse) {
    let ReportChunksResponse { unknown, missing, surplus } = answer;
    if unknown + missing + surplus > 0 {
        let chunks = page.chunks.len();
        tracing::info!(chunks, unknown, missing, surplus, "the leader expected other chunks here");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(ids: &[u128]) -> Vec<ChunkId> {
        ids.iter().copied().map(ChunkId).collect()
    }

    #[test]
    fn pages_cover_all_ids_without_a_gap() {
        let store = chunks(&[3, 5, 8, 9, u128::MAX]);
        let mut round = Round::of(1);
        let mut pages = Vec::new();
        while round.first {
            let held: Vec<_> = store.iter().copied().filter(|chunk| *chunk >= round.next).take(2).collect();
            let page = round.page(held, 2);
            round.advance(&page);
            pages.push(page);
        }
        assert_eq!(pages.iter().flat_map(|page| page.chunks.clone()).collect::<Vec<_>>(), store);
        assert_eq!(pages[0].first, ChunkId(0));
        assert_eq!(pages.last().map(|page| page.last), Some(ChunkId(u128::MAX)));
        for pair in pages.windows(2) {
            assert_eq!(pair[1].first.0, pair[0].last.0 + 1);
        }
        assert_eq!(round, Round { registration: 1, next: ChunkId(0), first: false });
    }

    #[test]
    fn empty_store_is_one_page() {
        let page = Round::of(1).page(Vec::new(), 4);
        assert_eq!(page, Page { first: ChunkId(0), last: ChunkId(u128::MAX), chunks: Vec::new() });
    }
}
