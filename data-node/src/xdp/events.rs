//! The kernel program's ring of sampled events, emptied into the tap.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::io::unix::AsyncFd;
use xdpfs_plane::{counter_label, maps::Event};
use xdpfs_wire::HEADER_LEN;

use super::edge_plane::Events;
use crate::event_tap::{EventTap, PacketEvent};

/// Events that are taken at once, about as many as the ring holds. Then comes a pause, so that a flood which somebody
/// traces costs a share of one CPU and not all of it; what the ring can't hold meanwhile is lost.
const TAKEN_AT_ONCE_MAX: usize = 2048;
const PAUSE: Duration = Duration::from_millis(10);

/// Hands all events to `tap`, for ever.
pub(crate) async fn forward_events(ring: Events, tap: Arc<EventTap>) {
    if let Err(error) = forward(ring, &tap).await {
        tracing::warn!(%error, "the kernel program can't be traced any more");
    }
}

async fn forward(ring: Events, tap: &EventTap) -> io::Result<()> {
    // SAFETY: the ring owns its file descriptor and names the same one for as long as it lives.
    let mut ring = unsafe { AsyncFd::register(ring) }.map_err(io::Error::from)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        let events = ready.get_inner_mut();
        let mut taken = 0;
        while let Some(bytes) = events.next() {
            if let Some(event) = parse(&bytes) {
                tap.publish(event);
            }
            taken += 1;
            if taken == TAKEN_AT_ONCE_MAX {
                break;
            }
        }
        if taken == TAKEN_AT_ONCE_MAX {
            tokio::time::sleep(PAUSE).await;
        } else {
            ready.clear_ready();
        }
    }
}

/// `None` if it isn't an event as the program lays it out.
fn parse(bytes: &[u8]) -> Option<PacketEvent> {
    const COUNTER: usize = std::mem::offset_of!(Event, counter);
    const DEVICE: usize = std::mem::offset_of!(Event, device);
    const SOURCE: usize = std::mem::offset_of!(Event, source);
    const HEADER: usize = std::mem::offset_of!(Event, header);
    let u32_at = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
    Some(PacketEvent {
        at: SystemTime::now(),
        counter: counter_label(u32_at(COUNTER)?)?,
        interface: u32_at(DEVICE)?,
        source: IpAddr::from(Ipv6Addr::from(*bytes.get(SOURCE..)?.first_chunk::<16>()?)),
        header: *bytes.get(HEADER..)?.first_chunk::<HEADER_LEN>()?,
    })
}

#[cfg(test)]
mod tests {
    use xdpfs_plane::Fate;
    use xdpfs_wire::Reject;

    use super::*;

    fn event(counter: u32) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Event>()];
        bytes[8..12].copy_from_slice(&counter.to_ne_bytes());
        bytes[12..16].copy_from_slice(&4_u32.to_ne_bytes());
        bytes[26..32].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        bytes[32..96].fill(7);
        bytes
    }

    #[test]
    fn events_are_read_as_the_program_lays_them_out() {
        let event = parse(&event(Fate::reject_counter(Reject::BadTag))).unwrap();
        assert_eq!((event.counter, event.interface), (Reject::BadTag.label(), 4));
        assert_eq!(event.source.to_canonical().to_string(), "10.0.0.1");
        assert_eq!(event.header, [7; HEADER_LEN]);
    }

    #[test]
    fn what_is_no_event_is_passed_over() {
        assert_eq!(parse(&event(u32::MAX)), None);
        let whole = event(0);
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), None, "{len}");
        }
    }
}
