//! Administration at a listener of its own.

use std::time::Duration;

use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;
use xdpfs_client::{AccessControl as _, Client, ClientConfig, ObjectClient as _, PutOptions};
use xdpfs_proto::{
    access::v1::{ListAccessKeysRequest, RotateKeyEpochRequest, access_service_client::AccessServiceClient},
    members::v1::{ListMembersRequest, ReserveMemberRequest, members_service_client::MembersServiceClient},
    meta::v1::{
        BeginPutRequest, CreateBucketRequest, GetBucketRequest, GetBucketResponse, GetClusterStatusRequest,
        meta_service_client::MetaServiceClient,
    },
    node::v1::{RouteRequest, node_service_client::NodeServiceClient},
};

use crate::harness::{Cluster, assert_refused, eventually, request_id};

async fn cluster() -> Cluster {
    Cluster::start_with(|config| config.listen_admin = Some("127.0.0.1:0".parse().unwrap())).await
}

/// A request whose message never comes: it keeps its room until its deadline.
async fn dawdle(channel: Channel) -> Result<GetBucketResponse, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = "/xdpfs.meta.v1.MetaService/GetBucket".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<GetBucketRequest, GetBucketResponse>::default();
    let nothing = Request::new(tokio_stream::pending());
    client.client_streaming(nothing, path, codec).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn clients_take_no_room_from_administrators() {
    const ROOM: usize = 3;
    let cluster = Cluster::start_with(|config| {
        config.listen_admin = Some("127.0.0.1:0".parse().unwrap());
        config.requests_max = ROOM;
    })
    .await;
    let leader = cluster.leader().await;
    let mut crowd = tokio::task::JoinSet::new();
    let client = cluster.meta(leader);
    let ask = async || {
        let request = GetBucketRequest { name: "buckets/none".into() };
        client.clone().get_bucket(request).await.unwrap_err()
    };
    let shed = eventually("all the room to be taken", async || {
        crowd.spawn(dawdle(cluster.channel(leader)));
        let status = ask().await;
        (status.code() == Code::ResourceExhausted).then_some(status)
    })
    .await;
    assert!(shed.get_details_retry_info().unwrap().retry_delay.is_some());
    let mut access = AccessServiceClient::new(cluster.admin_channel(leader));
    for _ in 0..20 {
        crowd.spawn(dawdle(cluster.channel(leader)));
        access.list_access_keys(ListAccessKeysRequest::default()).await.unwrap();
    }
    access.rotate_key_epoch(RotateKeyEpochRequest { request_id: request_id() }).await.unwrap();
    let status = MetaServiceClient::new(cluster.admin_channel(leader));
    let status = { status }.get_cluster_status(GetClusterStatusRequest {}).await.unwrap();
    assert_eq!(status.get_ref().leader_id, leader, "what is between servers has its own way, too");
    while let Some(ended) = crowd.try_join_next() {
        ended.unwrap().expect_err("nobody of the crowd is served");
    }
}

#[tokio::test]
async fn each_listener_takes_what_is_its_own() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let (clients, admin) = (cluster.channel(leader), cluster.admin_channel(leader));
    let wrong = |refused| assert_refused(refused, Code::FailedPrecondition, "WRONG_LISTENER");

    let keys = ListAccessKeysRequest::default();
    wrong(AccessServiceClient::new(clients.clone()).list_access_keys(keys.clone()).await.map(drop));
    AccessServiceClient::new(admin.clone()).list_access_keys(keys).await.unwrap();
    let reserve = ReserveMemberRequest { request_id: request_id(), ..Default::default() };
    wrong(MembersServiceClient::new(clients.clone()).reserve_member(reserve).await.map(drop));
    let put = BeginPutRequest { name: "buckets/b/objects/k".into(), ..Default::default() };
    wrong(MetaServiceClient::new(admin.clone()).begin_put(put).await.map(drop));

    let mut buckets = Vec::new();
    for channel in [&clients, &admin] {
        let mut meta = MetaServiceClient::new(channel.clone());
        let name = format!("buckets/number-{}", buckets.len());
        let create =
            CreateBucketRequest { name: name.clone(), request_id: request_id(), ..Default::default() };
        meta.create_bucket(create).await.unwrap();
        buckets.push(name);
        meta.get_cluster_status(GetClusterStatusRequest {}).await.unwrap();
        HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    }
    let route = NodeServiceClient::new(admin).route(RouteRequest::default()).await;
    assert_eq!(route.unwrap_err().code(), Code::Unimplemented, "data nodes are not administrators");
}

/// The addresses for clients would be of no use to them.
#[tokio::test]
async fn administrators_are_told_of_no_addresses_for_clients() {
    let cluster = cluster().await;
    let follower = cluster.follower().await;
    let list = async |channel| {
        MembersServiceClient::new(channel).list_members(ListMembersRequest {}).await.unwrap_err()
    };
    let leader_in = |status: &Status| {
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.reason, "NOT_LEADER");
        info.metadata.contains_key("leaderEndpoint")
    };
    let to_client = list(cluster.channel(follower)).await;
    assert!(leader_in(&to_client) && to_client.metadata().contains_key("xdpfs-meta-servers"));
    let to_admin = list(cluster.admin_channel(follower)).await;
    assert!(!leader_in(&to_admin) && !to_admin.metadata().contains_key("xdpfs-meta-servers"));
}

#[tokio::test]
async fn client_with_the_addresses_for_administration_finds_the_leader() {
    let mut cluster = cluster().await;
    let client = |cluster: &Cluster| {
        let endpoints: Vec<_> = cluster.running().into_iter().map(|id| cluster.admin_endpoint(id)).collect();
        Client::connect(ClientConfig::new(endpoints.join(",").parse().unwrap())).unwrap()
    };
    let administrator = client(&cluster);
    let first = administrator.rotate_key_epoch().await.unwrap().key_epoch;
    let refused = administrator.put("bucket", "k", &b""[..], PutOptions::default()).await.unwrap_err();
    assert!(refused.to_string().contains("for administration"), "{refused}");
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let next = tokio::time::timeout(Duration::from_secs(20), administrator.rotate_key_epoch()).await;
    assert!(next.unwrap().unwrap().key_epoch > first, "the next leader is found as well");
}

#[tokio::test]
async fn server_joins_by_an_address_for_administration() {
    let mut cluster = cluster().await;
    let id = cluster.join(false).await;
    cluster.voters_are(&[1, 2, 3, id]).await;
}
