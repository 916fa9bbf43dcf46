//! What a node and an edge tell of themselves when they are scraped.

use std::{sync::Arc, time::Duration};

use xdpfs_observe::{Scrape, Source, catalogue as names};
use xdpfs_wire::Reject;

use crate::{
    disks::Disks,
    link::OwnCertificate,
    node_state::NodeState,
    scrub::ScrubHandles,
    xdp::{PlaneCounts, XdpMode},
};

/// A node, as whoever watches it sees it.
#[derive(Clone, Debug)]
pub(crate) struct NodeMetrics {
    pub(crate) state: Arc<NodeState>,
    pub(crate) disks: Disks,
    pub(crate) scrub: ScrubHandles,
    /// A node that has not heard from a leader for this long does not serve.
    pub(crate) leader_silent_max: Duration,
    pub(crate) certificate: OwnCertificate,
}

impl NodeMetrics {
    /// Whether the node, which has registered, can do what it is there for.
    pub(crate) fn is_serving(&self) -> bool {
        !self.disks.is_fenced() && self.state.silence() <= self.leader_silent_max
    }
}

impl Source for NodeMetrics {
    fn collect(&self, scrape: &mut Scrape<'_>) {
        let counters = self.state.counters();
        scrape.counter(&names::NODE_ACCEPTED, counters.accepted());
        let nothing = [0; Reject::ALL.len()];
        let rejects = counters.by_label(&nothing);
        scrape.counters(&names::NODE_REJECTS, rejects.iter().map(|(label, count)| ([label], *count)));
        scrape.counter(&names::NODE_DUPLICATES, counters.duplicates());
        scrape.counter(&names::NODE_UPLOADS_EXPIRED, counters.uploads_expired());
        scrape.counter(&names::NODE_BURSTS_ONE_BY_ONE, counters.bursts_one_by_one());
        self.disks.collect(scrape);
        self.scrub.collect(scrape);
        self.certificate.collect(scrape);
        let plane = self.state.plane();
        collect_plane(plane.mode, &plane.counts, scrape);
    }

    fn is_ready(&self) -> bool {
        self.is_serving()
    }
}

/// What the kernel program has counted, and where it runs.
pub(crate) fn collect_plane(mode: XdpMode, counts: &PlaneCounts, scrape: &mut Scrape<'_>) {
    scrape.gauges(&names::XDP_MODE, [([mode.to_string()], 1.0)]);
    scrape.counters(&names::XDP_PACKETS, counts.fates.iter().map(|(fate, packets)| ([fate], *packets)));
    let rejects = Reject::ALL.iter().zip(counts.rejects).filter(|(_, packets)| *packets > 0);
    scrape.counters(&names::XDP_REJECTS, rejects.map(|(reject, packets)| ([reject.label()], packets)));
}
