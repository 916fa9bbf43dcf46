//! Conditions on what a key holds (RFC 9110 §13.1).

use std::fmt;

use xdpfs_proto::state::v1::{Precondition, precondition::Kind};

/// What names the state of a key: changes whenever its version does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Etag {
    /// The object's version.
    pub version: u64,
    /// The object's CRC32C.
    pub crc32c: u32,
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:08x}", self.version, self.crc32c)
    }
}

/// Whether a key that holds `held` fulfils the precondition. No precondition is always fulfilled.
#[must_use]
pub fn check_precondition(precondition: Option<&Precondition>, held: Option<Etag>) -> bool {
    let held = held.map(|etag| etag.to_string());
    match precondition.and_then(|precondition| precondition.kind.as_ref()) {
        None => true,
        Some(Kind::IfMatch(etag)) => held.as_deref() == Some(unquoted(etag)),
        Some(Kind::IfNoneMatchAny(any)) => !any || held.is_none(),
        Some(Kind::IfNoneMatch(etag)) => held.as_deref() != Some(unquoted(etag)),
    }
}

fn unquoted(etag: &str) -> &str {
    etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_compare_etags() {
        let held = Some(Etag { version: 0x1f, crc32c: 0xab });
        let check = |kind: Option<Kind>, held, expect: bool| {
            let precondition = Precondition { kind: kind.clone() };
            assert_eq!(check_precondition(Some(&precondition), held), expect, "{kind:?} on {held:?}");
        };
        check(None, None, true);
        check(Some(Kind::IfMatch("1f-000000ab".into())), held, true);
        check(Some(Kind::IfMatch("\"1f-000000ab\"".into())), held, true);
        check(Some(Kind::IfMatch("1e-000000ab".into())), held, false);
        check(Some(Kind::IfMatch("1f-000000ab".into())), None, false);
        check(Some(Kind::IfNoneMatchAny(true)), held, false);
        check(Some(Kind::IfNoneMatchAny(true)), None, true);
        check(Some(Kind::IfNoneMatch("1f-000000ab".into())), held, false);
        check(Some(Kind::IfNoneMatch("1f-000000ac".into())), held, true);
        check(Some(Kind::IfNoneMatch("1f-000000ab".into())), None, true);
    }
}
