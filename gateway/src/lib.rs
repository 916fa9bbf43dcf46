//! A gateway: objects over gRPC, as `xdpfs.object.v1` has them, for programs that have generated code and nothing else.
//!
//! Inside is the native client, so bytes go straight between this process and the data nodes. Invariant: a call has the
//! rights of the access key that its caller shows, and no others; memory is bounded by the calls under way and by the
//! connections, whatever the size of objects; no key is in any log, and no name of an object above DEBUG.

mod call;
mod config;
mod deadline;
mod delivery;
mod gateway;
mod health;
mod inbox;
mod link;
mod message;
mod metrics;
mod patience;
mod reason;
mod refusal;
mod service;
mod web;

pub use self::{
    config::{Arguments, GatewayConfig, GatewayConfigError},
    gateway::{Gateway, GatewayError},
};
