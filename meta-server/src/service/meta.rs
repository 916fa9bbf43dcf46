//! The gRPC side of `xdpfs.meta.v1.MetaService`. What the methods do is in the other files of this folder.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use xdpfs_proto::meta::v1::{meta_service_server::MetaService, *};

use super::Gateway;

#[derive(Debug)]
pub(super) struct MetaFrontend(pub(super) Arc<Gateway>);

macro_rules! methods {
    ($($name:ident: $request:ident => $response:ident,)*) => {
        #[tonic::async_trait]
        impl MetaService for MetaFrontend {
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.0.serve(request, |call| self.0.$name(call)).await
            })*

            async fn get_cluster_status(
                &self,
                request: Request<GetClusterStatusRequest>,
            ) -> Result<Response<GetClusterStatusResponse>, Status> {
                // Any server answers, by the keys that it has heard of.
                self.0.enter(&self.0.accept(request)).await?;
                Ok(Response::new(self.0.cluster_status()))
            }
        }
    };
}

methods! {
    create_bucket: CreateBucketRequest => CreateBucketResponse,
    get_bucket: GetBucketRequest => GetBucketResponse,
    list_buckets: ListBucketsRequest => ListBucketsResponse,
    update_bucket: UpdateBucketRequest => UpdateBucketResponse,
    delete_bucket: DeleteBucketRequest => DeleteBucketResponse,
    begin_put: BeginPutRequest => BeginPutResponse,
    extend_put: ExtendPutRequest => ExtendPutResponse,
    commit_put: CommitPutRequest => CommitPutResponse,
    abort_put: AbortPutRequest => AbortPutResponse,
    get_object: GetObjectRequest => GetObjectResponse,
    head_object: HeadObjectRequest => HeadObjectResponse,
    list_objects: ListObjectsRequest => ListObjectsResponse,
    list_object_versions: ListObjectVersionsRequest => ListObjectVersionsResponse,
    delete_object: DeleteObjectRequest => DeleteObjectResponse,
    label_node: LabelNodeRequest => LabelNodeResponse,
    scrub_node: ScrubNodeRequest => ScrubNodeResponse,
    explain_placement: ExplainPlacementRequest => ExplainPlacementResponse,
    plan_drain: PlanDrainRequest => PlanDrainResponse,
    drain_node: DrainNodeRequest => DrainNodeResponse,
    remove_node: RemoveNodeRequest => RemoveNodeResponse,
    get_repair_status: GetRepairStatusRequest => GetRepairStatusResponse,
    take_inventory: TakeInventoryRequest => TakeInventoryResponse,
    get_rebalance_status: GetRebalanceStatusRequest => GetRebalanceStatusResponse,
    pause_rebalance: PauseRebalanceRequest => PauseRebalanceResponse,
    plan_rebalance: PlanRebalanceRequest => PlanRebalanceResponse,
    report_replicas: ReportReplicasRequest => ReportReplicasResponse,
    copy_object: CopyObjectRequest => CopyObjectResponse,
    begin_copy: BeginCopyRequest => BeginCopyResponse,
    continue_copy: ContinueCopyRequest => ContinueCopyResponse,
    commit_batch: CommitBatchRequest => CommitBatchResponse,
}
