//! Where the next page of a listing begins, as an opaque text.
//!
//! Invariant: a token works only for the listing that it was made for. It gives no rights, so a checksum over the
//! listing is enough to tell one that was changed or mixed up.

use super::Refusal;
use crate::{state_machine::Start, storage::crc32c};

/// The layout of a token: version, kind, checksum, text; all in hexadecimal digits.
const VERSION: u8 = 1;
const HEAD_LEN: usize = 6;
const TEXT_BYTES_MAX: usize = 4096;

const AFTER_KEY: u8 = 1;
const AFTER_PREFIX: u8 = 2;

/// The token for a page of the listing that `listing` describes.
pub(super) fn encode(listing: &[&str], start: &Start) -> String {
    let (kind, text) = match start {
        Start::AfterKey(key) => (AFTER_KEY, key),
        Start::AfterPrefix(prefix) => (AFTER_PREFIX, prefix),
    };
    let mut bytes = vec![VERSION, kind];
    bytes.extend(checksum(listing, kind, text).to_be_bytes());
    bytes.extend(text.as_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the page begins; none is the first one.
pub(super) fn decode(listing: &[&str], token: &str) -> Result<Option<Start>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let start = parse(listing, token);
    start.map(Some).ok_or_else(|| Refusal::invalid("page_token", "the page token is not one of this listing"))
}

fn parse(listing: &[&str], token: &str) -> Option<Start> {
    let bytes = parse_hex(token)?;
    let (head, text) = bytes.split_at_checked(HEAD_LEN)?;
    let &[version, kind, a, b, c, d] = head else { return None };
    let text = String::from_utf8(text.to_vec()).ok()?;
    if version != VERSION || u32::from_be_bytes([a, b, c, d]) != checksum(listing, kind, &text) {
        return None;
    }
    match kind {
        AFTER_KEY => Some(Start::AfterKey(text)),
        AFTER_PREFIX => Some(Start::AfterPrefix(text)),
        _ => None,
    }
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 2 * (HEAD_LEN + TEXT_BYTES_MAX) || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn checksum(listing: &[&str], kind: u8, text: &str) -> u32 {
    let mut bytes = vec![VERSION, kind];
    for part in listing.iter().chain([&text]) {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    crc32c(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &[&str] = &["bucket", "a/", "/"];

    #[test]
    fn token_says_where_to_go_on() {
        for start in
            [Start::AfterKey("a/b".into()), Start::AfterPrefix("a/ü/".into()), Start::AfterKey(String::new())]
        {
            assert_eq!(decode(LISTING, &encode(LISTING, &start)), Ok(Some(start)));
        }
        assert_eq!(decode(LISTING, ""), Ok(None));
    }

    #[test]
    fn changed_or_foreign_token_is_refused() {
        let token = encode(LISTING, &Start::AfterKey("a/b".into()));
        assert!(decode(&["bucket", "a", "//"], &token).is_err());
        assert!(decode(&["bucket", "", "a//"], &token).is_err());
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(decode(LISTING, &changed).is_err(), "{changed}");
        }
        for bad in
            ["0", "zz", "01", &token[..token.len() - 2], &format!("{token}00"), "ü", &"0".repeat(10_000)]
        {
            assert!(decode(LISTING, bad).is_err(), "{bad}");
        }
    }
}
