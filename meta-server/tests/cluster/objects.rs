use tonic::{Code, Status};
use xdpfs_proto::meta::v1::{
    DeleteObjectRequest, GetObjectRequest, HeadObjectRequest, Object, Precondition, precondition::Kind,
};

use crate::harness::{Cluster, Meta, Writer, assert_refused, register_nodes, request_id};

fn when(kind: Kind) -> Option<Precondition> {
    Some(Precondition { kind: Some(kind) })
}

fn if_match(object: &Object) -> Option<Precondition> {
    when(Kind::IfMatch(object.etag.clone()))
}

fn if_none_match(object: &Object) -> Option<Precondition> {
    when(Kind::IfNoneMatch(object.etag.clone()))
}

async fn head(writer: &Writer<'_>, key: &str, precondition: Option<Precondition>) -> Result<Object, Status> {
    let request = HeadObjectRequest { name: writer.name(key), precondition, ..Default::default() };
    let send = async |mut meta: Meta, request| meta.head_object(request).await;
    writer.cluster.call(request, send).await.map(|response| response.object.unwrap())
}

async fn get(writer: &Writer<'_>, key: &str, precondition: Option<Precondition>) -> Result<Object, Status> {
    let request = GetObjectRequest { name: writer.name(key), precondition, ..Default::default() };
    let send = async |mut meta: Meta, request| meta.get_object(request).await;
    writer.cluster.call(request, send).await.map(|response| response.object.unwrap())
}

async fn delete(
    writer: &Writer<'_>,
    key: &str,
    precondition: Option<Precondition>,
) -> Result<Object, Status> {
    let name = writer.name(key);
    let request = DeleteObjectRequest { request_id: request_id(), name, precondition, ..Default::default() };
    let send = async |mut meta: Meta, request| meta.delete_object(request).await;
    writer.cluster.call(request, send).await.map(|response| response.object.unwrap())
}

#[tokio::test]
async fn preconditions_guard_every_change() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    let refused = |answer| assert_refused(answer, Code::FailedPrecondition, "PRECONDITION_FAILED");

    let first = writer.put("cat", 1, when(Kind::IfNoneMatchAny(true))).await.unwrap().object.unwrap();
    refused(
        writer.put("cat", 2, when(Kind::IfNoneMatchAny(true))).await.map(|answer| answer.object.unwrap()),
    );
    let second = writer.put("cat", 2, if_match(&first)).await.unwrap().object.unwrap();
    assert_ne!(first.etag, second.etag);
    refused(writer.put("cat", 3, if_match(&first)).await.map(|answer| answer.object.unwrap()));
    refused(delete(&writer, "cat", if_match(&first)).await);
    assert_eq!(delete(&writer, "cat", if_match(&second)).await.unwrap().etag, second.etag);
    assert_refused(delete(&writer, "cat", None).await, Code::NotFound, "OBJECT_NOT_FOUND");
}

#[tokio::test]
async fn precondition_of_a_put_is_decided_at_its_commit() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 1)).await.unwrap();
    let other = writer.put("cat", 5, None).await.unwrap().object.unwrap();
    let mut commit = writer.commit_request(begun.upload_id, writer.written(&begun.grants, 1));
    commit.precondition = when(Kind::IfNoneMatchAny(true));
    assert_refused(writer.commit(commit).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    assert_eq!(head(&writer, "cat", None).await.unwrap(), other);
}

#[tokio::test]
async fn reads_have_preconditions_too() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    let object = writer.put("cat", 1, None).await.unwrap().object.unwrap();
    let other = Object { etag: "1-00000000".into(), ..object.clone() };
    let quoted = when(Kind::IfMatch(format!("\"{}\"", object.etag)));
    for fulfilled in [None, if_match(&object), if_none_match(&other), quoted] {
        assert_eq!(head(&writer, "cat", fulfilled.clone()).await.unwrap(), object);
        assert_eq!(get(&writer, "cat", fulfilled).await.unwrap(), object);
    }
    for failed in [if_match(&other), if_none_match(&object), when(Kind::IfNoneMatchAny(true))] {
        let refused = |answer| assert_refused(answer, Code::FailedPrecondition, "PRECONDITION_FAILED");
        refused(head(&writer, "cat", failed.clone()).await);
        refused(get(&writer, "cat", failed).await);
    }
    assert_refused(get(&writer, "dog", None).await, Code::NotFound, "OBJECT_NOT_FOUND");
    let senseless = when(Kind::IfNoneMatchAny(false));
    assert_refused(get(&writer, "cat", senseless).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}
