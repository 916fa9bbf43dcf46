//! Which bytes of an object to read, as HTTP words it (RFC 9110 §14.1.2). Pure.

use std::{fmt, ops::Range, str::FromStr};

use crate::error::{Error, Result};

/// Bytes of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteRange {
    /// From this byte to the object's end.
    From(u64),
    /// Both bytes and those between them; what lies behind the object's end is left out.
    Inclusive {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// So many bytes at the object's end, or all if it has fewer.
    Suffix(u64),
}

/// Text that is not a range.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a range: write START-END (END included), START- or -LENGTH, in bytes")]
pub struct ParseByteRangeError(String);

impl ByteRange {
    /// The bytes meant of an object of `size` bytes.
    ///
    /// # Errors
    /// [`Error::RangeNotSatisfiable`] if the object ends before the range starts, [`Error::InvalidArgument`] if the
    /// range ends before it starts.
    pub fn resolve(self, size: u64) -> Result<Range<u64>> {
        self.check()?;
        let (start, end) = match self {
            Self::From(start) => (start, size),
            Self::Inclusive { first, last } => (first, size.min(last.saturating_add(1))),
            Self::Suffix(0) => (size, size),
            Self::Suffix(length) => return Ok(size.saturating_sub(length)..size),
        };
        if start >= size { Err(Error::RangeNotSatisfiable { start, size }) } else { Ok(start..end) }
    }

    /// # Errors
    /// [`Error::InvalidArgument`] if the range ends before it starts.
    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Inclusive { first, last } if first > last => {
                Err(Error::invalid(format!("the range {self} ends before it starts")))
            }
            Self::From(_) | Self::Inclusive { .. } | Self::Suffix(_) => Ok(()),
        }
    }
}

impl FromStr for ByteRange {
    type Err = ParseByteRangeError;

    fn from_str(text: &str) -> Result<Self, ParseByteRangeError> {
        let bad = || ParseByteRangeError(text.to_owned());
        let range = match text.split_once('-').ok_or_else(bad)? {
            ("", length) => Self::Suffix(parse_number(length).filter(|length| *length > 0).ok_or_else(bad)?),
            (start, "") => Self::From(parse_number(start).ok_or_else(bad)?),
            (first, last) => {
                let (first, last) = parse_number(first).zip(parse_number(last)).ok_or_else(bad)?;
                Self::Inclusive { first, last }
            }
        };
        match range {
            Self::Inclusive { first, last } if first > last => Err(bad()),
            Self::From(_) | Self::Inclusive { .. } | Self::Suffix(_) => Ok(range),
        }
    }
}

/// Digits only: `u64::from_str` would also take a sign.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(start) => write!(f, "{start}-"),
            Self::Inclusive { first, last } => write!(f, "{first}-{last}"),
            Self::Suffix(length) => write!(f, "-{length}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written_as_in_http() {
        let check = |text: &str, expect| {
            let range: ByteRange = text.parse().unwrap();
            assert_eq!((range, range.to_string()), (expect, text.to_owned()));
        };
        check("0-0", ByteRange::Inclusive { first: 0, last: 0 });
        check("5-18446744073709551615", ByteRange::Inclusive { first: 5, last: u64::MAX });
        check("7-", ByteRange::From(7));
        check("-9", ByteRange::Suffix(9));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in
            ["", "-", "5", "2-1", "-0", "a-b", "1-2-3", "+1-2", "--1", "1 - 2", "-18446744073709551616"]
        {
            assert_eq!(bad.parse::<ByteRange>(), Err(ParseByteRangeError(bad.to_owned())));
        }
    }

    #[test]
    fn a_range_is_cut_at_the_end_of_the_object() {
        let check = |range: ByteRange, size, expect: Range<u64>| {
            assert_eq!(range.resolve(size).unwrap(), expect, "{range} of {size}");
        };
        check(ByteRange::From(0), 1, 0..1);
        check(ByteRange::From(9), 10, 9..10);
        check(ByteRange::Inclusive { first: 2, last: 5 }, 10, 2..6);
        check(ByteRange::Inclusive { first: 2, last: 9 }, 10, 2..10);
        check(ByteRange::Inclusive { first: 2, last: u64::MAX }, 10, 2..10);
        check(ByteRange::Suffix(3), 10, 7..10);
        check(ByteRange::Suffix(10), 10, 0..10);
        check(ByteRange::Suffix(u64::MAX), 10, 0..10);
        check(ByteRange::Suffix(1), 0, 0..0);
    }

    #[test]
    fn a_range_behind_the_end_is_not_satisfiable() {
        let check = |range: ByteRange, size| match range.resolve(size) {
            Err(Error::RangeNotSatisfiable { size: of, .. }) => assert_eq!(of, size, "{range}"),
            other => panic!("{range} of {size}: {other:?}"),
        };
        check(ByteRange::From(0), 0);
        check(ByteRange::From(10), 10);
        check(ByteRange::Inclusive { first: 10, last: 12 }, 10);
        check(ByteRange::Suffix(0), 10);
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_the_callers_fault() {
        let range = ByteRange::Inclusive { first: 3, last: 2 };
        assert!(matches!(range.resolve(10), Err(Error::InvalidArgument { .. })));
    }
}
