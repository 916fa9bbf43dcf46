//! What the program must do, told independently: frames are read as slices with lengths, checksums are summed in
//! big-endian words, and the verdict on the datagram is the user-space validator's.

use std::{collections::HashMap, net::IpAddr};

use xdpfs_plane::maps::{NextHop, OwnAddress, Place, ReplySource, Route, SourceRule};
use xdpfs_wire::{
    Accepted, Capability, Flags, HEADER_LEN, Header, KeyEpochs as _, NodeEpoch, Opcode, PieceClass, Reject,
    Status, TargetNode, validate_request,
};

use crate::{
    fixture::{NOW, OWN, PORT, Secrets},
    frames::{fold, sum},
};

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;
const REDIRECT: u32 = 4;
/// Of the classifier.
const TC_REDIRECT: u32 = 7;
const TC_NEXT: u32 = u32::MAX;

/// What must come of one packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expected {
    pub action: u32,
    /// The counters that must rise, in any order.
    pub counted: Vec<&'static str>,
    pub packet: Vec<u8>,
}

/// The maps, as far as they decide anything.
#[derive(Debug, Default)]
pub struct Model {
    pub routes: HashMap<u16, Route>,
    /// Whether each device is there.
    pub devices: HashMap<u32, bool>,
    /// The first rule that fits counts; no rules, no filter.
    pub source_rules: Vec<(IpAddr, u32, SourceRule)>,
    pub unlisted_source: SourceRule,
    /// The lease of the node on this host is over.
    pub lease_is_over: bool,
    /// No source may send anything more.
    pub sources_spent: bool,
    /// No answer may go out any more.
    pub answers_spent: bool,
    pub generic: bool,
    /// What clients take for a node, by where it sends from.
    pub reply_sources: HashMap<(IpAddr, u16), ReplySource>,
    pub next_hops: Vec<(IpAddr, u32, NextHop)>,
}

/// What sends a reply on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplyBy {
    Classifier,
    Driver,
}

struct Found<'a> {
    is_v4: bool,
    ip_at: usize,
    datagram: &'a [u8],
}

impl Model {
    pub fn expect(&self, frame: &[u8]) -> Expected {
        let as_it_was = |action, counted| Expected { action, counted, packet: frame.to_vec() };
        let Some(found) = find(frame) else { return as_it_was(PASS, vec!["foreign"]) };
        // Envelopes come before addresses: a giant is one wherever it goes.
        if found.datagram.len() > PieceClass::Jumbo.datagram_len() {
            return as_it_was(PASS, vec!["super_packet"]);
        }
        let serves = OWN.contains(&(destination(frame, &found), OwnAddress::SERVED));
        if frame[0] & 1 != 0 || !serves {
            return as_it_was(PASS, vec!["foreign"]);
        }
        if self.is_denied(source(frame, &found)) {
            return as_it_was(DROP, vec!["source_denied"]);
        }
        let answered = |reject: Reject, asker: &Accepted| match reject.reply() {
            Some(_) if self.answers_spent => as_it_was(DROP, vec!["answer_withheld", reject.label()]),
            Some(status) => Expected {
                action: TX,
                counted: vec!["answered", reject.label()],
                packet: answer(frame, &found, asker, status),
            },
            None => as_it_was(DROP, vec!["refused", reject.label()]),
        };
        let Some((header, payload)) = found.datagram.split_first_chunk::<HEADER_LEN>() else {
            return as_it_was(DROP, vec!["refused", "too_short"]);
        };
        let accepted = match validate_request(header, payload.len(), &Secrets, NOW) {
            Ok(accepted) => accepted,
            Err((reject, Some(asker))) => return answered(reject, &asker),
            Err((Reject::BadLength, None)) if self.generic => {
                return as_it_was(PASS, vec!["super_packet"]);
            }
            Err((reject, None)) => return as_it_was(DROP, vec!["refused", reject.label()]),
        };
        if self.sources_spent {
            return as_it_was(DROP, vec!["source_too_fast"]);
        }
        let Some(route) = self.routes.get(&accepted.header.node.0) else {
            return answered(Reject::WrongNode, &accepted);
        };
        let target = TargetNode { node: accepted.header.node, epoch: NodeEpoch(route.node_epoch) };
        let is_here = route.place == Place::HERE;
        let checked =
            if is_here { target.check(&accepted.header) } else { target.route_check(&accepted.header) };
        if let Err(reject) = checked {
            return answered(reject, &accepted);
        }
        let writes = matches!(
            accepted.header.opcode,
            Opcode::PutWhole | Opcode::PutOpen | Opcode::PutData | Opcode::PutCommit | Opcode::PutAbort
        );
        if is_here && writes && self.lease_is_over {
            return answered(Reject::LeaseOver, &accepted);
        }
        if is_here {
            return as_it_was(PASS, vec!["local"]);
        }
        if route.place == Place::RELAY {
            return as_it_was(PASS, vec!["relayed"]);
        }
        let hops = frame[found.ip_at + if found.is_v4 { 8 } else { 7 }];
        if hops <= 1 {
            return as_it_was(PASS, vec!["hop_limit"]);
        }
        if found.is_v4 && route.v4 == [0; 4] || !found.is_v4 && route.v6 == [0; 16] {
            return as_it_was(PASS, vec!["no_address"]);
        }
        let packet = forwarded(frame, &found, route, self.generic);
        if self.devices.get(&route.device).copied().unwrap_or(false) {
            Expected { action: REDIRECT, counted: vec!["routed"], packet }
        } else {
            Expected { action: DROP, counted: vec!["no_device"], packet }
        }
    }

    /// What must come of a packet from a node. The classifier is the one behind the driver.
    pub fn expect_reply(&self, frame: &[u8], by: ReplyBy) -> Expected {
        let sent_on = self.reply(frame, by);
        let (action, label) = match by {
            ReplyBy::Classifier => (TC_REDIRECT, "reply_kernel"),
            ReplyBy::Driver => (REDIRECT, "reply_xdp"),
        };
        let untouched = match by {
            ReplyBy::Classifier => TC_NEXT,
            ReplyBy::Driver => PASS,
        };
        match sent_on {
            Some(packet) => Expected { action, counted: vec![label], packet },
            None => Expected { action: untouched, counted: Vec::new(), packet: frame.to_vec() },
        }
    }

    fn reply(&self, frame: &[u8], by: ReplyBy) -> Option<Vec<u8>> {
        let Letter { is_v4, source_port, udp_len } = letter(frame)?;
        let found = Found { is_v4, ip_at: 14, datagram: &[] };
        let udp = 14 + if is_v4 { 20 } else { 40 };
        let node = source(frame, &found);
        let known_as = self.reply_sources.get(&(node, source_port))?;
        let client = destination(frame, &found);
        let is_own = OWN.iter().any(|(own, _)| *own == client);
        if is_own || frame[14 + if is_v4 { 8 } else { 7 }] <= 1 {
            return None;
        }
        let mut new = frame.to_vec();
        let address = if is_v4 { (14 + 12, 4) } else { (14 + 8, 16) };
        if is_v4 {
            new[14 + 8] -= 1;
            new[26..30].copy_from_slice(&known_as.v4);
            let check = updated(frame, &new, 24, &[(22, 2), (26, 4)]);
            new[24..26].copy_from_slice(&check.to_be_bytes());
        } else {
            new[14 + 7] -= 1;
            new[22..38].copy_from_slice(&known_as.v6);
        }
        new[udp..udp + 2].copy_from_slice(&known_as.port);
        let old = u16::from_be_bytes([frame[udp + 6], frame[udp + 7]]);
        let update = || match updated(frame, &new, udp + 6, &[address, (udp, 2)]) {
            0 => 0xffff,
            check => check,
        };
        let check = match by {
            ReplyBy::Classifier if old == 0 => 0,
            ReplyBy::Classifier => update(),
            ReplyBy::Driver => {
                if frame.len() < udp + udp_len || udp_len > 8 + PieceClass::Jumbo.datagram_len() {
                    return None;
                }
                if old == 0 && is_v4 {
                    0
                } else if old == fold(pseudo_sum(frame, &found, udp_len)) {
                    udp_check(&new, &found, udp, udp_len)
                } else {
                    update()
                }
            }
        };
        new[udp + 6..udp + 8].copy_from_slice(&check.to_be_bytes());
        if by == ReplyBy::Driver {
            let hop = longest(&self.next_hops, client).filter(|hop| hop.destination_mac != [0; 6])?;
            new[..12].copy_from_slice(&[hop.destination_mac, hop.source_mac].concat());
        }
        Some(new)
    }

    fn is_denied(&self, source: IpAddr) -> bool {
        if self.source_rules.is_empty() {
            return false;
        }
        longest(&self.source_rules, source).unwrap_or(self.unlisted_source) == SourceRule::DENY
    }
}

/// What belongs to the longest prefix that fits.
fn longest<T: Copy>(rules: &[(IpAddr, u32, T)], address: IpAddr) -> Option<T> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let fits = |(prefix, len, _): &&(IpAddr, u32, T)| {
        prefix.is_ipv4() == address.is_ipv4()
            && (*len == 0 || (bits(*prefix) ^ bits(address)) >> (128 - len) == 0)
    };
    let longest = rules.iter().filter(fits).max_by_key(|(_, len, _)| *len);
    longest.map(|(_, _, value)| *value)
}

struct Letter {
    is_v4: bool,
    source_port: u16,
    udp_len: usize,
}

/// What may be a reply, without tags; only its headers need to be there.
fn letter(frame: &[u8]) -> Option<Letter> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (is_v4, udp, ip_payload_len) = match word(12)? {
        0x0800 => {
            let plain = *frame.get(14)? == 0x45 && word(20)? & 0x3fff == 0 && *frame.get(23)? == 17;
            (true, 34, usize::from(word(16)?).checked_sub(20).filter(|_| plain)?)
        }
        0x86dd => {
            let plain = *frame.get(14)? >> 4 == 6 && *frame.get(20)? == 17;
            (false, 54, Some(usize::from(word(18)?)).filter(|_| plain)?)
        }
        _ => return None,
    };
    word(udp + 6)?;
    let udp_len = usize::from(word(udp + 4)?);
    let fits = udp_len >= 8 && udp_len <= ip_payload_len;
    fits.then_some(Letter { is_v4, source_port: word(udp)?, udp_len })
}

fn find(frame: &[u8]) -> Option<Found<'_>> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut at = 12;
    let mut tags = 0;
    let mut ethertype = word(at)?;
    while (ethertype == 0x8100 || ethertype == 0x88a8) && tags < 2 {
        tags += 1;
        at += 4;
        ethertype = word(at)?;
    }
    let ip_at = at + 2;
    let (is_v4, udp_at, ip_payload_len) = match ethertype {
        0x0800 => {
            let udp_at = ip_at + 20;
            let plain = *frame.get(ip_at)? == 0x45;
            let whole = word(ip_at + 6)? & 0x3fff == 0;
            let len = usize::from(word(ip_at + 2)?);
            if !plain || !whole || *frame.get(ip_at + 9)? != 17 || len < 20 {
                return None;
            }
            (true, udp_at, len - 20)
        }
        0x86dd => {
            if *frame.get(ip_at)? >> 4 != 6 || *frame.get(ip_at + 6)? != 17 {
                return None;
            }
            (false, ip_at + 40, usize::from(word(ip_at + 4)?))
        }
        _ => return None,
    };
    let udp_len = usize::from(word(udp_at + 4)?);
    if word(udp_at + 2)? != PORT || udp_len < 8 || udp_len > ip_payload_len {
        return None;
    }
    Some(Found { is_v4, ip_at, datagram: frame.get(udp_at + 8..udp_at + udp_len)? })
}

fn source(frame: &[u8], found: &Found<'_>) -> IpAddr {
    if found.is_v4 {
        IpAddr::from(<[u8; 4]>::try_from(&frame[found.ip_at + 12..][..4]).expect("four bytes"))
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&frame[found.ip_at + 8..][..16]).expect("sixteen bytes"))
    }
}

fn destination(frame: &[u8], found: &Found<'_>) -> IpAddr {
    if found.is_v4 {
        IpAddr::from(<[u8; 4]>::try_from(&frame[found.ip_at + 16..][..4]).expect("four bytes"))
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&frame[found.ip_at + 24..][..16]).expect("sixteen bytes"))
    }
}

fn answer(frame: &[u8], found: &Found<'_>, asker: &Accepted, status: Status) -> Vec<u8> {
    let header = Header {
        opcode: Opcode::Error,
        flags: Flags::NONE,
        status,
        length: 0,
        payload_crc: 0,
        ..asker.header
    };
    assert_eq!(
        Capability::claimed_by(&header).key(Secrets.secret(header.key_epoch).expect("a live epoch")),
        asker.key
    );
    let ip = found.ip_at;
    let udp = ip + if found.is_v4 { 20 } else { 40 };
    let mut out = [&frame[6..12], &frame[..6], &frame[12..udp + 8], &asker.key.seal(&header)].concat();
    let udp_len = (8 + HEADER_LEN) as u16;
    let address_len = if found.is_v4 { 4 } else { 16 };
    let addresses = ip + if found.is_v4 { 12 } else { 8 };
    let (from, to) = out[addresses..addresses + 2 * address_len].split_at_mut(address_len);
    from.swap_with_slice(to);
    let (from, to) = out[udp..udp + 4].split_at_mut(2);
    from.swap_with_slice(to);
    out[udp + 4..udp + 6].copy_from_slice(&udp_len.to_be_bytes());
    if found.is_v4 {
        out[ip + 2..ip + 4].copy_from_slice(&(20 + udp_len).to_be_bytes());
        out[ip + 8] = 64;
        out[ip + 10..ip + 12].fill(0);
        let check = !fold(sum(&out[ip..ip + 20]));
        out[ip + 10..ip + 12].copy_from_slice(&check.to_be_bytes());
    } else {
        out[ip + 4..ip + 6].copy_from_slice(&udp_len.to_be_bytes());
        out[ip + 7] = 64;
    }
    let check = udp_check(&out, found, udp, usize::from(udp_len));
    out[udp + 6..udp + 8].copy_from_slice(&check.to_be_bytes());
    out
}

fn forwarded(frame: &[u8], found: &Found<'_>, route: &Route, generic: bool) -> Vec<u8> {
    let ip = found.ip_at;
    let udp = ip + if found.is_v4 { 20 } else { 40 };
    let udp_len = 8 + found.datagram.len();
    let old = frame.to_vec();
    let mut new = frame.to_vec();
    if found.is_v4 {
        new[ip + 8] -= 1;
        new[ip + 16..ip + 20].copy_from_slice(&route.v4);
        let check = updated(&old, &new, ip + 10, &[(ip + 8, 2), (ip + 16, 4)]);
        new[ip + 10..ip + 12].copy_from_slice(&check.to_be_bytes());
    } else {
        new[ip + 7] -= 1;
        new[ip + 24..ip + 40].copy_from_slice(&route.v6);
    }
    new[udp + 2..udp + 4].copy_from_slice(&route.port);
    let check = u16::from_be_bytes([old[udp + 6], old[udp + 7]]);
    let address = if found.is_v4 { (ip + 16, 4) } else { (ip + 24, 16) };
    let check = if check == 0 && found.is_v4 {
        0
    } else if check == fold(pseudo_sum(&old, found, udp_len)) {
        if generic { fold(pseudo_sum(&new, found, udp_len)) } else { udp_check(&new, found, udp, udp_len) }
    } else {
        match updated(&old, &new, udp + 6, &[address, (udp + 2, 2)]) {
            0 => 0xffff,
            check => check,
        }
    };
    new[udp + 6..udp + 8].copy_from_slice(&check.to_be_bytes());
    [&route.destination_mac[..], &route.source_mac, &new[ip - 2..]].concat()
}

/// A checksum after the words at some places have changed (RFC 1624, equation 3).
fn updated(old: &[u8], new: &[u8], check_at: usize, changed: &[(usize, usize)]) -> u16 {
    let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let mut total = u64::from(!word(old, check_at));
    for (start, len) in changed {
        for at in (*start..start + len).step_by(2) {
            total += u64::from(!word(old, at)) + u64::from(word(new, at));
        }
    }
    !fold(total)
}

fn udp_check(frame: &[u8], found: &Found<'_>, udp: usize, udp_len: usize) -> u16 {
    let mut bytes = frame[udp..udp + udp_len].to_vec();
    bytes[6..8].fill(0);
    match !fold(pseudo_sum(frame, found, udp_len) + sum(&bytes)) {
        0 => 0xffff,
        check => check,
    }
}

fn pseudo_sum(frame: &[u8], found: &Found<'_>, udp_len: usize) -> u64 {
    let addresses = if found.is_v4 { 12..20 } else { 8..40 };
    sum(&frame[found.ip_at..][addresses]) + 17 + udp_len as u64
}
