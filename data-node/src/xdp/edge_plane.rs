//! The kernel programs of an edge: what the edge tells them, and what they tell the edge.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use clap::ValueEnum;
use tokio::sync::oneshot;
use xdpfs_wire::{EpochSecret, KeyEpoch, NodeId, TargetNode};

#[cfg(all(feature = "xdp", target_os = "linux"))]
use super::edge_thread::EdgeThread;
#[cfg(not(all(feature = "xdp", target_os = "linux")))]
use super::stub::EdgeThread;
use super::{PlaneCounts, XdpError, XdpMode, describe};
use crate::{run_as::RunAs, source_prefix::SourcePrefix};

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

/// What the kernel programs of an edge are to do.
#[derive(Clone, Debug)]
pub(crate) struct EdgeXdpConfig {
    pub(crate) mode: XdpMode,
    pub(crate) uplink: String,
    /// Where the edge's socket is bound. If that is no address in particular, clients know the main one of the uplink.
    pub(crate) listen: SocketAddr,
    /// If clients were told an address, they know this one, if it is this host's.
    pub(crate) advertised: Option<IpAddr>,
    pub(crate) replies: Replies,
    pub(crate) pin_dir: PathBuf,
    pub(crate) on_exit: OnExit,
    pub(crate) prepare: Prepare,
    pub(crate) sources: SourceConfig,
    /// What the calling thread becomes.
    pub(crate) user: Option<RunAs>,
}

/// What the edge knows; the plane brings kernel maps and interfaces in step with it.
#[derive(Clone, Debug)]
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
    /// How replies cross: `kernel`, `xdp`, both as `kernel,xdp`, or `relay`.
    pub(crate) replies: &'static str,
    /// Each node, in the order of their ids.
    pub(crate) nodes: Vec<NodePlace>,
    /// What the programs have counted.
    pub(crate) counts: PlaneCounts,
}

/// How packets to and from one node cross the edge.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NodePlace {
    pub(crate) node: NodeId,
    pub(crate) direct: SocketAddr,
    /// The interface that the kernel program sends to; none if user space relays.
    pub(crate) device: Option<String>,
    /// How its replies cross: `kernel`, `xdp` or `relay`.
    pub(crate) replies: &'static str,
    /// Why so, in a sentence.
    pub(crate) why: String,
}

/// What the thread is told.
pub(super) enum Order {
    Events(oneshot::Sender<Result<Events, XdpError>>),
    Follow(Arc<RouteTable>, oneshot::Sender<Result<(), XdpError>>),
    Sample(u64),
    Work(Box<dyn FnOnce() + Send>),
    Stop(oneshot::Sender<()>),
}

/// The ring of sampled packets.
#[cfg(all(feature = "xdp", target_os = "linux"))]
pub(crate) type Events = aya::maps::RingBuf<aya::maps::MapData>;
#[cfg(not(all(feature = "xdp", target_os = "linux")))]
pub(crate) type Events = std::convert::Infallible;

/// What is in force, as the thread last said.
pub(super) type SharedReport = Arc<Mutex<EdgeReport>>;

/// The kernel programs of an edge, or the reason why there are none.
pub(crate) struct EdgePlane {
    thread: Option<EdgeThread>,
    report: SharedReport,
}

impl EdgePlane {
    /// Loads the programs; those of an edge before go on meanwhile. Blocks.
    ///
    /// The programs' thread keeps the capabilities that it needs, and the calling thread gives up all of its own, so
    /// this must be called before the process has another one. What takes privileges later is done by
    /// [`EdgePlane::privileged`]. If there are no programs to be had, or none wanted, nothing is given up.
    ///
    /// # Errors
    /// They can't be had, and the configuration demands them; or another edge is there.
    pub(crate) fn start(config: EdgeXdpConfig) -> Result<Self, XdpError> {
        let mode = config.mode;
        let report = SharedReport::default();
        let (thread, why) = match mode {
            XdpMode::Off => (None, "not asked for".to_owned()),
            XdpMode::Auto | XdpMode::Generic | XdpMode::Native => {
                match EdgeThread::start(config, Arc::clone(&report)) {
                    Ok(thread) => (Some(thread), "no table of nodes yet".to_owned()),
                    Err(error @ XdpError::Taken { .. }) => return Err(error),
                    Err(error) if mode == XdpMode::Auto => (None, describe(&error)),
                    Err(error) => return Err(error),
                }
            }
        };
        *lock(&report) = EdgeReport { why, replies: "relay", ..EdgeReport::default() };
        Ok(Self { thread, report })
    }

    /// Brings programs and interfaces in step with `table`, and resolves when that is in force. The first call puts the
    /// programs on the interfaces.
    ///
    /// # Errors
    /// The kernel refuses, and the configuration demands it.
    pub(crate) async fn follow(&self, table: Arc<RouteTable>) -> Result<(), XdpError> {
        let Some(thread) = &self.thread else { return Ok(()) };
        let (done, followed) = oneshot::channel();
        thread.order(Order::Follow(table, done));
        followed.await.unwrap_or(Err(XdpError::Dead))
    }

    /// Does something in the thread that has capabilities; the calling one if there is none. For sockets that take
    /// large buffers or low ports.
    ///
    /// # Errors
    /// The thread has died.
    pub(crate) async fn privileged<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, XdpError> {
        let Some(thread) = &self.thread else { return Ok(work()) };
        let runtime = tokio::runtime::Handle::current();
        let (done, result) = oneshot::channel();
        thread.order(Order::Work(Box::new(move || {
            let _entered = runtime.enter();
            // Whoever asked may have given up.
            let _ = done.send(work());
        })));
        result.await.map_err(|_| XdpError::Dead)
    }

    /// The ring of sampled packets, which can be had once, and after the first table. None without a program.
    ///
    /// # Errors
    /// It was had before.
    pub(crate) async fn take_events(&self) -> Result<Option<Events>, XdpError> {
        let Some(thread) = &self.thread else { return Ok(None) };
        let (done, events) = oneshot::channel();
        thread.order(Order::Events(done));
        events.await.unwrap_or(Err(XdpError::Dead)).map(Some)
    }

    /// Has events kept of packets whose counter has none of these bits; all ones keep none.
    pub(crate) fn sample(&self, mask: u64) {
        if let Some(thread) = &self.thread {
            thread.order(Order::Sample(mask));
        }
    }

    /// Whether there is a program.
    pub(crate) fn has_program(&self) -> bool {
        self.thread.is_some()
    }

    /// What tells what is in force, also to somebody who may outlive this.
    pub(crate) fn reporter(&self) -> impl Fn() -> EdgeReport + Send + Sync + 'static {
        let report = Arc::clone(&self.report);
        move || lock(&report).clone()
    }

    /// What is in force.
    pub(crate) fn report(&self) -> EdgeReport {
        lock(&self.report).clone()
    }

    /// Takes the programs off and undoes what was prepared, or leaves them at work, as the configuration says.
    pub(crate) async fn stop(self) {
        let Some(thread) = self.thread else { return };
        let (done, stopped) = oneshot::channel();
        thread.order(Order::Stop(done));
        if stopped.await.is_err() {
            tracing::error!("the thread that has the kernel program in its care has died");
        }
    }
}

impl fmt::Debug for EdgePlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgePlane").field("report", &self.report()).finish_non_exhaustive()
    }
}

pub(super) fn lock(report: &SharedReport) -> std::sync::MutexGuard<'_, EdgeReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
