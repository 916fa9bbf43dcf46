//! The kernel program in front of this node: it drops what doesn't belong before the network stack has spent a cycle.
//!
//! Invariant: it only takes work off user space. The data path judges every datagram again, whatever is in force here,
//! and which mode that is, and why, is always said.

#[cfg(all(feature = "xdp", target_os = "linux"))]
mod edge_plan;
#[cfg_attr(
    not(all(feature = "xdp", target_os = "linux")),
    expect(dead_code, reason = "only a kernel program reads it all")
)]
mod edge_plane;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod edge_thread;
mod error;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod events;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod network;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod node_plane;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod peer;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod pins;
mod plane_thread;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod privileges;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod programs;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod redirects;
#[cfg(not(all(feature = "xdp", target_os = "linux")))]
mod stub;
#[cfg(all(feature = "xdp", target_os = "linux"))]
mod tables;

use std::{collections::BTreeMap, error::Error as _, fmt, net::SocketAddr, sync::Arc, time::Duration};

use clap::ValueEnum;
use tokio::time::interval;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use xdpfs_wire::Reject;

pub(crate) use self::edge_plane::{EdgePlane, EdgeReport, EdgeXdpConfig, NodePlace, NodeRoute, RouteTable};
pub use self::edge_plane::{OnExit, Prepare, Replies, SourceConfig};
pub use self::error::XdpError;
#[cfg(all(feature = "xdp", target_os = "linux"))]
use self::node_plane::Plane;
pub use self::plane_thread::PlaneThread;
#[cfg(not(all(feature = "xdp", target_os = "linux")))]
use self::stub::Plane;
#[cfg(not(all(feature = "xdp", target_os = "linux")))]
pub(crate) use self::stub::{forward_events, try_load};
#[cfg(all(feature = "xdp", target_os = "linux"))]
pub(crate) use self::{events::forward_events, node_plane::try_load};
use crate::{event_tap::EventTap, node_state::NodeState};

/// How long an interface that has come back may be without the program. The program's clock is set as often, whether the
/// leader speaks or not; left alone, it would lose a second a day.
const TEND_AFTER: Duration = Duration::from_secs(2);

/// How the kernel program is to be used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum XdpMode {
    /// Natively if that works, else generically, else not at all; says which, and why.
    Auto,
    /// In the network stack, right behind the driver; works with every driver.
    Generic,
    /// In the driver.
    Native,
    /// Not at all.
    #[default]
    Off,
}

/// What the node is told of the kernel program.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct XdpConfig {
    /// How it is to be used.
    pub mode: XdpMode,
    /// The interfaces that datagrams come in by. At least one, unless the mode is off.
    pub interfaces: Vec<String>,
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// In the driver.
    Driver,
    /// In the network stack.
    Stack,
}

/// The kernel program as it is now, for whoever asks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct PlaneReport {
    /// What is in force; never [`XdpMode::Auto`].
    pub(crate) mode: XdpMode,
    /// Why that, in a sentence.
    pub(crate) why: String,
    /// What it has counted since it was loaded.
    pub(crate) counts: PlaneCounts,
}

/// What the kernel program has counted, on all CPUs together.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct PlaneCounts {
    /// Packets by how they ended, without zeros.
    pub(crate) fates: BTreeMap<&'static str, u64>,
    /// Refused datagrams by reason.
    pub(crate) rejects: [u64; Reject::ALL.len()],
}

/// A kernel program that is loaded, so that what the kernel has against it is known before the node registers.
pub(crate) struct Xdp {
    config: XdpConfig,
    listen: SocketAddr,
    thread: PlaneThread,
    plane: Option<Plane>,
    why: String,
}

/// A kernel program that filters, or the reason why there is none.
pub(crate) struct Filter {
    plane: Option<Plane>,
    /// The user would like one.
    hoped: bool,
    report: PlaneReport,
    thread: PlaneThread,
    tap: Arc<EventTap>,
}

impl Xdp {
    /// Loads the program for datagrams to `listen`, by a thread that may.
    ///
    /// # Errors
    /// It can't be loaded, and the configuration demands it.
    pub(crate) async fn load(
        config: XdpConfig,
        listen: SocketAddr,
        thread: PlaneThread,
    ) -> Result<Self, XdpError> {
        let place = match config.mode {
            XdpMode::Off => None,
            XdpMode::Generic => Some(Place::Stack),
            XdpMode::Auto | XdpMode::Native => Some(Place::Driver),
        };
        let Some(place) = place else {
            return Ok(Self { config, listen, thread, plane: None, why: "not asked for".to_owned() });
        };
        let interfaces = config.interfaces.clone();
        let (plane, why) = match thread.run(move || Plane::load(place, listen, &interfaces)).await? {
            Ok(plane) => (Some(plane), String::new()),
            Err(error) if config.mode == XdpMode::Auto => (None, describe(&error)),
            Err(error) => return Err(error),
        };
        Ok(Self { config, listen, thread, plane, why })
    }

    /// Tells the program what it must know, and then puts it on the interfaces.
    ///
    /// # Errors
    /// An interface doesn't take it, and the configuration demands it.
    pub(crate) async fn attach(self, state: Arc<NodeState>) -> Result<Filter, XdpError> {
        let Self { config: XdpConfig { mode, interfaces }, listen, thread, plane, why } = self;
        let hoped = mode == XdpMode::Auto;
        let in_charge = thread.clone();
        let filter = |plane, mode, why| {
            let report = PlaneReport { mode, why, counts: PlaneCounts::default() };
            Filter { plane, hoped, report, thread: in_charge, tap: Arc::new(EventTap::new()) }
        };
        let Some(plane) = plane else { return Ok(filter(None, XdpMode::Off, why)) };
        let work = move || {
            let native = match plane.attached(&interfaces, &state) {
                Err(error) if hoped => describe(&error),
                attached => return attached.and_then(Plane::settled).map(Ok),
            };
            let generic = Plane::load(Place::Stack, listen, &interfaces);
            let attached = generic.and_then(|plane| plane.attached(&interfaces, &state));
            Ok(Err((native, attached.and_then(Plane::settled))))
        };
        Ok(match thread.run(work).await?? {
            Ok(plane) if hoped => filter(Some(plane), XdpMode::Native, "the driver can".to_owned()),
            Ok(plane) => filter(Some(plane), mode, "asked for".to_owned()),
            Err((native, Ok(plane))) => filter(Some(plane), XdpMode::Generic, format!("native: {native}")),
            Err((native, Err(error))) => {
                filter(None, XdpMode::Off, format!("native: {native}; generic: {}", describe(&error)))
            }
        })
    }
}

impl Filter {
    /// Says what is in force. That it isn't what was hoped for should be looked at.
    pub(crate) fn announce(&self, state: &NodeState) {
        state.note_plane(self.report.clone());
        let PlaneReport { mode, why, .. } = &self.report;
        if *mode == XdpMode::Off && self.hoped {
            tracing::warn!(%mode, why, "datagrams are judged in user space only");
        } else {
            tracing::info!(%mode, why, "kernel program");
        }
    }

    /// Where the program's events pass through; `None` without a program.
    pub(crate) fn events(&self) -> Option<Arc<EventTap>> {
        self.plane.as_ref().map(|_| Arc::clone(&self.tap))
    }

    /// Keeps the program in step with what the leader tells, and its counters known, until `stop`. The program leaves
    /// the interfaces then, as it does when the process ends in any other way.
    pub(crate) async fn run(self, state: Arc<NodeState>, stop: CancellationToken) {
        let Self { plane, mut report, thread, tap, .. } = self;
        let Some(mut plane) = plane else { return };
        let reason = report.why.clone();
        let Ok((events, plane_again)) = thread.run(move || (plane.take_events(), plane)).await else {
            return;
        };
        plane = plane_again;
        let events = events.map(|events| tokio::spawn(forward_events(events, Arc::clone(&tap))));
        let _events = match events.map(AbortOnDropHandle::new) {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(error = describe(&error), "the kernel program can't be traced");
                None
            }
        };
        let mut tend = interval(TEND_AFTER);
        loop {
            let is_due = tokio::select! {
                () = stop.cancelled() => break,
                () = state.changed() => false,
                () = tap.changed() => false,
                _ = tend.tick() => true,
            };
            let (known, event_mask) = (Arc::clone(&state), tap.mask());
            let work = move || {
                let tended = is_due.then(|| plane.tend().map(|()| plane.muteness()));
                let counts = plane.update(&known, event_mask).and_then(|()| plane.counts());
                (tended, counts, plane)
            };
            let Ok((tended, counts, tended_plane)) = thread.run(work).await else { return };
            plane = tended_plane;
            if let Some(tended) = tended {
                let why = match tended {
                    Ok(None) => reason.clone(),
                    Ok(Some(muteness)) => format!("{reason}; {muteness}"),
                    Err(error) => describe(&error),
                };
                if why != report.why {
                    if why == reason {
                        tracing::info!(mode = %report.mode, why, "nothing is amiss with the kernel program any more");
                    } else {
                        tracing::warn!(mode = %report.mode, why, "something is amiss with the kernel program");
                    }
                    report.why = why;
                }
            }
            match counts {
                Ok(counts) => report.counts = counts,
                Err(error) => tracing::warn!(error = describe(&error), "the kernel program is out of step"),
            }
            state.note_plane(report.clone());
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Generic => "generic",
            Self::Native => "native",
            Self::Off => "off",
        })
    }
}

/// The error with what caused it.
fn describe(error: &XdpError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
