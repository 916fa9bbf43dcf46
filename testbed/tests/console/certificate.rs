//! What Chromium is told to trust: one public key, by its hash. So it speaks to the server of the test and to no other
//! whose certificate it does not know, and all else about certificates stays as it is.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};

const SEQUENCE: u8 = 0x30;
/// The version, which only later certificates have.
const VERSION: u8 = 0xa0;

/// SHA-256 of the public key in the first certificate of a file, in base64.
pub(crate) fn key_hash(path: &Path) -> String {
    let pem = fs::read_to_string(path).unwrap();
    let body = pem.split("-----").nth(2).expect("the file holds a certificate");
    let der = STANDARD.decode(body.split_whitespace().collect::<String>()).unwrap();
    STANDARD.encode(digest(&SHA256, public_key(&der)))
}

/// RFC 5280 §4.1: version, serial number, algorithm, issuer, validity, subject, and then the key.
fn public_key(certificate: &[u8]) -> &[u8] {
    let (_, certificate) = content(certificate);
    let (_, mut fields) = content(certificate);
    if fields[0] == VERSION {
        fields = content(fields).0.1;
    }
    for _ in 0..5 {
        fields = content(fields).0.1;
    }
    assert_eq!(fields[0], SEQUENCE);
    content(fields).0.0
}

/// The first element of DER as a whole, what follows it, and what is in it.
fn content(der: &[u8]) -> ((&[u8], &[u8]), &[u8]) {
    let (header, len) = match der[1] {
        short @ ..0x80 => (2, usize::from(short)),
        long => {
            let bytes = &der[2..2 + usize::from(long & 0x7f)];
            (2 + bytes.len(), bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)))
        }
    };
    let (element, rest) = der.split_at(header + len);
    ((element, rest), &element[header..])
}
