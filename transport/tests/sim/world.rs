//! One client, some nodes, one network, one clock that jumps from event to event.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xdpfs_transport::client::{Outcome, TransferId};
use xdpfs_transport::{ClientConfig, ClientEndpoint, SessionKey, Target, TransferError, crc32c};
use xdpfs_wire::{BucketId, Capability, ChunkId, ClientId, EpochSecret, Expiry, Opcode, Receipt, Rights};

use crate::network::{Burst, Datagram, Faults, Network};
use crate::node::{KEY_EPOCH, NOW, SECRET, SimNode};
use crate::rng::Rng;

const BUCKET: BucketId = BucketId(5);
const HEADER: usize = xdpfs_wire::HEADER_LEN;

pub(crate) struct World {
    pub(crate) client: ClientEndpoint,
    /// Another client of the same nodes.
    pub(crate) rival: ClientEndpoint,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) network: Network,
    pub(crate) rights: Rights,
    pub(crate) client_id: ClientId,
    /// Of clients' capabilities.
    pub(crate) expiry: Expiry,
    /// What clients' keys are made from.
    pub(crate) secret: EpochSecret,
    now: Instant,
    rng: Rng,
    ended: BTreeMap<TransferId, Result<Outcome, TransferError>>,
    ended_of_rival: BTreeMap<TransferId, Result<Outcome, TransferError>>,
    chunk_bytes_sent: u64,
}

/// Whom something is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    Client,
    Rival,
}

/// Bytes that depend on a seed and on their place.
pub(crate) fn chunk_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| rng.next().to_le_bytes()).take(len / 8 + 1).flatten().collect();
    bytes.truncate(len);
    bytes
}

impl World {
    pub(crate) const PATIENCE: Duration = Duration::from_secs(4);
    /// Virtual time after which a transfer counts as stuck forever.
    const FOREVER: Duration = Duration::from_secs(120);

    pub(crate) fn new(seed: u64, nodes: u16, faults: Faults) -> Self {
        Self::with_patience(seed, nodes, faults, Self::PATIENCE)
    }

    pub(crate) fn with_patience(seed: u64, nodes: u16, faults: Faults, patience: Duration) -> Self {
        let transfer_max = patience * 10;
        let config = ClientConfig { patience, transfer_max, ..ClientConfig::default() };
        Self::with_config(seed, nodes, faults, config)
    }

    pub(crate) fn with_config(seed: u64, nodes: u16, faults: Faults, config: ClientConfig) -> Self {
        Self {
            client: ClientEndpoint::new(config, seed as u32),
            rival: ClientEndpoint::new(config, !seed as u32),
            nodes: (1..=nodes).map(SimNode::new).collect(),
            network: Network::new(seed, faults),
            rights: Rights::ALL,
            client_id: ClientId(77),
            expiry: Expiry(NOW.0 + 600),
            secret: SECRET,
            now: Instant::now(),
            rng: Rng::new(!seed),
            ended: BTreeMap::new(),
            ended_of_rival: BTreeMap::new(),
            chunk_bytes_sent: 0,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Nobody runs for so long, but the network does.
    pub(crate) fn jump(&mut self, time: Duration) {
        self.now += time;
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Bytes of chunks sent by both sides.
    pub(crate) fn chunk_bytes_sent(&self) -> u64 {
        self.chunk_bytes_sent
    }

    pub(crate) fn start_write(&mut self, node: usize, chunk: u64, data: &[u8]) -> TransferId {
        let (target, session) = (self.target(node), self.session());
        let data = Bytes::copy_from_slice(data);
        let crc = crc32c(&data);
        self.client.write(self.now, target, session, chunk_id(chunk), data, crc)
    }

    pub(crate) fn start_read(&mut self, node: usize, chunk: u64, range: Range<u32>) -> TransferId {
        self.start_read_of(Who::Client, node, chunk, range)
    }

    pub(crate) fn start_read_of(
        &mut self,
        who: Who,
        node: usize,
        chunk: u64,
        range: Range<u32>,
    ) -> TransferId {
        let (target, session, now) = (self.target(node), self.session(), self.now);
        self.endpoint(who).read(now, target, session, chunk_id(chunk), range)
    }

    /// How a transfer has ended, if it has.
    pub(crate) fn take_end(
        &mut self,
        who: Who,
        transfer: TransferId,
    ) -> Option<Result<Outcome, TransferError>> {
        match who {
            Who::Client => self.ended.remove(&transfer),
            Who::Rival => self.ended_of_rival.remove(&transfer),
        }
    }

    pub(crate) fn has_ended(&self, who: Who, transfer: TransferId) -> bool {
        match who {
            Who::Client => self.ended.contains_key(&transfer),
            Who::Rival => self.ended_of_rival.contains_key(&transfer),
        }
    }

    fn endpoint(&mut self, who: Who) -> &mut ClientEndpoint {
        match who {
            Who::Client => &mut self.client,
            Who::Rival => &mut self.rival,
        }
    }

    pub(crate) fn write(&mut self, node: usize, chunk: u64, data: &[u8]) -> Result<Receipt, TransferError> {
        let transfer = self.start_write(node, chunk, data);
        self.finish(transfer).map(expect_receipt)
    }

    pub(crate) fn confirm(
        &mut self,
        node: usize,
        chunk: u64,
        length: u32,
        crc: u32,
    ) -> Result<Receipt, TransferError> {
        let (target, session) = (self.target(node), self.session());
        let transfer = self.client.confirm(self.now, target, session, chunk_id(chunk), length, crc);
        self.finish(transfer).map(expect_receipt)
    }

    pub(crate) fn read(
        &mut self,
        node: usize,
        chunk: u64,
        range: Range<u32>,
    ) -> Result<Bytes, TransferError> {
        let transfer = self.start_read(node, chunk, range);
        self.finish(transfer).map(|outcome| match outcome {
            Outcome::Read(bytes) => bytes,
            Outcome::Durable(_) => panic!("a read ended with a receipt"),
        })
    }

    /// Lets time pass until the transfer ends.
    pub(crate) fn finish(&mut self, transfer: TransferId) -> Result<Outcome, TransferError> {
        let deadline = self.now + Self::FOREVER;
        loop {
            if let Some(outcome) = self.ended.remove(&transfer) {
                return outcome;
            }
            assert!(self.step(deadline), "the transfer never ended");
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let deadline = self.now + time;
        while self.step(deadline) {}
        self.now = deadline;
    }

    /// Goes to the next event; answers `false` if that lies behind the deadline.
    pub(crate) fn step(&mut self, deadline: Instant) -> bool {
        self.pump_clients();
        let clients = self.client.poll_timeout().into_iter().chain(self.rival.poll_timeout());
        let timers = self.nodes.iter().filter_map(SimNode::poll_timeout).chain(clients);
        let Some(next) = timers.chain(self.network.next_arrival()).min().filter(|at| *at <= deadline) else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(datagram) = self.network.arrive(self.now) {
            self.deliver(datagram);
        }
        for at in 0..self.nodes.len() {
            for burst in self.nodes[at].handle_time(self.now) {
                self.send(burst);
            }
        }
        self.client.handle_timeout(self.now);
        self.rival.handle_timeout(self.now);
        self.pump_clients();
        true
    }

    fn pump_clients(&mut self) {
        let mut buffer = Vec::new();
        for who in [Who::Client, Who::Rival] {
            let now = self.now;
            while let Some(transmit) = self.endpoint(who).poll_transmit(now, &mut buffer) {
                assert!(buffer.len() <= 65_507, "a burst fits one segmented send");
                self.send(Burst {
                    from: address_of(who, transmit.lane),
                    to: transmit.destination,
                    bytes: buffer.clone(),
                    segment_size: transmit.segment_size,
                    one_by_one: transmit.one_by_one,
                });
            }
        }
        while let Some(event) = self.client.poll_event() {
            self.ended.insert(event.transfer, event.outcome);
        }
        while let Some(event) = self.rival.poll_event() {
            self.ended_of_rival.insert(event.transfer, event.outcome);
        }
    }

    fn send(&mut self, burst: Burst) {
        for bytes in burst.bytes.chunks(burst.segment_size.unwrap_or(burst.bytes.len()).max(1)) {
            let opcode = bytes.get(3).copied().and_then(Opcode::from_byte);
            if matches!(opcode, Some(Opcode::PutData | Opcode::PutWhole | Opcode::Data)) {
                let length = bytes[48..52].first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
                self.chunk_bytes_sent += u64::from(length);
            }
        }
        self.network.send_burst(self.now, burst);
    }

    fn deliver(&mut self, datagram: Datagram) {
        let client = [Who::Client, Who::Rival].into_iter();
        if let Some(who) = client.clone().find(|who| address_of(*who, 0).ip() == datagram.to.ip()) {
            let now = self.now;
            self.endpoint(who).handle_datagram(now, datagram.from, &datagram.bytes);
            return;
        }
        if self.network.mirror {
            self.replay_from_stranger(&datagram);
        }
        let Some(node) = self.nodes.iter_mut().find(|node| node.address == datagram.to) else { return };
        for burst in node.handle(self.now, datagram.from, &datagram.bytes) {
            self.send(burst);
        }
    }

    fn replay_from_stranger(&mut self, datagram: &Datagram) {
        let stranger = SocketAddr::from(([192, 0, 2, 1], 9));
        let Some(node) = self.nodes.iter_mut().find(|node| node.address == datagram.to) else { return };
        let answers = node.handle(self.now, stranger, &datagram.bytes);
        let answer: usize = answers.iter().map(|burst| burst.bytes.len()).sum();
        let excess = answer as i64 - datagram.bytes.len() as i64;
        self.network.mirrored_in += datagram.bytes.len() as i64;
        self.network.mirrored_worst = self.network.mirrored_worst.max(excess);
    }

    /// Random bytes, and well-formed headers with random fields, to both sides.
    pub(crate) fn feed_garbage(&mut self, count: u64) {
        for _ in 0..count {
            let len = self.rng.below(300) as usize;
            let mut bytes = chunk_bytes(self.rng.next(), len);
            if bytes.len() >= 8 && self.rng.chance(0.9) {
                let opcode = self.rng.below(16) as u8 | (self.rng.below(2) as u8) << 7;
                bytes[..6].copy_from_slice(&[0x46, 0x58, 0x18, opcode, 0, 0]);
            }
            if bytes.len() >= HEADER && self.rng.chance(0.5) {
                // Well signed nonsense, as a client with a capability could send it.
                let session = self.session();
                let mut head: [u8; HEADER] = bytes[..HEADER].try_into().unwrap();
                head[6] = session.capability.rights.0;
                head[7] = KEY_EPOCH.0;
                head[8..12].copy_from_slice(&[1, 0, 1, 0]);
                head[12..16].copy_from_slice(&session.capability.client.0.to_le_bytes());
                head[16..20].copy_from_slice(&BUCKET.0.to_le_bytes());
                head[20..24].copy_from_slice(&session.capability.expiry.0.to_le_bytes());
                head[44..48].copy_from_slice(&BUCKET.0.to_le_bytes());
                head[48..52].copy_from_slice(&(self.rng.below(400) as u32).to_le_bytes());
                head[52..56].copy_from_slice(&crc32c(&bytes[HEADER..]).to_le_bytes());
                let tag = session.key.tag(&head);
                head[56..].copy_from_slice(&tag.to_le_bytes());
                bytes[..HEADER].copy_from_slice(&head);
            }
            let node = self.nodes[0].address;
            self.client.handle_datagram(self.now, node, &bytes);
            self.nodes[0].handle(self.now, address_of(Who::Client, 0), &bytes);
        }
    }

    fn target(&self, node: usize) -> Target {
        let target = self.nodes[node].target();
        // What the client was told at the start: nodes that register again are known by their old epoch.
        let node_epoch = xdpfs_wire::NodeEpoch(1);
        Target { address: self.nodes[node].address, node: target.node, node_epoch }
    }

    fn session(&self) -> SessionKey {
        let capability = Capability {
            client: self.client_id,
            bucket: BUCKET,
            rights: self.rights,
            expiry: self.expiry,
            key_epoch: KEY_EPOCH,
        };
        SessionKey { capability, key: capability.key(self.secret) }
    }
}

pub(crate) fn chunk_id(sequence: u64) -> ChunkId {
    ChunkId::new(BUCKET, sequence)
}

pub(crate) fn address_of(who: Who, lane: u8) -> SocketAddr {
    let host = match who {
        Who::Client => 200,
        Who::Rival => 201,
    };
    SocketAddr::from(([10, 0, 0, host], 40_000 + u16::from(lane)))
}

fn expect_receipt(outcome: Outcome) -> Receipt {
    match outcome {
        Outcome::Durable(receipt) => receipt,
        Outcome::Read(_) => panic!("a write ended with bytes"),
    }
}
