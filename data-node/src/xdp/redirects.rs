//! Whether an interface takes redirected packets.

use xdpfs_host::netlink::{Netlink, Question, attribute, u16_at};

const GENERIC_CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const NETDEV_DEV_GET: u8 = 1;
const NETDEV_IFINDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;
const XDP_NDO_XMIT: u8 = 4;
const GENERIC_HEADER_LEN: usize = 4;

/// Whether an interface takes packets that a native program redirects to it, as its driver says. None if the kernel
/// can't tell, which takes Linux 6.3.
///
/// A veth does once the other end has GRO or a program of its own; some network cards do once they have a program.
pub(super) fn takes_redirects(interface: u32) -> Option<bool> {
    let netlink = Netlink::generic().ok()?;
    let header = |command| [command, 1, 0, 0];
    let question = Question::new(GENERIC_CONTROL, &header(CONTROL_GET_FAMILY));
    let family = netlink.ask(question.with(CONTROL_FAMILY_NAME, b"netdev\0")).ok()?;
    let family = u16_at(attribute(family.body.get(GENERIC_HEADER_LEN..)?, CONTROL_FAMILY_ID)?, 0)?;
    let question = Question::new(family, &header(NETDEV_DEV_GET));
    let device = netlink.ask(question.with(NETDEV_IFINDEX, &interface.to_ne_bytes())).ok()?;
    // 64 bits in the host's order, of which the lowest byte is wanted.
    let features = attribute(device.body.get(GENERIC_HEADER_LEN..)?, NETDEV_XDP_FEATURES)?;
    let features = u64::from_ne_bytes(features.try_into().ok()?);
    Some(features & u64::from(XDP_NDO_XMIT) != 0)
}
