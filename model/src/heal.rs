//! What becomes of a world in which nothing goes wrong any more.
//!
//! Clients leave, nodes register, the leader does what is due: one order of many, which shows that there is a way.

use crate::{
    action::Action,
    rule::{Rule, Rules},
    world::{Belief, Pending, Phase, Stage, Standing, World},
};

/// More steps than there can be anything to do.
const STEPS_MAX: usize = 200;

impl World {
    /// Whether the object that the key holds gets all its replicas back if it can, and nothing else is left on any node.
    #[must_use]
    pub fn heals(&self, rules: Rules) -> bool {
        let mut world = *self;
        for _ in 0..STEPS_MAX {
            match world.due(rules) {
                Some(action) => world.take(rules, action),
                None => return world.is_healed(),
            }
        }
        false
    }

    fn is_healed(&self) -> bool {
        let is_out_of_reach = |chunk| !Self::numbers().any(|node| self.cell(node, chunk).held);
        Self::places().all(|(node, chunk)| {
            let cell = self.cell(node, chunk);
            let is_gone = cell.named && is_out_of_reach(chunk);
            let is_there = self.nodes[node as usize].standing == Standing::Registered && cell.held;
            is_gone || if cell.named { is_there } else { !cell.held && cell.pending == Pending::No }
        })
    }

    /// The next thing to be done.
    fn due(&self, rules: Rules) -> Option<Action> {
        self.due_of_others().or_else(|| self.due_of_repair(rules)).or_else(|| self.due_of_collection(rules))
    }

    fn due_of_others(&self) -> Option<Action> {
        let is_down = |node: &u8| {
            let node = &self.nodes[*node as usize];
            node.standing != Standing::Removed && node.belief != Belief::Present
        };
        if let Some(chunk) = Self::chunks().find(|chunk| self.phase(*chunk) == Phase::Open) {
            return Some(Action::Abort { chunk });
        }
        if self.is_read() {
            return Some(Action::ReadEnds);
        }
        if let Some(node) = Self::numbers().find(is_down) {
            return Some(Action::Register { node });
        }
        if self.removal.is_some() {
            return Some(Action::RemoveNode);
        }
        if self.late.is_some() {
            return Some(Action::ChangeLate);
        }
        self.stray.map(|_| Action::FetchStray { is_done: true })
    }

    fn due_of_repair(&self, rules: Rules) -> Option<Action> {
        if let Some(job) = self.job {
            let is_hopeless = self.phase(job.change.chunk) != Phase::Committed
                || self.nodes[job.change.to as usize].standing != Standing::Registered;
            return Some(match job.stage {
                Stage::Told => Action::Change,
                _ if is_hopeless => Action::GiveUp,
                Stage::Ordered if !Self::numbers().any(|node| self.cell(node, job.change.chunk).held) => {
                    Action::GiveUp
                }
                Stage::Ordered => Action::Fetch,
                Stage::Fetched => Action::Tell,
            });
        }
        let mut actions = Vec::new();
        let needs_no_drain = Self { left: crate::world::Scope::default(), ..*self };
        needs_no_drain.beginnings(rules, &mut actions);
        actions.first().copied()
    }

    fn due_of_collection(&self, rules: Rules) -> Option<Action> {
        Self::places().find_map(|(node, chunk)| {
            let cell = self.cell(node, chunk);
            let is_unknown = matches!(self.phase(chunk), Phase::Aborted | Phase::Deleted);
            match cell.pending {
                Pending::Waiting => Some(Action::GraceEnds { node, chunk }),
                Pending::Due | Pending::Forgotten => Some(Action::Remove { node, chunk }),
                Pending::Removed => Some(Action::Forget { node, chunk }),
                Pending::No if cell.named || !cell.held => None,
                Pending::No if is_unknown && !rules.has(Rule::UnknownIsCollected) => None,
                Pending::No if self.nodes[node as usize].standing == Standing::Removed => None,
                Pending::No => Some(Action::Collect { node, chunk }),
            }
        })
    }
}
