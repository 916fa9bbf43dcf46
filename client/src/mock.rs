//! A cluster in memory, for the tests of programs that use the SDK.
//!
//! Invariant: what a program can see is what a real cluster would show it: names, preconditions, versions, etags,
//! ranges, pages. Puts become visible as a whole when they return. Nothing is durable, and nothing ever fails by itself:
//! see [`FailingClient`](crate::failing::FailingClient) for that.

mod access;
mod listing;
mod placement;
mod store;
mod versions;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use xdpfs_wire::NodeId;

use self::store::{NODES, Operation, Store, check_held};
use crate::{
    Batch, BatchOperation, BatchResult, Bucket, BucketOptions, BucketPage, BucketUpdate, ChunkPlacement,
    ClusterStatus, CopyOptions, DataNode, DataNodeState, DeleteOptions, Deleted, DrainPlan, GetOptions,
    GetStream, Inventory, LabelChange, ListOptions, ListPage, MetaRole, MetaServer, NodeLabel, Object,
    ObjectClient, PlacementQuery, PlacementReport, PutOptions, PutResult, RebalancePlan, RebalanceStatus,
    RemoveNodeOptions, RepairStatus, ScrubAction, ScrubAnswer, StatOptions, VersionListOptions, VersionPage,
    copy_bytes,
    error::{Error, Result},
    name::{ObjectName, bucket_name},
    versions::version_number,
};

/// Buckets of a page.
const PAGE_MAX: usize = 1000;

/// An [`ObjectClient`] without a cluster. Clones share their objects.
#[derive(Clone, Debug, Default)]
pub struct MockClient {
    store: Arc<Mutex<Store>>,
}

impl MockClient {
    /// A cluster without buckets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with_store<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        act(&mut self.store.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ObjectClient for MockClient {
    async fn create_bucket(&self, bucket: &str, options: BucketOptions) -> Result<Bucket> {
        bucket_name(bucket)?;
        options.check()?;
        self.with_store(|store| store.create_bucket(bucket, options))
    }

    async fn bucket(&self, bucket: &str) -> Result<Bucket> {
        bucket_name(bucket)?;
        self.with_store(|store| Ok(store.bucket(bucket)?.describe()))
    }

    async fn buckets(&self, page: Option<String>) -> Result<BucketPage> {
        let after = page.unwrap_or_default();
        self.with_store(|store| {
            let mut buckets: Vec<_> = store.buckets_after(&after).take(PAGE_MAX + 1).collect();
            let has_more = buckets.len() > PAGE_MAX;
            buckets.truncate(PAGE_MAX);
            let next = buckets.last().filter(|_| has_more).map(|bucket| bucket.name.clone());
            Ok(BucketPage { buckets, next })
        })
    }

    async fn update_bucket(&self, bucket: &str, update: BucketUpdate) -> Result<Bucket> {
        bucket_name(bucket)?;
        update.check()?;
        self.with_store(|store| store.update_bucket(bucket, update))
    }

    async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        bucket_name(bucket)?;
        self.with_store(|store| store.delete_bucket(bucket))
    }

    async fn put<R>(&self, bucket: &str, key: &str, mut input: R, options: PutOptions) -> Result<PutResult>
    where
        R: AsyncRead + Send + Unpin,
    {
        ObjectName::new(bucket, key)?;
        options.check()?;
        self.with_store(|store| {
            store.check(bucket, key, options.precondition.as_ref())?;
            store.check_room(bucket, key)
        })?;
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).await.map_err(Error::Input)?;
        let object = self.with_store(|store| store.put(bucket, key, Bytes::from(bytes), options))?;
        Ok(PutResult { object, chunks_in_debt: 0 })
    }

    async fn get(&self, bucket: &str, key: &str, options: GetOptions) -> Result<GetStream> {
        ObjectName::new(bucket, key)?;
        options.range.map_or(Ok(()), |range| range.check())?;
        version_number(options.version)?;
        let (object, bytes, chunk_size) = self.with_store(|store| {
            let stored = store.version(bucket, key, options.version)?;
            check_held(Some(&stored.object.etag), options.precondition.as_ref())?;
            let chunk_size = store.bucket(bucket)?.chunk_size;
            Ok::<_, Error>((stored.object.clone(), stored.bytes.clone(), chunk_size))
        })?;
        let range = options.range.map_or(Ok(0..object.size), |range| range.resolve(object.size))?;
        let mut left = bytes.slice(range.start as usize..range.end as usize);
        let blocks = std::iter::from_fn(move || {
            let block = left.split_to(left.len().min(chunk_size as usize));
            (!block.is_empty()).then_some(Ok(block))
        });
        Ok(GetStream::new(object, range, stream::iter(blocks)))
    }

    async fn stat_with(&self, bucket: &str, key: &str, options: StatOptions) -> Result<Object> {
        ObjectName::new(bucket, key)?;
        version_number(options.version)?;
        self.with_store(|store| {
            let object = store.version(bucket, key, options.version)?.object.clone();
            check_held(Some(&object.etag), options.precondition.as_ref())?;
            Ok(object)
        })
    }

    async fn placement(&self, object: &Object) -> Result<Vec<ChunkPlacement>> {
        self.with_store(|store| {
            let stored = store.bucket(&object.bucket)?.shelf.version(&object.key, object.version);
            let chunks = stored.map(|stored| stored.chunks.clone());
            chunks.ok_or(Error::ChangedWhileReading)
        })
    }

    async fn list(&self, bucket: &str, options: ListOptions) -> Result<ListPage> {
        bucket_name(bucket)?;
        self.with_store(|store| listing::page(store.bucket(bucket)?, &options))
    }

    async fn list_versions(&self, bucket: &str, options: VersionListOptions) -> Result<VersionPage> {
        bucket_name(bucket)?;
        self.with_store(|store| listing::version_page(store.bucket(bucket)?, &options))
    }

    async fn delete_with(&self, bucket: &str, key: &str, options: DeleteOptions) -> Result<Deleted> {
        ObjectName::new(bucket, key)?;
        version_number(options.version)?;
        self.with_store(|store| store.delete(bucket, key, &options))
    }

    async fn copy(&self, bucket: &str, source: &str, key: &str, options: CopyOptions) -> Result<Object> {
        ObjectName::new(bucket, source)?;
        ObjectName::new(bucket, key)?;
        options.check()?;
        self.with_store(|store| store.copy(bucket, source, key, options))
    }

    async fn copy_across(
        &self,
        source: (&str, &str),
        target: (&str, &str),
        options: CopyOptions,
    ) -> Result<PutResult> {
        if source.0 == target.0 {
            return Err(Error::invalid("within a bucket nothing has to be fetched"));
        }
        // Nobody can tell who has moved the bytes.
        copy_bytes(self, source, target, options).await
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<BatchResult>> {
        batch.validate()?;
        let Batch { bucket, operations } = batch;
        let mut read = Vec::with_capacity(operations.len());
        for (place, operation) in operations.into_iter().enumerate() {
            let key = operation.key().to_owned();
            let operation = read_operation(operation).await.map_err(|source| Error::BatchRefused {
                operation: place + 1,
                key,
                source: Box::new(source),
            })?;
            read.push(operation);
        }
        self.with_store(|store| {
            store.bucket(&bucket)?;
            store.commit(&bucket, read)
        })
    }

    async fn cluster_status(&self) -> Result<ClusterStatus> {
        let buckets: Vec<_> = self.with_store(|store| store.buckets_after("").collect());
        let server = MetaServer {
            id: 1,
            endpoint: "mock:1".into(),
            role: MetaRole::Leader,
            matched_index: 0,
            certificate_expires: None,
            version: "1.2.3".into(),
            feature_level: Some(1),
        };
        Ok(ClusterStatus {
            cluster_id: "mock".into(),
            meta_servers: vec![server],
            data_nodes: self.with_store(|store| (1..=NODES).map(|id| data_node(NodeId(id), store)).collect()),
            server_id: 1,
            leader_id: Some(1),
            term: 1,
            buckets: buckets.len() as u64,
            objects: buckets.iter().map(|bucket| bucket.objects).sum(),
            bytes: buckets.iter().map(|bucket| bucket.bytes).sum(),
            ..ClusterStatus::default()
        })
    }

    async fn label_node(&self, node: u32, change: LabelChange) -> Result<Vec<NodeLabel>> {
        self.with_store(|store| store.label(node, change))
    }

    async fn scrub_node(&self, node: u32, action: ScrubAction) -> Result<ScrubAnswer> {
        self.with_store(|store| store.scrub(node, action))
    }

    async fn explain_placement(
        &self,
        bucket: &str,
        key: &str,
        query: PlacementQuery,
    ) -> Result<PlacementReport> {
        ObjectName::new(bucket, key)?;
        self.with_store(|store| store.explain(bucket, key, query))
    }

    async fn drain_plan(&self, nodes: &[u32]) -> Result<DrainPlan> {
        self.with_store(|store| store.plan_drain(nodes))
    }

    async fn drain_node(&self, node: u32, draining: bool) -> Result<()> {
        self.with_store(|store| store.drain_node(node, draining))
    }

    async fn remove_node(&self, node: u32, options: RemoveNodeOptions) -> Result<u64> {
        self.with_store(|store| store.remove_node(node, options))
    }

    async fn repair_status(&self) -> Result<RepairStatus> {
        Ok(self.with_store(|store| store.repair_status()))
    }

    async fn take_inventory(&self, number: Option<u64>, collect: bool) -> Result<Inventory> {
        Ok(self.with_store(|store| store.take_inventory(number, collect)))
    }

    async fn rebalance_status(&self) -> Result<RebalanceStatus> {
        Ok(self.with_store(|store| store.rebalance_status()))
    }

    async fn pause_rebalance(&self, paused: bool) -> Result<()> {
        self.with_store(|store| store.rebalance_paused = paused);
        Ok(())
    }

    async fn rebalance_plan(&self) -> Result<RebalancePlan> {
        Ok(RebalancePlan { bytes_per_second: 16 << 20, ..RebalancePlan::default() })
    }

    async fn close(&self) {}
}

async fn read_operation(operation: BatchOperation) -> Result<Operation> {
    Ok(match operation {
        BatchOperation::Put { key, mut input, options } => {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes).await.map_err(Error::Input)?;
            Operation::Put { key, bytes: bytes.into(), options }
        }
        BatchOperation::Copy { source, key, options } => Operation::Copy { source, key, options },
        BatchOperation::Delete { key, options } => Operation::Delete { key, options },
        BatchOperation::Check { key, precondition } => Operation::Check { key, precondition },
    })
}

fn data_node(id: NodeId, store: &Store) -> DataNode {
    DataNode {
        labels: store.labels_of(id.0.into()),
        scrub: Some(store.scrub_of(id.0.into())),
        scrub_ordered: false,
        draining: store.drained.contains(&id.0.into()),
        removed: store.removed.contains(&id.0.into()),
        storage_doubts: Vec::new(),
        disks: Vec::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        registered: None,
        certificate_expires: None,
        id: id.0.into(),
        epoch: 1,
        address: format!("mock-node-{id}:1"),
        direct_address: format!("mock-node-{id}:1"),
        state: DataNodeState::Alive,
        capacity_bytes: u64::MAX,
        used_bytes: 0,
        free_bytes: u64::MAX,
        chunks: 0,
        rejects: Default::default(),
        failure_domain: format!("mock-node-{id}"),
        last_heartbeat_age: Default::default(),
        xdp_mode: "off".to_owned(),
        xdp_reason: "not asked for".to_owned(),
        xdp_packets: Default::default(),
        written_bytes: 0,
        read_bytes: 0,
    }
}

#[cfg(test)]
mod tests;
