//! Puts that have begun: which chunks they were granted, and how they end without a commit.
//!
//! Invariant: a chunk id is granted once. An upload ends once; whatever ends it decides about its chunks.

use std::{collections::BTreeMap, sync::Arc};

use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::{BucketId, ChunkId, ClientId};

use super::{
    Context, Replicas, State, check_precondition, chunk_id_bytes, parse_chunk_id,
    quota::Growth,
    reject::{BUCKET_NOT_FOUND, PRECONDITION_FAILED, Reason, Reject, UPLOAD_NOT_FOUND},
};

/// Chunks that one Begin or Extend can grant.
pub const GRANTS_MAX: usize = 64;
/// Chunks that one object can have.
pub const CHUNKS_PER_OBJECT_MAX: usize = 32_768;
/// Uploads that can be open at once.
pub const UPLOADS_MAX: usize = 10_000;

/// Client ids from the state keep the highest bit clear; those that a leader makes up for readers have it set.
const CLIENT_ID_MAX: u32 = 0x7fff_ffff;

/// An open put.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Upload {
    /// Its number; never reused.
    pub id: u64,
    /// Where it puts to.
    pub bucket: BucketId,
    /// The key in that bucket.
    pub key: Arc<str>,
    /// It is aborted then, unless it is extended or committed before.
    pub expires_ms: u64,
    /// Granted chunks and the nodes that they were granted on.
    pub chunks: BTreeMap<ChunkId, Replicas>,
    /// Whose capability it was given.
    pub client: ClientId,
}

impl Upload {
    pub(super) fn record(&self) -> pb::Upload {
        pb::Upload {
            id: self.id,
            bucket_id: self.bucket.0,
            key: self.key.to_string(),
            expires_ms: self.expires_ms,
            chunks: self.chunks.iter().map(|(chunk, replicas)| granted(*chunk, replicas)).collect(),
            client_id: self.client.0,
        }
    }

    pub(super) fn from_record(record: pb::Upload) -> Option<Self> {
        let chunk = |chunk: &pb::UploadChunk| {
            Some((parse_chunk_id(&chunk.chunk_id)?, Replicas::from_numbers(&chunk.node_ids)))
        };
        Some(Self {
            id: record.id,
            bucket: BucketId(record.bucket_id),
            key: record.key.into(),
            expires_ms: record.expires_ms,
            chunks: record.chunks.iter().map(chunk).collect::<Option<_>>()?,
            client: ClientId(record.client_id),
        })
    }
}

fn granted(chunk: ChunkId, replicas: &Replicas) -> pb::UploadChunk {
    pb::UploadChunk { chunk_id: chunk_id_bytes(chunk), node_ids: replicas.numbers() }
}

fn check_count(chunks: usize) -> Result<(), Reject> {
    if chunks > CHUNKS_PER_OBJECT_MAX {
        return Err(Reject::new(Reason::ObjectTooLarge, "an object has at most 32768 chunks"));
    }
    Ok(())
}

impl State {
    /// The open upload of this number.
    #[must_use]
    pub fn upload(&self, id: u64) -> Option<&Upload> {
        self.uploads.get(&id)
    }

    /// How many uploads are open.
    #[must_use]
    pub fn upload_count(&self) -> usize {
        self.uploads.len()
    }

    /// Open uploads, by their numbers.
    pub fn uploads(&self) -> impl Iterator<Item = &Upload> {
        self.uploads.values()
    }

    /// Whether some upload's lease has ended at `now_ms`.
    #[must_use]
    pub fn has_expired_uploads(&self, now_ms: u64) -> bool {
        self.uploads.values().any(|upload| upload.expires_ms < now_ms)
    }

    pub(super) fn begin_put(&mut self, begin: &pb::BeginPut) -> Result<outcome::Kind, Reject> {
        let bucket = self.bucket(&begin.bucket).ok_or(BUCKET_NOT_FOUND)?;
        let key = Arc::<str>::from(begin.key.as_str());
        let name = (bucket.id, Arc::clone(&key));
        let held = self.objects.get(&name).map(super::Object::etag);
        if !check_precondition(begin.precondition.as_ref(), held) {
            return Err(PRECONDITION_FAILED);
        }
        // No byte need be sent to a bucket that is full. What takes the place of something may be smaller.
        if self.displaced(&name).is_none() && !begin.for_batch {
            let mut growth = Growth::default();
            growth.add(u64::from(!begin.placements.is_empty()));
            bucket.check_growth(growth)?;
        }
        let bucket = bucket.id;
        if self.uploads.len() >= UPLOADS_MAX {
            return Err(Reject::new(Reason::Overloaded, "as many uploads are open as there can be"));
        }
        check_count(begin.placements.len())?;
        let id = self.counters.upload;
        self.counters.upload += 1;
        let client = self.next_client_id();
        let expires_ms = self.time_ms.saturating_add(begin.lease_ms);
        let upload = Upload { id, bucket, key, expires_ms, chunks: BTreeMap::new(), client };
        self.uploads.insert(id, upload);
        self.grant(id, &begin.placements)
    }

    pub(super) fn extend_put(&mut self, extend: &pb::ExtendPut) -> Result<outcome::Kind, Reject> {
        let time_ms = self.time_ms;
        let upload = self.uploads.get_mut(&extend.upload_id).ok_or(UPLOAD_NOT_FOUND)?;
        check_count(upload.chunks.len() + extend.placements.len())?;
        upload.expires_ms = upload.expires_ms.max(time_ms.saturating_add(extend.lease_ms));
        self.grant(extend.upload_id, &extend.placements)
    }

    fn next_client_id(&mut self) -> ClientId {
        let client = self.counters.client;
        self.counters.client = if client >= CLIENT_ID_MAX { 1 } else { client + 1 };
        ClientId(client)
    }

    /// Grants one new chunk for every placement.
    fn grant(&mut self, upload_id: u64, placements: &[pb::Placement]) -> Result<outcome::Kind, Reject> {
        let upload = self.uploads.get_mut(&upload_id).ok_or(UPLOAD_NOT_FOUND)?;
        let mut chunks = Vec::with_capacity(placements.len());
        for placement in placements {
            let chunk = ChunkId::new(upload.bucket, self.counters.chunk);
            self.counters.chunk += 1;
            let replicas = Replicas::from_numbers(&placement.node_ids);
            upload.chunks.insert(chunk, replicas);
            self.owners.set_upload(chunk, upload_id);
            chunks.push(granted(chunk, &replicas));
        }
        Ok(outcome::Kind::Begun(pb::Begun {
            upload_id,
            client_id: upload.client.0,
            bucket_id: upload.bucket.0,
            chunks,
            expires_ms: upload.expires_ms,
            grant_time_ms: self.time_ms,
        }))
    }

    pub(super) fn abort_put(
        &mut self,
        context: Context,
        abort: &pb::AbortPut,
    ) -> Result<outcome::Kind, Reject> {
        let upload = self.uploads.remove(&abort.upload_id).ok_or(UPLOAD_NOT_FOUND)?;
        self.discard(context, upload);
        Ok(outcome::Kind::Done(pb::Done {}))
    }

    pub(super) fn expire_uploads(&mut self, context: Context) -> outcome::Kind {
        let now_ms = self.time_ms;
        self.abort_uploads(context, |upload| upload.expires_ms < now_ms);
        outcome::Kind::Done(pb::Done {})
    }

    pub(super) fn abort_uploads(&mut self, context: Context, ended: impl Fn(&Upload) -> bool) {
        let ids: Vec<u64> =
            self.uploads.values().filter(|upload| ended(upload)).map(|upload| upload.id).collect();
        for upload in ids.iter().filter_map(|id| self.uploads.remove(id)).collect::<Vec<_>>() {
            self.discard(context, upload);
        }
    }

    /// Whatever the upload's client may have written goes once its capability has ended.
    fn discard(&mut self, context: Context, upload: Upload) {
        for (chunk, replicas) in upload.chunks {
            self.release(context, chunk, &replicas);
        }
    }

    /// Nobody refers to the chunk any more.
    pub(super) fn release(&mut self, context: Context, chunk: ChunkId, replicas: &Replicas) {
        self.owners.remove(chunk);
        for node in replicas.iter() {
            self.remove_later(context, node, chunk);
        }
    }
}
