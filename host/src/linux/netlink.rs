//! Connections to parts of the kernel over netlink.

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

use crate::netlink::{Message, NLMSG_DONE, Question, malformed, messages};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// More than the kernel puts into one datagram.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// A connection to one part of the kernel.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// To what knows of interfaces, addresses, routes and neighbours of this thread's network namespace.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// To parts that have a name.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn generic() -> io::Result<Self> {
        Self::open(Some(netlink::GENERIC))
    }

    /// Hears of changes, by the bits of `groups`.
    ///
    /// # Errors
    /// The kernel gives no socket, or tells nobody.
    pub fn listen(groups: u32) -> io::Result<Self> {
        let this = Self::route()?;
        bind(&this.socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(this)
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self { socket: socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)? })
    }

    /// The answer to a question that has one.
    ///
    /// # Errors
    /// The kernel's own, or one for an answer that makes no sense.
    pub fn ask(&self, question: Question) -> io::Result<Message> {
        self.send(&question, NLM_F_REQUEST)?;
        self.receive()?.into_iter().next().ok_or_else(malformed)
    }

    /// Has something done, `flags` saying how.
    ///
    /// # Errors
    /// The kernel's own: it doesn't.
    pub fn order(&self, question: Question, flags: u16) -> io::Result<()> {
        self.send(&question, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive().map(drop)
    }

    /// All of a kind.
    ///
    /// # Errors
    /// The kernel's own, or one for an answer that makes no sense.
    pub fn list(&self, question: Question) -> io::Result<Vec<Message>> {
        self.send(&question, NLM_F_REQUEST | NLM_F_DUMP)?;
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
    #[must_use]
    pub fn drain(&self) -> bool {
        let mut any = false;
        let mut buffer = vec![MaybeUninit::uninit(); ANSWER_LEN_MAX];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => any = true,
                Err(_) => return any,
            }
        }
    }

    fn send(&self, question: &Question, flags: u16) -> io::Result<()> {
        sendto(&self.socket, &question.encode(flags), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
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
