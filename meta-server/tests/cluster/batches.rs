//! Copies and batches, as clients of a real cluster see them.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use xdpfs_proto::meta::v1::{
    BatchCheck, BatchCopy, BatchDelete, BatchOperation, BatchPut, CommitBatchRequest, CommitBatchResponse,
    CopyObjectRequest, GetObjectRequest, GetObjectResponse, Object, ObjectMetadata, Precondition,
    batch_operation::Kind, precondition,
};

use crate::harness::{
    Cluster, FakeNode, Meta, Writer, assert_refused, eventually, reason, register_nodes, request_id,
};

async fn get(writer: &Writer<'_>, key: &str) -> Result<GetObjectResponse, Status> {
    let request = GetObjectRequest { name: writer.name(key), ..Default::default() };
    writer.cluster.call(request, async |mut meta: Meta, request| meta.get_object(request).await).await
}

async fn copy(writer: &Writer<'_>, request: CopyObjectRequest) -> Result<Object, Status> {
    let send = async |mut meta: Meta, request| meta.copy_object(request).await;
    writer.cluster.call(request, send).await.map(|response| response.object.unwrap())
}

fn copy_request(writer: &Writer<'_>, source: &str, destination: &str) -> CopyObjectRequest {
    CopyObjectRequest {
        request_id: request_id(),
        source: writer.name(source),
        destination: writer.name(destination),
        ..Default::default()
    }
}

async fn commit(cluster: &Cluster, request: CommitBatchRequest) -> Result<CommitBatchResponse, Status> {
    cluster.call(request, async |mut meta: Meta, request| meta.commit_batch(request).await).await
}

fn batch(kinds: Vec<Kind>) -> CommitBatchRequest {
    CommitBatchRequest {
        request_id: request_id(),
        parent: "buckets/photos".into(),
        operations: kinds.into_iter().map(|kind| BatchOperation { kind: Some(kind) }).collect(),
    }
}

fn copies(source: &str, key: &str) -> Kind {
    Kind::Copy(BatchCopy { source_key: source.into(), key: key.into(), ..Default::default() })
}

fn deletes(key: &str) -> Kind {
    Kind::Delete(BatchDelete { key: key.into(), ..Default::default() })
}

fn free(key: &str) -> Kind {
    let kind = Some(precondition::Kind::IfNoneMatchAny(true));
    Kind::Check(BatchCheck { key: key.into(), precondition: Some(Precondition { kind }) })
}

async fn start() -> (Cluster, Vec<FakeNode>) {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    writer.put("cat", 100_000, None).await.unwrap();
    (cluster, nodes)
}

#[tokio::test]
async fn copy_has_the_chunks_of_its_source_and_outlives_it() {
    let (cluster, nodes) = start().await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    let source = get(&writer, "cat").await.unwrap();
    let copied = copy(&writer, copy_request(&writer, "cat", "tom")).await.unwrap();
    assert_ne!(copied.etag, source.object.as_ref().unwrap().etag);
    assert_eq!((copied.size, copied.name), (100_000, writer.name("tom")));
    let send = async |mut meta: Meta, request| meta.delete_object(request).await;
    let delete = xdpfs_proto::meta::v1::DeleteObjectRequest {
        request_id: request_id(),
        name: writer.name("cat"),
        ..Default::default()
    };
    cluster.call(delete, send).await.unwrap();
    assert_eq!(get(&writer, "tom").await.unwrap().chunks, source.chunks);
    let status = cluster.status_of(cluster.leader().await).await;
    assert_eq!((status.objects, status.pending_deletes), (1, 0), "what is referred to is not removed");
}

#[tokio::test]
async fn copy_says_of_itself_what_it_is_told_or_what_its_source_says() {
    let (cluster, nodes) = start().await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    let metadata = ObjectMetadata {
        content_type: "image/png".into(),
        user_metadata: [("who".to_owned(), "tom".to_owned())].into(),
    };
    let told = CopyObjectRequest { metadata: Some(metadata), ..copy_request(&writer, "cat", "cat") };
    let told = copy(&writer, told).await.unwrap();
    assert_eq!((told.content_type.as_str(), told.user_metadata.len()), ("image/png", 1));
    let kept = copy(&writer, copy_request(&writer, "cat", "tom")).await.unwrap();
    assert_eq!((kept.content_type, kept.user_metadata), (told.content_type, told.user_metadata));
}

#[tokio::test]
async fn copy_that_cannot_be_is_refused() {
    let (cluster, nodes) = start().await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    assert_refused(
        copy(&writer, copy_request(&writer, "dog", "tom")).await,
        Code::NotFound,
        "OBJECT_NOT_FOUND",
    );
    let other = CopyObjectRequest {
        destination: "buckets/other/objects/cat".into(),
        ..copy_request(&writer, "cat", "tom")
    };
    assert_refused(copy(&writer, other).await, Code::InvalidArgument, "INVALID_ARGUMENT");
    let other = Some(Precondition { kind: Some(precondition::Kind::IfMatch("1-0".into())) });
    for request in [
        CopyObjectRequest { source_precondition: other.clone(), ..copy_request(&writer, "cat", "tom") },
        CopyObjectRequest { precondition: other, ..copy_request(&writer, "cat", "tom") },
    ] {
        assert_refused(copy(&writer, request).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
    }
}

#[tokio::test]
async fn batch_takes_effect_as_a_whole_and_once() {
    let (cluster, nodes) = start().await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    let begun = writer.begin(writer.begin_request("dog", 1)).await.unwrap();
    let put = Kind::Put(BatchPut {
        upload_id: begun.upload_id,
        chunks: writer.written(&begun.grants, 10),
        ..Default::default()
    });
    let request = batch(vec![put, copies("cat", "tom"), deletes("cat"), free("mouse")]);
    let done = commit(&cluster, request.clone()).await.unwrap();
    let names: Vec<_> = done
        .results
        .iter()
        .map(|result| result.object.as_ref().map_or("", |object| object.name.as_str()))
        .collect();
    assert_eq!(names, [&writer.name("dog"), &writer.name("tom"), &writer.name("cat"), ""]);
    let versions: Vec<_> =
        done.results[..2].iter().map(|result| result.object.as_ref().unwrap().version).collect();
    assert_eq!(versions[0], versions[1], "one entry of the log has made both");
    assert_eq!(commit(&cluster, request).await.unwrap(), done, "asked again, it gives the first answer");
    assert_refused(get(&writer, "cat").await, Code::NotFound, "OBJECT_NOT_FOUND");
    assert_eq!(get(&writer, "dog").await.unwrap().object.unwrap().size, 10);
}

#[tokio::test]
async fn refused_batch_names_its_operation_and_changes_nothing() {
    let (cluster, nodes) = start().await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    let check = async |kinds: Vec<Kind>, expect: (&str, Option<&str>)| {
        let status = commit(&cluster, batch(kinds)).await.unwrap_err();
        let info = status.get_details_error_info().unwrap();
        let operation = info.metadata.get("operation").map(String::as_str);
        assert_eq!((reason(&status).as_str(), operation), expect);
    };
    check(vec![], ("INVALID_ARGUMENT", None)).await;
    check(vec![deletes("cat"); 65], ("INVALID_ARGUMENT", None)).await;
    check(vec![deletes("cat"), deletes("dog")], ("OBJECT_NOT_FOUND", Some("2"))).await;
    check(vec![copies("cat", "tom"), free("cat")], ("PRECONDITION_FAILED", Some("2"))).await;
    check(vec![copies("cat", "tom"), copies("cat", "tom")], ("INVALID_ARGUMENT", Some("2"))).await;
    check(vec![deletes("a\nb")], ("INVALID_NAME", Some("1"))).await;
    let unknown = Kind::Put(BatchPut { upload_id: 999, ..Default::default() });
    check(vec![deletes("cat"), unknown], ("UPLOAD_NOT_FOUND", Some("2"))).await;
    assert_eq!(cluster.status_of(cluster.leader().await).await.objects, 1);
    assert!(get(&writer, "cat").await.is_ok());
}

#[tokio::test]
async fn copies_outlive_a_restart_of_all_servers() {
    let (mut cluster, nodes) = start().await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    copy(&writer, copy_request(&writer, "cat", "tom")).await.unwrap();
    commit(&cluster, batch(vec![copies("tom", "jerry"), deletes("cat")])).await.unwrap();
    let before = get(&writer, "tom").await.unwrap();
    for id in cluster.ids() {
        cluster.stop(id).await;
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    let after = eventually("the object is there", async || get(&writer, "tom").await.ok()).await;
    assert_eq!((after.object, after.chunks), (before.object, before.chunks));
    assert_eq!(get(&writer, "jerry").await.unwrap().object.unwrap().size, 100_000);
}
