//! What the metadata servers run, each by its own word, and how much of that the cluster uses.
//!
//! Invariant: nobody raises the cluster to a level that a server does not support which takes part, and a server that
//! supports less than the cluster's level is neither listened to nor told anything that belongs into its log.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::RaftStatus;
use crate::state_machine::{FeatureLevel, MEMBERS_MAX, Members};

/// Servers whose word is kept: all members, and others that say they are.
const PROGRAMS_MAX: usize = 4 * MEMBERS_MAX;
/// How long a leader waits for servers that it does not hear of before it leaves the first level without them. There they
/// can't be removed, since that takes a higher one.
const SILENCE_AT_FIRST_LEVEL: Duration = Duration::from_secs(5);

/// What a server runs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Program {
    /// For people; empty: of a release that does not say.
    pub version: String,
    /// The highest feature level that it supports.
    pub feature_level: FeatureLevel,
}

/// What this server knows of all programs. Clones are the same.
#[derive(Clone, Debug)]
pub struct Programs(Arc<Known>);

#[derive(Debug)]
struct Known {
    own: Program,
    /// The cluster's level, by what this server has applied.
    cluster: AtomicU32,
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    by_id: BTreeMap<u64, Program>,
    /// Since when this server waits for the others, as the leader of this term.
    waiting: Option<(u64, Instant)>,
}

impl Program {
    /// This one, as far as it may be used.
    pub(crate) fn own(feature_level_max: FeatureLevel) -> Self {
        let feature_level = FeatureLevel::SUPPORTED.min(feature_level_max);
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), feature_level }
    }
}

impl Programs {
    pub(crate) fn new(own: Program) -> Self {
        Self(Arc::new(Known { own, cluster: AtomicU32::new(0), others: Mutex::default() }))
    }

    /// What this server runs.
    pub(crate) fn own(&self) -> &Program {
        &self.0.own
    }

    /// The cluster's level, as far as this server knows.
    pub(crate) fn cluster_level(&self) -> FeatureLevel {
        FeatureLevel(self.0.cluster.load(Ordering::Relaxed))
    }

    /// The cluster is at this level, by what is applied here.
    pub(crate) fn follow_cluster(&self, level: FeatureLevel) {
        self.0.cluster.store(level.0, Ordering::Relaxed);
    }

    /// Another server has said what it runs.
    pub(crate) fn hear(&self, id: u64, mut program: Program) {
        crate::hearsay::bound_text(&mut program.version);
        let mut others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        if others.by_id.len() < PROGRAMS_MAX || others.by_id.contains_key(&id) {
            others.by_id.insert(id, program);
        }
    }

    /// What the server `id` runs, if it has said so.
    pub(crate) fn find(&self, id: u64) -> Option<Program> {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned()
    }

    /// The level that this server, which leads, may raise the cluster to.
    pub(crate) fn common_level(
        &self,
        own: u64,
        status: &RaftStatus,
        members: &Members,
        now: Instant,
    ) -> FeatureLevel {
        let mut others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match others.waiting {
            Some((term, since)) if term == status.term => since,
            Some(_) | None => others.waiting.insert((status.term, now)).1,
        };
        let is_long = now.saturating_duration_since(since) >= SILENCE_AT_FIRST_LEVEL;
        let waits_for_silent = self.cluster_level() > FeatureLevel::FIRST || !is_long;
        let is_active = |id: u64| status.voters.iter().any(|server| server.id == id && server.active);
        let mut ids = status.configuration.ids();
        ids.extend(members.iter().map(|member| member.id));
        let levels = ids.into_iter().filter(|id| *id != own).filter_map(|id| match others.by_id.get(&id) {
            _ if !waits_for_silent && !is_active(id) => None,
            Some(program) => Some(program.feature_level),
            None => Some(FeatureLevel::FIRST),
        });
        levels.fold(self.0.own.feature_level, FeatureLevel::min)
    }

    /// The level that a new cluster begins at: what all support that have been heard of. Others are kept out by it.
    pub(crate) fn first_level(&self) -> FeatureLevel {
        let others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        let levels = others.by_id.values().map(|program| program.feature_level);
        levels.fold(self.0.own.feature_level, FeatureLevel::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{consensus::VoterStatus, state_machine::Configuration};

    fn status(silent: Option<u64>) -> RaftStatus {
        let voter = |id| VoterStatus { id, active: Some(id) != silent, ..Default::default() };
        RaftStatus {
            voters: (1..=3).map(voter).collect(),
            configuration: Configuration::of_voters(1..=3),
            ..Default::default()
        }
    }

    fn program(level: u32) -> Program {
        Program { version: "1".into(), feature_level: FeatureLevel(level) }
    }

    fn programs(cluster: u32, others: &[(u64, u32)]) -> Programs {
        let programs = Programs::new(program(2));
        programs.follow_cluster(FeatureLevel(cluster));
        others.iter().for_each(|(id, level)| programs.hear(*id, program(*level)));
        programs
    }

    fn common(programs: &Programs, silent: Option<u64>, now: Instant) -> u32 {
        programs.common_level(1, &status(silent), &Members::default(), now).0
    }

    #[test]
    fn level_is_what_all_have_announced() {
        let now = Instant::now();
        let check = |others: &[(u64, u32)], expect| {
            assert_eq!(common(&programs(1, others), None, now), expect, "{others:?}");
        };
        check(&[(2, 2), (3, 2)], 2);
        check(&[(2, 2), (3, 1)], 1);
        check(&[(2, 3), (3, 3)], 2);
        check(&[(2, 2)], 0);
    }

    #[test]
    fn silent_server_is_waited_for_but_at_the_first_level() {
        let began = Instant::now();
        let later = began + SILENCE_AT_FIRST_LEVEL;
        for (cluster, expect) in [(0, 2), (1, 0)] {
            let programs = programs(cluster, &[(2, 2)]);
            assert_eq!(common(&programs, Some(3), began), 0);
            assert_eq!(common(&programs, None, later), 0, "it is heard of");
            assert_eq!(common(&programs, Some(3), later), expect, "the cluster is at level {cluster}");
        }
    }

    #[test]
    fn new_cluster_begins_at_what_all_support_that_are_there() {
        assert_eq!(programs(0, &[]).first_level(), FeatureLevel(2));
        assert_eq!(programs(0, &[(2, 2), (3, 0)]).first_level(), FeatureLevel(0));
    }

    #[test]
    fn words_of_strangers_are_bounded() {
        let programs = programs(0, &[]);
        (1..1000).for_each(|id| programs.hear(id, program(1)));
        assert!(programs.find(1).is_some() && programs.find(999).is_none());
        programs.hear(1, program(2));
        assert_eq!(programs.find(1), Some(program(2)));
    }
}
