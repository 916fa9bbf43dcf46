//! The other end of a veth pair, which takes redirected packets only with GRO, and is mostly in a container.
//!
//! Invariant: no namespace is held open. A socket in a container's namespace would keep its interfaces alive when the
//! container is gone.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use thiserror::Error;

use super::{
    netlink::{Netlink, Question, attribute, malformed, u32_at},
    network::Interface,
    offloads::Switches,
};

const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// Where namespaces have names: iproute2's, and Docker's.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// Why the other end can't be made ready.
#[derive(Debug, Error)]
pub(super) enum PeerError {
    /// Nothing says which namespace it is in.
    #[error("its namespace is not to be found")]
    Hidden,
    /// It isn't a pair.
    #[error("it has no other end")]
    None,
    /// The system refuses.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Turns GRO of the other end on or off; whether it was otherwise before.
pub(super) fn set_gro(netlink: &Netlink, interface: &Interface, on: bool) -> Result<bool, PeerError> {
    let peer = interface.link.ok_or(PeerError::None)?;
    let switch = move || -> io::Result<bool> {
        let switches = Switches::open()?;
        let name = switches.name(peer)?;
        let differs = switches.gro(&name)? != on;
        if differs {
            switches.set_gro(&name, on)?;
        }
        Ok(differs)
    };
    let Some(id) = interface.link_namespace else { return Ok(switch()?) };
    let namespace = find(netlink, id)?.ok_or(PeerError::Hidden)?;
    Ok(within(&namespace, switch)?)
}

/// Does something in another network namespace, by a thread that ends there.
fn within<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let enter = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    thread::scope(|scope| {
        scope.spawn(enter).join().unwrap_or_else(|_| Err(io::Error::other("the thread has died")))
    })
}

/// The namespace that this one gives a number.
fn find(netlink: &Netlink, id: i32) -> io::Result<Option<File>> {
    let mut seen = BTreeSet::new();
    for path in candidates() {
        // Processes end, and others' namespaces may be closed to this one.
        let Ok(namespace) = File::open(&path) else { continue };
        let metadata = namespace.metadata()?;
        if seen.insert((metadata.dev(), metadata.ino())) && number(netlink, &namespace)? == Some(id) {
            return Ok(Some(namespace));
        }
    }
    Ok(None)
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let entries = |directory: &str| {
        fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
    };
    let is_process = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
    };
    let processes = entries("/proc").filter(is_process).map(|process| process.join("ns/net"));
    NAMED.into_iter().flat_map(entries).chain(processes)
}

fn number(netlink: &Netlink, namespace: &File) -> io::Result<Option<i32>> {
    let question = Question::new(RTM_GETNSID, &[0]);
    let answer = netlink.ask(question.with(NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes()))?;
    let attributes = answer.body.get(4..).ok_or_else(malformed)?;
    let id = attribute(attributes, NETNSA_NSID).and_then(|id| u32_at(id, 0)).map(u32::cast_signed);
    Ok(id.filter(|id| *id >= 0))
}
