//! Interfaces made ready for redirected packets.
//!
//! Invariant: what was changed is noted where it outlives this process, and only that is undone.

use std::collections::BTreeSet;

use xdpfs_host::Interface;

use super::super::{Place, Prepare, network::Network, offloads::takes_redirects, peer, pins::Pins};

/// What was done, and whether more may be.
pub(super) struct Preparation {
    policy: Prepare,
    /// Interfaces whose other end has GRO by our doing.
    done: BTreeSet<u32>,
}

impl Preparation {
    /// With what an edge before has done.
    pub(super) fn new(policy: Prepare, pins: Option<&Pins>) -> Self {
        Self { policy, done: pins.map(Pins::prepared).unwrap_or_default().into_iter().collect() }
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
        if place == Place::Stack || takes_redirects(interface.index) == Some(true) {
            return Ok(());
        }
        if !interface.is_veth() {
            // Older kernels can't tell, and most drivers can.
            return match takes_redirects(interface.index) {
                Some(false) => Err(format!("the driver of {} takes no redirected packets", interface.name)),
                Some(true) | None => Ok(()),
            };
        }
        let remedy = "turn it on there: ethtool -K INTERFACE gro on";
        if self.policy == Prepare::Off {
            return Err(format!(
                "the other end of {} has no GRO, and --prepare is off; {remedy}",
                interface.name
            ));
        }
        match peer::set_gro(interface, true) {
            Ok(changed) => {
                if changed && self.done.insert(interface.index) {
                    tracing::info!(interface = interface.name, "GRO of its other end is on");
                    if let Some(pins) = pins {
                        pins.note_prepared(interface.index);
                    }
                }
                Ok(())
            }
            Err(error) => Err(format!(
                "GRO of the other end of {} can't be turned on: {error}; {remedy}",
                interface.name
            )),
        }
    }

    /// Of interfaces that are gone nothing needs to be undone.
    pub(super) fn forget_vanished(&mut self, network: &Network, pins: Option<&Pins>) {
        self.done.retain(|number| {
            let is_there = network.interfaces.contains_key(number);
            if let Some(pins) = pins.filter(|_| !is_there) {
                pins.note_undone(*number);
            }
            is_there
        });
    }

    /// Undoes all of it.
    pub(super) fn undo(&mut self, network: &Network, pins: Option<&Pins>) {
        for number in std::mem::take(&mut self.done) {
            let undone = network
                .interfaces
                .get(&number)
                .map(|interface| peer::set_gro(interface, false).map_err(|error| (&interface.name, error)));
            if let Some(Err((interface, error))) = undone {
                tracing::warn!(interface, %error, "GRO of its other end stays on");
            }
            if let Some(pins) = pins {
                pins.note_undone(number);
            }
        }
    }
}
