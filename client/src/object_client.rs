//! What every client of an object store can do: the real one, the one in memory, and decorators around both.

use std::future::Future;

use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::{
    Batch, BatchResult, Bucket, BucketOptions, BucketPage, BucketUpdate, ChunkPlacement, ClusterStatus,
    CopyOptions, DeleteOptions, Deleted, DrainPlan, GetOptions, GetStream, Inventory, LabelChange,
    ListOptions, ListPage, NodeLabel, Object, ObjectWriter, PlacementQuery, PlacementReport, Precondition,
    PutOptions, PutResult, RebalancePlan, RebalanceStatus, RemoveNodeOptions, RepairStatus, ScrubAction,
    ScrubAnswer, StatOptions, VersionListOptions, VersionPage, error::Result,
};

/// Objects by bucket and key. Clones share connections and are cheap.
pub trait ObjectClient: Clone + Send + Sync + 'static {
    /// Makes a bucket.
    fn create_bucket(
        &self,
        bucket: &str,
        options: BucketOptions,
    ) -> impl Future<Output = Result<Bucket>> + Send;

    /// A bucket and its settings.
    fn bucket(&self, bucket: &str) -> impl Future<Output = Result<Bucket>> + Send;

    /// Buckets in the order of their names, from the page that `next` of the page before names.
    fn buckets(&self, page: Option<String>) -> impl Future<Output = Result<BucketPage>> + Send;

    /// Changes how much a bucket may hold. Less than it holds is good: then nothing can be added.
    fn update_bucket(
        &self,
        bucket: &str,
        update: BucketUpdate,
    ) -> impl Future<Output = Result<Bucket>> + Send;

    /// Removes an empty bucket.
    fn delete_bucket(&self, bucket: &str) -> impl Future<Output = Result<()>> + Send;

    /// Stores what `input` gives until its end. Nothing is visible before the put returns; dropping the future gives
    /// the put up.
    fn put<R>(
        &self,
        bucket: &str,
        key: &str,
        input: R,
        options: PutOptions,
    ) -> impl Future<Output = Result<PutResult>> + Send
    where
        R: AsyncRead + Send + Unpin;

    /// Stores `data`.
    fn put_bytes(
        &self,
        bucket: &str,
        key: &str,
        data: Bytes,
        options: PutOptions,
    ) -> impl Future<Output = Result<PutResult>> + Send {
        async move {
            let options = PutOptions { size_hint: Some(data.len() as u64), ..options };
            self.put(bucket, key, data.as_ref(), options).await
        }
    }

    /// A writer whose bytes become the object when it is finished; dropping it gives the put up.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn writer(&self, bucket: &str, key: &str, options: PutOptions) -> ObjectWriter {
        ObjectWriter::start(self.clone(), bucket.to_owned(), key.to_owned(), options)
    }

    /// Reads one version of an object, or a range of it. The first bytes are at hand when this returns.
    fn get(
        &self,
        bucket: &str,
        key: &str,
        options: GetOptions,
    ) -> impl Future<Output = Result<GetStream>> + Send;

    /// What a key holds, without its bytes.
    fn stat(
        &self,
        bucket: &str,
        key: &str,
        precondition: Option<Precondition>,
    ) -> impl Future<Output = Result<Object>> + Send {
        self.stat_with(bucket, key, StatOptions { precondition, version: None })
    }

    /// What a key holds, or a version of it, without its bytes.
    fn stat_with(
        &self,
        bucket: &str,
        key: &str,
        options: StatOptions,
    ) -> impl Future<Output = Result<Object>> + Send;

    /// Where the chunks of an object lie, for exactly the version that `object` says.
    fn placement(&self, object: &Object) -> impl Future<Output = Result<Vec<ChunkPlacement>>> + Send;

    /// One page of keys; [`objects`](crate::objects) gives them all.
    fn list(&self, bucket: &str, options: ListOptions) -> impl Future<Output = Result<ListPage>> + Send;

    /// One page of versions and delete markers; [`object_versions`](crate::object_versions) gives them all.
    fn list_versions(
        &self,
        bucket: &str,
        options: VersionListOptions,
    ) -> impl Future<Output = Result<VersionPage>> + Send;

    /// Removes a key and gives what it held. Where versioning is on, that stays as an older version.
    fn delete(
        &self,
        bucket: &str,
        key: &str,
        precondition: Option<Precondition>,
    ) -> impl Future<Output = Result<Object>> + Send {
        async move {
            let options = DeleteOptions { precondition, version: None };
            self.delete_with(bucket, key, options).await.map(|deleted| deleted.object)
        }
    }

    /// Removes a key, or a version of it for good.
    fn delete_with(
        &self,
        bucket: &str,
        key: &str,
        options: DeleteOptions,
    ) -> impl Future<Output = Result<Deleted>> + Send;

    /// Another key of the same bucket gets what `source` holds. No byte moves: both share their chunks.
    fn copy(
        &self,
        bucket: &str,
        source: &str,
        key: &str,
        options: CopyOptions,
    ) -> impl Future<Output = Result<Object>> + Send;

    /// A key of another bucket gets what `source`, a bucket and a key, holds: data nodes fetch the bytes from each other, and
    /// none goes through this client. [`Error::Unsupported`](crate::Error::Unsupported) where servers or nodes are too old
    /// for that; [`copy_anywhere`](crate::copy_anywhere) then finds another way.
    fn copy_across(
        &self,
        source: (&str, &str),
        target: (&str, &str),
        options: CopyOptions,
    ) -> impl Future<Output = Result<PutResult>> + Send;

    /// Does everything that the batch says, or nothing of it. Gives one result for each operation, in their order; of a
    /// refusal, [`Error::BatchRefused`](crate::Error::BatchRefused) says which operation was at fault.
    fn commit(&self, batch: Batch) -> impl Future<Output = Result<Vec<BatchResult>>> + Send;

    /// The cluster as its leader sees it.
    fn cluster_status(&self) -> impl Future<Output = Result<ClusterStatus>> + Send;

    /// Sets labels of a data node, or takes back what was set before; gives the labels that hold then.
    fn label_node(
        &self,
        node: u32,
        change: LabelChange,
    ) -> impl Future<Output = Result<Vec<NodeLabel>>> + Send;

    /// Has a data node start, hold or resume the check of all that it holds. It is told with its next heartbeat.
    /// [`Error::Unsupported`](crate::Error::Unsupported) where it has none, or the servers don't know of it.
    fn scrub_node(&self, node: u32, action: ScrubAction) -> impl Future<Output = Result<ScrubAnswer>> + Send;

    /// Where the chunks of an object lie and how well they are spread; of a key that holds nothing, where its chunks
    /// would go now, and why.
    fn explain_placement(
        &self,
        bucket: &str,
        key: &str,
        query: PlacementQuery,
    ) -> impl Future<Output = Result<PlacementReport>> + Send;

    /// What it would take to free data nodes of their chunks. It moves nothing.
    fn drain_plan(&self, nodes: &[u32]) -> impl Future<Output = Result<DrainPlan>> + Send;

    /// What the data node holds goes elsewhere, and it gets no new chunks; or no longer so. How far that is says
    /// [`repair_status`](Self::repair_status).
    fn drain_node(&self, node: u32, draining: bool) -> impl Future<Output = Result<()>> + Send;

    /// The data node never takes part again. Gives how many replicas it was believed to hold.
    fn remove_node(&self, node: u32, options: RemoveNodeOptions) -> impl Future<Output = Result<u64>> + Send;

    /// What lacks replicas, and how far its repair is.
    fn repair_status(&self) -> impl Future<Output = Result<RepairStatus>> + Send;

    /// What manifests say, held against what data nodes hold: goes on with the inventory of this number, joins the one that is
    /// under way, or begins one; call it until it is complete. With `collect`, replicas that nothing refers to are removed after
    /// the usual grace.
    fn take_inventory(
        &self,
        number: Option<u64>,
        collect: bool,
    ) -> impl Future<Output = Result<Inventory>> + Send;

    /// How evenly full data nodes are, and how far their rebalancing is.
    fn rebalance_status(&self) -> impl Future<Output = Result<RebalanceStatus>> + Send;

    /// Nothing is moved any more only so that data nodes are evenly full; or it is again.
    fn pause_rebalance(&self, paused: bool) -> impl Future<Output = Result<()>> + Send;

    /// What rebalancing would move if it began now. It moves nothing.
    fn rebalance_plan(&self) -> impl Future<Output = Result<RebalancePlan>> + Send;

    /// Waits, for a few seconds at most, until puts that were given up are cleaned away.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
