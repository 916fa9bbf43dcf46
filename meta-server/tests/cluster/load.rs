use std::time::{Duration, Instant};

use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use xdpfs_proto::meta::v1::{GetBucketRequest, GetBucketResponse};

use crate::harness::{Cluster, Meta, assert_refused, reason};

async fn get(mut meta: Meta, timeout: Option<Duration>) -> Result<GetBucketResponse, tonic::Status> {
    let mut request = Request::new(GetBucketRequest { name: "buckets/photos".into() });
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    meta.get_bucket(request).await.map(tonic::Response::into_inner)
}

/// A leader that has lost the others and has yet to notice: what it is asked waits until its deadline.
async fn lonely_leader(cluster: &mut Cluster) -> u64 {
    let leader = cluster.leader().await;
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.kill(id);
    }
    leader
}

#[tokio::test]
async fn request_beyond_the_limit_is_shed_and_status_is_not() {
    let mut cluster = Cluster::start_with(|config| {
        config.requests_max = 1;
        config.consensus.election_ticks = 400;
    })
    .await;
    let leader = lonely_leader(&mut cluster).await;
    let patience = Some(Duration::from_millis(300));
    let ask = || get(cluster.meta(leader), patience);
    let (one, other, status) = tokio::join!(ask(), ask(), cluster.status_of(leader));
    assert_eq!(status.server_id, leader);
    let (shed, served): (Vec<_>, Vec<_>) =
        [one, other].into_iter().map(Result::unwrap_err).partition(|status| reason(status) == "OVERLOADED");
    assert_eq!((shed.len(), served.len()), (1, 1), "{served:?}");
    let shed = shed[0].clone();
    assert!(shed.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_refused::<()>(Err(shed), Code::ResourceExhausted, "OVERLOADED");
}

#[tokio::test]
async fn request_ends_by_its_deadline() {
    let mut cluster = Cluster::start_with(|config| {
        config.deadline = Duration::from_millis(700);
        config.consensus.election_ticks = 400;
    })
    .await;
    let leader = lonely_leader(&mut cluster).await;
    let check = async |asked: Option<Duration>, expect: Duration| {
        let started = Instant::now();
        let answer = get(cluster.meta(leader), asked).await;
        assert_refused(answer, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
        let took = started.elapsed();
        assert!(
            took > expect - Duration::from_millis(100) && took < expect + Duration::from_millis(400),
            "{took:?}"
        );
    };
    check(Some(Duration::from_millis(400)), Duration::from_millis(400)).await;
    check(None, Duration::from_millis(700)).await;
    check(Some(Duration::from_secs(60)), Duration::from_millis(700)).await;
}
