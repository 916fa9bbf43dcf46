//! The control plane: finds the leader, and repeats a request until it is answered or its deadline has passed.
//!
//! Invariant: all attempts of one request carry the same request id, so repeating it is harmless.

mod backoff;
mod operation;
mod refusal;
mod route;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{
    ConnectError, Request, Response, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};
use tracing::{Instrument as _, Span, debug};
use xdpfs_proto::{
    access::v1::access_service_client::AccessServiceClient,
    backup::v1::backup_service_client::BackupServiceClient,
    members::v1::members_service_client::MembersServiceClient,
    meta::v1::meta_service_client::MetaServiceClient,
};
use xdpfs_trust::{Mismatch, TlsTrust};

pub(crate) use self::{
    backoff::Backoff,
    operation::Operation,
    refusal::{Reason, Refusal},
};
use self::{refusal::Verdict, route::Route};
use crate::{
    access_key::{AccessKey, may_send_key},
    config::{ClientConfig, ENDPOINTS_MAX, parse_endpoint},
    error::{Error, Result},
    traces,
};

/// Objects and buckets, at one metadata server.
pub(crate) type Meta = MetaServiceClient<Channel>;
/// Access keys, at one metadata server.
pub(crate) type Access = AccessServiceClient<Channel>;
/// Backups, at one metadata server.
pub(crate) type Backups = BackupServiceClient<Channel>;
/// The metadata servers themselves, at one of them.
pub(crate) type Members = MembersServiceClient<Channel>;

/// A connection to one metadata server, as each of its services.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    meta: Meta,
    access: Access,
    backups: Backups,
    members: Members,
}

/// A service of a metadata server.
pub(crate) trait Service {
    /// The service over this connection.
    fn over(connection: &Connection) -> Self;
}

impl Service for Meta {
    fn over(connection: &Connection) -> Self {
        connection.meta.clone()
    }
}

impl Service for Access {
    fn over(connection: &Connection) -> Self {
        connection.access.clone()
    }
}

impl Service for Backups {
    fn over(connection: &Connection) -> Self {
        connection.backups.clone()
    }
}

impl Service for Members {
    fn over(connection: &Connection) -> Self {
        connection.members.clone()
    }
}

impl From<Channel> for Connection {
    fn from(channel: Channel) -> Self {
        Self {
            meta: Meta::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX),
            access: Access::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX),
            backups: Backups::new(channel.clone()),
            members: Members::new(channel),
        }
    }
}

/// Where the metadata servers are, in every answer of one: `docs/protocol.md §10`.
const ROSTER_HEADER: &str = "xdpfs-meta-servers";
/// How long to wait for a connection: from the first packet until the server has answered in HTTP/2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a silent connection is trusted, and then how long its peer has to answer a ping.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// How long a change is repeated that may have taken effect already: its first answer is kept for longer than this and
/// one more attempt, and no longer than that by a busy cluster (`docs/protocol.md §10`).
const REPEATED_FOR: Duration = Duration::from_secs(40);
/// The largest reply: a manifest of 32,768 chunks has less than 3 MiB.
const REPLY_BYTES_MAX: usize = 16 << 20;

/// Shared by all operations of a client.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    deadline: Duration,
    first_contact: Duration,
    attempt_timeout: Duration,
    links: Arc<Links>,
    /// The access key as a header, which is not shown.
    authorization: Option<MetadataValue<Ascii>>,
    insecure_key: bool,
}

/// The ways to the servers, which are the same for everybody who asks.
#[derive(Debug)]
struct Links {
    dialer: Dialer,
    route: Mutex<Route>,
    channels: Mutex<BTreeMap<String, Connection>>,
}

/// How metadata servers are connected to.
#[derive(Debug)]
pub(crate) enum Dialer {
    /// Over the network.
    Network(xdpfs_trust::Dialer),
    /// Within this process, so that tests can run on virtual time.
    #[cfg(test)]
    Memory(crate::fake::Listener),
}

/// What one request has been through.
struct Attempts {
    operation: Operation,
    started: Instant,
    count: u32,
    backoff: Backoff,
    /// An attempt was sent and its answer never came, so the request may have taken effect.
    in_doubt: bool,
    /// The server that failed last: a hint to it is not worth following at once.
    failed: Option<String>,
    /// Servers that do not know the call, as those of an earlier release may not.
    unserved: BTreeSet<String>,
    /// Servers with which this client does not agree on TLS.
    mismatched: BTreeSet<String>,
    /// The last such server, and on what.
    mismatch: Option<(String, Mismatch)>,
}

impl Control {
    pub(crate) fn new(config: &ClientConfig, dialer: Dialer) -> Self {
        Self {
            deadline: config.deadline,
            first_contact: config.first_contact.min(config.deadline),
            attempt_timeout: config.attempt_timeout,
            links: Arc::new(Links {
                dialer,
                route: Mutex::new(Route::new(config.endpoints.as_slice())),
                channels: Mutex::default(),
            }),
            authorization: config.access_key.as_ref().map(AccessKey::authorization),
            insecure_key: config.insecure_key,
        }
    }

    /// The same ways, showing this key or none.
    pub(crate) fn showing(&self, access_key: Option<&AccessKey>) -> Self {
        Self {
            links: Arc::clone(&self.links),
            authorization: access_key.map(AccessKey::authorization),
            ..*self
        }
    }

    /// How long one attempt of a request may take.
    pub(crate) const fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout
    }

    /// Asks this server next; whether the endpoint makes sense.
    pub(crate) fn prefer(&self, endpoint: &str) -> bool {
        parse_endpoint(endpoint).is_ok_and(|endpoint| {
            self.with_route(|route| route.follow(&endpoint));
            true
        })
    }

    /// Sends `request` to the leader until it is answered.
    pub(crate) async fn call<Api, Req, Res, Send, Sent>(
        &self,
        operation: Operation,
        request: Req,
        send: Send,
    ) -> Result<Res, Refusal>
    where
        Api: Service,
        Req: Clone,
        Send: Fn(Api, Request<Req>) -> Sent,
        Sent: Future<Output = Result<Response<Res>, Status>>,
    {
        let span = traces::call(operation.label());
        self.repeat(operation, request, send).instrument(span).await
    }

    async fn repeat<Api, Req, Res, Send, Sent>(
        &self,
        operation: Operation,
        request: Req,
        send: Send,
    ) -> Result<Res, Refusal>
    where
        Api: Service,
        Req: Clone,
        Send: Fn(Api, Request<Req>) -> Sent,
        Sent: Future<Output = Result<Response<Res>, Status>>,
    {
        let mut attempts = Attempts::new(operation);
        loop {
            let endpoint = self.with_route(|route| route.current().to_owned());
            if self.would_show_key_on_the_way_to(&endpoint) {
                return Err(attempts.refuse(Error::KeyInPlainText { endpoint }));
            }
            attempts.count += 1;
            Span::current().record("attempts", attempts.count);
            match self.attempt(&endpoint, request.clone(), &send).await {
                Ok(response) => {
                    self.learn(response.metadata());
                    self.with_route(|route| route.answered(&endpoint));
                    return Ok(response.into_inner());
                }
                Err(status) => {
                    self.learn(status.metadata());
                    let delay = self.judge(&endpoint, &status, &mut attempts)?;
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    async fn attempt<Api, Req, Res, Sent>(
        &self,
        endpoint: &str,
        request: Req,
        send: impl Fn(Api, Request<Req>) -> Sent,
    ) -> Result<Response<Res>, Status>
    where
        Api: Service,
        Sent: Future<Output = Result<Response<Res>, Status>>,
    {
        let service = Api::over(&self.channel(endpoint)?);
        let mut request = Request::new(request);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        traces::inject(request.metadata_mut());
        request.set_timeout(self.attempt_timeout);
        let timed_out = |_| Err(Status::deadline_exceeded("no answer in time"));
        tokio::time::timeout(self.attempt_timeout, send(service, request)).await.unwrap_or_else(timed_out)
    }

    /// Notes that a server does not know the call. Whether another one, which may be of a later release, is left to ask.
    fn asks_another(&self, endpoint: &str, attempts: &mut Attempts) -> bool {
        let is_new = attempts.unserved.insert(endpoint.to_owned());
        let is_left = |endpoint: &String| !attempts.unserved.contains(endpoint);
        self.with_route(|route| {
            route.pass(endpoint);
            is_new && route.endpoints().iter().any(is_left)
        })
    }

    /// Whether and when to try again, and where.
    fn judge(&self, endpoint: &str, status: &Status, attempts: &mut Attempts) -> Result<Duration, Refusal> {
        let verdict = Verdict::on(status);
        debug!(operation = attempts.operation.label(), endpoint, code = ?status.code(), message = status.message(), ?verdict, "attempt failed");
        let contacted = self.with_route(|route| {
            if !matches!(verdict, Verdict::Mismatch(_) | Verdict::NoAnswer) {
                route.contacted = true;
            }
            route.contacted
        });
        let patience = if contacted { self.deadline } else { self.first_contact };
        let give_up = attempts.started.elapsed() >= attempts.limit(patience);
        let delay = match verdict {
            Verdict::Final(refusal)
                if refusal.is(&Reason::Unsupported) && !give_up && self.asks_another(endpoint, attempts) =>
            {
                attempts.backoff.elsewhere()
            }
            Verdict::Final(refusal) => return Err(attempts.conclude(refusal, status)),
            _ if give_up => return Err(attempts.give_up(status)),
            Verdict::Mismatch(mismatch) => {
                attempts.mismatched.insert(endpoint.to_owned());
                attempts.mismatch = Some((endpoint.to_owned(), mismatch));
                let is_left = |endpoint: &String| !attempts.mismatched.contains(endpoint);
                let is_hopeless = self.with_route(|route| {
                    route.pass(endpoint);
                    !route.endpoints().iter().any(is_left)
                });
                if is_hopeless {
                    return Err(attempts.give_up(status));
                }
                attempts.backoff.elsewhere()
            }
            Verdict::Leader(leader) if attempts.failed.as_deref() != Some(&leader) => {
                let moved = self.with_route(|route| route.follow(&leader));
                attempts.failed = None;
                return Ok(if moved { attempts.backoff.redirected() } else { attempts.backoff.next_delay() });
            }
            Verdict::Leader(_) | Verdict::Elsewhere => {
                self.with_route(|route| route.pass(endpoint));
                attempts.backoff.elsewhere()
            }
            Verdict::NoAnswer => {
                attempts.failed = Some(endpoint.to_owned());
                self.with_route(|route| route.pass(endpoint));
                attempts.backoff.elsewhere()
            }
            Verdict::Later => attempts.backoff.next_delay(),
        };
        attempts.in_doubt |= is_in_doubt(status);
        Ok(delay.max(refusal::retry_delay(status)))
    }

    /// Servers say with every answer where all of them are.
    fn learn(&self, metadata: &MetadataMap) {
        if let Some(roster) = metadata.get(ROSTER_HEADER).and_then(|value| value.to_str().ok()) {
            self.with_route(|route| route.learn(roster));
        }
    }

    /// A leader's address comes from a server, which may be led astray: so this is looked at before every attempt.
    fn would_show_key_on_the_way_to(&self, endpoint: &str) -> bool {
        let is_safe = self.links.dialer.is_secret() || may_send_key(endpoint);
        self.authorization.is_some() && !self.insecure_key && !is_safe
    }

    fn channel(&self, endpoint: &str) -> Result<Connection, Status> {
        let mut channels = self.links.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = channels.get(endpoint) {
            return Ok(connection.clone());
        }
        if channels.len() >= ENDPOINTS_MAX {
            channels.clear();
        }
        let connection = self.links.dialer.open(endpoint)?;
        channels.insert(endpoint.to_owned(), connection.clone());
        Ok(connection)
    }

    fn with_route<T>(&self, act: impl FnOnce(&mut Route) -> T) -> T {
        act(&mut self.links.route.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Attempts {
    fn new(operation: Operation) -> Self {
        let backoff = Backoff::default();
        Self {
            operation,
            started: Instant::now(),
            count: 0,
            backoff,
            in_doubt: false,
            failed: None,
            unserved: BTreeSet::new(),
            mismatched: BTreeSet::new(),
            mismatch: None,
        }
    }

    fn limit(&self, patience: Duration) -> Duration {
        if self.in_doubt && self.operation.is_visible() { patience.min(REPEATED_FOR) } else { patience }
    }

    /// A commit ends its upload. If its answer was lost, and then forgotten, there is nothing left but an upload that is
    /// not there: whether an earlier attempt ended it, nobody can tell.
    fn conclude(&self, refusal: Refusal, last: &Status) -> Refusal {
        let ends_upload = matches!(self.operation, Operation::CommitPut | Operation::ContinueCopy);
        if self.in_doubt && ends_upload && refusal.is(&Reason::UploadNotFound) {
            return Refusal::Gone(Error::OutcomeUnknown {
                operation: self.operation.label(),
                why: describe(last),
            });
        }
        refusal
    }

    /// The request is not sent again.
    fn refuse(&self, error: Error) -> Refusal {
        if self.operation.is_visible() && self.in_doubt {
            let (operation, why) = (self.operation.label(), error.to_string());
            return Refusal::Gone(Error::OutcomeUnknown { operation, why });
        }
        Refusal::Gone(error)
    }

    fn give_up(&self, last: &Status) -> Refusal {
        let operation = self.operation.label();
        if self.operation.is_visible() && (self.in_doubt || is_in_doubt(last)) {
            return Refusal::Gone(Error::OutcomeUnknown { operation, why: describe(last) });
        }
        // That others were down at the time is the lesser news.
        if let Some((endpoint, mismatch)) = self.mismatch.clone().filter(|_| is_unreached(last)) {
            return Refusal::Gone(Error::Mismatch { endpoint, mismatch });
        }
        if refusal::reason(last).as_deref() == Some("NOT_ENOUGH_NODES") {
            return Refusal::Gone(Error::NotEnoughNodes { message: last.message().to_owned() });
        }
        Refusal::Gone(Error::Unavailable {
            operation,
            attempts: self.count,
            waited: self.started.elapsed(),
            why: describe(last),
        })
    }
}

/// Whether a request that ended so may have taken effect all the same.
fn is_in_doubt(status: &Status) -> bool {
    match refusal::reason(status) {
        Some(reason) => reason == "OUTCOME_UNKNOWN" || reason == "DEADLINE_EXCEEDED",
        None => !is_unreached(status),
    }
}

/// Whether there was no connection, so that nothing was sent.
fn is_unreached(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |cause| cause.source())
}

/// A status in words, with the cause that tonic hides behind "transport error".
pub(crate) fn describe(status: &Status) -> String {
    let mut words = status.message().to_owned();
    for cause in causes(status).map(ToString::to_string) {
        if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    if words.is_empty() { status.code().description().to_owned() } else { words }
}

impl Dialer {
    /// With TLS if there is somebody to trust.
    pub(crate) fn network(tls: Option<TlsTrust>) -> Self {
        Self::Network(xdpfs_trust::Dialer::new(tls, CONNECT_TIMEOUT))
    }

    /// Whether nobody on the way can read what is sent.
    fn is_secret(&self) -> bool {
        match self {
            Self::Network(dialer) => dialer.speaks_tls(),
            #[cfg(test)]
            Self::Memory(_) => true,
        }
    }

    fn open(&self, endpoint: &str) -> Result<Connection, Status> {
        let uri = match self {
            Self::Network(dialer) => dialer.uri(endpoint),
            #[cfg(test)]
            Self::Memory(_) => format!("http://{endpoint}"),
        };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| Status::unavailable("the server's endpoint is malformed"))?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel = match self {
            Self::Network(dialer) => endpoint.connect_with_connector_lazy(dialer.clone()),
            #[cfg(test)]
            Self::Memory(listener) => endpoint.connect_with_connector_lazy(listener.connector()),
        };
        Ok(Connection::from(channel))
    }
}

#[cfg(test)]
mod tests;
