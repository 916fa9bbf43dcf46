//! File systems, and the room on them.

/// Room on a file system, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Room {
    /// All of it.
    pub total: u64,
    /// What a process without privileges can still have.
    pub available: u64,
}

/// The kind of a file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileSystem {
    /// On a disk, or of a kind without a name here.
    Disk,
    /// In memory: gone at the next boot.
    Memory,
    /// On another machine.
    Network,
    /// Layers, as of a container's root.
    Overlay,
}

impl FileSystem {
    /// The kind with this number (`f_type` of `statfs`).
    pub(crate) const fn from_magic(magic: u64) -> Self {
        match magic {
            // TMPFS_MAGIC, RAMFS_MAGIC
            0x0102_1994 | 0x8584_58f6 => Self::Memory,
            // NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, CIFS_SUPER_MAGIC, SMB2_SUPER_MAGIC, CEPH_SUPER_MAGIC, FUSE_SUPER_MAGIC
            0x6969 | 0x517b | 0xff53_4d42 | 0xfe53_4d42 | 0x00c3_6400 | 0x6573_5546 => Self::Network,
            // OVERLAYFS_SUPER_MAGIC
            0x794c_7630 => Self::Overlay,
            _ => Self::Disk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_keep_nothing_are_told_apart() {
        let check = |magic, expect| assert_eq!(FileSystem::from_magic(magic), expect, "{magic:#x}");
        check(0x0102_1994, FileSystem::Memory);
        check(0x6969, FileSystem::Network);
        check(0x794c_7630, FileSystem::Overlay);
        // ext4, xfs
        check(0xef53, FileSystem::Disk);
        check(0x5846_5342, FileSystem::Disk);
    }
}
