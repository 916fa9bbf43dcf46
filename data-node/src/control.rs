//! The node's side of the control plane: it registers, tells the leader how it is, and does what it is told.
//!
//! Invariant: one registration is asked for under one request id, and what has been told to the node by one answer is
//! taken over as a whole.
//!
//! A node that can't reach the leader goes on serving reads, for as long as that lasts: chunks never change, so what it reads
//! to anybody is right or fails the manifest's checksum. It takes no more writes once half of its lease is over. Its receipts
//! count only if they are of the registration that is present when an object is committed, so those of a node that has been
//! replaced or given up are worth nothing, whatever it believes.

mod backoff;
mod chunk_report;
mod deletions;
mod fetching;
mod heartbeat;
mod inventory;
mod leader;
mod refusal;
mod registration;
mod route;

use std::sync::Arc;

use tokio::sync::watch;

use self::{
    chunk_report::ChunkReports,
    fetching::Fetching,
    heartbeat::{Heartbeats, Vitals},
    inventory::InventoryTeller,
    registration::Registrar,
};
pub(crate) use self::{
    leader::{Answered, Call, Leader},
    refusal::Refusal,
    registration::{Identity, parse_key_epochs},
};
use crate::{
    cluster_clock::ClusterClock, config::MetaEndpoint, data_directory::DataDirectory, disks::Disks,
    link::OpenLink, node_failure::NodeFailure, node_state::NodeState, scrub::ScrubHandles,
};

/// The connection to the metadata service.
pub(crate) struct Control {
    state: Arc<NodeState>,
    heartbeats: Heartbeats,
    reports: ChunkReports,
    fetching: Fetching,
    inventories: InventoryTeller,
}

impl Control {
    /// Registers the node. Waits for a leader as long as it takes.
    ///
    /// # Errors
    /// The node will never be taken as it is.
    pub(crate) async fn register(
        endpoints: &[MetaEndpoint],
        link: OpenLink,
        identity: Identity,
        directory: Arc<DataDirectory>,
        disks: Disks,
        scrub: ScrubHandles,
    ) -> Result<Self, NodeFailure> {
        let certificate = link.certificate();
        let storage_doubts = identity.storage_doubts.clone();
        let leader = Arc::new(Leader::new(endpoints, link));
        let registrar = Registrar::new(Arc::clone(&leader), identity, Arc::clone(&directory));
        let registered = registrar.register().await?;
        // For life: the directory has joined it.
        let cluster_id = directory.cluster_id().unwrap_or_default();
        let clock = ClusterClock::starting_at(registered.leader_time);
        let state = Arc::new(NodeState::new(registered.registration, registered.key_epochs, clock));
        let (sent_at, lease) = registered.lease;
        state.renew_lease(sent_at, lease);
        let (fetches_wanted, wanted) = watch::channel(false);
        let (inventory_wanted, inventory) = watch::channel(0);
        let heartbeats = Heartbeats::new(
            Arc::clone(&leader),
            registrar,
            Vitals {
                cluster_id: cluster_id.clone(),
                disks: disks.clone(),
                scrub,
                storage_doubts,
                state: Arc::clone(&state),
                certificate,
            },
            registered.heartbeat_interval,
            fetches_wanted,
            inventory_wanted,
        );
        let fetching =
            Fetching::new(Arc::clone(&leader), cluster_id.clone(), disks.clone(), Arc::clone(&state), wanted);
        let inventories = InventoryTeller::new(
            Arc::clone(&leader),
            cluster_id.clone(),
            disks.clone(),
            Arc::clone(&state),
            inventory,
        );
        let reports = ChunkReports::new(leader, cluster_id, disks, Arc::clone(&state));
        Ok(Self { state, heartbeats, reports, fetching, inventories })
    }

    /// What the leader has told.
    pub(crate) fn state(&self) -> &Arc<NodeState> {
        &self.state
    }

    /// Talks to the leader; ends only if the node can't go on.
    pub(crate) async fn run(self) -> NodeFailure {
        let Self { mut heartbeats, mut reports, mut fetching, mut inventories, .. } = self;
        tokio::select! {
            failure = heartbeats.run() => failure,
            never = reports.run() => match never {},
            never = fetching.run() => match never {},
            never = inventories.run() => match never {},
        }
    }
}
