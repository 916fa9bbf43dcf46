//! `bucket/key`, `xdp://bucket/key` and `s3://bucket/key`: where something is, as typed.
//!
//! Invariant: an address has a bucket; whether it names an object is asked where it matters. The cluster decides what
//! a good name is.

use std::{fmt, str::FromStr};

use crate::failure::Failure;

/// The schemes that may stand before a bucket.
const SCHEMES: [&str; 2] = ["xdp://", "s3://"];

/// A bucket, and a key or the beginning of keys in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    /// The bucket.
    pub(crate) bucket: String,
    /// A key or the beginning of keys; empty for the bucket itself.
    pub(crate) key: String,
    /// Whether a slash follows the bucket.
    has_slash: bool,
}

/// Text that is not an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ParseAddressError(String);

impl Address {
    /// This key in this bucket.
    pub(crate) fn new(bucket: &str, key: &str) -> Self {
        Self { bucket: bucket.to_owned(), key: key.to_owned(), has_slash: true }
    }

    /// A bucket itself.
    pub(crate) fn bucket(bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), key: String::new(), has_slash: false }
    }

    /// Another key of the same bucket.
    pub(crate) fn with_key(&self, key: impl Into<String>) -> Self {
        Self { bucket: self.bucket.clone(), key: key.into(), has_slash: true }
    }

    /// Whether it names the bucket and nothing in it.
    pub(crate) fn is_bucket(&self) -> bool {
        self.key.is_empty()
    }

    /// Whether it names the bucket without a slash behind it.
    pub(crate) fn is_bare_bucket(&self) -> bool {
        self.key.is_empty() && !self.has_slash
    }

    /// Whether something has to be added to it to name an object.
    pub(crate) fn is_directory(&self) -> bool {
        self.key.is_empty() || self.key.ends_with('/')
    }

    /// The beginning of all keys below it, read as a directory: empty, or with a slash at its end.
    pub(crate) fn directory(&self) -> String {
        if self.is_directory() { self.key.clone() } else { format!("{}/", self.key) }
    }

    /// The part behind the last slash: what a file would be called.
    pub(crate) fn last_part(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// Checks that it names an object.
    pub(crate) fn check_object(&self) -> Result<(), Failure> {
        if self.is_bucket() {
            let hint = format!("write {}/KEY", self.bucket);
            return Err(Failure::usage(format!("{self} names a bucket, not an object")).with_hint(hint));
        }
        Ok(())
    }

    /// Checks that it names a bucket and nothing in it.
    pub(crate) fn check_bucket(&self) -> Result<(), Failure> {
        if self.is_bucket() {
            return Ok(());
        }
        Err(Failure::usage(format!("{self} names something in a bucket, not a bucket")))
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
        let (bucket, key, has_slash) = match rest.split_once('/') {
            Some((bucket, key)) => (bucket, key, true),
            None => (rest, "", false),
        };
        if bucket.is_empty() || bucket == "." || bucket == ".." || bucket.contains(':') {
            return Err(ParseAddressError(text.to_owned()));
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned(), has_slash })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.has_slash { "/" } else { "" };
        write!(f, "{}{slash}{}", self.bucket, self.key)
    }
}

impl fmt::Display for ParseAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an address: write BUCKET/KEY, xdp://BUCKET/KEY or s3://BUCKET/KEY", self.0)
    }
}

impl std::error::Error for ParseAddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_name_the_same_place() {
        let check = |text: &str, bucket: &str, key: &str| {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.bucket.as_str(), address.key.as_str()), (bucket, key), "{text}");
        };
        check("bucket", "bucket", "");
        check("bucket/", "bucket", "");
        check("bucket/key", "bucket", "key");
        check("xdp://bucket/a/b", "bucket", "a/b");
        check("s3://bucket/a/b/", "bucket", "a/b/");
        check("bucket//a", "bucket", "/a");
        check("bucket/xdp://x", "bucket", "xdp://x");
        check("bucket/a b/ü", "bucket", "a b/ü");
    }

    #[test]
    fn what_names_no_bucket_is_refused() {
        for bad in ["", "/", "/a", "s3://", "xdp:///key", "./a", "../a", "http://bucket/key", "C:/x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_shown_as_typed_without_the_scheme() {
        for (text, expect) in
            [("s3://b/k", "b/k"), ("bucket", "bucket"), ("bucket/", "bucket/"), ("b//", "b//")]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expect);
        }
    }

    #[test]
    fn a_directory_is_what_a_name_can_be_added_to() {
        let check = |text: &str, is_directory, directory: &str, last: &str| {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.is_directory(), is_directory, "{text}");
            assert_eq!((address.directory().as_str(), address.last_part()), (directory, last), "{text}");
        };
        check("bucket", true, "", "");
        check("bucket/", true, "", "");
        check("bucket/a", false, "a/", "a");
        check("bucket/a/", true, "a/", "");
        check("bucket/a/b", false, "a/b/", "b");
    }

    #[test]
    fn only_a_bucket_is_a_bucket() {
        let check = |text: &str, is_bucket| {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.check_bucket().is_ok(), is_bucket, "{text}");
            assert_eq!(address.check_object().is_err(), is_bucket, "{text}");
        };
        check("bucket", true);
        check("bucket/", true);
        check("bucket/key", false);
        check("bucket/a/", false);
    }
}
