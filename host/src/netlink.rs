//! Messages of netlink: questions made, and answers taken apart. Numbers are in the host's order, as the kernel writes
//! them.
//!
//! Invariant: no answer, however cut or wrong, makes a reader look beyond its end. Nothing of what messages mean is known
//! here.

use std::io;

#[cfg(target_os = "linux")]
pub use crate::linux::Netlink;

const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
/// Bits of an attribute's type that aren't flags.
const TYPE_MASK: u16 = 0x3fff;
const HEADER_LEN: usize = 16;

/// One message of the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// What it is about.
    pub kind: u16,
    /// What follows the header that all messages share.
    pub body: Vec<u8>,
}

/// A question under construction.
#[derive(Clone, Debug)]
pub struct Question {
    kind: u16,
    body: Vec<u8>,
}

impl Question {
    /// A question with the header that its kind has.
    #[must_use]
    pub fn new(kind: u16, header: &[u8]) -> Self {
        let mut body = header.to_vec();
        body.resize(header.len().next_multiple_of(4), 0);
        Self { kind, body }
    }

    /// With one attribute more.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    /// As it is sent, `flags` saying how it is meant.
    pub(crate) fn encode(&self, flags: u16) -> Vec<u8> {
        let len = HEADER_LEN + self.body.len();
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(&(len as u32).to_ne_bytes());
        message.extend_from_slice(&self.kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        // Number and sender of the message, which are left open.
        message.resize(HEADER_LEN, 0);
        message.extend_from_slice(&self.body);
        message
    }

    /// As if the kernel had said it.
    #[cfg(test)]
    pub(crate) fn into_message(self) -> Message {
        Message { kind: self.kind, body: self.body }
    }
}

/// The messages of one datagram.
///
/// # Errors
/// One of them is an error, or makes no sense.
pub(crate) fn messages(mut bytes: &[u8]) -> io::Result<Vec<Message>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let len = u32_at(bytes, 0).ok_or_else(malformed)? as usize;
        let kind = u16_at(bytes, 4).ok_or_else(malformed)?;
        let body = bytes.get(HEADER_LEN..len).ok_or_else(malformed)?;
        if kind == NLMSG_ERROR {
            let errno = u32_at(body, 0).ok_or_else(malformed)?.cast_signed();
            if errno != 0 {
                return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
            }
        }
        messages.push(Message { kind, body: body.to_vec() });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

/// What an answer that can't be read is.
#[must_use]
pub fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer makes no sense")
}

/// Types and values of attributes, up to the first that makes no sense.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)? & TYPE_MASK);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
#[must_use]
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A text that ends at its first zero.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Two bytes of the host's order.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// Four bytes of the host's order.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER_LEN + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_of_one_datagram_are_told_apart() {
        let both = [message(16, &[1, 2, 3]), message(NLMSG_DONE, &[0; 4])].concat();
        let kinds: Vec<_> = messages(&both).unwrap().into_iter().map(|message| message.kind).collect();
        assert_eq!(kinds, [16, NLMSG_DONE]);
        for len in 1..both.len() {
            let parsed = messages(&both[..len]);
            assert!(parsed.is_err() || parsed.unwrap().len() < 2, "{len}");
        }
    }

    #[test]
    fn errors_of_the_kernel_are_errors_and_acknowledgements_are_not() {
        let refused = message(NLMSG_ERROR, &(-19_i32).to_ne_bytes());
        assert_eq!(messages(&refused).unwrap_err().raw_os_error(), Some(19));
        assert!(messages(&message(NLMSG_ERROR, &[0; 4])).is_ok());
    }

    #[test]
    fn attributes_end_where_they_make_no_sense() {
        let question = Question::new(1, &[]).with(3, b"ab").with(4 | 0x8000, b"cd");
        assert_eq!(attribute(&question.body, 3), Some(&b"ab"[..]));
        assert_eq!(attribute(&question.body, 4), Some(&b"cd"[..]), "flags are not part of the type");
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&question.body[..9]).count(), 1);
    }
}
