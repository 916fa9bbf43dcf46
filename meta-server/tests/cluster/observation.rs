use tokio_stream::StreamExt as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use xdpfs_proto::meta::v1::{CreateBucketRequest, GetClusterStatusRequest};

use crate::harness::{Cluster, Meta, PATIENCE, eventually, request_id};

async fn health(cluster: &Cluster, id: u64, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    let mut client = HealthClient::new(cluster.channel(id));
    client.check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn server_is_healthy_while_it_knows_a_leader() {
    let mut cluster = Cluster::start().await;
    for id in cluster.ids() {
        assert_eq!(health(&cluster, id, "").await, ServingStatus::Serving);
        for service in ["xdpfs.meta.v1.MetaService", "xdpfs.node.v1.NodeService"] {
            assert_eq!(health(&cluster, id, service).await, ServingStatus::Serving);
        }
    }
    cluster.kill(1);
    cluster.kill(2);
    eventually("a server that knows no leader", async || {
        (health(&cluster, 3, "xdpfs.meta.v1.MetaService").await == ServingStatus::NotServing).then_some(())
    })
    .await;
    assert_eq!(health(&cluster, 3, "").await, ServingStatus::Serving, "it lives all the same");
}

#[tokio::test]
async fn reflection_names_the_services() {
    let cluster = Cluster::start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(cluster.channel(1));
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for expect in ["xdpfs.meta.v1.MetaService", "xdpfs.node.v1.NodeService", "grpc.health.v1.Health"] {
        assert!(names.contains(&expect), "{names:?}");
    }
}

/// Whoever looked took the state twice; between the two, the thread that changes it had come to wait for both.
#[tokio::test(flavor = "multi_thread")]
async fn cluster_that_is_looked_at_without_a_pause_goes_on() {
    const CHANGES: usize = 200;
    let cluster = Cluster::start().await;
    let mut looking = tokio::task::JoinSet::new();
    for id in cluster.ids() {
        let mut meta = cluster.meta(id);
        looking
            .spawn(async move { while meta.get_cluster_status(GetClusterStatusRequest {}).await.is_ok() {} });
    }
    let changing = async {
        for number in 0..CHANGES {
            let name = format!("buckets/bucket-{number}");
            let request = CreateBucketRequest { request_id: request_id(), name, ..Default::default() };
            let create = async |mut meta: Meta, request| meta.create_bucket(request).await;
            cluster.call(request, create).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, changing).await.expect("changes are applied");
    assert!(looking.try_join_next().is_none(), "all have been answered");
    let status = cluster.status_of(cluster.leader().await).await;
    assert_eq!(status.buckets, CHANGES as u64);
}
