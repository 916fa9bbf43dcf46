//! The data node's side. Reads keep no state at all; uploads hold memory that was reserved when they were opened.
//!
//! The endpoint never sends more bytes to an address than it got from it, until the address has shown a cookie.

mod read;
mod upload;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use xdpfs_wire::payload::{ChunkSum, GetBurst, Pong, SACK_WINDOW, Sack};
use xdpfs_wire::{
    Accepted, CapabilityKey, ChunkId, ClientId, CookieSecret, EpochSecret, Expiry, Flags, Header, KeyEpoch,
    KeyEpochs, Opcode, Receipt, ReceiptKey, Reject, Status, TargetNode, check_lease, validate_request,
};

use crate::datagram::{self, BURST_BYTES_MAX, Peer};
pub use read::{Answer, ReadBytes, ReadJob};
use upload::{Geometry, Upload};

/// How a node endpoint behaves.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig {
    /// Memory for the bytes of unfinished uploads.
    pub upload_bytes_max: u64,
    /// Unfinished uploads.
    pub uploads_max: usize,
    /// An upload that gets nothing for this long is forgotten.
    pub upload_idle_max: Duration,
    /// How far a writer may run ahead of the first missing byte. Must fit the socket's receive buffer.
    pub credit_bytes: u32,
    /// What a client is told to wait when there is no memory for its upload.
    pub busy_delay: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            upload_bytes_max: 64 << 20,
            uploads_max: 1024,
            upload_idle_max: Duration::from_secs(10),
            credit_bytes: 1 << 20,
            busy_delay: Duration::from_millis(10),
        }
    }
}

/// Length and checksum of a durable chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkInfo {
    /// In bytes.
    pub length: u32,
    /// CRC32C of the whole chunk.
    pub crc: u32,
}

/// What the endpoint asks of the node that it speaks for.
pub trait Node {
    /// Who the node is now.
    fn target(&self) -> TargetNode;
    /// The secret of a live key epoch.
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret>;
    /// The cluster's time, which capabilities expire on.
    fn now(&self) -> Expiry;
    /// What receipts are signed with.
    fn receipt_key(&self) -> ReceiptKey;
    /// A chunk that is durable here.
    fn chunk(&self, chunk: ChunkId) -> Option<ChunkInfo>;
    /// Whether it may vouch for anything. If not, writes are answered as if it had registered anew.
    fn takes_writes(&self) -> bool {
        true
    }
}

/// What the shell does after a datagram.
#[derive(Debug)]
pub enum Action {
    /// Nothing.
    None,
    /// Sends the bytes in the reply buffer back to where the datagram came from.
    Reply,
    /// Reads the chunk, then sends [`ReadJob::answer`].
    Read(ReadJob),
    /// Makes the chunk durable, then sends what [`NodeEndpoint::handle_stored`] lays out.
    Store(StoreJob),
}

/// A whole chunk to be made durable.
#[derive(Debug)]
pub struct StoreJob {
    /// Where the receipt goes.
    pub from: Peer,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its bytes, each piece of which matched its checksum.
    pub data: Bytes,
    /// What the writer says is the CRC32C of all of them; to be checked by the store.
    pub crc: u32,
    request: Accepted,
}

/// The part of a [`StoreJob`] that the reply needs.
#[derive(Clone, Copy, Debug)]
pub struct StoreTicket {
    /// Where the receipt goes.
    pub from: Peer,
    request: Accepted,
    info: ChunkInfo,
}

impl StoreJob {
    /// What to keep while the chunk is being stored.
    #[must_use]
    pub fn ticket(&self) -> StoreTicket {
        let info = ChunkInfo { length: self.data.len() as u32, crc: self.crc };
        StoreTicket { from: self.from, request: self.request, info }
    }
}

/// What an endpoint has seen since it was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeCounters {
    /// Datagrams refused, by [`Reject`] in its order.
    pub rejects: [u64; Reject::ALL.len()],
    /// Requests that passed the validator.
    pub accepted: u64,
    /// Payloads that failed their checksum.
    pub corrupt: u64,
    /// Pieces that arrived more than once.
    pub duplicates: u64,
    /// Requests put off for want of memory.
    pub busy: u64,
    /// Uploads forgotten because nothing came any more.
    pub uploads_expired: u64,
    /// Bursts that readers wanted one datagram at a time, since their paths take no super-packets.
    pub bursts_one_by_one: u64,
}

type UploadKey = (ClientId, ChunkId);

/// The chunk protocol as a data node speaks it.
pub struct NodeEndpoint {
    config: NodeConfig,
    cookies: CookieSecret,
    uploads: BTreeMap<UploadKey, Upload>,
    upload_bytes: u64,
    counters: NodeCounters,
}

impl std::fmt::Debug for NodeEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeEndpoint")
            .field("uploads", &self.uploads.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

struct Keys<'a, N>(&'a N);

impl<N: Node> KeyEpochs for Keys<'_, N> {
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        self.0.secret(epoch)
    }
}

/// One request on its way through the endpoint.
struct Request<'a, N> {
    now: Instant,
    from: Peer,
    accepted: Accepted,
    payload: &'a [u8],
    node: &'a N,
    reply: &'a mut Vec<u8>,
}

impl<N: Node> Request<'_, N> {
    fn header(&self) -> &Header {
        &self.accepted.header
    }

    fn respond(&mut self, header: Header, payload: &[u8]) -> Action {
        let header = Header { node_epoch: self.node.target().epoch, ..header };
        datagram::append(self.reply, self.accepted.key, header, payload, 0);
        Action::Reply
    }

    fn refuse(&mut self, status: Status) -> Action {
        let header = reply_header(self.header(), Opcode::Error, status);
        self.respond(Header { length: 0, ..header }, &[])
    }

    fn put_off(&mut self, delay: Duration) -> Action {
        let header = reply_header(self.header(), Opcode::Error, Status::Busy);
        self.respond(Header { length: delay.as_micros() as u32, ..header }, &[])
    }

    fn receipt(&mut self, info: ChunkInfo) -> Action {
        let TargetNode { node, epoch } = self.node.target();
        let header = *self.header();
        append_receipt(self.reply, &header, self.accepted.key, info, node, epoch, self.node.receipt_key());
        Action::Reply
    }

    /// The chunk is durable here already: a receipt if it is the same one.
    fn durable(&mut self, held: ChunkInfo, wanted: ChunkInfo) -> Action {
        if held == wanted { self.receipt(held) } else { self.refuse(Status::Conflict) }
    }

    fn sack(&mut self, first_missing: u32, credit_end: u32, sack: &Sack) -> Action {
        let header = reply_header(self.header(), Opcode::Sack, Status::Ok);
        self.respond(Header { offset: first_missing, length: credit_end, ..header }, &sack.encode())
    }
}

impl NodeEndpoint {
    /// An endpoint without uploads. `cookies` must be random and known to nobody else.
    #[must_use]
    pub fn new(config: NodeConfig, cookies: CookieSecret) -> Self {
        Self { config, cookies, uploads: BTreeMap::new(), upload_bytes: 0, counters: NodeCounters::default() }
    }

    /// What has been seen.
    #[must_use]
    pub fn counters(&self) -> NodeCounters {
        self.counters
    }

    /// A datagram arrived. Lays a reply into `reply`, which is emptied first, if the action says so.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: Peer,
        datagram: &[u8],
        node: &impl Node,
        reply: &mut Vec<u8>,
    ) -> Action {
        reply.clear();
        let Some((bytes, payload)) = datagram::split(datagram) else {
            return self.reject(Reject::TooShort);
        };
        let verdict = validate_request(bytes, payload.len(), &Keys(node), node.now());
        let verdict = verdict.and_then(|accepted| {
            let header = &accepted.header;
            let meant = node.target().check(header);
            let meant = meant.and_then(|()| check_lease(header, || node.takes_writes()));
            meant.map(|()| accepted).map_err(|reject| (reject, Some(accepted)))
        });
        let accepted = match verdict {
            Ok(accepted) => accepted,
            Err((reject, asker)) => {
                self.reject(reject);
                return match (reject.reply(), asker) {
                    (Some(status), Some(accepted)) => {
                        Request { now, from, accepted, payload, node, reply }.refuse(status)
                    }
                    _ => Action::None,
                };
            }
        };
        if !datagram::payload_intact(&accepted.header, payload) {
            self.counters.corrupt += 1;
            return Action::None;
        }
        self.counters.accepted += 1;
        self.dispatch(Request { now, from, accepted, payload, node, reply })
    }

    fn reject(&mut self, reject: Reject) -> Action {
        if let Some(counter) = self.counters.rejects.get_mut(reject as usize) {
            *counter += 1;
        }
        Action::None
    }

    fn dispatch(&mut self, request: Request<'_, impl Node>) -> Action {
        match request.header().opcode {
            Opcode::Ping => self.handle_ping(request),
            Opcode::GetPiece => Self::handle_get_piece(request),
            Opcode::GetBurst => self.handle_get_burst(request),
            Opcode::Stat => Self::handle_stat(request),
            Opcode::PutWhole => self.handle_put_whole(request),
            Opcode::PutOpen => self.handle_put_open(request),
            Opcode::PutData => self.handle_put_data(request),
            Opcode::PutCommit => self.handle_put_commit(request),
            Opcode::PutAbort => self.handle_put_abort(&request),
            Opcode::Pong
            | Opcode::Data
            | Opcode::Tail
            | Opcode::StatReply
            | Opcode::Receipt
            | Opcode::Sack
            | Opcode::Error => Action::None,
        }
    }

    fn handle_ping(&mut self, mut request: Request<'_, impl Node>) -> Action {
        let (address, port) = cookie_address(request.from.address);
        let now_s = request.node.now().0.into();
        let cookie = self.cookies.cookie(address, port, ANY_CLIENT, now_s);
        let pong = Pong { cookie, burst_max: BURST_BYTES_MAX as u32 };
        let header = reply_header(request.header(), Opcode::Pong, Status::Ok);
        // As long as the ping, so that both directions of the path are proven.
        let mut payload = pong.encode().to_vec();
        payload.resize(request.payload.len(), 0);
        request.respond(header, &payload)
    }

    fn handle_get_piece(request: Request<'_, impl Node>) -> Action {
        Action::Read(ReadJob::new(request.now, request.from, request.accepted, 1, request.node.target()))
    }

    fn handle_get_burst(&mut self, mut request: Request<'_, impl Node>) -> Action {
        let Some(ask) = GetBurst::parse(request.payload) else { return request.refuse(Status::Invalid) };
        let (address, port) = cookie_address(request.from.address);
        let now_s = request.node.now().0.into();
        if !self.cookies.accepts(ask.cookie, address, port, ANY_CLIENT, now_s) {
            let cookie = self.cookies.cookie(address, port, ANY_CLIENT, now_s);
            let header = reply_header(request.header(), Opcode::Error, Status::Cookie);
            return request.respond(Header { length: 0, ..header }, &cookie.0.to_le_bytes());
        }
        let class = request.header().class;
        let pieces = request.header().length.div_ceil(class.piece_len());
        if pieces > datagram::burst_pieces(class) || ask.wanted == 0 {
            return request.refuse(Status::Invalid);
        }
        self.counters.bursts_one_by_one += u64::from(request.header().flags.contains(Flags::ONE_BY_ONE));
        let target = request.node.target();
        Action::Read(ReadJob::new(request.now, request.from, request.accepted, ask.wanted, target))
    }

    fn handle_stat(mut request: Request<'_, impl Node>) -> Action {
        match request.node.chunk(request.header().chunk) {
            None => request.refuse(Status::NotFound),
            Some(info) => {
                let header = reply_header(request.header(), Opcode::StatReply, Status::Ok);
                let sum = ChunkSum { crc: info.crc };
                request.respond(Header { length: info.length, ..header }, &sum.encode())
            }
        }
    }

    fn handle_put_whole(&mut self, mut request: Request<'_, impl Node>) -> Action {
        let header = *request.header();
        let length = header.length;
        let crc = header.payload_crc;
        let wanted = ChunkInfo { length, crc };
        if let Some(held) = request.node.chunk(header.chunk) {
            return request.durable(held, wanted);
        }
        let key = (header.client, header.chunk);
        if self.uploads.contains_key(&key) {
            return self.report(key, request);
        }
        let Some(bytes) = request.payload.get(..length as usize) else {
            return request.refuse(Status::Invalid);
        };
        if !self.has_room_for(length) {
            self.counters.busy += 1;
            return request.put_off(self.config.busy_delay);
        }
        let data = Bytes::copy_from_slice(bytes);
        let geometry = Geometry { length, crc, class: header.class };
        self.insert(key, Upload::storing(request.now, geometry));
        Action::Store(StoreJob {
            from: request.from,
            chunk: header.chunk,
            data,
            crc,
            request: request.accepted,
        })
    }

    fn handle_put_open(&mut self, mut request: Request<'_, impl Node>) -> Action {
        let header = *request.header();
        let Some(sum) = ChunkSum::parse(request.payload) else { return request.refuse(Status::Invalid) };
        let wanted = ChunkInfo { length: header.length, crc: sum.crc };
        if let Some(held) = request.node.chunk(header.chunk) {
            return request.durable(held, wanted);
        }
        if u64::from(header.length) > self.config.upload_bytes_max {
            return request.refuse(Status::Invalid);
        }
        let key = (header.client, header.chunk);
        let geometry = Geometry { length: header.length, crc: sum.crc, class: header.class };
        match self.uploads.get(&key) {
            Some(upload) if upload.is_storing() || upload.geometry() == geometry => {
                return self.report(key, request);
            }
            Some(_) => self.remove(key),
            None => {}
        }
        if !self.has_room_for(header.length) {
            self.counters.busy += 1;
            return request.put_off(self.config.busy_delay);
        }
        self.insert(key, Upload::open(request.now, geometry));
        self.report(key, request)
    }

    fn handle_put_data(&mut self, mut request: Request<'_, impl Node>) -> Action {
        let header = *request.header();
        let key = (header.client, header.chunk);
        let wants_ack = header.flags.contains(Flags::ACK_WANTED);
        let Some(upload) = self.uploads.get_mut(&key) else {
            if !wants_ack {
                return Action::None;
            }
            // Whoever asks after the end has missed the receipt; for others a copy that is late does no harm.
            return match request.node.chunk(header.chunk) {
                Some(held) => request.receipt(held),
                None => request.refuse(Status::NotOpen),
            };
        };
        match upload.handle_piece(request.now, &header, request.payload) {
            upload::Piece::New => {}
            upload::Piece::Known => self.counters.duplicates += 1,
            upload::Piece::Misplaced => return request.refuse(Status::Invalid),
        }
        if wants_ack { self.report(key, request) } else { Action::None }
    }

    fn handle_put_commit(&mut self, mut request: Request<'_, impl Node>) -> Action {
        let header = *request.header();
        let Some(sum) = ChunkSum::parse(request.payload) else { return request.refuse(Status::Invalid) };
        let wanted = ChunkInfo { length: header.length, crc: sum.crc };
        if let Some(held) = request.node.chunk(header.chunk) {
            return request.durable(held, wanted);
        }
        let key = (header.client, header.chunk);
        let Some(upload) = self.uploads.get_mut(&key) else { return request.refuse(Status::NotOpen) };
        if upload.geometry().length != header.length || upload.geometry().crc != sum.crc {
            return request.refuse(Status::Invalid);
        }
        match upload.take_complete(request.now) {
            None => self.report(key, request),
            Some(data) => Action::Store(StoreJob {
                from: request.from,
                chunk: header.chunk,
                data,
                crc: sum.crc,
                request: request.accepted,
            }),
        }
    }

    fn handle_put_abort(&mut self, request: &Request<'_, impl Node>) -> Action {
        let key = (request.header().client, request.header().chunk);
        if self.uploads.get(&key).is_some_and(|upload| !upload.is_storing()) {
            self.remove(key);
        }
        Action::None
    }

    /// Tells a writer what has arrived.
    fn report(&mut self, key: UploadKey, mut request: Request<'_, impl Node>) -> Action {
        let Some(upload) = self.uploads.get(&key) else { return request.refuse(Status::NotOpen) };
        let (first_missing, sack) = upload.sack(SACK_WINDOW);
        let credit_end = first_missing.saturating_add(self.config.credit_bytes).min(upload.geometry().length);
        request.sack(first_missing, credit_end, &sack)
    }

    /// The store is done with a job. Lays the receipt, or the refusal, into `reply`.
    pub fn handle_stored(
        &mut self,
        ticket: &StoreTicket,
        result: Result<(), Status>,
        node: &impl Node,
        reply: &mut Vec<u8>,
    ) {
        reply.clear();
        let StoreTicket { request, info, .. } = ticket;
        self.remove((request.header.client, request.header.chunk));
        let TargetNode { node: id, epoch } = node.target();
        match result {
            Ok(()) => {
                append_receipt(reply, &request.header, request.key, *info, id, epoch, node.receipt_key());
            }
            Err(status) => {
                let header = reply_header(&request.header, Opcode::Error, status);
                let delay = self.config.busy_delay.as_micros() as u32;
                let length = if status == Status::Busy { delay } else { 0 };
                let header = Header { node_epoch: epoch, length, ..header };
                datagram::append(reply, request.key, header, &[], 0);
            }
        }
    }

    /// Forgets uploads that nothing came for.
    pub fn handle_timeout(&mut self, now: Instant) {
        let idle_max = self.config.upload_idle_max;
        let stale: Vec<UploadKey> = self
            .uploads
            .iter()
            .filter(|(_, upload)| !upload.is_storing() && upload.last_heard() + idle_max <= now)
            .map(|(key, _)| *key)
            .collect();
        self.counters.uploads_expired += stale.len() as u64;
        for key in stale {
            self.remove(key);
        }
    }

    /// When [`NodeEndpoint::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let open = self.uploads.values().filter(|upload| !upload.is_storing());
        open.map(|upload| upload.last_heard() + self.config.upload_idle_max).min()
    }

    /// Memory that uploads hold, in bytes.
    #[must_use]
    pub fn upload_bytes(&self) -> u64 {
        self.upload_bytes
    }

    fn has_room_for(&self, length: u32) -> bool {
        self.uploads.len() < self.config.uploads_max
            && self.upload_bytes + u64::from(length) <= self.config.upload_bytes_max
    }

    fn insert(&mut self, key: UploadKey, upload: Upload) {
        self.upload_bytes += u64::from(upload.geometry().length);
        self.uploads.insert(key, upload);
    }

    fn remove(&mut self, key: UploadKey) {
        if let Some(upload) = self.uploads.remove(&key) {
            self.upload_bytes -= u64::from(upload.geometry().length);
        }
    }
}

/// A reply's header: everything that names the request, with a new opcode and status.
fn reply_header(request: &Header, opcode: Opcode, status: Status) -> Header {
    Header { opcode, status, flags: Flags::NONE, ..*request }
}

fn append_receipt(
    reply: &mut Vec<u8>,
    request: &Header,
    key: CapabilityKey,
    info: ChunkInfo,
    node: xdpfs_wire::NodeId,
    node_epoch: xdpfs_wire::NodeEpoch,
    receipt_key: ReceiptKey,
) {
    let ChunkInfo { length, crc } = info;
    let mut receipt = Receipt { chunk: request.chunk, length, crc, node, node_epoch, mac: 0 };
    receipt.mac = receipt_key.sign(&receipt);
    let header = Header { node_epoch, ..reply_header(request, Opcode::Receipt, Status::Ok) };
    datagram::append(reply, key, header, &receipt.encode(), 0);
}

/// Whom cookies are given to. They prove an address, and capabilities of one client's process come and go: each has a client id
/// of its own, and the address is the same.
const ANY_CLIENT: ClientId = ClientId(0);

fn cookie_address(from: SocketAddr) -> ([u8; 16], u16) {
    let address = match from.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    (address.octets(), from.port())
}
