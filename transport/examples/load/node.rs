//! A data node that has one chunk, in memory.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use xdpfs_transport::node::{Action, ChunkInfo, Node, ReadBytes};
use xdpfs_transport::shell::{ReceiveBuffers, Socket};
use xdpfs_transport::{NodeConfig, NodeEndpoint, Peer, SessionKey, Target, Transmit};
use xdpfs_wire::{
    BucketId, Capability, ChunkId, ClientId, CookieSecret, EpochSecret, Expiry, KeyEpoch, NodeEpoch, NodeId,
    ReceiptKey, Rights, SipKey, Status, TargetNode,
};

use crate::Result;

/// Bytes of the chunk.
pub(crate) const LENGTH: u32 = 64 << 20;
/// Bytes that differ; the rest repeats them. What this is compared with sends the same few bytes again and again, too.
const PATTERN: usize = 256 << 10;
const SECRET: EpochSecret = EpochSecret(SipKey { k0: 1, k1: 2 });
const KEY_EPOCH: KeyEpoch = KeyEpoch(1);
const NODE: TargetNode = TargetNode { node: NodeId(1), epoch: NodeEpoch(1) };
const BUCKET: BucketId = BucketId(1);

pub(crate) fn chunk() -> ChunkId {
    ChunkId::new(BUCKET, 1)
}

pub(crate) fn target(address: SocketAddr) -> Target {
    Target { address, node: NODE.node, node_epoch: NODE.epoch }
}

pub(crate) fn session() -> SessionKey {
    let (client, rights, expiry) = (ClientId(std::process::id()), Rights::ALL, Expiry(u32::MAX));
    let capability = Capability { client, bucket: BUCKET, rights, expiry, key_epoch: KEY_EPOCH };
    SessionKey { capability, key: capability.key(SECRET) }
}

struct InMemory;

impl Node for InMemory {
    fn target(&self) -> TargetNode {
        NODE
    }

    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        (epoch == KEY_EPOCH).then_some(SECRET)
    }

    fn now(&self) -> Expiry {
        Expiry(1)
    }

    fn receipt_key(&self) -> ReceiptKey {
        ReceiptKey(SipKey { k0: 3, k1: 4 })
    }

    fn chunk(&self, _: ChunkId) -> Option<ChunkInfo> {
        None
    }
}

struct Pattern(Vec<u8>);

impl ReadBytes for Pattern {
    fn bytes<'a>(&'a self, offset: u32, length: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let start = offset as usize % PATTERN;
        if let Some(bytes) = self.0.get(start..start + length) {
            return bytes;
        }
        scratch.clear();
        scratch.extend((start..start + length).map(|at| self.0[at % PATTERN]));
        scratch
    }
}

pub(crate) async fn serve(address: SocketAddr) -> Result<String> {
    let socket = Socket::new(UdpSocket::bind(address)?)?;
    let secret = CookieSecret(SipKey { k0: 5, k1: std::process::id().into() });
    let mut endpoint = NodeEndpoint::new(NodeConfig::default(), secret);
    let pattern = Pattern((0..PATTERN).map(|at| (at / 7 % 251) as u8).collect());
    let mut buffers = ReceiveBuffers::default();
    let (mut reply, mut scratch) = (Vec::new(), Vec::new());
    loop {
        socket.receive(&mut buffers).await?;
        let now = Instant::now();
        for (from, datagram) in buffers.datagrams() {
            match endpoint.handle_datagram(now, from, datagram, &InMemory, &mut reply) {
                Action::None => {}
                Action::Reply => send(&socket, Transmit::to(from, None), &reply).await,
                Action::Read(job) => {
                    let fits = job.range().and_then(|range| {
                        let is_there = range.end <= LENGTH;
                        if is_there { Ok(&pattern as &dyn ReadBytes) } else { Err(Status::Range) }
                    });
                    let answer = job.answer(Instant::now, fits, &mut scratch, &mut reply);
                    for (transmit, bytes) in answer.transmits(from, &reply).into_iter().flatten() {
                        send(&socket, transmit, bytes).await;
                    }
                }
                Action::Store(job) => {
                    let ticket = job.ticket();
                    endpoint.handle_stored(&ticket, Ok(()), &InMemory, &mut reply);
                    let to: Peer = ticket.from;
                    send(&socket, Transmit::to(to, None), &reply).await;
                }
            }
        }
    }
}

/// What can't be sent is as good as lost.
async fn send(socket: &Socket, transmit: Transmit, bytes: &[u8]) {
    let _lost = socket.send(transmit, bytes).await;
}
