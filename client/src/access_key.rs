//! The access key that a client shows, with its secret.
//!
//! Invariant: the secret is shown by nothing but [`AccessKey::to_text`], and goes to no server that it could be read on
//! the way to, unless the caller has said that it may.

use std::{fmt, net::IpAddr, str::FromStr};

use tonic::metadata::{Ascii, MetadataValue};

/// Characters of an id or of a secret: more than any has.
const PART_LEN_MAX: usize = 128;

/// An access key: its id, which everybody may know, and its secret.
#[derive(Clone, Eq, PartialEq)]
pub struct AccessKey {
    id: String,
    secret: String,
}

/// A text that is no access key. It doesn't say what it was: it may hold a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this is no access key: write its id, a dot and its secret, as they were printed")]
pub struct ParseAccessKeyError;

impl AccessKey {
    pub(crate) fn new(id: &str, secret: &str) -> Result<Self, ParseAccessKeyError> {
        let is_part = |part: &str| {
            (1..=PART_LEN_MAX).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        if !is_part(id) || !is_part(secret) {
            return Err(ParseAccessKeyError);
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// Which key it is.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `ID.SECRET`: a secret as a whole. Whoever has it has the key's rights.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// As the header `authorization` carries it.
    pub(crate) fn authorization(&self) -> MetadataValue<Ascii> {
        let text = format!("Bearer {}.{}", self.id, self.secret);
        let mut value: MetadataValue<Ascii> =
            text.parse().expect("letters, digits and a dot are a header's value");
        // Neither shown nor kept in a table of HTTP/2's header compression.
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKey({}, ..)", self.id)
    }
}

impl FromStr for AccessKey {
    type Err = ParseAccessKeyError;

    fn from_str(text: &str) -> Result<Self, ParseAccessKeyError> {
        let (id, secret) = text.trim().split_once('.').ok_or(ParseAccessKeyError)?;
        Self::new(id, secret)
    }
}

/// Whether nobody can read an access key on its way to the server at `host:port`: what is sent is plain text, so only
/// if it does not leave this machine.
pub(crate) fn may_send_key(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_read_as_it_was_printed() {
        let key: AccessKey = " XKABC.SECRET2\n".parse().unwrap();
        assert_eq!((key.id(), key.to_text().as_str()), ("XKABC", "XKABC.SECRET2"));
        assert_eq!(key.authorization().to_str().unwrap(), "Bearer XKABC.SECRET2");
        let long = format!("XKABC.{}", "S".repeat(129));
        for bad in
            ["", ".", "XKABC", "XKABC.", ".SECRET", "XK ABC.S", "XKABC.S\nT", "XKABC.S.T", "XKÄ.S", &long]
        {
            assert_eq!(bad.parse::<AccessKey>(), Err(ParseAccessKeyError), "{bad:?}");
        }
    }

    #[test]
    fn secret_is_not_shown() {
        let key: AccessKey = "XKABC.SECRET".parse().unwrap();
        let shown = format!("{key:?} {:?} {}", key.authorization(), ParseAccessKeyError);
        assert!(shown.contains("XKABC") && !shown.contains("SECRET"), "{shown}");
    }

    #[test]
    fn key_goes_to_this_machine_only() {
        for near in
            ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "LOCALHOST:1", "[::ffff:127.0.0.1]:1"]
        {
            assert!(may_send_key(near), "{near}");
        }
        for far in [
            "10.0.0.1:1",
            "meta-1:1",
            "localhost.example:1",
            "[fd00::1]:1",
            "127.0.0.1.example:1",
            "0.0.0.0:1",
        ] {
            assert!(!may_send_key(far), "{far}");
        }
    }
}
