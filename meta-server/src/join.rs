//! How a server with an empty directory becomes a member of a cluster that runs.
//!
//! Invariant: it has an id, which nobody had before, on its disk before anybody else hears of it; and it takes part only
//! under that. What it asks for may be asked for again and again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use uuid::Uuid;
use xdpfs_proto::members::v1::{
    AddMemberRequest, ReserveMemberRequest, ReserveMemberResponse,
    members_service_client::MembersServiceClient,
};
use xdpfs_trust::{Dialer, Trust};

use crate::{
    config::{Config, Join, is_host_and_port},
    consensus::{Consensus, Program},
    credential::Credential,
    service::DOMAIN,
    state_machine::Reason,
    storage::Identity,
};

/// How long a server without an id looks for a leader before it gives up.
const RESERVE_PATIENCE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits between attempts.
const PAUSE: Duration = Duration::from_millis(300);
/// How often it is said that it still waits.
const WARN_EVERY: Duration = Duration::from_secs(30);
/// Voters that a cluster may have begun with.
const FIRST_VOTERS_MAX: usize = 64;

/// Why a server does not become a member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// What the cluster answers makes no sense.
    #[error("the cluster's answer makes no sense: {0}")]
    Nonsense(&'static str),
    /// A key must not be read by others.
    #[error(
        "the access key would travel to {0} in plaintext: give --tls DIR, or --insecure if everybody on that network is \
         trusted"
    )]
    KeyInPlaintext(String),
    /// The cluster does not take it.
    #[error("the cluster does not let this server join: {0}")]
    Refused(String),
    /// No leader has answered.
    #[error("no leader of the cluster answers at {endpoints}: {why}")]
    Unreachable {
        /// Who was asked.
        endpoints: String,
        /// The last answer.
        why: String,
    },
}

/// Asks a cluster's leader, wherever it is.
struct Door<'a> {
    join: &'a Join,
    dialer: Dialer,
    /// Whom a server has named as the leader.
    hint: Option<String>,
    turn: usize,
}

/// What an attempt came to.
enum Answer {
    /// Another server, or the same one, may say something else.
    Later(String),
    /// It is so for good.
    Refused(Reason, String),
}

/// Gets an id from the cluster, for a directory that holds nothing.
pub(crate) async fn reserve(
    config: &Config,
    trust: Option<&Arc<Trust>>,
) -> Result<Option<Identity>, JoinError> {
    let Some(join) = &config.join else { return Ok(None) };
    check_key(config, join)?;
    let mut door = Door::new(join, trust);
    let request = ReserveMemberRequest {
        request_id: Uuid::new_v4().to_string(),
        feature_level: Program::own(config.consensus.feature_level_max).feature_level.0,
    };
    let give_up = Instant::now() + RESERVE_PATIENCE;
    loop {
        let asked = door
            .ask(request.clone(), async |mut members, request| members.reserve_member(request).await)
            .await;
        let why = match asked {
            Ok(reserved) => return identity(reserved).map(Some),
            Err(Answer::Refused(_, words)) => return Err(JoinError::Refused(words)),
            Err(Answer::Later(why)) => why,
        };
        if Instant::now() >= give_up {
            return Err(JoinError::Unreachable { endpoints: join.endpoints.join(", "), why });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn identity(reserved: ReserveMemberResponse) -> Result<Identity, JoinError> {
    let ReserveMemberResponse { id, cluster_id, first_voters } = reserved;
    let fits = id > 0
        && !cluster_id.is_empty()
        && cluster_id.len() <= 256
        && (1..=FIRST_VOTERS_MAX).contains(&first_voters.len())
        && first_voters.iter().all(|voter| *voter > 0 && *voter != id);
    if !fits {
        return Err(JoinError::Nonsense("it has no id to give"));
    }
    tracing::info!(id, cluster_id, "the cluster has given this server an id");
    Ok(Identity { raft_id: id, cluster_id, voters: first_voters })
}

/// Asks to be a member until this server is one, or will never be one.
pub(crate) async fn become_member(config: Config, trust: Option<Arc<Trust>>, consensus: Consensus) {
    let (Some(join), Some(own)) = (&config.join, config.own_member()) else { return };
    let mut door = Door::new(join, trust.as_ref());
    let mut told = Instant::now();
    loop {
        let members = consensus.members();
        if members.find(config.id).is_some() || consensus.status().removed {
            return;
        }
        let request = AddMemberRequest {
            request_id: Uuid::new_v4().to_string(),
            id: config.id,
            peer_address: own.peer_address.clone(),
            client_address: own.client_address.clone(),
            learner: join.learner,
            cluster_id: consensus.cluster_id().unwrap_or_default().to_owned(),
            feature_level: consensus.programs().own().feature_level.0,
        };
        match door.ask(request, async |mut members, request| members.add_member(request).await).await {
            // What it is now comes by the log.
            Ok(_) => tokio::time::sleep(REQUEST_TIMEOUT / 5).await,
            Err(Answer::Refused(Reason::MemberRemoved, why)) => {
                tracing::error!(id = config.id, why, "this server is no member of the cluster");
                consensus.remove();
                tokio::time::sleep(PAUSE).await;
            }
            Err(Answer::Refused(_, why) | Answer::Later(why)) => {
                tracing::debug!(why, "the cluster has yet to take this server");
                if told.elapsed() >= WARN_EVERY {
                    tracing::warn!(why, "the cluster has yet to take this server");
                    told = Instant::now();
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// As clients have it: a key goes only where nobody else can read it.
fn check_key(config: &Config, join: &Join) -> Result<(), JoinError> {
    let is_here = |endpoint: &&String| {
        let host = endpoint.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    };
    let is_safe = join.key.is_none() || config.tls.is_some() || config.insecure;
    match join.endpoints.iter().find(|endpoint| !is_safe && !is_here(endpoint)) {
        Some(endpoint) => Err(JoinError::KeyInPlaintext(endpoint.clone())),
        None => Ok(()),
    }
}

impl<'a> Door<'a> {
    fn new(join: &'a Join, trust: Option<&Arc<Trust>>) -> Self {
        let dialer = Dialer::new(trust.map(Trust::dialing), CONNECT_TIMEOUT);
        Self { join, dialer, hint: None, turn: 0 }
    }

    /// Asks the server that is said to lead, or else the next one of those that are configured.
    async fn ask<Req, Res>(
        &mut self,
        request: Req,
        send: impl AsyncFnOnce(
            MembersServiceClient<Channel>,
            Request<Req>,
        ) -> Result<tonic::Response<Res>, Status>,
    ) -> Result<Res, Answer> {
        let endpoint = self.hint.take().unwrap_or_else(|| {
            self.turn += 1;
            self.join.endpoints[self.turn % self.join.endpoints.len()].clone()
        });
        let mut request = Request::new(request);
        request.set_timeout(REQUEST_TIMEOUT);
        if let Some(key) = &self.join.key {
            show(key, &mut request);
        }
        let channel = Endpoint::from_shared(self.dialer.uri(&endpoint))
            .map_err(|error| Answer::Later(error.to_string()))?
            .connect_with_connector_lazy(self.dialer.clone());
        let sent = tokio::time::timeout(REQUEST_TIMEOUT, send(MembersServiceClient::new(channel), request));
        let status = match sent.await {
            Ok(Ok(response)) => {
                // It leads; it will next time, too.
                self.hint = Some(endpoint);
                return Ok(response.into_inner());
            }
            Ok(Err(status)) => status,
            Err(_) => return Err(Answer::Later(format!("{endpoint} does not answer in time"))),
        };
        self.judge(&endpoint, &status)
    }

    fn judge<T>(&mut self, endpoint: &str, status: &Status) -> Result<T, Answer> {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.as_ref().and_then(|info| Reason::parse(&info.reason));
        let words = format!("{endpoint}: {}", status.message());
        let leader = info.and_then(|info| info.metadata.get("leaderEndpoint").cloned());
        // A key must not follow a hint to where it could be read.
        self.hint = leader.filter(|leader| {
            is_host_and_port(leader) && (self.join.key.is_none() || self.dialer.speaks_tls())
        });
        Err(match reason {
            Some(
                reason @ (Reason::AccessDenied
                | Reason::AccessKeyInvalid
                | Reason::AccessKeyMissing
                | Reason::InvalidArgument
                | Reason::MemberNotFound
                | Reason::MemberRemoved
                | Reason::WrongCluster),
            ) => Answer::Refused(reason, words),
            None if status.code() == Code::Unimplemented => {
                Answer::Refused(Reason::InvalidArgument, format!("{endpoint} runs a program that is too old"))
            }
            Some(_) | None => Answer::Later(words),
        })
    }
}

/// What shows the key is marked as secret, so that nothing that prints it shows it.
fn show<T>(key: &Credential, request: &mut Request<T>) {
    if let Ok(mut value) = http::HeaderValue::from_str(&format!("Bearer {}", key.to_text())) {
        value.set_sensitive(true);
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        headers.insert(http::header::AUTHORIZATION, value);
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Member;

    #[test]
    fn key_is_shown_only_where_nobody_else_can_read_it() {
        let check = |endpoint: &str, insecure: bool, key: bool| {
            let own = Member { id: 0, peer_address: "a:1".into(), client_address: "a:2".into() };
            let key = key.then(|| Credential::generate().unwrap());
            let join = Join { endpoints: vec![endpoint.into()], learner: false, key };
            let config = Config { insecure, ..Config::new(0, vec![own], "d".into()) };
            check_key(&config, &join).is_ok()
        };
        assert!(check("127.0.0.1:1", false, true));
        assert!(check("[::1]:1", false, true));
        assert!(check("b:1", false, false));
        assert!(check("b:1", true, true));
        assert!(!check("b:1", false, true));
    }

    #[test]
    fn answer_without_an_id_is_no_answer() {
        let reserved = |id, voters: &[u64], cluster: &str| {
            let answer =
                ReserveMemberResponse { id, cluster_id: cluster.into(), first_voters: voters.to_vec() };
            identity(answer).is_ok()
        };
        assert!(reserved(4, &[1, 2, 3], "c"));
        assert!(!reserved(0, &[1, 2, 3], "c"));
        assert!(!reserved(4, &[], "c"));
        assert!(!reserved(4, &[4], "c"));
        assert!(!reserved(4, &[1], ""));
    }
}
