//! An open put at the leader: its grants, its lease and its capability.
//!
//! Invariant: an upload that is neither committed nor given up is renewed in the background, and one whose guard is
//! dropped is aborted.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use xdpfs_proto::meta::v1 as proto;
use xdpfs_wire::{ChunkId, NodeId};

use crate::{
    Precondition,
    client::{Shared, request_id},
    control::{Operation, Reason, Refusal},
    error::{Error, Result},
    name::ObjectName,
    session::{Access, Introduction, Session, parse_chunk_id, parse_node_ids},
};

/// A chunk to be written, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Grant {
    pub(super) chunk: ChunkId,
    pub(super) nodes: Vec<NodeId>,
}

/// What a put is begun for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// To be one of a batch, which may make room for it.
    Batch,
    /// To be committed by itself.
    Itself,
}

/// Shared by the chunks of one put.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) shared: Arc<Shared>,
    pub(super) name: ObjectName,
    pub(super) id: u64,
    pub(super) chunk_size: u32,
    pub(super) min_replicas: usize,
    session: Session,
    /// Not yet used, in the order they were granted.
    grants: Mutex<VecDeque<Grant>>,
    lease_ms: AtomicU64,
    renewing: tokio::sync::Mutex<()>,
    /// Nothing is left to abort.
    settled: AtomicBool,
}

/// Keeps an upload open, and aborts it when dropped unless it was settled.
#[derive(Debug)]
pub(super) struct UploadGuard {
    upload: Arc<Upload>,
    _keeper: AbortOnDropHandle<()>,
}

impl Upload {
    /// Opens a put with room for `chunks` chunks.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        name: ObjectName,
        chunks: u32,
        precondition: Option<&Precondition>,
        purpose: Purpose,
    ) -> Result<UploadGuard> {
        let request = proto::BeginPutRequest {
            request_id: request_id(),
            name: name.resource.clone(),
            chunks,
            precondition: Precondition::to_proto(shared.early(precondition)),
            avoid_node_ids: shared.suspects.ids(),
            for_batch: purpose == Purpose::Batch,
        };
        let send = |mut meta: crate::control::Meta, request| async move { meta.begin_put(request).await };
        let mut begun = shared.control.call(Operation::BeginPut, request.clone(), send).await;
        let is_full = matches!(&begun, Err(refusal) if refusal.is(&Reason::QuotaExceeded));
        if is_full && shared.is_named() {
            // The first attempt may be what has filled the bucket, and the commit has its answer. If not, the commit says no.
            let request = proto::BeginPutRequest { request_id: request_id(), for_batch: true, ..request };
            begun = shared.control.call(Operation::BeginPut, request, send).await.or(begun);
        }
        let begun = begun.map_err(|refusal| refusal.about(Operation::BeginPut, &name.bucket, &name.key))?;
        let bad = |what| Error::BadReply { operation: "BeginPut", what };
        if begun.chunk_size == 0 {
            return Err(bad("the chunk size is zero"));
        }
        let introduction = Introduction { capability: begun.capability, nodes: begun.nodes };
        let session = Session::start(introduction).await.map_err(|_| bad("the capability is malformed"))?;
        let grants = parse_grants(begun.grants).ok_or(bad("a grant is malformed"))?;
        let upload = Arc::new(Self {
            shared: Arc::clone(shared),
            name,
            id: begun.upload_id,
            chunk_size: begun.chunk_size,
            min_replicas: begun.min_replicas.max(1) as usize,
            session,
            grants: Mutex::new(grants),
            lease_ms: AtomicU64::new(begun.expires_in_ms),
            renewing: tokio::sync::Mutex::default(),
            settled: AtomicBool::new(false),
        });
        let keeper = AbortOnDropHandle::new(tokio::spawn(keep(Arc::downgrade(&upload))));
        Ok(UploadGuard { upload, _keeper: keeper })
    }

    /// A chunk to write; asks for `more` if none is left.
    pub(super) async fn grant(&self, more: u32) -> Result<Grant> {
        if let Some(grant) = self.with_grants(VecDeque::pop_front) {
            return Ok(grant);
        }
        let mut fresh = self.extend(more).await?;
        let none = Error::BadReply { operation: "ExtendPut", what: "nothing was granted" };
        let grant = fresh.pop_front().ok_or(none)?;
        self.with_grants(|left| left.append(&mut fresh));
        Ok(grant)
    }

    /// A chunk on other nodes than those that are suspect, if the leader finds enough of them.
    pub(super) async fn other_grant(&self) -> Result<Option<Grant>> {
        let is_good = |grant: &Grant| {
            let trusted = grant.nodes.iter().filter(|node| !self.shared.suspects.contains(**node));
            trusted.count() >= self.min_replicas
        };
        let take_good = |grants: &mut VecDeque<Grant>| {
            let index = grants.iter().position(is_good)?;
            grants.remove(index)
        };
        if let Some(grant) = self.with_grants(take_good) {
            return Ok(Some(grant));
        }
        let mut fresh = self.extend(1).await?;
        let good = take_good(&mut fresh);
        // What is of no use now may be of use to a later chunk.
        self.with_grants(|left| left.append(&mut fresh));
        Ok(good)
    }

    pub(super) fn access(&self, node: NodeId) -> Option<Access> {
        self.session.access(node)
    }

    pub(super) fn generation(&self) -> u64 {
        self.session.generation()
    }

    /// Renews lease, capability and addresses, unless that happened since `seen`.
    pub(super) async fn renew(&self, seen: u64) -> Result<()> {
        let _one_at_a_time = self.renewing.lock().await;
        if self.session.generation() != seen {
            return Ok(());
        }
        self.extend(0).await.map(|_| ())
    }

    /// The put took effect. Under a request id of the caller's that may have been an earlier attempt with an upload of its own,
    /// so that this one is still open: it is aborted then, which does nothing to one that is committed.
    pub(super) fn settle(&self) {
        self.settled.store(!self.shared.is_named(), Ordering::Release);
    }

    /// Renews lease, capability and addresses, and gives the grants that were asked for to the caller alone.
    async fn extend(&self, chunks: u32) -> Result<VecDeque<Grant>> {
        let request = proto::ExtendPutRequest {
            request_id: request_id(),
            upload_id: self.id,
            chunks,
            avoid_node_ids: self.shared.suspects.ids(),
        };
        let send = |mut meta: crate::control::Meta, request| async move { meta.extend_put(request).await };
        let extended = self.shared.control.call(Operation::ExtendPut, request, send).await;
        let extended = extended.map_err(|refusal| self.explain(refusal, Operation::ExtendPut))?;
        let bad = |what| Error::BadReply { operation: "ExtendPut", what };
        let introduction = Introduction { capability: extended.capability, nodes: extended.nodes };
        self.session.renew(introduction).await.map_err(|_| bad("the capability is malformed"))?;
        self.lease_ms.store(extended.expires_in_ms, Ordering::Relaxed);
        parse_grants(extended.grants).ok_or(bad("a grant is malformed"))
    }

    pub(super) fn explain(&self, refusal: Refusal, operation: Operation) -> Error {
        refusal.about(operation, &self.name.bucket, &self.name.key)
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.load(Ordering::Relaxed).clamp(100, 3_600_000))
    }

    fn with_grants<T>(&self, act: impl FnOnce(&mut VecDeque<Grant>) -> T) -> T {
        act(&mut self.grants.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl UploadGuard {
    pub(super) const fn upload(&self) -> &Arc<Upload> {
        &self.upload
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        if self.upload.settled.load(Ordering::Acquire) || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let upload = Arc::clone(&self.upload);
        self.upload.shared.cleanups.spawn(async move { abort(&upload).await });
    }
}

async fn abort(upload: &Upload) {
    let request = proto::AbortPutRequest { request_id: request_id(), upload_id: upload.id };
    let send = |mut meta: crate::control::Meta, request| async move { meta.abort_put(request).await };
    match upload.shared.control.call(Operation::AbortPut, request, send).await {
        Ok(_) => debug!(upload = upload.id, "put aborted"),
        // The lease ends it all the same.
        Err(refusal) => debug!(upload = upload.id, ?refusal, "put not aborted"),
    }
}

/// Renews an upload three times per lease, for as long as somebody holds it and it is open.
async fn keep(upload: Weak<Upload>) {
    while let Some(lease) = upload.upgrade().map(|upload| upload.lease()) {
        tokio::time::sleep(lease / 3).await;
        let Some(upload) = upload.upgrade() else { return };
        match upload.renew(upload.generation()).await {
            Ok(()) => {}
            // The put hears of it at its next request.
            Err(Error::UploadExpired) => return,
            Err(error) => warn!(upload = upload.id, error = %error, "put not renewed"),
        }
    }
}

fn parse_grants(grants: Vec<proto::ChunkGrant>) -> Option<VecDeque<Grant>> {
    let parse = |grant: proto::ChunkGrant| {
        let nodes = parse_node_ids(&grant.node_ids);
        Some(Grant { chunk: parse_chunk_id(&grant.chunk_id)?, nodes })
    };
    grants.into_iter().map(parse).collect()
}
