use bytes::Bytes;
use tonic::{Code, Status};
use xdpfs_meta_server::state_machine::FeatureLevel;
use xdpfs_meta_server::storage::crc32c;
use xdpfs_proto::raft::v1::{
    ConfState, Message, SendMessagesRequest, SendSnapshotRequest, SnapshotMetadata,
    raft_service_client::RaftServiceClient,
};

use crate::harness::{Cluster, Writer, assert_refused, request_id};

/// As raft-rs numbers them.
const MSG_SNAPSHOT: u32 = 7;
const MSG_HEARTBEAT: u32 = 8;

async fn send_messages(cluster: &Cluster, request: SendMessagesRequest) -> Result<(), Status> {
    let mut client = RaftServiceClient::new(cluster.peer_channel(1));
    client.send_messages(tokio_stream::iter([request])).await.map(drop)
}

async fn send_snapshot(cluster: &Cluster, requests: Vec<SendSnapshotRequest>) -> Result<(), Status> {
    let mut client = RaftServiceClient::new(cluster.peer_channel(1));
    client.send_snapshot(tokio_stream::iter(requests)).await.map(drop)
}

fn snapshot_part(data: &'static [u8]) -> SendSnapshotRequest {
    let conf_state = Some(ConfState { voters: vec![1, 2, 3], ..Default::default() });
    let snapshot = Some(SnapshotMetadata { index: 1 << 40, term: 1 << 20, conf_state });
    SendSnapshotRequest {
        message: Some(Message {
            msg_type: MSG_SNAPSHOT,
            from: 2,
            to: 1,
            term: 1 << 20,
            snapshot,
            ..Default::default()
        }),
        part: Bytes::from_static(data),
        part_crc32c: crc32c(data),
        last: true,
        total_bytes: data.len() as u64,
        total_crc32c: crc32c(data),
        ..Default::default()
    }
}

#[tokio::test]
async fn server_of_another_cluster_is_refused() {
    let cluster = Cluster::start().await;
    let message = Message { msg_type: MSG_HEARTBEAT, from: 2, to: 1, term: 1 << 20, ..Default::default() };
    let messages =
        SendMessagesRequest { cluster_id: request_id(), messages: vec![message], ..Default::default() };
    assert_refused(send_messages(&cluster, messages).await, Code::FailedPrecondition, "WRONG_CLUSTER");
    let snapshot = SendSnapshotRequest { cluster_id: request_id(), ..snapshot_part(b"x") };
    assert_refused(send_snapshot(&cluster, vec![snapshot]).await, Code::FailedPrecondition, "WRONG_CLUSTER");
    assert!(cluster.status_of(1).await.term < 1 << 20, "nothing of it was heard");
}

#[tokio::test]
async fn message_that_makes_no_sense_is_refused() {
    let cluster = Cluster::start().await;
    let cluster_id = cluster.status_of(1).await.cluster_id;
    let message = Message { msg_type: 999, from: 2, to: 1, ..Default::default() };
    let feature_level = FeatureLevel::SUPPORTED.0;
    let messages =
        SendMessagesRequest { cluster_id, messages: vec![message], feature_level, ..Default::default() };
    assert_refused(send_messages(&cluster, messages).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn server_that_announces_no_feature_level_is_not_heard() {
    let cluster = Cluster::start().await;
    let cluster_id = cluster.status_of(1).await.cluster_id;
    // A vote that any other server would have to hear of.
    let message = Message { msg_type: 5, from: 2, to: 1, term: 1 << 20, ..Message::default() };
    let messages = SendMessagesRequest { cluster_id, messages: vec![message], ..Default::default() };
    let refused = send_messages(&cluster, messages).await;
    assert_refused(refused, Code::FailedPrecondition, "FEATURE_LEVEL_TOO_LOW");
    assert!(cluster.status_of(1).await.term < 1 << 20, "nothing of it was heard");
}

#[tokio::test]
async fn snapshot_that_is_not_whole_changes_nothing() {
    let cluster = Cluster::start().await;
    let cluster_id = cluster.status_of(1).await.cluster_id;
    let part = |data| SendSnapshotRequest { cluster_id: cluster_id.clone(), ..snapshot_part(data) };
    let invalid = |answer| assert_refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    invalid(send_snapshot(&cluster, vec![part(b"this is no state")]).await);
    invalid(send_snapshot(&cluster, vec![part(b"")]).await);
    invalid(send_snapshot(&cluster, vec![SendSnapshotRequest { part_crc32c: 0, ..part(b"x") }]).await);
    invalid(send_snapshot(&cluster, vec![SendSnapshotRequest { total_bytes: 2, ..part(b"x") }]).await);
    invalid(send_snapshot(&cluster, vec![SendSnapshotRequest { message: None, ..part(b"x") }]).await);
    let unfinished = SendSnapshotRequest { last: false, ..part(b"x") };
    assert!(send_snapshot(&cluster, vec![unfinished]).await.is_err());
    assert!(send_snapshot(&cluster, Vec::new()).await.is_err());

    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "photos" };
    writer.create_bucket().await;
    let status = cluster.status_of(1).await;
    assert!(status.term < 1 << 20 && status.commit_index < 1 << 40);
}
