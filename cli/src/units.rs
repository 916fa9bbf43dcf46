//! Sizes and times for people.

use std::time::SystemTime;

use bytesize::ByteSize;

/// A number of bytes, exact or rounded.
pub(crate) fn bytes(bytes: u64, human: bool) -> String {
    if human { human_bytes(bytes) } else { bytes.to_string() }
}

/// A number of bytes, rounded, such as `1.5 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// `2026-11-24 10:05:41`, in UTC.
pub(crate) fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").trim_end_matches('Z').to_owned()
}

/// A count with its noun, such as `1 object` and `2 objects`.
pub(crate) fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A number of bytes as typed, such as `1MiB`, that fits an option of the cluster.
pub(crate) fn parse_bytes(text: &str) -> Result<u32, String> {
    let bytes: ByteSize = text.parse().map_err(|error| format!("{error}: write bytes, or 512KiB, 4MiB"))?;
    u32::try_from(bytes.as_u64()).map_err(|_| "it is too large".to_owned())
}

/// A number of bytes as typed, such as `10GiB`, however many.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bytes: ByteSize = text.parse().map_err(|error| format!("{error}: write bytes, or 500MiB, 10GiB"))?;
    Ok(bytes.as_u64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_utc() {
        assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_millis(86_399_999)), "1970-01-01 23:59:59");
    }

    #[test]
    fn bytes_are_exact_unless_asked_for_otherwise() {
        assert_eq!(bytes(1536, false), "1536");
        assert_eq!(bytes(1536, true), "1.5 KiB");
        assert_eq!(bytes(0, true), "0 B");
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(parse_bytes("1MiB"), Ok(1 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(parse_bytes("5GiB").is_err());
        assert!(parse_bytes("much").is_err());
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert!(parse_size("-1").is_err());
    }

    #[test]
    fn one_is_singular() {
        assert_eq!((count(1, "object"), count(2, "object")), ("1 object".to_owned(), "2 objects".to_owned()));
    }
}
