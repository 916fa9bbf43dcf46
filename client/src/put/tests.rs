use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};
use tonic::Code;
use xdpfs_wire::Status;

use super::*;
use crate::{
    Client, GetOptions, ObjectClient as _,
    control::Operation,
    fake::{Answer, BUCKET, Behaviour, FakeCluster, content, refuse},
};

const CHUNK: usize = 64 << 10;

async fn put(client: &Client, bytes: &[u8]) -> Result<PutResult> {
    client.put(BUCKET, "key", bytes, PutOptions::default()).await
}

/// The object as the nodes hold it.
async fn get(client: &Client) -> Bytes {
    client.get(BUCKET, "key", GetOptions::default()).await.unwrap().into_bytes().await.unwrap()
}

/// Whether nothing is visible, and the one upload that was begun was aborted.
async fn was_given_up(cluster: &FakeCluster) {
    cluster.until(|state| state.uploads.is_empty() && state.aborted.len() == 1).await;
    assert!(cluster.with(|state| state.objects.is_empty()));
    assert_eq!(cluster.with(|state| state.outstanding), 0);
}

/// An input that gives `bytes` and then waits for ever.
fn stuck_after(bytes: &[u8]) -> impl AsyncRead + Send + Unpin + 'static {
    let (mut near, far) = tokio::io::duplex(bytes.len());
    let bytes = bytes.to_vec();
    tokio::spawn(async move {
        near.write_all(&bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    far
}

#[test]
fn grants_follow_the_size_hint() {
    assert_eq!(first_grants(None), GRANTS_FIRST);
    assert_eq!(first_grants(Some(1)), 1);
    assert_eq!(first_grants(Some(u64::MAX)), GRANTS_MAX);
    let check =
        |begun, hint, expect| assert_eq!(more_grants(begun, hint, 1 << 20), expect, "{begun} {hint:?}");
    check(10, Some(30 << 20), 20);
    check(10, Some(1 << 40), GRANTS_MAX);
    check(10, Some(10 << 20), 10);
    check(8, None, 8);
    check(1 << 20, None, GRANTS_MAX);
    check(0, Some(0), 1);
}

#[tokio::test(start_paused = true)]
async fn every_boundary_size_is_stored_whole() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 9 * CHUNK - 1, 9 * CHUNK, 200 * CHUNK + 1] {
        let bytes = content(length);
        for size_hint in [None, Some(length as u64), Some(1), Some(u64::MAX)] {
            let options = PutOptions { size_hint, ..PutOptions::default() };
            let result = client.put(BUCKET, "key", bytes.as_slice(), options).await.unwrap();
            assert_eq!((result.object.size, result.chunks_in_debt), (length as u64, 0), "{size_hint:?}");
            assert_eq!(result.object.crc32c, xdpfs_transport::crc32c(&bytes));
            assert_eq!(result.object.durable_replicas, 3);
            assert!(get(&client).await == bytes, "{length} {size_hint:?}");
        }
    }
    assert!(cluster.with(|state| state.uploads.is_empty() && state.aborted.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn an_input_of_unknown_length_is_cut_into_full_chunks() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let bytes = content(10 * CHUNK + 5);
    let mut writer = client.writer(BUCKET, "key", PutOptions::default());
    for part in bytes.chunks(1000) {
        writer.write_all(part).await.unwrap();
    }
    writer.shutdown().await.unwrap();
    assert!(cluster.with(|state| state.objects.is_empty()), "only finishing makes it visible");
    writer.finish().await.unwrap();
    let lengths: Vec<_> = cluster.with(|state| state.stored("key").chunks.iter().map(|c| c.length).collect());
    assert_eq!(lengths[..10], [CHUNK as u32; 10]);
    assert_eq!(lengths[10..], [5]);
    assert!(get(&client).await == bytes);
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_says_of_the_object_is_kept() {
    let cluster = FakeCluster::start(3);
    let options = PutOptions {
        content_type: "text/plain".into(),
        user_metadata: [("colour".to_owned(), "blue".to_owned())].into(),
        ..PutOptions::default()
    };
    let put = cluster
        .client()
        .put_bytes(BUCKET, "a key/with ü", Bytes::from("text"), options.clone())
        .await
        .unwrap();
    assert_eq!(
        (put.object.content_type, put.object.user_metadata),
        (options.content_type, options.user_metadata)
    );
    assert_eq!(put.object.key, "a key/with ü");
}

#[tokio::test(start_paused = true)]
async fn bad_words_about_an_object_are_refused_before_its_bytes_are_read() {
    let cluster = FakeCluster::start(3);
    let words = |key: &str, value: &str| PutOptions {
        user_metadata: [(key.to_owned(), value.to_owned())].into(),
        ..PutOptions::default()
    };
    let media = |content_type: String| PutOptions { content_type, ..PutOptions::default() };
    let long = "v".repeat(2046);
    for bad in [
        words("", "value"),
        words("key", &long),
        words("key", "\u{1b}[31m"),
        words("a\nb", "value"),
        media("t".repeat(257)),
        media("text\r\n".into()),
    ] {
        let put = cluster.client().put(BUCKET, "key", broken_input(), bad).await;
        assert!(matches!(put, Err(Error::InvalidArgument { .. })), "{put:?}");
    }
    assert!(cluster.with(|state| state.objects.is_empty()));
    cluster.client().put_bytes(BUCKET, "key", "x".into(), words("key", &long[1..])).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_leaves_debt_and_is_waited_for_once() {
    let cluster = FakeCluster::start(3);
    cluster.behave(1, Behaviour::Dead);
    let started = Instant::now();
    let result = put(&cluster.client(), &content(20 * CHUNK)).await.unwrap();
    assert_eq!((result.object.durable_replicas, result.chunks_in_debt), (2, 20));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_avoided_while_others_will_do() {
    let cluster = FakeCluster::start(4);
    cluster.behave(1, Behaviour::Dead);
    let client = cluster.client();
    put(&client, &content(4 * CHUNK)).await.unwrap();
    let again = put(&client, &content(20 * CHUNK)).await.unwrap();
    assert_eq!((again.object.durable_replicas, again.chunks_in_debt), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_straggler_is_not_waited_for() {
    let cluster = FakeCluster::start(3);
    cluster.behave(2, Behaviour::Slow(Duration::from_secs(3600)));
    let started = Instant::now();
    let result = put(&cluster.client(), &content(3 * CHUNK)).await.unwrap();
    assert_eq!(result.object.durable_replicas, 2);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(cluster.with(|state| state.outstanding), 0, "its transfers are cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_works_again_gets_its_replicas() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    cluster.behave(1, Behaviour::Dead);
    assert_eq!(put(&client, &content(CHUNK)).await.unwrap().chunks_in_debt, 1);
    cluster.behave(1, Behaviour::Slow(Duration::from_millis(5)));
    assert_eq!(put(&client, &content(3 * CHUNK)).await.unwrap().chunks_in_debt, 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_node_leaves_debt_and_full_nodes_fail_the_put() {
    let cluster = FakeCluster::start(3);
    cluster.behave(3, Behaviour::Refuses(Status::NoSpace));
    let client = cluster.client();
    let result = put(&client, &content(3 * CHUNK)).await.unwrap();
    assert_eq!((result.object.durable_replicas, result.chunks_in_debt), (2, 3));
    cluster.with(|state| state.objects.clear());

    cluster.behave(2, Behaviour::Refuses(Status::NoSpace));
    let started = Instant::now();
    let refused = put(&client, &content(3 * CHUNK)).await;
    assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_receipt_for_other_bytes_counts_for_nothing() {
    let cluster = FakeCluster::start(3);
    cluster.behave(1, Behaviour::Lies);
    let client = cluster.client();
    let bytes = content(3 * CHUNK);
    let result = put(&client, &bytes).await.unwrap();
    assert_eq!(result.object.durable_replicas, 2);
    assert!(get(&client).await == bytes);
    let holders: Vec<_> =
        cluster.with(|state| state.stored("key").chunks.iter().map(|c| c.node_ids.clone()).collect());
    assert!(holders.iter().flatten().all(|node| *node != 1), "{holders:?}");
}

#[tokio::test(start_paused = true)]
async fn too_few_replicas_fail_the_put_and_abort_it() {
    let cluster = FakeCluster::start(3);
    cluster.behave(1, Behaviour::Dead);
    cluster.behave(2, Behaviour::Dead);
    let client = cluster.client();
    let started = Instant::now();
    let refused = put(&client, &content(CHUNK)).await;
    assert!(matches!(refused, Err(Error::NotDurable { durable: 1, needed: 2, .. })), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    client.close().await;
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_moves_to_nodes_that_work() {
    let cluster = FakeCluster::start(6);
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Dead));
    let client = cluster.client();
    let bytes = content(12 * CHUNK);
    let started = Instant::now();
    put(&client, &bytes).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(get(&client).await == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_registered_anew_is_written_to_under_its_new_registration() {
    let cluster = FakeCluster::start(3);
    cluster.behave(1, Behaviour::Slow(Duration::from_millis(500)));
    let client = cluster.client();
    let writing = tokio::spawn(async move { put(&client, &content(CHUNK)).await });
    cluster.until(|state| state.outstanding > 0).await;
    cluster.with(|state| state.node(1).epoch = 2);
    let result = writing.await.unwrap().unwrap();
    assert_eq!(result.object.durable_replicas, 3);
    assert_eq!(cluster.meta.count(Operation::ExtendPut), 1, "the node said that it has registered anew");
}

/// Its node has registered anew, or another one has its address: either way one reply says that the table is old.
#[tokio::test(start_paused = true)]
async fn a_writer_with_an_old_table_is_corrected_by_one_reply() {
    for status in [Status::StaleNode, Status::WrongNode] {
        let cluster = FakeCluster::start(3);
        cluster.behave(2, Behaviour::Refuses(status));
        cluster.with(|state| {
            // From then on the leader's word about the node is right.
            state.on_request(|operation, state| {
                if operation == Operation::ExtendPut {
                    state.node(2).behaviour = Behaviour::Works;
                }
            });
        });
        let client = cluster.client();
        let started = Instant::now();
        let result = put(&client, &content(CHUNK)).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(500), "{status:?}: {:?}", started.elapsed());
        assert_eq!(result.object.durable_replicas, 3, "{status:?}");
        assert_eq!(cluster.meta.count(Operation::ExtendPut), 1, "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stale_receipts_are_renewed_without_sending_the_bytes_again() {
    let cluster = FakeCluster::start(3);
    let mut is_first = true;
    cluster.with(|state| {
        state.on_request(move |operation, state| {
            if operation == Operation::CommitPut && std::mem::take(&mut is_first) {
                state.node(1).epoch += 1;
                state.node(2).epoch += 1;
            }
        });
    });
    let client = cluster.client();
    let bytes = content(5 * CHUNK);
    let result = put(&client, &bytes).await.unwrap();
    assert_eq!(result.object.durable_replicas, 3);
    assert_eq!([1, 2, 3].map(|node| cluster.with(|state| state.node(node).writes)), [5, 5, 5]);
    assert_eq!(cluster.meta.count(Operation::CommitPut), 2);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_were_lost_before_the_commit_fail_the_put() {
    let cluster = FakeCluster::start(3);
    cluster.with(|state| {
        state.on_request(|operation, state| {
            if operation == Operation::CommitPut {
                for node in [1, 2] {
                    // Another disk under the same name.
                    state.node(node).epoch += 1;
                    state.node(node).chunks.clear();
                }
            }
        });
    });
    let started = Instant::now();
    let refused = put(&cluster.client(), &content(3 * CHUNK)).await;
    assert!(matches!(refused, Err(Error::NotDurable { needed: 2, .. })), "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn receipts_that_nobody_renews_end_the_put_at_its_deadline() {
    let cluster = FakeCluster::start(3);
    cluster.with(|state| {
        state.on_request(|operation, state| {
            if operation == Operation::CommitPut {
                state.node(1).epoch += 1;
                state.node(2).epoch += 1;
            }
        });
    });
    let started = Instant::now();
    let refused = put(&cluster.client(), &content(CHUNK)).await;
    assert!(matches!(refused, Err(Error::Unavailable { operation: "CommitPut", .. })), "{refused:?}");
    assert!((30..40).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_without_an_address_count_as_unreachable() {
    let cluster = FakeCluster::start(3);
    cluster.with(|state| state.node(1).is_hidden = true);
    let client = cluster.client();
    let started = Instant::now();
    let result = put(&client, &content(10 * CHUNK)).await.unwrap();
    assert_eq!(result.object.durable_replicas, 2);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    cluster.with(|state| state.objects.clear());

    cluster.with(|state| state.node(2).is_hidden = true);
    let refused = put(&client, &content(CHUNK)).await;
    assert!(matches!(refused, Err(Error::NotDurable { durable: 1, needed: 2, .. })), "{refused:?}");
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_put_is_aborted() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let input = stuck_after(&content(5 * CHUNK));
    let writing = tokio::spawn({
        let client = client.clone();
        async move { client.put(BUCKET, "key", input, PutOptions::default()).await }
    });
    cluster.until(|state| state.asked > 0).await;
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    client.close().await;
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn an_input_that_fails_aborts_the_put() {
    let cluster = FakeCluster::start(3);
    let bytes = content(5 * CHUNK);
    let broken = broken_input();
    let refused =
        cluster.client().put(BUCKET, "key", bytes.as_slice().chain(broken), PutOptions::default()).await;
    assert!(matches!(refused, Err(Error::Input(_))), "{refused:?}");
    was_given_up(&cluster).await;
}

/// An input that fails at its first read.
fn broken_input() -> impl AsyncRead + Send + Unpin {
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the disk is gone")))
        }
    }
    Broken
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_dropped_aborts_its_put() {
    let cluster = FakeCluster::start(3);
    let mut writer = cluster.client().writer(BUCKET, "key", PutOptions::default());
    writer.write_all(&content(10 * CHUNK)).await.unwrap();
    cluster.until(|state| state.asked > 0).await;
    drop(writer);
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn a_writer_says_why_its_put_failed() {
    let cluster = FakeCluster::start(3);
    (1..=3).for_each(|node| cluster.behave(node, Behaviour::Refuses(Status::NoSpace)));
    let mut writer = cluster.client().writer(BUCKET, "key", PutOptions::default());
    let bytes = content(40 * CHUNK);
    assert!(writer.write_all(&bytes).await.is_err(), "nobody reads the pipe any more");
    let refused = writer.finish().await;
    assert!(matches!(refused, Err(Error::NoSpace)), "{refused:?}");
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn an_input_that_pauses_for_long_keeps_its_upload() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let bytes = content(6 * CHUNK);
    let mut writer = client.writer(BUCKET, "key", PutOptions::default());
    for part in bytes.chunks(CHUNK) {
        writer.write_all(part).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    writer.finish().await.unwrap();
    assert!(get(&client).await == bytes);
    assert_eq!(cluster.with(|state| state.expired), 0);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_expired_fails_the_put() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let mut writer = client.writer(BUCKET, "key", PutOptions::default());
    writer.write_all(&content(2 * CHUNK)).await.unwrap();
    cluster.until(|state| state.asked > 0).await;
    cluster.with(|state| state.uploads.clear());
    let _ = writer.write_all(&content(40 * CHUNK)).await;
    let refused = writer.finish().await;
    assert!(matches!(refused, Err(Error::UploadExpired)), "{refused:?}");
    assert!(cluster.with(|state| state.objects.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn preconditions_are_checked_before_the_first_byte_and_again_at_the_commit() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let once = || PutOptions { precondition: Some(Precondition::IfNoneMatchAny), ..PutOptions::default() };
    let mut is_first = true;
    cluster.with(|state| {
        state.on_request(move |operation, state| {
            if operation == Operation::CommitPut && std::mem::take(&mut is_first) {
                state.overwrite("key", b"another writer was faster");
            }
        });
    });
    let refused = client.put(BUCKET, "key", b"bytes".as_slice(), once()).await;
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })), "{refused:?}");
    cluster.until(|state| state.aborted.len() == 1).await;

    let asked = cluster.with(|state| state.asked);
    let refused = client.put(BUCKET, "key", b"bytes".as_slice(), once()).await;
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })), "{refused:?}");
    assert_eq!(cluster.with(|state| state.asked), asked, "nothing was sent to any node");
    assert!(get(&client).await == "another writer was faster");
}

#[tokio::test(start_paused = true)]
async fn change_with_a_name_is_committed_under_it_and_its_precondition_is_left_to_the_commit() {
    let cluster = FakeCluster::start(3);
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let named = cluster.client().under_request_id(id.parse().unwrap());
    let once = PutOptions { precondition: Some(Precondition::IfNoneMatchAny), ..PutOptions::default() };
    let made = named.put(BUCKET, "key", b"bytes".as_slice(), once.clone()).await.unwrap();
    let again = named.put(BUCKET, "key", b"bytes".as_slice(), once).await.unwrap();
    assert_eq!(again.object.version, made.object.version, "the first answer, though the key holds something");
    let asked = cluster.meta.requests();
    let under = |operation| {
        let requests = asked.iter().filter(move |(asked, _)| *asked == operation);
        requests.map(|(_, request)| request.contains(id)).collect::<Vec<_>>()
    };
    assert_eq!(under(Operation::BeginPut), [false, false]);
    assert_eq!(under(Operation::CommitPut), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn repeated_put_is_not_refused_for_the_room_that_its_first_attempt_took() {
    let cluster = FakeCluster::start(3);
    let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let named = cluster.client().under_request_id(id.parse().unwrap());
    let made = named.put(BUCKET, "key", b"bytes".as_slice(), PutOptions::default()).await.unwrap();
    named.close().await;
    cluster.meta.answer([Answer::Fail(refuse(Code::ResourceExhausted, "QUOTA_EXCEEDED"))]);
    let again = named.put(BUCKET, "key", b"bytes".as_slice(), PutOptions::default()).await.unwrap();
    assert_eq!(again.object.version, made.object.version);
    named.close().await;
    assert_eq!(cluster.with(|state| (state.uploads.len(), state.aborted.len())), (0, 1), "none is left open");

    let other = named.put(BUCKET, "other", b"bytes".as_slice(), PutOptions::default()).await;
    assert!(matches!(other, Err(Error::InvalidArgument { .. })), "{other:?}");
}

#[tokio::test(start_paused = true)]
async fn client_on_behalf_of_others_shows_their_keys_and_shares_what_it_has() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    cluster.meta.require("XKABC.SECRET".parse().unwrap());
    let with = |key: &str| client.on_behalf_of(Some(key.parse().unwrap()));
    put(&with("XKABC.SECRET"), b"bytes").await.unwrap();
    assert!(get(&with("XKABC.SECRET")).await == "bytes".as_bytes());
    for other in [with("XKABC.OTHER"), with("XKABC.SECRET").on_behalf_of(None), client.clone()] {
        let refused = put(&other, b"bytes").await;
        assert!(matches!(refused, Err(Error::Unauthenticated { .. })), "{refused:?}");
    }
    let (one, two) = (with("XKABC.SECRET"), client.on_behalf_of(None));
    let all = one.shared().memory(usize::MAX).await.unwrap();
    assert!(two.shared().try_memory(1).is_none(), "there is one budget");
    drop(all);
    assert!(two.shared().try_memory(1).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_takes_effect_once() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let lost = || Answer::Lose(refuse(Code::Unavailable, "OUTCOME_UNKNOWN"));
    let meta = cluster.meta.clone();
    cluster.with(|state| {
        let mut is_first = true;
        state.on_request(move |operation, _| {
            if operation == Operation::BeginPut && std::mem::take(&mut is_first) {
                meta.answer([lost(), lost()]);
            }
        });
    });
    let result = put(&client, b"bytes").await.unwrap();
    assert_eq!(cluster.with(|state| state.stored("key").object.version), result.object.version);
    assert_eq!(cluster.meta.count(Operation::CommitPut), 3);

    let meta = cluster.meta.clone();
    cluster.with(|state| {
        state.on_request(move |operation, _| {
            if operation == Operation::BeginPut {
                meta.answer_always(Some(lost()));
            }
        });
    });
    let refused = put(&client, b"other").await;
    assert!(matches!(refused, Err(Error::OutcomeUnknown { operation: "CommitPut", .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_by_the_chunks_in_flight() {
    let cluster = FakeCluster::start(3);
    put(&cluster.client(), &content(100 * CHUNK)).await.unwrap();
    // Each chunk in flight is sent to three nodes.
    let most = cluster.with(|state| state.outstanding_most) as usize / 3;
    assert!((2 * CHUNK..=4 * CHUNK).contains(&most), "{most}");
}

#[tokio::test(start_paused = true)]
async fn gets_that_nobody_reads_do_not_stop_a_put() {
    let cluster = FakeCluster::start(3);
    let bytes = content(20 * CHUNK);
    cluster.with(|state| state.overwrite("source", &bytes));
    let client = cluster.client_with(|config| config.buffered_bytes_max = 4 * CHUNK as u32);
    let source = client.get(BUCKET, "source", GetOptions::default()).await.unwrap();
    let idle = client.get(BUCKET, "source", GetOptions::default()).await.unwrap();
    let copy = client.put(BUCKET, "key", source, PutOptions::default());
    tokio::time::timeout(Duration::from_secs(60), copy).await.unwrap().unwrap();
    assert!(get(&client).await == bytes);
    drop(idle);
}

#[tokio::test(start_paused = true)]
async fn chunks_that_move_leave_grants_for_the_others() {
    // Chunks whose nodes fail ask for other grants while the input goes on asking for more.
    let cluster = FakeCluster::start(5);
    let client = cluster.client_with(|config| config.suspect_for = Duration::from_millis(50));
    cluster.behave(1, Behaviour::Refuses(Status::Internal));
    cluster.behave(2, Behaviour::Refuses(Status::Internal));
    let bytes = content(100 * CHUNK);
    let options = PutOptions { size_hint: Some(1), ..PutOptions::default() };
    client.put(BUCKET, "key", bytes.as_slice(), options).await.unwrap();
    assert!(get(&client).await == bytes);
}

#[tokio::test(start_paused = true)]
async fn batch_puts_and_deletes_at_once() {
    let cluster = FakeCluster::start(3);
    cluster.with(|state| state.overwrite("old", b"old"));
    let client = cluster.client();
    let bytes = content(3 * CHUNK + 7);
    let words = PutOptions { content_type: "text/plain".into(), ..PutOptions::default() };
    let batch = crate::Batch::new(BUCKET)
        .put("key", std::io::Cursor::new(bytes.clone()), words)
        .put_bytes("empty", Bytes::new(), PutOptions::default())
        .delete("old", None);
    let results = client.commit(batch).await.unwrap();
    let keys: Vec<_> = results.iter().map(|result| result.object.as_ref().unwrap().key.as_str()).collect();
    assert_eq!(keys, ["key", "empty", "old"]);
    assert_eq!(results[0].object.as_ref().unwrap().content_type, "text/plain");
    assert!(get(&client).await == bytes);
    assert!(cluster.with(|state| !state.objects.contains_key(&format!("buckets/{BUCKET}/objects/old"))));
    assert!(cluster.with(|state| state.uploads.is_empty() && state.aborted.is_empty()));
    assert_eq!(cluster.meta.count(Operation::CommitBatch), 1);
}

#[tokio::test(start_paused = true)]
async fn stale_receipts_of_a_batch_are_renewed_without_sending_the_bytes_again() {
    let cluster = FakeCluster::start(3);
    let mut is_first = true;
    cluster.with(|state| {
        state.on_request(move |operation, state| {
            if operation == Operation::CommitBatch && std::mem::take(&mut is_first) {
                state.node(1).epoch += 1;
                state.node(2).epoch += 1;
            }
        });
    });
    let client = cluster.client();
    let batch = crate::Batch::new(BUCKET)
        .put_bytes("key", content(2 * CHUNK).into(), PutOptions::default())
        .put_bytes("other", content(CHUNK).into(), PutOptions::default());
    let results = client.commit(batch).await.unwrap();
    assert_eq!(
        results.iter().map(|r| r.object.as_ref().unwrap().durable_replicas).collect::<Vec<_>>(),
        [3, 3]
    );
    assert_eq!([1, 2, 3].map(|node| cluster.with(|state| state.node(node).writes)), [3, 3, 3]);
    assert_eq!(cluster.meta.count(Operation::CommitBatch), 2);
}

#[tokio::test(start_paused = true)]
async fn refused_batch_names_its_operation_and_gives_its_puts_up() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let batch = crate::Batch::new(BUCKET)
        .put_bytes("key", content(CHUNK).into(), PutOptions::default())
        .delete("none", None);
    match client.commit(batch).await.unwrap_err() {
        Error::BatchRefused { operation: 2, key, source } => {
            assert_eq!(key, "none");
            assert!(matches!(*source, Error::ObjectNotFound { key, .. } if key == "none"));
        }
        error => panic!("{error:?}"),
    }
    was_given_up(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn batch_whose_input_fails_gives_up_what_was_written() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let batch = crate::Batch::new(BUCKET).put_bytes("key", content(CHUNK).into(), PutOptions::default()).put(
        "broken",
        broken_input(),
        PutOptions::default(),
    );
    match client.commit(batch).await.unwrap_err() {
        Error::BatchRefused { operation: 2, source, .. } => assert!(matches!(*source, Error::Input(_))),
        error => panic!("{error:?}"),
    }
    cluster.until(|state| state.uploads.is_empty()).await;
    assert!(cluster.with(|state| state.objects.is_empty()));
    assert_eq!(cluster.meta.count(Operation::CommitBatch), 0);
}
