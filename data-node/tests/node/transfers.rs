//! Chunks in and out, and what survives a restart.

use std::{collections::BTreeSet, sync::Arc};

use tempfile::TempDir;
use tokio::task::JoinSet;
use xdpfs_data_node::{Config, DataNode, OwnAddress, StoreOptions};
use xdpfs_transport::TransferError;
use xdpfs_wire::Status;

use crate::{
    config,
    fake_meta::FakeMeta,
    start,
    writer::{Writer, bytes_of, chunk},
};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_any_size_come_back_as_written() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    let lengths =
        [1, 2, 1343, 1344, 1345, 4095, 4096, 4097, 65_535, 65_536, 65_537, MIB - 1, MIB + 1, 4 * MIB];
    for (number, length) in lengths.into_iter().enumerate() {
        let chunk = chunk(number as u64);
        let data = bytes_of(chunk, length);
        writer.write_checked(&meta, chunk, &data).await;
        let read = writer.read(chunk, 0..length as u32).await.unwrap();
        assert!(read == data, "{length} bytes");
        let (from, to) = (length as u32 / 3, (length as u32 * 2).div_ceil(3));
        let part = writer.read(chunk, from..to).await.unwrap();
        assert!(part == data[from as usize..to as usize], "{from}..{to} of {length} bytes");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_on_all_addresses_answers_from_the_one_that_was_asked() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let listen = "0.0.0.0:0".parse().unwrap();
    let everywhere =
        Config { listen, advertise: Some(OwnAddress::At("node:1".into())), ..config(&home, &meta) };
    let node = DataNode::start(everywhere).await.unwrap();
    assert_eq!(meta.heard().registrations[0].direct_address, "node:1", "it has no better one");
    for (number, address) in [[127, 0, 0, 1], [127, 0, 0, 2]].into_iter().enumerate() {
        let writer = Writer::at((address, node.address().port()).into());
        let chunk = chunk(number as u64);
        let data = bytes_of(chunk, MIB);
        writer.write_checked(&meta, chunk, &data).await;
        assert!(writer.read(chunk, 0..MIB as u32).await.unwrap() == data, "{address:?}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_and_readers_at_once_get_what_they_want() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let meta = Arc::new(meta);
    let mut tasks = JoinSet::new();
    for client in 0..8 {
        let (writer, meta) = (Writer::to(&node), Arc::clone(&meta));
        tasks.spawn(async move {
            for number in 0..8 {
                let chunk = chunk(client << 32 | number);
                let data = bytes_of(chunk, 300_000 + number as usize);
                writer.write_checked(&meta, chunk, &data).await;
                assert!(writer.read(chunk, 0..data.len() as u32).await.unwrap() == data, "{chunk}");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_chunks_and_ranges_outside_are_told_apart() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    writer.write_checked(&meta, chunk(1), &bytes_of(chunk(1), 100)).await;
    let refused = |status| Err(TransferError::Refused(status));
    assert_eq!(writer.read(chunk(2), 0..10).await, refused(Status::NotFound));
    assert_eq!(writer.read(chunk(1), 90..101).await, refused(Status::Range));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_chunk_again_is_a_receipt_and_another_one_a_conflict() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    for length in [100, 100_000] {
        let id = chunk(length as u64);
        let data = bytes_of(id, length);
        writer.write_checked(&meta, id, &data).await;
        writer.write_checked(&meta, id, &data).await;
        let other = writer.write(1, id, &bytes_of(chunk(9), length)).await;
        assert_eq!(other, Err(TransferError::Refused(Status::Conflict)));
        assert!(writer.read(id, 0..length as u32).await.unwrap() == data);
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_whose_sum_is_wrong_is_not_kept() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    let data = bytes_of(chunk(1), 50_000);
    let wrong = writer.client.write(writer.target(1), writer.session, chunk(1), data.clone(), 1234).await;
    assert_eq!(wrong, Err(TransferError::Refused(Status::Corrupt)));
    assert_eq!(writer.read(chunk(1), 0..1).await, Err(TransferError::Refused(Status::NotFound)));
    writer.write_checked(&meta, chunk(1), &data).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_node_is_the_same_with_all_its_chunks() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let data = bytes_of(chunk(1), 2 * MIB + 1);
    let node = start(&home, &meta).await;
    Writer::to(&node).write_checked(&meta, chunk(1), &data).await;
    node.shutdown().await;

    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    assert!(writer.read(chunk(1), 0..data.len() as u32).await.unwrap() == data);
    let (first, second) = {
        let heard = meta.heard();
        assert_eq!(heard.registrations.len(), 2);
        (heard.registrations[0].clone(), heard.registrations[1].clone())
    };
    assert_eq!(first.node_uuid, second.node_uuid);
    assert_ne!(first.request_id, second.request_id, "each start makes a registration of its own");
    assert_eq!((first.cluster_id.as_str(), second.cluster_id), ("", meta.heard().cluster_id.clone()));
    let receipt =
        writer.client.receipt(writer.target(2), writer.session, chunk(1), data.len() as u32, 0).await;
    assert_eq!(
        receipt,
        Err(TransferError::Refused(Status::Conflict)),
        "the sum is part of what is asked for"
    );
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_given_while_the_node_stops_are_true() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Arc::new(Writer::to(&node));
    let mut writes = JoinSet::new();
    for number in 0..64 {
        let writer = Arc::clone(&writer);
        writes.spawn(async move {
            let data = bytes_of(chunk(number), 40_000);
            (number, writer.write(1, chunk(number), &data).await)
        });
    }
    let mut kept = BTreeSet::new();
    let first = writes.join_next().await.unwrap().unwrap();
    kept.extend(first.1.is_ok().then_some(first.0));
    node.shutdown().await;
    while let Some(done) = writes.join_next().await {
        let (number, result) = done.unwrap();
        kept.extend(result.is_ok().then_some(number));
    }
    assert!(!kept.is_empty());
    let node = start(&home, &meta).await;
    let reader = Writer::to(&node);
    for number in kept {
        let read = reader.read(chunk(number), 0..40_000).await.unwrap();
        assert!(read == bytes_of(chunk(number), 40_000), "{number}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_node_says_so_and_takes_chunks_again_after_deletions() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = DataNode::start(Config {
        store: StoreOptions { capacity_bytes: Some(8 << 20), ..StoreOptions::default() },
        ..config(&home, &meta)
    })
    .await
    .unwrap();
    let writer = Writer::to(&node);
    let mut stored = 0;
    let refusal = loop {
        let id = chunk(stored);
        match writer.write(1, id, &bytes_of(id, 500_000)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 20, "8 MiB don't hold 20 of these");
    };
    assert_eq!(refusal, TransferError::Refused(Status::NoSpace));
    assert!(stored > 10, "{stored}");
    let beat = meta.next_heartbeat().await;
    assert_eq!((beat.capacity_bytes, beat.chunks), (8 << 20, stored));
    assert!(beat.used_bytes > 0 && beat.free_bytes < 600_000, "{beat:?}");
    for number in 0..stored {
        let read = writer.read(chunk(number), 0..500_000).await.unwrap();
        assert!(read == bytes_of(chunk(number), 500_000), "nothing is lost");
    }
    meta.heard().to_delete.extend((0..stored / 2).map(chunk));
    meta.until("the deletions", |heard| heard.to_delete.is_empty().then_some(())).await;
    // Compaction makes the room in the background; the node says busy for so long, and the client asks again.
    let id = chunk(1000);
    writer.write_checked(&meta, id, &bytes_of(id, 500_000)).await;
    node.shutdown().await;
}
