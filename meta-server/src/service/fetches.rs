//! What data nodes are to fetch from each other: `ExchangeFetches` of `xdpfs.node.v1.NodeService`.
//!
//! Invariant: a node is told to fetch only for an upload that is open, into a chunk that the upload was granted there, or for
//! the repair of a chunk that a manifest names and that the node is not to remove; from registered nodes only; and with a capability to read, whose key it has to make itself.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use xdpfs_proto::node::v1::{
    ExchangeFetchesRequest, ExchangeFetchesResponse, Fetch, FetchCapability, FetchEnd, FetchFailure,
    FetchPart, FetchSource, fetch_end,
};
use xdpfs_wire::{BucketId, ChunkId, NodeId};

use super::{
    Gateway, Refusal,
    capability::{self, Grantee},
    gateway::{NodeCall, no_randomness},
    node::{parse_chunk_ids, registered},
};
use crate::{
    fetches::{End, Fetched, Order, Owner, Part},
    state_machine::{Node, Reason, State, chunk_id_bytes, parse_chunk_id},
};

/// Fetches that one answer names. A node does a few at a time.
const FETCHES_PER_ANSWER_MAX: usize = 32;
/// Parts of all fetches that one answer names, but of one fetch at least.
const PARTS_PER_ANSWER_MAX: usize = 4096;
/// Fetches that a node may know of or tell the end of at once: a few answers' worth.
const KNOWN_MAX: usize = 1024;
/// How long an answer without news is held back.
const HOLD_MAX: Duration = Duration::from_secs(1);

impl Gateway {
    pub(super) async fn exchange_fetches(
        &self,
        call: NodeCall<ExchangeFetchesRequest>,
    ) -> Result<ExchangeFetchesResponse, Refusal> {
        let request = call.message;
        let ends = parse_ends(&request)?;
        let known: BTreeSet<ChunkId> =
            parse_chunk_ids("known_chunk_ids", &request.known_chunk_ids, KNOWN_MAX)?.into_iter().collect();
        let random = getrandom::u32().map_err(no_randomness)?;
        let term = self.read_barrier(call.deadline).await?;
        self.check_member(&request.cluster_id)?;
        let node = registered(&self.state(), request.node_id, request.node_epoch).ok_or_else(|| {
            Refusal::new(Reason::NodeUnknown, "the node is not registered, or has registered anew")
        })?;
        let has_told = !ends.is_empty();
        self.fetches().end(term, node, ends);
        let mut news = self.fetches().watch();
        let until = call.deadline.min(Instant::now() + HOLD_MAX);
        let standing = loop {
            news.mark_unchanged();
            let standing = self.standing(term, node);
            let is_known =
                standing.len() == known.len() && standing.iter().all(|order| known.contains(&order.chunk));
            if has_told || !is_known || Instant::now() >= until {
                break standing;
            }
            // Whoever tells the news lives as long as this server.
            let _told = tokio::time::timeout_at(until.into(), news.changed()).await;
        };
        self.introduce(node, &standing, random)
    }

    /// What the node is to fetch now.
    fn standing(&self, term: u64, node: NodeId) -> Vec<Arc<Order>> {
        let standing = self.fetches().standing(term, node, FETCHES_PER_ANSWER_MAX);
        let state = self.state();
        let is_wanted = |order: &Arc<Order>| match order.owner {
            Owner::Upload(upload_id) => {
                let granted = state.upload(upload_id).and_then(|upload| upload.chunks.get(&order.chunk));
                granted.is_some_and(|nodes| nodes.contains(node))
            }
            Owner::Repair => {
                state.chunk(order.chunk).is_some() && !state.pending_deletes().contains(node, order.chunk)
            }
        };
        if !standing.iter().all(is_wanted) {
            self.forget_ended_orders(&state, term);
        }
        let mut parts = 0;
        let fits = |order: &Arc<Order>| {
            parts += order.parts.len();
            parts == order.parts.len() || parts <= PARTS_PER_ANSWER_MAX
        };
        standing.into_iter().filter(is_wanted).take_while(fits).collect()
    }

    /// Orders for uploads that are open no more are nobody's.
    pub(super) fn forget_ended_orders(&self, state: &State, term: u64) {
        self.fetches().retain(term, |owner| match owner {
            Owner::Upload(upload_id) => state.upload(upload_id).is_some(),
            // Repair looks after its own.
            Owner::Repair => true,
        });
    }

    /// Says with the orders how they can be done.
    fn introduce(
        &self,
        node: NodeId,
        standing: &[Arc<Order>],
        random: u32,
    ) -> Result<ExchangeFetchesResponse, Refusal> {
        let now_ms = self.now_ms();
        let state = self.state();
        let parts = || standing.iter().flat_map(|order| order.parts.iter());
        let buckets: BTreeSet<BucketId> = parts().map(|part| part.chunk.bucket()).collect();
        let capability = |bucket| {
            let grantee = Grantee::reader(random, bucket);
            let granted = capability::grant(state.key_epochs(), &self.config().times, now_ms, grantee)?;
            Ok(FetchCapability {
                client_id: granted.client_id,
                bucket_id: granted.bucket_id,
                expiry_s: granted.expiry_s,
                key_epoch: granted.key_epoch,
            })
        };
        let holders: BTreeSet<NodeId> = parts().flat_map(|part| part.holders.iter()).collect();
        let own_address = state.node(node).map(|node| node.address.as_str()).unwrap_or_default();
        let sources = holders.iter().filter_map(|holder| Some(source(state.node(*holder)?, own_address)));
        Ok(ExchangeFetchesResponse {
            fetches: standing.iter().map(|order| fetch(node, order, &state)).collect(),
            sources: sources.collect(),
            capabilities: buckets.into_iter().map(capability).collect::<Result<_, Refusal>>()?,
        })
    }
}

/// Where clients reach it, and where an edge does: first the one that is more likely to work from behind `own_address`.
fn source(holder: &Node, own_address: &str) -> FetchSource {
    let (clients, direct) = (holder.address.as_str(), holder.reached_at());
    let addresses = match (clients == direct, clients == own_address) {
        (true, _) => vec![clients],
        (false, true) => vec![direct, clients],
        (false, false) => vec![clients, direct],
    };
    FetchSource { node_id: holder.id.0.into(), addresses: addresses.into_iter().map(str::to_owned).collect() }
}

fn fetch(node: NodeId, order: &Order, state: &State) -> Fetch {
    let part = |part: &Part| FetchPart {
        chunk_id: chunk_id_bytes(part.chunk).to_vec(),
        offset: part.offset,
        length: part.length,
        node_ids: in_turn(node, part, state),
    };
    Fetch {
        chunk_id: chunk_id_bytes(order.chunk).to_vec(),
        length: order.length,
        crc32c: order.crc32c,
        parts: order.parts.iter().map(part).collect(),
        verify: order.verify,
    }
}

/// Chunks begin with different holders, and so do nodes: all holders of an object serve it.
fn in_turn(node: NodeId, part: &Part, state: &State) -> Vec<u32> {
    let mut holders: Vec<NodeId> = part.holders.iter().filter(|node| state.node(*node).is_some()).collect();
    if !holders.is_empty() {
        let turn = (part.chunk.0 % holders.len() as u128) as usize + usize::from(node.0);
        let len = holders.len();
        holders.rotate_left(turn % len);
    }
    holders.sort_by_key(|holder| *holder != node);
    holders.into_iter().map(|holder| holder.0.into()).collect()
}

fn parse_ends(request: &ExchangeFetchesRequest) -> Result<Vec<(ChunkId, End)>, Refusal> {
    if request.ended.len() > KNOWN_MAX {
        return Err(Refusal::invalid("ended", format!("at most {KNOWN_MAX} fetches at once")));
    }
    let parse = |ended: &FetchEnd| {
        let chunk = parse_chunk_id(&ended.chunk_id)
            .ok_or_else(|| Refusal::invalid("ended.chunk_id", "a chunk id has sixteen bytes"))?;
        let end = match ended.end {
            Some(fetch_end::End::Fetched(fetched)) => Ok(Fetched {
                // Receipts carry the low part of the registration's number.
                node_epoch: request.node_epoch & 0xffff,
                length: fetched.length,
                crc32c: fetched.crc32c,
                mac: fetched.mac,
                was_held: fetched.held,
            }),
            Some(fetch_end::End::Failed(why)) => {
                Err(FetchFailure::try_from(why).unwrap_or(FetchFailure::Unspecified))
            }
            None => Err(FetchFailure::Unspecified),
        };
        Ok((chunk, end))
    };
    request.ended.iter().map(parse).collect()
}
