//! What can happen next.

use crate::{
    rule::{Rule, Rules},
    world::{Belief, CHUNKS, Pending, Phase, Stage, Standing, World},
};

/// One step. A node is a number, and so is a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "fields are nodes and chunks, and what they are for is said with the step")]
pub enum Action {
    /// `State::begin_put`: all nodes but this one are granted the chunk.
    Begin { chunk: u8, without: u8 },
    /// `NodeEndpoint`, `Disks::put`: the node has the chunk, and the client its receipt.
    Write { node: u8, chunk: u8 },
    /// `State::commit_put`, as often as the client likes.
    Commit { chunk: u8 },
    /// `State::abort_put`, `State::expire_uploads`.
    Abort { chunk: u8 },
    /// `State::delete_object`.
    Delete,
    /// `Gateway::get_object`: somebody has the manifest.
    Read,
    /// His capability has ended, or he is done.
    ReadEnds,
    /// The grace of a replica is over, and the leader says so: `PendingDeletes::due`.
    GraceEnds { node: u8, chunk: u8 },
    /// `Disks::delete`.
    Remove { node: u8, chunk: u8 },
    /// `State::forget_chunks`.
    Forget { node: u8, chunk: u8 },
    /// `State::fence_node`: the leader has not heard of the node for its lease, whatever it may be doing.
    Fence { node: u8 },
    /// The node starts again: what it had in memory is gone.
    Restart { node: u8 },
    /// The same, and its disk is empty.
    Wipe { node: u8 },
    /// `State::register_node`.
    Register { node: u8 },
    /// `Repair::begin`: a replica is to be made where it was.
    RepairInPlace { node: u8, chunk: u8 },
    /// `Repair::begin`: a replica leaves a node and comes to another.
    RepairElsewhere { chunk: u8, from: u8, to: u8 },
    /// `Fetcher::fetch`: the node has what the job is about.
    Fetch,
    /// `Fetching::request`, `Repair::note_ends`: the leader has the node's word.
    Tell,
    /// `State::replace_replicas`.
    Change,
    /// `Repair::give_up`, and what follows for the replica: `Driver::collect`.
    GiveUp,
    /// The leader is another; what the former one had in hand goes into the log, or nowhere.
    ChangeLeader { with_its_change: bool },
    /// The former leader's `State::replace_replicas`.
    ChangeLate,
    /// The fetch that nobody waits for ends.
    FetchStray { is_done: bool },
    /// `State::collect_replicas`, for a replica that the leader holds for one too many.
    Collect { node: u8, chunk: u8 },
    /// `Gateway::remove_node`: the leader has looked at everything.
    AskToRemoveNode { node: u8 },
    /// `State::remove_node`; the node's disk is used for something else from here on.
    RemoveNode,
}

impl World {
    /// What can happen here; some of it may come to nothing.
    pub fn actions(&self, rules: Rules, actions: &mut Vec<Action>) {
        if self.harm.is_some() {
            return;
        }
        self.of_clients(actions);
        self.of_nodes(rules, actions);
        self.of_repair(rules, actions);
        self.of_operators(rules, actions);
    }

    fn of_clients(&self, actions: &mut Vec<Action>) {
        let idle = Self::chunks().find(|chunk| self.phase(*chunk) == Phase::Idle);
        if let Some(chunk) = idle.filter(|_| self.left.puts > 0) {
            let is_candidate = |node: u8| self.nodes[node as usize].standing == Standing::Registered;
            let placements = Self::numbers()
                .filter(|without| Self::numbers().all(|node| node == *without || is_candidate(node)));
            actions.extend(placements.map(|without| Action::Begin { chunk, without }));
        }
        for chunk in Self::chunks() {
            let nodes = Self::numbers().filter(|node| self.cell(*node, chunk).granted);
            let up = nodes.filter(|node| self.nodes[*node as usize].belief != Belief::Nothing);
            actions.extend(up.map(|node| Action::Write { node, chunk }));
            if Self::numbers().any(|node| self.cell(node, chunk).receipt.is_some()) {
                actions.push(Action::Commit { chunk });
            }
            if self.phase(chunk) == Phase::Open {
                actions.push(Action::Abort { chunk });
            }
        }
        if self.held_by_key().is_some() {
            if self.left.deletes > 0 {
                actions.push(Action::Delete);
            }
            if self.left.reads > 0 && !self.is_read() {
                actions.push(Action::Read);
            }
        }
        if self.is_read() {
            actions.push(Action::ReadEnds);
        }
    }

    pub(crate) fn is_read(&self) -> bool {
        Self::places().any(|(node, chunk)| self.cell(node, chunk).read)
    }

    fn of_nodes(&self, rules: Rules, actions: &mut Vec<Action>) {
        for (node, chunk) in Self::places() {
            match self.cell(node, chunk).pending {
                Pending::Waiting if rules.has(Rule::GraceOutlastsReaders) && self.cell(node, chunk).read => {}
                Pending::Waiting => actions.push(Action::GraceEnds { node, chunk }),
                Pending::Due => {
                    actions.push(Action::Remove { node, chunk });
                    if !rules.has(Rule::ForgottenOnceRemoved) {
                        actions.push(Action::Forget { node, chunk });
                    }
                }
                Pending::Forgotten => actions.push(Action::Remove { node, chunk }),
                Pending::Removed => actions.push(Action::Forget { node, chunk }),
                Pending::No => {}
            }
        }
        for node in Self::numbers() {
            let of_node = &self.nodes[node as usize];
            if of_node.standing == Standing::Removed {
                continue;
            }
            if of_node.standing == Standing::Registered && self.left.fences > 0 {
                actions.push(Action::Fence { node });
            }
            if of_node.belief != Belief::Present {
                actions.push(Action::Register { node });
            }
            if of_node.belief != Belief::Nothing {
                if self.left.restarts > 0 {
                    actions.push(Action::Restart { node });
                }
                if self.left.wipes > 0 {
                    actions.push(Action::Wipe { node });
                }
            }
        }
    }

    fn of_repair(&self, rules: Rules, actions: &mut Vec<Action>) {
        match self.job {
            None => self.beginnings(rules, actions),
            Some(job) => {
                match job.stage {
                    Stage::Ordered => actions.push(Action::Fetch),
                    Stage::Fetched => actions.push(Action::Tell),
                    Stage::Told => actions.push(Action::Change),
                }
                if job.stage != Stage::Told {
                    actions.push(Action::GiveUp);
                }
                if self.left.leaders > 0 {
                    actions.push(Action::ChangeLeader { with_its_change: false });
                    if job.stage == Stage::Told && self.late.is_none() {
                        actions.push(Action::ChangeLeader { with_its_change: true });
                    }
                }
            }
        }
        if self.late.is_some() {
            actions.push(Action::ChangeLate);
        }
        if self.stray.is_some() {
            actions.extend([true, false].map(|is_done| Action::FetchStray { is_done }));
        }
        let held = Self::places().filter(|(node, chunk)| self.cell(*node, *chunk).held);
        actions.extend(held.map(|(node, chunk)| Action::Collect { node, chunk }));
    }

    pub(crate) fn beginnings(&self, rules: Rules, actions: &mut Vec<Action>) {
        let Some(chunk) = self.held_by_key() else { return };
        let named = || Self::numbers().filter(|node| self.cell(*node, chunk).named);
        if !named().any(|node| self.cell(node, chunk).held) {
            return;
        }
        let (is_up, is_gone) = (
            |node: u8| self.nodes[node as usize].standing == Standing::Registered,
            |node: u8| self.nodes[node as usize].standing != Standing::Registered,
        );
        for from in named() {
            if rules.has(Rule::DoubtsAreRepaired) && is_up(from) && !self.cell(from, chunk).held {
                actions.push(Action::RepairInPlace { node: from, chunk });
            }
            if !is_gone(from) && self.left.drains == 0 {
                continue;
            }
            let free = |to: &u8| {
                let cell = self.cell(*to, chunk);
                !cell.named && !cell.pending.is_known() && is_up(*to)
            };
            actions.extend(Self::numbers().filter(free).map(|to| Action::RepairElsewhere {
                chunk,
                from,
                to,
            }));
        }
    }

    fn of_operators(&self, rules: Rules, actions: &mut Vec<Action>) {
        if self.removal.is_some() {
            actions.push(Action::RemoveNode);
        } else if self.left.removals > 0 {
            let is_empty = |node: u8| (0..CHUNKS as u8).all(|chunk| !self.cell(node, chunk).named);
            let may = |node: &u8| {
                let standing = self.nodes[*node as usize].standing;
                standing != Standing::Removed
                    && (standing == Standing::Fenced || !rules.has(Rule::RemovalNeedsFence))
                    && (is_empty(*node) || !rules.has(Rule::RemovalNeedsEmptyNode))
            };
            actions.extend(Self::numbers().filter(may).map(|node| Action::AskToRemoveNode { node }));
        }
    }
}
