//! Metadata servers of this project.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, bail};
use tonic::{Code, Status, transport::Channel};
use xdpfs_proto::meta::v1::{
    BatchCopy, BatchOperation, BeginPutRequest, CommitBatchRequest, CommitPutRequest, CopyObjectRequest,
    CreateBucketRequest, GetClusterStatusRequest, HeadObjectRequest, ListObjectsRequest, ObjectMetadata,
    batch_operation::Kind, meta_service_client::MetaServiceClient,
};

use crate::{
    Operation,
    system::{Connections, PAGE_LEN, SERVES_WITHIN, System, VALUE_BYTES, filled, target},
};

const BUCKET: &str = "buckets/load";
/// An empty object: a copy of it needs no data node, and is one entry of the log.
const SEED: &str = "seed";
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The most that a batch takes.
const KEYS_PER_BATCH: u64 = 64;
const FILLERS: u64 = 4;

type Meta = MetaServiceClient<Channel>;

#[derive(Clone, Debug)]
pub(crate) struct Xdpfs {
    leader: usize,
    connections: Connections,
    meta: Meta,
    words: ObjectMetadata,
}

impl Xdpfs {
    /// Waits for the leader, and makes what the load needs.
    pub(crate) async fn find(endpoints: &[String]) -> anyhow::Result<Self> {
        let give_up = Instant::now() + SERVES_WITHIN;
        loop {
            for (at, endpoint) in endpoints.iter().enumerate() {
                let connections = Connections::to(endpoint)?;
                let mut meta = meta(&connections, 0);
                let status = meta.get_cluster_status(GetClusterStatusRequest {}).await;
                let leads =
                    status.is_ok_and(|status| status.get_ref().leader_id == status.get_ref().server_id);
                if leads && prepare(&mut meta).await.is_ok() {
                    return Ok(Self { leader: at, connections, meta, words: words() });
                }
            }
            if Instant::now() >= give_up {
                bail!("no metadata server leads and serves");
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn put(&mut self, key: u64) -> Result<(), Status> {
        let copy = CopyObjectRequest {
            request_id: request_id(),
            source: name(SEED),
            destination: name(&target(key)),
            metadata: Some(self.words.clone()),
            ..Default::default()
        };
        self.meta.copy_object(copy).await.map(drop)
    }

    async fn put_object(&mut self, key: u64) -> Result<(), Status> {
        put_empty(&mut self.meta, &target(key), &self.words).await
    }

    async fn fill_batch(meta: &mut Meta, keys: std::ops::Range<u64>) -> anyhow::Result<()> {
        let copy = |key| BatchOperation {
            kind: Some(Kind::Copy(BatchCopy {
                source_key: SEED.to_owned(),
                key: filled(key),
                ..Default::default()
            })),
        };
        let request = CommitBatchRequest {
            request_id: request_id(),
            parent: BUCKET.to_owned(),
            operations: keys.map(copy).collect(),
        };
        loop {
            match meta.commit_batch(request.clone()).await {
                Ok(_) => return Ok(()),
                // Answers are kept for a while, and there is no room for more of them.
                Err(status) if status.code() == Code::ResourceExhausted => {
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

impl System for Xdpfs {
    fn leader(&self) -> usize {
        self.leader
    }

    fn client(&self, number: usize) -> Self {
        Self { meta: meta(&self.connections, number), ..self.clone() }
    }

    async fn once(&mut self, operation: Operation, key: u64) -> anyhow::Result<()> {
        let done = match operation {
            Operation::Put => self.put(key).await,
            Operation::PutObject => self.put_object(key).await,
            Operation::Read => {
                let head = HeadObjectRequest { name: name(&filled(key)), ..Default::default() };
                self.meta.head_object(head).await.map(drop)
            }
        };
        done.with_context(|| format!("{operation:?} of key {key}"))
    }

    async fn fill(&self, count: u64) -> anyhow::Result<()> {
        let filler = |first: u64| async move {
            let mut meta = meta(&self.connections, first as usize);
            let starts = (first * KEYS_PER_BATCH..count).step_by((FILLERS * KEYS_PER_BATCH) as usize);
            for start in starts {
                Self::fill_batch(&mut meta, start..count.min(start + KEYS_PER_BATCH)).await?;
            }
            anyhow::Ok(())
        };
        futures_join((0..FILLERS).map(filler)).await
    }

    async fn page(&mut self, after: Option<Vec<u8>>) -> anyhow::Result<(usize, Option<Vec<u8>>)> {
        let request = ListObjectsRequest {
            parent: BUCKET.to_owned(),
            prefix: "fill/".to_owned(),
            page_size: PAGE_LEN,
            page_token: String::from_utf8(after.unwrap_or_default())?,
            ..Default::default()
        };
        let page = self.meta.list_objects(request).await?.into_inner();
        let next = Some(page.next_page_token.into_bytes()).filter(|token| !token.is_empty());
        Ok((page.objects.len(), next))
    }
}

/// Runs all to the end.
pub(crate) async fn futures_join<F>(all: impl Iterator<Item = F>) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut results = Vec::new();
    std::future::poll_fn(|cx| {
        all.retain_mut(|future| match future.as_mut().poll(cx) {
            std::task::Poll::Ready(result) => {
                results.push(result);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    results.into_iter().collect()
}

async fn prepare(meta: &mut Meta) -> Result<(), Status> {
    let request =
        CreateBucketRequest { request_id: request_id(), name: BUCKET.to_owned(), ..Default::default() };
    match meta.create_bucket(request).await {
        Err(status) if status.code() != Code::AlreadyExists => return Err(status),
        Ok(_) | Err(_) => {}
    }
    // A cluster that has just begun makes buckets before it takes puts.
    let head = HeadObjectRequest { name: name(SEED), ..Default::default() };
    match meta.head_object(head).await {
        Err(status) if status.code() == Code::NotFound => {
            put_empty(meta, SEED, &ObjectMetadata::default()).await
        }
        found => found.map(drop),
    }
}

async fn put_empty(meta: &mut Meta, key: &str, words: &ObjectMetadata) -> Result<(), Status> {
    let begin = BeginPutRequest { request_id: request_id(), name: name(key), ..Default::default() };
    let begun = meta.begin_put(begin).await?.into_inner();
    let commit = CommitPutRequest {
        request_id: request_id(),
        upload_id: begun.upload_id,
        user_metadata: words.user_metadata.clone(),
        ..Default::default()
    };
    meta.commit_put(commit).await.map(drop)
}

fn meta(connections: &Connections, number: usize) -> Meta {
    MetaServiceClient::new(connections.of_client(number)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn words() -> ObjectMetadata {
    let user_metadata = BTreeMap::from([("v".to_owned(), "x".repeat(VALUE_BYTES - 1))]);
    ObjectMetadata { user_metadata, ..Default::default() }
}

fn name(key: &str) -> String {
    format!("{BUCKET}/objects/{key}")
}

fn request_id() -> String {
    uuid::Uuid::from_u128(fastrand::u128(1..)).to_string()
}
