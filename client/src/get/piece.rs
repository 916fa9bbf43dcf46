//! The part of one chunk that a get needs: read from whichever replica gives true bytes.
//!
//! Invariant: bytes of a whole chunk have the manifest's length and CRC32C, whatever the nodes say. For a part of a
//! chunk there is no checksum in the manifest: there the node checks its disk, and each piece's CRC32C the way.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;
use tracing::{Instrument as _, debug};
use xdpfs_transport::{TransferError, crc32c};
use xdpfs_wire::{Advice, NodeId, Status};

use super::version::{Lost, Version};
use crate::{ChunkPlacement, control::Backoff, error::Error, repair::Reports, suspects::Suspects, traces};

/// What to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) chunk: ChunkPlacement,
    /// Bytes within the chunk.
    pub(super) range: Range<u32>,
}

/// Why a replica gave nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum Failure {
    #[error("the leader gave no address for it")]
    NoAddress,
    #[error(transparent)]
    Transfer(TransferError),
    #[error("its bytes fail their checksum")]
    WrongBytes,
}

/// What was tried in one round.
type Failures = BTreeMap<NodeId, Failure>;

/// Reads the piece; asks the leader again whenever all replicas have failed, until there is no hope or no time left.
pub(super) async fn read(version: &Version, mut piece: Piece) -> Result<Bytes, Lost> {
    let deadline = Instant::now() + version.shared.config.deadline;
    let mut backoff = Backoff::default();
    loop {
        let failures = match piece.read_round(version).await {
            Ok(bytes) => return Ok(bytes),
            Err(failures) => failures,
        };
        debug!(chunk = %piece.chunk.chunk, ?failures, "no replica could be read");
        let is_late = Instant::now() >= deadline;
        match version.ask_again(&piece.chunk).await {
            Ok(chunk) => {
                let is_news = chunk.nodes != piece.chunk.nodes;
                if is_late || (!is_news && failures.values().all(Failure::is_final)) {
                    return Err(Lost::Failed(piece.into_error(&failures)));
                }
                piece.chunk = chunk;
            }
            // The nodes keep what was overwritten for a while, so one that did not answer is worth another try.
            Err(Lost::Superseded)
                if version.is_chosen() && !is_late && has_hope_without_leader(&failures) => {}
            Err(lost) => return Err(lost),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        (self.range.end - self.range.start) as usize
    }

    /// Tries one replica after another, and a second one at the same time if one is slow.
    async fn read_round(&self, version: &Version) -> Result<Bytes, Failures> {
        let shared = &version.shared;
        let nodes = replica_order(&self.chunk, &shared.suspects);
        let mut untried = nodes.iter().copied();
        let mut reads = FuturesUnordered::new();
        let mut failures = Failures::new();
        let began = Instant::now();
        // A replica that takes this long is passed over by other reads, too.
        let failing_at = began + shared.config.hedge_after;
        let late_at = shared.read_times.late_after(self.len()).map(|after| began + after);
        let hedge = tokio::time::sleep_until(late_at.map_or(failing_at, |late_at| late_at.min(failing_at)));
        tokio::pin!(hedge);
        let (mut may_hedge, mut _hedge_memory) = (true, None);
        loop {
            if reads.is_empty() {
                match untried.next() {
                    Some(node) => reads.push(self.read_from(version, node)),
                    None => return Err(failures),
                }
            }
            tokio::select! {
                Some((node, result)) = reads.next() => match result {
                    Ok(bytes) => {
                        shared.suspects.clear(node);
                        let slower = nodes.iter().take_while(|other| **other != node);
                        for other in slower.filter(|other| !failures.contains_key(other)) {
                            shared.read_times.note(self.len(), began.elapsed());
                            if Instant::now() >= failing_at {
                                shared.suspects.suspect(*other);
                            }
                        }
                        return Ok(bytes);
                    }
                    Err(failure) => {
                        debug!(chunk = %self.chunk.chunk, %node, %failure, "replica skipped");
                        if failure.is_the_nodes() {
                            shared.suspects.suspect(node);
                        }
                        if failure.is_the_replicas() {
                            Reports::add(shared, version.bucket(), self.chunk.chunk, node);
                        }
                        let has_expired = failure == Failure::EXPIRED;
                        failures.insert(node, failure);
                        // The others would say the same.
                        if has_expired && reads.is_empty() {
                            return Err(failures);
                        }
                    }
                },
                () = &mut hedge, if may_hedge => {
                    let is_early = Instant::now() < failing_at;
                    let next = untried.clone().next().filter(|node| !shared.suspects.contains(*node));
                    let memory = next.and_then(|_| shared.try_memory(self.len()));
                    // Credit comes last: what can't be sent costs none.
                    let may_send = memory.is_some() && (!is_early || shared.read_times.take_credit());
                    if is_early && !may_send {
                        hedge.as_mut().reset(failing_at);
                        continue;
                    }
                    may_hedge = false;
                    if let Some(node) = next && let Some(memory) = memory {
                        debug!(chunk = %self.chunk.chunk, %node, "a slow replica is overtaken");
                        untried.next();
                        _hedge_memory = Some(memory);
                        reads.push(self.read_from(version, node));
                    }
                }
            }
        }
    }

    async fn read_from(&self, version: &Version, node: NodeId) -> (NodeId, Result<Bytes, Failure>) {
        let Some(access) = version.session.access(node) else { return (node, Err(Failure::NoAddress)) };
        let read =
            version.shared.transport.read(access.target, access.key, self.chunk.chunk, self.range.clone());
        let span = traces::read_chunk(node.0, self.range.end - self.range.start);
        let began = Instant::now();
        let bytes = match read.instrument(span).await {
            Ok(bytes) => {
                version.shared.read_times.note(self.len(), began.elapsed());
                bytes
            }
            Err(error) => return (node, Err(Failure::Transfer(error))),
        };
        (node, if self.is_true(&bytes) { Ok(bytes) } else { Err(Failure::WrongBytes) })
    }

    fn is_true(&self, bytes: &Bytes) -> bool {
        let is_whole = self.range == (0..self.chunk.length);
        bytes.len() == self.len() && (!is_whole || crc32c(bytes) == self.chunk.crc32c)
    }

    fn into_error(self, failures: &Failures) -> Error {
        let any = |wanted: fn(&Failure) -> bool| failures.values().any(wanted);
        if any(|failure| *failure == Failure::DENIED) {
            return Error::PermissionDenied { message: "the data nodes refuse the capability".into() };
        }
        if any(Failure::is_corruption) && failures.values().all(Failure::is_final) {
            return Error::Integrity { what: format!("every replica of chunk {}", self.chunk.chunk) };
        }
        let why = match failures.iter().next_back() {
            Some((node, failure)) => format!("data node {node}: {failure}"),
            None => "no data node holds one".into(),
        };
        Error::DataUnavailable { chunk: self.chunk.chunk, why }
    }
}

impl Failure {
    const DENIED: Self = Self::Transfer(TransferError::Refused(Status::Denied));
    const EXPIRED: Self = Self::Transfer(TransferError::Refused(Status::Expired));

    /// Whether the same replica will fail in the same way again.
    const fn is_final(&self) -> bool {
        match self {
            Self::NoAddress => false,
            Self::Transfer(TransferError::Refused(status)) => {
                matches!(status.advice(), Advice::GiveUp)
                    || matches!(status, Status::NotFound | Status::Corrupt)
            }
            Self::Transfer(TransferError::Unreachable) => false,
            Self::Transfer(TransferError::Closed | TransferError::Corrupt) | Self::WrongBytes => true,
        }
    }

    /// Whether the node has other bytes than the manifest says, fewer of them included: no more are asked for than it says.
    const fn is_corruption(&self) -> bool {
        matches!(
            self,
            Self::WrongBytes
                | Self::Transfer(
                    TransferError::Corrupt | TransferError::Refused(Status::Corrupt | Status::Range)
                )
        )
    }

    /// Whether the node may not have what the manifest names it for, or can't give it, so that the leader should know.
    const fn is_the_replicas(&self) -> bool {
        self.is_corruption()
            || matches!(self, Self::Transfer(TransferError::Refused(Status::Internal | Status::NotFound)))
    }

    /// Whether the node is to be passed over for other chunks, too.
    const fn is_the_nodes(&self) -> bool {
        match self {
            Self::NoAddress => false,
            Self::Transfer(TransferError::Refused(status)) => {
                matches!(status, Status::Busy | Status::Corrupt | Status::Internal)
            }
            Self::Transfer(TransferError::Closed) => false,
            Self::Transfer(TransferError::Corrupt | TransferError::Unreachable) | Self::WrongBytes => true,
        }
    }
}

/// Whether one of the replicas may still give its bytes although the leader says nothing more of it.
fn has_hope_without_leader(failures: &Failures) -> bool {
    let needs_leader = |failure: &Failure| match failure {
        Failure::NoAddress => true,
        Failure::Transfer(TransferError::Refused(status)) => matches!(status.advice(), Advice::Refresh),
        Failure::Transfer(TransferError::Closed | TransferError::Corrupt | TransferError::Unreachable)
        | Failure::WrongBytes => false,
    };
    failures.values().any(|failure| !failure.is_final() && !needs_leader(failure))
        && !failures.values().any(|failure| *failure == Failure::EXPIRED)
}

/// Replicas in the order to try them. Chunks begin with different ones, so that all nodes of an object serve it; suspects
/// come last.
fn replica_order(chunk: &ChunkPlacement, suspects: &Suspects) -> Vec<NodeId> {
    let mut nodes = chunk.nodes.clone();
    nodes.sort_unstable();
    nodes.dedup();
    if !nodes.is_empty() {
        let turn = (chunk.chunk.0 % nodes.len() as u128) as usize;
        nodes.rotate_left(turn);
    }
    nodes.sort_by_key(|node| suspects.contains(*node));
    nodes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use xdpfs_wire::{BucketId, ChunkId};

    use super::*;

    fn chunk(sequence: u64, nodes: &[u16]) -> ChunkPlacement {
        let nodes = nodes.iter().copied().map(NodeId).collect();
        ChunkPlacement { offset: 0, chunk: ChunkId::new(BucketId(0), sequence), length: 1, crc32c: 0, nodes }
    }

    #[tokio::test]
    async fn successive_chunks_begin_with_successive_replicas() {
        let suspects = Suspects::new(Duration::from_secs(1));
        let first = |sequence, nodes: &[u16]| replica_order(&chunk(sequence, nodes), &suspects)[0].0;
        // However the leader orders the replicas.
        let firsts = [first(0, &[1, 2, 3]), first(1, &[2, 3, 1]), first(2, &[3, 1, 2]), first(3, &[1, 2, 3])];
        assert_eq!(firsts, [1, 2, 3, 1]);
        assert!(replica_order(&chunk(5, &[]), &suspects).is_empty());
    }

    #[tokio::test]
    async fn suspects_come_last() {
        let suspects = Suspects::new(Duration::from_secs(1));
        suspects.suspect(NodeId(1));
        assert_eq!(replica_order(&chunk(0, &[1, 2, 3]), &suspects), [2, 3, 1].map(NodeId));
        suspects.suspect(NodeId(2));
        suspects.suspect(NodeId(3));
        assert_eq!(replica_order(&chunk(0, &[1, 2, 3]), &suspects), [1, 2, 3].map(NodeId));
    }
}
