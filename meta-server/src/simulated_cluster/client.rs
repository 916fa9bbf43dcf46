//! Clients: each has keys of its own, and does one thing after another with them.
//!
//! A client goes on asking, under one request id, until it is answered: so it always knows what its keys hold.

use std::collections::BTreeMap;

use xdpfs_proto::state::v1::{self as pb, command};
use xdpfs_wire::{ChunkId, NodeId};

use super::{
    BUCKET, LENGTH,
    cluster::{Cluster, Event},
    messages::{Ask, Caller, ForClient, ForNode, Grant, crc_of},
    options::REPLICAS_MIN,
};
use crate::state_machine::{Reason, chunk_id_bytes};

/// How long an answer is waited for.
const PATIENCE_MS: u64 = 1500;
/// How long replicas are waited for that a put can do without, and those that it can't.
const WRITE_MS: u64 = 3000;
const WRITE_MAX_MS: u64 = 12_000;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) keys: Vec<Key>,
    operation: u64,
    doing: Doing,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) expected: Expected,
}

/// What a key must hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expected {
    /// This version, or nothing.
    Exactly(Option<u64>),
    /// That, or what the command will have made of it.
    EitherOf(Option<u64>),
}

#[derive(Debug)]
enum Doing {
    Nothing,
    /// The answer to this is waited for.
    Asking {
        key: usize,
        ask: Ask,
    },
    Writing {
        key: usize,
        upload: u64,
        until_ms: u64,
        began_ms: u64,
        chunks: BTreeMap<ChunkId, Written>,
    },
    /// It comes back to its put at some time.
    Away {
        key: usize,
        ask: Ask,
        until_ms: u64,
    },
    Reading {
        left: Vec<(ChunkId, Vec<NodeId>)>,
    },
}

#[derive(Debug)]
struct Written {
    grant: Grant,
    receipts: BTreeMap<NodeId, pb::Receipt>,
}

impl Client {
    pub(super) fn new(number: usize, keys: usize) -> Self {
        let key = |key| Key { name: format!("{number}/{key}"), expected: Expected::Exactly(None) };
        Self { keys: (0..keys).map(key).collect(), operation: 0, doing: Doing::Nothing }
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Nothing)
    }
}

impl Cluster {
    pub(super) fn client_later(&mut self, client: usize, operation: u64, delay_max_ms: u64) {
        let at_ms = self.now_ms + 1 + self.random.u64(0..delay_max_ms.max(1));
        self.at(at_ms, Event::Client { client, operation, what: ForClient::Timer });
    }

    pub(super) fn handle_client(&mut self, client: usize, operation: u64, what: ForClient) {
        if self.clients[client].operation != operation {
            return;
        }
        let doing = std::mem::replace(&mut self.clients[client].doing, Doing::Nothing);
        let next = match (doing, what) {
            (Doing::Nothing, ForClient::Timer) => self.begin_something(client),
            (Doing::Asking { key, ask }, ForClient::Timer) => self.ask_leader(client, key, ask),
            (Doing::Away { key, ask, until_ms }, ForClient::Timer) => {
                if self.now_ms >= until_ms {
                    self.ask_leader(client, key, ask)
                } else {
                    self.client_later(client, operation, 1000);
                    Doing::Away { key, ask, until_ms }
                }
            }
            (Doing::Asking { key, .. }, ForClient::Begun { upload, until_ms, grants }) => {
                self.begin_writing(client, key, upload, until_ms, grants)
            }
            (Doing::Asking { key, ask }, ForClient::Done { version }) => {
                self.settle(client, key, &ask, version)
            }
            (Doing::Asking { key, ask }, ForClient::Rejected { reason }) => {
                self.give_up(client, key, &ask, reason)
            }
            (Doing::Asking { .. }, ForClient::Manifest { chunks }) => {
                let left = chunks.into_iter().map(|(chunk, nodes)| (chunk, nodes.iter().collect())).collect();
                self.read_on(client, left)
            }
            (Doing::Reading { mut left }, ForClient::Bytes { chunk, is_good }) => {
                if left.first().is_some_and(|(of, _)| *of == chunk) {
                    let (_, mut nodes) = left.remove(0);
                    let node = nodes.remove(0);
                    if !is_good {
                        self.totals.bad_reads += 1;
                        self.send_to_leader(Caller::Client { client, operation }, Ask::Doubt { chunk, node });
                        left.insert(0, (chunk, nodes));
                    }
                    self.read_on(client, left)
                } else {
                    Doing::Reading { left }
                }
            }
            (Doing::Reading { mut left }, ForClient::Timer) => {
                // Whoever does not answer is passed over.
                if let Some((_, nodes)) = left.first_mut() {
                    drop(nodes.drain(..1.min(nodes.len())));
                }
                self.read_on(client, left)
            }
            (doing @ Doing::Writing { .. }, what) => self.write_on(client, doing, what),
            (doing, _) => doing,
        };
        self.clients[client].doing = next;
    }

    fn rest(&mut self, client: usize) -> Doing {
        self.clients[client].operation += 1;
        let operation = self.clients[client].operation;
        self.client_later(client, operation, 2000);
        Doing::Nothing
    }

    fn begin_something(&mut self, client: usize) -> Doing {
        if self.is_calm {
            return Doing::Nothing;
        }
        self.clients[client].operation += 1;
        let key = self.random.usize(0..self.clients[client].keys.len());
        let name = self.clients[client].keys[key].name.clone();
        let request_id = self.random.u128(..).to_be_bytes();
        let holds = self.clients[client].keys[key].expected != Expected::Exactly(None);
        let ask = match self.random.u32(0..10) {
            0 | 1 if holds => {
                let delete = pb::DeleteObject { bucket: BUCKET.into(), key: name, ..Default::default() };
                Ask::Command { kind: command::Kind::DeleteObject(delete), request_id }
            }
            2..=4 if holds => Ask::Manifest { key: name },
            _ => Ask::Begin { key: name, chunks: self.random.usize(1..=2), request_id },
        };
        self.ask_leader(client, key, ask)
    }

    fn ask_leader(&mut self, client: usize, key: usize, ask: Ask) -> Doing {
        let operation = self.clients[client].operation;
        let of_key = &mut self.clients[client].keys[key];
        if matches!(ask, Ask::Command { .. })
            && let Expected::Exactly(version) = of_key.expected
        {
            of_key.expected = Expected::EitherOf(version);
        }
        self.send_to_leader(Caller::Client { client, operation }, ask.clone());
        self.at(self.now_ms + PATIENCE_MS, Event::Client { client, operation, what: ForClient::Timer });
        Doing::Asking { key, ask }
    }

    fn settle(&mut self, client: usize, key: usize, ask: &Ask, version: Option<u64>) -> Doing {
        let Ask::Command { kind, .. } = ask else { return self.rest(client) };
        let of_key = &mut self.clients[client].keys[key];
        match kind {
            // What the key holds has not changed.
            command::Kind::AbortPut(_) => self.unchanged(client, key),
            command::Kind::CommitPut(_) => {
                self.totals.puts += 1;
                of_key.expected = Expected::Exactly(version);
            }
            _ => {
                self.totals.deletes += 1;
                of_key.expected = Expected::Exactly(None);
            }
        }
        self.has_changed = true;
        self.rest(client)
    }

    fn unchanged(&mut self, client: usize, key: usize) {
        let of_key = &mut self.clients[client].keys[key];
        if let Expected::EitherOf(version) = of_key.expected {
            of_key.expected = Expected::Exactly(version);
        }
    }

    fn give_up(&mut self, client: usize, key: usize, ask: &Ask, reason: Option<Reason>) -> Doing {
        if let Ask::Command { kind: command::Kind::CommitPut(_), .. } = ask {
            self.totals.late_commits += u64::from(reason == Some(Reason::UploadNotFound));
            self.totals.stale_commits += u64::from(reason == Some(Reason::StaleReceipts));
        }
        self.unchanged(client, key);
        self.rest(client)
    }

    fn begin_writing(
        &mut self,
        client: usize,
        key: usize,
        upload: u64,
        until_ms: u64,
        grants: Vec<Grant>,
    ) -> Doing {
        self.clients[client].operation += 1;
        let operation = self.clients[client].operation;
        let chunks: BTreeMap<ChunkId, Written> = grants
            .into_iter()
            .map(|grant| (grant.chunk, Written { grant, receipts: BTreeMap::new() }))
            .collect();
        self.send_chunks(client, &chunks, until_ms);
        self.at(self.now_ms + 500, Event::Client { client, operation, what: ForClient::Timer });
        Doing::Writing { key, upload, until_ms, began_ms: self.now_ms, chunks }
    }

    /// What has not been vouched for is sent, again.
    fn send_chunks(&mut self, client: usize, chunks: &BTreeMap<ChunkId, Written>, until_ms: u64) {
        let operation = self.clients[client].operation;
        for (chunk, written) in chunks {
            for (node, epoch) in written.grant.nodes.iter() {
                if !written.receipts.contains_key(node) {
                    let (chunk, epoch) = (*chunk, *epoch);
                    self.client_to_node(*node, ForNode::Write { client, operation, chunk, epoch, until_ms });
                }
            }
        }
    }

    fn write_on(&mut self, client: usize, doing: Doing, what: ForClient) -> Doing {
        let Doing::Writing { key, upload, until_ms, began_ms, mut chunks } = doing else { return doing };
        let operation = self.clients[client].operation;
        match what {
            ForClient::Receipt { chunk, node, epoch, mac } => {
                if let Some(written) = chunks.get_mut(&chunk) {
                    let receipt = pb::Receipt { node_id: node.0.into(), node_epoch: epoch, mac };
                    written.receipts.insert(node, receipt);
                }
            }
            ForClient::Timer => {
                self.send_chunks(client, &chunks, until_ms);
                self.at(self.now_ms + 500, Event::Client { client, operation, what: ForClient::Timer });
            }
            _ => {}
        }
        let waited_ms = self.now_ms - began_ms;
        let has = |count: usize| chunks.values().all(|written| written.receipts.len() >= count);
        let all = chunks.values().all(|written| written.receipts.len() == written.grant.nodes.len());
        let request_id = self.random.u128(..).to_be_bytes();
        let kind = if all || has(REPLICAS_MIN as usize) && waited_ms > WRITE_MS {
            let chunks = chunks.into_iter().map(|(chunk, written)| pb::WrittenChunk {
                chunk_id: chunk_id_bytes(chunk),
                length: LENGTH,
                crc32c: crc_of(chunk),
                receipts: written.receipts.into_values().collect(),
            });
            command::Kind::CommitPut(pb::CommitPut {
                upload_id: upload,
                chunks: chunks.collect(),
                ..Default::default()
            })
        } else if waited_ms > WRITE_MAX_MS {
            command::Kind::AbortPut(pb::AbortPut { upload_id: upload })
        } else {
            return Doing::Writing { key, upload, until_ms, began_ms, chunks };
        };
        self.clients[client].operation += 1;
        let ask = Ask::Command { kind, request_id };
        let odd = self.options.faults.odd_client_one_in;
        if self.is_calm || odd == 0 || self.random.u64(0..odd) > 0 {
            return self.ask_leader(client, key, ask);
        }
        self.totals.odd_clients += 1;
        if self.random.bool() {
            return self.rest(client);
        }
        let operation = self.clients[client].operation;
        self.client_later(client, operation, 1000);
        Doing::Away { key, ask, until_ms: self.now_ms + self.random.u64(1000..90_000) }
    }

    /// Asks the next replica of the next chunk.
    fn read_on(&mut self, client: usize, mut left: Vec<(ChunkId, Vec<NodeId>)>) -> Doing {
        self.clients[client].operation += 1;
        let operation = self.clients[client].operation;
        left.retain(|(_, nodes)| !nodes.is_empty());
        let Some((chunk, nodes)) = left.first() else { return self.rest(client) };
        let (chunk, node) = (*chunk, nodes[0]);
        self.client_to_node(node, ForNode::Read { client, operation, chunk });
        self.at(self.now_ms + PATIENCE_MS, Event::Client { client, operation, what: ForClient::Timer });
        Doing::Reading { left }
    }
}
