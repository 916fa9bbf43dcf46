//! Puts from their beginning to just before their commit: which chunks, on which nodes, with which rights.

use xdpfs_proto::{
    meta::v1 as proto,
    state::v1::{self as pb, command, outcome},
};
use xdpfs_wire::{BucketId, ClientId, NodeId};

use super::{
    Gateway, Refusal,
    buckets::bucket_not_found,
    candidates::wanted,
    capability::{self, Grantee},
    gateway::{Call, RequestId, duration_ms, left_ms, no_randomness, reused_request_id},
    name::ObjectName,
    objects::{addresses, parse_precondition},
};
use crate::{
    placement::place,
    state_machine::{Bucket, GRANTS_MAX, Replicas, State},
};

/// A client that has trouble with more nodes than this has trouble of another kind.
const AVOIDED_NODES_MAX: usize = 4096;

impl Gateway {
    pub(super) async fn begin_put(
        &self,
        call: Call<proto::BeginPutRequest>,
    ) -> Result<proto::BeginPutResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let ObjectName { bucket, key } = ObjectName::parse(&request.name)?;
        let precondition = parse_precondition(request.precondition)?;
        let asked = Asked::parse(request.chunks, request.avoid_node_ids)?;
        let placements = match self.place_at_once(&asked, |state| state.bucket(&bucket)) {
            Some(placements) => placements,
            None => {
                let term = self.admit(call.deadline, &call.access).await?;
                // Without a bucket nothing is placed, and apply says what is wrong, or gives the answer of the first time.
                self.place(term, &asked, |state| state.bucket(&bucket))?
            }
        };
        let lease_ms = duration_ms(self.config().times.upload_lease);
        let for_batch = request.for_batch;
        let source_bucket = String::new();
        let begin =
            pb::BeginPut { bucket, key, placements, precondition, lease_ms, for_batch, source_bucket };
        let begun =
            self.propose_for(&call.access, call.deadline, request_id, command::Kind::BeginPut(begin)).await?;
        let outcome::Kind::Begun(begun) = begun else { return Err(reused_request_id()) };

        let now_ms = self.now_ms();
        let state = self.state();
        // No capability for a key that was revoked while this was under way.
        self.check(&state, &call.access)?;
        let bucket = state.bucket_by_id(BucketId(begun.bucket_id)).ok_or_else(bucket_not_found)?;
        Ok(proto::BeginPutResponse {
            upload_id: begun.upload_id,
            chunk_size: bucket.chunk_size,
            replicas: bucket.replicas,
            min_replicas: bucket.min_replicas,
            nodes: addresses(&state, granted_nodes(&begun)),
            capability: Some(self.write_capability(&state, now_ms, &begun)?),
            expires_in_ms: left_ms(begun.expires_ms, now_ms),
            grants: grants(begun),
        })
    }

    pub(super) async fn extend_put(
        &self,
        call: Call<proto::ExtendPutRequest>,
    ) -> Result<proto::ExtendPutResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let asked = Asked::parse(request.chunks, request.avoid_node_ids)?;
        let upload_id = request.upload_id;
        let term = self.admit(call.deadline, &call.access).await?;
        let bucket_of = |state: &State| state.upload(upload_id).map(|upload| upload.bucket);
        let placements =
            self.place(term, &asked, |state| bucket_of(state).and_then(|bucket| state.bucket_by_id(bucket)))?;
        let lease_ms = duration_ms(self.config().times.upload_lease);
        let extend = pb::ExtendPut { upload_id, placements, lease_ms };
        let extended = self
            .propose_for(&call.access, call.deadline, request_id, command::Kind::ExtendPut(extend))
            .await?;
        let outcome::Kind::Begun(extended) = extended else { return Err(reused_request_id()) };

        let now_ms = self.now_ms();
        let state = self.state();
        self.check(&state, &call.access)?;
        // All of the upload's nodes: the client learns here which of them have registered anew.
        let upload = state.upload(upload_id).into_iter();
        let earlier = upload.flat_map(|upload| upload.chunks.values()).flat_map(Replicas::iter);
        Ok(proto::ExtendPutResponse {
            nodes: addresses(&state, earlier.chain(granted_nodes(&extended))),
            capability: Some(self.write_capability(&state, now_ms, &extended)?),
            expires_in_ms: left_ms(extended.expires_ms, now_ms),
            grants: grants(extended),
        })
    }

    pub(super) async fn abort_put(
        &self,
        call: Call<proto::AbortPutRequest>,
    ) -> Result<proto::AbortPutResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let abort = command::Kind::AbortPut(pb::AbortPut { upload_id: call.message.upload_id });
        match self.propose_for(&call.access, call.deadline, request_id, abort).await? {
            outcome::Kind::Done(_) => Ok(proto::AbortPutResponse {}),
            _ => Err(reused_request_id()),
        }
    }

    /// The same by what this server knows just now, if it leads and that is enough: where all chunks are placed, a server that
    /// is behind, or leads no more, does no harm, since apply has the last word, and only a leader gets that far.
    fn place_at_once<'a>(
        &'a self,
        asked: &Asked,
        bucket_of: impl for<'s> Fn(&'s State) -> Option<&'s Bucket>,
    ) -> Option<Vec<pb::Placement>> {
        let placements = self.place(self.consensus().led_term()?, asked, bucket_of).ok()?;
        (placements.len() == asked.chunks as usize).then_some(placements)
    }

    /// Chooses the nodes for every chunk that is asked for.
    pub(super) fn place<'a>(
        &'a self,
        term: u64,
        asked: &Asked,
        bucket_of: impl for<'s> Fn(&'s State) -> Option<&'s Bucket>,
    ) -> Result<Vec<pb::Placement>, Refusal> {
        let state = self.state();
        let Some(bucket) = bucket_of(&state).filter(|_| asked.chunks > 0) else { return Ok(Vec::new()) };
        let wanted = wanted(bucket);
        let candidates = self.candidates(&state, term, &asked.avoided);
        let place_one = |_| {
            let seed = getrandom::u64().map_err(no_randomness)?;
            let nodes = place(seed, &candidates, wanted)?;
            Ok(pb::Placement { node_ids: nodes.iter().map(|node| node.0.into()).collect() })
        };
        (0..asked.chunks).map(place_one).collect()
    }

    /// Its time is counted from when the chunks were granted, not from now: an upload that has ended since has its chunks
    /// removed once the grace after its end is over, and nobody may be able to write them by then.
    fn write_capability(
        &self,
        state: &State,
        now_ms: u64,
        begun: &pb::Begun,
    ) -> Result<proto::Capability, Refusal> {
        let grantee =
            Grantee::writer(ClientId(begun.client_id), BucketId(begun.bucket_id), begun.grant_time_ms);
        capability::grant(state.key_epochs(), &self.config().times, now_ms, grantee)
    }
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) chunks: u32,
    pub(super) avoided: Vec<u32>,
}

impl Asked {
    fn parse(chunks: u32, avoided: Vec<u32>) -> Result<Self, Refusal> {
        if chunks as usize > GRANTS_MAX {
            return Err(Refusal::invalid(
                "chunks",
                format!("one request grants at most {GRANTS_MAX} chunks"),
            ));
        }
        if avoided.len() > AVOIDED_NODES_MAX {
            return Err(Refusal::invalid("avoid_node_ids", "these are more nodes than a cluster has"));
        }
        Ok(Self { chunks, avoided })
    }
}

fn grants(begun: pb::Begun) -> Vec<proto::ChunkGrant> {
    let grant = |chunk: pb::UploadChunk| proto::ChunkGrant {
        chunk_id: chunk.chunk_id.to_vec(),
        node_ids: chunk.node_ids,
    };
    begun.chunks.into_iter().map(grant).collect()
}

fn granted_nodes(begun: &pb::Begun) -> impl Iterator<Item = NodeId> + '_ {
    let numbers = begun.chunks.iter().flat_map(|chunk| &chunk.node_ids);
    numbers.filter_map(|number| u16::try_from(*number).ok()).map(NodeId)
}
