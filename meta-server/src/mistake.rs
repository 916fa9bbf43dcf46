//! Mistakes that the simulation plants, to see that it would find them if somebody made them.
//!
//! Invariant: outside of tests nothing is planted, which the compiler knows: no program has a trace of them
//! (docs/design/0019-the-simulator.md).

#[cfg(test)]
use std::cell::Cell;

macro_rules! mistakes {
    ($($list:ident { $($(#[$doc:meta])* $name:ident,)* })*) => {
        /// One of them.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum Mistake {
            $($($(#[$doc])* $name,)*)*
        }

        #[cfg(test)]
        impl Mistake {
            $(pub(crate) const $list: &'static [Self] = &[$(Self::$name,)*];)*
        }
    };
}

// Those that the simulation of consensus finds, and those that the simulated cluster finds.
mistakes! {
ALL {
    /// Acknowledgements of entries leave before those are durable.
    AcknowledgementsLeaveEarly,
    /// Snapshots hold no answers to repeated requests.
    AnswersForgottenInSnapshots,
    /// Entries are applied as soon as they are in the log.
    AppliesBeforeCommit,
    /// The state's time is that of the server that applies.
    AppliesByLocalClock,
    /// The numbers of chunks begin anew behind a snapshot.
    ChunkNumbersForgottenInSnapshots,
    /// At a restart the servers are those that the cluster began with.
    ConfigurationForgottenAtRestart,
    /// A snapshot has the servers of when it is stored, not those of its last entry.
    ConfigurationOfAnotherEntry,
    /// A follower puts commands on their way to the leader.
    FollowersForward,
    /// A chunk goes although a copy still has it.
    FreesSharedChunks,
    /// Term and vote become durable with the next entries only.
    HardStateWaitsForEntries,
    /// A snapshot counts before its parts are there.
    InstallsBeforeParts,
    /// The second set of voters decides alone as soon as there is one.
    JointStateLeftEarly,
    /// What another leader's log replaces stays.
    KeepsConflictingTail,
    /// A leader's own copy counts before it is durable.
    OwnCopyCountsEarly,
    /// Preconditions are looked at when a put begins, and not when it takes effect.
    PreconditionsOnlyAtBegin,
    /// A leader that has committed nothing yet answers reads.
    ReadsBeforeFirstCommit,
    /// Reads are answered before the state includes what they must see.
    ReadsFromBehind,
    /// A leader answers reads without asking whether it still leads.
    ReadsWithoutQuorum,
    /// A repeated request is applied once more.
    RepeatsApplied,
    /// Nothing is ever synced.
    SkipsSync,
    /// At a restart everything in the log counts as committed.
    StoredCommitAhead,
    /// Entries of a leader whose term is over are taken.
    TakesStaleTerms,
    /// A command whose outcome nobody knows is called refused.
    UnknownCalledRefused,
    /// What an object took is still counted when another one takes its place.
    UsageOfReplacedCounted,
    /// A version is numbered when its put begins.
    VersionsByBegin,
    /// Term and vote are forgotten at a restart.
    VoteForgottenAtRestart,
    /// Votes leave before they are durable.
    VotesLeaveEarly,
    /// A new server votes before it has learned anything.
    VotesWithoutLearning,
}
OF_REPAIR {
    /// A commit counts receipts of registrations that are over.
    CountsPastReceipts,
    /// What puts were promised and did not get is never made.
    DebtForgotten,
    /// Nobody looks into replicas that may not be there.
    DoubtsForgotten,
    /// The leader ends registrations, and nothing comes of it.
    FencesEndNothing,
    /// What a node is to make is not given up when the node is.
    JobsOfTheDeadStay,
    /// A replica goes as soon as nothing refers to it.
    RemovesWithoutGrace,
}
}

#[cfg(test)]
thread_local! {
    static PLANTED: Cell<Option<Mistake>> = const { Cell::new(None) };
}

/// Whether the code shall make this mistake.
#[cfg(not(test))]
pub(crate) const fn is_planted(_mistake: Mistake) -> bool {
    false
}

/// Whether the code shall make this mistake, on this thread.
#[cfg(test)]
pub(crate) fn is_planted(mistake: Mistake) -> bool {
    PLANTED.get() == Some(mistake)
}

/// From now on the code makes this mistake, or none, on this thread.
#[cfg(test)]
pub(crate) fn plant(mistake: Option<Mistake>) {
    PLANTED.set(mistake);
}
