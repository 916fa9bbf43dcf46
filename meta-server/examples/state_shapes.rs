//! The same objects in the two shapes that metadata could have on a server: `state_shapes memory|sled COUNT DIRECTORY`.
//!
//! `memory` is the state machine as it is. `sled` keeps the same records in two trees, objects and the owners of chunks,
//! with a cache of 256 MiB, and does for a put what the state machine would have to: it reads what the key holds, and
//! writes the object and its chunk's owner in one batch. Neither syncs: the log is there for that. Every object has one
//! chunk with three replicas. It prints puts, gets and listed objects a second, bytes that are allocated and bytes on disk for
//! each object, and allocations of a put, those of decoding its command included.
#![expect(clippy::print_stdout, reason = "a tool")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    env, fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use prost::Message as _;
use xdpfs_meta_server::state_machine::{Listing, Start, State};
use xdpfs_proto::state::v1::{self as pb, command::Kind, outcome};
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, Receipt, ReceiptKey, SipKey};

const BUCKET: &str = "bench";
const NODES: u32 = 3;
const KEY: [u8; 16] = [7; 16];
const CHUNK_BYTES: u32 = 4096;
const GETS: u64 = 200_000;
const PAGE_LEN: usize = 1000;
/// As of the log's store, but for the cache: that is what this shape is about.
const SEGMENT_LEN: usize = 4 << 20;
const CACHE_LEN: u64 = 256 << 20;

/// Counts what is allocated.
struct Counting;

static LIVE_BYTES: AtomicU64 = AtomicU64::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it came, and only counted besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        LIVE_BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `dealloc`, and what it got came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What one shape has come to.
struct Measured {
    puts: f64,
    gets: f64,
    listed: f64,
    live_bytes: f64,
    disk_bytes: f64,
    allocations: f64,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [shape, count, directory] = &args[..] else {
        bail!("usage: state_shapes memory|sled COUNT DIRECTORY");
    };
    let count: u64 = count.parse()?;
    let Measured { puts, gets, listed, live_bytes, disk_bytes, allocations } = match shape.as_str() {
        "memory" => in_memory(count)?,
        "sled" => in_sled(count, Path::new(directory))?,
        other => bail!("there is no shape `{other}`"),
    };
    println!("{puts:.0} {gets:.0} {listed:.0} {live_bytes:.1} {disk_bytes:.1} {allocations:.2}");
    Ok(())
}

/// Keys come in no order.
fn key(number: u64) -> String {
    format!("photos/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn in_memory(count: u64) -> anyhow::Result<Measured> {
    let mut cluster = Cluster::new()?;
    let before = live_bytes();
    let (mut took, mut allocations) = (0.0, 0);
    for number in 0..count {
        let commit = cluster.begin(&key(number))?;
        // Only what follows the log's own work: the bytes of an entry become a command, which changes the state.
        let (began, counted) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
        cluster.apply_encoded(&commit)?;
        took += began.elapsed().as_secs_f64();
        allocations += ALLOCATIONS.load(Ordering::Relaxed) - counted;
    }
    let per_object = (live_bytes() - before) / count as f64;
    let state = &cluster.state;
    let bucket = state.bucket(BUCKET).context("there is a bucket")?;
    let mut chance = fastrand::Rng::with_seed(1);
    let began = Instant::now();
    for _ in 0..GETS {
        let object = state.object(bucket.id, &key(chance.u64(0..count)));
        ensure!(object.is_some_and(|object| object.chunks.len() == 1), "an object is missing");
    }
    let gets = GETS as f64 / began.elapsed().as_secs_f64();
    let (began, mut listed, mut start): (_, _, Option<Start>) = (Instant::now(), 0, None);
    loop {
        let listing = Listing { prefix: "photos/", delimiter: "", start: start.as_ref() };
        let page = state.page(bucket, listing, state.index(), PAGE_LEN);
        listed += page.entries.len();
        start = page.next;
        if start.is_none() {
            break;
        }
    }
    let listed = listed as f64 / began.elapsed().as_secs_f64();
    let snapshot: usize = state.encode(32 << 10).iter().map(|piece| piece.len()).sum();
    Ok(Measured {
        puts: count as f64 / took,
        gets,
        listed,
        live_bytes: per_object,
        disk_bytes: snapshot as f64 / count as f64,
        allocations: allocations as f64 / count as f64,
    })
}

fn in_sled(count: u64, directory: &Path) -> anyhow::Result<Measured> {
    let before = live_bytes();
    let db =
        sled::Config::default().path(directory).segment_size(SEGMENT_LEN).cache_capacity(CACHE_LEN).open()?;
    // One tree, so that both records are in one batch.
    let object_key = |number: u64| [b"O".as_slice(), &1u32.to_be_bytes(), key(number).as_bytes()].concat();
    let owner_key = |number: u64| [b"W".as_slice(), &number.to_be_bytes()].concat();
    let (mut took, mut allocations) = (0.0, 0);
    for number in 0..count {
        let command = commit(number, chunk_id(number)).encode_to_vec();
        let (began, counted) = (Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
        let command = pb::Command::decode(command.as_slice())?;
        let Some(Kind::CommitPut(commit)) = &command.kind else { bail!("it is a commit") };
        ensure!(db.get(object_key(number))?.is_none(), "nothing is overwritten");
        let mut batch = sled::Batch::default();
        batch.insert(object_key(number), record(number, commit).encode_to_vec());
        batch.insert(owner_key(number), key(number).as_bytes());
        db.apply_batch(batch)?;
        took += began.elapsed().as_secs_f64();
        allocations += ALLOCATIONS.load(Ordering::Relaxed) - counted;
    }
    db.flush()?;
    let per_object = (live_bytes() - before) / count as f64;
    let mut chance = fastrand::Rng::with_seed(1);
    let began = Instant::now();
    for _ in 0..GETS {
        let value = db.get(object_key(chance.u64(0..count)))?.context("an object is missing")?;
        ensure!(pb::Object::decode(&*value)?.chunks.len() == 1, "an object lost its chunk");
    }
    let gets = GETS as f64 / began.elapsed().as_secs_f64();
    let (began, mut listed) = (Instant::now(), 0);
    for item in db.scan_prefix([b"O".as_slice(), &1u32.to_be_bytes(), b"photos/"].concat()) {
        let (_, value) = item?;
        listed += pb::Object::decode(&*value)?.chunks.len();
    }
    ensure!(listed as u64 == count, "the listing is short");
    let listed = listed as f64 / began.elapsed().as_secs_f64();
    let mut disk = 0;
    for item in fs::read_dir(directory)? {
        disk += item?.metadata()?.len();
    }
    Ok(Measured {
        puts: count as f64 / took,
        gets,
        listed,
        live_bytes: per_object,
        disk_bytes: disk as f64 / count as f64,
        allocations: allocations as f64 / count as f64,
    })
}

fn live_bytes() -> f64 {
    LIVE_BYTES.load(Ordering::Relaxed) as f64
}

/// A state with a bucket and three nodes, and the log that made it.
struct Cluster {
    state: State,
    index: u64,
}

impl Cluster {
    fn new() -> anyhow::Result<Self> {
        let mut cluster = Self { state: State::default(), index: 0 };
        let bucket = pb::CreateBucket {
            name: BUCKET.to_owned(),
            chunk_size: 4 << 20,
            replicas: NODES,
            min_replicas: 2,
            ..Default::default()
        };
        cluster.apply(Kind::CreateBucket(bucket))?;
        for number in 1..=NODES {
            let register = pb::RegisterNode {
                node_uuid: format!("00000000-0000-4000-8000-00000000000{number}"),
                address: format!("node-{number}:9000"),
                failure_domain: number.to_string(),
                capacity_bytes: 1 << 40,
                receipt_key: KEY.to_vec().into(),
                ..Default::default()
            };
            cluster.apply(Kind::RegisterNode(register))?;
        }
        Ok(cluster)
    }

    /// Begins a put. Gives the entry that commits it.
    fn begin(&mut self, key: &str) -> anyhow::Result<Vec<u8>> {
        let begin = pb::BeginPut {
            bucket: BUCKET.to_owned(),
            key: key.to_owned(),
            placements: vec![pb::Placement { node_ids: (1..=NODES).collect() }],
            lease_ms: 1000,
            ..Default::default()
        };
        let outcome::Kind::Begun(begun) = self.apply(Kind::BeginPut(begin))? else {
            bail!("the put did not begin");
        };
        let chunk = begun.chunks.first().context("a chunk was granted")?;
        let id = ChunkId(u128::from_be_bytes(chunk.chunk_id.as_ref().try_into()?));
        Ok(commit(begun.upload_id, id).encode_to_vec())
    }

    fn apply(&mut self, kind: Kind) -> anyhow::Result<outcome::Kind> {
        self.apply_encoded(&command(kind).encode_to_vec())
    }

    fn apply_encoded(&mut self, entry: &[u8]) -> anyhow::Result<outcome::Kind> {
        self.index += 1;
        let command = pb::Command::decode(entry)?;
        match self.state.apply(self.index, &command).kind {
            Some(outcome::Kind::Rejected(rejected)) => bail!("rejected: {}", rejected.message),
            Some(kind) => Ok(kind),
            None => bail!("no outcome"),
        }
    }
}

fn command(kind: Kind) -> pb::Command {
    // Without a request id: the answers that are kept are bounded, and no part of what an object takes.
    pb::Command { time_ms: 1, kind: Some(kind), ..Default::default() }
}

fn chunk_id(number: u64) -> ChunkId {
    ChunkId(1 << 96 | u128::from(number))
}

fn commit(upload_id: u64, chunk: ChunkId) -> pb::Command {
    let crc = 0x1234_5678;
    let receipt = |node: u32| {
        let receipt = Receipt {
            chunk,
            length: CHUNK_BYTES,
            crc,
            node: NodeId(node as u16),
            node_epoch: NodeEpoch(1),
            mac: 0,
        };
        let mac = ReceiptKey(SipKey::from_bytes(KEY)).sign(&receipt);
        pb::Receipt { node_id: node, node_epoch: 1, mac }
    };
    let chunk = pb::WrittenChunk {
        chunk_id: chunk.0.to_be_bytes().to_vec().into(),
        length: CHUNK_BYTES,
        crc32c: crc,
        receipts: (1..=NODES).map(receipt).collect(),
    };
    command(Kind::CommitPut(pb::CommitPut {
        upload_id,
        chunks: vec![chunk],
        crc32c: crc,
        ..Default::default()
    }))
}

/// What a snapshot has of the object.
fn record(number: u64, commit: &pb::CommitPut) -> pb::Object {
    let chunk = |chunk: &pb::WrittenChunk| pb::Chunk {
        chunk_id: chunk.chunk_id.clone(),
        length: chunk.length,
        crc32c: chunk.crc32c,
        node_ids: chunk.receipts.iter().map(|receipt| receipt.node_id).collect(),
    };
    pb::Object {
        bucket_id: 1,
        key: key(number),
        version: number,
        size: CHUNK_BYTES.into(),
        crc32c: commit.crc32c,
        create_time_ms: 1,
        chunks: commit.chunks.iter().map(chunk).collect(),
        ..Default::default()
    }
}
