//! How many connections the system lets this process have.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that are no connections of a listener.
const OTHERS: u64 = 256;

/// Asks for as many descriptors as so many connections need. Many systems allow a process only 1024 until it asks for
/// more.
pub fn allow_connections(connections_max: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = connections_max as u64 + OTHERS;
    let allowed = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if limit.current.is_none_or(|current| current >= allowed) {
        return;
    }
    limit.current = Some(allowed);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, allowed, "the system allows fewer connections than were asked for");
    }
}
