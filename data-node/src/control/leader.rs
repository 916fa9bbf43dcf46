//! Finds the leader, and repeats a request until it is answered.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use xdpfs_proto::node::v1::node_service_client::NodeServiceClient;
use xdpfs_trust::{DialError, Dialer, Mismatch};

use super::{
    backoff::Backoff,
    refusal::{Refusal, Verdict},
    route::Route,
};
use crate::{config::MetaEndpoint, link::OpenLink};

/// A connection to one metadata server.
pub(crate) type NodeService = NodeServiceClient<Channel>;

/// Where the metadata servers are, in every answer of one: `docs/protocol.md §10`.
const ROSTER_HEADER: &str = "xdpfs-meta-servers";
/// How long to wait for a connection: from the first packet until the server has answered in HTTP/2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a silent connection is trusted, and then how long its peer has to answer a ping.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Connections that are kept: hints lead to members of one cluster, of which there are few.
const CHANNELS_MAX: usize = 16;
/// How long a request may go without an answer before somebody should look, and how often that is said again.
const WARN_AFTER: Duration = Duration::from_secs(5);
const WARN_AGAIN: Duration = Duration::from_secs(30);

/// The way to whichever metadata server leads. Shared by all requests, so that one that finds a new leader finds it
/// for all.
#[derive(Debug)]
pub(crate) struct Leader {
    route: Mutex<Route>,
    dialer: Dialer,
    /// For as long as there are connections.
    _link: OpenLink,
    /// What was wrong with a connection, so that it is said once.
    mismatch: Mutex<Option<Mismatch>>,
    channels: Mutex<HashMap<MetaEndpoint, NodeService>>,
}

/// An answer of the leader.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    pub(crate) message: T,
    /// From sending the request to the answer.
    pub(crate) round_trip: Duration,
}

/// A kind of request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// Its name in logs.
    pub(crate) name: &'static str,
    /// How long one server may take to answer it.
    pub(crate) patience: Duration,
}

impl Leader {
    pub(crate) fn new(endpoints: &[MetaEndpoint], link: OpenLink) -> Self {
        Self {
            route: Mutex::new(Route::new(endpoints)),
            dialer: Dialer::new(link.tls(), CONNECT_TIMEOUT),
            _link: link,
            mismatch: Mutex::default(),
            channels: Mutex::default(),
        }
    }

    /// Sends what `request` makes, anew for each attempt, until the leader answers.
    ///
    /// # Errors
    /// The leader refuses, and would again.
    pub(crate) async fn call<Req, Res, Sent>(
        &self,
        call: Call,
        request: impl Fn() -> Req,
        send: impl Fn(NodeService, Request<Req>) -> Sent,
    ) -> Result<Answered<Res>, Refusal>
    where
        Sent: Future<Output = Result<Response<Res>, Status>>,
    {
        let mut backoff = Backoff::default();
        let mut warn_at = Instant::now() + WARN_AFTER;
        loop {
            let endpoint = self.with_route(|route| route.current().clone());
            let sent_at = Instant::now();
            let status = match self.attempt(&endpoint, call.patience, request(), &send).await {
                Ok(response) => {
                    self.learn(response.metadata());
                    self.note_mismatch(&endpoint, None);
                    return Ok(Answered { message: response.into_inner(), round_trip: sent_at.elapsed() });
                }
                Err(status) => status,
            };
            self.learn(status.metadata());
            self.note_mismatch(&endpoint, DialError::mismatch_in(&status));
            let delay = self.turn(&endpoint, Verdict::on(&status), &mut backoff)?;
            let why = status.message();
            tracing::debug!(call = call.name, %endpoint, code = ?status.code(), why, "attempt failed");
            if Instant::now() >= warn_at {
                tracing::warn!(call = call.name, %endpoint, why, "no metadata leader answers");
                warn_at = Instant::now() + WARN_AGAIN;
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// Servers say with every answer where all of them are.
    fn learn(&self, metadata: &MetadataMap) {
        if let Some(roster) = metadata.get(ROSTER_HEADER).and_then(|value| value.to_str().ok()) {
            self.with_route(|route| route.learn(roster));
        }
    }

    async fn attempt<Req, Res, Sent>(
        &self,
        endpoint: &MetaEndpoint,
        patience: Duration,
        request: Req,
        send: impl Fn(NodeService, Request<Req>) -> Sent,
    ) -> Result<Response<Res>, Status>
    where
        Sent: Future<Output = Result<Response<Res>, Status>>,
    {
        let service = self.channel(endpoint)?;
        let mut request = Request::new(request);
        request.set_timeout(patience);
        let timed_out = |_| Err(Status::deadline_exceeded("no answer in time"));
        tokio::time::timeout(patience, send(service, request)).await.unwrap_or_else(timed_out)
    }

    /// Chooses the server to ask next, and when.
    fn turn(
        &self,
        endpoint: &MetaEndpoint,
        verdict: Verdict,
        backoff: &mut Backoff,
    ) -> Result<Duration, Refusal> {
        match verdict {
            Verdict::Final(refusal) => return Err(refusal),
            Verdict::Elsewhere => self.with_route(|route| route.pass(endpoint)),
            Verdict::Later => {}
            Verdict::Leader(leader) => {
                if self.with_route(|route| route.follow(endpoint, leader)) {
                    return Ok(backoff.redirected());
                }
            }
        }
        Ok(backoff.next_delay())
    }

    fn channel(&self, endpoint: &MetaEndpoint) -> Result<NodeService, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = channels.get(endpoint) {
            return Ok(service.clone());
        }
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let service = self.open(endpoint)?;
        channels.insert(endpoint.clone(), service.clone());
        Ok(service)
    }

    fn open(&self, endpoint: &MetaEndpoint) -> Result<NodeService, Status> {
        let endpoint = Endpoint::from_shared(self.dialer.uri(endpoint.as_str()))
            .map_err(|_| Status::unavailable("the server's endpoint is malformed"))?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        Ok(NodeServiceClient::new(endpoint.connect_with_connector_lazy(self.dialer.clone())))
    }

    /// Somebody has to do something about certificates, and should not have to wait to hear of it.
    fn note_mismatch(&self, endpoint: &MetaEndpoint, mismatch: Option<&Mismatch>) {
        let mut noted = self.mismatch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mismatch) = mismatch
            && noted.as_ref() != Some(mismatch)
        {
            tracing::warn!(%endpoint, %mismatch, "a metadata server can't be spoken to");
        }
        // What another server says in between doesn't mean that it has been put right.
        if mismatch.is_some() || noted.is_none() {
            *noted = mismatch.cloned();
        }
    }

    fn with_route<T>(&self, act: impl FnOnce(&mut Route) -> T) -> T {
        act(&mut self.route.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
