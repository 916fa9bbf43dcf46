//! What only a leader does, without being asked: it gives the cluster its id, writes down who its members are, raises the
//! level of what is used once all servers support it, keeps the secrets for capabilities fresh, ends uploads whose lease
//! has ended, and closes a cluster that has a root key.
//!
//! Invariant: two leaders in a row do no harm. Whether a duty takes effect is decided where its command is applied.

use std::{
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use tokio::time::MissedTickBehavior;
use uuid::Uuid;
use xdpfs_proto::state::v1::{self as pb, command};

use crate::{
    clock::millis,
    config::{Member, Times},
    consensus::{Moved, Role},
    service::{Gateway, Refusal, RequestId, new_key},
    state_machine::{FeatureLevel, State},
};

/// How often a leader looks for something to do.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long it waits for one command.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does what a leader has to do, whenever this server leads. Ends with consensus.
pub(crate) async fn run(gateway: Arc<Gateway>) {
    let mut standing = gateway.consensus().watch_standing();
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut led_term = None;
    loop {
        // A new leader begins at once.
        tokio::select! {
            _ = interval.tick() => {}
            ended = standing.wait_for(|standing| leads(standing.role, standing.term) != led_term) => {
                if ended.is_err() {
                    return;
                }
            }
        }
        led_term = {
            let standing = standing.borrow_and_update();
            leads(standing.role, standing.term)
        };
        if led_term.is_some() {
            perform(&gateway).await;
        }
    }
}

fn leads(role: Role, term: u64) -> Option<u64> {
    (role == Role::Leader).then_some(term)
}

async fn perform(gateway: &Gateway) {
    gateway.consensus().compare_states(gateway.config().id);
    while let Some(duty) = due(gateway) {
        match perform_one(gateway).await {
            Ok(()) => tracing::debug!(?duty, "a duty is done"),
            Err(refusal) => {
                // The next look, or the next leader, does it.
                tracing::debug!(?duty, ?refusal, "a duty is put off");
                return;
            }
        }
    }
}

fn due(gateway: &Gateway) -> Option<Duty> {
    let now_ms = gateway.now_ms();
    let config = gateway.config();
    let state = gateway.state();
    if !state.cluster_id().is_empty() {
        let common = gateway.consensus().common_level(config.id, Instant::now());
        if common > state.feature_level() {
            return Some(Duty::RaiseFeatureLevel(common));
        }
        let can_list = state.feature_level() >= FeatureLevel::MEMBERS_AND_BATCHES;
        if can_list && !state.members().is_known() && knows_all_voters(gateway) {
            return Some(Duty::SeedMembers);
        }
    }
    if gateway.live().root_key().is_some() && !state.access_keys().is_closed() {
        return Some(Duty::CloseAccess);
    }
    let can_move = state.feature_level() >= FeatureLevel::MEMBERS_AND_BATCHES;
    if let Some(moved) =
        own_move(gateway, &state).or_else(|| gateway.consensus().moved()).filter(|_| can_move)
    {
        return Some(Duty::UpdateMember(moved));
    }
    next_duty(&state, &config.times, now_ms)
}

/// Where this server is, if it is listed elsewhere.
fn own_move(gateway: &Gateway, state: &State) -> Option<Moved> {
    let own = gateway.config().own_member()?;
    let listed = state.members().find(own.id)?;
    let is_as_listed =
        (&listed.peer_address, &listed.client_address) == (&own.peer_address, &own.client_address);
    let Member { id, peer_address, client_address } = own.clone();
    (!is_as_listed).then_some(Moved { id, peer_address, client_address })
}

/// A new leader may have entries that it has yet to apply: what seems due to it may be done already.
async fn perform_one(gateway: &Gateway) -> Result<(), Refusal> {
    let deadline = Instant::now() + PATIENCE;
    gateway.read_barrier(deadline).await?;
    if let Some(duty) = due(gateway) {
        let first_level = gateway.consensus().programs().first_level();
        let command = duty.command(&gateway.config().members, first_level)?;
        gateway.propose(deadline, RequestId::NONE, command).await?;
    }
    Ok(())
}

/// Something that a leader has to do now.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Duty {
    /// A new secret, behind the one of this number.
    AddKeyEpoch(u32),
    /// No more service without a key, whoever leads: this server has a root key.
    CloseAccess,
    /// The end of uploads whose lease has ended.
    ExpireUploads,
    /// The cluster's first id.
    InitCluster,
    /// The use of what all servers support.
    RaiseFeatureLevel(FeatureLevel),
    /// Who the members are, for the first time.
    SeedMembers,
    /// Where a member is, by its own word.
    UpdateMember(Moved),
}

/// Whether the configuration names the very servers that vote, so that nobody has changed them where there is no list of
/// members yet.
fn knows_all_voters(gateway: &Gateway) -> bool {
    let voters: Vec<u64> = gateway.consensus().status().configuration.voters.into_iter().collect();
    let is_same = gateway.config().voters() == voters;
    static TOLD: Once = Once::new();
    if !is_same {
        TOLD.call_once(|| {
            tracing::warn!(?voters, "--member names other servers than the cluster has: name these")
        });
    }
    is_same
}

fn next_duty(state: &State, times: &Times, now_ms: u64) -> Option<Duty> {
    let epochs = state.key_epochs();
    let is_old =
        |create_time_ms: u64| create_time_ms.saturating_add(millis(times.key_epoch_rotation)) <= now_ms;
    if state.cluster_id().is_empty() {
        Some(Duty::InitCluster)
    } else if epochs.live().last().is_none_or(|newest| is_old(newest.create_time_ms)) {
        Some(Duty::AddKeyEpoch(epochs.last_number()))
    } else if state.has_expired_uploads(now_ms) {
        Some(Duty::ExpireUploads)
    } else {
        None
    }
}

impl Duty {
    fn command(self, members: &[Member], first_level: FeatureLevel) -> Result<command::Kind, Refusal> {
        Ok(match self {
            Self::AddKeyEpoch(after) => {
                command::Kind::AddKeyEpoch(pb::AddKeyEpoch { secret: new_key()?, after })
            }
            Self::CloseAccess => command::Kind::CloseAccess(pb::CloseAccess {}),
            Self::ExpireUploads => command::Kind::ExpireUploads(pb::ExpireUploads {}),
            Self::InitCluster => {
                let (cluster_id, feature_level) = (Uuid::new_v4().to_string(), first_level.0);
                command::Kind::InitCluster(pb::InitCluster { cluster_id, feature_level })
            }
            Self::RaiseFeatureLevel(level) => {
                tracing::info!(level = level.0, "all metadata servers support a higher feature level");
                command::Kind::RaiseFeatureLevel(pb::RaiseFeatureLevel { feature_level: level.0 })
            }
            Self::UpdateMember(Moved { id, peer_address, client_address }) => {
                tracing::info!(id, peer_address, client_address, "a server says that it has moved");
                command::Kind::UpdateMember(pb::UpdateMember { id, peer_address, client_address })
            }
            Self::SeedMembers => command::Kind::SeedMembers(pb::SeedMembers {
                members: members.iter().map(Member::record).collect(),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_000_000_000;

    fn perform_all(state: &mut State, times: &Times, now_ms: u64) -> Vec<Duty> {
        let mut done = Vec::new();
        while let Some(duty) = next_duty(state, times, now_ms) {
            let kind = Some(duty.clone().command(&[], FeatureLevel::SUPPORTED).unwrap());
            state.apply(1, &pb::Command { time_ms: now_ms, kind, ..Default::default() });
            done.push(duty);
        }
        done
    }

    #[test]
    fn fresh_cluster_gets_an_id_and_a_secret() {
        let (mut state, times) = (State::default(), Times::default());
        assert_eq!(perform_all(&mut state, &times, NOW_MS), [Duty::InitCluster, Duty::AddKeyEpoch(0)]);
        assert!(Uuid::parse_str(state.cluster_id()).is_ok());
        assert_eq!(state.feature_level(), FeatureLevel::SUPPORTED);
        assert_eq!(state.key_epochs().live().len(), 1);
        assert_eq!(perform_all(&mut state, &times, NOW_MS + 1), []);
    }

    #[test]
    fn old_secret_gets_a_successor() {
        let (mut state, times) = (State::default(), Times::default());
        perform_all(&mut state, &times, NOW_MS);
        let rotation = millis(times.key_epoch_rotation);
        assert_eq!(perform_all(&mut state, &times, NOW_MS + rotation - 1), []);
        assert_eq!(perform_all(&mut state, &times, NOW_MS + rotation), [Duty::AddKeyEpoch(1)]);
        let secrets: Vec<_> = state.key_epochs().live().iter().map(|epoch| epoch.secret).collect();
        assert_ne!(secrets[0], secrets[1]);
    }

    #[test]
    fn uploads_end_with_their_lease() {
        let (mut state, times) = (State::default(), Times::default());
        perform_all(&mut state, &times, NOW_MS);
        let create = pb::CreateBucket {
            name: "abc".into(),
            chunk_size: 65_536,
            replicas: 1,
            min_replicas: 1,
            ..Default::default()
        };
        let begin =
            pb::BeginPut { bucket: "abc".into(), key: "k".into(), lease_ms: 1000, ..Default::default() };
        for kind in [command::Kind::CreateBucket(create), command::Kind::BeginPut(begin)] {
            state.apply(2, &pb::Command { time_ms: NOW_MS, kind: Some(kind), ..Default::default() });
        }
        assert_eq!(perform_all(&mut state, &times, NOW_MS + 1000), []);
        assert_eq!(perform_all(&mut state, &times, NOW_MS + 1001), [Duty::ExpireUploads]);
        assert_eq!(state.upload_count(), 0);
    }
}
