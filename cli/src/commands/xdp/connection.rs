//! The way to the socket: which one, and what it means if nobody is there.

use std::{
    fmt::Display,
    fs, io,
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use xdpfs_proto::admin::v1::xdp_service_client::XdpServiceClient;

use crate::failure::Failure;

/// Where data nodes and edges put their sockets.
const USUAL_DIRECTORY: &str = "/run/xdpfs";

/// A connection to one data node or edge.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) service: XdpServiceClient<Channel>,
    path: PathBuf,
}

impl Connection {
    /// To the socket that was named, or to the only one.
    pub(super) async fn open(named: Option<&Path>) -> Result<Self, Failure> {
        let found = sockets(Path::new(USUAL_DIRECTORY));
        let path = choose(named, found.as_deref())?;
        // What the library says of a missing socket helps nobody.
        if let Err(error) = UnixStream::connect(&path).await {
            return Err(unreachable(&path, &error, found.as_deref()));
        }
        let failed = |error: &dyn Display| {
            Failure::usage(format!("{} can't be used: {error}", path.display()))
                .with_hint("give --socket PATH")
        };
        let path_text = path.to_str().ok_or_else(|| failed(&"its name is not text"))?;
        let endpoint =
            Endpoint::from_shared(format!("unix://{path_text}")).map_err(|error| failed(&error))?;
        let channel = endpoint.connect().await.map_err(|error| failed(&error))?;
        Ok(Self { service: XdpServiceClient::new(channel), path })
    }

    /// Why a question was not answered.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        let message = status.message();
        match status.code() {
            Code::FailedPrecondition => Failure::refused(message)
                .with_hint("see why: xdpfs-cli xdp status; see what helps: xdpfs-cli doctor"),
            Code::ResourceExhausted => {
                Failure::unavailable(message).with_hint("end another xdpfs-cli xdp trace")
            }
            _ => Failure::unavailable(format!("{} does not answer: {message}", self.path.display()))
                .with_hint("it may have stopped; see its log"),
        }
    }
}

/// The sockets in the usual place on which somebody listens.
pub(super) fn usual_sockets() -> Vec<PathBuf> {
    sockets(Path::new(USUAL_DIRECTORY)).unwrap_or_default()
}

/// The sockets in a directory on which somebody listens, in order; `None` if it can't be looked at. A server that was
/// killed leaves its own behind.
fn sockets(directory: &Path) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).ok()?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let named = paths.filter(|path| path.extension().is_some_and(|end| end == "sock"));
    let mut sockets: Vec<_> = named.filter(|path| is_live(path)).collect();
    sockets.sort();
    Some(sockets)
}

/// Whether somebody listens, as far as this user may know.
fn is_live(path: &Path) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    !StdUnixStream::connect(path).is_err_and(refused)
}

fn choose(named: Option<&Path>, found: Option<&[PathBuf]>) -> Result<PathBuf, Failure> {
    match (named, found.unwrap_or_default()) {
        (Some(named), _) => Ok(named.to_owned()),
        (None, [only]) => Ok(only.clone()),
        (None, []) => {
            let failure = Failure::not_found(format!("no server listens in {USUAL_DIRECTORY}"));
            Err(failure.with_hint(
                "give --socket PATH: the server's log names it; without /run/xdpfs a data node has it in its data \
                 directory, as xdp.sock. Only servers with XDP have one",
            ))
        }
        (None, several) => Err(Failure::usage(format!("several servers listen in {USUAL_DIRECTORY}"))
            .with_hint(format!("give --socket with one of {}", listed(several)))),
    }
}

fn unreachable(path: &Path, error: &io::Error, found: Option<&[PathBuf]>) -> Failure {
    let place = path.display();
    let others: Vec<_> = found.unwrap_or_default().iter().filter(|other| *other != path).cloned().collect();
    let others = if others.is_empty() { String::new() } else { format!("; there are {}", listed(&others)) };
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Failure::unavailable(format!("nobody listens on {place} any more"))
                .with_hint(format!("its server has died; start it again, or give another --socket{others}"))
        }
        io::ErrorKind::PermissionDenied => Failure::local(format!("connect to {place}"), error)
            .with_hint("run it as the server's user: sudo xdpfs-cli xdp"),
        io::ErrorKind::NotFound => Failure::not_found(format!("there is no socket {place}"))
            .with_hint(format!("give another --socket: the server's log names it{others}")),
        _ => Failure::local(format!("connect to {place}"), error)
            .with_hint(format!("give another --socket{others}")),
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::failure::Exit;

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn the_named_socket_is_taken_or_the_only_one() {
        let check = |named: Option<&str>, found: Option<&[&str]>, expect: Result<&str, Exit>| {
            let found = found.map(paths);
            let chosen = choose(named.map(Path::new), found.as_deref());
            assert!(
                chosen.is_ok() || chosen.as_ref().unwrap_err().hint.as_ref().unwrap().contains("--socket")
            );
            assert_eq!(chosen.map_err(|failure| failure.exit), expect.map(PathBuf::from));
        };
        check(Some("/a"), None, Ok("/a"));
        check(Some("/a"), Some(&["/b", "/c"]), Ok("/a"));
        check(None, Some(&["/b"]), Ok("/b"));
        check(None, Some(&["/b", "/c"]), Err(Exit::Usage));
        check(None, Some(&[]), Err(Exit::NotFound));
        check(None, None, Err(Exit::NotFound));
    }

    #[test]
    fn what_is_in_the_way_of_a_socket_is_told_with_the_others() {
        let check = |kind: io::ErrorKind, exit, hint: &str| {
            let found = paths(&["/run/a.sock", "/run/b.sock"]);
            let failure = unreachable(Path::new("/run/a.sock"), &kind.into(), Some(&found));
            assert_eq!(failure.exit, exit, "{failure:?}");
            assert!(failure.hint.as_ref().unwrap().contains(hint), "{failure:?}");
        };
        check(io::ErrorKind::ConnectionRefused, Exit::Unavailable, "there are /run/b.sock");
        check(io::ErrorKind::NotFound, Exit::NotFound, "there are /run/b.sock");
        check(io::ErrorKind::PermissionDenied, Exit::Permission, "sudo");
        check(io::ErrorKind::TimedOut, Exit::Partial, "--socket");
    }

    #[test]
    fn only_sockets_with_somebody_behind_are_found() {
        let home = tempfile::tempdir().unwrap();
        let listen = |name| UnixListener::bind(home.path().join(name)).unwrap();
        let _listeners = ["node-2.sock", "edge-1.sock", "other"].map(listen);
        drop(listen("dead.sock"));
        let found = sockets(home.path()).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["edge-1.sock", "node-2.sock"]);
        assert_eq!(sockets(&home.path().join("none")), None);
    }
}
