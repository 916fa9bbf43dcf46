//! Whether this server's state is still what the others have: fingerprints after the same entries, compared.
//!
//! Invariant: a server stops only if a majority of those that vote have another state, or if all have spoken, no majority
//! agrees, and it is not the one that leads. So what is wrong stops, and what is right goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Halt;
use crate::state_machine::{Configuration, MEMBERS_MAX};

/// Fingerprints are compared after entries whose index is a multiple of this.
pub const CHECKPOINT_ENTRIES: u64 = 1024;
/// Checkpoints that are remembered of each server: further behind, a server gets a snapshot anyway.
const CHECKPOINTS_MAX: usize = 16;
/// Servers whose word is kept.
const SERVERS_MAX: usize = 4 * MEMBERS_MAX;

/// Fingerprints by the entries after which they were taken.
type Checkpoints = BTreeMap<u64, u64>;

/// What this server knows of all states. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Fingerprints(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    own: Checkpoints,
    others: BTreeMap<u64, Checkpoints>,
    /// What is right.
    agreed: Checkpoints,
    /// Entries about which it was said that nobody can tell who is right.
    told: BTreeSet<u64>,
}

/// A fingerprint after an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) index: u64,
    pub(crate) fingerprint: u64,
}

impl Fingerprints {
    /// This server's state has this fingerprint after the entry.
    pub(super) fn note(&self, checkpoint: Checkpoint) -> Option<Halt> {
        let mut known = self.lock();
        remember(&mut known.own, checkpoint);
        known.halt()
    }

    /// The server `id` says what it has.
    pub(crate) fn hear(&self, id: u64, checkpoints: impl IntoIterator<Item = Checkpoint>) {
        let mut known = self.lock();
        if known.others.len() >= SERVERS_MAX && !known.others.contains_key(&id) {
            return;
        }
        let theirs = known.others.entry(id).or_default();
        checkpoints.into_iter().take(CHECKPOINTS_MAX).for_each(|checkpoint| remember(theirs, checkpoint));
    }

    /// Another server says what is right.
    pub(crate) fn hear_agreed(&self, agreed: impl IntoIterator<Item = Checkpoint>) -> Option<Halt> {
        let mut known = self.lock();
        for checkpoint in agreed.into_iter().take(CHECKPOINTS_MAX) {
            remember(&mut known.agreed, checkpoint);
        }
        known.halt()
    }

    /// This server leads, and judges by what it has heard.
    pub(crate) fn judge(&self, own: u64, configuration: &Configuration) -> Option<Halt> {
        let mut known = self.lock();
        known.judge(own, configuration);
        known.halt()
    }

    /// What this server has.
    pub(crate) fn own(&self) -> Vec<Checkpoint> {
        list(&self.lock().own)
    }

    /// What is right, as far as this server knows.
    pub(crate) fn agreed(&self) -> Vec<Checkpoint> {
        list(&self.lock().agreed)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn judge(&mut self, own: u64, configuration: &Configuration) {
        for (index, ours) in self.own.clone() {
            if self.agreed.contains_key(&index) {
                continue;
            }
            let said = |id: u64| match id == own {
                true => Some(ours),
                false => self.others.get(&id).and_then(|checkpoints| checkpoints.get(&index)).copied(),
            };
            let voters = || configuration.voters.iter().chain(&configuration.voters_outgoing).copied();
            let opinions: BTreeSet<u64> = voters().filter_map(said).collect();
            let is_of_majority = |opinion: &u64| configuration.is_quorum(|id| said(id) == Some(*opinion));
            let have_all_spoken = voters().all(|id| said(id).is_some());
            let right = opinions.iter().copied().find(is_of_majority).or(have_all_spoken.then_some(ours));
            if opinions.len() > 1 && self.told.insert(index) {
                tracing::error!(index, ?right, "metadata servers have different states after the same entry");
            }
            if let Some(fingerprint) = right {
                remember(&mut self.agreed, Checkpoint { index, fingerprint });
            }
        }
        while self.told.len() > CHECKPOINTS_MAX {
            self.told.pop_first();
        }
    }

    fn halt(&self) -> Option<Halt> {
        let differs =
            |(index, ours): &(&u64, &u64)| self.agreed.get(index).is_some_and(|right| right != *ours);
        let (index, _) = self.own.iter().find(differs)?;
        Some(Halt::Diverged { index: *index })
    }
}

fn list(checkpoints: &Checkpoints) -> Vec<Checkpoint> {
    checkpoints
        .iter()
        .map(|(index, fingerprint)| Checkpoint { index: *index, fingerprint: *fingerprint })
        .collect()
}

/// The newest ones are kept.
fn remember(checkpoints: &mut Checkpoints, Checkpoint { index, fingerprint }: Checkpoint) {
    checkpoints.insert(index, fingerprint);
    if checkpoints.len() > CHECKPOINTS_MAX {
        checkpoints.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, fingerprint: u64) -> Checkpoint {
        Checkpoint { index, fingerprint }
    }

    /// What the leader, which is server 1, comes to about entry 5, and whether it stops.
    fn judged(voters: &[u64], words: &[(u64, u64)]) -> (Vec<u64>, bool) {
        let fingerprints = Fingerprints::default();
        for (id, fingerprint) in words {
            match id {
                1 => assert_eq!(fingerprints.note(at(5, *fingerprint)), None),
                _ => fingerprints.hear(*id, [at(5, *fingerprint)]),
            }
        }
        let halt = fingerprints.judge(1, &Configuration::of_voters(voters.iter().copied()));
        (fingerprints.agreed().iter().map(|agreed| agreed.fingerprint).collect(), halt.is_some())
    }

    #[test]
    fn majority_is_right() {
        let check = |voters: &[u64], words: &[(u64, u64)], right: &[u64], stops: bool| {
            assert_eq!(judged(voters, words), (right.to_vec(), stops), "{words:?}");
        };
        check(&[1, 2, 3], &[(1, 7), (2, 7), (3, 7)], &[7], false);
        check(&[1, 2, 3], &[(1, 7), (2, 7)], &[7], false);
        check(&[1, 2, 3], &[(1, 7), (2, 7), (3, 8)], &[7], false);
        check(&[1, 2, 3], &[(1, 8), (2, 7), (3, 7)], &[7], true);
        check(&[1, 2, 3, 4, 5], &[(1, 8), (2, 7), (3, 7), (4, 7)], &[7], true);
    }

    #[test]
    fn while_nobody_can_tell_nobody_stops() {
        assert_eq!(judged(&[1, 2, 3], &[(1, 7), (2, 8)]), (vec![], false));
        assert_eq!(judged(&[1, 2, 3], &[(1, 7)]), (vec![], false));
    }

    #[test]
    fn without_a_majority_the_leader_is_right_once_all_have_spoken() {
        assert_eq!(judged(&[1, 2], &[(1, 7), (2, 8)]), (vec![7], false));
        assert_eq!(judged(&[1, 2, 3], &[(1, 7), (2, 8), (3, 9)]), (vec![7], false));
    }

    #[test]
    fn words_of_those_that_do_not_vote_are_no_votes() {
        assert_eq!(judged(&[1, 2, 3], &[(1, 7), (4, 8), (5, 8)]), (vec![], false));
    }

    #[test]
    fn server_stops_whenever_it_learns_that_it_differs() {
        let early = Fingerprints::default();
        assert_eq!(early.hear_agreed([at(5, 7), at(10, 7)]), None);
        assert_eq!(early.note(at(5, 7)), None);
        assert_eq!(early.note(at(10, 8)), Some(Halt::Diverged { index: 10 }));
        let late = Fingerprints::default();
        assert_eq!(late.note(at(5, 8)), None);
        assert_eq!(late.hear_agreed([at(4, 7)]), None);
        assert_eq!(late.hear_agreed([at(5, 7)]), Some(Halt::Diverged { index: 5 }));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let fingerprints = Fingerprints::default();
        for index in 0..1000 {
            fingerprints.note(at(index, 1));
            fingerprints.hear(index, [at(index, 1)]);
        }
        let known = fingerprints.lock();
        assert_eq!((known.own.len(), known.others.len()), (CHECKPOINTS_MAX, SERVERS_MAX));
        assert_eq!(known.own.last_key_value(), Some((&999, &1)), "the newest are kept");
    }
}
