//! Becoming known to the leader: at the start of the node, and whenever the leader asks for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use uuid::Uuid;
use xdpfs_proto::node::v1::{KeyEpochSecret, RegisterNodeRequest, RegisterNodeResponse};
use xdpfs_wire::{EpochSecret, KeyEpoch, NodeEpoch, NodeId, ReceiptKey, SipKey, TargetNode};

use super::{
    backoff::Backoff,
    leader::{Answered, Call, Leader},
};
use crate::{
    cluster_clock::UnixMs,
    data_directory::DataDirectory,
    lease::Moment,
    node_failure::NodeFailure,
    node_state::{LiveKeyEpochs, Registration},
    storage_probe::StorageDoubt,
};

/// A registration is a command of the replicated log, so it takes longer than a heartbeat.
const REGISTER: Call = Call { name: "register", patience: Duration::from_secs(5) };
/// A leader that names something outside these has a broken configuration; neither flood it nor fall silent.
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_millis(20);
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// Two are live at a time, four while they are being rotated.
const KEY_EPOCHS_MAX: usize = 16;

/// What the node says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Where clients reach it.
    pub(crate) address: String,
    /// Where an edge reaches it.
    pub(crate) direct_address: String,
    /// Empty: it is a domain of its own.
    pub(crate) failure_domain: String,
    /// By key.
    pub(crate) labels: BTreeMap<String, String>,
    /// Bytes that its chunks may take.
    pub(crate) capacity_bytes: u64,
    /// What speaks against its directory; it is told with heartbeats.
    pub(crate) storage_doubts: Vec<StorageDoubt>,
}

/// A registration, and all that came with it.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) registration: Registration,
    pub(super) key_epochs: LiveKeyEpochs,
    pub(super) heartbeat_interval: Duration,
    /// From when it was asked for.
    pub(super) lease: (Moment, Duration),
    pub(super) leader_time: UnixMs,
}

/// Registers the node.
pub(super) struct Registrar {
    leader: Arc<Leader>,
    identity: Identity,
    directory: Arc<DataDirectory>,
}

impl Registrar {
    pub(super) fn new(leader: Arc<Leader>, identity: Identity, directory: Arc<DataDirectory>) -> Self {
        Self { leader, identity, directory }
    }

    /// Makes one registration: however often it has to be asked for, it is asked for under one request id. What is
    /// returned is of a cluster that the data directory durably belongs to.
    pub(super) async fn register(&self) -> Result<Registered, NodeFailure> {
        let request_id = Uuid::new_v4().to_string();
        let mut backoff = Backoff::default();
        loop {
            let sent_at = Moment::now();
            let answered = self
                .leader
                .call(
                    REGISTER,
                    || self.request(&request_id),
                    |mut service, request| async move { service.register_node(request).await },
                )
                .await?;
            match parse(&answered, sent_at) {
                Some(registered) => {
                    self.join(answered.message.cluster_id).await?;
                    let TargetNode { node, epoch } = registered.registration.target;
                    tracing::info!(%node, %epoch, "registered");
                    return Ok(registered);
                }
                None => {
                    tracing::warn!("the leader's answer to the registration makes no sense");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    fn request(&self, request_id: &str) -> RegisterNodeRequest {
        RegisterNodeRequest {
            request_id: request_id.to_owned(),
            node_uuid: self.directory.node_uuid().to_string(),
            cluster_id: self.directory.cluster_id().unwrap_or_default(),
            address: self.identity.address.clone(),
            direct_address: self.identity.direct_address.clone(),
            failure_domain: self.identity.failure_domain.clone(),
            labels: self.identity.labels.clone(),
            capacity_bytes: self.identity.capacity_bytes,
        }
    }

    async fn join(&self, cluster_id: String) -> Result<(), NodeFailure> {
        let directory = Arc::clone(&self.directory);
        let joined = tokio::task::spawn_blocking(move || directory.join_cluster(&cluster_id)).await;
        joined.map_err(|_| NodeFailure::Ended { part: "joining the cluster" })?.map_err(NodeFailure::from)
    }
}

/// What the answer says; `None` if it makes no sense.
fn parse(answered: &Answered<RegisterNodeResponse>, sent_at: Moment) -> Option<Registered> {
    let answer = &answered.message;
    let node = NodeId(u16::try_from(answer.node_id).ok().filter(|id| *id > 0)?);
    let number = answer.node_epoch;
    let target = TargetNode { node, epoch: NodeEpoch(number as u16) };
    let receipt_key = ReceiptKey(sip_key(&answer.receipt_key)?);
    let half_trip_ms = u64::try_from((answered.round_trip / 2).as_millis()).unwrap_or(u64::MAX);
    let interval = Duration::from_millis(answer.heartbeat_interval_ms);
    Some(Registered {
        registration: Registration { target, receipt_key, number },
        key_epochs: parse_key_epochs(&answer.key_epochs)?,
        heartbeat_interval: interval.clamp(HEARTBEAT_INTERVAL_MIN, HEARTBEAT_INTERVAL_MAX),
        lease: (sent_at, Duration::from_millis(answer.lease_ms)),
        leader_time: UnixMs(answer.leader_time_ms.saturating_add(half_trip_ms)),
    })
    .filter(|_| !answer.cluster_id.is_empty())
}

/// The live key epochs; `None` if there are none or if they make no sense.
pub(crate) fn parse_key_epochs(told: &[KeyEpochSecret]) -> Option<LiveKeyEpochs> {
    if told.is_empty() || told.len() > KEY_EPOCHS_MAX {
        return None;
    }
    let parse = |told: &KeyEpochSecret| {
        // An epoch travels modulo 2^8 in datagrams.
        Some((KeyEpoch(told.key_epoch as u8), EpochSecret(sip_key(&told.secret)?)))
    };
    told.iter().map(parse).collect::<Option<Vec<_>>>().map(LiveKeyEpochs::new)
}

fn sip_key(bytes: &[u8]) -> Option<SipKey> {
    bytes.try_into().ok().map(SipKey::from_bytes)
}

#[cfg(test)]
mod tests {
    use xdpfs_wire::KeyEpochs as _;

    use super::*;

    fn answer() -> RegisterNodeResponse {
        RegisterNodeResponse {
            cluster_id: "red".into(),
            node_id: 3,
            node_epoch: 0x1_0002,
            receipt_key: vec![1; 16],
            key_epochs: vec![KeyEpochSecret { key_epoch: 0x101, secret: vec![2; 16] }],
            heartbeat_interval_ms: 500,
            leader_time_ms: 1000,
            lease_ms: 10_000,
        }
    }

    fn parsed(message: RegisterNodeResponse) -> Option<Registered> {
        parse(&Answered { message, round_trip: Duration::from_millis(8) }, Moment::now())
    }

    #[test]
    fn answer_becomes_a_registration() {
        let registered = parsed(answer()).unwrap();
        let target = TargetNode { node: NodeId(3), epoch: NodeEpoch(2) };
        assert_eq!(registered.registration.target, target);
        assert_eq!(registered.registration.number, 0x1_0002);
        assert_eq!(registered.heartbeat_interval, Duration::from_millis(500));
        assert_eq!(registered.leader_time, UnixMs(1004));
        assert!(registered.key_epochs.secret(KeyEpoch(1)).is_some());
    }

    #[test]
    fn answers_that_make_no_sense_are_not_taken() {
        let check = |change: fn(&mut RegisterNodeResponse)| {
            let mut message = answer();
            change(&mut message);
            assert!(parsed(message.clone()).is_none(), "{message:?}");
        };
        check(|answer| answer.node_id = 0);
        check(|answer| answer.node_id = 0x1_0000);
        check(|answer| answer.receipt_key = vec![1; 15]);
        check(|answer| answer.key_epochs.clear());
        check(|answer| answer.key_epochs[0].secret = vec![]);
        check(|answer| answer.cluster_id.clear());
    }

    #[test]
    fn absurd_heartbeat_intervals_are_bounded() {
        for (told_ms, expect) in [(0, HEARTBEAT_INTERVAL_MIN), (u64::MAX, HEARTBEAT_INTERVAL_MAX)] {
            let registered = parsed(RegisterNodeResponse { heartbeat_interval_ms: told_ms, ..answer() });
            assert_eq!(registered.unwrap().heartbeat_interval, expect);
        }
    }
}
