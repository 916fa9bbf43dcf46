//! The files of a trust directory: `ca.pem`, `server.pem` and `server.key`.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{certificate::Certificate, error::TrustError};

/// Certificates of the authorities that are trusted; more than one while one takes another's place.
pub const CA_FILE: &str = "ca.pem";
/// The member's own certificate, and those between it and the authority.
pub const CERTIFICATE_FILE: &str = "server.pem";
/// Its key.
pub const KEY_FILE: &str = "server.key";
/// No file of certificates is nearly as long.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Whoever is neither the owner nor of the group.
const OTHERS: u32 = 0o007;

/// What the files hold.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Files {
    pub(crate) directory: PathBuf,
    pub(crate) ca: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Files {
    pub(crate) fn read(directory: &Path) -> Result<Self, TrustError> {
        let (key_path, mut key) = open(directory, KEY_FILE)?;
        let mode = key.metadata().map_err(|source| TrustError::read(&key_path, source))?.permissions().mode();
        if mode & OTHERS != 0 {
            return Err(TrustError::KeyIsOpen { path: key_path, mode: mode & 0o777 });
        }
        Ok(Self {
            directory: directory.to_owned(),
            ca: read_file(&directory.join(CA_FILE))?,
            certificate: read_file(&directory.join(CERTIFICATE_FILE))?,
            key: read(&key_path, &mut key)?,
        })
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }
}

/// The first certificate in a file of them; `None` if there is none that can be read.
#[must_use]
pub fn first_certificate(pem: &[u8]) -> Option<Certificate> {
    let first = CertificateDer::from_pem_slice(pem).ok()?;
    Certificate::read(&first)
}

/// The content of a file of certificates.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, TrustError> {
    let mut file = File::open(path).map_err(|source| TrustError::read(path, source))?;
    read(path, &mut file)
}

fn open(directory: &Path, name: &str) -> Result<(PathBuf, File), TrustError> {
    let path = directory.join(name);
    let file = File::open(&path).map_err(|source| TrustError::read(&path, source))?;
    Ok((path, file))
}

fn read(path: &Path, file: &mut File) -> Result<Vec<u8>, TrustError> {
    let mut content = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content);
    read.map_err(|source| TrustError::read(path, source))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(TrustError::read(path, io::Error::other("it is too large")));
    }
    Ok(content)
}
