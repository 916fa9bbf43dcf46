//! A node with two disks, of which one fails under it and is not there when it starts again.

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use xdpfs_data_node::{Config, DataNode, StartError, StoreOptions};
use xdpfs_proto::meta::v1::{DiskStatus, disk_status::State};

use crate::{
    config,
    fake_meta::{FakeMeta, parse_chunk_id},
    writer::{Writer, bytes_of, chunk},
};

/// So little that segments are short: a disk whose directory is gone fails with the next one.
const CAPACITY: u64 = 4 << 20;
const LENGTH: usize = 100_000;

fn disks_of(home: &TempDir) -> [PathBuf; 2] {
    ["a", "b"].map(|name| home.path().join(name))
}

fn config_of(home: &TempDir, meta: &FakeMeta) -> Config {
    Config {
        disks: disks_of(home).into(),
        store: StoreOptions { capacity_bytes: Some(CAPACITY), ..StoreOptions::default() },
        listen_http: Some("127.0.0.1:0".parse().unwrap()),
        ..config(home, meta)
    }
}

async fn metrics(node: &DataNode) -> String {
    let mut connection = TcpStream::connect(node.http_address().unwrap()).await.unwrap();
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

/// Waits until the node has told of one failed disk and one sound one.
async fn one_failed(meta: &FakeMeta) -> (DiskStatus, DiskStatus) {
    meta.until("a failed disk beside a sound one", |heard| {
        let beat = heard.heartbeats.last().filter(|beat| beat.node_epoch == u32::from(heard.epoch()))?;
        let of = |state| beat.disks.iter().find(|disk| disk.state() == state).cloned();
        Some((of(State::Failed)?, of(State::Healthy)?))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_leaves_the_node_to_the_other() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = DataNode::start(config_of(&home, &meta)).await.unwrap();
    let writer = Writer::to(&node);
    for number in 0..8 {
        writer.write_checked(&meta, chunk(number), &bytes_of(chunk(number), LENGTH)).await;
    }
    let beat = meta.next_heartbeat().await;
    assert_eq!((beat.chunks, beat.capacity_bytes), (8, 2 * CAPACITY));
    assert!(beat.disks.iter().all(|disk| disk.state() == State::Healthy && disk.chunks > 0), "{beat:?}");
    assert!(!home.path().join("data/segments").exists());

    let [a, _] = disks_of(&home);
    fs::remove_dir_all(&a).unwrap();
    for number in 8..24 {
        writer.write_checked(&meta, chunk(number), &bytes_of(chunk(number), LENGTH)).await;
    }
    one_failed(&meta).await;
    meta.next_heartbeat().await;
    let (failed, sound) = one_failed(&meta).await;
    assert!(failed.reason.contains("a write to it has failed") && failed.free_bytes == 0, "{failed:?}");
    let beat = meta.next_heartbeat().await;
    assert_eq!((beat.capacity_bytes, beat.chunks), (CAPACITY, sound.chunks));
    for number in 0..24 {
        let bytes = writer.read(chunk(number), 0..LENGTH as u32).await.unwrap();
        assert!(bytes == bytes_of(chunk(number), LENGTH), "{number}: what was acknowledged can be read");
    }
    let text = metrics(&node).await;
    for line in [
        format!(r#"xdpfs_store_fenced{{disk="{}"}} 1.0"#, failed.disk),
        format!(r#"xdpfs_store_fenced{{disk="{}"}} 0.0"#, sound.disk),
        format!(r#"xdpfs_scrub_pass_progress{{disk="{}"}} "#, sound.disk),
        "xdpfs_ready 1.0".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    assert_eq!(text.matches("# TYPE xdpfs_store_sync_seconds ").count(), 1);
    assert!(!text.contains(home.path().to_str().unwrap()), "where disks are is nobody's business");
    node.shutdown().await;

    // It is not made anew in the place where it is missing.
    let node = DataNode::start(config_of(&home, &meta)).await.unwrap();
    let (missing, _) = one_failed(&meta).await;
    assert_eq!(missing.disk, failed.disk);
    assert!(missing.reason.contains("is it mounted?") && missing.chunks > 0, "{missing:?}");
    assert!(!a.exists());
    let report = meta
        .until("a report of the second registration", |heard| {
            heard.reports.iter().find(|report| report.node_epoch == 2).cloned()
        })
        .await;
    assert_eq!(report.chunk_ids.len() as u64, sound.chunks);
    let kept = parse_chunk_id(&report.chunk_ids[0]);
    let bytes = Writer::to(&node).read(kept, 0..LENGTH as u32).await.unwrap();
    assert!(bytes == bytes_of(kept, LENGTH));
    node.shutdown().await;

    let forget_disks = vec![failed.disk.parse().unwrap()];
    let node = DataNode::start(Config { forget_disks, ..config_of(&home, &meta) }).await.unwrap();
    let epoch = meta.heard().epoch();
    let beat = meta
        .until("a heartbeat of this registration", |heard| {
            heard.heartbeats.iter().find(|beat| beat.node_epoch == u32::from(epoch)).cloned()
        })
        .await;
    let new = beat.disks.iter().filter(|disk| disk.state() == State::Healthy && disk.chunks == 0);
    assert_eq!(new.count(), 1, "{beat:?}");
    assert!(beat.disks.len() == 2 && a.join("disk-uuid").exists());
    node.shutdown().await;
}

#[tokio::test]
async fn disk_of_another_node_is_refused() {
    let meta = FakeMeta::start().await;
    let (home, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    DataNode::start(config_of(&home, &meta)).await.unwrap().shutdown().await;
    let mixed_up = Config { disks: disks_of(&home).into(), ..config_of(&other, &meta) };
    let refused = DataNode::start(mixed_up).await.unwrap_err();
    assert!(matches!(refused, StartError::Disks(_)), "{refused:?}");
    assert!(refused.to_string().contains("is a disk of another data node"), "{refused}");
}
