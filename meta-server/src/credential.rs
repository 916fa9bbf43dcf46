//! What proves that a caller holds an access key: the key's id and its secret, written `ID.SECRET`.
//!
//! Invariant: a secret is never logged, shown by `Debug` or kept; what is kept is its hash. A fast hash is enough, since
//! a secret is 256 random bits: there is nothing to guess, as there is in a password.

use std::{fmt, str::FromStr};

use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};

/// What an id begins with.
const ID_PREFIX: &str = "XK";
/// Random bytes of an id; 80 bits, so that none is made twice by chance.
const ID_BYTES: usize = 10;
const ID_LEN: usize = ID_PREFIX.len() + text_len(ID_BYTES);
const SECRET_BYTES: usize = 32;
const SECRET_LEN: usize = text_len(SECRET_BYTES);

/// The digits of base32 (RFC 4648 §6).
const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const DIGIT_BITS: usize = 5;

const fn text_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(DIGIT_BITS)
}

/// The public name of an access key.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(String);

impl KeyId {
    /// The id as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no id or no credential. It doesn't say what it was: it may hold a secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected the id of an access key, a dot and its secret, as they were printed")]
pub struct MalformedCredential;

impl FromStr for KeyId {
    type Err = MalformedCredential;

    fn from_str(text: &str) -> Result<Self, MalformedCredential> {
        let digits = text.strip_prefix(ID_PREFIX).ok_or(MalformedCredential)?;
        if text.len() != ID_LEN || !is_base32(digits) {
            return Err(MalformedCredential);
        }
        Ok(Self(text.to_owned()))
    }
}

/// SHA-256 of a secret as it is written. Comparing takes the same time wherever two of them differ.
#[derive(Clone, Copy, Debug)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// What no secret has: for comparing when there is nothing to compare with, so that this takes as long.
    pub const NONE: Self = Self([0; 32]);

    /// The hash that was kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// What is kept.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ConstantTimeEq for SecretHash {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for SecretHash {}

/// An access key with its secret.
#[derive(Clone, Eq, PartialEq)]
pub struct Credential {
    id: KeyId,
    secret: String,
}

impl Credential {
    /// A new key, from the system's random numbers.
    ///
    /// # Errors
    ///
    /// The system has none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self { id: KeyId(format!("{ID_PREFIX}{}", base32(&id))), secret: base32(&secret) })
    }

    /// Which key it is.
    #[must_use]
    pub const fn id(&self) -> &KeyId {
        &self.id
    }

    /// The secret itself: to be shown to whoever has asked for the key, once.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What may be kept of the secret.
    #[must_use]
    pub fn secret_hash(&self) -> SecretHash {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, self.secret.as_bytes()).as_ref());
        SecretHash(bytes)
    }

    /// `ID.SECRET`: a secret as a whole.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, ..)", self.id)
    }
}

impl FromStr for Credential {
    type Err = MalformedCredential;

    fn from_str(text: &str) -> Result<Self, MalformedCredential> {
        let (id, secret) = text.split_once('.').ok_or(MalformedCredential)?;
        if secret.len() != SECRET_LEN || !is_base32(secret) {
            return Err(MalformedCredential);
        }
        Ok(Self { id: id.parse()?, secret: secret.to_owned() })
    }
}

fn is_base32(text: &str) -> bool {
    text.bytes().all(|byte| DIGITS.contains(&byte))
}

/// Without padding; the last digit is filled up with zero bits.
fn base32(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    let digit = |at: usize| (0..DIGIT_BITS).fold(0, |value, bits| value << 1 | bit(at * DIGIT_BITS + bits));
    (0..text_len(bytes.len())).map(|at| char::from(DIGITS[digit(at)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_that_of_rfc_4648() {
        // §10, without the padding.
        for (bytes, text) in [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foobar", "MZXW6YTBOI")] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
        assert_eq!(base32(&[0xff; 5]), "77777777");
    }

    #[test]
    fn credential_survives_being_written() {
        let made = Credential::generate().unwrap();
        assert_eq!((made.id().as_str().len(), made.secret().len()), (18, 52));
        let read: Credential = made.to_text().parse().unwrap();
        assert_eq!((read.id(), read.secret_hash()), (made.id(), made.secret_hash()));
        let other = Credential::generate().unwrap();
        assert_ne!(other.id(), made.id());
        assert_ne!(other.secret_hash(), made.secret_hash());
    }

    #[test]
    fn hash_is_sha_256_of_the_written_secret() {
        let credential: Credential = format!("XK{}.{}", "A".repeat(16), "A".repeat(52)).parse().unwrap();
        let expect = digest(&SHA256, "A".repeat(52).as_bytes());
        assert_eq!(credential.secret_hash().as_bytes(), expect.as_ref());
        assert_ne!(credential.secret_hash(), SecretHash::NONE);
    }

    #[test]
    fn malformed_credentials_are_refused_whatever_they_are() {
        let (id, secret) = (format!("XK{}", "A".repeat(16)), "B".repeat(52));
        assert!(format!("{id}.{secret}").parse::<Credential>().is_ok());
        for bad in [
            String::new(),
            id.clone(),
            format!("{id}."),
            format!("{id} {secret}"),
            format!("{id}.{secret}."),
            format!("{id}.{secret}A"),
            format!("{}.{secret}", id.to_lowercase()),
            format!("YK{}.{secret}", "A".repeat(16)),
            format!("{id}.{}", "b".repeat(52)),
            format!("{id}.{}", "1".repeat(52)),
            format!("{id}.{}", "ü".repeat(26)),
            format!(" {id}.{secret}"),
            "A".repeat(1 << 20),
        ] {
            assert_eq!(bad.parse::<Credential>().unwrap_err(), MalformedCredential, "{} bytes", bad.len());
        }
    }

    #[test]
    fn secret_is_not_shown() {
        let credential = Credential::generate().unwrap();
        let shown = format!("{credential:?}");
        assert!(shown.contains(credential.id().as_str()) && !shown.contains(credential.secret()), "{shown}");
    }
}
