//! Asks the leader, again and again, which nodes are behind this edge.
//!
//! Invariant: what one answer says is taken over as a whole, and an answer that makes no sense changes nothing. An edge
//! that can't reach the leader goes on with what it knows.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;
use xdpfs_proto::node::v1::{RouteRequest, RouteResponse, RoutedNode};
use xdpfs_wire::{NodeEpoch, NodeId, TargetNode};

use super::{failure::EdgeFailure, resolver::Resolver, table::Table};
use crate::{
    cluster_clock::{ClusterClock, UnixMs},
    config::{MetaEndpoint, is_host_and_port},
    control::{Answered, Call, Leader, parse_key_epochs},
    link::OpenLink,
    node_state::LiveKeyEpochs,
    xdp::NodeRoute,
};

/// Short enough to find a new leader before anybody misses the edge.
const ROUTE: Call = Call { name: "route", patience: Duration::from_millis(1500) };
/// A leader that names something outside these has a broken configuration; neither flood it nor fall silent.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(20);
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// After an answer that makes no sense.
const NONSENSE_PAUSE: Duration = Duration::from_secs(1);
/// As many as a cluster has.
const NODES_MAX: usize = 4096;

/// Where this edge is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// As nodes advertise it.
    pub(super) advertised: String,
    /// Where it receives.
    pub(super) bound: SocketAddr,
}

/// The edge's side of the control plane.
pub(super) struct Control<W> {
    leader: Leader,
    place: Place,
    /// What the edge says of itself.
    word: W,
    resolver: Resolver,
    /// Of the first answer; there is no other for the life of the process.
    cluster_id: String,
    clock: Option<Arc<ClusterClock>>,
    interval: Duration,
    unreachable: Vec<NodeId>,
}

/// An answer that makes sense.
#[derive(Debug)]
struct Told {
    cluster_id: String,
    leader_time: UnixMs,
    key_epochs: LiveKeyEpochs,
    nodes: Vec<(TargetNode, String)>,
    interval: Duration,
}

impl<W: Fn() -> RouteRequest> Control<W> {
    pub(super) fn new(endpoints: &[MetaEndpoint], link: OpenLink, place: Place, word: W) -> Self {
        Self {
            leader: Leader::new(endpoints, link),
            place,
            word,
            resolver: Resolver::default(),
            cluster_id: String::new(),
            clock: None,
            interval: POLL_INTERVAL_MIN,
            unreachable: Vec::new(),
        }
    }

    /// What a leader says, waited for as long as it takes.
    ///
    /// # Errors
    /// The edge will never be taken as it is.
    pub(super) async fn ask(&mut self) -> Result<Table, EdgeFailure> {
        loop {
            let route = self.leader.call(
                ROUTE,
                || self.question(),
                |mut service, request| async move { service.route(request).await },
            );
            let Answered { message, round_trip } = route.await?;
            let Some(told) = parse(message) else {
                tracing::warn!("the leader's answer makes no sense");
                tokio::time::sleep(NONSENSE_PAUSE).await;
                continue;
            };
            if self.cluster_id.is_empty() {
                self.cluster_id.clone_from(&told.cluster_id);
            }
            if self.cluster_id != told.cluster_id {
                return Err(EdgeFailure::WrongCluster);
            }
            return Ok(self.take_over(told, round_trip).await);
        }
    }

    /// Asks for ever; ends only if the edge can't go on.
    pub(super) async fn run(mut self, tables: watch::Sender<Arc<Table>>) -> EdgeFailure {
        loop {
            tokio::time::sleep(self.interval).await;
            match self.ask().await {
                Ok(table) => {
                    tables.send_replace(Arc::new(table));
                }
                Err(EdgeFailure::Refused { reason, message }) => {
                    tracing::warn!(reason, message, "the leader refuses to say which nodes there are");
                }
                Err(failure) => return failure,
            }
        }
    }

    fn question(&self) -> RouteRequest {
        RouteRequest {
            cluster_id: self.cluster_id.clone(),
            address: self.place.advertised.clone(),
            ..(self.word)()
        }
    }

    async fn take_over(&mut self, told: Told, round_trip: Duration) -> Table {
        self.interval = told.interval;
        let clock = self.clock.get_or_insert_with(|| Arc::new(ClusterClock::starting_at(told.leader_time)));
        clock.set(told.leader_time, round_trip);
        let clock = Arc::clone(clock);
        let (targets, names): (Vec<_>, Vec<_>) = told.nodes.into_iter().unzip();
        let addresses = self.resolver.resolve(&names).await;
        let (routes, unreachable) = self.routes(&targets, &names, &addresses);
        self.note_unreachable(unreachable);
        Table::new(routes, told.key_epochs.by_epoch(), clock)
    }

    /// Ways to the nodes, and the nodes without one.
    fn routes(
        &self,
        targets: &[TargetNode],
        names: &[String],
        addresses: &[Option<SocketAddr>],
    ) -> (Vec<NodeRoute>, BTreeMap<NodeId, String>) {
        let (mut routes, mut unreachable) = (Vec::new(), BTreeMap::new());
        for ((target, name), address) in targets.iter().zip(names).zip(addresses) {
            match address {
                // It would be sent to this edge again.
                Some(direct) if *direct == self.place.bound || *name == self.place.advertised => {
                    unreachable
                        .insert(target.node, format!("{name} is this edge itself: start it with --direct"));
                }
                Some(direct) => routes.push(NodeRoute { target: *target, direct: *direct }),
                None => {
                    unreachable.insert(target.node, format!("{name} has no address"));
                }
            }
        }
        (routes, unreachable)
    }

    /// Says once of each node that it can't be reached.
    fn note_unreachable(&mut self, unreachable: BTreeMap<NodeId, String>) {
        for (node, why) in &unreachable {
            if !self.unreachable.contains(node) {
                tracing::warn!(%node, why, "a node behind this edge can't be reached");
            }
        }
        self.unreachable = unreachable.into_keys().collect();
    }
}

/// What the answer says; `None` if it makes no sense.
fn parse(answer: RouteResponse) -> Option<Told> {
    let RouteResponse { cluster_id, leader_time_ms, key_epochs, nodes, poll_interval_ms } = answer;
    if cluster_id.is_empty() || leader_time_ms == 0 || nodes.len() > NODES_MAX {
        return None;
    }
    let interval = Duration::from_millis(poll_interval_ms);
    Some(Told {
        cluster_id,
        leader_time: UnixMs(leader_time_ms),
        key_epochs: parse_key_epochs(&key_epochs)?,
        nodes: nodes.into_iter().map(parse_node).collect::<Option<_>>()?,
        interval: interval.clamp(POLL_INTERVAL_MIN, POLL_INTERVAL_MAX),
    })
}

fn parse_node(node: RoutedNode) -> Option<(TargetNode, String)> {
    let RoutedNode { node_id, node_epoch, direct_address } = node;
    let node = NodeId(u16::try_from(node_id).ok().filter(|id| *id > 0)?);
    let target = TargetNode { node, epoch: NodeEpoch(node_epoch as u16) };
    is_host_and_port(&direct_address).then_some((target, direct_address))
}

#[cfg(test)]
mod tests {
    use xdpfs_proto::node::v1::KeyEpochSecret;

    use super::*;

    fn answer() -> RouteResponse {
        let node = RoutedNode { node_id: 3, node_epoch: 0xffff, direct_address: "10.0.0.3:7".into() };
        RouteResponse {
            cluster_id: "red".into(),
            leader_time_ms: 1000,
            key_epochs: vec![KeyEpochSecret { key_epoch: 1, secret: vec![2; 16] }],
            nodes: vec![node],
            poll_interval_ms: 250,
        }
    }

    #[test]
    fn answer_becomes_targets_with_names() {
        let told = parse(answer()).unwrap();
        let target = TargetNode { node: NodeId(3), epoch: NodeEpoch(0xffff) };
        assert_eq!(told.nodes, [(target, "10.0.0.3:7".to_owned())]);
        assert_eq!(told.interval, Duration::from_millis(250));
    }

    #[test]
    fn answers_that_make_no_sense_are_not_taken() {
        let check = |change: fn(&mut RouteResponse)| {
            let mut message = answer();
            change(&mut message);
            assert!(parse(message.clone()).is_none(), "{message:?}");
        };
        check(|answer| answer.cluster_id.clear());
        check(|answer| answer.leader_time_ms = 0);
        check(|answer| answer.key_epochs.clear());
        check(|answer| answer.key_epochs[0].secret = vec![]);
        check(|answer| answer.nodes[0].node_id = 0);
        check(|answer| answer.nodes[0].node_id = 0x1_0000);
        check(|answer| answer.nodes[0].direct_address = "nowhere".into());
        check(|answer| answer.nodes = vec![answer.nodes[0].clone(); NODES_MAX + 1]);
    }

    #[test]
    fn absurd_intervals_are_bounded() {
        for (told_ms, expect) in [(0, POLL_INTERVAL_MIN), (u64::MAX, POLL_INTERVAL_MAX)] {
            let told = parse(RouteResponse { poll_interval_ms: told_ms, ..answer() });
            assert_eq!(told.unwrap().interval, expect);
        }
    }

    #[test]
    fn a_node_that_would_be_reached_by_way_of_the_edge_has_no_route() {
        let place = Place { advertised: "edge:7400".into(), bound: "10.0.0.1:7400".parse().unwrap() };
        let endpoints = ["localhost:1".parse().unwrap()];
        let control = Control::new(&endpoints, OpenLink::default(), place, RouteRequest::default);
        let target = |id| TargetNode { node: NodeId(id), epoch: NodeEpoch(1) };
        let names = ["edge:7400", "10.0.0.1:7400", "gone:7", "10.0.0.2:7400"].map(str::to_owned);
        let addresses = [Some("10.0.0.9:7400"), Some("10.0.0.1:7400"), None, Some("10.0.0.2:7400")]
            .map(|address: Option<&str>| address.map(|address| address.parse().unwrap()));
        let (routes, unreachable) = control.routes(&[1, 2, 3, 4].map(target), &names, &addresses);
        assert_eq!(routes, [NodeRoute { target: target(4), direct: addresses[3].unwrap() }]);
        assert_eq!(unreachable.into_keys().collect::<Vec<_>>(), [1, 2, 3].map(NodeId));
    }
}
