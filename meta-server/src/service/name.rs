//! Resource names: `buckets/{bucket}` and `buckets/{bucket}/objects/{key}`.

use super::Refusal;

/// The longest key, and the longest prefix, delimiter or start of a listing, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// The bucket and the key of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ObjectName {
    pub(super) bucket: String,
    pub(super) key: String,
}

/// `buckets/{bucket}`
pub(super) fn bucket_resource(bucket: &str) -> String {
    format!("buckets/{bucket}")
}

/// `buckets/{bucket}/objects/{key}`
pub(super) fn object_resource(bucket: &str, key: &str) -> String {
    format!("buckets/{bucket}/objects/{key}")
}

/// The bucket that `field` of a request names.
pub(super) fn parse_bucket(field: &'static str, name: &str) -> Result<String, Refusal> {
    let bucket = name
        .strip_prefix("buckets/")
        .ok_or_else(|| Refusal::invalid_name(field, "expected buckets/{bucket}"))?;
    check_bucket(field, bucket)?;
    Ok(bucket.to_owned())
}

impl ObjectName {
    /// The object that the field `name` of a request names.
    pub(super) fn parse(name: &str) -> Result<Self, Refusal> {
        let malformed = || Refusal::invalid_name("name", "expected buckets/{bucket}/objects/{key}");
        let (bucket, rest) =
            name.strip_prefix("buckets/").and_then(|rest| rest.split_once('/')).ok_or_else(malformed)?;
        let key = rest.strip_prefix("objects/").ok_or_else(malformed)?;
        check_bucket("name", bucket)?;
        check_key("name", key)?;
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

/// The rules of S3, so that every name also works there.
fn check_bucket(field: &'static str, bucket: &str) -> Result<(), Refusal> {
    let good_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    let edges = [bucket.bytes().next(), bucket.bytes().last()];
    let good = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(good_byte)
        && edges.iter().flatten().all(u8::is_ascii_alphanumeric)
        && !bucket.contains("..");
    if good {
        return Ok(());
    }
    let rule = "a bucket's name has 3 to 63 of a-z, 0-9, '.' and '-', with a letter or digit at both ends";
    Err(Refusal::invalid_name(field, rule))
}

/// Whether this can be a key.
pub(super) fn check_key(field: &'static str, key: &str) -> Result<(), Refusal> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Refusal::invalid_name(field, "a key has 1 to 1024 bytes"));
    }
    if key.chars().any(char::is_control) {
        return Err(Refusal::invalid_name(field, "a key holds no control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_the_rules_of_s3() {
        let parse = |bucket: &str| parse_bucket("name", &bucket_resource(bucket));
        for good in ["abc", "a-b.c", "0ab", &"a".repeat(63)] {
            assert_eq!(parse(good).as_deref(), Ok(good));
        }
        for bad in ["", "ab", "Abc", "-ab", "ab-", "a..b", "a_b", "abc/d", "äbc", &"a".repeat(64)] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse_bucket("name", "abc").is_err());
    }

    #[test]
    fn keys_may_hold_slashes_and_are_bounded() {
        let parse = |key: &str| ObjectName::parse(&object_resource("abc", key));
        for good in ["a", "a/b//c", "/", " ", "ü", "objects/x", &"k".repeat(1024)] {
            let name = ObjectName { bucket: "abc".into(), key: good.into() };
            assert_eq!(parse(good), Ok(name));
        }
        for bad in ["", "a\nb", "\0", "\u{7f}", &"k".repeat(1025)] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "abc/x", "buckets/abc", "buckets/abc/x", "buckets//objects/x", "buckets/AB/objects/x"]
        {
            assert!(ObjectName::parse(bad).is_err(), "{bad}");
        }
    }
}
