//! What holds the programs on their interfaces: links, pinned where that can be.
//!
//! Invariant: a program of an earlier edge is replaced without a gap, and one of somebody else never.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use aya::programs::links::FdLink;
use xdpfs_host::Interface;

use super::{
    super::{
        Place, XdpError, describe,
        edge_plan::Outlet,
        edge_plane::Replies,
        pins::Pins,
        programs::{INGRESS, REPLY},
    },
    Edge, find,
};

/// How long the kernel may take to let go of an interface, and how often it is looked whether it has.
const RELEASE_MAX: Duration = Duration::from_secs(1);
const RELEASE_STEP: Duration = Duration::from_millis(5);

/// What holds a program on an interface.
pub(super) struct Held(
    #[expect(dead_code, reason = "closing it takes the program off, if it is not pinned")] FdLink,
);

/// What sends replies on from one interface.
pub(super) struct ReplyLinks {
    #[expect(dead_code, reason = "it is held")]
    classifier: Held,
    xdp: Option<Held>,
}

impl Edge {
    /// Has the replies that come in by an interface sent on; whether in the driver, and why so.
    pub(super) fn hold_replies(
        &mut self,
        interface: &Interface,
        uplink: &Interface,
    ) -> Result<(bool, String), XdpError> {
        if !self.replies.contains_key(&interface.index) || !self.programs.classifies(interface)? {
            self.replies.remove(&interface.index);
            let classifier = self.hold_classifier(interface)?;
            self.replies.insert(interface.index, ReplyLinks { classifier, xdp: None });
        }
        let wants_xdp = match self.config.replies {
            Replies::Kernel => Err("asked for"),
            Replies::Auto if interface.is_veth() => Err("a veth keeps its segmentation offload so"),
            Replies::Auto if self.programs.place == Place::Stack => {
                Err("generic mode comes no earlier than the classifier")
            }
            Replies::Auto => Ok("the driver can"),
            Replies::Xdp => Ok("asked for"),
        };
        let wanted = match wants_xdp {
            Err(why) => Err(why.to_owned()),
            Ok(_) if interface.index == uplink.index => {
                Err("clients are behind the same interface".to_owned())
            }
            Ok(why) => self.prepare(uplink).map(|()| why),
        };
        let why = match wanted {
            Err(why) => why,
            Ok(why) => match self.hold_reply_program(interface) {
                Ok(()) => return Ok((true, why.to_owned())),
                Err(error) => describe(&error),
            },
        };
        // One of an edge before too, which was told otherwise.
        self.forget(&reply_name(interface));
        if let Some(links) = self.replies.get_mut(&interface.index) {
            links.xdp = None;
        }
        Ok((false, why))
    }

    fn hold_classifier(&mut self, interface: &Interface) -> Result<Held, XdpError> {
        let name = format!("reply-{}", interface.index);
        if let Some(link) = self.pins.as_ref().ok().and_then(|pins| pins.link(&name)) {
            if let Ok(link) = self.programs.reclassify(link) {
                return Ok(Held(link));
            }
            // Its interface has gone, and another one has the number.
            self.forget(&name);
        }
        let link = self.programs.classify(interface)?;
        self.keep(&name, link)
    }

    fn hold_reply_program(&mut self, interface: &Interface) -> Result<(), XdpError> {
        let links = self.replies.get(&interface.index);
        let id = self.programs.id(REPLY)?;
        if links.is_some_and(|links| links.xdp.is_some()) && interface.program == Some(id) {
            return Ok(());
        }
        let held = self.hold_xdp(REPLY, reply_name(interface), interface)?;
        if let Some(links) = self.replies.get_mut(&interface.index) {
            links.xdp = Some(held);
        }
        Ok(())
    }

    pub(super) fn hold_ingress(&mut self, uplink: &Interface) -> Result<(), XdpError> {
        let id = self.programs.id(INGRESS)?;
        let is_there = self.ingress.as_ref().is_some_and(|(number, _)| *number == uplink.index);
        if is_there && uplink.program == Some(id) {
            return Ok(());
        }
        let again = self.ingress.take().is_some();
        let name = ingress_name(self.programs.place, uplink.index);
        // One in the other mode is in the way; one of another interface has lost it.
        let before = self.pins.as_ref().map(Pins::links).unwrap_or_default();
        for other in before.iter().filter(|other| other.starts_with("ingress-") && **other != name) {
            let link = self.pins.as_ref().ok().and_then(|pins| pins.link(other));
            let program = link.and_then(|link| link.info().ok()).map(|info| info.program_id());
            self.forget(other);
            self.await_release(program);
        }
        let uplink = find(&uplink.name)?;
        let held = self.hold_xdp(INGRESS, name, &uplink)?;
        self.ingress = Some((uplink.index, held));
        if again {
            tracing::info!(interface = uplink.name, "the kernel program is on the interface again");
        }
        Ok(())
    }

    /// Puts an XDP program on an interface: in the place of an earlier edge's without a gap, or anew.
    fn hold_xdp(
        &mut self,
        program: &'static str,
        name: String,
        interface: &Interface,
    ) -> Result<Held, XdpError> {
        if let Some(link) = self.pins.as_ref().ok().and_then(|pins| pins.link(&name)) {
            let holds = link.info().is_ok_and(|info| Some(info.program_id()) == interface.program);
            if holds && let Ok(link) = self.programs.replace(program, link) {
                tracing::info!(interface = interface.name, program, "taken over from the edge before");
                return Ok(Held(link));
            }
            self.forget(&name);
        }
        let link = self.programs.attach(program, interface)?;
        self.keep(&name, link)
    }

    fn keep(&self, name: &str, link: FdLink) -> Result<Held, XdpError> {
        let link = match &self.pins {
            Ok(pins) => pins.keep(name, link)?,
            Err(_) => link,
        };
        Ok(Held(link))
    }

    fn forget(&self, name: &str) {
        if let Ok(pins) = &self.pins {
            pins.forget(name);
        }
    }

    /// Takes reply programs off interfaces that no node is behind any more.
    pub(super) fn close_others(&mut self, outlets: &BTreeMap<u32, Outlet>) {
        self.replies.retain(|device, _| outlets.contains_key(device));
        let Ok(pins) = &self.pins else { return };
        for name in pins.links() {
            let number = name.strip_prefix("reply-").or_else(|| name.strip_prefix("replyxdp-"));
            let Some(device) = number.and_then(|number| number.parse().ok()) else { continue };
            if !outlets.contains_key(&device) {
                pins.forget(&name);
            }
        }
    }

    /// The kernel takes its time from when nobody holds a link any more; whoever comes next should not meet the program.
    pub(super) fn await_release(&self, program: Option<u32>) {
        let began = Instant::now();
        while find(&self.config.uplink).is_ok_and(|uplink| program.is_some() && uplink.program == program) {
            if began.elapsed() > RELEASE_MAX {
                tracing::warn!(
                    interface = self.config.uplink,
                    "the kernel program is still on the interface"
                );
                return;
            }
            thread::sleep(RELEASE_STEP);
        }
    }
}

pub(super) fn ingress_name(place: Place, interface: u32) -> String {
    match place {
        Place::Driver => format!("ingress-native-{interface}"),
        Place::Stack => format!("ingress-generic-{interface}"),
    }
}

fn reply_name(interface: &Interface) -> String {
    format!("replyxdp-{}", interface.index)
}
