//! Servers of two releases in one cluster: what the earlier one can't do waits until it is gone, and then needs nobody.

use tonic::{Code, Status};
use xdpfs_meta_server::{Config, Halt, state_machine::FeatureLevel};
use xdpfs_proto::{members::v1::TransferLeadershipRequest, meta::v1::CreateBucketRequest};

use crate::harness::{Cluster, Members, PATIENCE, assert_refused, eventually, request_id};

/// A program that supports no more than the release before levels.
fn earlier(config: &mut Config) {
    config.consensus.feature_level_max = FeatureLevel::FIRST;
}

fn present(cluster: &Cluster, id: u64) -> Config {
    let mut config = cluster.config(id);
    config.consensus.feature_level_max = FeatureLevel::SUPPORTED;
    config
}

async fn start_present(cluster: &mut Cluster, id: u64) {
    cluster.stop(id).await;
    cluster.start_server(present(cluster, id)).await;
}

async fn create(cluster: &Cluster, bucket: &str, quota_bytes: u64) -> Result<(), Status> {
    let request = CreateBucketRequest {
        request_id: request_id(),
        name: format!("buckets/{bucket}"),
        quota_bytes,
        ..CreateBucketRequest::default()
    };
    cluster.call(request, async |mut meta, request| meta.create_bucket(request).await).await?;
    Ok(())
}

#[tokio::test]
async fn cluster_rises_when_the_last_server_can_do_more_and_refuses_that_before() {
    let mut cluster = Cluster::start_with(earlier).await;
    start_present(&mut cluster, 1).await;
    start_present(&mut cluster, 2).await;
    let transfer = TransferLeadershipRequest { request_id: request_id(), id: 1 };
    let send = async |mut members: Members, request| members.transfer_leadership(request).await;
    cluster.members_call(transfer, send).await.unwrap();

    eventually("the new leader to hear what the others run", async || {
        let status = cluster.status_of(1).await;
        let levels: Vec<_> = status.meta_servers.iter().map(|server| server.feature_level).collect();
        let supported = Some(FeatureLevel::SUPPORTED.0);
        (status.leader_id == 1 && levels == [supported, supported, Some(0)]).then_some(())
    })
    .await;
    create(&cluster, "plain", 0).await.unwrap();
    let refused = create(&cluster, "bounded", 1 << 20).await;
    let words = refused.as_ref().unwrap_err().message().to_owned();
    assert!(
        words.starts_with("a quota needs feature level 1, and the cluster is at feature level 0"),
        "{words}"
    );
    assert!(words.contains("on metadata server 3 (of release "), "{words}");
    assert_refused(refused, Code::FailedPrecondition, "FEATURE_LEVEL_TOO_LOW");
    assert_eq!(cluster.status_of(1).await.feature_level, 0);

    start_present(&mut cluster, 3).await;
    eventually("the cluster to rise", async || create(&cluster, "bounded", 1 << 20).await.ok()).await;
    cluster.voters_are(&[1, 2, 3]).await;
    for id in cluster.ids() {
        eventually("all servers to know", async || {
            (cluster.status_of(id).await.feature_level == FeatureLevel::SUPPORTED.0).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn new_cluster_begins_at_the_highest_level() {
    let cluster = Cluster::start_one().await;
    create(&cluster, "bounded", 1 << 20).await.unwrap();
    let status = cluster.status_of(1).await;
    assert_eq!(status.feature_level, FeatureLevel::SUPPORTED.0);
    assert_eq!(status.meta_servers[0].feature_level, Some(FeatureLevel::SUPPORTED.0));
    assert!(!status.meta_servers[0].version.is_empty());
}

#[tokio::test]
async fn server_of_an_earlier_release_stops_in_a_cluster_that_has_gone_on() {
    let mut cluster = Cluster::start().await;
    create(&cluster, "bounded", 1 << 20).await.unwrap();
    cluster.stop(3).await;
    let mut config = cluster.config(3);
    earlier(&mut config);
    cluster.start_server(config).await;
    let halt = cluster.halted(3).await;
    assert!(halt.to_string().contains("start the later release"), "{halt}");
    assert!(matches!(halt, Halt::Unsupported { .. } | Halt::TooOld { .. }), "{halt}");
    create(&cluster, "other", 0).await.unwrap();

    // What it has is still good.
    start_present(&mut cluster, 3).await;
    eventually("it to catch up", async || {
        let (status, leader) = (cluster.status_of(3).await, cluster.leader().await);
        let ahead = cluster.status_of(leader).await.commit_index;
        (status.applied_index >= ahead && status.buckets == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn server_of_an_earlier_release_does_not_join() {
    let mut cluster = Cluster::start().await;
    let refused = cluster.try_join(earlier).await.unwrap_err();
    let words = refused.to_string();
    assert!(words.contains("the server that joins supports feature level 0"), "{words}");
    assert!(words.contains("start the later release there"), "{words}");
    tokio::time::timeout(PATIENCE, cluster.join(false)).await.unwrap();
}
