//! What comes of a step.

use crate::{
    action::Action,
    rule::{Rule, Rules},
    world::{Belief, Cell, Change, Harm, Job, Past, Pending, Phase, REPLICAS, Stage, Standing, Word, World},
};

impl World {
    /// The world after the step. None: it changes nothing.
    #[must_use]
    pub fn after(&self, rules: Rules, action: Action) -> Option<Self> {
        let mut world = *self;
        world.take(rules, action);
        (world != *self).then(|| world.canonical())
    }

    /// Names stay as they are.
    pub(crate) fn take(&mut self, rules: Rules, action: Action) {
        match action {
            Action::Begin { chunk, without } => self.begin(chunk, without),
            Action::Write { node, chunk } => self.write(node, chunk),
            Action::Commit { chunk } => self.commit(rules, chunk),
            Action::Abort { chunk } => self.abort(chunk),
            Action::Delete => self.delete(),
            Action::Read => self.read(),
            Action::ReadEnds => self.end_read(),
            Action::GraceEnds { node, chunk } => self.end_grace(rules, node, chunk),
            Action::Remove { node, chunk } => self.remove_replica(node, chunk),
            Action::Forget { node, chunk } => self.forget(node, chunk),
            Action::Fence { node } => self.fence(node),
            Action::Restart { node } => {
                self.left.restarts -= 1;
                self.stop(node);
            }
            Action::Wipe { node } => {
                self.left.wipes -= 1;
                self.stop(node);
                self.wipe(node);
            }
            Action::Register { node } => self.register(node),
            Action::RepairInPlace { node, chunk } => self.order(chunk, None, node),
            Action::RepairElsewhere { chunk, from, to } => {
                if self.nodes[from as usize].standing == Standing::Registered {
                    self.left.drains -= 1;
                }
                self.order(chunk, Some(from), to);
            }
            Action::Fetch => self.fetch(),
            Action::Tell => self.tell(),
            Action::Change => {
                if let Some(job) = self.job.take() {
                    self.change(rules, job.change);
                }
            }
            Action::GiveUp => self.give_up(rules),
            Action::ChangeLeader { with_its_change } => self.change_leader(with_its_change),
            Action::ChangeLate => {
                if let Some(change) = self.late.take() {
                    self.change(rules, change);
                }
            }
            Action::FetchStray { is_done } => {
                if let Some((node, chunk)) = self.stray.take().filter(|_| is_done) {
                    self.get(node, chunk);
                }
            }
            Action::Collect { node, chunk } => self.collect_found(rules, node, chunk),
            Action::AskToRemoveNode { node } => {
                self.left.removals -= 1;
                self.removal = Some((node, true));
            }
            Action::RemoveNode => self.remove_node(rules),
        }
    }

    fn begin(&mut self, chunk: u8, without: u8) {
        self.left.puts -= 1;
        self.phases[chunk as usize] = Phase::Open;
        for node in Self::numbers().filter(|node| *node != without) {
            self.cell_mut(node, chunk).granted = true;
        }
    }

    fn write(&mut self, node: u8, chunk: u8) {
        let belief = self.nodes[node as usize].belief;
        let is_open = self.phase(chunk) == Phase::Open;
        let cell = self.cell_mut(node, chunk);
        cell.held = true;
        let past = match belief {
            Belief::Present => Past::Not,
            Belief::Past => Past::Fenced,
            Belief::Nothing => return,
        };
        if is_open {
            cell.receipt = Some(Word { past, is_lost: false });
        }
    }

    /// Whether the log counts a word, as far as its registration goes; `rule` is what makes sure of that.
    fn counts(rules: Rules, rule: Rule, word: Word) -> bool {
        let is_noticed = match word.past {
            Past::Not => false,
            Past::Fenced => rules.has(Rule::FenceEndsRegistration),
            Past::Restarted => rules.has(Rule::StartIsRegistration),
        };
        !is_noticed || !rules.has(rule)
    }

    fn commit(&mut self, rules: Rules, chunk: u8) {
        match self.phase(chunk) {
            Phase::Open => {}
            // A repeated request.
            Phase::Committed | Phase::Idle => return,
            Phase::Aborted | Phase::Deleted if rules.has(Rule::CommitNeedsOpenUpload) => return,
            Phase::Aborted | Phase::Deleted => self.harm = Some(Harm::CameBack),
        }
        let vouches = |node: &u8| {
            let receipt = self.cell(*node, chunk).receipt;
            receipt.is_some_and(|word| Self::counts(rules, Rule::ReceiptsArePresent, word))
        };
        let vouching: Vec<u8> = Self::numbers().filter(vouches).collect();
        let needed = if rules.has(Rule::EnoughReceipts) { REPLICAS } else { 1 };
        if vouching.len() < needed {
            self.harm = None;
            return;
        }
        if let Some(held) = self.held_by_key() {
            self.release(held, Phase::Deleted);
        }
        self.phases[chunk as usize] = Phase::Committed;
        for node in Self::numbers() {
            let Some(word) = self.cell(node, chunk).receipt.filter(|_| vouching.contains(&node)) else {
                if self.cell(node, chunk).granted {
                    self.remove_later(node, chunk);
                }
                continue;
            };
            self.name(node, chunk, word);
        }
        // The client has its answer.
        if rules.has(Rule::CommitNeedsOpenUpload) {
            self.forget_receipts(chunk);
        }
    }

    fn name(&mut self, node: u8, chunk: u8, word: Word) {
        let cell = self.cell_mut(node, chunk);
        cell.named = true;
        cell.lost = word.is_lost;
        if word.past != Past::Not {
            self.harm = self.harm.or(Some(Harm::VouchedByPast));
        }
    }

    fn forget_receipts(&mut self, chunk: u8) {
        for node in Self::numbers() {
            self.cell_mut(node, chunk).receipt = None;
        }
    }

    fn abort(&mut self, chunk: u8) {
        self.phases[chunk as usize] = Phase::Aborted;
        for node in Self::numbers() {
            if self.cell(node, chunk).granted {
                self.remove_later(node, chunk);
            }
        }
    }

    fn delete(&mut self) {
        if let Some(chunk) = self.held_by_key() {
            self.left.deletes -= 1;
            self.release(chunk, Phase::Deleted);
        }
    }

    /// Nobody refers to the chunk any more: `State::release`.
    fn release(&mut self, chunk: u8, phase: Phase) {
        self.phases[chunk as usize] = phase;
        for node in Self::numbers() {
            if self.cell(node, chunk).named {
                self.leave(node, chunk);
            }
        }
    }

    /// The manifest names the node no more.
    fn leave(&mut self, node: u8, chunk: u8) {
        let cell = self.cell_mut(node, chunk);
        (cell.named, cell.lost) = (false, false);
        self.remove_later(node, chunk);
    }

    fn remove_later(&mut self, node: u8, chunk: u8) {
        if self.nodes[node as usize].standing != Standing::Removed {
            let pending = &mut self.cell_mut(node, chunk).pending;
            if *pending == Pending::No {
                *pending = Pending::Waiting;
            }
        }
    }

    fn read(&mut self) {
        if let Some(chunk) = self.held_by_key() {
            self.left.reads -= 1;
            for node in Self::numbers() {
                let cell = self.cell_mut(node, chunk);
                (cell.read, cell.read_lost) = (cell.named, cell.named && cell.lost);
            }
        }
    }

    fn end_read(&mut self) {
        for (node, chunk) in Self::places() {
            let cell = self.cell_mut(node, chunk);
            (cell.read, cell.read_lost) = (false, false);
        }
    }

    fn end_grace(&mut self, rules: Rules, node: u8, chunk: u8) {
        self.cell_mut(node, chunk).pending = Pending::Due;
        // So much time has passed that nobody can write the chunk any more.
        for other in Self::numbers() {
            self.cell_mut(other, chunk).granted = false;
        }
        if rules.has(Rule::CommitNeedsOpenUpload) && self.phase(chunk) != Phase::Open {
            self.forget_receipts(chunk);
        }
        let is_about = |change: &Change| (change.to, change.chunk) == (node, chunk);
        if let Some(job) = self.job.filter(|job| is_about(&job.change)) {
            let rule = match job.stage {
                Stage::Ordered | Stage::Fetched => Rule::JobsEndWithTheirReplica,
                Stage::Told => Rule::WordsAreYoung,
            };
            if rules.has(rule) {
                self.job = None;
            }
        }
        if rules.has(Rule::WordsAreYoung) {
            self.late = self.late.filter(|change| !is_about(change));
        }
    }

    fn remove_replica(&mut self, node: u8, chunk: u8) {
        let cell = self.cell_mut(node, chunk);
        let is_live = cell.named && cell.held;
        cell.held = false;
        cell.pending = if cell.pending == Pending::Forgotten { Pending::No } else { Pending::Removed };
        if is_live {
            self.harm = Some(Harm::RemovedLive);
        }
    }

    fn forget(&mut self, node: u8, chunk: u8) {
        let pending = &mut self.cell_mut(node, chunk).pending;
        *pending = if *pending == Pending::Due { Pending::Forgotten } else { Pending::No };
    }

    /// All that the node has signed is of a registration that is over.
    fn age_words(&mut self, node: u8, past: Past) {
        let age = |word: &mut Word| {
            if word.past == Past::Not || past == Past::Restarted {
                word.past = past;
            }
        };
        for cell in &mut self.nodes[node as usize].cells {
            cell.receipt.iter_mut().for_each(age);
        }
        if let Some(Job { change, stage: Stage::Told }) = &mut self.job
            && change.to == node
        {
            age(&mut change.word);
        }
        self.late.iter_mut().filter(|change| change.to == node).for_each(|change| age(&mut change.word));
    }

    fn fence(&mut self, node: u8) {
        self.left.fences -= 1;
        let of_node = &mut self.nodes[node as usize];
        of_node.standing = Standing::Fenced;
        if of_node.belief == Belief::Present {
            of_node.belief = Belief::Past;
        }
        self.age_words(node, Past::Fenced);
    }

    fn stop(&mut self, node: u8) {
        let of_node = &mut self.nodes[node as usize];
        of_node.belief = Belief::Nothing;
        for cell in &mut of_node.cells {
            cell.pending = match cell.pending {
                // The leader tells it again.
                Pending::Removed => Pending::Due,
                // Nobody does.
                Pending::Forgotten => Pending::No,
                other => other,
            };
        }
        if let Some(Job { change, stage: stage @ Stage::Fetched }) = &mut self.job
            && change.to == node
        {
            *stage = Stage::Ordered;
        }
        self.stray = self.stray.filter(|(of, _)| *of != node);
    }

    fn wipe(&mut self, node: u8) {
        for cell in &mut self.nodes[node as usize].cells {
            cell.held = false;
            cell.lost = cell.named;
            cell.read_lost = cell.read;
            cell.receipt.iter_mut().for_each(|word| word.is_lost = true);
        }
        if let Some(Job { change, stage: Stage::Told }) = &mut self.job
            && change.to == node
        {
            change.word.is_lost = true;
        }
        self.late.iter_mut().filter(|change| change.to == node).for_each(|change| change.word.is_lost = true);
    }

    fn register(&mut self, node: u8) {
        let of_node = &mut self.nodes[node as usize];
        (of_node.standing, of_node.belief) = (Standing::Registered, Belief::Present);
        self.age_words(node, Past::Restarted);
        if let Some((of, is_same)) = &mut self.removal
            && *of == node
        {
            *is_same = false;
        }
    }

    fn order(&mut self, chunk: u8, from: Option<u8>, to: u8) {
        let change = Change { chunk, from, to, word: Word::default() };
        self.job = Some(Job { change, stage: Stage::Ordered });
    }

    /// The node reads the chunk where it is, and makes it durable.
    fn get(&mut self, node: u8, chunk: u8) -> bool {
        let is_up = self.nodes[node as usize].belief != Belief::Nothing;
        let is_somewhere = Self::numbers().any(|node| self.cell(node, chunk).held);
        if is_up && is_somewhere {
            let cell = self.cell_mut(node, chunk);
            cell.held = true;
            cell.lost = false;
        }
        is_up && is_somewhere
    }

    fn fetch(&mut self) {
        let Some(job) = self.job else { return };
        if self.get(job.change.to, job.change.chunk) {
            // A replica that is made again where it was changes nothing else.
            self.job = job.change.from.map(|_| Job { stage: Stage::Fetched, ..job });
        }
    }

    fn tell(&mut self) {
        let Some(job) = &mut self.job else { return };
        job.change.word.past = match self.nodes[job.change.to as usize].belief {
            Belief::Present => Past::Not,
            Belief::Past => Past::Fenced,
            Belief::Nothing => return,
        };
        job.stage = Stage::Told;
    }

    /// `State::judge_change`, and what follows from it.
    fn change(&mut self, rules: Rules, change: Change) {
        let Change { chunk, from: Some(from), to, word } = change else { return };
        if self.nodes[to as usize].standing == Standing::Removed {
            return;
        }
        if self.phase(chunk) == Phase::Committed {
            if !Self::counts(rules, Rule::WordsArePresent, word) {
                return;
            }
            if self.cell(to, chunk).pending.is_known() && rules.has(Rule::ToIsNotPending) {
                return;
            }
            // That who leaves is named can't be needed here: beside two replicas and the new one there is no other node.
            let is_fit = (!self.cell(to, chunk).named || !rules.has(Rule::ToIsNotNamed))
                && self.cell(from, chunk).named;
            if is_fit {
                self.leave(from, chunk);
                self.name(to, chunk, word);
                return;
            }
        }
        self.collect(rules, to, chunk);
    }

    /// `State::collect`.
    fn collect(&mut self, rules: Rules, node: u8, chunk: u8) {
        let cell = *self.cell(node, chunk);
        let is_open = self.phase(chunk) == Phase::Open && rules.has(Rule::OpenIsNotCollected);
        let is_named = cell.named && rules.has(Rule::NamedIsNotCollected);
        if !is_open && !is_named && !cell.pending.is_known() {
            self.remove_later(node, chunk);
        }
    }

    fn collect_found(&mut self, rules: Rules, node: u8, chunk: u8) {
        let is_unknown = matches!(self.phase(chunk), Phase::Aborted | Phase::Deleted);
        if !is_unknown || rules.has(Rule::UnknownIsCollected) {
            self.collect(rules, node, chunk);
        }
    }

    fn give_up(&mut self, rules: Rules) {
        let Some(Job { change, stage }) = self.job.take() else { return };
        if stage == Stage::Ordered {
            self.stray = Some((change.to, change.chunk));
        }
        if self.phase(change.chunk) != Phase::Committed {
            self.collect(rules, change.to, change.chunk);
        }
    }

    fn change_leader(&mut self, with_its_change: bool) {
        self.left.leaders -= 1;
        let Some(Job { change, stage }) = self.job.take() else { return };
        match stage {
            Stage::Ordered => self.stray = Some((change.to, change.chunk)),
            Stage::Fetched => {}
            Stage::Told if with_its_change => self.late = Some(change),
            Stage::Told => {}
        }
    }

    fn remove_node(&mut self, rules: Rules) {
        let Some((node, is_same)) = self.removal.take() else { return };
        let of_node = &mut self.nodes[node as usize];
        let is_over = of_node.standing == Standing::Fenced || !rules.has(Rule::RemovalNeedsFence);
        let is_another = !is_same && rules.has(Rule::RemovalNeedsSameRegistration);
        if !is_over || is_another {
            return;
        }
        of_node.standing = Standing::Removed;
        of_node.belief = Belief::Nothing;
        for cell in &mut of_node.cells {
            *cell = Cell { named: cell.named, read: cell.read, read_lost: cell.read, ..Cell::default() };
        }
        self.age_words(node, Past::Restarted);
        self.stray = self.stray.filter(|(of, _)| *of != node);
    }
}
