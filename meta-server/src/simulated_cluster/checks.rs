//! What must hold after every step, and what must come of it all.

use xdpfs_wire::{ChunkId, NodeId};

use super::{BUCKET, client::Expected, cluster::Cluster, options::REPLICAS};
use crate::state_machine::Replicas;

impl Cluster {
    /// # Panics
    ///
    /// Something is not as it must be.
    pub(super) fn check(&mut self) {
        self.state.assert_is_sound();
        let live = self.live_chunks();
        let state = &self.state;
        self.lost.retain(|(_, chunk)| state.chunk_owner(*chunk).is_some());
        for (chunk, replicas) in &live {
            for node in replicas.iter() {
                let is_there = self.holds(node, *chunk);
                assert!(
                    is_there || self.lost.contains(&(node, *chunk)),
                    "a manifest names {node} for {chunk}, which does not have it and lost nothing"
                );
            }
            assert!(
                self.is_readable(*chunk, replicas),
                "{chunk} can't be read, though not all of {replicas:?} were lost"
            );
        }
        self.check_readers();
        self.check_keys();
    }

    fn check_readers(&mut self) {
        let now_ms = self.now_ms;
        self.readers.retain(|reader| reader.until_ms > now_ms);
        for reader in &self.readers {
            // What it names may be wrong by now, but not all of it.
            let is_lost =
                |node: NodeId| self.lost.contains(&(node, reader.chunk)) || self.whereabouts(node).is_none();
            let all_lost = reader.replicas.iter().all(is_lost);
            let can_read = reader.replicas.iter().any(|node| self.holds(node, reader.chunk));
            let was_lost = reader.replicas.iter().any(is_lost);
            assert!(
                can_read || all_lost || was_lost,
                "{} is gone from all of {:?} while somebody may read it there",
                reader.chunk,
                reader.replicas
            );
        }
    }

    fn check_keys(&self) {
        let bucket = self.state.bucket(BUCKET).expect("it was made at first").id;
        for key in self.clients.iter().flat_map(|client| &client.keys) {
            let held = self.state.object(bucket, &key.name).map(|object| object.version);
            if let Expected::Exactly(version) = key.expected {
                assert_eq!(held, version, "what {} holds is not what was acknowledged last", key.name);
            }
        }
    }

    /// # Panics
    ///
    /// A manifest names the node for the chunk.
    pub(super) fn check_removal(&self, node: NodeId, chunk: ChunkId) {
        let is_named = self.state.chunk(chunk).is_some_and(|chunk| chunk.replicas.contains(node));
        assert!(!is_named, "{node} removes {chunk}, which a manifest names it for");
    }

    fn live_chunks(&self) -> Vec<(ChunkId, Replicas)> {
        let objects = self.state.objects_after(None);
        objects.flat_map(|(_, object)| object.chunks.iter().map(|chunk| (chunk.id, chunk.replicas))).collect()
    }

    /// Whether the node has the chunk, and as it was written.
    fn holds(&self, node: NodeId, chunk: ChunkId) -> bool {
        self.whereabouts(node).is_some_and(|at| self.nodes[at].disk.get(&chunk) == Some(&false))
    }

    fn is_readable(&self, chunk: ChunkId, replicas: &Replicas) -> bool {
        replicas.iter().any(|node| self.holds(node, chunk))
    }

    /// Whether nobody else has the chunk, who counts.
    pub(super) fn is_last(&self, node: usize, chunk: ChunkId) -> bool {
        let id = self.id_of(node);
        let readers =
            self.readers.iter().filter(|reader| reader.chunk == chunk).map(|reader| reader.replicas);
        let manifests = self.state.chunk(chunk).map(|chunk| chunk.replicas);
        // What is written at present may be committed with any two of its receipts.
        let is_open = self.state.chunk(chunk).is_none() && self.state.chunk_owner(chunk).is_some();
        let others = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(at, other)| *at != node && other.disk.contains_key(&chunk));
        is_open && others.count() < 2
            || manifests.into_iter().chain(readers).any(|replicas| {
                id.is_some_and(|id| replicas.contains(id))
                    && !replicas.iter().any(|other| Some(other) != id && self.holds(other, chunk))
            })
    }

    /// The node has these no more, and that is nobody's fault.
    pub(super) fn lose(&mut self, node: NodeId, chunks: impl IntoIterator<Item = ChunkId>) {
        self.lost.extend(chunks.into_iter().map(|chunk| (node, chunk)));
    }

    pub(super) fn found_again(&mut self, node: usize, chunk: ChunkId) {
        if let Some(id) = self.id_of(node) {
            self.lost.remove(&(id, chunk));
        }
    }

    /// Who has registered since it lost something can't be named for it, unless it gets it again.
    pub(super) fn forget_unnamed_losses(&mut self, node: NodeId) {
        let state = &self.state;
        self.lost.retain(|(own, chunk)| {
            *own != node || state.chunk(*chunk).is_some_and(|chunk| chunk.replicas.contains(node))
        });
    }

    /// Whether every chunk has all its replicas where they may stay, and no node has anything else, or is to remove anything,
    /// but what nobody refers to.
    pub(super) fn is_whole(&self) -> bool {
        let is_up = |node: NodeId| self.whereabouts(node).is_some();
        let live = self.live_chunks();
        let has_all = live.iter().all(|(chunk, replicas)| {
            replicas.len() == REPLICAS as usize
                && replicas.iter().all(|node| is_up(node) && self.holds(node, *chunk))
        });
        let removes = self.nodes.iter().enumerate().any(|(at, node)| {
            let id = self.id_of(at);
            node.disk.keys().any(|chunk| {
                let is_named =
                    self.state.chunk(*chunk).map(|held| id.is_some_and(|id| held.replicas.contains(id)));
                is_named == Some(false)
                    || id.is_some_and(|id| self.state.pending_deletes().contains(id, *chunk))
            })
        });
        has_all
            && !removes
            && self.state.upload_count() == 0
            && self.state.replica_debt() == 0
            && self.clients.iter().all(|client| client.is_idle())
            && self.nodes.iter().all(super::node::DataNode::is_idle)
            && self.leader.as_ref().is_some_and(super::leader::Leader::is_idle)
    }

    /// What nobody refers to, and nobody removes.
    pub(super) fn stranded(&self) -> u64 {
        let chunks = self.nodes.iter().flat_map(|node| node.disk.keys());
        chunks.filter(|chunk| self.state.chunk_owner(**chunk).is_none()).count() as u64
    }
}

impl Cluster {
    /// Why not all is whole, in a few words.
    pub(super) fn wounds(&self) -> String {
        let mut words = Vec::new();
        for (chunk, replicas) in self.live_chunks() {
            let missing: Vec<NodeId> = replicas.iter().filter(|node| !self.holds(*node, chunk)).collect();
            if replicas.len() != REPLICAS as usize || !missing.is_empty() {
                words.push(format!("{chunk} on {replicas:?}, not on {missing:?}"));
            }
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let id = self.id_of(at);
            let removes = node
                .disk
                .keys()
                .filter(|chunk| id.is_some_and(|id| self.state.pending_deletes().contains(id, **chunk)));
            let surplus = node.disk.keys().filter(|chunk| {
                self.state.chunk(**chunk).is_some_and(|held| id.is_none_or(|id| !held.replicas.contains(id)))
            });
            words.push(format!(
                "{id:?} holds {}, {} too many, {} to remove, is idle: {}",
                node.disk.len(),
                surplus.count(),
                removes.count(),
                node.is_idle()
            ));
        }
        let busy = self.clients.iter().filter(|client| !client.is_idle()).count();
        let leader = self.leader.as_ref().map(super::leader::Leader::is_idle);
        words.push(format!(
            "{} uploads, {} in debt, {busy} clients busy, leader idle: {leader:?}",
            self.state.upload_count(),
            self.state.replica_debt()
        ));
        words.join("; ")
    }
}
