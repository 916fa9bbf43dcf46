//! The kernel program of an edge: what the edge tells it, and what it tells the edge.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Instant};

use clap::ValueEnum;
use xdpfs_wire::{EpochSecret, KeyEpoch, TargetNode};

use super::{PlaneCounts, XdpError, XdpMode};
use crate::source_prefix::SourcePrefix;

/// How replies of nodes cross the edge.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Replies {
    /// As is best for the interface that a node is behind.
    #[default]
    Auto,
    /// By the kernel's network stack, with its segmentation offload.
    Kernel,
    /// By an XDP program.
    Xdp,
}

/// What becomes of the kernel program when the edge is told to stop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum OnExit {
    /// Everything is taken off and undone.
    #[default]
    Detach,
    /// It goes on by itself, with what it knows.
    Keep,
}

/// Whether interfaces are made ready for redirected packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Prepare {
    /// Where that is possible.
    #[default]
    Auto,
    /// Not at all.
    Off,
}

/// Who may send, and how fast.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SourceConfig {
    /// Datagrams per second from one address; unlimited if not given.
    pub rate: Option<u32>,
    /// These may send. If there are any, others may not.
    pub allow: Vec<SourcePrefix>,
    /// These may not. Of two prefixes that fit, the longer one counts.
    pub deny: Vec<SourcePrefix>,
}

/// What the kernel program of an edge is to do.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "only a kernel program reads it")]
pub(crate) struct EdgeXdpConfig {
    pub(crate) mode: XdpMode,
    pub(crate) uplink: String,
    pub(crate) port: u16,
    pub(crate) replies: Replies,
    pub(crate) pin_dir: PathBuf,
    pub(crate) on_exit: OnExit,
    pub(crate) prepare: Prepare,
    pub(crate) sources: SourceConfig,
}

/// What the edge knows; the plane brings kernel maps and interfaces in step with it.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "only a kernel program reads it all")]
pub(crate) struct RouteTable {
    pub(crate) nodes: Vec<NodeRoute>,
    pub(crate) key_epochs: BTreeMap<KeyEpoch, EpochSecret>,
    /// The leader's time when this was made, in milliseconds since the Unix epoch.
    pub(crate) unix_ms: u64,
    pub(crate) made: Instant,
}

/// A node, and where the edge reaches it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NodeRoute {
    pub(crate) target: TargetNode,
    pub(crate) direct: SocketAddr,
}

/// What is in force.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct EdgeReport {
    /// Never [`XdpMode::Auto`].
    pub(crate) mode: XdpMode,
    /// Why that, in a sentence.
    pub(crate) why: String,
    /// How replies cross: `kernel`, `xdp` or `relay`.
    pub(crate) replies: &'static str,
    /// What the program has counted.
    pub(crate) counts: PlaneCounts,
}

/// The kernel program of an edge, or the reason why there is none.
#[derive(Debug)]
pub(crate) struct EdgePlane {
    report: EdgeReport,
}

impl EdgePlane {
    /// Loads the program. Blocks, and must be called before the process has a second thread.
    ///
    /// # Errors
    /// It can't be had, and the configuration demands it.
    pub(crate) fn start(config: EdgeXdpConfig) -> Result<Self, XdpError> {
        let why = match config.mode {
            XdpMode::Off => "not asked for".to_owned(),
            XdpMode::Auto => XdpError::NotBuilt.to_string(),
            XdpMode::Generic | XdpMode::Native => return Err(XdpError::NotBuilt),
        };
        let report = EdgeReport { mode: XdpMode::Off, why, replies: "relay", counts: PlaneCounts::default() };
        Ok(Self { report })
    }

    /// Brings the program in step with `table`, and resolves when that is in force. The first call puts it on the
    /// interfaces.
    ///
    /// # Errors
    /// The kernel refuses.
    #[expect(clippy::unused_async, reason = "where there is a program, this waits for it")]
    pub(crate) async fn follow(&self, _table: Arc<RouteTable>) -> Result<(), XdpError> {
        Ok(())
    }

    /// What is in force.
    pub(crate) fn report(&self) -> EdgeReport {
        self.report.clone()
    }

    /// Takes the program off, or leaves it, as the configuration says.
    #[expect(clippy::unused_async, reason = "where there is a program, this waits for it")]
    pub(crate) async fn stop(self) {}
}
