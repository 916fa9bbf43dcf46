//! What an edge tells of itself when it is scraped.
//!
//! Invariant: like [`EdgeView`](super::view::EdgeView), it holds no part of the kernel program.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::sync::watch;
use xdpfs_observe::{Scrape, Source, catalogue as names};

use super::{relay::RelayCounters, table::Table};
use crate::{
    link::OwnCertificate,
    metrics::collect_plane,
    xdp::{EdgePlane, EdgeReport},
};

/// An edge, as whoever watches it sees it.
pub(super) struct EdgeMetrics {
    report: Box<dyn Fn() -> EdgeReport + Send + Sync>,
    counters: Arc<RelayCounters>,
    table: watch::Receiver<Arc<Table>>,
    /// An edge that has not heard from a leader for this long does not serve.
    leader_silent_max: Duration,
    certificate: OwnCertificate,
}

impl EdgeMetrics {
    pub(super) fn new(
        plane: &EdgePlane,
        counters: Arc<RelayCounters>,
        table: watch::Receiver<Arc<Table>>,
        leader_silent_max: Duration,
        certificate: OwnCertificate,
    ) -> Self {
        Self { report: Box::new(plane.reporter()), counters, table, leader_silent_max, certificate }
    }

    /// Whether the edge, which has been told of its nodes, still knows who they are.
    pub(super) fn is_serving(&self) -> bool {
        self.table.borrow().told().made.elapsed() <= self.leader_silent_max
    }
}

impl Source for EdgeMetrics {
    fn collect(&self, scrape: &mut Scrape<'_>) {
        let EdgeReport { mode, counts, .. } = (self.report)();
        collect_plane(mode, &counts, scrape);
        self.certificate.collect(scrape);
        scrape.gauge(&names::EDGE_FLOWS, self.counters.flows() as f64);
        scrape.gauge(&names::EDGE_NODES, self.table.borrow().told().nodes.len() as f64);
        let (mut events, mut rejects) = (BTreeMap::new(), BTreeMap::new());
        self.counters.add_events(&mut events);
        self.counters.add_rejects(&mut rejects);
        scrape.counters(&names::EDGE_RELAY, events.iter().map(|(event, count)| ([event], *count)));
        scrape.counters(&names::EDGE_REJECTS, rejects.iter().map(|(reason, count)| ([reason], *count)));
    }

    fn is_ready(&self) -> bool {
        self.is_serving()
    }
}

impl fmt::Debug for EdgeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeMetrics").field("counters", &self.counters).finish_non_exhaustive()
    }
}
