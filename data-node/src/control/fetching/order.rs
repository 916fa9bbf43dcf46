//! Orders to fetch, as the leader words them and as they are when they make sense.

use std::{collections::BTreeMap, sync::Arc};

use xdpfs_proto::node::v1::{self as proto, ExchangeFetchesResponse};
use xdpfs_wire::{BucketId, CHUNK_LEN_MAX, Capability, ChunkId, ClientId, Expiry, KeyEpoch, NodeId, Rights};

/// Parts of one chunk: as many as there are of the smallest chunks in one of the largest.
const PARTS_MAX: usize = 1024;
/// Nodes that hold a part, and addresses of a node.
const SOURCES_MAX: usize = 16;
const ADDRESSES_MAX: usize = 4;

/// A chunk to be made of bytes that other nodes hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Order {
    pub(super) chunk: ChunkId,
    pub(super) length: u32,
    /// CRC32C of the whole chunk, where it is known before.
    pub(super) crc: Option<u32>,
    /// In the order of their bytes; together as long as the chunk.
    pub(super) parts: Vec<Part>,
    /// Whether the chunk has to be read before it counts as held.
    pub(super) verify: bool,
}

/// Some bytes of a chunk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) chunk: ChunkId,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// In the order to try.
    pub(super) nodes: Vec<NodeId>,
}

/// How other nodes are reached and read, by the newest answer of the leader.
#[derive(Clone, Debug, Default)]
pub(super) struct Introduction {
    pub(super) addresses: BTreeMap<NodeId, Vec<String>>,
    /// One to read with for each bucket.
    pub(super) capabilities: BTreeMap<BucketId, Capability>,
}

/// What an answer says.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// In the order in which to begin them.
    pub(super) orders: Vec<Arc<Order>>,
    /// What makes no sense to this node; the leader may know more than it.
    pub(super) senseless: Vec<ChunkId>,
    pub(super) introduction: Introduction,
}

impl Orders {
    pub(super) fn parse(answer: ExchangeFetchesResponse) -> Self {
        let mut orders = Self::default();
        for fetch in answer.fetches {
            let Some(chunk) = parse_chunk_id(&fetch.chunk_id) else { continue };
            match Order::parse(chunk, &fetch) {
                Some(order) => orders.orders.push(Arc::new(order)),
                None => orders.senseless.push(chunk),
            }
        }
        let addresses = answer.sources.into_iter().filter_map(|source| {
            let addresses = source.addresses.into_iter().take(ADDRESSES_MAX).collect();
            Some((parse_node_id(source.node_id)?, addresses))
        });
        orders.introduction.addresses = addresses.collect();
        let capabilities = answer.capabilities.iter().filter_map(parse_capability);
        orders.introduction.capabilities =
            capabilities.map(|capability| (capability.bucket, capability)).collect();
        orders
    }
}

impl Order {
    fn parse(chunk: ChunkId, fetch: &proto::Fetch) -> Option<Self> {
        let is_sound = (1..=CHUNK_LEN_MAX).contains(&fetch.length) && fetch.parts.len() <= PARTS_MAX;
        let parts: Vec<Part> =
            is_sound.then(|| fetch.parts.iter().map(Part::parse).collect::<Option<_>>())??;
        let together: u64 = parts.iter().map(|part| u64::from(part.length)).sum();
        (together == u64::from(fetch.length)).then_some(Self {
            chunk,
            length: fetch.length,
            crc: fetch.crc32c,
            parts,
            verify: fetch.verify,
        })
    }
}

impl Part {
    fn parse(part: &proto::FetchPart) -> Option<Self> {
        let end = part.offset.checked_add(part.length)?;
        let is_sound =
            part.length > 0 && end <= CHUNK_LEN_MAX && (1..=SOURCES_MAX).contains(&part.node_ids.len());
        is_sound.then_some(())?;
        Some(Self {
            chunk: parse_chunk_id(&part.chunk_id)?,
            offset: part.offset,
            length: part.length,
            nodes: part.node_ids.iter().map(|id| parse_node_id(*id)).collect::<Option<_>>()?,
        })
    }
}

pub(super) fn parse_chunk_id(bytes: &[u8]) -> Option<ChunkId> {
    bytes.try_into().ok().map(|bytes| ChunkId(u128::from_be_bytes(bytes)))
}

fn parse_node_id(number: u32) -> Option<NodeId> {
    u16::try_from(number).ok().filter(|id| *id > 0).map(NodeId)
}

/// It is for reading, whatever else the leader could mean.
fn parse_capability(told: &proto::FetchCapability) -> Option<Capability> {
    Some(Capability {
        client: ClientId(told.client_id),
        bucket: BucketId(told.bucket_id),
        rights: Rights::READ,
        expiry: Expiry(told.expiry_s),
        // An epoch travels modulo 2^8 in datagrams.
        key_epoch: KeyEpoch(told.key_epoch as u8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u32, length: u32) -> proto::FetchPart {
        proto::FetchPart { chunk_id: vec![1; 16], offset, length, node_ids: vec![3, 4] }
    }

    fn fetch(length: u32, parts: Vec<proto::FetchPart>) -> proto::Fetch {
        proto::Fetch { chunk_id: vec![2; 16], length, crc32c: None, parts, verify: false }
    }

    #[test]
    fn parts_make_up_the_chunk() {
        let check = |fetch: proto::Fetch, expect: bool| {
            let parsed =
                Orders::parse(ExchangeFetchesResponse { fetches: vec![fetch.clone()], ..Default::default() });
            let counts = (parsed.orders.len(), parsed.senseless.len());
            assert_eq!(counts, if expect { (1, 0) } else { (0, 1) }, "{fetch:?}");
        };
        check(fetch(10, vec![part(5, 10)]), true);
        check(fetch(10, vec![part(5, 4), part(0, 6)]), true);
        check(fetch(10, vec![part(5, 4), part(0, 5)]), false);
        check(fetch(10, vec![]), false);
        check(fetch(0, vec![]), false);
        check(fetch(10, vec![part(u32::MAX, 10)]), false);
        check(fetch(CHUNK_LEN_MAX + 1, vec![part(0, CHUNK_LEN_MAX + 1)]), false);
        check(fetch(10, vec![proto::FetchPart { node_ids: vec![], ..part(0, 10) }]), false);
        check(fetch(10, vec![proto::FetchPart { node_ids: vec![70_000], ..part(0, 10) }]), false);
        check(fetch(10, vec![proto::FetchPart { chunk_id: vec![1; 15], ..part(0, 10) }]), false);
    }

    #[test]
    fn capability_of_an_order_never_allows_more_than_reading() {
        let told =
            proto::FetchCapability { client_id: u32::MAX, bucket_id: 7, expiry_s: 9, key_epoch: 0x101 };
        let parsed =
            Orders::parse(ExchangeFetchesResponse { capabilities: vec![told], ..Default::default() });
        let capability = parsed.introduction.capabilities[&BucketId(7)];
        assert_eq!((capability.rights, capability.key_epoch), (Rights::READ, KeyEpoch(1)));
    }
}
