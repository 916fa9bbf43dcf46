//! The kernel programs, by aya: loaded, put on interfaces, timed.
//!
//! Invariant: a program is held on its interface by a link, never by netlink, so that it goes when nobody holds the link.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, XdpMode,
        links::FdLink,
        loaded_programs,
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use rustix::{
    io::Errno,
    system::uname,
    thread::{CapabilitySet, capabilities},
    time::{ClockId, clock_getres},
};
use xdpfs_plane::PORTS_MAX;

use xdpfs_host::Interface;

use super::{Place, XdpError, error::Source};

#[cfg(xdp_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdpfs-ebpf.o")));
#[cfg(not(xdp_object))]
const OBJECT: Option<&[u8]> = None;

/// Judges what comes from clients.
pub(super) const INGRESS: &str = "xdpfs_ingress";
/// Sends replies of nodes on, in the driver.
pub(super) const REPLY: &str = "xdpfs_reply";
/// Sends replies of nodes on, in the network stack.
pub(super) const REPLY_TC: &str = "xdpfs_reply_tc";
const TICKS: &str = "xdpfs_ticks";
/// Maps that outlive the process, if any do; the programs' constants don't.
const LASTING_MAPS: [&str; 11] = [
    "ANSWER_BUCKET",
    "COUNTS",
    "DEVICES",
    "EVENTS",
    "KEY_EPOCHS",
    "NEXT_HOPS",
    "OWN_ADDRESSES",
    "REPLY_SOURCES",
    "ROUTES",
    "SETTINGS",
    "SOURCE_RULES",
];
/// Every node id has a place, so that it need not be known when the program is loaded.
pub(super) const ROUTES: u32 = 1 << 16;
/// Bytes of the packet that asks for the ticks; the kernel takes no less than an Ethernet header.
const TICKS_PACKET_LEN: usize = 64;
/// The verifier says thousands of lines; the last ones count.
const VERIFIER_LINES: usize = 12;

/// The loaded programs with their maps.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) ebpf: Ebpf,
    pub(super) place: Place,
    tick_ns: u64,
}

impl Programs {
    /// Loads them for datagrams to `port`; they know no key, no node and no address yet. Maps that outlive the process
    /// are in the directory `lasting`; those that are there already are taken over.
    pub(super) fn load(
        place: Place,
        port: u16,
        answers_by_redirect: bool,
        lasting: Option<&Path>,
    ) -> Result<Self, XdpError> {
        let object = OBJECT.ok_or(XdpError::NoObject)?;
        check_capabilities()?;
        let mut ports = [0; PORTS_MAX];
        ports[0] = port;
        let answer_by_redirect = u8::from(place == Place::Driver && answers_by_redirect);
        let generic = u8::from(place == Place::Stack);
        let tick_ns = tick_ns();
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("ROUTES", ROUTES)
            .override_global("PORTS", &ports, true)
            .override_global("GENERIC", &generic, true)
            .override_global("ANSWER_BY_REDIRECT", &answer_by_redirect, true)
            .override_global("TICK_NS", &tick_ns, true);
        for name in LASTING_MAPS {
            if let Some(directory) = lasting {
                loader.map_pin_path(name, directory.join(name));
            }
        }
        let ebpf = loader.load(object).map_err(|error| refused(Box::new(error)))?;
        let mut this = Self { ebpf, place, tick_ns };
        for name in [INGRESS, TICKS] {
            this.xdp(name)?.load().map_err(|error| refused(shortened(error)))?;
        }
        Ok(this)
    }

    /// Loads those that an edge needs besides.
    pub(super) fn load_replies(&mut self) -> Result<(), XdpError> {
        self.xdp(REPLY)?.load().map_err(|error| refused(shortened(error)))?;
        self.classifier()?.load().map_err(|error| refused(shortened(error)))
    }

    /// The number of a program, as the kernel has it.
    pub(super) fn id(&mut self, name: &'static str) -> Result<u32, XdpError> {
        let info = if name == REPLY_TC { self.classifier()?.info() } else { self.xdp(name)?.info() };
        Ok(info.map_err(|error| XdpError::Map { part: name, source: Box::new(error) })?.id())
    }

    /// Puts an XDP program on an interface, where no other must be.
    pub(super) fn attach(&mut self, name: &'static str, interface: &Interface) -> Result<FdLink, XdpError> {
        if let Some(id) = interface.program {
            return Err(foreign(&interface.name, id));
        }
        let place = self.place;
        let mode = match place {
            Place::Driver => XdpMode::Driver,
            Place::Stack => XdpMode::Skb,
        };
        let program = self.xdp(name)?;
        let attached = program.attach_to_if_index(interface.index, mode);
        let link = attached.and_then(|id| program.take_link(id)).map_err(|error| XdpError::Attach {
            interface: interface.name.clone(),
            hint: hint(&error, place),
            source: Box::new(error),
        })?;
        // aya falls back to netlink where there are no links, which no kernel that takes this program lacks.
        link.try_into().map_err(|_| XdpError::NoLink { interface: interface.name.clone() })
    }

    /// Puts an XDP program in the place of one that a link holds, without a gap.
    pub(super) fn replace(&mut self, name: &'static str, link: FdLink) -> Result<FdLink, XdpError> {
        let program = self.xdp(name)?;
        let link = XdpLink::try_from(link).map_err(|error| link_error(Box::new(error)))?;
        let id = program.attach_to_link(link).map_err(|error| link_error(Box::new(error)))?;
        let link = program.take_link(id).map_err(|error| link_error(Box::new(error)))?;
        link.try_into().map_err(|error| link_error(Box::new(error)))
    }

    /// Puts the classifier on an interface, behind those of others.
    pub(super) fn classify(&mut self, interface: &Interface) -> Result<FdLink, XdpError> {
        let error = |error: ProgramError| XdpError::Classifier {
            interface: interface.name.clone(),
            source: Box::new(error),
        };
        let program = self.classifier()?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = program.attach_with_options(&interface.name, TcAttachType::Ingress, options);
        let link = attached.and_then(|id| program.take_link(id)).map_err(error)?;
        link.try_into().map_err(|_| XdpError::NoLink { interface: interface.name.clone() })
    }

    /// Puts the classifier in the place of one that a link holds, without a gap.
    pub(super) fn reclassify(&mut self, link: FdLink) -> Result<FdLink, XdpError> {
        let program = self.classifier()?;
        let link = SchedClassifierLink::try_from(link).map_err(|error| link_error(Box::new(error)))?;
        let id = program.attach_to_link(link).map_err(|error| link_error(Box::new(error)))?;
        let link = program.take_link(id).map_err(|error| link_error(Box::new(error)))?;
        link.try_into().map_err(|error| link_error(Box::new(error)))
    }

    /// Whether the classifier is on an interface.
    pub(super) fn classifies(&mut self, interface: &Interface) -> Result<bool, XdpError> {
        let id = self.id(REPLY_TC)?;
        let there = SchedClassifier::query_tcx(&interface.name, TcAttachType::Ingress);
        Ok(there.is_ok_and(|(_, there)| there.iter().any(|program| program.id() == id)))
    }

    /// The time of the kernel program's clock.
    pub(super) fn now_ns(&mut self) -> Result<u64, XdpError> {
        let mut out = [0; TICKS_PACKET_LEN];
        let options = TestRunOptions {
            data_in: Some(&[0; TICKS_PACKET_LEN]),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let run = self.xdp(TICKS)?.test_run(options);
        run.map_err(|source| XdpError::Map { part: "clock", source: Box::new(source) })?;
        Ok(out.first_chunk().copied().map_or(0, u64::from_ne_bytes) * self.tick_ns)
    }

    fn xdp(&mut self, name: &'static str) -> Result<&mut Xdp, XdpError> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(|error| refused(Box::new(error)))
    }

    fn classifier(&mut self) -> Result<&mut SchedClassifier, XdpError> {
        let program = self.ebpf.program_mut(REPLY_TC).ok_or_else(|| missing(REPLY_TC))?;
        program.try_into().map_err(|error| refused(Box::new(error)))
    }
}

/// The interface of this name, if no program is on it yet.
pub(super) fn free(name: &str) -> Result<Interface, XdpError> {
    let interface = xdpfs_host::interface(name)
        .map_err(|source| XdpError::Interface { interface: name.to_owned(), source })?;
    match interface.program {
        Some(id) => Err(foreign(name, id)),
        None => Ok(interface),
    }
}

/// What the XDP program is that is in the way.
pub(super) fn foreign(interface: &str, id: u32) -> XdpError {
    XdpError::Foreign { interface: interface.to_owned(), id, name: name_of(id) }
}

/// # Errors
/// The process lacks some of the capabilities that all this takes.
fn check_capabilities() -> Result<(), XdpError> {
    const NEEDED: [(&str, CapabilitySet); 3] = [
        ("CAP_BPF", CapabilitySet::BPF),
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_PERFMON", CapabilitySet::PERFMON),
    ];
    let Ok(sets) = capabilities(None) else { return Ok(()) };
    let mut held = sets.effective;
    if held.contains(CapabilitySet::SYS_ADMIN) {
        held |= CapabilitySet::BPF | CapabilitySet::PERFMON;
    }
    let lacking: Vec<_> =
        NEEDED.iter().filter(|(_, one)| !held.contains(*one)).map(|(name, _)| *name).collect();
    if lacking.is_empty() { Ok(()) } else { Err(XdpError::Capabilities { missing: lacking.join(", ") }) }
}

fn refused(source: Source) -> XdpError {
    XdpError::Load { release: uname().release().to_string_lossy().into_owned(), source }
}

/// What a link says that doesn't do as it is told.
fn link_error(source: Source) -> XdpError {
    XdpError::Map { part: "link", source }
}

pub(super) fn missing(part: &'static str) -> XdpError {
    XdpError::Map { part, source: "the object has no such part".into() }
}

/// The error, of whose text the verifier wrote most, cut to what counts.
fn shortened(error: ProgramError) -> Source {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return Box::new(error) };
    let log = verifier_log.to_string();
    let lines: Vec<_> = log.lines().collect();
    format!("{io_error}; {}", lines[lines.len().saturating_sub(VERIFIER_LINES)..].join(" | ")).into()
}

/// What a driver's refusal means.
fn hint(error: &ProgramError, place: Place) -> &'static str {
    let ProgramError::SyscallError(error) = error else { return "no known remedy" };
    match error.io_error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::OPNOTSUPP) if place == Place::Driver => {
            "its driver has no native XDP, or none with these settings: use --xdp generic or auto"
        }
        Some(Errno::RANGE | Errno::INVAL) if place == Place::Driver => {
            "its MTU is too large for native XDP: set 3498 or less, or use --xdp generic"
        }
        Some(Errno::NOSPC) => "it has fewer receive queues than its peer has transmit queues",
        Some(Errno::BUSY | Errno::EXIST) => "another XDP program came first",
        Some(Errno::PERM) => "CAP_NET_ADMIN of its network namespace is missing",
        _ => "no known remedy",
    }
}

/// The name of a program; it may have ended meanwhile, or hide.
fn name_of(id: u32) -> String {
    let found = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let name = found.and_then(|program| program.name_as_str().map(str::to_owned));
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "nameless".to_owned())
}

/// Nanoseconds in a tick of the kernel: the resolution of the coarse clocks is just that.
fn tick_ns() -> u64 {
    u64::try_from(clock_getres(ClockId::MonotonicCoarse).tv_nsec).unwrap_or_default()
}
