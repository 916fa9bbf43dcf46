//! Names of buckets and objects, as resource names of the control plane.
//!
//! The metadata servers decide what a good name is; the check here only saves a bad one the journey.

use crate::error::{Error, Result};

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// `buckets/{bucket}`
pub(crate) fn bucket_name(bucket: &str) -> Result<String> {
    check_bucket(bucket)?;
    Ok(format!("buckets/{bucket}"))
}

/// A bucket, a key, and both as a resource name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ObjectName {
    pub(crate) bucket: String,
    pub(crate) key: String,
    /// `buckets/{bucket}/objects/{key}`
    pub(crate) resource: String,
}

impl ObjectName {
    pub(crate) fn new(bucket: &str, key: &str) -> Result<Self> {
        check_bucket(bucket)?;
        check_key(key)?;
        let resource = format!("buckets/{bucket}/objects/{key}");
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned(), resource })
    }
}

/// The bucket of `buckets/{bucket}`.
pub(crate) fn parse_bucket(name: &str) -> Option<&str> {
    name.strip_prefix("buckets/").filter(|bucket| !bucket.is_empty() && !bucket.contains('/'))
}

/// Bucket and key of `buckets/{bucket}/objects/{key}`.
pub(crate) fn parse_object(name: &str) -> Option<(&str, &str)> {
    let (bucket, key) = name.strip_prefix("buckets/")?.split_once('/')?;
    let key = key.strip_prefix("objects/")?;
    (!bucket.is_empty() && !key.is_empty()).then_some((bucket, key))
}

fn check_bucket(bucket: &str) -> Result<()> {
    let good_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    let edges = [bucket.bytes().next(), bucket.bytes().last()];
    let good = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(good_byte)
        && edges.iter().flatten().all(u8::is_ascii_alphanumeric)
        && !bucket.contains("..");
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{bucket:?} is not a bucket name: 3 to 63 of a-z, 0-9, '.' and '-', with a letter or digit at both ends"
    )))
}

/// Whether `key` may name an object: 1 to 1024 bytes without control characters.
///
/// # Errors
/// [`Error::InvalidArgument`] says what is wrong with it.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("the key is empty"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!("the key has {} bytes, more than {KEY_BYTES_MAX}", key.len())));
    }
    if key.chars().any(char::is_control) {
        return Err(Error::invalid(format!("the key {key:?} holds a control character")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_rules_of_s3() {
        for good in ["abc", "a-b.c", "0ab", &"a".repeat(63)] {
            assert!(bucket_name(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", "Abc", "-ab", "ab-", "a..b", "a_b", "a/b", &"a".repeat(64)] {
            assert!(bucket_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_bounded_and_printable() {
        for good in ["a", "a/b//c", " ", "ü", &"k".repeat(1024)] {
            assert!(ObjectName::new("bucket", good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "\0", "\u{7f}", &"k".repeat(1025)] {
            assert!(ObjectName::new("bucket", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_come_apart_as_they_were_made() {
        assert_eq!(parse_object("buckets/b/objects/k/objects/l"), Some(("b", "k/objects/l")));
        assert_eq!(parse_bucket("buckets/b"), Some("b"));
        for bad in ["", "buckets/", "buckets/b/objects/", "buckets//objects/k", "b/k"] {
            assert_eq!(parse_object(bad), None, "{bad}");
        }
    }
}
