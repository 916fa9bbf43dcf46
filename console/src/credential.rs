//! The access key that a visitor's browser sends: HTTP Basic, the key's id as the user and its secret as the password.
//!
//! Invariant: a credential is shown by nothing; visitors are told apart by a hash of it.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};
use xdpfs_client::AccessKey;

/// Longer than any key in base64.
const HEADER_BYTES_MAX: usize = 1024;

/// Which visitor it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct VisitorId([u8; 32]);

/// Something that is no access key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Malformed;

impl VisitorId {
    pub(crate) fn of(key: Option<&AccessKey>) -> Self {
        let text = key.map(AccessKey::to_text).unwrap_or_default();
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self(id)
    }
}

/// What the visitor shows, if anything.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Option<AccessKey>, Malformed> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) if value.len() <= HEADER_BYTES_MAX => value,
        (Some(_), _) => return Err(Malformed),
    };
    let (scheme, encoded) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Malformed)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Malformed);
    }
    let decoded = STANDARD.decode(encoded.trim()).map_err(|_| Malformed)?;
    let text = std::str::from_utf8(&decoded).map_err(|_| Malformed)?;
    let (id, secret) = text.split_once(':').ok_or(Malformed)?;
    // Whoever pastes the key as it was printed has the dot and the id before the secret.
    let secret = secret.strip_prefix(id).and_then(|rest| rest.strip_prefix('.')).unwrap_or(secret);
    format!("{id}.{secret}").parse().map(Some).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[String]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect()
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn key_is_read_as_browsers_send_it() {
        let check = |value: String| {
            let key = presented(&headers(&[value])).unwrap().unwrap();
            assert_eq!(key.to_text(), "XKABC.SECRET2");
        };
        check(basic("XKABC:SECRET2"));
        check(basic("XKABC:SECRET2").replace("Basic", "basic"));
        check(basic("XKABC:XKABC.SECRET2"));
        assert_eq!(presented(&headers(&[])), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_taken_for_nobody() {
        for bad in [
            "Bearer XKABC.SECRET".to_owned(),
            "Basic".to_owned(),
            "Basic ***".to_owned(),
            basic("XKABC"),
            basic(":SECRET"),
            basic("XKABC:"),
            basic("XK ABC:SECRET"),
            basic("XKABC:SEC:RET"),
            format!("Basic {}", STANDARD.encode([0xff, b':', 0xfe])),
            basic(&format!("XKABC:{}", "S".repeat(1000))),
        ] {
            assert_eq!(presented(&headers(std::slice::from_ref(&bad))), Err(Malformed), "{bad}");
        }
        assert_eq!(presented(&headers(&[basic("A:B"), basic("A:B")])), Err(Malformed), "two at once");
    }

    #[test]
    fn visitors_are_told_apart_without_keeping_what_they_show() {
        let key = |text: &str| text.parse::<AccessKey>().unwrap();
        let id = |text: &str| VisitorId::of(Some(&key(text)));
        assert_eq!(id("XKA.S1"), id("XKA.S1"));
        assert_ne!(id("XKA.S1"), id("XKA.S2"));
        assert_ne!(id("XKA.S1"), VisitorId::of(None));
        assert!(!format!("{:?}", id("XKA.S1")).contains("S1"));
    }
}
