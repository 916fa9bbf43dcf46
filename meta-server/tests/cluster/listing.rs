use tonic::{Code, Status};
use xdpfs_proto::meta::v1::{
    DeleteBucketRequest, DeleteObjectRequest, ListObjectsRequest, ListObjectsResponse,
};

use crate::harness::{Cluster, Meta, Writer, assert_refused, request_id};

async fn list(cluster: &Cluster, request: ListObjectsRequest) -> Result<ListObjectsResponse, Status> {
    let request = ListObjectsRequest { parent: "buckets/photos".into(), ..request };
    cluster.call(request, async |mut meta: Meta, request| meta.list_objects(request).await).await
}

/// All lines of a listing, in pages of two.
async fn all(cluster: &Cluster, prefix: &str, delimiter: &str) -> Vec<String> {
    let (mut lines, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListObjectsRequest {
            prefix: prefix.into(),
            delimiter: delimiter.into(),
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = list(cluster, request).await.unwrap();
        assert!(page.objects.len() + page.prefixes.len() <= 2);
        lines.extend(
            page.objects.into_iter().map(|object| object.name.replace("buckets/photos/objects/", "")),
        );
        lines.extend(page.prefixes.into_iter().map(|prefix| format!("{prefix}*")));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            lines.sort();
            return lines;
        }
    }
}

#[tokio::test]
async fn pages_and_groups_join_to_the_whole_listing() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "photos" };
    writer.create_bucket().await;
    assert_eq!(all(&cluster, "", "").await, [""; 0]);
    for key in ["a/1", "a/2", "a/3", "b", "c/d/1", "c/e", "ü"] {
        writer.put(key, 0, None).await.unwrap();
    }
    assert_eq!(all(&cluster, "", "").await, ["a/1", "a/2", "a/3", "b", "c/d/1", "c/e", "ü"]);
    assert_eq!(all(&cluster, "", "/").await, ["a/*", "b", "c/*", "ü"]);
    assert_eq!(all(&cluster, "c/", "/").await, ["c/d/*", "c/e"]);
    assert_eq!(all(&cluster, "x", "/").await, [""; 0]);

    let behind = ListObjectsRequest { start_after: "b".into(), ..Default::default() };
    assert_eq!(list(&cluster, behind).await.unwrap().objects.len(), 3);
}

#[tokio::test]
async fn token_of_another_listing_is_refused() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "photos" };
    writer.create_bucket().await;
    for key in ["a/1", "a/2"] {
        writer.put(key, 0, None).await.unwrap();
    }
    let first = ListObjectsRequest { prefix: "a/".into(), page_size: 1, ..Default::default() };
    let page_token = list(&cluster, first.clone()).await.unwrap().next_page_token;
    let second = ListObjectsRequest { page_token, ..first };
    assert_eq!(list(&cluster, second.clone()).await.unwrap().objects.len(), 1);

    let invalid = |answer| assert_refused(answer, Code::InvalidArgument, "INVALID_ARGUMENT");
    invalid(list(&cluster, ListObjectsRequest { prefix: "a".into(), ..second.clone() }).await);
    let changed = format!("{}00", second.page_token);
    invalid(list(&cluster, ListObjectsRequest { page_token: changed, ..second.clone() }).await);
    invalid(list(&cluster, ListObjectsRequest { prefix: "p".repeat(1025), ..Default::default() }).await);
}

#[tokio::test]
async fn listing_needs_a_bucket() {
    let cluster = Cluster::start().await;
    let listed = list(&cluster, ListObjectsRequest::default()).await;
    assert_refused(listed, Code::NotFound, "BUCKET_NOT_FOUND");
}

#[tokio::test]
async fn all_pages_show_the_bucket_as_it_was_for_the_first_one() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "photos" };
    writer.create_bucket().await;
    for key in ["a", "b", "c", "d"] {
        writer.put(key, 0, None).await.unwrap();
    }
    let request = |page_token: String| ListObjectsRequest {
        page_size: 2,
        page_token,
        consistent: true,
        ..Default::default()
    };
    let keys = |page: &ListObjectsResponse| -> Vec<String> {
        page.objects.iter().map(|object| object.name.replace("buckets/photos/objects/", "")).collect()
    };
    let first = list(&cluster, request(String::new())).await.unwrap();
    let before = list(&cluster, request(first.next_page_token.clone())).await.unwrap();
    assert_eq!((keys(&before), before.as_of), (vec!["c".into(), "d".into()], first.as_of));

    let delete =
        DeleteObjectRequest { request_id: request_id(), name: writer.name("c"), ..Default::default() };
    cluster.call(delete, async |mut meta: Meta, request| meta.delete_object(request).await).await.unwrap();
    writer.put("bb", 0, None).await.unwrap();
    writer.put("d", 0, None).await.unwrap();
    let after = list(&cluster, request(first.next_page_token.clone())).await.unwrap();
    assert_eq!(after, before, "changes since then do not show");
    let fresh = list(&cluster, request(String::new())).await.unwrap();
    assert!(fresh.as_of > first.as_of);
    let fresh = list(&cluster, request(fresh.next_page_token)).await.unwrap();
    assert_eq!(keys(&fresh), ["bb", "d"]);
}

#[tokio::test]
async fn picture_outlives_the_leader_and_not_a_restart_from_a_snapshot() {
    let mut cluster = Cluster::start_with(|config| config.consensus.snapshot_entries = 10).await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "photos" };
    writer.create_bucket().await;
    for key in ["a", "b", "c"] {
        writer.put(key, 0, None).await.unwrap();
    }
    let request = |page_token: String, consistent| ListObjectsRequest {
        page_size: 1,
        page_token,
        consistent,
        ..Default::default()
    };
    let first = list(&cluster, request(String::new(), true)).await.unwrap();
    writer.put("aa", 0, None).await.unwrap();
    let leader = cluster.leader().await;
    cluster.kill(leader);
    let token = first.next_page_token.clone();
    let second = list(&cluster, request(token.clone(), true)).await.unwrap();
    assert_eq!((second.objects[0].name.as_str(), second.as_of), ("buckets/photos/objects/b", first.as_of));

    cluster.restart(leader).await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "photos" };
    for number in 0..20 {
        writer.put(&format!("more/{number}"), 0, None).await.unwrap();
    }
    for id in cluster.ids() {
        cluster.stop(id).await;
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    assert_refused(list(&cluster, request(token.clone(), true)).await, Code::Aborted, "LISTING_EXPIRED");
    let later = list(&cluster, request(token, false)).await.unwrap();
    assert_eq!(later.objects[0].name, "buckets/photos/objects/aa", "it goes on with the bucket as it is");
    assert!(later.as_of > first.as_of);
}

#[tokio::test]
async fn token_of_a_bucket_that_was_made_anew_is_expired() {
    let cluster = Cluster::start().await;
    let writer = Writer { cluster: &cluster, nodes: &[], bucket: "photos" };
    writer.create_bucket().await;
    for key in ["a", "b"] {
        writer.put(key, 0, None).await.unwrap();
    }
    let request = ListObjectsRequest { page_size: 1, consistent: true, ..Default::default() };
    let page_token = list(&cluster, request.clone()).await.unwrap().next_page_token;
    for key in ["a", "b"] {
        let delete = DeleteObjectRequest {
            request_id: request_id(),
            name: writer.name(key),
            ..DeleteObjectRequest::default()
        };
        cluster
            .call(delete, async |mut meta: Meta, request| meta.delete_object(request).await)
            .await
            .unwrap();
    }
    let delete = DeleteBucketRequest { request_id: request_id(), name: "buckets/photos".into() };
    cluster.call(delete, async |mut meta: Meta, request| meta.delete_bucket(request).await).await.unwrap();
    writer.create_bucket().await;
    let listed = list(&cluster, ListObjectsRequest { page_token, ..request }).await;
    assert_refused(listed, Code::Aborted, "LISTING_EXPIRED");
}
