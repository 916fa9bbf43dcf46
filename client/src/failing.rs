//! A client that fails by plan, for the tests of programs that use the SDK.
//!
//! Invariant: what fails, and how, follows from the plan and from the order of the calls alone. Whatever the plan does
//! not name goes to the client inside.

mod plan;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::io::AsyncRead;

pub use self::plan::{Fault, Method, Plan};
use crate::{
    Batch, BatchResult, Bucket, BucketOptions, BucketPage, BucketUpdate, ChunkPlacement, ClusterStatus,
    CopyOptions, DeleteOptions, Deleted, DrainPlan, GetOptions, GetStream, Inventory, LabelChange,
    ListOptions, ListPage, NodeLabel, Object, ObjectClient, PlacementQuery, PlacementReport, PutOptions,
    PutResult, RebalancePlan, RebalanceStatus, RemoveNodeOptions, RepairStatus, ScrubAction, ScrubAnswer,
    StatOptions, VersionListOptions, VersionPage,
    error::{Error, Result},
};

/// An [`ObjectClient`] around another one. Clones share the plan.
///
/// ```
/// use xdpfs_client::{BucketOptions, Error, ObjectClient as _, PutOptions};
/// use xdpfs_client::{failing::{FailingClient, Fault, Method, Plan}, mock::MockClient};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let plan = Plan::default().on(Method::Put, 2, Fault::Refuse(Error::NoSpace));
/// let client = FailingClient::new(MockClient::new(), plan);
/// client.create_bucket("demo", BucketOptions::default()).await.unwrap();
/// let put = |key| client.put_bytes("demo", key, "bytes".into(), PutOptions::default());
/// assert!(put("one").await.is_ok());
/// assert!(matches!(put("two").await, Err(Error::NoSpace)));
/// assert!(put("two").await.is_ok());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct FailingClient<C> {
    inner: C,
    plan: Arc<Mutex<Plan>>,
}

impl<C> FailingClient<C> {
    /// `inner`, failing by `plan`.
    pub fn new(inner: C, plan: Plan) -> Self {
        Self { inner, plan: Arc::new(Mutex::new(plan)) }
    }

    /// The client inside, which never fails by plan.
    pub const fn inner(&self) -> &C {
        &self.inner
    }

    fn next_fault(&self, method: Method) -> Option<Fault> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).next(method)
    }
}

/// Calls the client inside, unless and until the fault says otherwise.
async fn call<T>(fault: Option<Fault>, inner: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        None => inner.await,
        Some(Fault::Refuse(error)) => Err(error),
        // Only the bytes of a get can be cut; of anything else the answer is lost.
        Some(Fault::Cut { error, .. } | Fault::LoseAnswer(error)) => inner.await.and(Err(error)),
    }
}

/// Gives `length` bytes of `stream`, then `error`.
fn cut(stream: GetStream, length: u64, error: Error) -> GetStream {
    let (object, range) = (stream.object().clone(), stream.range());
    let mut left = length;
    let shortened = stream.map(move |block| {
        block.map(|mut bytes| {
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= bytes.len() as u64;
            bytes
        })
    });
    let given = shortened.take_while(|block| {
        let is_spent = block.as_ref().is_ok_and(Bytes::is_empty);
        async move { !is_spent }
    });
    GetStream::new(object, range, given.chain(stream::once(async move { Err(error) })))
}

impl<C: ObjectClient> ObjectClient for FailingClient<C> {
    async fn create_bucket(&self, bucket: &str, options: BucketOptions) -> Result<Bucket> {
        call(self.next_fault(Method::CreateBucket), self.inner.create_bucket(bucket, options)).await
    }

    async fn bucket(&self, bucket: &str) -> Result<Bucket> {
        call(self.next_fault(Method::Bucket), self.inner.bucket(bucket)).await
    }

    async fn buckets(&self, page: Option<String>) -> Result<BucketPage> {
        call(self.next_fault(Method::Buckets), self.inner.buckets(page)).await
    }

    async fn update_bucket(&self, bucket: &str, update: BucketUpdate) -> Result<Bucket> {
        call(self.next_fault(Method::UpdateBucket), self.inner.update_bucket(bucket, update)).await
    }

    async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        call(self.next_fault(Method::DeleteBucket), self.inner.delete_bucket(bucket)).await
    }

    async fn put<R>(&self, bucket: &str, key: &str, input: R, options: PutOptions) -> Result<PutResult>
    where
        R: AsyncRead + Send + Unpin,
    {
        call(self.next_fault(Method::Put), self.inner.put(bucket, key, input, options)).await
    }

    async fn get(&self, bucket: &str, key: &str, options: GetOptions) -> Result<GetStream> {
        match self.next_fault(Method::Get) {
            Some(Fault::Cut { after, error }) => {
                Ok(cut(self.inner.get(bucket, key, options).await?, after, error))
            }
            fault => call(fault, self.inner.get(bucket, key, options)).await,
        }
    }

    async fn stat_with(&self, bucket: &str, key: &str, options: StatOptions) -> Result<Object> {
        call(self.next_fault(Method::Stat), self.inner.stat_with(bucket, key, options)).await
    }

    async fn placement(&self, object: &Object) -> Result<Vec<ChunkPlacement>> {
        call(self.next_fault(Method::Placement), self.inner.placement(object)).await
    }

    async fn list(&self, bucket: &str, options: ListOptions) -> Result<ListPage> {
        call(self.next_fault(Method::List), self.inner.list(bucket, options)).await
    }

    async fn list_versions(&self, bucket: &str, options: VersionListOptions) -> Result<VersionPage> {
        call(self.next_fault(Method::ListVersions), self.inner.list_versions(bucket, options)).await
    }

    async fn delete_with(&self, bucket: &str, key: &str, options: DeleteOptions) -> Result<Deleted> {
        call(self.next_fault(Method::Delete), self.inner.delete_with(bucket, key, options)).await
    }

    async fn copy(&self, bucket: &str, source: &str, key: &str, options: CopyOptions) -> Result<Object> {
        call(self.next_fault(Method::Copy), self.inner.copy(bucket, source, key, options)).await
    }

    async fn copy_across(
        &self,
        source: (&str, &str),
        target: (&str, &str),
        options: CopyOptions,
    ) -> Result<PutResult> {
        call(self.next_fault(Method::CopyAcross), self.inner.copy_across(source, target, options)).await
    }

    async fn commit(&self, batch: Batch) -> Result<Vec<BatchResult>> {
        call(self.next_fault(Method::Commit), self.inner.commit(batch)).await
    }

    async fn cluster_status(&self) -> Result<ClusterStatus> {
        call(self.next_fault(Method::ClusterStatus), self.inner.cluster_status()).await
    }

    async fn label_node(&self, node: u32, change: LabelChange) -> Result<Vec<NodeLabel>> {
        call(self.next_fault(Method::LabelNode), self.inner.label_node(node, change)).await
    }

    async fn scrub_node(&self, node: u32, action: ScrubAction) -> Result<ScrubAnswer> {
        call(self.next_fault(Method::ScrubNode), self.inner.scrub_node(node, action)).await
    }

    async fn explain_placement(
        &self,
        bucket: &str,
        key: &str,
        query: PlacementQuery,
    ) -> Result<PlacementReport> {
        let explained = self.inner.explain_placement(bucket, key, query);
        call(self.next_fault(Method::ExplainPlacement), explained).await
    }

    async fn drain_plan(&self, nodes: &[u32]) -> Result<DrainPlan> {
        call(self.next_fault(Method::DrainPlan), self.inner.drain_plan(nodes)).await
    }

    async fn drain_node(&self, node: u32, draining: bool) -> Result<()> {
        call(self.next_fault(Method::DrainNode), self.inner.drain_node(node, draining)).await
    }

    async fn remove_node(&self, node: u32, options: RemoveNodeOptions) -> Result<u64> {
        call(self.next_fault(Method::RemoveNode), self.inner.remove_node(node, options)).await
    }

    async fn repair_status(&self) -> Result<RepairStatus> {
        call(self.next_fault(Method::RepairStatus), self.inner.repair_status()).await
    }

    async fn take_inventory(&self, number: Option<u64>, collect: bool) -> Result<Inventory> {
        call(self.next_fault(Method::TakeInventory), self.inner.take_inventory(number, collect)).await
    }

    async fn rebalance_status(&self) -> Result<RebalanceStatus> {
        call(self.next_fault(Method::RebalanceStatus), self.inner.rebalance_status()).await
    }

    async fn pause_rebalance(&self, paused: bool) -> Result<()> {
        call(self.next_fault(Method::PauseRebalance), self.inner.pause_rebalance(paused)).await
    }

    async fn rebalance_plan(&self) -> Result<RebalancePlan> {
        call(self.next_fault(Method::RebalancePlan), self.inner.rebalance_plan()).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[cfg(test)]
mod tests;
