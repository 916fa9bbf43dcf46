//! Everything that can be asked about objects and buckets.

use std::collections::BTreeMap;

use bytes::Bytes;
use tonic::Code;
use xdpfs_proto::object::v1::{
    self as proto, batch_operation::Kind, byte_range, commit_batch_request::Step as BatchStep,
};

use crate::support::{
    BUCKET, Caller, MIB, Scene, content, crc32c, get, get_request, get_with, head, header, if_match,
    if_none_match_any, is_there, put, put_with, refused,
};

fn range(kind: byte_range::Kind) -> Option<proto::ByteRange> {
    Some(proto::ByteRange { kind: Some(kind) })
}

fn span(offset: u64, length: u64) -> Option<proto::ByteRange> {
    range(byte_range::Kind::Span(proto::ByteSpan { offset, length }))
}

fn list_request() -> proto::ListObjectsRequest {
    proto::ListObjectsRequest { bucket: BUCKET.into(), ..Default::default() }
}

fn delete_request(key: &str) -> proto::DeleteObjectRequest {
    proto::DeleteObjectRequest { bucket: BUCKET.into(), key: key.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_all_sizes_come_back_as_they_were_put() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    // None, some, a part, a chunk of 4 MiB, and all around them.
    for len in [0, 1, 65_537, MIB, 4 * MIB - 1, 4 * MIB + 1, 9 * MIB + 7] {
        let (bytes, key) = (content(len), format!("of/{len}"));
        let made = put(caller, &key, &bytes).await;
        assert_eq!(
            (made.size, made.crc32c, made.durable_replicas),
            (len as u64, crc32c(&bytes), if len == 0 { made.durable_replicas } else { 3 })
        );
        let (header, got) = get_with(caller, get_request(&key)).await.unwrap();
        assert!(got == bytes, "{len} bytes");
        assert_eq!(header.object.as_ref(), Some(&made));
        assert_eq!(head(caller, &key).await.unwrap(), made);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_give_exactly_their_bytes() {
    let mut scene = Scene::start().await;
    let (caller, bytes) = (&mut scene.caller, content(9 * MIB));
    put(caller, "k", &bytes).await;
    for (asked, from, to) in [
        (span(0, 1), 0, 1),
        (span(4 * MIB as u64 - 1, 2), 4 * MIB - 1, 4 * MIB + 1),
        (span(MIB as u64, 7 * MIB as u64), MIB, 8 * MIB),
        (span(9 * MIB as u64 - 3, 100), 9 * MIB - 3, 9 * MIB),
        (span(8 * MIB as u64, 0), 8 * MIB, 9 * MIB),
        (range(byte_range::Kind::Suffix(5)), 9 * MIB - 5, 9 * MIB),
        (range(byte_range::Kind::Suffix(u64::MAX)), 0, 9 * MIB),
    ] {
        let request = proto::GetObjectRequest { range: asked, ..get_request("k") };
        let (header, got) = get_with(caller, request).await.unwrap();
        assert!(got == bytes.slice(from..to), "{asked:?}");
        assert_eq!((header.offset, header.length), (from as u64, (to - from) as u64));
    }
    let behind = proto::GetObjectRequest { range: span(9 * MIB as u64, 1), ..get_request("k") };
    let status = caller.get_object(behind).await.unwrap_err();
    refused(&status, Code::OutOfRange, "RANGE_NOT_SATISFIABLE");
    let nothing = proto::GetObjectRequest { range: Some(proto::ByteRange::default()), ..get_request("k") };
    refused(&caller.get_object(nothing).await.unwrap_err(), Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_about_an_object_is_kept_and_copied() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    let said = proto::ObjectMetadata {
        content_type: "text/plain".into(),
        user_metadata: BTreeMap::from([("who".to_owned(), "Zoë".to_owned())]),
    };
    let bytes = Bytes::from_static(b"hello");
    put_with(caller, proto::PutObjectHeader { metadata: Some(said.clone()), ..header("a") }, &bytes)
        .await
        .unwrap();
    let other = proto::CreateBucketRequest { bucket: "other".into(), ..Default::default() };
    caller.create_bucket(other).await.unwrap();
    let copy = proto::CopyObjectRequest {
        source_bucket: BUCKET.into(),
        source_key: "a".into(),
        bucket: BUCKET.into(),
        key: "b".into(),
        ..Default::default()
    };
    let across = proto::CopyObjectRequest { bucket: "other".into(), ..copy.clone() };
    for request in [copy.clone(), across] {
        let copied = caller.copy_object(request.clone()).await.unwrap().into_inner().object.unwrap();
        assert_eq!((&copied.bucket, &copied.key), (&request.bucket, &request.key));
        assert_eq!((&copied.content_type, &copied.user_metadata), (&said.content_type, &said.user_metadata));
        let request = proto::GetObjectRequest { bucket: request.bucket, ..get_request("b") };
        assert_eq!(get_with(caller, request).await.unwrap().1, bytes);
    }
    let renamed = proto::ObjectMetadata { content_type: "text/html".into(), ..Default::default() };
    let copy = proto::CopyObjectRequest { metadata: Some(renamed), ..copy };
    let copied = caller.copy_object(copy.clone()).await.unwrap().into_inner().object.unwrap();
    assert_eq!((copied.content_type.as_str(), copied.user_metadata.len()), ("text/html", 0));
    let missing = proto::CopyObjectRequest { source_key: "nowhere".into(), ..copy };
    refused(&caller.copy_object(missing).await.unwrap_err(), Code::NotFound, "OBJECT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_decide_what_takes_effect() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    let only_new = || proto::PutObjectHeader { precondition: if_none_match_any(), ..header("k") };
    let made = put_with(caller, only_new(), &first).await.unwrap();
    let status = put_with(caller, only_new(), &second).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "PRECONDITION_FAILED");
    assert_eq!(get(caller, "k").await, first);

    let instead = |etag: &str| proto::PutObjectHeader { precondition: if_match(etag), ..header("k") };
    let replaced = put_with(caller, instead(&made.etag), &second).await.unwrap();
    assert!(replaced.version > made.version);
    let status = put_with(caller, instead(&made.etag), &first).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "PRECONDITION_FAILED");

    let stale = proto::GetObjectRequest { precondition: if_match(&made.etag), ..get_request("k") };
    refused(&caller.get_object(stale).await.unwrap_err(), Code::FailedPrecondition, "PRECONDITION_FAILED");
    let stale = proto::DeleteObjectRequest { precondition: if_match(&made.etag), ..delete_request("k") };
    refused(&caller.delete_object(stale).await.unwrap_err(), Code::FailedPrecondition, "PRECONDITION_FAILED");
    let right = proto::DeleteObjectRequest { precondition: if_match(&replaced.etag), ..delete_request("k") };
    caller.delete_object(right).await.unwrap();
    refused(
        &caller.delete_object(delete_request("k")).await.unwrap_err(),
        Code::NotFound,
        "OBJECT_NOT_FOUND",
    );
    let nonsense = proto::HeadObjectRequest {
        bucket: BUCKET.into(),
        key: "k".into(),
        precondition: Some(proto::Precondition::default()),
        version: 0,
    };
    refused(&caller.head_object(nonsense).await.unwrap_err(), Code::InvalidArgument, "INVALID_ARGUMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_by_prefix_and_delimiter_in_pages() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    let keys = ["a/1", "a/2", "b", "c/1/x", "c/2"];
    for key in keys {
        put(caller, key, &Bytes::from_static(b"x")).await;
    }
    let (mut seen, mut request) = (Vec::new(), proto::ListObjectsRequest { page_size: 2, ..list_request() });
    loop {
        let page = caller.list_objects(request.clone()).await.unwrap().into_inner();
        assert!(page.objects.len() <= 2);
        seen.extend(page.objects.into_iter().map(|object| object.key));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, keys);
    let grouped = proto::ListObjectsRequest { delimiter: "/".into(), ..list_request() };
    let page = caller.list_objects(grouped.clone()).await.unwrap().into_inner();
    assert_eq!(page.prefixes, ["a/", "c/"]);
    assert_eq!(page.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["b"]);
    let below = proto::ListObjectsRequest { prefix: "c/".into(), start_after: "c/1".into(), ..grouped };
    let page = caller.list_objects(below).await.unwrap().into_inner();
    assert_eq!((page.prefixes, page.objects.len()), (vec!["c/1/".to_owned()], 1));
    let nowhere = proto::ListObjectsRequest { bucket: "nowhere".into(), ..Default::default() };
    refused(&caller.list_objects(nowhere).await.unwrap_err(), Code::NotFound, "BUCKET_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_kept_listed_got_and_removed() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    let request = proto::CreateBucketRequest {
        bucket: "kept".into(),
        versioning: proto::Versioning::On.into(),
        ..Default::default()
    };
    caller.create_bucket(request).await.unwrap();
    let header = || proto::PutObjectHeader { bucket: "kept".into(), ..header("k") };
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    let old = put_with(caller, header(), &one).await.unwrap();
    let new = put_with(caller, header(), &two).await.unwrap();
    let delete = proto::DeleteObjectRequest { bucket: "kept".into(), ..delete_request("k") };
    let deleted = caller.delete_object(delete.clone()).await.unwrap().into_inner();
    assert!(deleted.delete_marker > new.version && !deleted.was_delete_marker);
    let get = proto::GetObjectRequest { bucket: "kept".into(), ..get_request("k") };
    refused(&caller.get_object(get.clone()).await.unwrap_err(), Code::NotFound, "OBJECT_NOT_FOUND");
    for (version, bytes) in [(old.version, &one), (new.version, &two)] {
        let request = proto::GetObjectRequest { version, ..get.clone() };
        assert_eq!(&get_with(caller, request).await.unwrap().1, bytes);
    }
    let request = proto::ListObjectVersionsRequest { bucket: "kept".into(), ..Default::default() };
    let page = caller.list_object_versions(request).await.unwrap().into_inner();
    let seen: Vec<_> = page
        .versions
        .iter()
        .map(|v| (v.object.as_ref().unwrap().version, v.latest, v.delete_marker))
        .collect();
    let marker = deleted.delete_marker;
    assert_eq!(seen, [(marker, true, true), (new.version, false, false), (old.version, false, false)]);
    let mark = proto::DeleteObjectRequest { version: marker, ..delete.clone() };
    assert!(caller.delete_object(mark).await.unwrap().into_inner().was_delete_marker);
    assert_eq!(get_with(caller, get.clone()).await.unwrap().1, two, "what it hid is there again");
    let first = proto::DeleteObjectRequest { version: old.version, ..delete };
    caller.delete_object(first).await.unwrap();
    let gone = proto::GetObjectRequest { version: old.version, ..get };
    refused(&caller.get_object(gone).await.unwrap_err(), Code::NotFound, "OBJECT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_made_looked_at_listed_and_removed() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    let request = proto::CreateBucketRequest {
        bucket: "small".into(),
        chunk_size: 65_536,
        replicas: 2,
        min_replicas: 1,
        quota_objects: 1,
        ..Default::default()
    };
    let made = caller.create_bucket(request.clone()).await.unwrap().into_inner().bucket.unwrap();
    assert_eq!((made.chunk_size, made.replicas, made.min_replicas, made.quota_objects), (65_536, 2, 1, 1));
    assert_eq!(made.versioning(), proto::Versioning::Off);
    refused(&caller.create_bucket(request).await.unwrap_err(), Code::AlreadyExists, "BUCKET_EXISTS");
    let header = |key: &str| proto::PutObjectHeader { bucket: "small".into(), ..header(key) };
    put_with(caller, header("a"), &content(100_000)).await.unwrap();
    let status = put_with(caller, header("b"), &content(1)).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "QUOTA_EXCEEDED");
    let looked = proto::HeadBucketRequest { bucket: "small".into() };
    let held = caller.head_bucket(looked.clone()).await.unwrap().into_inner().bucket.unwrap();
    assert_eq!((held.objects, held.bytes), (1, 100_000));
    let all = caller.list_buckets(proto::ListBucketsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.buckets.iter().map(|bucket| bucket.name.as_str()).collect::<Vec<_>>(), [BUCKET, "small"]);
    let gone = proto::DeleteBucketRequest { bucket: "small".into(), ..Default::default() };
    refused(
        &caller.delete_bucket(gone.clone()).await.unwrap_err(),
        Code::FailedPrecondition,
        "BUCKET_NOT_EMPTY",
    );
    let delete = proto::DeleteObjectRequest { bucket: "small".into(), ..delete_request("a") };
    caller.delete_object(delete).await.unwrap();
    caller.delete_bucket(gone).await.unwrap();
    refused(&caller.head_bucket(looked).await.unwrap_err(), Code::NotFound, "BUCKET_NOT_FOUND");
    let bad = proto::HeadBucketRequest { bucket: "No Name".into() };
    refused(&caller.head_bucket(bad).await.unwrap_err(), Code::InvalidArgument, "INVALID_ARGUMENT");
}

async fn commit(
    caller: &mut Caller,
    operations: Vec<Kind>,
    bytes: &[Bytes],
) -> Result<Vec<proto::BatchResult>, tonic::Status> {
    let operations = operations.into_iter().map(|kind| proto::BatchOperation { kind: Some(kind) }).collect();
    let header = proto::CommitBatchHeader { bucket: BUCKET.into(), operations, request_id: String::new() };
    let mut steps = vec![BatchStep::Header(header)];
    for bytes in bytes {
        let parts = (0..bytes.len()).step_by(MIB).map(|at| bytes.slice(at..bytes.len().min(at + MIB)));
        steps.extend(parts.map(BatchStep::Part));
        steps.push(BatchStep::Trailer(proto::Trailer { crc32c: crc32c(bytes) }));
    }
    let messages: Vec<_> =
        steps.into_iter().map(|step| proto::CommitBatchRequest { step: Some(step) }).collect();
    let answer = caller.commit_batch(futures::stream::iter(messages)).await?;
    Ok(answer.into_inner().results)
}

fn batch_put(key: &str) -> Kind {
    Kind::Put(proto::BatchPut { key: key.into(), ..Default::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_takes_effect_as_a_whole_or_not_at_all() {
    let mut scene = Scene::start().await;
    let caller = &mut scene.caller;
    let moved = content(5);
    put(caller, "from", &moved).await;
    let copy =
        || Kind::Copy(proto::BatchCopy { source_key: "from".into(), key: "to".into(), ..Default::default() });
    let delete = || Kind::Delete(proto::BatchDelete { key: "from".into(), ..Default::default() });
    // More puts than are under way at once, of more bytes than wait anywhere.
    let contents: Vec<Bytes> = (0..7).map(|number| content(number * MIB / 2 + 1)).collect();
    let puts = || (0..7).map(|number| batch_put(&format!("p{number}")));
    let lock = proto::BatchCheck { key: "lock".into(), precondition: if_none_match_any() };

    let unlocked: Vec<_> = puts().chain([copy(), delete(), Kind::Check(lock.clone())]).collect();
    let results = commit(caller, unlocked.clone(), &contents).await.unwrap();
    assert_eq!(results.len(), 10);
    assert!(results[9].object.is_none(), "a check makes nothing");
    for (number, bytes) in contents.iter().enumerate() {
        assert!(get(caller, &format!("p{number}")).await == *bytes, "p{number}");
    }
    assert_eq!(get(caller, "to").await, moved);
    assert!(!is_there(caller, "from").await);

    put(caller, "lock", &Bytes::new()).await;
    let again = vec![batch_put("new"), Kind::Check(lock)];
    let status = commit(caller, again, &contents[..1]).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "PRECONDITION_FAILED");
    let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
    assert_eq!(info.metadata["operation"], "2");
    assert!(!is_there(caller, "new").await);

    // Bytes of one put are missing.
    let status =
        commit(caller, vec![batch_put("new"), batch_put("newer")], &contents[..1]).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "UPLOAD_INCOMPLETE");
    let status =
        commit(caller, vec![batch_put("same"), batch_put("same")], &contents[..2]).await.unwrap_err();
    refused(&status, Code::InvalidArgument, "INVALID_ARGUMENT");
    assert!(!is_there(caller, "new").await && !is_there(caller, "same").await);
}
