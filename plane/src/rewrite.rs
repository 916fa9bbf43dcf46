//! Frames made into other frames: a request on its way to another node, a reply on its way back, and a refused request
//! into its answer.
//!
//! IP and UDP headers are contiguous, so each IP version has one array with both.

use xdpfs_wire::{Capability, HEADER_LEN, Header, HeaderBytes, KeyEpochs, Opcode, Status};

use crate::{
    checksum::Checksum,
    maps::{ReplySource, Route},
};

/// UDP length of an answer: a header without payload.
const ANSWER_UDP_LEN: [u8; 2] = ((8 + HEADER_LEN) as u16).to_be_bytes();
const ANSWER_IPV4_LEN: [u8; 2] = ((20 + 8 + HEADER_LEN) as u16).to_be_bytes();
const HOP_LIMIT: u8 = 64;
const PROTOCOL_UDP: [u8; 2] = [0, 17];

/// Bytes of the datagram that answers a refused request.
pub const ANSWER_LEN: usize = HEADER_LEN;

/// IPv4 and UDP header of a frame.
pub type V4Headers = [u8; 28];
/// IPv6 and UDP header of a frame.
pub type V6Headers = [u8; 48];

/// [`V4Headers`] and the datagram's header.
pub type V4Request = [u8; 28 + HEADER_LEN];
/// [`V6Headers`] and the datagram's header.
pub type V6Request = [u8; 48 + HEADER_LEN];

/// Why a request can't be sent to its node, or a reply to its client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unroutable {
    /// The hop limit ends here.
    HopLimit,
    /// There is no address of this IP version.
    NoAddress,
}

/// What a packet that was rewritten still lacks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detour {
    /// Nothing.
    Ready,
    /// The sender left the checksum to its network card (`CHECKSUM_PARTIAL`), and the field is zero by now. In native
    /// mode a redirect forgets that, so the sum of UDP header and payload must be added to this one of the
    /// pseudo-header; in generic mode the field takes this one alone.
    Unsummed(Checksum),
}

impl Detour {
    /// Aims IPv4 and UDP header of a request at the node of `route`.
    ///
    /// # Errors
    /// If the request can't go there; the headers are as before then.
    #[inline(always)]
    pub fn v4(h: &mut V4Headers, route: &Route) -> Result<Self, Unroutable> {
        turned_v4::<16, 22>(h, route.v4, route.port)
    }

    /// Aims IPv6 and UDP header of a request at the node of `route`.
    ///
    /// # Errors
    /// If the request can't go there; the headers are as before then.
    #[inline(always)]
    pub fn v6(h: &mut V6Headers, route: &Route) -> Result<Self, Unroutable> {
        turned_v6::<24, 42>(h, &route.v6, route.port)
    }

    /// Makes a node's reply over IPv4 one of the address that the client knows.
    ///
    /// # Errors
    /// If the reply can't be sent on; the headers are as before then.
    #[inline(always)]
    pub fn reply_v4(h: &mut V4Headers, source: &ReplySource) -> Result<Self, Unroutable> {
        turned_v4::<12, 20>(h, source.v4, source.port)
    }

    /// Makes a node's reply over IPv6 one of the address that the client knows.
    ///
    /// # Errors
    /// If the reply can't be sent on; the headers are as before then.
    #[inline(always)]
    pub fn reply_v6(h: &mut V6Headers, source: &ReplySource) -> Result<Self, Unroutable> {
        turned_v6::<8, 40>(h, &source.v6, source.port)
    }
}

/// Takes a hop, and replaces the address at `ADDRESS` and the port at `PORT`.
#[inline(always)]
fn turned_v4<const ADDRESS: usize, const PORT: usize>(
    h: &mut V4Headers,
    address: [u8; 4],
    port: [u8; 2],
) -> Result<Detour, Unroutable> {
    if h[8] <= 1 {
        return Err(Unroutable::HopLimit);
    }
    if address == [0; 4] {
        return Err(Unroutable::NoAddress);
    }
    let old_hops = [h[8], h[9]];
    h[8] -= 1;
    let old_address = [h[ADDRESS], h[ADDRESS + 1], h[ADDRESS + 2], h[ADDRESS + 3]];
    let header = Checksum::of_field([h[10], h[11]])
        .minus2(old_hops)
        .plus2([h[8], h[9]])
        .minus4(old_address)
        .plus4(address);
    [h[10], h[11]] = header.field();
    let pseudo = pseudo_v4(h);
    [h[ADDRESS], h[ADDRESS + 1], h[ADDRESS + 2], h[ADDRESS + 3]] = address;
    let old_port = [h[PORT], h[PORT + 1]];
    [h[PORT], h[PORT + 1]] = port;
    let check = [h[26], h[27]];
    if check == [0, 0] {
        return Ok(Detour::Ready);
    }
    if check == pseudo.folded() {
        [h[26], h[27]] = [0, 0];
        return Ok(Detour::Unsummed(pseudo_v4(h)));
    }
    let udp = Checksum::of_field(check).minus4(old_address).plus4(address).minus2(old_port).plus2(port);
    [h[26], h[27]] = udp.udp_field();
    Ok(Detour::Ready)
}

/// The same for IPv6.
#[inline(always)]
fn turned_v6<const ADDRESS: usize, const PORT: usize>(
    h: &mut V6Headers,
    address: &[u8; 16],
    port: [u8; 2],
) -> Result<Detour, Unroutable> {
    if h[7] <= 1 {
        return Err(Unroutable::HopLimit);
    }
    if *address == [0; 16] {
        return Err(Unroutable::NoAddress);
    }
    h[7] -= 1;
    let pseudo = pseudo_v6(h);
    let mut udp = Checksum::of_field([h[46], h[47]]).minus2([h[PORT], h[PORT + 1]]).plus2(port);
    for at in [0, 4, 8, 12] {
        udp = udp
            .minus4([h[ADDRESS + at], h[ADDRESS + at + 1], h[ADDRESS + at + 2], h[ADDRESS + at + 3]])
            .plus4([address[at], address[at + 1], address[at + 2], address[at + 3]]);
    }
    h[ADDRESS..ADDRESS + 16].copy_from_slice(address);
    [h[PORT], h[PORT + 1]] = port;
    if [h[46], h[47]] == pseudo.folded() {
        [h[46], h[47]] = [0, 0];
        return Ok(Detour::Unsummed(pseudo_v6(h)));
    }
    [h[46], h[47]] = udp.udp_field();
    Ok(Detour::Ready)
}

/// Turns a refused request (IPv4, UDP, header) into the answer to it. `None` if it isn't a request of a live epoch.
/// Whoever calls this knows that the tag was right.
#[inline(always)]
pub fn answer_v4(h: &mut V4Request, status: Status, keys: &impl KeyEpochs) -> Option<()> {
    let (ip_udp, header) = h.split_first_chunk_mut::<28>()?;
    let header = header.first_chunk_mut::<HEADER_LEN>()?;
    refuse(header, status, keys)?;
    let h: &mut V4Headers = ip_udp;
    [h[2], h[3]] = ANSWER_IPV4_LEN;
    h[8] = HOP_LIMIT;
    for at in 12..16 {
        h.swap(at, at + 4);
    }
    [h[10], h[11]] = [0, 0];
    let mut ip = Checksum::default();
    for at in [0, 4, 8, 12, 16] {
        ip = ip.plus4([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    }
    [h[10], h[11]] = ip.field();
    h.swap(20, 22);
    h.swap(21, 23);
    [h[24], h[25]] = ANSWER_UDP_LEN;
    let udp = pseudo_v4(h).plus4([h[20], h[21], h[22], h[23]]).plus2(ANSWER_UDP_LEN).plus_all(header);
    [h[26], h[27]] = udp.udp_field();
    Some(())
}

/// The same for IPv6.
#[inline(always)]
pub fn answer_v6(h: &mut V6Request, status: Status, keys: &impl KeyEpochs) -> Option<()> {
    let (ip_udp, header) = h.split_first_chunk_mut::<48>()?;
    let header = header.first_chunk_mut::<HEADER_LEN>()?;
    refuse(header, status, keys)?;
    let h: &mut V6Headers = ip_udp;
    [h[4], h[5]] = ANSWER_UDP_LEN;
    h[7] = HOP_LIMIT;
    for at in 8..24 {
        h.swap(at, at + 16);
    }
    h.swap(40, 42);
    h.swap(41, 43);
    [h[44], h[45]] = ANSWER_UDP_LEN;
    let udp = pseudo_v6(h).plus4([h[40], h[41], h[42], h[43]]).plus2(ANSWER_UDP_LEN).plus_all(header);
    [h[46], h[47]] = udp.udp_field();
    Some(())
}

/// Turns the header of a request into the one of its refusal, with its own tag. In place, since two headers are
/// more than the stack of a BPF program holds.
#[inline(always)]
fn refuse(header: &mut HeaderBytes, status: Status, keys: &impl KeyEpochs) -> Option<()> {
    let request = Header::parse(header).ok()?;
    let key = Capability::claimed_by(&request).key(keys.secret(request.key_epoch)?);
    header[3] = Opcode::Error as u8;
    header[4] = request.class as u8;
    header[5] = status as u8;
    [header[48], header[49], header[50], header[51]] = [0; 4];
    [header[52], header[53], header[54], header[55]] = [0; 4];
    let tag = key.tag(header).to_le_bytes();
    for (at, byte) in tag.into_iter().enumerate() {
        header[56 + at] = byte;
    }
    Some(())
}

/// Addresses, protocol and UDP length: what the UDP checksum covers besides the datagram (RFC 768).
#[inline(always)]
fn pseudo_v4(h: &V4Headers) -> Checksum {
    Checksum::default()
        .plus4([h[12], h[13], h[14], h[15]])
        .plus4([h[16], h[17], h[18], h[19]])
        .plus2(PROTOCOL_UDP)
        .plus2([h[24], h[25]])
}

/// The same of IPv6 (RFC 8200 §8.1).
#[inline(always)]
fn pseudo_v6(h: &V6Headers) -> Checksum {
    let mut sum = Checksum::default().plus2(PROTOCOL_UDP).plus2([h[44], h[45]]);
    for at in [8, 12, 16, 20, 24, 28, 32, 36] {
        sum = sum.plus4([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    }
    sum
}
