//! The client's side: many transfers of chunks to and from many nodes, over one socket.
//!
//! The client drives everything. Reads ask for bursts and ask again for what is missing; writes send batches and
//! learn from selective acknowledgements. Bytes outstanding are bounded per node by a congestion window and over all
//! nodes by a budget that fits the receive buffer and the last link, so that many nodes answering at once lose nothing. What
//! there is room for goes to the transfer that lacks the least, and a share of it to the oldest that has
//! something to send.

mod budget;
mod link;
mod offload;
mod read;
mod rtt;
mod window;
mod write;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use xdpfs_wire::payload::{Pong, Tail};
use xdpfs_wire::{
    Advice, Capability, CapabilityKey, ChunkId, Cookie, Flags, Header, NodeEpoch, NodeId, Opcode, PieceClass,
    Receipt, RequestId, Status,
};

use crate::datagram::{self, Transmit};
use budget::Budget;
use link::Link;
use read::Read;
use write::Write;

/// How many nodes one endpoint remembers the path to; the longest idle one is forgotten beyond that.
const LINKS_MAX: usize = 256;
/// Every so many sends belong to the oldest transfer that has something to send, whatever it lacks (Homa gives it five to ten percent).
const SHARE_OF_OLDEST: u32 = 8;
/// An endpoint with transfers that is not called for so long was not running: their timers are due more often.
const STOPPED_MIN: Duration = Duration::from_millis(1500);

/// How a client endpoint behaves.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// A transfer without progress for this long ends as [`TransferError::Unreachable`].
    pub patience: Duration,
    /// A transfer that a node keeps putting off ends after this long, progress or not.
    pub transfer_max: Duration,
    /// Bytes asked for and not yet received, over all nodes. Must fit the socket's receive buffer.
    pub read_budget_bytes: u64,
    /// Bytes outstanding to or from one node.
    pub window_bytes_max: u64,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(2),
            transfer_max: Duration::from_secs(30),
            read_budget_bytes: 2 << 20,
            window_bytes_max: 2 << 20,
        }
    }
}

/// A data node, as the metadata service told the client of it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Target {
    /// Where its datagrams go.
    pub address: SocketAddr,
    /// Its id.
    pub node: NodeId,
    /// The registration that writes are meant for.
    pub node_epoch: NodeEpoch,
}

/// A capability and the key that proves it.
#[derive(Clone, Copy, Debug)]
pub struct SessionKey {
    /// What it allows.
    pub capability: Capability,
    /// What datagrams are tagged with.
    pub key: CapabilityKey,
}

/// How a transfer failed. The chunk is untouched, or durable: asking again is harmless.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransferError {
    /// No answer that helped within the configured patience.
    #[error("the data node does not answer")]
    Unreachable,
    /// The node said no; [`Status::advice`] says what helps.
    #[error("the data node refused: {0:?}")]
    Refused(Status),
    /// The node signed for other bytes than those that were sent.
    #[error("the data node holds other bytes than those that were sent")]
    Corrupt,
    /// The endpoint was shut down.
    #[error("the transport was shut down")]
    Closed,
}

/// Names a transfer of one endpoint.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TransferId(u64);

/// What a finished transfer brought.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The bytes of the range, each piece of which matched its checksum.
    Read(Bytes),
    /// The chunk is durable on the node.
    Durable(Receipt),
}

/// A transfer ended.
#[derive(Clone, Debug)]
pub struct Event {
    /// Which one.
    pub transfer: TransferId,
    /// How.
    pub outcome: Result<Outcome, TransferError>,
}

/// What an endpoint has seen and done since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Bytes sent, headers included.
    pub bytes_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Bytes received, headers included.
    pub bytes_received: u64,
    /// Datagrams whose header or payload was damaged or forged.
    pub corrupt: u64,
    /// Well-formed datagrams that no transfer waits for.
    pub stray: u64,
    /// Pieces that arrived more than once.
    pub duplicates: u64,
    /// Pieces asked for again or sent again.
    pub retransmits: u64,
    /// Timers that ran out.
    pub timeouts: u64,
    /// Paths, of those that are known now, whose super-packets are damaged or lost, so that datagrams travel one by one.
    pub paths_one_by_one: u64,
}

/// What an endpoint holds at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Transfers that have not ended.
    pub transfers: usize,
    /// Request ids whose replies it knows what to do with.
    pub requests: usize,
    /// Bytes that reads have asked for and that have not come.
    pub read_bytes: u64,
    /// The most that these have been.
    pub read_bytes_most: u64,
    /// Bytes that count against the windows of all paths.
    pub window_bytes: u64,
}

/// What a request id belongs to.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Transfer(TransferId),
    Probe(LinkKey, PieceClass),
    /// A burst that is whole but for its tail.
    Tail(LinkKey),
}

type LinkKey = (SocketAddr, NodeId);

enum Kind {
    Read(Read),
    Write(Write),
}

struct Transfer {
    link: LinkKey,
    to: Addressed,
    kind: Kind,
    started: Instant,
    progress: Instant,
}

impl Transfer {
    /// Bytes that have yet to arrive.
    fn remaining(&self) -> u32 {
        match &self.kind {
            Kind::Read(read) => read.remaining(),
            Kind::Write(write) => write.remaining(),
        }
    }

    /// Whether it has sent nothing yet, since the path is not known.
    fn waits_for_path(&self) -> bool {
        match &self.kind {
            Kind::Read(read) => read.has_asked_nothing(),
            Kind::Write(write) => write.has_sent_nothing(),
        }
    }
}

/// Everything that the headers of one transfer have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressed {
    target: Target,
    session: SessionKey,
    chunk: ChunkId,
}

impl Addressed {
    fn link(&self) -> LinkKey {
        (self.target.address, self.target.node)
    }

    fn header(&self, opcode: Opcode, class: PieceClass, request: RequestId) -> Header {
        let capability = &self.session.capability;
        Header {
            opcode,
            class,
            flags: Flags::NONE,
            status: Status::Ok,
            rights: capability.rights,
            key_epoch: capability.key_epoch,
            node: self.target.node,
            node_epoch: self.target.node_epoch,
            client: capability.client,
            bucket: capability.bucket,
            expiry: capability.expiry,
            request,
            offset: 0,
            chunk: self.chunk,
            length: 0,
            payload_crc: 0,
            tag: 0,
        }
    }
}

/// Hands out request ids and remembers whom they belong to.
struct Requests {
    next: u32,
    purposes: HashMap<RequestId, Purpose, BuildHasherDefault<CountingHasher>>,
}

/// Request ids are counted up by the client itself, so they need no hash that withstands others' choice.
#[derive(Debug, Default)]
struct CountingHasher(u64);

impl Hasher for CountingHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The table takes its groups from the upper bits, and places from the lower ones.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Requests {
    fn issue(&mut self, purpose: Purpose) -> RequestId {
        loop {
            self.next = self.next.wrapping_add(1);
            let id = RequestId(self.next);
            if let std::collections::hash_map::Entry::Vacant(slot) = self.purposes.entry(id) {
                slot.insert(purpose);
                return id;
            }
        }
    }

    /// Replies to a request that has been answered belong to somebody else.
    fn pass_on(&mut self, id: RequestId, purpose: Purpose) {
        self.purposes.insert(id, purpose);
    }

    fn retire(&mut self, id: RequestId) {
        self.purposes.remove(&id);
    }
}

/// What a state machine of a transfer may use while it handles something.
struct Context<'a> {
    now: Instant,
    id: TransferId,
    to: &'a Addressed,
    link: &'a mut Link,
    requests: &'a mut Requests,
    counters: &'a mut Counters,
    /// Of reads over all links.
    budget: &'a mut Budget,
}

impl Context<'_> {
    fn issue(&mut self) -> RequestId {
        self.requests.issue(Purpose::Transfer(self.id))
    }
}

/// What a transfer made of a reply or of a timer.
enum Step {
    /// Nothing that brings it nearer to its end.
    Idle,
    /// It is nearer to its end.
    Progress,
    /// It ended.
    Finished(Result<Outcome, TransferError>),
}

/// All transfers of one client over one socket. See the module's text for the rules that it follows, and
/// `docs/protocol.md §11` for the timers.
///
/// After every call, poll transmits and events until there is none, then wait for a datagram or for the timeout.
pub struct ClientEndpoint {
    config: ClientConfig,
    links: BTreeMap<LinkKey, Link>,
    transfers: BTreeMap<TransferId, Transfer>,
    requests: Requests,
    events: VecDeque<Event>,
    aborts: VecDeque<(Addressed, PieceClass)>,
    counters: Counters,
    next_transfer: u64,
    budget: Budget,
    /// Transfers by what they lack; kept only to be used again.
    order: Vec<(u32, TransferId)>,
    transmits: u32,
    heard_at: Option<Instant>,
}

impl std::fmt::Debug for ClientEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientEndpoint")
            .field("links", &self.links.len())
            .field("transfers", &self.transfers.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl ClientEndpoint {
    /// An endpoint without transfers. `seed` is where request ids start; a random one keeps the replies to an
    /// earlier endpoint on the same port from being taken for this one's.
    #[must_use]
    pub fn new(config: ClientConfig, seed: u32) -> Self {
        Self {
            config,
            links: BTreeMap::new(),
            transfers: BTreeMap::new(),
            requests: Requests { next: seed, purposes: HashMap::default() },
            events: VecDeque::new(),
            aborts: VecDeque::new(),
            counters: Counters::default(),
            next_transfer: 0,
            budget: Budget::new(config.read_budget_bytes),
            order: Vec::new(),
            transmits: 0,
            heard_at: None,
        }
    }

    /// Reads `range` of a chunk, which must not be empty.
    pub fn read(
        &mut self,
        now: Instant,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> TransferId {
        assert!(range.start < range.end, "an empty range needs no transfer");
        self.start(now, Addressed { target, session, chunk }, Kind::Read(Read::new(range)))
    }

    /// Writes a whole chunk, which must not be empty, and ends with the node's receipt.
    pub fn write(
        &mut self,
        now: Instant,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        data: Bytes,
        crc: u32,
    ) -> TransferId {
        assert!(!data.is_empty(), "a chunk has at least one byte");
        self.start(now, Addressed { target, session, chunk }, Kind::Write(Write::new(data, crc)))
    }

    /// Asks for a receipt for a chunk that the node already holds. Ends with [`Status::NotOpen`] if it doesn't.
    pub fn confirm(
        &mut self,
        now: Instant,
        target: Target,
        session: SessionKey,
        chunk: ChunkId,
        length: u32,
        crc: u32,
    ) -> TransferId {
        self.start(now, Addressed { target, session, chunk }, Kind::Write(Write::confirm(length, crc)))
    }

    /// Ends a transfer without an event.
    pub fn cancel(&mut self, transfer: TransferId) {
        if let Some(ended) = self.transfers.remove(&transfer) {
            self.release(ended);
        }
    }

    /// What has been seen and done.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let one_by_one = self.links.values().filter(|link| link.offload.is_off()).count();
        Counters { paths_one_by_one: one_by_one as u64, ..self.counters }
    }

    /// What is held at the moment.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            transfers: self.transfers.len(),
            requests: self.requests.purposes.len(),
            read_bytes: self.budget.outstanding(),
            read_bytes_most: self.budget.outstanding_most(),
            window_bytes: self.links.values().map(|link| link.window.outstanding()).sum(),
        }
    }

    fn start(&mut self, now: Instant, to: Addressed, kind: Kind) -> TransferId {
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        self.note_time(now);
        let link = to.link();
        self.links.entry(link).or_insert_with(|| Link::new(now, self.config.window_bytes_max)).touch(now);
        self.transfers.insert(id, Transfer { link, to, kind, started: now, progress: now });
        self.forget_idle_links();
        id
    }

    /// A datagram arrived from `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.note_time(now);
        self.counters.datagrams_received += 1;
        self.counters.bytes_received += datagram.len() as u64;
        let Some((bytes, payload)) = datagram::split(datagram) else {
            self.counters.corrupt += 1;
            return;
        };
        let Ok(header) = Header::parse(bytes) else {
            self.counters.corrupt += 1;
            return;
        };
        match self.requests.purposes.get(&header.request).copied() {
            Some(Purpose::Transfer(id)) => self.handle_reply(now, from, id, bytes, &header, payload),
            Some(Purpose::Probe(key, class)) if key.0 == from => {
                self.handle_pong(now, key, class, bytes, &header, payload);
            }
            Some(Purpose::Tail(key)) if key.0 == from => self.handle_tail(now, key, bytes, &header, payload),
            Some(Purpose::Probe(..) | Purpose::Tail(_)) | None => self.counters.stray += 1,
        }
    }

    fn handle_reply(
        &mut self,
        now: Instant,
        from: SocketAddr,
        id: TransferId,
        bytes: &xdpfs_wire::HeaderBytes,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let genuine = header.opcode.is_reply()
            && header.chunk == transfer.to.chunk
            && header.node == transfer.to.target.node
            && from == transfer.to.target.address
            && transfer.to.session.key.verifies(bytes);
        if !genuine || !datagram::payload_intact(header, payload) {
            self.counters.corrupt += 1;
            return;
        }
        let step = self.with_transfer(now, id, |kind, cx| match kind {
            Kind::Read(read) => read.handle_reply(cx, header, payload),
            Kind::Write(write) => write.handle_reply(cx, header, payload),
        });
        self.take_step(now, id, step);
    }

    fn handle_pong(
        &mut self,
        now: Instant,
        key: LinkKey,
        class: PieceClass,
        bytes: &xdpfs_wire::HeaderBytes,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(link) = self.links.get_mut(&key) else { return };
        let is_refusal = header.opcode == Opcode::Error && header.node == key.1;
        let whole = is_refusal || payload.len() == class.piece_len() as usize;
        if !link.probe_key_verifies(bytes) || !datagram::payload_intact(header, payload) || !whole {
            self.counters.corrupt += 1;
            return;
        }
        if is_refusal {
            self.handle_refused_probe(now, key, header.status);
            return;
        }
        if let (Opcode::Pong, Some(pong)) = (header.opcode, Pong::parse(payload)) {
            link.handle_pong(now, class, pong.cookie);
            self.requests.retire(header.request);
        }
    }

    /// Who refuses a ping would refuse everything else under that capability, too. Those who wait for the path are told so at once:
    /// nothing more would come.
    fn handle_refused_probe(&mut self, now: Instant, key: LinkKey, status: Status) {
        if matches!(status.advice(), Advice::Done | Advice::Retry) {
            return;
        }
        let Some(link) = self.links.get_mut(&key) else { return };
        let Some(capability) = link.end_probe(now, &mut self.requests) else { return };
        if link.known_class().is_some() {
            return;
        }
        let waits = |transfer: &Transfer| {
            transfer.link == key && transfer.to.session.capability == capability && transfer.waits_for_path()
        };
        let waiting = self.transfers.iter().filter(|(_, transfer)| waits(transfer)).map(|(id, _)| *id);
        for id in waiting.collect::<Vec<_>>() {
            self.take_step(now, id, Step::Finished(Err(TransferError::Refused(status))));
        }
    }

    fn handle_tail(
        &mut self,
        now: Instant,
        key: LinkKey,
        bytes: &xdpfs_wire::HeaderBytes,
        header: &Header,
        payload: &[u8],
    ) {
        let Some(link) = self.links.get_mut(&key) else { return };
        let genuine = link.tail_key_verifies(header.request, bytes) && header.node == key.1;
        if !genuine || !datagram::payload_intact(header, payload) {
            self.counters.corrupt += 1;
            return;
        }
        match (header.opcode, Tail::parse(payload)) {
            (Opcode::Tail, Some(tail)) => {
                link.handle_tail(now, header.request, tail);
                self.requests.retire(header.request);
            }
            // A piece that the network has doubled.
            _ => self.counters.duplicates += 1,
        }
    }

    /// Whoever was stopped for long, with its host or by a signal, has heard nobody in that time: no transfer is to blame.
    fn note_time(&mut self, now: Instant) {
        let before = self.heard_at.replace(now).unwrap_or(now);
        let gap = now.saturating_duration_since(before);
        if gap < STOPPED_MIN {
            return;
        }
        for transfer in self.transfers.values_mut() {
            transfer.progress += gap;
            transfer.started += gap;
        }
    }

    /// A timer ran out.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.note_time(now);
        for link in self.links.values_mut() {
            link.handle_timeout(now, &mut self.requests);
        }
        let ids: Vec<TransferId> = self.transfers.keys().copied().collect();
        for id in ids {
            let step = self.with_transfer(now, id, |kind, cx| match kind {
                Kind::Read(read) => read.handle_timeout(cx),
                Kind::Write(write) => write.handle_timeout(cx),
            });
            self.take_step(now, id, step);
            self.excuse_if_waiting(now, id);
            self.give_up_if_stuck(now, id);
        }
    }

    /// A read is not stuck while others have all the room.
    fn excuse_if_waiting(&mut self, now: Instant, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let Some(link) = self.links.get(&transfer.link) else { return };
        let Kind::Read(read) = &transfer.kind else { return };
        if !read.asks_nobody() || link.known_class().is_none() {
            return;
        }
        if !link.window.has_room() {
            // Those that have the room tell how the node is.
            transfer.progress = transfer.progress.max(link.heard_at());
        } else if !self.budget.has_room() && !read.was_let_down() {
            transfer.progress = now;
        }
    }

    fn give_up_if_stuck(&mut self, now: Instant, id: TransferId) {
        let Some(transfer) = self.transfers.get(&id) else { return };
        let error = if now >= transfer.progress + self.config.patience {
            TransferError::Unreachable
        } else if now >= transfer.started + self.config.transfer_max {
            TransferError::Refused(Status::Busy)
        } else {
            return;
        };
        self.take_step(now, id, Step::Finished(Err(error)));
    }

    /// When [`ClientEndpoint::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let transfers = self.transfers.values().map(|transfer| {
            let own = match &transfer.kind {
                Kind::Read(read) => read.poll_timeout(),
                Kind::Write(write) => write.poll_timeout(),
            };
            let stuck =
                (transfer.progress + self.config.patience).min(transfer.started + self.config.transfer_max);
            own.map_or(stuck, |own| own.min(stuck))
        });
        // Often enough that who isn't called was not running.
        let running = self.heard_at.filter(|_| !self.transfers.is_empty()).map(|at| at + STOPPED_MIN / 2);
        transfers.chain(self.links.values().filter_map(Link::poll_timeout)).chain(running).min()
    }

    /// Lays the next datagrams into `buffer`, which is emptied first.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        buffer.clear();
        // Transfers first: one that needs to know the path makes the probe that goes out next.
        let transmit = self.poll_transfers(now, buffer).or_else(|| self.poll_probe(now, buffer));
        let transmit = transmit.or_else(|| self.poll_abort(buffer))?;
        self.counters.bytes_sent += buffer.len() as u64;
        self.counters.datagrams_sent +=
            transmit.segment_size.map_or(1, |size| buffer.len().div_ceil(size)) as u64;
        Some(transmit)
    }

    fn poll_probe(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let (links, requests) = (&mut self.links, &mut self.requests);
        links.iter_mut().find_map(|(key, link)| link.poll_probe(now, *key, requests, buffer))
    }

    fn poll_transfers(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(self.transfers.iter().map(|(id, transfer)| (transfer.remaining(), *id)));
        // Transfers are in the order of their age.
        let oldest_first = self.transmits.is_multiple_of(SHARE_OF_OLDEST);
        if !oldest_first {
            order.sort_unstable();
        }
        let sent = order.iter().find_map(|(_, id)| self.poll_transfer(now, *id, buffer));
        self.order = order;
        self.transmits = self.transmits.wrapping_add(sent.is_some().into());
        sent
    }

    fn poll_transfer(&mut self, now: Instant, id: TransferId, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let sent = self.with_transfer(now, id, |kind, cx| match kind {
            Kind::Read(read) => read.poll_transmit(cx, buffer),
            Kind::Write(write) => write.poll_transmit(cx, buffer),
        });
        let segment_size = sent.flatten()?;
        let transfer = self.transfers.get(&id)?;
        let link = self.links.get(&transfer.link);
        let (is_off, lane) = link.map_or((false, 0), |link| (link.offload.is_off(), link.lane()));
        let one_by_one = is_off || matches!(&transfer.kind, Kind::Write(write) if write.sends_singly());
        let destination = transfer.to.target.address;
        let segment_size = (segment_size < buffer.len()).then_some(segment_size);
        Some(Transmit { destination, source: None, segment_size, one_by_one, lane })
    }

    fn poll_abort(&mut self, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let (to, class) = self.aborts.pop_front()?;
        let header = to.header(Opcode::PutAbort, class, RequestId(0));
        datagram::append(buffer, to.session.key, header, &[], 0);
        Some(Transmit::to(to.target.address.into(), None))
    }

    /// The next transfer that ended.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn with_transfer<R>(
        &mut self,
        now: Instant,
        id: TransferId,
        act: impl FnOnce(&mut Kind, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let transfer = self.transfers.get_mut(&id)?;
        let link = self.links.get_mut(&transfer.link)?;
        let mut cx = Context {
            now,
            id,
            to: &transfer.to,
            link,
            requests: &mut self.requests,
            counters: &mut self.counters,
            budget: &mut self.budget,
        };
        Some(act(&mut transfer.kind, &mut cx))
    }

    fn take_step(&mut self, now: Instant, id: TransferId, step: impl Into<Option<Step>>) {
        match step.into() {
            None | Some(Step::Idle) => {}
            Some(Step::Progress) => {
                if let Some(transfer) = self.transfers.get_mut(&id) {
                    transfer.progress = now;
                    if let Some(link) = self.links.get_mut(&transfer.link) {
                        link.note_heard(now);
                    }
                }
            }
            Some(Step::Finished(outcome)) => {
                if let Some(ended) = self.transfers.remove(&id) {
                    if let Some(link) = self.links.get_mut(&ended.link).filter(|_| outcome.is_ok()) {
                        link.note_heard(now);
                    }
                    self.release(ended);
                }
                self.events.push_back(Event { transfer: id, outcome });
            }
        }
    }

    /// Gives back what an ended transfer held: window, budget, request ids, and the node's memory.
    fn release(&mut self, ended: Transfer) {
        let Some(link) = self.links.get_mut(&ended.link) else { return };
        match ended.kind {
            Kind::Read(read) => read.release(link, &mut self.requests, &mut self.budget),
            Kind::Write(write) => {
                if let Some(class) = write.release(link, &mut self.requests) {
                    self.aborts.push_back((ended.to, class));
                }
            }
        }
    }

    fn forget_idle_links(&mut self) {
        while self.links.len() > LINKS_MAX {
            let used: Vec<LinkKey> = self.transfers.values().map(|transfer| transfer.link).collect();
            let idle = self.links.iter().filter(|(key, _)| !used.contains(key));
            let Some(key) = idle.min_by_key(|(_, link)| link.last_used()).map(|(key, _)| *key) else {
                return;
            };
            if let Some(link) = self.links.remove(&key) {
                link.release(&mut self.requests);
            }
        }
    }
}

/// No cookie yet: the node answers with one.
const NO_COOKIE: Cookie = Cookie(0);

/// How long to wait after a node put a request off: what it asked for, within reason.
fn busy_delay(hint_us: u32) -> Duration {
    Duration::from_micros(hint_us.into()).clamp(Duration::from_millis(1), Duration::from_secs(1))
}
