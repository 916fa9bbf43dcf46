use tonic::Code;
use xdpfs_proto::meta::v1::{
    Bucket, CreateBucketRequest, DeleteBucketRequest, DeleteObjectRequest, GetBucketRequest,
    ListBucketsRequest, UpdateBucketRequest,
};

use crate::harness::{Cluster, Meta, Writer, assert_refused, register_nodes, request_id};

async fn create(cluster: &Cluster, request: CreateBucketRequest) -> Result<Bucket, tonic::Status> {
    let send = async |mut meta: Meta, request| meta.create_bucket(request).await;
    cluster.call(request, send).await.map(|response| response.bucket.unwrap())
}

async fn get(cluster: &Cluster, name: &str) -> Result<Bucket, tonic::Status> {
    let send = async |mut meta: Meta, request| meta.get_bucket(request).await;
    cluster.call(GetBucketRequest { name: name.into() }, send).await.map(|response| response.bucket.unwrap())
}

async fn delete(cluster: &Cluster, name: &str) -> Result<(), tonic::Status> {
    let request = DeleteBucketRequest { request_id: request_id(), name: name.into() };
    let send = async |mut meta: Meta, request| meta.delete_bucket(request).await;
    cluster.call(request, send).await.map(drop)
}

fn named(name: &str) -> CreateBucketRequest {
    CreateBucketRequest { request_id: request_id(), name: name.into(), ..Default::default() }
}

#[tokio::test]
async fn bucket_is_made_found_and_removed() {
    let cluster = Cluster::start().await;
    let made = create(&cluster, named("buckets/photos")).await.unwrap();
    assert_eq!((made.name.as_str(), made.chunk_size), ("buckets/photos", 4 << 20));
    assert_eq!((made.replicas, made.min_replicas), (3, 2));
    assert!(made.create_time_ms > 1_600_000_000_000);
    assert_eq!(get(&cluster, "buckets/photos").await.unwrap(), made);
    assert_refused(create(&cluster, named("buckets/photos")).await, Code::AlreadyExists, "BUCKET_EXISTS");

    delete(&cluster, "buckets/photos").await.unwrap();
    assert_refused(get(&cluster, "buckets/photos").await, Code::NotFound, "BUCKET_NOT_FOUND");
    assert_refused(delete(&cluster, "buckets/photos").await, Code::NotFound, "BUCKET_NOT_FOUND");
    let again = create(&cluster, named("buckets/photos")).await.unwrap();
    assert!(again.id > made.id, "the number of a bucket is never given again");
}

#[tokio::test]
async fn bad_names_and_settings_are_refused() {
    let cluster = Cluster::start().await;
    for bad in ["", "photos", "buckets/", "buckets/Photos", "buckets/a", "buckets/a/objects/b"] {
        assert_refused(create(&cluster, named(bad)).await, Code::InvalidArgument, "INVALID_NAME");
        assert_refused(get(&cluster, bad).await, Code::InvalidArgument, "INVALID_NAME");
        assert_refused(delete(&cluster, bad).await, Code::InvalidArgument, "INVALID_NAME");
    }
    let odd = CreateBucketRequest { chunk_size: 65_537, ..named("buckets/photos") };
    assert_refused(create(&cluster, odd).await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn bucket_with_objects_stays() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    writer.create_bucket().await;
    writer.put("cat", 10, None).await.unwrap();
    assert_refused(delete(&cluster, "buckets/photos").await, Code::FailedPrecondition, "BUCKET_NOT_EMPTY");
    let bucket = get(&cluster, "buckets/photos").await.unwrap();
    assert_eq!((bucket.objects, bucket.bytes), (1, 10));

    let request = DeleteObjectRequest {
        request_id: request_id(),
        name: writer.name("cat"),
        ..DeleteObjectRequest::default()
    };
    cluster.call(request, async |mut meta: Meta, request| meta.delete_object(request).await).await.unwrap();
    delete(&cluster, "buckets/photos").await.unwrap();
}

#[tokio::test]
async fn pages_of_buckets_join_to_all_of_them() {
    let cluster = Cluster::start().await;
    let names: Vec<String> = (0..5).map(|number| format!("buckets/bucket-{number}")).collect();
    for name in names.iter().rev() {
        create(&cluster, named(name)).await.unwrap();
    }
    let list = async |page_token: &str| {
        let request = ListBucketsRequest { page_size: 2, page_token: page_token.into() };
        cluster.call(request, async |mut meta: Meta, request| meta.list_buckets(request).await).await
    };
    let (mut listed, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = list(&token).await.unwrap();
        listed.extend(page.buckets.into_iter().map(|bucket| bucket.name));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((listed, pages), (names, 3));
    assert_refused(list("0123").await, Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn quota_is_kept_at_the_commit_and_can_be_changed() {
    let cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = Writer { cluster: &cluster, nodes: &nodes, bucket: "photos" };
    let limited = CreateBucketRequest {
        chunk_size: 64 << 10,
        quota_bytes: 100,
        quota_objects: 2,
        ..named("buckets/photos")
    };
    let made = create(&cluster, limited).await.unwrap();
    assert_eq!((made.quota_bytes, made.quota_objects), (100, 2));
    let refused = |answer| assert_refused(answer, Code::FailedPrecondition, "QUOTA_EXCEEDED");
    let put = async |key: &str, size| writer.put(key, size, None).await.map(drop);

    refused(put("cat", 101).await);
    put("cat", 60).await.unwrap();
    refused(put("dog", 41).await);
    put("cat", 100).await.unwrap();
    let refusal = writer.begin(writer.begin_request("dog", 1)).await.map(drop);
    refused(refusal);

    let update = UpdateBucketRequest {
        request_id: request_id(),
        name: "buckets/photos".into(),
        quota_bytes: Some(0),
        ..Default::default()
    };
    let send = async |mut meta: Meta, request| meta.update_bucket(request).await;
    let updated = cluster.call(update.clone(), send).await.unwrap();
    let bucket = updated.bucket.clone().unwrap();
    assert_eq!((bucket.quota_bytes, bucket.quota_objects, bucket.bytes), (0, 2, 100));
    assert_eq!(
        cluster.call(update.clone(), send).await.unwrap(),
        updated,
        "asked again, it gives the first answer"
    );
    put("dog", 1000).await.unwrap();
    refused(put("mouse", 0).await);
    assert_eq!(get(&cluster, "buckets/photos").await.unwrap().objects, 2);
    let none = UpdateBucketRequest { request_id: request_id(), name: "buckets/none".into(), ..update };
    assert_refused(cluster.call(none, send).await, Code::NotFound, "BUCKET_NOT_FOUND");
}
