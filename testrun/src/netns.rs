//! Network namespaces without a name: they and all that is in them vanish with this process, however it ends.
//!
//! Invariant: no thread of the caller ever leaves its own namespace.

use std::{
    fs::{self, File},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    process::{Command, Stdio, id},
    thread,
};

use anyhow::{Context as _, anyhow, ensure};
use rustix::{
    net::{AddressFamily, SocketType, netdevice::name_to_index, socket},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    pub fn new() -> anyhow::Result<Self> {
        apart(|| {
            // SAFETY: of what threads share, only the network namespace changes, and the thread has nothing from it.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("no new network namespace")?;
            let namespace = Self(File::open("/proc/thread-self/ns/net")?.into());
            // Neighbours that nobody asked for would be counted as traffic.
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").context("cannot turn IPv6 off")?;
            Ok(namespace)
        })
    }

    /// Does the work in a thread that is in this namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        apart(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter a network namespace")?;
            work()
        })
    }

    /// Runs programs with words for arguments, one a line; the first failure ends it.
    pub fn run(&self, lines: &str) -> anyhow::Result<()> {
        self.enter(|| lines.lines().map(str::trim).filter(|line| !line.is_empty()).try_for_each(run))
    }

    pub fn sysctl(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/{name}");
        self.enter(|| fs::write(&path, value).with_context(|| format!("cannot write {path}")))
    }

    pub fn if_index(&self, name: &str) -> anyhow::Result<u32> {
        self.enter(|| {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            name_to_index(&socket, name).with_context(|| format!("there is no {name}"))
        })
    }

    /// Packets that an interface has received.
    pub fn received(&self, interface: &str) -> anyhow::Result<u64> {
        let text = self.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
        let packets = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(packets.with_context(|| format!("nothing is counted for {interface}"))?.parse()?)
    }

    /// How other programs of this host find it, as long as this one lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", id(), self.0.as_raw_fd())
    }
}

fn apart<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("a thread is gone"))?
}

fn run(line: &str) -> anyhow::Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("no program")?;
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run `{line}`"))?;
    ensure!(output.status.success(), "`{line}` failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
