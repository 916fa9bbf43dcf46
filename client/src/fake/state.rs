//! What the cluster in memory knows: the rules of the metadata service, as far as puts and gets need them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use xdpfs_proto::meta::v1 as proto;
use xdpfs_transport::crc32c_combine;
use xdpfs_wire::{BucketId, ChunkId};

use super::nodes::FakeNode;
use crate::control::Operation;

/// The one bucket that is there from the start.
pub(crate) const BUCKET: &str = "bucket";
const BUCKET_ID: BucketId = BucketId(7);

type Hook = Box<dyn FnMut(Operation, &mut State) + Send>;

pub(crate) struct State {
    pub(crate) chunk_size: u32,
    pub(crate) replicas: u32,
    pub(crate) min_replicas: u32,
    pub(crate) nodes: BTreeMap<u16, FakeNode>,
    pub(crate) objects: BTreeMap<String, Stored>,
    pub(crate) uploads: BTreeMap<u64, Upload>,
    /// How often a copy from another bucket is looked at before it is there. None: the servers are too old for those.
    pub(crate) copy_looks: Option<u32>,
    /// Where the open ones go.
    pub(crate) copies: BTreeMap<u64, String>,
    /// Uploads that were aborted by request.
    pub(crate) aborted: Vec<u64>,
    pub(crate) capability_for: Duration,
    pub(crate) upload_lease: Duration,
    /// The most chunks of one reply.
    pub(crate) chunks_max: usize,
    /// Bytes of transfers that have not ended, the most there ever were, and bytes of all transfers.
    pub(crate) outstanding: u64,
    pub(crate) outstanding_most: u64,
    pub(crate) asked: u64,
    /// Replicas that readers have found wanting.
    pub(crate) reported: BTreeSet<(ChunkId, u32)>,
    /// Transfers that were refused because their capability had expired.
    pub(crate) expired: u32,
    /// Answers to commits by request id.
    answered: BTreeMap<String, proto::CommitPutResponse>,
    /// Called before each request is served.
    hook: Option<Hook>,
    started: Instant,
    last_number: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) object: proto::Object,
    pub(crate) chunks: Vec<proto::Chunk>,
}

#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) name: String,
    pub(crate) expires: Instant,
    grants: Vec<proto::ChunkGrant>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// A refusal as a metadata server words it.
pub(crate) fn refuse(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "xdpfs", HashMap::new());
    Status::with_error_details(code, reason.to_lowercase(), details)
}

impl State {
    pub(super) fn new(nodes: u16) -> Self {
        let node = |id| (id, FakeNode { epoch: 1, ..FakeNode::default() });
        Self {
            chunk_size: 64 << 10,
            replicas: 3,
            min_replicas: 2,
            nodes: (1..=nodes).map(node).collect(),
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            copy_looks: None,
            copies: BTreeMap::new(),
            aborted: vec![],
            capability_for: Duration::from_secs(120),
            upload_lease: Duration::from_secs(60),
            chunks_max: 4096,
            outstanding: 0,
            outstanding_most: 0,
            asked: 0,
            reported: BTreeSet::new(),
            expired: 0,
            answered: BTreeMap::new(),
            hook: None,
            started: Instant::now(),
            last_number: 0,
        }
    }

    pub(crate) fn node(&mut self, id: u16) -> &mut FakeNode {
        self.nodes.get_mut(&id).expect("the test knows its nodes")
    }

    /// Calls `hook` before every request.
    pub(crate) fn on_request(&mut self, hook: impl FnMut(Operation, &mut Self) + Send + 'static) {
        self.hook = Some(Box::new(hook));
    }

    pub(super) fn before(&mut self, operation: Operation) {
        if let Some(mut hook) = self.hook.take() {
            hook(operation, self);
            self.hook.get_or_insert(hook);
        }
    }

    pub(crate) fn now_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Puts the object as if another client did. The chunks of what it replaces stay, as during the cluster's grace.
    pub(crate) fn overwrite(&mut self, key: &str, bytes: &[u8]) {
        let nodes: Vec<u16> = self.nodes.keys().copied().take(self.replicas as usize).collect();
        let chunks = bytes.chunks(self.chunk_size as usize).map(|data| {
            self.last_number += 1;
            let id = ChunkId::new(BUCKET_ID, self.last_number);
            for node in &nodes {
                let held = bytes::Bytes::copy_from_slice(data);
                self.nodes.get_mut(node).expect("it was listed").chunks.insert(id, held);
            }
            proto::Chunk {
                chunk_id: id.0.to_be_bytes().to_vec(),
                length: data.len() as u32,
                crc32c: xdpfs_transport::crc32c(data),
                node_ids: nodes.iter().copied().map(u32::from).collect(),
            }
        });
        let chunks = chunks.collect();
        self.store(resource(key), chunks, Default::default());
    }

    /// Removes a key as if another client did; its chunks stay.
    pub(crate) fn remove(&mut self, key: &str) {
        self.objects.remove(&resource(key)).expect("the test knows its keys");
    }

    /// Lets the nodes forget all chunks, as after the cluster's grace.
    pub(crate) fn collect_chunks(&mut self) {
        self.nodes.values_mut().for_each(|node| node.chunks.clear());
    }

    pub(crate) fn stored(&self, key: &str) -> &Stored {
        &self.objects[&resource(key)]
    }

    pub(crate) fn stored_mut(&mut self, key: &str) -> &mut Stored {
        self.objects.get_mut(&resource(key)).expect("the test knows its keys")
    }

    fn store(
        &mut self,
        name: String,
        chunks: Vec<proto::Chunk>,
        commit: proto::CommitPutRequest,
    ) -> proto::Object {
        self.last_number += 1;
        let version = self.last_number;
        let size = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let crc32c =
            chunks.iter().fold(0, |sum, chunk| crc32c_combine(sum, chunk.crc32c, chunk.length.into()));
        let object = proto::Object {
            name: name.clone(),
            version,
            etag: format!("{version:x}-{crc32c:08x}"),
            size,
            crc32c,
            create_time_ms: 1,
            content_type: commit.content_type,
            user_metadata: commit.user_metadata,
            durable_replicas: chunks.iter().map(|c| c.node_ids.len() as u32).min().unwrap_or(self.replicas),
        };
        self.objects.insert(name, Stored { object: object.clone(), chunks });
        object
    }

    fn check(&self, name: &str, precondition: Option<proto::Precondition>) -> Result<(), Status> {
        use proto::precondition::Kind;
        let held = self.objects.get(name).map(|stored| stored.object.etag.clone());
        let holds = match precondition.and_then(|precondition| precondition.kind) {
            None => true,
            Some(Kind::IfMatch(etag)) => held == Some(etag),
            Some(Kind::IfNoneMatchAny(_)) => held.is_none(),
            Some(Kind::IfNoneMatch(etag)) => held != Some(etag),
        };
        if holds { Ok(()) } else { Err(refuse(Code::FailedPrecondition, "PRECONDITION_FAILED")) }
    }

    fn capability(&self, rights: u32) -> Option<proto::Capability> {
        Some(proto::Capability {
            client_id: 1,
            bucket_id: BUCKET_ID.0,
            rights,
            expiry_s: (self.now_s() + self.capability_for.as_secs()) as u32,
            key_epoch: 1,
            key: vec![9; 16],
            valid_for_ms: self.capability_for.as_millis() as u64,
        })
    }

    fn addresses<'a>(&self, ids: impl Iterator<Item = &'a u32>) -> Vec<proto::NodeAddress> {
        let address = |id: &u32| {
            let node = &self.nodes[&(*id as u16)];
            let address = format!("127.0.0.1:{}", 9000 + id);
            (!node.is_hidden).then(|| proto::NodeAddress {
                node_id: *id,
                node_epoch: node.epoch.into(),
                address,
            })
        };
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(address).collect()
    }

    fn grants(&mut self, chunks: u32, avoid: &[u32]) -> Vec<proto::ChunkGrant> {
        let mut grant = || {
            self.last_number += 1;
            let mut nodes: Vec<u32> = self.nodes.keys().copied().map(u32::from).collect();
            let turn = self.last_number as usize % nodes.len();
            nodes.rotate_left(turn);
            nodes.sort_by_key(|node| avoid.contains(node));
            nodes.truncate(self.replicas as usize);
            let id = ChunkId::new(BUCKET_ID, self.last_number);
            proto::ChunkGrant { chunk_id: id.0.to_be_bytes().to_vec(), node_ids: nodes }
        };
        (0..chunks).map(|_| grant()).collect()
    }

    /// The upload, if its lease has not run out.
    fn upload(&mut self, id: u64) -> Result<&mut Upload, Status> {
        let open = self.uploads.get_mut(&id).filter(|upload| upload.expires > Instant::now());
        open.ok_or_else(|| refuse(Code::NotFound, "UPLOAD_NOT_FOUND"))
    }

    pub(super) fn create_bucket(
        &mut self,
        request: proto::CreateBucketRequest,
    ) -> Result<proto::CreateBucketResponse, Status> {
        let bucket = proto::Bucket { name: request.name, chunk_size: self.chunk_size, ..Default::default() };
        Ok(proto::CreateBucketResponse { bucket: Some(bucket) })
    }

    pub(super) fn begin_put(
        &mut self,
        request: proto::BeginPutRequest,
    ) -> Result<proto::BeginPutResponse, Status> {
        assert!(request.chunks <= 64);
        self.check(&request.name, request.precondition)?;
        let grants = self.grants(request.chunks, &request.avoid_node_ids);
        self.last_number += 1;
        let upload_id = self.last_number;
        let expires = Instant::now() + self.upload_lease;
        self.uploads.insert(upload_id, Upload { name: request.name, expires, grants: grants.clone() });
        Ok(proto::BeginPutResponse {
            upload_id,
            chunk_size: self.chunk_size,
            replicas: self.replicas,
            min_replicas: self.min_replicas,
            nodes: self.addresses(grants.iter().flat_map(|grant| &grant.node_ids)),
            grants,
            capability: self.capability(2),
            expires_in_ms: self.upload_lease.as_millis() as u64,
        })
    }

    pub(super) fn extend_put(
        &mut self,
        request: proto::ExtendPutRequest,
    ) -> Result<proto::ExtendPutResponse, Status> {
        assert!(request.chunks <= 64);
        let expires = Instant::now() + self.upload_lease;
        self.upload(request.upload_id)?.expires = expires;
        let grants = self.grants(request.chunks, &request.avoid_node_ids);
        let all = &mut self.upload(request.upload_id)?.grants;
        all.extend(grants.clone());
        let nodes: Vec<u32> = all.iter().flat_map(|grant| grant.node_ids.clone()).collect();
        Ok(proto::ExtendPutResponse {
            grants,
            nodes: self.addresses(nodes.iter()),
            capability: self.capability(2),
            expires_in_ms: self.upload_lease.as_millis() as u64,
        })
    }

    pub(super) fn commit_put(
        &mut self,
        request: proto::CommitPutRequest,
    ) -> Result<proto::CommitPutResponse, Status> {
        if let Some(answer) = self.answered.get(&request.request_id) {
            return Ok(answer.clone());
        }
        let name = self.upload(request.upload_id)?.name.clone();
        self.check(&name, request.precondition.clone())?;
        let chunks = self.receive(&request.chunks)?;
        let replicas = self.replicas as usize;
        let chunks_in_debt = chunks.iter().filter(|chunk| chunk.node_ids.len() < replicas).count() as u32;
        self.uploads.remove(&request.upload_id);
        let request_id = request.request_id.clone();
        let object = self.store(name, chunks, request);
        let answer = proto::CommitPutResponse { object: Some(object), chunks_in_debt };
        self.answered.insert(request_id, answer.clone());
        Ok(answer)
    }

    fn receive(&self, written: &[proto::WrittenChunk]) -> Result<Vec<proto::Chunk>, Status> {
        let receive = |written: &proto::WrittenChunk| {
            let is_good = |receipt: &&proto::Receipt| {
                let epoch = u32::from(self.nodes[&(receipt.node_id as u16)].epoch);
                receipt.node_epoch == epoch && receipt.mac == u64::from(epoch)
            };
            let nodes: Vec<u32> =
                written.receipts.iter().filter(is_good).map(|receipt| receipt.node_id).collect();
            if nodes.len() < self.min_replicas as usize {
                return Err(refuse(Code::Aborted, "STALE_RECEIPTS"));
            }
            Ok(proto::Chunk {
                chunk_id: written.chunk_id.clone(),
                length: written.length,
                crc32c: written.crc32c,
                node_ids: nodes,
            })
        };
        written.iter().map(receive).collect()
    }

    pub(super) fn copy_object(
        &mut self,
        request: proto::CopyObjectRequest,
    ) -> Result<proto::CopyObjectResponse, Status> {
        let stored = self.objects.get(&request.source).cloned();
        let stored = stored.ok_or_else(|| refuse(Code::NotFound, "OBJECT_NOT_FOUND"))?;
        self.check(&request.source, request.source_precondition)?;
        self.check(&request.destination, request.precondition)?;
        let object = self.store(request.destination, stored.chunks, worded(request.metadata));
        Ok(proto::CopyObjectResponse { object: Some(object) })
    }

    pub(super) fn note_reported(
        &mut self,
        request: proto::ReportReplicasRequest,
    ) -> Result<proto::ReportReplicasResponse, Status> {
        for replica in request.replicas {
            let chunk =
                <[u8; 16]>::try_from(replica.chunk_id.as_slice()).expect("a chunk id has sixteen bytes");
            self.reported.insert((ChunkId(u128::from_be_bytes(chunk)), replica.node_id));
        }
        Ok(proto::ReportReplicasResponse {})
    }

    /// What goes from bucket to bucket, if the test says that servers can do that.
    pub(super) fn begin_copy(
        &mut self,
        request: proto::BeginCopyRequest,
    ) -> Result<proto::BeginCopyResponse, Status> {
        if self.copy_looks.is_none() {
            return Err(Status::unimplemented(""));
        }
        let stored = self.objects.get(&request.source).cloned();
        let stored = stored.ok_or_else(|| refuse(Code::NotFound, "OBJECT_NOT_FOUND"))?;
        self.last_number += 1;
        let upload_id = self.last_number;
        self.copies.insert(upload_id, request.destination);
        Ok(proto::BeginCopyResponse {
            upload_id,
            source: Some(proto::CopySource { name: request.source, etag: stored.object.etag }),
            size: stored.object.size,
            expires_in_ms: 60_000,
        })
    }

    pub(super) fn continue_copy(
        &mut self,
        request: proto::ContinueCopyRequest,
    ) -> Result<proto::ContinueCopyResponse, Status> {
        let looks = self.copy_looks.as_mut().ok_or_else(|| Status::unimplemented(""))?;
        if *looks > 0 {
            *looks -= 1;
            return Ok(proto::ContinueCopyResponse { copied_bytes: 1, ..Default::default() });
        }
        let missing = || refuse(Code::NotFound, "UPLOAD_NOT_FOUND");
        let destination = self.copies.remove(&request.upload_id).ok_or_else(missing)?;
        let source = request.source.unwrap_or_default();
        let stored = self.objects.get(&source.name).filter(|stored| stored.object.etag == source.etag);
        let stored = stored.cloned().ok_or_else(|| refuse(Code::Aborted, "SOURCE_CHANGED"))?;
        let object = self.store(destination, stored.chunks, worded(request.metadata));
        Ok(proto::ContinueCopyResponse { object: Some(object), ..Default::default() })
    }

    /// Puts and deletes; tests of copies and checks have real servers.
    pub(super) fn commit_batch(
        &mut self,
        request: proto::CommitBatchRequest,
    ) -> Result<proto::CommitBatchResponse, Status> {
        use proto::batch_operation::Kind;
        for (place, operation) in request.operations.iter().enumerate() {
            let judged = match operation.kind.clone().expect("the client sets it") {
                Kind::Put(put) => {
                    let name = self.upload(put.upload_id)?.name.clone();
                    self.check(&name, put.precondition).and_then(|()| self.receive(&put.chunks).map(|_| ()))
                }
                Kind::Delete(delete) if !self.objects.contains_key(&resource(&delete.key)) => {
                    Err(refuse(Code::NotFound, "OBJECT_NOT_FOUND"))
                }
                Kind::Delete(delete) => self.check(&resource(&delete.key), delete.precondition),
                Kind::Copy(_) | Kind::Check(_) => Err(Status::unimplemented("")),
            };
            judged.map_err(|status| at(place, status))?;
        }
        let mut results = vec![];
        for operation in request.operations {
            let object = match operation.kind.expect("the client sets it") {
                Kind::Put(put) => {
                    let chunks = self.receive(&put.chunks)?;
                    let upload = self.uploads.remove(&put.upload_id).expect("it was looked at before");
                    self.store(upload.name, chunks, worded(put.metadata))
                }
                Kind::Delete(delete) => {
                    self.objects.remove(&resource(&delete.key)).expect("it was looked at before").object
                }
                Kind::Copy(_) | Kind::Check(_) => return Err(Status::unimplemented("")),
            };
            results.push(proto::BatchResult { object: Some(object), ..Default::default() });
        }
        Ok(proto::CommitBatchResponse { results })
    }

    pub(super) fn abort_put(
        &mut self,
        request: proto::AbortPutRequest,
    ) -> Result<proto::AbortPutResponse, Status> {
        self.upload(request.upload_id)?;
        self.uploads.remove(&request.upload_id);
        self.aborted.push(request.upload_id);
        Ok(proto::AbortPutResponse {})
    }

    /// What the key holds, if that is the version asked for; older ones are not kept here.
    fn held(&self, name: &str, version: u64) -> Result<&Stored, Status> {
        let is_asked_for = |stored: &&Stored| version == 0 || stored.object.version == version;
        let held = self.objects.get(name).filter(is_asked_for);
        held.ok_or_else(|| refuse(Code::NotFound, "OBJECT_NOT_FOUND"))
    }

    pub(super) fn get_object(
        &mut self,
        request: proto::GetObjectRequest,
    ) -> Result<proto::GetObjectResponse, Status> {
        let stored = self.held(&request.name, request.version)?;
        self.check(&request.name, request.precondition)?;
        let end = if request.range_end == 0 { stored.object.size } else { request.range_end };
        let mut offset = 0;
        let mut placed = stored.chunks.iter().map(|chunk| {
            let start = offset;
            offset += u64::from(chunk.length);
            (start, chunk)
        });
        let overlaps = |(start, chunk): &(u64, &proto::Chunk)| {
            *start < end && request.range_start < start + u64::from(chunk.length)
        };
        let asked: Vec<_> = placed.by_ref().filter(overlaps).take(self.chunks_max).collect();
        let chunks_offset = asked.first().map_or(0, |(start, _)| *start);
        let chunks: Vec<_> = asked.into_iter().map(|(_, chunk)| chunk.clone()).collect();
        Ok(proto::GetObjectResponse {
            object: Some(stored.object.clone()),
            nodes: self.addresses(chunks.iter().flat_map(|chunk| &chunk.node_ids)),
            chunks,
            chunks_offset,
            capability: self.capability(1),
        })
    }

    pub(super) fn head_object(
        &mut self,
        request: proto::HeadObjectRequest,
    ) -> Result<proto::HeadObjectResponse, Status> {
        let stored = self.held(&request.name, request.version)?;
        self.check(&request.name, request.precondition)?;
        Ok(proto::HeadObjectResponse { object: Some(stored.object.clone()) })
    }

    pub(super) fn delete_object(
        &mut self,
        request: proto::DeleteObjectRequest,
    ) -> Result<proto::DeleteObjectResponse, Status> {
        let removed =
            self.objects.remove(&request.name).ok_or_else(|| refuse(Code::NotFound, "OBJECT_NOT_FOUND"))?;
        Ok(proto::DeleteObjectResponse { object: Some(removed.object), ..Default::default() })
    }
}

fn worded(metadata: Option<proto::ObjectMetadata>) -> proto::CommitPutRequest {
    let proto::ObjectMetadata { content_type, user_metadata } = metadata.unwrap_or_default();
    proto::CommitPutRequest { content_type, user_metadata, ..Default::default() }
}

/// The refusal as that of one operation of a batch.
fn at(place: usize, status: Status) -> Status {
    let Some(info) = status.get_details_error_info() else { return status };
    let metadata = HashMap::from([("operation".to_owned(), (place + 1).to_string())]);
    let details = ErrorDetails::with_error_info(info.reason, info.domain, metadata);
    Status::with_error_details(status.code(), status.message(), details)
}

fn resource(key: &str) -> String {
    format!("buckets/{BUCKET}/objects/{key}")
}
