//! Where the next page of a listing begins, as an opaque text.
//!
//! Invariant: a token works only for the listing that it was made for. It gives no rights, so a checksum over the
//! listing is enough to tell one that was changed or mixed up.

use xdpfs_wire::BucketId;

use super::Refusal;
use crate::{state_machine::Start, storage::crc32c};

/// The layout of a token: version, kind, checksum, text; all in hexadecimal digits.
const VERSION: u8 = 1;
/// The same with a moment before the text: index, number of the bucket.
const VERSION_OF_MOMENT: u8 = 2;
const HEAD_LEN: usize = 6;
const MOMENT_LEN: usize = 12;
const TEXT_BYTES_MAX: usize = 4096;

const AFTER_KEY: u8 = 1;
const AFTER_PREFIX: u8 = 2;
/// The text is the version in sixteen hexadecimal digits, and the key.
const BELOW_VERSION: u8 = 3;
const VERSION_LEN: usize = 16;

/// When a listing of objects began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Moment {
    /// After this entry of the log.
    pub(super) index: u64,
    /// Another bucket may have the name by now.
    pub(super) bucket: BucketId,
}

/// Where a page begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) start: Start,
    /// None in lists of buckets, and in tokens of earlier releases.
    pub(super) moment: Option<Moment>,
}

impl From<Start> for Place {
    fn from(start: Start) -> Self {
        Self { start, moment: None }
    }
}

/// The token for a page of the listing that `listing` describes.
pub(super) fn encode(listing: &[&str], place: &Place) -> String {
    let (kind, text) = match &place.start {
        Start::AfterKey(key) => (AFTER_KEY, key.clone()),
        Start::AfterPrefix(prefix) => (AFTER_PREFIX, prefix.clone()),
        Start::BelowVersion(key, version) => (BELOW_VERSION, format!("{version:016x}{key}")),
    };
    let moment = place.moment.map(Moment::to_bytes);
    let version = if moment.is_some() { VERSION_OF_MOMENT } else { VERSION };
    let moment = moment.as_ref().map_or(&[][..], |moment| moment);
    let mut bytes = vec![version, kind];
    bytes.extend(checksum(listing, [version, kind], moment, &text).to_be_bytes());
    bytes.extend(moment);
    bytes.extend(text.as_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the page begins; none is the first one.
pub(super) fn decode(listing: &[&str], token: &str) -> Result<Option<Place>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    let place = parse(listing, token);
    place.map(Some).ok_or_else(|| Refusal::invalid("page_token", "the page token is not one of this listing"))
}

fn parse(listing: &[&str], token: &str) -> Option<Place> {
    let bytes = parse_hex(token)?;
    let (head, rest) = bytes.split_at_checked(HEAD_LEN)?;
    let &[version, kind, a, b, c, d] = head else { return None };
    let moment_len = match version {
        VERSION => 0,
        VERSION_OF_MOMENT => MOMENT_LEN,
        _ => return None,
    };
    let (moment, text) = rest.split_at_checked(moment_len)?;
    let text = String::from_utf8(text.to_vec()).ok()?;
    if u32::from_be_bytes([a, b, c, d]) != checksum(listing, [version, kind], moment, &text) {
        return None;
    }
    let start = match kind {
        AFTER_KEY => Start::AfterKey(text),
        AFTER_PREFIX => Start::AfterPrefix(text),
        BELOW_VERSION => {
            let (version, key) = text.split_at_checked(VERSION_LEN)?;
            Start::BelowVersion(key.to_owned(), u64::from_str_radix(version, 16).ok()?)
        }
        _ => return None,
    };
    Some(Place { start, moment: Moment::from_bytes(moment) })
}

impl Moment {
    fn to_bytes(self) -> [u8; MOMENT_LEN] {
        let mut bytes = [0; MOMENT_LEN];
        bytes[..8].copy_from_slice(&self.index.to_be_bytes());
        bytes[8..].copy_from_slice(&self.bucket.0.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (index, bucket) = bytes.split_first_chunk::<8>()?;
        let bucket = BucketId(u32::from_be_bytes(bucket.try_into().ok()?));
        Some(Self { index: u64::from_be_bytes(*index), bucket })
    }
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 2 * (HEAD_LEN + MOMENT_LEN + TEXT_BYTES_MAX) || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn checksum(listing: &[&str], head: [u8; 2], moment: &[u8], text: &str) -> u32 {
    let mut bytes = head.to_vec();
    bytes.extend(moment);
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

    const MOMENT: Moment = Moment { index: 0x1234_5678_9abc, bucket: BucketId(7) };

    #[test]
    fn token_says_where_to_go_on() {
        for start in [
            Start::AfterKey("a/b".into()),
            Start::AfterPrefix("a/ü/".into()),
            Start::AfterKey(String::new()),
            Start::BelowVersion("a/ü".into(), 0x1f),
        ] {
            for moment in [None, Some(MOMENT)] {
                let place = Place { start: start.clone(), moment };
                assert_eq!(decode(LISTING, &encode(LISTING, &place)), Ok(Some(place)));
            }
        }
        assert_eq!(decode(LISTING, ""), Ok(None));
    }

    #[test]
    fn token_of_an_earlier_release_is_taken() {
        let place = Place::from(Start::AfterKey("a/b".into()));
        assert_eq!(decode(LISTING, "010113e71b81612f62"), Ok(Some(place)));
    }

    #[test]
    fn changed_or_foreign_token_is_refused() {
        for moment in [None, Some(MOMENT)] {
            let token = encode(LISTING, &Place { start: Start::AfterKey("a/b".into()), moment });
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
}
