//! How long it takes to find what a dead node held among many chunks, and what that takes of memory.
//!
//! `cargo run --release --example repair_plan -- OBJECTS CHUNKS_PER_OBJECT`
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::{
    env, fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::BytesMut;
use prost::Message as _;
use xdpfs_meta_server::{
    placement::{Candidate, Location, Topology},
    repair::{Limits, Nodes, Repair, Why},
    state_machine::State,
};
use xdpfs_proto::state::v1::{self as pb, snapshot_record::Kind};
use xdpfs_wire::NodeId;

const NODES: u64 = 20;
const REPLICAS: u64 = 3;
const CHUNK_BYTES: u32 = 4 << 20;
const BUCKET: u32 = 1;

fn main() -> anyhow::Result<()> {
    let number = |at: usize, usual: u64| match env::args().nth(at) {
        Some(text) => text.parse().with_context(|| format!("{text} is no number")),
        None => Ok(usual),
    };
    let (objects, chunks) = (number(1, 1_000_000)?, number(2, 10)?);
    let state = state(objects, chunks)?;
    let nodes = nodes();
    let (before, began) = (resident_bytes()?, Instant::now());
    let mut repair = Repair::new(Limits { bytes_per_s: 1 << 30, per_node: 8, moved_bytes_per_s: 1 << 30 });
    let now = Instant::now();
    repair.consider_survey(now, &nodes, 0);
    let (mut turns, mut longest) = (0_u64, Duration::ZERO);
    while repair.is_surveying() {
        let turn = Instant::now();
        repair.survey(Instant::now(), &state);
        longest = longest.max(turn.elapsed());
        turns += 1;
    }
    let took = began.elapsed();
    let status = repair.status(Instant::now(), &nodes, |(_, key)| Some(key.to_string()));
    let replicas: u64 = status.nodes.iter().map(|node| node.replicas).sum();
    println!("{} references to {} chunks on {NODES} nodes", objects * chunks, objects * chunks);
    println!(
        "a plan for {replicas} replicas of {} bytes after {:.2} s, in {turns} turns of {longest:.2?} at most",
        status.bytes_left,
        took.as_secs_f64()
    );
    println!("{} bytes on top of the state's {before}", resident_bytes()?.saturating_sub(before));
    Ok(())
}

/// Node 1 is dead.
fn nodes() -> Nodes {
    let mut topology = Topology::default();
    let candidate = |number: u64| {
        let node = NodeId(number as u16);
        let position = topology.position(node, Location::default());
        Candidate { node, position, free_bytes: 1 << 40, barred: None, avoid: false }
    };
    let candidates = (1..=NODES).map(candidate).collect();
    let dead = NodeId(1);
    Nodes::new(candidates, [(dead, Why::Dead)].into(), [dead].into())
}

/// As a snapshot has it.
fn state(objects: u64, chunks: u64) -> anyhow::Result<State> {
    let header = pb::SnapshotHeader {
        format: 1,
        cluster_id: "example".to_owned(),
        next_bucket_id: BUCKET + 1,
        next_chunk_sequence: objects * chunks + 1,
        index: objects + 1,
        ..Default::default()
    };
    let bucket = pb::Bucket {
        id: BUCKET,
        name: "many".to_owned(),
        chunk_size: CHUNK_BYTES,
        replicas: REPLICAS as u32,
        min_replicas: 2,
        objects,
        bytes: objects * chunks * u64::from(CHUNK_BYTES),
        ..Default::default()
    };
    let object = |number: u64| {
        let node_ids = |chunk: u64| (0..REPLICAS).map(move |next| ((chunk + next) % NODES) as u32 + 1);
        let chunk = |at: u64| {
            let sequence = number * chunks + at + 1;
            pb::Chunk {
                chunk_id: (u128::from(BUCKET) << 96 | u128::from(sequence)).to_be_bytes().to_vec().into(),
                length: CHUNK_BYTES,
                crc32c: 0,
                node_ids: node_ids(sequence).collect(),
            }
        };
        pb::Object {
            bucket_id: BUCKET,
            key: format!("object {number:012}"),
            version: number + 1,
            size: chunks * u64::from(CHUNK_BYTES),
            chunks: (0..chunks).map(chunk).collect(),
            ..Default::default()
        }
    };
    let records = [Kind::Header(header), Kind::Bucket(bucket)].into_iter();
    let records = records.chain((0..objects).map(|number| Kind::Object(object(number))));
    let mut bytes = BytesMut::new();
    for kind in records {
        pb::SnapshotRecord { kind: Some(kind) }.encode_length_delimited(&mut bytes)?;
    }
    Ok(State::decode(bytes.freeze())?)
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/statm")?;
    let pages = status.split_whitespace().nth(1).context("there is a second field")?;
    Ok(pages.parse::<u64>()? * 4096)
}
