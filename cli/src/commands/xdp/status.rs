//! `xdp status`: what is in force, where, and why.

use std::{fmt::Write as _, time::Duration};

use clap::Args;
use serde::Serialize;
use xdpfs_proto::admin::v1::{InterfaceStatus, NodeRouteStatus, StatusRequest, StatusResponse};

use super::connection::Connection;
use crate::{
    console::Console,
    failure::{Exit, Failure},
};

/// Show where the kernel program runs, and why there.
#[derive(Debug, Args)]
pub(super) struct StatusArguments {}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct StatusRecord<'a> {
    role: &'a str,
    version: &'a str,
    process_id: u32,
    address: &'a str,
    mode: &'a str,
    reason: &'a str,
    interfaces: Vec<InterfaceRecord<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    replies: &'a str,
    nodes: Vec<NodeRecord<'a>>,
    uptime_ms: u64,
}

#[derive(Debug, Serialize)]
struct InterfaceRecord<'a> {
    name: &'a str,
    program_id: Option<u32>,
}

#[derive(Debug, Serialize)]
struct NodeRecord<'a> {
    node_id: u32,
    direct_address: &'a str,
    /// `None`: user space relays.
    interface: Option<&'a str>,
    replies: &'a str,
    reason: &'a str,
}

/// Asks and shows.
pub(super) async fn run(
    _: &StatusArguments,
    connection: &mut Connection,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let answer = connection.service.status(StatusRequest {}).await;
    let status = answer.map_err(|status| connection.failure(&status))?.into_inner();
    console.answer(&StatusRecord::from(&status), || text(&status))?;
    Ok(Exit::Done)
}

fn text(status: &StatusResponse) -> String {
    let StatusResponse { role, version, process_id, address, mode, reason, .. } = status;
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_ms / 1000));
    let mut text = format!(
        "{role} at {address} (process {process_id}, version {version}, up {uptime})\nXDP {mode}: {reason}\n"
    );
    // Writing to a string cannot fail.
    for InterfaceStatus { name, program_id } in &status.interfaces {
        let _infallible = match program_id {
            0 => writeln!(text, "  {name}: no program at the moment"),
            id => writeln!(text, "  {name}: program {id}"),
        };
    }
    if !status.replies.is_empty() {
        let _infallible = writeln!(text, "replies: {}", status.replies);
    }
    for node in &status.nodes {
        let NodeRouteStatus { node_id, direct_address, interface, replies, reason } = node;
        let way = if interface.is_empty() {
            "relayed by user space".to_owned()
        } else {
            format!("in the kernel by {interface}, replies by {replies}")
        };
        let _infallible = writeln!(text, "  node {node_id} at {direct_address}: {way}: {reason}");
    }
    text
}

impl<'a> From<&'a StatusResponse> for StatusRecord<'a> {
    fn from(status: &'a StatusResponse) -> Self {
        let interface = |interface: &'a InterfaceStatus| InterfaceRecord {
            name: &interface.name,
            program_id: (interface.program_id != 0).then_some(interface.program_id),
        };
        let node = |node: &'a NodeRouteStatus| NodeRecord {
            node_id: node.node_id,
            direct_address: &node.direct_address,
            interface: (!node.interface.is_empty()).then_some(node.interface.as_str()),
            replies: &node.replies,
            reason: &node.reason,
        };
        Self {
            role: &status.role,
            version: &status.version,
            process_id: status.process_id,
            address: &status.address,
            mode: &status.mode,
            reason: &status.reason,
            interfaces: status.interfaces.iter().map(interface).collect(),
            replies: &status.replies,
            nodes: status.nodes.iter().map(node).collect(),
            uptime_ms: status.uptime_ms,
        }
    }
}
