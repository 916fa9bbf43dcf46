//! Vectors for whoever writes the protocol down a second time: what goes into each hash and each header, and what comes out.
//! The tests of the Python package read the same file with an implementation of their own.
//!
//! The file is made from the tables below. `XDPFS_BLESS=1 cargo test -p xdpfs-wire` writes it anew; without that, a
//! difference is a failure: the protocol would have changed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fmt::Write as _, fs, path::Path};

use xdpfs_wire::{
    BucketId, Capability, ChunkId, ClientId, CookieSecret, EpochSecret, Expiry, Flags, Header, KeyEpoch,
    NodeEpoch, NodeId, Opcode, PieceClass, Receipt, ReceiptKey, RequestId, Rights, SipKey, Status,
    siphash_2_4,
};

const FILE: &str = "fixtures/vectors.txt";

const HEAD: &str = "\
# Vectors of the chunk protocol, made by tests/vectors.rs. One a line: what it is about, then name=value.
#
# Numbers are decimal, bytes hexadecimal; those that docs/protocol.md calls words are little-endian there. Bytes of chunks
# are said by a seed and a length: byte i is the upper byte of the low 32 bits of (i + seed) * 2654435761.
";

fn key(first: u8) -> SipKey {
    SipKey::from_bytes(std::array::from_fn(|at| first + at as u8))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that no two places share by accident.
fn content(seed: u32, len: u32) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn siphashes(text: &mut String) {
    let key = key(0);
    let words: [u64; 7] =
        std::array::from_fn(|at| u64::from_le_bytes(std::array::from_fn(|i| (8 * at + i) as u8)));
    let mut line = |words: &[u64], hash: u64| {
        let message: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        writeln!(
            text,
            "siphash key={} message={} hash={}",
            hex(&key.to_bytes()),
            hex(&message),
            hex(&hash.to_le_bytes())
        )
        .unwrap();
    };
    let [a, b, c, ..] = words;
    line(&[a], siphash_2_4(key, &[a]));
    line(&[a, b], siphash_2_4(key, &[a, b]));
    line(&[a, b, c], siphash_2_4(key, &[a, b, c]));
    line(&words, siphash_2_4(key, &words));
}

fn checksums(text: &mut String) {
    for (seed, len) in [(0, 0), (0, 1), (1, 9), (2, 1344), (3, 65_536), (4, 100_001)] {
        let crc = crc_fast::crc32_iscsi(&content(seed, len));
        writeln!(text, "crc32c seed={seed} length={len} crc={crc}").unwrap();
    }
}

/// What the manifest of an object says of its chunks, and of the whole.
fn manifests(text: &mut String) {
    for lengths in [&[1_u32][..], &[65_536, 65_536, 1], &[65_536, 65_536, 65_536, 40_000]] {
        let chunks = lengths.iter().zip(10..).map(|(len, seed)| (seed, *len, content(seed, *len)));
        let chunks: Vec<_> = chunks.collect();
        let said =
            chunks.iter().map(|(seed, len, bytes)| format!("{seed}:{len}:{}", crc_fast::crc32_iscsi(bytes)));
        let whole: Vec<u8> = chunks.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect();
        let (said, crc) = (said.collect::<Vec<_>>().join(","), crc_fast::crc32_iscsi(&whole));
        writeln!(text, "manifest chunks={said} size={} crc={crc}", whole.len()).unwrap();
    }
}

fn capabilities(text: &mut String) {
    let secret = key(0x40);
    for (client, bucket, rights, expiry, epoch) in [
        (1, 1, Rights::READ, 1, 1),
        (0x0102_0304, 0x2a01, Rights::ALL, 1_000_060, 8),
        (u32::MAX, u32::MAX, Rights::WRITE, u32::MAX, 255),
    ] {
        let capability = Capability {
            client: ClientId(client),
            bucket: BucketId(bucket),
            rights,
            expiry: Expiry(expiry),
            key_epoch: KeyEpoch(epoch),
        };
        let made = hex(&capability.key(EpochSecret(secret)).0.to_bytes());
        let (secret, rights) = (hex(&secret.to_bytes()), rights.0);
        writeln!(
            text,
            "capability secret={secret} client={client} bucket={bucket} rights={rights} expiry={expiry} key_epoch={epoch} key={made}"
        )
        .unwrap();
    }
}

fn headers(text: &mut String) {
    let request = Header {
        opcode: Opcode::PutData,
        class: PieceClass::Large,
        flags: Flags::ACK_WANTED.union(Flags::RETRANSMIT),
        status: Status::Ok,
        rights: Rights::WRITE,
        key_epoch: KeyEpoch(3),
        node: NodeId(0x0201),
        node_epoch: NodeEpoch(0x0403),
        client: ClientId(0x0807_0605),
        bucket: BucketId(0x0c0b_0a09),
        expiry: Expiry(0x100f_0e0d),
        request: RequestId(0x1413_1211),
        offset: 3328,
        chunk: ChunkId::new(BucketId(0x0c0b_0a09), 0x0102_0304_0506_0708),
        length: 3328,
        payload_crc: 0x1817_1615,
        tag: 0,
    };
    let get = Header {
        opcode: Opcode::GetPiece,
        class: PieceClass::Small,
        flags: Flags::NONE,
        rights: Rights::READ,
        length: 1024,
        ..request
    };
    let data = Header { opcode: Opcode::Data, ..get };
    let busy = Header { opcode: Opcode::Error, status: Status::Busy, length: 250, ..get };
    let secret = key(0x60);
    for header in [request, get, data, busy] {
        let bytes = Capability::claimed_by(&header).key(EpochSecret(secret)).seal(&header);
        let Header {
            node,
            node_epoch,
            client,
            bucket,
            expiry,
            request,
            offset,
            chunk,
            length,
            payload_crc,
            ..
        } = header;
        writeln!(
            text,
            "header secret={} opcode={} class={} flags={} status={} rights={} key_epoch={} node={} node_epoch={} client={} \
             bucket={} expiry={} request={} offset={offset} chunk={} length={length} payload_crc={payload_crc} bytes={}",
            hex(&secret.to_bytes()),
            header.opcode as u8,
            header.class as u8,
            // The class lies below the flags.
            bytes[4] & !0b111,
            header.status as u8,
            header.rights.0,
            header.key_epoch.0,
            node.0,
            node_epoch.0,
            client.0,
            bucket.0,
            expiry.0,
            request.0,
            chunk.0,
            hex(&bytes),
        )
        .unwrap();
    }
}

fn receipts_and_cookies(text: &mut String) {
    let receipt_key = key(0x80);
    let receipt = Receipt {
        chunk: ChunkId::new(BucketId(7), 9),
        length: 4 << 20,
        crc: 0xdead_beef,
        node: NodeId(3),
        node_epoch: NodeEpoch(9),
        mac: 0,
    };
    let mac = ReceiptKey(receipt_key).sign(&receipt);
    let Receipt { chunk, length, crc, node, node_epoch, .. } = receipt;
    writeln!(
        text,
        "receipt key={} chunk={} length={length} crc={crc} node={} node_epoch={} mac={}",
        hex(&receipt_key.to_bytes()),
        chunk.0,
        node.0,
        node_epoch.0,
        hex(&mac.to_le_bytes()),
    )
    .unwrap();
    let (secret, address) = (key(0xa0), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    for now_s in [59, 60, 1_000_000] {
        let cookie = CookieSecret(secret).cookie(address, 7010, ClientId(0x0102_0304), now_s);
        writeln!(
            text,
            "cookie secret={} address={} port=7010 client={} now_s={now_s} cookie={}",
            hex(&secret.to_bytes()),
            hex(&address),
            0x0102_0304,
            hex(&cookie.0.to_le_bytes()),
        )
        .unwrap();
    }
}

#[test]
fn file_of_vectors_holds_what_the_protocol_makes() {
    let mut expect = HEAD.to_owned();
    for part in [siphashes, checksums, manifests, capabilities, headers, receipts_and_cookies] {
        part(&mut expect);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var_os("XDPFS_BLESS").is_some() {
        fs::write(&path, &expect).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == expect,
        "{FILE} differs from the tables: see this file's head"
    );
}
