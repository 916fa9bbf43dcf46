//! The verdict on requests, case by case. The cases are kept as bytes in `fixtures/requests.txt`, so that every
//! validator (this crate's, the data node's in user space, the kernel program) is judged by the same datagrams.
//!
//! The file is made from the table below. `XDPFS_BLESS=1 cargo test -p xdpfs-wire` writes it anew; without that, a
//! difference is a failure: the protocol would have changed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fmt::Write as _, fs, path::Path};

use proptest::prelude::*;
use xdpfs_wire::{
    BucketId, Capability, ChunkId, ClientId, EpochSecret, Expiry, Flags, HEADER_LEN, Header, HeaderBytes,
    KeyEpoch, KeyEpochs, NodeEpoch, NodeId, Opcode, PieceClass, Reject, RequestId, Rights, SipKey, Status,
    TargetNode, check_lease,
    payload::{GET_BURST_LEN, REQUEST_PADDING_MIN},
    validate_request,
};

const FILE: &str = "fixtures/requests.txt";

const NOW: Expiry = Expiry(1_000_000);
const NODE: TargetNode = TargetNode { node: NodeId(3), epoch: NodeEpoch(9) };
const BUCKET: BucketId = BucketId(0x0000_2a01);

/// Two live epochs, as always in a cluster.
struct Secrets;

impl KeyEpochs for Secrets {
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        match epoch {
            KeyEpoch(7) => Some(secret(0x11)),
            KeyEpoch(8) => Some(secret(0x22)),
            _ => None,
        }
    }
}

fn secret(byte: u8) -> EpochSecret {
    EpochSecret(SipKey::from_bytes([byte; 16]))
}

/// A datagram whose payload is zeros, and what becomes of it.
struct Case {
    name: &'static str,
    header: Vec<u8>,
    payload_len: usize,
    verdict: Result<(), Reject>,
}

/// A request that passes, to be spoilt in one way.
fn request(opcode: Opcode, length: u32) -> Header {
    let class = PieceClass::Standard;
    Header {
        opcode,
        class,
        flags: Flags::NONE,
        status: Status::Ok,
        rights: Rights::ALL,
        key_epoch: KeyEpoch(8),
        node: NODE.node,
        node_epoch: NODE.epoch,
        client: ClientId(0x0102_0304),
        bucket: BUCKET,
        expiry: Expiry(NOW.0 + 60),
        request: RequestId(0x5eed),
        offset: 0,
        chunk: ChunkId::new(BUCKET, 77),
        length,
        payload_crc: 0,
        tag: 0,
    }
}

/// Encoded with the tag that belongs to its own fields.
fn sealed(mut header: Header, payload_len: usize) -> Vec<u8> {
    let covered = match header.opcode {
        Opcode::PutWhole | Opcode::PutData => payload_len.min(header.length as usize),
        _ => payload_len,
    };
    header.payload_crc = crc_fast::crc32_iscsi(&vec![0; covered]);
    let key = Capability::claimed_by(&header).key(Secrets.secret(header.key_epoch).unwrap_or(secret(0x33)));
    key.seal(&header).to_vec()
}

fn case(name: &'static str, header: Header, payload_len: usize, verdict: Result<(), Reject>) -> Case {
    Case { name, header: sealed(header, payload_len), payload_len, verdict }
}

/// The bytes of a request that passes, with one of them changed after the tag was made.
fn spoilt(name: &'static str, at: usize, value: u8, reject: Reject) -> Case {
    let mut header = sealed(request(Opcode::GetPiece, 1344), 1344);
    header[at] = value;
    Case { name, header, payload_len: 1344, verdict: Err(reject) }
}

fn accepted() -> Vec<Case> {
    let ok = Ok(());
    let read = |opcode, length| Header { rights: Rights::READ, ..request(opcode, length) };
    let write = |opcode, length| Header { rights: Rights::WRITE, ..request(opcode, length) };
    vec![
        case("ping", Header { rights: Rights::NONE, ..request(Opcode::Ping, 0) }, REQUEST_PADDING_MIN, ok),
        case("ping_of_a_full_piece", request(Opcode::Ping, 0), 1344, ok),
        case("get_piece", read(Opcode::GetPiece, 1344), 1344, ok),
        case("get_piece_of_one_byte", read(Opcode::GetPiece, 1), 1, ok),
        case("get_burst", read(Opcode::GetBurst, 44 * 1344), GET_BURST_LEN, ok),
        case("stat", read(Opcode::Stat, 0), REQUEST_PADDING_MIN, ok),
        case("put_whole", write(Opcode::PutWhole, 1344), 1344, ok),
        case("put_whole_of_one_byte", write(Opcode::PutWhole, 1), REQUEST_PADDING_MIN, ok),
        case("put_open", write(Opcode::PutOpen, 4 << 20), REQUEST_PADDING_MIN, ok),
        case("put_data", write(Opcode::PutData, 1344), 1344, ok),
        case("put_commit", write(Opcode::PutCommit, 4 << 20), REQUEST_PADDING_MIN, ok),
        case("put_abort", write(Opcode::PutAbort, 0), 0, ok),
        case(
            "older_key_epoch",
            Header { key_epoch: KeyEpoch(7), ..read(Opcode::Stat, 0) },
            REQUEST_PADDING_MIN,
            ok,
        ),
        case(
            "read_in_an_older_node_epoch",
            Header { node_epoch: NodeEpoch(8), ..read(Opcode::GetPiece, 9) },
            9,
            ok,
        ),
        case("last_second", Header { expiry: Expiry(NOW.0 + 1), ..read(Opcode::GetPiece, 9) }, 9, ok),
        case(
            "jumbo_piece",
            Header { class: PieceClass::Jumbo, flags: Flags::ACK_WANTED, ..write(Opcode::PutData, 8192) },
            8192,
            ok,
        ),
    ]
}

fn refused_by_shape() -> Vec<Case> {
    let short =
        |name, len| Case { name, header: vec![0x46; len], payload_len: 0, verdict: Err(Reject::TooShort) };
    let length = Err(Reject::BadLength);
    vec![
        short("empty", 0),
        short("one_byte_less_than_a_header", HEADER_LEN - 1),
        spoilt("wrong_magic", 0, 0x45, Reject::BadMagic),
        spoilt("later_version", 2, 0x28, Reject::BadVersion),
        spoilt("longer_header", 2, 0x19, Reject::BadVersion),
        spoilt("opcode_zero", 3, 0, Reject::BadOpcode),
        spoilt("opcode_of_nobody", 3, 0x7f, Reject::BadOpcode),
        case("reply_to_a_node", request(Opcode::Data, 1344), 1344, Err(Reject::BadOpcode)),
        spoilt("reserved_piece_class", 4, 0x04, Reject::ReservedBits),
        spoilt("reserved_flag", 4, 0x80, Reject::ReservedBits),
        spoilt("request_with_a_status", 5, 1, Reject::ReservedBits),
        spoilt("reserved_right", 6, 0x43, Reject::ReservedBits),
        spoilt("offset_beyond_any_chunk", 31, 0xff, Reject::BadLength),
        spoilt("length_beyond_any_chunk", 51, 0xff, Reject::BadLength),
        case("ping_too_short_for_its_pong", request(Opcode::Ping, 0), REQUEST_PADDING_MIN - 1, length),
        case("get_piece_shorter_than_its_answer", request(Opcode::GetPiece, 1344), 1343, length),
        case("get_piece_of_nothing", request(Opcode::GetPiece, 0), 0, length),
        case("get_burst_without_bitmap", request(Opcode::GetBurst, 9000), GET_BURST_LEN - 1, length),
        case("get_burst_with_padding", request(Opcode::GetBurst, 9000), GET_BURST_LEN + 1, length),
        case("payload_longer_than_a_piece", request(Opcode::PutData, 1344), 1345, length),
        case("put_whole_of_nothing", request(Opcode::PutWhole, 0), REQUEST_PADDING_MIN, length),
        case("put_data_cut_short", request(Opcode::PutData, 1344), 1343, length),
        case("put_open_of_nothing", request(Opcode::PutOpen, 0), REQUEST_PADDING_MIN, length),
        case("put_abort_with_payload", request(Opcode::PutAbort, 0), 1, length),
    ]
}

fn refused_by_key_and_rights() -> Vec<Case> {
    let get = || request(Opcode::GetPiece, 1344);
    let check = |name, header, reject| case(name, header, 1344, Err(reject));
    vec![
        check("unknown_key_epoch", Header { key_epoch: KeyEpoch(6), ..get() }, Reject::UnknownKeyEpoch),
        spoilt("another_client", 12, 0xff, Reject::BadTag),
        spoilt("another_bucket", 16, 0xff, Reject::BadTag),
        spoilt("a_longer_life", 23, 0x7f, Reject::BadTag),
        spoilt("another_request", 24, 0xff, Reject::BadTag),
        spoilt("another_chunk", 32, 0xff, Reject::BadTag),
        spoilt("another_checksum", 52, 0xff, Reject::BadTag),
        spoilt("another_tag", 63, 0xff, Reject::BadTag),
        spoilt("more_rights", 6, 0x01, Reject::BadTag),
        spoilt("the_other_epoch", 7, 7, Reject::BadTag),
        check("expired", Header { expiry: NOW, ..get() }, Reject::Expired),
        check("expired_long_ago", Header { expiry: Expiry(0), ..get() }, Reject::Expired),
        check(
            "read_with_the_right_to_write",
            Header { rights: Rights::WRITE, ..get() },
            Reject::RightsMissing,
        ),
        check("read_without_rights", Header { rights: Rights::NONE, ..get() }, Reject::RightsMissing),
        check(
            "write_with_the_right_to_read",
            Header { rights: Rights::READ, ..request(Opcode::PutData, 1344) },
            Reject::RightsMissing,
        ),
        check(
            "foreign_bucket",
            Header { chunk: ChunkId::new(BucketId(1), 77), ..get() },
            Reject::ForeignBucket,
        ),
        check("another_node", Header { node: NodeId(4), ..get() }, Reject::WrongNode),
        check("no_node", Header { node: NodeId(0), ..get() }, Reject::WrongNode),
        check(
            "write_in_an_older_node_epoch",
            Header { node_epoch: NodeEpoch(8), ..request(Opcode::PutWhole, 1344) },
            Reject::StaleNode,
        ),
    ]
}

fn cases() -> Vec<Case> {
    [accepted(), refused_by_shape(), refused_by_key_and_rights()].into_iter().flatten().collect()
}

fn verdict(datagram: &[u8]) -> Result<(), Reject> {
    let Some((header, payload)) = datagram.split_first_chunk::<HEADER_LEN>() else {
        return Err(Reject::TooShort);
    };
    let accepted = validate_request(header, payload.len(), &Secrets, NOW).map_err(|(reject, _)| reject)?;
    NODE.check(&accepted.header)
}

fn render(cases: &[Case]) -> String {
    let mut text = String::from(
        "# Requests and the verdict on each, made by tests/fixtures.rs.\n\
         #\n\
         # Each line: name, verdict (`accept` or the label of a reject), the datagram in hex up to its payload, and the\n\
         # number of zero bytes that follow as payload.\n\
         # Key epoch 7 has the secret 11 (sixteen times), key epoch 8 has 22; no other is live.\n\
         # The time is 1000000. The node has the id 3 and the registration 9.\n",
    );
    for Case { name, header, payload_len, verdict } in cases {
        let verdict = verdict.map_or_else(Reject::label, |()| "accept");
        let hex: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
        let hex = if hex.is_empty() { "-".to_owned() } else { hex };
        writeln!(text, "{name} {verdict} {hex} {payload_len}").unwrap();
    }
    text
}

#[test]
fn the_file_holds_the_cases_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let expect = render(&cases());
    if std::env::var_os("XDPFS_BLESS").is_some() {
        fs::write(&path, &expect).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == expect,
        "{FILE} differs from the table: see this file's head"
    );
}

#[test]
fn every_case_gets_its_verdict() {
    for Case { name, header, payload_len, verdict: expect } in cases() {
        let datagram = [header, vec![0; payload_len]].concat();
        assert_eq!(verdict(&datagram), expect, "{name}");
    }
}

#[test]
fn every_reject_has_a_case() {
    let seen: Vec<Reject> = cases().into_iter().filter_map(|case| case.verdict.err()).collect();
    // Whether a lease is over does not show in a datagram.
    for reject in Reject::ALL.iter().filter(|reject| **reject != Reject::LeaseOver) {
        assert!(seen.contains(reject), "{}", reject.label());
    }
}

#[test]
fn an_edge_leaves_newer_epochs_to_the_node_and_a_node_does_not() {
    let check = |opcode, epoch, by_node: Result<(), Reject>, by_edge: Result<(), Reject>| {
        let header = Header { node_epoch: NodeEpoch(epoch), ..request(opcode, 1) };
        assert_eq!(NODE.check(&header), by_node, "{opcode:?} in epoch {epoch}, by the node");
        assert_eq!(NODE.route_check(&header), by_edge, "{opcode:?} in epoch {epoch}, by an edge");
    };
    let stale = Err(Reject::StaleNode);
    for write in [Opcode::PutWhole, Opcode::PutOpen, Opcode::PutData, Opcode::PutCommit, Opcode::PutAbort] {
        check(write, NODE.epoch.0, Ok(()), Ok(()));
        check(write, NODE.epoch.0 - 1, stale, stale);
        check(write, NODE.epoch.0 + 1, stale, Ok(()));
        check(write, NODE.epoch.0.wrapping_sub(0x7fff), stale, stale);
    }
    for other in [Opcode::Ping, Opcode::GetPiece, Opcode::GetBurst, Opcode::Stat] {
        check(other, NODE.epoch.0 - 1, Ok(()), Ok(()));
        check(other, NODE.epoch.0 + 1, Ok(()), Ok(()));
    }
    let header = Header { node: NodeId(4), ..request(Opcode::PutAbort, 0) };
    assert_eq!(NODE.route_check(&header), Err(Reject::WrongNode));
}

#[test]
fn only_writes_need_a_lease() {
    let check = |opcode, expect| {
        let header = request(opcode, 1);
        assert_eq!(check_lease(&header, || true), Ok(()), "{opcode:?} while it holds");
        assert_eq!(check_lease(&header, || false), expect, "{opcode:?} when it is over");
    };
    for write in [Opcode::PutWhole, Opcode::PutOpen, Opcode::PutData, Opcode::PutCommit, Opcode::PutAbort] {
        check(write, Err(Reject::LeaseOver));
    }
    for other in [Opcode::Ping, Opcode::GetPiece, Opcode::GetBurst, Opcode::Stat] {
        check(other, Ok(()));
    }
}

#[test]
fn only_a_genuine_sender_is_told_why() {
    for Case { name, header, payload_len, verdict: expect } in cases() {
        let Some(header): Option<HeaderBytes> = header.try_into().ok() else { continue };
        let Err((reject, asker)) = validate_request(&header, payload_len, &Secrets, NOW) else { continue };
        assert_eq!(asker.is_some(), reject.reply().is_some(), "{name}: {expect:?}");
    }
}

proptest! {
    #[test]
    fn no_bit_of_a_request_can_be_changed(bit in 0..HEADER_LEN * 8, opcode in 0..12usize) {
        let Case { header, payload_len, name, .. } = accepted().swap_remove(opcode);
        let mut datagram = [header, vec![0; payload_len]].concat();
        datagram[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(verdict(&datagram).is_err(), "{} with bit {} flipped", name, bit);
    }

    #[test]
    fn bytes_of_a_stranger_never_pass(header: [u8; 32], tail: [u8; 32], payload_len in 0..9000usize) {
        let mut datagram = [header, tail].concat();
        datagram[..3].copy_from_slice(&[0x46, 0x58, 0x18]);
        datagram.resize(HEADER_LEN + payload_len, 0);
        prop_assert!(verdict(&datagram).is_err());
    }
}
