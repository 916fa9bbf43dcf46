//! Network namespaces of a test's own, and the cables between them.
//!
//! Invariant: what is made here is removed here. Nothing outside these namespaces is configured.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::AsFd as _,
    panic,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace that is removed when it is dropped, and its interfaces with it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// What it is called there.
    pub device: &'a str,
}

impl Namespace {
    /// Makes one whose name ends in `role`, with its loopback up.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn new(role: &str) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("xdpfs-bed-{}-{number}-{role}", process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Does something in here. Sockets, threads and processes that it makes stay here.
    ///
    /// Unlike `ip netns exec` this leaves the mounts alone, so that /sys/fs/bpf is where everybody has it.
    ///
    /// # Panics
    /// If the namespace is gone, or if `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            let here =
                File::open(format!("/run/netns/{}", self.name)).expect("it lives as long as this does");
            move_into_link_name_space(here.as_fd(), Some(LinkNameSpaceType::Network)).expect("root made it");
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// `ip` with these arguments, in here; what it printed.
    ///
    /// # Errors
    /// What it said.
    pub fn ip(&self, arguments: &[&str]) -> io::Result<String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Gives an interface an address that is usable at once.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn add_address(&self, device: &str, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        let prefix = format!("{address}/{prefix_len}");
        let mut words = vec!["address", "add", &prefix, "dev", device];
        // Nobody else has it, so there is nothing to detect.
        words.extend(address.is_ipv6().then_some("nodad"));
        self.ip(&words).map(drop)
    }

    /// Sets a number below /proc/sys/net.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn set_sysctl(&self, name: &str, value: u32) -> io::Result<()> {
        self.run(|| fs::write(format!("/proc/sys/net/{name}"), value.to_string()))
    }

    /// An interface's index in here.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn index_of(&self, device: &str) -> io::Result<u32> {
        let said = self.ip(&["-o", "link", "show", "dev", device])?;
        let index = said.split(':').next().and_then(|index| index.trim().parse().ok());
        index.ok_or_else(|| io::Error::other(format!("{said}: no index")))
    }

    /// An interface's hardware address.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn mac_of(&self, device: &str) -> io::Result<[u8; 6]> {
        let said = self.ip(&["-o", "link", "show", "dev", device])?;
        let mut words = said.split_whitespace().skip_while(|word| *word != "link/ether");
        let bytes = words.nth(1).unwrap_or_default().split(':').map(|byte| u8::from_str_radix(byte, 16));
        let bytes: Result<Vec<u8>, _> = bytes.collect();
        let mac = bytes.ok().and_then(|bytes| bytes.try_into().ok());
        mac.ok_or_else(|| io::Error::other(format!("{said}: no hardware address")))
    }

    /// Bytes that have come in by an interface.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn bytes_received(&self, device: &str) -> io::Result<u64> {
        let table = self.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let mut lines =
            table.lines().filter_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
        let bytes = lines.next().and_then(|line| line.split_whitespace().next()?.parse().ok());
        bytes.ok_or_else(|| io::Error::other(format!("{device} is not in the table")))
    }

    /// The kernel's UDP counters of this namespace, both IP versions together.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn udp_counts(&self) -> io::Result<UdpCounts> {
        // Of the thread that reads them, unlike /proc/net.
        self.run(|| {
            let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
            let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
            Ok(UdpCounts::parse(&v4, &v6))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nothing is left to do about it if that fails.
        let _failed = ip(&["netns", "delete", &self.name]);
    }
}

/// What has reached the sockets of a namespace, or was meant to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UdpCounts {
    /// Datagrams that sockets received.
    pub received: u64,
    /// Datagrams for which there was no socket, no room or no right checksum.
    pub lost: u64,
}

impl UdpCounts {
    /// All datagrams that came as far as to UDP.
    #[must_use]
    pub const fn arrived(&self) -> u64 {
        self.received + self.lost
    }

    fn parse(v4: &str, v6: &str) -> Self {
        let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, counts) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let in_v4 = names.split(' ').zip(counts.split(' ')).map(|(name, count)| (name.to_owned(), count));
        let in_v6 = v6.lines().filter_map(|line| line.strip_prefix("Udp6")?.split_once(char::is_whitespace));
        let mut sums = Self::default();
        for (name, count) in in_v4.chain(in_v6.map(|(name, count)| (name.to_owned(), count))) {
            let count: u64 = count.trim().parse().unwrap_or(0);
            match name.as_str() {
                "InDatagrams" => sums.received += count,
                "NoPorts" | "InErrors" => sums.lost += count,
                _ => {}
            }
        }
        sums
    }
}

/// Lays a veth pair and puts it up. Its offloads are as the kernel makes them.
///
/// # Errors
/// If an end is taken.
pub fn connect(one: End<'_>, other: End<'_>, mtu: u32) -> io::Result<()> {
    let mtu = mtu.to_string();
    let pair = ["link", "add", one.device, "mtu", &mtu, "netns", &one.namespace.name, "type", "veth"];
    let peer = ["peer", "name", other.device, "mtu", &mtu, "netns", &other.namespace.name];
    ip(&[&pair[..], &peer].concat())?;
    for end in [one, other] {
        end.namespace.ip(&["link", "set", end.device, "up"])?;
    }
    Ok(())
}

/// What keeps this process from making namespaces.
#[must_use]
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("they take root".to_owned());
    }
    Command::new("ip").arg("-V").output().err().map(|error| format!("they take iproute2: {error}"))
}

fn ip(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("ip {}: {said}", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_counts_of_both_ip_versions_are_added() {
        let v4 = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams\nUdp: 5 1 2 70\n";
        let v6 =
            "Ip6InReceives 9\nUdp6InDatagrams                 \t30\nUdp6NoPorts\t4\nUdpLite6InDatagrams\t9\n";
        let counts = UdpCounts::parse(v4, v6);
        assert_eq!(counts, UdpCounts { received: 35, lost: 7 });
        assert_eq!(counts.arrived(), 42);
    }
}
