//! DER, as far as a certificate has it: elements with a tag, a length and bytes.
//!
//! Invariant: no input makes it panic, and nothing is read beyond what an element says it holds. It judges nothing:
//! whether a certificate is to be trusted is decided by rustls.

/// Lengths take no more bytes than this: a certificate is far smaller than what they can say.
const LENGTH_BYTES_MAX: usize = 3;
/// A length of this many bytes or more is written in a long form.
const SHORT_LENGTHS: u8 = 0x80;

/// What is still to be read of an element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

/// One element.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element; `None` if there is none or it is malformed.
    pub(crate) fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < SHORT_LENGTHS {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first - SHORT_LENGTHS);
            if count == 0 || count > LENGTH_BYTES_MAX {
                return None;
            }
            let (bytes, rest) = rest.split_at_checked(count)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Element { tag, content })
    }

    /// What the next element holds if it has this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|element| element.tag == tag).map(|element| element.content)
    }

    /// The same for an element that need not be there.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let content = ahead.expect(tag)?;
        *self = ahead;
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_read_in_order() {
        let mut reader = Reader::new(&[0x02, 1, 7, 0x04, 0x81, 2, 8, 9, 0x30, 0]);
        assert_eq!(reader.take(0x05), None);
        assert_eq!(reader.expect(0x02), Some(&[7][..]));
        assert_eq!(reader.next(), Some(Element { tag: 0x04, content: &[8, 9] }));
        assert_eq!(reader.take(0x30), Some(&[][..]));
        assert!(reader.is_at_end() && reader.next().is_none());
    }

    #[test]
    fn what_lies_about_its_length_is_not_read() {
        for bad in [&[0x02][..], &[0x02, 2, 0], &[0x02, 0x80], &[0x02, 0x84, 0, 0, 0, 1, 1], &[0x02, 0x82, 1]]
        {
            assert_eq!(Reader::new(bad).next(), None, "{bad:?}");
        }
    }
}
