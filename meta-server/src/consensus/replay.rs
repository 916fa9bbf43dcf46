//! What a server's state is once it has applied all that its store knows to be agreed on.
//!
//! Invariant: it is decided by the very core that a server runs, so that it ends where the server would begin; nothing is
//! sent, and nothing is written.

use std::{sync::Arc, time::Instant};

use super::{
    Input, StartError,
    apply::apply,
    core::{ApplyJob, Bootstrap, Output, RaftCore},
};
use crate::{
    state_machine::{FeatureLevel, State},
    storage::LogPosition,
};

/// The state, and the last entry that it includes.
pub(crate) fn replay(bootstrap: Bootstrap, mut state: State) -> Result<(State, u64), StartError> {
    let snapshot = bootstrap.recovered.snapshot.as_ref();
    let mut applied = snapshot.map_or(LogPosition::default(), |meta| meta.position);
    let mut core = RaftCore::new(bootstrap, &slog::Logger::root(slog::Discard, slog::o!()))?;
    core.know(Arc::clone(state.members()));
    while let Some(output) = core.poll() {
        let Output::Apply(job) = output else { continue };
        match job {
            ApplyJob::Configure(position, configuration) => {
                state.configure(configuration);
                applied = position;
            }
            ApplyJob::Entries(entries) => {
                for (entry, _) in entries {
                    apply(&mut state, &entry, FeatureLevel::SUPPORTED)?;
                    applied = LogPosition { index: entry.index, term: entry.term };
                }
            }
            ApplyJob::Backup(_) | ApplyJob::Install(..) | ApplyJob::Snapshot => {}
        }
        let members = Some(Arc::clone(state.members()));
        core.handle(Input::Applied { position: applied, cluster_id: None, members }, Instant::now());
    }
    Ok((state, applied.index))
}
