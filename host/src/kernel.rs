//! The kernel's release, and what this process may ask of it.

use std::{fmt, str::FromStr};

/// The number of a kernel release, such as 6.18.44.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Release {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third; zero if it isn't said.
    pub patch: u32,
}

impl Release {
    /// The release `major.minor`.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, patch: 0 }
    }
}

/// A text that is no release.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NoRelease;

impl FromStr for Release {
    type Err = NoRelease;

    /// Takes what `uname -r` says: whatever follows the numbers is the distributor's.
    fn from_str(text: &str) -> Result<Self, NoRelease> {
        let mut numbers = text.splitn(3, '.').map(|part| {
            let end = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
            part[..end].parse().map_err(|_| NoRelease)
        });
        let mut next = || numbers.next().ok_or(NoRelease)?;
        Ok(Self { major: next()?, minor: next()?, patch: next().unwrap_or(0) })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What this process may do, of what a kernel program takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capabilities {
    /// `CAP_BPF`, or `CAP_SYS_ADMIN`, which implies it.
    pub bpf: bool,
    /// `CAP_NET_ADMIN`
    pub net_admin: bool,
    /// `CAP_PERFMON`, or `CAP_SYS_ADMIN`, which implies it.
    pub perfmon: bool,
    /// `CAP_SYS_ADMIN`
    pub sys_admin: bool,
}

/// Whether a BPF file system is mounted at `path`, by the text of `/proc/self/mountinfo`.
#[must_use]
pub fn is_bpffs_mounted(mountinfo: &str, path: &str) -> bool {
    mountinfo.lines().any(|line| {
        let (mount, source) = line.split_once(" - ").unwrap_or((line, ""));
        mount.split(' ').nth(4) == Some(path) && source.split(' ').next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_whatever_distributors_add() {
        let check = |text: &str, expect: Option<(u32, u32, u32)>| {
            let expect = expect.map(|(major, minor, patch)| Release { major, minor, patch });
            assert_eq!(text.parse().ok(), expect, "{text}");
        };
        check("6.18.44-fc-v595", Some((6, 18, 44)));
        check("5.15.0-91-generic", Some((5, 15, 0)));
        check("6.1", Some((6, 1, 0)));
        check("6.12-rc3", Some((6, 12, 0)));
        check("5.14.0-427.13.1.el9_4.x86_64", Some((5, 14, 0)));
        check("6", None);
        check("six.one", None);
        check("", None);
        assert!(Release::new(5, 18) > "5.17.99".parse().unwrap());
        assert!(Release::new(5, 18) <= "5.18.0".parse().unwrap());
    }

    #[test]
    fn a_bpf_file_system_is_found_only_where_it_is_mounted() {
        let table = "\
22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
31 22 0:27 / /sys/fs/bpf rw,nosuid shared:11 - bpf bpf rw,mode=700
32 22 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw";
        assert!(is_bpffs_mounted(table, "/sys/fs/bpf"));
        assert!(!is_bpffs_mounted(table, "/sys/fs/cgroup"));
        assert!(!is_bpffs_mounted(table, "/sys/fs"));
        assert!(!is_bpffs_mounted("", "/sys/fs/bpf"));
    }
}
