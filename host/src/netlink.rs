//! Messages of rtnetlink: made, and taken apart. Numbers are in the host's order, as the kernel writes them.
//!
//! Invariant: no answer, however cut or wrong, makes a reader look beyond its end.

use std::io;

/// Bytes of a message's header.
pub(crate) const HEADER_LEN: usize = 16;
/// What ends a list.
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
/// A question.
pub(crate) const NLM_F_REQUEST: u16 = 1;
/// A question for all of a kind.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// Bits of an attribute's type that aren't flags.
const TYPE_MASK: u16 = 0x3fff;

/// One message of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// A question: `head` is the kind's own header, then come attributes.
pub(crate) fn question(kind: u16, flags: u16, head: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; HEADER_LEN];
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend_from_slice(head);
    pad(&mut message);
    for (kind, value) in attributes {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(value);
        pad(&mut message);
    }
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}

/// The messages of what one read has brought, and whether the list ends with it.
///
/// # Errors
/// The kernel's own, or one for an answer that makes no sense.
pub(crate) fn messages(mut bytes: &[u8]) -> io::Result<(Vec<Message<'_>>, bool)> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let len = u32_at(bytes, 0).map_or(0, |len| len as usize);
        let message = bytes.get(..len).filter(|_| len >= HEADER_LEN).ok_or_else(malformed)?;
        let body = &message[HEADER_LEN..];
        match u16_at(message, 4).ok_or_else(malformed)? {
            NLMSG_DONE => return Ok((messages, true)),
            NLMSG_ERROR => {
                let errno = u32_at(body, 0).ok_or_else(malformed)?.cast_signed();
                return Err(io::Error::from_raw_os_error(errno.wrapping_neg()));
            }
            kind => messages.push(Message { kind, body }),
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok((messages, false))
}

/// Types and values, up to the first that makes no sense.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)? & TYPE_MASK);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A text that ends at its first zero.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

pub(crate) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer makes no sense")
}

fn pad(message: &mut Vec<u8>) {
    message.resize(message.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_can_be_taken_apart() {
        let bytes = question(18, NLM_F_DUMP, &[7; 16], &[(3, b"eth0\0"), (0x8000 | 4, &[1, 2, 3, 4])]);
        assert_eq!(bytes.len() % 4, 0);
        let (messages, is_last) = messages(&bytes).unwrap();
        assert_eq!((messages.len(), messages[0].kind, is_last), (1, 18, false));
        let found: Vec<_> = attributes(&messages[0].body[16..]).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (4, &[1, 2, 3, 4])]);
    }

    #[test]
    fn an_error_of_the_kernel_is_told_as_such() {
        let mut bytes = question(NLMSG_ERROR, 0, &(-19_i32).to_ne_bytes(), &[]);
        assert_eq!(messages(&bytes).unwrap_err().raw_os_error(), Some(19));
        bytes.truncate(HEADER_LEN);
        bytes[0] = HEADER_LEN as u8;
        assert_eq!(messages(&bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_list_ends_where_it_says_and_cut_messages_are_refused() {
        let item = question(16, 0, &[0; 16], &[(3, b"a\0")]);
        let list = [&item[..], &item, &question(NLMSG_DONE, 0, &[0; 4], &[])].concat();
        let (found, is_last) = messages(&list).unwrap();
        assert_eq!((found.len(), is_last), (2, true));
        for len in 1..item.len() {
            assert!(messages(&item[..len]).is_err(), "{len}");
        }
    }
}
