//! The unix socket: whose it is, and what becomes of one that somebody left behind.
//!
//! Invariant: nobody but its user can ever connect to it, and a socket on which somebody answers is never replaced.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
        net::{UnixListener as StdListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, fchmod, flock},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use thiserror::Error;
use tokio::net::UnixListener;

/// Where sockets are, unless told otherwise.
const USUAL_DIRECTORY: &str = "/run/xdpfs";
/// Connections that may wait.
const WAITING_MAX: i32 = 16;

/// Why operators can't be served.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Somebody else is served there.
    #[error("{path} is in use by another process; name another one by --admin-socket")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("can't listen on {path}; name another one by --admin-socket")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Something else has the name.
    #[error("{path} is there and is not a socket; name another one by --admin-socket")]
    NotASocket {
        /// What has the name.
        path: PathBuf,
    },
}

/// Where a socket is to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum SocketPlace {
    /// There and nowhere else.
    Named(PathBuf),
    /// In the usual directory, or else, if there is one, at a second place.
    Usual {
        /// The file's name.
        name: String,
        /// The second place.
        otherwise: Option<PathBuf>,
    },
}

/// A socket that operators can connect to.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

/// The socket's name, which goes with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Listens at `place`. Call inside a tokio runtime.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub(crate) fn open(place: &SocketPlace) -> Result<Self, AdminError> {
        match place {
            SocketPlace::Named(path) => Self::at(path),
            SocketPlace::Usual { name, otherwise } => {
                // It may be there already, or not be allowed, which shows next.
                let _exists = DirBuilder::new().mode(0o700).create(USUAL_DIRECTORY);
                let usual = Self::at(&Path::new(USUAL_DIRECTORY).join(name));
                match otherwise {
                    Some(otherwise) => usual.or_else(|_| Self::at(otherwise)),
                    None => usual,
                }
            }
        }
    }

    /// Listens at `place`, and says so. Who has named no place serves without a socket, too.
    ///
    /// # Errors
    /// The place was named, and can't be had.
    pub(crate) fn offered(place: &SocketPlace) -> Result<Option<Self>, AdminError> {
        match (Self::open(place), place) {
            (Ok(socket), _) => {
                let path = socket.file.path.display();
                tracing::info!(socket = %path, "operators may ask about the kernel program");
                Ok(Some(socket))
            }
            (Err(error), SocketPlace::Named(_)) => Err(error),
            (Err(error), SocketPlace::Usual { .. }) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "operators can't ask about the kernel program");
                Ok(None)
            }
        }
    }

    /// Where it is.
    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    fn at(path: &Path) -> Result<Self, AdminError> {
        let io_error = |source| AdminError::Io { path: path.to_owned(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Two that start at once must not take each other's socket for one that was left behind.
        let directory = File::open(directory.unwrap_or(Path::new("."))).map_err(io_error)?;
        flock(&directory, FlockOperation::LockExclusive).map_err(|error| io_error(error.into()))?;
        remove_dead(path)?;
        let listener = bound(path).map_err(io_error)?;
        let inode = fs::symlink_metadata(path).map_err(io_error)?.ino();
        let file = SocketFile { path: path.to_owned(), inode };
        let listener = UnixListener::from_std(listener).map_err(io_error)?;
        Ok(Self { listener, file })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode);
        if is_ours {
            // Whoever comes next finds nobody there, and removes it.
            let _left = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket on which nobody answers.
fn remove_dead(path: &Path) -> Result<(), AdminError> {
    let io_error = |source| AdminError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(AdminError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(io_error)
        }
        Err(error) => Err(io_error(error)),
        Ok(_) => Err(AdminError::InUse { path: path.to_owned() }),
    }
}

/// The mode is the socket's before it has a name, so there is no moment at which others could connect.
fn bound(path: &Path) -> io::Result<StdListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, WAITING_MAX)?;
    Ok(StdListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_its_users_alone_and_goes_with_its_server() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("xdp.sock");
        let socket = AdminSocket::open(&SocketPlace::Named(path.clone())).unwrap();
        assert_eq!((mode_of(&path), socket.path()), (0o600, path.as_path()));
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("xdp.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener leaves its name behind");
        let live = AdminSocket::open(&SocketPlace::Named(path.clone())).unwrap();
        let second = AdminSocket::open(&SocketPlace::Named(path.clone()));
        assert!(matches!(second, Err(AdminError::InUse { .. })), "{second:?}");
        drop(live);
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("precious");
        fs::write(&path, "bytes").unwrap();
        let socket = AdminSocket::open(&SocketPlace::Named(path.clone()));
        assert!(matches!(socket, Err(AdminError::NotASocket { .. })), "{socket:?}");
        assert_eq!(fs::read(&path).unwrap(), b"bytes");
        let nowhere = AdminSocket::open(&SocketPlace::Named(home.path().join("none/xdp.sock")));
        assert!(matches!(nowhere, Err(AdminError::Io { .. })), "{nowhere:?}");
    }

    #[tokio::test]
    async fn a_server_leaves_the_name_to_whoever_took_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("xdp.sock");
        let first = AdminSocket::open(&SocketPlace::Named(path.clone())).unwrap();
        fs::rename(&path, home.path().join("elsewhere")).unwrap();
        let second = AdminSocket::open(&SocketPlace::Named(path.clone())).unwrap();
        drop(first);
        UnixStream::connect(second.path()).unwrap();
    }

    #[tokio::test]
    async fn the_second_place_is_taken_if_the_usual_one_is_not_to_be_had() {
        let home = tempfile::tempdir().unwrap();
        let otherwise = home.path().join("xdp.sock");
        // A name that cannot be, wherever this runs.
        let place = SocketPlace::Usual { name: "no/such/place".into(), otherwise: Some(otherwise.clone()) };
        assert_eq!(AdminSocket::open(&place).unwrap().path(), otherwise);
        let place = SocketPlace::Usual { name: "no/such/place".into(), otherwise: None };
        AdminSocket::open(&place).unwrap_err();
    }
}
