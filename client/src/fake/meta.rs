//! The metadata service in memory: answers from the state, unless a test has laid out another answer.

use std::{
    collections::VecDeque,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use tonic::{Code, Request, Response, Status};
use xdpfs_proto::meta::v1::{self as proto, meta_service_server::MetaService};

use super::state::{State, refuse};
use crate::{access_key::AccessKey, control::Operation};

/// What a server does instead of answering from the state.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Fails with no effect.
    Fail(Status),
    /// Never answers.
    Hang,
    /// Does what it is asked to, but fails all the same.
    Lose(Status),
}

/// One server of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct FakeMeta {
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    answers: VecDeque<Answer>,
    /// The answer to everything once `answers` is used up.
    forever: Option<Answer>,
    /// What was asked, in full.
    requests: Vec<(Operation, String)>,
    /// Whom the server takes for the leader.
    leader_id: u64,
    /// What callers have to show.
    access_key: Option<AccessKey>,
}

impl FakeMeta {
    pub(super) fn new(state: &Arc<Mutex<State>>) -> Self {
        Self { state: Arc::clone(state), script: Arc::default() }
    }

    /// Answers so to the requests that follow, one by one.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.with_script(|script| script.answers.extend(answers));
    }

    /// Answers so to all requests that follow; `None`: from the state again.
    pub(crate) fn answer_always(&self, answer: Option<Answer>) {
        self.with_script(|script| script.forever = answer);
    }

    /// Takes the server of this id for the leader from now on.
    pub(crate) fn follow(&self, leader_id: u64) {
        self.with_script(|script| script.leader_id = leader_id);
    }

    /// Serves nobody from now on who does not show this key.
    pub(crate) fn require(&self, access_key: AccessKey) {
        self.with_script(|script| script.access_key = Some(access_key));
    }

    /// The requests so far, each in full.
    pub(crate) fn requests(&self) -> Vec<(Operation, String)> {
        self.with_script(|script| script.requests.clone())
    }

    pub(crate) fn count(&self, operation: Operation) -> usize {
        self.requests().iter().filter(|(asked, _)| *asked == operation).count()
    }

    fn with_script<T>(&self, act: impl FnOnce(&mut Script) -> T) -> T {
        act(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn serve<Req: Debug, Res>(
        &self,
        operation: Operation,
        request: Request<Req>,
        act: impl FnOnce(&mut State, Req) -> Result<Res, Status>,
    ) -> Result<Response<Res>, Status> {
        let shown = request.metadata().get("authorization").cloned();
        let request = request.into_inner();
        let wanted = self.with_script(|script| script.access_key.as_ref().map(AccessKey::authorization));
        let answer = self.with_script(|script| {
            script.requests.push((operation, format!("{request:?}")));
            script.answers.pop_front().or_else(|| script.forever.clone())
        });
        if wanted.is_some() && wanted != shown {
            let reason = if shown.is_some() { "ACCESS_KEY_INVALID" } else { "ACCESS_KEY_MISSING" };
            return Err(refuse(Code::Unauthenticated, reason));
        }
        let act = |request| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.before(operation);
            act(&mut state, request).map(Response::new)
        };
        match answer {
            None => act(request),
            Some(Answer::Fail(status)) => Err(status),
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Lose(status)) => act(request).and(Err(status)),
        }
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl MetaService for FakeMeta {
    async fn create_bucket(
        &self,
        ask: Request<proto::CreateBucketRequest>,
    ) -> Reply<proto::CreateBucketResponse> {
        self.serve(Operation::CreateBucket, ask, State::create_bucket).await
    }

    async fn get_bucket(&self, ask: Request<proto::GetBucketRequest>) -> Reply<proto::GetBucketResponse> {
        self.serve(Operation::GetBucket, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn list_buckets(
        &self,
        ask: Request<proto::ListBucketsRequest>,
    ) -> Reply<proto::ListBucketsResponse> {
        self.serve(Operation::ListBuckets, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn update_bucket(
        &self,
        ask: Request<proto::UpdateBucketRequest>,
    ) -> Reply<proto::UpdateBucketResponse> {
        self.serve(Operation::UpdateBucket, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn delete_bucket(
        &self,
        ask: Request<proto::DeleteBucketRequest>,
    ) -> Reply<proto::DeleteBucketResponse> {
        self.serve(Operation::DeleteBucket, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn begin_put(&self, ask: Request<proto::BeginPutRequest>) -> Reply<proto::BeginPutResponse> {
        self.serve(Operation::BeginPut, ask, State::begin_put).await
    }

    async fn extend_put(&self, ask: Request<proto::ExtendPutRequest>) -> Reply<proto::ExtendPutResponse> {
        self.serve(Operation::ExtendPut, ask, State::extend_put).await
    }

    async fn commit_put(&self, ask: Request<proto::CommitPutRequest>) -> Reply<proto::CommitPutResponse> {
        self.serve(Operation::CommitPut, ask, State::commit_put).await
    }

    async fn abort_put(&self, ask: Request<proto::AbortPutRequest>) -> Reply<proto::AbortPutResponse> {
        self.serve(Operation::AbortPut, ask, State::abort_put).await
    }

    async fn get_object(&self, ask: Request<proto::GetObjectRequest>) -> Reply<proto::GetObjectResponse> {
        self.serve(Operation::GetObject, ask, State::get_object).await
    }

    async fn head_object(&self, ask: Request<proto::HeadObjectRequest>) -> Reply<proto::HeadObjectResponse> {
        self.serve(Operation::HeadObject, ask, State::head_object).await
    }

    async fn list_objects(
        &self,
        ask: Request<proto::ListObjectsRequest>,
    ) -> Reply<proto::ListObjectsResponse> {
        self.serve(Operation::ListObjects, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn list_object_versions(
        &self,
        ask: Request<proto::ListObjectVersionsRequest>,
    ) -> Reply<proto::ListObjectVersionsResponse> {
        self.serve(Operation::ListObjectVersions, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn delete_object(
        &self,
        ask: Request<proto::DeleteObjectRequest>,
    ) -> Reply<proto::DeleteObjectResponse> {
        self.serve(Operation::DeleteObject, ask, State::delete_object).await
    }

    async fn label_node(&self, ask: Request<proto::LabelNodeRequest>) -> Reply<proto::LabelNodeResponse> {
        let labels = |ask: proto::LabelNodeRequest| {
            let label = |(key, value)| proto::NodeLabel { key, value, by_operator: true };
            ask.set.into_iter().map(label).collect()
        };
        self.serve(Operation::LabelNode, ask, |_, ask| Ok(proto::LabelNodeResponse { labels: labels(ask) }))
            .await
    }

    async fn scrub_node(&self, ask: Request<proto::ScrubNodeRequest>) -> Reply<proto::ScrubNodeResponse> {
        self.serve(Operation::ScrubNode, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn explain_placement(
        &self,
        ask: Request<proto::ExplainPlacementRequest>,
    ) -> Reply<proto::ExplainPlacementResponse> {
        self.serve(Operation::ExplainPlacement, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn plan_drain(&self, ask: Request<proto::PlanDrainRequest>) -> Reply<proto::PlanDrainResponse> {
        self.serve(Operation::PlanDrain, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn drain_node(&self, ask: Request<proto::DrainNodeRequest>) -> Reply<proto::DrainNodeResponse> {
        self.serve(Operation::DrainNode, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn remove_node(&self, ask: Request<proto::RemoveNodeRequest>) -> Reply<proto::RemoveNodeResponse> {
        self.serve(Operation::RemoveNode, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn get_repair_status(
        &self,
        ask: Request<proto::GetRepairStatusRequest>,
    ) -> Reply<proto::GetRepairStatusResponse> {
        self.serve(Operation::GetRepairStatus, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn take_inventory(
        &self,
        ask: Request<proto::TakeInventoryRequest>,
    ) -> Reply<proto::TakeInventoryResponse> {
        self.serve(Operation::TakeInventory, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn get_rebalance_status(
        &self,
        ask: Request<proto::GetRebalanceStatusRequest>,
    ) -> Reply<proto::GetRebalanceStatusResponse> {
        self.serve(Operation::GetRebalanceStatus, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn pause_rebalance(
        &self,
        ask: Request<proto::PauseRebalanceRequest>,
    ) -> Reply<proto::PauseRebalanceResponse> {
        self.serve(Operation::PauseRebalance, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn plan_rebalance(
        &self,
        ask: Request<proto::PlanRebalanceRequest>,
    ) -> Reply<proto::PlanRebalanceResponse> {
        self.serve(Operation::PlanRebalance, ask, |_, _| Err(Status::unimplemented(""))).await
    }

    async fn report_replicas(
        &self,
        ask: Request<proto::ReportReplicasRequest>,
    ) -> Reply<proto::ReportReplicasResponse> {
        self.serve(Operation::ReportReplicas, ask, State::note_reported).await
    }

    async fn begin_copy(&self, ask: Request<proto::BeginCopyRequest>) -> Reply<proto::BeginCopyResponse> {
        self.serve(Operation::BeginCopy, ask, State::begin_copy).await
    }

    async fn continue_copy(
        &self,
        ask: Request<proto::ContinueCopyRequest>,
    ) -> Reply<proto::ContinueCopyResponse> {
        self.serve(Operation::ContinueCopy, ask, State::continue_copy).await
    }

    async fn copy_object(&self, ask: Request<proto::CopyObjectRequest>) -> Reply<proto::CopyObjectResponse> {
        self.serve(Operation::CopyObject, ask, State::copy_object).await
    }

    async fn commit_batch(
        &self,
        ask: Request<proto::CommitBatchRequest>,
    ) -> Reply<proto::CommitBatchResponse> {
        self.serve(Operation::CommitBatch, ask, State::commit_batch).await
    }

    async fn get_cluster_status(
        &self,
        ask: Request<proto::GetClusterStatusRequest>,
    ) -> Reply<proto::GetClusterStatusResponse> {
        let leader_id = self.with_script(|script| script.leader_id);
        let status = proto::GetClusterStatusResponse { leader_id, ..Default::default() };
        self.serve(Operation::GetClusterStatus, ask, |_, _| Ok(status)).await
    }
}
