//! Copies from bucket to bucket: data nodes fetch the chunks from each other, as the leader orders while somebody goes on
//! asking it to. What is copied into is an upload like that of a put, and ends like one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use xdpfs_proto::{
    meta::v1 as proto,
    state::v1::{self as pb, command, outcome},
};
use xdpfs_wire::{BucketId, ChunkId, NodeId};

use super::{
    Gateway, Refusal,
    access::{Access, upload_not_found},
    buckets::bucket_not_found,
    commit::{check_content_type, check_user_metadata, combined_crc32c},
    gateway::{Call, RequestId, duration_ms, left_ms, reused_request_id},
    name::ObjectName,
    objects::{find, head_to_proto, parse_precondition},
    puts::Asked,
};
use crate::{
    copies::{Advance, Copy, Failure, Plan, View},
    fetches::Owner,
    state_machine::{
        Bucket, CHUNKS_PER_OBJECT_MAX, GRANTS_MAX, Node, Object, Reason, Replicas, Right, State, Upload,
        parse_chunk_id,
    },
};

/// How long one call waits for something to happen.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// News that come shortly after each other are looked at together.
const GATHERING: Duration = Duration::from_millis(2);
/// How often a copy is tried to be committed with receipts that are no good.
const REFUSALS_MAX: u32 = 4;

/// The nodes and chunks of a state, and what this leader has heard of nodes.
struct Sight<'a> {
    gateway: &'a Gateway,
    state: &'a State,
    term: u64,
    now: Instant,
}

impl View for Sight<'_> {
    fn is_lost(&self, node: NodeId) -> bool {
        !self.gateway.liveness().sight(self.term, node, self.now).alive
            || self.gateway.fetches().takes(self.term, node) == Some(false)
    }

    fn epoch(&self, node: NodeId) -> Option<u32> {
        self.state.node(node).map(|node| node.wire_epoch().0.into())
    }

    fn is_kept(&self, chunk: ChunkId) -> bool {
        self.state.chunk_owner(chunk).is_some()
    }
}

/// What one look at a copy came to.
enum Step {
    Commit(Box<pb::CommitPut>),
    Extend(usize),
    Wait,
}

impl Gateway {
    pub(super) async fn begin_copy(
        &self,
        call: Call<proto::BeginCopyRequest>,
    ) -> Result<proto::BeginCopyResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let source = ObjectName::parse(&request.source)?;
        let ObjectName { bucket, key } = ObjectName::parse(&request.destination)?;
        if source.bucket == bucket {
            let rule = "within a bucket nothing has to be fetched: CopyObject does it at once";
            return Err(Refusal::invalid("destination", rule));
        }
        let source_precondition = parse_precondition(request.source_precondition)?;
        let precondition = parse_precondition(request.precondition)?;
        let term = self.admit(call.deadline, &call.access).await?;
        self.forget_ended_copies(term);
        if !self.copies().has_room(term) {
            return Err(too_many_copies());
        }
        let (held, chunks) = {
            let state = self.state();
            self.check(&state, &call.access)?;
            let (_, held) = find(&state, &source, 0, source_precondition.as_ref())?;
            let target = state.bucket(&bucket).ok_or_else(bucket_not_found)?;
            check_size(held, target)?;
            if !state.has_room_for(target, &key, held.size) {
                return Err(Refusal::new(Reason::QuotaExceeded, "the bucket may not hold as much"));
            }
            self.check_fetchers(&state, term, target)?;
            (Arc::new(held.clone()), held.size.div_ceil(target.chunk_size.into()))
        };
        let first = usize::try_from(chunks).unwrap_or(usize::MAX).min(GRANTS_MAX);
        let placements = self.place(term, &self.asked(term, first), |state| state.bucket(&bucket))?;
        let lease_ms = duration_ms(self.config().times.upload_lease);
        let source_bucket = source.bucket.clone();
        let begin =
            pb::BeginPut { bucket, key, placements, precondition, lease_ms, for_batch: false, source_bucket };
        let begun =
            self.propose_for(&call.access, call.deadline, request_id, command::Kind::BeginPut(begin)).await?;
        let outcome::Kind::Begun(begun) = begun else { return Err(reused_request_id()) };
        let etag = held.etag().to_string();
        let size = held.size;
        let plan = {
            let state = self.state();
            let target = state.bucket_by_id(BucketId(begun.bucket_id)).ok_or_else(bucket_not_found)?;
            plan(begun.upload_id, source.bucket.clone(), held, target)
        };
        // Without room the first call that goes on with it is told to come back.
        self.copies().begin(term, Copy::new(plan, granted(&begun)));
        Ok(proto::BeginCopyResponse {
            upload_id: begun.upload_id,
            source: Some(proto::CopySource { name: request.source, etag }),
            size,
            expires_in_ms: left_ms(begun.expires_ms, self.now_ms()),
        })
    }

    pub(super) async fn continue_copy(
        &self,
        call: Call<proto::ContinueCopyRequest>,
    ) -> Result<proto::ContinueCopyResponse, Refusal> {
        let Call { deadline, access, message: request } = call;
        let going_on = GoingOn::parse(request)?;
        let mut news = self.fetches().watch();
        let term = self.admit(deadline, &access).await?;
        let until = deadline.min(Instant::now() + WAIT_MAX);
        loop {
            news.mark_unchanged();
            match self.go_on(term, &going_on).inspect_err(|_| self.end_copy(term, going_on.upload_id))? {
                Step::Commit(commit) => {
                    if let Some(answer) = self.commit_copy(term, deadline, &access, &going_on, commit).await?
                    {
                        return Ok(answer);
                    }
                }
                Step::Extend(chunks) => {
                    self.extend_copy(term, deadline, &access, going_on.upload_id, chunks).await?;
                    continue;
                }
                Step::Wait => {}
            }
            if Instant::now() >= until {
                let copied_bytes = self.copies().with(term, going_on.upload_id, |copy| copy.copied_bytes());
                let copied_bytes = copied_bytes.unwrap_or_default();
                return Ok(proto::ContinueCopyResponse { copied_bytes, ..Default::default() });
            }
            // Whoever tells the news lives as long as this server.
            let _told = tokio::time::timeout_at(until.into(), news.changed()).await;
            tokio::time::sleep(GATHERING).await;
        }
    }

    /// Gives nodes their orders, and says what else is to be done.
    fn go_on(&self, term: u64, going_on: &GoingOn) -> Result<Step, Refusal> {
        let (now, now_ms, upload_id) = (Instant::now(), self.now_ms(), going_on.upload_id);
        let ends = self.fetches().take_ends(term, Owner::Upload(upload_id));
        let state = self.state();
        let Some(upload) = state.upload(upload_id) else {
            // It has ended. If it was by a commit, apply gives the answer of then.
            let source_bucket = going_on.source.bucket.clone();
            let commit = pb::CommitPut { upload_id, source_bucket, ..Default::default() };
            return Ok(Step::Commit(Box::new(commit)));
        };
        self.resume(&state, term, upload, going_on)?;
        let lease_ms = duration_ms(self.config().times.upload_lease);
        let is_to_be_renewed = left_ms(upload.expires_ms, now_ms) < lease_ms / 3 * 2;
        let sight = Sight { gateway: self, state: &state, term, now };
        let looked = self.copies().with(term, upload_id, |copy| {
            let Advance { orders, grants_wanted, written } = copy.advance(now, ends, &sight)?;
            for (node, order) in orders {
                let chunk = order.chunk;
                if self.fetches().order(term, node, order, now) {
                    copy.asked(node, chunk);
                }
            }
            match written {
                Some(chunks) => going_on.commit(copy.plan(), chunks).map(Box::new).map(Step::Commit),
                None if (grants_wanted > 0 || is_to_be_renewed) && copy.begin_extending() => {
                    Ok(Step::Extend(grants_wanted))
                }
                None => Ok(Step::Wait),
            }
        });
        // Deposed, or ended by another call: the next look finds out.
        looked.unwrap_or(Ok(Step::Wait)).map_err(Refusal::from)
    }

    /// Goes on with a copy that another leader has driven so far.
    fn resume(&self, state: &State, term: u64, upload: &Upload, going_on: &GoingOn) -> Result<(), Refusal> {
        if self.copies().with(term, upload.id, |_| ()).is_some() {
            return Ok(());
        }
        let source = &going_on.source;
        let bucket = state.bucket(&source.bucket).ok_or(Failure::SourceChanged)?;
        let held = state.object(bucket.id, &source.key);
        let held = held.filter(|held| held.etag().to_string() == going_on.etag);
        let held = held.ok_or(Failure::SourceChanged)?;
        let target = state.bucket_by_id(upload.bucket).ok_or_else(bucket_not_found)?;
        check_size(held, target)?;
        let plan = plan(upload.id, source.bucket.clone(), Arc::new(held.clone()), target);
        // Only whole chunks of the manifest can be told apart from others that a node holds under the same id.
        let is_known = plan.keeps_chunks();
        let granted = upload.chunks.iter().filter(|_| is_known).map(|(chunk, nodes)| (*chunk, *nodes));
        if self.copies().begin(term, Copy::new(plan, granted)) { Ok(()) } else { Err(too_many_copies()) }
    }

    /// None: it has to be tried again.
    async fn commit_copy(
        &self,
        term: u64,
        deadline: Instant,
        access: &Access,
        going_on: &GoingOn,
        commit: Box<pb::CommitPut>,
    ) -> Result<Option<proto::ContinueCopyResponse>, Refusal> {
        let upload_id = going_on.upload_id;
        let caller = self.check(&self.state(), access)?;
        let commit = command::Kind::CommitPut(*commit);
        let committed = match self.propose_for(access, deadline, going_on.request_id.clone(), commit).await {
            Ok(outcome::Kind::Committed(committed)) => committed,
            Ok(_) => return Err(reused_request_id()),
            Err(refusal) if refusal.reason() == Reason::StaleReceipts => {
                // A node has registered anew in the meantime; it is asked for its word again.
                let refusals = self.copies().with(term, upload_id, Copy::note_refusal);
                return if refusals.is_some_and(|refusals| refusals < REFUSALS_MAX) {
                    Ok(None)
                } else {
                    Err(refusal)
                };
            }
            Err(refusal) => return Err(refusal),
        };
        self.end_copy(term, upload_id);
        let pb::Committed { object: Some(object), chunks_in_debt, bucket, durable_replicas } = committed
        else {
            return Err(Refusal::new(Reason::Internal, "the state gave half an answer"));
        };
        // An answer of before, given again: only those may have it who could have asked for it.
        if !caller.may(&self.state(), Right::Write, &bucket) {
            return Err(upload_not_found());
        }
        Ok(Some(proto::ContinueCopyResponse {
            copied_bytes: object.size,
            object: Some(head_to_proto(&bucket, object, durable_replicas)),
            chunks_in_debt,
        }))
    }

    /// Has more chunks granted, and the lease renewed.
    async fn extend_copy(
        &self,
        term: u64,
        deadline: Instant,
        access: &Access,
        upload_id: u64,
        chunks: usize,
    ) -> Result<(), Refusal> {
        let _extending = Extending { gateway: self, term, upload_id };
        let asked = self.asked(term, chunks);
        let bucket_of = |state: &State| state.upload(upload_id).map(|upload| upload.bucket);
        let placements =
            self.place(term, &asked, |state| bucket_of(state).and_then(|bucket| state.bucket_by_id(bucket)))?;
        let lease_ms = duration_ms(self.config().times.upload_lease);
        let extend = command::Kind::ExtendPut(pb::ExtendPut { upload_id, placements, lease_ms });
        match self.propose_for(access, deadline, RequestId::NONE, extend).await? {
            outcome::Kind::Begun(extended) => {
                self.copies().with(term, upload_id, |copy| copy.grant(granted(&extended)));
                Ok(())
            }
            _ => Err(Refusal::new(Reason::Internal, "the state gave another answer than was asked for")),
        }
    }

    /// Nodes that are known not to fetch are left alone while others will do.
    fn asked(&self, term: u64, chunks: usize) -> Asked {
        let state = self.state();
        let is_too_old = |node: &NodeId| self.fetches().takes(term, *node) == Some(false);
        let avoided = state.nodes().map(|node| node.id).filter(is_too_old).map(|node| node.0.into());
        Asked { chunks: chunks as u32, avoided: avoided.collect() }
    }

    fn check_fetchers(&self, state: &State, term: u64, target: &Bucket) -> Result<(), Refusal> {
        let is_too_old = |node: &Node| self.fetches().takes(term, node.id) == Some(false);
        let fetching = state.nodes().filter(|node| !is_too_old(node)).count();
        if fetching < target.min_replicas as usize && fetching < state.nodes().count() {
            let words = "too few data nodes can fetch chunks from each other: they run an older release";
            return Err(Refusal::new(Reason::CopyUnsupported, words));
        }
        Ok(())
    }

    fn end_copy(&self, term: u64, upload_id: u64) {
        self.copies().end(term, upload_id);
        self.fetches().take_back(term, Owner::Upload(upload_id));
    }

    /// What nobody has gone on with has ended with its lease.
    fn forget_ended_copies(&self, term: u64) {
        let state = self.state();
        let is_open = |upload_id: u64| state.upload(upload_id).is_some();
        self.copies().retain(term, is_open);
        self.forget_ended_orders(&state, term);
    }
}

/// A call that goes on with a copy.
#[derive(Debug)]
struct GoingOn {
    request_id: RequestId,
    upload_id: u64,
    source: ObjectName,
    etag: String,
    precondition: Option<pb::Precondition>,
    metadata: Option<proto::ObjectMetadata>,
}

impl GoingOn {
    fn parse(request: proto::ContinueCopyRequest) -> Result<Self, Refusal> {
        let request_id = RequestId::parse(&request.request_id)?;
        let source = request.source.ok_or_else(|| Refusal::invalid("source", "it says what is copied"))?;
        let precondition = parse_precondition(request.precondition)?;
        if let Some(metadata) = &request.metadata {
            check_content_type(&metadata.content_type)?;
            check_user_metadata(&metadata.user_metadata)?;
        }
        Ok(Self {
            request_id,
            upload_id: request.upload_id,
            source: ObjectName::parse(&source.name)?,
            etag: source.etag,
            precondition,
            metadata: request.metadata,
        })
    }

    fn commit(&self, plan: &Plan, chunks: Vec<pb::WrittenChunk>) -> Result<pb::CommitPut, Failure> {
        let crc32c = combined_crc32c(&chunks);
        if crc32c != plan.source.crc32c {
            return Err(Failure::Corrupt);
        }
        let (content_type, user_metadata) = match &self.metadata {
            Some(metadata) => (metadata.content_type.clone(), metadata.user_metadata.clone()),
            None => (plan.source.content_type.clone(), plan.source.user_metadata.clone()),
        };
        Ok(pb::CommitPut {
            upload_id: self.upload_id,
            chunks,
            precondition: self.precondition.clone(),
            content_type,
            user_metadata,
            crc32c,
            source_bucket: plan.source_bucket.clone(),
        })
    }
}

/// Somebody is having chunks granted; however that ends, the next one may.
struct Extending<'a> {
    gateway: &'a Gateway,
    term: u64,
    upload_id: u64,
}

impl Drop for Extending<'_> {
    fn drop(&mut self) {
        self.gateway.copies().with(self.term, self.upload_id, Copy::end_extending);
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let (reason, words) = match failure {
            Failure::Corrupt => (Reason::Internal, "the bytes of the copy are not those of its source"),
            Failure::NoSpace => (Reason::NotEnoughNodes, "the data nodes are out of space"),
            Failure::SourceChanged => {
                (Reason::SourceChanged, "the source was removed or replaced while it was copied")
            }
            Failure::TooFewNodes(words) => (Reason::NotEnoughNodes, words),
        };
        Self::new(reason, words)
    }
}

fn plan(upload_id: u64, source_bucket: String, source: Arc<Object>, target: &Bucket) -> Plan {
    let Bucket { chunk_size, min_replicas, .. } = *target;
    Plan { upload_id, source_bucket, source, chunk_size, min_replicas }
}

fn granted(begun: &pb::Begun) -> impl Iterator<Item = (ChunkId, Replicas)> + '_ {
    let granted = |chunk: &pb::UploadChunk| {
        Some((parse_chunk_id(&chunk.chunk_id)?, Replicas::from_numbers(&chunk.node_ids)))
    };
    begun.chunks.iter().filter_map(granted)
}

fn check_size(source: &Object, target: &Bucket) -> Result<(), Refusal> {
    if source.size.div_ceil(target.chunk_size.into()) > CHUNKS_PER_OBJECT_MAX as u64 {
        let rule = "in the chunks of that bucket it would have more than an object can have";
        return Err(Refusal::new(Reason::ObjectTooLarge, rule));
    }
    Ok(())
}

fn too_many_copies() -> Refusal {
    Refusal::new(Reason::Overloaded, "as many copies are under way as there can be")
}
