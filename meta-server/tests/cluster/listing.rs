use tonic::{Code, Status};
use xdpfs_proto::meta::v1::{ListObjectsRequest, ListObjectsResponse};

use crate::harness::{Cluster, Meta, Writer, assert_refused};

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
