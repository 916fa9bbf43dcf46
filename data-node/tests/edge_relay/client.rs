//! A client that makes its datagrams by hand.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use xdpfs_data_node::Edge;
use xdpfs_transport::SessionKey;
use xdpfs_wire::{
    BucketId, Capability, ChunkId, ClientId, Flags, HEADER_LEN, Header, NodeEpoch, NodeId, Opcode,
    PieceClass, RequestId, Rights, Status, payload::REQUEST_PADDING_MIN,
};

use crate::{
    fake_meta::{KEY_EPOCH, SECRET, expiry_in},
    in_time,
};

pub(crate) const BUCKET: BucketId = BucketId(3);

pub(crate) struct Client {
    socket: UdpSocket,
}

pub(crate) fn session() -> SessionKey {
    let capability = Capability {
        client: ClientId(5),
        bucket: BUCKET,
        rights: Rights::ALL,
        expiry: expiry_in(3600),
        key_epoch: KEY_EPOCH,
    };
    SessionKey { capability, key: capability.key(SECRET) }
}

/// A request of a holder of a capability, to be spoilt in one way.
pub(crate) fn request(opcode: Opcode, node: u16, epoch: u16) -> Header {
    let capability = session().capability;
    Header {
        opcode,
        class: PieceClass::Standard,
        flags: Flags::NONE,
        status: Status::Ok,
        rights: capability.rights,
        key_epoch: capability.key_epoch,
        node: NodeId(node),
        node_epoch: NodeEpoch(epoch),
        client: capability.client,
        bucket: capability.bucket,
        expiry: capability.expiry,
        request: RequestId(9),
        offset: 0,
        chunk: ChunkId::new(BUCKET, 1),
        length: 1,
        payload_crc: 0,
        tag: 0,
    }
}

/// The datagram, with the tag that belongs to its fields.
pub(crate) fn sealed(header: Header) -> Vec<u8> {
    let key = Capability::claimed_by(&header).key(SECRET);
    let mut datagram = key.seal(&header).to_vec();
    datagram.resize(HEADER_LEN + REQUEST_PADDING_MIN, 0);
    datagram
}

/// A read that a node of this id takes in any epoch.
pub(crate) fn read(node: u16) -> Vec<u8> {
    sealed(request(Opcode::GetPiece, node, 0))
}

impl Client {
    pub(crate) async fn of(edge: &Edge) -> Self {
        Self::at(edge.bound()).await
    }

    /// One that hears only the address that it speaks to.
    pub(crate) async fn at(edge: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(edge).await.unwrap();
        Self { socket }
    }

    pub(crate) async fn say(&self, datagram: &[u8]) {
        self.socket.send(datagram).await.unwrap();
    }

    pub(crate) async fn hear(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 16];
        let len = in_time("an answer", self.socket.recv(&mut bytes)).await.unwrap();
        bytes.truncate(len);
        bytes
    }

    /// The refusal that comes next.
    pub(crate) async fn refusal(&self) -> Header {
        let bytes = self.hear().await;
        assert_eq!(bytes.len(), HEADER_LEN, "a refusal is a header and nothing else");
        let bytes = bytes.first_chunk().unwrap();
        let header = Header::parse(bytes).unwrap();
        assert_eq!(header.opcode, Opcode::Error);
        assert!(Capability::claimed_by(&header).key(SECRET).verifies(bytes), "{header:?}");
        header
    }
}
