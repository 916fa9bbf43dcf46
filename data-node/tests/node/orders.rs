//! What the node does because the leader says so, and what it tells of its own accord.

use tempfile::TempDir;
use xdpfs_proto::node::v1::TellInventoryResponse;
use xdpfs_transport::TransferError;
use xdpfs_wire::{ChunkId, Status};

use crate::{
    fake_meta::{FakeMeta, Heard, parse_chunk_id},
    start,
    writer::{Writer, bytes_of, chunk},
};

#[tokio::test(flavor = "multi_thread")]
async fn ordered_deletions_are_done_then_reported() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    for number in 0..4 {
        writer.write_checked(&meta, chunk(number), &bytes_of(chunk(number), 10_000)).await;
    }
    // One of them isn't there: that is as good as deleted.
    meta.heard().to_delete.extend([chunk(1), chunk(3), chunk(77)]);
    meta.until("the deletions", |heard| heard.to_delete.is_empty().then_some(())).await;
    for number in [1, 3] {
        let read = writer.read(chunk(number), 0..10).await;
        assert_eq!(read, Err(TransferError::Refused(Status::NotFound)), "{number}");
    }
    for number in [0, 2] {
        assert!(writer.read(chunk(number), 0..10_000).await.unwrap() == bytes_of(chunk(number), 10_000));
    }
    assert_eq!(meta.next_heartbeat().await.chunks, 2);

    node.shutdown().await;
    let node = start(&home, &meta).await;
    let read = Writer::to(&node).read(chunk(1), 0..10).await;
    assert_eq!(read, Err(TransferError::Refused(Status::NotFound)), "a deleted chunk stays away");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_reported_until_a_report_was_answered() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    Writer::to(&node).write_checked(&meta, chunk(1), &bytes_of(chunk(1), 10)).await;
    meta.heard().to_delete.insert(chunk(1));
    meta.until("the report", |heard| heard.to_delete.is_empty().then_some(())).await;
    let report =
        |heard: &Heard| heard.heartbeats.iter().filter(|beat| !beat.deleted_chunk_ids.is_empty()).count();
    meta.next_heartbeat().await;
    assert_eq!(report(&meta.heard()), 1, "once it was answered it isn't repeated");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_chunks_are_reported_after_each_registration() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    for number in 0..5 {
        writer.write_checked(&meta, chunk(number), &bytes_of(chunk(number), 100)).await;
    }
    node.shutdown().await;
    let node = start(&home, &meta).await;
    let report = meta
        .until("a report of the second registration", |heard| {
            heard.reports.iter().find(|report| report.node_epoch == 2).cloned()
        })
        .await;
    assert_eq!(parse_chunk_id(&report.first), ChunkId(0));
    assert_eq!(parse_chunk_id(&report.last), ChunkId(u128::MAX));
    let told: Vec<_> = report.chunk_ids.iter().map(|id| parse_chunk_id(id)).collect();
    assert_eq!(told, (0..5).map(chunk).collect::<Vec<_>>());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn store_of_many_pages_is_reported_without_a_gap() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let uuid = {
        let node = start(&home, &meta).await;
        node.shutdown().await;
        meta.heard().registrations[0].node_uuid.parse().unwrap()
    };
    let directory = home.path().join("data").join("segments");
    let (store, _) =
        xdpfs_data_node::Store::open(&xdpfs_data_node::StoreConfig::new(directory, uuid)).unwrap();
    let count = 4096 * 2 + 10;
    for batch in (0..count).collect::<Vec<_>>().chunks(512) {
        let puts = batch.iter().map(|number| {
            let data = bytes_of(chunk(*number), 8);
            store.put(chunk(*number), xdpfs_transport::crc32c(&data), data)
        });
        futures::future::try_join_all(puts).await.unwrap();
    }
    store.close();

    let node = start(&home, &meta).await;
    let last = ChunkId(u128::MAX).0.to_be_bytes();
    meta.until("the whole report", |heard| {
        heard.reports.iter().any(|report| report.node_epoch == 2 && report.last == last).then_some(())
    })
    .await;
    let reports = meta.heard().reports.clone();
    let pages: Vec<_> = reports.iter().filter(|report| report.node_epoch == 2).take(3).collect();
    assert_eq!(pages.iter().map(|page| page.chunk_ids.len()).collect::<Vec<_>>(), [4096, 4096, 10]);
    for pair in pages.windows(2) {
        assert_eq!(parse_chunk_id(&pair[1].first).0, parse_chunk_id(&pair[0].last).0 + 1);
    }
    let told: Vec<_> =
        pages.iter().flat_map(|page| page.chunk_ids.iter().map(|id| parse_chunk_id(id))).collect();
    assert_eq!(told, (0..count).map(chunk).collect::<Vec<_>>());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inventory_is_told_from_where_the_leader_says() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    for number in 0..4 {
        writer.write_checked(&meta, chunk(number), &bytes_of(chunk(number), 100 + number as usize)).await;
    }
    let id = |chunk: ChunkId| chunk.0.to_be_bytes().to_vec();
    let go = |from| TellInventoryResponse { done: false, next: id(from), wait_ms: 1 };
    {
        let mut heard = meta.heard();
        heard.inventory = 9;
        // The whole is to be looked at twice, and then the end of it.
        heard.inventory_answers = [go(ChunkId(0)), go(chunk(2))].into();
    }
    let parts = meta
        .until("three parts", |heard| {
            let parts = &heard.inventory_parts;
            (parts.len() >= 3).then(|| parts.clone())
        })
        .await;
    let told = |at: usize| parts[at].chunk_ids.iter().map(|id| parse_chunk_id(id)).collect::<Vec<_>>();
    assert_eq!([0, 1, 2].map(told), [0, 0, 2].map(|from| (from..4).map(chunk).collect::<Vec<_>>()));
    for part in &parts {
        assert_eq!((part.number, part.last.clone()), (9, id(ChunkId(u128::MAX))));
        let lengths = part.lengths.iter().zip(&part.crc32cs).zip(&part.chunk_ids);
        for ((length, crc), chunk) in lengths {
            let bytes = bytes_of(parse_chunk_id(chunk), *length as usize);
            assert_eq!(*crc, xdpfs_transport::crc32c(&bytes));
        }
    }
    assert_eq!(parts[0].lengths, [100, 101, 102, 103]);
    meta.next_heartbeat().await;
    assert!(meta.heard().heartbeats.iter().all(|beat| beat.tells_inventory));
    assert_eq!(meta.heard().inventory_parts.len(), 3, "what is done is not told again");
    meta.heard().inventory = 10;
    meta.until("the next one", |heard| heard.inventory_parts.iter().find(|part| part.number == 10).cloned())
        .await;
    node.shutdown().await;
}
