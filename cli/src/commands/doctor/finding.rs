//! What the doctor has found: one thing it looked at, how it is, what follows from that and what helps.
//!
//! Invariant: whatever isn't well says what follows from it; `docs/doctor.md` explains each check by its name.

use serde::Serialize;

macro_rules! checks {
    ($($name:ident = $label:literal,)*) => {
        /// One thing that is looked at.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub(crate) enum Check {
            $($name,)*
        }

        impl Check {
            /// All of them, in the order of the page that explains them.
            #[cfg(test)]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name, a promise to scripts.
            pub(crate) const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }
        }
    };
}

checks! {
    Kernel = "kernel",
    Capabilities = "capabilities",
    Btf = "btf",
    Bpffs = "bpffs",
    BpfJit = "bpf_jit",
    UnprivilegedBpf = "unprivileged_bpf",
    KernelProgram = "kernel_program",
    SocketBuffers = "socket_buffers",
    UdpSegments = "udp_segments",
    ClockSource = "clock_source",
    ClockSync = "clock_sync",
    ClockOffset = "clock_offset",
    Interface = "interface",
    ForeignProgram = "foreign_program",
    NativeXdp = "native_xdp",
    Mtu = "mtu",
    Queues = "queues",
    Checksums = "checksums",
    Segmentation = "segmentation",
    PeerGro = "peer_gro",
    BridgeGro = "bridge_gro",
    FileSystem = "file_system",
    DiskSync = "disk_sync",
    DiskSpace = "disk_space",
}

/// How a thing is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// Not looked at, and why.
    Skipped,
    /// It works, but worse than it could.
    Warn,
    /// It does not work.
    Fail,
}

impl State {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    /// The interface, directory or address that it is about, if not the whole host.
    pub(crate) subject: Option<String>,
    pub(crate) state: State,
    /// What was seen; of a check that was skipped, why.
    pub(crate) seen: String,
    /// What follows from it.
    pub(crate) consequence: Option<String>,
    /// A command, or what to do.
    pub(crate) fix: Option<String>,
}

impl Finding {
    fn new(check: Check, state: State, seen: impl Into<String>) -> Self {
        Self { check, subject: None, state, seen: seen.into(), consequence: None, fix: None }
    }

    pub(crate) fn ok(check: Check, seen: impl Into<String>) -> Self {
        Self::new(check, State::Ok, seen)
    }

    pub(crate) fn warn(check: Check, seen: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self { consequence: Some(consequence.into()), ..Self::new(check, State::Warn, seen) }
    }

    pub(crate) fn fail(check: Check, seen: impl Into<String>, consequence: impl Into<String>) -> Self {
        Self { consequence: Some(consequence.into()), ..Self::new(check, State::Fail, seen) }
    }

    /// It could not be looked at; `how` says what would change that.
    pub(crate) fn skipped(check: Check, why: impl Into<String>, how: impl Into<String>) -> Self {
        Self::new(check, State::Skipped, why).with_fix(how)
    }

    /// The same with what helps.
    pub(crate) fn with_fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// The same about one part of the host.
    pub(crate) fn about(self, subject: impl Into<String>) -> Self {
        Self { subject: Some(subject.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_explained_in_order_and_nothing_else_is() {
        let page = include_str!("../../../../docs/doctor.md");
        let explained: Vec<_> =
            page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
        let expect: Vec<_> = Check::ALL.iter().map(|check| check.label()).collect();
        assert_eq!(explained, expect);
    }
}
