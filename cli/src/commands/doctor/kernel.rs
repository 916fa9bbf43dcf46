//! The kernel, and what this process may do with it.

use std::fs;

use xdpfs_data_node::{XdpError, xdp_probe};
use xdpfs_host::{Capabilities, Release, is_bpffs_mounted};

use super::finding::{Check, Finding};

/// The kernel program takes `bpf_xdp_load_bytes`.
const XDP_SINCE: Release = Release::new(5, 18);
/// Before, replies cross an edge by clsact, which other tools replace at will.
const TCX_SINCE: Release = Release::new(6, 6);
const BPFFS: &str = "/sys/fs/bpf";
/// How a process without them gets the capabilities.
const GAIN: &str = "sudo xdpfs-cli doctor, or: sudo setcap cap_bpf,cap_net_admin,cap_perfmon=ep \
    $(command -v xdpfs-data-node); in a container: cap_add: [BPF, NET_ADMIN, PERFMON]";

/// What the kernel shows in files.
#[derive(Clone, Debug, Default)]
struct Files {
    mountinfo: Option<String>,
    bpf_jit_enable: Option<String>,
    unprivileged_bpf_disabled: Option<String>,
    has_btf: bool,
}

impl Files {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        Self {
            mountinfo: read("/proc/self/mountinfo"),
            bpf_jit_enable: read("/proc/sys/net/core/bpf_jit_enable"),
            unprivileged_bpf_disabled: read("/proc/sys/kernel/unprivileged_bpf_disabled"),
            has_btf: fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false),
        }
    }
}

/// Looks at all of it. Blocks.
pub(super) fn look() -> Vec<Finding> {
    let (text, release) = xdpfs_host::release();
    let held = xdpfs_host::capabilities().unwrap_or_default();
    let files = Files::read();
    let mut findings = vec![kernel(&text, release), capabilities(held)];
    findings.extend(shown(&files));
    findings.push(program(held, xdp_probe::try_load));
    findings
}

fn kernel(text: &str, release: Option<Release>) -> Finding {
    let upgrade = "run a newer kernel of your distribution";
    match release {
        None => Finding::skipped(Check::Kernel, format!("{text} is not a release of Linux"), "run on Linux"),
        Some(release) if release < XDP_SINCE => Finding::warn(
            Check::Kernel,
            text,
            "XDP takes Linux 5.18: datagrams are judged in user space only, which is correct and slower",
        )
        .with_fix(upgrade),
        Some(release) if release < TCX_SINCE => Finding::warn(
            Check::Kernel,
            text,
            "before Linux 6.6 replies cross an edge by a clsact filter, which other tools on this host may remove",
        )
        .with_fix(upgrade),
        Some(_) => Finding::ok(Check::Kernel, text),
    }
}

fn capabilities(held: Capabilities) -> Finding {
    let names = [("BPF", held.bpf), ("NET_ADMIN", held.net_admin), ("PERFMON", held.perfmon)];
    let missing: Vec<_> = names.iter().filter(|(_, held)| !held).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        let seen = format!("this process lacks {}", missing.join(", "));
        return Finding::warn(
            Check::Capabilities,
            seen,
            "a server started like this runs without XDP, and parts of this report are skipped",
        )
        .with_fix(GAIN);
    }
    if held.sys_admin {
        return Finding::ok(Check::Capabilities, "BPF, NET_ADMIN, PERFMON and SYS_ADMIN");
    }
    Finding::warn(
        Check::Capabilities,
        "BPF, NET_ADMIN and PERFMON, but not SYS_ADMIN",
        "an edge can't prepare interfaces in other network namespaces: nodes behind such are relayed by user space",
    )
    .with_fix("start the edge with SYS_ADMIN too, or turn GRO on by hand in each node's namespace: ethtool -K eth0 gro on")
}

/// What files show.
fn shown(files: &Files) -> Vec<Finding> {
    vec![btf(files.has_btf), bpffs(files), jit(files), unprivileged(files)]
}

fn btf(is_there: bool) -> Finding {
    if is_there {
        return Finding::ok(Check::Btf, "/sys/kernel/btf/vmlinux");
    }
    let consequence = "the kernel describes its types to nobody: the XDP program loads all the same, but \
        bpftool shows its maps as bytes";
    Finding::warn(Check::Btf, "/sys/kernel/btf/vmlinux is missing", consequence)
        .with_fix("run a kernel with CONFIG_DEBUG_INFO_BTF=y")
}

fn bpffs(files: &Files) -> Finding {
    if files.mountinfo.as_ref().is_some_and(|table| is_bpffs_mounted(table, BPFFS)) {
        return Finding::ok(Check::Bpffs, format!("mounted at {BPFFS}"));
    }
    Finding::warn(
        Check::Bpffs,
        format!("not mounted at {BPFFS}"),
        "an edge can't pin its programs, so it can't hand its traffic over to its successor when it is restarted",
    )
    .with_fix(format!("mount -t bpf bpf {BPFFS}"))
}

fn jit(files: &Files) -> Finding {
    match files.bpf_jit_enable.as_deref().map(str::trim) {
        Some("0") => Finding::warn(
            Check::BpfJit,
            "net.core.bpf_jit_enable is 0",
            "the kernel interprets the XDP program instead of running it, which costs several times as much per packet",
        )
        .with_fix("sysctl -w net.core.bpf_jit_enable=1"),
        Some(mode) => Finding::ok(Check::BpfJit, format!("net.core.bpf_jit_enable is {mode}")),
        // A network namespace other than the first doesn't show it.
        None => Finding::skipped(
            Check::BpfJit,
            "net.core.bpf_jit_enable can't be read here",
            "run xdpfs-cli doctor in the host's own network namespace",
        ),
    }
}

fn unprivileged(files: &Files) -> Finding {
    match files.unprivileged_bpf_disabled.as_deref().map(str::trim) {
        Some("0") => Finding::warn(
            Check::UnprivilegedBpf,
            "kernel.unprivileged_bpf_disabled is 0",
            "every user may load BPF programs; xdpfs doesn't need that, and attackers like it",
        )
        .with_fix("sysctl -w kernel.unprivileged_bpf_disabled=1"),
        Some(mode) => {
            Finding::ok(Check::UnprivilegedBpf, format!("kernel.unprivileged_bpf_disabled is {mode}"))
        }
        None => Finding::skipped(
            Check::UnprivilegedBpf,
            "kernel.unprivileged_bpf_disabled can't be read",
            "mount /proc in this container",
        ),
    }
}

fn program(held: Capabilities, try_load: impl FnOnce() -> Result<(), XdpError>) -> Finding {
    if !(held.bpf && held.net_admin && held.perfmon) {
        return Finding::skipped(
            Check::KernelProgram,
            "loading it takes capabilities that are missing",
            GAIN,
        );
    }
    match try_load() {
        Ok(()) => Finding::ok(Check::KernelProgram, "the kernel takes this binary's XDP program"),
        Err(error @ XdpError::NoObject) => {
            Finding::warn(Check::KernelProgram, error.to_string(), "servers of this build run without XDP")
                .with_fix("cargo xtask setup && cargo xtask build-ebpf && cargo build --release --bins")
        }
        Err(error @ XdpError::NotBuilt) => {
            Finding::warn(Check::KernelProgram, error.to_string(), "servers of this build run without XDP")
                .with_fix("cargo build --release --bins")
        }
        Err(error) => Finding::fail(
            Check::KernelProgram,
            crate::failure::message_of(&error),
            "with --xdp native or generic a server doesn't start; with auto it runs without XDP",
        )
        .with_fix("compare this kernel with the requirements in docs/doctor.md"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::State;

    const ALL: Capabilities = Capabilities { bpf: true, net_admin: true, perfmon: true, sys_admin: true };

    #[test]
    fn old_kernels_are_told_what_they_lack() {
        let check = |text: &str, expect| {
            assert_eq!(kernel(text, text.parse().ok()).state, expect, "{text}");
        };
        check("6.18.44-fc", State::Ok);
        check("6.6.0", State::Ok);
        check("6.1.0-18-amd64", State::Warn);
        check("5.15.0-91-generic", State::Warn);
        check("unknown", State::Skipped);
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(capabilities(ALL).state, State::Ok);
        let found = capabilities(Capabilities { sys_admin: false, ..ALL });
        assert!(found.state == State::Warn && found.seen.contains("not SYS_ADMIN"), "{found:?}");
        let found = capabilities(Capabilities { net_admin: true, ..Capabilities::default() });
        assert_eq!(found.seen, "this process lacks BPF, PERFMON");
        assert!(found.fix.unwrap().contains("setcap"));
    }

    #[test]
    fn files_are_judged_by_what_they_hold() {
        let good = Files {
            mountinfo: Some("31 22 0:27 / /sys/fs/bpf rw - bpf bpf rw".into()),
            bpf_jit_enable: Some("1\n".into()),
            unprivileged_bpf_disabled: Some("2\n".into()),
            has_btf: true,
        };
        let states = |files: &Files| shown(files).iter().map(|finding| finding.state).collect::<Vec<_>>();
        assert_eq!(states(&good), [State::Ok; 4]);
        let bad = Files {
            mountinfo: Some(String::new()),
            bpf_jit_enable: Some("0\n".into()),
            unprivileged_bpf_disabled: Some("0\n".into()),
            has_btf: false,
        };
        assert_eq!(states(&bad), [State::Warn; 4]);
        let hidden = states(&Files::default());
        assert_eq!(hidden, [State::Warn, State::Warn, State::Skipped, State::Skipped]);
    }

    #[test]
    fn a_program_is_loaded_only_by_who_may() {
        let check = |held, outcome: Result<(), XdpError>, expect| {
            let found = program(held, || outcome);
            assert_eq!(found.state, expect, "{found:?}");
            assert!(found.state == State::Ok || found.fix.is_some(), "{found:?}");
        };
        check(ALL, Ok(()), State::Ok);
        check(ALL, Err(XdpError::NoObject), State::Warn);
        check(ALL, Err(XdpError::NotBuilt), State::Warn);
        check(ALL, Err(XdpError::Capabilities { missing: "CAP_BPF".into() }), State::Fail);
        check(Capabilities::default(), Ok(()), State::Skipped);
    }
}
