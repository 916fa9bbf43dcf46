//! Questions to the kernel over netlink, and its answers: messages with attributes, nothing of what they mean.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink,
        netlink::SocketAddrNetlink, recv, sendto, socket_with,
    },
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Bits of an attribute's type that are flags.
const TYPE_MASK: u16 = 0x3fff;
const HEADER_LEN: usize = 16;
/// More than the kernel puts into one datagram.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// A connection to one part of the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
}

/// One message of the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Message {
    /// What it is about.
    pub(super) kind: u16,
    /// Behind the header that all messages share.
    pub(super) body: Vec<u8>,
}

/// A question under construction.
#[derive(Debug)]
pub(super) struct Question {
    kind: u16,
    body: Vec<u8>,
}

impl Netlink {
    /// To what knows of interfaces, addresses, routes and neighbours of this thread's network namespace.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// To parts that have a name.
    pub(super) fn generic() -> io::Result<Self> {
        Self::open(Some(netlink::GENERIC))
    }

    /// Hears of changes, by the bits of `groups`.
    pub(super) fn listen(groups: u32) -> io::Result<Self> {
        let this = Self::route()?;
        bind(&this.socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(this)
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self { socket: socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)? })
    }

    /// The answer to a question that has one.
    pub(super) fn ask(&self, question: Question) -> io::Result<Message> {
        self.send(question, NLM_F_REQUEST)?;
        self.receive()?.into_iter().next().ok_or_else(malformed)
    }

    /// Has something done, `flags` saying how.
    pub(super) fn order(&self, question: Question, flags: u16) -> io::Result<()> {
        self.send(question, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive().map(drop)
    }

    /// All of a kind.
    pub(super) fn list(&self, question: Question) -> io::Result<Vec<Message>> {
        self.send(question, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut all = Vec::new();
        loop {
            let mut messages = self.receive()?;
            let done = messages.iter().position(|message| message.kind == NLMSG_DONE);
            messages.truncate(done.unwrap_or(messages.len()));
            all.append(&mut messages);
            if done.is_some() {
                return Ok(all);
            }
        }
    }

    /// Forgets all changes that were heard of; whether there were any. Those that got lost count too.
    pub(super) fn drain(&self) -> bool {
        let mut any = false;
        let mut buffer = vec![MaybeUninit::uninit(); ANSWER_LEN_MAX];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => any = true,
                Err(_) => return any,
            }
        }
    }

    fn send(&self, question: Question, flags: u16) -> io::Result<()> {
        let Question { kind, body } = question;
        let len = HEADER_LEN + body.len();
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(&(len as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        // Number and sender of the message, which are left open.
        message.resize(HEADER_LEN, 0);
        message.extend_from_slice(&body);
        sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<Message>> {
        let mut buffer = vec![MaybeUninit::uninit(); ANSWER_LEN_MAX];
        let ((answer, _), _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
        messages(answer)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Question {
    /// A question with the header that its kind has.
    pub(super) fn new(kind: u16, header: &[u8]) -> Self {
        let mut body = header.to_vec();
        body.resize(header.len().next_multiple_of(4), 0);
        Self { kind, body }
    }

    /// With one attribute more.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }
}

/// The messages of one datagram.
///
/// # Errors
/// One of them is an error, or makes no sense.
fn messages(mut bytes: &[u8]) -> io::Result<Vec<Message>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let len = u32_at(bytes, 0).ok_or_else(malformed)? as usize;
        let kind = u16_at(bytes, 4).ok_or_else(malformed)?;
        let body = bytes.get(HEADER_LEN..len).ok_or_else(malformed)?;
        if kind == NLMSG_ERROR {
            let errno = u32_at(body, 0).map_or(0, u32::cast_signed);
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
pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer makes no sense")
}

/// Types and values of attributes, up to the first that makes no sense.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)? & TYPE_MASK);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Two bytes of the host's order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// Four bytes of the host's order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
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
