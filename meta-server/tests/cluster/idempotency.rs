use tonic::Code;
use xdpfs_proto::meta::v1::{
    AbortPutRequest, BeginPutResponse, CreateBucketRequest, DeleteBucketRequest, DeleteObjectRequest,
    ExtendPutRequest,
};

use crate::harness::{
    Cluster, FakeNode, Meta, Writer, assert_refused, eventually, register_nodes, request_id,
};

const fn writer_of<'a>(cluster: &'a Cluster, nodes: &'a [FakeNode]) -> Writer<'a> {
    Writer { cluster, nodes, bucket: "photos" }
}

#[tokio::test]
async fn repeated_bucket_requests_give_their_first_answers() {
    let cluster = Cluster::start().await;
    let create = async |request| {
        cluster.call(request, async |mut meta: Meta, request| meta.create_bucket(request).await).await
    };
    let delete = async |request| {
        cluster.call(request, async |mut meta: Meta, request| meta.delete_bucket(request).await).await
    };
    let creating =
        CreateBucketRequest { request_id: request_id(), name: "buckets/photos".into(), ..Default::default() };
    let first = create(creating.clone()).await.unwrap();
    assert_eq!(create(creating.clone()).await.unwrap(), first);

    let deleting = DeleteBucketRequest { request_id: request_id(), name: "buckets/photos".into() };
    delete(deleting.clone()).await.unwrap();
    delete(deleting).await.unwrap();
    assert_eq!(create(creating).await.unwrap(), first, "the bucket is gone, the answer is not");
}

#[tokio::test]
async fn repeated_puts_give_their_first_answers() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 5).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;

    let beginning = writer.begin_request("cat", 8);
    let begun = writer.begin(beginning.clone()).await.unwrap();
    let again = writer.begin(beginning).await.unwrap();
    assert_eq!((again.upload_id, &again.grants), (begun.upload_id, &begun.grants), "placed once");

    let extend = async |request| {
        cluster.call(request, async |mut meta: Meta, request| meta.extend_put(request).await).await
    };
    let extending = ExtendPutRequest {
        request_id: request_id(),
        upload_id: begun.upload_id,
        chunks: 8,
        avoid_node_ids: vec![],
    };
    let extended = extend(extending.clone()).await.unwrap();
    assert_eq!(extend(extending.clone()).await.unwrap().grants, extended.grants);

    let grants = [begun.grants, extended.grants.clone()].concat();
    let committing = writer.commit_request(begun.upload_id, writer.written(&grants, 16 * (64 << 10)));
    let committed = writer.commit(committing.clone()).await.unwrap();
    assert_eq!(writer.commit(committing.clone()).await.unwrap(), committed);
    writer.put("cat", 1, None).await.unwrap();
    assert_eq!(
        writer.commit(committing).await.unwrap().object.unwrap().version,
        committed.object.unwrap().version
    );
    assert_eq!(extend(extending).await.unwrap().grants, extended.grants, "also when the upload has ended");

    let abort = async |request| {
        cluster.call(request, async |mut meta: Meta, request| meta.abort_put(request).await).await
    };
    let begun = writer.begin(writer.begin_request("dog", 1)).await.unwrap();
    let aborting = AbortPutRequest { request_id: request_id(), upload_id: begun.upload_id };
    abort(aborting.clone()).await.unwrap();
    abort(aborting).await.unwrap();
}

#[tokio::test]
async fn repeated_commit_gives_its_first_answer_when_the_bucket_is_gone() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let begun = writer.begin(writer.begin_request("cat", 1)).await.unwrap();
    let committing = writer.commit_request(begun.upload_id, writer.written(&begun.grants, 1));
    let committed = writer.commit(committing.clone()).await.unwrap();
    let deleting =
        DeleteObjectRequest { request_id: request_id(), name: writer.name("cat"), ..Default::default() };
    cluster.call(deleting, async |mut meta: Meta, request| meta.delete_object(request).await).await.unwrap();
    assert_eq!(writer.commit(committing.clone()).await.unwrap(), committed, "the object is gone");
    let deleting =
        DeleteBucketRequest { request_id: request_id(), name: format!("buckets/{}", writer.bucket) };
    cluster.call(deleting, async |mut meta: Meta, request| meta.delete_bucket(request).await).await.unwrap();
    assert_eq!(writer.commit(committing).await.unwrap(), committed, "the bucket is gone too");
}

#[tokio::test]
async fn repeated_grant_gives_no_more_time_to_write() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let beginning = writer.begin_request("cat", 1);
    let expiry = |begun: &BeginPutResponse| begun.capability.as_ref().map(|given| given.expiry_s);
    let begun = writer.begin(beginning.clone()).await.unwrap();
    eventually("another put to get more time", async || {
        let other = writer.begin(writer.begin_request("dog", 1)).await.unwrap();
        (expiry(&other) > expiry(&begun)).then_some(())
    })
    .await;
    let aborting = AbortPutRequest { request_id: request_id(), upload_id: begun.upload_id };
    cluster.call(aborting, async |mut meta: Meta, request| meta.abort_put(request).await).await.unwrap();
    let again = writer.begin(beginning).await.unwrap();
    assert_eq!(again.grants, begun.grants);
    assert_eq!(expiry(&again), expiry(&begun), "its chunks go a grace after its end");
}

#[tokio::test]
async fn repeated_delete_does_not_remove_the_next_version() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let first = writer.put("cat", 1, None).await.unwrap().object.unwrap();
    let delete = async |request| {
        let send = async |mut meta: Meta, request| meta.delete_object(request).await;
        cluster.call(request, send).await.map(|response| response.object.unwrap().version)
    };
    let deleting =
        DeleteObjectRequest { request_id: request_id(), name: writer.name("cat"), ..Default::default() };
    assert_eq!(delete(deleting.clone()).await.unwrap(), first.version);
    let second = writer.put("cat", 1, None).await.unwrap().object.unwrap();
    assert!(second.version > first.version);
    assert_eq!(delete(deleting.clone()).await.unwrap(), first.version);
    let deleting = DeleteObjectRequest { request_id: request_id(), ..deleting };
    assert_eq!(delete(deleting).await.unwrap(), second.version, "it was still there");
}

#[tokio::test]
async fn repeated_registration_is_one_registration() {
    let cluster = Cluster::start().await;
    let node = FakeNode::register(&cluster, "node-1:9000").await;
    let registration = node.registration();
    let register = async || {
        let send = async |mut node: crate::harness::Node, request| node.register_node(request).await;
        cluster.node_call(registration.clone(), send).await.unwrap()
    };
    let (first, again) = (register().await, register().await);
    assert_eq!((first.node_id, first.node_epoch), (node.id(), 2));
    assert_eq!((again.node_epoch, &again.receipt_key), (first.node_epoch, &first.receipt_key));
    assert_ne!(first.receipt_key, node.registered.receipt_key, "a new registration has a new key");
}

#[tokio::test]
async fn answer_is_not_given_to_another_kind_of_request() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    let beginning = writer.begin_request("cat", 1);
    let request_id = beginning.request_id.clone();
    let begun = writer.begin(beginning).await.unwrap();
    let abort = AbortPutRequest { request_id, upload_id: begun.upload_id };
    let aborted = cluster.call(abort, async |mut meta: Meta, request| meta.abort_put(request).await).await;
    assert_refused(aborted, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn request_id_must_be_a_uuid() {
    let cluster = Cluster::start().await;
    for bad in ["", "1", "00000000-0000-0000-0000-000000000000"] {
        let request = AbortPutRequest { request_id: bad.into(), upload_id: 1 };
        let aborted =
            cluster.call(request, async |mut meta: Meta, request| meta.abort_put(request).await).await;
        assert_refused(aborted, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
}
