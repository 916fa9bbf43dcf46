//! The other end of a veth pair, which takes redirected packets only with GRO, and is mostly in a container.
//!
//! Invariant: no namespace is held open. A socket in a container's namespace would keep its interfaces alive when the
//! container is gone.

use std::io;

use thiserror::Error;
use xdpfs_host::{Interface, NetworkNamespace, interface_at, set_feature};

/// What is switched on at the other end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Change {
    /// It merges packets that it receives, and so takes redirected ones.
    Gro,
    /// It merges those, too, that its bridge sends on: there is no socket in its namespace to ask for that.
    GroForwarding,
}

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

impl Change {
    /// As `ethtool -K` calls it in its longest form.
    const fn feature(self) -> &'static str {
        match self {
            Self::Gro => "rx-gro",
            Self::GroForwarding => "rx-udp-gro-forwarding",
        }
    }
}

/// Makes the other end ready; what of it was otherwise before.
pub(super) fn prepare(interface: &Interface) -> Result<Vec<Change>, PeerError> {
    at_peer(interface, |peer| {
        let mut changes = Vec::new();
        if set_feature(&peer.name, Change::Gro.feature(), true)? {
            changes.push(Change::Gro);
        }
        // It only makes things faster, and older kernels don't have it.
        let is_bridged =
            peer.master.is_some_and(|master| interface_at(master).is_ok_and(|it| it.kind == "bridge"));
        if is_bridged && set_feature(&peer.name, Change::GroForwarding.feature(), true).unwrap_or(false) {
            changes.push(Change::GroForwarding);
        }
        Ok(changes)
    })
}

/// Switches off again what was switched on.
pub(super) fn undo(interface: &Interface, change: Change) -> Result<(), PeerError> {
    at_peer(interface, |peer| set_feature(&peer.name, change.feature(), false).map(drop))
}

fn at_peer<T: Send>(
    interface: &Interface,
    work: impl FnOnce(Interface) -> io::Result<T> + Send,
) -> Result<T, PeerError> {
    let peer = interface.peer.ok_or(PeerError::None)?;
    let work = move || interface_at(peer.index).and_then(work);
    Ok(match peer.namespace_id {
        None => work()?,
        Some(id) => NetworkNamespace::find(id)?.run(work)??,
    })
}
