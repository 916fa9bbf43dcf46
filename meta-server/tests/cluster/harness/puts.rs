//! Puts without bytes: chunks get receipts from fake nodes.

use tonic::Status;
use xdpfs_meta_server::storage::crc32c;
use xdpfs_proto::meta::v1::{
    BeginPutRequest, BeginPutResponse, ChunkGrant, CommitPutRequest, CommitPutResponse, CreateBucketRequest,
    Precondition, WrittenChunk,
};

use super::{Cluster, FakeNode, Meta, request_id};

pub const CHUNK_SIZE: u32 = 64 << 10;

/// Writes to one bucket, on the nodes that it knows.
pub struct Writer<'a> {
    pub cluster: &'a Cluster,
    pub nodes: &'a [FakeNode],
    pub bucket: &'a str,
}

/// How many chunks an object of this size has.
const fn chunk_count(size: u64) -> u32 {
    size.div_ceil(CHUNK_SIZE as u64) as u32
}

impl Writer<'_> {
    pub async fn create_bucket(&self) {
        let request = CreateBucketRequest {
            request_id: request_id(),
            name: format!("buckets/{}", self.bucket),
            chunk_size: CHUNK_SIZE,
            ..Default::default()
        };
        self.cluster
            .call(request, async |mut meta: Meta, request| meta.create_bucket(request).await)
            .await
            .unwrap();
    }

    pub fn name(&self, key: &str) -> String {
        format!("buckets/{}/objects/{key}", self.bucket)
    }

    pub fn begin_request(&self, key: &str, chunks: u32) -> BeginPutRequest {
        BeginPutRequest { request_id: request_id(), name: self.name(key), chunks, ..Default::default() }
    }

    pub async fn begin(&self, request: BeginPutRequest) -> Result<BeginPutResponse, Status> {
        self.cluster.call(request, async |mut meta: Meta, request| meta.begin_put(request).await).await
    }

    /// What the granted nodes would say after a write of `size` bytes.
    pub fn written(&self, grants: &[ChunkGrant], size: u64) -> Vec<WrittenChunk> {
        assert_eq!(grants.len() as u32, chunk_count(size));
        let chunk = |(at, grant): (usize, &ChunkGrant)| {
            let length = (size - at as u64 * u64::from(CHUNK_SIZE)).min(CHUNK_SIZE.into()) as u32;
            let crc = crc32c(&vec![at as u8; length as usize]);
            let holders = self.nodes.iter().filter(|node| grant.node_ids.contains(&node.id()));
            WrittenChunk {
                chunk_id: grant.chunk_id.clone(),
                length,
                crc32c: crc,
                receipts: holders.map(|node| node.receipt(&grant.chunk_id, length, crc)).collect(),
            }
        };
        grants.iter().enumerate().map(chunk).collect()
    }

    pub fn commit_request(&self, upload_id: u64, chunks: Vec<WrittenChunk>) -> CommitPutRequest {
        CommitPutRequest { request_id: request_id(), upload_id, chunks, ..Default::default() }
    }

    pub async fn commit(&self, request: CommitPutRequest) -> Result<CommitPutResponse, Status> {
        self.cluster.call(request, async |mut meta: Meta, request| meta.commit_put(request).await).await
    }

    /// A whole put.
    pub async fn put(
        &self,
        key: &str,
        size: u64,
        precondition: Option<Precondition>,
    ) -> Result<CommitPutResponse, Status> {
        let begin = BeginPutRequest {
            precondition: precondition.clone(),
            ..self.begin_request(key, chunk_count(size))
        };
        let begun = self.begin(begin).await?;
        let commit = self.commit_request(begun.upload_id, self.written(&begun.grants, size));
        self.commit(CommitPutRequest { precondition, ..commit }).await
    }
}
