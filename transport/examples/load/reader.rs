//! A client of the node in memory.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use xdpfs_transport::{ChunkClient, ChunkClientConfig};

use super::node::{LENGTH, chunk, session, target};
use super::times::Times;
use crate::Result;

/// Before the clock counts: the path is found out, the window grows.
const WARM_UP: Duration = Duration::from_millis(300);
/// What a stream reads at a time, and how much of that at once.
const PART: u32 = 4 << 20;
const AT_ONCE: u32 = 4;

/// One stream of reads through the whole chunk, again and again.
pub(crate) async fn stream(address: SocketAddr, time: Duration) -> Result<String> {
    let client = ChunkClient::bind(ChunkClientConfig::default())?;
    let began = Instant::now();
    let mut reads = JoinSet::new();
    let mut next = 0;
    let mut bytes = 0;
    let (from, until) = (began + WARM_UP, began + WARM_UP + time);
    loop {
        while reads.len() < AT_ONCE as usize {
            let client = client.clone();
            let start = next % LENGTH;
            reads.spawn(async move {
                client.read(target(address), session(), chunk(), start..start + PART).await
            });
            next = start + PART;
        }
        let read = reads.join_next().await.ok_or("nothing is read")???;
        let now = Instant::now();
        if now >= until {
            break;
        }
        if now >= from {
            bytes += read.len();
        }
    }
    let counters = client.counters();
    Ok(format!(
        r#"{{"bytes_per_s":{:.0},"retransmits":{},"timeouts":{},"one_by_one":{}}}"#,
        bytes as f64 / time.as_secs_f64(),
        counters.retransmits,
        counters.timeouts,
        counters.paths_one_by_one
    ))
}

/// Parts of one length from anywhere, so many at a time.
pub(crate) async fn gets(
    address: SocketAddr,
    length: u32,
    outstanding: u32,
    time: Duration,
) -> Result<String> {
    let client = ChunkClient::bind(ChunkClientConfig::default())?;
    let from = Instant::now() + WARM_UP;
    let until = from + time;
    let mut readers = JoinSet::new();
    for reader in 0..outstanding {
        let client = client.clone();
        readers.spawn(async move {
            let mut times = Times::default();
            let mut place = reader.wrapping_mul(0x9e37_79b9);
            loop {
                place = place.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let start = place % (LENGTH - length);
                let began = Instant::now();
                let read = client.read(target(address), session(), chunk(), start..start + length).await?;
                let now = Instant::now();
                if now >= until || read.len() != length as usize {
                    return Ok::<_, xdpfs_transport::TransferError>(times);
                }
                if began >= from {
                    times.note(now - began);
                }
            }
        });
    }
    let mut all = Times::default();
    while let Some(times) = readers.join_next().await {
        all.append(times??);
    }
    Ok(all.summary(time))
}
