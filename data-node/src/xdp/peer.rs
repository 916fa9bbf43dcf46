//! The other end of a veth pair, which takes redirected packets only with GRO, and is mostly in a container.
//!
//! Invariant: no namespace is held open. A socket in a container's namespace would keep its interfaces alive when the
//! container is gone.

use std::io;

use thiserror::Error;
use xdpfs_host::{Interface, NetworkNamespace};

use super::offloads::Switches;

/// Why the other end can't be made ready.
#[derive(Debug, Error)]
pub(super) enum PeerError {
    /// It isn't a pair.
    #[error("it has no other end")]
    None,
    /// The system refuses, or doesn't show the namespace that it is in.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Turns GRO of the other end on or off; whether it was otherwise before.
pub(super) fn set_gro(interface: &Interface, on: bool) -> Result<bool, PeerError> {
    let peer = interface.peer.ok_or(PeerError::None)?;
    let switch = move || -> io::Result<bool> {
        let switches = Switches::open()?;
        let name = switches.name(peer.index)?;
        let differs = switches.gro(&name)? != on;
        if differs {
            switches.set_gro(&name, on)?;
        }
        Ok(differs)
    };
    Ok(match peer.namespace_id {
        None => switch()?,
        Some(id) => NetworkNamespace::find(id)?.run(switch)??,
    })
}
