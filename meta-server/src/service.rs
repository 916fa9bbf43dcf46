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
mod rights;
mod route;
mod status;

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use xdpfs_proto::{
    access::v1::access_service_server::AccessServiceServer,
    backup::v1::backup_service_server::BackupServiceServer,
    members::v1::members_service_server::MembersServiceServer,
    meta::v1::meta_service_server::MetaServiceServer, node::v1::node_service_server::NodeServiceServer,
};
use xdpfs_trust::{PresenceLayer, Security};

use self::{
    access_keys::AccessFrontend,
    backup::BackupFrontend,
    layers::{Admission, AdmissionLayer, DeadlineLayer, MembershipLayer, RosterLayer, TraceLayer},
    members::MembersFrontend,
    meta::MetaFrontend,
    node::NodeFrontend,
};
pub(crate) use self::{
    gateway::{Gateway, RequestId, new_key},
    health::Health,
    layers::RequestMetrics,
    status::{DOMAIN, Refusal},
};

/// The largest request and the largest reply: the commit of an object with as many chunks as there can be, each with
/// as many receipts, has less than 6 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Requests that one connection has under way; the limit over all connections is configured.
const STREAMS_PER_CONNECTION_MAX: u32 = 512;
/// Handshakes of clients and data nodes under way.
const HANDSHAKES_MAX: usize = 256;
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
}

/// Serves clients and data nodes until `stop`, and then until their connections have ended.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    health: &Health,
    metrics: Arc<RequestMetrics>,
    listener: TcpListener,
    security: Security,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let config = gateway.config();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(xdpfs_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let meta = MetaServiceServer::new(MetaFrontend(Arc::clone(&gateway)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let access = AccessServiceServer::new(AccessFrontend(Arc::clone(&gateway)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let backup = BackupServiceServer::new(BackupFrontend(Arc::clone(&gateway)));
    let node = NodeServiceServer::new(NodeFrontend(Arc::clone(&gateway)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .layer(PresenceLayer)
        .layer(TraceLayer(metrics))
        .layer(RosterLayer(gateway.consensus().watch_members()))
        .layer(MembershipLayer)
        .layer(AdmissionLayer(Admission::new(gateway.live().requests_max())))
        .layer(DeadlineLayer { max: config.deadline })
        .add_service(health.service())
        .add_service(reflection)
        .add_service(access)
        .add_service(backup)
        .add_service(MembersServiceServer::new(MembersFrontend(Arc::clone(&gateway))))
        .add_service(meta)
        .add_service(node);
    let incoming = xdpfs_trust::listen_within(listener, security, gateway.live().connections());
    Ok(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await?)
}
