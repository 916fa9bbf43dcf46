//! Versions of objects, as clients of a real cluster see them.

use tonic::{Code, Status};
use xdpfs_proto::meta::v1::{
    Bucket, CopyObjectRequest, DeleteBucketRequest, DeleteObjectRequest, DeleteObjectResponse,
    GetBucketRequest, GetObjectRequest, GetObjectResponse, ListObjectVersionsRequest,
    ListObjectVersionsResponse, Object, Precondition, UpdateBucketRequest, Versioning, precondition::Kind,
};

use crate::harness::{Cluster, Meta, Writer, assert_refused, register_nodes, request_id};

async fn get(writer: &Writer<'_>, key: &str, version: u64) -> Result<GetObjectResponse, Status> {
    let request = GetObjectRequest { name: writer.name(key), version, ..Default::default() };
    writer.cluster.call(request, async |mut meta: Meta, request| meta.get_object(request).await).await
}

async fn delete(writer: &Writer<'_>, key: &str, version: u64) -> Result<DeleteObjectResponse, Status> {
    let name = writer.name(key);
    let request = DeleteObjectRequest { request_id: request_id(), name, version, ..Default::default() };
    writer.cluster.call(request, async |mut meta: Meta, request| meta.delete_object(request).await).await
}

async fn copy(writer: &Writer<'_>, key: &str, source_version: u64) -> Result<Object, Status> {
    let request = CopyObjectRequest {
        request_id: request_id(),
        source: writer.name(key),
        destination: writer.name(key),
        source_version,
        ..Default::default()
    };
    let send = async |mut meta: Meta, request| meta.copy_object(request).await;
    writer.cluster.call(request, send).await.map(|response| response.object.unwrap())
}

async fn update(cluster: &Cluster, versioning: i32) -> Result<Bucket, Status> {
    let request = UpdateBucketRequest {
        request_id: request_id(),
        name: "buckets/papers".into(),
        versioning: Some(versioning),
        ..Default::default()
    };
    let send = async |mut meta: Meta, request| meta.update_bucket(request).await;
    cluster.call(request, send).await.map(|response| response.bucket.unwrap())
}

async fn bucket(cluster: &Cluster) -> Bucket {
    let request = GetBucketRequest { name: "buckets/papers".into() };
    let send = async |mut meta: Meta, request| meta.get_bucket(request).await;
    cluster.call(request, send).await.unwrap().bucket.unwrap()
}

async fn list(
    cluster: &Cluster,
    request: ListObjectVersionsRequest,
) -> Result<ListObjectVersionsResponse, Status> {
    let request = ListObjectVersionsRequest { parent: "buckets/papers".into(), ..request };
    cluster.call(request, async |mut meta: Meta, request| meta.list_object_versions(request).await).await
}

/// Keys, versions, and what else is said of them, in pages of two.
async fn all(cluster: &Cluster, delimiter: &str) -> Vec<(String, u64, String)> {
    let (mut lines, mut page_token) = (Vec::new(), String::new());
    loop {
        let delimiter = delimiter.to_owned();
        let request = ListObjectVersionsRequest { delimiter, page_size: 2, page_token, ..Default::default() };
        let page = list(cluster, request).await.unwrap();
        assert!(page.versions.len() + page.prefixes.len() <= 2);
        let begin = lines.len();
        lines.extend(page.prefixes.into_iter().map(|prefix| (prefix, 0, "group".to_owned())));
        for version in page.versions {
            let object = version.object.unwrap();
            let said = match (version.latest, version.delete_marker) {
                (true, true) => "latest marker",
                (true, false) => "latest",
                (false, true) => "marker",
                (false, false) => "",
            };
            let key = object.name.strip_prefix("buckets/papers/objects/").unwrap().to_owned();
            lines.push((key, object.version, said.to_owned()));
        }
        // A page has its groups apart.
        lines[begin..].sort_by(|(one, ..), (other, ..)| one.cmp(other));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return lines;
        }
    }
}

fn expect(lines: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    lines.iter().map(|(key, version, said)| ((*key).to_owned(), *version, (*said).to_owned())).collect()
}

async fn put(writer: &Writer<'_>, key: &str, size: u64) -> Object {
    writer.put(key, size, None).await.unwrap().object.unwrap()
}

#[tokio::test]
async fn versions_are_kept_listed_read_and_removed_by_their_numbers() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "papers" };
    writer.create_bucket().await;
    assert_eq!(update(&cluster, Versioning::On.into()).await.unwrap().versioning(), Versioning::On);
    let mut puts = Vec::new();
    for size in [100_000, 200_000, 300_000] {
        puts.push(put(&writer, "a", size).await);
    }
    let [one, two, three] = [0, 1, 2].map(|at: usize| puts[at].version);
    for object in &puts {
        let read = get(&writer, "a", object.version).await.unwrap();
        assert_eq!((read.object.unwrap().etag, read.chunks.is_empty()), (object.etag.clone(), false));
        assert!(read.capability.is_some());
    }
    assert_eq!(get(&writer, "a", 0).await.unwrap().object.unwrap().version, three);
    let held = bucket(&cluster).await;
    assert_eq!((held.objects, held.older_versions), (1, 2));
    assert_eq!((held.bytes, held.older_bytes), (300_000, 300_000));

    let deleted = delete(&writer, "a", 0).await.unwrap();
    let marker = deleted.delete_marker;
    assert_eq!((deleted.object.unwrap().version, deleted.was_delete_marker), (three, false));
    assert!(marker > three);
    for version in [0, marker] {
        assert_refused(get(&writer, "a", version).await, Code::NotFound, "OBJECT_NOT_FOUND");
    }
    assert_refused(delete(&writer, "a", 0).await, Code::NotFound, "OBJECT_NOT_FOUND");
    let lines = [("a", marker, "latest marker"), ("a", three, ""), ("a", two, ""), ("a", one, "")];
    assert_eq!(all(&cluster, "").await, expect(&lines));
    let request = DeleteBucketRequest { request_id: request_id(), name: "buckets/papers".into() };
    let send = async |mut meta: Meta, request| meta.delete_bucket(request).await;
    let refused = cluster.call(request, send).await;
    assert_refused(refused, Code::FailedPrecondition, "BUCKET_NOT_EMPTY");

    let undeleted = delete(&writer, "a", marker).await.unwrap();
    assert!(undeleted.was_delete_marker);
    assert_eq!(get(&writer, "a", 0).await.unwrap().object.unwrap().version, three);
    assert_eq!(delete(&writer, "a", three).await.unwrap().object.unwrap().version, three);
    assert_eq!(get(&writer, "a", 0).await.unwrap().object.unwrap().version, two);

    let again = copy(&writer, "a", one).await.unwrap();
    assert_eq!((again.size, again.version > marker), (100_000, true));
    let chunks = get(&writer, "a", one).await.unwrap().chunks;
    assert_eq!(get(&writer, "a", 0).await.unwrap().chunks, chunks, "no byte has moved");
    delete(&writer, "a", one).await.unwrap();
    assert_eq!(get(&writer, "a", 0).await.unwrap().chunks, chunks);
    let lines = [("a", again.version, "latest"), ("a", two, "")];
    assert_eq!(all(&cluster, "").await, expect(&lines));
    for version in [two, again.version] {
        delete(&writer, "a", version).await.unwrap();
    }
    assert_eq!(all(&cluster, "").await, []);
    assert_refused(delete(&writer, "a", two).await, Code::NotFound, "OBJECT_NOT_FOUND");
}

#[tokio::test]
async fn page_of_versions_shows_the_moment_of_the_first_one() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "papers" };
    writer.create_bucket().await;
    update(&cluster, Versioning::On.into()).await.unwrap();
    let mut versions = Vec::new();
    for key in ["a", "a", "b", "d/1", "d/2"] {
        versions.push(put(&writer, key, 0).await.version);
    }
    let groups = [("a", versions[1], "latest"), ("a", versions[0], ""), ("b", versions[2], "latest")];
    assert_eq!(all(&cluster, "/").await, expect(&[&groups[..], &[("d/", 0, "group")]].concat()));
    let first = ListObjectVersionsRequest { page_size: 1, consistent: true, ..Default::default() };
    let page = list(&cluster, first.clone()).await.unwrap();
    put(&writer, "a", 0).await;
    put(&writer, "c", 0).await;
    delete(&writer, "a", versions[0]).await.unwrap();
    delete(&writer, "b", versions[2]).await.unwrap();
    let rest = ListObjectVersionsRequest { page_size: 1000, page_token: page.next_page_token, ..first };
    let rest = list(&cluster, rest).await.unwrap();
    let found: Vec<u64> =
        rest.versions.iter().map(|version| version.object.as_ref().unwrap().version).collect();
    assert_eq!(found, [versions[0], versions[2], versions[3], versions[4]]);
    assert_eq!((rest.as_of, rest.next_page_token.as_str()), (page.as_of, ""));
}

#[tokio::test]
async fn suspended_bucket_keeps_what_it_has_and_no_more() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "papers" };
    writer.create_bucket().await;
    let refused = |answer| assert_refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    refused(update(&cluster, 3).await);
    let before = put(&writer, "a", 0).await.version;
    update(&cluster, Versioning::On.into()).await.unwrap();
    let kept = put(&writer, "a", 0).await.version;
    update(&cluster, Versioning::Suspended.into()).await.unwrap();
    refused(update(&cluster, Versioning::Off.into()).await);
    put(&writer, "a", 0).await;
    let last = put(&writer, "a", 0).await.version;
    let lines = [("a", last, "latest"), ("a", kept, ""), ("a", before, "")];
    assert_eq!(all(&cluster, "").await, expect(&lines));
    let marker = delete(&writer, "a", 0).await.unwrap().delete_marker;
    let lines = [("a", marker, "latest marker"), ("a", kept, ""), ("a", before, "")];
    assert_eq!(all(&cluster, "").await, expect(&lines), "what was not kept is gone, and hides nothing");
}

#[tokio::test]
async fn change_is_judged_by_what_the_key_holds_and_a_read_by_what_is_read() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "papers" };
    writer.create_bucket().await;
    update(&cluster, Versioning::On.into()).await.unwrap();
    let (old, new) = (put(&writer, "a", 0).await, put(&writer, "a", 0).await);
    let when = |object: &Object| Some(Precondition { kind: Some(Kind::IfMatch(object.etag.clone())) });
    let read = async |precondition| {
        let request = GetObjectRequest {
            name: writer.name("a"),
            version: old.version,
            precondition,
            ..Default::default()
        };
        cluster.call(request, async |mut meta: Meta, request| meta.get_object(request).await).await
    };
    let refused = |status| assert_refused::<()>(status, Code::FailedPrecondition, "PRECONDITION_FAILED");
    read(when(&old)).await.unwrap();
    refused(read(when(&new)).await.map(drop));
    let remove = async |precondition| {
        let request = DeleteObjectRequest {
            request_id: request_id(),
            name: writer.name("a"),
            version: old.version,
            precondition,
        };
        cluster.call(request, async |mut meta: Meta, request| meta.delete_object(request).await).await
    };
    refused(remove(when(&old)).await.map(drop));
    remove(when(&new)).await.unwrap();
}

#[tokio::test]
async fn quota_counts_older_versions() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "papers" };
    writer.create_bucket().await;
    update(&cluster, Versioning::On.into()).await.unwrap();
    let bound = UpdateBucketRequest {
        request_id: request_id(),
        name: "buckets/papers".into(),
        quota_objects: Some(2),
        ..Default::default()
    };
    let send = async |mut meta: Meta, request| meta.update_bucket(request).await;
    cluster.call(bound, send).await.unwrap();
    let old = put(&writer, "a", 0).await;
    put(&writer, "a", 0).await;
    let refused = writer.put("a", 0, None).await;
    assert_refused(refused, Code::FailedPrecondition, "QUOTA_EXCEEDED");
    delete(&writer, "a", 0).await.expect("a delete marker needs no room");
    delete(&writer, "a", old.version).await.unwrap();
    put(&writer, "a", 0).await;
}
