//! Why the kernel program can't be used, each with what to do about it.

use std::{error, io, path::PathBuf};

use thiserror::Error;

/// Why the kernel program can't be used.
#[derive(Debug, Error)]
pub enum XdpError {
    /// The interface doesn't take the program.
    #[error("{interface} does not take an XDP program ({hint})")]
    Attach {
        /// Its name.
        interface: String,
        /// What to do about it.
        hint: &'static str,
        /// What the system says.
        #[source]
        source: Source,
    },
    /// The process may not.
    #[error(
        "{missing} missing: run as root, or `setcap cap_bpf,cap_net_admin,cap_perfmon=ep` the binary, or give the \
         container `cap_add: [BPF, NET_ADMIN, PERFMON]` (before Docker 23: SYS_ADMIN, NET_ADMIN)"
    )]
    Capabilities {
        /// Which capabilities it lacks.
        missing: String,
    },
    /// The interface doesn't take the classifier.
    #[error(
        "{interface} does not take the classifier that sends replies on; it needs Linux 6.6 or newer with tcx"
    )]
    Classifier {
        /// Its name.
        interface: String,
        /// What the system says.
        #[source]
        source: Source,
    },
    /// The plane's thread has ended.
    #[error("the thread that has the kernel program in its care has died")]
    Dead,
    /// Somebody else's program is there.
    #[error(
        "{interface} has an XDP program already: {name}, id {id}; it is not replaced. If nobody needs it, remove it by \
         `ip link set dev {interface} xdp off`"
    )]
    Foreign {
        /// The interface's name.
        interface: String,
        /// The program's number.
        id: u32,
        /// The program's name.
        name: String,
    },
    /// There is no such interface, or it can't be looked at.
    #[error("{interface} can't be used")]
    Interface {
        /// Its name.
        interface: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The kernel doesn't take the program.
    #[error("the kernel refuses the XDP program; it needs Linux 5.18 or newer with BPF, this is {release}")]
    Load {
        /// The kernel's release.
        release: String,
        /// What the system says.
        #[source]
        source: Source,
    },
    /// A loaded program can't be told something, or doesn't tell.
    #[error("the XDP program's {part} can't be reached")]
    Map {
        /// Which of its parts.
        part: &'static str,
        /// What the system says.
        #[source]
        source: Source,
    },
    /// The program would outlive the process.
    #[error("the kernel can't hold an XDP program on {interface} by a link; that needs Linux 5.9 or newer")]
    NoLink {
        /// The interface's name.
        interface: String,
    },
    /// Netlink doesn't answer.
    #[error("the kernel can't be asked about its network")]
    Network(#[source] io::Error),
    /// The binary was built before the kernel program was.
    #[error("this binary has no XDP program in it; run `cargo xtask build-ebpf` and build it again")]
    NoObject,
    /// What must outlive the process can't be kept.
    #[error("{} can't hold what must outlive the process: {hint}", directory.display())]
    Pin {
        /// Where it would be.
        directory: PathBuf,
        /// What to do about it.
        hint: &'static str,
        /// What the system says.
        #[source]
        source: Source,
    },
    /// Another edge is at work.
    #[error("another edge holds {}; end it first, or give this one a directory of its own by --pin-dir", directory.display())]
    Taken {
        /// Where it keeps what outlives it.
        directory: PathBuf,
    },
    /// The system has no thread left.
    #[error("the system has no thread left")]
    Thread(#[source] io::Error),
    /// The binary was built without the loader.
    #[error("this binary can't use XDP; build it for Linux with the feature `xdp`")]
    NotBuilt,
}

/// What the loader says.
pub(super) type Source = Box<dyn error::Error + Send + Sync>;
