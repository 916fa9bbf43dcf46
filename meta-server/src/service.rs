//! What clients and data nodes speak to: gRPC in front of consensus.
//!
//! Invariant: everything that is not a function of the state (time, placement, randomness) is decided here and written
//! into the command; whether the command takes effect is decided where it is applied. No lock is held over an await.

mod access;
mod access_keys;
mod backup;
mod batch;
mod buckets;
mod candidates;
mod capability;
mod cluster_status;
mod commit;
mod copies;
mod drain;
mod explain;
mod fetches;
mod gateway;
mod health;
mod inventories;
mod labels;
mod layers;
mod listing;
mod live;
mod members;
mod meta;
mod name;
mod node;
mod objects;
mod page_token;
mod puts;
mod rebalance;
mod repairs;
mod rights;
mod route;
mod scrubs;
mod status;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use xdpfs_proto::{
    access::v1::access_service_server::AccessServiceServer,
    backup::v1::backup_service_server::BackupServiceServer,
    members::v1::members_service_server::MembersServiceServer,
    meta::v1::meta_service_server::MetaServiceServer, node::v1::node_service_server::NodeServiceServer,
};
use xdpfs_trust::{Limits, Listener, PresenceLayer, Security};

use self::{
    access_keys::AccessFrontend,
    backup::BackupFrontend,
    layers::{
        Admission, AdmissionLayer, Audience, AudienceLayer, DeadlineLayer, MembershipLayer, RosterLayer,
        TraceLayer,
    },
    members::MembersFrontend,
    meta::MetaFrontend,
    node::NodeFrontend,
};
#[cfg(test)]
pub(crate) use self::{
    candidates::candidates,
    node::Page,
    repairs::{is_surplus, seen_nodes},
};
pub(crate) use self::{
    gateway::{Gateway, RequestId, new_key},
    health::Health,
    layers::RequestMetrics,
    repairs::run as run_repair,
    status::{DOMAIN, Refusal},
};

/// The largest request and the largest reply: the commit of an object with as many chunks as there can be, each with
/// as many receipts, has less than 6 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Requests that one connection has under way; the limit over all connections is configured.
const STREAMS_PER_CONNECTION_MAX: u32 = 512;
/// Handshakes of clients and data nodes under way.
const HANDSHAKES_MAX: usize = 256;
/// Connections of administrators at once; when there are as many, idle ones end.
const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Requests of administrators that are served at once; more are refused.
const ADMIN_REQUESTS_MAX: usize = 64;
/// Bytes of a request's headers. Names travel in bodies, so that there is little in them.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// How long a silent connection is trusted, and then how long its peer has to answer a ping.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the service cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The interfaces' own description is malformed.
    #[error("the interfaces cannot be described")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Connections cannot be accepted.
    #[error("connections cannot be accepted")]
    Transport(#[from] tonic::transport::Error),
    /// The system does not let the socket be used.
    #[error("the socket cannot be used")]
    Socket(#[from] std::io::Error),
}

/// Serves clients and data nodes until `stop`, and then until their connections have ended; administrators as well, unless
/// there is a listener for these.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    health: &Health,
    metrics: Arc<RequestMetrics>,
    listener: impl Into<Listener>,
    security: Security,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let config = gateway.config();
    let audience = if config.listen_admin.is_some() { Audience::Clients } else { Audience::Everybody };
    let node = NodeServiceServer::new(NodeFrontend(Arc::clone(&gateway)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = http()
        .layer(PresenceLayer)
        .layer(TraceLayer(metrics))
        .layer(RosterLayer(gateway.consensus().watch_members()))
        .layer(AudienceLayer(audience))
        .layer(MembershipLayer)
        .layer(AdmissionLayer(Admission::new(gateway.live().requests_max())))
        .layer(DeadlineLayer { max: config.deadline })
        .add_routes(routes(&gateway, health)?)
        .add_service(node);
    let incoming = xdpfs_trust::listen_within(listener, security, gateway.live().connections());
    Ok(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await?)
}

/// Serves administrators, with connections and room for requests that nobody else takes from them, until `stop`, and then
/// until their connections have ended. It says nothing of where the servers are: its callers have their addresses for
/// administration, and would be led to those for clients.
pub(crate) async fn serve_administrators(
    gateway: Arc<Gateway>,
    health: &Health,
    metrics: Arc<RequestMetrics>,
    listener: impl Into<Listener>,
    security: Security,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let server = http()
        .layer(PresenceLayer)
        .layer(TraceLayer(metrics))
        .layer(AudienceLayer(Audience::Administrators))
        .layer(AdmissionLayer(Admission::new(Arc::new(ADMIN_REQUESTS_MAX.into()))))
        .layer(DeadlineLayer { max: gateway.config().deadline })
        .add_routes(routes(&gateway, health)?);
    let limits = Limits { connections_max: ADMIN_CONNECTIONS_MAX, handshakes_max: ADMIN_CONNECTIONS_MAX };
    let incoming = xdpfs_trust::listen(listener, security, limits);
    Ok(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await?)
}

fn http() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
}

/// What everybody but data nodes speaks to.
fn routes(gateway: &Arc<Gateway>, health: &Health) -> Result<Routes, ServeError> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(xdpfs_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let meta = MetaServiceServer::new(MetaFrontend(Arc::clone(gateway)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let access = AccessServiceServer::new(AccessFrontend(Arc::clone(gateway)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Ok(Routes::new(health.service())
        .add_service(reflection)
        .add_service(access)
        .add_service(BackupServiceServer::new(BackupFrontend(Arc::clone(gateway))))
        .add_service(MembersServiceServer::new(MembersFrontend(Arc::clone(gateway))))
        .add_service(meta))
}
