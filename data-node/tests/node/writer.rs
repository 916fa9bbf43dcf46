//! A client of one node: capabilities, chunks, receipts, and datagrams made by hand.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use bytes::Bytes;
use xdpfs_data_node::DataNode;
use xdpfs_transport::{ChunkClient, ChunkClientConfig, SessionKey, Target, TransferError, crc32c};
use xdpfs_wire::{
    BucketId, Capability, ChunkId, ClientId, Flags, HEADER_LEN, Header, NodeEpoch, NodeId, Opcode,
    PieceClass, Receipt, RequestId, Rights, Status,
};

use crate::fake_meta::{FakeMeta, KEY_EPOCH, NODE_ID, expiry_in, secret};

pub(crate) const BUCKET: BucketId = BucketId(3);

pub(crate) fn chunk(number: u64) -> ChunkId {
    ChunkId::new(BUCKET, number)
}

/// Bytes that differ from chunk to chunk and from page to page.
pub(crate) fn bytes_of(chunk: ChunkId, length: usize) -> Bytes {
    let seed = chunk.0 as u64;
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9).wrapping_add(seed) >> 7) as u8).collect()
}

pub(crate) fn capability(rights: Rights) -> Capability {
    Capability { client: ClientId(5), bucket: BUCKET, rights, expiry: expiry_in(3600), key_epoch: KEY_EPOCH }
}

pub(crate) fn session(capability: Capability) -> SessionKey {
    SessionKey { capability, key: capability.key(secret(capability.key_epoch.0)) }
}

/// A client that may do anything in one bucket.
pub(crate) struct Writer {
    pub(crate) client: ChunkClient,
    pub(crate) session: SessionKey,
    address: SocketAddr,
}

impl Writer {
    pub(crate) fn to(node: &DataNode) -> Self {
        Self::at(node.address())
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let client = ChunkClient::bind(ChunkClientConfig::default()).unwrap();
        Self { client, session: session(capability(Rights::ALL)), address }
    }

    pub(crate) fn target(&self, epoch: u16) -> Target {
        Target { address: self.address, node: NodeId(NODE_ID), node_epoch: NodeEpoch(epoch) }
    }

    pub(crate) async fn write(
        &self,
        epoch: u16,
        chunk: ChunkId,
        data: &Bytes,
    ) -> Result<Receipt, TransferError> {
        self.client.write(self.target(epoch), self.session, chunk, data.clone(), crc32c(data)).await
    }

    /// Writes, and checks the receipt as the metadata service would.
    pub(crate) async fn write_checked(&self, meta: &FakeMeta, chunk: ChunkId, data: &Bytes) {
        let epoch = meta.heard().epoch();
        let receipt = self.write(epoch, chunk, data).await.unwrap();
        assert_eq!((receipt.chunk, receipt.length), (chunk, data.len() as u32));
        assert_eq!(receipt.crc, crc32c(data));
        assert_eq!((receipt.node, receipt.node_epoch), (NodeId(NODE_ID), NodeEpoch(epoch)));
        assert!(meta.heard().receipt_keys[&epoch].verifies(&receipt));
    }

    pub(crate) async fn read(
        &self,
        chunk: ChunkId,
        range: std::ops::Range<u32>,
    ) -> Result<Bytes, TransferError> {
        // Reads are good in any epoch.
        self.client.read(self.target(0), self.session, chunk, range).await
    }
}

/// A datagram made by hand.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    pub(crate) capability: Capability,
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    /// Bits of the tag that are turned over.
    pub(crate) tag_flip: u8,
}

impl Datagram {
    /// A sound request to write all of `payload` as one chunk.
    pub(crate) fn put_whole(epoch: u16, chunk: ChunkId, payload: Vec<u8>) -> Self {
        let capability = capability(Rights::ALL);
        let header = Header {
            opcode: Opcode::PutWhole,
            class: PieceClass::Standard,
            flags: Flags::NONE,
            status: Status::Ok,
            rights: capability.rights,
            key_epoch: capability.key_epoch,
            node: NodeId(NODE_ID),
            node_epoch: NodeEpoch(epoch),
            client: capability.client,
            bucket: capability.bucket,
            expiry: capability.expiry,
            request: RequestId(1),
            offset: 0,
            chunk,
            length: payload.len() as u32,
            payload_crc: crc32c(&payload),
            tag: 0,
        };
        Self { capability, header, payload, tag_flip: 0 }
    }

    pub(crate) fn with_capability(mut self, capability: Capability) -> Self {
        self.capability = capability;
        self.header.rights = capability.rights;
        self.header.key_epoch = capability.key_epoch;
        self.header.bucket = capability.bucket;
        self.header.expiry = capability.expiry;
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let key = self.capability.key(secret(self.capability.key_epoch.0));
        let mut bytes = key.seal(&self.header).to_vec();
        bytes[HEADER_LEN - 1] ^= self.tag_flip;
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A plain socket.
pub(crate) struct Probe(UdpSocket);

impl Probe {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(socket)
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        self.0.send(bytes).unwrap();
    }

    /// The status of the next reply, and which request it answers.
    pub(crate) fn status(&self) -> (Status, RequestId) {
        let mut bytes = [0; 2048];
        let length = self.0.recv(&mut bytes).unwrap();
        let header = Header::parse(bytes[..length].first_chunk().unwrap()).unwrap();
        (header.status, header.request)
    }
}
