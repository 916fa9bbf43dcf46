//! Interfaces made ready for redirected packets.
//!
//! Invariant: what was changed is noted where it outlives this process, and only that is undone.

use std::collections::BTreeSet;

use xdpfs_host::Interface;

use super::super::{
    Place, Prepare,
    network::Network,
    peer::{self, Change},
    pins::Pins,
    redirects::takes_redirects,
};

/// What was done, and whether more may be.
pub(super) struct Preparation {
    policy: Prepare,
    /// Interfaces, and what their other end does by our doing.
    done: BTreeSet<(u32, Change)>,
    /// Interfaces whose other end needs nothing more.
    ready: BTreeSet<u32>,
}

impl Preparation {
    /// With what an edge before has done.
    pub(super) fn new(policy: Prepare, pins: Option<&Pins>) -> Self {
        let done = pins.map(Pins::prepared).unwrap_or_default().into_iter().collect();
        Self { policy, done, ready: BTreeSet::new() }
    }

    /// Sees to it that an interface takes redirected packets.
    ///
    /// # Errors
    /// It doesn't: why, and what helps.
    pub(super) fn prepare(
        &mut self,
        interface: &Interface,
        place: Place,
        pins: Option<&Pins>,
    ) -> Result<(), String> {
        // The network stack sends what is redirected in generic mode.
        if place == Place::Stack {
            return Ok(());
        }
        let takes_redirects = takes_redirects(interface.index);
        if !interface.is_veth() {
            // Older kernels can't tell, and most drivers can.
            return match takes_redirects {
                Some(false) => Err(format!("the driver of {} takes no redirected packets", interface.name)),
                Some(true) | None => Ok(()),
            };
        }
        let remedy = "turn it on there: ethtool -K INTERFACE gro on";
        match (self.policy, takes_redirects) {
            (Prepare::Off, Some(true)) => return Ok(()),
            (Prepare::Auto, Some(true)) if self.ready.contains(&interface.index) => return Ok(()),
            (Prepare::Off, Some(false) | None) => {
                let name = &interface.name;
                return Err(format!("the other end of {name} has no GRO, and --prepare is off; {remedy}"));
            }
            (Prepare::Auto, _) => {}
        }
        match peer::prepare(interface) {
            Ok(changes) => {
                self.note(interface, &changes, pins);
                Ok(())
            }
            // Somebody has done it where we may not.
            Err(_) if takes_redirects == Some(true) => {
                self.ready.insert(interface.index);
                Ok(())
            }
            Err(error) => Err(format!(
                "GRO of the other end of {} can't be turned on: {error}; {remedy}",
                interface.name
            )),
        }
    }

    fn note(&mut self, interface: &Interface, changes: &[Change], pins: Option<&Pins>) {
        self.ready.insert(interface.index);
        for change in changes {
            if self.done.insert((interface.index, *change)) {
                tracing::info!(interface = interface.name, ?change, "its other end was prepared");
                if let Some(pins) = pins {
                    pins.note_prepared(interface.index, *change);
                }
            }
        }
    }

    /// Of interfaces that are gone nothing needs to be undone.
    pub(super) fn forget_vanished(&mut self, network: &Network, pins: Option<&Pins>) {
        self.ready.retain(|number| network.interfaces.contains_key(number));
        self.done.retain(|(number, change)| {
            let is_there = network.interfaces.contains_key(number);
            if let Some(pins) = pins.filter(|_| !is_there) {
                pins.note_undone(*number, *change);
            }
            is_there
        });
    }

    /// Undoes all of it.
    pub(super) fn undo(&mut self, network: &Network, pins: Option<&Pins>) {
        for (number, change) in std::mem::take(&mut self.done) {
            let undone = network
                .interfaces
                .get(&number)
                .map(|interface| peer::undo(interface, change).map_err(|error| (&interface.name, error)));
            if let Some(Err((interface, error))) = undone {
                tracing::warn!(interface, ?change, %error, "its other end stays prepared");
            }
            if let Some(pins) = pins {
                pins.note_undone(number, change);
            }
        }
    }
}
