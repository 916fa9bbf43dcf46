//! What connections are made of: the kernel's TCP or, in simulations, that of a simulated network.
//!
//! Invariant: without the feature `simulated` there is nothing but the kernel's, and choosing costs nothing. With it, a
//! process still uses the kernel's wherever it does not ask for the other one.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// A socket that is listened on.
#[non_exhaustive]
pub enum Listener {
    /// Of the kernel.
    Kernel(TcpListener),
    /// Of the simulated host that it was bound on.
    #[cfg(feature = "simulated")]
    Simulated(turmoil::net::TcpListener),
}

/// Where a connection is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Network {
    #[default]
    Kernel,
    #[cfg(feature = "simulated")]
    Simulated,
}

/// A connection without security.
#[derive(Debug)]
pub(crate) enum Tcp {
    Kernel(TcpStream),
    #[cfg(feature = "simulated")]
    Simulated(turmoil::net::TcpStream),
}

impl Network {
    pub(crate) async fn connect(self, address: (&str, u16)) -> io::Result<Tcp> {
        let tcp = match self {
            Self::Kernel => Tcp::Kernel(TcpStream::connect(address).await?),
            #[cfg(feature = "simulated")]
            Self::Simulated => Tcp::Simulated(turmoil::net::TcpStream::connect(address).await?),
        };
        tcp.set_nodelay()?;
        Ok(tcp)
    }
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<(Tcp, SocketAddr)> {
        match self {
            Self::Kernel(listener) => {
                let (tcp, address) = listener.accept().await?;
                Ok((Tcp::Kernel(tcp), address))
            }
            #[cfg(feature = "simulated")]
            Self::Simulated(listener) => {
                let (tcp, address) = listener.accept().await?;
                Ok((Tcp::Simulated(tcp), address))
            }
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Kernel(listener)
    }
}

#[cfg(feature = "simulated")]
impl From<turmoil::net::TcpListener> for Listener {
    fn from(listener: turmoil::net::TcpListener) -> Self {
        Self::Simulated(listener)
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(listener) => listener.fmt(f),
            #[cfg(feature = "simulated")]
            Self::Simulated(listener) => {
                f.debug_tuple("Simulated").field(&listener.local_addr().ok()).finish()
            }
        }
    }
}

impl Tcp {
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Kernel(tcp) => tcp.set_nodelay(true),
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => tcp.set_nodelay(true),
        }
    }

    pub(crate) async fn peek(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Kernel(tcp) => tcp.peek(bytes).await,
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => tcp.peek(bytes).await,
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_read(cx, buf),
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => Pin::new(tcp).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_write(cx, buf),
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => Pin::new(tcp).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_flush(cx),
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => Pin::new(tcp).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_shutdown(cx),
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => Pin::new(tcp).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Kernel(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Kernel(tcp) => tcp.is_write_vectored(),
            #[cfg(feature = "simulated")]
            Self::Simulated(tcp) => tcp.is_write_vectored(),
        }
    }
}
