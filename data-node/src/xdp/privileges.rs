//! Capabilities: one thread keeps the few that the kernel program takes, all others give up everything.
//!
//! Invariant: what a thread has given up neither it nor a thread or program that it starts can get back.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::run_as::RunAs;

/// What it takes to load programs, to put them on interfaces, and to follow the network.
pub(super) const PLANE: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::PERFMON);
/// What it takes to name somebody else's program that is in the way. Given up once ours are on their interfaces.
pub(super) const NAMING: CapabilitySet = CapabilitySet::SYS_ADMIN;
/// What it takes to enter the network namespaces of containers besides, and to find them by their processes.
pub(super) const PREPARATION: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE);

/// The calling thread gives up all capabilities, and becomes `user`.
///
/// # Errors
/// The system doesn't let it.
pub(super) fn give_up_all(user: Option<RunAs>) -> io::Result<()> {
    if let Some(user) = user {
        keep_only(CapabilitySet::SETUID | CapabilitySet::SETGID)?;
        user.assume()?;
    }
    keep_only(CapabilitySet::empty())
}

/// The calling thread gives up all capabilities but those of `kept` that it has.
///
/// # Errors
/// The system doesn't let it.
pub(super) fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let held = capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter() {
            // The kernel may be older than the list.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    // Kernels from before ambient capabilities have none to clear.
    let _ = clear_ambient_capability_set();
    let kept = kept & held.permitted;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}
