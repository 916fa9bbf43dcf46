//! Other network namespaces: found by the number under which this one knows them, and entered by a thread.

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

use crate::netlink::{Message, Netlink, Question, attribute, malformed, u32_at};

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// `struct rtgenmsg`, filled up.
const HEAD_LEN: usize = 4;
/// Where `ip netns` keeps namespaces that have a name.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/docker/netns"];

/// Another network namespace, held by a file.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    /// The name or process by which it was found.
    label: String,
}

impl NetworkNamespace {
    /// The namespace that this thread's one knows by number `id`: looked for among those with a name, then among those of
    /// all processes.
    ///
    /// # Errors
    /// It isn't among those that may be looked at, which takes `CAP_SYS_PTRACE` for other users' processes.
    pub fn find(id: i32) -> io::Result<Self> {
        let mut seen = BTreeSet::new();
        for (path, label) in candidates() {
            let Ok(file) = File::open(&path) else { continue };
            let is_new = file.metadata().is_ok_and(|metadata| seen.insert(metadata.ino()));
            if is_new && id_of(&file).is_ok_and(|found| found == id) {
                return Ok(Self { file, label });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no process or name of that network namespace is in sight",
        ))
    }

    /// How people know it: `namespace NAME` or `process ID`.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What, before a command, makes it run in there.
    #[must_use]
    pub fn command_prefix(&self) -> String {
        match self.label.split_once(' ') {
            Some(("process", id)) => format!("nsenter -t {id} -n "),
            Some(("namespace", name)) if self.label.contains('/') => format!("nsenter --net={name} "),
            Some((_, name)) => format!("ip netns exec {name} "),
            None => String::new(),
        }
    }

    /// Does something in there, on a thread of its own. Sockets that it makes stay there.
    ///
    /// # Errors
    /// It may not be entered; that takes `CAP_SYS_ADMIN`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let enter = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let ended = thread::scope(|scope| scope.spawn(enter).join());
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace has died")))
    }
}

fn candidates() -> impl Iterator<Item = (PathBuf, String)> {
    let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let named = NAMED.into_iter().flat_map(move |directory| {
        entries(directory).map(move |entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            // `ip netns` knows only its own directory.
            let name = if directory == NAMED[0] { name } else { format!("{directory}/{name}") };
            (entry.path(), format!("namespace {name}"))
        })
    });
    let processes = entries("/proc").filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((entry.path().join("ns/net"), format!("process {id}")))
    });
    named.chain(processes)
}

/// The number under which this thread's network namespace knows another one.
fn id_of(namespace: &File) -> io::Result<i32> {
    let fd = namespace.as_raw_fd().to_ne_bytes();
    parse(&Netlink::route()?.ask(Question::new(RTM_GETNSID, &[0; HEAD_LEN]).with(NETNSA_FD, &fd))?)
}

fn parse(message: &Message) -> io::Result<i32> {
    let rest = message.body.get(HEAD_LEN..).filter(|_| message.kind == RTM_NEWNSID);
    let id = attribute(rest.ok_or_else(malformed)?, NETNSA_NSID).and_then(|id| u32_at(id, 0));
    id.map(u32::cast_signed).ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_namespace_is_read() {
        let answer = Question::new(RTM_NEWNSID, &[0; HEAD_LEN]);
        assert!(parse(&answer.clone().into_message()).is_err());
        let answer = answer.with(NETNSA_NSID, &(-1_i32).to_ne_bytes());
        assert_eq!(parse(&answer.into_message()).unwrap(), -1);
    }

    #[test]
    fn a_namespace_says_how_commands_get_in() {
        let check = |label: &str, expect: &str| {
            let file = File::open("/proc/self/ns/net").unwrap();
            let namespace = NetworkNamespace { file, label: label.to_owned() };
            assert_eq!(namespace.command_prefix(), expect);
        };
        check("namespace blue", "ip netns exec blue ");
        check("namespace /var/run/docker/netns/1a", "nsenter --net=/var/run/docker/netns/1a ");
        check("process 77", "nsenter -t 77 -n ");
    }
}
