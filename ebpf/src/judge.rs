//! Filter, validate, route: what is to be done with a datagram, before anything is done to it.

use xdpfs_plane::{
    Decision, Envelope, Fate, Frame as _, is_for_many,
    maps::{OwnAddress, Place, Settings},
};
use xdpfs_wire::{
    Accepted, Expiry, HEADER_LEN, NodeEpoch, Reject, TargetNode, check_lease, validate_request,
};

use crate::{GENERIC, TICK_NS, maps, packet::Packet};

/// Judges the datagram in `envelope`, and counts and samples refusals.
#[inline(always)]
pub(crate) fn judge(packet: &Packet, envelope: &Envelope) -> Decision {
    let Some(settings) = maps::settings() else { return Decision::End(Fate::Fault) };
    let now_ns = maps::ticks() * TICK_NS.load();
    let decision = decide(packet, envelope, settings, now_ns).unwrap_or(Decision::End(Fate::Fault));
    if let Decision::Answer(reject) | Decision::Refuse(reject) = decision {
        let counter = Fate::reject_counter(reject);
        let count = maps::count(counter);
        if count & settings.event_mask == 0 {
            maps::keep_event(counter, packet, envelope, now_ns);
        }
    }
    match decision {
        Decision::Answer(_) if !maps::may_answer(settings, now_ns) => Decision::End(Fate::AnswerWithheld),
        decision => decision,
    }
}

/// `None` if the packet isn't what it seemed.
#[inline(always)]
fn decide(packet: &Packet, envelope: &Envelope, settings: &Settings, now_ns: u64) -> Option<Decision> {
    // A router's other traffic is none of our business, and what is for many hosts is none of ours alone.
    let destination = envelope.destination(packet)?;
    let is_ours = settings.serves(destination) || maps::own(destination) == Some(OwnAddress::SERVED);
    if is_for_many(packet) || !is_ours {
        return Some(Decision::End(Fate::Foreign));
    }
    let source = envelope.source(packet)?;
    // Before the tag, which costs more. How fast a source sends is asked behind it, so that nobody can use up what
    // belongs to an address that he merely claims to have.
    if maps::is_denied(settings, source) {
        return Some(Decision::End(Fate::SourceDenied));
    }
    let Some(payload_len) = envelope.datagram_len.checked_sub(HEADER_LEN) else {
        return Some(Decision::Refuse(Reject::TooShort));
    };
    let bytes = packet.at::<HEADER_LEN>(envelope.datagram_at())?;
    let now = Expiry(settings.unix_s(now_ns));
    let Accepted { header, .. } = match validate_request(bytes, payload_len, &maps::Keys, now) {
        Ok(request) => request,
        Err((reject, Some(_))) => return Some(Decision::Answer(reject)),
        Err((Reject::BadLength, None)) if GENERIC.load() != 0 => {
            return Some(Decision::End(Fate::SuperPacket));
        }
        Err((reject, None)) => return Some(Decision::Refuse(reject)),
    };
    if maps::is_too_fast(settings, source, now_ns) {
        return Some(Decision::End(Fate::SourceTooFast));
    }
    let Some(route) = maps::route(header.node) else { return Some(Decision::Answer(Reject::WrongNode)) };
    let target = TargetNode { node: header.node, epoch: NodeEpoch(route.node_epoch) };
    let checked = if route.place == Place::HERE {
        target.check(&header).and_then(|()| check_lease(&header, || maps::lease_holds(now_ns)))
    } else {
        target.route_check(&header)
    };
    Some(match checked {
        Err(reject) => Decision::Answer(reject),
        Ok(()) if route.place == Place::HERE => Decision::End(Fate::Local),
        Ok(()) if route.place == Place::RELAY => Decision::End(Fate::Relayed),
        Ok(()) => Decision::Forward(header.node),
    })
}
