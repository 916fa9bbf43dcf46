//! Labels, placement and drain plans of the cluster in memory: every node is alive, has room, and is a host of its own.

use std::collections::{BTreeMap, BTreeSet};

use super::store::{NODES, Store};
use crate::{
    DrainPlan, DrainTarget, Inventory, InventoryNode, InventoryStanding, LabelChange, LeavingNode,
    LeavingWhy, NodeLabel, NodeScrub, PlacedChunk, PlacedNode, PlacementChoice, PlacementQuery,
    PlacementReport, RebalanceState, RebalanceStatus, RemoveNodeOptions, RepairStatus, ScrubAction,
    ScrubAnswer, ScrubState, Spread,
    error::{Error, Result},
};

/// Chunks that are listed if nothing else is asked for.
const CHUNKS_USUAL: usize = 64;

/// What operators have said, by node and key.
pub(super) type Labels = BTreeMap<u32, BTreeMap<String, String>>;

fn known(node: u32) -> Result<u32> {
    if (1..=u32::from(NODES)).contains(&node) { Ok(node) } else { Err(Error::NodeNotFound) }
}

impl Store {
    pub(super) fn labels_of(&self, node: u32) -> Vec<NodeLabel> {
        let labels = self.labels.get(&node).into_iter().flatten();
        let label = |(key, value): (&String, &String)| NodeLabel {
            key: key.clone(),
            value: value.clone(),
            by_operator: true,
        };
        labels.map(label).collect()
    }

    /// No chunk of this cluster is ever damaged.
    pub(super) fn scrub_of(&self, node: u32) -> NodeScrub {
        let is_held = self.held_scrubs.contains(&node);
        NodeScrub {
            state: if is_held { ScrubState::Paused } else { ScrubState::Waiting },
            pass: None,
            percent: 0,
            last_pass: None,
            next_pass: None,
            bytes_per_second: 8 << 20,
        }
    }

    /// A pass takes no time.
    pub(super) fn scrub(&mut self, node: u32, action: ScrubAction) -> Result<ScrubAnswer> {
        let before = self.scrub_of(known(node)?);
        match action {
            ScrubAction::Pause => self.held_scrubs.insert(node),
            ScrubAction::Resume | ScrubAction::Start => self.held_scrubs.remove(&node),
        };
        Ok(ScrubAnswer { scrub: Some(before), alive: true })
    }

    /// Nothing has to be moved: chunks are in no place at all.
    pub(super) fn drain_node(&mut self, node: u32, draining: bool) -> Result<()> {
        if self.removed.contains(&known(node)?) {
            return Err(Error::PreconditionFailed { message: "the data node was removed".to_owned() });
        }
        if draining {
            self.drained.insert(node)
        } else {
            self.drained.remove(&node)
        };
        Ok(())
    }

    pub(super) fn remove_node(&mut self, node: u32, options: RemoveNodeOptions) -> Result<u64> {
        if !self.drained.contains(&known(node)?) && !options.lost {
            let message = format!("data node {node} holds 1 replicas: drain it first");
            return Err(Error::PreconditionFailed { message });
        }
        self.drained.remove(&node);
        self.removed.insert(node);
        Ok(0)
    }

    pub(super) fn repair_status(&self) -> RepairStatus {
        let draining = self.drained.iter().map(|node| (*node, LeavingWhy::Draining));
        let removed = self.removed.iter().map(|node| (*node, LeavingWhy::Removed));
        let leaving = draining.chain(removed).map(|(node, why)| LeavingNode { node, why, replicas: 0 });
        RepairStatus {
            reason: "every chunk has its replicas".to_owned(),
            complete: true,
            leaving: leaving.collect(),
            ..RepairStatus::default()
        }
    }

    /// Everything is where it should be.
    pub(super) fn take_inventory(&self, number: Option<u64>, collect: bool) -> Inventory {
        let nodes = (1..=u32::from(NODES)).filter(|node| !self.removed.contains(node));
        let node = |node| InventoryNode { node, standing: InventoryStanding::Told, chunks: 0, collected: 0 };
        Inventory {
            number: number.unwrap_or(1),
            complete: true,
            collect,
            nodes: nodes.map(node).collect(),
            ..Inventory::default()
        }
    }

    pub(super) fn rebalance_status(&self) -> RebalanceStatus {
        let (state, reason) = match self.rebalance_paused {
            true => (RebalanceState::Paused, "operators want nothing to be moved"),
            false => (RebalanceState::Even, "each data node holds its share"),
        };
        RebalanceStatus { state, reason: reason.to_owned(), ..RebalanceStatus::default() }
    }

    pub(super) fn label(&mut self, node: u32, change: LabelChange) -> Result<Vec<NodeLabel>> {
        let labels = self.labels.entry(known(node)?).or_default();
        let differs = |(key, value): (&String, &String)| labels.get(key).is_some_and(|held| held != value);
        if !change.overwrite && change.set.iter().any(differs) {
            let message = "the node has another value for this label".to_owned();
            return Err(Error::PreconditionFailed { message });
        }
        labels.retain(|key, _| !change.remove.contains(key));
        labels.extend(change.set);
        Ok(self.labels_of(node))
    }

    pub(super) fn explain(&self, bucket: &str, key: &str, query: PlacementQuery) -> Result<PlacementReport> {
        let settings = self.bucket(bucket)?.describe();
        let stored = self.object(bucket, key).ok().filter(|_| !query.as_new);
        let label = |node: u32, key: &str| {
            self.labels.get(&node).and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
        };
        let node = |id: u32| PlacedNode {
            id,
            zone: label(id, "zone"),
            rack: label(id, "rack"),
            host: label(id, "host"),
            disk: label(id, "disk"),
            failure_domain: format!("mock-node-{id}"),
            alive: true,
            ..PlacedNode::default()
        };
        let mut report = PlacementReport {
            object: stored.map(|stored| stored.object.clone()),
            chunk_size: settings.chunk_size,
            replicas: settings.replicas,
            min_replicas: settings.min_replicas,
            chunk_count: 0,
            spreads: BTreeMap::new(),
            chunks_in_debt: 0,
            chunks_weakened: 0,
            chunks_out_of_reach: 0,
            chunks: Vec::new(),
            nodes: Vec::new(),
            obstacle: None,
        };
        let Some(stored) = stored else {
            let choice = |id: u32| {
                if id <= settings.replicas {
                    PlacementChoice::Chosen(id)
                } else {
                    PlacementChoice::Outweighed
                }
            };
            let chance = settings.replicas * 1000 / u32::from(NODES);
            report.nodes = (1..=u32::from(NODES))
                .map(|id| PlacedNode {
                    choice: Some(choice(id)),
                    weight_bytes: u64::MAX,
                    chosen_of_thousand: chance,
                    ..node(id)
                })
                .collect();
            return Ok(report);
        };
        let spread = if settings.replicas > 1 { Spread::Hosts } else { Spread::Alone };
        let mut holders: BTreeMap<u32, u64> = BTreeMap::new();
        for holder in stored.chunks.iter().flat_map(|chunk| &chunk.nodes) {
            *holders.entry(holder.0.into()).or_default() += 1;
        }
        report.chunk_count = stored.chunks.len() as u64;
        report.spreads =
            [(spread, report.chunk_count)].into_iter().filter(|(_, chunks)| *chunks > 0).collect();
        report.nodes = holders.into_iter().map(|(id, chunks)| PlacedNode { chunks, ..node(id) }).collect();
        let count = query.chunks.map_or(CHUNKS_USUAL, |count| count as usize);
        let listed = stored.chunks.iter().skip(query.first_chunk as usize).take(count);
        report.chunks = listed
            .map(|chunk| PlacedChunk {
                offset: chunk.offset,
                chunk: chunk.chunk,
                length: chunk.length,
                nodes: chunk.nodes.clone(),
                spread,
            })
            .collect();
        Ok(report)
    }

    pub(super) fn plan_drain(&self, nodes: &[u32]) -> Result<DrainPlan> {
        let drained: BTreeSet<u32> = nodes.iter().map(|node| known(*node)).collect::<Result<_>>()?;
        let mut plan = DrainPlan { complete: true, ..DrainPlan::default() };
        let mut targets: BTreeMap<u32, DrainTarget> = BTreeMap::new();
        for stored in self.stored_objects() {
            plan.objects_looked_at += 1;
            let mut is_short = false;
            for chunk in &stored.chunks {
                plan.chunks_looked_at += 1;
                let holders: BTreeSet<u32> = chunk.nodes.iter().map(|node| node.0.into()).collect();
                let mut free =
                    (1..=u32::from(NODES)).filter(|id| !drained.contains(id) && !holders.contains(id));
                for _ in holders.intersection(&drained) {
                    plan.replicas += 1;
                    plan.bytes += u64::from(chunk.length);
                    if let Some(node) = free.next() {
                        let target = targets.entry(node).or_insert(DrainTarget {
                            node,
                            free_bytes: u64::MAX,
                            ..DrainTarget::default()
                        });
                        target.replicas += 1;
                        target.bytes += u64::from(chunk.length);
                    } else {
                        is_short = true;
                        plan.replicas_unplaced += 1;
                        plan.bytes_unplaced += u64::from(chunk.length);
                    }
                }
            }
            plan.objects_short += u64::from(is_short);
        }
        plan.targets = targets.into_values().collect();
        Ok(plan)
    }
}
