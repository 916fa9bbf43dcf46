//! A data node in memory: the real endpoint, chunks in a map, a disk with a delay.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xdpfs_transport::node::{Action, ChunkInfo, Node, ReadBytes, ReadJob, StoreJob, StoreTicket};
use xdpfs_transport::{NodeConfig, NodeEndpoint, crc32c};
use xdpfs_wire::{
    ChunkId, CookieSecret, EpochSecret, Expiry, KeyEpoch, NodeEpoch, NodeId, ReceiptKey, SipKey, Status,
    TargetNode,
};

use crate::network::Burst;
use crate::rng::Rng;

pub(crate) const SECRET: EpochSecret = EpochSecret(SipKey { k0: 11, k1: 12 });
pub(crate) const KEY_EPOCH: KeyEpoch = KeyEpoch(1);
pub(crate) const NOW: Expiry = Expiry(1_000_000);

/// What the endpoint sees of the node.
struct View<'a> {
    target: TargetNode,
    chunks: &'a BTreeMap<ChunkId, Bytes>,
    clock: Expiry,
}

impl Node for View<'_> {
    fn target(&self) -> TargetNode {
        self.target
    }

    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        (epoch == KEY_EPOCH).then_some(SECRET)
    }

    fn now(&self) -> Expiry {
        self.clock
    }

    fn receipt_key(&self) -> ReceiptKey {
        ReceiptKey(SipKey { k0: 21, k1: self.target.node.0.into() })
    }

    fn chunk(&self, chunk: ChunkId) -> Option<ChunkInfo> {
        let bytes = self.chunks.get(&chunk)?;
        Some(ChunkInfo { length: bytes.len() as u32, crc: crc32c(bytes) })
    }
}

pub(crate) struct SimNode {
    pub(crate) address: SocketAddr,
    pub(crate) epoch: u16,
    pub(crate) store_delay: Duration,
    /// What the disk takes for any read.
    pub(crate) read_delay_min: Duration,
    /// The most that the disk takes for a read beyond that, which may be overtaken by later ones.
    pub(crate) read_delay_max: Duration,
    /// What it thinks the cluster's time is.
    pub(crate) clock: Expiry,
    pub(crate) store_answer: Result<(), Status>,
    pub(crate) stored: u32,
    pub(crate) upload_bytes_peak: u64,
    id: NodeId,
    config: NodeConfig,
    endpoint: NodeEndpoint,
    chunks: BTreeMap<ChunkId, Bytes>,
    storing: Vec<(Instant, StoreJob)>,
    reading: Vec<(Instant, ReadJob)>,
    rng: Rng,
}

impl SimNode {
    pub(crate) fn new(id: u16) -> Self {
        let config = NodeConfig::default();
        Self {
            address: SocketAddr::from(([10, 0, 0, id as u8], 7100)),
            epoch: 1,
            store_delay: Duration::from_millis(1),
            read_delay_min: Duration::ZERO,
            read_delay_max: Duration::ZERO,
            clock: NOW,
            store_answer: Ok(()),
            stored: 0,
            upload_bytes_peak: 0,
            id: NodeId(id),
            config,
            endpoint: NodeEndpoint::new(config, cookie_secret(0)),
            chunks: BTreeMap::new(),
            storing: Vec::new(),
            reading: Vec::new(),
            rng: Rng::new(id.into()),
        }
    }

    pub(crate) fn target(&self) -> TargetNode {
        TargetNode { node: self.id, epoch: NodeEpoch(self.epoch) }
    }

    pub(crate) fn limit_uploads(&mut self, upload_bytes_max: u64) {
        self.config.upload_bytes_max = upload_bytes_max;
        self.restart();
    }

    /// Everything in memory is gone; durable chunks stay.
    pub(crate) fn restart(&mut self) {
        self.endpoint = NodeEndpoint::new(self.config, cookie_secret(self.epoch.into()));
        self.storing.clear();
        self.reading.clear();
    }

    /// A chunk that is durable here.
    pub(crate) fn insert(&mut self, chunk: ChunkId, bytes: Vec<u8>) {
        self.chunks.insert(chunk, bytes.into());
    }

    pub(crate) fn holds(&self, chunk: ChunkId) -> Option<&Bytes> {
        self.chunks.get(&chunk)
    }

    pub(crate) fn upload_bytes_max(&self) -> u64 {
        self.config.upload_bytes_max
    }

    pub(crate) fn upload_bytes(&self) -> u64 {
        self.endpoint.upload_bytes()
    }

    pub(crate) fn corrupt(&self) -> u64 {
        let counters = self.endpoint.counters();
        counters.corrupt + counters.rejects.iter().sum::<u64>()
    }

    /// Takes one datagram; answers what goes back.
    pub(crate) fn handle(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> Vec<Burst> {
        let view = View { target: self.target(), chunks: &self.chunks, clock: self.clock };
        let mut reply = Vec::new();
        let action = self.endpoint.handle_datagram(now, from.into(), bytes, &view, &mut reply);
        self.upload_bytes_peak = self.upload_bytes_peak.max(self.endpoint.upload_bytes());
        match action {
            Action::None => Vec::new(),
            Action::Reply => vec![self.single(from, reply)],
            Action::Read(job) if (self.read_delay_min + self.read_delay_max).is_zero() => {
                self.read(now, &job)
            }
            Action::Read(job) => {
                let more = self.rng.below((self.read_delay_max.as_micros() as u64).max(1));
                self.reading.push((now + self.read_delay_min + Duration::from_micros(more), job));
                Vec::new()
            }
            Action::Store(job) => {
                self.storing.push((now + self.store_delay, job));
                Vec::new()
            }
        }
    }

    /// Finishes what the disk has finished; answers what goes out.
    pub(crate) fn handle_time(&mut self, now: Instant) -> Vec<Burst> {
        self.endpoint.handle_timeout(now);
        let read: Vec<_> = self.reading.extract_if(.., |(at, _)| *at <= now).map(|(_, job)| job).collect();
        let mut answers: Vec<Burst> = read.iter().flat_map(|job| self.read(now, job)).collect();
        let due = self.storing.extract_if(.., |(at, _)| *at <= now).map(|(_, job)| job);
        let due: Vec<StoreJob> = due.collect();
        answers.extend(due.into_iter().map(|job| self.store(job)));
        answers
    }

    fn single(&self, to: SocketAddr, bytes: Vec<u8>) -> Burst {
        Burst { from: self.address, to, bytes, segment_size: None, one_by_one: false }
    }

    fn read(&self, now: Instant, job: &ReadJob) -> Vec<Burst> {
        let chunk = self.chunks.get(&job.chunk()).cloned();
        let read = job.range().and_then(|range| {
            let chunk = chunk.ok_or(Status::NotFound)?;
            let is_there = range.end as usize <= chunk.len();
            if is_there { Ok(Whole(chunk)) } else { Err(Status::Range) }
        });
        let read = read.as_ref().map(|whole| whole as &dyn ReadBytes).map_err(|status| *status);
        let mut reply = Vec::new();
        let answer = job.answer(|| now, read, &mut Vec::new(), &mut reply);
        let transmits = answer.transmits(job.from, &reply).into_iter().flatten();
        let burst = |(transmit, bytes): (xdpfs_transport::Transmit, &[u8])| Burst {
            from: self.address,
            to: transmit.destination,
            bytes: bytes.to_vec(),
            segment_size: transmit.segment_size,
            one_by_one: transmit.one_by_one,
        };
        transmits.map(burst).collect()
    }

    fn store(&mut self, job: StoreJob) -> Burst {
        let ticket: StoreTicket = job.ticket();
        let answer = if crc32c(&job.data) == job.crc { self.store_answer } else { Err(Status::Corrupt) };
        if answer.is_ok() {
            self.chunks.insert(job.chunk, job.data);
            self.stored += 1;
        }
        let view = View { target: self.target(), chunks: &self.chunks, clock: self.clock };
        let mut reply = Vec::new();
        self.endpoint.handle_stored(&ticket, answer, &view, &mut reply);
        self.single(ticket.from.address, reply)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let reads = self.reading.iter().map(|(at, _)| *at);
        self.storing.iter().map(|(at, _)| *at).chain(reads).chain(self.endpoint.poll_timeout()).min()
    }
}

fn cookie_secret(start: u64) -> CookieSecret {
    CookieSecret(SipKey { k0: 31, k1: start })
}

/// A chunk in memory.
struct Whole(Bytes);

impl ReadBytes for Whole {
    fn bytes<'a>(&'a self, offset: u32, length: usize, _: &'a mut Vec<u8>) -> &'a [u8] {
        &self.0[offset as usize..][..length]
    }
}
