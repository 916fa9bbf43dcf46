//! The node's sign of life, and the orders that its answers bring.

use std::{sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt as _};
use tokio::{sync::watch, time::Instant};
use xdpfs_proto::node::v1::{HeartbeatRequest, HeartbeatResponse};
use xdpfs_wire::ChunkId;

use super::{
    deletions::Deletions,
    leader::{Answered, Call, Leader},
    refusal::Refusal,
    registration::{Registrar, parse_key_epochs},
};
use crate::{
    cluster_clock::UnixMs, disks::Disks, lease::Moment, link::OwnCertificate, node_failure::NodeFailure,
    node_state::NodeState, scrub::ScrubHandles, storage_probe::StorageDoubt, store::DeleteError,
};

/// Short enough that a node finds a new leader before the cluster takes it for dead.
const HEARTBEAT: Call = Call { name: "heartbeat", patience: Duration::from_millis(1500) };

/// Registrations in a row that were out of date by their first heartbeat. One or two are a matter of messages that were
/// late; so many are the work of another node.
const SUPERSEDED_MAX: u32 = 8;

type Deletion = BoxFuture<'static, (Vec<ChunkId>, Result<(), DeleteError>)>;

/// Sends heartbeats.
pub(super) struct Heartbeats {
    leader: Arc<Leader>,
    registrar: Registrar,
    vitals: Vitals,
    interval: Duration,
    /// Registrations since the last heartbeat that found its registration in place.
    superseded: u32,
    deletions: Deletions,
    deletion: Option<Deletion>,
    /// Whether the leader has chunks for this node to fetch.
    fetches_wanted: watch::Sender<bool>,
    /// The inventory that it has yet to hear all chunks for; zero: none.
    inventory_wanted: watch::Sender<u64>,
}

/// What a heartbeat speaks of.
pub(super) struct Vitals {
    /// Whose orders the node obeys.
    pub(super) cluster_id: String,
    pub(super) disks: Disks,
    pub(super) scrub: ScrubHandles,
    pub(super) storage_doubts: Vec<StorageDoubt>,
    pub(super) state: Arc<NodeState>,
    pub(super) certificate: OwnCertificate,
}

impl Heartbeats {
    pub(super) fn new(
        leader: Arc<Leader>,
        registrar: Registrar,
        vitals: Vitals,
        interval: Duration,
        fetches_wanted: watch::Sender<bool>,
        inventory_wanted: watch::Sender<u64>,
    ) -> Self {
        Self {
            leader,
            registrar,
            vitals,
            interval,
            superseded: 0,
            deletions: Deletions::default(),
            deletion: None,
            fetches_wanted,
            inventory_wanted,
        }
    }

    /// Sends them for ever. A heartbeat that isn't answered is repeated at once, elsewhere if need be, so a new leader
    /// hears of the node as soon as the node hears of the leader.
    pub(super) async fn run(&mut self) -> NodeFailure {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                (chunks, result) = finished(&mut self.deletion) => self.note_deletion(chunks, result),
                () = tokio::time::sleep_until(due) => match self.beat().await {
                    Ok(()) => due = Instant::now() + self.interval,
                    Err(failure) => return failure,
                },
            }
        }
    }

    async fn beat(&mut self) -> Result<(), NodeFailure> {
        let deleted = self.deletions.unreported();
        let vitals = &self.vitals;
        let sent_at = Moment::now();
        let beat = self.leader.call(
            HEARTBEAT,
            || vitals.heartbeat(&deleted),
            |mut service, request| async move { service.heartbeat(request).await },
        );
        match beat.await {
            Ok(answered) => {
                self.deletions.reported(&deleted);
                self.obey(sent_at, answered).await
            }
            Err(refusal) if refusal.node_is_unknown() => self.register_again().await,
            Err(refusal) if refusal.cluster_is_wrong() => Err(refusal.into()),
            Err(refusal) => {
                warn_refused(&refusal);
                Ok(())
            }
        }
    }

    async fn obey(
        &mut self,
        sent_at: Moment,
        answered: Answered<HeartbeatResponse>,
    ) -> Result<(), NodeFailure> {
        let Answered { message, round_trip } = answered;
        if message.leader_time_ms > 0 {
            self.vitals.state.set_clock(UnixMs(message.leader_time_ms), round_trip);
        }
        match parse_key_epochs(&message.key_epochs) {
            Some(key_epochs) => self.vitals.state.replace_key_epochs(key_epochs),
            // An answer that only says to register again needs to bring no secrets.
            None if message.register_again => {}
            None => tracing::warn!("the leader's key epochs make no sense"),
        }
        if message.register_again {
            return self.register_again().await;
        }
        self.superseded = 0;
        self.vitals.state.renew_lease(sent_at, Duration::from_millis(message.lease_ms));
        self.fetches_wanted.send_if_modified(|wanted| {
            let is_new = *wanted != message.exchange_fetches;
            *wanted = message.exchange_fetches;
            is_new
        });
        self.inventory_wanted.send_if_modified(|wanted| {
            let is_new = *wanted != message.inventory;
            *wanted = message.inventory;
            is_new
        });
        if let Some(order) = &message.scrub_order {
            self.vitals.scrub.order(order.number, order.action());
        }
        let ordered = message.delete_chunk_ids.iter().filter_map(|id| parse_chunk_id(id));
        let chunks = self.deletions.ordered(ordered);
        if !chunks.is_empty() {
            tracing::debug!(chunks = chunks.len(), "deleting");
            let deleted = self.vitals.disks.delete(chunks.clone());
            self.deletion = Some(async move { (chunks, deleted.await) }.boxed());
        }
        Ok(())
    }

    async fn register_again(&mut self) -> Result<(), NodeFailure> {
        if self.superseded >= SUPERSEDED_MAX {
            return Err(NodeFailure::Superseded);
        }
        self.superseded += 1;
        tracing::info!("the leader wants this node to register again");
        let registered = self.registrar.register().await?;
        // Secrets before the registration: whoever learns of the new epoch may use any of them.
        self.vitals.state.replace_key_epochs(registered.key_epochs);
        self.vitals.state.set_clock(registered.leader_time, Duration::ZERO);
        self.vitals.state.replace_registration(registered.registration);
        let (sent_at, lease) = registered.lease;
        self.vitals.state.renew_lease(sent_at, lease);
        self.interval = registered.heartbeat_interval;
        Ok(())
    }

    fn note_deletion(&mut self, chunks: Vec<ChunkId>, result: Result<(), DeleteError>) {
        self.deletion = None;
        match result {
            Ok(()) => self.deletions.succeeded(chunks),
            Err(error) => {
                tracing::warn!(%error, chunks = chunks.len(), "chunks could not be deleted");
                self.deletions.failed();
            }
        }
    }
}

impl Vitals {
    fn heartbeat(&self, deleted: &[ChunkId]) -> HeartbeatRequest {
        let registration = self.state.registration();
        let usage = self.disks.usage();
        let plane = self.state.plane();
        let packets = plane.counts.fates.into_iter().map(|(fate, packets)| (fate.to_owned(), packets));
        HeartbeatRequest {
            node_id: registration.target.node.0.into(),
            node_epoch: registration.number,
            capacity_bytes: usage.capacity_bytes,
            used_bytes: usage.used_bytes,
            free_bytes: usage.free_bytes,
            chunks: usage.chunks,
            written_bytes: self.disks.written_bytes(),
            read_bytes: self.disks.read_bytes(),
            rejects: self.state.refusals().into_iter().collect(),
            xdp_mode: plane.mode.to_string(),
            xdp_reason: plane.why,
            xdp_packets: packets.collect(),
            deleted_chunk_ids: deleted.iter().map(|chunk| chunk.0.to_be_bytes().to_vec()).collect(),
            cluster_id: self.cluster_id.clone(),
            certificate_expiry_s: self.certificate.expiry_s().unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            takes_fetches: true,
            tells_inventory: true,
            scrub: Some(self.scrub.status()),
            scrub_order_done: self.scrub.order_done(),
            storage_doubts: self.storage_doubts.iter().map(|doubt| doubt.label().to_owned()).collect(),
            disks: self.disks.statuses(),
        }
    }
}

fn warn_refused(refusal: &Refusal) {
    tracing::warn!(%refusal, "the leader refuses a heartbeat");
}

async fn finished(deletion: &mut Option<Deletion>) -> (Vec<ChunkId>, Result<(), DeleteError>) {
    match deletion {
        Some(deletion) => deletion.await,
        None => std::future::pending().await,
    }
}

fn parse_chunk_id(bytes: &[u8]) -> Option<ChunkId> {
    bytes.try_into().ok().map(|bytes| ChunkId(u128::from_be_bytes(bytes)))
}
