//! The real client: one per process is enough, clones share everything.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::AsyncRead,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;
use tracing::debug;
use uuid::Uuid;
use xdpfs_proto::meta::v1 as proto;
use xdpfs_transport::{ChunkClient, Counters};

use crate::{
    AccessKey, Batch, BatchResult, Bucket, BucketOptions, BucketPage, BucketUpdate, ChunkPlacement,
    ClientConfig, ClusterStatus, CopyOptions, DeleteOptions, Deleted, DrainPlan, GetOptions, GetStream,
    Inventory, LabelChange, ListOptions, ListPage, NodeLabel, Object, ObjectClient, PlacementQuery,
    PlacementReport, Precondition, PutOptions, PutResult, RebalancePlan, RebalanceStatus, RemoveNodeOptions,
    RepairStatus, ScrubAction, ScrubAnswer, StatOptions, VersionListOptions, VersionPage, Versioning,
    chunk_transport::ChunkTransport,
    control::{Control, Dialer, Meta, Operation},
    copy,
    error::{Error, Result},
    get, inventory,
    name::{ObjectName, bucket_name},
    placement, put,
    read_times::ReadTimes,
    rebalance,
    repair::{self, Reports},
    scrub,
    suspects::Suspects,
    versions::version_number,
};

/// The unit of the memory budget.
const MEMORY_UNIT_BYTES: usize = 4096;
/// How long `close` waits.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Speaks to a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    chunks: Option<ChunkClient>,
}

/// What all operations of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) control: Control,
    pub(crate) transport: Arc<dyn ChunkTransport>,
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) read_times: Arc<ReadTimes>,
    /// Aborts of puts that were given up, and reports of bad replicas.
    pub(crate) cleanups: TaskTracker,
    memory: Arc<Semaphore>,
    memory_units: u32,
    /// What the caller calls the one change that it makes.
    named_request: Option<Uuid>,
}

impl Client {
    /// A client for the cluster that `config` names. Nothing is sent before the first operation.
    ///
    /// # Errors
    /// [`Error::Socket`] if no UDP socket can be had; [`Error::InvalidArgument`] if the endpoints ask for TLS and there is
    /// no CA, or the other way round.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect(config: ClientConfig) -> Result<Self> {
        let checked = config.endpoints.check(config.tls.as_ref());
        checked.map_err(|error| Error::invalid(error.to_string()))?;
        let chunks = ChunkClient::bind(config.chunk_client).map_err(Error::Socket)?;
        let dialer = Dialer::network(config.tls.clone());
        let shared = Shared::new(config, Arc::new(chunks.clone()), dialer);
        Ok(Self { shared, chunks: Some(chunks) })
    }

    /// What the chunk protocol has counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.chunks.as_ref().map(ChunkClient::counters).unwrap_or_default()
    }

    /// This client on behalf of somebody else: it shows this key, or none, and has everything else in common with this
    /// one: sockets, connections, and the bound on memory.
    #[must_use]
    pub fn on_behalf_of(&self, access_key: Option<AccessKey>) -> Self {
        let twin = self.shared.twin();
        let control = twin.control.showing(access_key.as_ref());
        let config = ClientConfig { access_key, ..twin.config };
        self.with_shared(Shared { control, config, ..twin })
    }

    /// This client for one change that its caller may have to repeat: the put, copy, delete, batch or change of a bucket is
    /// made under this request id, and repeating it within 15 minutes gives the first answer again. A put is not
    /// refused for its precondition or for the quota before its bytes are sent, since the first attempt may be what stands in
    /// its way.
    #[must_use]
    pub fn under_request_id(&self, request_id: Uuid) -> Self {
        self.with_shared(Shared { named_request: Some(request_id), ..self.shared.twin() })
    }

    fn with_shared(&self, shared: Shared) -> Self {
        Self { shared: Arc::new(shared), chunks: self.chunks.clone() }
    }

    /// A client of a cluster in memory.
    #[cfg(test)]
    pub(crate) fn with_transport(
        config: ClientConfig,
        transport: Arc<dyn ChunkTransport>,
        dialer: Dialer,
    ) -> Self {
        Self { shared: Shared::new(config, transport, dialer), chunks: None }
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    async fn status_of(&self) -> Result<ClusterStatus> {
        let operation = Operation::GetClusterStatus;
        let send = |mut meta: Meta, request| async move { meta.get_cluster_status(request).await };
        let reply = self.shared.control.call(operation, proto::GetClusterStatusRequest {}, send).await;
        reply.map(ClusterStatus::from).map_err(|refusal| refusal.about(operation, "", ""))
    }
}

impl Shared {
    fn new(config: ClientConfig, transport: Arc<dyn ChunkTransport>, dialer: Dialer) -> Arc<Self> {
        let memory_units = config.buffered_bytes_max / MEMORY_UNIT_BYTES as u32 + 1;
        Arc::new(Self {
            control: Control::new(&config, dialer),
            transport,
            suspects: Arc::new(Suspects::new(config.suspect_for)),
            reports: Arc::default(),
            read_times: Arc::default(),
            cleanups: TaskTracker::new(),
            memory: Arc::new(Semaphore::new(memory_units as usize)),
            memory_units,
            named_request: None,
            config,
        })
    }

    /// Another one that has all in common with this one.
    fn twin(&self) -> Self {
        Self {
            config: self.config.clone(),
            control: self.control.showing(self.config.access_key.as_ref()),
            transport: Arc::clone(&self.transport),
            suspects: Arc::clone(&self.suspects),
            reports: Arc::clone(&self.reports),
            read_times: Arc::clone(&self.read_times),
            cleanups: self.cleanups.clone(),
            memory: Arc::clone(&self.memory),
            memory_units: self.memory_units,
            named_request: self.named_request,
        }
    }

    /// The id of a request that changes what others see.
    pub(crate) fn change_id(&self) -> String {
        self.named_request.map_or_else(request_id, |id| id.to_string())
    }

    /// Whether the caller may be repeating a change, so that its answer may be that of an earlier attempt.
    pub(crate) const fn is_named(&self) -> bool {
        self.named_request.is_some()
    }

    /// What can be said of a put before its bytes are sent.
    pub(crate) fn early<'p>(&self, precondition: Option<&'p Precondition>) -> Option<&'p Precondition> {
        precondition.filter(|_| !self.is_named())
    }

    /// Waits for a share of the memory budget.
    pub(crate) async fn memory(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.memory).acquire_many_owned(self.units(bytes)).await.ok()
    }

    /// A share of the memory budget, if there is one right now.
    pub(crate) fn try_memory(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.memory).try_acquire_many_owned(self.units(bytes)).ok()
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(MEMORY_UNIT_BYTES)).unwrap_or(u32::MAX).min(self.memory_units)
    }
}

/// A fresh id; all attempts of one request share it.
pub(crate) fn request_id() -> String {
    Uuid::new_v4().to_string()
}

impl ObjectClient for Client {
    async fn create_bucket(&self, bucket: &str, options: BucketOptions) -> Result<Bucket> {
        options.check()?;
        let request = proto::CreateBucketRequest {
            request_id: self.shared.change_id(),
            name: bucket_name(bucket)?,
            chunk_size: options.chunk_size.unwrap_or_default(),
            replicas: options.replicas.unwrap_or_default(),
            min_replicas: options.min_replicas.unwrap_or_default(),
            quota_bytes: options.quota_bytes.unwrap_or_default(),
            quota_objects: options.quota_objects.unwrap_or_default(),
            versioning: options.versioning.to_proto(),
        };
        let operation = Operation::CreateBucket;
        let send = |mut meta: Meta, request| async move { meta.create_bucket(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        Bucket::parse(
            reply.map_err(|refusal| refusal.about(operation, bucket, ""))?.bucket,
            operation.label(),
        )
    }

    async fn bucket(&self, bucket: &str) -> Result<Bucket> {
        let request = proto::GetBucketRequest { name: bucket_name(bucket)? };
        let operation = Operation::GetBucket;
        let send = |mut meta: Meta, request| async move { meta.get_bucket(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        Bucket::parse(
            reply.map_err(|refusal| refusal.about(operation, bucket, ""))?.bucket,
            operation.label(),
        )
    }

    async fn buckets(&self, page: Option<String>) -> Result<BucketPage> {
        let request = proto::ListBucketsRequest { page_size: 0, page_token: page.unwrap_or_default() };
        let operation = Operation::ListBuckets;
        let send = |mut meta: Meta, request| async move { meta.list_buckets(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
        let buckets = reply.buckets.into_iter().map(|bucket| Bucket::parse(Some(bucket), operation.label()));
        Ok(BucketPage { buckets: buckets.collect::<Result<_>>()?, next: next_page(reply.next_page_token) })
    }

    async fn update_bucket(&self, bucket: &str, update: BucketUpdate) -> Result<Bucket> {
        update.check()?;
        let request = proto::UpdateBucketRequest {
            request_id: self.shared.change_id(),
            name: bucket_name(bucket)?,
            quota_bytes: update.quota_bytes.to_proto(),
            quota_objects: update.quota_objects.to_proto(),
            versioning: update.versioning.map(Versioning::to_proto),
        };
        let operation = Operation::UpdateBucket;
        let send = |mut meta: Meta, request| async move { meta.update_bucket(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        Bucket::parse(
            reply.map_err(|refusal| refusal.about(operation, bucket, ""))?.bucket,
            operation.label(),
        )
    }

    async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        let request =
            proto::DeleteBucketRequest { request_id: self.shared.change_id(), name: bucket_name(bucket)? };
        let operation = Operation::DeleteBucket;
        let send = |mut meta: Meta, request| async move { meta.delete_bucket(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        reply.map(|_| ()).map_err(|refusal| refusal.about(operation, bucket, ""))
    }

    async fn put<R>(&self, bucket: &str, key: &str, input: R, options: PutOptions) -> Result<PutResult>
    where
        R: AsyncRead + Send + Unpin,
    {
        put::put(&self.shared, bucket, key, input, options).await
    }

    async fn get(&self, bucket: &str, key: &str, options: GetOptions) -> Result<GetStream> {
        get::get(&self.shared, bucket, key, options).await
    }

    async fn stat_with(&self, bucket: &str, key: &str, options: StatOptions) -> Result<Object> {
        let request = proto::HeadObjectRequest {
            name: ObjectName::new(bucket, key)?.resource,
            precondition: Precondition::to_proto(options.precondition.as_ref()),
            version: version_number(options.version)?,
        };
        let operation = Operation::HeadObject;
        let send = |mut meta: Meta, request| async move { meta.head_object(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        Object::parse(
            reply.map_err(|refusal| refusal.about(operation, bucket, key))?.object,
            operation.label(),
        )
    }

    async fn placement(&self, object: &Object) -> Result<Vec<ChunkPlacement>> {
        get::placement(&self.shared, object).await
    }

    async fn list(&self, bucket: &str, options: ListOptions) -> Result<ListPage> {
        let request = proto::ListObjectsRequest {
            parent: bucket_name(bucket)?,
            prefix: options.prefix,
            delimiter: options.delimiter,
            page_size: options.page_size.unwrap_or_default(),
            page_token: options.page.unwrap_or_default(),
            start_after: options.start_after,
            consistent: options.consistent,
        };
        let operation = Operation::ListObjects;
        let send = |mut meta: Meta, request| async move { meta.list_objects(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        let reply = reply.map_err(|refusal| refusal.about(operation, bucket, ""))?;
        let objects = reply.objects.into_iter().map(|object| Object::parse(Some(object), operation.label()));
        Ok(ListPage {
            objects: objects.collect::<Result<_>>()?,
            prefixes: reply.prefixes,
            next: next_page(reply.next_page_token),
            as_of: reply.as_of,
        })
    }

    async fn list_versions(&self, bucket: &str, options: VersionListOptions) -> Result<VersionPage> {
        let request = proto::ListObjectVersionsRequest {
            parent: bucket_name(bucket)?,
            prefix: options.prefix,
            delimiter: options.delimiter,
            page_size: options.page_size.unwrap_or_default(),
            page_token: options.page.unwrap_or_default(),
            consistent: options.consistent,
        };
        let operation = Operation::ListObjectVersions;
        let send = |mut meta: Meta, request| async move { meta.list_object_versions(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        VersionPage::parse(reply.map_err(|refusal| refusal.about(operation, bucket, ""))?, operation.label())
    }

    async fn delete_with(&self, bucket: &str, key: &str, options: DeleteOptions) -> Result<Deleted> {
        let request = proto::DeleteObjectRequest {
            request_id: self.shared.change_id(),
            name: ObjectName::new(bucket, key)?.resource,
            precondition: Precondition::to_proto(options.precondition.as_ref()),
            version: version_number(options.version)?,
        };
        let operation = Operation::DeleteObject;
        let send = |mut meta: Meta, request| async move { meta.delete_object(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        let reply = reply.map_err(|refusal| refusal.about(operation, bucket, key))?;
        let deleted = Deleted::parse(reply, operation.label())?;
        deleted.object.check_name(bucket, key)?;
        Ok(deleted)
    }

    async fn copy(&self, bucket: &str, source: &str, key: &str, options: CopyOptions) -> Result<Object> {
        options.check()?;
        let request = proto::CopyObjectRequest {
            request_id: self.shared.change_id(),
            source: ObjectName::new(bucket, source)?.resource,
            destination: ObjectName::new(bucket, key)?.resource,
            source_precondition: Precondition::to_proto(options.source_precondition.as_ref()),
            precondition: Precondition::to_proto(options.precondition.as_ref()),
            metadata: options.metadata.map(|metadata| metadata.to_proto()),
            source_version: options.source_version.unwrap_or_default(),
        };
        let operation = Operation::CopyObject;
        let send = |mut meta: Meta, request| async move { meta.copy_object(request).await };
        let reply = self.shared.control.call(operation, request, send).await;
        // Only the source can be missing.
        let reply = reply.map_err(|refusal| refusal.about(operation, bucket, source))?;
        let object = Object::parse(reply.object, operation.label())?;
        object.check_name(bucket, key)?;
        Ok(object)
    }

    async fn copy_across(
        &self,
        source: (&str, &str),
        target: (&str, &str),
        options: CopyOptions,
    ) -> Result<PutResult> {
        copy::copy_across(self, source, target, options).await
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<BatchResult>> {
        put::commit_batch(&self.shared, batch).await
    }

    async fn cluster_status(&self) -> Result<ClusterStatus> {
        let mut status = self.status_of().await?;
        for endpoint in self.shared.config.endpoints.iter() {
            // A server that has just started may know of no leader while others do.
            if status.leader_id.is_some() || !self.shared.control.prefer(endpoint) {
                break;
            }
            status = self.status_of().await.unwrap_or(status);
        }
        let leader = status.meta_servers.iter().find(|server| Some(server.id) == status.leader_id);
        match leader {
            // A follower knows less: ask the leader that it names, if that one answers.
            Some(leader) if leader.id != status.server_id && self.shared.control.prefer(&leader.endpoint) => {
                Ok(self.status_of().await.unwrap_or(status))
            }
            _ => Ok(status),
        }
    }

    async fn label_node(&self, node: u32, change: LabelChange) -> Result<Vec<NodeLabel>> {
        placement::label_node(self, node, change).await
    }

    async fn scrub_node(&self, node: u32, action: ScrubAction) -> Result<ScrubAnswer> {
        scrub::scrub_node(self, node, action).await
    }

    async fn explain_placement(
        &self,
        bucket: &str,
        key: &str,
        query: PlacementQuery,
    ) -> Result<PlacementReport> {
        placement::explain(self, bucket, key, query).await
    }

    async fn drain_plan(&self, nodes: &[u32]) -> Result<DrainPlan> {
        placement::plan_drain(self, nodes).await
    }

    async fn drain_node(&self, node: u32, draining: bool) -> Result<()> {
        repair::drain_node(self, node, draining).await
    }

    async fn remove_node(&self, node: u32, options: RemoveNodeOptions) -> Result<u64> {
        repair::remove_node(self, node, options).await
    }

    async fn repair_status(&self) -> Result<RepairStatus> {
        repair::repair_status(self).await
    }

    async fn take_inventory(&self, number: Option<u64>, collect: bool) -> Result<Inventory> {
        inventory::take(self, number, collect).await
    }

    async fn rebalance_status(&self) -> Result<RebalanceStatus> {
        rebalance::status(self).await
    }

    async fn pause_rebalance(&self, paused: bool) -> Result<()> {
        rebalance::pause(self, paused).await
    }

    async fn rebalance_plan(&self) -> Result<RebalancePlan> {
        rebalance::plan(self).await
    }

    async fn close(&self) {
        self.shared.reports.hurry();
        self.shared.cleanups.close();
        if tokio::time::timeout(CLOSE_PATIENCE, self.shared.cleanups.wait()).await.is_err() {
            debug!(
                left = self.shared.cleanups.len(),
                "aborts of puts are left to their leases, and bad replicas to others"
            );
        }
        self.shared.cleanups.reopen();
    }
}

/// Where the next page starts, if there is one.
pub(crate) fn next_page(token: String) -> Option<String> {
    Some(token).filter(|token| !token.is_empty())
}
