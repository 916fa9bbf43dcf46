use futures::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::{
    ByteRange, ErrorKind, ObjectMetadata, ObjectVersion, Precondition, Versioning, copy_bytes,
    object_versions, objects,
};

async fn with_keys(keys: &[&str]) -> MockClient {
    let client = MockClient::new();
    client.create_bucket("demo", BucketOptions::default()).await.unwrap();
    for key in keys {
        client
            .put_bytes("demo", key, Bytes::copy_from_slice(key.as_bytes()), PutOptions::default())
            .await
            .unwrap();
    }
    client
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test]
async fn what_was_put_comes_back() {
    let client = with_keys(&[]).await;
    let options = BucketOptions { chunk_size: Some(64 << 10), ..BucketOptions::default() };
    client.create_bucket("small", options).await.unwrap();
    let bytes = Bytes::from(crate::fake::content(200_000));
    let put = client.put_bytes("small", "key", bytes.clone(), PutOptions::default()).await.unwrap();
    let stream = client.get("small", "key", GetOptions::default()).await.unwrap();
    assert_eq!(stream.object(), &put.object);
    assert_eq!(stream.into_bytes().await.unwrap(), bytes);
    let range = Some(ByteRange::Suffix(70_000));
    let tail = client.get("small", "key", GetOptions { range, ..GetOptions::default() }).await.unwrap();
    assert_eq!(tail.range(), 130_000..200_000);
    assert_eq!(tail.into_bytes().await.unwrap(), bytes[130_000..]);
    let placement = client.placement(&put.object).await.unwrap();
    assert_eq!(placement.iter().map(|chunk| chunk.length).collect::<Vec<_>>(), [65536, 65536, 65536, 3392]);
    assert!(placement.iter().all(|chunk| chunk.nodes.len() == 3));
}

#[tokio::test]
async fn every_put_is_a_new_version() {
    let client = with_keys(&["key"]).await;
    let first = client.stat("demo", "key", None).await.unwrap();
    let second = client.put_bytes("demo", "key", "key".into(), PutOptions::default()).await.unwrap().object;
    assert!(second.version > first.version && second.etag != first.etag);
    client.delete("demo", "key", None).await.unwrap();
    let third = client.put_bytes("demo", "key", "key".into(), PutOptions::default()).await.unwrap().object;
    assert!(third.version > second.version, "also across a delete");
    assert_eq!(kind(client.placement(&first).await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn preconditions_hold_at_the_end_of_a_put() {
    let client = with_keys(&[]).await;
    let once = PutOptions { precondition: Some(Precondition::IfNoneMatchAny), ..PutOptions::default() };
    let mut slow = client.writer("demo", "key", once.clone());
    slow.write_all(b"slow").await.unwrap();
    let fast = client.put_bytes("demo", "key", "fast".into(), once.clone()).await.unwrap().object;
    assert_eq!(kind(slow.finish().await), ErrorKind::PreconditionFailed);
    assert_eq!(
        kind(client.put_bytes("demo", "key", "late".into(), once).await),
        ErrorKind::PreconditionFailed
    );
    let held = Precondition::if_match(&fast.etag).unwrap();
    let over = PutOptions { precondition: Some(held.clone()), ..PutOptions::default() };
    client.put_bytes("demo", "key", "new".into(), over).await.unwrap();
    assert_eq!(kind(client.delete("demo", "key", Some(held)).await), ErrorKind::PreconditionFailed);
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_nothing() {
    let client = with_keys(&[]).await;
    let mut writer = client.writer("demo", "key", PutOptions::default());
    writer.write_all(b"half").await.unwrap();
    drop(writer);
    tokio::task::yield_now().await;
    assert_eq!(kind(client.stat("demo", "key", None).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn buckets_keep_their_rules() {
    let client = with_keys(&["key"]).await;
    assert_eq!(kind(client.create_bucket("demo", BucketOptions::default()).await), ErrorKind::AlreadyExists);
    assert_eq!(
        kind(client.create_bucket("Demo", BucketOptions::default()).await),
        ErrorKind::InvalidArgument
    );
    let odd = BucketOptions { chunk_size: Some(100_000), ..BucketOptions::default() };
    assert_eq!(kind(client.create_bucket("odd", odd).await), ErrorKind::InvalidArgument);
    let many = BucketOptions { replicas: Some(2), min_replicas: Some(3), ..BucketOptions::default() };
    assert_eq!(kind(client.create_bucket("many", many).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(client.delete_bucket("demo").await), ErrorKind::NotEmpty);
    assert_eq!(
        kind(client.put_bytes("none", "key", "".into(), PutOptions::default()).await),
        ErrorKind::NotFound
    );
    let bucket = client.bucket("demo").await.unwrap();
    assert_eq!((bucket.objects, bucket.bytes, bucket.replicas, bucket.min_replicas), (1, 3, 3, 2));
    client.delete("demo", "key", None).await.unwrap();
    client.delete_bucket("demo").await.unwrap();
    assert_eq!(client.buckets(None).await.unwrap(), BucketPage::default());
}

#[tokio::test]
async fn keys_are_listed_in_groups_and_pages() {
    let client = with_keys(&["a", "b/1", "b/2", "b/c/3", "bc", "c/1", "é"]).await;
    let list = async |prefix: &str, delimiter: &str, start_after: &str| {
        let mut lines = vec![];
        let mut page = None;
        loop {
            let options = ListOptions {
                prefix: prefix.into(),
                delimiter: delimiter.into(),
                start_after: start_after.into(),
                page_size: Some(1),
                page,
                ..ListOptions::default()
            };
            let found = client.list("demo", options).await.unwrap();
            assert!(found.objects.len() + found.prefixes.len() <= 1);
            lines.extend(found.objects.into_iter().map(|object| object.key));
            lines.extend(found.prefixes);
            page = found.next;
            if page.is_none() {
                return lines.join(" ");
            }
        }
    };
    assert_eq!(list("", "", "").await, "a b/1 b/2 b/c/3 bc c/1 é");
    assert_eq!(list("", "/", "").await, "a b/ bc c/ é");
    assert_eq!(list("b/", "/", "").await, "b/1 b/2 b/c/");
    assert_eq!(list("b", "", "b/2").await, "b/c/3 bc");
    assert_eq!(list("", "/", "b/1").await, "b/ bc c/ é");
    assert_eq!(list("x", "", "").await, "");
    let all: Vec<_> = objects(&client, "demo", "b").map_ok(|object| object.key).try_collect().await.unwrap();
    assert_eq!(all, ["b/1", "b/2", "b/c/3", "bc"]);
}

#[tokio::test]
async fn copies_are_versions_of_their_own() {
    let client = with_keys(&["a"]).await;
    let source = client.stat("demo", "a", None).await.unwrap();
    let copy = client.copy("demo", "a", "b", CopyOptions::default()).await.unwrap();
    assert!(copy.version > source.version && copy.etag != source.etag);
    assert_eq!((copy.key.as_str(), copy.crc32c, copy.size), ("b", source.crc32c, source.size));
    client.delete("demo", "a", None).await.unwrap();
    let bytes = client.get("demo", "b", GetOptions::default()).await.unwrap().into_bytes().await.unwrap();
    assert_eq!(bytes, "a");
    let metadata = ObjectMetadata { content_type: "text/plain".into(), ..ObjectMetadata::default() };
    let options = CopyOptions { metadata: Some(metadata), ..CopyOptions::default() };
    assert_eq!(client.copy("demo", "b", "b", options).await.unwrap().content_type, "text/plain");
    assert_eq!(kind(client.copy("demo", "a", "c", CopyOptions::default()).await), ErrorKind::NotFound);
    let held =
        CopyOptions { source_precondition: Some(Precondition::IfMatch(copy.etag)), ..CopyOptions::default() };
    assert_eq!(kind(client.copy("demo", "b", "c", held).await), ErrorKind::PreconditionFailed);
    client.create_bucket("other", BucketOptions::default()).await.unwrap();
    let copied = copy_bytes(&client, ("demo", "b"), ("other", "x"), CopyOptions::default()).await.unwrap();
    assert_eq!((copied.object.bucket.as_str(), copied.object.content_type.as_str()), ("other", "text/plain"));
}

#[tokio::test]
async fn batch_is_done_as_a_whole_or_not_at_all() {
    let client = with_keys(&["a", "b"]).await;
    let options = CopyOptions::default;
    let exchange = Batch::new("demo").copy("a", "b", options()).copy("b", "a", options());
    client.commit(exchange).await.unwrap();
    let bytes = client.get("demo", "a", GetOptions::default()).await.unwrap().into_bytes().await.unwrap();
    assert_eq!(bytes, "b", "each is judged by what was there before");
    let put = || Batch::new("demo").put_bytes("c", "c".into(), PutOptions::default());
    let refused = client.commit(put().delete("a", None).check("b", Precondition::IfNoneMatchAny)).await;
    assert!(matches!(refused, Err(Error::BatchRefused { operation: 3, .. })), "{refused:?}");
    let keys: Vec<_> = objects(&client, "demo", "").map_ok(|object| object.key).try_collect().await.unwrap();
    assert_eq!(keys, ["a", "b"]);
    let results =
        client.commit(put().delete("a", None).check("x", Precondition::IfNoneMatchAny)).await.unwrap();
    assert_eq!((results.len(), results[2].object.is_none()), (3, true));
    assert_eq!(kind(client.stat("demo", "a", None).await), ErrorKind::NotFound);
    assert_eq!(kind(client.commit(Batch::new("none").delete("a", None)).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn consistent_listing_fails_after_a_change_and_another_goes_on() {
    let client = with_keys(&["a", "b", "c"]).await;
    let options =
        |page, consistent| ListOptions { page_size: Some(1), page, consistent, ..ListOptions::default() };
    let first = client.list("demo", options(None, true)).await.unwrap();
    let second = client.list("demo", options(first.next.clone(), true)).await.unwrap();
    assert_eq!((second.objects[0].key.as_str(), second.as_of), ("b", first.as_of));
    client.delete("demo", "b", None).await.unwrap();
    let refused = client.list("demo", options(first.next.clone(), true)).await;
    assert!(matches!(refused, Err(Error::ListingExpired { .. })), "{refused:?}");
    let later = client.list("demo", options(first.next.clone(), false)).await.unwrap();
    assert_eq!(later.objects[0].key, "c");
    assert_ne!(later.as_of, first.as_of);
    let all: Vec<_> = crate::objects_at_once(&client, "demo", "").try_collect().await.unwrap();
    assert_eq!(all.len(), 2);
}

#[tokio::test]
async fn versions_lie_as_a_cluster_lays_them() {
    let client = MockClient::new();
    let options = BucketOptions { versioning: Versioning::On, ..BucketOptions::default() };
    client.create_bucket("demo", options).await.unwrap();
    let put = async |text: &'static str| {
        client.put_bytes("demo", "key", text.into(), PutOptions::default()).await.unwrap().object.version
    };
    let listed = async || {
        let all: Vec<ObjectVersion> = object_versions(&client, "demo", "").try_collect().await.unwrap();
        let line = |one: ObjectVersion| (one.object.version, one.latest, one.delete_marker);
        all.into_iter().map(line).collect::<Vec<_>>()
    };
    let delete = async |version| {
        let options = DeleteOptions { version, precondition: None };
        client.delete_with("demo", "key", options).await.unwrap()
    };
    let (one, two) = (put("one").await, put("three").await);
    let marker = delete(None).await.delete_marker.unwrap();
    assert_eq!(listed().await, [(marker, true, true), (two, false, false), (one, false, false)]);
    let bucket = client.bucket("demo").await.unwrap();
    assert_eq!((bucket.objects, bucket.older_versions, bucket.older_bytes), (0, 2, 8));
    assert_eq!(kind(client.stat("demo", "key", None).await), ErrorKind::NotFound);
    assert!(matches!(client.delete_bucket("demo").await, Err(Error::BucketNotEmpty { .. })));
    assert!(delete(Some(marker)).await.was_delete_marker);
    assert_eq!(client.stat("demo", "key", None).await.unwrap().version, two);
    let back = CopyOptions { source_version: Some(one), ..CopyOptions::default() };
    let back = client.copy("demo", "key", "key", back).await.unwrap();
    assert_eq!((back.size, listed().await.len()), (3, 3));
    let versioning = Some(Versioning::Suspended);
    client.update_bucket("demo", BucketUpdate { versioning, ..BucketUpdate::default() }).await.unwrap();
    put("four").await;
    let last = put("five").await;
    assert_eq!(listed().await[..2], [(last, true, false), (back.version, false, false)]);
    for version in [one, two, last, back.version] {
        delete(Some(version)).await;
    }
    client.delete_bucket("demo").await.unwrap();
}
