//! Whole frames, sent from and seen at one interface (`AF_PACKET`).

use std::{
    fmt, io,
    mem::{self, MaybeUninit},
    os::fd::AsRawFd as _,
    ptr,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::namespace::End;

/// Frames that are handed to the kernel in one call.
const BATCH_MAX: usize = 64;
/// Longer than any frame of these tests.
const FRAME_LEN_MAX: usize = 1 << 16;

/// A socket on one interface.
pub struct PacketSocket {
    socket: Socket,
    buffer: Vec<MaybeUninit<u8>>,
}

impl fmt::Debug for PacketSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacketSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl PacketSocket {
    /// Sends, and hears nothing.
    ///
    /// # Errors
    /// Without root or such an interface.
    pub fn sender(end: End<'_>) -> io::Result<Self> {
        let socket = Self::bound(end, 0)?;
        // The frames go to the driver as they are and at once, past any queueing discipline.
        socket.set_option(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
        Ok(socket)
    }

    /// Hears every frame that comes in by the interface, and not those that leave by it.
    ///
    /// # Errors
    /// As of [`Self::sender`].
    pub fn listener(end: End<'_>) -> io::Result<Self> {
        let socket = Self::bound(end, libc::ETH_P_ALL as u16)?;
        socket.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        Ok(socket)
    }

    /// Hears every frame that leaves by the interface, too.
    ///
    /// # Errors
    /// As of [`Self::sender`].
    pub fn tap(end: End<'_>) -> io::Result<Self> {
        let socket = Self::bound(end, libc::ETH_P_ALL as u16)?;
        socket.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        Ok(socket)
    }

    /// From now on, hears only IPv4 packets (without VLAN tags) to addresses that begin with these three bytes.
    ///
    /// # Errors
    /// If the kernel does not take the filter.
    pub fn only_to(&self, net: [u8; 3]) -> io::Result<()> {
        const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
        const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        let [a, b, c] = net;
        let mut program = [
            step(LOAD_HALF, 12),
            libc::sock_filter { jf: 4, ..step(EQUAL, 0x0800) },
            step(LOAD_WORD, 30),
            step(AND, 0xffff_ff00),
            libc::sock_filter { jf: 1, ..step(EQUAL, u32::from_be_bytes([a, b, c, 0])) },
            step(RETURN, u32::MAX),
            step(RETURN, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
        self.set_option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
    }

    /// Frames that were not heard for want of room, since the last call.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn missed(&self) -> io::Result<u32> {
        let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of_val(&counts) as libc::socklen_t;
        let place = ptr::from_mut(&mut counts).cast();
        let socket = self.socket.as_raw_fd();
        // SAFETY: there is as much room as is said.
        let failed = unsafe {
            libc::getsockopt(socket, libc::SOL_PACKET, libc::PACKET_STATISTICS, place, &raw mut length)
        };
        if failed == 0 { Ok(counts.tp_drops) } else { Err(io::Error::last_os_error()) }
    }

    fn bound(end: End<'_>, protocol: u16) -> io::Result<Self> {
        let index = end.namespace.index_of(end.device)?;
        let protocol = protocol.to_be();
        let make = || Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol))));
        let socket = end.namespace.run(make)?;
        socket.bind(&link_address(index, protocol)?)?;
        Ok(Self { socket, buffer: vec![MaybeUninit::uninit(); FRAME_LEN_MAX] })
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// If the interface does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// Sends frames as fast as the kernel takes them; how many it took.
    ///
    /// # Errors
    /// If it took none.
    pub fn send_all(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < frames.len() {
            match self.send_batch(&frames[sent..frames.len().min(sent + BATCH_MAX)]) {
                Ok(taken) => sent += taken,
                Err(_) if sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// The next frame; `None` if there is none within `within`.
    ///
    /// # Errors
    /// If the interface is gone.
    pub fn receive(&mut self, within: Duration) -> io::Result<Option<Vec<u8>>> {
        self.socket.set_read_timeout(Some(within.max(Duration::from_micros(1))))?;
        match self.socket.recv(&mut self.buffer) {
            Ok(length) => {
                // SAFETY: as many bytes were received.
                let bytes = self.buffer[..length].iter().map(|byte| unsafe { byte.assume_init() });
                Ok(Some(bytes.collect()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send_batch(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let mut parts: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: all zeros are a message without address, parts and control data.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = ptr::from_mut(part);
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: every message has one part, which lives longer than this call; the kernel only reads the parts.
        let taken = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as libc::c_uint, 0)
        };
        usize::try_from(taken).map_err(|_negative| io::Error::last_os_error())
    }

    fn set_option<T>(&self, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
        let length = size_of_val(&value) as libc::socklen_t;
        let value = ptr::from_ref(&value).cast();
        // SAFETY: the value is as long as it is said to be.
        let failed = unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, name, value, length) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Frames wait here while the test does something else.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

fn link_address(index: u32, protocol: u16) -> io::Result<SockAddr> {
    let fill = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: the storage has room for every kind of address, and is zeroed.
        unsafe {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*address).sll_protocol = protocol;
            (*address).sll_ifindex = index as libc::c_int;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        Ok(())
    };
    // SAFETY: the address is made in full.
    let ((), address) = unsafe { SockAddr::try_init(fill)? };
    Ok(address)
}
