//! Chunks that a node gets from another one, because the leader says so.

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use xdpfs_data_node::DataNode;
use xdpfs_proto::node::v1::{
    ExchangeFetchesResponse, Fetch, FetchCapability, FetchEnd, FetchFailure, FetchPart, FetchSource,
    FetchedChunk, fetch_end::End,
};
use xdpfs_testbed::udp_shim::{Rates, UdpShim};
use xdpfs_transport::{ChunkClient, ChunkClientConfig, Target, TransferError, crc32c};
use xdpfs_wire::{BucketId, Capability, ChunkId, NodeEpoch, NodeId, Receipt, Rights, Status};

use crate::{
    config,
    fake_meta::{FakeMeta, KEY_EPOCH, NODE_ID, expiry_in},
    start,
    writer::{BUCKET, Writer, bytes_of, capability, chunk, session},
};

/// The node that fetches; the one that holds is `NODE_ID`.
const FETCHER: u16 = 9;
/// A node that nobody has heard of.
const NOBODY: u16 = 4;
const LENGTH: usize = 3_000_000;

fn copy_of(number: u64) -> ChunkId {
    ChunkId::new(BucketId(88), number)
}

fn id(chunk: ChunkId) -> Vec<u8> {
    chunk.0.to_be_bytes().to_vec()
}

fn part(chunk: ChunkId, offset: usize, length: usize, nodes: &[u16]) -> FetchPart {
    FetchPart {
        chunk_id: id(chunk),
        offset: offset as u32,
        length: length as u32,
        node_ids: nodes.iter().map(|node| u32::from(*node)).collect(),
    }
}

fn whole(number: u64, data: &Bytes) -> Fetch {
    Fetch {
        chunk_id: id(copy_of(number)),
        length: data.len() as u32,
        crc32c: Some(crc32c(data)),
        parts: vec![part(chunk(number), 0, data.len(), &[NODE_ID])],
        verify: false,
    }
}

/// A node that holds chunks, and one that is to fetch them.
struct Pair {
    holder: Option<DataNode>,
    fetcher: DataNode,
    /// Whom the fetcher obeys.
    meta: FakeMeta,
    holders_meta: FakeMeta,
    addresses: Vec<String>,
    _homes: [TempDir; 2],
}

impl Pair {
    async fn start() -> Self {
        let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let (holders_meta, meta) = (FakeMeta::start().await, FakeMeta::start().await);
        meta.heard().node_id = FETCHER;
        let holder = start(&homes[0], &holders_meta).await;
        let fetcher = DataNode::start(config(&homes[1], &meta)).await.unwrap();
        let addresses = vec![holder.address().to_string()];
        Self { holder: Some(holder), fetcher, meta, holders_meta, addresses, _homes: homes }
    }

    /// The holder gets a chunk.
    async fn hold(&self, number: u64, length: usize) -> Bytes {
        let data = bytes_of(chunk(number), length);
        let holder = self.holder.as_ref().unwrap();
        Writer::to(holder).write_checked(&self.holders_meta, chunk(number), &data).await;
        data
    }

    fn orders(&self, fetches: Vec<Fetch>) -> ExchangeFetchesResponse {
        let capability = FetchCapability {
            client_id: u32::MAX,
            bucket_id: BUCKET.0,
            expiry_s: expiry_in(60).0,
            key_epoch: KEY_EPOCH.0.into(),
        };
        let source = FetchSource { node_id: NODE_ID.into(), addresses: self.addresses.clone() };
        ExchangeFetchesResponse { fetches, sources: vec![source], capabilities: vec![capability] }
    }

    /// Has chunks fetched, and gives how that ended, by the order.
    async fn fetch(&self, fetches: Vec<Fetch>) -> Vec<End> {
        let chunks: Vec<_> = fetches.iter().map(|fetch| fetch.chunk_id.clone()).collect();
        self.meta.heard().fetched.clear();
        self.meta.heard().to_fetch = Some(self.orders(fetches));
        let find = |ends: &[FetchEnd], chunk_id: &Vec<u8>| {
            ends.iter().find(|ended| ended.chunk_id == *chunk_id).and_then(|ended| ended.end)
        };
        self.meta
            .until("the fetches", |heard| chunks.iter().map(|chunk| find(&heard.fetched, chunk)).collect())
            .await
    }

    /// The node's word for a chunk is good, and it serves the chunk's bytes.
    async fn check(&self, copy: ChunkId, end: End, data: &Bytes) {
        let End::Fetched(FetchedChunk { length, crc32c: crc, mac, .. }) = end else {
            panic!("{copy}: {end:?}")
        };
        assert_eq!((length as usize, crc), (data.len(), crc32c(data)));
        let epoch = self.meta.heard().epoch();
        let (node, node_epoch) = (NodeId(FETCHER), NodeEpoch(epoch));
        let receipt = Receipt { chunk: copy, length, crc, node, node_epoch, mac };
        assert!(self.meta.heard().receipt_keys[&epoch].verifies(&receipt));
        assert!(self.read(copy, length).await.unwrap() == *data, "{copy} has other bytes");
    }

    /// As a client of the bucket that is copied to.
    async fn read(&self, copy: ChunkId, length: u32) -> Result<Bytes, TransferError> {
        let address = self.fetcher.address();
        let target = Target { address, node: NodeId(FETCHER), node_epoch: NodeEpoch(0) };
        let capability = Capability { bucket: copy.bucket(), ..capability(Rights::READ) };
        let client = ChunkClient::bind(ChunkClientConfig::default()).unwrap();
        client.read(target, session(capability), copy, 0..length).await
    }

    async fn stop(self) {
        self.fetcher.shutdown().await;
        if let Some(holder) = self.holder {
            holder.shutdown().await;
        }
    }
}

fn refused(end: &End) -> FetchFailure {
    match end {
        End::Failed(why) => FetchFailure::try_from(*why).unwrap(),
        End::Fetched(_) => panic!("{end:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_fetched_and_vouched_for() {
    let pair = Pair::start().await;
    let mut data = Vec::new();
    for number in 0..10 {
        data.push(pair.hold(number, LENGTH / 10).await);
    }
    let fetches = || (0..10).map(|number| whole(number, &data[number as usize])).collect::<Vec<_>>();
    let ends = pair.fetch(fetches()).await;
    for (number, end) in ends.into_iter().enumerate() {
        pair.check(copy_of(number as u64), end, &data[number]).await;
    }
    // Ordered again, perhaps by the next leader: nothing is read for that.
    let read_before = pair.holders_meta.next_heartbeat().await.read_bytes;
    let again = pair.fetch(fetches()).await;
    pair.check(copy_of(3), again[3], &data[3]).await;
    assert_eq!(pair.holders_meta.next_heartbeat().await.read_bytes, read_before);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_may_be_cut_from_several() {
    let pair = Pair::start().await;
    let (first, second) = (pair.hold(1, LENGTH).await, pair.hold(2, 70_001).await);
    let expect = Bytes::from([&first[10_000..], &second[..70_000]].concat());
    let parts =
        vec![part(chunk(1), 10_000, LENGTH - 10_000, &[NODE_ID]), part(chunk(2), 0, 70_000, &[NODE_ID])];
    let (chunk_id, length) = (id(copy_of(1)), expect.len() as u32);
    let ends = pair.fetch(vec![Fetch { chunk_id, length, crc32c: None, parts, verify: false }]).await;
    pair.check(copy_of(1), ends[0], &expect).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_holds_itself_needs_no_network() {
    let mut pair = Pair::start().await;
    let data = bytes_of(chunk(5), LENGTH);
    let own = Writer::to(&pair.fetcher);
    let target = Target { node: NodeId(FETCHER), ..own.target(1) };
    own.client.write(target, own.session, chunk(5), data.clone(), crc32c(&data)).await.unwrap();
    pair.holder.take().unwrap().shutdown().await;
    let parts = vec![part(chunk(5), 0, LENGTH, &[NODE_ID, FETCHER])];
    let ends = pair.fetch(vec![Fetch { parts, ..whole(5, &data) }]).await;
    pair.check(copy_of(5), ends[0], &data).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lossy_path_costs_time_and_nothing_else() {
    let mut pair = Pair::start().await;
    let data = pair.hold(1, LENGTH).await;
    let rates = Rates { loss: 5.0, reorder: 5.0, duplicate: 2.0, corrupt: 1.0 };
    let listen = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let shim = UdpShim::start(listen, pair.holder.as_ref().unwrap().address(), rates, 7).unwrap();
    pair.addresses = vec![listen.to_string()];
    let ends = pair.fetch(vec![whole(1, &data)]).await;
    pair.check(copy_of(1), ends[0], &data).await;
    let counters = shim.counters();
    assert!(counters.lost > 0 && counters.corrupted > 0, "{counters:?}");
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_address_and_other_source_are_tried() {
    let mut pair = Pair::start().await;
    let data = pair.hold(1, 100_000).await;
    // Nobody answers there.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    pair.addresses.insert(0, silent.local_addr().unwrap().to_string());
    pair.addresses.insert(0, "no address at all".to_owned());
    let parts = vec![part(chunk(1), 0, data.len(), &[NOBODY, NODE_ID])];
    let ends = pair.fetch(vec![Fetch { parts, ..whole(1, &data) }]).await;
    pair.check(copy_of(1), ends[0], &data).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetch_that_fails_says_why() {
    let mut pair = Pair::start().await;
    let data = pair.hold(1, 100_000).await;
    let other = bytes_of(chunk(99), data.len());
    let gone = Fetch { chunk_id: id(copy_of(10)), ..whole(77, &data) };
    let corrupt = Fetch { chunk_id: id(copy_of(11)), crc32c: Some(crc32c(&other)), ..whole(1, &data) };
    let senseless = Fetch { chunk_id: id(copy_of(12)), length: 7, ..whole(1, &data) };
    let ends = pair.fetch(vec![gone, corrupt, senseless, whole(1, &data)]).await;
    let failures = [FetchFailure::Gone, FetchFailure::Corrupt, FetchFailure::Refused];
    assert_eq!(ends[..3].iter().map(refused).collect::<Vec<_>>(), failures);
    pair.check(copy_of(1), ends[3], &data).await;
    for number in 10..13 {
        let read = pair.read(copy_of(number), 1).await;
        assert_eq!(read, Err(TransferError::Refused(Status::NotFound)), "{number} is not kept");
    }
    let conflict = Fetch { crc32c: Some(crc32c(&other)), ..whole(1, &data) };
    assert_eq!(refused(&pair.fetch(vec![conflict]).await[0]), FetchFailure::Conflict);
    pair.holder.take().unwrap().shutdown().await;
    let late = Fetch { chunk_id: id(copy_of(13)), ..whole(1, &data) };
    assert_eq!(refused(&pair.fetch(vec![late]).await[0]), FetchFailure::OutOfReach);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ordered_any_more_is_given_up() {
    let pair = Pair::start().await;
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let data = pair.hold(1, 100_000).await;
    let mut orders = pair.orders(vec![whole(1, &data)]);
    orders.sources[0].addresses = vec![silent.local_addr().unwrap().to_string()];
    pair.meta.heard().to_fetch = Some(orders);
    let mut datagram = [0; 2048];
    silent.recv(&mut datagram).unwrap();
    pair.meta.heard().to_fetch = None;
    pair.meta.next_heartbeat().await;
    pair.meta.next_heartbeat().await;
    assert!(pair.meta.heard().fetched.is_empty(), "nobody wants to hear of it");
    // The same order again begins anew.
    let ends = pair.fetch(vec![whole(1, &data)]).await;
    pair.check(copy_of(1), ends[0], &data).await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_in_doubt_is_said_to_be_there_or_fetched_again() {
    let pair = Pair::start().await;
    let data = pair.hold(1, LENGTH).await;
    let order = || Fetch { verify: true, ..whole(1, &data) };
    for was_held in [false, true] {
        let ends = pair.fetch(vec![order()]).await;
        let End::Fetched(fetched) = ends[0] else { panic!("{:?}", ends[0]) };
        assert_eq!(fetched.held, was_held);
        pair.check(copy_of(1), ends[0], &data).await;
    }
    pair.stop().await;
}
