//! The rules that the protocol rests on. Each can be switched off, to see that something breaks without it.

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something that the code makes sure of.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }
    };
}

rules! {
    /// A commit needs an upload that nothing has ended: `State::judge_commit`, and that `AbortPut` and `ExpireUploads` are
    /// entries.
    CommitNeedsOpenUpload,
    /// A node that lacks what a manifest names it for is told to get it: `Page::compare`, `Repair::doubt`.
    DoubtsAreRepaired,
    /// A commit needs receipts of `min_replicas` nodes: `State::receive_chunk`.
    EnoughReceipts,
    /// A fence ends the registration: `Node::end_registration`.
    FenceEndsRegistration,
    /// A node's word for a removal counts once that is durable: `Deletions::succeeded`.
    ForgottenOnceRemoved,
    /// A replica goes when nobody can read it any more: `Context::removable_ms`, `PendingDeletes::due`.
    GraceOutlastsReaders,
    /// A node that is to remove a chunk makes none of it: `Repair::give_up`.
    JobsEndWithTheirReplica,
    /// No replica is collected that a manifest names: `State::collect`.
    NamedIsNotCollected,
    /// No replica is collected that a client may be about to commit: `State::collect`.
    OpenIsNotCollected,
    /// A commit counts receipts of present registrations: `Node::vouches_for` in `State::receive_chunk`.
    ReceiptsArePresent,
    /// A node is removed once no manifest names it: `Gateway::remove_node`.
    RemovalNeedsEmptyNode,
    /// A node is removed once its registration is over: `State::remove_node`.
    RemovalNeedsFence,
    /// It is the registration that the leader has looked at: `State::remove_node`.
    RemovalNeedsSameRegistration,
    /// Each start of a node is a new registration: `State::register_node`.
    StartIsRegistration,
    /// A change does not name a node twice: `State::judge_change`.
    ToIsNotNamed,
    /// A change does not name a node that is to remove the chunk: `State::judge_change`.
    ToIsNotPending,
    /// What nobody refers to can be collected, whoever wrote it: `State::collect`.
    UnknownIsCollected,
    /// A change counts words of present registrations: `Node::vouches_for` in `State::judge_change`.
    WordsArePresent,
    /// A node's word is used before it could have removed the chunk again: `Repair::changes`.
    WordsAreYoung,
}

/// The rules in force.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    off: Option<Rule>,
}

impl Rules {
    /// All but one.
    #[must_use]
    pub const fn without(rule: Rule) -> Self {
        Self { off: Some(rule) }
    }

    /// Whether the rule is in force.
    #[must_use]
    pub fn has(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }
}
