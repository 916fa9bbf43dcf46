//! What the kernel says of one network interface.

use std::io;

use crate::netlink::{Message, attribute, attributes, malformed, text, u16_at, u32_at};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_GETLINK: u16 = 18;
/// Bytes of `struct ifinfomsg`.
pub(crate) const LINK_HEAD_LEN: usize = 16;
const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
/// `IFLA_XDP_PROG_ID` and its likes for driver, stack and hardware.
const IFLA_XDP_PROG_IDS: std::ops::RangeInclusive<u16> = 4..=7;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// One network interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// Its number, in its own network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is, such as `veth` or `bridge`; empty for hardware.
    pub kind: String,
    /// Whether it speaks Ethernet.
    pub is_ethernet: bool,
    /// Its own MAC address; zeros if it has none.
    pub mac: [u8; 6],
    /// Whether it has been switched on.
    pub is_up: bool,
    /// Whether it leads back to this host.
    pub is_loopback: bool,
    /// The most bytes of an IP packet.
    pub mtu: u32,
    /// Receive queues that it was made with; it may use fewer.
    pub rx_queues: u32,
    /// Transmit queues that it was made with; it may use fewer.
    pub tx_queues: u32,
    /// The bridge or bond that it is a port of, by its number.
    pub master: Option<u32>,
    /// The interface at the other end, of a pair, or below, of a VLAN.
    pub peer: Option<Peer>,
    /// The number of the XDP program on it.
    pub program: Option<u32>,
}

/// The interface that another one is tied to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its number, in its network namespace.
    pub index: u32,
    /// The number under which the asking network namespace knows the one of the peer; `None`: it is the same.
    pub namespace_id: Option<i32>,
}

impl Interface {
    /// Whether it is one end of a veth pair.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind == "veth"
    }

    /// What one message says.
    ///
    /// # Errors
    /// It is about something else, or makes no sense.
    pub fn parse(message: &Message) -> io::Result<Self> {
        let head = message.body.get(..LINK_HEAD_LEN).filter(|_| message.kind == RTM_NEWLINK);
        let head = head.ok_or_else(malformed)?;
        let flags = u32_at(head, 8).unwrap_or_default();
        let mut interface = Self {
            index: u32_at(head, 4).unwrap_or_default(),
            is_ethernet: u16_at(head, 2) == Some(ARPHRD_ETHER),
            is_up: flags & IFF_UP != 0,
            is_loopback: flags & IFF_LOOPBACK != 0,
            ..Self::default()
        };
        let mut namespace_id = None;
        for (kind, value) in attributes(&message.body[LINK_HEAD_LEN..]) {
            let number = u32_at(value, 0);
            match kind {
                IFLA_ADDRESS => interface.mac = value.try_into().unwrap_or_default(),
                IFLA_IFNAME => interface.name = text(value),
                IFLA_MTU => interface.mtu = number.unwrap_or_default(),
                IFLA_NUM_RX_QUEUES => interface.rx_queues = number.unwrap_or_default(),
                IFLA_NUM_TX_QUEUES => interface.tx_queues = number.unwrap_or_default(),
                IFLA_MASTER => interface.master = number,
                IFLA_LINK => {
                    interface.peer = number.map(|index| Peer { index, namespace_id: None });
                }
                IFLA_LINK_NETNSID => namespace_id = number.map(u32::cast_signed),
                IFLA_LINKINFO => {
                    interface.kind = attribute(value, IFLA_INFO_KIND).map(text).unwrap_or_default();
                }
                IFLA_XDP => interface.program = program(value),
                _ => {}
            }
        }
        // The attribute may come before the one that it belongs to. Some kinds name themselves.
        let index = interface.index;
        let peer = interface.peer.map(|peer| Peer { namespace_id, ..peer });
        interface.peer = peer.filter(|peer| peer.index != 0 && (peer.index, namespace_id) != (index, None));
        Ok(interface)
    }
}

fn program(xdp: &[u8]) -> Option<u32> {
    let ids = attributes(xdp).filter(|(kind, _)| IFLA_XDP_PROG_IDS.contains(kind));
    ids.filter_map(|(_, id)| u32_at(id, 0)).find(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Question;

    fn with(question: Question, attributes: &[(u16, &[u8])]) -> Message {
        attributes.iter().fold(question, |question, (kind, value)| question.with(*kind, value)).into_message()
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        with(Question::new(0, &[]), &[(kind, value)]).body
    }

    fn parse(attributes: &[(u16, &[u8])]) -> io::Result<Interface> {
        let mut head = [0; LINK_HEAD_LEN];
        head[4] = 9;
        head[2] = ARPHRD_ETHER as u8;
        head[8] = IFF_UP as u8;
        Interface::parse(&with(Question::new(RTM_NEWLINK, &head), attributes))
    }

    #[test]
    fn everything_is_read_from_its_attribute() {
        let info = attribute(IFLA_INFO_KIND, b"veth\0");
        let xdp = [attribute(2, &[1]), attribute(4, &70_u32.to_ne_bytes())].concat();
        let interface = parse(&[
            (IFLA_IFNAME, b"eth0\0"),
            (IFLA_ADDRESS, &[2, 0, 0, 0, 0, 7]),
            (IFLA_MTU, &1500_u32.to_ne_bytes()),
            (IFLA_LINK_NETNSID, &2_u32.to_ne_bytes()),
            (IFLA_LINK, &5_u32.to_ne_bytes()),
            (IFLA_MASTER, &3_u32.to_ne_bytes()),
            (IFLA_NUM_TX_QUEUES, &8_u32.to_ne_bytes()),
            (IFLA_NUM_RX_QUEUES, &4_u32.to_ne_bytes()),
            (IFLA_LINKINFO, &info),
            (IFLA_XDP | 0x8000, &xdp),
        ]);
        let expect = Interface {
            index: 9,
            name: "eth0".into(),
            kind: "veth".into(),
            is_ethernet: true,
            mac: [2, 0, 0, 0, 0, 7],
            is_up: true,
            is_loopback: false,
            mtu: 1500,
            rx_queues: 4,
            tx_queues: 8,
            master: Some(3),
            peer: Some(Peer { index: 5, namespace_id: Some(2) }),
            program: Some(70),
        };
        assert_eq!(interface.unwrap(), expect);
    }

    #[test]
    fn a_program_is_found_in_whichever_place_it_runs() {
        let check = |kind, id: u32, expect| {
            let xdp = [attribute(2, &[1]), attribute(kind, &id.to_ne_bytes())].concat();
            assert_eq!(parse(&[(IFLA_XDP, &xdp)]).unwrap().program, expect, "{kind}");
        };
        check(4, 70, Some(70));
        check(6, 71, Some(71));
        check(4, 0, None);
        check(3, 70, None);
    }

    #[test]
    fn an_interface_that_names_itself_has_no_peer() {
        let check = |index: u32, namespace: Option<u32>, expect: Option<Peer>| {
            let (index, namespace) = (index.to_ne_bytes(), namespace.map(u32::to_ne_bytes));
            let mut attributes = vec![(IFLA_LINK, &index[..])];
            attributes.extend(namespace.as_ref().map(|namespace| (IFLA_LINK_NETNSID, &namespace[..])));
            assert_eq!(parse(&attributes).unwrap().peer, expect);
        };
        check(9, None, None);
        check(0, None, None);
        check(9, Some(0), Some(Peer { index: 9, namespace_id: Some(0) }));
        check(8, None, Some(Peer { index: 8, namespace_id: None }));
    }

    #[test]
    fn cut_answers_are_refused_or_read_as_far_as_they_go() {
        let question = Question::new(RTM_NEWLINK, &[0; LINK_HEAD_LEN]);
        let body = with(question, &[(IFLA_LINKINFO, &[5, 0, 1, 0, b'v'])]).body;
        for len in 0..body.len() {
            let parsed = Interface::parse(&Message { kind: RTM_NEWLINK, body: body[..len].to_vec() });
            assert_eq!(parsed.is_err(), len < LINK_HEAD_LEN, "{len}");
            assert!(parsed.is_err() || !parsed.unwrap().is_veth(), "{len}");
        }
        assert!(Interface::parse(&Message { kind: RTM_GETLINK, body }).is_err());
    }
}
