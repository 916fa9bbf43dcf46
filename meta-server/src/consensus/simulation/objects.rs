//! The commands that clients give: objects that come and go, copies of them, and buckets.

use xdpfs_proto::state::v1::{self as pb, batch_operation, command::Kind};
use xdpfs_wire::{NodeEpoch, NodeId, Receipt, ReceiptKey, SipKey};

use super::random::Random;
use crate::state_machine::parse_chunk_id;

/// The bucket that histories are about.
pub(super) const BUCKET: &str = "objects";
const NODES: [u16; 3] = [1, 2, 3];
const CHUNK_SIZE: u32 = 1000;
/// Others take their place then, so that no history becomes too long to be judged.
const KEYS_FOR_MS: u64 = 2000;
const KEYS: u64 = 3;

/// What has to be there before an object can be: its bucket, and nodes that say that they hold its chunks.
pub(super) fn first(quota_bytes: u64) -> impl Iterator<Item = Kind> {
    let bucket = pb::CreateBucket {
        name: BUCKET.into(),
        chunk_size: CHUNK_SIZE,
        replicas: 3,
        min_replicas: 2,
        quota_bytes,
        ..Default::default()
    };
    let register = |node: u16| pb::RegisterNode {
        node_uuid: format!("node {node}"),
        address: format!("n{node}:1"),
        receipt_key: vec![node as u8; 16].into(),
        ..Default::default()
    };
    let nodes = NODES.into_iter().map(move |node| Kind::RegisterNode(register(node)));
    nodes.chain([Kind::CreateBucket(bucket)])
}

pub(super) fn key(now_ms: u64, random: &mut Random) -> String {
    format!("{}/{}", now_ms / KEYS_FOR_MS, random.below(KEYS))
}

pub(super) fn begin(
    key: &str,
    precondition: Option<pb::Precondition>,
    lease_ms: u64,
    random: &mut Random,
) -> Kind {
    let placement = || pb::Placement { node_ids: NODES.map(u32::from).to_vec() };
    let placements = (0..random.below(3)).map(|_| placement()).collect();
    let (bucket, key) = (BUCKET.into(), key.into());
    Kind::BeginPut(pb::BeginPut { bucket, key, placements, precondition, lease_ms, ..Default::default() })
}

/// All chunks that were granted, with the receipts of all nodes but, now and then, one.
pub(super) fn commit(begun: &pb::Begun, precondition: Option<pb::Precondition>, value: u32) -> Kind {
    let last = begun.chunks.len().saturating_sub(1);
    let written = |(at, granted): (usize, &pb::UploadChunk)| {
        let length = if at == last { 1 + value % (CHUNK_SIZE - 1) } else { CHUNK_SIZE };
        let receipts = NODES.into_iter().filter(|node| value % 5 != u32::from(*node));
        let receipts = receipts.map(|node| receipt(node, &granted.chunk_id, length, value)).collect();
        pb::WrittenChunk { chunk_id: granted.chunk_id.clone(), length, crc32c: value, receipts }
    };
    Kind::CommitPut(pb::CommitPut {
        upload_id: begun.upload_id,
        chunks: begun.chunks.iter().enumerate().map(written).collect(),
        precondition,
        crc32c: value,
        ..Default::default()
    })
}

fn receipt(node: u16, chunk: &[u8], length: u32, crc: u32) -> pb::Receipt {
    let node_epoch = NodeEpoch(1);
    let chunk = parse_chunk_id(chunk).expect("the state machine has granted it");
    let receipt = Receipt { chunk, length, crc, node: NodeId(node), node_epoch, mac: 0 };
    let mac = ReceiptKey(SipKey::from_bytes([node as u8; 16])).sign(&receipt);
    pb::Receipt { node_id: node.into(), node_epoch: node_epoch.0.into(), mac }
}

/// A copy of what the key holds, under a name that no history is about; or the end of one.
pub(super) fn copy(source: &str, random: &mut Random) -> Kind {
    let key = format!("copy/{}", random.below(KEYS));
    let kind = match random.below(3) {
        0 => batch_operation::Kind::Delete(pb::BatchDelete { key, ..Default::default() }),
        _ => batch_operation::Kind::Copy(pb::BatchCopy { source: source.into(), key, ..Default::default() }),
    };
    let operations = vec![pb::BatchOperation { kind: Some(kind) }];
    Kind::Batch(pb::Batch { bucket: BUCKET.into(), operations })
}

/// Buckets come and go; some have names long enough for a state of several parts.
pub(super) fn churn(random: &mut Random) -> Kind {
    let number = random.below(60);
    let name = format!("{number}-{}", "x".repeat(if number < 20 { 3000 } else { 1 }));
    match random.below(3) {
        0 => Kind::DeleteBucket(pb::DeleteBucket { name }),
        _ => Kind::CreateBucket(pb::CreateBucket {
            name,
            chunk_size: 65_536,
            replicas: 3,
            min_replicas: 2,
            ..Default::default()
        }),
    }
}
